/* py/tx_list.c -- the open transactions of a log: who may change committed bytes, and how one ends. */
#include "py/tx.h"

void ph_tx_note_writer(struct tx_object *self, int got)
{
    self->writer = got;
    if (got)
        self->log->has_writer = 1;
}

int ph_tx_is_writer(struct tx_object *self)
{
    if (!self->writer)
        ph_tx_note_writer(self, PyThread_acquire_lock(self->log->writer, NOWAIT_LOCK));
    return self->writer;
}

void ph_tx_finish(struct tx_object *self, int state)
{
    self->state = state;
    if (self->link != NULL) {
        *self->link = self->next;
        if (self->next != NULL)
            self->next->link = self->link;
        self->link = NULL;
    }
    if (self->writer) {
        self->log->has_writer = 0;
        PyThread_release_lock(self->log->writer);
    }
    self->writer = 0;
}

void ph_tx_end(struct tx_object *self)
{
    if (self->state == PH_X_OPEN && !self->log->log.lost)
        ph_tx_abort(&self->tx);
    ph_tx_finish(self, self->state == PH_X_OPEN ? PH_X_ABORTED : self->state);
}

void ph_tx_abort_all(struct log_object *log)
{
    while (log->open != NULL)
        ph_tx_end(log->open);
}

/* One that is dropped is in the list still when the callbacks of its weak references run. */
static int is_alive(struct tx_object *one)
{
    return Py_REFCNT((PyObject *)one) > 0;
}

PyObject *ph_tx_current(const struct log_object *log)
{
    unsigned long thread = PyThread_get_thread_ident();
    for (struct tx_object *one = log->open; one != NULL; one = one->next)
        if (one->thread == thread && one->heap != Py_None && is_alive(one))
            return Py_NewRef((PyObject *)one);
    Py_RETURN_NONE;
}

int ph_tx_is_committing(const struct log_object *log)
{
    for (const struct tx_object *one = log->open; one != NULL; one = one->next)
        if (one->state == PH_X_COMMITTED)
            return 1;
    return 0;
}

struct ph_tx *ph_tx_here(const struct log_object *log, int to_change, int *busy)
{
    unsigned long thread = log->open == NULL ? 0 : PyThread_get_thread_ident();
    for (struct tx_object *one = log->open; one != NULL; one = one->next) {
        if (one->thread != thread || one->heap == Py_None || !is_alive(one) || !is_usable(one))
            continue;
        *busy = to_change && !ph_tx_is_writer(one);
        return &one->tx;
    }
    return NULL;
}

PyObject *ph_tx_list(const struct log_object *log)
{
    PyObject *list = PyList_New(0);
    for (struct tx_object *one = log->open; list != NULL && one != NULL; one = one->next)
        if (is_alive(one) && PyList_Append(list, (PyObject *)one) < 0)
            Py_CLEAR(list);
    return list;
}

PyObject *ph_tx_begun(const struct log_object *log)
{
    int was_on = ph_hold_collector();
    PyObject *list = PyList_New(0);
    for (struct tx_object *one = log->open; list != NULL && one != NULL; one = one->next)
        if (one->heap != Py_None && is_alive(one) && ph_append_new(list, PyLong_FromUnsignedLong(one->thread)) < 0)
            Py_CLEAR(list);
    ph_let_collector(was_on);
    return list;
}

int ph_tx_writes_here(const struct log_object *log)
{
    unsigned long thread = PyThread_get_thread_ident();
    for (struct tx_object *one = log->open; one != NULL; one = one->next)
        if (one->thread == thread && one->heap != Py_None && is_alive(one))
            return one->writer;
    return 0;
}

int ph_tx_is_open(const struct log_object *log)
{
    for (struct tx_object *one = log->open; one != NULL; one = one->next)
        if (one->state == PH_X_OPEN && is_alive(one))
            return 1;
    return 0;
}
