/* base/format.h -- format 1 of a heap file: every struct that is stored, where each field of it lies, and every number.
 *
 * Read twice, as base/codes.h is: by the C compiler, and by cffi, from which `pmemheap/native/constants.py` has the numbers.
 * All is little-endian. `docs/format.md` tells what it means; here it stands byte by byte.
 *
 *   0       0x1000       0x2000        0x3000   0x4000        0x14000     0x18000     0x28000
 *   +-------+------------+-------------+--------+-------------+-----------+-----------+------------ - -
 *   | superblock, twice  | shared page | locks  | 1024        | 256       | 1024      | log, segments
 *   | 512 bytes of each  |             |        | segments    | arenas    | roots     | end to end
 *   +-------+------------+-------------+--------+-------------+-----------+-----------+------------ - -
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define PH_STORED(type, field, at) _Static_assert(offsetof(struct type, field) == (at), "format 1")
#define PH_STORED_BYTES(type, bytes) _Static_assert(sizeof(struct type) == (bytes), "format 1")

/* ---------------------------------------------------------------- sizes */
enum ph_sizes {
    PH_UNIT_SHIFT = 12,
    PH_UNIT_BYTES = 4096,
    PH_GRANULE_SHIFT = 4,
    PH_GRANULE = 16,
    PH_SEGMENT_UNITS = 256,    /* capacities of data segments are multiples of it */
    PH_ENTRY_BYTES = 16,       /* of a unit, in the entries table */
    PH_BITS_BYTES = 32,        /* of a unit, in the table of allocation bits */
    PH_ARENA_SHIFT = 55,       /* an offset is the number of its arena << 55, and the byte in the arena */
    PH_ARENAS = 256,
};

/* ---------------------------------------------------------------- header area */
enum ph_header_area {
    PH_VERSION = 1,
    PH_SUPERBLOCK_AT = 0x0000,
    PH_OTHER_SUPERBLOCK_AT = 0x1000,
    PH_SHARED_AT = 0x2000,
    PH_LOCK_WRITER_AT = 0x3000, /* locked bytes, which hold nothing */
    PH_LOCK_READER_AT = 0x3001,
    PH_LOCK_FOLLOWER_AT = 0x3002, /* of readers beside a writer */
    PH_PIN_ERA_SHIFT = 22,      /* a pin is a lock on byte 1 << 62 | era << 22 | process */
    PH_SEGMENTS_AT = 0x4000,
    PH_SEGMENT_SLOTS = 1024,
    PH_ARENAS_AT = 0x14000,
    PH_ARENA_SLOTS = 256,
    PH_ROOTS_AT = 0x18000,
    PH_ROOT_SLOTS = 1024,
    PH_HEADER_BYTES = 0x28000,
    PH_SLOT_BYTES = 64,
    PH_LOG_BYTES = 0x20000,     /* of the log that a new heap gets */
};

enum ph_file_state {
    PH_FILE_CLEAN = 0,
    PH_FILE_IN_USE = 1,
};

enum ph_feature {
    PH_UNDER_REPAIR = 1, /* a repair is at work; its backup has the bytes that it changes */
    PH_HAS_ROWS = 2,     /* there are, or were, arenas of rows */
    PH_HAS_PACKED = 4,   /* the same of chunks of pieces */
};

/* ph_superblock -- of two valid copies the one of the higher generation counts.
 *
 *   0       8         12    16           24     40           44      48         56       64         72        80
 *   | magic | version | crc | generation | uuid | durability | state | incompat | compat | file_end | log_off | log_size
 *   88      96      104     112      120    128        136     144    148    152       168      169      424
 *   | limit | birth | inode | device | zero | tail_lsn | epoch | seed | zero | boot_id | length | backup | zeros to 512
 */
