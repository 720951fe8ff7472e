/* block/slab.c -- runs: units cut into equal blocks of one size class.
 *
 * A class serves from its *current* run, word by word of the bits table, lowest block first; `mask` holds the
 * free blocks of the current word. No word before it in the run has room: a free below moves the word back.
 * The other runs with room wait in an address-ordered heap, so that the lowest fill up and the highest empty. */
#include "block/block.h"

/* A count has left its bounds: the bits of a file may be written over by others, so that more blocks go than came. */
static PH_SELDOM void bound_live(struct ph_heap *h, struct ph_unit *run)
{
    int counted = (int16_t)run->u.run.live, bounded = counted < 0 ? 0 : run->u.run.blocks;
    run->u.run.live = (uint16_t)bounded;
    h->classes[run->class_index].live += (uint64_t)(bounded - counted);
}

static void count_live(struct ph_heap *h, struct ph_unit *run, int by)
{
    run->u.run.live = (uint16_t)(run->u.run.live + by);
    h->classes[run->class_index].live += (uint64_t)by;
    if (PH_UNLIKELY(run->u.run.live > run->u.run.blocks))
        bound_live(h, run);
}

/* So many live blocks of a run, which begin at bits of one word, are none any more. */
static inline void clear_bits(struct ph_heap *h, struct ph_unit *run, uint64_t word, uint64_t bits, int count)
{
    ph_store(h, &h->bits[word], h->bits[word] & ~bits);
    count_live(h, run, -count);
    PH_TELL(h, ph_tell_bits_freed, word, bits, ph_capacity_of(h, run));
}

static void count_withheld(struct ph_heap *h, struct ph_unit *run, int by)
{
    PH_ASSERT(run->u.run.withheld + by >= 0 && run->u.run.withheld + by <= run->u.run.blocks);
    run->u.run.withheld = (uint16_t)(run->u.run.withheld + by);
    h->classes[run->class_index].withheld += (uint64_t)by;
}

static int seek(struct ph_heap *h, struct ph_class *c, uint64_t head, uint64_t word)
{
    uint64_t end = (head + c->run_units) * PH_UNIT_WORDS;
    for (; word < end; word++) {
        uint64_t mask = ph_free_mask(h, c, head, word);
        if (mask) {
            c->word = word;
            c->mask = mask;
            return 1;
        }
    }
    return 0;
}

static void run_set(struct ph_heap *h, uint64_t head, uint32_t class_index)
{
    struct ph_class *c = &h->classes[class_index];
    struct ph_unit *run = &h->units[head];
    run->state = PH_U_RUN;
    run->class_index = (uint8_t)class_index;
    run->back = 0;
    run->nunits = c->run_units;
    run->u.run.live = 0;
    run->u.run.blocks = c->run_blocks;
    run->u.run.refs = 0;
    run->u.run.withheld = 0;
    run->has_refs = 0;
    for (uint16_t i = 1; i < c->run_units; i++) {
        run[i].state = PH_U_RUN_BODY;
        run[i].back = i;
    }
    if (h->strategy == PH_STRATEGY_ROWS)
        ph_rows_came(h, head);
    c->runs++;
    h->run_units += c->run_units;
}

static void run_clear(struct ph_heap *h, uint64_t head)
{
    struct ph_unit *run = &h->units[head];
    struct ph_class *c = &h->classes[run->class_index];
    PH_ASSERT(run->state == PH_U_RUN && (ph_run_occupied(run) == 0 || !PH_KEPT(R35)));
    ph_entry_withdraw(h, head);
    for (uint32_t i = 0; i < c->run_units; i++)
        run[i].state = PH_U_OTHER;
    c->runs--;
    h->run_units -= c->run_units;
}

static void give_run_back(struct ph_heap *h, uint64_t head)
{
    uint64_t nunits = h->units[head].nunits;
    run_clear(h, head);
    ph_count_freed(h, head, nunits);
    ph_pool_give(h, head, nunits);
}

/* ph_run_may_go -- whether the entry of an empty run may be withdrawn; if not, the run stays with its class. */
int ph_run_may_go(struct ph_heap *h)
{
    return !h->readonly && h->strategy != PH_STRATEGY_ROWS && ph_journal_reserve(h, 2, 0) == 0;
}

/* ---------------------------------------------------------------- free, but perhaps read [Q7]
 * Others may have set a bit of the file again meanwhile, or that of a block that is withheld before it was freed. */
enum { PH_ASIDE_MOST = 64 }; /* blocks that begin in one word of the bits table */

