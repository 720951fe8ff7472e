/* block/refs.c -- what this process knows of single blocks: live views, handles, pins, roots.
 *
 * A table by offset: only blocks that have one of them are in it, and the record of their run or extent says so, so that
 * free() looks here only when it must. */
#include "block/guard.h"

static struct ph_refs *find(const struct ph_refs_table *t, uint64_t offset)
{
    return ph_hash_find(&t->blocks, sizeof(struct ph_refs), offset + 1);
}

const struct ph_refs *ph_refs_find(const struct ph_heap *h, uint64_t offset)
{
    return find(&h->refs, offset);
}

/* ph_refs_reserve -- room for the refs of so many blocks more, or PH_H_NOMEM. */
int ph_refs_reserve(struct ph_heap *h, uint64_t count)
{
    return ph_hash_room(&h->refs.blocks, sizeof(struct ph_refs), count) < 0 ? PH_H_NOMEM : 0;
}

static void count_refs(struct ph_unit *record, int by)
{
    if (record->state == PH_U_RUN)
        record->u.run.refs = (uint16_t)(record->u.run.refs + by);
    else
        record->has_refs = (uint32_t)((int)record->has_refs + by);
}

/* The refs of a block that is not free, made if there is none. */
static int refs_made(const struct ph_block *block, struct ph_refs **refs)
{
    struct ph_heap *h = block->arena;
    if (block->state == PH_B_NONE)
        return PH_H_BAD_OFFSET;
    *refs = find(&h->refs, block->offset);
    if (*refs != NULL)
        return (*refs)->is_released ? PH_H_BAD_OFFSET : 0;
    if (ph_refs_reserve(h, 1) < 0)
        return PH_H_NOMEM;
    *refs = ph_hash_place(&h->refs.blocks, sizeof(struct ph_refs), block->offset + 1);
    if (block->record != NULL) /* what stands for all rows has none */
        count_refs(block->record, 1);
    return 0;
}

/* Those of a block that is live or reserved. */
static int refs_of_visible(const struct ph_block *block, struct ph_refs **refs)
{
    return ph_is_visible(block) ? refs_made(block, refs) : PH_H_BAD_OFFSET;
}

static void drop(struct ph_heap *h, struct ph_refs *refs)
{
    struct ph_block block = ph_block_known(h, refs->key - 1, PH_B_LIVE);
    if (block.record != NULL) /* there is none when the heap was closed before the handle went */
        count_refs(block.record, -1);
    ph_hash_remove(&h->refs.blocks, sizeof *refs, refs);
}

static void drop_if_idle(struct ph_heap *h, struct ph_refs *refs)
{
    if (refs->views == 0 && refs->handles == 0 && refs->pins == 0 && !refs->is_rooted)
        drop(h, refs);
}

/* A view or a pin has gone: whether that was the last one of a block that was freed, whose space is to become free. What was
 * just stored is not read again: a load that spans two stores waits for both. */
static int was_last(struct ph_heap *h, struct ph_refs *refs)
{
    if (refs->views != 0 || refs->pins != 0)
        return 0;
    int is_released = refs->is_released;
    if (is_released || (refs->handles == 0 && !refs->is_rooted))
        drop(h, refs);
    return is_released;
}

/* ph_view_pin -- a view of a block begins. The block may have been freed by a commit of which not all is home yet: what
 * is committed still leads to it. Then it waits for that, and from now on for the view as well. */
int ph_view_pin(const struct ph_block *block)
{
    struct ph_refs *refs;
    int failure = refs_made(block, &refs);
    if (failure < 0)
        return failure;
    refs->views++;
    block->arena->refs.views++;
    return 0;
}

int ph_refs_view_gone(struct ph_heap *h, uint64_t offset)
{
    struct ph_refs *refs = find(&h->refs, offset);
    PH_ASSERT(refs != NULL && refs->views != 0);
    h->refs.views--;
    refs->views--;
    return was_last(h, refs);
}

static int pin(const struct ph_block *block, unsigned changes)
{
    struct ph_refs *refs;
    int failure = refs_of_visible(block, &refs);
    if (failure < 0)
        return failure;
    refs->pins++;
    refs->changes += changes;
    block->arena->refs.pins++;
    return 0;
}

/* ph_pin -- an open transaction holds the live or reserved block [R26]. */
int ph_pin(const struct ph_block *block)
{
    return pin(block, 0);
}

/* ph_pin_change -- the same, and it is about to change bytes of it: only one transaction at a time may. */
int ph_pin_change(const struct ph_block *block)
{
    return pin(block, 1);
}

/* A heap that was closed while a transaction waited for its sync has no refs any more. */
int ph_refs_pin_gone(struct ph_heap *h, uint64_t offset, int changes)
{
    struct ph_refs *refs = find(&h->refs, offset);
    if (refs == NULL)
        return 0;
    PH_ASSERT(refs->pins != 0 && refs->changes >= (unsigned)changes);
    refs->changes -= (unsigned)changes;
    h->refs.pins--;
    refs->pins--;
    return was_last(h, refs);
}

