/* tx/fresh.c -- the lists of a transaction, and the table by which its reserved blocks are found.
 *
 * Reserved blocks are found by a table of their indices, open addressing by offset. Slots are never emptied: one
 * whose block has gone does not match any more, and the next wider table leaves it out. */
#include <stdlib.h>

#include "tx/internal.h"

int ph_list_room(struct ph_tx_list *list, uint64_t more, size_t width)
{
    if (list->count + more <= list->capacity)
        return 0;
    uint64_t capacity = list->capacity ? list->capacity * 2 : 8;
    while (capacity < list->count + more)
        capacity *= 2;
    void *items = realloc(list->items, capacity * width);
    if (items == NULL)
        return PH_L_NOMEM;
    list->items = items;
    list->capacity = capacity;
    return 0;
}

void ph_tx_fresh_enter(struct ph_tx *tx, uint64_t i)
{
    uint64_t mask = tx->index.capacity - 1, slot = ph_tx_hash(ph_fresh(tx)[i].offset) & mask;
    uint32_t *slots = tx->index.items;
    while (slots[slot] != 0)
        slot = (slot + 1) & mask;
    slots[slot] = (uint32_t)i + 1;
    tx->index.count++;
}

int ph_tx_fresh_room(struct ph_tx *tx)
{
    if ((tx->index.count + 1) * 2 <= tx->index.capacity)
        return 0;
    uint64_t capacity = 64;
    while (capacity < (tx->fresh.count + 1) * 4)
        capacity *= 2;
    uint32_t *slots = calloc(capacity, sizeof *slots);
    if (slots == NULL)
        return PH_L_NOMEM;
    free(tx->index.items);
    tx->index = (struct ph_tx_list){.items = slots, .capacity = capacity};
    for (uint64_t i = 0; i < tx->fresh.count; i++)
        ph_tx_fresh_enter(tx, i);
    return 0;
}

struct ph_tx_block *ph_tx_fresh(const struct ph_tx *tx, uint64_t offset)
{
    const uint32_t *slots = tx->index.items;
    uint64_t mask = tx->index.capacity - 1;
    if (tx->index.capacity == 0)
        return NULL;
    for (uint64_t slot = ph_tx_hash(offset) & mask; slots[slot] != 0; slot = (slot + 1) & mask) {
        struct ph_tx_block *block = &ph_fresh(tx)[slots[slot] - 1];
        if (slots[slot] <= tx->fresh.count && block->offset == offset && block->is_cancelled != PH_TX_GONE)
            return block;
    }
    return NULL;
}

int ph_tx_has_made(const struct ph_tx *tx, uint64_t offset)
{
    return ph_tx_fresh(tx, offset) != NULL;
}

struct ph_tx_block *ph_tx_fresh_of(const struct ph_tx *tx, const struct ph_tx_bytes *one)
{
    uint64_t arena = one->offset >> PH_ARENA_SHIFT << PH_ARENA_SHIFT;
    return ph_tx_fresh(tx, arena | one->start);
}

int ph_tx_is_dropped(const struct ph_tx *tx, const struct ph_tx_bytes *one)
{
    return one->fresh && ph_tx_fresh_of(tx, one)->is_cancelled != 0;
}
