/* tx/bytes.c -- the bytes that a transaction changes: collected writes, and snapshots of what is changed in place. */
#include <stdlib.h>
#include <string.h>

#include "block/guard.h"
#include "os/os.h"
#include "tx/internal.h"

#define PH_CALL_LEAST ((uint64_t)16384) /* bytes that are put into a file by a call, */
#define PH_MAPPED_LEAST ((uint64_t)65536) /* and whose pages are mapped then */
#define PH_MAPPED_MOST ((uint64_t)16 << 20)

static void open_undo(struct ph_log *log, uint64_t lsn)
{
    log->open_undo = lsn;
    if (log->header != NULL && !log->power && PH_KEPT(R23))
        ph_put_word((uint64_t *)(log->header + PH_OPEN_UNDO_AT), lsn); /* [R23] */
}

/* End of a transaction with snapshots: nothing is to be undone any more. */
void ph_tx_close_undo(struct ph_tx *tx)
{
    struct ph_log *log = tx->log;
    log->promised -= tx->promise;
    if (tx->promise != 0)
        open_undo(log, 0);
    tx->promise = 0;
}

static int room_to_keep(struct ph_tx *tx, uint64_t nbytes)
{
    if (tx->used + nbytes <= tx->capacity)
        return 0;
    uint64_t capacity = tx->capacity ? tx->capacity : 1024;
    while (capacity < tx->used + nbytes)
        capacity *= 2;
    uint8_t *buffer = realloc(tx->buffer, capacity);
    if (buffer == NULL)
        return PH_L_NOMEM;
    tx->buffer = buffer;
    tx->capacity = capacity;
    return 0;
}

int ph_tx_keep(struct ph_tx *tx, const void *bytes, uint64_t nbytes, uint64_t *at)
{
    if (room_to_keep(tx, nbytes) < 0)
        return PH_L_NOMEM;
    *at = tx->used;
    memcpy(tx->buffer + tx->used, bytes, nbytes);
    tx->used += nbytes;
    return 0;
}

/* A page was changed without its image: the next look makes the image again of the collected writes. */
static void forget_image(struct ph_tx *tx, uint64_t start)
{
    ph_tx_image_drop(tx, start);
    tx->images.has_strays = 1;
    tx->log->changes++;
}

/* ---------------------------------------------------------------- aiming */

int ph_tx_stores_at_once(const struct ph_tx *tx, const struct ph_tx_block *fresh)
{
    return (uint64_t)(fresh - ph_fresh(tx)) >= ph_tx_fresh_before_savepoint(tx);
}

static int aim_at_fresh(struct ph_tx_aim *aim, const struct ph_tx *tx, uint64_t start)
{
    const struct ph_tx_block *fresh = ph_tx_fresh(tx, start);
    if (fresh->is_cancelled)
        return PH_T_TWICE;
    aim->at_once = (uint8_t)ph_tx_stores_at_once(tx, fresh);
    return 0;
}

/* Why a live block may not be changed: the transaction has freed it; or others, which pinned it, are about to. */
static int refuse_live(const struct ph_tx *tx, const struct ph_block *block, uint64_t start)
{
    const struct ph_refs *refs = ph_refs_of(block);
    if (ph_tx_has_freed(tx, refs, start))
        return PH_T_TWICE;
    return refs != NULL && ph_tx_others_pin(tx, refs) ? PH_H_IN_TRANSACTION : 0;
}

/* Aim at a range of the block that holds its first byte. */
static int aim_at_first(struct ph_tx *tx, uint64_t offset, uint64_t nbytes, struct ph_tx_aim *aim)
{
    struct ph_heap *h = ph_core_of(tx->log, offset);
    uint64_t local = ph_local(offset);
    if (h == NULL)
        return PH_H_BAD_OFFSET;
    const struct ph_block *block = &aim->block;
    aim->block = ph_block_holding(h, local);
    aim->fresh = block->state == PH_B_RESERVED;
    aim->at_once = 0;
    uint64_t start = offset - local + block->offset;
    if (block->state == PH_B_NONE || (aim->fresh && ph_tx_fresh(tx, start) == NULL)) /* or another transaction's */
        return PH_H_BAD_OFFSET;
    uint64_t capacity = ph_block_usable(block);
    if (nbytes > capacity || local - block->offset > capacity - nbytes)
        return PH_T_OUTSIDE;
    aim->is_large = capacity > PH_ROOT_COPY;
    return aim->fresh ? aim_at_fresh(aim, tx, start) : refuse_live(tx, block, start);
}

