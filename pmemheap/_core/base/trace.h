/* base/trace.h -- the bytes of a trace: events of blocks, in frames that can be read each for itself.
 *
 *     frame   struct ph_frame | event | event | ...
 *     event   kind and flags | time? | site? | thread arena? | offset? | to? | size?      all but the first byte: varints
 *
 * A varint has seven bits a byte, lowest first; the high bit says that more follow. A time is microseconds since the event
 * before; an offset is turned right by four bits, so that those of blocks are small, and told as the difference to the one
 * before: of those where blocks begin to be (`to` as well), and of those where they end or change. Differences are zigzag. */
#pragma once
#include "base/format.h"

struct ph_event {
    uint32_t kind;
    uint32_t site;             /* its number + 1; 0: not known */
    uint32_t thread, arena;    /* numbers */
    uint64_t time;             /* microseconds since the trace began */
    uint64_t offset, to, size; /* in the arena; as the kind has them */
};

/* ph_trace_before -- what the next event is told as a difference to. All zero but `time` where a frame begins. */
struct ph_trace_before {
    uint64_t made, gone, size, time;
    uint32_t site, thread, arena;
};

/* ph_trace_put -- an event at `at`, where PH_EVENT_MOST bytes are free; the byte behind it.
 * ph_trace_put_site -- the name of a call site, with room for it besides. */
uint8_t *ph_trace_put(uint8_t *at, struct ph_trace_before *before, const struct ph_event *event);
uint8_t *ph_trace_put_site(uint8_t *at, const char *name, uint64_t length);

/* ph_frame_seal -- the checksums of a frame, of which all else is there. */
void ph_frame_seal(struct ph_frame *frame, const uint8_t *events);
