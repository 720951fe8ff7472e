/* block/guard.c -- guarded blocks: one in so many lies alone, so that what is done beside it is seen.
 *
 *     chunk       fence | . . . . . . block | fence        right-aligned: its last granule ends at the fence
 *                 pad of the pad, a canary  |              as a piece; the canary also fills what nobody asked for
 *
 *     made ──► live ──► freed, all of it fenced ──► the next one, if as large; else free: the oldest one first, when
 *                                                   another one is to be made or space is short
 *
 * A guarded block is the one piece of a chunk of its own, so that views, frees, blocks() and checks know it like any other one, and
 * no layer has to be there when it goes. Its chunk is in no region; it stays when the block is freed, until it is given back
 * here. No fence is on units that are anybody else's: they are unfenced before they go back, and kept if that fails.
 *
 * When a block is due is counted without a step in malloc: the counters of the classes tell how many were made, and the looks
 * at the clock, of which each call is one in a few dozen, ask them. The distances are random, so that no loop is missed. */
#include "block/guard.h"

#include <stdlib.h>
#include <string.h>

#include "os/os.h"

/* ---------------------------------------------------------------- when */

/* Blocks that calls of malloc have made. */
static uint64_t blocks_made(const struct ph_heap *h)
{
    uint64_t made = h->guard->large_made;
    for (uint32_t i = 0; i < h->nclasses; i++)
        made += h->classes[i].mallocs;
    return made;
}

/* A number below `end`: xorshift64 of Marsaglia. */
static uint64_t drawn(struct ph_guard *g, uint64_t end)
{
    g->chance ^= g->chance << 13;
    g->chance ^= g->chance >> 7;
    g->chance ^= g->chance << 17;
    return g->chance % end;
}

/* From 0 to twice the distance wanted, so that it is that on average. */
void ph_guard_draw(struct ph_heap *h)
{
    struct ph_guard *g = h->guard;
    g->next = blocks_made(h) + drawn(g, 2 * g->every - 1);
    g->left = g->step = 0;
    h->until_look = 1;
}

int ph_guard_due(struct ph_heap *h)
{
    struct ph_guard *g = h->guard;
    if (g->every == 0)
        return 0;
    g->left -= g->left < g->step ? g->left : g->step;
    if (g->left == 0) {
        uint64_t made = blocks_made(h);
        g->left = g->next > made ? g->next - made : 0;
    }
    if (g->left < h->until_look)
        h->until_look = g->left != 0 ? (uint32_t)g->left : 1;
    g->step = h->until_look;
    return g->left == 0;
}

/* ---------------------------------------------------------------- where */

/* Where in its chunk a block lies, in granules. */
struct layout {
    uint64_t nunits, low, start, end, high;
};

static struct layout layout_of(uint64_t size, uint64_t align, int has_fences)
{
    uint64_t granules = ph_piece_granules(size), step = ph_piece_align(align);
    uint64_t edge = has_fences ? PH_UNIT_GRANULES : 0, zone = has_fences ? 0 : PH_GUARD_ZONE / PH_GRANULE;
    uint64_t between = granules + 2 * zone + (has_fences ? 0 : step);
    struct layout l = {.low = edge};
    l.high = edge + ((between + PH_UNIT_GRANULES - 1) & ~(uint64_t)(PH_UNIT_GRANULES - 1));
    l.nunits = (l.high + edge) / PH_UNIT_GRANULES;
    l.end = l.high - zone;
    l.start = (l.end - granules) & ~(step - 1);
    l.start -= (l.start & 63) == 63; /* [R31] */
    return l;
}

static uint64_t address_of(const struct ph_heap *h, uint64_t unit, uint64_t granules)
{
    return (uint64_t)(uintptr_t)(h->data + (unit << PH_UNIT_SHIFT) + (granules << PH_GRANULE_SHIFT));
}

/* ---------------------------------------------------------------- canaries */

