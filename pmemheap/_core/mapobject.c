/* mapobject.c -- MapCore: the calls of an ordered map that C answers alone; `SortedMap` derives from it.
 *
 * Reads see what the open transaction of their thread has made of the map, else what is committed. Changes want such a
 * transaction; without one, and for everything else that C cannot do, they return a negative code, and Python decides.
 */
#include "logobject.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

#include "map_node.h"

enum { PH_M_NO_TX = -50, PH_M_BUSY = -51, PH_M_RAISED = -52 };
enum { PH_SCAN_KEYS = 0, PH_SCAN_VALUES, PH_SCAN_ITEMS };

struct map_object {
    PyObject_HEAD
    struct ph_map map;
    PyObject *space;   /* HeapCore in which it lies */
    struct ph_tx alone; /* of changes outside of a transaction */
    char may_be_alone;  /* they commit as C can commit alone */
};

/* A key or a value that was handed in. */
struct bytes_in {
    const void *at;
    uint64_t length;
    Py_buffer buffer;
};

static PyObject *name_refuse, *name_missing, *name_put, *name_remove;

static struct map_object *map_of(PyObject *object)
{
    return (struct map_object *)object;
}

static struct heap_object *space_of(const struct map_object *self)
{
    return (struct heap_object *)self->space;
}

static struct log_object *log_of(const struct map_object *self)
{
    return (struct log_object *)space_of(self)->log;
}

static int is_bytes_like(PyObject *object)
{
    return PyBytes_Check(object) || PyObject_CheckBuffer(object);
}

static int read_bytes(PyObject *object, const char *what, struct bytes_in *in)
{
    in->buffer.obj = NULL;
    if (PyBytes_Check(object)) {
        char *at;
        Py_ssize_t length;
        PyBytes_AsStringAndSize(object, &at, &length);
        in->at = at;
        in->length = (uint64_t)length;
        return 0;
    }
    if (!PyObject_CheckBuffer(object)) {
        PyErr_Format(PyExc_TypeError, "map: %s: bytes expected, found %R", what, object);
        return -1;
    }
    if (PyObject_GetBuffer(object, &in->buffer, PyBUF_CONTIG_RO) < 0)
        return -1;
    in->at = in->buffer.buf;
    in->length = (uint64_t)in->buffer.len;
    return 0;
}

static void release_bytes(struct bytes_in *in)
{
    if (in->buffer.obj != NULL)
        PyBuffer_Release(&in->buffer);
}

/* Let Python raise what a code means. */
static PyObject *refuse(PyObject *self, int64_t code)
{
    PyObject *number = PyLong_FromLongLong(code);
    PyObject *done = number == NULL ? NULL : PyObject_CallMethodObjArgs(self, name_refuse, number, NULL);
    Py_XDECREF(number);
    if (done != NULL) {
        Py_DECREF(done);
        PyErr_SetString(PyExc_SystemError, "map: _refuse has to raise");
    }
    return NULL;
}

/* Whether its data is mapped, which is all that is looked at. */
static int can_be_read(const struct heap_object *space)
{
    return space->state <= PH_S_READONLY || space->state == PH_S_ASLEEP;
}

/* See what this thread is to see; -1 with an exception set. `tx`: its transaction, or NULL. */
static int look(PyObject *object, const struct ph_tx **tx)
{
    struct map_object *self = map_of(object);
    int busy, failed;

    *tx = NULL;
    if (self->space == NULL || !can_be_read(space_of(self))) {
        refuse(object, PH_M_NO_TX);
        return -1;
    }
    if (log_of(self) != NULL)
        *tx = ph_tx_here(log_of(self), 0, &busy);
    failed = ph_map_look(&self->map, *tx);
    if (failed < 0)
        refuse(object, failed);
    return failed;
}

