/* py/heap_control.c -- what the Python half of a heap asks of the C core: its tables and state, and the public calls again,
 * which answer with a code here. */
#include "py/heap_calls.h"
#include "py/heap_doors.h"

static PyObject *configure(PyObject *object, PyObject *args)
{
    struct heap_object *self = (struct heap_object *)object;
    unsigned long long origin, file;
    PyObject *size_bytes, *unit_bytes;
    char *sizes, *units;
    Py_ssize_t sizes_length, units_length;

    if (!PyArg_ParseTuple(args, "SSKK", &size_bytes, &unit_bytes, &origin, &file)
        || PyBytes_AsStringAndSize(size_bytes, &sizes, &sizes_length) < 0
        || PyBytes_AsStringAndSize(unit_bytes, &units, &units_length) < 0)
        return NULL;
    if (sizes_length / 4 != units_length / 2)
        return PyErr_Format(PyExc_ValueError, "configure: as many run lengths as sizes expected");
    self->origin = origin;
    self->file = file;
    int failure = ph_heap_init(&self->heap, (const uint32_t *)sizes, (const uint16_t *)units,
                               (uint32_t)(sizes_length / 4));
    if (failure == PH_H_NOMEM)
        return PyErr_NoMemory();
    if (failure < 0)
        return PyErr_Format(PyExc_ValueError, "configure: ascending sizes up to %d expected", PH_SMALL_MAX);
    Py_RETURN_NONE;
}