static void end_aside(struct ph_heap *h, struct ph_class *c)
{
    c->aside = 0;
    h->withheld.aside--;
    h->tags.awaited -= PH_ASIDE_MOST;
}

static void offer_aside(struct ph_heap *h, struct ph_class *c)
{
    c->mask |= c->aside & ph_free_mask(h, c, ph_unit_index(h, c->current), c->word);
    end_aside(h, c);
}

static void tag_aside(struct ph_heap *h, struct ph_class *c)
{
    struct ph_withheld_word *withheld = ph_withheld_make(h, c->word);
    uint64_t size = (uint64_t)c->granules * PH_GRANULE, rest = c->aside & ~(withheld->reserved | withheld->freed);
    count_withheld(h, ph_unit_at(h, c->current), __builtin_popcountll(rest));
    end_aside(h, c);
    for (; rest != 0; rest &= rest - 1) {
        ph_withheld_flip_freed(h, withheld, rest & -rest, size);
        h->journal->freed(h, ph_offset_of(c->word, rest), size);
    }
}

/* Offer what is aside if nobody can read it; else it waits with a tag. */
static PH_SELDOM void look(struct ph_heap *h, struct ph_class *c)
{
    struct ph_lender *lender = h->tags.lender;
    int taken = lender->take(lender);
    if (taken == 0) {
        tag_aside(h, c);
        return;
    }
    offer_aside(h, c);
    lender->give(lender, taken);
}

static inline void look_at_aside(struct ph_heap *h, struct ph_class *c)
{
    if (PH_UNLIKELY(c->aside != 0))
        look(h, c);
}

void ph_offer_aside(struct ph_heap *h)
{
    for (uint32_t i = 0; i < h->nclasses; i++)
        if (h->classes[i].aside != 0)
            offer_aside(h, &h->classes[i]);
}

static int begin_aside(struct ph_heap *h)
{
    if (ph_withheld_reserve(h, 1) < 0 || ph_tags_room(&h->tags, PH_ASIDE_MOST) < 0)
        return PH_H_NOMEM;
    h->withheld.aside++;
    h->tags.awaited += PH_ASIDE_MOST;
    return 0;
}

int ph_run_free_aside(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    struct ph_unit *run = block->record;
    struct ph_class *c = &h->classes[run->class_index];
    uint64_t word = ph_word_of(block->offset), bit = ph_bit_of(block->offset);
    int is_last = ph_run_occupied(run) == 1;
    if (h->strategy != PH_STRATEGY_GENERAL)
        return 0;
    if (word != c->word || c->current != (uint32_t)ph_head_of(block) || (c->mask & bit) || (is_last && c->partial != PH_NIL))
        return 0;
    if (PH_UNLIKELY(c->aside == 0 && begin_aside(h) < 0))
        return 0;
    clear_bits(h, run, word, bit, 1);
    c->aside |= bit;
    h->empties |= (uint32_t)is_last;
    return 1;
}

/* Give back the empty runs that classes keep in service. Returns 1 if there was one. */
int ph_release_empties(struct ph_heap *h)
{
    int released = 0;
    h->empties = 0;
    for (uint32_t i = 0; i < h->nclasses; i++) {
        struct ph_class *c = &h->classes[i];
        look_at_aside(h, c);
        if (c->current == PH_NIL || ph_run_occupied(ph_unit_at(h, c->current)) != 0 || !ph_run_may_go(h))
            continue;
        uint64_t head = ph_unit_index(h, c->current);
        c->current = PH_NIL;
        c->mask = 0;
        give_run_back(h, head);
        released = 1;
    }
    return released;
}

/* ph_run_end -- a run without a block goes, whether it is in service or waits. */
void ph_run_end(struct ph_heap *h, uint64_t head)
{
    struct ph_class *c = &h->classes[h->units[head].class_index];
    if (c->current == (uint32_t)head) {
        c->current = PH_NIL;
        c->mask = 0;
    } else {
        ph_pair_remove(h, &c->partial, head);
    }
    give_run_back(h, head);
}

/* ph_clear_stray_bits -- no bit may stand in free units; a damaged file may have some, and nobody must take them for blocks. */
void ph_clear_stray_bits(struct ph_heap *h, uint64_t head, uint64_t nunits)
{
    for (uint64_t word = head * PH_UNIT_WORDS; word < (head + nunits) * PH_UNIT_WORDS; word++)
        if (h->bits[word] != 0)
            ph_store(h, &h->bits[word], 0);
}

