/* tx/commit.c -- from what a transaction collected to one record, and to what everybody sees. */
#include <stdlib.h>
#include <string.h>

#include "tx/internal.h"

enum {
    PH_PIECE_MOST = 1 << 20, /* of neighbouring blocks in one operation */
    PH_ROOM_LEAST = 64,      /* of a node, to be left out: that costs one operation more */
};

/* ---------------------------------------------------------------- the record */

/* Whether two blocks of a list are written in the same way: blocks of at least `least` bytes are durable already. */
static int are_alike(const struct ph_tx_block *one, const struct ph_tx_block *other, uint64_t least)
{
    return one->is_node == other->is_node && (one->nbytes >= least) == (other->nbytes >= least);
}

/* Bytes from block `*i` of a list on that lie in one piece, over blocks of one kind that are not cancelled; `*i` moves behind
 * them. */
static uint64_t piece(const struct ph_tx_block *blocks, uint64_t count, uint64_t *i, uint64_t least)
{
    const struct ph_tx_block *first = &blocks[*i];
    uint64_t start = first->offset, stop = start + first->nbytes;
    while (++*i < count && !blocks[*i].is_cancelled && blocks[*i].offset == stop && are_alike(first, &blocks[*i], least)
           && stop - start < PH_PIECE_MOST)
        stop += blocks[*i].nbytes;
    return stop - start;
}

/* Fresh bytes of a power heap: in the record, or, if they are durable already, by name. In a process heap no older
 * image can be replayed over them. */
static int write_fresh(const struct ph_tx *tx, uint64_t offset, uint64_t nbytes, int is_durable)
{
    struct ph_log *log = tx->log;
    const uint64_t range[2] = {nbytes, 0};
    if (!log->power)
        return 0;
    if (is_durable)
        return ph_record_op(log, PH_OP_FRESH, 0, offset, range, sizeof range);
    const uint8_t *data = ph_core_of(log, offset)->data + ph_local(offset);
    return ph_record_op(log, PH_OP_WRITE, PH_WRITE_IS_HOME, offset, data, (uint32_t)nbytes);
}

/* A new node of a map travels without its room, as it is now: what was collected for it comes behind. */
static int write_node(const struct ph_tx *tx, uint64_t offset)
{
    const uint8_t *data = ph_core_of(tx->log, offset)->data + ph_local(offset);
    struct ph_node node;
    memcpy(&node, data, sizeof node);
    uint64_t room = PH_NODE_FIRST + PH_NODE_SLOT * (uint64_t)node.count;
    if (node.magic != PH_NODE_MAGIC || node.top >= PH_MAP_NODE || room + PH_ROOM_LEAST > node.top)
        return write_fresh(tx, offset, PH_MAP_NODE, 0);
    int failed = write_fresh(tx, offset, room, 0);
    return failed < 0 ? failed : write_fresh(tx, offset + node.top, PH_MAP_NODE - node.top, 0);
}

/* [R19] The final bytes of a snapshot; in a process heap they are where they belong. */
static int write_final(const struct ph_tx *tx, const struct ph_tx_bytes *one)
{
    if (!tx->log->power || one->fresh || !PH_KEPT(R19))
        return 0;
    const struct ph_heap *h = ph_core_of(tx->log, one->offset);
    return ph_record_op(tx->log, PH_OP_WRITE, PH_WRITE_IS_HOME, one->offset, h->data + ph_local(one->offset),
                        (uint32_t)one->nbytes);
}

/* The bytes of reserved blocks `from` to `to` of the list; those of at least `least` bytes are durable already. */
static int write_all_fresh(const struct ph_tx *tx, uint64_t from, uint64_t to, uint64_t least)
{
    int failed = 0;
    for (uint64_t i = from; failed == 0 && i < to;) {
        const struct ph_tx_block *first = &ph_fresh(tx)[i];
        int is_durable = first->nbytes >= least;
        if (first->is_cancelled)
            i++;
        else if (first->is_node && !is_durable && tx->log->power)
            failed = write_node(tx, ph_fresh(tx)[i++].offset);
        else
            failed = write_fresh(tx, first->offset, piece(ph_fresh(tx), to, &i, least), is_durable);
    }
    return failed;
}