static uint8_t *bytes_at(uint64_t address)
{
    return (uint8_t *)(uintptr_t)address;
}

void ph_guard_renew(const struct ph_guarded *one)
{
    uint64_t end = one->address + one->size;
    memset(bytes_at(one->low), PH_CANARY, one->address - one->low);
    memset(bytes_at(end), PH_CANARY, one->high - end);
}

/* Whether all bytes of a range are of a canary: each like the first, which is compared fastest with its neighbour. */
static int is_whole(uint64_t from, uint64_t to)
{
    return from == to || (*bytes_at(from) == PH_CANARY && memcmp(bytes_at(from), bytes_at(from + 1), to - from - 1) == 0);
}

/* Behind the block the first byte that was overwritten, else before it the last one. */
uint64_t ph_guard_damage(const struct ph_guarded *one)
{
    uint64_t end = one->address + one->size;
    if (is_whole(one->low, one->address) && is_whole(end, one->high))
        return 0;
    for (uint64_t at = end; at < one->high; at++)
        if (*bytes_at(at) != PH_CANARY)
            return at;
    for (uint64_t at = one->address; at > one->low; at--)
        if (*bytes_at(at - 1) != PH_CANARY)
            return at - 1;
    return 0;
}

/* ---------------------------------------------------------------- slots */

static struct ph_guarded *slot_of(const struct ph_heap *h, const struct ph_unit *chunk)
{
    const struct ph_guard *g = h->guard;
    return chunk->state == PH_U_PACKED && chunk->class_index == PH_IN_GUARD && g != NULL && chunk->child < g->count
        ? g->slots[chunk->child] : NULL;
}

struct ph_guarded *ph_guarded_at(const struct ph_heap *h, uint64_t offset)
{
    uint64_t unit = offset >> PH_UNIT_SHIFT;
    if (h->guard == NULL || unit - h->first_unit >= h->end_unit - h->first_unit)
        return NULL;
    const struct ph_unit *record = &h->units[unit];
    return slot_of(h, record->state == PH_U_PACKED_BODY ? record - record->back : record);
}

uint64_t ph_guarded_usable(const struct ph_block *block)
{
    const struct ph_guarded *one = slot_of(block->arena, block->record);
    return one != NULL ? one->size : ph_block_capacity(block);
}

int ph_guard_refusal(const struct ph_block *block)
{
    const struct ph_guarded *one = block->record == NULL ? NULL : slot_of(block->arena, block->record);
    return one != NULL && one->state == PH_G_LIVE && ph_guard_damage(one) != 0 ? PH_H_DAMAGED : 0;
}

/* Another slot; 0: there is no memory. */
static int add_slot(struct ph_guard *g)
{
    struct ph_guarded **slots = realloc(g->slots, (g->count + 1) * sizeof(struct ph_guarded *));
    if (slots == NULL)
        return 0;
    g->slots = slots;
    if ((g->idle = ph_guarded_take()) == NULL)
        return 0;
    g->idle->number = g->count;
    slots[g->count++] = g->idle;
    return 1;
}

static uint32_t slots_most(const struct ph_guard *g)
{
    return g->by_protection && g->has_fences && g->limit > PH_GUARD_PROTECTED_MOST ? PH_GUARD_PROTECTED_MOST : g->limit;
}

/* Freed blocks that are kept: few, so that their chunks are soon used again, for which fewer fences have to be made. */
static uint32_t kept_most(const struct ph_guard *g)
{
    return (slots_most(g) + 3) / 4;
}

/* ---------------------------------------------------------------- going */

static uint64_t unit_of(const struct ph_heap *h, uint64_t address)
{
    return (address - (uint64_t)(uintptr_t)h->data) >> PH_UNIT_SHIFT;
}

/* Units of nobody without fences; 0: some may be there still. */
static int unfence(struct ph_guard *g, const struct ph_guarded *one)
{
    return !one->has_fences || ph_unfence_pages(one->start, one->stop - one->start, g->by_protection) >= 0;
}

