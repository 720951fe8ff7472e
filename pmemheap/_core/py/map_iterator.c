/* py/map_iterator.c -- MapIterator: goes through a map while it changes; made by MapCore._iterate.
 *
 * It yields copies of entries that are there at this moment. map/scan.c knows where it stands. */
#include "py/map.h"

#include <string.h>


struct map_iterator {
    PyObject_HEAD
    PyObject *map;         /* NULL: it has come to its end */
    PyObject *low, *high;  /* bytes that the bounds lie in, or NULL */
    PyObject *pair;        /* the last one that was given, to be given again when nobody else has it; or NULL */
    struct ph_map_scan scan;
    int what;
    char skips;
};

static PyTypeObject *iterator_type;

static struct map_iterator *iterator_of(PyObject *object)
{
    return (struct map_iterator *)object;
}

/* A copy of a bound, NULL without one; -1 with an exception set. */
static int read_bound(PyObject *argument, const char *what, PyObject **keep, struct ph_map_bound *bound)
{
    struct bytes_in in;

    if (argument == Py_None)
        return 0;
    if (ph_read_bytes(argument, what, &in) < 0)
        return -1;
    *keep = PyBytes_Check(argument) ? Py_NewRef(argument) : PyBytes_FromStringAndSize(in.at, (Py_ssize_t)in.length);
    ph_release_bytes(&in);
    if (*keep == NULL)
        return -1;
    *bound = (struct ph_map_bound){.at = (const uint8_t *)PyBytes_AsString(*keep), .length = (uint64_t)PyBytes_Size(*keep)};
    return 0;
}

