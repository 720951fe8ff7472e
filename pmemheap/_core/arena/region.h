/* arena/region.h -- regions: blocks that die together, in chunks of an arena (Berger et al. 2002: reaps). */
#pragma once
#include "arena/arena.h"

enum {
    PH_REGION_WHOLE = 8192, /* bytes above which a block of a region is a large one of its own */
};

/* ph_region -- its chunks and large blocks, in a circle in which each stands behind those that were made before it. */
struct ph_region {
    struct ph_heap *arena;
    uint32_t first;          /* unit of the first chunk; PH_NIL: it has none */
    uint32_t current;        /* unit of the chunk in service; PH_NIL: there is none */
    uint32_t made;           /* chunks and large blocks that it ever had */
    uint32_t units_next;     /* of the next chunk */
    uint32_t is_kept;        /* its first chunk begins with a piece that stands for it, and its entries name that */
};

/* ph_region_mark -- a point in the life of a region to which it can be rewound. */
struct ph_region_mark {
    uint32_t made;           /* chunks and large blocks made before it */
    uint32_t chunk;          /* the number of the chunk in service, 0: none */
    uint32_t fill;           /* of that */
};

void ph_region_init(struct ph_region *r, struct ph_heap *arena);
/* ph_region_begin -- it is one that outlives its struct, and is called by the offset of the piece that stands for it: that offset, or
 * PH_H_REFILL, as below. ph_region_find -- it is the one that is called by an offset, of a heap of which all is known; PH_H_BAD_OFFSET. */
int64_t ph_region_begin(struct ph_region *r, uint64_t *nunits);
int ph_region_find(struct ph_region *r, uint64_t offset);
/* ph_region_malloc_any -- a block. PH_H_REFILL: the pool lacks a range of `*nunits` units; PH_H_LARGE: Python has to place it, and
 * calls ph_region_take. */
int64_t ph_region_malloc_any(struct ph_region *r, uint64_t size, uint64_t align, uint64_t *nunits);
/* ph_region_bump -- a small block without alignment, in the chunk in service; PH_H_REFILL: ask ph_region_malloc_any. */
static inline int64_t ph_region_bump(struct ph_region *r, uint64_t size)
{
    struct ph_heap *h = r->arena;
    if (PH_UNLIKELY(r->current == PH_NIL || size > PH_REGION_WHOLE || h->withholds || h->watch != NULL || ph_tape_on()))
        return PH_H_REFILL;
    uint64_t unit = ph_unit_index(h, r->current);
    struct ph_unit *chunk = &h->units[unit];
    uint64_t fill = chunk->u.packed.fill, mark = fill + ph_piece_granules(size);
    mark += (mark & 63) == 63; /* [R31] */
    if (PH_UNLIKELY(mark >= (uint64_t)chunk->nunits * PH_UNIT_GRANULES))
        return PH_H_REFILL;
    uint64_t *word = &h->bits[unit * PH_UNIT_WORDS + (mark >> 6)];
    __atomic_store_n(word, *word | 1ULL << (mark & 63), __ATOMIC_RELEASE);
    ph_count_bumped(h, chunk, mark, mark - fill);
    return (int64_t)((unit * PH_UNIT_GRANULES + fill) << PH_GRANULE_SHIFT);
}
/* ph_region_take -- a large block that Python has placed. */
void ph_region_take(struct ph_region *r, uint64_t offset);
struct ph_region_mark ph_region_mark(const struct ph_region *r);
/* ph_region_rewind -- what was made since the mark is gone. PH_H_BAD_OFFSET: the mark does not fit; PH_H_PINNED, PH_H_ROOTED,
 * PH_H_IN_TRANSACTION: of a block that stays; nothing has changed. */
int ph_region_rewind(struct ph_region *r, struct ph_region_mark mark);
int ph_region_drop(struct ph_region *r);