struct ph_superblock {
    char magic[8];
    uint32_t version;
    uint32_t crc;           /* CRC-32C of all 512 bytes, this as zero */
    uint64_t generation;
    uint8_t uuid[16];
    uint32_t durability;    /* enum ph_durability */
    uint32_t state;         /* enum ph_file_state */
    uint64_t features_incompat, features_compat;
    uint64_t file_end;      /* bytes of the file that belong to the heap */
    uint64_t log_off, log_size;
    uint64_t limit;         /* bytes that the file may grow to, 0 without one */
    uint64_t birth, inode, device; /* of the file in which the heap is open; 0: closed, or not known */
    uint64_t zero_1;
    uint64_t tail_lsn;      /* recovery reads the log from there on */
    uint64_t epoch;         /* of the records that it accepts */
    uint32_t chain_seed;    /* checksum of the record before the tail */
    uint32_t zero_2;
    uint8_t boot_id[16];
    uint8_t backup_length;
    char backup[255];       /* name of the file that undoes a repair, while that is at work */
    uint8_t zeros[88];
};
PH_STORED(ph_superblock, magic, 0);
PH_STORED(ph_superblock, version, 8);
PH_STORED(ph_superblock, crc, 12);
PH_STORED(ph_superblock, generation, 16);
PH_STORED(ph_superblock, uuid, 24);
PH_STORED(ph_superblock, durability, 40);
PH_STORED(ph_superblock, state, 44);
PH_STORED(ph_superblock, features_incompat, 48);
PH_STORED(ph_superblock, features_compat, 56);
PH_STORED(ph_superblock, file_end, 64);
PH_STORED(ph_superblock, log_off, 72);
PH_STORED(ph_superblock, log_size, 80);
PH_STORED(ph_superblock, limit, 88);
PH_STORED(ph_superblock, birth, 96);
PH_STORED(ph_superblock, inode, 104);
PH_STORED(ph_superblock, device, 112);
PH_STORED(ph_superblock, zero_1, 120);
PH_STORED(ph_superblock, tail_lsn, 128);
PH_STORED(ph_superblock, epoch, 136);
PH_STORED(ph_superblock, chain_seed, 144);
PH_STORED(ph_superblock, zero_2, 148);
PH_STORED(ph_superblock, boot_id, 152);
PH_STORED(ph_superblock, backup_length, 168);
PH_STORED(ph_superblock, backup, 169);
PH_STORED(ph_superblock, zeros, 424);
PH_STORED_BYTES(ph_superblock, 512);

/* ph_shared_page -- words that are kept up to date by plain stores: what recovery of a process heap needs, and what readers
 * in other processes go by. A sequence is odd while slots of its tables are being stored. */
struct ph_shared_page {
    uint64_t applied;       /* LSN up to which the log is home */
    uint64_t open_undo;     /* LSN of the first UNDO of the open transaction, 0 without one */
    uint64_t commit_seq;    /* goes up by two with each change of roots */
    uint64_t layout_seq;    /* with each change of segments or arenas */
    uint64_t era;           /* that a reader's pin names; 0: no writer has had readers yet */
    uint32_t writer_pid;
    uint32_t gate;          /* enum ph_reader_gate */
    uint64_t roots_used;    /* slots of the root table from here on are free */
    uint64_t floor;         /* what was freed in an older era may be in use again: a snapshot of one cannot be adopted */
};
PH_STORED(ph_shared_page, applied, 0);
PH_STORED(ph_shared_page, open_undo, 8);
PH_STORED(ph_shared_page, commit_seq, 16);
PH_STORED(ph_shared_page, layout_seq, 24);
PH_STORED(ph_shared_page, era, 32);
PH_STORED(ph_shared_page, writer_pid, 40);
PH_STORED(ph_shared_page, gate, 44);
PH_STORED(ph_shared_page, roots_used, 48);
PH_STORED(ph_shared_page, floor, 56);
PH_STORED_BYTES(ph_shared_page, 64);

