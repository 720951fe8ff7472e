/* block/block.h -- blocks: which there are, what states they have, and what the process knows of them.
 *
 * Offsets are bytes from logical unit 0. */
#pragma once
#include "base/checked.h"
#include "base/recorder.h"
#include "base/tracker.h"
#include "journal/journal.h"
#include "space/space.h"

/* ---------------------------------------------------------------- resolving */
/* The word of the bits table, and the bit in it, of a granule. */
static inline uint64_t ph_word_of(uint64_t offset)
{
    return offset >> (PH_GRANULE_SHIFT + 6);
}

static inline uint64_t ph_bit_of(uint64_t offset)
{
    return 1ULL << (offset >> PH_GRANULE_SHIFT & 63);
}

enum ph_block_state {
    PH_B_NONE,        /* no block begins there, or a free one */
    PH_B_LIVE,
    PH_B_RESERVED,    /* of an open transaction */
    PH_B_QUARANTINED, /* freed, and kept from others: for the log [R6], for views, for pins */
};

/* ph_block -- the block of an offset, resolved once and passed on. Steps on other blocks, and what reads the tables, leave
 * it as it is; a step on the block itself makes `state` old. */
struct ph_block {
    struct ph_heap *arena;
    struct ph_unit *record; /* of the run that it is a part of, or of its units; NULL: there is neither */
    uint64_t offset;        /* of its first byte, in the arena */
    uint32_t state;         /* enum ph_block_state */
};

struct ph_block ph_block_at(struct ph_heap *h, uint64_t offset);
/* ph_block_known -- the same for a block whose state the caller knows. */
struct ph_block ph_block_known(struct ph_heap *h, uint64_t offset, enum ph_block_state state);
/* ph_live_record -- the record of the live block that begins at `offset`, else NULL. */
struct ph_unit *ph_live_record(struct ph_heap *h, uint64_t offset);

/* The live block that begins at `offset`: what every free, and every change of a size, begins with. */
static inline struct ph_block ph_live_at(struct ph_heap *h, uint64_t offset)
{
    struct ph_unit *record = ph_live_record(h, offset);
    return (struct ph_block){h, record, offset, record != NULL ? PH_B_LIVE : PH_B_NONE};
}

/* The live or reserved block that holds the byte at `offset`, else one of state PH_B_NONE. */
struct ph_block ph_block_holding_any(struct ph_heap *h, uint64_t offset);
static inline struct ph_block ph_block_holding(struct ph_heap *h, uint64_t offset)
{
    uint64_t unit = offset >> PH_UNIT_SHIFT;
    if (PH_LIKELY(unit - h->first_unit < h->end_unit - h->first_unit && offset % PH_GRANULE == 0)) {
        struct ph_unit *record = &h->units[unit];
        if (record->state == PH_U_RUN_BODY)
            record -= record->back;
        if (PH_LIKELY(record->state == PH_U_RUN && (h->bits[ph_word_of(offset)] & ph_bit_of(offset)) != 0)) {
            PH_RESOLVES();
            return (struct ph_block){h, record, offset, PH_B_LIVE};
        }
    }
    return ph_block_holding_any(h, offset);
}

static inline int ph_is_visible(const struct ph_block *block)
{
    return block->state == PH_B_LIVE || block->state == PH_B_RESERVED;
}

static inline int ph_is_run(const struct ph_block *block)
{
    return block->record->state == PH_U_RUN;
}

/* The first unit of its run, or of itself. */
static inline uint64_t ph_head_of(const struct ph_block *block)
{
    return (uint64_t)(block->record - block->arena->units);
}

static inline int ph_is_packed(const struct ph_block *block)
{
    return block->record->state == PH_U_PACKED;
}

/* Bytes that a block of a run, or of units, can hold. */
static inline uint64_t ph_capacity_of(const struct ph_heap *h, const struct ph_unit *record)
{
    return record->state == PH_U_RUN ? h->classes[record->class_index].granules * PH_GRANULE
                                     : (uint64_t)record->nunits << PH_UNIT_SHIFT;
}

