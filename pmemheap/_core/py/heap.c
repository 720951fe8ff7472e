/* py/heap.c -- HeapCore: malloc, free, realloc and views as methods that keep the GIL.
 *
 * A method does what the C core can do alone. For everything else, a missing run, a large block, growth, a bad
 * argument, it calls its slow twin (`_malloc_slow` and so on), which the Python subclass defines and which
 * answers or raises. The GIL is the lock of the core: no method lets it go between two changes. */
#include "py/log.h"

#include <string.h>

#include "os/tape.h"

enum { PH_BATCH_SHARE = 256 }; /* bytes of a record that one block of a batch may take */

static struct {
    PyObject *malloc, *free, *realloc, *expand, *usable_size, *view, *more, *free_many, *log_upkeep, *mark_in_use, *attach_tables;
} slow;

static PyTypeObject *core_type;

int ph_is_heap(PyObject *object)
{
    return core_type != NULL && PyObject_TypeCheck(object, core_type);
}

static struct heap_object *heap_of(PyObject *object)
{
    return (struct heap_object *)object;
}

/* An exact or convertible int that fits 64 bits; 0 with no exception set when it does not. */
static int read_number(PyObject *object, uint64_t *number)
{
    *number = PyLong_AsUnsignedLongLong(object);
    if (*number != (uint64_t)-1 || !PyErr_Occurred())
        return 1;
    PyErr_Clear();
    return 0;
}

/* Mark a clean heap as in use, before the first change; if that fails, the slow twin finds out again why. */
static int mark_in_use(struct heap_object *self)
{
    PyObject *done = PyObject_CallMethodObjArgs((PyObject *)self, slow.mark_in_use, NULL);
    if (done == NULL)
        PyErr_Clear();
    Py_XDECREF(done);
    return self->state == PH_S_OPEN;
}

