/* py/heap_control.c -- what the Python half of a heap asks of the C core: its tables and state, and the public calls again,
 * which answer with a code here. */
#include "py/heap_calls.h"
#include "py/heap_doors.h"
#include "py/layers.h"

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

DOOR(set_bounds, heap_object, 3, ph_set_bounds(&self->heap, n[0], n[1], n[2]), done())

/* Only the data is mapped: a heap without units, as far as the allocator is concerned. */
DOOR(sleep_in, heap_object, 2,
     ph_set_bounds(&self->heap, 0, 0, 0), self->heap.data_first = n[0], self->heap.data_end = n[1], done())

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

/* Views of blocks of a heap and of all `others`, by their doors; -1 with an exception set. */
static int64_t views_of_all(struct heap_object *self, PyObject *others)
{
    int64_t views = (int64_t)self->heap.refs.views;
    Py_ssize_t count = PyList_Size(others);
    struct heap_object *other;

    for (Py_ssize_t i = 0; i < count; i++) {
        if ((other = ph_heap_behind(PyList_GetItem(others, i))) == NULL)
            return -1;
        views += (int64_t)other->heap.refs.views;
    }
    return count < 0 ? -1 : views;
}

/* Those of which views_of_all has told. */
static void for_all(struct heap_object *self, PyObject *others, void (*act)(struct heap_object *))
{
    act(self);
    for (Py_ssize_t i = 0; i < PyList_Size(others); i++)
        act(ph_heap_behind(PyList_GetItem(others, i)));
}

static void close_one(struct heap_object *self)
{
    self->state = PH_S_CLOSED;
}

/* Close with all others, unless views of any live, in one step that no other thread can split: nobody sees some of them closed
 * that stay open. From then on no table is read. */
static PyObject *shut(PyObject *object, PyObject *others)
{
    struct heap_object *self = (struct heap_object *)object;
    int64_t views = views_of_all(self, others);

    if (views < 0)
        return NULL;
    if (views == 0) {
        for_all(self, others, close_one);
        end_transactions(self);
        for_all(self, others, shut_one);
    }
    return PyLong_FromLongLong(views);
}

static void rest_one(struct heap_object *self)
{
    if (self->state != PH_S_OPEN) /* lost, or an arena that was dropped */
        return;
    self->state = PH_S_CLEAN;
    self->heap.readonly = 1;
}

/* Let an open heap be clean, with all others, unless views live, through which it may be changed unnoticed, or a transaction is
 * open, in one step as well; whether it is. */
static PyObject *come_to_rest(PyObject *object, PyObject *others)
{
    struct heap_object *self = (struct heap_object *)object;
    int64_t views = views_of_all(self, others);

    if (views < 0)
        return NULL;
    if (views != 0 || self->state != PH_S_OPEN || ph_tx_is_open((struct log_object *)self->log))
        Py_RETURN_FALSE;
    for_all(self, others, rest_one);
    Py_RETURN_TRUE;
}

/* Close, unless anybody uses a block, in the same way; it can be opened again. */
static int is_shut_unused(struct heap_object *self)
{
    struct ph_heap *h = &self->heap;

    if (h->refs.views != 0 || h->refs.pins != 0 || h->withheld.reserved_blocks != 0)
        return 0;
    self->state = PH_S_CLOSED;
    h->readonly = 1;
    return 1;
}

DOOR(shut_unused, heap_object, 0, truth(is_shut_unused(self)))

static int look_once_more(struct heap_object *self)
{
    uint32_t until_look = self->heap.until_look;
    int failed = ph_look(self);

    self->heap.until_look = until_look;
    return failed;
}

DOOR(count_all_freed, heap_object, 0, ph_count_all_freed(&self->heap), done())

DOOR(upkeep_if_due, heap_object, 0, look_once_more(self) < 0 ? NULL : done())

DOOR(append_pending, heap_object, 0, ph_append_pending(self) < 0 ? NULL : done())

DOOR(try_malloc, heap_object, 2, offset_from(object, ph_malloc(&self->heap, n[0], n[1])))
DOOR(try_realloc, heap_object, 2, offset_from(object, ph_realloc(&self->heap, ph_inner(self, n[0]), n[1])))
DOOR(try_expand, heap_object, 2, code(ph_expand(&self->heap, ph_inner(self, n[0]), n[1])))
DOOR(try_free, heap_object, 2, code((n[1] ? ph_free_deferred : ph_free)(&self->heap, ph_inner(self, n[0]))))
DOOR(free_refusal, heap_object, 1, code(ph_free_refusal(&self->heap, ph_inner(self, n[0]))))

