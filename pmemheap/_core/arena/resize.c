/* arena/resize.c -- blocks that change their size: in place where that can be, else by moving.
 *
 * In a heap with a log nothing moves here: a process that is killed between the two stores that a move takes would
 * leave the block twice or not at all. PH_H_MOVE_LOGGED asks for a transaction. */
#include <string.h>

#include "arena/arena.h"
#include "block/guard.h"

int64_t ph_usable_size(struct ph_heap *h, uint64_t offset)
{
    struct ph_block block = ph_block_at(h, offset);
    return ph_is_visible(&block) ? (int64_t)ph_block_usable(&block) : PH_H_BAD_OFFSET;
}

/* Room for a block that moves because it grew. What outgrows 2 KiB tends to go on: it gets whole units. */
static int64_t take_for_move(struct ph_heap *h, uint64_t size, int grows)
{
    if (h->strategy == PH_STRATEGY_RING)
        return ph_ring_malloc(h, size, PH_GRANULE);
    if (ph_is_placed(h, size, PH_GRANULE))
        return PH_H_PLACE;
    int index = ph_class_of(h, size, PH_GRANULE);
    if (index >= 0 && (!grows || size <= PH_GROWING))
        return ph_malloc_small(h, (uint32_t)index, size);
    uint64_t nunits = ph_units_for(size);
    if (nunits > PH_POOL_MAX)
        return PH_H_LARGE;
    int64_t unit = grows ? ph_wilderness_take_growing(h, nunits) : PH_H_REFILL;
    if (unit < 0)
        unit = ph_units_take(h, nunits);
    if (unit < 0)
        return unit;
    ph_large_make(h, (uint64_t)unit, nunits, size);
    return unit << PH_UNIT_SHIFT;
}

static int64_t move(const struct ph_block *block, uint64_t size)
{
    struct ph_heap *h = block->arena;
    if (!h->journal->may_move)
        return PH_H_MOVE_LOGGED;
    uint64_t capacity = ph_block_usable(block); /* all that a view of the block shows */
    int is_large = block->record->state == PH_U_LARGE;
    int64_t to = take_for_move(h, size, size > (is_large ? block->record->u.nbytes : capacity));
    if (to < 0)
        return to;
    memcpy(h->data + to, h->data + block->offset, capacity < size ? capacity : size);
    ph_refs_make_stale(block);
    ph_block_free(block);
    PH_TELL(h, ph_tell_moved, block->offset, (uint64_t)to, size);
    return to;
}

/* Grow a large block in place over the free units behind it. */
static int grow_up(const struct ph_block *block, uint64_t more, uint64_t nbytes)
{
    struct ph_heap *h = block->arena;
    uint64_t unit = ph_head_of(block), have = block->record->nunits;
    if (ph_room_after(h, unit + have) < more)
        return 0;
    ph_pool_take_after(h, unit + have, more);
    ph_large_resize(h, unit, have + more, nbytes);
    return 1;
}

/* Grow a large block over free units in front of it and behind it; its bytes move down. */
static int64_t grow_down(const struct ph_block *block, uint64_t more, uint64_t nbytes)
{
    struct ph_heap *h = block->arena;
    uint64_t unit = ph_head_of(block), have = block->record->nunits;
    uint64_t after = ph_room_after(h, unit + have), before = ph_pool_room_before(h, unit);
    if (before + after < more)
        return PH_H_MOVE;
    uint64_t to = unit - (more - after);
    if (after)
        ph_pool_take_after(h, unit + have, after);
    ph_pool_take_before(h, unit, more - after);
    memmove(h->data + (to << PH_UNIT_SHIFT), h->data + block->offset, have << PH_UNIT_SHIFT);
    ph_refs_make_stale(block);
    ph_large_clear(h, unit);
    ph_large_make(h, to, have + more, nbytes);
    PH_TELL(h, ph_tell_moved, block->offset, to << PH_UNIT_SHIFT, nbytes);
    return (int64_t)(to << PH_UNIT_SHIFT);
}

static void shrink_large(const struct ph_block *block, uint64_t nunits, uint64_t nbytes)
{
    struct ph_heap *h = block->arena;
    uint64_t unit = ph_head_of(block), have = block->record->nunits;
    ph_large_resize(h, unit, nunits, nbytes);
    if (nunits == have)
        return;
    if (!h->withholds) {
        ph_give_back(h, unit + nunits, have - nunits);
        return;
    }
    ph_quarantine_units(h, unit + nunits, have - nunits);
    h->journal->freed(h, (unit + nunits) << PH_UNIT_SHIFT, (have - nunits) << PH_UNIT_SHIFT);
}

/* Of a block that may stay, if need be, whose new size fits: a shrink never fails. */
static int64_t realloc_run(const struct ph_block *block, uint64_t size, int refused)
{
    int fits = size <= ph_block_capacity(block);
    if (block->arena->strategy == PH_STRATEGY_ROWS)
        return fits ? (int64_t)block->offset : PH_H_LARGE;
    if (ph_class_of(block->arena, size, PH_GRANULE) == block->record->class_index) {
        PH_TELL(block->arena, ph_tell_resized, block->offset, size, 0, 0);
        return (int64_t)block->offset;
    }
    if (refused)
        return fits ? (int64_t)block->offset : refused;
    int64_t to = move(block, size);
    return to < 0 && to != PH_H_MOVE_LOGGED && fits ? (int64_t)block->offset : to;
}

