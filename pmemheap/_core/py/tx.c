/* py/tx.c -- TxCore: the calls of a transaction that C answers alone; `Transaction` derives from it.
 *
 * As with HeapCore, what C cannot answer, a missing run, a bad argument, the writer's lock, goes to the slow twin
 * of the method, which Python defines and which answers or raises. */
#include "py/log.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

enum { PH_WRITER_WAIT = 50000 }; /* microseconds between two looks for signals */

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

static struct {
    PyObject *malloc, *free, *write, *exit, *died, *log_upkeep;
} slow;

static struct tx_object *tx_of(PyObject *object)
{
    return (struct tx_object *)object;
}

static int is_usable(const struct tx_object *self)
{
    return self->log != NULL && self->state == PH_X_OPEN && self->thread == PyThread_get_thread_ident()
        && !self->tx.log->dead
        && (self->heap == Py_None || ((struct heap_object *)self->heap)->state == PH_S_OPEN);
}

/* Python code that ran meanwhile, a finalizer, a signal handler, may have ended it. */
static int is_begun(const struct tx_object *self)
{
    return self->log != NULL && self->state == PH_X_OPEN && !self->log->log.lost;
}

static void note_writer(struct tx_object *self, int got)
{
    self->writer = got;
    if (got)
        self->log->has_writer = 1;
}

/* The writer's lock, if nobody has it. */
static int is_writer(struct tx_object *self)
{
    if (!self->writer)
        note_writer(self, PyThread_acquire_lock(self->log->writer, NOWAIT_LOCK));
    return self->writer;
}

/* The end: other transactions may go on. */
static void finish(struct tx_object *self, int state)
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

/* Abort it, unless it has been committed or aborted. */
static void end(struct tx_object *self)
{
    if (self->state == PH_X_OPEN && !self->log->log.lost)
        ph_tx_abort(&self->tx);
    finish(self, self->state == PH_X_OPEN ? PH_X_ABORTED : self->state);
}

void ph_tx_abort_all(struct log_object *log)
{
    while (log->open != NULL)
        end(log->open);
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
        *busy = to_change && !is_writer(one);
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

static int read_number(PyObject *object, uint64_t *number)
{
    *number = PyLong_AsUnsignedLongLong(object);
    if (*number != (uint64_t)-1 || !PyErr_Occurred())
        return 1;
    PyErr_Clear();
    return 0;
}

/* ---------------------------------------------------------------- what C answers alone */

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
    return call_by_name(object, slow.malloc, args, count, names);
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
    return call_by_name(object, slow.free, args, count, names);
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
    if (is_usable(self) && is_writer(self) && read_number(args[0], &offset))
        failed = ph_tx_write(&self->tx, offset, data.buf, (uint64_t)data.len);
    PyBuffer_Release(&data);
    if (failed == 0)
        Py_RETURN_NONE;
    return PyObject_CallMethodObjArgs(object, slow.write, args[0], args[1], NULL);
}

/* ---------------------------------------------------------------- for the subclass */

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
    ph_tx_init(&self->tx, &self->log->log);
    self->next = self->log->open;
    self->link = &self->log->open;
    if (self->next != NULL)
        self->next->link = &self->next;
    self->log->open = self;
    return 0;
}

PyDoc_STRVAR(wait_writer_doc, "_wait_writer()\n--\n\nWait until no other transaction changes committed bytes.");

