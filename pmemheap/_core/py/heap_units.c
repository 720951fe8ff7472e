/* py/heap_units.c -- units, on their way between the C core and the extents of Python; their ages; reading on. Many ranges
 * cross in one call, as a list of (first unit, units). */
#include "py/heap_doors.h"

static PyObject *make_large(struct heap_object *self, uint64_t unit, uint64_t nunits, uint64_t nbytes, int reserved)
{
    if (reserved)
        ph_reserve_large(&self->heap, unit, nunits, nbytes);
    else if (ph_journal_reserve(&self->heap, 2, 0) < 0)
        return PyErr_NoMemory();
    else
        ph_large_make(&self->heap, unit, nunits, nbytes);
    return offset_from((PyObject *)self, (int64_t)(unit << PH_UNIT_SHIFT));
}

DOOR(large_make, heap_object, 4, make_large(self, n[0], n[1], n[2], n[3] != 0))

DOOR(large_extend, heap_object, 4, truth(ph_large_extend(&self->heap, ph_inner(self, n[0]), n[1], n[2], n[3])))

/* The range at an index of a list of (first unit, units); -1 with an exception set if there is none. */
static int range_at(PyObject *list, Py_ssize_t index, uint64_t *start, uint64_t *nunits)
{
    unsigned long long first, count;
    PyObject *range = PyList_GetItem(list, index);

    if (range == NULL || !PyArg_ParseTuple(range, "KK", &first, &count))
        return -1;
    *start = first;
    *nunits = count;
    return 0;
}

static PyObject *deallocate_units(PyObject *object, PyObject *args)
{
    struct ph_heap *h = core_of(object);
    PyObject *ranges;
    int never_used;

    if (!PyArg_ParseTuple(args, "Op", &ranges, &never_used))
        return NULL;
    Py_ssize_t count = PyList_Size(ranges);
    for (Py_ssize_t i = 0; i < count; i++) {
        uint64_t start, nunits;
        if (range_at(ranges, i, &start, &nunits) < 0)
            return NULL;
        if (never_used && i == count - 1)
            ph_wilderness_give(h, start, nunits);
        else
            ph_pool_give(h, start, nunits);
    }
    if (count < 0)
        return NULL;
    Py_RETURN_NONE;
}

static int is_old(const struct ph_heap *h, uint64_t start, uint64_t nunits)
{
    struct ph_old_part part;

    return ph_ages_old(&h->ages, start, start + nunits, &part);
}

/* The free ranges of the pool, by address: all of at least so many units, or those of them with units that are old. What
 * lies beyond `scanned_to` is none of them: the scan would find it once more. */
static PyObject *pool_ranges(const struct ph_heap *h, uint64_t at_least, int only_old)
{
    uint32_t bin = ph_bin_of(at_least), node = PH_NIL;
    uint64_t start, nunits, wild = h->wilderness_end - h->wilderness;
    PyObject *list = PyList_New(0);

    PH_ASSERT(at_least != 0);
    while (list != NULL && ph_pool_next(h, &bin, &node, &start, &nunits))
        if (nunits >= at_least && start < h->scanned_to && (!only_old || is_old(h, start, nunits))
            && ph_append_new(list, pair(start, nunits)) < 0)
            Py_CLEAR(list);
    if (list != NULL && !only_old && wild >= at_least && ph_append_new(list, pair(h->wilderness, wild)) < 0)
        Py_CLEAR(list);
    if (list != NULL && PyList_Sort(list) < 0)
        Py_CLEAR(list);
    return list;
}

/* Take ranges out of the pool: all of them, or none with an exception set. */
static PyObject *take_pool(struct ph_heap *h, uint64_t at_least, int only_old)
{
    int held = ph_hold_collector();
    PyObject *list = pool_ranges(h, at_least, only_old);
    uint64_t start, nunits;

    for (Py_ssize_t i = 0; list != NULL && i < PyList_Size(list); i++)
        if (range_at(list, i, &start, &nunits) == 0)
            ph_pool_take_range(h, start);
    ph_let_collector(held);
    return list;
}

/* Take the ranges that were freed, the last one first; none before all is read, or the scan would find them once more. */
static PyObject *take_returned(struct ph_heap *h)
{
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    uint64_t start, nunits;

    if (h->scanned_to >= h->end_unit) {
        for (uint32_t node = h->returned; list != NULL && node != PH_NIL; node = ph_unit_at(h, node)->sibling)
            if (ph_append_new(list, pair(ph_unit_index(h, node), ph_unit_at(h, node)->nunits)) < 0)
                Py_CLEAR(list);
        while (list != NULL && ph_returned_pop(h, &start, &nunits))
            continue;
    }
    ph_let_collector(held);
    return list;
}

static PyObject *take_units(struct ph_heap *h, uint64_t which)
{
    if (which == PH_TAKE_RETURNED)
        return take_returned(h);
    if (which == PH_TAKE_ALL) {
        ph_array_drop_spares(h);
        ph_release_empties(h);
        ph_rows_cut(h);
        ph_placed_release(h);
    }
    return take_pool(h, 1, which == PH_TAKE_OLD);
}

DOOR(allocate_units, heap_object, 1, take_units(&self->heap, n[0]))

