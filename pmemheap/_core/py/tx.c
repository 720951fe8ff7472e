/* py/tx.c -- TxCore: the calls of a transaction that C answers alone; `Transaction` derives from it. Its methods stand in the
 * other files. */
#include "py/tx.h"

#include <stddef.h>
#include <structmember.h>

enum { PH_WRITER_WAIT = 50000 }; /* microseconds between two looks for signals */

static int tx_init(PyObject *object, PyObject *args, PyObject *keywords)
{
    struct tx_object *self = tx_of(object);
    PyObject *heap, *log;
    int durable;

    if (keywords != NULL || !PyArg_ParseTuple(args, "OOp", &heap, &log, &durable))
        return -1;
    if (!ph_is_log(log) || self->log != NULL) {
        PyErr_Format(PyExc_TypeError, "TxCore: a heap and its LogCore expected, once");
        return -1;
    }
    self->log = (struct log_object *)Py_NewRef(log);
    self->heap = Py_NewRef(heap);
    self->thread = PyThread_get_thread_ident();
    self->durable = (char)durable;
    ph_tx_start(&self->tx, &self->log->log, &self->log->spare);
    self->next = self->log->open;
    self->link = &self->log->open;
    if (self->next != NULL)
        self->next->link = &self->next;
    self->log->open = self;
    if (heap != Py_None) /* a sync of another thread may have said meanwhile that nothing goes on; now it would not */
        ph_may_change((struct heap_object *)heap);
    return PyErr_Occurred() ? -1 : 0;
}

PyDoc_STRVAR(wait_writer_doc, "_wait_writer($self, /)\n--\n\nWait until no other transaction changes committed bytes.");

static PyObject *wait_writer(PyObject *object, PyObject *ignored)
{
    struct tx_object *self = tx_of(object);

    (void)ignored;
    while (is_begun(self) && !ph_tx_is_writer(self)) {
        int got;
        Py_BEGIN_ALLOW_THREADS
        got = PyThread_acquire_lock_timed(self->log->writer, PH_WRITER_WAIT, 0) == PY_LOCK_ACQUIRED;
        Py_END_ALLOW_THREADS
        if (got && !is_begun(self)) /* another thread has ended it meanwhile */
            PyThread_release_lock(self->log->writer);
        else
            ph_tx_note_writer(self, got);
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(finish_doc, "_finish($self, /)\n--\n\nAbort what is still open, and let other transactions go on.");

DOOR(finish_tx, tx_object, 0, self->log != NULL ? ph_tx_end(self) : (void)0, done())

static void note_durable(struct ph_tx *tx, uint64_t changes, uint64_t least)
{
    tx->fresh_durable = changes;
    tx->durable_least = least;
}

DOOR(set_fresh_durable, tx_object, 2, note_durable(&self->tx, n[0], n[1]), done())

static void tx_dealloc(PyObject *object)
{
    struct tx_object *self = tx_of(object);

    if (self->log != NULL) {
        ph_tx_end(self);
        ph_tx_leave(&self->tx, &self->log->spare);
        Py_DECREF(self->log);
        Py_DECREF(self->heap);
    }
    Py_XDECREF(self->roots);
    Py_XDECREF(self->savepoints);
    ph_free_object(object);
}

static PyMethodDef own_methods[] = {
    {"_wait_writer", wait_writer, METH_NOARGS, wait_writer_doc},
    AS_METHOD("_finish", finish_tx, finish_doc),
    AS_METHOD("_set_fresh_durable", set_fresh_durable, "Note that as many changes of fresh blocks were synced, of blocks with so many bytes at least."),
    {NULL, NULL, 0, NULL},
};

static PyMemberDef tx_members[] = {
    {"_heap", T_OBJECT, offsetof(struct tx_object, heap), READONLY, NULL},
    {"_durable", T_BOOL, offsetof(struct tx_object, durable), READONLY, NULL},
    {"_pending_roots", T_OBJECT, offsetof(struct tx_object, roots), 0, NULL},
    {"_savepoints", T_OBJECT, offsetof(struct tx_object, savepoints), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot tx_slots[] = {
    {Py_tp_doc, (void *)"TxCore()\n--\n\nThe calls of a transaction that C answers alone; `Transaction` derives from it."},
    {Py_tp_init, tx_init},
    {Py_tp_dealloc, tx_dealloc},
    {Py_tp_methods, NULL}, /* filled in by ph_add_tx_type */
    {Py_tp_members, tx_members},
    {0, NULL},
};

static PyType_Spec tx_spec = {
    .name = "pmemheap._core._hot.TxCore",
    .basicsize = sizeof(struct tx_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = tx_slots,
};

int ph_add_tx_type(PyObject *module)
{
    static PyMethodDef methods[64];
    const PyMethodDef *const tables[] = {ph_tx_call_methods, ph_tx_commit_methods, ph_tx_look_methods, own_methods, NULL};

    tx_slots[3].pfunc = ph_join_methods(methods, tables);
    return ph_add_type(module, "TxCore", &tx_spec);
}