/* A range of no bytes may lie at the end of its block as well, whatever becomes of the block that begins there. */
int ph_tx_aim(struct ph_tx *tx, uint64_t offset, uint64_t nbytes, struct ph_tx_aim *aim)
{
    int refused = aim_at_first(tx, offset, nbytes, aim);
    if (refused == 0 || nbytes != 0 || ph_local(offset) == 0)
        return refused;
    return aim_at_first(tx, offset - 1, 1, aim) == 0 ? 0 : refused;
}

/* ---------------------------------------------------------------- writes */

int ph_tx_reserve(struct ph_tx *tx, struct ph_heap *h, uint64_t ranges, uint64_t nbytes, uint64_t frees)
{
    return ph_list_room(&tx->writes, ranges, sizeof(struct ph_tx_bytes)) < 0 || room_to_keep(tx, nbytes) < 0
               || ph_list_room(&tx->frees, frees, sizeof(struct ph_tx_block)) < 0
               || ph_refs_reserve(h, ranges + frees) < 0
           ? PH_L_NOMEM : 0;
}

/* Whether the bytes that were collected last are of the same block, which is pinned for them then. */
static int is_pinned(const struct ph_tx *tx, const struct ph_tx_aim *aim, uint64_t offset)
{
    const struct ph_tx_bytes *last = ph_writes(tx) + tx->writes.count - 1;
    return tx->writes.count != 0 && !last->fresh && last->start == aim->block.offset
        && last->offset >> PH_ARENA_SHIFT == offset >> PH_ARENA_SHIFT;
}

void ph_tx_store(struct ph_tx *tx, const struct ph_tx_aim *aim, uint64_t offset, const void *bytes, uint64_t nbytes)
{
    uint64_t at = tx->used;
    if (aim->at_once) {
        tx->fresh_changes++;
        ph_put(aim->block.arena->data + ph_local(offset), bytes, nbytes);
        return;
    }
    uint8_t pinned = !aim->fresh && ph_tx_pins(tx) && !is_pinned(tx, aim, offset);
    if (aim->fresh)
        ph_tx_fresh(tx, offset - ph_local(offset) + aim->block.offset)->is_written = 1;
    else if (pinned)
        ph_pin_change(&aim->block); /* room in the table of refs is reserved */
    tx->has_small |= !aim->is_large;
    memcpy(tx->buffer + at, bytes, nbytes);
    tx->used += nbytes;
    ph_writes(tx)[tx->writes.count++] = (struct ph_tx_bytes){
        .offset = offset, .nbytes = nbytes, .at = at, .start = aim->block.offset, .fresh = aim->fresh,
        .pinned = pinned,
    };
}

/* Map the pages of what was filled in one call, not by the faults of the first reads. Much more may have left the cache. */
static void map_filled(uint64_t to, uint64_t nbytes)
{
    const uint64_t rest = to & (PH_UNIT_BYTES - 1);
    if (nbytes >= PH_MAPPED_LEAST && nbytes <= PH_MAPPED_MOST)
        ph_advise(to - rest, nbytes + rest, PH_ADVISE_POPULATE_READ); /* which is only faster */
}

/* Put many bytes into a block that is stored to at once by a call: a store takes a fault for each page that is new, or was
 * synced since the last one; the kernel makes few large pages of those that it is handed. Pages of a process heap that had
 * large blocks before are mapped, and were not synced: there a store is faster. So it is where a record carries the bytes,
 * which are read again for that; and where they are a view of the same block, which a call would copy page by page. 1; 0: a
 * store is to do it; or a refusal. */