/* Append (first unit, units, old ones among them) of each part of a free range that is old. */
static int append_old(PyObject *list, const struct ph_ages *ages, uint64_t start, uint64_t nunits)
{
    struct ph_old_part part;

    for (uint64_t from = start; ph_ages_old(ages, from, start + nunits, &part); from = part.stop)
        if (ph_append_new(list, Py_BuildValue("KKK", (unsigned long long)part.start, (unsigned long long)(part.stop - part.start),
                                           (unsigned long long)part.units)) < 0)
            return -1;
    return 0;
}

static PyObject *old_parts(PyObject *object, PyObject *ranges)
{
    const struct ph_heap *h = core_of(object);
    Py_ssize_t count = ranges == Py_None ? 0 : PyList_Size(ranges);
    uint32_t bin = 0, node = PH_NIL;
    uint64_t start, nunits;

    if (count < 0)
        return NULL;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    while (list != NULL && ranges == Py_None && ph_pool_next(h, &bin, &node, &start, &nunits))
        if (start < h->scanned_to && append_old(list, &h->ages, start, nunits) < 0)
            Py_CLEAR(list);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++)
        if (range_at(ranges, i, &start, &nunits) < 0 || append_old(list, &h->ages, start, nunits) < 0)
            Py_CLEAR(list);
    ph_let_collector(held);
    return list;
}

DOOR(young_end, heap_object, 2, number(ph_ages_young_end(&self->heap.ages, n[0], n[0] + n[1])))

static PyObject *given_back(PyObject *object, PyObject *ranges)
{
    Py_ssize_t count = PyList_Size(ranges);
    uint64_t start, nunits;

    for (Py_ssize_t i = 0; i < count; i++) {
        if (range_at(ranges, i, &start, &nunits) < 0)
            return NULL;
        ph_ages_given_back(&core_of(object)->ages, start, nunits);
    }
    if (count < 0)
        return NULL;
    Py_RETURN_NONE;
}

static void set_shown(struct ph_heap *h, int shown)
{
    if (shown)
        h->is_shown = 1;
    else
        ph_end_shown(h);
}

DOOR(set_is_shown, heap_object, 1, set_shown(&self->heap, n[0] != 0), done())

DOOR(next_interval, heap_object, 0, ph_ages_next(&self->heap.ages), done())

enum { GAPS = 256 };

/* Read on: [(first unit, units), ...] of gaps; None when an entry is impossible, at whose unit `scanned_to` stands then. */
static PyObject *scan_step(struct ph_heap *h, uint64_t budget, uint64_t pool_below)
{
    struct ph_gap gaps[GAPS];
    int64_t count = ph_scan_step(h, budget, pool_below, gaps, GAPS);

    if (count < 0)
        Py_RETURN_NONE;
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list != NULL && i < count; i++)
        if (ph_append_new(list, pair(gaps[i].start, gaps[i].nunits)) < 0)
            Py_CLEAR(list);
    return list;
}

/* What was not known to be free: gaps between the entries, then the runs without a block that were read, then what the pool
 * has of at least `at_least` units, if that is not 0. False when there is nothing more. */
static PyObject *found_units(struct ph_heap *h, uint64_t budget, uint64_t pool_below, uint64_t at_least)
{
    if (h->scanned_to < h->end_unit)
        return scan_step(h, budget, pool_below);
    if (ph_release_idle_runs(h))
        return PyList_New(0);
    PyObject *list = at_least == 0 ? PyList_New(0) : take_pool(h, at_least, 0);
    if (list == NULL || PyList_Size(list) != 0)
        return list;
    Py_DECREF(list);
    Py_RETURN_FALSE;
}

DOOR(find_units, heap_object, 3, found_units(&self->heap, n[0], n[1], n[2]))

/* Whether there was something left to adopt; None when an entry is impossible. */
static PyObject *adopted(int result)
{
    return result < 0 ? done() : truth(result);
}

DOOR(adopt_step, heap_object, 1, adopted(ph_adopt_step(&self->heap, n[0])))

PyMethodDef ph_unit_methods[] = {
    AS_METHOD("large_make", large_make, "Describe units of nobody as one large block, live or reserved; its offset."),
    AS_METHOD("large_extend", large_extend, "Append the pool's units and those given to a block; False if it is too late."),
    {"deallocate_units", deallocate_units, METH_VARARGS, "Give ranges to the pool; with True, the last one was never used."},
    AS_METHOD("allocate_units", allocate_units, "Take free ranges: which, of enum ph_taken."),
    AS_METHOD("find_units", find_units, "Ranges that were not known to be free; False when there are no more, None at damage."),
    AS_METHOD("adopt_step", adopt_step, "Make records of what is only described by entries; False at the end."),
    {"old_parts", old_parts, METH_O, "The parts of free ranges, or of the pool's, that were freed before this interval."},
    AS_METHOD("young_end", young_end, "The unit behind the last one of a range that was freed in this interval."),
    {"given_back", given_back, METH_O, "Note that nothing is behind the units of ranges any more."},
    AS_METHOD("set_is_shown", set_is_shown, "Say whether snapshots of others may show what is free, and so is not to be used."),
    AS_METHOD("next_interval", next_interval, "Begin another interval of decay."),
    {NULL, NULL, 0, NULL},
};