/* ---------------------------------------------------------------- what the doors show */

/* A getter; `self` is the heap to which the doors lead. */
#define SHOWN(name, ...)                                        \
    static PyObject *name(PyObject *doors, void *ignored)       \
    {                                                           \
        const struct heap_object *self = ph_seen_behind(doors); \
        (void)ignored;                                          \
        return (__VA_ARGS__);                                   \
    }

SHOWN(get_state, code(self->state))

/* A code that is to be set, and the heap, NULL if it is gone; -1 with an exception set. */
static long code_to_set(PyObject *doors, PyObject *value, struct heap_object **heap)
{
    *heap = ph_heap_if_there(doors);
    return read_code(value);
}

static int set_state(PyObject *doors, PyObject *value, void *ignored)
{
    struct heap_object *self;
    long state = code_to_set(doors, value, &self);

    (void)ignored;
    if (state < 0 || self == NULL)
        return state < 0 ? -1 : 0;
    if (state == PH_S_CLOSED || (self->state != PH_S_LOST && self->state != PH_S_FORKED)) {
        self->state = (int)state;
        self->heap.readonly = state != PH_S_OPEN; /* also what is clean: nothing of it may change by being read */
    }
    return 0;
}

static int set_durability(PyObject *doors, PyObject *value, void *ignored)
{
    struct heap_object *self;
    long durability = code_to_set(doors, value, &self);

    (void)ignored;
    if (durability >= 0 && self != NULL)
        ph_set_journal(&self->heap, (enum ph_durability)durability);
    return durability < 0 ? -1 : 0;
}

SHOWN(get_bounds, Py_BuildValue("KKKK", self->heap.first_unit, self->heap.end_unit, self->heap.scanned_to,
                                self->heap.recorded_to))

SHOWN(get_live_views, number(self->heap.refs.views))
SHOWN(get_quarantined, number(self->heap.withheld.freed_bytes))
SHOWN(get_freed_units, number(self->heap.freed_units))

PyGetSetDef ph_door_fields[] = {
    {"state", get_state, set_state, "What the public calls may do. What is lost or forked can only be closed.", NULL},
    {"durability", NULL, set_durability, "What a change outlives, of enum ph_durability.", NULL},
    {"bounds", get_bounds, NULL, "(first_unit, end_unit, scanned_to, recorded_to).", NULL},
    {"live_views", get_live_views, NULL, "Views of blocks that are alive.", NULL},
    {"freed_units", get_freed_units, NULL, "Units that have become free since the heap was opened.", NULL},
    {"quarantined", get_quarantined, NULL, "Bytes that were freed and may not be used again yet.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyMethodDef ph_control_methods[] = {
    {"configure", configure, METH_VARARGS, "Set the size classes, what offsets begin with, and the number of the file; forgets all."},
    {"attach", attach, METH_VARARGS, "Set the virtual bases of the four tables, and who keeps them mapped."},
    AS_METHOD("set_bounds", set_bounds, "Set first_unit, end_unit and scanned_to."),
    AS_METHOD("sleep_in", sleep_in, "Have no units but the data of these, until _set_bounds is called."),
    AS_METHOD("count_all_freed", count_all_freed, "Count all blocks as freed: the arena was dropped."),
    {"set_layers", ph_set_layers, METH_VARARGS, "Set a tuple of Upstreams, top first, and one of CountCores."},
    {"shut", shut, METH_O, "Close, with a list of others, unless views of any live; how many do."},
    {"come_to_rest", come_to_rest, METH_O, "Be clean, with a list of others, unless views live or a transaction is open."},
    AS_METHOD("shut_unused", shut_unused, "Close unless blocks are viewed, pinned or reserved; tell whether."),
    AS_METHOD("upkeep_if_due", upkeep_if_due, "Look at the clock, and have what is due done."),
    AS_METHOD("append_pending", append_pending, "Append what was changed since the last record."),
    AS_METHOD("try_malloc", try_malloc, "Offset, or a negative code."),
    AS_METHOD("try_realloc", try_realloc, "Offset, or a negative code."),
    AS_METHOD("try_expand", try_expand, "0, or a negative code."),
    AS_METHOD("try_free", try_free, "0, or a negative code."),
    AS_METHOD("free_refusal", free_refusal, "0, or the code with which free would refuse."),
    {NULL, NULL, 0, NULL},
};
