/* tx/tx.c -- the life of a transaction: its memory, its end. What it collects: blocks.c, bytes.c; the commit: commit.c. */
#include "tx/tx.h"

#include <stdlib.h>
#include <string.h>

#include "tx/internal.h"

enum {
    PH_LEFT_ITEMS = 4096,   /* a transaction leaves no more memory than for so many of each kind, */
    PH_LEFT_BYTES = 1 << 18, /* and so many collected bytes */
    PH_LEFT_SLOTS = 256,     /* of the table of its blocks */
};

void ph_tx_init(struct ph_tx *tx, struct ph_log *log)
{
    memset(tx, 0, sizeof *tx);
    tx->log = log;
    tx->copies_from = UINT64_MAX;
    tx->number = ++log->begun;
}

void ph_tx_end_edits(struct ph_tx *tx)
{
    if (tx->edits == PH_TX_EDITS)
        ph_lease_give(tx->log);
    tx->edits = PH_TX_UNDECIDED;
}

void ph_tx_fini(struct ph_tx *tx)
{
    ph_tx_end_edits(tx);
    struct ph_tx_list *lists[] = {&tx->fresh, &tx->index, &tx->frees, &tx->writes, &tx->snapshots,
                                  &tx->savepoints, &tx->kept, &tx->words, &tx->told, &tx->named};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        free(lists[i]->items);
    ph_tx_images_drop(tx);
    free(tx->images.pages.slots);
    free(tx->buffer);
    memset(tx, 0, sizeof *tx);
}

/* A table that was made for many blocks is not cleared again and again for few. */
static void clear_index(struct ph_tx_list *index)
{
    if (index->capacity > PH_LEFT_SLOTS) {
        free(index->items);
        *index = (struct ph_tx_list){.items = NULL};
    } else if (index->count != 0) {
        memset(index->items, 0, index->capacity * sizeof(uint32_t));
    }
}

void ph_tx_restart(struct ph_tx *tx)
{
    clear_index(&tx->index);
    tx->fresh.count = tx->index.count = tx->frees.count = tx->writes.count = tx->snapshots.count = 0;
    tx->savepoints.count = tx->kept.count = tx->told.count = tx->named.count = 0;
    tx->copies_from = UINT64_MAX;
    tx->used = tx->fresh_bytes = tx->long_bytes = tx->fresh_changes = tx->fresh_durable = tx->rollbacks = 0;
    ph_tx_end_edits(tx);
    tx->images.has_strays = tx->has_small = 0;
    tx->told_ops = 0;
    tx->txid = 0;
    tx->number = ++tx->log->begun;
}

void ph_tx_start(struct ph_tx *tx, struct ph_log *log, struct ph_tx *spare)
{
    if (spare->log == NULL) {
        ph_tx_init(tx, log);
        return;
    }
    *tx = *spare;
    memset(spare, 0, sizeof *spare);
    ph_tx_restart(tx);
}

static int is_small(const struct ph_tx *tx)
{
    const struct ph_tx_list *lists[] = {&tx->fresh, &tx->frees, &tx->writes, &tx->snapshots, &tx->kept};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        if (lists[i]->capacity > PH_LEFT_ITEMS)
            return 0;
    return tx->images.pages.capacity <= PH_LEFT_ITEMS && tx->capacity <= PH_LEFT_BYTES;
}

void ph_tx_leave(struct ph_tx *tx, struct ph_tx *spare)
{
    if (spare->log != NULL || !is_small(tx)) {
        ph_tx_fini(tx);
        return;
    }
    ph_tx_images_drop(tx);
    *spare = *tx;
    memset(tx, 0, sizeof *tx);
}
