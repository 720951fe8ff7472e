/* base/heap.h -- the allocator core: blocks, runs and the pool of free units of one arena.
 *
 * Plain C without Python and without system calls: it is handed its tables, keeps them, and answers in
 * nanoseconds. The caller holds the lock of the arena (for the extension type that is the GIL).
 *
 *   logical unit   first_unit                                     wilderness      wilderness_end        end_unit
 *                  | run | large |free| run ... (pool: C)         |  never used  | extents: Python |
 *
 * Four tables run beside the data, each with a *virtual* base, so that index 0 is logical unit 0 even after
 * the head of the heap has been given back:
 *
 *   data      4096 bytes a unit         user blocks, nothing else
 *   bits        32 bytes a unit         persistent: one bit a granule, set at the first granule of a live block
 *   entries     16 bytes a unit         persistent, file heaps only: what begins at this unit
 *   units       32 bytes a unit         volatile: the same and the links of the free lists
 */
#ifndef PH_HEAP_H
#define PH_HEAP_H

#include "base/codes.h"
#include "base/format.h"
#include "base/hash_table.h"

enum {
    PH_UNIT_GRANULES = PH_UNIT_BYTES / PH_GRANULE,
    PH_UNIT_WORDS = PH_UNIT_GRANULES / 64,
    PH_CLASSES_MAX = 64,
    PH_RUN_UNITS_MAX = 32,  /* an interior unit finds its run's head within this distance */
    PH_BINS = PH_POOL_MAX + 1, /* of exact sizes; the last bin holds all that are longer */
    PH_SMALL_MAX = 16384,   /* no class is larger */
    PH_PIECE_LEAST = 2,     /* granules of a piece of a chunk */
    PH_LINE = 128,          /* sizes above 1 KiB find their class by this step */
    PH_BY_GRANULE_MAX = 1024,
    PH_AGE_SHIFT = 12,      /* units in a chunk of ages: 2 to this power */
    PH_AGE_UNITS = 1 << PH_AGE_SHIFT,
    PH_FREED_MUCH = PH_BINS, /* freed units after which the next call looks at the clock */
    PH_RETURNED_MOST = 1024,   /* freed extents after which Python is asked to merge them */
    PH_RETURNED_LOOKED = 8,    /* freed extents that malloc looks at before it asks Python */
    PH_SPARES = 17,         /* arrays of up to 16 granules leave their block to the next one of their size */
    PH_GROWING = 2048,      /* a block that realloc makes larger than this gets whole units, to grow in place */
};

#define PH_NIL UINT32_MAX
#define PH_SIZE_MAX (1ULL << 55) /* bytes of one arena: offsets have 55 bits */

/* ph_unit -- volatile record of a unit; what its fields mean depends on `state`. 32 bytes. */
struct ph_unit {
    uint8_t state;
    uint8_t class_index;     /* RUN; in a region: enum ph_in_region */
    uint16_t back;           /* RUN_BODY, PACKED_BODY: units back to the head; PACKED: no free lowers the fill mark below it */
    uint32_t nunits;         /* all but OTHER and RUN_BODY */
    union {
        struct {
            uint16_t live;   /* RUN: blocks whose bits are set */
            uint16_t blocks; /* RUN: blocks it has room for */
            uint16_t refs;   /* RUN: blocks of it in the table of refs */
            uint16_t withheld; /* RUN: blocks that are neither live nor free, see ph_withheld */
        } run;
        struct {
            uint16_t live;     /* PACKED: pieces that live */
            uint16_t withheld; /* PACKED: pieces that are neither live nor free */
            uint16_t fill;     /* PACKED: granule of the fill mark, in the chunk */
            uint16_t dead;     /* PACKED: granules below it of pieces that do not live */
        } packed;
        uint64_t nbytes;     /* LARGE, RESERVED, QUARANTINE: bytes asked for */
    } u;
    uint32_t child, sibling, prev; /* FREE, partial RUN: address-ordered pairing heap; RETURNED: sibling = next; in a region:
                                      number, next and previous one of its circle; a chunk of a ring: a granule of it
                                      below which nothing lives; of a guarded block: its number */
    uint32_t has_refs;             /* all but RUN: blocks of it in the table of refs; PH_HEADS_REGION. RUN: PH_RUN_IS_SHOWN */
};
_Static_assert((int)PH_CHUNK_UNITS_MAX <= PH_RUN_UNITS_MAX, "an interior unit finds its head within that distance");
_Static_assert(sizeof(struct ph_unit) == 32, "two records a cache line");

