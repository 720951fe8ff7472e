/* block/block.c -- from an offset to the block that begins there, or holds it, and to its state. */
#include "block/block.h"

/* The record of the chunk in which a live piece begins at `offset`, if `record` is of one; else NULL. */
static PH_SELDOM struct ph_unit *live_in_chunk(const struct ph_heap *h, struct ph_unit *record, uint64_t offset)
{
    if (record->state == PH_U_PACKED_BODY)
        record -= record->back;
    return record->state == PH_U_PACKED && ph_piece_state(h, record, offset) == PH_B_LIVE ? record : NULL;
}

struct ph_unit *ph_live_record(struct ph_heap *h, uint64_t offset)
{
    PH_RESOLVES();
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
    if (record->state == PH_U_LARGE)
        return offset % PH_UNIT_BYTES == 0 ? record : NULL;
    return live_in_chunk(h, record, offset);
}

/* States of the record of a unit in which a block may begin, a bit each. */
enum {
    PH_HOLDS_MANY = 1U << PH_U_RUN | 1U << PH_U_PACKED,
    PH_IS_BODY = 1U << PH_U_RUN_BODY | 1U << PH_U_PACKED_BODY, /* of one of those */
    PH_HOLDS_ONE = 1U << PH_U_LARGE | 1U << PH_U_RESERVED | 1U << PH_U_QUARANTINE,
};

/* The record of the run, or of the units, of which a block at `offset` is or would be; else NULL. */
static struct ph_unit *record_of(struct ph_heap *h, uint64_t offset)
{
    uint64_t unit = offset >> PH_UNIT_SHIFT;
    if (PH_UNLIKELY(unit - h->first_unit >= h->end_unit - h->first_unit || offset % PH_GRANULE))
        return NULL;
    struct ph_unit *record = &h->units[unit];
    if (PH_UNLIKELY(record->state == PH_U_OTHER && unit >= h->recorded_to))
        ph_scan_unit(h, unit);
    uint32_t state = 1U << record->state;
    if (state & PH_HOLDS_ONE)
        return offset % PH_UNIT_BYTES == 0 ? record : NULL;
    if (state & PH_IS_BODY)
        return record - record->back;
    return state & PH_HOLDS_MANY ? record : NULL;
}

static enum ph_block_state state_in_run(const struct ph_heap *h, uint64_t offset)
{
    uint64_t word = ph_word_of(offset), bit = ph_bit_of(offset);
    if (h->bits[word] & bit)
        return PH_B_LIVE;
    const struct ph_withheld_word *withheld = ph_withheld_find(h, word);
    if (withheld == NULL)
        return PH_B_NONE;
    return withheld->reserved & bit ? PH_B_RESERVED : withheld->freed & bit ? PH_B_QUARANTINED : PH_B_NONE;
}

static enum ph_block_state state_of(const struct ph_heap *h, const struct ph_unit *record, uint64_t offset)
{
    switch (record->state) {
    case PH_U_RUN:
        return state_in_run(h, offset);
    case PH_U_PACKED:
        return ph_piece_state(h, record, offset);
    case PH_U_LARGE:
        return PH_B_LIVE;
    case PH_U_RESERVED:
        return PH_B_RESERVED;
    default:
        return PH_B_QUARANTINED;
    }
}

/* ph_block_at -- the block that begins at `offset`. */
struct ph_block ph_block_at(struct ph_heap *h, uint64_t offset)
{
    PH_RESOLVES();
    struct ph_unit *record = record_of(h, offset);
    return (struct ph_block){h, record, offset, record == NULL ? PH_B_NONE : state_of(h, record, offset)};
}

struct ph_block ph_block_known(struct ph_heap *h, uint64_t offset, enum ph_block_state state)
{
    struct ph_unit *record = record_of(h, offset);
    PH_RESOLVES();
    return (struct ph_block){h, record, offset, record == NULL ? PH_B_NONE : state};
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
    uint8_t state = h->units[unit].state;
    return state == PH_U_RUN_BODY || state == PH_U_PACKED_BODY ? unit - h->units[unit].back : unit;
}

