/* tx/tx.c -- putting a transaction together. The commit is in tx_commit.c. */
#include "tx/tx.h"

#include <stdlib.h>
#include <string.h>

#include "tx/internal.h"

void ph_tx_init(struct ph_tx *tx, struct ph_log *log)
{
    memset(tx, 0, sizeof *tx);
    tx->log = log;
    tx->number = ++log->begun;
}

void ph_tx_fini(struct ph_tx *tx)
{
    struct ph_tx_list *lists[] = {&tx->fresh, &tx->index, &tx->frees, &tx->writes, &tx->snapshots,
                                  &tx->savepoints, &tx->kept, &tx->words};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        free(lists[i]->items);
    ph_tx_images_drop(tx);
    free(tx->images.slots);
    free(tx->buffer);
    memset(tx, 0, sizeof *tx);
}

void ph_tx_restart(struct ph_tx *tx)
{
    if (tx->index.count != 0)
        memset(tx->index.items, 0, tx->index.capacity * sizeof(uint32_t));
    tx->fresh.count = tx->index.count = tx->frees.count = tx->writes.count = tx->snapshots.count = 0;
    tx->used = tx->fresh_bytes = tx->rollbacks = 0;
    tx->images.has_strays = 0;
    tx->txid = 0;
    tx->number = ++tx->log->begun;
}

static void open_undo(struct ph_log *log, uint64_t lsn)
{
    log->open_undo = lsn;
    if (log->header != NULL && !log->power && PH_KEPT(R23))
        ph_put_word((uint64_t *)(log->header + PH_OPEN_UNDO_AT), lsn); /* [R23] */
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

/* Keep a copy of bytes; where it begins in the buffer is stored to `at`. */
static int keep(struct ph_tx *tx, const void *bytes, uint64_t nbytes, uint64_t *at)
{
    if (room_to_keep(tx, nbytes) < 0)
        return PH_L_NOMEM;
    *at = tx->used;
    memcpy(tx->buffer + tx->used, bytes, nbytes);
    tx->used += nbytes;
    return 0;
}

/* ---------------------------------------------------------------- blocks */

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
    uint64_t nbytes = (uint64_t)ph_capacity(ph_core_of(tx->log, offset), ph_local(offset));
    ph_fresh(tx)[tx->fresh.count] = (struct ph_tx_block){.offset = offset, .nbytes = nbytes};
    ph_tx_fresh_enter(tx, tx->fresh.count++);
    tx->fresh_bytes += nbytes;
    return 0;
}

void ph_tx_disown(const struct ph_log *log, uint64_t offset)
{
    ph_cancel(ph_core_of(log, offset), ph_local(offset));
}

int64_t ph_tx_malloc(struct ph_tx *tx, uint64_t arena, uint64_t size, uint64_t align)
{
    struct ph_heap *h = tx->log->homes[arena].heap;
    if (room_for_fresh(tx) < 0)
        return PH_L_NOMEM;
    int64_t local = ph_reserve_block(h, size, align);
    if (local < 0)
        return local;
    uint64_t offset = arena << PH_ARENA_SHIFT | (uint64_t)local;
    ph_tx_own(tx, offset);
    return (int64_t)offset;
}

static uint64_t fresh_before_savepoint(const struct ph_tx *tx)
{
    return tx->savepoints.count ? ph_savepoints(tx)[tx->savepoints.count - 1].fresh : 0;
}

/* A reserved block goes back at once, unless a rollback, or bytes that were collected, may want it again. */
static int free_fresh(struct ph_tx *tx, struct ph_tx_block *block)
{
    if (block->is_cancelled != 0)
        return PH_T_TWICE;
    tx->fresh_bytes -= block->nbytes;
    if (block->is_written || (uint64_t)(block - ph_fresh(tx)) < fresh_before_savepoint(tx)) {
        if (ph_list_room(&tx->frees, 1, sizeof(struct ph_tx_block)) < 0) {
            tx->fresh_bytes += block->nbytes;
            return PH_L_NOMEM;
        }
        block->is_cancelled = PH_TX_CANCELLED;
        ph_frees(tx)[tx->frees.count++] =
            (struct ph_tx_block){.offset = block->offset, .is_cancelled = PH_TX_CANCELLED};
        return 0;
    }
    ph_cancel(ph_core_of(tx->log, block->offset), ph_local(block->offset));
    block->is_cancelled = PH_TX_GONE;
    return 0;
}