enum {
    PH_RUN_IS_SHOWN = 1,        /* in has_refs: what is free in the run may be shown, and is not offered */
    PH_HEADS_REGION = 1U << 31, /* in has_refs: the first piece of the chunk stands for a region */
};

/* What a chunk, or a large block, is to its region. */
enum ph_in_region {
    PH_IN_REGION_KEPT = 1, /* the first chunk, or the one in service: it stays when it is empty */
    PH_IN_REGION_MARKED,   /* a chunk that may be rewound to: it stays as well */
    PH_IN_REGION_LARGE,
    PH_IN_REGION_GONE,     /* a chunk that was read whose region is none any more: nothing in it lives */
    PH_IN_GUARD,           /* the chunk of a guarded block, live or freed: block/guard.c */
};

/* ph_class -- one size class: its geometry, the run that serves it now, and the other runs with room. */
struct ph_class {
    uint64_t mask;        /* free blocks of the current word, one bit each, at their first granule */
    uint64_t word;        /* index of that word in `bits`; the words before it in the run are full */
    uint64_t aside;       /* blocks of that word that are free, but may be read: no look has been taken yet [Q7] */
    uint32_t current;     /* head unit of the run in service, PH_NIL if none */
    uint32_t partial;     /* root of the runs with room, without the current one */
    uint32_t granules;    /* of a block */
    uint16_t run_units, run_blocks;
    const uint64_t *starts; /* for each word of a run, the bits at which its blocks begin */
    uint64_t live;        /* blocks in use, over all runs */
    uint64_t withheld;    /* blocks that are neither live nor free */
    uint64_t runs;
    uint64_t mallocs;     /* since open */
    uint64_t requested;   /* bytes asked for by them */
};

/* ph_refs -- what the process knows of one block beyond its state: live views, handles, pins, roots. */
struct ph_refs {
    uint64_t key;         /* offset of the block + 1 */
    uint64_t serial;      /* of the handles of this life of the block; 0 = none */
    uint32_t views;
    uint32_t handles;
    uint32_t is_released : 1; /* the block was freed: its space becomes free when the last view and pin go */
    uint32_t is_rooted : 1; /* a root names it */
    uint32_t changes : 30; /* pins of the one transaction that may change committed bytes */
    uint32_t pins;        /* of all open transactions [R26] */
};
_Static_assert(sizeof(struct ph_refs) == 32, "two blocks a cache line");

struct ph_refs_table {
    struct ph_hash_table blocks; /* ph_refs, by offset + 1 */
    uint64_t views;       /* live views of all blocks, arrays included */
    uint64_t arrays;      /* those that own a reserved block */
    uint64_t pins;        /* pins of all blocks */
    uint64_t serial;
};

/* ph_withheld -- the blocks of runs that are neither live nor free, a word of the bits table at a time. Volatile: their
 * bits in `bits` are clear, so that the next opening of the file finds them free. */
struct ph_withheld_word {
    uint64_t key;         /* index of the word + 1 */
    uint64_t reserved;    /* blocks of open transactions */
    uint64_t freed;       /* quarantined [R6], or gone but still viewed */
};

struct ph_withheld {
    struct ph_hash_table words; /* ph_withheld_word, by index + 1 */
    uint64_t reserved_blocks, reserved_bytes; /* small and large, by what they can hold */
    uint64_t freed_blocks, freed_bytes;       /* the same of what is quarantined */
    uint64_t reserved_units, freed_units;     /* of large blocks alone */
    uint64_t aside;                           /* words of classes that may come to be in it: there is room for them */
};