/* The transaction for a change, or a code. */
static int64_t begin_change(struct map_object *self, struct ph_tx **tx)
{
    int busy = 0;

    self->map.is_alone = 0;
    *tx = self->space == NULL || log_of(self) == NULL ? NULL : ph_tx_here(log_of(self), 1, &busy);
    if (*tx != NULL)
        return busy ? PH_M_BUSY : ph_map_look(&self->map, *tx);
    if (!self->may_be_alone || self->space == NULL || !ph_begin_alone(self->space, &self->alone))
        return PH_M_NO_TX;
    *tx = &self->alone;
    self->map.is_alone = 1;
    return ph_map_look(&self->map, *tx);
}

/* What a change has led to, or the code with which Python is to begin a transaction; PH_M_RAISED: an exception is set. */
static int64_t end_change(struct map_object *self, const struct ph_tx *tx, int64_t code)
{
    if (tx == &self->alone) {
        int keeps = code >= 0 && ph_tx_changes_homes(tx);
        int done = ph_end_alone(self->space, &self->alone, keeps);
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

/* ---------------------------------------------------------------- reading */

static PyObject *bytes_of_value(const struct ph_tx *tx, const struct ph_map_value *value)
{
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)value->bytes, (Py_ssize_t)value->length);
    if (bytes != NULL && tx != NULL && value->is_apart)
        ph_map_overlay(tx, value->block, value->length, (uint8_t *)PyBytes_AsString(bytes));
    return bytes;
}

/* 1: there is such a key, 0: there is none, -1: an exception is set. An object that is no bytes is a key that is not
 * there, as in other mappings of bytes. What is found is there until Python code runs: the caller releases `in` only
 * when it has no more need of it. */
static int find(PyObject *object, PyObject *key, struct bytes_in *in, const struct ph_tx **tx, struct ph_map_value *value)
{
    int found, is_key = is_bytes_like(key);

    in->buffer.obj = NULL;
    if (is_key && read_bytes(key, "key", in) < 0)
        return -1;
    found = look(object, tx);
    if (found == 0 && is_key && (found = ph_map_get(&map_of(object)->map, in->at, in->length, value)) < 0)
        refuse(object, found);
    return found < 0 ? -1 : found;
}

/* For changes of a key that is no bytes: it is not there, if the map can be looked at. 0 or PH_M_RAISED. */
static int64_t find_none(PyObject *object)
{
    const struct ph_tx *tx;
    return look(object, &tx) < 0 ? PH_M_RAISED : 0;
}

/* The value of a key, or `missing`, a new reference, if there is none; NULL with an exception set. */
static PyObject *value_or(PyObject *object, PyObject *key, PyObject *missing)
{
    struct bytes_in in;
    const struct ph_tx *tx;
    struct ph_map_value value;
    int found = find(object, key, &in, &tx, &value);
    PyObject *bytes = found > 0 ? bytes_of_value(tx, &value) : NULL;

    release_bytes(&in);
    return found == 0 ? Py_XNewRef(missing) : bytes;
}

static PyObject *subscript(PyObject *object, PyObject *key)
{
    PyObject *value = value_or(object, key, NULL);

    return value != NULL || PyErr_Occurred() ? value : PyObject_CallMethodObjArgs(object, name_missing, key, NULL);
}

PyDoc_STRVAR(get_doc,
"get(key, default=None, /)\n--\n\n"
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
    const struct ph_tx *tx;
    struct ph_map_value value;
    int found = find(object, key, &in, &tx, &value);

    release_bytes(&in);
    return found;
}

static Py_ssize_t length(PyObject *object)
{
    const struct ph_tx *tx;
    uint64_t count;
    int failed = look(object, &tx);

    if (failed == 0 && (failed = ph_map_count(&map_of(object)->map, &count)) < 0)
        refuse(object, failed);
    return failed < 0 ? -1 : (Py_ssize_t)count;
}

