/* arena/region.c -- regions: a bump pointer over chunks that double, and the large blocks between them.
 *
 *     first chunk ──► chunk ──► large ──► chunk (current) ──► first      in a circle, by `sibling`; back by `prev`
 *
 * The first chunk stays until the region is dropped, and so does the current one; another one goes with its last piece, unless
 * it was marked. */
#include "arena/region.h"

enum { PH_REGION_UNITS_MOST = PH_RUN_UNITS_MAX };

void ph_region_init(struct ph_region *r, struct ph_heap *arena)
{
    *r = (struct ph_region){.arena = arena, .first = PH_NIL, .current = PH_NIL, .units_next = 1};
}

static struct ph_unit *unit_at(const struct ph_region *r, uint32_t unit)
{
    return ph_unit_at(r->arena, unit);
}

/* Append what was made at a unit to the circle. */
static void link_last(struct ph_region *r, uint64_t unit)
{
    r->arena->units[unit].child = ++r->made;
    ph_circle_append(r->arena, r->first == PH_NIL ? PH_NIL : unit_at(r, r->first)->prev, unit);
    if (r->first == PH_NIL)
        r->first = (uint32_t)unit;
}

static void keep(struct ph_region *r, uint32_t unit)
{
    uint32_t old = r->current;
    r->current = unit;
    if (unit_at(r, unit)->class_index == 0)
        unit_at(r, unit)->class_index = PH_IN_REGION_KEPT;
    if (old == PH_NIL || old == unit || old == r->first || unit_at(r, old)->class_index == PH_IN_REGION_MARKED)
        return;
    struct ph_unit *chunk = unit_at(r, old);
    chunk->class_index = 0;
    if (chunk->u.packed.live == 0 && chunk->u.packed.withheld == 0)
        ph_chunk_give_back(r->arena, chunk);
}

/* Another chunk, in which there is room for so many granules; PH_H_REFILL, and how many units are wanted. */
static int add_chunk(struct ph_region *r, uint64_t granules, uint64_t align, uint64_t *nunits)
{
    uint64_t least = ph_chunk_units_for(granules, align);
    *nunits = r->units_next > least ? r->units_next : least;
    int64_t unit = ph_units_take(r->arena, *nunits);
    if (unit < 0)
        return PH_H_REFILL;
    ph_chunk_make(r->arena, (uint64_t)unit, *nunits);
    link_last(r, (uint64_t)unit);
    keep(r, (uint32_t)unit);
    r->units_next = r->units_next * 2 < PH_REGION_UNITS_MOST ? r->units_next * 2 : PH_REGION_UNITS_MOST;
    return 0;
}

static int64_t malloc_large(struct ph_region *r, uint64_t size, uint64_t align, uint64_t *nunits)
{
    if (r->first == PH_NIL && add_chunk(r, PH_PIECE_LEAST, 1, nunits) < 0)
        return PH_H_REFILL;
    *nunits = ph_units_for(size);
    int64_t unit = ph_large_take(r->arena, size, align);
    if (unit < 0)
        return unit;
    ph_large_make(r->arena, (uint64_t)unit, *nunits, size);
    ph_region_take(r, (uint64_t)unit << PH_UNIT_SHIFT);
    return unit << PH_UNIT_SHIFT;
}

void ph_region_take(struct ph_region *r, uint64_t offset)
{
    uint64_t unit = offset >> PH_UNIT_SHIFT;
    link_last(r, unit);
    r->arena->units[unit].class_index = PH_IN_REGION_LARGE;
}

/* A piece in the chunk in service, whatever the alignment. */
static int64_t bump(struct ph_region *r, uint64_t granules, uint64_t align, uint64_t size)
{
    if (PH_UNLIKELY(r->current == PH_NIL))
        return PH_H_REFILL;
    struct ph_heap *h = r->arena;
    uint64_t before = h->packed.bytes;
    int64_t offset = ph_chunk_bump(h, unit_at(r, r->current), granules, align);
    if (PH_LIKELY(offset >= 0))
        PH_TELL(h, ph_tell_made, (uint64_t)offset, size, h->packed.bytes - before);
    return offset;
}

int64_t ph_region_malloc_any(struct ph_region *r, uint64_t size, uint64_t align, uint64_t *nunits)
{
    if (PH_UNLIKELY(size > PH_REGION_WHOLE || align > PH_UNIT_BYTES))
        return malloc_large(r, size, align, nunits);
    uint64_t granules = ph_piece_granules(size);
    align = ph_piece_align(align);
    int64_t offset = bump(r, granules, align, size);
    if (PH_LIKELY(offset >= 0))
        return offset;
    if (add_chunk(r, granules, align, nunits) < 0)
        return PH_H_REFILL;
    return bump(r, granules, align, size);
}

/* ---------------------------------------------------------------- going back */

