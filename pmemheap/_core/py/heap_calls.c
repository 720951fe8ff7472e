/* py/heap_calls.c -- malloc, free, realloc and views as methods that keep the GIL: it is the lock of the core, and no method lets
 * it go between two changes. */
#include "block/guard.h"
#include "py/door.h"
#include "py/guard.h"
#include "py/heap_calls.h"
#include "py/layers.h"

PyDoc_STRVAR(malloc_doc,
"malloc($self, /, size, align=16)\n--\n\n"
"Allocate a block and return its offset.\n\n"
"Parameters\n----------\n"
"size : int\n    Bytes, at least 1.\n"
"align : int, optional\n    A power of two up to 2**30; offset and address are multiples of it.\n\n"
"Returns\n-------\nint\n    Offset of the block: 16-byte aligned, stable for the life of the block. Contents are not cleared.\n\n"
"Raises\n------\n"
"UsageError\n    Size or alignment out of range; the heap is closed, read-only or forked.\n"
"OutOfSpaceError\n    The heap cannot grow; the message says what refused. Nothing has changed.\n\n"
"Notes\n-----\nO(1) for up to 252 KiB unless the heap has to fetch units; larger blocks O(log n) in the free extents.");

/* A block, by the core or its slow twin. */
PH_INLINED PyObject *allocate(PyObject *object, PyObject *size_given, PyObject *align_given)
{
    struct heap_object *self = heap_of(object);
    PyObject *answer;
    uint64_t size, align = PH_GRANULE;

    do {
        int64_t inner = 0;
        if (ph_may_change(self) && read_request(size_given, align_given, &size, &align)) {
            inner = ph_malloc(&self->heap, size, align);
            if (inner >= 0)
                return appended_offset(self, inner);
        }
        answer = ph_ask_slow(object, ph_slow.malloc, size_given, align_given, inner);
    } while (answer == Py_NotImplemented);
    return answer;
}

/* The call is one that has looked at the clock, with an exception, or is to make a guarded block. */
static PH_SELDOM PyObject *allocate_looking(PyObject *object, PyObject *size_given, PyObject *align_given, int looked)
{
    PyObject *guarded = looked < 0 ? NULL : ph_guarded(object, size_given, align_given);

    return guarded != NULL || PyErr_Occurred() ? guarded : allocate(object, size_given, align_given);
}

/* The call itself; `align`: NULL if none was given. */
PH_INLINED PyObject *allocated(PyObject *object, PyObject *size_given, PyObject *align_given)
{
    int looked = ph_tick(heap_of(object));

    return PH_LIKELY(looked == 0) ? allocate(object, size_given, align_given)
                                  : allocate_looking(object, size_given, align_given, looked);
}

static PyObject *own_malloc(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"size", "align"};
    PyObject *values[2] = {NULL, NULL};

    if (PH_LIKELY(count == 1 && keywords == NULL))
        return allocated(object, args[0], NULL);
    if (ph_read_arguments("malloc", args, count, keywords, names, 1, 2, values) < 0)
        return NULL;
    return allocated(object, values[0], values[1]);
}

PyDoc_STRVAR(free_doc,
"free($self, /, offset, deferred=False)\n--\n\n"
"Free the block at `offset`.\n\n"
"Parameters\n----------\n"
"offset : int\n    What `malloc` returned.\n"
"deferred : bool, optional\n    Free also with live views. The block is gone at once, for every call and for the next opening of the file after a\n"
"    crash; its bytes stay, and its space is nobody else's, until the last view goes.\n\n"
"Raises\n------\n"
"UsageError\n    No live block begins there: double free, foreign or interior offset. Nothing has changed.\n"
"BufferError\n    Memoryviews, slices or arrays of the block are alive. Nothing has changed.\n\n"
"Notes\n-----\nO(1). May be called by finalizers, also inside `malloc`.");

