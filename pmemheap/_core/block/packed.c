/* block/packed.c -- chunks: up to 32 units in which pieces of any length stand one behind the other, told by bits alone.
 *
 *      1 0 0 0 | 1 1 0 | 1 0 | 1 1 | 1 0 0 0 0 | 1 . .     a bit a granule: the start of a piece; the next one says
 *      live      dead    live  dead  live        fill      whether it is dead. The last set bit is the fill mark: from
 *                                                there on nothing was given out.
 *
 * A piece has two granules at least, so that start and flag are its own. Neither a piece nor the mark begins at granule 63 of
 * a word [R31]: both bits share a word, each word begins with a start, and one look at it tells what a bit is. Every change is
 * made of stores of one word, each of which leaves a sound chunk, with the blocks of before or after [R32]:
 *
 *      bump    the new mark: what it stood on is a live piece now
 *      pad     the flag, then the mark behind it
 *      free    the flag; then the starts and flags that are not needed any more, right neighbour first
 *      rewind  what lies above the new mark, word by word, the highest first
 *
 * Chunks are linked in the order in which they were made, with the large blocks of their region between them. */
#include "base/guard.h"
#include "block/chunk_bits.h"

/* ---------------------------------------------------------------- pieces */
/* ph_piece_state -- what begins at an offset of a chunk. */
enum ph_block_state ph_piece_state(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t offset)
{
    uint64_t granule = offset >> PH_GRANULE_SHIFT;
    if (granule >= fill_of(h, chunk) || !is_start(h, granule) || chunk->class_index == PH_IN_REGION_GONE)
        return PH_B_NONE;
    if (!is_dead(h, granule))
        return PH_B_LIVE;
    const struct ph_withheld_word *withheld = ph_withheld_find(h, granule >> 6);
    if (PH_LIKELY(withheld == NULL))
        return PH_B_NONE;
    uint64_t bit = bit_of(granule);
    return withheld->reserved & bit ? PH_B_RESERVED : withheld->freed & bit ? PH_B_QUARANTINED : PH_B_NONE;
}

uint64_t ph_piece_capacity(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t offset)
{
    uint64_t granule = offset >> PH_GRANULE_SHIFT;
    return (end_of(h, chunk, granule) - granule) << PH_GRANULE_SHIFT;
}

/* ph_piece_holding -- the offset of the piece, live or dead, that holds a byte of a chunk; (uint64_t)-1 above the mark. */
uint64_t ph_piece_holding(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t offset)
{
    uint64_t granule = offset >> PH_GRANULE_SHIFT;
    if (granule >= fill_of(h, chunk))
        return (uint64_t)-1;
    uint64_t at = last_set(h, first_of(h, chunk), granule + 1);
    return (is_start(h, at) ? at : at - 1) << PH_GRANULE_SHIFT;
}

/* ---------------------------------------------------------------- chunks */

/* ph_chunk_set -- the records of a chunk without a piece. */
void ph_chunk_set(struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    struct ph_unit *chunk = &h->units[unit];
    *chunk = (struct ph_unit){.state = PH_U_PACKED, .nunits = (uint32_t)nunits, .sibling = PH_NIL, .prev = PH_NIL};
    for (uint16_t i = 1; i < nunits; i++) {
        chunk[i].state = PH_U_PACKED_BODY;
        chunk[i].back = i;
    }
    h->packed.units += nunits;
}

/* ph_chunk_make -- units of nobody become an empty chunk: without a bit it is one that has gone. */
void ph_chunk_make(struct ph_heap *h, uint64_t unit, uint64_t nunits, struct ph_owner owner)
{
    PH_ASSERT(ph_units_are_untagged(h, unit, nunits));
    ph_clear_stray_bits(h, unit, nunits);
    ph_chunk_set(h, unit, nunits);
    ph_entry_publish(h, unit, ph_chunk_entry(nunits, owner.flags), owner.first);
    set_bit(h, unit * PH_UNIT_GRANULES);
}

/* The chunk has no piece any more: its units become units of nobody. */
static void chunk_clear(struct ph_heap *h, struct ph_unit *chunk)
{
    uint64_t unit = (uint64_t)(chunk - h->units);
    PH_ASSERT(chunk->u.packed.withheld == 0 && chunk->u.packed.fill == 0);
    clear_bits(h, first_of(h, chunk), 3); /* a flag may stand behind the mark of one that was read */
    ph_entry_withdraw(h, unit);
    for (uint32_t i = 0; i < chunk->nunits; i++)
        chunk[i].state = PH_U_OTHER;
    h->packed.units -= chunk->nunits;
}

/* ph_chunk_give_back -- a chunk in which nothing is withheld goes, with all pieces, and its units are free. Nothing lives in
 * one that was read and is of no circle yet. */
