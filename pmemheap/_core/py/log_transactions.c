/* py/log_transactions.c -- what Python asks a log about its open transactions, and the gate before them. */
#include "py/log.h"

static PyObject *current(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return ph_tx_current((struct log_object *)object);
}

PyDoc_STRVAR(outer_doc, "outer()\n--\n\nThe open transaction of this thread, or None; False if it may begin none now.");

static PyObject *outer(PyObject *object, PyObject *ignored)
{
    PyObject *found = current(object, ignored);

    if (found != Py_None || ((struct log_object *)object)->gate != PH_GATE_BEGIN)
        return found;
    Py_DECREF(found);
    Py_RETURN_FALSE;
}

PyDoc_STRVAR(gate_doc, "gate(what, /)\n--\n\nLet nobody begin a transaction (1), or commit one (2), for a moment; 0: let all.");

static PyObject *set_gate(PyObject *object, PyObject *argument)
{
    long what = PyLong_AsLong(argument);

    if (what == -1 && PyErr_Occurred())
        return NULL;
    ((struct log_object *)object)->gate = (int)what;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_committing_doc, "is_committing()\n--\n\nWhether a commit is under way, in any thread.");

/* One that belongs to no transaction object has the writer's lock for as long as it syncs. */
static PyObject *is_committing(PyObject *object, PyObject *ignored)
{
    struct log_object *self = (struct log_object *)object;
    int is_under_way = ph_tx_is_committing(self);

    (void)ignored;
    if (!is_under_way && !self->has_writer) {
        is_under_way = PyThread_acquire_lock(self->writer, NOWAIT_LOCK) != PY_LOCK_ACQUIRED;
        if (!is_under_way)
            PyThread_release_lock(self->writer);
    }
    return PyBool_FromLong(is_under_way);
}

static PyObject *begun(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return ph_tx_begun((struct log_object *)object);
}

static PyObject *is_at_work(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyBool_FromLong(ph_tx_is_open((struct log_object *)object));
}

static PyObject *is_writer(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyBool_FromLong(ph_tx_writes_here((struct log_object *)object));
}

static PyObject *open_transactions(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return ph_tx_list((struct log_object *)object);
}

static PyObject *abort_all(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    ph_tx_abort_all((struct log_object *)object);
    Py_RETURN_NONE;
}

PyMethodDef ph_log_transaction_methods[] = {
    {"current", current, METH_NOARGS, "The open transaction of this thread, or None."},
    {"outer", outer, METH_NOARGS, outer_doc},
    {"gate", set_gate, METH_O, gate_doc},
    {"is_committing", is_committing, METH_NOARGS, is_committing_doc},
    {"open_transactions", open_transactions, METH_NOARGS, NULL},
    {"begun", begun, METH_NOARGS, "Threads that have begun the open transactions, each as often as it has."},
    {"is_writer", is_writer, METH_NOARGS, "Whether the open transaction of this thread may change committed bytes."},
    {"is_at_work", is_at_work, METH_NOARGS, "Whether a transaction is open that was not committed."},
    {"abort_all", abort_all, METH_NOARGS, "Abort what is open, before the heap goes."},
    {NULL, NULL, 0, NULL},
};
