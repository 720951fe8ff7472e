/* store.h over libpmemobj: a table of blocks under the root; an update allocates the new value and frees the old. */

#include <stdint.h>
#include <string.h>
#include <libpmem.h>
#include <libpmemobj.h>

static PMEMobjpool *pool;
static PMEMoid table;
static uint64_t value_bytes;

static PMEMoid *slots(void)
{
    return pmemobj_direct(table);
}

/* Called between TX_BEGIN and TX_END: a failure of either call aborts the transaction. */
static void replace(uint64_t key, const char *value)
{
    PMEMoid fresh = pmemobj_tx_alloc(value_bytes, 0);
    memcpy(pmemobj_direct(fresh), value, value_bytes);
    pmemobj_tx_add_range(table, key * sizeof(PMEMoid), sizeof(PMEMoid));
    PMEMoid old = slots()[key];
    slots()[key] = fresh;
    pmemobj_tx_free(old);
}

int store_commit(const uint64_t *keys, uint64_t count, const char *value)
{
    volatile int result = 0;
    TX_BEGIN(pool) {
        for (uint64_t i = 0; i < count; i++)
            replace(keys[i], value);
    } TX_ONABORT {
        result = -1;
    } TX_END
    return result;
}

static int begin(PMEMobjpool *opened, uint64_t keys, uint64_t length)
{
    pool = opened;
    value_bytes = length;
    table = pool == NULL ? OID_NULL : pmemobj_root(pool, keys * sizeof(PMEMoid));
    return OID_IS_NULL(table) ? -1 : 0;
}

int store_open(const char *path, uint64_t keys, uint64_t length)
{
    return begin(pmemobj_open(path, "store"), keys, length);
}

int store_make(const char *path, uint64_t size, uint64_t keys, uint64_t length)
{
    static const char zeros[4096];
    if (length > sizeof zeros || begin(pmemobj_create(path, "store", size, 0600), keys, length) != 0)
        return -1;
    for (uint64_t key = 0; key < keys; key += 100) {
        uint64_t some[100], count = keys - key < 100 ? keys - key : 100;
        for (uint64_t i = 0; i < count; i++)
            some[i] = key + i;
        if (store_commit(some, count, zeros) != 0)
            return -1;
    }
    return 0;
}

int store_syncs(void)
{
    return !pmem_is_pmem(pmemobj_direct(table), sizeof(PMEMoid));
}

void store_close(void)
{
    pmemobj_close(pool);
    pool = NULL;
}