void ph_chunk_give_back(struct ph_heap *h, struct ph_unit *chunk)
{
    ph_chunk_rewind(h, chunk, 0);
    if (chunk->sibling != PH_NIL)
        ph_circle_remove(h, chunk);
    chunk_clear(h, chunk);
    ph_give_back(h, (uint64_t)(chunk - h->units), chunk->nunits);
}

/* Whether the bits and the entry of a chunk may be cleared. */
static int may_go(struct ph_heap *h)
{
    return !h->readonly && !h->is_shown && ph_journal_reserve(h, PH_CHUNK_UNITS_MAX * PH_UNIT_WORDS + 3, 0) == 0;
}

int ph_chunk_let_go(struct ph_heap *h, struct ph_unit *chunk)
{
    if (!ph_chunk_is_idle(chunk))
        return 0;
    if (!may_go(h)) {
        h->idle_runs = 1;
        return -1;
    }
    ph_chunk_give_back(h, chunk);
    return 1;
}

void ph_chunk_cut(struct ph_heap *h, struct ph_unit *chunk)
{
    uint64_t have = chunk->nunits, keep = chunk->u.packed.fill / PH_UNIT_GRANULES + 1, unit = (uint64_t)(chunk - h->units) + keep;
    if (keep == have)
        return;
    chunk->nunits = (uint32_t)keep;
    for (uint64_t i = keep; i < have; i++)
        chunk[i].state = PH_U_OTHER;
    h->packed.units -= have - keep;
    ph_entry_publish(h, unit - keep, ph_chunk_entry(keep, PH_CHUNK_RING), 0);
    ph_pool_give(h, unit, have - keep);
}

static uint64_t aligned(uint64_t granule, uint64_t align)
{
    uint64_t to = (granule + align - 1) & ~(align - 1);
    return to == granule + 1 ? to + align : to; /* a piece in between has two granules */
}

/* The flag is first, or the piece would live in between [R32]. */
void ph_chunk_pad(struct ph_heap *h, struct ph_unit *chunk, uint64_t mark)
{
    uint64_t start = fill_of(h, chunk);
    set_bit(h, PH_KEPT(R32) ? start + 1 : mark);
    set_bit(h, PH_KEPT(R32) ? mark : start + 1);
    chunk->u.packed.dead = (uint16_t)(chunk->u.packed.dead + (mark - start));
    chunk->u.packed.fill = (uint16_t)(mark - first_of(h, chunk));
}

/* The mark comes to where a piece of so many granules may begin, at a multiple of `align` granules, with room for it. Where it
 * will be behind that, or PH_H_REFILL. */
static int64_t make_room(struct ph_heap *h, struct ph_unit *chunk, uint64_t granules, uint64_t align)
{
    uint64_t fill = fill_of(h, chunk), start = aligned(fill, align), mark = start + granules;
    mark += (mark & 63) == 63 && PH_KEPT(R31); /* [R31] */
    if (mark >= first_of(h, chunk) + (uint64_t)chunk->nunits * PH_UNIT_GRANULES)
        return PH_H_REFILL;
    PH_ASSERT(!ph_is_tagged(&h->tags, fill << PH_GRANULE_SHIFT, ((uint64_t)mark - fill) << PH_GRANULE_SHIFT));
    if (start != fill)
        ph_chunk_pad(h, chunk, start);
    return (int64_t)mark;
}

/* ph_chunk_bump -- a live piece of so many granules at the mark, at a multiple of `align` granules; PH_H_REFILL. */
int64_t ph_chunk_bump(struct ph_heap *h, struct ph_unit *chunk, uint64_t granules, uint64_t align)
{
    int64_t mark = make_room(h, chunk, granules, align);
    if (mark < 0)
        return mark;
    uint64_t start = fill_of(h, chunk);
    set_bit(h, (uint64_t)mark);
    ph_count_bumped(h, chunk, (uint64_t)mark - first_of(h, chunk), (uint64_t)mark - start);
    return (int64_t)(start << PH_GRANULE_SHIFT);
}

int64_t ph_chunk_reserve(struct ph_heap *h, struct ph_unit *chunk, uint64_t granules, uint64_t align)
{
    int64_t mark = make_room(h, chunk, granules, align);
    if (mark < 0)
        return mark;
    uint64_t start = fill_of(h, chunk), capacity = ((uint64_t)mark - start) << PH_GRANULE_SHIFT;
    ph_chunk_pad(h, chunk, (uint64_t)mark);
    chunk->u.packed.withheld++;
    ph_withheld_flip_reserved(h, ph_withheld_make(h, start >> 6), bit_of(start), capacity);
    return (int64_t)(start << PH_GRANULE_SHIFT);
}

