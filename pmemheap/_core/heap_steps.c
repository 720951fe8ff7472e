/* heap_steps.c -- allocation in two steps: what a transaction does with a block before and after its record.
 *
 *            reserve             publish
 *     free ----------> reserved ----------> live            the bit or entry is set with publish,
 *       ^                  | cancel           | retire      and cleared with retire, by the caller
 *       |     release      v                  v
 *       +-------------- quarantined <---------+
 *
 * A block in the middle is *withheld*: no table that persists describes it, so that whoever opens the file finds it
 * free, but nobody else gets it. A quarantined block may be released while it is viewed: then its space becomes free
 * when the last view goes. */
#include "heap_internal.h"

static uint64_t word_of(uint64_t offset)
{
    return offset >> (PH_GRANULE_SHIFT + 6);
}

static uint64_t bit_of(uint64_t offset)
{
    return 1ULL << (offset >> PH_GRANULE_SHIFT & 63);
}

/* ph_record_of -- the record of the run, or of the units, of which a block at `offset` is or would be; else NULL. */
struct ph_unit *ph_record_of(struct ph_heap *h, uint64_t offset)
{
    uint64_t unit = offset >> PH_UNIT_SHIFT;
    if (unit - h->first_unit >= h->end_unit - h->first_unit || offset % PH_GRANULE)
        return NULL;
    struct ph_unit *record = &h->units[unit];
    if (record->state == PH_U_OTHER && unit >= h->recorded_to)
        ph_scan_unit(h, unit);
    switch (record->state) {
    case PH_U_RUN:
        return record;
    case PH_U_RUN_BODY:
        return record - record->back;
    case PH_U_LARGE:
    case PH_U_RESERVED:
    case PH_U_QUARANTINE:
        return offset % PH_UNIT_BYTES == 0 ? record : NULL;
    default:
        return NULL;
    }
}

static struct ph_class *class_of(struct ph_heap *h, const struct ph_unit *run)
{
    return &h->classes[run->class_index];
}

static void count_held(struct ph_heap *h, struct ph_unit *run, int by)
{
    PH_ASSERT(run->u.run.held + by >= 0 && run->u.run.held + by <= run->u.run.blocks);
    run->u.run.held = (uint16_t)(run->u.run.held + by);
    class_of(h, run)->held += (uint64_t)by;
}

static void count_live(struct ph_heap *h, struct ph_unit *run, int by)
{
    PH_ASSERT(run->u.run.live + by >= 0 && run->u.run.live + by <= run->u.run.blocks);
    run->u.run.live = (uint16_t)(run->u.run.live + by);
    class_of(h, run)->live += (uint64_t)by;
}

/* A bit of the table of withheld blocks is about to be set or cleared: `blocks` and `bytes` count those like it. */
static void flip(uint64_t *bits, uint64_t bit, uint64_t *blocks, uint64_t *bytes, uint64_t size)
{
    uint64_t by = *bits & bit ? (uint64_t)-1 : 1;
    *bits ^= bit;
    *blocks += by;
    *bytes += by * size;
}

static void flip_reserved(struct ph_heap *h, struct ph_held_word *held, uint64_t bit, uint64_t size)
{
    flip(&held->reserved, bit, &h->held.reserved_blocks, &h->held.reserved_bytes, size);
}

static void flip_freed(struct ph_heap *h, struct ph_held_word *held, uint64_t bit, uint64_t size)
{
    flip(&held->freed, bit, &h->held.freed_blocks, &h->held.freed_bytes, size);
}

static int64_t reserve_small(struct ph_heap *h, struct ph_class *c)
{
    if (c->mask == 0) {
        int refill = ph_class_refill(h, c);
        if (refill < 0)
            return refill;
    }
    uint64_t bit = c->mask & -c->mask;
    c->mask ^= bit;
    flip_reserved(h, ph_held_make(h, c->word), bit, c->granules * PH_GRANULE);
    count_held(h, ph_unit_at(h, c->current), 1);
    return (int64_t)((c->word << 6 | (uint64_t)__builtin_ctzll(bit)) << PH_GRANULE_SHIFT);
}

