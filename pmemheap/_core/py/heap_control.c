/* py/heap_control.c -- what the Python half of a heap asks of the C core: its tables, its state, and what is due. */
#include "block/guard.h"
#include "py/heap_calls.h"
#include "py/heap_doors.h"
#include "py/layers.h"

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

/* Where only the data is mapped, it is a heap without units, as far as the allocator is concerned. */
static void set_units(struct ph_heap *h, uint64_t first, uint64_t end, uint64_t scanned_to)
{
    if (h->units != NULL) {
        ph_set_bounds(h, first, end, scanned_to);
        return;
    }
    ph_set_bounds(h, 0, 0, 0);
    h->data_first = first;
    h->data_end = end;
}

DOOR(set_bounds, heap_object, 3, set_units(&self->heap, n[0], n[1], n[2]), done())

/* A callback may have begun a transaction since the caller looked for open ones; another may be in its finalizer. */
static void end_transactions(struct heap_object *self)
{
    struct log_object *log = (struct log_object *)self->log;
    if (log != NULL && ph_log_core(&log->log, 0) == &self->heap)
        ph_tx_abort_all(log);
}

static void shut_one(struct heap_object *self)
{
    self->state = PH_S_CLOSED;
    self->heap.readonly = 1;
    ph_guard_forget(&self->heap);
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

static void rest_one(struct heap_object *self)
{
    if (self->state != PH_S_OPEN) /* lost, or an arena that was dropped */
        return;
    self->state = PH_S_CLEAN;
    self->heap.readonly = 1;
}

/* Be closed or clean, with all others, unless views of any live, in one step that no other thread can split: nobody sees some
 * of them closed that stay open. From then on no table of a closed heap is read. Through a view a clean one could be changed
 * unnoticed; nor is a heap clean in which a transaction is open. How many views live; -1 if something else is in the way. */
static int64_t become_all(struct heap_object *self, PyObject *others, int state)
{
    int64_t views = views_of_all(self, others);

    if (views != 0)
        return views;
    if (state == PH_S_CLEAN) {
        if (self->state != PH_S_OPEN || ph_tx_is_open((struct log_object *)self->log))
            return -1;
        for_all(self, others, rest_one);
        return 0;
    }
    for_all(self, others, close_one);
    end_transactions(self);
    for_all(self, others, shut_one);
    return 0;
}

static PyObject *become(PyObject *object, PyObject *args)
{
    PyObject *others;
    int state;

    if (!PyArg_ParseTuple(args, "iO", &state, &others))
        return NULL;
    int64_t hinders = become_all((struct heap_object *)object, others, state);
    return PyErr_Occurred() ? NULL : code(hinders);
}

/* Close, unless anybody uses a block, in the same way; it can be opened again. */
static int is_shut_unused(struct heap_object *self)
{
    struct ph_heap *h = &self->heap;

    ph_array_drop_spares(h);
    if (h->refs.views != 0 || h->refs.pins != 0 || h->withheld.reserved_blocks != 0)
        return 0;
    self->state = PH_S_CLOSED;
    h->readonly = 1;
    ph_guard_forget(h);
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

DOOR(tell_all_freed, heap_object, 0, ph_tell_all_freed(&self->heap), done())

DOOR(end_watch, heap_object, 0, ph_end_watch(self), done())

/* A block that moved by a transaction of Python. */
static PyObject *tell_of_move(struct heap_object *self, const uint64_t *n)
{
    PH_TELL(&self->heap, ph_tell_moved, ph_inner(self, n[0]), ph_inner(self, n[1]), n[2]);
    return done();
}

DOOR(tell_moved, heap_object, 3, tell_of_move(self, n))

DOOR(upkeep_if_due, heap_object, 0, look_once_more(self) < 0 ? NULL : done())

DOOR(append_pending, heap_object, 0, ph_append_pending(self) < 0 ? NULL : done())

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
SHOWN(get_unsynced, number(self->heap.withheld.freed_bytes - self->heap.tags.bytes))
SHOWN(get_freed_units, number(self->heap.freed_units))

PyGetSetDef ph_door_fields[] = {
    {"state", get_state, set_state, "What the public calls may do. What is lost or forked can only be closed.", NULL},
    {"durability", NULL, set_durability, "What a change outlives, of enum ph_durability.", NULL},
    {"bounds", get_bounds, NULL, "(first_unit, end_unit, scanned_to, recorded_to).", NULL},
    {"live_views", get_live_views, NULL, "Views of blocks that are alive.", NULL},
    {"freed_units", get_freed_units, NULL, "Units that have become free since the heap was opened.", NULL},
    {"unsynced", get_unsynced, NULL, "Bytes in quarantine that wait for a sync or a view, not for readers of snapshots.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyMethodDef ph_control_methods[] = {
    {"attach", attach, METH_VARARGS, "Set the virtual bases of the four tables, and who keeps them mapped."},
    AS_METHOD("set_bounds", set_bounds, "Set first_unit, end_unit and scanned_to; of the data alone where no tables are."),
    AS_METHOD("end_watch", end_watch, "The memory goes: write all that was recorded of it, and trace none of its blocks any longer."),
    AS_METHOD("tell_moved", tell_moved, "Tell those who watch of a block that moved: from, to, size."),
    AS_METHOD("tell_all_freed", tell_all_freed, "Tell those who watch that all blocks are freed: the arena was dropped."),
    {"set_layers", ph_set_layers, METH_VARARGS, "Set a tuple of Upstreams, top first, and one of CountCores and RecordCores."},
    {"become", become, METH_VARARGS, "Be closed or clean, with a list of others, unless views live; how many do, or -1."},
    AS_METHOD("shut_unused", shut_unused, "Close unless blocks are viewed, pinned or reserved; tell whether."),
    AS_METHOD("upkeep_if_due", upkeep_if_due, "Look at the clock, and have what is due done."),
    AS_METHOD("append_pending", append_pending, "Append what was changed since the last record."),
    {NULL, NULL, 0, NULL},
};
