/* journal/journal.h -- the one way by which the allocator changes a persistent word, and who is told of it.
 *
 * Reserving guarantees room, or says PH_H_NOMEM with nothing changed. */
#pragma once
#include "base/checked.h"
#include "base/heap.h"
#include "base/hints.h"
#include "os/tape.h"

/* Stores of one call at the most: empty runs that go, a new run with stray bits in it, and the block. */
enum { PH_STORES_MOST = 2 * PH_CLASSES_MAX + PH_RUN_UNITS_MAX * PH_UNIT_WORDS + 8 };

void ph_set_durability(struct ph_heap *h, uint32_t durability);
int ph_dirty_reserve(struct ph_heap *h, uint64_t count);
int ph_freed_reserve(struct ph_heap *h, uint64_t count);

void ph_note(struct ph_heap *h, uint64_t *at, uint64_t value);
void ph_freed_add(struct ph_heap *h, uint64_t offset, uint64_t nbytes);

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