enum ph_reader_gate {
    PH_READERS_NONE = 0,    /* the writer edits in place: nobody can read beside it */
    PH_READERS_MAY = 1,     /* it copies what a commit can reach */
    PH_READERS_STAY = 2,    /* it takes over from such a writer: nobody can begin, and who reads has copies of roots */
    PH_READERS_LATE = 3,    /* as PH_READERS_MAY, but the log has older images of what was edited in place before */
    PH_READERS_WAIT = 4,    /* it may edit in place: who comes has to wait before he begins */
    PH_READERS_SHUT = 5,    /* it does at this moment */
};

/* ---------------------------------------------------------------- slots of the header tables
 * 64 bytes each, all zero if it is free; `crc` is the CRC-32C of the slot, itself as zero. */

enum ph_segment_kind {
    PH_SEGMENT_NONE = 0,
    PH_SEGMENT_DATA = 1,
    PH_SEGMENT_LOG = 2,
    PH_SEGMENT_SPARE = 3,   /* pages of nobody */
};

/*   0      1   2       4    8          16         24           32       40        60   64
 *   | kind | 0 | arena | 0  | file_off | capacity | first_unit | nunits | zeros | crc |        */
struct ph_segment_slot {
    uint8_t kind, zero_1;
    uint16_t arena;
    uint32_t zero_2;
    uint64_t file_off;
    uint64_t capacity;      /* units; of a log, pages */
    uint64_t first_unit;
    uint64_t nunits;        /* in use; of a SPARE, pages behind its units */
    uint8_t zeros[20];
    uint32_t crc;
};
PH_STORED(ph_segment_slot, kind, 0);
PH_STORED(ph_segment_slot, zero_1, 1);
PH_STORED(ph_segment_slot, arena, 2);
PH_STORED(ph_segment_slot, zero_2, 4);
PH_STORED(ph_segment_slot, file_off, 8);
PH_STORED(ph_segment_slot, capacity, 16);
PH_STORED(ph_segment_slot, first_unit, 24);
PH_STORED(ph_segment_slot, nunits, 32);
PH_STORED(ph_segment_slot, zeros, 40);
PH_STORED(ph_segment_slot, crc, 60);
PH_STORED_BYTES(ph_segment_slot, 64);

enum ph_arena_state {
    PH_ARENA_NONE = 0,
    PH_ARENA_LIVE = 1,
    PH_ARENA_DROPPED = 2,   /* it keeps its range of units: the next one of the slot begins behind it */
};

/*   0       1          8            16         24       25     56      60   64
 *   | state | strategy | first_unit | end_unit | length | name | zeros | crc |        */
struct ph_arena_slot {
    uint8_t state;
    uint8_t strategy[7];
    uint64_t first_unit, end_unit;
    uint8_t name_length;
    char name[31];
    uint8_t zeros[4];
    uint32_t crc;
};
PH_STORED(ph_arena_slot, state, 0);
PH_STORED(ph_arena_slot, strategy, 1);
PH_STORED(ph_arena_slot, first_unit, 8);
PH_STORED(ph_arena_slot, end_unit, 16);
PH_STORED(ph_arena_slot, name_length, 24);
PH_STORED(ph_arena_slot, name, 25);
PH_STORED(ph_arena_slot, zeros, 56);
PH_STORED(ph_arena_slot, crc, 60);
PH_STORED_BYTES(ph_arena_slot, 64);

/*   0     8      16    20       21     64
 *   | off | copy | crc | length | name |        */
struct ph_root_slot {
    uint64_t off;
    uint64_t copy;          /* a block with the bytes of that at `off` as of the last commit, for readers; 0: none */
    uint32_t crc;
    uint8_t name_length;
    char name[43];
};
PH_STORED(ph_root_slot, off, 0);
PH_STORED(ph_root_slot, copy, 8);
PH_STORED(ph_root_slot, crc, 16);
PH_STORED(ph_root_slot, name_length, 20);
PH_STORED(ph_root_slot, name, 21);
PH_STORED_BYTES(ph_root_slot, 64);