/* The live or reserved block of a run that holds the byte at `offset`. As a rule the byte is its first one. */
static struct ph_block holding_in_run(struct ph_heap *h, struct ph_unit *run, uint64_t offset)
{
    enum ph_block_state state = offset % PH_GRANULE == 0 ? state_in_run(h, offset) : PH_B_NONE;
    if (PH_UNLIKELY(state == PH_B_NONE)) {
        uint64_t first = (uint64_t)(run - h->units) << PH_UNIT_SHIFT;
        offset -= (offset - first) % ph_capacity_of(h, run);
        state = state_in_run(h, offset);
    }
    return (struct ph_block){h, run, offset, state == PH_B_QUARANTINED ? PH_B_NONE : state};
}

static struct ph_block holding_in_chunk(struct ph_heap *h, struct ph_unit *chunk, uint64_t offset)
{
    uint64_t start = ph_piece_holding(h, chunk, offset);
    struct ph_block block = {h, chunk, start, start == (uint64_t)-1 ? PH_B_NONE : ph_piece_state(h, chunk, start)};
    return ph_is_visible(&block) ? block : (struct ph_block){.arena = h};
}

/* Of the first byte of a live block of a run, ph_block_holding knows it at a glance. */
struct ph_block ph_block_holding_any(struct ph_heap *h, uint64_t offset)
{
    uint64_t unit = offset >> PH_UNIT_SHIFT;
    PH_RESOLVES();
    if (unit - h->first_unit >= h->end_unit - h->first_unit || unit - h->wilderness < h->wilderness_end - h->wilderness)
        return (struct ph_block){.arena = h};
    uint64_t head = covering(h, unit);
    struct ph_unit *record = &h->units[head];
    if (unit - head >= record->nunits)
        return (struct ph_block){.arena = h};
    if (record->state == PH_U_RUN)
        return holding_in_run(h, record, offset);
    if (record->state == PH_U_PACKED)
        return holding_in_chunk(h, record, offset);
    if (record->state != PH_U_LARGE && record->state != PH_U_RESERVED)
        return (struct ph_block){.arena = h};
    return (struct ph_block){h, record, head << PH_UNIT_SHIFT, record->state == PH_U_LARGE ? PH_B_LIVE : PH_B_RESERVED};
}

static uint32_t bit_words(const struct ph_block *block, int live, struct ph_block_word *word)
{
    uint64_t index = ph_word_of(block->offset), bit = ph_bit_of(block->offset);
    *word = (struct ph_block_word){
        .at = &block->arena->bits[index], .index = index, .set = live ? bit : 0, .clear = live ? 0 : bit, .table = PH_TABLE_BITS,
    };
    return 1;
}

static uint32_t entry_words(const struct ph_block *block, int live, struct ph_block_word *words)
{
    const struct ph_unit *record = block->record;
    uint64_t index = ph_head_of(block) * 2;
    const uint64_t images[2] = {ph_entry_word(PH_KIND_LARGE, 0, record->nunits), record->u.nbytes};
    if (block->arena->entries == NULL)
        return 0;
    for (uint32_t i = 0; i < 2; i++)
        words[i] = (struct ph_block_word){
            .at = (uint64_t *)block->arena->entries + index + i, .index = index + i, .set = live ? images[i] : 0,
            .clear = ~0ULL, .table = PH_TABLE_ENTRIES,
        };
    return 2;
}

/* A piece that goes gets its flag; it shares a word with the start [R31]. */
static uint32_t flag_words(const struct ph_block *block, int live, struct ph_block_word *word)
{
    uint64_t index = ph_word_of(block->offset), flag = ph_bit_of(block->offset) << 1;
    *word = (struct ph_block_word){
        .at = &block->arena->bits[index], .index = index, .set = live ? 0 : flag, .clear = live ? flag : 0, .table = PH_TABLE_BITS,
    };
    return 1;
}

uint32_t ph_block_words(const struct ph_block *block, int live, struct ph_block_word words[2])
{
    if (ph_is_packed(block))
        return flag_words(block, live, words);
    return ph_is_run(block) ? bit_words(block, live, words) : entry_words(block, live, words);
}