uint64_t ph_piece_capacity(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t offset);

static inline uint64_t ph_block_capacity(const struct ph_block *block)
{
    return PH_UNLIKELY(ph_is_packed(block)) ? ph_piece_capacity(block->arena, block->record, block->offset)
                                            : ph_capacity_of(block->arena, block->record);
}

/* ph_block_words -- the words of the tables that say whether a block is live: the bit of one of a run, the entry of a large
 * one; what is to be set in them and cleared. How many there are: 0 to 2. */
struct ph_block_word {
    uint64_t *at;
    uint64_t index; /* in its table */
    uint64_t set, clear;
    uint32_t table; /* enum ph_table */
};
uint32_t ph_block_words(const struct ph_block *block, int live, struct ph_block_word words[2]);

/* ---------------------------------------------------------------- telling
 * What becomes live, what ends to be, what changes its size: told by the step that does it, so that no caller has to. */
static inline void ph_add_made(struct ph_counters *c, uint64_t blocks, uint64_t asked, uint64_t capacity)
{
    c->made += blocks;
    c->made_bytes += capacity;
    c->asked_bytes += asked;
    int64_t bytes = (int64_t)(c->made_bytes - c->freed_bytes);
    if (bytes > c->peak)
        c->peak = bytes;
}

static inline void ph_add_freed(struct ph_counters *c, uint64_t blocks, uint64_t capacity)
{
    c->freed += blocks;
    c->freed_bytes += capacity;
}

void ph_add_resized(struct ph_counters *c, uint64_t was_capacity, uint64_t capacity);

static inline void ph_add_moved(struct ph_counters *c, uint64_t blocks)
{
    c->moved += blocks;
}

/* ph_tell_... -- tell those who watch an arena; out of line, so that the steps that every call takes stay short. Pre: somebody
 * watches.
 *
 * ..._made: a block with so many bytes asked for, and room for so many. ..._bits_made, ..._bits_freed: blocks of a run whose bits
 * stand in one word of the bits table. ..._resized: a block stayed where it is. ..._moved: the block that was made last at `to` is
 * the one that was freed last at `from`. ..._all_freed: the arena goes, with all of its blocks that were read; nobody need
 * watch. */
PH_SELDOM void ph_tell_made(struct ph_heap *h, uint64_t offset, uint64_t asked, uint64_t capacity);
PH_SELDOM void ph_tell_freed(struct ph_heap *h, uint64_t offset, uint64_t capacity);
PH_SELDOM void ph_tell_bits_made(struct ph_heap *h, uint64_t word, uint64_t bits, uint64_t asked, uint64_t capacity);
PH_SELDOM void ph_tell_bits_freed(struct ph_heap *h, uint64_t word, uint64_t bits, uint64_t capacity);
PH_SELDOM void ph_tell_resized(struct ph_heap *h, uint64_t offset, uint64_t asked, uint64_t was_capacity, uint64_t capacity);
PH_SELDOM void ph_tell_moved(struct ph_heap *h, uint64_t from, uint64_t to, uint64_t asked);
void ph_tell_all_freed(struct ph_heap *h);

/* The rest only those hear of who track: of blocks that realloc has answered with, in whatever place, and that expand let grow, if
 * need be. */
PH_SELDOM void ph_tell_reallocated(struct ph_heap *h, uint64_t offset, uint64_t asked);
PH_SELDOM void ph_tell_expanded(struct ph_heap *h, uint64_t offset, uint64_t asked);

/* ph_track -- a block of a site is there; an address of 0 is not traced. ph_track_made -- one that was made where the caller stands.
 * ph_track_resized -- it has another size; ph_track_expanded -- at least; what is not known stays so. ph_track_dropped -- an arena
 * went with its blocks. ph_track_left -- nobody tells of an arena any more, but to the others: its blocks are traced no longer.
 * ph_track_clear -- forget all. ph_track_file_... -- the records of these; a file that is not on gets none. */
