/* base/recorder.h -- what writes down what becomes of blocks: frames of a trace in memory, until somebody writes them out.
 *
 *     the core tells ──► frame in service ──► sealed, sealed, ... ──► the file
 *
 * It is told in the middle of calls, where nothing can wait. So a full frame is sealed and stays in memory; the next call that
 * looks at the clock writes it, before it does anything: py/record.c. */
#pragma once
#include "base/hash_table.h"
#include "base/trace.h"

struct ph_sealed {
    struct ph_sealed *next;
    struct ph_frame frame;     /* the events stand behind it, as in the file */
    uint8_t events[];
};

struct ph_thread_number {
    uint64_t key;              /* of the thread */
    uint64_t number;
};

struct ph_recorder {
    struct ph_sealed *current; /* the frame in service, or NULL */
    struct ph_sealed *first, *last; /* those that are full, oldest first */
    struct ph_sealed *spare;
    uint8_t *at, *end;         /* in `current`: the next event; where none may begin any more */
    struct ph_trace_before before;
    struct ph_hash_table threads; /* ph_thread_number */
    uint64_t thread;           /* the last one that told something; its number is in `before` */
    uint64_t began;            /* nanoseconds of the clock */
    uint64_t events;           /* since then */
    uint32_t frames, sites;    /* sealed, named so far */
    uint32_t thread_number;
    uint32_t is_on;
    uint32_t lacks_memory;     /* it is off for that */
    uint32_t (*site_of)(struct ph_recorder *); /* where the caller stands, as in an event; NULL: nobody asks */
};