static int write_bytes(struct ph_tx *tx)
{
    uint64_t copies = tx->copies_from < tx->fresh.count ? tx->copies_from : tx->fresh.count;
    int failed = write_all_fresh(tx, 0, copies, ph_tx_fresh_is_durable(tx) ? tx->durable_least : UINT64_MAX);
    if (failed == 0)
        failed = write_all_fresh(tx, copies, tx->fresh.count, UINT64_MAX);
    for (uint64_t i = 0; failed == 0 && i < tx->snapshots.count; i++)
        failed = write_final(tx, &ph_snapshots(tx)[i]);
    for (uint64_t i = 0; failed == 0 && i < tx->writes.count; i++) {
        const struct ph_tx_bytes *one = &ph_writes(tx)[i];
        if (!ph_tx_is_dropped(tx, one))
            failed = ph_record_op(tx->log, PH_OP_WRITE, 0, one->offset, tx->buffer + one->at, (uint32_t)one->nbytes);
    }
    for (uint64_t i = 0; failed == 0 && i < tx->frees.count;) {
        const struct ph_tx_block *first = &ph_frees(tx)[i];
        if (first->is_cancelled)
            i++;
        else
            failed = ph_write_freed(tx->log, first->offset, piece(ph_frees(tx), tx->frees.count, &i, 0));
    }
    return failed;
}

/* ---------------------------------------------------------------- making it visible */

/* The pins of what is freed go, and the images, which show what everybody sees now. Nothing here can fail. */
static void publish(struct ph_tx *tx)
{
    struct ph_log *log = tx->log;
    for (uint64_t i = 0; i < tx->frees.count; i++)
        if (!ph_frees(tx)[i].is_cancelled)
            ph_tx_unpin_freed(tx, ph_frees(tx)[i].offset);
    ph_tx_images_drop(tx);
    log->changes++;
}

static void change_sides(struct ph_tx *tx)
{
    const struct ph_log *log = tx->log;
    for (uint64_t i = 0; i < tx->fresh.count; i++) {
        const struct ph_tx_block *one = &ph_fresh(tx)[i];
        struct ph_block block;
        if (one->is_cancelled == PH_TX_GONE)
            continue;
        block = ph_resolve_known(log, one->offset, PH_B_RESERVED);
        if (one->is_cancelled)
            ph_cancel(&block);
        else
            ph_publish(&block);
    }
    for (uint64_t i = 0; i < tx->frees.count; i++)
        if (!ph_frees(tx)[i].is_cancelled) {
            struct ph_block block = ph_resolve_known(log, ph_frees(tx)[i].offset, PH_B_LIVE);
            ph_retire(&block);
            block.arena->tags.awaited += block.arena->journal->is_tagged;
        }
}

static void release_frees(struct ph_tx *tx)
{
    for (uint64_t i = 0; i < tx->frees.count; i++)
        if (!ph_frees(tx)[i].is_cancelled) {
            struct ph_block block = ph_resolve_known(tx->log, ph_frees(tx)[i].offset, PH_B_QUARANTINED);
            ph_release(&block);
        }
}

/* Without a log: what ph_log_apply does elsewhere. */
static void apply_in_memory(struct ph_tx *tx)
{
    for (uint64_t i = 0; i < tx->writes.count; i++) {
        const struct ph_tx_bytes *one = &ph_writes(tx)[i];
        struct ph_heap *h = ph_core_of(tx->log, one->offset);
        if (!ph_tx_is_dropped(tx, one))
            memcpy(h->data + ph_local(one->offset), tx->buffer + one->at, one->nbytes);
    }
    release_frees(tx);
}

/* A record of a process heap goes home at once; `applied_lsn` says so to recovery [R22]. */
static void go_home(struct ph_log *log)
{
    if (ph_log_apply(log, log->head) < 0)
        return; /* the log is dead: the caller finds that */
    if (log->header != NULL && PH_KEPT(R22))
        ph_put_word((uint64_t *)(log->header + PH_APPLIED_AT), log->applied);
}

/* Room for everything that must not fail once the record is appended. */
static int reserve_all(struct ph_tx *tx)
{
    for (uint64_t i = 0; i < tx->frees.count; i++) {
        struct ph_heap *h = ph_core_of(tx->log, ph_frees(tx)[i].offset);
        if (ph_withheld_reserve(h, tx->frees.count) < 0
            || (h->journal->is_tagged && ph_tags_room(&h->tags, tx->frees.count) < 0))
            return PH_L_NOMEM;
    }
    return 0;
}

