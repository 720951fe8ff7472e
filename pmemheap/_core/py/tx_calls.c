/* py/tx_calls.c -- blocks, bytes and savepoints of a transaction. As with HeapCore, what C cannot answer goes to the slow twin. */
#include "py/tx.h"

PyDoc_STRVAR(malloc_doc,
"malloc($self, /, size, align=16, arena=None)\n--\n\n"
"Reserve a block, which is allocated when the transaction commits, and return its offset.\n\n"
"Parameters, exceptions and cost as `Heap.malloc`; `arena`: another one than the default arena of the heap. The\n"
"bytes of the block can be stored to at once, through `Heap.view`.");

/* The slow twin with all arguments, as they were given. */
static PyObject *call_by_name(PyObject *object, PyObject *name, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *method = PyObject_GetAttr(object, name), *tuple = PyTuple_New(count), *keywords = PyDict_New();
    PyObject *result = NULL;
    int failed = method == NULL || tuple == NULL || keywords == NULL;

    for (Py_ssize_t i = 0; !failed && i < count; i++)
        failed = PyTuple_SetItem(tuple, i, Py_NewRef(args[i])) < 0;
    for (Py_ssize_t i = 0; !failed && names != NULL && i < PyTuple_Size(names); i++)
        failed = PyDict_SetItem(keywords, PyTuple_GetItem(names, i), args[count + i]) < 0;
    if (!failed)
        result = PyObject_Call(method, tuple, keywords);
    Py_XDECREF(method);
    Py_XDECREF(tuple);
    Py_XDECREF(keywords);
    return result;
}

static PyObject *tx_malloc(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct tx_object *self = tx_of(object);
    uint64_t size;

    if (count == 1 && names == NULL && is_usable(self) && read_number(args[0], &size) && size != 0
        && size <= PH_SIZE_MAX) {
        int64_t offset = ph_tx_malloc(&self->tx, 0, size, PH_GRANULE);
        if (offset >= 0)
            return PyLong_FromLongLong(offset);
    }
    return call_by_name(object, ph_slow.tx_malloc, args, count, names);
}

PyDoc_STRVAR(free_doc,
"free($self, /, block, deferred=False)\n--\n\n"
"Free a block, by offset or handle, when the transaction commits.\n\n"
"Parameters\n----------\n"
"block : int or Block\n    Offset or handle.\n"
"deferred : bool, optional\n    Free also with live views, as `Heap.free` does.\n\n"
"Raises\n------\n"
"UsageError\n    No live block begins there, or it was freed in this transaction.\n"
"BufferError\n    Views of it are alive, or another transaction uses it. Nothing has changed.");

static PyObject *tx_free(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct tx_object *self = tx_of(object);
    uint64_t offset;

    if (count == 1 && names == NULL && is_usable(self) && PyLong_Check(args[0]) && read_number(args[0], &offset)
        && ph_tx_free(&self->tx, offset) == 0)
        Py_RETURN_NONE;
    return call_by_name(object, ph_slow.tx_free, args, count, names);
}

PyDoc_STRVAR(write_doc,
"write($self, offset, data, /)\n--\n\n"
"Store bytes when the transaction commits; at once in a block that it has allocated.\n\n"
"Parameters\n----------\n"
"offset : int\n    Anywhere in a live block.\n"
"data : buffer\n    Copied now. It has to fit into the block.\n\n"
"Raises\n------\n"
"UsageError\n    The range does not lie inside of one live block. Nothing has changed.\n"
"BufferError\n    Another transaction is about to free the block.\n\n"
"Notes\n-----\nThe first write waits until no other transaction changes committed bytes.");

static PyObject *tx_write(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct tx_object *self = tx_of(object);
    uint64_t offset;
    Py_buffer data;
    int failed = PH_T_ENDED;

    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "write() takes 2 arguments (%zd given)", count);
    if (PyObject_GetBuffer(args[1], &data, PyBUF_CONTIG_RO) < 0) /* first: it may call Python */
        return NULL;
    if (is_usable(self) && ph_tx_is_writer(self) && read_number(args[0], &offset))
        failed = ph_tx_write(&self->tx, offset, data.buf, (uint64_t)data.len);
    PyBuffer_Release(&data);
    if (failed == 0)
        Py_RETURN_NONE;
    return PyObject_CallMethodObjArgs(object, ph_slow.tx_write, args[0], args[1], NULL);
}

