/* py/map_change.c -- changes, in the open transaction of their thread. Without one, and for everything else that C cannot do, they
 * return a negative code, and Python decides. */
#include "py/heap_calls.h"
#include "py/map.h"

#include <string.h>

/* The transaction for a change, or a code. */
static int64_t begin_change(PyObject *object, struct ph_tx **tx, int (*tick)(struct heap_object *))
{
    struct map_object *self = ph_map_of(object);
    int busy = 0;

    *tx = NULL;
    if (self->space == NULL || self->pin != NULL)
        return PH_M_NO_TX;
    if (tick(ph_space_of(self)) < 0)
        return PH_M_RAISED;
    if (self->made_in != 0 && ph_map_confirm(object) < 0)
        return PH_M_RAISED;
    if (ph_log_of(self) != NULL)
        *tx = ph_tx_here(ph_log_of(self), 1, &busy);
    if (*tx == NULL && self->may_be_alone && ph_begin_autocommit(self->space, &self->alone))
        *tx = &self->alone;
    self->map.is_alone = *tx == &self->alone; /* behind all of Python, in which other threads use the map */
    self->map.tx = *tx;
    return *tx == NULL ? PH_M_NO_TX : busy ? PH_M_BUSY : 0;
}

/* End a change: its result, or the code with which Python is to begin a transaction. PH_M_RAISED: an exception is set. */
static int64_t end_change(struct map_object *self, const struct ph_tx *tx, int64_t code)
{
    self->map.tx = NULL;
    if (tx == &self->alone) {
        int keeps = code >= 0 && ph_tx_changes_homes(tx);
        int done = ph_end_autocommit(self->space, &self->alone, keeps);
        if (done < 0)
            return PH_M_RAISED;
        if (done == 0 && (keeps || (code < 0 && code != PH_M_OUTSIDE)))
            code = PH_M_NO_TX;
    }
    return code;
}

static PyObject *number_of(int64_t code)
{
    return code == PH_M_RAISED ? NULL : PyLong_FromLongLong(code);
}

/* Whether a value that is placed apart lies in a block that this transaction has reserved: Python code may have ended the
 * one that did, or made the value longer. */
static int is_placed(struct ph_tx *tx, uint64_t placed, uint64_t length)
{
    struct ph_tx_aim aim;
    return ph_tx_aim(tx, placed, length, &aim) == 0 && aim.fresh && aim.block.offset == ph_local(placed);
}

/* 1 if the key was there, 0, or a code. */
static int64_t put_bytes(PyObject *object, PyObject *name, PyObject *bytes, uint64_t placed)
{
    struct map_object *self = ph_map_of(object);
    struct bytes_in key, value;
    struct ph_tx *tx = NULL;

    if (ph_read_bytes(name, "key", &key) < 0)
        return PH_M_RAISED;
    if (ph_read_bytes(bytes, "value", &value) < 0) {
        ph_release_bytes(&key);
        return PH_M_RAISED;
    }
    int64_t code = key.length > PH_MAP_KEY_MOST ? PH_M_NO_TX : begin_change(object, &tx, ph_tick);
    if (code >= 0 && placed != PH_MAP_NOWHERE && !is_placed(tx, placed, value.length))
        code = PH_M_NO_TX;
    if (code >= 0 && tx == &self->alone && tx->log->power && value.length >= PH_LONG_LEAST) /* it is synced first */
        code = PH_M_NO_TX;
    if (code >= 0)
        code = ph_map_put(&self->map, key.at, key.length, value.at, value.length, placed);
    code = end_change(self, tx, code);
    ph_release_bytes(&key);
    ph_release_bytes(&value);
    return code;
}

static int64_t remove_bytes(PyObject *object, PyObject *name)
{
    struct map_object *self = ph_map_of(object);
    struct bytes_in key;
    struct ph_tx *tx;

    if (!is_bytes_like(name))
        return ph_map_find_none(object);
    if (ph_read_bytes(name, "key", &key) < 0)
        return PH_M_RAISED;
    int64_t code = begin_change(object, &tx, ph_tick_free);
    if (code >= 0)
        code = ph_map_remove(&self->map, key.at, key.length);
    code = end_change(self, tx, code);
    ph_release_bytes(&key);
    return code;
}

/* 1: the key was there and is gone, 0, or -1 with an exception set. */
static int remove_key(PyObject *object, PyObject *key)
{
    int64_t code = remove_bytes(object, key);

    if (code >= 0 || code == PH_M_RAISED)
        return code < 0 ? -1 : (int)code;
    PyObject *found = PyObject_CallMethodObjArgs(object, ph_slow.map_remove, key, NULL);
    int was_there = found == NULL ? -1 : PyObject_IsTrue(found);
    Py_XDECREF(found);
    return was_there;
}