void ph_track(struct ph_tracker *t, uint64_t offset, uint64_t size, uint32_t site, uint64_t address);
void ph_track_made(struct ph_tracker *t, uint64_t offset, uint64_t size, uint64_t address);
void ph_track_freed(struct ph_tracker *t, uint64_t offset, uint64_t address);
void ph_track_resized(struct ph_tracker *t, uint64_t offset, uint64_t size, uint64_t address);
void ph_track_expanded(struct ph_tracker *t, uint64_t offset, uint64_t size, uint64_t address);
void ph_track_dropped(struct ph_tracker *t, uint64_t arena, uint64_t data);
void ph_track_left(struct ph_tracker *t, uint64_t arena, uint64_t data, struct ph_tracker *const *others);
void ph_track_clear(struct ph_tracker *t);
void ph_track_file_made(struct ph_track_file *f, uint64_t offset, uint64_t size, uint32_t site);
void ph_track_file_freed(struct ph_track_file *f, uint64_t offset);
void ph_track_file_site(struct ph_track_file *f, uint32_t number, const char *text, uint64_t length);

/* ph_record -- write an event down, whose site, thread and time are those of now. ph_record_event -- one of which all is told.
 * ph_record_site -- name a call site; its number + 1, 0 if that cannot be. Where there is no memory the recorder goes off.
 * ph_recorder_begin -- a frame in service; -1: there is no memory. ph_recorder_seal -- it is full. ph_recorder_take -- the oldest full frame, which is the caller's to give back
 * by ph_recorder_reuse; NULL: there is none. ph_recorder_fini -- forget all that was not taken. */
void ph_record(struct ph_recorder *r, struct ph_event event);
void ph_record_event(struct ph_recorder *r, const struct ph_event *event);
uint32_t ph_record_site(struct ph_recorder *r, const char *name, uint64_t length);
int ph_recorder_begin(struct ph_recorder *r);
void ph_recorder_seal(struct ph_recorder *r);
struct ph_sealed *ph_recorder_take(struct ph_recorder *r);
void ph_recorder_reuse(struct ph_recorder *r, struct ph_sealed *frame);
void ph_recorder_fini(struct ph_recorder *r);

/* The call `tell`, if somebody watches. */
#define PH_TELL(h, tell, ...)                     \
    do {                                          \
        if (PH_UNLIKELY((h)->watch != NULL))      \
            tell(h, __VA_ARGS__);                 \
    } while (0)

/* ---------------------------------------------------------------- runs */
/* Geometry of a class: `sizes[i]` bytes (ascending multiples of the granule), `units[i]` per run. PH_H_CORRUPT: such classes
 * cannot be. `starts` have for each word of a run of each class the bits at which blocks begin, and outlive the heap.
 * ph_starts_words -- how many words these are. ph_starts_fill -- set them in words that are 0. */
int ph_classes_init(struct ph_heap *h, const uint32_t *sizes, const uint16_t *units, uint32_t count, const uint64_t *starts);
uint64_t ph_starts_words(const uint16_t *units, uint32_t count);
void ph_starts_fill(uint64_t *starts, const uint32_t *sizes, const uint16_t *units, uint32_t count);
/* Class that serves `size` bytes at `align`, or -1. */
int ph_class_of(const struct ph_heap *h, uint64_t size, uint64_t align);
int ph_class_refill(struct ph_heap *h, struct ph_class *c);
void ph_clear_stray_bits(struct ph_heap *h, uint64_t head, uint64_t nunits);
int ph_run_adopt(struct ph_heap *h, uint64_t head, uint32_t class_index);
void ph_run_discard(struct ph_heap *h, uint64_t head);