/* The call itself; `deferred`: NULL if it was not given. */
PH_INLINED PyObject *freed(PyObject *object, PyObject *offset_given, PyObject *deferred_given)
{
    struct heap_object *self = heap_of(object);
    uint64_t offset;
    int deferred = deferred_given == NULL ? 0 : PyObject_IsTrue(deferred_given), refusal = 0;

    if (deferred < 0 || ph_tick_free(self) < 0)
        return NULL;
    if (!ph_may_change(self) || !read_number(offset_given, &offset)
        || (refusal = deferred ? ph_free_deferred(&self->heap, ph_inner(self, offset))
                               : ph_free(&self->heap, ph_inner(self, offset))) < 0)
        return ph_ask_slow(object, ph_slow.free, offset_given, deferred_given, refusal);
    if (ph_append_pending(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *own_free(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"offset", "deferred"};
    PyObject *values[2] = {NULL, NULL};

    if (PH_LIKELY(count == 1 && keywords == NULL))
        return freed(object, args[0], NULL);
    if (ph_read_arguments("free", args, count, keywords, names, 1, 2, values) < 0)
        return NULL;
    return freed(object, values[0], values[1]);
}

/* The two arguments of realloc and expand; 0 with no exception set where they can not be. */
static inline int read_resize(PyObject *const *values, uint64_t *offset, uint64_t *size)
{
    return read_number(values[0], offset) && read_number(values[1], size) && *size != 0 && *size <= PH_SIZE_MAX;
}

PyDoc_STRVAR(realloc_doc,
"realloc($self, /, offset, size)\n--\n\n"
"Resize a block, in place where it can, and return its offset.\n\n"
"Parameters\n----------\n"
"offset : int\n    Of a live block.\n"
"size : int\n    Bytes, at least 1.\n\n"
"Returns\n-------\nint\n    The offset, a new one if the block had to move. Contents are kept up to the smaller size. A block with live\n"
"    views stays where it is.\n\n"
"Raises\n------\n"
"UsageError\n    No live block begins there, or the size is out of range.\n"
"BufferError\n    The block would have to move and has live views.\n"
"OutOfSpaceError\n    No room. In all cases the block is as it was; a shrink never fails.");

/* A block that moves in a file heap: one record, else a killed process would leave both places or none. */
static int64_t move_logged(struct heap_object *self, uint64_t offset, uint64_t size)
{
    struct ph_tx tx;
    int64_t capacity = ph_usable_size(&self->heap, offset), to;
    uint64_t count = (uint64_t)capacity < size ? (uint64_t)capacity : size;

    if (self->log == NULL || capacity < 0 || (self->heap.is_told && size > PH_INLINE_MOST))
        return PH_H_MOVE_LOGGED;
    ph_tx_init(&tx, log_of(self));
    to = ph_tx_malloc(&tx, arena_of(self), size, PH_GRANULE);
    if (to >= 0) {
        to = (int64_t)ph_inner(self, (uint64_t)to);
        ph_put(self->heap.data + to, self->heap.data + offset, count);
        int64_t done = ph_tx_free(&tx, ph_outer(self, offset));
        if (done == 0)
            done = ph_tx_commit(&tx, NULL, 0, 0);
        if (done < 0) {
            ph_tx_abort(&tx);
            to = PH_H_MOVE_LOGGED;
        } else {
            PH_TELL(&self->heap, ph_tell_moved, offset, (uint64_t)to, size);
        }
    }
    ph_tx_fini(&tx);
    return to < 0 ? PH_H_MOVE_LOGGED : to;
}

/* The answer of a realloc by Python, which those are told of who track; meanwhile another thread may have freed the block. */
static PyObject *told_of_answer(struct heap_object *self, PyObject *answer, PyObject *size_given)
{
    uint64_t to, size;

    if (self->heap.watch != NULL && answer != NULL && answer != Py_NotImplemented && read_number(answer, &to)
        && read_number(size_given, &size) && ph_live_at(&self->heap, ph_inner(self, to)).state == PH_B_LIVE)
        ph_tell_reallocated(&self->heap, ph_inner(self, to), size);
    return answer;
}

static PyObject *own_realloc(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"offset", "size"};
    struct heap_object *self = heap_of(object);
    PyObject *values[2], *answer;
    uint64_t offset, size;

    if (ph_read_arguments("realloc", args, count, keywords, names, 2, 2, values) < 0 || ph_tick(self) < 0)
        return NULL;
    do {
        int64_t to = 0;
        if (ph_may_change(self) && read_resize(values, &offset, &size)) {
            to = ph_realloc(&self->heap, ph_inner(self, offset), size);
            if (to == PH_H_MOVE_LOGGED)
                to = move_logged(self, ph_inner(self, offset), size);
            if (to >= 0) {
                PH_TELL(&self->heap, ph_tell_reallocated, (uint64_t)to, size);
                return appended_offset(self, to);
            }
        }
        answer = told_of_answer(self, ph_ask_slow(object, ph_slow.realloc, values[0], values[1], to), values[1]);
    } while (answer == Py_NotImplemented);
    return answer;
}

PyDoc_STRVAR(expand_doc,
"expand($self, /, offset, size)\n--\n\n"
"Make a block hold at least `size` bytes where it is.\n\n"
"Returns\n-------\nbool\n    Whether it does now. The block never moves and never shrinks; views of it stay valid.\n\n"
"Raises\n------\nUsageError\n    No live block begins there, or the size is out of range.");

static PyObject *own_expand(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"offset", "size"};
    struct heap_object *self = heap_of(object);
    PyObject *values[2], *answer;
    uint64_t offset, size;

    if (ph_read_arguments("expand", args, count, keywords, names, 2, 2, values) < 0 || ph_tick(self) < 0)
        return NULL;
    do {
        int refusal = 0;
        if (ph_may_change(self) && read_resize(values, &offset, &size)) {
            refusal = ph_expand(&self->heap, ph_inner(self, offset), size);
            if (refusal == 0) {
                PH_TELL(&self->heap, ph_tell_expanded, ph_inner(self, offset), size);
                return ph_append_pending(self) < 0 ? NULL : truth(1);
            }
            if (refusal == PH_H_MOVE)
                return truth(0);
        }
        answer = ph_ask_slow(object, ph_slow.expand, values[0], values[1], refusal);
    } while (answer == Py_NotImplemented);
    return answer;
}

