/* arena/malloc.c -- malloc and free: what is on the path of every call. */
#include <stdlib.h>
#include <string.h>

#include "arena/arena.h"
#include "block/guard.h"

/* ph_heap_init -- an empty heap without tables. PH_H_CORRUPT: classes that cannot be. */
int ph_heap_init(struct ph_heap *h, const uint32_t *sizes, const uint16_t *run_units, uint32_t count, const uint64_t *starts)
{
    memset(h, 0, sizeof *h);
    int refused = ph_classes_init(h, sizes, run_units, count, starts);
    if (refused < 0)
        return refused;
    ph_ages_init(&h->ages);
    h->until_look = h->until_free_look = 1;
    ph_set_journal(h, PH_VOLATILE);
    h->returned = PH_NIL;
    for (uint32_t i = 0; i < PH_BINS; i++)
        h->bins[i] = PH_NIL;
    return 0;
}

void ph_heap_fini(struct ph_heap *h)
{
    free(h->row_starts);
    ph_ages_fini(&h->ages);
    ph_read_units_fini(&h->read_units);
    free(h->refs.blocks.slots);
    free(h->withheld.words.slots);
    free(h->freed.items);
    free(h->dirty.words);
    free(h->changes.items);
    ph_tags_fini(&h->tags);
    h->row_starts = NULL;
    h->refs = (struct ph_refs_table){0};
    h->withheld = (struct ph_withheld){0};
    h->freed = (struct ph_freed_list){0};
    h->dirty = (struct ph_dirty){0};
    h->changes = (struct ph_changes){0};
}

/* Mark the blocks `bits` of the current word of a class as live, or PH_H_NOMEM. */
static inline int claim(struct ph_heap *h, struct ph_class *c, uint64_t bits, uint32_t count, uint64_t size)
{
    if (ph_try_store(h, &h->bits[c->word], h->bits[c->word] | bits) < 0)
        return PH_H_NOMEM;
    PH_ASSERT(ph_bits_are_untagged(h, c->word, bits));
    c->mask ^= bits;
    struct ph_unit *run = ph_unit_at(h, c->current);
    run->u.run.live = (uint16_t)(run->u.run.live + count);
    c->live += count;
    c->mallocs += count;
    c->requested += size * count;
    PH_TELL(h, ph_tell_bits_made, c->word, bits, size, (uint64_t)c->granules * PH_GRANULE);
    return 0;
}

int64_t ph_malloc_small(struct ph_heap *h, uint32_t class_index, uint64_t size)
{
    struct ph_class *c = &h->classes[class_index];
    if (PH_UNLIKELY(c->mask == 0)) {
        int refill = ph_class_refill(h, c);
        if (refill < 0)
            return refill;
    }
    uint64_t bit = c->mask & -c->mask;
    if (PH_UNLIKELY(claim(h, c, bit, 1, size) < 0))
        return PH_H_NOMEM;
    return (int64_t)ph_offset_of(c->word, bit);
}

/* Up to `count` blocks of a class into `offsets`, a word of the bits table at a time; how many there were. */
static uint64_t malloc_small_many(struct ph_heap *h, uint32_t class_index, uint64_t size, uint64_t count, uint64_t *offsets)
{
    struct ph_class *c = &h->classes[class_index];
    uint64_t done = 0;
    while (done < count && (c->mask != 0 || ph_class_refill(h, c) == 0)) {
        uint64_t rest = c->mask, before = done;
        for (; rest != 0 && done < count; rest &= rest - 1)
            offsets[done++] = ph_offset_of(c->word, rest & -rest);
        if (claim(h, c, c->mask & ~rest, (uint32_t)(done - before), size) < 0)
            return before;
    }
    return done;
}

static int64_t malloc_units(struct ph_heap *h, uint64_t size, uint64_t align)
{
    int64_t unit = ph_large_take(h, size, align);
    if (unit < 0)
        return unit;
    ph_large_make(h, (uint64_t)unit, ph_units_for(size), size);
    return unit << PH_UNIT_SHIFT;
}

