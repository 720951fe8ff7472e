/* block/changes.c -- of an arena whose blocks lie where a `Space` of the user says: what that was not told yet.
 *
 *     a piece is freed, a chunk is made --> change --> Space.deallocate      before it is asked the next time
 *     a chunk goes                      --> change --> Space.take
 *
 * A free cannot fail. Where there is no memory for one more of them, or there are too many, they are lost: then the `Space` is made
 * anew, and told all that is free. */
#include <stdlib.h>

#include "block/block.h"

enum { PH_CHANGES_LEAST = 64, PH_CHANGES_MOST = 1 << 14 };

static int widen(struct ph_changes *changes)
{
    uint64_t wider = changes->capacity ? 2 * changes->capacity : PH_CHANGES_LEAST;
    void *moved = wider > PH_CHANGES_MOST ? NULL : realloc(changes->items, wider * sizeof *changes->items);
    if (moved == NULL)
        return -1;
    changes->items = moved;
    changes->capacity = wider;
    return 0;
}

/* ph_note_change -- the granules of the table from `start` to `end` became free, or were taken. */
void ph_note_change(struct ph_heap *h, uint64_t start, uint64_t end, int is_free)
{
    const uint64_t step = PH_STEP / PH_GRANULE;
    struct ph_changes *changes = &h->changes;
    if (changes->count == changes->capacity && widen(changes) < 0)
        changes->is_lost = 1;
    if (!changes->is_lost)
        changes->items[changes->count++] = (struct ph_change){start / step, (end - start) / step, (uint32_t)is_free};
}
