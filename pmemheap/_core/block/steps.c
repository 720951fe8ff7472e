/* block/steps.c -- allocation in two steps: what a transaction does with a block before and after its record.
 *
 *            reserve             publish
 *     free ----------> reserved ----------> live            the bit or entry is set with publish,
 *       ^                  | cancel           | retire      and cleared with retire, by the caller
 *       |     release      v                  v
 *       +-------------- quarantined <---------+
 *
 * A block in the middle is *withheld*: no persistent table describes it, so that the next opening of the file finds it
 * free, but no call gets it before. A quarantined block may be released while it is viewed: then its space becomes free
 * when the last view goes. */
#include "block/block.h"

static struct ph_class *class_of(struct ph_heap *h, const struct ph_unit *run)
{
    return &h->classes[run->class_index];
}

static void count_withheld(struct ph_heap *h, struct ph_unit *run, int by)
{
    PH_ASSERT(run->u.run.withheld + by >= 0 && run->u.run.withheld + by <= run->u.run.blocks);
    run->u.run.withheld = (uint16_t)(run->u.run.withheld + by);
    class_of(h, run)->withheld += (uint64_t)by;
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

static void flip_reserved(struct ph_heap *h, struct ph_withheld_word *withheld, uint64_t bit, uint64_t size)
{
    flip(&withheld->reserved, bit, &h->withheld.reserved_blocks, &h->withheld.reserved_bytes, size);
}

static void flip_freed(struct ph_heap *h, struct ph_withheld_word *withheld, uint64_t bit, uint64_t size)
{
    flip(&withheld->freed, bit, &h->withheld.freed_blocks, &h->withheld.freed_bytes, size);
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
    flip_reserved(h, ph_withheld_make(h, c->word), bit, c->granules * PH_GRANULE);
    count_withheld(h, ph_unit_at(h, c->current), 1);
    return (int64_t)((c->word << 6 | (uint64_t)__builtin_ctzll(bit)) << PH_GRANULE_SHIFT);
}

/* ph_reserve_block -- the same as ph_malloc, but the block is reserved. */
int64_t ph_reserve_block(struct ph_heap *h, uint64_t size, uint64_t align)
{
    if (ph_withheld_reserve(h, 1) < 0 || ph_dirty_reserve(h, PH_STORES_MOST) < 0)
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

/* ph_publish -- reserved -> live. The requested size is not known here: the block counts with its capacity. */
void ph_publish(struct ph_heap *h, uint64_t offset)
{
    PH_ASSERT(ph_is_reserved(h, offset));
    struct ph_unit *record = ph_record_of(h, offset);
    if (record->state != PH_U_RUN) {
        ph_large_publish(h, record);
        return;
    }
    struct ph_withheld_word *withheld = ph_withheld_find(h, ph_word_of(offset));
    uint64_t size = ph_capacity_of(h, record);
    flip_reserved(h, withheld, ph_bit_of(offset), size);
    ph_withheld_drop_if_none(h, withheld);
    count_withheld(h, record, -1);
    count_live(h, record, 1);
    class_of(h, record)->mallocs++;
    class_of(h, record)->requested += size;
}

/* ph_cancel -- reserved -> free, as soon as nobody views it. */
void ph_cancel(struct ph_heap *h, uint64_t offset)
{
    PH_ASSERT(ph_is_reserved(h, offset));
    struct ph_unit *record = ph_record_of(h, offset);
    ph_refs_make_stale(h, offset);
    if (record->state == PH_U_RUN) {
        struct ph_withheld_word *withheld = ph_withheld_find(h, ph_word_of(offset));
        flip_reserved(h, withheld, ph_bit_of(offset), ph_capacity_of(h, record));
        flip_freed(h, withheld, ph_bit_of(offset), ph_capacity_of(h, record));
    } else {
        ph_large_quarantine(h, record);
    }
    ph_release(h, offset);
}

/* ph_retire -- live -> quarantined; its handles are stale from now on. The caller has reserved room (ph_withheld_reserve). */
void ph_retire(struct ph_heap *h, uint64_t offset)
{
    struct ph_unit *record = ph_record_of(h, offset);
    PH_ASSERT(record != NULL && (record->state == PH_U_RUN || record->state == PH_U_LARGE));
    ph_refs_make_stale(h, offset);
    if (record->state != PH_U_RUN) {
        ph_large_quarantine(h, record);
        return;
    }
    flip_freed(h, ph_withheld_make(h, ph_word_of(offset)), ph_bit_of(offset), ph_capacity_of(h, record));
    count_live(h, record, -1);
    count_withheld(h, record, 1);
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
    struct ph_withheld_word *withheld = ph_withheld_find(h, ph_word_of(offset));
    flip_freed(h, withheld, ph_bit_of(offset), ph_capacity_of(h, record));
    ph_withheld_drop_if_none(h, withheld);
    ph_run_released(h, (uint64_t)(record - h->units), ph_word_of(offset), ph_bit_of(offset));
}

void ph_view_unpin(struct ph_heap *h, uint64_t offset)
{
    if (ph_refs_view_gone(h, offset))
        ph_withheld_free(h, offset);
}

void ph_unpin(struct ph_heap *h, uint64_t offset)
{
    if (ph_refs_pin_gone(h, offset, 0))
        ph_withheld_free(h, offset);
}

void ph_unpin_change(struct ph_heap *h, uint64_t offset)
{
    if (ph_refs_pin_gone(h, offset, 1))
        ph_withheld_free(h, offset);
}

/* ph_release -- quarantined -> free, now or when the last view goes. */
void ph_release(struct ph_heap *h, uint64_t offset)
{
    if (!ph_refs_keep(h, offset))
        ph_withheld_free(h, offset);
}

/* ph_describe -- store the bit or the entry of a block that is published here. */
void ph_describe(struct ph_heap *h, uint64_t offset)
{
    const struct ph_unit *record = ph_record_of(h, offset);
    uint64_t *word = &h->bits[ph_word_of(offset)];
    PH_ASSERT(record != NULL && (record->state == PH_U_RUN || record->state == PH_U_LARGE));
    if (record->state == PH_U_RUN)
        ph_store(h, word, *word | ph_bit_of(offset));
    else
        ph_entry_publish(h, offset >> PH_UNIT_SHIFT, ph_entry_word(PH_KIND_LARGE, 0, record->nunits), record->u.nbytes);
}

/* ph_undescribe -- clear the bit or the entry of a block that is retired here. */
void ph_undescribe(struct ph_heap *h, uint64_t offset)
{
    const struct ph_unit *record = ph_record_of(h, offset);
    uint64_t *word = &h->bits[ph_word_of(offset)];
    PH_ASSERT(record != NULL && (record->state == PH_U_RUN || record->state == PH_U_QUARANTINE));
    if (record->state == PH_U_RUN)
        ph_store(h, word, *word & ~ph_bit_of(offset));
    else
        ph_entry_withdraw(h, offset >> PH_UNIT_SHIFT);
}

/* ph_block_free -- free a block that is known to be live, unviewed and without a refs. */
void ph_block_free(struct ph_heap *h, uint64_t offset, struct ph_unit *record)
{
    if (PH_LIKELY(record->state == PH_U_RUN)) {
        uint64_t granule = offset >> PH_GRANULE_SHIFT;
        uint64_t *word = &h->bits[granule >> 6];
        ph_store(h, word, *word & ~(1ULL << (granule & 63)));
        ph_run_freed(h, (uint64_t)(record - h->units), granule >> 6, 1ULL << (granule & 63));
        return;
    }
    uint64_t unit = (uint64_t)(record - h->units), nunits = record->nunits;
    ph_large_clear(h, unit);
    ph_give_back(h, unit, nunits);
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
