/* py/map_read.c -- reads: what the open transaction of their thread has made of the map, else what is committed. */
#include "py/address_range.h"
#include "py/heap_calls.h"
#include "py/map.h"

#include <string.h>

/* 1: there is such a key, 0: there is none, -1: an exception is set. An object that is no bytes is a key that is not
 * there, as in other mappings of bytes. The value stays there until Python code runs: the caller releases `in` only
 * when it has no more need of it. */
static int find(PyObject *object, PyObject *key, struct bytes_in *in, struct ph_map_value *value)
{
    struct ph_map *map = &ph_map_of(object)->map;
    int found = PH_M_UNMAPPED, is_key = is_bytes_like(key);

    in->buffer.obj = NULL;
    if (is_key && ph_read_bytes(key, "key", in) < 0)
        return -1;
    while (found == PH_M_UNMAPPED) {
        if (ph_map_look(object) < 0)
            return -1;
        if (!is_key)
            return 0;
        found = value == NULL ? ph_map_has(map, in->at, in->length) : ph_map_get(map, in->at, in->length, value);
        if (found == PH_M_UNMAPPED && ph_map_tables(object) < 0)
            return -1;
    }
    if (found < 0)
        ph_map_refuse(object, found);
    return found < 0 ? -1 : ph_map_kept(object, found);
}

int64_t ph_map_find_none(PyObject *object)
{
    return ph_map_look(object) < 0 ? PH_M_RAISED : 0;
}

static PyObject *value_or(PyObject *object, PyObject *key, PyObject *missing);

/* The same beside a writer in another process. */
static PyObject *last_value_or(PyObject *object, PyObject *key, PyObject *missing)
{
    PyObject *value = NULL;
    int found = ph_map_last(object, key, &value);
    if (found == 0)
        return Py_XNewRef(missing);
    if (found != PH_M_UNSEEN)
        return value;
    PyObject *read = ph_map_read(object);
    value = read == NULL ? NULL : value_or(read, key, missing);
    Py_XDECREF(read);
    return value;
}

/* The value of a key, or `missing`, a new reference, if there is none; NULL with an exception set. */
static PyObject *value_or(PyObject *object, PyObject *key, PyObject *missing)
{
    struct bytes_in in;
    struct ph_map_value value;
    if (ph_map_of(object)->pins != NULL)
        return last_value_or(object, key, missing);
    int found = find(object, key, &in, &value);
    PyObject *bytes = found > 0 ? ph_map_bytes(&ph_map_of(object)->map, &value) : NULL;

    ph_release_bytes(&in);
    if (bytes != NULL && ph_map_kept(object, 1) < 0)
        Py_CLEAR(bytes);
    return found == 0 ? Py_XNewRef(missing) : bytes;
}

PyObject *ph_map_subscript(PyObject *object, PyObject *key)
{
    PyObject *value = value_or(object, key, NULL);

    return value != NULL || PyErr_Occurred() ? value : PyObject_CallMethodObjArgs(object, ph_slow.map_missing, key, NULL);
}

PyDoc_STRVAR(get_doc,
"get($self, key, default=None, /)\n--\n\n"
"Return a copy of the value of a key, or `default`. O(log n).\n\n"
"Raises\n------\nCorruptHeapError\n    The map contradicts itself there.");

static PyObject *get(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 2)
        return PyErr_Format(PyExc_TypeError, "get() takes 1 or 2 arguments (%zd given)", count);
    return value_or(object, args[0], count == 2 ? args[1] : Py_None);
}

static int contains(PyObject *object, PyObject *key)
{
    struct bytes_in in;
    int found = find(object, key, &in, NULL);

    ph_release_bytes(&in);
    return found;
}

int ph_map_contains(PyObject *object, PyObject *key)
{
    int found = ph_map_of(object)->pins == NULL ? PH_M_UNSEEN : ph_map_last(object, key, NULL);
    if (found != PH_M_UNSEEN)
        return found;
    PyObject *read = ph_map_read(object);
    found = read == NULL ? -1 : contains(read, key);
    Py_XDECREF(read);
    return found;
}

static Py_ssize_t length(PyObject *object)
{
    uint64_t count;

    if (ph_map_look(object) < 0)
        return -1;
    int failed = ph_map_count(&ph_map_of(object)->map, &count);
    if (failed < 0)
        ph_map_refuse(object, failed);
    return failed < 0 || ph_map_kept(object, 0) < 0 ? -1 : (Py_ssize_t)count;
}

Py_ssize_t ph_map_length(PyObject *object)
{
    PyObject *read = ph_map_read(object);
    Py_ssize_t count = read == NULL ? -1 : length(read);
    Py_XDECREF(read);
    return count;
}

PyDoc_STRVAR(view_doc,
"view($self, key, /)\n--\n\n"
"Return a read-only memoryview of the value of a key, in place.\n\n"
"It stays valid, with these bytes, until it is released: the space of a value that is removed or replaced meanwhile\n"
"is kept. `patch` shows through it. While a transaction, of any thread, is about to change the node of a short value, or\n"
"one of this thread the value, it is a view of a copy.\n\n"
"Raises\n------\nKeyError\n    There is no such key.");

