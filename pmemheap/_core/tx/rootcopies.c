/* tx/rootcopies.c -- copies of what roots name, for readers of snapshots.
 *
 *     slot "stock" --> off    the header of a map, 32 bytes: changed in place
 *                  --> copy   the same bytes as of the last commit, in a block that never changes
 *
 * A block of up to 64 bytes that a root names is read as of a commit: each commit that changes it, or the root, makes a copy
 * of it anew, names that in the slot and frees the one before. So what containers have changed in place, headers and counts,
 * stays where it is, and what a reader follows from the roots that it has captured never changes [Q5]. A transaction that
 * edits in place, since nobody reads, brings the copy up to date where it is: the slot stays as it was. */
#include <string.h>

#include "base/crc32c.h"
#include "tx/internal.h"

/* A root that changes, or the block that it names: where in what is told its slot lies; PH_NOT_TOLD: the slot stays. */
struct named {
    uint64_t index, at;
};
#define PH_NOT_TOLD UINT64_MAX

static struct named *named_of(const struct ph_tx *tx)
{
    return tx->named.items;
}

static uint8_t *told_of(const struct ph_tx *tx)
{
    return tx->told.items;
}

static int name(struct ph_tx *tx, uint64_t index, uint64_t at)
{
    if (index >= PH_ROOT_SLOTS)
        return 0;
    if (ph_list_room(&tx->named, 1, sizeof(struct named)) < 0)
        return PH_L_NOMEM;
    named_of(tx)[tx->named.count++] = (struct named){index, at};
    return 0;
}

/* Find the slots in the operations of others. */
static int name_given(struct ph_tx *tx, uint16_t count)
{
    uint64_t at = 0;
    for (uint16_t i = 0; i < count && at + sizeof(struct ph_op) <= tx->told.count; i++) {
        struct ph_op op;
        memcpy(&op, told_of(tx) + at, sizeof op);
        at += sizeof op;
        int failed = 0;
        if (op.type == PH_OP_META && op.flags == PH_TABLE_ROOTS && op.len == PH_SLOT_BYTES)
            failed = name(tx, op.off / PH_SLOT_BYTES, at);
        if (failed < 0)
            return failed;
        at += (op.len + 7) & ~7U;
    }
    return 0;
}

static int is_named(const struct ph_tx *tx, uint64_t index)
{
    for (uint64_t i = 0; i < tx->named.count; i++)
        if (named_of(tx)[i].index == index)
            return 1;
    return 0;
}

/* Add an operation for a slot whose block the transaction changes. */
static int tell(struct ph_tx *tx, uint64_t index, const struct ph_root_slot *slot)
{
    struct ph_op op = {.type = PH_OP_META, .flags = PH_TABLE_ROOTS, .len = sizeof *slot, .off = index * sizeof *slot};
    if (ph_list_room(&tx->told, sizeof op + sizeof *slot, 1) < 0 || name(tx, index, tx->told.count + sizeof op) < 0)
        return PH_L_NOMEM;
    memcpy(told_of(tx) + tx->told.count, &op, sizeof op);
    memcpy(told_of(tx) + tx->told.count + sizeof op, slot, sizeof *slot);
    tx->told.count += sizeof op + sizeof *slot;
    tx->told_ops++;
    return 0;
}

/* The lowest and the highest block of those that a transaction changes: most roots name none between them. */
struct span {
    uint64_t low, high;
};

static void widen(struct span *span, const struct ph_tx_bytes *each, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = each[i].offset - ph_local(each[i].offset) + each[i].start;
        span->low = at < span->low ? at : span->low;
        span->high = at > span->high ? at : span->high;
    }
}

static struct span span_of(const struct ph_tx *tx)
{
    struct span span = {.low = UINT64_MAX};
    widen(&span, ph_writes(tx), tx->writes.count);
    widen(&span, ph_snapshots(tx), tx->snapshots.count);
    return span;
}

/* The first slot in use from `from` on that names a block between them; roots_used: none does. */
static uint64_t next_between(const struct ph_log *log, const struct span *span, uint64_t from)
{
    for (; from < log->roots_used; from++) {
        const struct ph_root_slot *slot = &log->roots[from];
        if (slot->off - span->low <= span->high - span->low && span->low <= span->high && slot->name_length != 0)
            break;
    }
    return from;
}

int ph_tx_has_roots(const struct ph_tx *tx, uint16_t count)
{
    if (count != 0 || !tx->has_small)
        return count != 0;
    const struct span span = span_of(tx);
    return next_between(tx->log, &span, 0) < tx->log->roots_used;
}

/* Name the slots whose blocks the transaction changes. */
static int name_changed(struct ph_tx *tx)
{
    const struct ph_log *log = tx->log;
    const struct span span = span_of(tx);
    int failed = 0;
    for (uint64_t i = 0; failed == 0 && (i = next_between(log, &span, i)) < log->roots_used; i++) {
        const struct ph_root_slot *slot = &log->roots[i];
        if (!ph_tx_changes(tx, slot->off) || is_named(tx, i))
            continue;
        failed = tx->edits == PH_TX_EDITS && slot->copy != 0 ? name(tx, i, PH_NOT_TOLD) : tell(tx, i, slot);
    }
    return failed;
}