struct ph_region_mark ph_region_mark(const struct ph_region *r)
{
    if (r->current == PH_NIL)
        return (struct ph_region_mark){r->made, 0, 0};
    struct ph_unit *chunk = unit_at(r, r->current);
    ph_chunk_mark(chunk, chunk->u.packed.fill);
    return (struct ph_region_mark){r->made, chunk->child, chunk->u.packed.fill};
}

/* Why a block of a chunk from a granule on, or a large one, may not go; 0. */
static int refusal_from(const struct ph_region *r, const struct ph_unit *one, uint64_t fill)
{
    struct ph_heap *h = r->arena;
    uint64_t unit = (uint64_t)(one - h->units), at = unit * PH_UNIT_GRANULES + fill, end;
    if (!ph_has_refs(one))
        return 0;
    if (one->state == PH_U_LARGE)
        return ph_refs_refusal(&(struct ph_block){h, (struct ph_unit *)one, unit << PH_UNIT_SHIFT, PH_B_LIVE});
    if (one->u.packed.withheld != 0)
        return PH_H_PINNED;
    for (; ph_piece_next(h, one, &at, &end); at = end) {
        int refused = ph_refs_refusal(&(struct ph_block){h, (struct ph_unit *)one, at << PH_GRANULE_SHIFT, PH_B_LIVE});
        if (refused < 0)
            return refused;
    }
    return 0;
}

/* Handles to what goes are stale. */
static void make_stale_from(const struct ph_region *r, struct ph_unit *one, uint64_t fill)
{
    struct ph_heap *h = r->arena;
    uint64_t unit = (uint64_t)(one - h->units), at = unit * PH_UNIT_GRANULES + fill, end;
    if (!ph_has_refs(one))
        return;
    if (one->state == PH_U_LARGE)
        ph_refs_make_stale(&(struct ph_block){h, one, unit << PH_UNIT_SHIFT, PH_B_LIVE});
    else
        for (; ph_piece_next(h, one, &at, &end); at = end)
            ph_refs_make_stale(&(struct ph_block){h, one, at << PH_GRANULE_SHIFT, PH_B_LIVE});
}

static struct ph_unit *last_of(const struct ph_region *r)
{
    return r->first == PH_NIL ? NULL : unit_at(r, unit_at(r, r->first)->prev);
}

/* The chunk in service at a mark, if it is there still. */
static struct ph_unit *chunk_of(const struct ph_region *r, struct ph_region_mark mark)
{
    struct ph_unit *one = last_of(r);
    while (one != NULL && one->child > mark.chunk && one != unit_at(r, r->first))
        one = unit_at(r, one->prev);
    return one != NULL && one->child == mark.chunk && one->state == PH_U_PACKED ? one : NULL;
}

/* Why the region can not be rewound; 0. */
static int refusal_of(const struct ph_region *r, struct ph_region_mark mark)
{
    struct ph_unit *chunk = chunk_of(r, mark), *one = last_of(r);
    int refused = 0;
    if (mark.made > r->made || (chunk == NULL ? mark.chunk != 0 : !ph_chunk_can_hold(r->arena, chunk, mark.fill)))
        return PH_H_BAD_OFFSET;
    for (; one != NULL && one->child > mark.made && refused == 0; one = unit_at(r, one->prev)) {
        refused = refusal_from(r, one, 0);
        if (one == unit_at(r, r->first))
            break;
    }
    return refused == 0 && chunk != NULL ? refusal_from(r, chunk, mark.fill) : refused;
}

/* The last of the circle goes. */
static void drop_last(struct ph_region *r, struct ph_unit *one)
{
    struct ph_heap *h = r->arena;
    uint32_t unit = (uint32_t)(one - h->units);
    make_stale_from(r, one, 0);
    if (one->state == PH_U_LARGE) {
        ph_large_free(h, (uint64_t)(one - h->units));
        return;
    }
    if (r->current == unit)
        r->current = PH_NIL;
    if (r->first == unit)
        r->first = PH_NIL;
    ph_chunk_give_back(h, one);
}

int ph_region_rewind(struct ph_region *r, struct ph_region_mark mark)
{
    int refused = refusal_of(r, mark);
    if (refused < 0)
        return refused;
    struct ph_unit *one, *chunk = chunk_of(r, mark);
    while ((one = last_of(r)) != NULL && one->child > mark.made)
        drop_last(r, one);
    if (chunk == NULL)
        return 0;
    make_stale_from(r, chunk, mark.fill);
    ph_chunk_rewind(r->arena, chunk, mark.fill);
    ph_chunk_mark(chunk, mark.fill);
    keep(r, (uint32_t)(chunk - r->arena->units));
    return 0;
}

int ph_region_drop(struct ph_region *r)
{
    int refused = ph_region_rewind(r, (struct ph_region_mark){0, 0, 0});
    if (refused == 0)
        ph_region_init(r, r->arena);
    return refused;
}
