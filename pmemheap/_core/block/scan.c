/* block/scan.c -- reading a heap that was opened. The entries and the bits are the truth; volatile records are
 * made of them on demand, so that opening costs nothing that grows with the heap; what is withheld in memory alone
 * (block/steps.c) is found free by the next process:
 *
 *   - one run or extent, when a call names a block in it (ph_scan_unit);
 *   - from `scanned_to` upwards what has room, when space is wanted; what is full is only passed over (ph_scan_step);
 *   - from `recorded_to` upwards everything, when all of it is to be counted or walked (ph_adopt_step).
 */
#include <string.h>

#include "block/guard.h"

/* Whether an entry can be that of a chunk: of a ring, or of a region, which may be none any more. */
static int is_chunk(const struct ph_heap *h, const struct ph_entry *entry)
{
    int has_owner = h->strategy == PH_STRATEGY_RING ? entry->flags == PH_CHUNK_RING && entry->nbytes == 0
                                                    : (entry->flags & ~PH_CHUNK_FIRST) == 0;
    return entry->kind == PH_KIND_PACKED && entry->class_index == 0 && entry->nunits <= PH_CHUNK_UNITS_MAX && has_owner
        && h->strategy != PH_STRATEGY_ROWS;
}

/* Whether an entry can be what it says: its range inside the heap, its class one of ours. */
static int entry_is_sound(const struct ph_heap *h, uint64_t unit, const struct ph_entry *entry)
{
    if (entry->nunits == 0 || entry->nunits > h->end_unit - unit)
        return 0;
    if (entry->kind == PH_KIND_LARGE)
        return entry->nbytes <= (uint64_t)entry->nunits << PH_UNIT_SHIFT;
    if (h->strategy == PH_STRATEGY_RING || entry->kind == PH_KIND_PACKED)
        return is_chunk(h, entry);
    if (entry->kind != (h->strategy == PH_STRATEGY_ROWS ? PH_KIND_ROWS : PH_KIND_RUN) || entry->class_index >= h->nclasses)
        return 0;
    return entry->nunits == h->classes[entry->class_index].run_units
        && (h->strategy != PH_STRATEGY_ROWS || (entry->nbytes == ph_row_bytes(h) && unit % entry->nunits == 0));
}

static int entry_is_zero(const struct ph_entry *entry)
{
    return entry->kind == PH_KIND_FREE;
}

/* A copy of an entry: another process may change the entry itself between two looks. */
static struct ph_entry entry_at(const struct ph_heap *h, uint64_t unit)
{
    const uint64_t *words = (const uint64_t *)&h->entries[unit];
    uint64_t copy[2] = {__atomic_load_n(&words[0], __ATOMIC_ACQUIRE), __atomic_load_n(&words[1], __ATOMIC_RELAXED)};
    struct ph_entry entry;
    memcpy(&entry, copy, sizeof entry);
    return entry;
}

/* Whether there is neither a record of a unit, nor was its entry read. */
static int is_unread(const struct ph_heap *h, uint64_t unit)
{
    return h->units[unit].state == PH_U_OTHER && ph_read_units_next(&h->read_units, unit, unit + 1) != unit;
}

/* End of the units from `unit` on, at most `limit` of them, that nothing describes. */
static uint64_t gap_end(const struct ph_heap *h, uint64_t unit, uint64_t limit)
{
    uint64_t end = h->end_unit - unit < limit ? h->end_unit : unit + limit;
    end = ph_read_units_next(&h->read_units, unit, end);
    while (unit < end && h->units[unit].state == PH_U_OTHER && entry_is_zero(&h->entries[unit]))
        unit++;
    return unit;
}

/* Make the record of the run or extent whose entry stands at `unit`. Nothing else may lie inside it: so
 * records never overlap, whatever a damaged file says. */
static int adopt(struct ph_heap *h, uint64_t unit, const struct ph_entry *entry)
{
    if (!is_unread(h, unit) || !entry_is_sound(h, unit, entry)
        || gap_end(h, unit + 1, entry->nunits - 1) != unit + entry->nunits)
        return PH_H_CORRUPT;
    if (entry->kind == PH_KIND_PACKED)
        return ph_chunk_adopt(h, unit, entry->nunits);
    if (entry->kind != PH_KIND_LARGE)
        return ph_run_adopt(h, unit, entry->class_index);
    ph_large_set(h, unit, entry->nunits, entry->nbytes);
    return 0;
}

/* A record stays, so that its units were read. */
static void keep_record(struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    ph_read_units_add(&h->read_units, unit, unit + nunits);
    const struct ph_unit *record = &h->units[unit];
    if (record->state == PH_U_RUN ? record->u.run.live == 0 : record->state == PH_U_PACKED && ph_chunk_is_idle(record))
        h->idle_runs = 1;
}

