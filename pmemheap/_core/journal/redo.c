/* journal/redo.c -- the journal of a power heap: the log takes what bare calls changed from two lists, of the words that were
 * stored to and of the blocks that were freed. */
#include <stdlib.h>

#include "journal/journal.h"

enum { PH_NOTES_MIN = 1024, PH_LAST_LOOKED = 4 };

/* Calls on one block after the other store to the same few words. */
static int is_among_the_last(const struct ph_dirty *list, const uint64_t *at)
{
    for (uint64_t i = list->count; i > 0 && i + PH_LAST_LOOKED > list->count; i--)
        if (list->words[i - 1] == at)
            return 1;
    return 0;
}

static void store(struct ph_heap *h, uint64_t *at)
{
    if (is_among_the_last(&h->dirty, at))
        return;
    PH_ASSERT(h->dirty.count < h->dirty.capacity);
    h->dirty.words[h->dirty.count++] = at;
}

static void freed(struct ph_heap *h, uint64_t offset, uint64_t nbytes)
{
    PH_ASSERT(h->freed.count < h->freed.capacity);
    h->freed.items[h->freed.count++] = (struct ph_freed){offset, nbytes};
}

/* Room for `needed` items of `size` bytes. */
static int grow(void **items, uint64_t *capacity, uint64_t needed, size_t size)
{
    if (PH_LIKELY(needed <= *capacity))
        return 0;
    uint64_t wider = *capacity ? *capacity : PH_NOTES_MIN;
    while (wider < needed)
        wider *= 2;
    void *moved = realloc(*items, wider * size);
    if (moved == NULL)
        return PH_H_NOMEM;
    *items = moved;
    *capacity = wider;
    return 0;
}

static int reserve(struct ph_heap *h, uint64_t stores, uint64_t frees)
{
    struct ph_dirty *words = &h->dirty;
    struct ph_freed_list *blocks = &h->freed;
    if (grow((void **)&words->words, &words->capacity, words->count + stores, sizeof *words->words) < 0)
        return PH_H_NOMEM;
    return grow((void **)&blocks->items, &blocks->capacity, blocks->count + frees, sizeof *blocks->items);
}

const struct ph_journal ph_journal_redo = {
    .durability = PH_POWER, .is_told = 1, .withholds = 1, .reserve = reserve, .store = store, .freed = freed,
};
