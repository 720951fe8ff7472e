/* tx/tx.h -- a transaction that is being put together: what it reserved, freed, wrote, and may have to undo.
 *
 * Nothing persistent happens before ph_tx_commit, except for the UNDO records of snapshots. Offsets are those of
 * the user: arena << 55 | bytes. The caller holds the GIL through every call. */
#ifndef PH_TX_H
#define PH_TX_H

#include "block/block.h"
#include "log/log.h"

struct ph_tx_block {
    uint64_t offset;
    uint64_t nbytes;
    uint8_t is_cancelled; /* of a reserved block: enum below */
    uint8_t is_written;   /* bytes of it were collected */
    uint8_t is_node;      /* of a map: the room between its slots and its entries means nothing */
};

enum {
    PH_TX_CANCELLED = 1, /* freed again, and kept until the end: a rollback, or bytes that were collected, may want it */
    PH_TX_GONE = 2,      /* given back for good */
};

enum {
    PH_TX_UNDECIDED = 0,
    PH_TX_COPIES = 1, /* it copies it, where there may be readers of snapshots */
    PH_TX_EDITS = 2,  /* it edits it in place, under a lease */
};

struct ph_tx_bytes {
    uint64_t offset, nbytes;
    uint64_t at;   /* where the bytes lie in the buffer */
    uint64_t start; /* where the block begins, as a byte index in its arena: that of the pin */
    uint8_t fresh;  /* in a block of this transaction: no pin, no log */
    uint8_t pinned; /* the block has a pin for them, and for those of it that stand behind */
};

struct ph_tx_list {
    void *items;
    uint64_t count, capacity;
};

struct ph_image {
    uint64_t key; /* offset of the page + 1 */
    uint8_t *bytes; /* NULL: it was dropped */
    uint64_t rest;  /* from which byte on the page is as at home, and not copied yet; 0: it is all there */
};

struct ph_images {
    struct ph_hash_table pages; /* ph_image, by offset + 1 */
    uint8_t has_strays; /* a page without an image may have bytes that were collected */
};

struct ph_tx {
    struct ph_log *log;
    struct ph_tx_list fresh;     /* ph_tx_block: reserved */
    struct ph_tx_list index;     /* uint32_t: where in `fresh` an offset stands */
    struct ph_tx_list frees;     /* ph_tx_block: pinned, unless it is brief */
    struct ph_tx_list writes;    /* ph_tx_bytes: collected */
    struct ph_tx_list snapshots; /* ph_tx_bytes: the old bytes, pinned */
    struct ph_tx_list savepoints; /* ph_tx_savepoint */
    struct ph_tx_list kept;      /* ph_tx_bytes: snapshots as they were at a savepoint */
    struct ph_tx_list words;     /* scratch of the commit */
    struct ph_tx_list told, named; /* the same beside readers, tx/rootcopies.c: operations of others, and slots in them */
    uint64_t copies_from;        /* reserved blocks from here on are copies for readers, which the record carries */
    uint16_t told_ops;
    struct ph_images images;
    uint8_t *buffer;
    uint64_t used, capacity;
    uint64_t promise;            /* log space that its snapshots keep for its commit */
    uint64_t fresh_bytes, long_bytes; /* of reserved blocks; of the long ones among them */
    uint64_t fresh_changes;      /* how often blocks were reserved, or stored to at once */
    uint64_t fresh_durable;      /* those of them whose bytes were synced: after all of them FRESH instead of WRITE */
    uint64_t durable_least;      /* bytes of the blocks that were: not of shorter ones */
    uint64_t number;             /* of those of its log: no two have the same */
    uint64_t rollbacks;          /* how often it went back to a savepoint */
    uint64_t resets;             /* how often a note of its pages went void: an image was dropped, or a savepoint was made or released,
                                  * after which stores may be collected that were not, and the other way round */
    uint32_t txid;
    uint8_t edits;               /* how it changes what a commit can reach: enum below */
    uint8_t has_small;           /* it has changed bytes of a block that may have a copy for readers */
    uint8_t is_brief;            /* nothing else runs before it ends: the blocks that it changes and frees need no pins */
};

struct ph_tx_savepoint {
    uint64_t fresh, frees, writes, snapshots, kept, used;
};

