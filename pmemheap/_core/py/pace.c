/* py/pace.c -- when the upkeep of a heap is due: merging what was freed, giving back what is old.
 *
 *     malloc, free, view, get, ... --> ph_tick --> ph_look --> due? --> `upkeep` (Python)
 *                                  every n calls  the clock
 *
 * There is no thread that could wait, so calls look at the clock: each one where calls are rare, so that a heap which was
 * left alone gives back at the next call, of whatever kind; one in 64 where they follow each other in a loop. Calls that
 * free count for themselves, and what they free lets the next call of the others look: that one may come much later.
 * Upkeep that is due runs before the call does anything, so that a call that raises has changed nothing, and no commit that is
 * done is reported as refused. */
#include "block/guard.h"
#include "py/heap_calls.h"
#include "py/layers.h"

enum {
    PH_LOOK_MOST = 64,     /* calls between two looks */
    PH_LOOKS_QUICK = 256,  /* looks that follow each other closely, after which they become rarer */
    PH_CLOSELY = 16,       /* this part of an interval */
    PH_UPKEEP_SHARE = 16,  /* upkeep takes no more than this part of a thread's time */
};

void ph_pace_set(struct ph_pace *pace, uint64_t interval)
{
    uint64_t now = ph_now();
    *pace = (struct ph_pace){
        .interval = interval, .looked_at = now, .step = 1,
        .due_at = interval > UINT64_MAX - now ? UINT64_MAX : now + interval,
    };
}

static void set_step(struct ph_pace *pace, uint64_t since)
{
    if (since > pace->interval / PH_CLOSELY) {
        pace->step = 1;
        pace->quick = 0;
    } else if (++pace->quick >= PH_LOOKS_QUICK) {
        pace->quick = 0;
        if (pace->step < PH_LOOK_MOST)
            pace->step *= 2;
    }
}

static void set_due(struct ph_pace *pace, uint64_t began)
{
    uint64_t now = ph_now(), least = (ph_thread_time() - began) * PH_UPKEEP_SHARE;
    uint64_t wait = pace->interval > least ? pace->interval : least;
    pace->due_at = wait > UINT64_MAX - now ? UINT64_MAX : now + wait;
}

/* Let Python do it, once: what it calls looks as well. Where it cannot, in the middle of another change, the next look
 * asks again. */
static int run_upkeep(struct heap_object *self, int is_due, int is_idle)
{
    PyObject *log = Py_NewRef(self->log);
    struct ph_pace *pace = &((struct log_object *)log)->pace;
    uint64_t due_at = pace->due_at, began = ph_thread_time();
    pace->due_at = self->merge_at = UINT64_MAX;
    PyObject *done = ph_call_slow((PyObject *)self, ph_slow.upkeep, is_due ? Py_True : Py_False,
                                  is_idle ? Py_True : Py_False, NULL);
    self->merge_at = done == Py_False ? 0 : self->heap.returned_count + PH_RETURNED_MOST;
    if (pace->due_at == UINT64_MAX) /* else it was set anew */
        pace->due_at = due_at;
    if (is_due && done != Py_False)
        set_due(pace, began);
    Py_DECREF(log);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int can_give_back(const struct heap_object *self)
{
    return self->log != NULL && (self->state <= PH_S_CLEAN || self->state == PH_S_UNATTACHED);
}

static int look(struct heap_object *self)
{
    self->heap.until_look = PH_LOOK_MOST;
    if (self->told != NULL)
        ph_write_records(self, 0);
    if (!can_give_back(self))
        return 0;
    struct ph_pace *pace = &((struct log_object *)self->log)->pace;
    uint64_t now = ph_now(), since = now - pace->looked_at;
    pace->looked_at = now;
    set_step(pace, since);
    self->heap.until_look = pace->step;
    int is_due = now >= pace->due_at;
    if (!is_due && (self->heap.returned_count < self->merge_at || self->state != PH_S_OPEN))
        return 0;
    return run_upkeep(self, is_due, since >= pace->interval);
}

int ph_look(struct heap_object *self)
{
    int done = look(self);
    return done == 0 && PH_UNLIKELY(self->heap.guard != NULL) ? ph_guard_due(&self->heap) : done;
}

/* The same for a call that frees: whether the next of the others looks is left as it is. */
int ph_look_freeing(struct heap_object *self)
{
    uint32_t until_look = self->heap.until_look;
    int done = look(self);
    self->heap.until_free_look = self->heap.until_look;
    self->heap.until_look = until_look;
    return done;
}