/* ph_ages -- when free units were freed: space/ages.c. */
struct ph_age_chunk {
    uint8_t *stamps;      /* of its units, once they have differed */
    uint8_t stamp;        /* that of all of them, unless they differ */
    uint8_t differ;
};

struct ph_ages {
    struct ph_age_chunk *chunks;
    uint64_t first, count; /* chunks: number of the first one, how many */
    uint8_t interval;      /* that of now */
};

/* ph_read_units -- the units of a heap that was opened, and which of them were read: block/read_units.c. */
struct ph_read_units {
    uint64_t *bits;       /* NULL: all are known, or nobody knows */
    uint64_t first_word, end; /* of the first bit; the unit behind the last one */
};

/* Blocks freed in a power heap since the last record: the next one tells the log. */
struct ph_freed {
    uint64_t offset, nbytes; /* what was freed: whole blocks, or the units that a block lost at its end */
};

struct ph_freed_list {
    struct ph_freed *items;
    uint64_t capacity, count;
};

/* ph_tags -- what was freed in a heap that may have readers of snapshots, in the order in which it got its tags [Q3]. */
struct ph_tag {
    uint64_t era; /* in which the free was applied */
    uint64_t offset, nbytes; /* blocks that lie in one piece */
};

struct ph_era {
    uint64_t now;   /* what is freed gets this as its tag; from 1 on */
    uint64_t freed; /* bytes that got it */
};

/* ph_lender -- who knows whether somebody may read what is freed: take -- 0: yes; else nobody does until give, which gets what take
 * has answered. Another layer's: log/lease.c. */
struct ph_lender {
    uint32_t is_on; /* else take always answers 0 */
    int (*take)(struct ph_lender *self);
    void (*give)(struct ph_lender *self, int taken);
};

struct ph_tags {
    struct ph_tag *items; /* a ring; its capacity is a power of two */
    uint64_t capacity, first, count;
    uint64_t awaited;     /* frees that get a tag when their record is applied; there is room for these tags */
    uint64_t bytes;       /* with a tag */
    struct ph_era *era;   /* that of the log; NULL: nothing gets a tag */
    struct ph_lender *lender; /* of a process heap; NULL */
};

struct ph_dirty {
    uint64_t **words;     /* addresses of words of the shadow tables that were stored to */
    uint64_t capacity, count;
};

/* ph_counters -- what has become of blocks: of bare calls, transactions and maps. */
struct ph_counters {
    uint64_t made, made_bytes, asked_bytes; /* blocks; what they can hold, growth in place included; what was asked for */
    uint64_t freed, freed_bytes;
    uint64_t moved, in_place; /* changes of a size */
    int64_t peak;             /* the most of made_bytes - freed_bytes */
};

struct ph_recorder;
struct ph_tracker;

/* ph_watch -- who is told what becomes of the blocks of an arena: each list ends with NULL. */
struct ph_watch {
    uint32_t arena;
    struct ph_recorder *const *recorders; /* NULL: there are none */
    struct ph_tracker *const *trackers;   /* the same */
    struct ph_counters *const *counters;
};

/* ph_ring -- of an arena whose blocks lie in the order in which they came: block/ring.c. */
struct ph_ring {
    uint32_t last;        /* unit of the newest chunk or large block: behind it, in a circle, the oldest one; PH_NIL: none */
    uint32_t current;     /* unit of the chunk in service; PH_NIL: none */
    uint32_t units_next;  /* of the next chunk */
};

/* ph_changes -- of an arena whose blocks lie where a `Space` of the user says: what that was not told yet. block/changes.c. */
struct ph_change {
    uint64_t start, count; /* in steps */
    uint32_t is_free;      /* else taken: a chunk has gone */
};

struct ph_changes {
    struct ph_change *items;
    uint64_t capacity, count;
    uint32_t is_lost;      /* one of them could not be noted */
};

struct ph_guard;
struct ph_journal;

