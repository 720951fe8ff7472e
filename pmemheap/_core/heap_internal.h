/* heap_internal.h -- what the files of the allocator core share. */
#ifndef PH_HEAP_INTERNAL_H
#define PH_HEAP_INTERNAL_H

#include "heap.h"
#include "checked.h"
#include "heap_api.h"
#include "tape.h"

#define PH_LIKELY(x) __builtin_expect(!!(x), 1)
#define PH_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Records hold unit numbers in 32 bits. A heap that slides for ever passes 2^32 units, so they are read back
 * relative to first_unit: right as long as less than 16 TiB lie between the two ends. */
static inline uint64_t ph_unit_index(const struct ph_heap *h, uint32_t low)
{
    return h->first_unit + (uint32_t)(low - (uint32_t)h->first_unit);
}

static inline struct ph_unit *ph_unit_at(const struct ph_heap *h, uint32_t low)
{
    return &h->units[ph_unit_index(h, low)];
}

static inline uint64_t ph_units_for(uint64_t nbytes)
{
    return (nbytes + PH_UNIT_BYTES - 1) >> PH_UNIT_SHIFT;
}

/* Stores of one call at the most: empty runs that go, a new run with stray bits in it, and the block. */
enum { PH_STORES_MOST = 2 * PH_CLASSES_MAX + PH_RUN_UNITS_MAX * PH_UNIT_WORDS + 8 };

void ph_note(struct ph_heap *h, uint64_t *at, uint64_t value);
void ph_freed_add(struct ph_heap *h, uint64_t offset, uint64_t nbytes);
int ph_room_to_retire(struct ph_heap *h, uint64_t count);

