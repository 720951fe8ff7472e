/* heap_boot.c -- reading a heap that was opened. The entries and the bits are the truth; the volatile records
 * are rebuilt from them on demand: one run or extent when a call names a block in it, and piece by piece from
 * `boot` upwards when space is wanted. So opening costs nothing that grows with the heap. */
#include "heap_internal.h"

/* Whether an entry can be what it says: its range inside the heap, its class one of ours. */
static int entry_is_sound(const struct ph_heap *h, uint64_t unit, const struct ph_entry *entry)
{
    if (entry->nunits == 0 || entry->nunits > h->end_unit - unit)
        return 0;
    if (entry->kind == PH_KIND_LARGE)
        return entry->nbytes <= (uint64_t)entry->nunits << PH_UNIT_SHIFT;
    return entry->kind == PH_KIND_RUN && entry->class_index < h->nclasses
        && entry->nunits == h->classes[entry->class_index].run_units;
}

static int entry_is_zero(const struct ph_entry *entry)
{
    return entry->kind == PH_KIND_FREE;
}

/* End of the units from `unit` on, at most `limit` of them, that nothing describes. */
static uint64_t gap_end(const struct ph_heap *h, uint64_t unit, uint64_t limit)
{
    uint64_t end = h->end_unit - unit < limit ? h->end_unit : unit + limit;
    while (unit < end && h->units[unit].state == PH_U_OTHER && entry_is_zero(&h->entries[unit]))
        unit++;
    return unit;
}

/* Make the record of the run or extent whose entry stands at `unit`. Nothing else may lie inside it: so
 * records never overlap, whatever a damaged file says. */
static int adopt(struct ph_heap *h, uint64_t unit)
{
    const struct ph_entry *entry = &h->entries[unit];
    if (!entry_is_sound(h, unit, entry)
        || gap_end(h, unit + 1, entry->nunits - 1) != unit + entry->nunits)
        return PH_H_CORRUPT;
    if (entry->kind == PH_KIND_RUN)
        return ph_run_adopt(h, unit, entry->class_index);
    ph_large_dress(h, unit, entry->nunits, entry->nbytes);
    return 0;
}

/* ph_boot_unit -- read the run or extent that covers `unit`, if there is one; runs are short, so their first
 * unit is near. */
int ph_boot_unit(struct ph_heap *h, uint64_t unit)
{
    uint64_t head = unit;
    while (entry_is_zero(&h->entries[head]) && head > h->first_unit && unit - head < PH_RUN_UNITS_MAX - 1)
        head--;
    if (h->units[head].state != PH_U_OTHER || entry_is_zero(&h->entries[head])
        || unit - head >= h->entries[head].nunits)
        return 0;
    return adopt(h, head);
}

/* A run without a block is free space: a process was killed between its entry and its first bit. */
static int is_empty_run(const struct ph_heap *h, uint64_t unit)
{
    const struct ph_unit *record = &h->units[unit];
    return record->state == PH_U_RUN && record->u.run.live == 0 && !h->readonly;
}

/* ph_boot_step -- read on for about `budget` units. Gaps of free units of `pool_below` units or more, and all
 * of them when it is 0, are reported for Python to own; shorter ones go to the pool. Returns the number of
 * gaps; PH_H_CORRUPT leaves `boot` at the unit whose entry is impossible. */
int64_t ph_boot_step(struct ph_heap *h, uint64_t budget, uint64_t pool_below, struct ph_gap *gaps, uint64_t capacity)
{
    uint64_t count = 0, stop = h->end_unit - h->boot < budget ? h->end_unit : h->boot + budget;
    while (h->boot < stop && count < capacity) {
        uint64_t unit = h->boot;
        if (h->units[unit].state == PH_U_OTHER && !entry_is_zero(&h->entries[unit])) {
            int adopted = adopt(h, unit);
            if (adopted < 0)
                return adopted;
        }
        if (is_empty_run(h, unit))
            ph_run_discard(h, unit);
        if (h->units[unit].state != PH_U_OTHER) {
            h->boot += h->units[unit].nunits;
            continue;
        }
        uint64_t end = gap_end(h, unit, budget);
        h->boot = end;
        if (end - unit < pool_below)
            ph_pool_give(h, unit, end - unit);
        else
            gaps[count++] = (struct ph_gap){unit, end - unit};
    }
    return (int64_t)count;
}

