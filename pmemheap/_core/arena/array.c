/* arena/array.c -- blocks that arrays own: numpy makes the array, and says when it goes.
 *
 *              make                  keep
 *     free ----------> reserved ----------> live         from now on the array pins its block, as a view does
 *       ^                  | end              | end
 *       +------------------+                  v
 *                                            live, without that pin
 *
 * So no table describes the block of an array that was not kept, and after a kill it is free. All of these arrays count as views,
 * so that no heap is closed, and no arena dropped, over them; a reserved block that nobody else knows of needs no refs.
 *
 * Numpy makes an array of each number that meets an array, and lets it go at once. So a small block stays reserved when its
 * array goes: the next array of its size has it. */
#include "arena/arena.h"

static void count(struct ph_heap *h, int by)
{
    h->refs.arrays += (uint64_t)by;
    h->refs.views += (uint64_t)by;
}

int64_t ph_array_make(struct ph_heap *h, uint64_t size)
{
    uint64_t granules = (size + PH_GRANULE - 1) >> PH_GRANULE_SHIFT;
    int64_t offset;
    if (granules < PH_SPARES && h->spares[granules] != 0) {
        offset = (int64_t)h->spares[granules] - 1;
        h->spares[granules] = 0;
    } else {
        offset = ph_reserve_block(h, size, PH_GRANULE);
    }
    count(h, offset >= 0);
    return offset;
}

int ph_array_take(struct ph_heap *h, uint64_t offset)
{
    struct ph_block block = ph_block_at(h, offset);
    if (block.state != PH_B_RESERVED)
        return PH_H_BAD_OFFSET;
    count(h, 1);
    return 0;
}

/* Leave the block to the next array, if there is none for that yet, and nobody else knows of it. */
static int leave(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    uint64_t granules = ph_is_run(block) ? h->classes[block->record->class_index].granules : PH_SPARES;
    if (granules >= PH_SPARES || h->spares[granules] != 0 || ph_has_refs(block->record))
        return 0;
    h->spares[granules] = block->offset + 1;
    return 1;
}

/* In a child that was forked nothing is known of the block, and nothing is given back. */
void ph_array_end(struct ph_heap *h, uint64_t offset)
{
    struct ph_block block = ph_block_at(h, offset);
    if (block.state == PH_B_RESERVED) {
        count(h, -1);
        if (!leave(&block))
            ph_cancel(&block);
    } else if (block.state != PH_B_NONE) {
        ph_view_unpin(h, offset);
    }
}

int ph_array_keep(struct ph_heap *h, uint64_t offset)
{
    struct ph_block block = ph_block_at(h, offset);
    if (block.state != PH_B_RESERVED)
        return PH_H_BAD_OFFSET;
    if (ph_journal_reserve(h, 2, 0) < 0 || ph_view_pin(&block) < 0)
        return PH_H_NOMEM;
    count(h, -1);
    ph_publish(&block);
    ph_describe(&block);
    return 0;
}

/* Of a heap that was closed meanwhile there are none. */
void ph_array_drop_spares(struct ph_heap *h)
{
    for (uint32_t i = 0; i < PH_SPARES; i++) {
        if (h->spares[i] == 0)
            continue;
        struct ph_block block = ph_block_at(h, h->spares[i] - 1);
        h->spares[i] = 0;
        if (block.state == PH_B_RESERVED)
            ph_cancel(&block);
    }
}