/* The dead piece at `start` reaches the mark: the mark moves down to it, or to the floor of the chunk inside of it. */
static void lower_mark(struct ph_heap *h, struct ph_unit *chunk, uint64_t start)
{
    uint64_t mark = fill_of(h, chunk), floor = first_of(h, chunk) + chunk->back, to = start < floor ? floor : start;
    if (to >= mark)
        return;
    clear_bits(h, mark, bit_of(mark));
    if (to == start)
        clear_bits(h, start, bit_of(start + 1));
    else
        set_bit(h, to);
    chunk->u.packed.dead = (uint16_t)(chunk->u.packed.dead - (mark - to));
    chunk->u.packed.fill = (uint16_t)(to - first_of(h, chunk));
}

/* A dead piece comes together with dead neighbours, and with what lies above the mark. */
static void merge(struct ph_heap *h, struct ph_unit *chunk, uint64_t start)
{
    uint64_t end = end_of(h, chunk, start), mark = fill_of(h, chunk);
    if (end < mark && ph_piece_state(h, chunk, end << PH_GRANULE_SHIFT) == PH_B_NONE) {
        clear_bits(h, end, bit_of(end) | bit_of(end + 1));
        end = end_of(h, chunk, start);
    }
    uint64_t below = start == first_of(h, chunk) ? start : last_set(h, first_of(h, chunk), start);
    if (below != start && !is_start(h, below) && ph_piece_state(h, chunk, (below - 1) << PH_GRANULE_SHIFT) == PH_B_NONE) {
        clear_bits(h, start, bit_of(start) | bit_of(start + 1));
        start = below - 1;
    }
    if (end == mark)
        lower_mark(h, chunk, start);
}

/* A piece that is dead may be used again: in a ring, and in a power heap, only once the whole chunk has gone. */
static void become_free(struct ph_heap *h, struct ph_unit *chunk, uint64_t start, int goes_now)
{
    if (PH_UNLIKELY(h->strategy == PH_STRATEGY_PLACED))
        ph_note_change(h, start, end_of(h, chunk, start), 1);
    if (PH_LIKELY(h->strategy != PH_STRATEGY_RING && !h->withholds))
        merge(h, chunk, start);
    if (PH_UNLIKELY(chunk->class_index == PH_IN_GUARD && h->guard != NULL)) {
        if (chunk->u.packed.live == 0 && chunk->u.packed.withheld == 0)
            h->guard->freed(h, chunk);
        return;
    }
    if (goes_now)
        ph_chunk_let_go(h, chunk);
    else
        h->idle_runs |= ph_chunk_is_idle(chunk);
}

static void count_gone(struct ph_heap *h, struct ph_unit *chunk, uint64_t capacity)
{
    chunk->u.packed.live--;
    chunk->u.packed.dead = (uint16_t)(chunk->u.packed.dead + (capacity >> PH_GRANULE_SHIFT));
    h->packed.blocks--;
    h->packed.bytes -= capacity;
}

/* ph_piece_end -- a live piece is dead. */
void ph_piece_end(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    uint64_t capacity = ph_block_capacity(block);
    ph_piece_kill(block);
    count_gone(h, block->record, capacity);
    PH_TELL(h, ph_tell_freed, block->offset, capacity);
}

/* ph_piece_free -- the same, and its bytes may be used again. */
void ph_piece_free(const struct ph_block *block)
{
    ph_piece_end(block);
    become_free(block->arena, block->record, block->offset >> PH_GRANULE_SHIFT, 1);
}

/* Reserved -> live: the caller stores that it is not dead. */
void ph_piece_publish(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    struct ph_unit *chunk = block->record;
    uint64_t granule = block->offset >> PH_GRANULE_SHIFT, capacity = ph_block_capacity(block);
    struct ph_withheld_word *withheld = ph_withheld_find(h, granule >> 6);
    PH_ASSERT(withheld != NULL && (withheld->reserved & bit_of(granule)) != 0);
    ph_withheld_flip_reserved(h, withheld, bit_of(granule), capacity);
    ph_withheld_drop_if_none(h, withheld);
    chunk->u.packed.withheld--;
    chunk->u.packed.live++;
    chunk->u.packed.dead = (uint16_t)(chunk->u.packed.dead - (capacity >> PH_GRANULE_SHIFT));
    h->packed.blocks++;
    h->packed.bytes += capacity;
}

/* ph_piece_quarantine -- a live piece, for which there is room in the table of withheld blocks, or a reserved one ends to be;
 * ph_piece_kill stores that it is dead. ph_piece_release -- its bytes may be used again. */
void ph_piece_quarantine(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    uint64_t granule = block->offset >> PH_GRANULE_SHIFT, capacity = ph_block_capacity(block);
    struct ph_withheld_word *withheld = ph_withheld_make(h, granule >> 6);
    if (withheld->reserved & bit_of(granule)) {
        ph_withheld_flip_reserved(h, withheld, bit_of(granule), capacity);
    } else {
        count_gone(h, block->record, capacity);
        block->record->u.packed.withheld++;
    }
    ph_withheld_flip_freed(h, withheld, bit_of(granule), capacity);
}

