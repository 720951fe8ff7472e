/* tx/internal.h -- what the files of a transaction share. */
#ifndef PH_TX_INTERNAL_H
#define PH_TX_INTERNAL_H

#include "block/block.h"
#include "log/log.h"
#include "tx/tx.h"

/* The core of the arena that an offset belongs to, NULL if there is none. */
static inline struct ph_heap *ph_core_of(const struct ph_log *log, uint64_t offset)
{
    return ph_log_core(log, offset >> PH_ARENA_SHIFT);
}

/* The block that begins at an offset; none where there is no such arena. */
static inline struct ph_block ph_resolve(const struct ph_log *log, uint64_t offset)
{
    struct ph_heap *h = ph_core_of(log, offset);
    return h == NULL ? (struct ph_block){0} : ph_block_at(h, ph_local(offset));
}

static inline struct ph_block ph_resolve_known(const struct ph_log *log, uint64_t offset, enum ph_block_state state)
{
    return ph_block_known(ph_core_of(log, offset), ph_local(offset), state);
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

/* A block is reserved, or wanted again; or it goes back. */
static inline void ph_tx_count_fresh(struct ph_tx *tx, uint64_t nbytes)
{
    tx->fresh_bytes += nbytes;
    tx->long_bytes += nbytes >= PH_LONG_LEAST ? nbytes : 0;
    tx->fresh_changes++;
}

static inline void ph_tx_count_out(struct ph_tx *tx, uint64_t nbytes)
{
    tx->fresh_bytes -= nbytes;
    tx->long_bytes -= nbytes >= PH_LONG_LEAST ? nbytes : 0;
}

/* [R26] Whether a block that a transaction is about to change or free is pinned until the transaction ends. A brief one needs no
 * pins: nobody looks at the block before it has ended. */
static inline int ph_tx_pins(const struct ph_tx *tx)
{
    return !tx->is_brief && PH_KEPT(R26);
}

/* The free of a block is taken back, or everybody sees it. */
static inline void ph_tx_unpin_freed(const struct ph_tx *tx, uint64_t offset)
{
    if (ph_tx_pins(tx))
        ph_unpin(ph_core_of(tx->log, offset), ph_local(offset));
}

/* A block of which bytes were collected or snapshot, and which has a pin for them, needs it no more. */
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
/* ph_tx_fresh_of -- that of collected bytes. ph_tx_is_dropped -- whether it is one, and was freed again. */
struct ph_tx_block *ph_tx_fresh_of(const struct ph_tx *tx, const struct ph_tx_bytes *one);
int ph_tx_is_dropped(const struct ph_tx *tx, const struct ph_tx_bytes *one);
void ph_tx_images_drop(struct ph_tx *tx);

/* ph_tx_fresh_before_savepoint -- how many reserved blocks are older than the last savepoint.
 * ph_tx_has_freed -- whether the transaction has freed the live block at `offset`, which has these refs, NULL for none.
 * ph_tx_others_pin -- whether others than it, as far as it changes bytes, have pinned a block. */
uint64_t ph_tx_fresh_before_savepoint(const struct ph_tx *tx);
int ph_tx_has_freed(const struct ph_tx *tx, const struct ph_refs *refs, uint64_t offset);
int ph_tx_others_pin(const struct ph_tx *tx, const struct ph_refs *refs);

/* ph_tx_keep -- keep a copy of bytes; where it begins in the buffer is stored to `at`. PH_L_NOMEM.
 * ph_tx_stores_at_once -- whether bytes of a reserved block go where they belong at once. Under a savepoint those of an older
 * one are collected: a rollback can drop them.
 * ph_tx_drop_snapshots, ph_tx_drop_writes -- forget those beyond the first `count`, and their pins.
 * ph_tx_close_undo -- a transaction with snapshots ends: nothing is to be undone any more. */
int ph_tx_keep(struct ph_tx *tx, const void *bytes, uint64_t nbytes, uint64_t *at);
int ph_tx_stores_at_once(const struct ph_tx *tx, const struct ph_tx_block *fresh);
void ph_tx_drop_snapshots(struct ph_tx *tx, uint64_t count);
void ph_tx_drop_writes(struct ph_tx *tx, uint64_t count);
void ph_tx_close_undo(struct ph_tx *tx);
/* ph_tx_end_edits -- it edits in place no more. */
void ph_tx_end_edits(struct ph_tx *tx);
/* ph_tx_changes -- whether the transaction, which is the only one that changes committed bytes, changes the live block at `offset`. */
int ph_tx_changes(const struct ph_tx *tx, uint64_t offset);

/* What bare calls have changed in the power heaps of a log, tx/bare.c.
 * ph_place_of_word -- table and offset of a word of the shadow. ph_count_bare -- how many words and frees there are.
 * ph_write_freed, ph_write_bare_frees -- add FREEs to the record that is being built.
 * ph_flush_much -- append them ahead of a record that they would not fit into; 0: there are few. */
uint64_t ph_place_of_word(const struct ph_heap *h, uint64_t arena, const uint64_t *at, uint32_t *table);
uint64_t ph_count_bare(const struct ph_log *log);
int ph_write_freed(struct ph_log *log, uint64_t offset, uint64_t nbytes);
int ph_write_bare_frees(struct ph_log *log);
int64_t ph_flush_much(struct ph_log *log);
void ph_forget_bare(struct ph_log *log);

/* Copies of what roots name, tx/rootcopies.c. ph_tx_has_roots -- whether a commit with so many operations of others may change roots
 * or what they name. ph_tx_copy_roots -- make them, for the commit with these operations; tx->told has what to commit instead. Or a
 * failure, with nothing changed. ph_tx_drop_copies, ph_tx_keep_copies -- the commit has failed, has happened. */
int ph_tx_has_roots(const struct ph_tx *tx, uint16_t count);
int ph_tx_copy_roots(struct ph_tx *tx, const void *others, uint64_t length, uint16_t count);
void ph_tx_drop_copies(struct ph_tx *tx);
void ph_tx_keep_copies(struct ph_tx *tx);

/* The words that a record changes, tx/words.c: collected of a transaction and of bare calls, written into the record that
 * is being built, stored. */
int ph_words_collect(struct ph_tx *tx, struct ph_tx_list *list);
int ph_words_write(struct ph_log *log, const struct ph_tx_list *list);
void ph_words_store(const struct ph_tx_list *list);

#endif
