/* base/codes.h -- the numbers by which the C core answers Python: refusals, states of heaps and units, findings.
 *
 * Read twice: by the C compiler, and by cffi, from which `pmemheap/constants.py` has them. Neither side types one again.
 */
#pragma once

/* Why a call of os/os.h was refused, besides a negated errno (-1 .. -4095). */
enum ph_code {
    PH_OK = 0,
    PH_EUSAGE = -5001,  /* the caller's mistake; nothing has changed */
    PH_ECLOSED = -5002, /* the reservation is closed */
};

/* libpmem2's numbers, from its libpmem2.h; those that nothing raises stand here for programs that were written for it. */
enum pmem2_code {
    PMEM2_E_NOSUPP = -100001,
    PMEM2_E_INVALID_FILE_HANDLE = -100004,
    PMEM2_E_INVALID_FILE_TYPE = -100005,
    PMEM2_E_MAP_RANGE = -100006,
    PMEM2_E_MAPPING_EXISTS = -100007,
    PMEM2_E_GRANULARITY_NOT_SET = -100008,
    PMEM2_E_GRANULARITY_NOT_SUPPORTED = -100009,
    PMEM2_E_OFFSET_OUT_OF_RANGE = -100010,
    PMEM2_E_OFFSET_UNALIGNED = -100011,
    PMEM2_E_LENGTH_UNALIGNED = -100015,
    PMEM2_E_MAPPING_NOT_FOUND = -100016,
    PMEM2_E_SOURCE_EMPTY = -100018,
    PMEM2_E_ADDRESS_UNALIGNED = -100022,
    PMEM2_E_LENGTH_OUT_OF_RANGE = -100030,
    PMEM2_E_NO_ACCESS = -100032,
    PMEM2_E_VM_RESERVATION_NOT_EMPTY = -100033,
    PMEM2_E_MAP_EXISTS = -100034,
};

/* Why a call of an allocator, a log, a transaction or a map was refused. A result >= 0 is an offset, a count or a yes. No two files share a number. */
enum ph_refusal {
    /* of the allocator */
    PH_H_REFILL = -1,         /* the pool has no such range: give it units and call again */
    PH_H_LARGE = -2,          /* too large or too aligned for the pool: an extent */
    PH_H_BAD_OFFSET = -3,     /* no live block begins there */
    PH_H_PINNED = -4,         /* live views hold the block */
    PH_H_NOMEM = -5,          /* the table of refs cannot grow */
    PH_H_MOVE = -6,           /* realloc: not possible in place */
    PH_H_UPSTREAM = -7,       /* realloc, expand: in place if the units behind it can be had from the extents */
    PH_H_CORRUPT = -8,        /* a table says something impossible */
    PH_H_IN_TRANSACTION = -9, /* an open transaction holds the block */
    PH_H_MOVE_LOGGED = -10,   /* realloc in a file heap: the block has to move, which takes a transaction */
    PH_H_ROOTED = -11,        /* a root names the block: it goes only together with the root */
    PH_H_IN_REGION = -12,     /* realloc: the block would have to move, and only its region knows where to */
    PH_H_DAMAGED = -13,       /* of a guarded block: bytes beside it were overwritten */
    PH_H_PLACE = -14,         /* the `Space` of a user says where the block lies */
    /* of the log */
    PH_L_FULL = -20,          /* no room before the tail: a checkpoint makes some */
    PH_L_LARGE = -21,         /* more than half of the log: a larger log is needed */
    PH_L_DEAD = -22,          /* a sync has failed; nothing may be written any more */
    PH_L_NOMEM = -23,
    PH_L_CORRUPT = -24,
    PH_L_MANY = -25,          /* more operations than a record can have */
    PH_L_GONE = -26,          /* somebody has removed the file, cut it shorter than the heap, or written it over */
    PH_L_EDITING = -27,       /* a transaction edits in place, or what it has edited is not home: nobody can begin to read */
    PH_L_GATED = -29,         /* another thread lets nobody commit for the moment */
    /* of a transaction */
    PH_T_OUTSIDE = -30,       /* the range does not lie inside one live block */
    PH_T_TWICE = -31,         /* the transaction has freed the block already */
    PH_T_ENDED = -32,         /* a finalizer or a signal handler has ended the transaction meanwhile */
    PH_T_SYSTEM = -10000,     /* less an errno: the system refused to put bytes into the file */
    /* of a map */
    PH_M_CORRUPT = -40,       /* see ph_map.bad */
    PH_M_OUTSIDE = -41,       /* the range lies outside of the value */
    PH_M_UNMAPPED = -42,      /* a value apart cannot be checked before the tables of the heap are mapped */
    PH_M_NO_TX = -50,         /* no transaction of this thread is open */
    PH_M_BUSY = -51,          /* another thread is changing the map */
    PH_M_RAISED = -52,        /* an exception is set */
};

