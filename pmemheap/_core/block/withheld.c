/* block/pending.c -- the table of withheld blocks: those of runs that are neither live nor free.
 *
 * Open addressing, keyed by the index of a word of the bits table; a word is in it as long as one of its blocks is
 * reserved or quarantined. The record of the run counts them, so that a run with one is neither full nor empty
 * by its bits alone. */
#include <stdlib.h>

#include "block/block.h"

enum { PH_WITHHELD_MIN = 64 };

static uint64_t slot_of(const struct ph_withheld *t, uint64_t word)
{
    return (word * 0x9E3779B97F4A7C15ULL >> 20) & (t->capacity - 1);
}

struct ph_withheld_word *ph_withheld_find(const struct ph_heap *h, uint64_t word)
{
    const struct ph_withheld *t = &h->withheld;
    if (t->used == 0)
        return NULL;
    for (uint64_t i = slot_of(t, word);; i = (i + 1) & (t->capacity - 1)) {
        if (t->slots[i].key == 0)
            return NULL;
        if (t->slots[i].key == word + 1)
            return &t->slots[i];
    }
}

static struct ph_withheld_word *place(struct ph_withheld *t, struct ph_withheld_word withheld)
{
    uint64_t i = slot_of(t, withheld.key - 1);
    while (t->slots[i].key != 0)
        i = (i + 1) & (t->capacity - 1);
    t->slots[i] = withheld;
    return &t->slots[i];
}

int ph_withheld_reserve(struct ph_heap *h, uint64_t count)
{
    struct ph_withheld *t = &h->withheld;
    uint64_t needed = t->used + count, capacity = t->capacity ? t->capacity : PH_WITHHELD_MIN;
    while (needed > capacity / 4 * 3)
        capacity *= 2;
    if (capacity == t->capacity)
        return 0;
    struct ph_withheld wider = *t;
    wider.capacity = capacity;
    wider.slots = calloc(capacity, sizeof *wider.slots);
    if (wider.slots == NULL)
        return PH_H_NOMEM;
    for (uint64_t i = 0; i < t->capacity; i++)
        if (t->slots[i].key != 0)
            place(&wider, t->slots[i]);
    free(t->slots);
    *t = wider;
    return 0;
}

/* ph_withheld_make -- the slot of a word, for which the caller has reserved room. */
struct ph_withheld_word *ph_withheld_make(struct ph_heap *h, uint64_t word)
{
    struct ph_withheld_word *withheld = ph_withheld_find(h, word);
    if (withheld != NULL)
        return withheld;
    h->withheld.used++;
    return place(&h->withheld, (struct ph_withheld_word){.key = word + 1});
}

/* ph_withheld_drop_if_none -- drop a word of which no block is withheld any more, and close the gap in its chain. */
void ph_withheld_drop_if_none(struct ph_heap *h, struct ph_withheld_word *withheld)
{
    struct ph_withheld *t = &h->withheld;
    if (withheld->reserved | withheld->freed)
        return;
    t->used--;
    uint64_t hole = (uint64_t)(withheld - t->slots), mask = t->capacity - 1;
    for (uint64_t i = (hole + 1) & mask; t->slots[i].key != 0; i = (i + 1) & mask) {
        uint64_t home = slot_of(t, t->slots[i].key - 1);
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            t->slots[hole] = t->slots[i];
            hole = i;
        }
    }
    t->slots[hole] = (struct ph_withheld_word){0};
}

uint64_t ph_withheld_bits(const struct ph_heap *h, uint64_t word)
{
    const struct ph_withheld_word *withheld = ph_withheld_find(h, word);
    return withheld == NULL ? 0 : withheld->reserved | withheld->freed;
}

/* ph_room_to_retire -- room everywhere for bare calls that free `count` blocks of a power heap. */
int ph_room_to_retire(struct ph_heap *h, uint64_t count)
{
    return ph_withheld_reserve(h, count) < 0 ? PH_H_NOMEM : ph_journal_reserve(h, 2 * count, count);
}