enum ph_root_numbers {
    PH_ROOT_COPY = 64, /* bytes of a copy; larger blocks get none */
};

/* ---------------------------------------------------------------- tables of a segment */

/* ph_entry -- first unit of an extent or run, in the entries table.
 *
 *   byte 0      1       2       4        8        16
 *        +------+-------+-------+--------+--------+
 *        | kind | class | flags | nunits | nbytes |     all zero = free, or not a first unit
 *        +------+-------+-------+--------+--------+
 * Two aligned 8-byte words. An extent appears with nbytes first and goes with nbytes last, so that the first
 * word alone decides what a killed process leaves. */
struct ph_entry {
    uint8_t kind, class_index; /* kind: enum ph_kind */
    uint16_t flags;
    uint32_t nunits;
    uint64_t nbytes;
};
PH_STORED(ph_entry, kind, 0);
PH_STORED(ph_entry, class_index, 1);
PH_STORED(ph_entry, flags, 2);
PH_STORED(ph_entry, nunits, 4);
PH_STORED(ph_entry, nbytes, 8);
PH_STORED_BYTES(ph_entry, 16);

/* ---------------------------------------------------------------- log */
enum ph_log_numbers {
    PH_LOG_MAGIC = 0x4C484D50,
    PH_LOG_ALIGN = 64,         /* records begin at multiples of it and are multiples of it long */
    PH_LOG_FIRST = 64,         /* LSN of the first record of a heap */
    PH_INLINE_MOST = 256 * 1024, /* fresh bytes that a record carries; more are synced before it */
    PH_LONG_LEAST = 64 * 1024,   /* bytes of a fresh block that is synced before it alone: no record carries it */
};

/* A WORD is the commit of a bare malloc or free of a small block, in a header alone: `zero` is the offset of one
 * word of the bits table, `file_end` its image (the length of the file is that of the record before); of what was
 * freed, `nops` are the granules, 0 if nothing was, and `pad` is the bit. */
enum ph_record_kind {
    PH_RECORD_COMMIT = 1,
    PH_RECORD_UNDO = 2,
    PH_RECORD_WORD = 3,
};

/*   0       4     8     16      24            32         40     48          52         56     60     62     63
 *   | magic | crc | lsn | epoch | durable_lsn | file_end | zero | total_len | prev_crc | txid | nops | kind | pad |
 * behind it `nops` operations, and zeros to a multiple of 64. */
struct ph_record {
    uint32_t magic;
    uint32_t crc;           /* CRC-32C of the bytes from 8 on, which goes on from that of the record before */
    uint64_t lsn, epoch, durable_lsn, file_end, zero;
    uint32_t total_len, prev_crc, txid;
    uint16_t nops;
    uint8_t kind, pad;
};
PH_STORED(ph_record, magic, 0);
PH_STORED(ph_record, crc, 4);
PH_STORED(ph_record, lsn, 8);
PH_STORED(ph_record, epoch, 16);
PH_STORED(ph_record, durable_lsn, 24);
PH_STORED(ph_record, file_end, 32);
PH_STORED(ph_record, zero, 40);
PH_STORED(ph_record, total_len, 48);
PH_STORED(ph_record, prev_crc, 52);
PH_STORED(ph_record, txid, 56);
PH_STORED(ph_record, nops, 60);
PH_STORED(ph_record, kind, 62);
PH_STORED(ph_record, pad, 63);
PH_STORED_BYTES(ph_record, 64);

enum ph_op_type {
    PH_OP_META = 1,
    PH_OP_WRITE = 2,
    PH_OP_FRESH = 3,
    PH_OP_FREE = 4,
    PH_OP_OLD = 6,
};

/* The table that the flags of a META name. */
enum ph_table {
    PH_TABLE_ENTRIES = 0,
    PH_TABLE_BITS,
    PH_TABLE_ROOTS,
    PH_TABLE_SEGMENTS,
    PH_TABLE_ARENAS,
    PH_TABLES,
};

