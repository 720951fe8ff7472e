/* journal/tags.c -- what was freed in a heap that may have readers of snapshots [Q3].
 *
 *     oldest                                        newest
 *     | era 5: 0x1000, 64 | era 5: ... | era 7: ... |          a ring; eras ascend
 *       ^ taken by a recycle below an era             ^ when the free is home: at once in a process heap, with its record in others
 *
 * A block with a tag is quarantined, and no call gets it before it is recycled. Room for its tag is made before its free. Volatile:
 * the next opening finds it free. */
#include <stdlib.h>

#include "journal/journal.h"

enum { PH_TAGS_MIN = 256 };

/* A longer ring, which begins with the oldest tag. */
int ph_tags_widen(struct ph_tags *tags, uint64_t needed)
{
    uint64_t wider = tags->capacity ? tags->capacity : PH_TAGS_MIN;
    while (wider < needed)
        wider *= 2;
    struct ph_tag *items = malloc(wider * sizeof *items);
    if (items == NULL)
        return PH_H_NOMEM;
    for (uint64_t i = 0; i < tags->count; i++)
        items[i] = *ph_tags_at(tags, i);
    free(tags->items);
    tags->items = items;
    tags->capacity = wider;
    tags->first = 0;
    return 0;
}

/* Whether a range goes on where the newest tag ends, in its era. */
static int continues(const struct ph_tag *newest, uint64_t era, uint64_t offset)
{
    return newest->era == era && newest->offset + newest->nbytes == offset;
}

void ph_tag(struct ph_tags *tags, uint64_t offset, uint64_t nbytes)
{
    struct ph_tag *newest = tags->count == 0 ? NULL : (struct ph_tag *)ph_tags_at(tags, tags->count - 1);
    PH_ASSERT(!ph_is_tagged(tags, offset, nbytes));
    uint64_t era = tags->era->now;
    tags->bytes += nbytes;
    tags->era->freed += nbytes;
    if (newest != NULL && continues(newest, era, offset)) {
        newest->nbytes += nbytes;
        return;
    }
    PH_ASSERT(tags->count < tags->capacity && (newest == NULL || newest->era <= era));
    tags->items[(tags->first + tags->count++) & (tags->capacity - 1)] = (struct ph_tag){era, offset, nbytes};
}

/* A log that somebody has changed may free more than it did: that gets no tag, and stays in quarantine. */
void ph_tag_awaited(struct ph_tags *tags, uint64_t offset, uint64_t nbytes)
{
    if (tags->awaited == 0)
        return;
    tags->awaited--;
    ph_tag(tags, offset, nbytes);
}

int ph_tags_take(struct ph_tags *tags, uint64_t bound, struct ph_tag *tag)
{
    if (tags->count == 0 || ph_tags_at(tags, 0)->era >= bound)
        return 0;
    *tag = *ph_tags_at(tags, 0);
    tags->first = (tags->first + 1) & (tags->capacity - 1);
    tags->count--;
    tags->bytes -= tag->nbytes;
    return 1;
}

int ph_is_tagged(const struct ph_tags *tags, uint64_t offset, uint64_t nbytes)
{
    for (uint64_t i = 0; i < tags->count; i++) {
        const struct ph_tag *tag = ph_tags_at(tags, i);
        if (offset < tag->offset + tag->nbytes && tag->offset < offset + nbytes)
            return 1;
    }
    return 0;
}

void ph_tags_fini(struct ph_tags *tags)
{
    free(tags->items);
    *tags = (struct ph_tags){0};
}

/* ---------------------------------------------------------------- the journals with tags */

static int reserve_tags(struct ph_heap *h, uint64_t stores, uint64_t frees)
{
    (void)stores;
    return ph_tags_room(&h->tags, frees);
}

/* A store is home at once. */
static void store(struct ph_heap *h, uint64_t *at)
{
    (void)h;
    (void)at;
}

static void freed(struct ph_heap *h, uint64_t offset, uint64_t nbytes)
{
    ph_tag(&h->tags, offset, nbytes);
}

/* Nothing is released while its record is on its way home, so that no word of it is stored once more. */
const struct ph_journal ph_journal_direct_tagged = {
    .durability = PH_PROCESS, .withholds = 1, .is_tagged = 1, .reserve = reserve_tags, .store = store, .freed = freed,
};

static int reserve_both(struct ph_heap *h, uint64_t stores, uint64_t frees)
{
    return frees != 0 && ph_tags_room(&h->tags, frees) < 0 ? PH_H_NOMEM : ph_journal_redo.reserve(h, stores, frees);
}

static void store_for_record(struct ph_heap *h, uint64_t *at)
{
    ph_journal_redo.store(h, at);
}

static void freed_by_record(struct ph_heap *h, uint64_t offset, uint64_t nbytes)
{
    h->tags.awaited++;
    ph_journal_redo.freed(h, offset, nbytes);
}

const struct ph_journal ph_journal_redo_tagged = {
    .durability = PH_POWER, .is_told = 1, .withholds = 1, .is_tagged = 1, .reserve = reserve_both, .store = store_for_record,
    .freed = freed_by_record,
};
