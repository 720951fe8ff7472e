/* block/rows.c -- rows: arenas whose blocks are all of one size, and lie one behind the other from the first one on.
 *
 *     run            run            run              | wilderness       one class; 256 / gcd(granules, 256) rows a run
 *     row row row row row row row row row row row row
 *
 * A run begins and ends with a row, and each begins where the one before it ends, at a multiple of the row from byte 0 of the
 * arena: so all rows are one array. Runs come from the end of the arena, and go at its end alone; in between, one that is
 * empty waits for the next rows. */
#include <stdlib.h>

#include "block/block.h"

static uint32_t common_factor(uint32_t a, uint32_t b)
{
    while (b != 0) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* ph_rows_begin -- an arena without a block has rows of so many granules, and nothing else, from now on; or PH_H_NOMEM. */
int ph_rows_begin(struct ph_heap *h, uint32_t granules)
{
    uint16_t run_units = (uint16_t)(granules / common_factor(granules, PH_UNIT_GRANULES));
    uint32_t size = granules << PH_GRANULE_SHIFT;
    PH_ASSERT(h->row_starts == NULL);
    h->row_starts = calloc(ph_starts_words(&run_units, 1), sizeof *h->row_starts);
    if (h->row_starts == NULL)
        return PH_H_NOMEM;
    ph_starts_fill(h->row_starts, &size, &run_units, 1);
    int failure = ph_classes_init(h, &size, &run_units, 1, h->row_starts);
    if (failure < 0)
        return failure;
    h->strategy = PH_STRATEGY_ROWS;
    return 0;
}

/* ph_row_fits -- whether a row may be what is asked for. */
int ph_row_fits(const struct ph_heap *h, uint64_t size, uint64_t align)
{
    return size <= ph_row_bytes(h) && ph_row_bytes(h) % align == 0;
}

/* ph_rows_range -- the units of the table; none if nothing is in it. */
struct ph_gap ph_rows_range(const struct ph_heap *h)
{
    int has_rows = h->strategy == PH_STRATEGY_ROWS && h->classes[0].runs != 0;
    return has_rows ? (struct ph_gap){h->rows_first, h->rows_end - h->rows_first} : (struct ph_gap){0, 0};
}

/* ph_rows_came -- a run is about to be one of the table: the next one, or one that was read. */
void ph_rows_came(struct ph_heap *h, uint64_t head)
{
    uint64_t end = head + h->classes[0].run_units;
    int is_only = h->classes[0].runs == 0;
    if (is_only || head < h->rows_first)
        h->rows_first = head;
    if (is_only || end > h->rows_end)
        h->rows_end = end;
}

/* ph_rows_take -- units for the next run of the table, at its end; PH_H_REFILL, and PH_H_CORRUPT where it can not go on. The
 * first run begins at a multiple of a row. */
int64_t ph_rows_take(struct ph_heap *h)
{
    uint64_t nunits = h->classes[0].run_units;
    int is_first = h->classes[0].runs == 0;
    int64_t unit = ph_wilderness_take_at(h, nunits, is_first ? nunits : 1);
    if (unit < 0 || is_first || (uint64_t)unit == h->rows_end)
        return unit;
    ph_pool_give(h, (uint64_t)unit, nunits);
    return PH_H_CORRUPT;
}