int ph_attach_tables(struct heap_object *self)
{
    PyObject *done = self->state == PH_S_UNATTACHED ? PyObject_CallMethodObjArgs((PyObject *)self, slow.attach_tables, NULL)
                                                : Py_NewRef(Py_None);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int is_open(struct heap_object *self)
{
    return self->state == PH_S_OPEN || ((self->state == PH_S_CLEAN || self->state == PH_S_UNATTACHED) && mark_in_use(self));
}

/* Whether the tables can be asked; if they cannot be attached, the slow twin finds out again why. */
static int can_be_asked(struct heap_object *self)
{
    if (ph_attach_tables(self) < 0)
        PyErr_Clear();
    return self->state <= PH_S_READONLY;
}

/* Whether bytes can be looked at. A view may be stored through, so that a clean heap is marked as in use. */
static int can_be_viewed(struct heap_object *self)
{
    return is_open(self) || self->state == PH_S_READONLY;
}

struct ph_heap *ph_join_log(PyObject *core, PyObject *log)
{
    struct heap_object *self = heap_of(core);
    PyObject *old = self->log;

    self->log = Py_NewRef(log);
    Py_XDECREF(old);
    return &self->heap;
}

static struct ph_log *log_of(const struct heap_object *self)
{
    return &((struct log_object *)self->log)->log;
}

static uint64_t arena_of(const struct heap_object *self)
{
    return self->origin >> PH_ARENA_SHIFT;
}

/* In a power heap, append what the call has changed. Returns 0, or -1 with an exception set. That nothing can be appended
 * after a failed sync was told by that. */
static int append_pending(struct heap_object *self)
{
    if (!self->heap.is_told || self->log == NULL
        || (self->heap.dirty.count == 0 && self->heap.freed.count == 0))
        return 0;
    struct ph_log *log = log_of(self);
    ph_count_withheld(&self->heap);
    if (ph_log_flush(log, arena_of(self)) >= 0 && log->head - log->tail <= log->size / 2)
        return 0;
    if (self->state == PH_S_READONLY)
        return 0;
    PyObject *done = PyObject_CallMethodObjArgs((PyObject *)self, slow.log_upkeep, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *append_pending_now(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    if (append_pending(heap_of(object)) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* The offset of the heap for one of this arena, once the log knows of it. */
static PyObject *appended_offset(struct heap_object *self, int64_t inner)
{
    return append_pending(self) < 0 ? NULL : PyLong_FromUnsignedLongLong(ph_outer(self, (uint64_t)inner));
}

static PyObject *call_slow(PyObject *self, PyObject *name, PyObject *first, PyObject *second)
{
    return PyObject_CallMethodObjArgs(self, name, first, second, NULL);
}

/* Positional `names[0]`, ... and keywords into `values` (borrowed, NULL where absent). */
static int read_arguments(const char *method, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                          const char *const *names, Py_ssize_t required, Py_ssize_t capacity, PyObject **values)
{
    if (count > capacity) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments (%zd given)", method, capacity, count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < capacity; i++)
        values[i] = i < count ? args[i] : NULL;
    for (Py_ssize_t k = 0; keywords != NULL && k < PyTuple_Size(keywords); k++) {
        PyObject *keyword = PyTuple_GetItem(keywords, k);
        Py_ssize_t i = 0;
        while (i < capacity && PyUnicode_CompareWithASCIIString(keyword, names[i]) != 0)
            i++;
        if (i == capacity || values[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected or repeated argument '%U'", method, keyword);
            return -1;
        }
        values[i] = args[count + k];
    }
    for (Py_ssize_t i = 0; i < required; i++)
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() misses its argument '%s'", method, names[i]);
            return -1;
        }
    return 0;
}

PyDoc_STRVAR(malloc_doc,
"malloc(size, align=16)\n--\n\n"
"Allocate a block and return its offset.\n\n"
"Parameters\n----------\n"
"size : int\n    Bytes, at least 1.\n"
"align : int, optional\n    A power of two up to 2**30; offset and address are multiples of it.\n\n"
"Returns\n-------\nint\n    Offset of the block: 16-byte aligned, stable for the life of the block. Contents are not cleared.\n\n"
"Raises\n------\n"
"UsageError\n    Size or alignment out of range; the heap is closed, read-only or forked.\n"
"OutOfSpaceError\n    The heap cannot grow; the message says what refused. Nothing has changed.\n\n"
"Notes\n-----\nO(1) for up to 252 KiB unless the heap has to fetch units; larger blocks O(log n) in the free extents.");

static PyObject *heap_malloc(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"size", "align"};
    struct heap_object *self = heap_of(object);
    PyObject *values[2] = {count ? args[0] : NULL, NULL};
    uint64_t size, align = PH_GRANULE;

    if ((count != 1 || keywords != NULL)
        && read_arguments("malloc", args, count, keywords, names, 1, 2, values) < 0)
        return NULL;
    if (ph_tick(self) < 0)
        return NULL;
    if (is_open(self) && read_number(values[0], &size) && size != 0 && size <= PH_SIZE_MAX
        && (values[1] == NULL || (read_number(values[1], &align) && align != 0 && (align & (align - 1)) == 0))) {
        int64_t inner = ph_malloc(&self->heap, size, align);
        if (inner >= 0)
            return appended_offset(self, inner);
    }
    return call_slow(object, slow.malloc, values[0], values[1]);
}

PyDoc_STRVAR(free_doc,
"free(offset, deferred=False)\n--\n\n"
"Free the block at `offset`.\n\n"
"Parameters\n----------\n"
"offset : int\n    What `malloc` returned.\n"
"deferred : bool, optional\n    Free also with live views. The block is gone at once, for every call and for the next opening of the file after a\n"
"    crash; its bytes stay, and its space is nobody else's, until the last view goes.\n\n"
"Raises\n------\n"
"UsageError\n    No live block begins there: double free, foreign or interior offset. Nothing has changed.\n"
"BufferError\n    Memoryviews, slices or arrays of the block are alive. Nothing has changed.\n\n"
"Notes\n-----\nO(1). May be called by finalizers, also inside `malloc`.");

static PyObject *heap_free(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"offset", "deferred"};
    struct heap_object *self = heap_of(object);
    PyObject *values[2] = {count ? args[0] : NULL, NULL};
    uint64_t offset;
    int deferred = 0;

    if ((count != 1 || keywords != NULL)
        && read_arguments("free", args, count, keywords, names, 1, 2, values) < 0)
        return NULL;
    if ((values[1] != NULL && (deferred = PyObject_IsTrue(values[1])) < 0) || ph_tick_free(self) < 0)
        return NULL;
    if (!is_open(self) || !read_number(values[0], &offset)
        || (deferred ? ph_free_deferred(&self->heap, ph_inner(self, offset))
                     : ph_free(&self->heap, ph_inner(self, offset))) < 0)
        return call_slow(object, slow.free, values[0], values[1]);
    if (append_pending(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(realloc_doc,
"realloc(offset, size)\n--\n\n"
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
        }
    }
    ph_tx_fini(&tx);
    return to < 0 ? PH_H_MOVE_LOGGED : to;
}

static PyObject *heap_realloc(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"offset", "size"};
    struct heap_object *self = heap_of(object);
    PyObject *values[2];
    uint64_t offset, size;

    if (read_arguments("realloc", args, count, keywords, names, 2, 2, values) < 0 || ph_tick(self) < 0)
        return NULL;
    if (is_open(self) && read_number(values[0], &offset) && read_number(values[1], &size)
        && size != 0 && size <= PH_SIZE_MAX) {
        int64_t to = ph_realloc(&self->heap, ph_inner(self, offset), size);
        if (to == PH_H_MOVE_LOGGED)
            to = move_logged(self, ph_inner(self, offset), size);
        if (to >= 0)
            return appended_offset(self, to);
    }
    return call_slow(object, slow.realloc, values[0], values[1]);
}

PyDoc_STRVAR(expand_doc,
"expand(offset, size)\n--\n\n"
"Make a block hold at least `size` bytes where it is.\n\n"
"Returns\n-------\nbool\n    Whether it does now. The block never moves and never shrinks; views of it stay valid.\n\n"
"Raises\n------\nUsageError\n    No live block begins there, or the size is out of range.");

static PyObject *heap_expand(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"offset", "size"};
    struct heap_object *self = heap_of(object);
    PyObject *values[2];
    uint64_t offset, size;

    if (read_arguments("expand", args, count, keywords, names, 2, 2, values) < 0 || ph_tick(self) < 0)
        return NULL;
    if (is_open(self) && read_number(values[0], &offset) && read_number(values[1], &size)
        && size != 0 && size <= PH_SIZE_MAX) {
        int done = ph_expand(&self->heap, ph_inner(self, offset), size);
        if (done == 0) {
            if (append_pending(self) < 0)
                return NULL;
            Py_RETURN_TRUE;
        }
        if (done == PH_H_MOVE)
            Py_RETURN_FALSE;
    }
    return call_slow(object, slow.expand, values[0], values[1]);
}

PyDoc_STRVAR(usable_size_doc,
"usable_size(offset)\n--\n\n"
"Bytes that the block at `offset` can hold: at least what was asked for. O(1).\n\n"
"Raises\n------\nUsageError\n    No live block begins there.");

static PyObject *heap_usable_size(PyObject *object, PyObject *argument)
{
    struct heap_object *self = heap_of(object);
    uint64_t offset;

    if (ph_tick(self) < 0)
        return NULL;
    if (can_be_asked(self) && read_number(argument, &offset)) {
        int64_t size = ph_usable_size(&self->heap, ph_inner(self, offset));
        if (size >= 0)
            return PyLong_FromLongLong(size);
    }
    return call_slow(object, slow.usable_size, argument, NULL);
}

PyDoc_STRVAR(view_doc,
"view(offset, length=None)\n--\n\n"
"Return a memoryview of the block at `offset`, read-only in a heap that is.\n\n"
"Parameters\n----------\n"
"offset : int\n    Of a live block.\n"
"length : int, optional\n    Bytes from the start of the block; all of its usable size if left out.\n\n"
"Returns\n-------\nmemoryview\n    Over the heap's own memory: nothing is copied, and it stays valid while the heap grows. While it, a slice or\n"
"    an array of it lives, the block cannot be freed and the heap not closed.\n\n"
"Raises\n------\nUsageError\n    No live block begins there, or it has fewer than `length` bytes.");

static PyObject *heap_view(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"offset", "length"};
    struct heap_object *self = heap_of(object);
    PyObject *values[2];
    uint64_t offset, length = 0;

    if (read_arguments("view", args, count, keywords, names, 1, 2, values) < 0 || ph_tick(self) < 0)
        return NULL;
    if (can_be_viewed(self) && read_number(values[0], &offset)
        && (values[1] == NULL || values[1] == Py_None || read_number(values[1], &length))) {
        struct ph_block block = ph_block_at(&self->heap, ph_inner(self, offset));
        uint64_t usable = ph_is_visible(&block) ? ph_block_capacity(&block) : 0;
        if (values[1] == NULL || values[1] == Py_None)
            length = usable;
        if (usable != 0 && length <= usable) {
            PyObject *view = ph_block_view(self, &block, length);
            if (view != NULL || PyErr_Occurred())
                return view;
        }
    }
    return call_slow(object, slow.view, values[0], values[1]);
}

/* Blocks that a batch gets between two records: few enough for a record that fits. */
static Py_ssize_t batch_of(const struct heap_object *self, Py_ssize_t count)
{
    if (!self->heap.is_told || self->log == NULL || log_of(self)->base == NULL)
        return count ? count : 1;
    return (Py_ssize_t)(log_of(self)->size / (2 * PH_BATCH_SHARE));
}

/* Free what a batch got before it failed; also if a sync failed, which has made the heap read-only. */
static PyObject *take_back(struct heap_object *self, PyObject *offsets, const uint64_t *taken, uint64_t count)
{
    for (uint64_t i = 0; i < count && self->state <= PH_S_READONLY; i++)
        ph_free(&self->heap, ph_inner(self, taken[i]));
    Py_DECREF(offsets);
    return NULL;
}

/* ph_malloc_many, answering with offsets of the heap. */
static uint64_t take_many(struct heap_object *self, uint64_t size, uint64_t count, uint64_t *slots)
{
    uint64_t taken = ph_malloc_many(&self->heap, size, count, slots);

    for (uint64_t i = 0; self->origin != 0 && i < taken; i++)
        slots[i] = ph_outer(self, slots[i]);
    return taken;
}

PyDoc_STRVAR(malloc_many_doc,
"malloc_many(size, count)\n--\n\n"
"Allocate `count` blocks of `size` bytes in one call: all of them or none.\n\n"
"Returns\n-------\nmemoryview\n    Writable, format ``Q`` (uint64), shape ``(count,)``: the offsets.\n\n"
"Raises\n------\nUsageError, OutOfSpaceError\n    As `malloc`; nothing stays allocated.\n\n"
"Notes\n-----\nFor a process that is killed in the middle the batch is a sequence of single calls.");

static PyObject *heap_malloc_many(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *keywords)
{
    static const char *const names[] = {"size", "count"};
    struct heap_object *self = heap_of(object);
    PyObject *values[2], *offsets, *view, *cast;
    uint64_t size, count, done = 0; /* `offsets` is nobody else's: other threads see it only when it is complete */

    if (read_arguments("malloc_many", args, nargs, keywords, names, 2, 2, values) < 0 || ph_tick(self) < 0)
        return NULL;
    if (!is_open(self) || !read_number(values[0], &size) || size == 0 || size > PH_SIZE_MAX
        || !read_number(values[1], &count)
        || count > (uint64_t)PY_SSIZE_T_MAX / sizeof(uint64_t))
        return PyObject_CallMethodObjArgs(object, slow.more, values[0], values[1], Py_False, NULL);
    offsets = PyByteArray_FromStringAndSize(NULL, 0); /* with a size it drops what it has not set up, without memory */
    if (offsets == NULL)
        return NULL;
    if (PyByteArray_Resize(offsets, (Py_ssize_t)(count * sizeof(uint64_t))) < 0) {
        Py_DECREF(offsets);
        return NULL;
    }
    uint64_t *slots = (uint64_t *)PyByteArray_AsString(offsets);
    uint64_t step = (uint64_t)batch_of(self, (Py_ssize_t)count);
    while (is_open(self) && done < count) {
        uint64_t wanted = count - done < step ? count - done : step;
        uint64_t got = take_many(self, size, wanted, slots + done);
        done += got;
        if (append_pending(self) < 0)
            return take_back(self, offsets, slots, done);
        if (got == wanted)
            continue;
        PyObject *one = PyObject_CallMethodObjArgs(object, slow.more, values[0], values[1], Py_True, NULL);
        uint64_t offset;
        if (one == NULL)
            return take_back(self, offsets, slots, done);
        if (read_number(one, &offset))
            slots[done++] = offset;
        Py_DECREF(one);
    }
    if (done < count) { /* closed meanwhile: the slow twin says so */
        Py_DECREF(offsets);
        return PyObject_CallMethodObjArgs(object, slow.more, values[0], values[1], Py_False, NULL);
    }
    view = PyMemoryView_FromObject(offsets);
    Py_DECREF(offsets);
    if (view == NULL)
        return NULL;
    cast = PyObject_CallMethod(view, "cast", "s", "Q");
    Py_DECREF(view);
    return cast;
}

/* Index of the first offset that stands in the batch twice, `count` if none does, -1 without memory. */
static Py_ssize_t first_repeated(const uint64_t *offsets, Py_ssize_t count)
{
    Py_ssize_t ascending = 1;
    while (ascending < count && offsets[ascending - 1] < offsets[ascending])
        ascending++;
    if (ascending >= count)
        return count;
    size_t capacity = 16;
    while (capacity < (size_t)count * 2)
        capacity *= 2;
    uint64_t *seen = PyMem_Calloc(capacity, sizeof *seen);
    if (seen == NULL)
        return -1;
    Py_ssize_t i = 0;
    for (; i < count; i++) {
        size_t slot = (offsets[i] >> PH_GRANULE_SHIFT) * 0x9E3779B97F4A7C15ULL >> 20 & (capacity - 1);
        while (seen[slot] != 0 && seen[slot] != offsets[i] + 1)
            slot = (slot + 1) & (capacity - 1);
        if (seen[slot] != 0)
            break;
        seen[slot] = offsets[i] + 1;
    }
    PyMem_Free(seen);
    return i;
}

/* `offsets` are those inside of the arena. */
static PyObject *free_batch(PyObject *object, const uint64_t *offsets, Py_ssize_t count)
{
    struct heap_object *self = heap_of(object);
    Py_ssize_t bad = is_open(self) ? (Py_ssize_t)ph_first_refused(&self->heap, offsets, (uint64_t)count) : 0;

    if (bad == count)
        bad = first_repeated(offsets, count);
    if (bad < 0)
        return PyErr_NoMemory();
    if (bad < count || !is_open(self)) {
        PyObject *index = PyLong_FromSsize_t(bad);
        PyObject *offset = PyLong_FromUnsignedLongLong(count ? ph_outer(self, offsets[bad]) : 0);
        PyObject *result = index && offset ? call_slow(object, slow.free_many, index, offset) : NULL;
        Py_XDECREF(index);
        Py_XDECREF(offset);
        return result;
    }
    if (ph_free_many(&self->heap, offsets, (uint64_t)count) < 0) /* at once: other threads might change what was seen */
        return PyErr_NoMemory();
    if (append_pending(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Free what is in memory that is nobody else's, and that memory with it. */
static PyObject *free_own(PyObject *object, uint64_t *offsets, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; heap_of(object)->origin != 0 && i < count; i++)
        offsets[i] = ph_inner(heap_of(object), offsets[i]);
    PyObject *result = free_batch(object, offsets, count);
    PyMem_Free(offsets);
    return result;
}

/* Check a copy, and free by the copy: another thread may write to the caller's buffer without the GIL. */
static PyObject *free_copy(PyObject *object, const Py_buffer *buffer)
{
    uint64_t *offsets = PyMem_Malloc((size_t)buffer->len + 1);

    if (offsets == NULL)
        return PyErr_NoMemory();
    memcpy(offsets, buffer->buf, (size_t)buffer->len);
    return free_own(object, offsets, buffer->len / (Py_ssize_t)sizeof(uint64_t));
}

static PyObject *free_buffer(PyObject *object, PyObject *offsets)
{
    Py_buffer buffer;
    PyObject *result = NULL;

    if (PyObject_GetBuffer(offsets, &buffer, PyBUF_CONTIG_RO | PyBUF_FORMAT) < 0)
        return NULL;
    const char *format = buffer.format == NULL ? "B" : buffer.format;
    if (buffer.itemsize != sizeof(uint64_t) || strchr("QLNql", format[*format == '@' || *format == '<' || *format == '=']) == NULL)
        PyErr_Format(PyExc_TypeError, "free_many: offsets of 8 bytes each (format 'Q') expected, format '%s' found", format);
    else
        result = free_copy(object, &buffer);
    PyBuffer_Release(&buffer);
    return result;
}

/* Whether all items are numbers that an offset can be. None of them runs code of its own. */
static int read_offsets(PyObject *items, Py_ssize_t count, uint64_t *offsets)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GetItem(items, i);
        if (!PyLong_CheckExact(item) || !read_number(item, &offsets[i]))
            return 0;
    }
    return 1;
}

/* An iterable of other things than plain numbers: Python packs it into uint64, or says what is wrong. */
static PyObject *free_packed(PyObject *object, PyObject *items)
{
    PyObject *packed = PyObject_CallMethodObjArgs(object, slow.free_many, Py_None, items, NULL);
    PyObject *result = packed == NULL ? NULL : free_buffer(object, packed);
    Py_XDECREF(packed);
    return result;
}

static PyObject *free_items(PyObject *object, PyObject *iterable)
{
    PyObject *items = PySequence_Tuple(iterable), *result = NULL;

    if (items == NULL)
        return NULL;
    Py_ssize_t count = PyTuple_Size(items);
    uint64_t *offsets = PyMem_Malloc((size_t)count * sizeof *offsets + 1);
    if (offsets == NULL) {
        PyErr_NoMemory();
    } else if (read_offsets(items, count, offsets)) {
        result = free_own(object, offsets, count);
    } else {
        PyMem_Free(offsets);
        result = free_packed(object, items);
    }
    Py_DECREF(items);
    return result;
}

PyDoc_STRVAR(free_many_doc,
"free_many(offsets)\n--\n\n"
"Free many blocks in one call: all of them or none.\n\n"
"Parameters\n----------\n"
"offsets : buffer of uint64, or iterable of int\n    What `malloc_many` returned, an ``array('Q')``, a numpy array of uint64, a list.\n\n"
"Raises\n------\nUsageError, BufferError\n    As `free`; the message names the index in the batch. Nothing was freed.");

static PyObject *heap_free_many(PyObject *object, PyObject *offsets)
{
    if (ph_look_freeing(heap_of(object)) < 0)
        return NULL;
    return PyObject_CheckBuffer(offsets) ? free_buffer(object, offsets) : free_items(object, offsets);
}

static PyObject *heap_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct heap_object *self = (struct heap_object *)allocate(type, 0);

    (void)args;
    (void)keywords;
    if (self == NULL)
        return NULL;
    self->state = PH_S_CLOSED;
    self->merge_at = PH_RETURNED_MOST;
    self->heap.until_look = self->heap.until_free_look = 1;
    ph_heap_enter(self);
    return (PyObject *)self;
}