/* A block of an arena of another strategy than the general one. */
static int64_t malloc_by_strategy(struct ph_heap *h, uint64_t size, uint64_t align)
{
    if (h->strategy == PH_STRATEGY_RING)
        return ph_ring_malloc(h, size, align);
    if (h->strategy == PH_STRATEGY_ROWS)
        return ph_row_fits(h, size, align) ? ph_malloc_small(h, 0, size) : PH_H_LARGE;
    return ph_is_placed(h, size, align) ? PH_H_PLACE : malloc_units(h, size, align);
}

int64_t ph_malloc(struct ph_heap *h, uint64_t size, uint64_t align)
{
    int index = ph_class_of(h, size, align);
    if (PH_LIKELY(index >= 0))
        return ph_malloc_small(h, (uint32_t)index, size);
    if (ph_journal_reserve(h, PH_STORES_MOST, 0) < 0)
        return PH_H_NOMEM;
    if (PH_UNLIKELY(h->strategy != PH_STRATEGY_GENERAL))
        return malloc_by_strategy(h, size, align);
    return malloc_units(h, size, align);
}

static int refusal_of(const struct ph_block *block)
{
    if (block->state != PH_B_LIVE)
        return PH_H_BAD_OFFSET;
    return ph_has_refs(block->record) ? ph_refs_refusal(block) : 0;
}

/* ph_free_refusal -- how ph_free would fail, 0 if it would not. */
int ph_free_refusal(struct ph_heap *h, uint64_t offset)
{
    struct ph_block block = ph_live_at(h, offset);
    return refusal_of(&block);
}

/* Free a live block of a run that nobody can read as of a commit [Q7]: 0 or a failure; 1: somebody may. */
static int free_unread(const struct ph_block *block)
{
    struct ph_lender *lender = block->arena->tags.lender;
    if (lender == NULL || !ph_is_run(block))
        return 1;
    int taken = lender->take(lender);
    if (taken == 0)
        return 1;
    int refused = ph_refs_end(block);
    if (refused == 0)
        ph_block_free(block);
    lender->give(lender, taken);
    return refused;
}

/* Free a live block, also one that something may refer to, or whose free waits for its record [R6]. */
static int free_with_care(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    int freed = h->withholds ? free_unread(block) : 1;
    if (freed <= 0)
        return freed;
    if (h->withholds && ph_room_to_retire(h, 1) < 0)
        return PH_H_NOMEM;
    int refused = ph_refs_end(block);
    if (refused < 0)
        return refused;
    if (h->withholds)
        ph_block_retire(block);
    else
        ph_block_free(block);
    return 0;
}

/* Whether a live block was freed beside what its class offers. */
static int free_aside(const struct ph_block *block)
{
    const struct ph_lender *lender = block->arena->tags.lender;
    return lender != NULL && lender->is_on && ph_is_run(block) && !ph_has_refs(block->record) && ph_run_free_aside(block);
}

int ph_free(struct ph_heap *h, uint64_t offset)
{
    struct ph_block block = ph_live_at(h, offset);
    if (PH_UNLIKELY(block.state != PH_B_LIVE))
        return PH_H_BAD_OFFSET;
    if (PH_UNLIKELY(h->withholds || ph_has_refs(block.record))) {
        struct ph_block careful = block; /* so that the other one need not be in memory */
        return free_aside(&careful) ? 0 : free_with_care(&careful);
    }
    ph_block_free(&block);
    return 0;
}

/* ph_free_deferred -- free, also with live views. No table describes the block any more, so that it stays free after
 * a crash; only its space is kept from others, in this process, until the last view goes. */
int ph_free_deferred(struct ph_heap *h, uint64_t offset)
{
    struct ph_block block = ph_live_at(h, offset);
    if (block.state != PH_B_LIVE)
        return PH_H_BAD_OFFSET;
    int freed = free_with_care(&block);
    if (freed != PH_H_PINNED)
        return freed;
    if (PH_UNLIKELY(ph_guard_refusal(&block) < 0))
        return PH_H_DAMAGED;
    if (ph_room_to_retire(h, 1) < 0)
        return PH_H_NOMEM;
    ph_block_retire(&block);
    if (!h->withholds)
        ph_release(&block);
    return 0;
}