void ph_piece_kill(const struct ph_block *block)
{
    set_bit(block->arena, (block->offset >> PH_GRANULE_SHIFT) + 1);
}

/* The record that freed it may be on its way home: a process heap that is killed now stores the word of the flag once more,
 * which is not to be one of nobody. So there the chunk goes later. */
void ph_piece_release(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    uint64_t granule = block->offset >> PH_GRANULE_SHIFT;
    struct ph_withheld_word *withheld = ph_withheld_find(h, granule >> 6);
    PH_ASSERT(withheld != NULL && (withheld->freed & bit_of(granule)) != 0);
    ph_withheld_flip_freed(h, withheld, bit_of(granule), ph_block_capacity(block));
    ph_withheld_drop_if_none(h, withheld);
    block->record->u.packed.withheld--;
    become_free(h, block->record, granule, !h->journal->repeats);
}

/* What a chunk has of live pieces, and of granules of others, from a granule on. */
static struct ph_chunk_count count_from(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t start)
{
    struct ph_chunk_count count = {0};
    uint64_t mark = fill_of(h, chunk);
    if (start == first_of(h, chunk))
        return (struct ph_chunk_count){
            .live = chunk->u.packed.live, .dead = chunk->u.packed.dead,
            .live_bytes = (uint64_t)(chunk->u.packed.fill - chunk->u.packed.dead) << PH_GRANULE_SHIFT,
        };
    if (!is_start(h, start)) { /* the rest of a dead piece */
        uint64_t end = next_set(h, start, mark);
        count.dead = end - start;
        start = end;
    }
    for (uint64_t end; start < mark; start = end) {
        end = end_of(h, chunk, start);
        count.live += !is_dead(h, start);
        count.live_bytes += is_dead(h, start) ? 0 : (end - start) << PH_GRANULE_SHIFT;
        count.dead += is_dead(h, start) ? end - start : 0;
    }
    return count;
}

/* The live pieces of a chunk from a granule on go, one by one. */
static PH_SELDOM void tell_gone(struct ph_heap *h, const struct ph_unit *chunk, uint64_t start)
{
    for (uint64_t end; ph_piece_next(h, chunk, &start, &end); start = end)
        ph_tell_freed(h, start << PH_GRANULE_SHIFT, (end - start) << PH_GRANULE_SHIFT);
}

/* ph_chunk_rewind -- what lies at granule `fill` of the chunk and above is gone: nothing refers to it. A piece begins there, or
 * it lies inside of a dead one, which ends there from now on. */
void ph_chunk_rewind(struct ph_heap *h, struct ph_unit *chunk, uint64_t fill)
{
    uint64_t first = first_of(h, chunk), to = first + fill, mark = fill_of(h, chunk);
    if (to >= mark)
        return;
    struct ph_chunk_count gone = count_from(h, chunk, to);
    PH_TELL(h, tell_gone, chunk, to);
    for (uint64_t word = mark >> 6; word > to >> 6; word--)
        if (h->bits[word] != 0)
            ph_store(h, &h->bits[word], 0);
    uint64_t *word = word_of(h, to);
    ph_store(h, word, (*word & (bit_of(to) - 1)) | bit_of(to));
    chunk->u.packed.fill = (uint16_t)fill;
    chunk->u.packed.live = (uint16_t)(chunk->u.packed.live - gone.live);
    chunk->u.packed.dead = (uint16_t)(chunk->u.packed.dead - gone.dead);
    h->packed.blocks -= gone.live;
    h->packed.bytes -= gone.live_bytes;
}

/* ph_chunk_can_hold -- whether the mark of a region may have stood at a granule of a chunk: a piece begins there, or it lies in a
 * dead one, or at the mark. */
int ph_chunk_can_hold(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t fill)
{
    uint64_t at = first_of(h, chunk) + fill, mark = fill_of(h, chunk);
    if (at >= mark)
        return 1;
    uint64_t start = ph_piece_holding(h, chunk, at << PH_GRANULE_SHIFT) >> PH_GRANULE_SHIFT;
    return start == at || is_dead(h, start);
}

/* ph_piece_next -- the next live piece of a chunk from granule `*at` of the table on; 0 if there is none. */
int ph_piece_next(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t *at, uint64_t *end)
{
    uint64_t mark = chunk->class_index == PH_IN_REGION_GONE ? 0 : fill_of(h, chunk);
    for (uint64_t start = next_set(h, *at, mark); start < mark; start = *end) {
        *end = end_of(h, chunk, start);
        *at = start;
        if (!is_dead(h, start))
            return 1;
    }
    return 0;
}
