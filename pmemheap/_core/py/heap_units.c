/* py/heap_units.c -- units, on their way between the C core and the extents of Python; their ages; reading on. */
#include "py/heap_doors.h"

static PyObject *large_make(PyObject *object, PyObject *args)
{
    unsigned long long unit, nunits, nbytes;

    if (!PyArg_ParseTuple(args, "KKK", &unit, &nunits, &nbytes))
        return NULL;
    if (ph_journal_reserve(core_of(object), 2, 0) < 0)
        return PyErr_NoMemory();
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

static PyObject *donate(PyObject *object, PyObject *args)
{
    unsigned long long start, nunits;
    int never_used;

    if (!PyArg_ParseTuple(args, "KKp", &start, &nunits, &never_used))
        return NULL;
    ph_donate(core_of(object), start, nunits, never_used);
    Py_RETURN_NONE;
}

static int append_range(PyObject *list, uint64_t start, uint64_t nunits, uint64_t some)
{
    PyObject *range = Py_BuildValue("KKK", (unsigned long long)start, (unsigned long long)nunits, (unsigned long long)some);
    int result = range == NULL ? -1 : PyList_Append(list, range);
    Py_XDECREF(range);
    return result;
}

static PyObject *reclaim(PyObject *object, PyObject *argument)
{
    unsigned long long at_least = PyLong_AsUnsignedLongLong(argument);
    uint64_t start = 0, nunits = 0;

    if (PyErr_Occurred())
        return NULL;
    int found = ph_reclaim(core_of(object), at_least, &start, &nunits);
    return range_or_none(found, start, nunits);
}

static PyObject *reclaim_range(PyObject *object, PyObject *argument)
{
    unsigned long long start = PyLong_AsUnsignedLongLong(argument);

    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromUnsignedLongLong(ph_reclaim_range(core_of(object), start));
}

/* [(first unit, units, old ones among them), ...] of the pool's free ranges with units that are old. */
static PyObject *old_pool(PyObject *object, PyObject *ignored)
{
    const struct ph_heap *h = core_of(object);
    uint32_t bin = 0, node = PH_NIL;
    uint64_t start, nunits;

    (void)ignored;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    while (list != NULL && ph_pool_next(h, &bin, &node, &start, &nunits)) {
        struct ph_old_part part;
        uint64_t old = 0;
        for (uint64_t from = start; ph_ages_old(&h->ages, from, start + nunits, &part); from = part.stop)
            old += part.units;
        if (old != 0 && append_range(list, start, nunits, old) < 0)
            Py_CLEAR(list);
    }
    ph_let_collector(held);
    return list;
}

/* [(first unit, units, old ones among them), ...] of the parts of a free range that are old. */
static PyObject *old_parts(PyObject *object, PyObject *args)
{
    unsigned long long start, nunits;
    struct ph_old_part part;

    if (!PyArg_ParseTuple(args, "KK", &start, &nunits))
        return NULL;
    const struct ph_ages *ages = &core_of(object)->ages;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    for (uint64_t from = start; list != NULL && ph_ages_old(ages, from, start + nunits, &part); from = part.stop)
        if (append_range(list, part.start, part.stop - part.start, part.units) < 0)
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

static PyObject *given_back(PyObject *object, PyObject *args)
{
    unsigned long long start, nunits;

    if (!PyArg_ParseTuple(args, "KK", &start, &nunits))
        return NULL;
    ph_ages_given_back(&core_of(object)->ages, start, nunits);
    Py_RETURN_NONE;
}

static PyObject *next_interval(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    ph_ages_next(&core_of(object)->ages);
    Py_RETURN_NONE;
}

static PyObject *pop_returned(PyObject *object, PyObject *ignored)
{
    uint64_t start = 0, nunits = 0;

    (void)ignored;
    int found = ph_returned_pop(core_of(object), &start, &nunits);
    return range_or_none(found, start, nunits);
}

static PyObject *release_idle_runs(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyBool_FromLong(ph_release_idle_runs(core_of(object)));
}

static PyObject *release_empties(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyBool_FromLong(ph_release_empties(core_of(object)));
}

enum { GAPS = 256 };

/* [(start, nunits), ...]; None when an entry is impossible: `scanned_to` stands at its unit. */
static PyObject *scan_step(PyObject *object, PyObject *args)
{
    unsigned long long budget, pool_below;
    struct ph_gap gaps[GAPS];
    struct ph_heap *h = core_of(object);

    if (!PyArg_ParseTuple(args, "KK", &budget, &pool_below))
        return NULL;
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

static PyObject *freed_units(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(core_of(object)->freed_units);
}

static PyObject *reserve_large(PyObject *object, PyObject *args)
{
    unsigned long long unit, nunits, nbytes;

    if (!PyArg_ParseTuple(args, "KKK", &unit, &nunits, &nbytes))
        return NULL;
    ph_reserve_large(core_of(object), unit, nunits, nbytes);
    return offset_from(object, (int64_t)(unit << PH_UNIT_SHIFT));
}

PyMethodDef ph_unit_methods[] = {
    {"large_make", large_make, METH_VARARGS, "Describe units of nobody as one large block; its offset."},
    {"large_extend", large_extend, METH_VARARGS, "Append the pool's units and those given to a block; False if it is too late."},
    {"room_after", room_after, METH_O, "Free units of the pool from a unit on."},
    {"donate", donate, METH_VARARGS, "Give units to the pool."},
    {"reclaim", reclaim, METH_O, "Take a range of at least so many units out of the pool."},
    {"reclaim_range", reclaim_range, METH_O, "Take the free range that begins at a unit; its length, 0 if none."},
    {"old_pool", old_pool, METH_NOARGS, "The free ranges of the pool with units that were freed before this interval."},
    {"old_parts", old_parts, METH_VARARGS, "The parts of a free range that were freed before this interval."},
    {"young_end", young_end, METH_VARARGS, "The unit behind the last one of a range that was freed in this interval."},
    {"given_back", given_back, METH_VARARGS, "Note that nothing is behind free units any more."},
    {"next_interval", next_interval, METH_NOARGS, "Begin another interval of decay."},
    {"pop_returned", pop_returned, METH_NOARGS, "Take the extent that was freed last."},
    {"release_idle_runs", release_idle_runs, METH_NOARGS, "Give back the empty runs that were read; tell whether there were any."},
    {"release_empties", release_empties, METH_NOARGS, "Give the empty runs that classes keep to the pool."},
    {"freed_units", freed_units, METH_NOARGS, "Units that were given back to the pool or to Python since open."},
    {"scan_step", scan_step, METH_VARARGS, "Read on in the entries; gaps for the extents, None at damage."},
    {"adopt_step", adopt_step, METH_O, "Make records of what is only described by entries; False at the end."},
    {"reserve_large", reserve_large, METH_VARARGS, "The same of units of nobody: first, number, bytes."},
    {NULL, NULL, 0, NULL},
};
