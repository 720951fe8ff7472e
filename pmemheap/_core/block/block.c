/* block/block.c -- from an offset to the block that begins there, or holds it, and to its state. */
#include "block/block.h"

/* ph_block_at -- the record of the run or large block of which a live block begins at `offset`, else NULL. */
struct ph_unit *ph_block_at(struct ph_heap *h, uint64_t offset)
{
    uint64_t unit = offset >> PH_UNIT_SHIFT;
    if (PH_UNLIKELY(unit - h->first_unit >= h->end_unit - h->first_unit || offset % PH_GRANULE))
        return NULL;
    struct ph_unit *record = &h->units[unit];
    if (PH_UNLIKELY(record->state == PH_U_OTHER && unit >= h->recorded_to))
        ph_scan_unit(h, unit);
    if (PH_LIKELY(record->state == PH_U_RUN || record->state == PH_U_RUN_BODY)) {
        uint64_t granule = offset >> PH_GRANULE_SHIFT;
        if (!(h->bits[granule >> 6] >> (granule & 63) & 1))
            return NULL;
        return record->state == PH_U_RUN ? record : record - record->back;
    }
    return record->state == PH_U_LARGE && offset % PH_UNIT_BYTES == 0 ? record : NULL;
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

int ph_is_reserved(struct ph_heap *h, uint64_t offset)
{
    const struct ph_unit *record = ph_record_of(h, offset);
    if (record == NULL || record->state != PH_U_RUN)
        return record != NULL && record->state == PH_U_RESERVED;
    const struct ph_withheld_word *withheld = ph_withheld_find(h, ph_word_of(offset));
    return withheld != NULL && (withheld->reserved & ph_bit_of(offset)) != 0;
}

/* ph_is_quarantined -- whether it is withheld after its free, for whatever reason. */
int ph_is_quarantined(struct ph_heap *h, uint64_t offset)
{
    const struct ph_unit *record = ph_record_of(h, offset);
    if (record == NULL || record->state != PH_U_RUN)
        return record != NULL && record->state == PH_U_QUARANTINE;
    const struct ph_withheld_word *withheld = ph_withheld_find(h, ph_word_of(offset));
    return withheld != NULL && (withheld->freed & ph_bit_of(offset)) != 0;
}

/* ph_visible_at -- the record of the live or reserved block at `offset`, else NULL. */
struct ph_unit *ph_visible_at(struct ph_heap *h, uint64_t offset)
{
    struct ph_unit *record = ph_block_at(h, offset);
    if (PH_LIKELY(record != NULL))
        return record;
    return ph_is_reserved(h, offset) ? ph_record_of(h, offset) : NULL;
}

int64_t ph_capacity(struct ph_heap *h, uint64_t offset)
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
