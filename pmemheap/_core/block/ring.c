/* block/ring.c -- rings: arenas whose blocks lie in the order in which they came.
 *
 *     dead       live       live            live     live
 *     chunk <--> chunk <--> large block <--> chunk (in service) | wilderness        in a circle, by `sibling` and `prev`
 *     head                                            end
 *
 * A block is a piece at the mark of the chunk in service, or whole units, and comes from the end of the arena: above all that
 * is there. A place in a chunk is not used again: the chunk goes with its last piece, and the head of the arena is given
 * back. A chunk that is full keeps the units that it has filled, so that no more than a part of one is lost. */
#include "block/block.h"

/* ph_ring_begin -- an arena without a block becomes a ring. */
void ph_ring_begin(struct ph_heap *h)
{
    h->strategy = PH_STRATEGY_RING;
    h->small_max = 0; /* no request has a class */
    h->ring = (struct ph_ring){.last = PH_NIL, .current = PH_NIL, .units_next = 1};
}

static void append(struct ph_heap *h, uint64_t unit)
{
    ph_circle_append(h, h->ring.last, unit);
    h->ring.last = (uint32_t)unit;
}

/* The chunk in service is so no more: it keeps what it has filled, and goes once it is empty. */
static void close_current(struct ph_heap *h)
{
    if (h->ring.current == PH_NIL)
        return;
    struct ph_unit *chunk = ph_unit_at(h, h->ring.current);
    h->ring.current = PH_NIL;
    chunk->class_index = 0;
    if (ph_chunk_let_go(h, chunk) == 0)
        ph_chunk_cut(h, chunk);
}

/* The oldest chunks that are empty, and could not go when they became so, go now. */
static void let_idle_go(struct ph_heap *h)
{
    while (h->idle_runs && h->ring.last != PH_NIL) {
        struct ph_unit *oldest = ph_unit_at(h, ph_unit_at(h, h->ring.last)->sibling);
        if (oldest->state != PH_U_PACKED || ph_chunk_let_go(h, oldest) <= 0)
            return;
    }
}

/* Another chunk comes into service, with room for so many granules. */
static int open_chunk(struct ph_heap *h, uint64_t granules, uint64_t align)
{
    close_current(h);
    let_idle_go(h);
    if (ph_journal_reserve(h, PH_STORES_MOST, 0) < 0)
        return PH_H_NOMEM;
    uint64_t least = ph_chunk_units_for(granules, align), nunits = h->ring.units_next > least ? h->ring.units_next : least;
    int64_t unit = ph_wilderness_take(h, nunits);
    if (unit < 0)
        return (int)unit;
    ph_chunk_make(h, (uint64_t)unit, nunits, (struct ph_owner){PH_CHUNK_RING, 0});
    h->units[unit].class_index = PH_IN_REGION_KEPT;
    append(h, (uint64_t)unit);
    h->ring.current = (uint32_t)unit;
    h->ring.units_next = ph_chunk_units_after(h->ring.units_next);
    return 0;
}

/* How a piece is made in the chunk in service: live, or reserved. */
typedef int64_t make_piece(struct ph_heap *h, struct ph_unit *chunk, uint64_t granules, uint64_t align);

static int64_t place_piece(struct ph_heap *h, make_piece *make, uint64_t granules, uint64_t align)
{
    int64_t offset = PH_H_REFILL;
    if (PH_LIKELY(h->ring.current != PH_NIL))
        offset = make(h, ph_unit_at(h, h->ring.current), granules, align);
    if (PH_LIKELY(offset >= 0))
        return offset;
    int refused = open_chunk(h, granules, align);
    return refused < 0 ? refused : make(h, ph_unit_at(h, h->ring.current), granules, align);
}

static int64_t place_units(struct ph_heap *h, uint64_t size, uint64_t align)
{
    if (ph_units_for(size) > UINT32_MAX)
        return PH_H_REFILL;
    close_current(h);
    return ph_wilderness_take_at(h, ph_units_for(size), align <= PH_UNIT_BYTES ? 1 : align >> PH_UNIT_SHIFT);
}

static int is_whole(uint64_t size, uint64_t align)
{
    return size > PH_RING_WHOLE || align > PH_UNIT_BYTES;
}

/* A large block belongs to the circle. */
static int64_t enter_large(struct ph_heap *h, uint64_t unit)
{
    append(h, unit);
    h->units[unit].class_index = PH_IN_REGION_LARGE;
    return (int64_t)(unit << PH_UNIT_SHIFT);
}