/* Flags of a WRITE: its bytes are home already when it is appended. */
enum ph_write_flags { PH_WRITE_IS_HOME = 1 };

/*   0      1       2      4     8     16
 *   | type | flags | zero | len | off | `len` bytes, and zeros to a multiple of 8 */
struct ph_op {
    uint8_t type, flags;
    uint16_t zero;
    uint32_t len;
    uint64_t off;
};
PH_STORED(ph_op, type, 0);
PH_STORED(ph_op, flags, 1);
PH_STORED(ph_op, zero, 2);
PH_STORED(ph_op, len, 4);
PH_STORED(ph_op, off, 8);
PH_STORED_BYTES(ph_op, 16);

/* ---------------------------------------------------------------- containers */
enum ph_map_numbers {
    PH_MAP_NODE = 4096,
    PH_MAP_KEY_MOST = 1024,   /* bytes of a key */
    PH_MAP_ENTRY_MOST = 1024, /* bytes of key and value in one entry */
    PH_NODE_MAGIC = 0x444E4850,
    PH_NODE_FIRST = 16,       /* where the slots begin */
    PH_NODE_SLOT = 4,
    PH_NODE_APART = 0xFFFF,   /* instead of the bytes of a value: it lies in a block of its own */
    PH_NODE_REFERENCE = 16,   /* bytes of what an entry has then */
};

struct ph_map_header {
    uint64_t magic, root, count;
    uint32_t height;        /* nodes from the root to a leaf, 1 for a single leaf */
    uint32_t id;            /* of this map: another one whose header takes this place later has another */
};
PH_STORED(ph_map_header, magic, 0);
PH_STORED(ph_map_header, root, 8);
PH_STORED(ph_map_header, count, 16);
PH_STORED(ph_map_header, height, 24);
PH_STORED(ph_map_header, id, 28);
PH_STORED_BYTES(ph_map_header, 32);

/*     0      4       5   6      8      10     12      14  16      16 + 4 count       top                    4096
 *     +------+-------+---+------+------+------+-------+---+-------+--------- - - -----+----------------------+
 *     | magic| level | 0 | count| top  | waste| prefix| 0 | slots |       room        | entries, any order   |
 *     +------+-------+---+------+------+------+-------+---+-------+--------- - - -----+----------------------+
 *     slot   { u16 position of the entry; u16 hint }
 *     entry  { u16 key bytes; u16 value bytes, or PH_NODE_APART; key; value }
 */
struct ph_node {
    uint32_t magic;
    uint8_t level, zero;
    uint16_t count, top, waste, prefix, none;
};
PH_STORED(ph_node, magic, 0);
PH_STORED(ph_node, level, 4);
PH_STORED(ph_node, zero, 5);
PH_STORED(ph_node, count, 6);
PH_STORED(ph_node, top, 8);
PH_STORED(ph_node, waste, 10);
PH_STORED(ph_node, prefix, 12);
PH_STORED(ph_node, none, 14);
PH_STORED_BYTES(ph_node, 16);

/* ph_vector_counts -- the block that the root of a Vector names. */
struct ph_vector_counts {
    char magic[8];
    uint64_t block, length, high;
};
PH_STORED(ph_vector_counts, magic, 0);
PH_STORED(ph_vector_counts, block, 8);
PH_STORED(ph_vector_counts, length, 16);
PH_STORED(ph_vector_counts, high, 24);
PH_STORED_BYTES(ph_vector_counts, 32);

/* ph_vector_header -- in front of the elements of a Vector, in its block. */
struct ph_vector_header {
    char magic[8];
    uint64_t changes;
    char dtype[32];
    uint8_t zeros[16];
};
PH_STORED(ph_vector_header, magic, 0);
PH_STORED(ph_vector_header, changes, 8);
PH_STORED(ph_vector_header, dtype, 16);
PH_STORED(ph_vector_header, zeros, 48);
PH_STORED_BYTES(ph_vector_header, 64);