/* ph_reserve_block -- the same as ph_malloc, but the block is reserved. */
int64_t ph_reserve_block(struct ph_heap *h, uint64_t size, uint64_t align)
{
    if (ph_held_reserve(h, 1) < 0 || ph_dirty_reserve(h, PH_STORES_MOST) < 0)
        return PH_H_NOMEM;
    int index = ph_class_of(h, size, align);
    if (index >= 0)
        return reserve_small(h, &h->classes[index]);
    int64_t unit = ph_large_take(h, size, align);
    if (unit < 0)
        return unit;
    ph_reserve_large(h, (uint64_t)unit, ph_units_for(size), size);
    return unit << PH_UNIT_SHIFT;
}

/* ph_publish -- reserved -> live. What was asked for is not known here: the block counts with its size. */
void ph_publish(struct ph_heap *h, uint64_t offset)
{
    PH_ASSERT(ph_is_reserved(h, offset));
    struct ph_unit *record = ph_record_of(h, offset);
    if (record->state != PH_U_RUN) {
        ph_large_publish(h, record);
        return;
    }
    struct ph_held_word *held = ph_held_find(h, word_of(offset));
    uint64_t size = ph_capacity_of(h, record);
    flip_reserved(h, held, bit_of(offset), size);
    ph_held_settle(h, held);
    count_held(h, record, -1);
    count_live(h, record, 1);
    class_of(h, record)->mallocs++;
    class_of(h, record)->requested += size;
}

/* ph_cancel -- reserved -> free, as soon as nobody views it. */
void ph_cancel(struct ph_heap *h, uint64_t offset)
{
    PH_ASSERT(ph_is_reserved(h, offset));
    struct ph_unit *record = ph_record_of(h, offset);
    ph_mark_stale(h, offset);
    if (record->state == PH_U_RUN) {
        struct ph_held_word *held = ph_held_find(h, word_of(offset));
        flip_reserved(h, held, bit_of(offset), ph_capacity_of(h, record));
        flip_freed(h, held, bit_of(offset), ph_capacity_of(h, record));
    } else {
        ph_large_quarantine(h, record);
    }
    ph_release(h, offset);
}

/* ph_retire -- live -> quarantined; its handles are stale from now on. The caller has reserved room (ph_held_reserve). */
void ph_retire(struct ph_heap *h, uint64_t offset)
{
    struct ph_unit *record = ph_record_of(h, offset);
    PH_ASSERT(record != NULL && (record->state == PH_U_RUN || record->state == PH_U_LARGE));
    ph_mark_stale(h, offset);
    if (record->state != PH_U_RUN) {
        ph_large_quarantine(h, record);
        return;
    }
    flip_freed(h, ph_held_make(h, word_of(offset)), bit_of(offset), ph_capacity_of(h, record));
    count_live(h, record, -1);
    count_held(h, record, 1);
}

/* ph_withheld_free -- quarantined -> free, with no view left. */
void ph_withheld_free(struct ph_heap *h, uint64_t offset)
{
    struct ph_unit *record = ph_record_of(h, offset);
    if (record == NULL) /* a heap that was closed meanwhile */
        return;
    PH_ASSERT(ph_is_quarantined(h, offset));
    if (record->state != PH_U_RUN) {
        ph_large_release(h, record);
        return;
    }
    struct ph_held_word *held = ph_held_find(h, word_of(offset));
    flip_freed(h, held, bit_of(offset), ph_capacity_of(h, record));
    ph_held_settle(h, held);
    ph_run_released(h, (uint64_t)(record - h->units), word_of(offset), bit_of(offset));
}

/* ph_release -- quarantined -> free, now or when the last view goes. */
void ph_release(struct ph_heap *h, uint64_t offset)
{
    if (!ph_mark_waits(h, offset))
        ph_withheld_free(h, offset);
}

/* ph_describe -- store the bit or the entry of a block that is published here. */
void ph_describe(struct ph_heap *h, uint64_t offset)
{
    const struct ph_unit *record = ph_record_of(h, offset);
    uint64_t *word = &h->bits[word_of(offset)];
    PH_ASSERT(record != NULL && (record->state == PH_U_RUN || record->state == PH_U_LARGE));
    if (record->state == PH_U_RUN)
        ph_store(h, word, *word | bit_of(offset));
    else
        ph_entry_publish(h, offset >> PH_UNIT_SHIFT, ph_entry_word(PH_KIND_LARGE, 0, record->nunits), record->u.nbytes);
}