/* ph_ring_malloc -- a block at the end; PH_H_REFILL: there is no room in one piece with the end of the arena. */
int64_t ph_ring_malloc(struct ph_heap *h, uint64_t size, uint64_t align)
{
    if (PH_UNLIKELY(is_whole(size, align))) {
        int64_t unit = place_units(h, size, align);
        if (unit < 0)
            return unit;
        ph_large_make(h, (uint64_t)unit, ph_units_for(size), size);
        return enter_large(h, (uint64_t)unit);
    }
    uint64_t before = h->packed.bytes;
    int64_t offset = place_piece(h, ph_chunk_bump, ph_piece_granules(size), ph_piece_align(align));
    if (PH_LIKELY(offset >= 0))
        PH_TELL(h, ph_tell_made, (uint64_t)offset, size, h->packed.bytes - before);
    return offset;
}

/* ph_ring_reserve -- the same for a block of an open transaction, for which there is room in the table of withheld ones. */
int64_t ph_ring_reserve(struct ph_heap *h, uint64_t size, uint64_t align)
{
    if (is_whole(size, align)) {
        int64_t unit = place_units(h, size, align);
        if (unit < 0)
            return unit;
        ph_reserve_large(h, (uint64_t)unit, ph_units_for(size), size);
        return enter_large(h, (uint64_t)unit);
    }
    return place_piece(h, ph_chunk_reserve, ph_piece_granules(size), ph_piece_align(align));
}

/* The offset of the first live block in one of the circle; -1: there is none. A chunk remembers how far it has nothing: dead
 * pieces are passed once, but those that were reserved may become live. */
static int64_t first_in(const struct ph_heap *h, struct ph_unit *one)
{
    uint64_t unit = (uint64_t)(one - h->units), first = unit * PH_UNIT_GRANULES, at, end;
    if (one->state == PH_U_LARGE)
        return (int64_t)(unit << PH_UNIT_SHIFT);
    if (one->state != PH_U_PACKED || one->u.packed.live == 0)
        return -1;
    at = first + one->child;
    if (!ph_piece_next(h, one, &at, &end))
        return -1;
    if (one->u.packed.withheld == 0)
        one->child = (uint32_t)(at - first);
    return (int64_t)(at << PH_GRANULE_SHIFT);
}

/* ph_ring_oldest -- the offset of the oldest live block; -1: there is none. */
int64_t ph_ring_oldest(struct ph_heap *h)
{
    if (h->strategy != PH_STRATEGY_RING || h->ring.last == PH_NIL)
        return -1;
    for (uint32_t node = ph_unit_at(h, h->ring.last)->sibling;; node = ph_unit_at(h, node)->sibling) {
        int64_t offset = first_in(h, ph_unit_at(h, node));
        if (offset >= 0 || node == h->ring.last)
            return offset;
    }
}

/* ph_ring_end -- the byte behind the newest chunk or block; 0: there is none. */
uint64_t ph_ring_end(const struct ph_heap *h)
{
    if (h->strategy != PH_STRATEGY_RING || h->ring.last == PH_NIL)
        return 0;
    uint64_t unit = ph_unit_index(h, h->ring.last);
    const struct ph_unit *one = &h->units[unit];
    if (one->state != PH_U_PACKED)
        return (unit + one->nunits) << PH_UNIT_SHIFT;
    return (unit << PH_UNIT_SHIFT) + ((uint64_t)one->u.packed.fill << PH_GRANULE_SHIFT);
}

/* ph_ring_gather -- what was read of a ring that was opened, in the order in which it lies, which is the one in which it came. The
 * newest chunk goes on to serve. */
void ph_ring_gather(struct ph_heap *h)
{
    struct ph_piece piece;
    if (h->strategy != PH_STRATEGY_RING)
        return;
    h->ring.last = h->ring.current = PH_NIL;
    for (uint64_t cursor = h->first_unit; ph_walk(h, &cursor, &piece);) {
        if (piece.state == PH_U_LARGE)
            enter_large(h, piece.start);
        else if (piece.state == PH_U_PACKED)
            append(h, piece.start);
    }
    struct ph_unit *newest = h->ring.last == PH_NIL ? NULL : ph_unit_at(h, h->ring.last);
    if (newest == NULL || newest->state != PH_U_PACKED || !ph_chunk_is_settled(h, newest))
        return;
    newest->class_index = PH_IN_REGION_KEPT;
    h->ring.current = h->ring.last;
}