/* ph_tx_fresh_is_durable -- whether nothing was reserved or stored since the bytes of fresh blocks were synced. */
static inline int ph_tx_fresh_is_durable(const struct ph_tx *tx)
{
    return tx->fresh_durable == tx->fresh_changes;
}

/* ph_tx_edits -- whether what a commit can reach may be edited in place though there may be readers: nobody reads [Q7]. It stays so
 * until the transaction ends. */
static inline int ph_tx_edits(struct ph_tx *tx)
{
    if (tx->edits == PH_TX_UNDECIDED)
        tx->edits = ph_lease_take(tx->log) ? PH_TX_EDITS : PH_TX_COPIES;
    return tx->edits == PH_TX_EDITS;
}

void ph_tx_init(struct ph_tx *tx, struct ph_log *log);
void ph_tx_fini(struct ph_tx *tx);
/* ph_tx_restart -- another transaction with the memory of one that was committed or aborted. */
void ph_tx_restart(struct ph_tx *tx);
/* ph_tx_start -- a transaction, with the memory that one before has left to `spare`, if it has.
 * ph_tx_leave -- what ph_tx_fini does; its memory is left, if that is not much. */
void ph_tx_start(struct ph_tx *tx, struct ph_log *log, struct ph_tx *spare);
void ph_tx_leave(struct ph_tx *tx, struct ph_tx *spare);

/* Failures are those of the allocator core and of the log; a failure has changed nothing. */
int64_t ph_tx_malloc(struct ph_tx *tx, uint64_t arena, uint64_t size, uint64_t align);
/* ph_tx_say_node -- the block that was reserved last is to be a node of a map. */
void ph_tx_say_node(struct ph_tx *tx);
/* ph_tx_own -- a block that was reserved outside, by ph_reserve_large, is the transaction's. */
int ph_tx_own(struct ph_tx *tx, uint64_t offset);
/* ph_tx_disown -- give such a block back. */
void ph_tx_disown(const struct ph_log *log, uint64_t offset);
/* ph_tx_has_made -- whether the transaction has reserved the block that begins at `offset`. */
int ph_tx_has_made(const struct ph_tx *tx, uint64_t offset);
int ph_tx_free(struct ph_tx *tx, uint64_t offset);
/* ph_tx_may_name -- 0 if a root may name the block at `offset` once the transaction has committed: it is live, or
 * reserved by it, and not freed by it. */
int ph_tx_may_name(const struct ph_tx *tx, uint64_t offset);
/* ph_tx_next_rooted -- index of the first block to be freed, from `from` on, that a root names; their number if none. */
uint64_t ph_tx_next_rooted(const struct ph_tx *tx, uint64_t from);
/* ph_tx_free_deferred -- also with live views: its space is kept from others until the last one goes. */
int ph_tx_free_deferred(struct ph_tx *tx, uint64_t offset);
/* ph_tx_may_free -- why ph_tx_free_deferred would refuse; 0 if only memory can stop it. */
int ph_tx_may_free(const struct ph_tx *tx, uint64_t offset);
/* ph_tx_write -- a range of no bytes may lie at the end of a block. */
int ph_tx_write(struct ph_tx *tx, uint64_t offset, const void *bytes, uint64_t nbytes);

/* A change in many parts first finds out whether all of them are possible, then has room made, then stores: so it
 * happens as a whole or not at all.
 * ph_tx_aim -- the block of which [offset, offset + nbytes) is a part, or why the transaction may not change it.
 * ph_tx_reserve -- room for so many ranges, bytes in all, and frees in arena `h`; PH_L_NOMEM.
 * ph_tx_store -- the same as ph_tx_write, of a range in a block that was aimed at. It cannot fail. */
struct ph_tx_aim {
    struct ph_block block;
    uint8_t fresh;   /* it is reserved, by this transaction */
    uint8_t at_once; /* the bytes go where they belong at once */
    uint8_t is_large; /* the block never has a copy for readers: tx/rootcopies.c */
};
int ph_tx_aim(struct ph_tx *tx, uint64_t offset, uint64_t nbytes, struct ph_tx_aim *aim);
int ph_tx_reserve(struct ph_tx *tx, struct ph_heap *h, uint64_t ranges, uint64_t nbytes, uint64_t frees);
void ph_tx_store(struct ph_tx *tx, const struct ph_tx_aim *aim, uint64_t offset, const void *bytes, uint64_t nbytes);