static void make_idle(struct ph_guard *g, struct ph_guarded *one)
{
    one->state = PH_G_NONE;
    one->next = g->idle;
    g->idle = one;
}

/* The oldest of those that were freed is free; 0: there is none, or the system keeps its fences. */
static int end_oldest(struct ph_heap *h)
{
    struct ph_guard *g = h->guard;
    struct ph_guarded *one = g->first;
    if (one == NULL || !unfence(g, one))
        return 0;
    g->first = one->next;
    g->kept--;
    ph_chunk_give_back(h, &h->units[unit_of(h, one->start)]);
    make_idle(g, one);
    return 1;
}

int ph_guard_let_go(struct ph_heap *h)
{
    int any = 0;
    while (h->guard != NULL && end_oldest(h))
        any = 1;
    return any;
}

static void append(struct ph_guard *g, struct ph_guarded *one)
{
    g->kept++;
    one->next = NULL;
    *(g->first == NULL ? &g->first : &g->last->next) = one;
    g->last = one;
}

static void freed(struct ph_heap *h, struct ph_unit *chunk)
{
    struct ph_guard *g = h->guard;
    struct ph_guarded *one = slot_of(h, chunk);
    if (one == NULL) /* the arena has gone */
        return;
    g->live--;
    if (g->site_of != NULL)
        g->site_of(g, one->freed_by, sizeof one->freed_by);
    one->state = PH_G_FREED;
    append(g, one);
    if (g->every != 0 && one->has_fences) /* if the system refuses, its ends are fenced still */
        (void)ph_fence_pages(one->low, one->high - one->low, &g->by_protection);
    while (g->kept > (g->every == 0 ? 0 : kept_most(g)) && end_oldest(h))
        ;
}

void ph_guard_begin(struct ph_heap *h, uint64_t every)
{
    h->guard->every = every;
    h->guard->freed = freed;
    h->guard->chance = ph_clock() | 1;
    if (every == 0)
        ph_guard_let_go(h);
    else
        ph_guard_draw(h);
}

void ph_guard_forget(struct ph_heap *h)
{
    struct ph_guard *g = h->guard;
    if (g == NULL)
        return;
    for (uint32_t i = 0; i < g->count; i++)
        ph_guarded_give(g->slots[i]);
    free(g->slots);
    g->slots = NULL;
    g->count = g->kept = 0;
    g->every = g->live = 0;
    g->idle = g->first = g->last = NULL;
}

/* ---------------------------------------------------------------- made */

static int has_slot(const struct ph_guard *g)
{
    return g->idle != NULL || g->count < slots_most(g);
}

/* A slot for one more block stands first among the idle ones; the oldest freed block goes for it if need be. */
static int slot_is_there(struct ph_heap *h)
{
    struct ph_guard *g = h->guard;
    if (!has_slot(g) && !end_oldest(h))
        return 0;
    return g->idle != NULL || add_slot(g);
}

static int fits_again(const struct ph_guard *g, const struct ph_guarded *one, const struct layout *l)
{
    return one->has_fences == g->has_fences && one->stop - one->start == l->nunits << PH_UNIT_SHIFT
        && one->high - one->low == (l->high - l->low) << PH_GRANULE_SHIFT;
}

/* The oldest freed block if its chunk, whose ends stay fenced, is to be used again; else NULL. */
static struct ph_guarded *take_oldest(struct ph_guard *g, const struct layout *l)
{
    struct ph_guarded *one = g->first;
    if ((has_slot(g) && g->kept < kept_most(g)) || one == NULL || !fits_again(g, one, l))
        return NULL;
    if (one->has_fences && ph_unfence_pages(one->low, one->high - one->low, g->by_protection) < 0)
        return NULL;
    g->first = one->next;
    g->kept--;
    return one;
}

