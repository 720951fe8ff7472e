/* block/tracker.c -- the table of the blocks that live, and what is told of each change in it.
 *
 * An address of 0 is that of a block which is not traced. */
#include <stdlib.h>

#include "block/block.h"

static struct ph_tracked *find(const struct ph_tracker *t, uint64_t offset)
{
    return ph_hash_find(&t->blocks, sizeof(struct ph_tracked), offset + 1);
}

/* The slot of a block, which may be a new one; NULL: there is no memory. */
static struct ph_tracked *find_or_make(struct ph_tracker *t, uint64_t offset)
{
    struct ph_tracked *block = find(t, offset);
    if (block != NULL)
        return block;
    return ph_hash_room(&t->blocks, sizeof *block, 1) < 0 ? NULL : ph_hash_place(&t->blocks, sizeof *block, offset + 1);
}

/* ---------------------------------------------------------------- tracemalloc */

static void set_traced(struct ph_tracker *t, struct ph_tracked *block, int is_traced)
{
    t->traced += (uint64_t)is_traced - block->is_traced;
    block->is_traced = (uint16_t)is_traced;
}

static void trace(struct ph_tracker *t, struct ph_tracked *block, uint64_t address)
{
    set_traced(t, block, t->trace != NULL && address != 0 && t->trace(address, block->size));
}

static void untrace(struct ph_tracker *t, struct ph_tracked *block, uint64_t address)
{
    if (PH_LIKELY(!block->is_traced))
        return;
    set_traced(t, block, 0);
    t->untrace(address);
}

/* ---------------------------------------------------------------- what becomes of a block */

void ph_track(struct ph_tracker *t, uint64_t offset, uint64_t size, uint32_t site, uint64_t address)
{
    struct ph_tracked *block = site == 0 ? NULL : find_or_make(t, offset);
    if (PH_UNLIKELY(block == NULL)) {
        ph_track_freed(t, offset, address); /* one that was there before has gone unseen */
        t->forgotten++;
        return;
    }
    int is_written = block->size == size && block->site == site;
    block->size = size;
    block->site = site;
    block->is_found = 0;
    trace(t, block, address);
    if (!is_written)
        ph_track_file_made(&t->file, offset, size, site);
}

void ph_track_made(struct ph_tracker *t, uint64_t offset, uint64_t size, uint64_t address)
{
    ph_track(t, offset, size, t->site_of == NULL ? 0 : t->site_of(t), address);
}

static void forget(struct ph_tracker *t, struct ph_tracked *block, uint64_t address)
{
    untrace(t, block, address);
    ph_track_file_freed(&t->file, block->key - 1);
    ph_hash_remove(&t->blocks, sizeof *block, block);
}

void ph_track_freed(struct ph_tracker *t, uint64_t offset, uint64_t address)
{
    struct ph_tracked *block = find(t, offset);
    if (block != NULL)
        forget(t, block, address);
}

void ph_track_resized(struct ph_tracker *t, uint64_t offset, uint64_t size, uint64_t address)
{
    const struct ph_tracked *block = find(t, offset);
    if (block != NULL && block->size != size)
        ph_track(t, offset, size, block->site, address);
}

void ph_track_expanded(struct ph_tracker *t, uint64_t offset, uint64_t size, uint64_t address)
{
    const struct ph_tracked *block = find(t, offset);
    if (block != NULL && block->size < size)
        ph_track(t, offset, size, block->site, address);
}

/* ---------------------------------------------------------------- many blocks */

/* Whether slot `i` has a block of an arena. */
static struct ph_tracked *slot_of_arena(const struct ph_tracker *t, uint64_t i, uint64_t arena)
{
    struct ph_tracked *block = (struct ph_tracked *)t->blocks.slots + i;
    return block->key != 0 && (block->key - 1) >> PH_ARENA_SHIFT == arena ? block : NULL;
}

void ph_track_dropped(struct ph_tracker *t, uint64_t arena, uint64_t data)
{
    for (uint64_t i = 0; i < t->blocks.capacity;) {
        struct ph_tracked *block = slot_of_arena(t, i, arena);
        if (block == NULL)
            i++;
        else /* others may come to its slot */
            forget(t, block, data + ph_local(block->key - 1));
    }
}

/* Whether one of those who stay traces a block too. */
static int is_traced_by(struct ph_tracker *const *others, uint64_t offset)
{
    for (; *others != NULL; others++) {
        const struct ph_tracked *block = find(*others, offset);
        if (block != NULL && block->is_traced)
            return 1;
    }
    return 0;
}

void ph_track_left(struct ph_tracker *t, uint64_t arena, uint64_t data, struct ph_tracker *const *others)
{
    for (uint64_t i = 0; t->traced != 0 && i < t->blocks.capacity; i++) {
        struct ph_tracked *block = slot_of_arena(t, i, arena);
        if (block == NULL || !block->is_traced)
            continue;
        if (is_traced_by(others, block->key - 1))
            set_traced(t, block, 0);
        else
            untrace(t, block, data + ph_local(block->key - 1));
    }
}

void ph_track_clear(struct ph_tracker *t)
{
    free(t->blocks.slots);
    t->blocks = (struct ph_hash_table){0};
    t->forgotten = 0;
}
