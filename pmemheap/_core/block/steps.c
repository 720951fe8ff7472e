/* block/steps.c -- allocation in two steps: what a transaction does with a block before and after its record.
 *
 *            reserve             publish
 *     free ----------> reserved ----------> live            the bit or entry is set with publish,
 *       ^                  | cancel           | retire      and cleared with retire, by the caller
 *       |     release      v                  v
 *       +-------------- quarantined <---------+
 *
 * A block in the middle is *withheld*: no persistent table describes it, so that the next opening of the file finds it
 * free, but no call gets it before. A quarantined block may be released while it is viewed: then its space becomes free
 * when the last view goes. */
#include "block/block.h"

static int64_t reserve_units(struct ph_heap *h, uint64_t size, uint64_t align)
{
    int64_t unit = ph_large_take(h, size, align);
    if (unit < 0)
        return unit;
    ph_reserve_large(h, (uint64_t)unit, ph_units_for(size), size);
    return unit << PH_UNIT_SHIFT;
}

/* A block of an arena of another strategy than the general one, without a class that serves it. */
static int64_t reserve_by_strategy(struct ph_heap *h, uint64_t size, uint64_t align)
{
    if (h->strategy == PH_STRATEGY_RING)
        return ph_ring_reserve(h, size, align);
    if (h->strategy == PH_STRATEGY_ROWS)
        return ph_row_fits(h, size, align) ? ph_run_reserve(h, &h->classes[0]) : PH_H_LARGE;
    return ph_is_placed(h, size, align) ? PH_H_PLACE : reserve_units(h, size, align);
}

/* ph_reserve_block -- the same as ph_malloc, but the block is reserved. */
int64_t ph_reserve_block(struct ph_heap *h, uint64_t size, uint64_t align)
{
    if (ph_withheld_reserve(h, 1) < 0 || ph_journal_reserve(h, PH_STORES_MOST, 0) < 0)
        return PH_H_NOMEM;
    int index = ph_class_of(h, size, align);
    if (index >= 0)
        return ph_run_reserve(h, &h->classes[index]);
    if (PH_UNLIKELY(h->strategy != PH_STRATEGY_GENERAL))
        return reserve_by_strategy(h, size, align);
    return reserve_units(h, size, align);
}

/* Of a block of a run, or of a piece, nobody knows any more what was asked for. */
static PH_SELDOM void tell_published(const struct ph_block *block)
{
    uint64_t capacity = ph_block_capacity(block);
    int is_large = block->record->state == PH_U_LARGE;
    ph_tell_made(block->arena, block->offset, is_large ? block->record->u.nbytes : capacity, capacity);
}

/* ph_publish -- reserved -> live. */
void ph_publish(const struct ph_block *block)
{
    PH_ASSERT(block->record != NULL);
    if (ph_is_run(block))
        ph_run_publish(block);
    else if (ph_is_packed(block))
        ph_piece_publish(block);
    else
        ph_large_publish(block);
    if (PH_UNLIKELY(block->arena->watch != NULL))
        tell_published(block);
}

static void quarantine(const struct ph_block *block)
{
    ph_refs_make_stale(block);
    if (ph_is_run(block))
        ph_run_quarantine(block);
    else if (ph_is_packed(block))
        ph_piece_quarantine(block);
    else
        ph_large_quarantine(block);
}

/* Quarantined -> free, with no view left. */
static void set_free(const struct ph_block *block)
{
    if (ph_is_run(block))
        ph_run_release(block);
    else if (ph_is_packed(block))
        ph_piece_release(block);
    else
        ph_large_release(block);
}

/* ph_cancel -- reserved -> free, as soon as nobody views it. A small one that nobody refers to goes the short way. */
void ph_cancel(const struct ph_block *block)
{
    PH_ASSERT(block->state == PH_B_RESERVED);
    if (ph_is_run(block) && ph_refs_of(block) == NULL) {
        ph_run_cancel(block);
        return;
    }
    quarantine(block);
    ph_release(block);
}

/* ph_retire -- live -> quarantined; its handles are stale from now on. The caller has reserved room (ph_withheld_reserve). */
void ph_retire(const struct ph_block *block)
{
    PH_ASSERT(block->record != NULL && block->state != PH_B_RESERVED && block->state != PH_B_QUARANTINED);
    PH_TELL(block->arena, ph_tell_freed, block->offset, ph_block_capacity(block));
    quarantine(block);
}

/* ph_release -- quarantined -> free, now or when the last view goes. */
void ph_release(const struct ph_block *block)
{
    if (!ph_refs_keep(block))
        set_free(block);
}

uint64_t ph_each_retired(struct ph_heap *h, uint64_t offset, uint64_t nbytes, void (*act)(const struct ph_block *block))
{
    uint64_t at = offset, end = offset + nbytes;
    while (at < end) {
        struct ph_block block = ph_block_at(h, at);
        if (!ph_is_retired(&block))
            break;
        at += ph_block_capacity(&block);
        act(&block);
    }
    return at - offset;
}

/* The last view or pin of a released block has gone. There is no record in a heap that was closed meanwhile. */
static void release_last(struct ph_heap *h, uint64_t offset)
{
    struct ph_block block = ph_block_at(h, offset);
    if (block.record != NULL)
        set_free(&block);
}

void ph_view_unpin(struct ph_heap *h, uint64_t offset)
{
    if (ph_refs_view_gone(h, offset))
        release_last(h, offset);
}

void ph_unpin(struct ph_heap *h, uint64_t offset)
{
    if (ph_refs_pin_gone(h, offset, 0))
        release_last(h, offset);
}

void ph_unpin_change(struct ph_heap *h, uint64_t offset)
{
    if (ph_refs_pin_gone(h, offset, 1))
        release_last(h, offset);
}

/* ph_describe -- store the bit or the entry of a block that is published here. */
void ph_describe(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    uint64_t *word = &h->bits[ph_word_of(block->offset)];
    PH_ASSERT(block->record != NULL && (ph_is_run(block) || ph_is_packed(block) || block->record->state == PH_U_LARGE));
    if (ph_is_run(block))
        ph_store(h, word, *word | ph_bit_of(block->offset));
    else if (ph_is_packed(block))
        ph_store(h, word, *word & ~(ph_bit_of(block->offset) << 1));
    else
        ph_entry_publish(h, ph_head_of(block), ph_entry_word(PH_KIND_LARGE, 0, block->record->nunits),
                         block->record->u.nbytes);
}

/* ph_undescribe -- clear the bit or the entry of a block that is retired here. */
void ph_undescribe(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    uint64_t *word = &h->bits[ph_word_of(block->offset)];
    PH_ASSERT(block->record != NULL
              && (ph_is_run(block) || ph_is_packed(block) || block->record->state == PH_U_QUARANTINE));
    if (ph_is_run(block))
        ph_store(h, word, *word & ~ph_bit_of(block->offset));
    else if (ph_is_packed(block))
        ph_piece_kill(block);
    else
        ph_entry_withdraw(h, ph_head_of(block));
}

void ph_block_retire(const struct ph_block *block)
{
    uint64_t nbytes = ph_block_capacity(block);
    ph_retire(block);
    ph_undescribe(block);
    block->arena->journal->freed(block->arena, block->offset, nbytes);
}