/* The same, and nothing is given back: a run without a block stays one until a call needs space. */
static int adopt_as_is(struct ph_heap *h, uint64_t unit)
{
    const struct ph_entry entry = entry_at(h, unit);
    int adopted = adopt(h, unit, &entry);
    if (adopted == 0)
        keep_record(h, unit, entry.nunits);
    return adopted;
}

/* ph_scan_unit -- read the run or extent that covers `unit`, if there is one; runs are short, so their first
 * unit is near. */
int ph_scan_unit(struct ph_heap *h, uint64_t unit)
{
    uint64_t head = unit;
    while (entry_is_zero(&h->entries[head]) && head > h->first_unit && unit - head < PH_RUN_UNITS_MAX - 1)
        head--;
    if (!is_unread(h, head) || entry_is_zero(&h->entries[head]) || unit - head >= h->entries[head].nunits)
        return 0;
    return adopt_as_is(h, head);
}

/* Whether a record says how far its piece reaches. A reader that goes on where it stopped may stand inside of a range
 * that has merged since, or of a run made of one. */
static int begins_piece(const struct ph_unit *record)
{
    return record->state == PH_U_FREE || record->state == PH_U_RUN || record->state == PH_U_LARGE
        || record->state == PH_U_RETURNED || record->state == PH_U_RESERVED || record->state == PH_U_QUARANTINE
        || record->state == PH_U_PACKED;
}

/* Whether the run at `unit` has no room. */
static int is_full_run(const struct ph_heap *h, uint64_t unit, uint32_t class_index)
{
    const struct ph_class *c = &h->classes[class_index];
    const uint64_t *bits = &h->bits[unit * PH_UNIT_WORDS];
    uint64_t differing = 0;
    for (uint32_t i = 0; i < (uint32_t)c->run_units * PH_UNIT_WORDS; i++)
        differing |= bits[i] ^ c->starts[i];
    return differing == 0;
}

/* Whether no other entry lies inside of what one at `unit` covers: two owners of a unit are damage. */
static int stands_alone(const struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    for (uint64_t i = 1; i < nunits; i++)
        if (!entry_is_zero(&h->entries[unit + i]))
            return 0;
    return 1;
}

/* Read the entry at `unit`, of which there is no record: pass over what is full, make a record of what has
 * room. A run without a block is free space: a process was killed between its entry and its first bit. */
static int64_t read_entry(struct ph_heap *h, uint64_t unit)
{
    const struct ph_entry entry = entry_at(h, unit);
    if (!entry_is_sound(h, unit, &entry) || !stands_alone(h, unit, entry.nunits))
        return PH_H_CORRUPT;
    if (entry.kind == PH_KIND_LARGE || (entry.kind != PH_KIND_PACKED && is_full_run(h, unit, entry.class_index)))
        return entry.nunits;
    int adopted = adopt(h, unit, &entry);
    if (adopted < 0)
        return adopted;
    if (h->units[unit].state == PH_U_RUN && h->units[unit].u.run.live == 0 && ph_run_may_go(h)) {
        ph_run_discard(h, unit);
        return 0;
    }
    keep_record(h, unit, entry.nunits);
    return entry.nunits;
}

/* Make a free range of what nothing describes from `unit` on; how many units, for the caller if they are not for the pool. */
static uint64_t read_gap(struct ph_heap *h, uint64_t unit, uint64_t budget, uint64_t pool_below)
{
    uint64_t end = gap_end(h, unit, budget);
    h->scanned_to = end;
    ph_read_units_add(&h->read_units, unit, end);
    ph_ages_freed(&h->ages, unit, end - unit); /* who knows when: what lies behind it is real all the same */
    if (end - unit < pool_below)
        ph_pool_give(h, unit, end - unit);
    return end - unit;
}

/* ph_scan_step -- look for free space in about `budget` units more. Gaps of `pool_below` units or more are
 * reported for Python to own; shorter ones go to the pool. Returns the number of gaps; PH_H_CORRUPT leaves
 * `scanned_to` at the unit whose entry is impossible. */
int64_t ph_scan_step(struct ph_heap *h, uint64_t budget, uint64_t pool_below, struct ph_gap *gaps, uint64_t capacity)
{
    uint64_t count = 0, stop = h->end_unit - h->scanned_to < budget ? h->end_unit : h->scanned_to + budget;
    while (h->scanned_to < stop && count < capacity) {
        uint64_t unit = h->scanned_to;
        if (!is_unread(h, unit)) {
            h->scanned_to += begins_piece(&h->units[unit]) ? h->units[unit].nunits : 1;
        } else if (!entry_is_zero(&h->entries[unit])) {
            int64_t read = read_entry(h, unit);
            if (read < 0)
                return read;
            h->scanned_to += (uint64_t)read;
        } else {
            uint64_t nunits = read_gap(h, unit, budget, pool_below);
            if (nunits >= pool_below)
                gaps[count++] = (struct ph_gap){unit, nunits};
        }
    }
    return (int64_t)count;
}

