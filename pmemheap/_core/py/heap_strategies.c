/* py/heap_strategies.c -- which strategy an arena has, and the calls that only some have: the oldest block of a ring, all rows. */
#include "os/os.h"
#include "py/door.h"
#include "py/heap_calls.h"

PyDoc_STRVAR(oldest_doc,
"_oldest($self, /)\n--\n\n"
"Return the offset of the oldest live block, None if there is none. O(1) where blocks go in the order in which they came.\n\n"
"Raises\n------\nUsageError\n    The heap is closed or forked.");

/* The offset of the oldest block of a ring; None: there is none. */
static PyObject *own_oldest(PyObject *object, PyObject *ignored)
{
    struct heap_object *self = heap_of(object);

    (void)ignored;
    if (ph_tick(self) < 0)
        return NULL;
    if (!ph_may_ask(self))
        return ph_call_slow(object, ph_slow.oldest, NULL, NULL, NULL);
    int64_t inner = ph_ring_oldest(&self->heap);
    if (inner < 0)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(ph_outer(self, (uint64_t)inner));
}

/* A view of all rows, which pins their table; None: there is none. */
static PyObject *table(PyObject *object, PyObject *ignored)
{
    struct heap_object *self = heap_of(object);
    struct ph_gap units = ph_rows_range(&self->heap);

    (void)ignored;
    if (!ph_may_ask(self) || units.nunits == 0)
        Py_RETURN_NONE;
    const struct ph_block all = {&self->heap, NULL, ph_rows_key(&self->heap), PH_B_LIVE};
    return ph_block_part(self, &all, (units.start << PH_UNIT_SHIFT) - all.offset, units.nunits << PH_UNIT_SHIFT, 0);
}

/* (offset of row 0, rows); zeros where there are none. */
static PyObject *table_range(PyObject *object, PyObject *ignored)
{
    struct heap_object *self = heap_of(object);
    struct ph_gap units = ph_rows_range(&self->heap);

    (void)ignored;
    if (units.nunits == 0)
        return Py_BuildValue("KK", 0ULL, 0ULL);
    return Py_BuildValue("KK", (unsigned long long)ph_outer(self, units.start << PH_UNIT_SHIFT),
                         (unsigned long long)(units.nunits * PH_UNIT_GRANULES / self->heap.classes[0].granules));
}

/* Give back the pages of runs of rows in which none is in use; of none while somebody looks at the whole table. The GIL is kept:
 * nobody gets a row of them meanwhile. 0 or a negated errno. */
static int64_t give_rows_back(struct ph_heap *h)
{
    struct ph_gap units = ph_rows_range(h);
    uint64_t run = h->classes[0].run_units, stop = ph_rows_are_viewed(h) ? units.start : units.start + units.nunits;
    int64_t failure = 0;

    for (uint64_t head = units.start; head < stop && failure == 0; head += run)
        if (h->units[head].state == PH_U_RUN && ph_run_occupied(&h->units[head]) == 0)
            failure = ph_advise((uint64_t)(uintptr_t)(h->data + (head << PH_UNIT_SHIFT)), run << PH_UNIT_SHIFT, PH_ADVISE_DONTNEED);
    return failure;
}

DOOR(give_idle_rows_back, heap_object, 0, code(give_rows_back(&self->heap)))

/* The words of the bits table for all rows: a bit a granule, set where a live row begins. */
static PyObject *table_bits(PyObject *object, PyObject *ignored)
{
    const struct ph_heap *h = &heap_of(object)->heap;
    struct ph_gap units = ph_rows_range(h);

    (void)ignored;
    if (!ph_may_ask(heap_of(object)) || units.nunits == 0)
        return PyBytes_FromStringAndSize("", 0);
    return PyBytes_FromStringAndSize((const char *)&h->bits[units.start * PH_UNIT_WORDS],
                                     (Py_ssize_t)(units.nunits * PH_UNIT_WORDS * sizeof *h->bits));
}

/* An arena without a block gets its strategy. */
static int begin_strategy(struct ph_heap *h, uint64_t strategy, uint64_t granules)
{
    if (strategy == PH_STRATEGY_RING)
        ph_ring_begin(h);
    if (strategy == PH_STRATEGY_PLACED)
        ph_placed_begin(h);
    return strategy == PH_STRATEGY_ROWS ? ph_rows_begin(h, (uint32_t)granules) : 0;
}

DOOR(gather_ring, heap_object, 0, (ph_ring_gather(&self->heap), done()))
DOOR(set_strategy, heap_object, 2, begin_strategy(&self->heap, n[0], n[1]) < 0 ? PyErr_NoMemory() : done())

PyMethodDef ph_strategy_doors[] = {
    AS_METHOD("set_strategy", set_strategy, "Give an arena without a block its strategy, of enum ph_strategy, and the granules of a row."),
    AS_METHOD("gather_ring", gather_ring, "Bring what was read of a ring into its order."),
    AS_METHOD("give_idle_rows_back", give_idle_rows_back, "Give back the pages of runs of rows in which none is in use; 0, or a negated errno."),
    {NULL, NULL, 0, NULL},
};

PyMethodDef ph_strategy_methods[] = {
    {"_oldest", own_oldest, METH_NOARGS, oldest_doc},
    {"_table", table, METH_NOARGS, "A view of all rows, which pins their table; None: there is none."},
    {"_table_range", table_range, METH_NOARGS, "The offset of row 0, and how many rows there are."},
    {"_table_bits", table_bits, METH_NOARGS, "The words of the bits table for all rows."},
    {NULL, NULL, 0, NULL},
};
