/* py/log_transactions.c -- what Python asks a log about its open transactions, and the gate before them. */
#include "py/door.h"
#include "py/log.h"

DOOR(current, log_object, 0, ph_tx_current(self))

PyDoc_STRVAR(outer_doc, "outer($self, /)\n--\n\nThe open transaction of this thread, or None; False if it may begin none now.");

static PyObject *outer_of(const struct log_object *self)
{
    PyObject *found = ph_tx_current(self);

    if (found != Py_None || self->gate != PH_GATE_BEGIN)
        return found;
    Py_DECREF(found);
    Py_RETURN_FALSE;
}

DOOR(outer, log_object, 0, outer_of(self))

PyDoc_STRVAR(gate_doc, "gate($self, what, /)\n--\n\nLet nobody begin a transaction (1), or commit one (2), for a moment; 0: let all.");

DOOR(set_gate, log_object, 1, self->gate = (int)n[0], done())

PyDoc_STRVAR(is_committing_doc, "is_committing($self, /)\n--\n\nWhether a commit is under way, in any thread.");

/* One that belongs to no transaction object has the writer's lock for as long as it syncs. */
static int is_under_way(struct log_object *self)
{
    if (ph_tx_is_committing(self))
        return 1;
    if (self->has_writer)
        return 0;
    if (PyThread_acquire_lock(self->writer, NOWAIT_LOCK) != PY_LOCK_ACQUIRED)
        return 1;
    PyThread_release_lock(self->writer);
    return 0;
}

DOOR(is_committing, log_object, 0, truth(is_under_way(self)))

DOOR(begun, log_object, 0, ph_tx_begun(self))
DOOR(is_writer, log_object, 0, truth(ph_tx_writes_here(self)))
DOOR(open_transactions, log_object, 0, ph_tx_list(self))
DOOR(abort_all, log_object, 0, ph_tx_abort_all(self), done())

PyMethodDef ph_log_transaction_methods[] = {
    AS_METHOD("current", current, "The open transaction of this thread, or None."),
    AS_METHOD("outer", outer, outer_doc),
    AS_METHOD("gate", set_gate, gate_doc),
    AS_METHOD("is_committing", is_committing, is_committing_doc),
    AS_METHOD("open_transactions", open_transactions, NULL),
    AS_METHOD("begun", begun, "Threads that have begun the open transactions, each as often as it has."),
    AS_METHOD("is_writer", is_writer, "Whether the open transaction of this thread may change committed bytes."),
    AS_METHOD("abort_all", abort_all, "Abort what is open, before the heap goes."),
    {NULL, NULL, 0, NULL},
};
