/* journal/dirty.c -- who is told of the stores to persistent words: the tape of a test, and the log of a
 * power heap, which takes the words that changed and the blocks that were freed from two lists.
 *
 * Room in a list is reserved before anything is changed, so that noting cannot fail. */
#include <stdlib.h>

#include "journal/journal.h"

enum { PH_NOTES_MIN = 1024, PH_LAST_LOOKED = 4 };

void ph_set_durability(struct ph_heap *h, uint32_t durability)
{
    h->durability = durability;
}

/* Calls on one block after the other store to the same few words. */
static int is_among_the_last(const struct ph_dirty *list, const uint64_t *at)
{
    for (uint64_t i = list->count; i > 0 && i + PH_LAST_LOOKED > list->count; i--)
        if (list->words[i - 1] == at)
            return 1;
    return 0;
}

/* ph_note -- a store is about to happen. */
void ph_note(struct ph_heap *h, uint64_t *at, uint64_t value)
{
    PH_ASSERT(h->durability != PH_POWER || h->dirty.count < h->dirty.capacity || is_among_the_last(&h->dirty, at));
    if (h->durability == PH_POWER && !is_among_the_last(&h->dirty, at))
        h->dirty.words[h->dirty.count++] = at;
    if (ph_tape_on())
        ph_tape_store(at, &value, sizeof value);
}

void ph_freed_add(struct ph_heap *h, uint64_t offset, uint64_t nbytes)
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

int ph_dirty_reserve(struct ph_heap *h, uint64_t count)
{
    struct ph_dirty *list = &h->dirty;
    if (h->durability != PH_POWER)
        return 0;
    return grow((void **)&list->words, &list->capacity, list->count + count, sizeof *list->words);
}

int ph_freed_reserve(struct ph_heap *h, uint64_t count)
{
    struct ph_freed_list *list = &h->freed;
    if (h->durability != PH_POWER)
        return 0;
    return grow((void **)&list->items, &list->capacity, list->count + count, sizeof *list->items);
}
