/* arena/region.c -- regions: a bump pointer over chunks that double, and the large blocks between them.
 *
 *     first chunk ──► chunk ──► large ──► chunk (current) ──► first      in a circle, by `sibling`; back by `prev`
 *
 * The first chunk stays until the region is dropped, and so does the current one; another one goes with its last piece, unless
 * it was marked. */
#include "arena/region.h"

_Static_assert((int)PH_REGION_MOST == (int)PH_CHUNK_UNITS_MAX * PH_UNIT_BYTES - 4 * PH_GRANULE, "the mark of a chunk behind it [R31]");

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
    unit_at(r, old)->class_index = 0;
    ph_chunk_let_go(r->arena, unit_at(r, old));
}

/* Whose the chunk at a unit is, which is about to be one of the region. */
static struct ph_owner owner_of_next(const struct ph_region *r, uint64_t unit)
{
    if (r->first == PH_NIL)
        return (struct ph_owner){PH_CHUNK_FIRST, unit};
    return (struct ph_owner){0, ph_unit_index(r->arena, r->first)};
}

/* Another chunk, in which there is room for so many granules; PH_H_REFILL, and how many units are wanted. */
static int add_chunk(struct ph_region *r, uint64_t granules, uint64_t align, uint64_t *nunits)
{
    uint64_t least = ph_chunk_units_for(granules, align);
    *nunits = r->units_next > least ? r->units_next : least;
    int64_t unit = ph_units_take(r->arena, *nunits);
    if (unit < 0)
        return PH_H_REFILL;
    ph_chunk_make(r->arena, (uint64_t)unit, *nunits, owner_of_next(r, (uint64_t)unit));
    link_last(r, (uint64_t)unit);
    keep(r, (uint32_t)unit);
    r->units_next = ph_chunk_units_after(r->units_next);
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

/* Whether there can be a chunk for a block. */
static int fits_chunk(uint64_t size, uint64_t align)
{
    return size <= PH_REGION_MOST && align <= PH_UNIT_BYTES
        && ph_chunk_units_for(ph_piece_granules(size), ph_piece_align(align)) <= PH_CHUNK_UNITS_MAX;
}

int64_t ph_region_malloc_any(struct ph_region *r, uint64_t size, uint64_t align, uint64_t *nunits)
{
    if (PH_UNLIKELY(!r->is_kept && (size > PH_REGION_WHOLE || align > PH_UNIT_BYTES)))
        return malloc_large(r, size, align, nunits);
    if (PH_UNLIKELY(r->is_kept && !fits_chunk(size, align)))
        return PH_H_LARGE;
    if (ph_journal_reserve(r->arena, PH_STORES_MOST, 0) < 0)
        return PH_H_NOMEM;
    uint64_t granules = ph_piece_granules(size);
    align = ph_piece_align(align);
    int64_t offset = bump(r, granules, align, size);
    if (PH_LIKELY(offset >= 0))
        return offset;
    if (add_chunk(r, granules, align, nunits) < 0)
        return PH_H_REFILL;
    return bump(r, granules, align, size);
}

/* ---------------------------------------------------------------- regions that are kept
 *
 * The first piece of the first chunk stands for the region: it lives as long as that, and no call frees it [R33]. So a region is
 * there with the mark behind that piece, and all of it is gone with its flag. */

int64_t ph_region_begin(struct ph_region *r, uint64_t *nunits)
{
    PH_ASSERT(r->first == PH_NIL);
    r->is_kept = 1;
    int64_t offset = ph_region_malloc_any(r, PH_PIECE_LEAST * PH_GRANULE, PH_GRANULE, nunits);
    if (offset >= 0)
        unit_at(r, r->first)->has_refs |= PH_HEADS_REGION;
    return offset;
}

/* The chunks of a region of a heap that was opened, which are in no circle yet. */
static void gather(struct ph_region *r, uint64_t first)
{
    struct ph_heap *h = r->arena;
    link_last(r, first);
    for (uint64_t unit = h->first_unit; unit < h->end_unit; unit++) {
        const struct ph_unit *one = &h->units[unit];
        int is_in_none = one->state == PH_U_PACKED && one->sibling == PH_NIL && one->class_index == 0;
        if (unit != first && is_in_none && h->entries[unit].nbytes == first)
            link_last(r, unit);
    }
}

int ph_region_find(struct ph_region *r, uint64_t offset)
{
    struct ph_heap *h = r->arena;
    struct ph_block block = ph_live_at(h, offset);
    if (block.state != PH_B_LIVE || !ph_heads_region(&block))
        return PH_H_BAD_OFFSET;
    uint64_t first = ph_head_of(&block);
    r->is_kept = 1;
    if (block.record->sibling == PH_NIL)
        gather(r, first);
    r->first = (uint32_t)first;
    struct ph_unit *newest = unit_at(r, block.record->prev);
    r->made = newest->child;
    r->units_next = ph_chunk_units_after(newest->nunits);
    if (ph_chunk_is_settled(h, newest) && !h->is_shown) /* what was above its mark may be shown */
        keep(r, (uint32_t)(newest - h->units));
    return 0;
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
        return ph_refs_held(&(struct ph_block){h, (struct ph_unit *)one, unit << PH_UNIT_SHIFT, PH_B_LIVE});
    if (one->u.packed.withheld != 0 && !h->withholds)
        return PH_H_PINNED;
    for (; ph_piece_next(h, one, &at, &end); at = end) {
        int refused = ph_refs_held(&(struct ph_block){h, (struct ph_unit *)one, at << PH_GRANULE_SHIFT, PH_B_LIVE});
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

/* Live pieces of what goes. */
static uint64_t count_going(const struct ph_region *r, struct ph_region_mark mark)
{
    uint64_t count = 0;
    for (const struct ph_unit *one = last_of(r); one != NULL; one = unit_at(r, one->prev)) {
        count += one->u.packed.live;
        if (one->child <= mark.made || one == unit_at(r, r->first))
            break;
    }
    return count;
}

/* The live pieces of a chunk from a granule on wait for their record. */
static void retire_from(const struct ph_region *r, struct ph_unit *chunk, uint64_t fill)
{
    struct ph_heap *h = r->arena;
    uint64_t at = (uint64_t)(chunk - h->units) * PH_UNIT_GRANULES + fill, end;
    for (; ph_piece_next(h, chunk, &at, &end); at = end)
        ph_block_retire(&(struct ph_block){h, chunk, at << PH_GRANULE_SHIFT, PH_B_LIVE});
}

/* All of a chunk goes, as soon as nothing in it waits. */
static void retire_chunk(struct ph_region *r, struct ph_unit *chunk)
{
    retire_from(r, chunk, 0);
    chunk->class_index = 0;
    if (r->current == (uint32_t)(chunk - r->arena->units))
        r->current = PH_NIL;
    ph_chunk_let_go(r->arena, chunk);
}

/* The same as below in a heap in which what is freed waits for its record [R6]: no mark moves down, and chunks go with the last of
 * their pieces. */
static int retire_since(struct ph_region *r, struct ph_region_mark mark, struct ph_unit *chunk)
{
    if (ph_room_to_retire(r->arena, count_going(r, mark)) < 0)
        return PH_H_NOMEM;
    struct ph_unit *first = unit_at(r, r->first), *one = last_of(r);
    if (mark.made == 0) /* the piece that stands for it is the first to go [R33] */
        retire_from(r, first, 0);
    while (one != first && one->child > mark.made) {
        struct ph_unit *before = unit_at(r, one->prev);
        retire_chunk(r, one);
        one = before;
    }
    if (mark.made == 0) {
        first->has_refs &= ~PH_HEADS_REGION;
        retire_chunk(r, first);
        r->first = PH_NIL;
    } else if (chunk != NULL) {
        retire_from(r, chunk, mark.fill);
        ph_chunk_mark(chunk, mark.fill);
        keep(r, (uint32_t)(chunk - r->arena->units));
    }
    return 0;
}

int ph_region_rewind(struct ph_region *r, struct ph_region_mark mark)
{
    int refused = refusal_of(r, mark);
    if (refused < 0)
        return refused;
    struct ph_unit *one, *chunk = chunk_of(r, mark);
    if (r->first == PH_NIL)
        return 0;
    if (ph_journal_reserve(r->arena, PH_STORES_MOST, 0) < 0)
        return PH_H_NOMEM;
    if (r->arena->withholds && (mark.made == 0 || PH_KEPT(REWOUND)))
        return retire_since(r, mark, chunk);
    if (mark.made == 0 && r->is_kept && PH_KEPT(R33)) { /* [R33] */
        uint64_t first = ph_unit_index(r->arena, r->first);
        ph_piece_end(&(struct ph_block){r->arena, &r->arena->units[first], first << PH_UNIT_SHIFT, PH_B_LIVE});
    }
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