/* Put a block among those of lowest offset, in order, of which `capacity` are kept. */
static void insert_lowest(struct ph_viewed *found, uint64_t *count, uint64_t capacity, struct ph_viewed one)
{
    uint64_t at = *count < capacity ? (*count)++ : capacity;
    for (; at > 0 && found[at - 1].offset > one.offset; at--)
        if (at < capacity)
            found[at] = found[at - 1];
    if (at < capacity)
        found[at] = one;
}

/* ph_viewed -- how many blocks have live views; those of lowest offset, `capacity` at most, go to `found`. O(refs). */
uint64_t ph_viewed(const struct ph_heap *h, struct ph_viewed *found, uint64_t capacity)
{
    uint64_t total = 0, count = 0;
    const struct ph_refs *refs = (const struct ph_refs *)h->refs.blocks.slots;
    for (const struct ph_refs *end = refs + h->refs.blocks.capacity; refs < end; refs++) {
        if (refs->key == 0 || refs->views == 0)
            continue;
        insert_lowest(found, &count, capacity, (struct ph_viewed){refs->key - 1, refs->views});
        total++;
    }
    return total;
}

/* ph_handle_make -- the serial number of this life of the block, one more handle to it. */
int64_t ph_handle_make(struct ph_heap *h, uint64_t offset)
{
    struct ph_block block = ph_block_at(h, offset);
    struct ph_refs *refs;
    int failure = refs_of_visible(&block, &refs);
    if (failure < 0)
        return failure;
    if (refs->serial == 0)
        refs->serial = ++h->refs.serial;
    refs->handles++;
    return (int64_t)refs->serial;
}

int ph_handle_valid(const struct ph_heap *h, uint64_t offset, uint64_t serial)
{
    const struct ph_refs *refs = find(&h->refs, offset);
    return refs != NULL && refs->serial == serial;
}

void ph_handle_drop(struct ph_heap *h, uint64_t offset, uint64_t serial)
{
    struct ph_refs *refs = find(&h->refs, offset);
    if (refs == NULL || refs->serial != serial)
        return;
    refs->handles--;
    if (refs->handles == 0)
        refs->serial = 0;
    drop_if_idle(h, refs);
}

/* ph_set_rooted -- a root names the live or reserved block at `offset`, or none does any more. */
int ph_set_rooted(struct ph_heap *h, uint64_t offset, int rooted)
{
    struct ph_refs *refs = find(&h->refs, offset);
    if (rooted) {
        struct ph_block block = ph_block_at(h, offset);
        int failure = refs_of_visible(&block, &refs);
        if (failure < 0)
            return failure;
    }
    if (refs == NULL)
        return 0;
    refs->is_rooted = rooted != 0;
    drop_if_idle(h, refs);
    return 0;
}

/* ph_forget_roots -- no root names anything, until ph_set_rooted says so again. A refs that goes may bring another one
 * to its slot. */
void ph_forget_roots(struct ph_heap *h)
{
    const struct ph_refs *refs = (const struct ph_refs *)h->refs.blocks.slots;
    for (const struct ph_refs *end = refs + h->refs.blocks.capacity; refs < end; refs++)
        while (refs->is_rooted)
            ph_set_rooted(h, refs->key - 1, 0);
}

static int refusal_of(const struct ph_refs *refs)
{
    if (refs->is_rooted)
        return PH_H_ROOTED;
    return refs->pins != 0 ? PH_H_IN_TRANSACTION : refs->views != 0 ? PH_H_PINNED : 0;
}

static void make_stale(struct ph_heap *h, struct ph_refs *refs)
{
    refs->handles = 0;
    refs->serial = 0;
    refs->is_rooted = 0;
    drop_if_idle(h, refs);
}

static struct ph_refs *refs_of(const struct ph_block *block)
{
    return ph_has_refs(block->record) ? find(&block->arena->refs, block->offset) : NULL;
}

/* ph_refs_held -- what holds a live block: PH_H_ROOTED, PH_H_IN_TRANSACTION, PH_H_PINNED, PH_H_DAMAGED, or 0. */
int ph_refs_held(const struct ph_block *block)
{
    const struct ph_refs *refs = refs_of(block);
    int refused = refs == NULL ? 0 : refusal_of(refs);
    return refused == 0 ? ph_guard_refusal(block) : refused;
}

/* ph_refs_refusal -- why it may not go or move: that, or PH_H_IN_REGION. */
int ph_refs_refusal(const struct ph_block *block)
{
    return ph_heads_region(block) ? PH_H_IN_REGION : ph_refs_held(block);
}

/* ph_refs_make_stale -- the block goes: its handles are stale from now on, and no root names it. */
void ph_refs_make_stale(const struct ph_block *block)
{
    struct ph_refs *refs = refs_of(block);
    if (refs != NULL)
        make_stale(block->arena, refs);
}

/* ph_refs_end -- the same if the block may go, else the refusal. */
int ph_refs_end(const struct ph_block *block)
{
    struct ph_refs *refs = refs_of(block);
    int refused = ph_refs_refusal(block);
    if (refs != NULL && refused == 0)
        make_stale(block->arena, refs);
    return refused;
}

/* ph_refs_keep -- whether views or pins keep the space of a quarantined block: then it goes with the last of them. */
int ph_refs_keep(const struct ph_block *block)
{
    struct ph_refs *refs = refs_of(block);
    if (refs == NULL)
        return 0;
    refs->is_released = 1;
    return 1;
}