/* ph_run_free_bits -- blocks of one word of the bits table, all of the run at `head`, which are live, become free. */
void ph_run_free_bits(struct ph_heap *h, uint64_t head, uint64_t word, uint64_t bits);
/* ph_run_free_aside -- free a live block of a run, to which nothing refers, in the word from which its class serves, of an arena with
 * a lender; it is not offered before a look [Q7]. 0: it is not such a block, or there is no memory; nothing was done. ph_offer_aside --
 * offer all that is aside: nobody reads. */
int ph_run_free_aside(const struct ph_block *block);
void ph_offer_aside(struct ph_heap *h);
/* The steps below, for a block of a run. */
int64_t ph_run_reserve(struct ph_heap *h, struct ph_class *c);
void ph_run_publish(const struct ph_block *block);
void ph_run_quarantine(const struct ph_block *block);
void ph_run_release(const struct ph_block *block);
void ph_run_cancel(const struct ph_block *block);
int ph_run_may_go(struct ph_heap *h);
void ph_run_end(struct ph_heap *h, uint64_t head);

/* ph_run_is_shown -- whether what is free in it may be shown by snapshots of before, and is not offered: block/shown.c. */
static inline int ph_run_is_shown(const struct ph_unit *run)
{
    return run->has_refs == PH_RUN_IS_SHOWN;
}

static inline uint32_t ph_run_occupied(const struct ph_unit *run)
{
    return (uint32_t)run->u.run.live + run->u.run.withheld;
}

int ph_release_empties(struct ph_heap *h);
int64_t ph_units_take(struct ph_heap *h, uint64_t nunits);
int ph_release_idle_runs(struct ph_heap *h);
void ph_end_shown(struct ph_heap *h);

/* ---------------------------------------------------------------- large blocks */
int64_t ph_large_take(struct ph_heap *h, uint64_t size, uint64_t align);
void ph_large_set(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes);
void ph_large_clear(struct ph_heap *h, uint64_t unit);
void ph_large_free(struct ph_heap *h, uint64_t unit);
void ph_large_resize(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes);
void ph_give_back(struct ph_heap *h, uint64_t unit, uint64_t nunits);
void ph_quarantine_units(struct ph_heap *h, uint64_t unit, uint64_t nunits);
void ph_large_publish(const struct ph_block *block);
void ph_large_quarantine(const struct ph_block *block);
void ph_large_release(const struct ph_block *block);
void ph_large_make(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes);

#include "block/chunk.h"

/* ---------------------------------------------------------------- rows */
struct ph_gap {
    uint64_t start, nunits;
};
/* ph_row_bytes -- of a row; 0 in an arena without rows. */
static inline uint64_t ph_row_bytes(const struct ph_heap *h)
{
    return h->strategy == PH_STRATEGY_ROWS ? (uint64_t)h->classes[0].granules << PH_GRANULE_SHIFT : 0;
}

/* ph_run_entry -- the first word of the entry of a run; the second one is ph_row_bytes. */
static inline uint64_t ph_run_entry(const struct ph_heap *h, uint32_t class_index)
{
    uint8_t kind = h->strategy == PH_STRATEGY_ROWS ? PH_KIND_ROWS : PH_KIND_RUN;
    return ph_entry_word(kind, (uint8_t)class_index, h->classes[class_index].run_units);
}
int ph_rows_begin(struct ph_heap *h, uint32_t granules);
int ph_row_fits(const struct ph_heap *h, uint64_t size, uint64_t align);
int64_t ph_rows_take(struct ph_heap *h);
void ph_rows_came(struct ph_heap *h, uint64_t head);
struct ph_gap ph_rows_range(const struct ph_heap *h);
uint64_t ph_rows_key(const struct ph_heap *h);
int ph_rows_are_viewed(const struct ph_heap *h);
void ph_rows_cut(struct ph_heap *h);

/* ---------------------------------------------------------------- rings */
void ph_ring_begin(struct ph_heap *h);
void ph_ring_gather(struct ph_heap *h);
int64_t ph_ring_malloc(struct ph_heap *h, uint64_t size, uint64_t align);
int64_t ph_ring_reserve(struct ph_heap *h, uint64_t size, uint64_t align);
int64_t ph_ring_oldest(struct ph_heap *h);
uint64_t ph_ring_end(const struct ph_heap *h);