/* ph_adopt_step -- make the records that are missing in about `budget` units more. 0 when none are left. */
int ph_adopt_step(struct ph_heap *h, uint64_t budget)
{
    uint64_t stop = h->end_unit - h->recorded_to < budget ? h->end_unit : h->recorded_to + budget;
    if (h->recorded_to >= h->end_unit)
        return 0;
    while (h->recorded_to < stop) {
        const struct ph_unit *record = &h->units[h->recorded_to];
        if (!entry_is_zero(&h->entries[h->recorded_to]) && is_unread(h, h->recorded_to)) {
            int adopted = adopt_as_is(h, h->recorded_to);
            if (adopted < 0)
                return adopted;
        }
        h->recorded_to += begins_piece(record) ? record->nunits : 1;
    }
    return 1;
}

void ph_forget_bounds(struct ph_heap *h)
{
    h->first_unit = h->end_unit = h->scanned_to = h->wilderness = h->wilderness_end = 0;
    h->data_first = h->data_end = 0;
}

/* ph_set_bounds -- the units that are ours. `scanned_to` < `end`: a heap that was opened, of which nothing is read. */
void ph_set_bounds(struct ph_heap *h, uint64_t first, uint64_t end, uint64_t scanned_to)
{
    int all_known = h->recorded_to >= h->end_unit;
    h->first_unit = h->data_first = first;
    h->end_unit = h->data_end = end;
    h->scanned_to = scanned_to;
    if (scanned_to < end && h->read_units.end == 0)
        ph_read_units_begin(&h->read_units, first, end);
    if (scanned_to < end)
        h->recorded_to = first;
    else if (all_known || h->recorded_to > end)
        h->recorded_to = end;
    else if (h->recorded_to < first)
        h->recorded_to = first;
    if (h->wilderness == h->wilderness_end) /* an empty wilderness may stand where the heap no longer is */
        h->wilderness = h->wilderness_end = first;
    ph_ages_cover(&h->ages, first, end);
}

static int has_bytes(const struct ph_unit *record)
{
    return record->state == PH_U_LARGE || record->state == PH_U_RESERVED || record->state == PH_U_QUARANTINE;
}

/* ph_walk -- the next piece that is described, from `*cursor` on; 0 at the end. Units between pieces belong to
 * the extents of Python. */
int ph_walk(const struct ph_heap *h, uint64_t *cursor, struct ph_piece *piece)
{
    for (uint64_t unit = *cursor; unit < h->end_unit; unit++) {
        const struct ph_unit *record = &h->units[unit];
        if (unit == h->wilderness && h->wilderness < h->wilderness_end)
            *piece = (struct ph_piece){.start = unit, .nunits = h->wilderness_end - unit, .state = PH_U_OTHER};
        else if (begins_piece(record)) /* threads may have moved the borders since the last step */
            *piece = (struct ph_piece){
                .start = unit, .nunits = record->nunits, .state = record->state,
                .nbytes = has_bytes(record) ? record->u.nbytes : 0,
                .class_index = record->class_index,
                .live = record->state == PH_U_RUN ? record->u.run.live : record->state == PH_U_PACKED ? record->u.packed.live : 0,
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

static uint64_t list_chunk(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t *cursor, uint64_t *offsets,
                           uint64_t *sizes, uint64_t capacity)
{
    uint64_t count = 0, end;
    for (; count < capacity && ph_piece_next(h, chunk, cursor, &end); *cursor = end) {
        const struct ph_block block = {(struct ph_heap *)h, (struct ph_unit *)chunk, *cursor << PH_GRANULE_SHIFT, PH_B_LIVE};
        offsets[count] = block.offset;
        sizes[count++] = ph_block_usable(&block);
    }
    if (count < capacity)
        *cursor = ((uint64_t)(chunk - h->units) + chunk->nunits) * PH_UNIT_GRANULES;
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
        if (record->state == PH_U_PACKED_BODY || record->state == PH_U_PACKED) {
            const struct ph_unit *chunk = record->state == PH_U_PACKED ? record : record - record->back;
            count += list_chunk(h, chunk, cursor, offsets + count, sizes + count, capacity - count);
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
        int holds_many = piece.state == PH_U_RUN || piece.state == PH_U_PACKED;
        *cursor = (holds_many ? piece.start : walk) * PH_UNIT_GRANULES;
    }
    return (int64_t)count;
}
