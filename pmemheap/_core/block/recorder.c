/* block/recorder.c -- events into frames. */
#include <stdlib.h>

#include "block/block.h"
#include "os/os.h"

static void turn_off(struct ph_recorder *r)
{
    r->is_on = 0;
    r->lacks_memory = 1;
}

int ph_recorder_begin(struct ph_recorder *r)
{
    struct ph_sealed *frame = r->spare != NULL ? r->spare : malloc(sizeof *frame + PH_FRAME_MOST);
    if (frame == NULL) {
        turn_off(r);
        return -1;
    }
    r->spare = NULL;
    r->before = (struct ph_trace_before){.time = r->before.time};
    frame->next = NULL;
    frame->frame = (struct ph_frame){
        .magic = PH_FRAME_MAGIC, .number = r->frames++, .first_site = r->sites, .time = r->before.time};
    r->current = frame;
    r->at = frame->events;
    r->end = r->at + PH_FRAME_MOST - PH_EVENT_MOST;
    return 0;
}

void ph_recorder_seal(struct ph_recorder *r)
{
    struct ph_sealed *frame = r->current;
    if (frame == NULL)
        return;
    frame->frame.length = (uint32_t)(r->at - frame->events);
    frame->frame.sites = r->sites - frame->frame.first_site;
    ph_frame_seal(&frame->frame, frame->events);
    *(r->first == NULL ? &r->first : &r->last->next) = frame;
    r->last = frame;
    r->current = NULL;
}

/* Room for so many bytes beside those of an event. */
static inline int make_room(struct ph_recorder *r, uint64_t bytes)
{
    if (PH_LIKELY(r->current != NULL && r->end - r->at > (int64_t)bytes))
        return 0;
    ph_recorder_seal(r);
    return ph_recorder_begin(r);
}

/* The number of this thread; threads are numbered as they come. */
static PH_SELDOM uint32_t number_thread(struct ph_recorder *r, uint64_t thread)
{
    struct ph_thread_number *found = ph_hash_find(&r->threads, sizeof *found, thread);
    if (found == NULL) {
        if (ph_hash_room(&r->threads, sizeof *found, 1) < 0)
            return r->thread_number;
        uint64_t number = r->threads.used;
        found = ph_hash_place(&r->threads, sizeof *found, thread);
        found->number = number;
    }
    r->thread = thread;
    return r->thread_number = (uint32_t)found->number;
}

uint32_t ph_record_site(struct ph_recorder *r, const char *name, uint64_t length)
{
    length = length < PH_SITE_MOST ? length : PH_SITE_MOST;
    if (make_room(r, length) < 0)
        return 0;
    r->at = ph_trace_put_site(r->at, name, length);
    return ++r->sites;
}

void ph_record_event(struct ph_recorder *r, const struct ph_event *event)
{
    if (!r->is_on || make_room(r, 0) < 0)
        return;
    r->at = ph_trace_put(r->at, &r->before, event);
    r->current->frame.events++;
    r->events++;
}

void ph_record(struct ph_recorder *r, struct ph_event event)
{
    uint64_t thread = ph_thread();
    if (!r->is_on)
        return;
    event.site = r->site_of == NULL ? 0 : r->site_of(r);
    event.thread = thread == r->thread ? r->thread_number : number_thread(r, thread);
    event.time = (ph_clock() - r->began) / 1000;
    ph_record_event(r, &event);
}

struct ph_sealed *ph_recorder_take(struct ph_recorder *r)
{
    struct ph_sealed *frame = r->first;
    if (frame != NULL)
        r->first = frame->next;
    return frame;
}

void ph_recorder_reuse(struct ph_recorder *r, struct ph_sealed *frame)
{
    free(r->spare);
    r->spare = frame;
}

void ph_recorder_fini(struct ph_recorder *r)
{
    ph_recorder_seal(r);
    for (struct ph_sealed *frame; (frame = ph_recorder_take(r)) != NULL;)
        free(frame);
    free(r->spare);
    free(r->threads.slots);
    *r = (struct ph_recorder){0};
}
