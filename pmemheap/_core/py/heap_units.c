/* py/heap_units.c -- units, on their way between the C core and the extents of Python; their ages; reading on. Many ranges
 * cross in one call, as a list of (first unit, units). */
#include "py/heap_doors.h"

static PyObject *large_make(PyObject *object, PyObject *args)
{
    unsigned long long unit, nunits, nbytes;
    int reserved;

    if (!PyArg_ParseTuple(args, "KKKp", &unit, &nunits, &nbytes, &reserved))
        return NULL;
    if (reserved)
        ph_reserve_large(core_of(object), unit, nunits, nbytes);
    else if (ph_journal_reserve(core_of(object), 2, 0) < 0)
        return PyErr_NoMemory();
    else
        ph_large_make(core_of(object), unit, nunits, nbytes);
    return offset_from(object, (int64_t)(unit << PH_UNIT_SHIFT));
}

static PyObject *large_extend(PyObject *object, PyObject *args)
{
    unsigned long long offset, start, stop, nbytes;

    if (!PyArg_ParseTuple(args, "KKKK", &offset, &start, &stop, &nbytes))
        return NULL;
    return PyBool_FromLong(ph_large_extend(core_of(object), ph_inner((struct heap_object *)object, offset), start, stop, nbytes));
}

static PyObject *room_after(PyObject *object, PyObject *argument)
{
    unsigned long long unit = PyLong_AsUnsignedLongLong(argument);

    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromUnsignedLongLong(ph_room_after(core_of(object), unit));
}

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

static int append_new(PyObject *list, PyObject *item)
{
    int result = item == NULL ? -1 : PyList_Append(list, item);
    Py_XDECREF(item);
    return result;
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
            && append_new(list, range_or_none(1, start, nunits)) < 0)
            Py_CLEAR(list);
    if (list != NULL && !only_old && wild >= at_least && append_new(list, range_or_none(1, h->wilderness, wild)) < 0)
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

static PyObject *allocate_units(PyObject *object, PyObject *args)
{
    unsigned long long at_least;
    int only_old;

    if (!PyArg_ParseTuple(args, "Kp", &at_least, &only_old))
        return NULL;
    if (at_least == 1 && !only_old) /* all of it */
        ph_release_empties(core_of(object));
    return take_pool(core_of(object), at_least, only_old);
}

static PyObject *take_returned(PyObject *object, PyObject *ignored)
{
    struct ph_heap *h = core_of(object);
    uint64_t start, nunits;

    (void)ignored;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    if (h->scanned_to >= h->end_unit) { /* else the scan would find them once more */
        for (uint32_t node = h->returned; list != NULL && node != PH_NIL; node = ph_unit_at(h, node)->sibling)
            if (append_new(list, range_or_none(1, ph_unit_index(h, node), ph_unit_at(h, node)->nunits)) < 0)
                Py_CLEAR(list);
        while (list != NULL && ph_returned_pop(h, &start, &nunits))
            continue;
    }
    ph_let_collector(held);
    return list;
}

/* Append (first unit, units, old ones among them) of each part of a free range that is old. */
static int append_old(PyObject *list, const struct ph_ages *ages, uint64_t start, uint64_t nunits)
{
    struct ph_old_part part;

    for (uint64_t from = start; ph_ages_old(ages, from, start + nunits, &part); from = part.stop)
        if (append_new(list, Py_BuildValue("KKK", (unsigned long long)part.start, (unsigned long long)(part.stop - part.start),
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

static PyObject *young_end(PyObject *object, PyObject *args)
{
    unsigned long long start, nunits;

    if (!PyArg_ParseTuple(args, "KK", &start, &nunits))
        return NULL;
    return PyLong_FromUnsignedLongLong(ph_ages_young_end(&core_of(object)->ages, start, start + nunits));
}

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

static PyObject *next_interval(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    ph_ages_next(&core_of(object)->ages);
    Py_RETURN_NONE;
}

enum { GAPS = 256 };

/* Read on: [(first unit, units), ...] of gaps; None when an entry is impossible, at whose unit `scanned_to` stands then. */
static PyObject *scan_step(struct ph_heap *h, uint64_t budget, uint64_t pool_below)
{
    struct ph_gap gaps[GAPS];
    int64_t count = ph_scan_step(h, budget, pool_below, gaps, GAPS);

    if (count < 0)
        Py_RETURN_NONE;
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (int64_t i = 0; list != NULL && i < count; i++) {
        PyObject *range = range_or_none(1, gaps[i].start, gaps[i].nunits);
        if (range == NULL || PyList_SetItem(list, (Py_ssize_t)i, range) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/* What was not known to be free: gaps between the entries, then the runs without a block that were read, then what the pool
 * has of at least `at_least` units, if that is not 0. False when there is nothing more. */
static PyObject *find_units(PyObject *object, PyObject *args)
{
    unsigned long long budget, pool_below, at_least;
    struct ph_heap *h = core_of(object);

    if (!PyArg_ParseTuple(args, "KKK", &budget, &pool_below, &at_least))
        return NULL;
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

/* Whether there was something left to adopt; None when an entry is impossible. */
static PyObject *adopt_step(PyObject *object, PyObject *argument)
{
    unsigned long long budget = PyLong_AsUnsignedLongLong(argument);

    if (PyErr_Occurred())
        return NULL;
    int adopted = ph_adopt_step(core_of(object), budget);
    if (adopted < 0)
        Py_RETURN_NONE;
    return PyBool_FromLong(adopted);
}

PyMethodDef ph_unit_methods[] = {
    {"large_make", large_make, METH_VARARGS, "Describe units of nobody as one large block, live or reserved; its offset."},
    {"large_extend", large_extend, METH_VARARGS, "Append the pool's units and those given to a block; False if it is too late."},
    {"room_after", room_after, METH_O, "Free units of the pool from a unit on."},
    {"deallocate_units", deallocate_units, METH_VARARGS, "Give ranges to the pool; with True, the last one was never used."},
    {"allocate_units", allocate_units, METH_VARARGS, "Take ranges of at least so many units, or the old ones, from the pool."},
    {"take_returned", take_returned, METH_NOARGS, "Take the ranges that were freed, the last one first; none before all is read."},
    {"find_units", find_units, METH_VARARGS, "Ranges that were not known to be free; False when there are no more, None at damage."},
    {"adopt_step", adopt_step, METH_O, "Make records of what is only described by entries; False at the end."},
    {"old_parts", old_parts, METH_O, "The parts of free ranges, or of the pool's, that were freed before this interval."},
    {"young_end", young_end, METH_VARARGS, "The unit behind the last one of a range that was freed in this interval."},
    {"given_back", given_back, METH_O, "Note that nothing is behind the units of ranges any more."},
    {"next_interval", next_interval, METH_NOARGS, "Begin another interval of decay."},
    {NULL, NULL, 0, NULL},
};
