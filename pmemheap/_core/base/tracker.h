/* base/tracker.h -- what knows of each block that lives where in a program it was made: block/tracker.c.
 *
 *     the core tells ──► by offset: call site, bytes asked for ──┬──► a record in a file
 *                                                                └──► a trace of tracemalloc
 *
 * It is told in the middle of calls, where nothing can fail: a block for which there is no memory is forgotten, and counted. */
#pragma once
#include "base/hash_table.h"

/* ph_tracked -- a block. Python reads these bytes: layers/track.py. */
struct ph_tracked {
    uint64_t key;      /* its offset, which says the arena too, + 1 */
    uint64_t size;     /* bytes asked for */
    uint32_t site;     /* number of the call site, from 1 on */
    uint16_t is_found; /* in a file of an earlier run: whether it lives, nobody has told */
    uint16_t is_traced;
};
_Static_assert(sizeof(struct ph_tracked) == 24, "layers/track.py");

/* ph_track_file -- where records go, each at once, so that a process that is killed loses none. */
struct ph_track_file {
    uint64_t nbytes;   /* of the file */
    uint64_t process;  /* that writes: none that was forked from it */
    int64_t error;     /* a negated errno: why nothing is written any more; 0 */
    uint64_t left_out; /* the arena of whose blocks it says nothing; 0: of none */
    int32_t fd;
    int32_t is_on;
};

struct ph_tracker {
    struct ph_hash_table blocks; /* ph_tracked */
    uint64_t forgotten;          /* blocks, for want of memory */
    uint64_t traced;             /* blocks of which tracemalloc knows */
    struct ph_track_file file;
    uint32_t (*site_of)(struct ph_tracker *); /* where the caller stands; 0: there is no memory for it; NULL: nobody can say */
    int (*trace)(uint64_t address, uint64_t size); /* whether tracemalloc knows of it now; NULL: there is none */
    void (*untrace)(uint64_t address);
};
