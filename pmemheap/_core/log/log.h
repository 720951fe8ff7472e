/* log/log.h -- the redo log: records in a ring of bytes, and what becomes of them.
 *
 *   LSN    tail             applied    durable             head
 *           | records of which the home may not be durable | |
 *           +------------------+---------+------------------+ ....... ring of `size` bytes
 *                              | pending | not yet synced   |
 *
 * An LSN is a position in an endless log; byte x of it lies at `base + x % size`. A record is appended in one
 * go, becomes durable with a sync of the ring (power heaps) and is then applied: its images are stored to the
 * home tables and to the data. Pending records are read back from the ring: nothing else remembers them. */
#ifndef PH_LOG_H
#define PH_LOG_H

#include "base/checked.h"
#include "block/block.h"

/* Where the epochs of the two superblocks lie in the header. */
enum {
    PH_EPOCH_AT = PH_SUPERBLOCK_AT + offsetof(struct ph_superblock, epoch),
    PH_OTHER_EPOCH_AT = PH_OTHER_SUPERBLOCK_AT + offsetof(struct ph_superblock, epoch),
    PH_APPLIED_AT = PH_SHARED_AT + offsetof(struct ph_shared_page, applied),
    PH_OPEN_UNDO_AT = PH_SHARED_AT + offsetof(struct ph_shared_page, open_undo),
    PH_COMMIT_SEQ_AT = PH_SHARED_AT + offsetof(struct ph_shared_page, commit_seq),
    PH_LAYOUT_SEQ_AT = PH_SHARED_AT + offsetof(struct ph_shared_page, layout_seq),
    PH_ERA_AT = PH_SHARED_AT + offsetof(struct ph_shared_page, era),
    PH_FLOOR_AT = PH_SHARED_AT + offsetof(struct ph_shared_page, floor),
    PH_WRITER_AT = PH_SHARED_AT + offsetof(struct ph_shared_page, writer_pid),
    PH_ROOTS_USED_AT = PH_SHARED_AT + offsetof(struct ph_shared_page, roots_used),
};

/* ph_home -- where the images of one arena go; bases are virtual, as those of ph_heap. `data` NULL: not mapped. */
struct ph_home {
    uint8_t *data;
    uint64_t *bits;
    uint8_t *entries;
    uint64_t first_unit, end_unit; /* that are mapped */
    struct ph_heap *heap;          /* whose freed blocks leave quarantine; NULL in recovery */
};

/* Memory for images of pages, which transactions hand to each other. */
enum { PH_PAGE_BYTES = 4096, PH_PAGES_SPARE = 128 }; /* spare: what one of a hundred puts needs */
struct ph_pages {
    uint8_t *spare[PH_PAGES_SPARE];
    uint32_t count;
};

/* ph_lease -- how a writer that lets readers in knows that there is none: log/lease.c. Nanoseconds of ph_now. */
struct ph_lease {
    struct ph_lender lender; /* for calls that free blocks */
    int32_t fd;              /* by which it looks for their locks, while lender.is_on */
    uint8_t is_editing;      /* a transaction edits in place */
    uint8_t is_wanted;       /* somebody in this process waits until it has ended */
    uint32_t gate;           /* enum ph_reader_gate, as the file has it */
    const uint32_t *pinned;  /* eras that this process has pinned */
    uint64_t length, until;  /* of a lease; when the one that is there ends */
    uint64_t again;          /* when it may look again, after it has found somebody */
    uint64_t floor;          /* below which no pin can be adopted any more, since something was edited in place */
    uint64_t edited;         /* LSN behind the last record that has edited in place */
};

struct ph_log {
    uint8_t *base;
    uint64_t size;
    uint64_t tail;     /* that of a durable superblock [R2] */
    uint64_t limit;    /* no record goes beyond this LSN: the file has no blocks for it yet; 0: it has all */
    uint64_t applied, durable, head;
    uint64_t epoch;
    uint64_t file_end; /* bytes of the file that all records so far need */
    uint8_t *header;   /* the mapped header area, NULL without one */
    uint8_t *scratch;  /* the record that is being built */
    uint64_t capacity, length;
    uint64_t promised; /* bytes kept for the commit of the transaction with an open UNDO */
    uint64_t open_undo; /* LSN of its first UNDO, 0 without one [R20] */
    uint64_t refused, refused_spare; /* bytes of the last record if it was not appended, and behind it; else 0 */
    uint32_t chain;    /* CRC of the record that ends at head */
    int32_t fd;        /* of the file; -1 without one */
    uint64_t place;    /* where the ring lies in it */
    uint8_t named;     /* it has a name that others could take from it */
    uint32_t txid;     /* of the last transaction */
    uint16_t nops;
    uint8_t power, dead, frozen;
    uint8_t lost;      /* dead, and what is mapped is the heap's no more: nothing is to be read or put back either */
    uint8_t awaited;   /* the record that is being built is synced as soon as it is appended */
    uint8_t unread;    /* nobody reads what the records free that are brought home now */
    uint8_t copies;    /* there may be readers of snapshots: what a commit can reach is copied, not edited in place [Q5] */
    uint16_t arenas;   /* homes from here on are not in use */
    struct ph_era era; /* the tag of what is freed [Q3] */
    struct ph_lease lease;
    struct ph_root_slot *roots; /* the root table as of the last commit, while it copies; NULL */
    uint64_t roots_used; /* slots from here on are free */
    uint64_t begun;                 /* transactions, since open */
    uint64_t changes;               /* of bytes of blocks, or of what a transaction makes of them, since open */
    struct ph_pages pages;
    uint64_t records, bytes, syncs; /* since open */
    uint64_t undone, revoked;       /* by the last replay: UNDOs stored, parts of writes left out [R13] */
    struct ph_home *homes; /* by arena: of those so far */
    uint32_t homes_room;
};