PyObject *ph_map_iterate(PyObject *map, PyObject *const *args, Py_ssize_t count)
{
    if (count != 5)
        return PyErr_Format(PyExc_TypeError, "_iterate() takes 5 arguments (%zd given)", count);
    long what = PyLong_AsLong(args[3]);
    int back = PyObject_IsTrue(args[2]), skips = PyObject_IsTrue(args[4]);
    if (PyErr_Occurred())
        return NULL;
    PyObject *read = ph_map_read(map);
    struct map_iterator *self = read == NULL ? NULL : PyObject_GC_New(struct map_iterator, iterator_type);
    if (self == NULL) {
        Py_XDECREF(read);
        return NULL;
    }
    self->map = read;
    self->low = self->high = self->pair = NULL;
    memset(&self->scan, 0, offsetof(struct ph_map_scan, cursor));
    self->scan.back = (uint8_t)back;
    self->what = (int)what;
    self->skips = (char)skips;
    if (read_bound(args[0], "start", &self->low, &self->scan.low) < 0
        || read_bound(args[1], "stop", &self->high, &self->scan.high) < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

/* Copy of an entry what the iterator was asked for, and the key where some are skipped; -1 with an exception set: one of them may
 * have been made. */
static int copy_entry(const struct map_iterator *self, struct ph_map *map, const uint8_t *at, uint64_t length,
                      const struct ph_map_value *found, PyObject **key, PyObject **value)
{
    if ((self->what != PH_SCAN_VALUES || self->skips)
        && (*key = PyBytes_FromStringAndSize((const char *)at, (Py_ssize_t)length)) == NULL)
        return -1;
    return self->what != PH_SCAN_KEYS && (*value = ph_map_bytes(map, found)) == NULL ? -1 : 0;
}

/* 1: the next entry, copied; 0: there is none; -1 with an exception set. A look may run Python code, which may take the
 * iterator to its end: `held` is the map all the same. */
static int copy_next(struct map_iterator *self, PyObject *held, PyObject **key, PyObject **value)
{
    struct ph_map *map = &ph_map_of(held)->map;
    struct ph_map_value found;
    const uint8_t *at;
    uint64_t length;
    int more = PH_M_UNMAPPED;

    while (more == PH_M_UNMAPPED) {
        if (ph_map_look(held) < 0)
            return -1;
        if (self->map == NULL)
            return 0;
        struct log_object *log = ph_log_of(ph_map_of(held));
        more = ph_map_scan_next(map, log == NULL ? NULL : &log->log, &self->scan, &at, &length,
                                self->what == PH_SCAN_KEYS ? NULL : &found);
        if (more == PH_M_UNMAPPED && ph_map_tables(held) < 0)
            return -1;
    }
    if (more < 0)
        ph_map_refuse(held, more);
    if (more <= 0)
        return more < 0 ? -1 : ph_map_kept(held, 0);
    return copy_entry(self, map, at, length, &found, key, value) < 0 ? -1 : ph_map_kept(held, 1);
}

/* Whether a key is to be left out; -1 with an exception set. */
static int is_skipped(const struct map_iterator *self, PyObject *held, PyObject *key)
{
    PyObject *skip = self->skips ? ph_map_of(held)->skip : NULL;
    if (skip == NULL || skip == Py_None)
        return 0;
    Py_INCREF(skip);
    PyObject *answer = PyObject_CallFunctionObjArgs(skip, key, NULL);
    int skipped = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    Py_DECREF(skip);
    return skipped;
}

/* The key, the value or a new pair, as the iterator was asked for; steals both. The pair is made last: the garbage
 * collector, which may run for it, may do anything to the map. */
static PyObject *wanted(const struct map_iterator *self, PyObject *key, PyObject *value)
{
    if (self->what == PH_SCAN_KEYS)
        return key;
    PyObject *pair = self->what == PH_SCAN_VALUES ? Py_NewRef(value) : PyTuple_Pack(2, key, value);
    Py_XDECREF(key);
    Py_DECREF(value);
    return pair;
}

/* The same; the last pair is given again, as the items of a dict are, where a tuple does not keep its hash. */
static PyObject *wanted_again(struct map_iterator *self, PyObject *key, PyObject *value)
{
    if (self->what != PH_SCAN_ITEMS)
        return wanted(self, key, value);
    if (self->pair != NULL && Py_REFCNT(self->pair) == 1) {
        PyTuple_SetItem(self->pair, 0, key);
        PyTuple_SetItem(self->pair, 1, value);
        return Py_NewRef(self->pair);
    }
    PyObject *pair = wanted(self, key, value);
    if (pair != NULL && Py_Version < 0x030E0000) {
        Py_XDECREF(self->pair);
        self->pair = Py_NewRef(pair);
    }
    return pair;
}

static PyObject *next(PyObject *object)
{
    struct map_iterator *self = iterator_of(object);

    for (int skipped = 1; self->map != NULL && skipped;) {
        PyObject *key = NULL, *value = NULL, *held = Py_NewRef(self->map);
        int more = copy_next(self, held, &key, &value);
        skipped = more > 0 ? is_skipped(self, held, key) : 0;
        Py_DECREF(held);
        if (more > 0 && skipped == 0)
            return wanted_again(self, key, value);
        Py_XDECREF(key);
        Py_XDECREF(value);
        if (more < 0 || skipped < 0)
            return NULL;
        if (more == 0)
            Py_CLEAR(self->map);
    }
    return NULL;
}

PyDoc_STRVAR(take_doc, "take($self, count, /)\n--\n\nA list of the next entries, at most `count` of them.");

struct row {
    const struct map_iterator *self;
    PyObject *list, *held;
};

static int append(void *to, const uint8_t *at, uint64_t length, const struct ph_map_value *found)
{
    const struct row *row = to;
    PyObject *key = NULL, *value = NULL;

    if (copy_entry(row->self, &ph_map_of(row->held)->map, at, length, found, &key, &value) < 0) {
        Py_XDECREF(key);
        Py_XDECREF(value);
        return 1;
    }
    PyObject *one = wanted(row->self, key, value);
    int failure = one == NULL || PyList_Append(row->list, one) < 0;
    Py_XDECREF(one);
    return failure;
}

/* Take up to `count` entries in one step: how many; -1 with an exception set. None is skipped: nobody can be asked in the
 * middle of a step, and the collector waits for its end. */
static int take_row(struct map_iterator *self, PyObject *list, PyObject *held, int count)
{
    struct row row = {.self = self, .list = list, .held = held};
    int taken = PH_M_UNMAPPED;

    while (taken == PH_M_UNMAPPED) {
        if (ph_map_look(held) < 0)
            return -1;
        if (self->map == NULL)
            return 0;
        struct log_object *log = ph_log_of(ph_map_of(held));
        int was_on = ph_hold_collector();
        taken = ph_map_scan_many(&ph_map_of(held)->map, log == NULL ? NULL : &log->log, &self->scan, count, append, &row);
        ph_let_collector(was_on);
        if (taken == PH_M_UNMAPPED && ph_map_tables(held) < 0)
            return -1;
    }
    if (taken < 0)
        ph_map_refuse(held, taken);
    return taken < 0 || PyErr_Occurred() ? -1 : ph_map_kept(held, taken);
}

enum { ROW = 256 };

static PyObject *take(PyObject *object, PyObject *argument)
{
    struct map_iterator *self = iterator_of(object);
    Py_ssize_t count = PyLong_AsSsize_t(argument);
    PyObject *list = PyErr_Occurred() ? NULL : PyList_New(0);

    while (list != NULL && count > 0 && self->map != NULL) {
        PyObject *held = Py_NewRef(self->map);
        int taken = take_row(self, list, held, count < ROW ? (int)count : ROW);
        Py_DECREF(held);
        if (taken < 0)
            Py_CLEAR(list);
        if (taken == 0)
            Py_CLEAR(self->map);
        count -= taken;
    }
    return list;
}

static PyMethodDef methods[] = {
    {"take", take, METH_O, take_doc},
    {NULL, NULL, 0, NULL},
};

static int traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(iterator_of(object)->map);
    return 0;
}

static int clear(PyObject *object)
{
    Py_CLEAR(iterator_of(object)->map);
    return 0;
}

static void dealloc(PyObject *object)
{
    struct map_iterator *self = iterator_of(object);
    PyTypeObject *type = Py_TYPE(object);

    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->map);
    Py_CLEAR(self->low);
    Py_CLEAR(self->high);
    Py_CLEAR(self->pair);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"MapIterator()\n--\n\nKeys, values or items of a map, in order, as they are when their turn comes."},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_dealloc, dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, next},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "pmemheap._core._hot.MapIterator",
    .basicsize = sizeof(struct map_iterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

int ph_add_map_iterator_type(PyObject *module)
{
    iterator_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
    if (iterator_type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "MapIterator", (PyObject *)iterator_type);
}