static int fence_ends(struct ph_guard *g, const struct ph_guarded *one)
{
    return ph_fence_pages(one->start, one->low - one->start, &g->by_protection) >= 0
        && ph_fence_pages(one->high, one->stop - one->high, &g->by_protection) >= 0;
}

/* Units of nobody become the chunk of the first idle slot. */
static struct ph_unit *make_chunk(struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    struct ph_guard *g = h->guard;
    struct ph_unit *chunk = &h->units[unit];
    ph_chunk_make(h, unit, nunits, (struct ph_owner){0, 0});
    ph_circle_append(h, PH_NIL, unit);
    chunk->class_index = PH_IN_GUARD;
    chunk->child = g->idle->number;
    chunk->has_refs = 1; /* so that a free looks at its canaries */
    g->idle = g->idle->next;
    return chunk;
}

static void fill_slot(struct ph_heap *h, struct ph_guarded *one, uint64_t unit, const struct layout *l, uint64_t size)
{
    uint64_t offset = (unit << PH_UNIT_SHIFT) + (l->start << PH_GRANULE_SHIFT);
    one->start = address_of(h, unit, 0);
    one->low = address_of(h, unit, l->low);
    one->address = address_of(h, unit, l->start);
    one->high = address_of(h, unit, l->high);
    one->stop = address_of(h, unit, l->nunits * PH_UNIT_GRANULES);
    one->size = size;
    one->offset = offset ^ h->guard->origin;
    one->has_fences = h->guard->has_fences;
    one->made_by[0] = one->freed_by[0] = 0;
}

/* The block of a slot, in its chunk, lives from now on. */
static int64_t begin_life(struct ph_heap *h, struct ph_guarded *one, struct ph_unit *chunk, const struct layout *l)
{
    struct ph_guard *g = h->guard;
    ph_chunk_pad(h, chunk, (uint64_t)(chunk - h->units) * PH_UNIT_GRANULES + l->start);
    int64_t offset = ph_chunk_bump(h, chunk, l->end - l->start, 1);
    PH_ASSERT(offset == (int64_t)(one->address - (uint64_t)(uintptr_t)h->data));
    g->made++;
    g->live++;
    ph_guard_renew(one);
    if (g->site_of != NULL)
        g->site_of(g, one->made_by, sizeof one->made_by);
    __atomic_store_n(&one->state, PH_G_LIVE, __ATOMIC_RELEASE);
    PH_TELL(h, ph_tell_made, (uint64_t)offset, one->size, (l->end - l->start) << PH_GRANULE_SHIFT);
    return offset;
}

int64_t ph_guard_malloc(struct ph_heap *h, uint64_t size, uint64_t align, uint64_t *nunits)
{
    struct ph_guard *g = h->guard;
    if (size > (uint64_t)PH_CHUNK_UNITS_MAX << PH_UNIT_SHIFT || align > PH_UNIT_BYTES)
        return PH_H_LARGE;
    struct layout l = layout_of(size, align, (int)g->has_fences);
    if (l.nunits > PH_CHUNK_UNITS_MAX)
        return PH_H_LARGE;
    struct ph_guarded *one = take_oldest(g, &l);
    if (one != NULL) {
        uint64_t again = unit_of(h, one->start);
        fill_slot(h, one, again, &l, size);
        return begin_life(h, one, &h->units[again], &l);
    }
    if (!slot_is_there(h))
        return PH_H_LARGE;
    *nunits = l.nunits;
    int64_t unit = ph_units_take(h, l.nunits);
    if (unit < 0)
        return unit;
    one = g->idle;
    struct ph_unit *chunk = make_chunk(h, (uint64_t)unit, l.nunits);
    fill_slot(h, one, (uint64_t)unit, &l, size);
    if (!one->has_fences || fence_ends(g, one))
        return begin_life(h, one, chunk, &l);
    one->state = PH_G_FREED; /* a fence may be there, so its units wait like those of a block that was freed */
    one->high = one->low;    /* but for no other block */
    append(g, one);
    return PH_H_NOMEM;
}