struct ph_heap {
    uint8_t *data;
    uint64_t *bits;
    struct ph_entry *entries; /* NULL in an anonymous heap */
    struct ph_unit *units;
    const struct ph_journal *journal; /* who is told of what bare calls change */
    uint32_t is_told;         /* of each store: as the journal says */
    uint32_t withholds;       /* what is freed: as the journal says */
    const struct ph_watch *watch; /* who is told what becomes of its blocks; NULL: nobody */
    uint64_t first_unit, end_unit; /* none while only the data is mapped */
    uint64_t data_first, data_end; /* units whose data is mapped */
    uint64_t wilderness, wilderness_end;  /* never used units that are ours; address space above everything else of the pool */
    uint64_t scanned_to;            /* free space from here on has not been looked for yet (== end_unit: all found) */
    uint64_t recorded_to;           /* units from here on may have entries but no records yet (== end_unit: none) */
    uint64_t bin_mask;
    uint32_t bins[PH_BINS];   /* bins[n - 1]: free ranges of n units, by address */
    uint32_t returned;           /* freed extents, newest first */
    uint32_t empties;         /* some class may keep an empty run in service */
    uint16_t idle_runs;       /* runs without a block were read that could not be given back then */
    uint16_t strategy;        /* enum ph_strategy */
    uint32_t nclasses;
    uint32_t readonly;
    uint32_t is_shown; /* snapshots of before it was opened may show what is free of that: block/shown.c */
    uint32_t until_look;      /* calls until the clock is looked at again; freeing much makes it the next one */
    uint32_t until_free_look; /* the same of calls that free: after the last one of many the next call looks */
    uint32_t freed_since;     /* units, since that was so */
    uint64_t withheld_then;       /* bytes in quarantine, when that was so */
    uint8_t class_by_granule[PH_BY_GRANULE_MAX / PH_GRANULE + 1];
    uint8_t class_by_line[PH_SMALL_MAX / PH_LINE + 1];
    uint64_t small_max;       /* greatest size of a class */
    uint64_t pool_free;       /* units in the bins */
    uint64_t returned_units, returned_count;
    uint64_t run_units;       /* units in runs */
    uint64_t large_units, large_bytes, large_blocks;
    struct {
        uint64_t units, blocks, bytes; /* chunks; pieces that live */
    } packed;
    uint64_t freed_units;     /* units given back to the pool or to Python since open */
    struct ph_guard *guard;   /* of its guarded blocks; NULL: there never were any */
    struct ph_refs_table refs;
    struct ph_withheld withheld;
    struct ph_ages ages;
    struct ph_freed_list freed;
    struct ph_dirty dirty;
    struct ph_class classes[PH_CLASSES_MAX];
    /* seldom: what stands before is laid out for the calls */
    struct ph_read_units read_units;
    struct ph_ring ring;
    struct ph_changes changes;
    struct ph_tags tags;
    uint64_t rows_first, rows_end; /* units of the table of rows, if there is a run of it */
    uint64_t *row_starts;     /* `starts` of a class of rows, which no other heap shares; NULL: there is none */
    uint64_t spares[PH_SPARES]; /* by granules: offset + 1 of a reserved block that an array has left, or 0 */
};

/* An offset without its arena. */
static inline uint64_t ph_local(uint64_t offset)
{
    return offset & ((1ULL << PH_ARENA_SHIFT) - 1);
}

/* The offset of the block that begins at the lowest of some bits of a word of the bits table. */
static inline uint64_t ph_offset_of(uint64_t word, uint64_t bits)
{
    return (word << 6 | (uint64_t)__builtin_ctzll(bits)) << PH_GRANULE_SHIFT;
}

/* Records hold unit numbers in 32 bits. A heap that slides for ever passes 2^32 units, so they are read back
 * relative to first_unit: right as long as less than 16 TiB lie between the two ends. */
static inline uint64_t ph_unit_index(const struct ph_heap *h, uint32_t low)
{
    return h->first_unit + (uint32_t)(low - (uint32_t)h->first_unit);
}

static inline struct ph_unit *ph_unit_at(const struct ph_heap *h, uint32_t low)
{
    return &h->units[ph_unit_index(h, low)];
}

static inline uint64_t ph_units_for(uint64_t nbytes)
{
    return (nbytes + PH_UNIT_BYTES - 1) >> PH_UNIT_SHIFT;
}

#endif
