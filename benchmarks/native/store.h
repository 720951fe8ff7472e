/* What a store of values under small numbers offers the benchmark of commits. The compiler and cffi's cdef read this
 * same text. One store at a time. */

/* Makes a store at `path` of `size` bytes, with `keys` values of `length` bytes, and opens it. 0, or -1. */
int store_make(const char *path, uint64_t size, uint64_t keys, uint64_t length);
int store_open(const char *path, uint64_t keys, uint64_t length);
void store_close(void);

/* Whether every change waits until it is durable. */
int store_syncs(void);

/* Gives `count` keys a new value, in one transaction. 0, or -1. */
int store_commit(const uint64_t *keys, uint64_t count, const char *value);
