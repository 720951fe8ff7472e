/* peer.h over the malloc of a library: HEAP_MALLOC, HEAP_REALLOC and HEAP_FREE name it. */

#include <stdint.h>
#include <string.h>

int peer_open(const char *path, uint64_t size)
{
    (void)path;
    (void)size;
    return 0;
}

void peer_close(void)
{
}

uint64_t peer_malloc(uint64_t size)
{
    return (uint64_t)(uintptr_t)HEAP_MALLOC(size);
}

uint64_t peer_realloc(uint64_t block, uint64_t size)
{
    return (uint64_t)(uintptr_t)HEAP_REALLOC((void *)(uintptr_t)block, size);
}

void peer_free(uint64_t block)
{
    HEAP_FREE((void *)(uintptr_t)block);
}

int peer_malloc_many(uint64_t size, uint64_t count, uint64_t *out)
{
    for (uint64_t i = 0; i < count; i++) {
        out[i] = peer_malloc(size);
        if (out[i] == 0)
            return -1;
    }
    return 0;
}

void peer_free_many(const uint64_t *blocks, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        peer_free(blocks[i]);
}

void peer_fill(uint64_t block, uint64_t size)
{
    memset((void *)(uintptr_t)block, 0xA5, size);
}
