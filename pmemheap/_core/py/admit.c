/* py/admit.c -- what is done for a call before it goes on, and behind it. */
#include "py/admit.h"
#include "py/heap_calls.h"

static PyObject *tell_slow(struct heap_object *self, PyObject *name)
{
    return ph_call_slow((PyObject *)self, name, NULL, NULL, NULL);
}

/* What refused is asked again, and says so then; an interrupt comes once, and stays. */
static void forget_refusal(void)
{
    if (PyErr_ExceptionMatches(PyExc_Exception))
        PyErr_Clear();
}

int ph_mark_in_use(struct heap_object *self)
{
    if (PyErr_Occurred())
        return 0;
    PyObject *done = tell_slow(self, ph_slow.mark_in_use);
    if (done == NULL)
        forget_refusal();
    Py_XDECREF(done);
    return self->state == PH_S_OPEN && done != NULL;
}

int ph_attach_tables(struct heap_object *self)
{
    PyObject *done = self->state == PH_S_UNATTACHED ? tell_slow(self, ph_slow.become_attached)
                                                    : Py_NewRef(Py_None);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int ph_may_ask(struct heap_object *self)
{
    if (ph_attach_tables(self) < 0)
        forget_refusal();
    return self->state <= PH_S_READONLY && !PyErr_Occurred();
}

PyObject *ph_refusal_of_free(struct heap_object *self, PyObject *offset_given)
{
    uint64_t offset;

    if (ph_may_change(self) && read_number(offset_given, &offset))
        return PyLong_FromLong(ph_free_refusal(&self->heap, ph_inner(self, offset)));
    return PyErr_Occurred() ? NULL : PyLong_FromLong(self->state == PH_S_OPEN ? PH_H_BAD_OFFSET : PH_FREES_NOTHING);
}

int ph_append_told(struct heap_object *self)
{
    if (self->log == NULL || (self->heap.dirty.count == 0 && self->heap.freed.count == 0))
        return 0;
    struct ph_log *log = log_of(self);
    ph_count_withheld(&self->heap);
    if (ph_log_flush(log, arena_of(self)) >= 0 && log->head - log->tail <= log->size / 2)
        return 0;
    if (self->state == PH_S_READONLY)
        return 0;
    PyObject *done = tell_slow(self, ph_slow.log_upkeep);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}
