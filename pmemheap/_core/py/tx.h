/* py/tx.h -- TxCore: what the files of the type share. */
#pragma once
#include "py/door.h"
#include "py/heap_calls.h"

struct tx_object {
    PyObject_HEAD
    struct ph_tx tx;
    struct log_object *log;
    PyObject *heap;         /* HeapCore, or None: of a transaction that the heap makes for itself */
    PyObject *roots;        /* dict of pending roots, NULL without any */
    PyObject *savepoints;   /* list of open savepoints, NULL before the first */
    struct tx_object *next, **link; /* the open transactions of the log */
    unsigned long thread;   /* the one that may use it */
    int state;
    int writer;             /* it holds the writer's lock: committed bytes may be changed */
    char durable;
};

static inline struct tx_object *tx_of(PyObject *object)
{
    return (struct tx_object *)object;
}

static inline int is_usable(const struct tx_object *self)
{
    return self->log != NULL && self->state == PH_X_OPEN && self->thread == PyThread_get_thread_ident()
        && !self->tx.log->dead
        && (self->heap == Py_None || ((struct heap_object *)self->heap)->state == PH_S_OPEN);
}

/* Python code that ran meanwhile, a finalizer, a signal handler, may have ended it. */
static inline int is_begun(const struct tx_object *self)
{
    return self->log != NULL && self->state == PH_X_OPEN && !self->log->log.lost;
}

/* ph_tx_note_writer -- whether it has got the writer's lock. ph_tx_is_writer -- take it, if nobody has it.
 * ph_tx_finish -- the end: other transactions may go on. ph_tx_end -- abort it first, unless it has been committed or aborted. */
void ph_tx_note_writer(struct tx_object *self, int got);
int ph_tx_is_writer(struct tx_object *self);
void ph_tx_finish(struct tx_object *self, int state);
void ph_tx_end(struct tx_object *self);

extern PyMethodDef ph_tx_call_methods[], ph_tx_commit_methods[], ph_tx_look_methods[];