/* The one way by which this core changes a persistent word; in a power heap room to note it is reserved before. */
static inline void ph_store(struct ph_heap *h, uint64_t *at, uint64_t value)
{
    if (PH_UNLIKELY(h->durability == PH_POWER || ph_tape_on()))
        ph_note(h, at, value);
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

/* The same, which reserves the room itself: PH_H_NOMEM with nothing stored. */
static inline int ph_try_store(struct ph_heap *h, uint64_t *at, uint64_t value)
{
    if (PH_UNLIKELY(h->durability == PH_POWER || ph_tape_on())) {
        if (ph_dirty_reserve(h, 1) < 0)
            return PH_H_NOMEM;
        ph_note(h, at, value);
    }
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
    return 0;
}

static inline uint64_t ph_entry_word(uint8_t kind, uint8_t class_index, uint32_t nunits)
{
    return (uint64_t)kind | (uint64_t)class_index << 8 | (uint64_t)nunits << 32;
}

/* What stands there between the two stores is sound: an entry that appears says nothing until its first word does, and
 * one that changes never has more bytes than units. So a block that grows gets its units first. */
static inline void ph_entry_publish(struct ph_heap *h, uint64_t unit, uint64_t word, uint64_t nbytes)
{
    if (h->entries == NULL)
        return;
    uint64_t *words = (uint64_t *)&h->entries[unit];
    int grows = words[0] != 0 && nbytes > words[1];
    if (!grows && words[1] != nbytes)
        ph_store(h, &words[1], nbytes);
    if (words[0] != word)
        ph_store(h, &words[0], word);
    if (grows)
        ph_store(h, &words[1], nbytes);
}

static inline void ph_entry_withdraw(struct ph_heap *h, uint64_t unit)
{
    if (h->entries == NULL)
        return;
    uint64_t *words = (uint64_t *)&h->entries[unit];
    ph_store(h, &words[0], 0);
    if (words[1] != 0)
        ph_store(h, &words[1], 0);
}

/* Address-ordered pairing heaps over the unit records (Fredman et al. 1986): O(1) insert, O(log n) removal. */
void ph_pair_insert(struct ph_heap *h, uint32_t *root, uint64_t unit);
void ph_pair_remove(struct ph_heap *h, uint32_t *root, uint64_t unit);
uint32_t ph_pair_next(const struct ph_heap *h, uint32_t root, uint32_t node);

/* The pool: free ranges of units. */
uint32_t ph_bin_of(uint64_t nunits);
int64_t ph_pool_take(struct ph_heap *h, uint64_t nunits);
int64_t ph_pool_take_growing(struct ph_heap *h, uint64_t nunits);
int64_t ph_returned_take(struct ph_heap *h, uint64_t nunits);
void ph_pool_give(struct ph_heap *h, uint64_t start, uint64_t nunits);
uint64_t ph_pool_room_before(const struct ph_heap *h, uint64_t unit);
void ph_pool_take_after(struct ph_heap *h, uint64_t unit, uint64_t nunits);
void ph_pool_take_before(struct ph_heap *h, uint64_t unit, uint64_t nunits);

/* Runs. */
int ph_class_refill(struct ph_heap *h, struct ph_class *c);
int ph_run_adopt(struct ph_heap *h, uint64_t head, uint32_t class_index);
void ph_run_discard(struct ph_heap *h, uint64_t head);

void ph_run_freed(struct ph_heap *h, uint64_t head, uint64_t word, uint64_t bits);
void ph_run_released(struct ph_heap *h, uint64_t head, uint64_t word, uint64_t bit);
int ph_run_may_go(struct ph_heap *h);

static inline uint32_t ph_run_occupied(const struct ph_unit *run)
{
    return (uint32_t)run->u.run.live + run->u.run.held;
}

/* Withheld blocks: the words of the bits table that have some. */
struct ph_held_word *ph_held_find(const struct ph_heap *h, uint64_t word);
struct ph_held_word *ph_held_make(struct ph_heap *h, uint64_t word);
void ph_held_settle(struct ph_heap *h, struct ph_held_word *held);
uint64_t ph_held_bits(const struct ph_heap *h, uint64_t word);

static inline uint64_t ph_withheld(const struct ph_heap *h, uint64_t word)
{
    return PH_LIKELY(h->held.used == 0) ? 0 : ph_held_bits(h, word);
}

/* Free blocks of the run at `head` that begin in word `word` of the bits table. */
static inline uint64_t ph_free_mask(const struct ph_heap *h, const struct ph_class *c, uint64_t head, uint64_t word)
{
    return c->starts[word - head * PH_UNIT_WORDS] & ~h->bits[word] & ~ph_withheld(h, word);
}

/* Blocks. */
struct ph_unit *ph_block_at(struct ph_heap *h, uint64_t offset);
void ph_block_free(struct ph_heap *h, uint64_t offset, struct ph_unit *record);
struct ph_unit *ph_record_of(struct ph_heap *h, uint64_t offset);
void ph_block_retire(struct ph_heap *h, uint64_t offset);
void ph_withheld_free(struct ph_heap *h, uint64_t offset);

static inline uint64_t ph_capacity_of(const struct ph_heap *h, const struct ph_unit *record)
{
    return record->state == PH_U_RUN ? h->classes[record->class_index].granules * PH_GRANULE
                                     : (uint64_t)record->nunits << PH_UNIT_SHIFT;
}

/* The stamp of one unit, where its chunk has bytes: most of what is freed is short. */
static inline int ph_age_one(struct ph_ages *ages, uint64_t unit)
{
    uint64_t index = (unit >> PH_AGE_SHIFT) - ages->first;
    if (index >= ages->count || !ages->chunks[index].differ)
        return 0;
    ages->chunks[index].stamps[unit & (PH_AGE_UNITS - 1)] = ages->interval;
    return 1;
}

/* Units have become free: if it is much, the next call that frees nothing looks at the clock, whenever it comes. */
static inline void ph_count_freed(struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    h->freed_units += nunits;
    h->freed_since += (uint32_t)nunits;
    if (h->freed_since >= PH_FREED_MUCH) {
        h->freed_since = 0;
        h->until_look = 1;
    }
    if (nunits != 1 || !ph_age_one(&h->ages, unit))
        ph_ages_freed(&h->ages, unit, nunits);
}

/* Large blocks. */
int64_t ph_large_take(struct ph_heap *h, uint64_t size, uint64_t align);
void ph_large_set(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes);
void ph_large_clear(struct ph_heap *h, uint64_t unit);
void ph_large_resize(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes);
void ph_give_back(struct ph_heap *h, uint64_t unit, uint64_t nunits);
void ph_quarantine_units(struct ph_heap *h, uint64_t unit, uint64_t nunits);
void ph_large_publish(struct ph_heap *h, struct ph_unit *head);
void ph_large_quarantine(struct ph_heap *h, struct ph_unit *head);
void ph_large_release(struct ph_heap *h, struct ph_unit *head);

/* Marks. */
static inline int ph_is_marked(const struct ph_unit *record)
{
    return record->state == PH_U_RUN ? record->u.run.marks != 0 : record->marked != 0;
}
int ph_mark_refusal(const struct ph_heap *h, uint64_t offset);
void ph_mark_stale(struct ph_heap *h, uint64_t offset);
int ph_mark_end(struct ph_heap *h, uint64_t offset);
int ph_mark_waits(struct ph_heap *h, uint64_t offset);

/* Units that were not read yet (a heap that was opened a moment ago). */
int ph_scan_unit(struct ph_heap *h, uint64_t unit);

#endif
