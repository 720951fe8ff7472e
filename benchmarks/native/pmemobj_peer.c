/* peer.h over libpmemobj: a block is its offset in the pool. One pool at a time. */

#include <stdint.h>
#include <string.h>
#include <libpmemobj.h>

enum { ACTIONS = 1024 }; /* reserved blocks published together */

static PMEMobjpool *pool;
static uint64_t pool_uuid;

static PMEMoid oid_of(uint64_t block)
{
    return (PMEMoid){.pool_uuid_lo = pool_uuid, .off = block};
}

int peer_open(const char *path, uint64_t size)
{
    pool = pmemobj_create(path, "peer", size, 0600);
    if (pool == NULL)
        return -1;
    pool_uuid = pmemobj_root(pool, 64).pool_uuid_lo;
    return pool_uuid == 0 ? -1 : 0;
}

void peer_close(void)
{
    pmemobj_close(pool);
    pool = NULL;
}

uint64_t peer_malloc(uint64_t size)
{
    PMEMoid oid = OID_NULL;
    return pmemobj_alloc(pool, &oid, size, 0, NULL, NULL) == 0 ? oid.off : 0;
}

uint64_t peer_realloc(uint64_t block, uint64_t size)
{
    PMEMoid oid = oid_of(block);
    return pmemobj_realloc(pool, &oid, size, 0) == 0 ? oid.off : 0;
}

void peer_free(uint64_t block)
{
    PMEMoid oid = oid_of(block);
    pmemobj_free(&oid);
}

static int reserve_and_publish(uint64_t size, uint64_t count, uint64_t *out)
{
    struct pobj_action actions[ACTIONS];
    for (uint64_t i = 0; i < count; i++) {
        out[i] = pmemobj_reserve(pool, &actions[i], size, 0).off;
        if (out[i] == 0) {
            pmemobj_cancel(pool, actions, i);
            return -1;
        }
    }
    return pmemobj_publish(pool, actions, count);
}

int peer_malloc_many(uint64_t size, uint64_t count, uint64_t *out)
{
    for (uint64_t done = 0; done < count; done += ACTIONS) {
        uint64_t step = count - done < ACTIONS ? count - done : ACTIONS;
        if (reserve_and_publish(size, step, out + done) != 0)
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
    memset(pmemobj_direct(oid_of(block)), 0xA5, size);
}