/* ph_malloc_many -- up to `count` blocks of one size; how many there were before the core needed help. */
uint64_t ph_malloc_many(struct ph_heap *h, uint64_t size, uint64_t count, uint64_t *offsets)
{
    int index = ph_class_of(h, size, PH_GRANULE);
    if (index >= 0)
        return malloc_small_many(h, (uint32_t)index, size, count, offsets);
    uint64_t done = 0;
    for (int64_t offset; done < count && (offset = ph_malloc(h, size, PH_GRANULE)) >= 0; done++)
        offsets[done] = (uint64_t)offset;
    return done;
}

/* The leading offsets of a batch whose bits stand in one word of the bits table: their number, and the bits.
 * An offset that is no multiple of a granule, or repeats one, ends the group. */
static uint64_t same_word(const uint64_t *offsets, uint64_t count, uint64_t *bits)
{
    uint64_t word = ph_word_of(offsets[0]), i = 0;
    *bits = 0;
    for (; i < count && ph_word_of(offsets[i]) == word && offsets[i] % PH_GRANULE == 0; i++) {
        uint64_t bit = ph_bit_of(offsets[i]);
        if (*bits & bit)
            break;
        *bits |= bit;
    }
    return i;
}

/* The run in which all of a group of one word are live blocks, to none of which anything refers, else NULL. */
static const struct ph_unit *run_of_group(struct ph_heap *h, uint64_t offset, uint64_t bits)
{
    const struct ph_unit *record = ph_live_record(h, offset);
    if (record == NULL || record->state != PH_U_RUN || ph_has_refs(record))
        return NULL;
    return bits & ~h->bits[ph_word_of(offset)] ? NULL : record;
}

/* ph_first_refused -- index of the first offset of a batch that ph_free would refuse; `count` if none. That no
 * offset stands there twice is the caller's to see. */
uint64_t ph_first_refused(struct ph_heap *h, const uint64_t *offsets, uint64_t count)
{
    for (uint64_t i = 0, bits; i < count;) {
        uint64_t group = same_word(offsets + i, count - i, &bits);
        if (group > 1 && run_of_group(h, offsets[i], bits) != NULL) {
            i += group;
            continue;
        }
        if (ph_free_refusal(h, offsets[i]) < 0)
            return i;
        i++;
    }
    return count;
}

/* Room for all that is retired was made before: nothing is set aside, which would take some of it. */
static void free_each(struct ph_heap *h, const uint64_t *offsets, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        struct ph_block block = ph_live_at(h, offsets[i]);
        free_with_care(&block);
    }
}

/* The same where nothing is withheld, or nobody reads: blocks of runs by words. */
static void free_by_words(struct ph_heap *h, const uint64_t *offsets, uint64_t count)
{
    for (uint64_t i = 0, bits; i < count;) {
        uint64_t group = same_word(offsets + i, count - i, &bits);
        const struct ph_unit *run = group > 1 ? run_of_group(h, offsets[i], bits) : NULL;
        if (run == NULL) {
            free_each(h, &offsets[i++], 1);
            continue;
        }
        ph_run_free_bits(h, (uint64_t)(run - h->units), ph_word_of(offsets[i]), bits);
        i += group;
    }
}

/* ph_free_many -- free a batch in which there is nothing to refuse; PH_H_NOMEM: nothing was freed. */
int ph_free_many(struct ph_heap *h, const uint64_t *offsets, uint64_t count)
{
    struct ph_lender *lender = h->tags.lender;
    if (h->withholds && ph_room_to_retire(h, count) < 0)
        return PH_H_NOMEM;
    int taken = lender != NULL ? lender->take(lender) : 0;
    if (!h->withholds || taken != 0)
        free_by_words(h, offsets, count);
    else
        free_each(h, offsets, count);
    if (taken != 0)
        lender->give(lender, taken);
    return 0;
}