/* Whether this transaction has freed the live block at `offset`: such blocks are pinned, and few others are. */
static int is_freed(const struct ph_tx *tx, const struct ph_heap *h, uint64_t offset)
{
    const struct ph_refs *refs = ph_refs_find(h, ph_local(offset));
    if (refs == NULL || refs->pins == 0)
        return 0;
    for (uint64_t i = tx->frees.count; i-- > 0;)
        if (ph_frees(tx)[i].offset == offset)
            return 1;
    return 0;
}

/* Whether others than this transaction, as far as it changes bytes, have pinned a block. */
static int others_pin(const struct ph_tx *tx, const struct ph_refs *refs)
{
    return refs->pins > (tx->writes.count + tx->snapshots.count != 0 ? refs->changes : 0);
}

/* Bytes of the live block at `offset` if this transaction may free it: no pins of others, no views unless it is
 * deferred; else a refusal. */
static int64_t may_free_live(const struct ph_tx *tx, struct ph_heap *h, uint64_t offset, int deferred)
{
    uint64_t local = ph_local(offset);
    if (is_freed(tx, h, offset))
        return PH_T_TWICE;
    if (ph_block_start(h, local) != (int64_t)local)
        return PH_H_BAD_OFFSET;
    int64_t nbytes = ph_capacity(h, local);
    const struct ph_refs *refs = ph_refs_find(h, local);
    if (nbytes < 0)
        return PH_H_BAD_OFFSET;
    if (refs != NULL && others_pin(tx, refs))
        return PH_H_IN_TRANSACTION;
    return refs != NULL && refs->views != 0 && !deferred ? PH_H_PINNED : nbytes;
}

int ph_tx_may_free(const struct ph_tx *tx, uint64_t offset)
{
    struct ph_heap *h = ph_core_of(tx->log, offset);
    if (h == NULL)
        return PH_H_BAD_OFFSET;
    if (ph_is_reserved(h, ph_local(offset))) {
        const struct ph_tx_block *block = ph_tx_fresh(tx, offset);
        return block == NULL ? PH_H_BAD_OFFSET : block->is_cancelled ? PH_T_TWICE : 0;
    }
    int64_t nbytes = may_free_live(tx, h, offset, 1);
    return nbytes < 0 ? (int)nbytes : 0;
}

static int free_live(struct ph_tx *tx, struct ph_heap *h, uint64_t offset, int deferred)
{
    int64_t nbytes = may_free_live(tx, h, offset, deferred);
    if (nbytes < 0)
        return (int)nbytes;
    if (ph_list_room(&tx->frees, 1, sizeof(struct ph_tx_block)) < 0)
        return PH_L_NOMEM;
    int pinned = ph_tx_pin(h, ph_local(offset));
    if (pinned < 0)
        return pinned;
    ph_frees(tx)[tx->frees.count++] = (struct ph_tx_block){.offset = offset, .nbytes = (uint64_t)nbytes};
    return 0;
}

static int is_viewed(const struct ph_heap *h, uint64_t local)
{
    const struct ph_refs *refs = ph_refs_find(h, local);
    return refs != NULL && refs->views != 0;
}

