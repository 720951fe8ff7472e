/* base/trace.c -- events as bytes. */
#include "base/trace.h"

#include <string.h>

#include "base/crc32c.h"

static inline uint8_t *put(uint8_t *at, uint64_t value)
{
    while (value >= 0x80) {
        *at++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *at++ = (uint8_t)value;
    return at;
}

static inline uint8_t *put_offset(uint8_t *at, uint64_t *before, uint64_t offset)
{
    uint64_t turned = offset >> PH_GRANULE_SHIFT | offset << (64 - PH_GRANULE_SHIFT), step = turned - *before;
    *before = turned;
    return put(at, step << 1 ^ (uint64_t)((int64_t)step >> 63));
}

static inline int has_size(uint32_t kind)
{
    return kind == PH_EVENT_MADE || kind == PH_EVENT_RESIZED || kind == PH_EVENT_MOVED;
}

/* The numbers that stand in an event only where they have changed; their flags. */
static inline uint8_t *put_changed(uint8_t *at, struct ph_trace_before *before, const struct ph_event *event, uint8_t *flags)
{
    if (event->time != before->time) {
        *flags |= PH_EVENT_HAS_TIME;
        at = put(at, event->time - before->time);
        before->time = event->time;
    }
    if (event->site != before->site) {
        *flags |= PH_EVENT_HAS_SITE;
        at = put(at, before->site = event->site);
    }
    if (event->thread != before->thread || event->arena != before->arena) {
        *flags |= PH_EVENT_HAS_PLACE;
        at = put(at, before->thread = event->thread);
        at = put(at, before->arena = event->arena);
    }
    return at;
}

uint8_t *ph_trace_put(uint8_t *at, struct ph_trace_before *before, const struct ph_event *event)
{
    uint8_t *first = at, flags = 0;

    at = put_changed(at + 1, before, event, &flags);
    if (event->kind != PH_EVENT_DROPPED)
        at = put_offset(at, event->kind == PH_EVENT_MADE ? &before->made : &before->gone, event->offset);
    if (event->kind == PH_EVENT_MOVED)
        at = put_offset(at, &before->made, event->to);
    if (has_size(event->kind) && event->size != before->size) {
        flags |= PH_EVENT_HAS_SIZE;
        at = put(at, before->size = event->size);
    }
    *first = (uint8_t)(event->kind | flags);
    return at;
}

uint8_t *ph_trace_put_site(uint8_t *at, const char *name, uint64_t length)
{
    *at++ = PH_EVENT_SITE;
    at = put(at, length);
    memcpy(at, name, length);
    return at + length;
}

void ph_frame_seal(struct ph_frame *frame, const uint8_t *events)
{
    frame->events_crc = ph_crc32c(0, events, frame->length);
    frame->crc = ph_crc32c(0, frame, offsetof(struct ph_frame, crc));
}