static int fill_at_once(struct ph_tx *tx, const struct ph_tx_aim *aim, uint64_t offset, const void *bytes, uint64_t nbytes)
{
    const struct ph_log *log = tx->log;
    uint64_t to = (uint64_t)(uintptr_t)(aim->block.arena->data + ph_local(offset)), from = (uint64_t)(uintptr_t)bytes;
    if (!aim->at_once || log->base == NULL || nbytes < (log->power ? (uint64_t)PH_LONG_LEAST : PH_CALL_LEAST)
        || (from < to + nbytes && to < from + nbytes))
        return 0;
    int64_t filled = ph_file_fill(to, bytes, nbytes, log->power);
    if (filled < 0)
        return (int)(PH_T_SYSTEM + filled);
    if (filled != 0) {
        tx->fresh_changes++;
        map_filled(to, nbytes);
    }
    return filled != 0;
}

int ph_tx_write(struct ph_tx *tx, uint64_t offset, const void *bytes, uint64_t nbytes)
{
    struct ph_tx_aim aim;
    int refused = ph_tx_aim(tx, offset, nbytes, &aim);
    if (refused < 0 || nbytes == 0)
        return refused;
    if (nbytes > UINT32_MAX && !aim.at_once)
        return PH_L_LARGE;
    if (!aim.at_once && ph_tx_reserve(tx, aim.block.arena, 1, nbytes, 0) < 0)
        return PH_L_NOMEM;
    int filled = fill_at_once(tx, &aim, offset, bytes, nbytes);
    if (filled < 0)
        return filled;
    if (!filled)
        ph_tx_store(tx, &aim, offset, bytes, nbytes);
    forget_image(tx, offset - ph_local(offset) + aim.block.offset);
    return 0;
}

int ph_tx_rewrite(struct ph_tx *tx, uint64_t index, uint64_t offset, const void *bytes, uint64_t nbytes)
{
    uint64_t first = tx->savepoints.count ? ph_savepoints(tx)[tx->savepoints.count - 1].writes : 0;
    if (index < first || index >= tx->writes.count)
        return 0;
    const struct ph_tx_bytes *one = &ph_writes(tx)[index];
    if (one->offset != offset || one->nbytes != nbytes || one->fresh)
        return 0;
    memcpy(tx->buffer + one->at, bytes, nbytes);
    return 1;
}

void ph_tx_carry(const struct ph_tx *tx, uint64_t offset, uint64_t nbytes, uint64_t to)
{
    uint8_t *home = ph_core_of(tx->log, to)->data + ph_local(to);
    for (uint64_t i = 0; i < tx->writes.count; i++) {
        const struct ph_tx_bytes *one = &ph_writes(tx)[i];
        uint64_t into = one->offset - offset;
        if (into < nbytes)
            ph_put(home + into, tx->buffer + one->at, one->nbytes < nbytes - into ? one->nbytes : nbytes - into);
    }
}

/* ---------------------------------------------------------------- snapshots */

/* The first part of [*at, stop) that no snapshot covers yet; 0 when all of it is covered. */
static uint64_t uncovered(const struct ph_tx *tx, uint64_t *at, uint64_t stop)
{
    for (uint64_t i = 0; i < tx->snapshots.count && *at < stop; i++) {
        const struct ph_tx_bytes *one = &ph_snapshots(tx)[i];
        if (one->offset <= *at && *at < one->offset + one->nbytes) {
            *at = one->offset + one->nbytes;
            i = (uint64_t)-1; /* from the start: another one may begin there */
        }
    }
    if (*at >= stop)
        return 0;
    for (uint64_t i = 0; i < tx->snapshots.count; i++)
        if (ph_snapshots(tx)[i].offset > *at && ph_snapshots(tx)[i].offset < stop)
            stop = ph_snapshots(tx)[i].offset;
    return stop - *at;
}