static int free_block(struct ph_tx *tx, uint64_t offset, int deferred)
{
    struct ph_heap *h = ph_core_of(tx->log, offset);
    if (h == NULL)
        return PH_H_BAD_OFFSET;
    int is_reserved = ph_is_reserved(h, ph_local(offset));
    struct ph_tx_block *block = is_reserved ? ph_tx_fresh(tx, offset) : NULL;
    if (is_reserved && block == NULL) /* by another transaction */
        return PH_H_BAD_OFFSET;
    if (is_reserved && !deferred && is_viewed(h, ph_local(offset)))
        return PH_H_PINNED;
    int failed = block != NULL ? free_fresh(tx, block) : free_live(tx, h, offset, deferred);
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
    struct ph_heap *h = ph_core_of(tx->log, offset);
    if (h == NULL)
        return PH_H_BAD_OFFSET;
    if (ph_is_reserved(h, ph_local(offset))) {
        const struct ph_tx_block *block = ph_tx_fresh(tx, offset);
        return block == NULL ? PH_H_BAD_OFFSET : block->is_cancelled ? PH_T_TWICE : 0;
    }
    if (ph_block_at(h, ph_local(offset)) == NULL)
        return PH_H_BAD_OFFSET;
    return is_freed(tx, h, offset) ? PH_T_TWICE : 0;
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

/* ---------------------------------------------------------------- bytes */

/* A page was changed without its image: the next look makes the image again of the collected writes. */
static void forget_image(struct ph_tx *tx, uint64_t start)
{
    ph_tx_image_drop(tx, start);
    tx->images.has_strays = 1;
    tx->log->changes++;
}

/* Why a live block may not be changed: the transaction has freed it; or others, which pinned it, are about to. */
static int refuse_live(const struct ph_tx *tx, const struct ph_heap *h, uint64_t offset)
{
    const struct ph_refs *refs = ph_refs_find(h, ph_local(offset));
    if (refs == NULL || refs->pins == 0)
        return 0;
    return is_freed(tx, h, offset) ? PH_T_TWICE : others_pin(tx, refs) ? PH_H_IN_TRANSACTION : 0;
}

/* Under a savepoint the bytes of an older fresh block are collected as well: a rollback can drop them. */
static int stores_at_once(const struct ph_tx *tx, uint64_t start)
{
    const struct ph_tx_block *block = ph_tx_fresh(tx, start);
    return (uint64_t)(block - ph_fresh(tx)) >= fresh_before_savepoint(tx);
}

/* The live or reserved block that holds a byte. As a rule it begins with it. */
static int find_block(struct ph_heap *h, uint64_t local, struct ph_tx_aim *aim)
{
    struct ph_unit *live = ph_block_at(h, local);
    int64_t start = (int64_t)local;
    if (live == NULL && !ph_is_reserved(h, local)) {
        start = ph_block_start(h, local);
        live = start < 0 ? NULL : ph_block_at(h, (uint64_t)start);
    }
    if (start < 0)
        return PH_H_BAD_OFFSET;
    *aim = (struct ph_tx_aim){.heap = h, .start = (uint64_t)start, .fresh = live == NULL};
    aim->record = live != NULL ? live : ph_record_of(h, (uint64_t)start);
    return 0;
}

static int aim_at_fresh(const struct ph_tx *tx, uint64_t start, struct ph_tx_aim *aim)
{
    const struct ph_tx_block *block = ph_tx_fresh(tx, start);
    if (block->is_cancelled)
        return PH_T_TWICE;
    aim->at_once = (uint8_t)stores_at_once(tx, start);
    return 0;
}

/* Aim at a range of the block that holds its first byte. */
static int aim_at_first(struct ph_tx *tx, uint64_t offset, uint64_t nbytes, struct ph_tx_aim *aim)
{
    struct ph_heap *h = ph_core_of(tx->log, offset);
    uint64_t local = ph_local(offset);
    if (h == NULL || find_block(h, local, aim) < 0)
        return PH_H_BAD_OFFSET;
    uint64_t start = offset - local + aim->start, capacity = ph_capacity_of(h, aim->record);
    if (aim->fresh && ph_tx_fresh(tx, start) == NULL) /* another transaction's */
        return PH_H_BAD_OFFSET;
    if (nbytes > capacity || local - aim->start > capacity - nbytes)
        return PH_T_OUTSIDE;
    return aim->fresh ? aim_at_fresh(tx, start, aim) : refuse_live(tx, h, start);
}

/* A range of no bytes may lie at the end of its block as well, whatever becomes of the block that begins there. */
int ph_tx_aim(struct ph_tx *tx, uint64_t offset, uint64_t nbytes, struct ph_tx_aim *aim)
{
    int refused = aim_at_first(tx, offset, nbytes, aim);
    if (refused == 0 || nbytes != 0 || ph_local(offset) == 0)
        return refused;
    return aim_at_first(tx, offset - 1, 1, aim) == 0 ? 0 : refused;
}

int ph_tx_reserve(struct ph_tx *tx, struct ph_heap *h, uint64_t ranges, uint64_t nbytes, uint64_t frees)
{
    return ph_list_room(&tx->writes, ranges, sizeof(struct ph_tx_bytes)) < 0 || room_to_keep(tx, nbytes) < 0
               || ph_list_room(&tx->frees, frees, sizeof(struct ph_tx_block)) < 0
               || ph_refs_reserve(h, ranges + frees) < 0
           ? PH_L_NOMEM : 0;
}

void ph_tx_store(struct ph_tx *tx, const struct ph_tx_aim *aim, uint64_t offset, const void *bytes, uint64_t nbytes)
{
    uint64_t at = tx->used;
    if (aim->at_once) {
        ph_put(aim->heap->data + ph_local(offset), bytes, nbytes);
        return;
    }
    if (aim->fresh)
        ph_tx_fresh(tx, offset - ph_local(offset) + aim->start)->is_written = 1;
    else if (PH_KEPT(R26))
        ph_pin_change_of(aim->heap, aim->start, aim->record); /* room in the table of refs is reserved */
    memcpy(tx->buffer + at, bytes, nbytes);
    tx->used += nbytes;
    ph_writes(tx)[tx->writes.count++] = (struct ph_tx_bytes){
        .offset = offset, .nbytes = nbytes, .at = at, .start = aim->start, .fresh = aim->fresh,
    };
}

int ph_tx_write(struct ph_tx *tx, uint64_t offset, const void *bytes, uint64_t nbytes)
{
    struct ph_tx_aim aim;
    int refused = ph_tx_aim(tx, offset, nbytes, &aim);
    if (refused < 0 || nbytes == 0)
        return refused;
    if (nbytes > UINT32_MAX && !aim.at_once)
        return PH_L_LARGE;
    if (!aim.at_once && ph_tx_reserve(tx, aim.heap, 1, nbytes, 0) < 0)
        return PH_L_NOMEM;
    ph_tx_store(tx, &aim, offset, bytes, nbytes);
    forget_image(tx, offset - ph_local(offset) + aim.start);
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

static void drop_snapshots(struct ph_tx *tx, uint64_t count)
{
    while (tx->snapshots.count > count) {
        const struct ph_tx_bytes *one = &ph_snapshots(tx)[--tx->snapshots.count];
        struct ph_heap *h = ph_core_of(tx->log, one->offset);
        if (!one->fresh)
            ph_tx_unpin_change(h, one->start);
    }
}

/* Remember the old bytes of what is not remembered yet, and write them into the record that is being built. */
static int remember(struct ph_tx *tx, struct ph_heap *h, uint64_t start, uint64_t offset, uint64_t nbytes, int fresh)
{
    for (uint64_t part, at = offset; (part = uncovered(tx, &at, offset + nbytes)) != 0; at += part) {
        uint64_t place;
        const uint8_t *bytes = h->data + ph_local(at);
        if (ph_list_room(&tx->snapshots, 1, sizeof(struct ph_tx_bytes)) < 0 || keep(tx, bytes, part, &place) < 0)
            return PH_L_NOMEM;
        if (!fresh && tx->log->base != NULL
            && ph_record_op(tx->log, PH_OP_OLD, 0, at, bytes, (uint32_t)part) < 0)
            return PH_L_NOMEM;
        int pinned = fresh ? 0 : ph_tx_pin_change(h, ph_local(start));
        if (pinned < 0)
            return pinned;
        ph_snapshots(tx)[tx->snapshots.count++] =
            (struct ph_tx_bytes){.offset = at, .nbytes = part, .at = place,
                                  .start = ph_local(start), .fresh = (uint8_t)fresh};
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
    uint64_t start = offset - ph_local(offset) + aim.start;
    if (aim.fresh)
        ph_tx_fresh(tx, start)->is_written = 1;
    forget_image(tx, start);
    ph_record_begin(log);
    failed = remember(tx, aim.heap, start, offset, nbytes, aim.fresh);
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
        drop_snapshots(tx, before);
        tx->used = used;
        return failed;
    }
    if (end != 0) {
        log->promised += promise;
        tx->promise += promise;
    }
    return end;
}

/* ---------------------------------------------------------------- savepoints, abort */

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
        if (keep(tx, data + ph_local(copy.offset), copy.nbytes, &copy.at) < 0) {
            tx->kept.count = here.kept;
            tx->used = here.used;
            return PH_L_NOMEM;
        }
        ph_kept(tx)[tx->kept.count++] = copy;
    }
    ph_savepoints(tx)[tx->savepoints.count++] = here;
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
        uint64_t start = (one.offset & ~((1ULL << PH_ARENA_SHIFT) - 1)) | one.start;
        if (one.fresh && !ph_tx_is_dropped(tx, &one) && stores_at_once(tx, start))
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
}