/* ph_class_refill -- make `mask` non-empty: further on in the run, from the lowest run with room, from a new
 * run. PH_H_REFILL when the pool has no units for one. */
int ph_class_refill(struct ph_heap *h, struct ph_class *c)
{
    look_at_aside(h, c);
    if (c->mask != 0)
        return 0;
    if (c->current != PH_NIL) {
        if (seek(h, c, ph_unit_index(h, c->current), c->word + 1))
            return 0;
        c->current = PH_NIL;
    }
    if (c->partial != PH_NIL) {
        uint64_t head = ph_unit_index(h, c->partial);
        ph_pair_remove(h, &c->partial, head);
        c->current = (uint32_t)head;
        return seek(h, c, head, head * PH_UNIT_WORDS) ? 0 : PH_H_CORRUPT;
    }
    if (ph_journal_reserve(h, PH_STORES_MOST + (uint64_t)c->run_units * PH_UNIT_WORDS, 0) < 0)
        return PH_H_NOMEM;
    int64_t head = h->strategy == PH_STRATEGY_ROWS ? ph_rows_take(h) : ph_units_take(h, c->run_units);
    if (head < 0)
        return (int)head;
    uint32_t class_index = (uint32_t)(c - h->classes);
    PH_ASSERT(ph_units_are_untagged(h, (uint64_t)head, c->run_units));
    ph_clear_stray_bits(h, (uint64_t)head, c->run_units);
    run_set(h, (uint64_t)head, class_index);
    ph_entry_publish(h, (uint64_t)head, ph_run_entry(h, class_index), ph_row_bytes(h));
    c->current = (uint32_t)head;
    return seek(h, c, (uint64_t)head, (uint64_t)head * PH_UNIT_WORDS) ? 0 : PH_H_CORRUPT;
}

/* The current run of a class has new room: the word moves back if the room lies before it. */
static void current_freed(struct ph_heap *h, struct ph_class *c, uint64_t head, uint64_t word, uint64_t bits)
{
    if (word == c->word) {
        c->mask |= bits;
    } else if (word < c->word) {
        look_at_aside(h, c);
        c->word = word;
        c->mask = bits;
    }
    if (ph_run_occupied(&h->units[head]) != 0)
        return;
    if (c->partial == PH_NIL || !ph_run_may_go(h)) {
        h->empties = 1;
        return;
    }
    look_at_aside(h, c);
    if (ph_run_occupied(&h->units[head]) != 0)
        return;
    c->current = PH_NIL;
    c->mask = 0;
    give_run_back(h, head);
}

/* Blocks of a run have become free: offer them, or give the run back. */
static void offer(struct ph_heap *h, uint64_t head, uint64_t word, uint64_t bits, int was_full)
{
    struct ph_unit *run = &h->units[head];
    struct ph_class *c = &h->classes[run->class_index];
    if (PH_UNLIKELY(ph_run_is_shown(run)))
        return;
    if (c->current == (uint32_t)head) {
        current_freed(h, c, head, word, bits);
    } else if (ph_run_occupied(run) == 0 && ph_run_may_go(h)) {
        if (!was_full)
            ph_pair_remove(h, &c->partial, head);
        give_run_back(h, head);
    } else if (was_full) {
        ph_pair_insert(h, &c->partial, head);
    }
}

static int is_full(const struct ph_unit *run)
{
    return ph_run_occupied(run) == run->u.run.blocks;
}

void ph_run_free_bits(struct ph_heap *h, uint64_t head, uint64_t word, uint64_t bits)
{
    struct ph_unit *run = &h->units[head];
    int was_full = is_full(run);
    clear_bits(h, run, word, bits, __builtin_popcountll(bits));
    offer(h, head, word, bits, was_full);
}

/* ---------------------------------------------------------------- two steps, see block/steps.c */

int64_t ph_run_reserve(struct ph_heap *h, struct ph_class *c)
{
    if (c->mask == 0) {
        int refill = ph_class_refill(h, c);
        if (refill < 0)
            return refill;
    }
    uint64_t bit = c->mask & -c->mask;
    PH_ASSERT(ph_bits_are_untagged(h, c->word, bit));
    c->mask ^= bit;
    ph_withheld_flip_reserved(h, ph_withheld_make(h, c->word), bit, c->granules * PH_GRANULE);
    count_withheld(h, ph_unit_at(h, c->current), 1);
    return (int64_t)ph_offset_of(c->word, bit);
}