/* The bytes of the block at an offset as the transaction leaves it: how many; 0: too many for a copy, or there is none. */
static uint64_t read_block(const struct ph_tx *tx, uint64_t offset, uint8_t bytes[PH_ROOT_COPY])
{
    struct ph_block block = ph_resolve(tx->log, offset);
    uint64_t nbytes = ph_is_visible(&block) ? ph_block_capacity(&block) : 0;
    if (nbytes == 0 || nbytes > PH_ROOT_COPY)
        return 0;
    memset(bytes, 0, PH_ROOT_COPY);
    memcpy(bytes, block.arena->data + block.offset, nbytes);
    ph_tx_overlay(tx, offset, nbytes, bytes);
    return nbytes;
}

/* A copy of such a block; 0: there can be none. */
static int64_t copy_block(struct ph_tx *tx, uint64_t offset)
{
    uint8_t bytes[PH_ROOT_COPY];
    if (read_block(tx, offset, bytes) == 0)
        return 0;
    int64_t copy = ph_tx_malloc(tx, 0, sizeof bytes, PH_GRANULE);
    if (copy < 0)
        return copy;
    int failed = ph_tx_write(tx, (uint64_t)copy, bytes, sizeof bytes);
    return failed < 0 ? failed : copy;
}

/* Bring a copy up to date where it is; if somebody else has freed it the slot gets a new one. */
static int refresh_copy(struct ph_tx *tx, uint64_t index)
{
    const struct ph_root_slot *slot = &tx->log->roots[index];
    uint8_t bytes[PH_ROOT_COPY];
    uint64_t nbytes = read_block(tx, slot->off, bytes);
    int failed = nbytes == 0 ? 0 : ph_tx_write(tx, slot->copy, bytes, nbytes);
    return failed < 0 && failed != PH_L_NOMEM && failed != PH_H_NOMEM ? tell(tx, index, slot) : failed;
}

/* Let a slot that is told of name a copy of its own. */
static int renew_copy(struct ph_tx *tx, uint64_t at)
{
    const struct named *named = &named_of(tx)[at];
    struct ph_root_slot slot;
    uint64_t before = tx->log->roots[named->index].copy;
    if (named->at == PH_NOT_TOLD)
        return refresh_copy(tx, named->index);
    if (before != 0)
        ph_tx_free_deferred(tx, before); /* refused: somebody else has freed it */
    memcpy(&slot, told_of(tx) + named->at, sizeof slot);
    if (slot.name_length == 0)
        return 0;
    int64_t copy = copy_block(tx, slot.off);
    if (copy < 0)
        return (int)copy;
    slot.copy = (uint64_t)copy;
    slot.crc = ph_crc32c_but((const uint8_t *)&slot, sizeof slot, offsetof(struct ph_root_slot, crc));
    memcpy(told_of(tx) + named->at, &slot, sizeof slot);
    return 0;
}

static int renew_all(struct ph_tx *tx)
{
    int failed = 0;
    for (uint64_t i = 0; failed == 0 && i < tx->named.count; i++)
        failed = renew_copy(tx, i); /* which may name a slot once more, behind the others */
    return failed;
}

/* Readers copy the slots of new roots as well from now on. More than are in use does no harm. */
static void use_slots(const struct ph_tx *tx)
{
    struct ph_log *log = tx->log;
    uint64_t used = log->roots_used;
    for (uint64_t i = 0; i < tx->named.count; i++)
        used = named_of(tx)[i].index >= used ? named_of(tx)[i].index + 1 : used;
    if (used == log->roots_used)
        return;
    log->roots_used = used;
    if (log->header != NULL)
        ph_put_word((uint64_t *)(log->header + PH_ROOTS_USED_AT), used);
}

int ph_tx_copy_roots(struct ph_tx *tx, const void *others, uint64_t length, uint16_t count)
{
    tx->named.count = tx->told.count = 0;
    if (ph_list_room(&tx->told, length, 1) < 0)
        return PH_L_NOMEM;
    if (length != 0)
        memcpy(told_of(tx), others, length);
    tx->told.count = length;
    tx->told_ops = count;
    int failed = name_given(tx, count);
    if (failed < 0 || (failed = name_changed(tx)) < 0)
        return failed;
    use_slots(tx);
    if (ph_tx_savepoint(tx) < 0)
        return PH_L_NOMEM;
    tx->copies_from = tx->fresh.count;
    uint64_t bytes = tx->fresh_bytes, made = tx->fresh_changes;
    failed = renew_all(tx);
    if (failed < 0)
        ph_tx_drop_copies(tx);
    tx->fresh_bytes = bytes; /* copies travel in the record, whatever else was made durable before it */
    tx->fresh_changes = made;
    return failed;
}

void ph_tx_drop_copies(struct ph_tx *tx)
{
    uint64_t bytes = tx->fresh_bytes, made = tx->fresh_changes;
    ph_tx_rollback(tx);
    tx->copies_from = UINT64_MAX;
    tx->fresh_bytes = bytes;
    tx->fresh_changes = made;
}

void ph_tx_keep_copies(struct ph_tx *tx)
{
    struct ph_log *log = tx->log;
    for (uint64_t i = 0; i < tx->named.count; i++) {
        const struct named *one = &named_of(tx)[i];
        if (one->at == PH_NOT_TOLD)
            continue;
        memcpy(&log->roots[one->index], told_of(tx) + one->at, sizeof *log->roots);
    }
    tx->kept.count = ph_savepoints(tx)[--tx->savepoints.count].kept;
    tx->copies_from = UINT64_MAX;
}
