/* py/map.c -- MapCore: the calls of an ordered map that C answers alone; `SortedMap` derives from it.
 *
 * Reads see what the open transaction of their thread has made of the map, else what is committed. Changes want such a
 * transaction; without one, and for everything else that C cannot do, they return a negative code, and Python decides.
 */
#include "py/map.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

static PyObject *name_missing, *name_put, *name_remove;

static int is_bytes_like(PyObject *object)
{
    return PyBytes_Check(object) || PyObject_CheckBuffer(object);
}

/* The transaction for a change, or a code. */
static int64_t begin_change(PyObject *object, struct ph_tx **tx, int (*tick)(struct heap_object *))
{
    struct map_object *self = ph_map_of(object);
    int busy = 0;

    *tx = NULL;
    self->map.is_alone = 0;
    if (self->space == NULL)
        return PH_M_NO_TX;
    if (tick(ph_space_of(self)) < 0)
        return PH_M_RAISED;
    if (self->made_in != 0 && ph_map_confirm(object) < 0)
        return PH_M_RAISED;
    if (ph_log_of(self) != NULL)
        *tx = ph_tx_here(ph_log_of(self), 1, &busy);
    if (*tx == NULL && self->may_be_alone && ph_begin_autocommit(self->space, &self->alone)) {
        *tx = &self->alone;
        self->map.is_alone = 1;
    }
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

/* ---------------------------------------------------------------- reading */

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

/* For changes of a key that is no bytes: it is not there, if the map can be looked at. 0 or PH_M_RAISED. */
static int64_t find_none(PyObject *object)
{
    return ph_map_look(object) < 0 ? PH_M_RAISED : 0;
}

/* The value of a key, or `missing`, a new reference, if there is none; NULL with an exception set. */
static PyObject *value_or(PyObject *object, PyObject *key, PyObject *missing)
{
    struct bytes_in in;
    struct ph_map_value value;
    int found = find(object, key, &in, &value);
    PyObject *bytes = found > 0 ? ph_map_bytes(&ph_map_of(object)->map, &value) : NULL;

    ph_release_bytes(&in);
    if (bytes != NULL && ph_map_kept(object, 1) < 0)
        Py_CLEAR(bytes);
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
    int found = find(object, key, &in, NULL);

    ph_release_bytes(&in);
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

PyDoc_STRVAR(view_doc,
"view(key, /)\n--\n\n"
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
    return (refs != NULL && refs->changes != 0) || (map->tx != NULL && ph_tx_image(map->tx, value->block) != NULL);
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
    if (!wants_copy(&self->map, value)) {
        PyObject *made = view_home(self, value);
        return made == NULL && !PyErr_Occurred() ? ph_map_refuse(object, PH_M_CORRUPT) : made;
    }
    PyObject *copy = ph_map_bytes(&self->map, value);
    PyObject *made = copy == NULL ? NULL : PyMemoryView_FromObject(copy);
    Py_XDECREF(copy);
    return made;
}

static PyObject *view(PyObject *object, PyObject *key)
{
    struct bytes_in in;
    struct ph_map_value value;
    if (ph_map_of(object)->space != NULL && ph_attach_tables(ph_space_of(ph_map_of(object))) < 0) /* a pin is noted in the tables */
        return NULL;
    int found = find(object, key, &in, &value);
    PyObject *made = found > 0 ? view_of(object, &value) : NULL;

    ph_release_bytes(&in);
    return found == 0 ? PyObject_CallMethodObjArgs(object, name_missing, key, NULL) : made;
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
    int failed = ph_read_bytes(object, what, in);
    in->at = in->at == NULL ? "" : in->at; /* a buffer of no bytes may be nowhere */
    return failed;
}

static PyObject *count_range(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    struct bytes_in low, high;
    uint64_t count = 0;

    if (nargs != 2)
        return PyErr_Format(PyExc_TypeError, "_count() takes 2 arguments (%zd given)", nargs);
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

/* ---------------------------------------------------------------- changing */

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
        return find_none(object);
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
        return number_of(find_none(object));
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
"_pack(key, /)\n--\n\n"
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

PyDoc_STRVAR(make_doc, "_make(space, /)\n--\n\nA new map, in the open transaction of this thread: offset of its header, or a code.");

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

/* ---------------------------------------------------------------- the whole */

PyDoc_STRVAR(node_doc,
"_node(offset, level, /)\n--\n\n"
"The bytes of a node, as this thread sees it; None if there is none of that level.");

static PyObject *node_at(PyObject *object, PyObject *args)
{
    unsigned long long offset;
    unsigned int level;

    if (!PyArg_ParseTuple(args, "KI", &offset, &level) || ph_map_look(object) < 0)
        return NULL;
    const uint8_t *node = ph_map_node(&ph_map_of(object)->map, offset, level);
    return node == NULL ? Py_NewRef(Py_None) : PyBytes_FromStringAndSize((const char *)node, PH_MAP_NODE);
}

static PyObject *header_of(PyObject *object, PyObject *ignored)
{
    struct ph_map_header header;

    (void)ignored;
    if (ph_map_look(object) < 0)
        return NULL;
    int failed = ph_map_header_of(&ph_map_of(object)->map, &header);
    if (failed < 0)
        return ph_map_refuse(object, failed);
    return Py_BuildValue("KKI", (unsigned long long)header.root, (unsigned long long)header.count, header.height);
}

PyDoc_STRVAR(stamp_doc,
"_stamp()\n--\n\n"
"The eight bytes with which the header begins, and whether it is the one that was attached; None if nothing lies there.");

static PyObject *stamp(PyObject *object, PyObject *ignored)
{
    struct ph_map_header header;

    (void)ignored;
    if (ph_map_look(object) < 0)
        return NULL;
    if (ph_map_header_at(&ph_map_of(object)->map, &header) < 0)
        Py_RETURN_NONE;
    PyObject *magic = PyBytes_FromStringAndSize((const char *)&header.magic, sizeof header.magic);
    PyObject *found = magic == NULL ? NULL : PyTuple_Pack(2, magic, header.id == ph_map_of(object)->map.id ? Py_True : Py_False);
    Py_XDECREF(magic);
    return found;
}

static PyObject *bad(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(ph_map_of(object)->map.bad);
}

PyDoc_STRVAR(attach_doc,
"_attach(space, header, alone, beside, /)\n--\n\n"
"Be the map whose header lies at an offset of a HeapCore. `alone`: changes outside of a transaction are committed in C;\n"
"`beside`: another process may change the heap meanwhile.");

static PyObject *attach(PyObject *object, PyObject *args)
{
    struct map_object *self = ph_map_of(object);
    struct ph_map_header header = {0};
    PyObject *space;
    unsigned long long place;
    int alone, beside;

    if (!PyArg_ParseTuple(args, "OKpp", &space, &place, &alone, &beside))
        return NULL;
    if (!ph_is_heap(space))
        return PyErr_Format(PyExc_TypeError, "map: a heap or an arena expected, found %R", space);
    ph_map_fini(&self->map);
    PyObject *old = self->space;
    self->space = Py_NewRef(space);
    Py_XDECREF(old);
    self->map = (struct ph_map){.heap = &ph_space_of(self)->heap, .arena = ph_space_of(self)->origin >> PH_ARENA_SHIFT,
                                .header = place, .is_beside = (uint8_t)beside};
    self->may_be_alone = (char)alone;
    ph_map_note_maker(self);
    if (ph_map_look(object) < 0)
        return NULL;
    ph_map_header_at(&self->map, &header); /* if there is none, the first look at it finds out */
    self->map.id = header.id;
    Py_RETURN_NONE;
}

static int traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(ph_map_of(object)->space);
    Py_VISIT(ph_map_of(object)->skip);
    return 0;
}

/* The heap stays: whatever is called yet needs it. */
static int clear(PyObject *object)
{
    Py_CLEAR(ph_map_of(object)->skip);
    return 0;
}

static void map_dealloc(PyObject *object)
{
    struct map_object *self = ph_map_of(object);
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    PyObject_GC_UnTrack(object);
    ph_map_fini(&self->map);
    ph_tx_fini(&self->alone);
    Py_XDECREF(self->space);
    Py_XDECREF(self->skip);
    release(object);
    Py_DECREF(type);
}

PyDoc_STRVAR(iterate_doc,
"_iterate(low, high, back, what, skips, /)\n--\n\n"
"An iterator from `low` up to, without, `high`, or `back` from there, over the keys (0), values (1) or both (2). None: no\n"
"bound. `skips`: without the keys for which `_skip` is true.");

static PyMethodDef map_methods[] = {
    {"get", (PyCFunction)(void (*)(void))get, METH_FASTCALL, get_doc},
    {"view", view, METH_O, view_doc},
    {"_iterate", (PyCFunction)(void (*)(void))ph_map_iterate, METH_FASTCALL, iterate_doc},
    {"_count", (PyCFunction)(void (*)(void))count_range, METH_FASTCALL, count_doc},
    {"_put", (PyCFunction)(void (*)(void))put, METH_FASTCALL, put_doc},
    {"_remove", remove_by_code, METH_O, remove_doc},
    {"discard", discard, METH_O, discard_doc},
    {"_patch", patch, METH_VARARGS, patch_doc},
    {"_pack", pack, METH_O, pack_doc},
    {"_make", make, METH_NOARGS, make_doc},
    {"_node", node_at, METH_VARARGS, node_doc},
    {"_header", header_of, METH_NOARGS, "_header()\n--\n\nOffset of the root, entries, height."},
    {"_stamp", stamp, METH_NOARGS, stamp_doc},
    {"_bad", bad, METH_NOARGS, "_bad()\n--\n\nOffset of the node at which a contradiction was found."},
    {"_attach", attach, METH_VARARGS, attach_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef map_members[] = {
    {"_space", T_OBJECT, offsetof(struct map_object, space), READONLY, NULL},
    {"_skip", T_OBJECT, offsetof(struct map_object, skip), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot map_slots[] = {
    {Py_tp_doc, (void *)"MapCore()\n--\n\nThe calls of an ordered map that C answers alone; `SortedMap` derives from it."},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
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
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = map_slots,
};

int ph_add_map_type(PyObject *module)
{
    name_missing = PyUnicode_InternFromString("__missing__");
    name_put = PyUnicode_InternFromString("_put_slow");
    name_remove = PyUnicode_InternFromString("_remove_slow");
    if (ph_map_begin_looking() < 0 || name_missing == NULL || name_put == NULL || name_remove == NULL)
        return -1;
    return ph_add_map_iterator_type(module) < 0 ? -1 : ph_add_type(module, "MapCore", &map_spec);
}
