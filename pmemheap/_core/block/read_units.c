/* block/read_units.c -- which units of a heap that was opened were read, a bit each.
 *
 * A unit is read once: what its entry said then is what it is from then on, whatever another process writes over the file. So
 * a unit that was found free, or inside of a block, never gets a second owner. Units that came later are known from the
 * beginning. Where memory for the bits is refused, each entry is read as it stands. */
#include <stdlib.h>

#include "block/block.h"

/* ph_read_units_begin -- nothing of [first, end) is read yet. */
void ph_read_units_begin(struct ph_read_units *units, uint64_t first, uint64_t end)
{
    ph_read_units_fini(units);
    uint64_t low = first >> 6;
    units->bits = calloc(((end + 63) >> 6) - low, sizeof *units->bits);
    units->first_word = low;
    units->end = units->bits == NULL ? 0 : end;
}

void ph_read_units_fini(struct ph_read_units *units)
{
    free(units->bits);
    *units = (struct ph_read_units){0};
}

/* Bits of the word of `unit` for the units from there on, as far as `stop`; `next`: the unit behind them. */
static uint64_t part_of_word(uint64_t unit, uint64_t stop, uint64_t *next)
{
    uint64_t border = (unit | 63) + 1;
    *next = border < stop ? border : stop;
    return (~0ULL << (unit & 63)) & (~0ULL >> (-*next & 63));
}

/* ph_read_units_next -- the first unit in [unit, stop) that was read, or `stop`. */
uint64_t ph_read_units_next(const struct ph_read_units *units, uint64_t unit, uint64_t stop)
{
    if (units->bits == NULL)
        return stop;
    uint64_t next, known = stop < units->end ? stop : units->end;
    for (; unit < known; unit = next) {
        uint64_t read = units->bits[(unit >> 6) - units->first_word] & part_of_word(unit, known, &next);
        if (read != 0)
            return (unit & ~63ULL) + (uint64_t)__builtin_ctzll(read);
    }
    return unit < stop ? unit : stop;
}

/* ph_read_units_add -- [unit, stop) was read. */
void ph_read_units_add(struct ph_read_units *units, uint64_t unit, uint64_t stop)
{
    uint64_t next;
    for (stop = stop < units->end ? stop : units->end; unit < stop; unit = next) {
        uint64_t *word = &units->bits[(unit >> 6) - units->first_word];
        *word |= part_of_word(unit, stop, &next);
    }
}
