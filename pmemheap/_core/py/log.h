/* py/log.h -- the redo log as an object, shared by the cores of a heap and its transactions. */
#pragma once
#include "py/heap.h"
#include "tx/tx.h"

struct tx_object;

enum { PH_GATE_OPEN = 0, PH_GATE_BEGIN, PH_GATE_COMMIT };

/* ph_pace -- when the upkeep of a heap is due, with all its arenas. Nanoseconds. */
struct ph_pace {
    uint64_t interval;            /* between two upkeeps; UINT64_MAX: none */
    uint64_t due_at, looked_at;
    uint32_t step, quick;         /* calls between two looks at the clock; looks that followed each other closely */
};
void ph_pace_set(struct ph_pace *pace, uint64_t interval);

struct log_object {
    PyObject_HEAD
    struct ph_log log;
    PyThread_type_lock syncing; /* held by the thread that syncs; others wait for it without the GIL */
    PyThread_type_lock writer;  /* held by the transaction that changes committed bytes */
    int has_writer;             /* the same, as far as who has the GIL can tell */
    struct tx_object *open;     /* the open transactions */
    struct ph_tx spare;         /* memory of one that has ended, for the next */
    int gate;                   /* what a thread that wants the heap as it is lets nobody do meanwhile */
    struct ph_pace pace;
    PyObject *pins;             /* Pins of this process, while the writer that it is lets readers in; NULL */
};

/* ph_log_sync -- wait until everything before `lsn` is durable and applied; 0, PH_L_DEAD or a negated errno. Lets the
 * GIL go. One sync serves all who wait for it. */
int64_t ph_log_sync(struct log_object *self, uint64_t lsn);

/* ph_log_is_gone -- whether the file is not what it was: removed, cut, or written over. */
int ph_log_is_gone(const struct ph_log *log);

/* ph_join_log -- let a heap log to `log`; its allocator core. */
struct ph_heap *ph_join_log(struct heap_object *self, PyObject *log);

/* ph_tx_current -- the open transaction of this thread, or None; ph_tx_list -- all that are open; ph_tx_begun -- the threads
 * of those that the program has begun. New references. ph_tx_is_open -- whether there is any that was not committed;
 * ph_tx_writes_here -- whether that of this thread may change committed bytes. */
PyObject *ph_tx_current(const struct log_object *log);
PyObject *ph_tx_list(const struct log_object *log);
PyObject *ph_tx_begun(const struct log_object *log);
extern PyMethodDef ph_log_transaction_methods[];
extern PyMethodDef ph_log_lease_methods[];
/* ph_forget_pins -- edits in place have ended for good: the log knows nothing of who reads. */
void ph_forget_pins(struct log_object *self);
int ph_tx_is_open(const struct log_object *log);
int ph_tx_writes_here(const struct log_object *log);

/* ph_tx_is_committing -- whether one that is open has appended its record, and waits until it is durable. */
int ph_tx_is_committing(const struct log_object *log);

/* ph_tx_abort_all -- abort all that are open, and those that are being dropped, while their blocks are mapped still. */
void ph_tx_abort_all(struct log_object *log);

/* ph_tx_here -- the open, usable transaction of this thread, NULL without one. `busy`: somebody else changes committed
 * bytes, and it may not yet; else it may from now on. */
struct ph_tx *ph_tx_here(const struct log_object *log, int to_change, int *busy);

/* A transaction that begins and ends within one call, without an object. ph_begin_autocommit: 0 if Python has to begin one,
 * since somebody else changes committed bytes, or the heap is not open. ph_end_autocommit: 1: committed; 0: aborted, since
 * it was not to be kept, or Python has to commit it; -1: an exception is set. It may let the GIL go. */
int ph_begin_autocommit(PyObject *heap, struct ph_tx *tx);
int ph_end_autocommit(PyObject *heap, struct ph_tx *tx, int keeps);

/* ph_captured -- the slots of a mapped header as one commit left them: bytes; NULL: a commit is half done, or an exception is set. */
PyObject *ph_captured(const uint8_t *header, uint64_t *sequence);
PyObject *ph_capture_roots(PyObject *module, PyObject *args);
extern const char ph_capture_doc[];

int ph_add_log_type(PyObject *module);
int ph_add_map_type(PyObject *module);
int ph_add_tx_type(PyObject *module);
extern PyTypeObject *ph_log_type; /* LogCore, once it has been added */
int ph_is_log(PyObject *object);
