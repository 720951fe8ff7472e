/* tx/tx.c -- the life of a transaction: its memory, its end. What it collects: blocks.c, bytes.c; the commit: commit.c. */
#include "tx/tx.h"

#include <stdlib.h>
#include <string.h>

#include "tx/internal.h"

void ph_tx_init(struct ph_tx *tx, struct ph_log *log)
{
    memset(tx, 0, sizeof *tx);
    tx->log = log;
    tx->copies_from = UINT64_MAX;
    tx->number = ++log->begun;
}

void ph_tx_fini(struct ph_tx *tx)
{
    struct ph_tx_list *lists[] = {&tx->fresh, &tx->index, &tx->frees, &tx->writes, &tx->snapshots,
                                  &tx->savepoints, &tx->kept, &tx->words, &tx->told, &tx->named};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        free(lists[i]->items);
    ph_tx_images_drop(tx);
    free(tx->images.pages.slots);
    free(tx->buffer);
    memset(tx, 0, sizeof *tx);
}

void ph_tx_restart(struct ph_tx *tx)
{
    if (tx->index.count != 0)
        memset(tx->index.items, 0, tx->index.capacity * sizeof(uint32_t));
    tx->fresh.count = tx->index.count = tx->frees.count = tx->writes.count = tx->snapshots.count = 0;
    tx->used = tx->fresh_bytes = tx->fresh_changes = tx->fresh_durable = tx->rollbacks = 0;
    tx->images.has_strays = 0;
    tx->txid = 0;
    tx->number = ++tx->log->begun;
}
