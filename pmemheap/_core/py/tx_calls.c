/* py/tx_calls.c -- blocks, bytes and savepoints of a transaction. As with HeapCore, what C cannot answer goes to the slow twin. */
#include "py/tx.h"

PyDoc_STRVAR(malloc_doc,
"malloc(size, align=16, arena=None)\n--\n\n"
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
"free(block, deferred=False)\n--\n\n"
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
"write(offset, data)\n--\n\n"
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

static PyObject *try_malloc(PyObject *object, PyObject *args)
{
    unsigned long long arena, size, align;

    if (!PyArg_ParseTuple(args, "KKK", &arena, &size, &align))
        return NULL;
    if (!is_begun(tx_of(object)))
        return PyLong_FromLong(PH_T_ENDED);
    return PyLong_FromLongLong(ph_tx_malloc(&tx_of(object)->tx, arena, size, align));
}

PyDoc_STRVAR(own_doc, "_own(offset, /)\n--\n\nTake a block that was reserved outside, or give it back and say why not.");

static PyObject *own(PyObject *object, PyObject *argument)
{
    struct tx_object *self = tx_of(object);
    unsigned long long offset = PyLong_AsUnsignedLongLong(argument);

    if (PyErr_Occurred())
        return NULL;
    int failed = is_begun(self) ? ph_tx_own(&self->tx, offset) : PH_T_ENDED;
    if (failed < 0)
        ph_tx_disown(self->tx.log, offset);
    return PyLong_FromLong(failed);
}

static PyObject *try_free(PyObject *object, PyObject *args)
{
    struct ph_tx *tx = &tx_of(object)->tx;
    unsigned long long offset;
    int deferred = 0;

    if (!PyArg_ParseTuple(args, "K|p", &offset, &deferred))
        return NULL;
    if (!is_begun(tx_of(object)))
        return PyLong_FromLong(PH_T_ENDED);
    return PyLong_FromLong(deferred ? ph_tx_free_deferred(tx, offset) : ph_tx_free(tx, offset));
}

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
"_carry(offset, length, to, /)\n--\n\n"
"Store what was collected for a range of one block to another block; a negative code if that is not one of its own.");

static PyObject *carry(PyObject *object, PyObject *args)
{
    unsigned long long offset, length, to;

    if (!PyArg_ParseTuple(args, "KKK", &offset, &length, &to))
        return NULL;
    struct ph_tx *tx = &tx_of(object)->tx;
    struct ph_tx_aim aim;
    int code = is_begun(tx_of(object)) ? ph_tx_aim(tx, to, length, &aim) : PH_T_ENDED;
    if (code == 0 && !aim.fresh)
        code = PH_H_BAD_OFFSET;
    if (code == 0)
        ph_tx_carry(tx, offset, length, to);
    return PyLong_FromLong(code);
}

PyDoc_STRVAR(snapshot_doc,
"_snapshot(offset, length, /)\n--\n\nAppend the UNDO record; the LSN that must be durable before the bytes change, or 0.");

static PyObject *snapshot(PyObject *object, PyObject *args)
{
    struct tx_object *self = tx_of(object);
    unsigned long long offset, length;

    if (!PyArg_ParseTuple(args, "KK", &offset, &length))
        return NULL;
    int64_t end = is_begun(self) ? ph_tx_snapshot(&self->tx, offset, length) : PH_T_ENDED;
    if (end > 0 && self->tx.log->power && PH_KEPT(R18) /* [R18] lazy or not */
        && ph_log_sync(self->log, (uint64_t)end) < 0)
        end = PH_L_DEAD;
    return PyLong_FromLongLong(end);
}

static PyObject *savepoint(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromLong(is_begun(tx_of(object)) ? ph_tx_savepoint(&tx_of(object)->tx) : PH_T_ENDED);
}

static PyObject *release_savepoint(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    if (is_begun(tx_of(object)) && tx_of(object)->tx.savepoints.count != 0)
        ph_tx_release_savepoint(&tx_of(object)->tx);
    Py_RETURN_NONE;
}

static PyObject *rollback(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    if (is_begun(tx_of(object)) && tx_of(object)->tx.savepoints.count != 0)
        ph_tx_rollback(&tx_of(object)->tx);
    Py_RETURN_NONE;
}

PyMethodDef ph_tx_call_methods[] = {
    {"malloc", (PyCFunction)(void (*)(void))tx_malloc, METH_FASTCALL | METH_KEYWORDS, malloc_doc},
    {"free", (PyCFunction)(void (*)(void))tx_free, METH_FASTCALL | METH_KEYWORDS, free_doc},
    {"write", (PyCFunction)(void (*)(void))tx_write, METH_FASTCALL, write_doc},
    {"_try_malloc", try_malloc, METH_VARARGS, NULL},
    {"_own", own, METH_O, own_doc},
    {"_try_free", try_free, METH_VARARGS, NULL},
    {"_try_write", try_write, METH_VARARGS, NULL},
    {"_carry", carry, METH_VARARGS, carry_doc},
    {"_snapshot", snapshot, METH_VARARGS, snapshot_doc},
    {"_savepoint", savepoint, METH_NOARGS, NULL},
    {"_release_savepoint", release_savepoint, METH_NOARGS, NULL},
    {"_rollback", rollback, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