/* ph_undescribe -- clear the bit or the entry of a block that is retired here. */
void ph_undescribe(struct ph_heap *h, uint64_t offset)
{
    const struct ph_unit *record = ph_record_of(h, offset);
    uint64_t *word = &h->bits[word_of(offset)];
    PH_ASSERT(record != NULL && (record->state == PH_U_RUN || record->state == PH_U_QUARANTINE));
    if (record->state == PH_U_RUN)
        ph_store(h, word, *word & ~bit_of(offset));
    else
        ph_entry_withdraw(h, offset >> PH_UNIT_SHIFT);
}

/* ph_block_retire -- what a bare free of a live block is in a power heap, until its record is durable [R6]. The
 * caller has reserved room (ph_room_to_retire). */
void ph_block_retire(struct ph_heap *h, uint64_t offset)
{
    uint64_t nbytes = ph_capacity_of(h, ph_record_of(h, offset));
    ph_retire(h, offset);
    ph_undescribe(h, offset);
    ph_freed_add(h, offset, nbytes);
}

int ph_is_reserved(struct ph_heap *h, uint64_t offset)
{
    const struct ph_unit *record = ph_record_of(h, offset);
    if (record == NULL || record->state != PH_U_RUN)
        return record != NULL && record->state == PH_U_RESERVED;
    const struct ph_held_word *held = ph_held_find(h, word_of(offset));
    return held != NULL && (held->reserved & bit_of(offset)) != 0;
}

/* ph_is_quarantined -- whether it is withheld after its free, for whatever reason. */
int ph_is_quarantined(struct ph_heap *h, uint64_t offset)
{
    const struct ph_unit *record = ph_record_of(h, offset);
    if (record == NULL || record->state != PH_U_RUN)
        return record != NULL && record->state == PH_U_QUARANTINE;
    const struct ph_held_word *held = ph_held_find(h, word_of(offset));
    return held != NULL && (held->freed & bit_of(offset)) != 0;
}

/* ph_is_retired -- whether the block is quarantined and waits for its release, not only for a last view. */
int ph_is_retired(struct ph_heap *h, uint64_t offset)
{
    const struct ph_mark *mark = ph_mark_find(h, offset);
    return ph_is_quarantined(h, offset) && (mark == NULL || !mark->is_released);
}

/* ph_visible_at -- the record of the live or reserved block at `offset`, else NULL. */
struct ph_unit *ph_visible_at(struct ph_heap *h, uint64_t offset)
{
    struct ph_unit *record = ph_block_at(h, offset);
    if (PH_LIKELY(record != NULL))
        return record;
    return ph_is_reserved(h, offset) ? ph_record_of(h, offset) : NULL;
}

int64_t ph_held_size(struct ph_heap *h, uint64_t offset)
{
    if (ph_visible_at(h, offset) == NULL && !ph_is_quarantined(h, offset))
        return PH_H_BAD_OFFSET;
    return (int64_t)ph_capacity_of(h, ph_record_of(h, offset));
}

/* The first unit of what covers `unit`, as far as units that are not described are concerned: they may be the inside
 * of a large block. Entries that were not read yet are read on the way. */
static uint64_t covering(struct ph_heap *h, uint64_t unit)
{
    while (h->units[unit].state == PH_U_OTHER) {
        if (unit >= h->recorded_to && h->entries[unit].kind != PH_KIND_FREE && ph_scan_unit(h, unit) < 0)
            break;
        if (h->units[unit].state != PH_U_OTHER || unit == h->first_unit)
            break;
        unit--;
    }
    return h->units[unit].state == PH_U_RUN_BODY ? unit - h->units[unit].back : unit;
}

/* ph_block_start -- where the live or reserved block begins that holds the byte at `offset`. */
int64_t ph_block_start(struct ph_heap *h, uint64_t offset)
{
    uint64_t unit = offset >> PH_UNIT_SHIFT;
    if (unit - h->first_unit >= h->end_unit - h->first_unit || unit - h->wilderness < h->wilderness_end - h->wilderness)
        return PH_H_BAD_OFFSET;
    uint64_t head = covering(h, unit);
    const struct ph_unit *record = &h->units[head];
    if (unit - head >= record->nunits)
        return PH_H_BAD_OFFSET;
    uint64_t start = head << PH_UNIT_SHIFT;
    if (record->state == PH_U_RUN)
        start = offset - (offset - start) % ph_capacity_of(h, record);
    return ph_visible_at(h, start) == NULL ? PH_H_BAD_OFFSET : (int64_t)start;
}
