/* tx/internal.h -- what tx.c and tx_commit.c share. */
#ifndef PH_TX_INTERNAL_H
#define PH_TX_INTERNAL_H

#include "block/block.h"
#include "log/log.h"
#include "tx/tx.h"

/* The core of the arena that an offset belongs to, NULL if there is none. */
static inline struct ph_heap *ph_core_of(const struct ph_log *log, uint64_t offset)
{
    uint64_t arena = offset >> PH_ARENA_SHIFT;
    return arena < PH_ARENAS ? log->homes[arena].heap : NULL;
}

#define PH_LIST(name, type)                                \
    static inline struct type *ph_##name(const struct ph_tx *tx) \
    {                                                      \
        return tx->name.items;                             \
    }
PH_LIST(fresh, ph_tx_block)
PH_LIST(frees, ph_tx_block)
PH_LIST(writes, ph_tx_bytes)
PH_LIST(snapshots, ph_tx_bytes)
PH_LIST(savepoints, ph_tx_savepoint)
PH_LIST(kept, ph_tx_bytes)
#undef PH_LIST

/* [R26] A block that a transaction is about to change or free is pinned until the transaction ends. */
static inline int ph_tx_pin(struct ph_heap *h, uint64_t start)
{
    return PH_KEPT(R26) ? ph_pin(h, start) : 0;
}

static inline void ph_tx_unpin(struct ph_heap *h, uint64_t start)
{
    if (PH_KEPT(R26))
        ph_unpin(h, start);
}

/* The same for bytes that were collected or snapshot. */
static inline int ph_tx_pin_change(struct ph_heap *h, uint64_t start)
{
    return PH_KEPT(R26) ? ph_pin_change(h, start) : 0;
}

static inline void ph_tx_unpin_change(struct ph_heap *h, uint64_t start)
{
    if (PH_KEPT(R26))
        ph_unpin_change(h, start);
}

int ph_list_room(struct ph_tx_list *list, uint64_t more, size_t width);
/* ph_tx_fresh_room -- room for one more in the table. ph_tx_fresh_enter -- enter the reserved block of an index. */
int ph_tx_fresh_room(struct ph_tx *tx);
void ph_tx_fresh_enter(struct ph_tx *tx, uint64_t i);
/* ph_tx_fresh -- the reserved block that begins at `offset`, else NULL. */
struct ph_tx_block *ph_tx_fresh(const struct ph_tx *tx, uint64_t offset);
void ph_tx_images_drop(struct ph_tx *tx);
/* ph_tx_is_dropped -- whether collected bytes belong to a reserved block that was freed again. */
int ph_tx_is_dropped(const struct ph_tx *tx, const struct ph_tx_bytes *one);
void ph_tx_close_undo(struct ph_tx *tx);

#endif
