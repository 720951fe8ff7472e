/* block/chunk_read.c -- chunks of a heap that was opened, and whether one is as it has to be. */
#include "block/chunk_bits.h"

/* Whether a word has starts and flags in turn: no start without its flag at the end of it [R31]. */
static int is_sound(uint64_t word)
{
    return (~word >> 63) || ones_below(word, 63) % 2 == 1;
}

/* The words of a chunk that was read. Whether they are sound. */
static int are_sound(const struct ph_heap *h, uint64_t first, uint64_t end)
{
    int sound = 1;
    for (uint64_t granule = first; granule < end; granule += 64)
        sound &= is_sound(*word_of(h, granule));
    return sound;
}

/* The mark: the last bit, or the start whose flag that is: a process was killed between the two stores of a pad. */
static uint64_t mark_in(const struct ph_heap *h, uint64_t first, uint64_t end)
{
    uint64_t last = last_set(h, first, end);
    return last == end ? first : is_start(h, last) ? last : last - 1;
}

/* A copy of the entry of a chunk of a region at a unit; all zeros where there is none. */
static struct ph_owner owner_at(const struct ph_heap *h, uint64_t unit)
{
    if (unit - h->first_unit >= h->end_unit - h->first_unit)
        return (struct ph_owner){0, UINT64_MAX};
    const uint64_t *words = (const uint64_t *)&h->entries[unit];
    uint64_t word = __atomic_load_n(&words[0], __ATOMIC_ACQUIRE), first = __atomic_load_n(&words[1], __ATOMIC_RELAXED);
    int is_first = (word & 0xFFFFFFFF) == (uint32_t)ph_chunk_entry(0, PH_CHUNK_FIRST);
    return (struct ph_owner){is_first ? PH_CHUNK_FIRST : 0, first};
}

/* Its first piece is that which stands for it: of two granules, and live. */
int ph_region_lives(const struct ph_heap *h, uint64_t first)
{
    struct ph_owner owner = owner_at(h, first);
    return owner.flags == PH_CHUNK_FIRST && owner.first == first && (h->bits[first * PH_UNIT_WORDS] & 7) == 5;
}

/* What a chunk that was read is to its region. */
static void join_region(struct ph_heap *h, struct ph_unit *chunk)
{
    uint64_t unit = (uint64_t)(chunk - h->units), first = h->entries[unit].nbytes;
    if (!ph_region_lives(h, first) && PH_KEPT(R34)) { /* [R34] */
        h->packed.blocks -= chunk->u.packed.live;
        h->packed.bytes -= (uint64_t)(chunk->u.packed.fill - chunk->u.packed.dead) << PH_GRANULE_SHIFT;
        chunk->u.packed.live = 0;
        chunk->u.packed.dead = chunk->u.packed.fill;
        chunk->class_index = PH_IN_REGION_GONE;
    } else if (unit == first) {
        chunk->class_index = PH_IN_REGION_KEPT;
        chunk->has_refs = PH_HEADS_REGION;
    }
}

/* ph_chunk_adopt -- a chunk that the entries table describes: find the mark, and count what is below it. PH_H_CORRUPT. */
int ph_chunk_adopt(struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    uint64_t first = unit * PH_UNIT_GRANULES, end = first + nunits * PH_UNIT_GRANULES;
    struct ph_unit *chunk = &h->units[unit];
    if (!are_sound(h, first, end))
        return PH_H_CORRUPT;
    ph_chunk_set(h, unit, nunits);
    chunk->u.packed.fill = (uint16_t)(mark_in(h, first, end) - first);
    uint64_t live = 0, granules = 0, start = first, stop;
    for (; ph_piece_next(h, chunk, &start, &stop); start = stop) {
        live++;
        granules += stop - start;
    }
    chunk->u.packed.live = (uint16_t)live;
    chunk->u.packed.dead = (uint16_t)(chunk->u.packed.fill - granules);
    h->packed.blocks += live;
    h->packed.bytes += granules << PH_GRANULE_SHIFT;
    if (h->strategy == PH_STRATEGY_GENERAL)
        join_region(h, chunk);
    return 0;
}

/* ph_chunk_is_settled -- whether the mark of a chunk that was read is one on which a piece can begin. */
int ph_chunk_is_settled(const struct ph_heap *h, const struct ph_unit *chunk)
{
    return is_set(h, fill_of(h, chunk)) && !is_dead(h, fill_of(h, chunk));
}

/* ---------------------------------------------------------------- checking */

/* ph_chunk_check -- how many words of the bits of a chunk are not as they have to be, and what is counted in it. */
uint64_t ph_chunk_check(const struct ph_heap *h, const struct ph_unit *chunk, struct ph_chunk_count *count)
{
    uint64_t first = first_of(h, chunk), mark = fill_of(h, chunk), end = first + (uint64_t)chunk->nunits * PH_UNIT_GRANULES;
    int may_be_bare = h->entries != NULL && mark == first && next_set(h, first, end) == end; /* an entry came, and no bit */
    uint64_t wrong = next_set(h, mark + 2, end) != end || (is_dead(h, mark) && h->entries == NULL);
    wrong |= !is_start(h, mark) && !may_be_bare;
    *count = (struct ph_chunk_count){0};
    for (uint64_t start = first, next; start < mark; start = next) {
        next = end_of(h, chunk, start);
        wrong += !is_start(h, start) || (start & 63) == 63 || next - start < 2;
        uint64_t bytes = (next - start) << PH_GRANULE_SHIFT;
        enum ph_block_state state = ph_piece_state(h, chunk, start << PH_GRANULE_SHIFT);
        count->live += state == PH_B_LIVE;
        count->live_bytes += state == PH_B_LIVE ? bytes : 0;
        count->reserved += state == PH_B_RESERVED;
        count->reserved_bytes += state == PH_B_RESERVED ? bytes : 0;
        count->freed += state == PH_B_QUARANTINED;
        count->freed_bytes += state == PH_B_QUARANTINED ? bytes : 0;
        count->dead += state == PH_B_LIVE ? 0 : next - start;
    }
    return wrong;
}
