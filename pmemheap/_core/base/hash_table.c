/* base/hash_table.c -- tables by open addressing: how they grow and shrink. */
#include "base/hash_table.h"

#include <stdlib.h>

enum { PH_HASH_MIN = 64 };

int ph_hash_widen(struct ph_hash_table *t, size_t width, uint64_t more)
{
    struct ph_hash_table wider = {.capacity = t->capacity ? t->capacity : PH_HASH_MIN};
    while ((t->used + more) * 2 > wider.capacity)
        wider.capacity *= 2;
    wider.slots = calloc(wider.capacity, width);
    if (wider.slots == NULL)
        return -1;
    for (uint64_t i = 0; i < t->capacity; i++)
        if (ph_hash_key(t, width, i) != 0)
            memcpy(ph_hash_place(&wider, width, ph_hash_key(t, width, i)), t->slots + i * width, width);
    free(t->slots);
    *t = wider;
    return 0;
}

/* Algorithm R: the gap moves on, until no slot behind it would be missed from its home. */
void ph_hash_remove(struct ph_hash_table *t, size_t width, void *slot)
{
    uint64_t hole = (uint64_t)((uint8_t *)slot - t->slots) / width, mask = t->capacity - 1;
    for (uint64_t i = (hole + 1) & mask; ph_hash_key(t, width, i) != 0; i = (i + 1) & mask) {
        uint64_t home = ph_hash_home(t, ph_hash_key(t, width, i));
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            memcpy(t->slots + hole * width, t->slots + i * width, width);
            hole = i;
        }
    }
    memset(t->slots + hole * width, 0, width);
    t->used--;
}
