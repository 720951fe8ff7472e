/* py/admit.h -- whether a call of a heap may go on. Each asks for no more than it needs, and what can be done for it is done
 * here: tables are attached, a clean file is marked as in use.
 *
 *                          its data is    tables     the file     it may be
 *                          mapped         are too    is in use    changed
 *     ph_may_read          x                                                  maps, roots
 *     ph_may_ask           x              x                                   usable_size
 *     ph_may_view          x              x          x, or it is only read    view: a store may follow
 *     ph_may_change        x              x          x            x           malloc, free
 *
 * A call begins with ph_tick and one of these; one that has changed something ends with ph_append_pending. All of them may call
 * Python. They answer no without an exception: the slow twin of the call asks again, and raises what the answer is. An
 * interrupt alone is set then, and ph_call_slow raises it. */
#pragma once
#include "py/log.h"

PH_SELDOM int ph_mark_in_use(struct heap_object *self);
int ph_may_ask(struct heap_object *self);

static inline int ph_may_change(struct heap_object *self)
{
    return self->state == PH_S_OPEN || ((self->state == PH_S_CLEAN || self->state == PH_S_UNATTACHED) && ph_mark_in_use(self));
}

static inline int ph_may_view(struct heap_object *self)
{
    return ph_may_change(self) || self->state == PH_S_READONLY;
}

static inline int ph_may_read(const struct heap_object *self)
{
    return self->state <= PH_S_READONLY || self->state == PH_S_UNATTACHED;
}

/* ph_refusal_of_free -- the code that a free of a block of this arena would be refused for, 0 if it would not; PH_FREES_NOTHING
 * where the heap takes no changes. */
enum { PH_FREES_NOTHING = 1 };
PyObject *ph_refusal_of_free(struct heap_object *self, PyObject *offset);

/* ph_attach_tables -- map the tables of an unattached heap; 0, or -1 with an exception set.
 * ph_append_pending -- in a power heap, append what the call has changed; 0, or -1 with an exception set. That nothing can be
 * appended after a failed sync was told by that.
 * ph_append_told -- the same, for a heap whose journal is told of each store. */
int ph_attach_tables(struct heap_object *self);
int ph_append_told(struct heap_object *self);

static inline int ph_append_pending(struct heap_object *self)
{
    return PH_LIKELY(!self->heap.is_told) ? 0 : ph_append_told(self);
}