/* ---------------------------------------------------------------- placed: pieces that lie where a `Space` of the user says */
/* ph_is_placed -- whether a block of this arena lies where a `Space` says; a longer one has units of its own. */
static inline int ph_is_placed(const struct ph_heap *h, uint64_t size, uint64_t align)
{
    return h->strategy == PH_STRATEGY_PLACED && size <= PH_PLACED_MOST && align <= PH_UNIT_BYTES;
}
/* ph_placed_begin -- an arena without a block becomes one.
 * ph_placed_add -- another chunk, of so many units; PH_H_REFILL. ph_placed_put -- a piece at a granule of the table, live or
 * reserved: its offset; PH_H_BAD_OFFSET if not all of it is free, PH_H_NOMEM. ph_placed_release -- the chunks without a piece go.
 * ph_placed_next -- the next granules that are free, up to `*end`, of a walk that begins as zeros; 0 at the end.
 * ph_note_change -- note for the `Space` what became free, or was taken. */
struct ph_free_walk {
    const struct ph_unit *chunk;
    uint64_t unit, at; /* where the next chunk, and the next piece, are looked for */
};
void ph_placed_begin(struct ph_heap *h);
int64_t ph_placed_add(struct ph_heap *h, uint64_t nunits);
int64_t ph_placed_put(struct ph_heap *h, uint64_t start, uint64_t granules, uint64_t size, int reserved);
void ph_placed_release(struct ph_heap *h);
int ph_placed_next(const struct ph_heap *h, struct ph_free_walk *walk, uint64_t *start, uint64_t *end);
void ph_note_change(struct ph_heap *h, uint64_t start, uint64_t end, int is_free);

/* Of the circle of a region, or of a ring. */
void ph_circle_append(struct ph_heap *h, uint32_t last, uint64_t unit);
void ph_circle_remove(struct ph_heap *h, const struct ph_unit *one);

/* ---------------------------------------------------------------- withheld blocks: the words of the bits table that have some */
struct ph_withheld_word *ph_withheld_find(const struct ph_heap *h, uint64_t word);
struct ph_withheld_word *ph_withheld_make(struct ph_heap *h, uint64_t word);
void ph_withheld_drop_if_none(struct ph_heap *h, struct ph_withheld_word *withheld);
uint64_t ph_withheld_bits(const struct ph_heap *h, uint64_t word);

static inline uint64_t ph_withheld_in(const struct ph_heap *h, uint64_t word)
{
    return PH_LIKELY(h->withheld.words.used == 0) ? 0 : ph_withheld_bits(h, word);
}

/* A bit of the table of withheld blocks is about to be set or cleared: `blocks` and `bytes` count those like it. */
static inline void ph_withheld_flip(uint64_t *bits, uint64_t bit, uint64_t *blocks, uint64_t *bytes, uint64_t size)
{
    uint64_t by = *bits & bit ? (uint64_t)-1 : 1;
    *bits ^= bit;
    *blocks += by;
    *bytes += by * size;
}

static inline void ph_withheld_flip_reserved(struct ph_heap *h, struct ph_withheld_word *withheld, uint64_t bit, uint64_t size)
{
    ph_withheld_flip(&withheld->reserved, bit, &h->withheld.reserved_blocks, &h->withheld.reserved_bytes, size);
}

static inline void ph_withheld_flip_freed(struct ph_heap *h, struct ph_withheld_word *withheld, uint64_t bit, uint64_t size)
{
    ph_withheld_flip(&withheld->freed, bit, &h->withheld.freed_blocks, &h->withheld.freed_bytes, size);
}

/* Room for `count` blocks to retire, or PH_H_NOMEM; good until the GIL is let go. */
int ph_withheld_reserve(struct ph_heap *h, uint64_t count);
int ph_room_to_retire(struct ph_heap *h, uint64_t count);