PyDoc_STRVAR(view_doc,
"view(key, /)\n--\n\n"
"Return a read-only memoryview of the value of a key, in place.\n\n"
"It stays valid, with these bytes, until it is released: the space of a value that is removed or replaced meanwhile\n"
"is kept. `patch` shows through it. In a transaction that has changed the value it is a view of a copy: the bytes have\n"
"no place yet.\n\n"
"Raises\n------\nKeyError\n    There is no such key.");

/* Whether the bytes of a value, as a transaction leaves them, stand where they belong already. */
static int is_home(const struct map_object *self, const struct ph_map_value *value, PyObject *bytes)
{
    const uint8_t *block = ph_map_place(&self->map, value->block, value->start + value->length);
    return block != NULL && memcmp(block + value->start, PyBytes_AsString(bytes), value->length) == 0;
}

/* A view of what lies at home. */
static PyObject *view_home(PyObject *object, const struct ph_map_value *value)
{
    struct heap_object *space = space_of(map_of(object));
    PyObject *made = ph_block_part(space, ph_inner(space, value->block), value->start, value->length, 1);
    return made == NULL && !PyErr_Occurred() ? refuse(object, PH_M_CORRUPT) : made;
}

static PyObject *view(PyObject *object, PyObject *key)
{
    struct bytes_in in;
    const struct ph_tx *tx;
    struct ph_map_value value;
    if (map_of(object)->space != NULL && ph_rise(space_of(map_of(object))) < 0) /* a pin is noted in the tables */
        return NULL;
    int found = find(object, key, &in, &tx, &value);
    PyObject *copy = found > 0 && tx != NULL ? bytes_of_value(tx, &value) : NULL, *made = NULL;

    if (copy != NULL && !is_home(map_of(object), &value, copy))
        made = PyMemoryView_FromObject(copy);
    else if (found > 0 && (copy != NULL || tx == NULL))
        made = view_home(object, &value);
    Py_XDECREF(copy);
    release_bytes(&in);
    return found == 0 ? PyObject_CallMethodObjArgs(object, name_missing, key, NULL) : made;
}

/* ---------------------------------------------------------------- scanning */

/* What a scan is asked for: from `low` on, `after` without it, to `high`. */
struct scan {
    struct bytes_in low, high;
    int has_low, has_high, back, after, what;
    Py_ssize_t most;
};

/* Append key, value or both. Nothing here that the garbage collector tracks: its finalizers could close the heap. */
static int append_entry(PyObject *flat, const struct ph_tx *tx, const struct scan *scan, const uint8_t *key, uint64_t nkey,
                        const struct ph_map_value *value)
{
    int failed = 0;
    if (scan->what != PH_SCAN_VALUES) {
        PyObject *name = PyBytes_FromStringAndSize((const char *)key, (Py_ssize_t)nkey);
        failed = name == NULL || PyList_Append(flat, name) < 0;
        Py_XDECREF(name);
    }
    if (!failed && scan->what != PH_SCAN_KEYS) {
        PyObject *bytes = bytes_of_value(tx, value);
        failed = bytes == NULL || PyList_Append(flat, bytes) < 0;
        Py_XDECREF(bytes);
    }
    return failed;
}

/* Keys and values by turns, as pairs; steals the list. */
static PyObject *paired(PyObject *flat)
{
    Py_ssize_t count = PyList_Size(flat) / 2;
    PyObject *pairs = PyList_New(count);
    for (Py_ssize_t i = 0; pairs != NULL && i < count; i++) {
        PyObject *pair = PyTuple_Pack(2, PyList_GetItem(flat, 2 * i), PyList_GetItem(flat, 2 * i + 1));
        if (pair == NULL)
            Py_CLEAR(pairs);
        else
            PyList_SetItem(pairs, i, pair);
    }
    Py_DECREF(flat);
    return pairs;
}

static int is_beyond(const struct scan *scan, const uint8_t *key, uint64_t nkey)
{
    if (scan->back)
        return scan->has_low && ph_key_order(key, nkey, scan->low.at, scan->low.length) < 0;
    return scan->has_high && ph_key_order(key, nkey, scan->high.at, scan->high.length) >= 0;
}