PyDoc_STRVAR(usable_size_doc,
"usable_size($self, offset, /)\n--\n\n"
"Return the bytes that the block at `offset` can hold: at least what was asked for. O(1).\n\n"
"Raises\n------\nUsageError\n    No live block begins there.");

static PyObject *own_usable_size(PyObject *object, PyObject *argument)
{
    struct heap_object *self = heap_of(object);
    uint64_t offset;

    if (ph_tick(self) < 0)
        return NULL;
    if (ph_may_ask(self) && read_number(argument, &offset)) {
        int64_t size = ph_usable_size(&self->heap, ph_inner(self, offset));
        if (size >= 0)
            return PyLong_FromLongLong(size);
    }
    return ph_call_slow(object, ph_slow.usable_size, argument, NULL, NULL);
}

PyDoc_STRVAR(view_doc,
"view($self, /, offset, length=None)\n--\n\n"
"Return a memoryview of the block at `offset`, read-only in a heap that is.\n\n"
"Parameters\n----------\n"
"offset : int\n    Of a live block.\n"
"length : int, optional\n    Bytes from the start of the block; all of its usable size if left out.\n\n"
"Returns\n-------\nmemoryview\n    Over the heap's own memory: nothing is copied, and it stays valid while the heap grows. While it, a slice or\n"
"    an array of it lives, the block cannot be freed and the heap not closed.\n\n"
"Raises\n------\nUsageError\n    No live block begins there, or it has fewer than `length` bytes.");

static PyObject *own_view(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"offset", "length"};
    struct heap_object *self = heap_of(object);
    PyObject *values[2];
    uint64_t offset, length = 0;

    if (ph_read_arguments("view", args, count, keywords, names, 1, 2, values) < 0 || ph_tick(self) < 0)
        return NULL;
    if (ph_may_view(self) && read_number(values[0], &offset)
        && (values[1] == NULL || values[1] == Py_None || read_number(values[1], &length))) {
        struct ph_block block = ph_block_at(&self->heap, ph_inner(self, offset));
        uint64_t usable = ph_is_visible(&block) ? ph_block_usable(&block) : 0;
        if (values[1] == NULL || values[1] == Py_None)
            length = usable;
        if (usable != 0 && length <= usable) {
            PyObject *view = ph_block_view(self, &block, length);
            if (view != NULL || PyErr_Occurred())
                return view;
        }
    }
    return ph_call_slow(object, ph_slow.view, values[0], values[1], NULL);
}

/* Whether a transaction can begin at once. It may call Python, as any call may. */
DOOR(is_ready, heap_object, 0, ph_look_freeing(self) < 0 ? NULL : truth(self->state == PH_S_OPEN))

static PyObject *free_refusal(PyObject *object, PyObject *argument)
{
    return ph_refusal_of_free(heap_of(object), argument);
}

/* ---------------------------------------------------------------- by the layers, or by the heap itself */

PH_PUBLIC(malloc, PH_CALL_MALLOC)
PH_PUBLIC(free, PH_CALL_FREE)
PH_PUBLIC(realloc, PH_CALL_REALLOC)
PH_PUBLIC(expand, PH_CALL_EXPAND)
PH_PUBLIC(view, PH_CALL_VIEW)
PH_PUBLIC_OF_ONE(usable_size, PH_CALL_USABLE_SIZE)

PyMethodDef ph_call_methods[] = {
    PH_FAST(malloc),
    PH_FAST(free),
    PH_FAST(realloc),
    PH_FAST(expand),
    PH_FAST(view),
    {"usable_size", heap_usable_size, METH_O, usable_size_doc},
    AS_METHOD("_is_ready", is_ready, "One more call; whether it is open, and at work."),
    {"_free_refusal", free_refusal, METH_O, "Why a free of a block of this arena would be refused; 0: it would not; 1: none is possible."},
    {NULL, NULL, 0, NULL},
};

PyMethodDef ph_own_call_methods[] = {
    PH_OWN(malloc),
    PH_OWN(free),
    PH_OWN(realloc),
    PH_OWN(expand),
    PH_OWN(view),
    {"usable_size", own_usable_size, METH_O, usable_size_doc},
    {NULL, NULL, 0, NULL},
};