static PyObject *wait_writer(PyObject *object, PyObject *ignored)
{
    struct tx_object *self = tx_of(object);

    (void)ignored;
    while (is_begun(self) && !is_writer(self)) {
        int got;
        Py_BEGIN_ALLOW_THREADS
        got = PyThread_acquire_lock_timed(self->log->writer, PH_WRITER_WAIT, 0) == PY_LOCK_ACQUIRED;
        Py_END_ALLOW_THREADS
        note_writer(self, got);
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *state_of(PyObject *object, PyObject *ignored)
{
    const struct tx_object *self = tx_of(object);

    (void)ignored;
    return Py_BuildValue("iki", self->state, self->thread, self->writer);
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

static PyObject *may_name(PyObject *object, PyObject *argument)
{
    unsigned long long offset = PyLong_AsUnsignedLongLong(argument);

    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromLong(is_begun(tx_of(object)) ? ph_tx_may_name(&tx_of(object)->tx, offset) : PH_T_ENDED);
}

static PyObject *rooted_frees(PyObject *object, PyObject *ignored)
{
    const struct ph_tx *tx = &tx_of(object)->tx;
    const struct ph_tx_block *frees = tx->frees.items;
    PyObject *list = PyList_New(0);

    (void)ignored;
    for (uint64_t i = ph_tx_next_rooted(tx, 0); list != NULL && i < tx->frees.count; i = ph_tx_next_rooted(tx, i + 1)) {
        PyObject *offset = PyLong_FromUnsignedLongLong(frees[i].offset);
        if (offset == NULL || PyList_Append(list, offset) < 0)
            Py_CLEAR(list);
        Py_XDECREF(offset);
    }
    return list;
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
"_carry(offset, length, to, /)\n--\n\nStore what was collected for a range of one block to another block, which is reserved.");

static PyObject *carry(PyObject *object, PyObject *args)
{
    unsigned long long offset, length, to;

    if (!PyArg_ParseTuple(args, "KKK", &offset, &length, &to))
        return NULL;
    if (is_begun(tx_of(object)))
        ph_tx_carry(&tx_of(object)->tx, offset, length, to);
    Py_RETURN_NONE;
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
"_commit(operations, count, durable, /)\n--\n\n"
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
    return !log->power || tx->fresh_bytes <= most;
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
    PyObject *done = PyObject_CallMethodObjArgs(heap, end < 0 ? slow.died : slow.log_upkeep, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 1;
}

/* 1: committed; 0: Python has to; -1: an exception is set. */
static int commit_plain(struct tx_object *self)
{
    int64_t end = is_plain(self) ? commit_now(self, NULL, 0, 0, self->durable) : PH_L_FULL;

    if (end < 0 && self->state == PH_X_OPEN)
        return 0;
    finish(self, PH_X_COMMITTED);
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

PyDoc_STRVAR(exit_doc, "__exit__(kind, value, traceback)\n--\n\nCommit, or abort when an exception leaves the block.");

static PyObject *tx_exit(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct tx_object *self = tx_of(object);
    int done = 0;

    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "__exit__() takes 3 arguments (%zd given)", count);
    if (self->state != PH_X_OPEN)
        Py_RETURN_NONE;
    if (args[0] == Py_None)
        done = commit_plain(self);
    if (done != 0)
        return done < 0 ? NULL : Py_NewRef(Py_None);
    return PyObject_CallMethodObjArgs(object, slow.exit, args[0], NULL);
}

PyDoc_STRVAR(finish_doc, "_finish()\n--\n\nAbort what is still open, and let other transactions go on.");

static PyObject *finish_tx(PyObject *object, PyObject *ignored)
{
    struct tx_object *self = tx_of(object);

    (void)ignored;
    if (self->log != NULL)
        end(self);
    Py_RETURN_NONE;
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

PyDoc_STRVAR(fresh_doc, "_fresh()\n--\n\nBytes reserved, and the reserved blocks as (offset, nbytes).");

static PyObject *fresh(PyObject *object, PyObject *ignored)
{
    const struct ph_tx *tx = &tx_of(object)->tx;
    const struct ph_tx_block *blocks = tx->fresh.items;

    (void)ignored;
    PyObject *list = PyList_New(0);
    for (uint64_t i = 0; list != NULL && i < tx->fresh.count; i++) {
        if (blocks[i].is_cancelled)
            continue;
        PyObject *block = Py_BuildValue("KK", (unsigned long long)blocks[i].offset, (unsigned long long)blocks[i].nbytes);
        if (block == NULL || PyList_Append(list, block) < 0)
            Py_CLEAR(list);
        Py_XDECREF(block);
    }
    return list;
}

PyDoc_STRVAR(snapshots_doc, "_snapshots()\n--\n\nWhat may have to be undone, as (offset, nbytes).");

static PyObject *snapshots(PyObject *object, PyObject *ignored)
{
    const struct ph_tx *tx = &tx_of(object)->tx;
    const struct ph_tx_bytes *kept = tx->snapshots.items;
    PyObject *list = PyList_New(0);

    (void)ignored;
    for (uint64_t i = 0; list != NULL && i < tx->snapshots.count; i++) {
        if (kept[i].fresh)
            continue;
        PyObject *one = Py_BuildValue("KK", (unsigned long long)kept[i].offset, (unsigned long long)kept[i].nbytes);
        if (one == NULL || PyList_Append(list, one) < 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

static PyObject *fresh_bytes(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(tx_of(object)->tx.fresh_bytes);
}

/* About how long the record of the commit will be. */
static PyObject *log_bytes(PyObject *object, PyObject *ignored)
{
    const struct ph_tx *tx = &tx_of(object)->tx;
    uint64_t items = tx->fresh.count + tx->frees.count + tx->writes.count + tx->snapshots.count;

    (void)ignored;
    return PyLong_FromUnsignedLongLong(128 + items * 80 + tx->used + (tx->data_first ? 0 : tx->fresh_bytes));
}

static PyObject *set_data_first(PyObject *object, PyObject *argument)
{
    tx_of(object)->tx.data_first = PyObject_IsTrue(argument) == 1;
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- the type */

static void tx_dealloc(PyObject *object)
{
    struct tx_object *self = tx_of(object);
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    if (self->log != NULL) {
        end(self);
        ph_tx_fini(&self->tx);
        Py_DECREF(self->log);
        Py_DECREF(self->heap);
    }
    Py_XDECREF(self->roots);
    Py_XDECREF(self->savepoints);
    release(object);
    Py_DECREF(type);
}

static PyMethodDef tx_methods[] = {
    {"malloc", (PyCFunction)(void (*)(void))tx_malloc, METH_FASTCALL | METH_KEYWORDS, malloc_doc},
    {"free", (PyCFunction)(void (*)(void))tx_free, METH_FASTCALL | METH_KEYWORDS, free_doc},
    {"write", (PyCFunction)(void (*)(void))tx_write, METH_FASTCALL, write_doc},
    {"__enter__", tx_enter, METH_NOARGS, "Return itself."},
    {"__exit__", (PyCFunction)(void (*)(void))tx_exit, METH_FASTCALL, exit_doc},
    {"_wait_writer", wait_writer, METH_NOARGS, wait_writer_doc},
    {"_finish", finish_tx, METH_NOARGS, finish_doc},
    {"_state", state_of, METH_NOARGS, NULL},
    {"_try_malloc", try_malloc, METH_VARARGS, NULL},
    {"_own", own, METH_O, own_doc},
    {"_try_free", try_free, METH_VARARGS, NULL},
    {"_may_name", may_name, METH_O, "Whether a root may name a block when this commits: 0, or a negative code."},
    {"_rooted_frees", rooted_frees, METH_NOARGS, "The blocks to be freed that a root names now."},
    {"_try_write", try_write, METH_VARARGS, NULL},
    {"_carry", carry, METH_VARARGS, carry_doc},
    {"_snapshot", snapshot, METH_VARARGS, snapshot_doc},
    {"_commit", commit, METH_VARARGS, commit_doc},
    {"_savepoint", savepoint, METH_NOARGS, NULL},
    {"_release_savepoint", release_savepoint, METH_NOARGS, NULL},
    {"_rollback", rollback, METH_NOARGS, NULL},
    {"_fresh", fresh, METH_NOARGS, fresh_doc},
    {"_fresh_bytes", fresh_bytes, METH_NOARGS, NULL},
    {"_snapshots", snapshots, METH_NOARGS, snapshots_doc},
    {"_log_bytes", log_bytes, METH_NOARGS, NULL},
    {"_set_data_first", set_data_first, METH_O, NULL},
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
    {Py_tp_methods, tx_methods},
    {Py_tp_members, tx_members},
    {0, NULL},
};

static PyType_Spec tx_spec = {
    .name = "pmemheap._core._hot.TxCore",
    .basicsize = sizeof(struct tx_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = tx_slots,
};

static int intern(PyObject **name, const char *text)
{
    *name = PyUnicode_InternFromString(text);
    return *name == NULL ? -1 : 0;
}

int ph_add_tx_type(PyObject *module)
{
    if (intern(&slow.malloc, "_malloc_slow") < 0 || intern(&slow.free, "_free_slow") < 0
        || intern(&slow.write, "_write_slow") < 0 || intern(&slow.exit, "_exit_slow") < 0
        || intern(&slow.died, "_raise_died") < 0 || intern(&slow.log_upkeep, "_log_upkeep") < 0)
        return -1;
    return ph_add_type(module, "TxCore", &tx_spec);
}