/* Which free ranges of the core Python takes: those that were freed and belong to no pool; those of the pool that are old in
 * part; all of the pool, with runs that are empty. */
enum ph_taken {
    PH_TAKE_RETURNED = 0,
    PH_TAKE_OLD,
    PH_TAKE_ALL,
};

/* Units of the longest block that the pool of C serves; what is longer is an extent, Python's affair. */
enum ph_pool { PH_POOL_MAX = 63 };

/* Bytes of the longest row of an arena of rows; above which a block of a ring has units of its own; of the longest block of a
 * region that is kept. Units of the longest chunk. */
enum ph_longest { PH_ROW_MAX = 65536, PH_RING_WHOLE = 65536, PH_REGION_MOST = 131008, PH_CHUNK_UNITS_MAX = 32 };

/* Where the blocks of an arena come from. */
enum ph_strategy {
    PH_STRATEGY_GENERAL = 0, /* of size classes, or whole units by best fit */
    PH_STRATEGY_RING = 1,    /* of its end, in the order in which they come */
    PH_STRATEGY_ROWS = 2,    /* all of one size, one behind the other */
    PH_STRATEGY_PLACED = 3,  /* of where the `Space` of a user says; in memory alone, no slot of a file has it */
};

/* Bytes of a step, in which such a `Space` counts, and of the longest block that it is asked for. */
enum ph_step { PH_STEP = 32, PH_PLACED_MOST = 16384 };

/* The failures that a commit survives. A file says 0 or 1. */
enum ph_durability {
    PH_PROCESS = 0,
    PH_POWER = 1,
    PH_VOLATILE = 2, /* no log: memory, which nothing outlives */
};

/* States of a heap: what its public calls may do. The order matters: from PH_S_READONLY on nothing may be changed, and behind it no
 * table is there. */
enum ph_heap_state {
    PH_S_OPEN = 0,
    PH_S_CLEAN,      /* open, and the file says that it is closed, until the next change */
    PH_S_READONLY,
    PH_S_UNATTACHED, /* clean, and only the data is mapped */
    PH_S_LOST,     /* the file has not what is mapped of it; stays until the heap is closed */
    PH_S_FORKED,   /* the heap is the parent's; stays until it is closed */
    PH_S_CLOSED,
};

/* Kinds of entries in the file: what begins at a unit. */
enum ph_kind {
    PH_KIND_FREE = 0,
    PH_KIND_LARGE = 1,
    PH_KIND_RUN = 2,
    PH_KIND_PACKED = 3, /* a chunk of pieces */
    PH_KIND_ROWS = 4,
};

/* What a chunk of pieces is: the flags of its entry. */
enum ph_chunk_flag {
    PH_CHUNK_FIRST = 1, /* of a region, and the first one: what it is called by. Others have 0 */
    PH_CHUNK_RING = 16, /* of a ring: it is free space as soon as no piece of it lives */
};

/* Volatile states of a unit. */
enum ph_unit_state {
    PH_U_OTHER = 0,  /* not ours: Python's free extent, never used, or not read yet */
    PH_U_FREE,       /* first unit of a free range of the pool */
    PH_U_FREE_LAST,  /* last unit of a free range of two units and more */
    PH_U_RUN,        /* first unit of a run */
    PH_U_RUN_BODY,   /* other units of a run */
    PH_U_LARGE,      /* first unit of a large block */
    PH_U_RETURNED,      /* first unit of a freed extent that Python has not taken back yet */
    PH_U_RESERVED,   /* first unit of a large block of an open transaction: no entry yet */
    PH_U_QUARANTINE, /* first unit of units that were freed, but may not be used again yet: no entry any more */
    PH_U_PACKED,     /* first unit of a chunk of pieces */
    PH_U_PACKED_BODY, /* other units of a chunk */
};

/* Targets of a record beside the tables of enum ph_table: bytes of blocks that it carries, or that were synced before. */
enum ph_touched {
    PH_TOUCH_DATA = -1,
    PH_TOUCH_FRESH = -2,
};

/* States of a transaction. */
enum ph_tx_state {
    PH_X_OPEN = 0,
    PH_X_COMMITTED,
    PH_X_ABORTED,
};

/* Where a long value of a map lies that has no place yet. */
enum ph_placed { PH_UNPLACED = -1 };

