/* tx/savepoint.c -- going back: to a savepoint, or to the beginning. */
#include "tx/internal.h"

int ph_tx_savepoint(struct ph_tx *tx)
{
    struct ph_tx_savepoint here = {
        .fresh = tx->fresh.count, .frees = tx->frees.count, .writes = tx->writes.count,
        .snapshots = tx->snapshots.count, .kept = tx->kept.count, .used = tx->used,
    };
    if (ph_list_room(&tx->savepoints, 1, sizeof here) < 0
        || ph_list_room(&tx->kept, tx->snapshots.count, sizeof(struct ph_tx_bytes)) < 0)
        return PH_L_NOMEM;
    for (uint64_t i = 0; i < tx->snapshots.count; i++) {
        struct ph_tx_bytes copy = ph_snapshots(tx)[i];
        const uint8_t *data = ph_core_of(tx->log, copy.offset)->data;
        if (ph_tx_keep(tx, data + ph_local(copy.offset), copy.nbytes, &copy.at) < 0) {
            tx->kept.count = here.kept;
            tx->used = here.used;
            return PH_L_NOMEM;
        }
        ph_kept(tx)[tx->kept.count++] = copy;
    }
    ph_savepoints(tx)[tx->savepoints.count++] = here;
    tx->resets++;
    return 0;
}

static void put_back(struct ph_tx *tx, const struct ph_tx_bytes *one)
{
    struct ph_heap *h = ph_core_of(tx->log, one->offset);
    ph_put(h->data + ph_local(one->offset), tx->buffer + one->at, one->nbytes);
}

/* Store the writes collected beyond a point for blocks that store at once again: later stores must come after them. */
static void store_collected(struct ph_tx *tx, uint64_t from)
{
    uint64_t kept = from;
    for (uint64_t i = from; i < tx->writes.count; i++) {
        struct ph_tx_bytes one = ph_writes(tx)[i];
        const struct ph_tx_block *fresh = one.fresh ? ph_tx_fresh_of(tx, &one) : NULL;
        if (fresh != NULL && !fresh->is_cancelled && ph_tx_stores_at_once(tx, fresh))
            put_back(tx, &one);
        else
            ph_writes(tx)[kept++] = one;
    }
    tx->writes.count = kept;
}

void ph_tx_release_savepoint(struct ph_tx *tx)
{
    struct ph_tx_savepoint point = ph_savepoints(tx)[--tx->savepoints.count];
    tx->kept.count = point.kept;
    store_collected(tx, point.writes);
    tx->resets++;
}

/* Give up what was collected beyond a point; blocks that were reserved beyond it go back. */
static void drop_beyond(struct ph_tx *tx, const struct ph_tx_savepoint *point)
{
    for (uint64_t i = tx->frees.count; i-- > point->frees;) {
        const struct ph_tx_block *one = &ph_frees(tx)[i];
        if (!one->is_cancelled) {
            ph_tx_unpin_freed(tx, one->offset);
            continue;
        }
        struct ph_tx_block *fresh = ph_tx_fresh(tx, one->offset);
        fresh->is_cancelled = 0;
        ph_tx_count_fresh(tx, fresh->nbytes);
    }
    tx->frees.count = point->frees;
    ph_tx_drop_writes(tx, point->writes);
    while (tx->fresh.count > point->fresh) {
        const struct ph_tx_block *one = &ph_fresh(tx)[--tx->fresh.count];
        if (one->is_cancelled == PH_TX_GONE)
            continue;
        ph_tx_count_out(tx, one->nbytes);
        ph_tx_disown(tx->log, one->offset);
    }
}

/* Drop the snapshots of reserved blocks from index `first` on: the blocks may be about to go. */
static void forget_fresh_snapshots(struct ph_tx *tx, uint64_t first)
{
    uint64_t kept = first;
    for (uint64_t i = first; i < tx->snapshots.count; i++)
        if (!ph_snapshots(tx)[i].fresh)
            ph_snapshots(tx)[kept++] = ph_snapshots(tx)[i];
    tx->snapshots.count = kept;
}

/* Images show what is taken back as well. */
static void forget_images(struct ph_tx *tx)
{
    ph_tx_images_drop(tx);
    tx->images.has_strays = 1;
    tx->log->changes++;
}

void ph_tx_rollback(struct ph_tx *tx)
{
    struct ph_tx_savepoint point = ph_savepoints(tx)[--tx->savepoints.count];
    forget_images(tx);
    tx->rollbacks++;
    for (uint64_t i = tx->snapshots.count; i-- > point.snapshots;)
        put_back(tx, &ph_snapshots(tx)[i]);
    for (uint64_t i = point.kept; i < tx->kept.count; i++)
        put_back(tx, &ph_kept(tx)[i]);
    tx->kept.count = point.kept;
    forget_fresh_snapshots(tx, point.snapshots);
    drop_beyond(tx, &point); /* other snapshots stay: their UNDO is in the log, and the bytes are the old ones */
}

void ph_tx_abort(struct ph_tx *tx)
{
    static const struct ph_tx_savepoint start;
    forget_images(tx);
    for (uint64_t i = tx->snapshots.count; i-- > 0;)
        put_back(tx, &ph_snapshots(tx)[i]);
    ph_tx_drop_snapshots(tx, 0);
    drop_beyond(tx, &start);
    tx->savepoints.count = tx->kept.count = 0;
    ph_tx_close_undo(tx);
    ph_tx_end_edits(tx);
}
