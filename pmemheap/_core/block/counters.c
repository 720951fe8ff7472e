/* block/counters.c -- what becomes of blocks, counted: the seldom half. */
#include "block/block.h"

void ph_count_blocks_made(const struct ph_heap *h, uint64_t blocks, uint64_t asked, uint64_t capacity)
{
    PH_COUNT(h, ph_add_made, blocks, asked, capacity);
}

void ph_count_blocks_freed(const struct ph_heap *h, uint64_t blocks, uint64_t capacity)
{
    PH_COUNT(h, ph_add_freed, blocks, capacity);
}

void ph_count_all_freed(struct ph_heap *h)
{
    uint64_t blocks = h->large_blocks + h->packed.blocks, bytes = (h->large_units << PH_UNIT_SHIFT) + h->packed.bytes;
    for (uint32_t i = 0; i < h->nclasses; i++) {
        blocks += h->classes[i].live;
        bytes += h->classes[i].live * h->classes[i].granules * PH_GRANULE;
    }
    PH_COUNT(h, ph_add_freed, blocks, bytes);
}

void ph_add_resized(struct ph_counters *c, uint64_t was_capacity, uint64_t capacity)
{
    c->in_place++;
    if (capacity > was_capacity)
        ph_add_made(c, 0, capacity - was_capacity, capacity - was_capacity);
    else
        ph_add_freed(c, 0, was_capacity - capacity);
}