DOOR(try_malloc, tx_object, 3, code(is_begun(self) ? ph_tx_malloc(&self->tx, n[0], n[1], n[2]) : PH_T_ENDED))

PyDoc_STRVAR(own_doc, "_own($self, offset, /)\n--\n\nTake a block that was reserved outside, or give it back and say why not.");

static int64_t own_or_disown(struct tx_object *self, uint64_t offset)
{
    int failed = is_begun(self) ? ph_tx_own(&self->tx, offset) : PH_T_ENDED;
    if (failed < 0)
        ph_tx_disown(self->tx.log, offset);
    return failed;
}

DOOR(own, tx_object, 1, code(own_or_disown(self, n[0])))

DOOR(try_free, tx_object, 2,
     code(is_begun(self) ? (n[1] ? ph_tx_free_deferred : ph_tx_free)(&self->tx, n[0]) : PH_T_ENDED))

static PyObject *try_write(PyObject *object, PyObject *args)
{
    unsigned long long offset;
    Py_buffer data;

    if (!PyArg_ParseTuple(args, "Ky*", &offset, &data))
        return NULL;
    int failed = is_begun(tx_of(object)) ? ph_tx_write(&tx_of(object)->tx, offset, data.buf, (uint64_t)data.len) : PH_T_ENDED;
    PyBuffer_Release(&data);
    return PyLong_FromLong(failed);
}

PyDoc_STRVAR(carry_doc,
"_carry($self, offset, length, to, /)\n--\n\n"
"Store what was collected for a range of one block to another block; a negative code if that is not one of its own.");

static int64_t carry_over(struct tx_object *self, uint64_t offset, uint64_t length, uint64_t to)
{
    struct ph_tx_aim aim;
    int failed = is_begun(self) ? ph_tx_aim(&self->tx, to, length, &aim) : PH_T_ENDED;
    if (failed == 0 && !aim.fresh)
        failed = PH_H_BAD_OFFSET;
    if (failed == 0)
        ph_tx_carry(&self->tx, offset, length, to);
    return failed;
}

DOOR(carry, tx_object, 3, code(carry_over(self, n[0], n[1], n[2])))

PyDoc_STRVAR(snapshot_doc,
"_snapshot($self, offset, length, /)\n--\n\nAppend the UNDO record; the LSN that must be durable before the bytes change, or 0.");

static int64_t append_undo(struct tx_object *self, uint64_t offset, uint64_t length)
{
    int64_t end = is_begun(self) ? ph_tx_snapshot(&self->tx, offset, length) : PH_T_ENDED;
    if (end > 0 && self->tx.log->power && PH_KEPT(R18) /* [R18] lazy or not */
        && ph_log_sync(self->log, (uint64_t)end) < 0)
        end = PH_L_DEAD;
    return end;
}

DOOR(snapshot, tx_object, 2, code(append_undo(self, n[0], n[1])))

DOOR(savepoint, tx_object, 0, code(is_begun(self) ? ph_tx_savepoint(&self->tx) : PH_T_ENDED))

static int has_savepoints(const struct tx_object *self)
{
    return is_begun(self) && self->tx.savepoints.count != 0;
}

DOOR(release_savepoint, tx_object, 0, has_savepoints(self) ? ph_tx_release_savepoint(&self->tx) : (void)0, done())

DOOR(rollback, tx_object, 0, has_savepoints(self) ? ph_tx_rollback(&self->tx) : (void)0, done())

PyMethodDef ph_tx_call_methods[] = {
    {"malloc", (PyCFunction)(void (*)(void))tx_malloc, METH_FASTCALL | METH_KEYWORDS, malloc_doc},
    {"free", (PyCFunction)(void (*)(void))tx_free, METH_FASTCALL | METH_KEYWORDS, free_doc},
    {"write", (PyCFunction)(void (*)(void))tx_write, METH_FASTCALL, write_doc},
    AS_METHOD("_try_malloc", try_malloc, NULL),
    AS_METHOD("_own", own, own_doc),
    AS_METHOD("_try_free", try_free, NULL),
    {"_try_write", try_write, METH_VARARGS, NULL},
    AS_METHOD("_carry", carry, carry_doc),
    AS_METHOD("_snapshot", snapshot, snapshot_doc),
    AS_METHOD("_savepoint", savepoint, NULL),
    AS_METHOD("_release_savepoint", release_savepoint, NULL),
    AS_METHOD("_rollback", rollback, NULL),
    {NULL, NULL, 0, NULL},
};
