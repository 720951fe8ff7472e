/* heap_api.h -- calls of the allocator core. Offsets are bytes from logical unit 0. */
#ifndef PH_HEAP_API_H
#define PH_HEAP_API_H

#include "heap.h"

/* Geometry of a class: `sizes[i]` bytes (ascending multiples of the granule), `units[i]` per run. */
int ph_heap_init(struct ph_heap *h, const uint32_t *sizes, const uint16_t *units, uint32_t count);
void ph_heap_fini(struct ph_heap *h);

/* Class that serves `size` bytes at `align`, or -1. */
int ph_class_of(const struct ph_heap *h, uint64_t size, uint64_t align);

int64_t ph_malloc_small(struct ph_heap *h, uint32_t class_index, uint64_t size);
int64_t ph_malloc(struct ph_heap *h, uint64_t size, uint64_t align);
uint64_t ph_malloc_many(struct ph_heap *h, uint64_t size, uint64_t count, uint64_t *offsets);
int ph_free(struct ph_heap *h, uint64_t offset);
int ph_free_refusal(struct ph_heap *h, uint64_t offset);
uint64_t ph_first_refused(struct ph_heap *h, const uint64_t *offsets, uint64_t count);
int ph_free_many(struct ph_heap *h, const uint64_t *offsets, uint64_t count);
int64_t ph_realloc(struct ph_heap *h, uint64_t offset, uint64_t size);
int ph_expand(struct ph_heap *h, uint64_t offset, uint64_t size);
int64_t ph_usable_size(struct ph_heap *h, uint64_t offset);

/* Two steps: a transaction reserves (ph_reserve itself is a system call's name), then publishes or cancels; retires, then releases. Volatile only: the bits and
 * entries of the block itself are the caller's to store, in the same breath, before or after. Each of the void calls
 * demands that the block is in the state that it says. */
int64_t ph_reserve_block(struct ph_heap *h, uint64_t size, uint64_t align);
void ph_reserve_large(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes);
void ph_publish(struct ph_heap *h, uint64_t offset);
void ph_cancel(struct ph_heap *h, uint64_t offset);
void ph_retire(struct ph_heap *h, uint64_t offset);
void ph_release(struct ph_heap *h, uint64_t offset);

/* The same words, stored here, for who has nothing to log: with publish, with retire. */
void ph_describe(struct ph_heap *h, uint64_t offset);
void ph_undescribe(struct ph_heap *h, uint64_t offset);

/* Room for `count` blocks to retire, or PH_H_NOMEM; good until the GIL is let go. */
int ph_held_reserve(struct ph_heap *h, uint64_t count);

/* Bytes that a live, reserved or quarantined block can hold, or PH_H_BAD_OFFSET. */
int64_t ph_held_size(struct ph_heap *h, uint64_t offset);
struct ph_unit *ph_visible_at(struct ph_heap *h, uint64_t offset);
int64_t ph_block_start(struct ph_heap *h, uint64_t offset);
int ph_is_reserved(struct ph_heap *h, uint64_t offset);
int ph_is_quarantined(struct ph_heap *h, uint64_t offset);
int ph_is_retired(struct ph_heap *h, uint64_t offset);

/* Blocks that roots name. ph_set_rooted: PH_H_BAD_OFFSET where no live or reserved block begins; a mark that goes may
 * have gone already. */
int ph_set_rooted(struct ph_heap *h, uint64_t offset, int rooted);
void ph_forget_roots(struct ph_heap *h);

/* Pins of open transactions [R26]. */
int ph_pin(struct ph_heap *h, uint64_t offset);
void ph_unpin(struct ph_heap *h, uint64_t offset);
int ph_pin_change(struct ph_heap *h, uint64_t offset);
int ph_pin_change_of(struct ph_heap *h, uint64_t offset, struct ph_unit *record);
void ph_unpin_change(struct ph_heap *h, uint64_t offset);

/* What a power heap keeps for its log. Reserving guarantees room, or says PH_H_NOMEM with nothing changed. */
void ph_set_durability(struct ph_heap *h, uint32_t durability);
int ph_dirty_reserve(struct ph_heap *h, uint64_t count);
int ph_freed_reserve(struct ph_heap *h, uint64_t count);

/* Large blocks that Python places. */
void ph_large_make(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes);
int ph_large_extend(struct ph_heap *h, uint64_t offset, uint64_t start, uint64_t stop, uint64_t nbytes);
int ph_move_into(struct ph_heap *h, uint64_t offset, uint64_t to, uint64_t size);