/* Whether there is nothing to append, not even what bare calls could not append by themselves. */
static int is_empty(const struct ph_tx *tx, uint16_t others)
{
    return tx->fresh.count == 0 && tx->frees.count == 0 && !ph_tx_changes_homes(tx) && others == 0
        && ph_count_bare(tx->log) == 0;
}

static int64_t append_commit(struct ph_tx *tx, const void *others, uint64_t length, uint16_t count)
{
    struct ph_log *log = tx->log;
    int failed;
    ph_record_begin(log);
    if ((failed = ph_words_write(log, &tx->words)) < 0 || (failed = ph_record_raw(log, others, length, count)) < 0
        || (failed = write_bytes(tx)) < 0 || (failed = ph_write_bare_frees(log)) < 0)
        return failed;
    if (tx->txid == 0)
        tx->txid = ++log->txid;
    return ph_record_append(log, PH_RECORD_COMMIT, tx->txid, log->promised - tx->promise);
}

static int64_t commit(struct ph_tx *tx, const void *others, uint64_t length, uint16_t count)
{
    struct ph_log *log = tx->log;
    int64_t end = 0;
    if (ph_tx_next_rooted(tx, 0) != tx->frees.count)
        return PH_H_ROOTED;
    if (log->base != NULL && !log->power && !PH_KEPT(R27))
        go_home(log);
    if (log->base != NULL && (end = ph_flush_much(log)) < 0)
        return end;
    end = 0;
    if (reserve_all(tx) < 0 || ph_words_collect(tx, &tx->words) < 0)
        return PH_L_NOMEM;
    if (log->base != NULL && !log->power && !PH_KEPT(R3)) /* [R3] */
        ph_words_store(&tx->words);
    if (log->base != NULL) {
        end = append_commit(tx, others, length, count);
        if (end < 0)
            return end;
        ph_forget_bare(log);
    }
    if (log->base == NULL || log->power)
        ph_words_store(&tx->words);
    publish(tx);
    change_sides(tx);
    if (log->base == NULL)
        apply_in_memory(tx);
    else if (log->power ? !PH_KEPT(R5) : PH_KEPT(R27)) /* [R5], [R27] */
        go_home(log);
    if (!PH_KEPT(R6)) /* [R6] */
        release_frees(tx);
    if (!log->awaited)
        ph_tx_unpin_changes(tx);
    ph_tx_close_undo(tx);
    ph_end_era(log);
    return end;
}

/* Where there may be readers: with copies of what roots name. */
static int64_t commit_with_copies(struct ph_tx *tx, const void *others, uint64_t length, uint16_t count)
{
    if (!ph_tx_has_roots(tx, count))
        return commit(tx, others, length, count);
    int failed = ph_tx_copy_roots(tx, others, length, count);
    if (failed < 0)
        return failed;
    int64_t end = commit(tx, tx->told.items, tx->told.count, tx->told_ops);
    if (end < 0)
        ph_tx_drop_copies(tx);
    else
        ph_tx_keep_copies(tx);
    return end;
}

int64_t ph_tx_commit(struct ph_tx *tx, const void *others, uint64_t length, uint16_t count)
{
    int edits = tx->edits == PH_TX_EDITS && ph_tx_changes_homes(tx);
    int64_t end = is_empty(tx, count) ? 0
        : tx->log->copies             ? commit_with_copies(tx, others, length, count)
                                      : commit(tx, others, length, count);
    if (end > 0 && edits)
        tx->log->lease.edited = (uint64_t)end;
    if (end >= 0)
        ph_tx_end_edits(tx);
    return end;
}

/* ---------------------------------------------------------------- records of others */

/* The commit of a transaction that has nothing else. What goes ahead of it says nothing of where the file is to end. */
int64_t ph_log_change(struct ph_log *log, const void *operations, uint64_t length, uint16_t count, uint64_t file_end)
{
    struct ph_tx none;
    uint64_t before = log->file_end;
    int64_t end = ph_flush_much(log);
    if (end < 0)
        return end;
    ph_tx_init(&none, log);
    log->file_end = file_end;
    end = ph_tx_commit(&none, operations, length, count);
    if (end <= 0)
        log->file_end = before;
    ph_tx_fini(&none);
    return end == 0 ? (int64_t)log->head : end;
}