static void heap_dealloc(PyObject *object)
{
    struct heap_object *self = heap_of(object);
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    ph_heap_leave(self);
    ph_heap_fini(&self->heap);
    if (self->log != NULL && log_of(self)->homes[arena_of(self)].heap == &self->heap)
        log_of(self)->homes[arena_of(self)].heap = NULL;
    Py_XDECREF(self->log);
    Py_XDECREF(self->keep);
    release(object);
    Py_DECREF(type);
}

#define FAST(name) {#name, (PyCFunction)(void (*)(void))heap_##name, METH_FASTCALL | METH_KEYWORDS, name##_doc}

static PyMethodDef call_methods[] = {
    FAST(malloc),
    FAST(free),
    FAST(realloc),
    FAST(expand),
    FAST(view),
    FAST(malloc_many),
    {"free_many", heap_free_many, METH_O, free_many_doc},
    {"usable_size", heap_usable_size, METH_O, usable_size_doc},
    {"_append_pending", append_pending_now, METH_NOARGS, "Append what was changed since the last record."},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(core_doc, "HeapCore()\n--\n\nThe calls of a heap that the C core answers alone; `Heap` derives from it.");

static PyType_Slot core_slots[] = {
    {Py_tp_doc, (void *)core_doc},
    {Py_tp_new, heap_new},
    {Py_tp_dealloc, heap_dealloc},
    {Py_tp_methods, NULL}, /* filled in by ph_add_heap_types: calls and upkeep in one table */
    {0, NULL},
};

static PyType_Spec core_spec = {
    .name = "pmemheap._core._hot.HeapCore",
    .basicsize = sizeof(struct heap_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = core_slots,
};

static int intern(PyObject **name, const char *text)
{
    *name = PyUnicode_InternFromString(text);
    return *name == NULL ? -1 : 0;
}

static PyMethodDef *join_methods(void)
{
    static PyMethodDef methods[96];
    const PyMethodDef *const tables[] = {call_methods,     ph_control_methods, ph_unit_methods,
                                         ph_block_methods, ph_count_methods,   ph_step_methods};
    size_t count = 0;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const PyMethodDef *m = tables[i]; m->ml_name != NULL; m++)
            methods[count++] = *m;
    return methods;
}

int ph_add_heap_types(PyObject *module)
{
    if (intern(&slow.malloc, "_malloc_slow") < 0 || intern(&slow.free, "_free_slow") < 0
        || intern(&slow.realloc, "_realloc_slow") < 0 || intern(&slow.expand, "_expand_slow") < 0
        || intern(&slow.usable_size, "_usable_size_slow") < 0 || intern(&slow.view, "_view_slow") < 0
        || intern(&slow.more, "_malloc_many_slow") < 0 || intern(&slow.free_many, "_free_many_slow") < 0
        || ph_pace_init() < 0 || intern(&slow.log_upkeep, "_log_upkeep") < 0
        || intern(&slow.mark_in_use, "_mark_in_use") < 0 || intern(&slow.attach_tables, "_become_attached") < 0)
        return -1;
    core_slots[3].pfunc = join_methods();
    if (ph_add_block_bytes_type(module) < 0 || ph_add_type(module, "HeapCore", &core_spec) < 0)
        return -1;
    core_type = (PyTypeObject *)PyObject_GetAttrString(module, "HeapCore");
    return core_type == NULL ? -1 : 0;
}