/* map[key] = value; del map[key]. */
int ph_map_assign(PyObject *object, PyObject *key, PyObject *value)
{
    if (value == NULL) {
        int was_there = remove_key(object, key);
        if (was_there == 0) /* raises; PyErr_SetObject would take a tuple apart */
            Py_XDECREF(PyObject_CallMethodObjArgs(object, ph_slow.map_missing, key, NULL));
        return was_there == 1 ? 0 : -1;
    }
    int64_t code = put_bytes(object, key, value, PH_MAP_NOWHERE);
    if (code >= 0 || code == PH_M_RAISED)
        return code < 0 ? -1 : 0;
    PyObject *done = PyObject_CallMethodObjArgs(object, ph_slow.map_put, key, value, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

PyDoc_STRVAR(discard_doc,
"discard($self, key, /)\n--\n\n"
"Remove a key if it is there; tell whether it was. Its space is free when no view of it lives.");

static PyObject *discard(PyObject *object, PyObject *key)
{
    int was_there = remove_key(object, key);
    return was_there < 0 ? NULL : PyBool_FromLong(was_there);
}

PyDoc_STRVAR(put_doc,
"_put($self, key, value, placed, /)\n--\n\n"
"In the open transaction of this thread: 1 if the key was there, 0, or a negative code. `placed`: the fresh block that\n"
"has the value, or -1.");

static PyObject *put(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "_put() takes 3 arguments (%zd given)", count);
    long long placed = PyLong_AsLongLong(args[2]);
    if (placed == -1 && PyErr_Occurred())
        return NULL;
    return number_of(put_bytes(object, args[0], args[1], (uint64_t)placed));
}

PyDoc_STRVAR(remove_doc,
"_remove($self, key, /)\n--\n\nIn the open transaction of this thread: 1 if the key was there, 0, or a negative code.");

static PyObject *remove_by_code(PyObject *object, PyObject *key)
{
    return number_of(remove_bytes(object, key));
}

PyDoc_STRVAR(patch_doc,
"_patch($self, key, start, data, /)\n--\n\n"
"In the open transaction of this thread: 1 if the key is there, 0, or a negative code.");

/* Where a range begins; one that no value reaches for a number that is too large or less than 0. -1 with an exception
 * set. */
static int read_start(PyObject *object, uint64_t *start)
{
    PyObject *number = PyNumber_Index(object);
    *start = number == NULL ? 0 : PyLong_AsUnsignedLongLong(number);
    Py_XDECREF(number);
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError))
        PyErr_Clear();
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *patch(PyObject *object, PyObject *args)
{
    struct map_object *self = ph_map_of(object);
    struct bytes_in key, data;
    struct ph_tx *tx;
    PyObject *name, *from, *bytes;
    uint64_t start;

    if (!PyArg_ParseTuple(args, "OOO", &name, &from, &bytes) || read_start(from, &start) < 0)
        return NULL;
    if (!is_bytes_like(name))
        return number_of(ph_map_find_none(object));
    if (ph_read_bytes(name, "key", &key) < 0)
        return NULL;
    if (ph_read_bytes(bytes, "data", &data) < 0) {
        ph_release_bytes(&key);
        return NULL;
    }
    int64_t code = begin_change(object, &tx, ph_tick);
    if (code >= 0)
        code = ph_map_patch(&self->map, key.at, key.length, start, data.at, data.length);
    code = end_change(self, tx, code);
    ph_release_bytes(&key);
    ph_release_bytes(&data);
    return number_of(code);
}

PyDoc_STRVAR(pack_doc,
"_pack($self, key, /)\n--\n\n"
"In the open transaction of this thread, move the entries of a few leaves from a key on together: the key to go on\n"
"from, None at the end, or a negative code.");

static PyObject *pack(PyObject *object, PyObject *argument)
{
    struct map_object *self = ph_map_of(object);
    struct bytes_in key;
    struct ph_map_key next;
    struct ph_tx *tx;

    if (ph_read_bytes(argument, "key", &key) < 0)
        return NULL;
    int64_t code = begin_change(object, &tx, ph_tick);
    if (code >= 0 && tx == &self->alone) /* leaves are many bytes: the transaction is the caller's */
        code = PH_M_NO_TX;
    if (code >= 0)
        code = ph_map_pack(&self->map, key.at, key.length, &next);
    code = end_change(self, tx, code);
    ph_release_bytes(&key);
    if (code < 0)
        return number_of(code);
    return code == 0 ? Py_NewRef(Py_None) : PyBytes_FromStringAndSize((const char *)next.bytes, (Py_ssize_t)next.length);
}

PyDoc_STRVAR(make_doc, "_make($self, space, /)\n--\n\nA new map, in the open transaction of this thread: offset of its header, or a code.");

static PyObject *make(PyObject *object, PyObject *ignored)
{
    struct map_object *self = ph_map_of(object);
    struct ph_tx *tx;
    int busy = 0;

    (void)ignored;
    tx = self->space == NULL || ph_log_of(self) == NULL ? NULL : ph_tx_here(ph_log_of(self), 1, &busy);
    if (tx == NULL || busy)
        return PyLong_FromLong(busy ? PH_M_BUSY : PH_M_NO_TX);
    return PyLong_FromLongLong(ph_map_make(tx, self->map.arena));
}

PyMethodDef ph_map_change_methods[] = {
    {"_put", (PyCFunction)(void (*)(void))put, METH_FASTCALL, put_doc},
    {"_remove", remove_by_code, METH_O, remove_doc},
    {"discard", discard, METH_O, discard_doc},
    {"_patch", patch, METH_VARARGS, patch_doc},
    {"_pack", pack, METH_O, pack_doc},
    {"_make", make, METH_NOARGS, make_doc},
    {NULL, NULL, 0, NULL},
};
