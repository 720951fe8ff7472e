/* space/ages.c -- when free units were freed: a byte a unit, so that each keeps its own age, whatever range it is a part of.
 *
 *   stamp   0        nothing to give back: never stored to, or given back since it was freed
 *           1..255   the interval in which it was freed, counted in a circle
 *
 * The stamps of units that are in use say nothing. They stand in chunks of 4096; a chunk whose units all have one stamp
 * needs no bytes, so that freeing a gigabyte costs no more than its 64 chunks. Where memory for a chunk is refused its
 * units keep the stamp that they had: at worst a page goes that was in use a moment ago, and comes back as zeros, as every
 * free page may. */
#include <stdlib.h>
#include <string.h>

#include "space/space.h"

/* ph_ages_init -- nothing is freed yet. */
void ph_ages_init(struct ph_ages *ages)
{
    *ages = (struct ph_ages){.interval = 1};
}

/* Let go of the chunks [from, to), by their place in the directory. */
static void drop_chunks(struct ph_ages *ages, uint64_t from, uint64_t to)
{
    for (; from < to; from++)
        free(ages->chunks[from].stamps);
}

void ph_ages_fini(struct ph_ages *ages)
{
    drop_chunks(ages, 0, ages->count);
    free(ages->chunks);
    ages->chunks = NULL;
    ages->first = ages->count = 0;
}

/* ph_ages_cover -- have a place for the units [first, end); what lies outside is forgotten. */
void ph_ages_cover(struct ph_ages *ages, uint64_t first, uint64_t end)
{
    uint64_t low = first >> PH_AGE_SHIFT, high = (end + PH_AGE_UNITS - 1) >> PH_AGE_SHIFT;
    uint64_t behind = ages->first + ages->count;
    if (low >= high || low < ages->first || low >= behind) {
        ph_ages_fini(ages);
        ages->first = behind = low;
    }
    uint64_t gone = low - ages->first, kept = (high < behind ? high : behind) - low;
    drop_chunks(ages, 0, gone);
    drop_chunks(ages, gone + kept, ages->count);
    if (gone != 0 && kept != 0)
        memmove(ages->chunks, ages->chunks + gone, kept * sizeof *ages->chunks);
    ages->first = low;
    ages->count = kept;
    if (high - low <= kept)
        return;
    struct ph_age_chunk *wider = realloc(ages->chunks, (high - low) * sizeof *wider);
    if (wider == NULL)
        return;
    memset(wider + kept, 0, (high - low - kept) * sizeof *wider);
    ages->chunks = wider;
    ages->count = high - low;
}

static void stamp_chunk(struct ph_age_chunk *chunk, uint64_t from, uint64_t count, uint8_t stamp)
{
    if (count == PH_AGE_UNITS) {
        chunk->differ = 0;
        chunk->stamp = stamp;
        return;
    }
    if (!chunk->differ) {
        if (chunk->stamp == stamp || (chunk->stamps == NULL && (chunk->stamps = malloc(PH_AGE_UNITS)) == NULL))
            return;
        memset(chunk->stamps, chunk->stamp, PH_AGE_UNITS);
        chunk->differ = 1;
    }
    memset(chunk->stamps + from, stamp, count);
}

static void stamp(struct ph_ages *ages, uint64_t start, uint64_t nunits, uint8_t value)
{
    for (uint64_t stop = start + nunits, next; start < stop; start = next) {
        uint64_t border = (start | (PH_AGE_UNITS - 1)) + 1, index = (start >> PH_AGE_SHIFT) - ages->first;
        next = border < stop ? border : stop;
        if (index < ages->count)
            stamp_chunk(&ages->chunks[index], start & (PH_AGE_UNITS - 1), next - start, value);
    }
}

/* ph_ages_freed -- units have become free in this interval. */
void ph_ages_freed(struct ph_ages *ages, uint64_t start, uint64_t nunits)
{
    stamp(ages, start, nunits, ages->interval);
}

/* ph_ages_given_back -- there is nothing behind free units any more. */
void ph_ages_given_back(struct ph_ages *ages, uint64_t start, uint64_t nunits)
{
    stamp(ages, start, nunits, 0);
}

/* ph_ages_next -- another interval begins. A unit that was freed 255 intervals ago seems young again, for one interval. */
void ph_ages_next(struct ph_ages *ages)
{
    ages->interval = ages->interval == UINT8_MAX ? 1 : (uint8_t)(ages->interval + 1);
}

/* The unit behind those from `unit` on that have one stamp, at most `stop`. */
static uint64_t same_until(const struct ph_ages *ages, uint64_t unit, uint64_t stop, uint8_t *value)
{
    uint64_t border = (unit | (PH_AGE_UNITS - 1)) + 1, index = (unit >> PH_AGE_SHIFT) - ages->first;
    stop = border < stop ? border : stop;
    const struct ph_age_chunk *chunk = index < ages->count ? &ages->chunks[index] : NULL;
    *value = chunk == NULL ? 0 : chunk->stamp;
    if (chunk == NULL || !chunk->differ)
        return stop;
    const uint8_t *stamps = chunk->stamps - (border - PH_AGE_UNITS);
    *value = stamps[unit];
    while (unit < stop && stamps[unit] == *value)
        unit++;
    return unit;
}

/* ph_ages_old -- the next part of the free range [from, stop) that was freed before this interval, from its first such
 * unit to its last; what was given back may lie between, nothing that is younger. 0 if there is none. */
int ph_ages_old(const struct ph_ages *ages, uint64_t from, uint64_t stop, struct ph_old_part *part)
{
    *part = (struct ph_old_part){0};
    for (uint64_t next; from < stop; from = next) {
        uint8_t value;
        next = same_until(ages, from, stop, &value);
        if (value == 0)
            continue;
        if (value == ages->interval) {
            if (part->units != 0)
                break;
            continue;
        }
        if (part->units == 0)
            part->start = from;
        part->stop = next;
        part->units += next - from;
    }
    return part->units != 0;
}

/* ph_ages_young_end -- the unit behind the last one of the free range [from, stop) that was freed in this interval. */
uint64_t ph_ages_young_end(const struct ph_ages *ages, uint64_t from, uint64_t stop)
{
    uint64_t end = from;
    for (uint64_t next; from < stop; from = next) {
        uint8_t value;
        next = same_until(ages, from, stop, &value);
        if (value == ages->interval)
            end = next;
    }
    return end;
}

/* ph_ages_part -- the unit behind those of the free range [from, stop) that became free in one interval; `age` counts the
 * intervals since then, -1 where nothing is behind the units. */
uint64_t ph_ages_part(const struct ph_ages *ages, uint64_t from, uint64_t stop, int64_t *age)
{
    uint8_t value, next;
    uint64_t end = same_until(ages, from, stop, &value), further;
    while (end < stop && (further = same_until(ages, end, stop, &next), next == value))
        end = further;
    *age = value == 0 ? -1 : value <= ages->interval ? ages->interval - value : ages->interval + UINT8_MAX - value;
    return end;
}