/* ph_walk -- the next piece that is described, from `*cursor` on; 0 at the end. Units between pieces belong to
 * the extents of Python. */
int ph_walk(const struct ph_heap *h, uint64_t *cursor, struct ph_piece *piece)
{
    for (uint64_t unit = *cursor; unit < h->end_unit; unit++) {
        const struct ph_unit *record = &h->units[unit];
        if (unit == h->wild && h->wild < h->wild_end)
            *piece = (struct ph_piece){.start = unit, .nunits = h->wild_end - unit, .state = PH_U_OTHER};
        else if (record->state != PH_U_OTHER)
            *piece = (struct ph_piece){
                .start = unit, .nunits = record->nunits, .state = record->state,
                .nbytes = record->state == PH_U_LARGE ? record->u.nbytes : 0,
                .freed_at = record->state == PH_U_FREE ? record->u.freed_at : 0,
                .class_index = record->class_index,
                .live = record->state == PH_U_RUN ? record->u.run.live : 0,
            };
        else
            continue;
        *cursor = unit + piece->nunits;
        return 1;
    }
    *cursor = h->end_unit;
    return 0;
}

static uint64_t list_run(const struct ph_heap *h, uint64_t head, uint64_t first_granule, uint64_t *offsets, uint64_t *sizes,
                         uint64_t capacity, uint64_t *next)
{
    const struct ph_class *c = &h->classes[h->units[head].class_index];
    uint64_t count = 0, end = (head + c->run_units) * PH_UNIT_GRANULES;
    for (uint64_t g = first_granule; g < end; g = (g | 63) + 1) {
        uint64_t word = h->bits[g >> 6] & (~0ULL << (g & 63));
        for (; word != 0; word &= word - 1) {
            uint64_t granule = (g & ~63ULL) + (uint64_t)__builtin_ctzll(word);
            if (count == capacity) {
                *next = granule;
                return count;
            }
            offsets[count] = granule << PH_GRANULE_SHIFT;
            sizes[count++] = c->granules * PH_GRANULE;
        }
    }
    *next = end;
    return count;
}

/* ph_blocks -- live blocks from granule `*cursor` on, at most `capacity` of them; all units must be read. */
int64_t ph_blocks(const struct ph_heap *h, uint64_t *cursor, uint64_t *offsets, uint64_t *sizes, uint64_t capacity)
{
    uint64_t count = 0;
    while (count < capacity) {
        uint64_t unit = *cursor / PH_UNIT_GRANULES;
        if (unit >= h->end_unit)
            break;
        const struct ph_unit *record = &h->units[unit];
        if (record->state == PH_U_RUN_BODY || record->state == PH_U_RUN) {
            uint64_t head = record->state == PH_U_RUN ? unit : unit - record->back;
            count += list_run(h, head, *cursor, offsets + count, sizes + count, capacity - count, cursor);
            continue;
        }
        struct ph_piece piece;
        uint64_t walk = unit;
        if (!ph_walk(h, &walk, &piece)) {
            *cursor = h->end_unit * PH_UNIT_GRANULES;
            break;
        }
        if (piece.state == PH_U_LARGE) {
            offsets[count] = piece.start << PH_UNIT_SHIFT;
            sizes[count++] = piece.nunits << PH_UNIT_SHIFT;
        }
        *cursor = (piece.state == PH_U_RUN ? piece.start : walk) * PH_UNIT_GRANULES;
    }
    return (int64_t)count;
}
