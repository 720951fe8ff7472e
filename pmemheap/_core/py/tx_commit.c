/* py/tx_commit.c -- commits: of a transaction with an object, and of one that begins and ends within a call. */
#include "py/tx.h"

/* Append the record, and wait until it is durable where it has to be: the LSN behind it, or a negative code. `state`
 * says that it was appended, before the wait. One that has nothing to append is a durable point all the same: of what
 * was committed before. */
static int64_t append_and_wait(struct log_object *object, struct ph_tx *tx, const void *operations, uint64_t length,
                               uint16_t count, int durable, int *state)
{
    struct ph_log *log = tx->log;
    int awaited = log->power && (durable || ph_tx_changes_homes(tx));
    if (awaited && ph_log_is_gone(log))
        return PH_L_GONE;
    log->awaited = (uint8_t)awaited;
    int64_t end = ph_tx_commit(tx, operations, length, count);
    log->awaited = 0;
    if (end < 0)
        return end;
    *state = PH_X_COMMITTED;
    if (log->dead)
        return PH_L_DEAD;
    if (awaited && ph_log_sync(object, end > 0 ? (uint64_t)end : log->head) < 0)
        end = PH_L_DEAD;
    ph_tx_unpin_changes(tx);
    return end;
}

static int64_t commit_now(struct tx_object *self, const void *operations, uint64_t length, uint16_t count, int durable)
{
    if (!is_begun(self))
        return PH_T_ENDED;
    if (self->log->gate == PH_GATE_COMMIT && self->heap != Py_None)
        return PH_L_GATED;
    return append_and_wait(self->log, &self->tx, operations, length, count, durable, &self->state);
}

PyDoc_STRVAR(commit_doc,
"_commit($self, operations, count, durable, /)\n--\n\n"
"Append the record, with encoded operations of others in it, and wait until it is durable where it has to be.\n"
"Returns the LSN behind it, or a negative code with nothing changed (PH_L_DEAD: the outcome is unknown).");

static PyObject *commit(PyObject *object, PyObject *args)
{
    PyObject *bytes;
    char *operations;
    Py_ssize_t length;
    unsigned int count;
    int durable;

    if (!PyArg_ParseTuple(args, "SIp", &bytes, &count, &durable)
        || PyBytes_AsStringAndSize(bytes, &operations, &length) < 0)
        return NULL;
    return PyLong_FromLongLong(commit_now(tx_of(object), operations, (uint64_t)length, (uint16_t)count, durable));
}

/* Whether a record carries all the new bytes. */
static int is_inline(const struct ph_tx *tx)
{
    const struct ph_log *log = tx->log;
    uint64_t most = log->size / 4 < PH_INLINE_MOST ? log->size / 4 : PH_INLINE_MOST;
    return !log->power || (tx->fresh_bytes <= most && tx->long_bytes == 0);
}

/* Whether C can commit alone: nothing but blocks and bytes, and no more new bytes than a record carries. */
static int is_plain(const struct tx_object *self)
{
    return is_usable(self) && self->heap != Py_None && self->roots == NULL
        && (self->savepoints == NULL || PyList_Size(self->savepoints) == 0) && is_inline(&self->tx);
}

/* After a commit that `end` tells of: 1, or -1 with an exception set. */
static int after_commit(PyObject *heap, const struct ph_log *log, int64_t end)
{
    ph_count_withheld(&((struct heap_object *)heap)->heap);
    if (end >= 0 && log->head - log->tail <= log->size / 2)
        return 1;
    PyObject *done = ph_call_slow(heap, end < 0 ? ph_slow.raise_died : ph_slow.log_upkeep, NULL, NULL, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 1;
}

/* 1: committed; 0: Python has to; -1: an exception is set. */
static int ph_tx_commit_plain(struct tx_object *self)
{
    int64_t end = is_plain(self) ? commit_now(self, NULL, 0, 0, self->durable) : PH_L_FULL;

    if (end < 0 && self->state == PH_X_OPEN)
        return 0;
    ph_tx_finish(self, PH_X_COMMITTED);
    return after_commit(self->heap, self->tx.log, end);
}

/* Without a sync the GIL is kept from the first change to the end: then it is enough that nobody else changes anything,
 * and the lock, which costs a tenth of a call, stays where it is. */
static int lock_alone(struct log_object *log)
{
    return log->log.power ? PyThread_acquire_lock(log->writer, NOWAIT_LOCK) : !log->has_writer;
}

static void unlock_alone(struct log_object *log)
{
    if (log->log.power)
        PyThread_release_lock(log->writer);
}

int ph_begin_autocommit(PyObject *heap, struct ph_tx *tx)
{
    struct log_object *log = (struct log_object *)((struct heap_object *)heap)->log;
    if (log == NULL || log->log.dead || ((struct heap_object *)heap)->state != PH_S_OPEN
        || log->gate != PH_GATE_OPEN || !lock_alone(log))
        return 0;
    if (tx->log != &log->log) {
        ph_tx_fini(tx);
        ph_tx_init(tx, &log->log);
    } else {
        ph_tx_restart(tx);
    }
    tx->is_brief = !log->log.power; /* see lock_alone */
    return 1;
}

int ph_end_autocommit(PyObject *heap, struct ph_tx *tx, int keeps)
{
    PyObject *log = Py_NewRef(((struct heap_object *)heap)->log);
    int state = PH_X_OPEN;
    int64_t end = PH_L_FULL;
    if (keeps && is_inline(tx))
        end = append_and_wait((struct log_object *)log, tx, NULL, 0, 0, 1, &state);
    if (state == PH_X_OPEN)
        ph_tx_abort(tx);
    unlock_alone((struct log_object *)log);
    int done = state == PH_X_OPEN ? 0 : after_commit(heap, tx->log, end);
    Py_DECREF(log);
    return done;
}

static PyObject *tx_enter(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return Py_NewRef(object);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, kind, value, traceback, /)\n--\n\nCommit, or abort when an exception leaves the block.");

static PyObject *tx_exit(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct tx_object *self = tx_of(object);
    int done = 0;

    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "__exit__() takes 3 arguments (%zd given)", count);
    if (self->state != PH_X_OPEN)
        Py_RETURN_NONE;
    if (args[0] == Py_None)
        done = ph_tx_commit_plain(self);
    if (done != 0)
        return done < 0 ? NULL : Py_NewRef(Py_None);
    return PyObject_CallMethodObjArgs(object, ph_slow.tx_exit, args[0], NULL);
}

PyMethodDef ph_tx_commit_methods[] = {
    {"__enter__", tx_enter, METH_NOARGS, "Return itself."},
    {"__exit__", (PyCFunction)(void (*)(void))tx_exit, METH_FASTCALL, exit_doc},
    {"_commit", commit, METH_VARARGS, commit_doc},
    {NULL, NULL, 0, NULL},
};
