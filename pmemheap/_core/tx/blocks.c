/* tx/blocks.c -- the blocks that a transaction reserves and frees. */
#include "tx/internal.h"

static int room_for_fresh(struct ph_tx *tx)
{
    if (tx->fresh.count >= UINT32_MAX - 1 || ph_tx_fresh_room(tx) < 0)
        return PH_L_NOMEM;
    return ph_list_room(&tx->fresh, 1, sizeof(struct ph_tx_block));
}

int ph_tx_own(struct ph_tx *tx, uint64_t offset)
{
    if (room_for_fresh(tx) < 0)
        return PH_L_NOMEM;
    struct ph_block block = ph_resolve_known(tx->log, offset, PH_B_RESERVED);
    uint64_t nbytes = ph_block_capacity(&block);
    ph_fresh(tx)[tx->fresh.count] = (struct ph_tx_block){.offset = offset, .nbytes = nbytes};
    ph_tx_fresh_enter(tx, tx->fresh.count++);
    ph_tx_count_fresh(tx, nbytes);
    return 0;
}

void ph_tx_say_node(struct ph_tx *tx)
{
    ph_fresh(tx)[tx->fresh.count - 1].is_node = 1;
}

void ph_tx_disown(const struct ph_log *log, uint64_t offset)
{
    struct ph_block block = ph_resolve_known(log, offset, PH_B_RESERVED);
    ph_cancel(&block);
}

int64_t ph_tx_malloc(struct ph_tx *tx, uint64_t arena, uint64_t size, uint64_t align)
{
    struct ph_heap *h = ph_log_core(tx->log, arena);
    if (room_for_fresh(tx) < 0)
        return PH_L_NOMEM;
    int64_t local = ph_reserve_block(h, size, align);
    if (local < 0)
        return local;
    uint64_t offset = arena << PH_ARENA_SHIFT | (uint64_t)local;
    ph_tx_own(tx, offset);
    return (int64_t)offset;
}

uint64_t ph_tx_fresh_before_savepoint(const struct ph_tx *tx)
{
    return tx->savepoints.count ? ph_savepoints(tx)[tx->savepoints.count - 1].fresh : 0;
}

/* A reserved block goes back at once, unless a rollback, or bytes that were collected, may want it again. */
static int free_fresh(struct ph_tx *tx, const struct ph_block *block, struct ph_tx_block *fresh)
{
    if (fresh->is_cancelled != 0)
        return PH_T_TWICE;
    int is_wanted = fresh->is_written || (uint64_t)(fresh - ph_fresh(tx)) < ph_tx_fresh_before_savepoint(tx);
    if (is_wanted && ph_list_room(&tx->frees, 1, sizeof(struct ph_tx_block)) < 0)
        return PH_L_NOMEM;
    ph_tx_count_out(tx, fresh->nbytes);
    if (!is_wanted) {
        ph_cancel(block);
        fresh->is_cancelled = PH_TX_GONE;
        return 0;
    }
    fresh->is_cancelled = PH_TX_CANCELLED;
    ph_frees(tx)[tx->frees.count++] = (struct ph_tx_block){.offset = fresh->offset, .is_cancelled = PH_TX_CANCELLED};
    return 0;
}

/* Such blocks are pinned, and few others are. A brief one pins none, and frees few. */
int ph_tx_has_freed(const struct ph_tx *tx, const struct ph_refs *refs, uint64_t offset)
{
    if (!tx->is_brief && (refs == NULL || refs->pins == 0))
        return 0;
    for (uint64_t i = tx->frees.count; i-- > 0;)
        if (ph_frees(tx)[i].offset == offset)
            return 1;
    return 0;
}

int ph_tx_others_pin(const struct ph_tx *tx, const struct ph_refs *refs)
{
    return refs->pins > (tx->writes.count + tx->snapshots.count != 0 ? refs->changes : 0);
}

