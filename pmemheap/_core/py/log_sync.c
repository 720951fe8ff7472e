/* py/log_sync.c -- waiting until the log is durable, and whether its file is what it was. */
#include "py/log.h"

PyTypeObject *ph_log_type;

int ph_is_log(PyObject *object)
{
    return ph_log_type != NULL && PyObject_TypeCheck(object, ph_log_type);
}

/* With the lock, without anybody else in here: sync what is there now. */
static int64_t sync_once(struct ph_log *log)
{
    uint64_t captured = log->head; /* [R4] before the sync: what is appended meanwhile is not durable by it */
    uint8_t *base = log->base;
    uint64_t size = log->size;
    int64_t result;

    log->syncs++;
    Py_BEGIN_ALLOW_THREADS
    result = ph_sync_range((uint64_t)(uintptr_t)base, size);
    Py_END_ALLOW_THREADS
    if (log->base == NULL) /* the heap was closed by the end of the interpreter */
        return PH_L_DEAD;
    if (result < 0) {
        log->dead = PH_KEPT(R7); /* [R7] */
        return result;
    }
    if (log->dead) /* [R7] a sync of another thread has failed meanwhile: nothing goes home any more */
        return PH_L_DEAD;
    log->durable = PH_KEPT(R4) ? captured : log->head;
    return ph_log_apply(log, log->durable);
}

int64_t ph_log_sync(struct log_object *self, uint64_t lsn)
{
    struct ph_log *log = &self->log;
    int64_t result = log->lost ? PH_L_DEAD : 0; /* in a forked child nobody might let go of `syncing` */

    while (result == 0 && log->durable < lsn) {
        Py_BEGIN_ALLOW_THREADS
        PyThread_acquire_lock(self->syncing, WAIT_LOCK);
        Py_END_ALLOW_THREADS
        if (log->dead)
            result = PH_L_DEAD;
        else if (log->durable < lsn)
            result = sync_once(log);
        PyThread_release_lock(self->syncing);
    }
    return result;
}

/* While the log moves, both superblocks have the epoch of the next ring already. */
static int has_lost_header(const struct ph_log *log)
{
    return !log->frozen && !ph_log_has_header(log);
}

int ph_log_is_gone(const struct ph_log *log)
{
    struct ph_stat now;
    if (log->fd < 0 || ph_stat(log->fd, &now) < 0)
        return 0;
    return now.size < log->file_end || (log->named && now.links == 0) || has_lost_header(log);
}
