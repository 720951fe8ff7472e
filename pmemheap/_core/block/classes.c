/* block/classes.c -- size classes: their geometry, and which of them serves a size. */
#include "block/block.h"

static void class_init(struct ph_class *c, uint32_t size, uint16_t run_units, const uint64_t *starts)
{
    c->current = c->partial = PH_NIL;
    c->granules = size >> PH_GRANULE_SHIFT;
    c->run_units = run_units;
    c->run_blocks = (uint16_t)(run_units * PH_UNIT_GRANULES / c->granules);
    c->starts = starts;
}

uint64_t ph_starts_words(const uint16_t *run_units, uint32_t count)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++)
        total += run_units[i];
    return total * PH_UNIT_WORDS;
}

void ph_starts_fill(uint64_t *starts, const uint32_t *sizes, const uint16_t *run_units, uint32_t count)
{
    for (uint32_t i = 0; i < count; starts += run_units[i++] * PH_UNIT_WORDS) {
        uint32_t step = sizes[i] >> PH_GRANULE_SHIFT, end = run_units[i] * PH_UNIT_GRANULES;
        for (uint32_t granule = 0; granule + step <= end; granule += step)
            starts[granule / 64] |= 1ULL << granule % 64;
    }
}

/* table[i] = first class that holds i * step bytes. */
static void fill_lookup(uint8_t *table, uint32_t length, uint32_t step, const uint32_t *sizes, uint32_t count)
{
    for (uint32_t i = 0, index = 0; i < length; i++) {
        while (index < count - 1 && sizes[index] < i * step)
            index++;
        table[i] = (uint8_t)index;
    }
}

int ph_classes_init(struct ph_heap *h, const uint32_t *sizes, const uint16_t *run_units, uint32_t count, const uint64_t *starts)
{
    if (count == 0 || count > PH_CLASSES_MAX || sizes[count - 1] > PH_ROW_MAX)
        return PH_H_CORRUPT;
    h->nclasses = count;
    h->small_max = sizes[count - 1] < PH_SMALL_MAX ? sizes[count - 1] : PH_SMALL_MAX;
    for (uint32_t i = 0; i < count; starts += run_units[i++] * PH_UNIT_WORDS)
        class_init(&h->classes[i], sizes[i], run_units[i], starts);
    fill_lookup(h->class_by_granule, sizeof h->class_by_granule, PH_GRANULE, sizes, count);
    fill_lookup(h->class_by_line, sizeof h->class_by_line, PH_LINE, sizes, count);
    return 0;
}

/* Whole units serve a size at least as well as its class does when they round it up no further. */
static int units_serve_better(const struct ph_class *c, uint64_t size)
{
    return size > PH_UNIT_BYTES / 2 && ph_units_for(size) * PH_UNIT_BYTES <= c->granules * PH_GRANULE;
}

int ph_class_of(const struct ph_heap *h, uint64_t size, uint64_t align)
{
    if (size > h->small_max || align > PH_UNIT_BYTES / 2)
        return -1;
    int index = size <= PH_BY_GRANULE_MAX ? h->class_by_granule[(size + PH_GRANULE - 1) / PH_GRANULE]
                                          : h->class_by_line[(size + PH_LINE - 1) / PH_LINE];
    if (PH_UNLIKELY(units_serve_better(&h->classes[index], size)))
        return -1;
    if (PH_LIKELY(align <= PH_GRANULE))
        return index;
    for (; index < (int)h->nclasses; index++)
        if (h->classes[index].granules * PH_GRANULE % align == 0)
            return index;
    return -1;
}
