/* base/hash_table.h -- tables by open addressing (Knuth, volume 3, 6.4): slots of one width, which begin with their key. The key
 * of an empty slot is 0, and so is all else in it. At most half of them are in use: a key that is not there is soon missed. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/hints.h"

struct ph_hash_table {
    uint8_t *slots;
    uint64_t capacity, used;
};

static inline uint64_t ph_hash_key(const struct ph_hash_table *t, size_t width, uint64_t i)
{
    uint64_t key;
    memcpy(&key, t->slots + i * width, sizeof key);
    return key;
}

/* ph_hash_home -- where the chain of a key begins. Pre: there are slots. */
static inline uint64_t ph_hash_home(const struct ph_hash_table *t, uint64_t key)
{
    return (key * 0x9E3779B97F4A7C15ULL >> 32) & (t->capacity - 1);
}

/* ph_hash_find -- the slot of a key, or NULL. */
static inline void *ph_hash_find(const struct ph_hash_table *t, size_t width, uint64_t key)
{
    if (t->used == 0)
        return NULL;
    uint64_t i = ph_hash_home(t, key), found = ph_hash_key(t, width, i);
    while (found != key && found != 0) {
        i = (i + 1) & (t->capacity - 1);
        found = ph_hash_key(t, width, i);
    }
    return found == 0 ? NULL : t->slots + i * width;
}

/* ph_hash_place -- a slot for a key that has none. Pre: there is room. */
static inline void *ph_hash_place(struct ph_hash_table *t, size_t width, uint64_t key)
{
    uint64_t i = ph_hash_home(t, key);
    while (ph_hash_key(t, width, i) != 0)
        i = (i + 1) & (t->capacity - 1);
    t->used++;
    return memcpy(t->slots + i * width, &key, sizeof key);
}

/* ph_hash_room -- room for so many more; -1: there is no memory. */
PH_SELDOM int ph_hash_widen(struct ph_hash_table *t, size_t width, uint64_t more);
static inline int ph_hash_room(struct ph_hash_table *t, size_t width, uint64_t more)
{
    return (t->used + more) * 2 <= t->capacity ? 0 : ph_hash_widen(t, width, more);
}

/* ph_hash_remove -- empty a slot. Others may move to it: those behind it in its chain. */
void ph_hash_remove(struct ph_hash_table *t, size_t width, void *slot);