/* ph_count_withheld -- after a change of a power heap: if much has come into quarantine, the next call that frees nothing
 * looks at the clock, to let go of it. */
static inline void ph_count_withheld(struct ph_heap *h)
{
    uint64_t withheld = h->withheld.freed_bytes;
    if (withheld - h->withheld_then < (uint64_t)PH_FREED_MUCH << PH_UNIT_SHIFT)
        return;
    if (withheld > h->withheld_then)
        h->until_look = 1;
    h->withheld_then = withheld;
}

/* Free blocks of the run at `head` that begin in word `word` of the bits table. */
static inline uint64_t ph_free_mask(const struct ph_heap *h, const struct ph_class *c, uint64_t head, uint64_t word)
{
    return c->starts[word - head * PH_UNIT_WORDS] & ~h->bits[word] & ~ph_withheld_in(h, word);
}

/* ---------------------------------------------------------------- steps */
/* ph_block_free -- free a live block at once; nothing refers to it. ph_block_retire -- free it, but its space waits for a
 * release: that of its record, of which the journal is told [R6], or of the caller. Pre: ph_room_to_retire. */
static inline void ph_block_free(const struct ph_block *block)
{
    if (PH_LIKELY(ph_is_run(block)))
        ph_run_free_bits(block->arena, ph_head_of(block), ph_word_of(block->offset), ph_bit_of(block->offset));
    else if (ph_is_packed(block))
        ph_piece_free(block);
    else
        ph_large_free(block->arena, ph_head_of(block));
}
void ph_block_retire(const struct ph_block *block);

/* Two steps: a transaction reserves, then publishes or cancels; retires, then releases. Volatile only: the words of the
 * block itself are the caller's to store, in the same breath, before or after. Each of the void calls demands that
 * the block is in the state that it says. */
int64_t ph_reserve_block(struct ph_heap *h, uint64_t size, uint64_t align);
void ph_reserve_large(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes);
void ph_publish(const struct ph_block *block);
void ph_cancel(const struct ph_block *block);
void ph_retire(const struct ph_block *block);
void ph_release(const struct ph_block *block);

/* Store the words of a block here, for callers that have nothing to log: with publish, with retire. */
void ph_describe(const struct ph_block *block);
void ph_undescribe(const struct ph_block *block);

/* ---------------------------------------------------------------- refs: views, handles, pins, roots */
static inline int ph_has_refs(const struct ph_unit *record)
{
    return record->state == PH_U_RUN ? record->u.run.refs != 0 : record->has_refs != 0;
}

const struct ph_refs *ph_refs_find(const struct ph_heap *h, uint64_t offset);

/* ph_refs_of -- what refers to a block, NULL if nothing does. */
static inline const struct ph_refs *ph_refs_of(const struct ph_block *block)
{
    return block->record != NULL && PH_UNLIKELY(ph_has_refs(block->record)) ? ph_refs_find(block->arena, block->offset) : NULL;
}

/* ph_is_retired -- whether the block waits in quarantine for its release, not only for a last view. */
static inline int ph_is_retired(const struct ph_block *block)
{
    const struct ph_refs *refs = ph_refs_of(block);
    return block->state == PH_B_QUARANTINED && (refs == NULL || !refs->is_released);
}

/* ph_each_retired -- call `act` for the blocks that lie in one piece in a range, as long as they wait so; how many bytes these are. */
uint64_t ph_each_retired(struct ph_heap *h, uint64_t offset, uint64_t nbytes, void (*act)(const struct ph_block *block));

int ph_refs_held(const struct ph_block *block);
int ph_refs_refusal(const struct ph_block *block);
void ph_refs_make_stale(const struct ph_block *block);
int ph_refs_end(const struct ph_block *block);
int ph_refs_keep(const struct ph_block *block);
/* A view, or a pin, has gone: whether the space of the block is to become free with it. */
int ph_refs_view_gone(struct ph_heap *h, uint64_t offset);
int ph_refs_pin_gone(struct ph_heap *h, uint64_t offset, int changes);