/* Append what is found to `flat`; the last key that was found to `last`. 0, or -1 with an exception set. */
static int run_scan(PyObject *object, const struct ph_tx *tx, const struct scan *scan, PyObject *flat, PyObject **last)
{
    struct ph_map *map = &map_of(object)->map;
    const struct bytes_in *start = scan->back ? &scan->high : &scan->low;
    int has_start = scan->back ? scan->has_high : scan->has_low, failed = 0;
    struct ph_map_cursor cursor;
    int more = ph_map_seek(map, has_start ? start->at : NULL, has_start ? start->length : 0, scan->back, &cursor);
    const uint8_t *key = NULL;
    uint64_t nkey = 0;
    Py_ssize_t left = scan->most;

    for (int first = 1; more > 0 && !failed && left > 0; first = 0) {
        struct ph_map_value value;
        const uint8_t *next;
        uint64_t nnext;
        if ((more = ph_map_entry(map, &cursor, &next, &nnext, &value)) < 0 || is_beyond(scan, next, nnext))
            break;
        if (!(first && scan->after && has_start && ph_key_order(next, nnext, start->at, start->length) == 0)) {
            failed = append_entry(flat, tx, scan, next, nnext, &value);
            key = next;
            nkey = nnext;
            left--;
        }
        more = ph_map_step(map, &cursor, scan->back);
    }
    if (more < 0)
        refuse(object, more);
    if (more >= 0 && !failed)
        *last = key == NULL ? Py_NewRef(Py_None) : PyBytes_FromStringAndSize((const char *)key, (Py_ssize_t)nkey);
    return *last == NULL ? -1 : 0;
}

PyDoc_STRVAR(scan_doc,
"_scan(low, high, back, after, most, what, /)\n--\n\n"
"At most `most` entries from `low` up to, without, `high`, or `back` from there: their keys (0), values (1) or both (2),\n"
"and the last key. `after`: without `low` itself. None: no bound. Looks at no more than one entry besides.");

static PyObject *scan_map(PyObject *object, PyObject *args)
{
    struct scan scan = {0};
    const struct ph_tx *tx;
    PyObject *low, *high, *list, *last = NULL;

    if (!PyArg_ParseTuple(args, "OOppni", &low, &high, &scan.back, &scan.after, &scan.most, &scan.what))
        return NULL;
    scan.has_low = low != Py_None;
    scan.has_high = high != Py_None;
    if (scan.has_low && read_bytes(low, "start", &scan.low) < 0)
        return NULL;
    if (scan.has_high && read_bytes(high, "stop", &scan.high) < 0) {
        release_bytes(&scan.low);
        return NULL;
    }
    list = PyList_New(0);
    if (list != NULL && (look(object, &tx) < 0 || run_scan(object, tx, &scan, list, &last) < 0))
        Py_CLEAR(list);
    release_bytes(&scan.low);
    release_bytes(&scan.high);
    if (list != NULL && scan.what == PH_SCAN_ITEMS)
        list = paired(list);
    if (list == NULL) {
        Py_XDECREF(last);
        return NULL;
    }
    PyObject *found = PyTuple_Pack(2, list, last);
    Py_DECREF(list);
    Py_DECREF(last);
    return found;
}

PyDoc_STRVAR(count_doc,
"_count(low, high, /)\n--\n\n"
"The number of entries from `low` up to, without, `high`; None: no bound. O(leaves between them).");

/* A bound of a range, which None leaves open; -1 with an exception set. */
static int read_bound(PyObject *object, const char *what, struct bytes_in *in)
{
    *in = (struct bytes_in){.at = NULL};
    if (object == Py_None)
        return 0;
    int failed = read_bytes(object, what, in);
    in->at = in->at == NULL ? "" : in->at; /* a buffer of no bytes may be nowhere */
    return failed;
}