/* ---------------------------------------------------------------- the file that undoes a repair */
struct ph_backup_header {
    char magic[8];
    uint32_t crc, zero;
    uint64_t size;
    uint8_t uuid[16];
    uint64_t before, after, count;
};
PH_STORED(ph_backup_header, magic, 0);
PH_STORED(ph_backup_header, crc, 8);
PH_STORED(ph_backup_header, zero, 12);
PH_STORED(ph_backup_header, size, 16);
PH_STORED(ph_backup_header, uuid, 24);
PH_STORED(ph_backup_header, before, 40);
PH_STORED(ph_backup_header, after, 48);
PH_STORED(ph_backup_header, count, 56);
PH_STORED_BYTES(ph_backup_header, 64);

/* Behind it `count` of these, each with its bytes. */
struct ph_backup_range {
    uint64_t offset;
    uint32_t length, crc;
};
PH_STORED(ph_backup_range, offset, 0);
PH_STORED(ph_backup_range, length, 8);
PH_STORED(ph_backup_range, crc, 12);
PH_STORED_BYTES(ph_backup_range, 16);

/* ---------------------------------------------------------------- a trace, written by a Record: docs/traces.md */
enum ph_trace_numbers {
    PH_FRAME_MAGIC = 0x52544D50,
    PH_FRAME_MOST = 1 << 20,  /* bytes of a payload */
    PH_EVENT_MOST = 64,       /* bytes of an event, but of a SITE */
    PH_SITE_MOST = 1024,      /* bytes of the name of a call site */
};

/* ph_frame -- in front of the events of a frame, which can be read without those of others. */
struct ph_frame {
    uint32_t magic;
    uint32_t number;          /* frames before it */
    uint32_t length;          /* bytes of events behind it */
    uint32_t events;          /* without SITEs */
    uint32_t first_site;      /* call sites that were named in the frames before it */
    uint32_t sites;           /* and in this one */
    uint64_t time;            /* microseconds from the begin of the trace to that of the frame */
    uint32_t events_crc;      /* CRC-32C of the events */
    uint32_t crc;             /* CRC-32C of what stands before it */
};
PH_STORED(ph_frame, magic, 0);
PH_STORED(ph_frame, number, 4);
PH_STORED(ph_frame, length, 8);
PH_STORED(ph_frame, events, 12);
PH_STORED(ph_frame, first_site, 16);
PH_STORED(ph_frame, sites, 20);
PH_STORED(ph_frame, time, 24);
PH_STORED(ph_frame, events_crc, 32);
PH_STORED(ph_frame, crc, 36);
PH_STORED_BYTES(ph_frame, 40);

/* The low bits of the first byte of an event, and the flags in the others: which numbers follow that are else as before. */
enum ph_event_kind {
    PH_EVENT_MADE = 0,
    PH_EVENT_FREED,
    PH_EVENT_RESIZED,         /* where it is */
    PH_EVENT_MOVED,           /* the block made last at `to` is the one freed last at `offset` */
    PH_EVENT_DROPPED,         /* an arena, with all that lives in it */
    PH_EVENT_SITE,            /* no event: the name of a call site, which gets the next number */
    PH_EVENT_KINDS,
    PH_EVENT_KIND_MASK = 7,
    PH_EVENT_HAS_TIME = 8,
    PH_EVENT_HAS_SITE = 16,
    PH_EVENT_HAS_PLACE = 32,  /* thread and arena */
    PH_EVENT_HAS_SIZE = 64,
};

/* ---------------------------------------------------------------- a file of sites, written by a Track: layers/sites.py */
enum ph_track_numbers {
    PH_TRACK_SITE_MOST = 8192,   /* bytes of the name of a call site */
    PH_TRACK_DOMAIN = 0x706D68,  /* of its blocks in tracemalloc: "pmh"; stored nowhere */
};

enum ph_track_record {
    PH_TRACK_SITE = 1,
    PH_TRACK_MADE,
    PH_TRACK_FREED,
};
