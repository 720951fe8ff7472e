/* journal/journal.h -- the one way by which the allocator changes a persistent word, and who is told of it.
 */
#pragma once
#include "base/checked.h"
#include "base/heap.h"
#include "base/hints.h"
#include "os/tape.h"

/* Stores of one call at the most: empty runs that go, a new run with stray bits in it, and the block. */
enum { PH_STORES_MOST = 2 * PH_CLASSES_MAX + PH_RUN_UNITS_MAX * PH_UNIT_WORDS + 8 };

/* ph_journal -- who is told of what a bare call stores and frees. An arena has one of these: none, direct, redo; or one of the last
 * two with tags, as long as there may be readers of snapshots. */
struct ph_journal {
    uint32_t durability; /* enum ph_durability: what a change outlives */
    uint32_t is_told;    /* of each store before it happens */
    uint32_t withholds;  /* what is freed: it waits for a release, for its record [R6], or for those who may read it [Q3] */
    uint32_t may_move;   /* a block may move: nobody can find one of the two stores without the other */
    uint32_t repeats;    /* a word that a record has changed may be stored once more after a release of what that freed */
    uint32_t is_tagged;  /* what is freed waits on when its record is home: with a tag, until it is recycled [Q3] */
    /* reserve -- room for so many stores and frees, which then cannot fail; PH_H_NOMEM. */
    int (*reserve)(struct ph_heap *h, uint64_t stores, uint64_t frees);
    void (*store)(struct ph_heap *h, uint64_t *at);
    void (*freed)(struct ph_heap *h, uint64_t offset, uint64_t nbytes);
};
extern const struct ph_journal ph_journal_redo, ph_journal_direct_tagged, ph_journal_redo_tagged;

/* ph_set_journal -- that of a durability, with tags if there is an era. */
void ph_set_journal(struct ph_heap *h, enum ph_durability durability);

/* ph_tags_room -- room for so many tags more; PH_H_NOMEM. ph_tag -- a tag for what was freed; pre: room. ph_tag_awaited -- the same when
 * the record of a free that is awaited is home. ph_tags_take -- the oldest tag, if its era is below a bound. ph_is_tagged -- whether a
 * byte of a range has a tag; O(tags). */
PH_SELDOM int ph_tags_widen(struct ph_tags *tags, uint64_t needed);
static inline int ph_tags_room(struct ph_tags *tags, uint64_t more)
{
    uint64_t needed = tags->count + tags->awaited + more;
    return PH_LIKELY(needed <= tags->capacity) ? 0 : ph_tags_widen(tags, needed);
}
void ph_tag(struct ph_tags *tags, uint64_t offset, uint64_t nbytes);
void ph_tag_awaited(struct ph_tags *tags, uint64_t offset, uint64_t nbytes);
int ph_tags_take(struct ph_tags *tags, uint64_t bound, struct ph_tag *tag);
int ph_is_tagged(const struct ph_tags *tags, uint64_t offset, uint64_t nbytes);
void ph_tags_fini(struct ph_tags *tags);

/* ph_tags_at -- one of them, by age. */
static inline const struct ph_tag *ph_tags_at(const struct ph_tags *tags, uint64_t index)
{
    return &tags->items[(tags->first + index) & (tags->capacity - 1)];
}

/* ph_units_are_untagged, ph_bits_are_untagged -- whether nothing that was freed in units, or in the blocks that begin at bits of a word,
 * has a tag; O(tags), for what a checked core asserts. */
static inline int ph_units_are_untagged(const struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    return !ph_is_tagged(&h->tags, unit << PH_UNIT_SHIFT, nunits << PH_UNIT_SHIFT);
}

static inline int ph_bits_are_untagged(const struct ph_heap *h, uint64_t word, uint64_t bits)
{
    for (; bits != 0; bits &= bits - 1)
        if (ph_is_tagged(&h->tags, ph_offset_of(word, bits), PH_GRANULE))
            return 0;
    return 1;
}

static inline int ph_journal_reserve(struct ph_heap *h, uint64_t stores, uint64_t frees)
{
    return PH_LIKELY(!h->is_told) ? 0 : h->journal->reserve(h, stores, frees);
}

/* ph_note -- a store is about to happen: the journal is told, and the tape of a test. */
void ph_note(struct ph_heap *h, uint64_t *at, uint64_t value);

/* The one way by which this core changes a persistent word; in a power heap room to note it is reserved before. */
static inline void ph_store(struct ph_heap *h, uint64_t *at, uint64_t value)
{
    if (PH_UNLIKELY(h->is_told || ph_tape_on()))
        ph_note(h, at, value);
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

/* The same, which reserves the room itself: PH_H_NOMEM with nothing stored. */
static inline int ph_try_store(struct ph_heap *h, uint64_t *at, uint64_t value)
{
    if (PH_UNLIKELY(h->is_told || ph_tape_on())) {
        if (ph_journal_reserve(h, 1, 0) < 0)
            return PH_H_NOMEM;
        ph_note(h, at, value);
    }
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
    return 0;
}

enum { PH_ENTRY_FLAGS_AT = 16 }; /* the first bit of the flags, in the first word */

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