void ph_tx_drop_snapshots(struct ph_tx *tx, uint64_t count)
{
    while (tx->snapshots.count > count) {
        const struct ph_tx_bytes *one = &ph_snapshots(tx)[--tx->snapshots.count];
        struct ph_heap *h = ph_core_of(tx->log, one->offset);
        if (!one->fresh)
            ph_tx_unpin_change(h, one->start);
    }
}

void ph_tx_drop_writes(struct ph_tx *tx, uint64_t count)
{
    while (tx->writes.count > count) {
        const struct ph_tx_bytes *one = &ph_writes(tx)[--tx->writes.count];
        if (one->pinned)
            ph_unpin_change(ph_core_of(tx->log, one->offset), one->start);
    }
}

/* Remember the old bytes of what is not remembered yet, and write them into the record that is being built. */
static int remember(struct ph_tx *tx, const struct ph_tx_aim *aim, uint64_t offset, uint64_t nbytes)
{
    const struct ph_block *block = &aim->block;
    for (uint64_t part, at = offset; (part = uncovered(tx, &at, offset + nbytes)) != 0; at += part) {
        uint64_t place;
        const uint8_t *bytes = block->arena->data + ph_local(at);
        if (ph_list_room(&tx->snapshots, 1, sizeof(struct ph_tx_bytes)) < 0 || ph_tx_keep(tx, bytes, part, &place) < 0)
            return PH_L_NOMEM;
        if (!aim->fresh && tx->log->base != NULL
            && ph_record_op(tx->log, PH_OP_OLD, 0, at, bytes, (uint32_t)part) < 0)
            return PH_L_NOMEM;
        int pinned = aim->fresh || !PH_KEPT(R26) ? 0 : ph_pin_change(block);
        if (pinned < 0)
            return pinned;
        ph_snapshots(tx)[tx->snapshots.count++] = (struct ph_tx_bytes){
            .offset = at, .nbytes = part, .at = place, .start = block->offset, .fresh = aim->fresh,
        };
    }
    return 0;
}

int64_t ph_tx_snapshot(struct ph_tx *tx, uint64_t offset, uint64_t nbytes)
{
    struct ph_log *log = tx->log;
    uint64_t before = tx->snapshots.count, used = tx->used;
    struct ph_tx_aim aim;
    int failed = ph_tx_aim(tx, offset, nbytes, &aim);
    if (failed < 0 || nbytes == 0 || aim.at_once)
        return failed;
    if (nbytes > UINT32_MAX / 2)
        return PH_L_LARGE;
    uint64_t start = offset - ph_local(offset) + aim.block.offset;
    if (aim.fresh)
        ph_tx_fresh(tx, start)->is_written = 1;
    forget_image(tx, start);
    tx->has_small |= !aim.is_large;
    ph_record_begin(log);
    failed = remember(tx, &aim, offset, nbytes);
    uint64_t promise = ph_record_bytes(log->length);
    int64_t end = 0;
    if (failed == 0 && log->base != NULL && log->nops != 0) {
        uint64_t lsn = log->head;
        if (tx->txid == 0)
            tx->txid = ++log->txid;
        log->awaited = log->power; /* [R18] */
        end = ph_record_append(log, PH_RECORD_UNDO, tx->txid, log->promised + promise);
        log->awaited = 0;
        failed = end < 0 ? (int)end : 0;
        if (failed == 0 && log->open_undo == 0)
            open_undo(log, lsn);
    }
    if (failed < 0) {
        ph_tx_drop_snapshots(tx, before);
        tx->used = used;
        return failed;
    }
    if (end != 0) {
        log->promised += promise;
        tx->promise += promise;
    }
    return end;
}

void ph_tx_unpin_changes(struct ph_tx *tx)
{
    ph_tx_drop_snapshots(tx, 0);
    ph_tx_drop_writes(tx, 0);
}

int ph_tx_changes_homes(const struct ph_tx *tx)
{
    return tx->writes.count != 0 || tx->snapshots.count != 0;
}