/* Units between the pool and the extents of Python. */
void ph_donate(struct ph_heap *h, uint64_t start, uint64_t nunits, int never_used);
int ph_reclaim(struct ph_heap *h, uint64_t at_least, uint64_t *start, uint64_t *nunits);
uint64_t ph_reclaim_range(struct ph_heap *h, uint64_t start);
int ph_release_empties(struct ph_heap *h);
int ph_release_idle_runs(struct ph_heap *h);
int ph_returned_pop(struct ph_heap *h, uint64_t *start, uint64_t *nunits);

uint64_t ph_pool_longest(const struct ph_heap *h);
int ph_pool_next(const struct ph_heap *h, uint32_t *bin, uint32_t *node, uint64_t *start, uint64_t *nunits);
uint64_t ph_room_after(struct ph_heap *h, uint64_t unit);

/* Marks: live views and handles of a block, and a free in spite of views. */
int ph_view_pin(struct ph_heap *h, uint64_t offset);
int ph_marks_reserve(struct ph_heap *h, uint64_t count);
void ph_view_unpin(struct ph_heap *h, uint64_t offset);
int64_t ph_handle_make(struct ph_heap *h, uint64_t offset);
int ph_handle_valid(const struct ph_heap *h, uint64_t offset, uint64_t serial);
void ph_handle_drop(struct ph_heap *h, uint64_t offset, uint64_t serial);
int ph_free_deferred(struct ph_heap *h, uint64_t offset);
const struct ph_mark *ph_mark_find(const struct ph_heap *h, uint64_t offset);
struct ph_viewed {
    uint64_t offset;
    uint32_t views;
};
uint64_t ph_viewed(const struct ph_heap *h, struct ph_viewed *found, uint64_t capacity);

/* Reading a heap that was opened. */
struct ph_gap {
    uint64_t start, nunits;
};
void ph_set_bounds(struct ph_heap *h, uint64_t first, uint64_t end, uint64_t scanned_to);
/* ph_forget_bounds -- no unit is ours from now on, so that no table is read. */
void ph_forget_bounds(struct ph_heap *h);
int ph_adopt_step(struct ph_heap *h, uint64_t budget);
int64_t ph_scan_step(struct ph_heap *h, uint64_t budget, uint64_t pool_below, struct ph_gap *gaps, uint64_t capacity);

/* ph_count_held -- after a change of a power heap: if much has come into quarantine, the next call that frees nothing
 * looks at the clock, to let go of it. */
static inline void ph_count_held(struct ph_heap *h)
{
    uint64_t held = h->held.freed_bytes;
    if (held - h->held_then < (uint64_t)PH_FREED_MUCH << PH_UNIT_SHIFT)
        return;
    if (held > h->held_then)
        h->until_look = 1;
    h->held_then = held;
}

/* Ages of free units. */
struct ph_old_part {
    uint64_t start, stop, units; /* units: those that are old, without what was given back between them */
};
void ph_ages_init(struct ph_ages *ages);
void ph_ages_fini(struct ph_ages *ages);
void ph_ages_cover(struct ph_ages *ages, uint64_t first, uint64_t end);
void ph_ages_freed(struct ph_ages *ages, uint64_t start, uint64_t nunits);
void ph_ages_given_back(struct ph_ages *ages, uint64_t start, uint64_t nunits);
void ph_ages_next(struct ph_ages *ages);
int ph_ages_old(const struct ph_ages *ages, uint64_t from, uint64_t stop, struct ph_old_part *part);
uint64_t ph_ages_young_end(const struct ph_ages *ages, uint64_t from, uint64_t stop);

/* Walks over what is described, and over the live blocks. */
struct ph_piece {
    uint64_t start, nunits, nbytes;
    uint32_t state, class_index, live;
};
int ph_walk(const struct ph_heap *h, uint64_t *cursor, struct ph_piece *piece);
int64_t ph_blocks(const struct ph_heap *h, uint64_t *cursor, uint64_t *offsets, uint64_t *sizes, uint64_t capacity);

/* What ph_check finds: `unit` is a unit, or a bin or class where the code says so. */
struct ph_finding {
    uint64_t unit, expected, found;
    uint32_t code;
};
int64_t ph_check(struct ph_heap *h, struct ph_finding *findings, uint64_t capacity);

#endif
