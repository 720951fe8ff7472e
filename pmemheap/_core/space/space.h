/* space/space.h -- free units: the pool of an arena, what waits for Python's extents, and how old all of it is. */
#pragma once
#include "base/checked.h"
#include "base/heap.h"
#include "base/hints.h"

/* Address-ordered pairing heaps over the unit records (Fredman et al. 1986): O(1) insert, O(log n) removal. */
void ph_pair_insert(struct ph_heap *h, uint32_t *root, uint64_t unit);
void ph_pair_remove(struct ph_heap *h, uint32_t *root, uint64_t unit);
uint32_t ph_pair_next(const struct ph_heap *h, uint32_t root, uint32_t node);

/* The pool: free ranges of units. */
uint32_t ph_bin_of(uint64_t nunits);
/* ph_pool_take -- `nunits` (1 to 64) contiguous units, best fit; their records are left PH_U_OTHER. Or PH_H_REFILL.
 * ph_wilderness_take -- the same of units that were never used. */
int64_t ph_pool_take(struct ph_heap *h, uint64_t nunits);
int64_t ph_wilderness_take(struct ph_heap *h, uint64_t nunits);
int64_t ph_wilderness_take_at(struct ph_heap *h, uint64_t nunits, uint64_t multiple);
int64_t ph_wilderness_take_growing(struct ph_heap *h, uint64_t nunits);
int64_t ph_returned_take(struct ph_heap *h, uint64_t nunits);
void ph_pool_give(struct ph_heap *h, uint64_t start, uint64_t nunits);
uint64_t ph_pool_room_before(const struct ph_heap *h, uint64_t unit);
void ph_pool_take_after(struct ph_heap *h, uint64_t unit, uint64_t nunits);
void ph_pool_take_before(struct ph_heap *h, uint64_t unit, uint64_t nunits);

uint64_t ph_pool_longest(const struct ph_heap *h);
int ph_pool_next(const struct ph_heap *h, uint32_t *bin, uint32_t *node, uint64_t *start, uint64_t *nunits);
uint64_t ph_room_after(struct ph_heap *h, uint64_t unit);

/* Units between the pool and the extents of Python. */
void ph_wilderness_give(struct ph_heap *h, uint64_t start, uint64_t nunits);
void ph_pool_take_range(struct ph_heap *h, uint64_t start);
int ph_returned_pop(struct ph_heap *h, uint64_t *start, uint64_t *nunits);

/* Ages of free units. */
struct ph_old_part {
    uint64_t start, stop, units; /* units: those that are old, without what was given back between them */
};
void ph_ages_init(struct ph_ages *ages);
void ph_ages_fini(struct ph_ages *ages);
void ph_ages_cover(struct ph_ages *ages, uint64_t first, uint64_t end);
void ph_ages_freed(struct ph_ages *ages, uint64_t start, uint64_t nunits);
void ph_ages_given_back(struct ph_ages *ages, uint64_t start, uint64_t nunits);
void ph_ages_next(struct ph_ages *ages);
int ph_ages_old(const struct ph_ages *ages, uint64_t from, uint64_t stop, struct ph_old_part *part);
uint64_t ph_ages_part(const struct ph_ages *ages, uint64_t from, uint64_t stop, int64_t *age);
uint64_t ph_ages_young_end(const struct ph_ages *ages, uint64_t from, uint64_t stop);

/* The stamp of one unit, where its chunk has bytes: most of what is freed is short. */
static inline int ph_age_one(struct ph_ages *ages, uint64_t unit)
{
    uint64_t index = (unit >> PH_AGE_SHIFT) - ages->first;
    if (index >= ages->count || !ages->chunks[index].differ)
        return 0;
    ages->chunks[index].stamps[unit & (PH_AGE_UNITS - 1)] = ages->interval;
    return 1;
}

/* Units have become free: if it is much, the next call that frees nothing looks at the clock, whenever it comes. */
static inline void ph_count_freed(struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    h->freed_units += nunits;
    h->freed_since += (uint32_t)nunits;
    if (h->freed_since >= PH_FREED_MUCH) {
        h->freed_since = 0;
        h->until_look = 1;
    }
    if (nunits != 1 || !ph_age_one(&h->ages, unit))
        ph_ages_freed(&h->ages, unit, nunits);
}