static int64_t realloc_large(const struct ph_block *block, uint64_t size, int refused)
{
    struct ph_heap *h = block->arena;
    uint64_t nunits = ph_units_for(size), have = block->record->nunits;
    if (nunits > have) {
        if (nunits > UINT32_MAX)
            return PH_H_LARGE;
        if (grow_up(block, nunits - have, size))
            return (int64_t)block->offset;
        if (h->strategy == PH_STRATEGY_RING)
            return refused ? refused : move(block, size);
        if (block->record->class_index == PH_IN_REGION_LARGE)
            return PH_H_IN_REGION;
        if (nunits > PH_POOL_MAX)
            return PH_H_UPSTREAM;
        if (refused)
            return refused;
        int64_t to = h->journal->may_move ? grow_down(block, nunits - have, size) : PH_H_MOVE;
        return to == PH_H_MOVE ? move(block, size) : to;
    }
    if (refused)
        return (int64_t)block->offset;
    int may_move = block->record->class_index != PH_IN_REGION_LARGE;
    if (may_move && size <= PH_GROWING && ph_class_of(h, size, PH_GRANULE) >= 0) {
        int64_t to = move(block, size);
        if (to >= 0 || to == PH_H_MOVE_LOGGED)
            return to;
    }
    shrink_large(block, nunits, size);
    return (int64_t)block->offset;
}

/* Whether a piece may move: to the end of a ring, to where a `Space` says, or what is guarded to a place like others. */
static int may_leave(const struct ph_block *block)
{
    uint16_t strategy = block->arena->strategy;
    return strategy == PH_STRATEGY_RING || strategy == PH_STRATEGY_PLACED || block->record->class_index == PH_IN_GUARD;
}

/* A piece stays as long as it fits. */
static int64_t realloc_piece(const struct ph_block *block, uint64_t size, int refused)
{
    if (size <= ph_block_usable(block))
        return (int64_t)block->offset;
    if (!may_leave(block))
        return PH_H_IN_REGION;
    return refused ? refused : move(block, size);
}

/* ph_realloc -- the new offset of the block, or a failure with nothing changed. PH_H_UPSTREAM and PH_H_LARGE
 * ask for the extents, PH_H_MOVE_LOGGED for a transaction; a block that is viewed or pinned stays where it is or is
 * refused. */
int64_t ph_realloc(struct ph_heap *h, uint64_t offset, uint64_t size)
{
    struct ph_block block = ph_live_at(h, offset);
    if (block.state != PH_B_LIVE)
        return PH_H_BAD_OFFSET;
    int refused = PH_UNLIKELY(ph_has_refs(block.record)) ? ph_refs_refusal(&block) : 0;
    if (PH_UNLIKELY(h->withholds) && ph_room_to_retire(h, 1) < 0)
        return size <= ph_block_capacity(&block) ? (int64_t)offset : PH_H_NOMEM;
    if (ph_is_packed(&block))
        return realloc_piece(&block, size, refused);
    return ph_is_run(&block) ? realloc_run(&block, size, refused) : realloc_large(&block, size, refused);
}

/* ph_expand -- make the block hold `size` bytes where it is. 0 = done. */
int ph_expand(struct ph_heap *h, uint64_t offset, uint64_t size)
{
    struct ph_block block = ph_live_at(h, offset);
    if (block.state != PH_B_LIVE)
        return PH_H_BAD_OFFSET;
    if (ph_is_run(&block) || ph_is_packed(&block))
        return size <= ph_block_usable(&block) ? 0 : PH_H_MOVE;
    uint64_t nunits = ph_units_for(size), have = block.record->nunits;
    if (ph_journal_reserve(h, 2, 0) < 0)
        return PH_H_NOMEM;
    if (nunits > have) {
        if (nunits > UINT32_MAX)
            return PH_H_MOVE;
        return grow_up(&block, nunits - have, size) ? 0 : PH_H_UPSTREAM;
    }
    if (size > block.record->u.nbytes)
        ph_large_resize(h, ph_head_of(&block), have, size);
    return 0;
}

/* ph_large_extend -- after PH_H_UPSTREAM: the pool's units behind the block and [start, stop), which the caller
 * has taken from the extents, become part of the block. 0, with nothing changed, when the block was freed while the
 * caller took them, the pool does not reach from it to `start` any more, or memory has run out. */
int ph_large_extend(struct ph_heap *h, uint64_t offset, uint64_t start, uint64_t stop, uint64_t nbytes)
{
    struct ph_block block = ph_live_at(h, offset);
    if (block.state != PH_B_LIVE || block.record->state != PH_U_LARGE)
        return 0;
    uint64_t unit = ph_head_of(&block), end = unit + block.record->nunits, after = ph_room_after(h, end);
    if (end + after != start || ph_journal_reserve(h, 2, 0) < 0)
        return 0;
    if (after)
        ph_pool_take_after(h, end, after);
    ph_large_resize(h, unit, stop - unit, nbytes);
    return 1;
}

/* ph_move_into -- the bytes of a block go to the large block at `to`, up to `size` of them, and it is freed. A
 * refusal as of ph_free, with nothing changed; PH_H_MOVE_LOGGED in a heap with a log. */
int ph_move_into(struct ph_heap *h, uint64_t offset, uint64_t to, uint64_t size)
{
    int refused = ph_free_refusal(h, offset);
    if (refused < 0)
        return refused;
    if (!h->journal->may_move)
        return PH_H_MOVE_LOGGED;
    struct ph_block block = ph_live_at(h, offset);
    uint64_t capacity = ph_block_usable(&block);
    memcpy(h->data + to, h->data + offset, capacity < size ? capacity : size);
    int freed = ph_free(h, offset);
    if (freed == 0)
        PH_TELL(h, ph_tell_moved, offset, to, size);
    return freed;
}