static PyObject *count_range(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    struct bytes_in low, high;
    const struct ph_tx *tx;
    uint64_t count = 0;

    if (nargs != 2)
        return PyErr_Format(PyExc_TypeError, "_count() takes 2 arguments (%zd given)", nargs);
    if (read_bound(args[0], "start", &low) < 0)
        return NULL;
    int failed = read_bound(args[1], "stop", &high), raised = failed < 0 || look(object, &tx) < 0;
    if (!raised) {
        failed = ph_map_count_range(&map_of(object)->map, low.at, low.length, high.at, high.length, &count);
        if (failed < 0)
            refuse(object, failed);
    }
    release_bytes(&low);
    release_bytes(&high);
    return raised || failed < 0 ? NULL : PyLong_FromUnsignedLongLong(count);
}

/* ---------------------------------------------------------------- changing */

/* 1 if the key was there, 0, or a code. */
static int64_t put_bytes(PyObject *object, PyObject *name, PyObject *bytes, uint64_t placed)
{
    struct map_object *self = map_of(object);
    struct bytes_in key, value;
    struct ph_tx *tx = NULL;

    if (read_bytes(name, "key", &key) < 0)
        return PH_M_RAISED;
    if (read_bytes(bytes, "value", &value) < 0) {
        release_bytes(&key);
        return PH_M_RAISED;
    }
    int64_t code = key.length > PH_MAP_KEY_MOST ? PH_M_NO_TX : begin_change(self, &tx);
    if (code >= 0)
        code = ph_map_put(&self->map, tx, key.at, key.length, value.at, value.length, placed);
    code = end_change(self, tx, code);
    release_bytes(&key);
    release_bytes(&value);
    return code;
}

static int64_t remove_bytes(PyObject *object, PyObject *name)
{
    struct map_object *self = map_of(object);
    struct bytes_in key;
    struct ph_tx *tx;

    if (!is_bytes_like(name))
        return find_none(object);
    if (read_bytes(name, "key", &key) < 0)
        return PH_M_RAISED;
    int64_t code = begin_change(self, &tx);
    if (code >= 0)
        code = ph_map_remove(&self->map, tx, key.at, key.length);
    code = end_change(self, tx, code);
    release_bytes(&key);
    return code;
}

/* 1: the key was there and is gone, 0, or -1 with an exception set. */
static int remove_key(PyObject *object, PyObject *key)
{
    int64_t code = remove_bytes(object, key);

    if (code >= 0 || code == PH_M_RAISED)
        return code < 0 ? -1 : (int)code;
    PyObject *found = PyObject_CallMethodObjArgs(object, name_remove, key, NULL);
    int was_there = found == NULL ? -1 : PyObject_IsTrue(found);
    Py_XDECREF(found);
    return was_there;
}