/* Whether this transaction may free a block that it has not reserved: no pins of others, no views unless it is deferred. */
static int may_free_live(const struct ph_tx *tx, const struct ph_block *block, uint64_t offset, int deferred)
{
    const struct ph_refs *refs = ph_refs_of(block);
    if (ph_tx_has_freed(tx, refs, offset))
        return PH_T_TWICE;
    if (block->state != PH_B_LIVE)
        return PH_H_BAD_OFFSET;
    if (ph_heads_region(block))
        return PH_H_IN_REGION;
    if (refs != NULL && ph_tx_others_pin(tx, refs))
        return PH_H_IN_TRANSACTION;
    return refs != NULL && refs->views != 0 && !deferred ? PH_H_PINNED : 0;
}

/* The entry of a reserved block: PH_H_BAD_OFFSET if another transaction has it, PH_T_TWICE if it was freed again. */
static int own_fresh(const struct ph_tx *tx, uint64_t offset)
{
    const struct ph_tx_block *fresh = ph_tx_fresh(tx, offset);
    return fresh == NULL ? PH_H_BAD_OFFSET : fresh->is_cancelled ? PH_T_TWICE : 0;
}

int ph_tx_may_free(const struct ph_tx *tx, uint64_t offset)
{
    struct ph_block block = ph_resolve(tx->log, offset);
    return block.state == PH_B_RESERVED ? own_fresh(tx, offset) : may_free_live(tx, &block, offset, 1);
}

static int free_live(struct ph_tx *tx, const struct ph_block *block, uint64_t offset, int deferred)
{
    int failed = may_free_live(tx, block, offset, deferred);
    if (failed < 0)
        return failed;
    if (ph_list_room(&tx->frees, 1, sizeof(struct ph_tx_block)) < 0)
        return PH_L_NOMEM;
    if (ph_tx_pins(tx) && (failed = ph_pin(block)) < 0)
        return failed;
    ph_frees(tx)[tx->frees.count++] = (struct ph_tx_block){.offset = offset, .nbytes = ph_block_capacity(block)};
    return 0;
}

static int free_reserved(struct ph_tx *tx, const struct ph_block *block, uint64_t offset, int deferred)
{
    struct ph_tx_block *fresh = ph_tx_fresh(tx, offset);
    const struct ph_refs *refs = ph_refs_of(block);
    if (fresh == NULL) /* another transaction has it */
        return PH_H_BAD_OFFSET;
    return refs != NULL && refs->views != 0 && !deferred ? PH_H_PINNED : free_fresh(tx, block, fresh);
}

static int free_block(struct ph_tx *tx, uint64_t offset, int deferred)
{
    struct ph_block block = ph_resolve(tx->log, offset);
    int failed = block.state == PH_B_RESERVED ? free_reserved(tx, &block, offset, deferred)
                                              : free_live(tx, &block, offset, deferred);
    if (failed == 0)
        ph_tx_image_drop(tx, offset);
    return failed;
}

int ph_tx_free(struct ph_tx *tx, uint64_t offset)
{
    return free_block(tx, offset, 0);
}

int ph_tx_free_deferred(struct ph_tx *tx, uint64_t offset)
{
    return free_block(tx, offset, 1);
}

int ph_tx_may_name(const struct ph_tx *tx, uint64_t offset)
{
    struct ph_block block = ph_resolve(tx->log, offset);
    if (block.state == PH_B_RESERVED)
        return own_fresh(tx, offset);
    if (block.state != PH_B_LIVE)
        return PH_H_BAD_OFFSET;
    return ph_tx_has_freed(tx, ph_refs_of(&block), offset) ? PH_T_TWICE : 0;
}

uint64_t ph_tx_next_rooted(const struct ph_tx *tx, uint64_t from)
{
    for (; from < tx->frees.count; from++) {
        const struct ph_tx_block *one = &ph_frees(tx)[from];
        const struct ph_refs *refs = ph_refs_find(ph_core_of(tx->log, one->offset), ph_local(one->offset));
        if (!one->is_cancelled && refs != NULL && refs->is_rooted)
            break;
    }
    return from;
}
