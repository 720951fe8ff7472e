/* What an allocator written in C offers the benchmarks: blocks as integers, so that Python pays
 * for one call and one int and nothing else. The compiler and cffi's cdef read this same text. */

/* Opens the store at `path` of `size` bytes where the peer has one. 0, or -1. */
int peer_open(const char *path, uint64_t size);
void peer_close(void);

/* 0 when there is no room. */
uint64_t peer_malloc(uint64_t size);
uint64_t peer_realloc(uint64_t block, uint64_t size);
void peer_free(uint64_t block);

/* Fills `out` with `count` blocks. 0, or -1 when there is no room (some may then be allocated). */
int peer_malloc_many(uint64_t size, uint64_t count, uint64_t *out);
void peer_free_many(const uint64_t *blocks, uint64_t count);

/* Writes every byte of a block. */
void peer_fill(uint64_t block, uint64_t size);