/* map[key] = value; del map[key]. */
static int assign(PyObject *object, PyObject *key, PyObject *value)
{
    if (value == NULL) {
        int was_there = remove_key(object, key);
        if (was_there == 0) /* raises; PyErr_SetObject would take a tuple apart */
            Py_XDECREF(PyObject_CallMethodObjArgs(object, name_missing, key, NULL));
        return was_there == 1 ? 0 : -1;
    }
    int64_t code = put_bytes(object, key, value, PH_MAP_NOWHERE);
    if (code >= 0 || code == PH_M_RAISED)
        return code < 0 ? -1 : 0;
    PyObject *done = PyObject_CallMethodObjArgs(object, name_put, key, value, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

PyDoc_STRVAR(discard_doc,
"discard(key, /)\n--\n\n"
"Remove a key if it is there; tell whether it was. Its space is free when no view of it lives.");

static PyObject *discard(PyObject *object, PyObject *key)
{
    int was_there = remove_key(object, key);
    return was_there < 0 ? NULL : PyBool_FromLong(was_there);
}

PyDoc_STRVAR(put_doc,
"_put(key, value, placed, /)\n--\n\n"
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
"_remove(key, /)\n--\n\nIn the open transaction of this thread: 1 if the key was there, 0, or a negative code.");

static PyObject *remove_by_code(PyObject *object, PyObject *key)
{
    return number_of(remove_bytes(object, key));
}

PyDoc_STRVAR(patch_doc,
"_patch(key, start, data, /)\n--\n\n"
"In the open transaction of this thread: 1 if the key is there, 0, or a negative code.");

static PyObject *patch(PyObject *object, PyObject *args)
{
    struct map_object *self = map_of(object);
    struct bytes_in key, data;
    struct ph_tx *tx;
    PyObject *name, *bytes;
    unsigned long long start;

    if (!PyArg_ParseTuple(args, "OKO", &name, &start, &bytes))
        return NULL;
    if (!is_bytes_like(name))
        return number_of(find_none(object));
    if (read_bytes(name, "key", &key) < 0)
        return NULL;
    if (read_bytes(bytes, "data", &data) < 0) {
        release_bytes(&key);
        return NULL;
    }
    int64_t code = begin_change(self, &tx);
    if (code >= 0)
        code = ph_map_patch(&self->map, tx, key.at, key.length, start, data.at, data.length);
    code = end_change(self, tx, code);
    release_bytes(&key);
    release_bytes(&data);
    return number_of(code);
}

PyDoc_STRVAR(pack_doc,
"_pack(key, /)\n--\n\n"
"In the open transaction of this thread, move the entries of a few leaves from a key on together: the key to go on\n"
"from, None at the end, or a negative code.");

static PyObject *pack(PyObject *object, PyObject *argument)
{
    struct map_object *self = map_of(object);
    struct bytes_in key;
    struct ph_map_key next;
    struct ph_tx *tx;

    if (read_bytes(argument, "key", &key) < 0)
        return NULL;
    int64_t code = begin_change(self, &tx);
    if (code >= 0 && tx == &self->alone) /* leaves are many bytes: the transaction is the caller's */
        code = PH_M_NO_TX;
    if (code >= 0)
        code = ph_map_pack(&self->map, tx, key.at, key.length, &next);
    code = end_change(self, tx, code);
    release_bytes(&key);
    if (code < 0)
        return number_of(code);
    return code == 0 ? Py_NewRef(Py_None) : PyBytes_FromStringAndSize((const char *)next.bytes, (Py_ssize_t)next.length);
}

PyDoc_STRVAR(make_doc, "_make(space, /)\n--\n\nA new map, in the open transaction of this thread: offset of its header, or a code.");

static PyObject *make(PyObject *object, PyObject *ignored)
{
    struct map_object *self = map_of(object);
    struct ph_tx *tx;
    int busy = 0;

    (void)ignored;
    tx = self->space == NULL || log_of(self) == NULL ? NULL : ph_tx_here(log_of(self), 1, &busy);
    if (tx == NULL || busy)
        return PyLong_FromLong(busy ? PH_M_BUSY : PH_M_NO_TX);
    return PyLong_FromLongLong(ph_map_make(tx, self->map.arena));
}

/* ---------------------------------------------------------------- the whole */

PyDoc_STRVAR(node_doc,
"_node(offset, level, /)\n--\n\n"
"The bytes of a node, as this thread sees it; None if there is none of that level.");

static PyObject *node_at(PyObject *object, PyObject *args)
{
    unsigned long long offset;
    unsigned int level;
    const struct ph_tx *tx;

    if (!PyArg_ParseTuple(args, "KI", &offset, &level) || look(object, &tx) < 0)
        return NULL;
    const uint8_t *node = ph_map_node(&map_of(object)->map, offset, level);
    return node == NULL ? Py_NewRef(Py_None) : PyBytes_FromStringAndSize((const char *)node, PH_MAP_NODE);
}

static PyObject *header_of(PyObject *object, PyObject *ignored)
{
    const struct ph_tx *tx;
    struct ph_map_header header;

    (void)ignored;
    if (look(object, &tx) < 0)
        return NULL;
    int failed = ph_map_header_of(&map_of(object)->map, &header);
    if (failed < 0)
        return refuse(object, failed);
    return Py_BuildValue("KKI", (unsigned long long)header.root, (unsigned long long)header.count, header.height);
}

static PyObject *bad(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(map_of(object)->map.bad);
}

PyDoc_STRVAR(attach_doc,
"_attach(space, header, alone, /)\n--\n\n"
"Be the map whose header lies at an offset of a HeapCore; changes outside of a transaction are committed in C, or not.");

static PyObject *attach(PyObject *object, PyObject *args)
{
    struct map_object *self = map_of(object);
    PyObject *space;
    unsigned long long header;
    int alone;

    if (!PyArg_ParseTuple(args, "OKp", &space, &header, &alone))
        return NULL;
    if (!ph_is_heap(space))
        return PyErr_Format(PyExc_TypeError, "map: a heap or an arena expected, found %R", space);
    ph_map_fini(&self->map);
    PyObject *old = self->space;
    self->space = Py_NewRef(space);
    Py_XDECREF(old);
    memset(&self->map, 0, sizeof self->map);
    self->map.heap = &space_of(self)->heap;
    self->map.arena = space_of(self)->origin >> PH_ARENA_SHIFT;
    self->map.header = header;
    self->may_be_alone = (char)alone;
    Py_RETURN_NONE;
}

static void map_dealloc(PyObject *object)
{
    struct map_object *self = map_of(object);
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    ph_map_fini(&self->map);
    ph_tx_fini(&self->alone);
    Py_XDECREF(self->space);
    release(object);
    Py_DECREF(type);
}

static PyMethodDef map_methods[] = {
    {"get", (PyCFunction)(void (*)(void))get, METH_FASTCALL, get_doc},
    {"view", view, METH_O, view_doc},
    {"_scan", scan_map, METH_VARARGS, scan_doc},
    {"_count", (PyCFunction)(void (*)(void))count_range, METH_FASTCALL, count_doc},
    {"_put", (PyCFunction)(void (*)(void))put, METH_FASTCALL, put_doc},
    {"_remove", remove_by_code, METH_O, remove_doc},
    {"discard", discard, METH_O, discard_doc},
    {"_patch", patch, METH_VARARGS, patch_doc},
    {"_pack", pack, METH_O, pack_doc},
    {"_make", make, METH_NOARGS, make_doc},
    {"_node", node_at, METH_VARARGS, node_doc},
    {"_header", header_of, METH_NOARGS, "_header()\n--\n\nOffset of the root, entries, height."},
    {"_bad", bad, METH_NOARGS, "_bad()\n--\n\nOffset of the node at which a contradiction was found."},
    {"_attach", attach, METH_VARARGS, attach_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef map_members[] = {
    {"_space", T_OBJECT, offsetof(struct map_object, space), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot map_slots[] = {
    {Py_tp_doc, (void *)"MapCore()\n--\n\nThe calls of an ordered map that C answers alone; `SortedMap` derives from it."},
    {Py_tp_dealloc, map_dealloc},
    {Py_tp_methods, map_methods},
    {Py_tp_members, map_members},
    {Py_mp_subscript, subscript},
    {Py_mp_ass_subscript, assign},
    {Py_mp_length, length},
    {Py_sq_contains, contains},
    {0, NULL},
};

static PyType_Spec map_spec = {
    .name = "pmemheap._core._hot.MapCore",
    .basicsize = sizeof(struct map_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = map_slots,
};

int ph_add_map_type(PyObject *module)
{
    name_refuse = PyUnicode_InternFromString("_refuse");
    name_missing = PyUnicode_InternFromString("__missing__");
    name_put = PyUnicode_InternFromString("_put_slow");
    name_remove = PyUnicode_InternFromString("_remove_slow");
    if (name_refuse == NULL || name_missing == NULL || name_put == NULL || name_remove == NULL)
        return -1;
    return ph_add_type(module, "MapCore", &map_spec);
}