/* Whether a value is to be copied for a view of it: what it will be has no place yet, or a transaction is about to store
 * other bytes where it is. */
static int wants_copy(const struct ph_map *map, const struct ph_map_value *value)
{
    const struct ph_refs *refs = ph_refs_find(map->heap, value->block & ((1ULL << PH_ARENA_SHIFT) - 1));
    if (value->is_apart)
        return map->tx != NULL && ph_tx_touches(map->tx, value->block);
    return (refs != NULL && refs->changes != 0) || (map->tx != NULL && ph_tx_has_image(map->tx, value->block));
}

/* A view of what lies at home; NULL with an exception set, or with none where the block is none or too short. */
static PyObject *view_home(const struct map_object *self, const struct ph_map_value *value)
{
    struct heap_object *space = ph_space_of(self);
    struct ph_block block = ph_block_at(&space->heap, ph_inner(space, value->block));
    if (block.state == PH_B_NONE || value->start + value->length > ph_block_capacity(&block))
        return NULL;
    return ph_block_part(space, &block, value->start, value->length, 1);
}

static PyObject *view_of(PyObject *object, const struct ph_map_value *value)
{
    const struct map_object *self = ph_map_of(object);
    if (self->pin != NULL)
        return ph_memory_view(value->bytes, value->length, self->pin);
    if (!wants_copy(&self->map, value)) {
        PyObject *made = view_home(self, value);
        return made == NULL && !PyErr_Occurred() ? ph_map_refuse(object, PH_M_CORRUPT) : made;
    }
    PyObject *copy = ph_map_bytes(&self->map, value);
    PyObject *made = copy == NULL ? NULL : PyMemoryView_FromObject(copy);
    Py_XDECREF(copy);
    return made;
}

static PyObject *view_in(PyObject *object, PyObject *key)
{
    struct bytes_in in;
    struct ph_map_value value;
    if (ph_map_of(object)->space != NULL && ph_attach_tables(ph_space_of(ph_map_of(object))) < 0) /* a pin is noted in the tables */
        return NULL;
    int found = find(object, key, &in, &value);
    PyObject *made = found > 0 ? view_of(object, &value) : NULL;

    ph_release_bytes(&in);
    return found == 0 ? PyObject_CallMethodObjArgs(object, ph_slow.map_missing, key, NULL) : made;
}

static PyObject *view(PyObject *object, PyObject *key)
{
    PyObject *read = ph_map_read(object);
    PyObject *made = read == NULL ? NULL : view_in(read, key);
    Py_XDECREF(read);
    return made;
}

PyDoc_STRVAR(count_doc,
"_count($self, low, high, /)\n--\n\n"
"The number of entries from `low` up to, without, `high`; None: no bound. O(leaves between them).");

/* A bound of a range, which None leaves open; -1 with an exception set. */
static int read_bound(PyObject *object, const char *what, struct bytes_in *in)
{
    *in = (struct bytes_in){.at = NULL};
    if (object == Py_None)
        return 0;
    int failed = ph_read_bytes(object, what, in);
    in->at = in->at == NULL ? "" : in->at; /* a buffer of no bytes may be nowhere */
    return failed;
}

static PyObject *count_in(PyObject *object, PyObject *const *args)
{
    struct bytes_in low, high;
    uint64_t count = 0;

    if (read_bound(args[0], "start", &low) < 0)
        return NULL;
    int failed = read_bound(args[1], "stop", &high), raised = failed < 0 || ph_map_look(object) < 0;
    if (!raised) {
        failed = ph_map_count_range(&ph_map_of(object)->map, low.at, low.length, high.at, high.length, &count);
        if (failed < 0)
            ph_map_refuse(object, failed);
        failed = failed < 0 ? failed : ph_map_kept(object, 0);
    }
    ph_release_bytes(&low);
    ph_release_bytes(&high);
    return raised || failed < 0 ? NULL : PyLong_FromUnsignedLongLong(count);
}

static PyObject *count_range(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2)
        return PyErr_Format(PyExc_TypeError, "_count() takes 2 arguments (%zd given)", nargs);
    PyObject *read = ph_map_read(object);
    PyObject *counted = read == NULL ? NULL : count_in(read, args);
    Py_XDECREF(read);
    return counted;
}

PyDoc_STRVAR(iterate_doc,
"_iterate($self, low, high, back, what, skips, /)\n--\n\n"
"An iterator from `low` up to, without, `high`, or `back` from there, over the keys (0), values (1) or both (2). None: no\n"
"bound. `skips`: without the keys for which `_skip` is true.");

PyMethodDef ph_map_read_methods[] = {
    {"get", (PyCFunction)(void (*)(void))get, METH_FASTCALL, get_doc},
    {"view", view, METH_O, view_doc},
    {"_iterate", (PyCFunction)(void (*)(void))ph_map_iterate, METH_FASTCALL, iterate_doc},
    {"_count", (PyCFunction)(void (*)(void))count_range, METH_FASTCALL, count_doc},
    {NULL, NULL, 0, NULL},
};