/* What of a map a scan yields. */
enum ph_scanned {
    PH_SCAN_KEYS = 0,
    PH_SCAN_VALUES,
    PH_SCAN_ITEMS,
};

/* What must hold for a recovery to be right: docs/crash-consistency.md. */
enum ph_rule {
    PH_R1 = 1,
    PH_R2 = 2,
    PH_R3 = 3,
    PH_R4 = 4,
    PH_R5 = 5,
    PH_R6 = 6,
    PH_R7 = 7,
    PH_R8 = 8,
    PH_R9 = 9,
    PH_R10 = 10,
    PH_R11 = 11,
    PH_R12 = 12,
    PH_R13 = 13,
    PH_R14 = 14,
    PH_R15 = 15,
    PH_R16 = 16,
    PH_R17 = 17,
    PH_R18 = 18,
    PH_R19 = 19,
    PH_R20 = 20,
    PH_R21 = 21,
    PH_R22 = 22,
    PH_R23 = 23,
    PH_R24 = 24,
    PH_R25 = 25,
    PH_R26 = 26,
    PH_R27 = 27,
    PH_R28 = 28,
    PH_R29 = 29,
    PH_R30 = 30,
    PH_R31 = 31,
    PH_R32 = 32,
    PH_R33 = 33,
    PH_R34 = 34,
    PH_R35 = 35,
    PH_DAMAGE = 40,
    PH_DATA_FIRST = 41,
    PH_SPARE_TABLES = 42,
    PH_SPARE_SYNC = 43,
    PH_REWOUND = 44,
    PH_Q13 = 47, /* of readers of snapshots: 50 and the number, up to the last bit of a word, and some that are left */
    PH_Q15 = 48,
    PH_Q1 = 49,
    PH_Q19 = 51,
    PH_Q2 = 52,
    PH_Q3 = 53,
    PH_Q4 = 54,
    PH_Q5 = 55,
    PH_Q6 = 56,
    PH_Q7 = 57,
    PH_Q8 = 58,
    PH_Q9 = 59,
    PH_Q10 = 60,
    PH_Q11 = 61,
    PH_Q14 = 63,
};

/* Findings of a check of the allocator. */
enum ph_finding_code {
    PH_F_ENTRY_WORD = 1, /* entry of a unit: kind, class, number of units */
    PH_F_ENTRY_BYTES,    /* entry of a unit: bytes asked for */
    PH_F_STRAY_BITS,     /* allocation bits outside of runs */
    PH_F_MISPLACED_BITS, /* allocation bits between the blocks of a run */
    PH_F_RUN_LIVE,       /* blocks of a run: bits set, counted */
    PH_F_RUN_UNITS,
    PH_F_RUN_BODY,
    PH_F_FREE_ENDS,      /* the two ends of a free range disagree */
    PH_F_UNMERGED,       /* two free ranges touch */
    PH_F_OVERLAP,        /* a piece is empty or runs past the end */
    PH_F_STATE,          /* a record that begins nothing */
    PH_F_LINK,           /* a free list leads to something that does not belong there */
    PH_F_BIN_MASK,
    PH_F_FREE_COUNT,     /* free ranges: walked, in the lists */
    PH_F_FREE_UNITS,
    PH_F_CLASS_LIVE,
    PH_F_CLASS_RUNS,
    PH_F_CLASS_ROOMY,    /* runs of a class with room: walked, in its list */
    PH_F_RETURNED,
    PH_F_RUN_COUNT,
    PH_F_LARGE_UNITS,
    PH_F_LARGE_BYTES,
    PH_F_LARGE_COUNT,
    PH_F_RUN_WITHHELD,       /* withheld blocks of a run: in the table, counted */
    PH_F_WITHHELD_BITS,      /* withheld blocks that are live as well, or stand between the blocks of a run */
    PH_F_CLASS_WITHHELD,
    PH_F_CLASS_MASK,     /* free blocks of the word in service */
    PH_F_WITHHELD_COUNT,
    PH_F_WITHHELD_UNITS,
    PH_F_WITHHELD_BYTES,
    PH_F_CHUNK_BITS,     /* words of a chunk's bits that no pieces make */
    PH_F_CHUNK_LIVE,     /* live pieces of a chunk: by its bits, counted */
    PH_F_CHUNK_WITHHELD, /* pieces of a chunk that are withheld: in the table, counted */
    PH_F_CHUNK_BODY,
    PH_F_CHUNK_COUNT,
    PH_F_TAGGED,         /* bytes of a tag that are in quarantine */
    PH_F_TAG_ERA,        /* a tag that is older than the one before */
};