/* The requested size is not known here: the block counts with its capacity. */
void ph_run_publish(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    struct ph_class *c = &h->classes[block->record->class_index];
    struct ph_withheld_word *withheld = ph_withheld_find(h, ph_word_of(block->offset));
    uint64_t size = ph_capacity_of(block->arena, block->record);
    PH_ASSERT(withheld != NULL && (withheld->reserved & ph_bit_of(block->offset)) != 0);
    ph_withheld_flip_reserved(h, withheld, ph_bit_of(block->offset), size);
    ph_withheld_drop_if_none(h, withheld);
    count_withheld(h, block->record, -1);
    count_live(h, block->record, 1);
    c->mallocs++;
    c->requested += size;
}

/* Live, for which there is room in the table, or reserved -> quarantined. */
void ph_run_quarantine(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    struct ph_withheld_word *withheld = ph_withheld_make(h, ph_word_of(block->offset));
    uint64_t bit = ph_bit_of(block->offset), size = ph_capacity_of(block->arena, block->record);
    if (withheld->reserved & bit) {
        ph_withheld_flip_reserved(h, withheld, bit, size);
    } else {
        count_live(h, block->record, -1);
        if (withheld->freed & bit) /* somebody else has set its bit again */
            return;
        count_withheld(h, block->record, 1);
    }
    ph_withheld_flip_freed(h, withheld, bit, size);
}

/* A block whose bit in the table of withheld blocks was cleared is free. */
static void unwithhold(const struct ph_block *block, struct ph_withheld_word *withheld)
{
    struct ph_heap *h = block->arena;
    int was_full = is_full(block->record);
    ph_withheld_drop_if_none(h, withheld);
    count_withheld(h, block->record, -1);
    offer(h, ph_head_of(block), ph_word_of(block->offset), ph_bit_of(block->offset), was_full);
}

void ph_run_release(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    struct ph_withheld_word *withheld = ph_withheld_find(h, ph_word_of(block->offset));
    PH_ASSERT(withheld != NULL && (withheld->freed & ph_bit_of(block->offset)) != 0);
    ph_withheld_flip_freed(h, withheld, ph_bit_of(block->offset), ph_capacity_of(h, block->record));
    unwithhold(block, withheld);
}

void ph_run_cancel(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    struct ph_withheld_word *withheld = ph_withheld_find(h, ph_word_of(block->offset));
    PH_ASSERT(withheld != NULL && (withheld->reserved & ph_bit_of(block->offset)) != 0);
    ph_withheld_flip_reserved(h, withheld, ph_bit_of(block->offset), ph_capacity_of(h, block->record));
    unwithhold(block, withheld);
}

/* ---------------------------------------------------------------- reading */

/* ph_run_adopt -- a run that the entries table describes: count its blocks, offer its room. */
int ph_run_adopt(struct ph_heap *h, uint64_t head, uint32_t class_index)
{
    struct ph_class *c = &h->classes[class_index];
    const uint64_t *bits = &h->bits[head * PH_UNIT_WORDS];
    uint32_t words = (uint32_t)c->run_units * PH_UNIT_WORDS;
    uint64_t misplaced = 0, missing = 0;
    for (uint32_t i = 0; i < words; i++) {
        misplaced |= bits[i] & ~c->starts[i];
        missing |= c->starts[i] & ~bits[i];
    }
    if (misplaced)
        return PH_H_CORRUPT;
    uint32_t live = missing ? 0 : c->run_blocks;
    for (uint32_t i = 0; missing && i < words; i++)
        live += (uint32_t)__builtin_popcountll(bits[i]);
    run_set(h, head, class_index);
    h->units[head].u.run.live = (uint16_t)live;
    c->live += live;
    if (h->is_shown)
        h->units[head].has_refs = PH_RUN_IS_SHOWN;
    else if (live < c->run_blocks)
        ph_pair_insert(h, &c->partial, head);
    return 0;
}

/* ph_run_discard -- an adopted run without a block becomes units of nobody. */
void ph_run_discard(struct ph_heap *h, uint64_t head)
{
    struct ph_class *c = &h->classes[h->units[head].class_index];
    ph_pair_remove(h, &c->partial, head);
    run_clear(h, head);
}

/* ph_units_take -- 1 to 64 contiguous units of the pool, else of runs that have become empty, else of the wilderness. */
int64_t ph_units_take(struct ph_heap *h, uint64_t nunits)
{
    int64_t start = ph_pool_take(h, nunits);
    if (start < 0 && h->empties && ph_release_empties(h))
        start = ph_pool_take(h, nunits);
    return start < 0 ? ph_wilderness_take(h, nunits) : start;
}
