/* base/guard.h -- which blocks of an arena are guarded, and which is the next one: block/guard.c. */
#pragma once
#include <stdint.h>

struct ph_guarded;
struct ph_heap;
struct ph_unit;

struct ph_guard {
    uint64_t large_made;    /* large blocks, since there is one */
    uint64_t every;         /* one block of so many is guarded; 0: none is from now on */
    uint32_t limit;         /* guarded blocks at once, with those that were freed and are fenced still */
    uint32_t has_fences;    /* else canaries alone */
    uint32_t by_protection; /* fences are made by mprotect */
    uint32_t count;         /* of `slots` */
    uint32_t kept;          /* of them, those of freed blocks */
    struct ph_guarded **slots; /* by number, which the chunk of a block has */
    struct ph_guarded *idle;   /* slots without a block */
    struct ph_guarded *first, *last; /* those of freed blocks, oldest first */
    uint64_t chance;        /* what the next distance is drawn from */
    uint64_t next;          /* blocks made, at which one is due */
    uint64_t left, step;    /* calls that may pass until one can be due; calls until the next look */
    uint64_t made, live;    /* guarded blocks: ever, now */
    uint64_t origin;        /* what the offsets of the arena begin with */
    void (*freed)(struct ph_heap *, struct ph_unit *chunk); /* the block of a chunk is gone, and nothing is withheld in it */
    void (*site_of)(struct ph_guard *, char *name, uint64_t room); /* where the caller stands; NULL: nobody knows */
};
