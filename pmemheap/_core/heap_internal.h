/* heap_internal.h -- what the files of the allocator core share. */
#ifndef PH_HEAP_INTERNAL_H
#define PH_HEAP_INTERNAL_H

#include "heap.h"
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

/* The one way by which this core changes a persistent word. */
static inline void ph_store(struct ph_heap *h, uint64_t *at, uint64_t value)
{
    if (PH_UNLIKELY(h->recorder != NULL))
        ph_record(h->recorder, at, value);
    if (ph_tape_on())
        ph_tape_store(at, &value, 8);
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

static inline uint64_t ph_entry_word(uint8_t kind, uint8_t class_index, uint32_t nunits)
{
    return (uint64_t)kind | (uint64_t)class_index << 8 | (uint64_t)nunits << 32;
}

static inline void ph_entry_publish(struct ph_heap *h, uint64_t unit, uint64_t word, uint64_t nbytes)
{
    if (h->entries == NULL)
        return;
    uint64_t *words = (uint64_t *)&h->entries[unit];
    if (words[1] != nbytes)
        ph_store(h, &words[1], nbytes);
    ph_store(h, &words[0], word);
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
int64_t ph_limbo_take(struct ph_heap *h, uint64_t nunits);
void ph_pool_give(struct ph_heap *h, uint64_t start, uint64_t nunits);
uint64_t ph_pool_room_before(const struct ph_heap *h, uint64_t unit);
void ph_pool_take_after(struct ph_heap *h, uint64_t unit, uint64_t nunits);
void ph_pool_take_before(struct ph_heap *h, uint64_t unit, uint64_t nunits);

/* Runs. */
int ph_class_refill(struct ph_heap *h, struct ph_class *c);
int ph_run_adopt(struct ph_heap *h, uint64_t head, uint32_t class_index);
void ph_run_discard(struct ph_heap *h, uint64_t head);

void ph_run_freed(struct ph_heap *h, uint64_t head, uint64_t word, uint64_t bits);

/* Blocks. */
struct ph_unit *ph_block_at(struct ph_heap *h, uint64_t offset);
void ph_block_free(struct ph_heap *h, uint64_t offset, struct ph_unit *record);
void ph_large_dress(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes);

/* Marks. */
static inline int ph_is_marked(const struct ph_unit *record)
{
    return record->state == PH_U_RUN ? record->u.run.marks != 0 : record->marked != 0;
}
int ph_mark_refusal(const struct ph_heap *h, uint64_t offset);
void ph_mark_forget(struct ph_heap *h, uint64_t offset);

/* Units that were not read yet (a heap that was opened a moment ago). */
int ph_boot_unit(struct ph_heap *h, uint64_t unit);

#endif