void ph_log_fini(struct ph_log *log);

/* ph_log_copies -- let readers in, or no more: `copies`, from `era` on. PH_L_NOMEM. Pre: all that was appended is applied. */
int ph_log_copies(struct ph_log *log, int copies, uint64_t era);

/* ph_lease_init -- there is none. Pre: the memory is zero.
 * ph_lease_begin -- nobody reads beside this writer for now, as far as `lease` tells by what it has of fd, pins and length: it may edit in
 * place. ph_lease_end -- it copies from now on, also if nobody reads; or as ph_lease_stop, with nothing changed.
 * ph_lease_forget -- the header is not this process's any more: the gate stays as it is there.
 * ph_lease_take -- whether the transaction that begins to change committed bytes may edit them in place [Q7, Q8]; it does until
 * ph_lease_give.
 * ph_lease_lend -- the same for a call that frees or applies, beside a transaction that may be editing already: what ph_lease_take_back
 * gets, or 0.
 * ph_lease_rest -- open the gate if nothing is edited in place, and all that was is home.
 * ph_lease_stop -- let no transaction edit in place until ph_lease_take finds that it may: somebody here reads. 0; PH_L_EDITING: one does,
 * or what one has edited is not home yet.
 * ph_lease_settle -- the tail of the log has moved: a replay may need no older images any more. */
void ph_lease_init(struct ph_log *log);
void ph_lease_begin(struct ph_log *log, const struct ph_lease *lease);
int ph_lease_end(struct ph_log *log);
void ph_lease_forget(struct ph_log *log);
int ph_lease_take(struct ph_log *log);
void ph_lease_give(struct ph_log *log);
int ph_lease_lend(struct ph_log *log);
void ph_lease_take_back(struct ph_log *log, int taken);
void ph_lease_rest(struct ph_log *log);
int ph_lease_stop(struct ph_log *log);
void ph_lease_settle(struct ph_log *log);

/* ph_shared_word -- a word of the shared page, which another process may be storing to.
 * ph_capture -- copy the root table of a mapped header as one commit left it: `to` has room for all slots. Returns how many are
 * in use at the most; PH_L_FULL: the sequence stays odd. `sequence` is what it was, and what it is now.
 * ph_capture_root -- the same of one name: `place` is what ph_root_place makes of the slots. 0 or PH_L_FULL.
 * ph_root_place -- where the bytes are that a root names in some slots, as of the commit; PH_NO_ROOT: none does, or its slot is
 * damaged. */
#define PH_NO_ROOT UINT64_MAX
uint64_t ph_shared_word(const uint8_t *header, uint32_t at);
int64_t ph_capture(const uint8_t *header, uint64_t *sequence, struct ph_root_slot *to);
int64_t ph_capture_root(const uint8_t *header, const char *name, uint64_t length, uint64_t *sequence, uint64_t *place);
uint64_t ph_root_place(const struct ph_root_slot *slots, uint64_t used, const char *name, uint64_t length);

/* ph_log_home_make -- the home of an arena, to be set; NULL: there is no memory. Others move. Pre: arena < PH_ARENAS. */
struct ph_home *ph_log_home_make(struct ph_log *log, uint32_t arena);

/* ph_log_core -- the core of an arena, NULL if it has none. */
static inline struct ph_heap *ph_log_core(const struct ph_log *log, uint64_t arena)
{
    return arena < log->homes_room ? log->homes[arena].heap : NULL;
}

/* Building the next record: begin, operations, append. ph_record_op fails with PH_L_NOMEM and leaves the record
 * as it was. ph_record_append returns the LSN behind the record, or a failure with nothing changed: `spare` bytes
 * must be free behind it as well. */
