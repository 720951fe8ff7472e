/* block/counters.c -- what becomes of blocks, told to those who count, who track, and who write it down: the seldom half. */
#include "block/block.h"

/* To each of the counters of an arena. */
#define COUNT(h, add, ...)                                                                       \
    do {                                                                                         \
        for (struct ph_counters *const *each_ = (h)->watch->counters; *each_ != NULL; each_++)   \
            add(*each_, __VA_ARGS__);                                                            \
    } while (0)

/* To each of those who write down; what they see of the heap is that their frames are to be written. */
static PH_SELDOM void record(struct ph_heap *h, struct ph_event event)
{
    event.arena = h->watch->arena;
    for (struct ph_recorder *const *each = h->watch->recorders; *each != NULL; each++) {
        ph_record(*each, event);
        if (PH_UNLIKELY((*each)->first != NULL))
            h->until_look = h->until_free_look = 1; /* the next call writes what is full */
    }
}

#define RECORD(h, ...)                                        \
    do {                                                      \
        if ((h)->watch->recorders != NULL)                    \
            record(h, (struct ph_event){__VA_ARGS__});        \
    } while (0)

static inline uint64_t outer(const struct ph_heap *h, uint64_t offset)
{
    return (uint64_t)h->watch->arena << PH_ARENA_SHIFT | offset;
}

static inline uint64_t address_of(const struct ph_heap *h, uint64_t offset)
{
    return (uint64_t)(uintptr_t)h->data + offset;
}

/* To each of those who track. */
#define TRACK(h, track, ...)                                                                                      \
    do {                                                                                                          \
        for (struct ph_tracker *const *each_ = (h)->watch->trackers; each_ != NULL && *each_ != NULL; each_++)    \
            track(*each_, __VA_ARGS__);                                                                           \
    } while (0)

void ph_tell_made(struct ph_heap *h, uint64_t offset, uint64_t asked, uint64_t capacity)
{
    COUNT(h, ph_add_made, 1, asked, capacity);
    TRACK(h, ph_track_made, outer(h, offset), asked, address_of(h, offset));
    RECORD(h, .kind = PH_EVENT_MADE, .offset = offset, .size = asked);
}

void ph_tell_freed(struct ph_heap *h, uint64_t offset, uint64_t capacity)
{
    COUNT(h, ph_add_freed, 1, capacity);
    TRACK(h, ph_track_freed, outer(h, offset), address_of(h, offset));
    RECORD(h, .kind = PH_EVENT_FREED, .offset = offset);
}

/* Mostly one, which is told at once; to count bits is a call where the processor is not known. */
static inline uint64_t count_of(uint64_t bits)
{
    return (bits & (bits - 1)) == 0 ? 1 : (uint64_t)__builtin_popcountll(bits);
}

static PH_SELDOM void record_bits(struct ph_heap *h, uint64_t word, uint64_t bits, struct ph_event event)
{
    for (; bits != 0; bits &= bits - 1) {
        event.offset = ph_offset_of(word, bits);
        record(h, event);
    }
}

static PH_SELDOM void track_bits_made(struct ph_heap *h, uint64_t word, uint64_t bits, uint64_t asked)
{
    for (; bits != 0; bits &= bits - 1) {
        uint64_t offset = ph_offset_of(word, bits);
        TRACK(h, ph_track_made, outer(h, offset), asked, address_of(h, offset));
    }
}

static PH_SELDOM void track_bits_freed(struct ph_heap *h, uint64_t word, uint64_t bits)
{
    for (; bits != 0; bits &= bits - 1) {
        uint64_t offset = ph_offset_of(word, bits);
        TRACK(h, ph_track_freed, outer(h, offset), address_of(h, offset));
    }
}

void ph_tell_bits_made(struct ph_heap *h, uint64_t word, uint64_t bits, uint64_t asked, uint64_t capacity)
{
    uint64_t count = count_of(bits);
    COUNT(h, ph_add_made, count, asked * count, capacity * count);
    if (h->watch->trackers != NULL)
        track_bits_made(h, word, bits, asked);
    if (h->watch->recorders != NULL)
        record_bits(h, word, bits, (struct ph_event){.kind = PH_EVENT_MADE, .size = asked});
}

void ph_tell_bits_freed(struct ph_heap *h, uint64_t word, uint64_t bits, uint64_t capacity)
{
    uint64_t count = count_of(bits);
    COUNT(h, ph_add_freed, count, capacity * count);
    if (h->watch->trackers != NULL)
        track_bits_freed(h, word, bits);
    if (h->watch->recorders != NULL)
        record_bits(h, word, bits, (struct ph_event){.kind = PH_EVENT_FREED});
}

void ph_tell_resized(struct ph_heap *h, uint64_t offset, uint64_t asked, uint64_t was_capacity, uint64_t capacity)
{
    COUNT(h, ph_add_resized, was_capacity, capacity);
    TRACK(h, ph_track_resized, outer(h, offset), asked, address_of(h, offset));
    RECORD(h, .kind = PH_EVENT_RESIZED, .offset = offset, .size = asked);
}

void ph_tell_moved(struct ph_heap *h, uint64_t from, uint64_t to, uint64_t asked)
{
    COUNT(h, ph_add_moved, 1);
    TRACK(h, ph_track_resized, outer(h, to), asked, address_of(h, to));
    RECORD(h, .kind = PH_EVENT_MOVED, .offset = from, .to = to, .size = asked);
}

void ph_tell_all_freed(struct ph_heap *h)
{
    uint64_t blocks = h->large_blocks + h->packed.blocks, bytes = (h->large_units << PH_UNIT_SHIFT) + h->packed.bytes;
    if (h->watch == NULL)
        return;
    for (uint32_t i = 0; i < h->nclasses; i++) {
        blocks += h->classes[i].live;
        bytes += h->classes[i].live * h->classes[i].granules * PH_GRANULE;
    }
    COUNT(h, ph_add_freed, blocks, bytes);
    TRACK(h, ph_track_dropped, h->watch->arena, address_of(h, 0));
    RECORD(h, .kind = PH_EVENT_DROPPED, .offset = 0);
}

void ph_tell_reallocated(struct ph_heap *h, uint64_t offset, uint64_t asked)
{
    TRACK(h, ph_track_made, outer(h, offset), asked, address_of(h, offset));
}

void ph_tell_expanded(struct ph_heap *h, uint64_t offset, uint64_t asked)
{
    TRACK(h, ph_track_expanded, outer(h, offset), asked, address_of(h, offset));
}

void ph_add_resized(struct ph_counters *c, uint64_t was_capacity, uint64_t capacity)
{
    c->in_place++;
    if (capacity > was_capacity)
        ph_add_made(c, 0, capacity - was_capacity, capacity - was_capacity);
    else
        ph_add_freed(c, 0, was_capacity - capacity);
}
