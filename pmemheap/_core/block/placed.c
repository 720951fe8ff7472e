/* block/placed.c -- arenas in which a `Space` of the user says where each piece lies, in steps of two granules.
 *
 *      live | dead       | live | live | mark             |     a chunk: pieces as in others
 *           |    put     |                     put        |     into a dead piece, or above the mark behind another dead one
 *                                                       ^       the mark stays in the chunk: no range of two chunks is one
 *
 * Which pieces are free is in the bits, and in the table of withheld blocks. A put looks there, whatever the `Space` said. All
 * pieces begin at even granules, so that [R31] holds by itself. Dead pieces come together as they are freed, and what they leave
 * above them lowers the mark. A chunk stays when it is empty, until units are taken back. In memory alone. */
#include "block/chunk_bits.h"

void ph_placed_begin(struct ph_heap *h)
{
    h->strategy = PH_STRATEGY_PLACED;
    h->small_max = 0; /* no request has a class */
}

/* The granule up to which a chunk can be filled: behind it is room for the mark. */
static uint64_t limit_of(const struct ph_heap *h, const struct ph_unit *chunk)
{
    return first_of(h, chunk) + (uint64_t)chunk->nunits * PH_UNIT_GRANULES - PH_PIECE_LEAST;
}

int64_t ph_placed_add(struct ph_heap *h, uint64_t nunits)
{
    int64_t unit = ph_units_take(h, nunits);
    if (unit < 0)
        return unit;
    struct ph_unit *chunk = &h->units[unit];
    ph_chunk_make(h, (uint64_t)unit, nunits, (struct ph_owner){0});
    chunk->class_index = PH_IN_REGION_KEPT;
    ph_note_change(h, first_of(h, chunk), limit_of(h, chunk), 1);
    return unit;
}

static int is_free(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t start)
{
    return ph_piece_state(h, chunk, start << PH_GRANULE_SHIFT) == PH_B_NONE;
}

/* The chunk in which all granules from `start` to `end` are free; NULL if there is none. */
static struct ph_unit *chunk_with_room(const struct ph_heap *h, uint64_t start, uint64_t end)
{
    uint64_t unit = start / PH_UNIT_GRANULES;
    if (unit - h->first_unit >= h->end_unit - h->first_unit)
        return NULL;
    struct ph_unit *chunk = &h->units[unit];
    if (chunk->state == PH_U_PACKED_BODY)
        chunk -= chunk->back;
    if (chunk->state != PH_U_PACKED || end > limit_of(h, chunk))
        return NULL;
    if (start >= fill_of(h, chunk))
        return chunk;
    uint64_t piece = ph_piece_holding(h, chunk, start << PH_GRANULE_SHIFT) >> PH_GRANULE_SHIFT;
    return is_free(h, chunk, piece) && end <= end_of(h, chunk, piece) ? chunk : NULL;
}

static void begin_dead(struct ph_heap *h, uint64_t start)
{
    set_bits(h, start, bit_of(start) | bit_of(start + 1));
}

/* A dead piece of just the granules from `start` to `end`, out of free ones; what is left of them is dead before [R32]. */
static void cut_out(struct ph_heap *h, struct ph_unit *chunk, uint64_t start, uint64_t end)
{
    uint64_t mark = fill_of(h, chunk);
    if (start < mark) {
        if (end < next_set(h, start + 2, mark))
            begin_dead(h, end);
        if (!is_set(h, start))
            begin_dead(h, start);
        return;
    }
    if (start > mark)
        ph_chunk_pad(h, chunk, start);
    ph_chunk_pad(h, chunk, end);
}

static void become_live(struct ph_heap *h, struct ph_unit *chunk, uint64_t start, uint64_t granules)
{
    clear_bits(h, start, bit_of(start + 1));
    chunk->u.packed.live++;
    chunk->u.packed.dead = (uint16_t)(chunk->u.packed.dead - granules);
    h->packed.blocks++;
    h->packed.bytes += granules << PH_GRANULE_SHIFT;
}

int64_t ph_placed_put(struct ph_heap *h, uint64_t start, uint64_t granules, uint64_t size, int reserved)
{
    struct ph_unit *chunk = chunk_with_room(h, start, start + granules);
    uint64_t offset = start << PH_GRANULE_SHIFT, capacity = granules << PH_GRANULE_SHIFT;
    if (chunk == NULL)
        return PH_H_BAD_OFFSET;
    if (reserved && ph_withheld_reserve(h, 1) < 0)
        return PH_H_NOMEM;
    cut_out(h, chunk, start, start + granules);
    if (reserved) {
        chunk->u.packed.withheld++;
        ph_withheld_flip_reserved(h, ph_withheld_make(h, start >> 6), bit_of(start), capacity);
    } else {
        become_live(h, chunk, start, granules);
        PH_TELL(h, ph_tell_made, offset, size, capacity);
    }
    return (int64_t)offset;
}

void ph_placed_release(struct ph_heap *h)
{
    if (h->strategy != PH_STRATEGY_PLACED)
        return;
    for (uint64_t head = h->first_unit; head < h->end_unit; head++) {
        struct ph_unit *chunk = &h->units[head];
        if (chunk->state != PH_U_PACKED || chunk->u.packed.live != 0 || chunk->u.packed.withheld != 0)
            continue;
        ph_note_change(h, first_of(h, chunk), limit_of(h, chunk), 0);
        ph_chunk_give_back(h, chunk);
    }
}

static int next_chunk(const struct ph_heap *h, struct ph_free_walk *walk)
{
    struct ph_piece piece;
    if (walk->unit < h->first_unit)
        walk->unit = h->first_unit;
    while (ph_walk(h, &walk->unit, &piece))
        if (piece.state == PH_U_PACKED) {
            walk->chunk = &h->units[piece.start];
            walk->at = piece.start * PH_UNIT_GRANULES;
            return 1;
        }
    return 0;
}

int ph_placed_next(const struct ph_heap *h, struct ph_free_walk *walk, uint64_t *start, uint64_t *end)
{
    while (walk->chunk != NULL || next_chunk(h, walk)) {
        const struct ph_unit *chunk = walk->chunk;
        uint64_t mark = fill_of(h, chunk), limit = limit_of(h, chunk);
        while (walk->at < mark) {
            *start = walk->at;
            *end = walk->at = end_of(h, chunk, *start);
            if (is_free(h, chunk, *start))
                return 1;
        }
        walk->chunk = NULL;
        *start = mark;
        *end = limit;
        if (mark < limit)
            return 1;
    }
    return 0;
}