void ph_record_begin(struct ph_log *log);
int ph_record_op(struct ph_log *log, uint8_t type, uint8_t flags, uint64_t off, const void *payload, uint32_t length);
int64_t ph_record_append(struct ph_log *log, uint8_t kind, uint32_t txid, uint64_t spare);
/* ph_record_word -- append a WORD; nothing is being built. */
int64_t ph_record_word(struct ph_log *log, uint64_t off, uint64_t image, uint64_t freed_granules, uint32_t bit);
/* ph_record_raw -- operations that were encoded by somebody else, `count` of them. */
int ph_record_raw(struct ph_log *log, const void *operations, uint64_t length, uint16_t count);
static inline uint64_t ph_record_bytes(uint64_t length)
{
    return (length + PH_LOG_ALIGN - 1) & ~(uint64_t)(PH_LOG_ALIGN - 1);
}
/* ph_log_room -- why a record of `bytes` could not be appended, 0 if it could. */
int ph_log_room(const struct ph_log *log, uint64_t bytes, uint64_t spare);

/* ph_log_apply -- bring the records that end at `upto` or before it home, and let the freed out of quarantine.
 * PH_L_GONE: the log is dead, since its file was changed by somebody else. */
int ph_log_apply(struct ph_log *log, uint64_t upto);
/* ph_set_copies -- there may be readers of snapshots, in an era or a later one: what is freed gets tags; or there are none any more: all
 * that has a tag is recycled. PH_L_NOMEM with nothing changed.
 * ph_set_era -- what is freed from now on has another tag; never an older one. ph_end_era -- the same, and readers see it, when much was
 * freed: what they begin then keeps nothing of before.
 * ph_recycle -- what has a tag below a bound becomes free: how many bytes. What it stores is noted, as that of a call.
 * ph_tags_join -- an arena has a log, or another one.
 * ph_tagged -- bytes and tags of all arenas, and the oldest era, 0 without one.
 * ph_tagged_since -- bytes of the tags that are not below an era: what a pin of it keeps. O(those tags). */
struct ph_tagged {
    uint64_t bytes, count, oldest;
};
int ph_set_copies(struct ph_log *log, int copies, uint64_t era);
void ph_set_era(struct ph_log *log, uint64_t era);
void ph_end_era(struct ph_log *log);
uint64_t ph_recycle(struct ph_log *log, uint64_t bound);
void ph_tags_join(struct ph_log *log, struct ph_heap *h);
struct ph_tagged ph_tagged(const struct ph_log *log);
uint64_t ph_tagged_since(const struct ph_log *log, uint64_t era);
/* ph_log_has_header -- whether the header is still the one of the heap that was opened. */
int ph_log_has_header(const struct ph_log *log);
/* ph_log_chain_at -- CRC that the record at `lsn` continues: the chain seed of a superblock with that tail. */
uint32_t ph_log_chain_at(const struct ph_log *log, uint64_t lsn);

/* The result of a scan: `end` is the LSN behind the last record that is accepted. */
struct ph_scan {
    uint64_t end, file_end, records, undos;
    uint32_t chain, txid;  /* of the last one; the greatest txid */
};

/* ph_log_scan -- from `tail` on, accept records until one fails [R11, R12]. Pre: log->base, size, epoch. */
void ph_log_scan(const struct ph_log *log, uint64_t tail, uint32_t chain, struct ph_scan *scan);
/* ph_log_damage -- LSN of a self-consistent record that proves that acknowledged work behind `end` is damaged, 0
 * if there is none. */
uint64_t ph_log_damage(struct ph_log *log, uint64_t end);
/* ph_log_header_tables -- apply the META of roots, segments and arenas of [from, end) to an image of the header; a
 * process heap leaves out commits before `commits_from`, which are home. */
void ph_log_header_tables(const struct ph_log *log, uint64_t from, uint64_t end, uint64_t commits_from, uint8_t *header,
                          uint64_t length);
/* ph_log_replay -- recovery: store the records of [from, end) home, undo what was not committed [R21], revoke what
 * was freed or given back later [R13]. PH_L_GONE: the log is not the one that was scanned. A process heap leaves out commits before `commits_from`, which are home
 * [R22], and undos before `undo_from` [R23]. PH_L_NOMEM with nothing stored. */
int ph_log_replay(struct ph_log *log, uint64_t from, uint64_t end, uint64_t commits_from, uint64_t undo_from);
/* ph_log_touched -- call `touch` for each range of units that [from, end) writes to, in a table of words or in the
 * data, and for each that it relies on; -1 when it returned one. */
typedef int (*ph_touch)(void *context, int table, uint64_t off, uint64_t length);
int ph_log_touched(const struct ph_log *log, uint64_t from, uint64_t end, ph_touch touch, void *context);

#endif