static PyObject *attach(PyObject *object, PyObject *args)
{
    struct heap_object *self = (struct heap_object *)object;
    unsigned long long data, bits, entries, units;
    PyObject *keep, *old = self->keep;

    if (!PyArg_ParseTuple(args, "KKKKO", &data, &bits, &entries, &units, &keep))
        return NULL;
    self->heap.data = (uint8_t *)(uintptr_t)data;
    self->heap.bits = (uint64_t *)(uintptr_t)bits;
    self->heap.entries = (struct ph_entry *)(uintptr_t)entries;
    self->heap.units = (struct ph_unit *)(uintptr_t)units;
    self->keep = Py_NewRef(keep);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *set_bounds(PyObject *object, PyObject *args)
{
    struct ph_heap *h = core_of(object);
    unsigned long long first, end, scanned_to;

    if (!PyArg_ParseTuple(args, "KKK", &first, &end, &scanned_to))
        return NULL;
    ph_set_bounds(h, first, end, scanned_to);
    Py_RETURN_NONE;
}

/* Only the data is mapped: a heap without units, as far as the allocator is concerned. */
static PyObject *sleep_in(PyObject *object, PyObject *args)
{
    struct ph_heap *h = core_of(object);
    unsigned long long first, end;

    if (!PyArg_ParseTuple(args, "KK", &first, &end))
        return NULL;
    ph_set_bounds(h, 0, 0, 0);
    h->data_first = first;
    h->data_end = end;
    Py_RETURN_NONE;
}

static PyObject *get_bounds(PyObject *object, PyObject *ignored)
{
    const struct ph_heap *h = core_of(object);

    (void)ignored;
    return Py_BuildValue("KKKK", (unsigned long long)h->first_unit, (unsigned long long)h->end_unit,
                         (unsigned long long)h->scanned_to, (unsigned long long)h->recorded_to);
}

static PyObject *set_state(PyObject *object, PyObject *argument)
{
    struct heap_object *self = (struct heap_object *)object;
    long state = PyLong_AsLong(argument);

    if (state == -1 && PyErr_Occurred())
        return NULL;
    if (state != PH_S_CLOSED && (self->state == PH_S_LOST || self->state == PH_S_FORKED))
        Py_RETURN_NONE;
    self->state = (int)state;
    core_of(object)->readonly = state != PH_S_OPEN; /* also what is clean: nothing of it may change by being read */
    Py_RETURN_NONE;
}

static PyObject *get_state(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromLong(((struct heap_object *)object)->state);
}

/* A callback may have begun a transaction since the caller looked for open ones; another may be in its finalizer. */
static void end_transactions(struct heap_object *self)
{
    struct log_object *log = (struct log_object *)self->log;
    if (log != NULL && log->log.homes[0].heap == &self->heap)
        ph_tx_abort_all(log);
}

static void shut_one(struct heap_object *self)
{
    self->state = PH_S_CLOSED;
    self->heap.readonly = 1;
    ph_forget_bounds(&self->heap);
}

/* Close with all `others`, by their doors, unless views of any live, in one step that no other thread can split: nobody sees some of
 * them closed that stay open. From then on no table is read. */
static PyObject *shut(PyObject *object, PyObject *others)
{
    unsigned long long views = core_of(object)->refs.views;
    Py_ssize_t count = PyList_Size(others);
    struct heap_object *other;

    for (Py_ssize_t i = 0; i < count; i++) {
        if ((other = ph_heap_behind(PyList_GetItem(others, i))) == NULL)
            return NULL;
        views += other->heap.refs.views;
    }
    if (count < 0)
        return NULL;
    if (views != 0)
        return PyLong_FromUnsignedLongLong(views);
    for (Py_ssize_t i = 0; i < count; i++)
        ph_heap_behind(PyList_GetItem(others, i))->state = PH_S_CLOSED;
    ((struct heap_object *)object)->state = PH_S_CLOSED;
    end_transactions((struct heap_object *)object);
    for (Py_ssize_t i = 0; i < count; i++)
        shut_one(ph_heap_behind(PyList_GetItem(others, i)));
    shut_one((struct heap_object *)object);
    return PyLong_FromLong(0);
}

/* Close, unless anybody uses a block, in the same way; it can be opened again. */
static PyObject *shut_unused(PyObject *object, PyObject *ignored)
{
    struct ph_heap *h = core_of(object);

    (void)ignored;
    if (h->refs.views != 0 || h->refs.pins != 0 || h->withheld.reserved_blocks != 0)
        Py_RETURN_FALSE;
    ((struct heap_object *)object)->state = PH_S_CLOSED;
    h->readonly = 1;
    Py_RETURN_TRUE;
}

static PyObject *upkeep_if_due(PyObject *object, PyObject *ignored)
{
    struct heap_object *self = (struct heap_object *)object;
    uint32_t until_look = self->heap.until_look;

    (void)ignored;
    int failed = ph_look(self);
    self->heap.until_look = until_look;
    if (failed < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *append_pending(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    if (ph_append_pending(heap_of(object)) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *try_malloc(PyObject *object, PyObject *args)
{
    unsigned long long size, align;

    if (!PyArg_ParseTuple(args, "KK", &size, &align))
        return NULL;
    return offset_from(object, ph_malloc(core_of(object), size, align));
}

static PyObject *try_realloc(PyObject *object, PyObject *args)
{
    unsigned long long offset, size;

    if (!PyArg_ParseTuple(args, "KK", &offset, &size))
        return NULL;
    return offset_from(object, ph_realloc(core_of(object), ph_inner((struct heap_object *)object, offset), size));
}

static PyObject *try_expand(PyObject *object, PyObject *args)
{
    unsigned long long offset, size;

    if (!PyArg_ParseTuple(args, "KK", &offset, &size))
        return NULL;
    return PyLong_FromLong(ph_expand(core_of(object), ph_inner((struct heap_object *)object, offset), size));
}

static PyObject *try_free(PyObject *object, PyObject *args)
{
    unsigned long long offset;
    int deferred;

    if (!PyArg_ParseTuple(args, "Kp", &offset, &deferred))
        return NULL;
    uint64_t inner = ph_inner((struct heap_object *)object, offset);
    return PyLong_FromLong(deferred ? ph_free_deferred(core_of(object), inner) : ph_free(core_of(object), inner));
}

static PyObject *free_refusal(PyObject *object, PyObject *argument)
{
    uint64_t offset = read_inner(object, argument);

    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromLong(ph_free_refusal(core_of(object), offset));
}

static PyObject *set_durability(PyObject *object, PyObject *argument)
{
    long durability = PyLong_AsLong(argument);

    if (durability == -1 && PyErr_Occurred())
        return NULL;
    ph_set_journal(core_of(object), (enum ph_durability)durability);
    Py_RETURN_NONE;
}

PyMethodDef ph_control_methods[] = {
    {"configure", configure, METH_VARARGS, "Set the size classes, what offsets begin with, and the number of the file; forgets all."},
    {"attach", attach, METH_VARARGS, "Set the virtual bases of the four tables, and who keeps them mapped."},
    {"set_bounds", set_bounds, METH_VARARGS, "Set first_unit, end_unit and scanned_to."},
    {"sleep_in", sleep_in, METH_VARARGS, "Have no units but the data of these, until _set_bounds is called."},
    {"bounds", get_bounds, METH_NOARGS, "(first_unit, end_unit, scanned_to, recorded_to)."},
    {"set_state", set_state, METH_O, "Set what the public calls may do."},
    {"state", get_state, METH_NOARGS, "What the public calls may do."},
    {"shut", shut, METH_O, "Close, with a list of others, unless views of any live; how many do."},
    {"shut_unused", shut_unused, METH_NOARGS, "Close unless blocks are viewed, pinned or reserved; tell whether."},
    {"upkeep_if_due", upkeep_if_due, METH_NOARGS, "Look at the clock, and have what is due done."},
    {"append_pending", append_pending, METH_NOARGS, "Append what was changed since the last record."},
    {"try_malloc", try_malloc, METH_VARARGS, "Offset, or a negative code."},
    {"try_realloc", try_realloc, METH_VARARGS, "Offset, or a negative code."},
    {"try_expand", try_expand, METH_VARARGS, "0, or a negative code."},
    {"try_free", try_free, METH_VARARGS, "0, or a negative code."},
    {"free_refusal", free_refusal, METH_O, "0, or the code with which free would refuse."},
    {"set_durability", set_durability, METH_O, "What a change outlives, of enum ph_durability."},
    {NULL, NULL, 0, NULL},
};