static void drop_writes(struct ph_tx *tx, uint64_t count)
{
    while (tx->writes.count > count) {
        const struct ph_tx_bytes *one = &ph_writes(tx)[--tx->writes.count];
        if (!one->fresh)
            ph_tx_unpin_change(ph_core_of(tx->log, one->offset), one->start);
    }
}

/* Give up what was collected beyond a point; blocks that were reserved beyond it go back. */
static void drop_beyond(struct ph_tx *tx, const struct ph_tx_savepoint *point)
{
    for (uint64_t i = tx->frees.count; i-- > point->frees;) {
        const struct ph_tx_block *one = &ph_frees(tx)[i];
        if (!one->is_cancelled) {
            ph_tx_unpin(ph_core_of(tx->log, one->offset), ph_local(one->offset));
            continue;
        }
        struct ph_tx_block *fresh = ph_tx_fresh(tx, one->offset);
        fresh->is_cancelled = 0;
        tx->fresh_bytes += fresh->nbytes;
    }
    tx->frees.count = point->frees;
    drop_writes(tx, point->writes);
    while (tx->fresh.count > point->fresh) {
        const struct ph_tx_block *one = &ph_fresh(tx)[--tx->fresh.count];
        if (one->is_cancelled == PH_TX_GONE)
            continue;
        tx->fresh_bytes -= one->nbytes;
        ph_cancel(ph_core_of(tx->log, one->offset), ph_local(one->offset));
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

/* End of a transaction with snapshots: nothing is to be undone any more. */
void ph_tx_close_undo(struct ph_tx *tx)
{
    struct ph_log *log = tx->log;
    log->promised -= tx->promise;
    if (tx->promise != 0)
        open_undo(log, 0);
    tx->promise = 0;
}

void ph_tx_abort(struct ph_tx *tx)
{
    static const struct ph_tx_savepoint start;
    forget_images(tx);
    for (uint64_t i = tx->snapshots.count; i-- > 0;)
        put_back(tx, &ph_snapshots(tx)[i]);
    drop_snapshots(tx, 0);
    drop_beyond(tx, &start);
    tx->savepoints.count = tx->kept.count = 0;
    ph_tx_close_undo(tx);
}

void ph_tx_unpin_changes(struct ph_tx *tx)
{
    drop_snapshots(tx, 0);
    drop_writes(tx, 0);
}

int ph_tx_changes_homes(const struct ph_tx *tx)
{
    return tx->writes.count != 0 || tx->snapshots.count != 0;
}