/* ph_tx_rewrite -- 1: entry `index` of what was collected, for the same range, has other bytes now; 0: there is no such
 * entry, or a savepoint may want the old bytes. Nothing collected later may overlap it. */
int ph_tx_rewrite(struct ph_tx *tx, uint64_t index, uint64_t offset, const void *bytes, uint64_t nbytes);
/* ph_tx_carry -- store what was collected for [offset, offset + nbytes) of one block to a block that is reserved. */
void ph_tx_carry(const struct ph_tx *tx, uint64_t offset, uint64_t nbytes, uint64_t to);
/* ph_tx_snapshot -- the LSN behind the UNDO record, 0 if none was needed: it must be durable before the bytes change. */
int64_t ph_tx_snapshot(struct ph_tx *tx, uint64_t offset, uint64_t nbytes);

static inline uint64_t ph_tx_hash(uint64_t offset)
{
    return (offset >> PH_GRANULE_SHIFT) * 0x9E3779B97F4A7C15ULL >> 20;
}

/* Images, see tx/images.c. Memory of PH_PAGE_BYTES each:
 * ph_page_take -- NULL: there is none. ph_page_give -- back again; NULL is allowed.
 * ph_tx_image -- the page at an offset as the transaction leaves it; NULL: there is no image of it. `home`: where the page
 * lies, for what was not copied yet.
 * ph_tx_has_image -- whether there is one.
 * ph_tx_image_keep -- `bytes` are the image of the page from now on; from `rest` on, if that is not 0, it is as at home,
 * and is copied when somebody looks. Pre: ph_tx_image_room.
 * ph_tx_image_drop -- what changes the page is not in its image.
 * ph_tx_overlay -- put what was collected for [offset, offset + nbytes) of one block over a copy of these bytes.
 * ph_tx_touches -- whether something was collected for the block at an offset. */
uint8_t *ph_page_take(struct ph_log *log);
void ph_page_give(struct ph_log *log, uint8_t *bytes);
uint8_t *ph_tx_image(const struct ph_tx *tx, uint64_t offset, const uint8_t *home);
int ph_tx_has_image(const struct ph_tx *tx, uint64_t offset);
int ph_tx_image_room(struct ph_tx *tx, uint64_t more);
void ph_tx_image_keep(struct ph_tx *tx, uint64_t offset, uint8_t *bytes, uint64_t rest);
void ph_tx_image_drop(struct ph_tx *tx, uint64_t offset);
void ph_tx_overlay(const struct ph_tx *tx, uint64_t offset, uint64_t nbytes, uint8_t *to);
int ph_tx_touches(const struct ph_tx *tx, uint64_t offset);

int ph_tx_savepoint(struct ph_tx *tx);
void ph_tx_release_savepoint(struct ph_tx *tx);
void ph_tx_rollback(struct ph_tx *tx);

/* ph_tx_commit -- append the record with the encoded operations of others, `count` of them; make it visible. Returns
 * the LSN behind it (0: there was nothing to log), or a failure with nothing changed. In a power heap the images go
 * home when the record is durable. If that is awaited the blocks whose bytes change stay pinned until they have, and
 * ph_tx_unpin_changes is called: a view that is taken meanwhile must not change later. */
int64_t ph_tx_commit(struct ph_tx *tx, const void *others, uint64_t length, uint16_t count);
void ph_tx_unpin_changes(struct ph_tx *tx);
void ph_tx_abort(struct ph_tx *tx);

/* ph_tx_changes_homes -- whether committed bytes are changed: the commit has to wait for its record in a power heap. */
int ph_tx_changes_homes(const struct ph_tx *tx);

/* ph_log_flush -- append what bare calls of one core of a power heap have changed since the last record. */
int64_t ph_log_flush(struct ph_log *log, uint64_t arena);
/* ph_log_change -- append encoded operations in a record of their own, together with what bare calls changed. */
int64_t ph_log_change(struct ph_log *log, const void *operations, uint64_t length, uint16_t count, uint64_t file_end);

#endif