/* Blocks that roots name. ph_set_rooted: PH_H_BAD_OFFSET where no live or reserved block begins; a refs that goes may
 * have gone already. */
int ph_set_rooted(struct ph_heap *h, uint64_t offset, int rooted);
void ph_forget_roots(struct ph_heap *h);

/* Pins of open transactions [R26]: of those that are about to free a block, of the one that is about to change it. */
int ph_pin(const struct ph_block *block);
int ph_pin_change(const struct ph_block *block);
void ph_unpin(struct ph_heap *h, uint64_t offset);
void ph_unpin_change(struct ph_heap *h, uint64_t offset);

/* Live views and handles of a block. */
int ph_view_pin(const struct ph_block *block);
int ph_refs_reserve(struct ph_heap *h, uint64_t count);
void ph_view_unpin(struct ph_heap *h, uint64_t offset);
int64_t ph_handle_make(struct ph_heap *h, uint64_t offset);
int ph_handle_valid(const struct ph_heap *h, uint64_t offset, uint64_t serial);
void ph_handle_drop(struct ph_heap *h, uint64_t offset, uint64_t serial);
struct ph_viewed {
    uint64_t offset;
    uint32_t views;
};
uint64_t ph_viewed(const struct ph_heap *h, struct ph_viewed *found, uint64_t capacity);

/* ---------------------------------------------------------------- reading a heap that was opened */
void ph_read_units_begin(struct ph_read_units *units, uint64_t first, uint64_t end);
void ph_read_units_fini(struct ph_read_units *units);
uint64_t ph_read_units_next(const struct ph_read_units *units, uint64_t unit, uint64_t stop);
void ph_read_units_add(struct ph_read_units *units, uint64_t unit, uint64_t stop);
PH_SELDOM int ph_scan_unit(struct ph_heap *h, uint64_t unit);
void ph_set_bounds(struct ph_heap *h, uint64_t first, uint64_t end, uint64_t scanned_to);
/* ph_forget_bounds -- no unit is ours from now on, so that no table is read. */
void ph_forget_bounds(struct ph_heap *h);
int ph_adopt_step(struct ph_heap *h, uint64_t budget);
int64_t ph_scan_step(struct ph_heap *h, uint64_t budget, uint64_t pool_below, struct ph_gap *gaps, uint64_t capacity);

/* Walks over what is described, and over the live blocks. */
struct ph_piece {
    uint64_t start, nunits, nbytes;
    uint32_t state, class_index, live;
};
int ph_walk(const struct ph_heap *h, uint64_t *cursor, struct ph_piece *piece);
int64_t ph_blocks(const struct ph_heap *h, uint64_t *cursor, uint64_t *offsets, uint64_t *sizes, uint64_t capacity);

/* What some units are: bytes of a block of their runs, 0 if they differ; intervals since the last ones became free, of those
 * with something behind, UINT64_MAX if none has; then sums: pieces, units by kind, free ones with nothing behind; kept regions
 * that begin there; blocks that live, and that have room; bytes of those that live, and asked for as far as that is known. */
struct ph_surveyed {
    uint64_t start, size, young, nunits, pieces, run_units, packed_units, large_units, withheld_units, free_units, unused_units,
        bare_units, regions, live, room, allocated, asked;
};
enum { PH_SURVEY_SUMS = 3 }; /* its fields from this one on are sums */
uint64_t ph_survey(const struct ph_heap *h, uint64_t from, uint64_t stop, uint64_t cell, struct ph_surveyed *pieces,
                   uint64_t capacity);

/* What ph_check finds: `unit` is a unit, or a bin or class where the code says so. */
struct ph_finding {
    uint64_t unit, expected, found;
    uint32_t code;
};
int64_t ph_check(struct ph_heap *h, struct ph_finding *findings, uint64_t capacity);
