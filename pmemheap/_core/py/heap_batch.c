/* py/heap_batch.c -- many blocks at a time: malloc_many and free_many. */
#include <string.h>

#include "os/tape.h"
#include "py/heap_calls.h"
#include "py/layers.h"

enum { PH_BATCH_SHARE = 256 }; /* bytes of a record that one block of a batch may take */

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
"malloc_many($self, /, size, count)\n--\n\n"
"Allocate `count` blocks of `size` bytes in one call: all of them or none.\n\n"
"Returns\n-------\nmemoryview\n    Writable, format ``Q`` (uint64), shape ``(count,)``: the offsets.\n\n"
"Raises\n------\nUsageError, OutOfSpaceError\n    As `malloc`; nothing stays allocated, unless another thread closed the heap meanwhile.\n\n"
"Notes\n-----\nFor a process that is killed in the middle the batch is a sequence of single calls.");

static PyObject *own_malloc_many(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *keywords)
{
    static const char *const names[] = {"size", "count"};
    struct heap_object *self = heap_of(object);
    PyObject *values[2], *offsets, *view, *cast;
    uint64_t size, count, done = 0; /* `offsets` is nobody else's: other threads see it only when it is complete */

    if (ph_read_arguments("malloc_many", args, nargs, keywords, names, 2, 2, values) < 0 || ph_tick(self) < 0)
        return NULL;
    if (!ph_may_change(self) || !read_number(values[0], &size) || size == 0 || size > PH_SIZE_MAX
        || !read_number(values[1], &count)
        || count > (uint64_t)PY_SSIZE_T_MAX / sizeof(uint64_t))
        return ph_call_slow(object, ph_slow.malloc_many, values[0], values[1], Py_False);
    offsets = PyByteArray_FromStringAndSize(NULL, 0); /* with a size it drops what it has not set up, without memory */
    if (offsets == NULL)
        return NULL;
    if (PyByteArray_Resize(offsets, (Py_ssize_t)(count * sizeof(uint64_t))) < 0) {
        Py_DECREF(offsets);
        return NULL;
    }
    uint64_t *slots = (uint64_t *)PyByteArray_AsString(offsets);
    uint64_t step = (uint64_t)batch_of(self, (Py_ssize_t)count);
    while (ph_may_change(self) && done < count) {
        uint64_t wanted = count - done < step ? count - done : step;
        uint64_t got = take_many(self, size, wanted, slots + done);
        done += got;
        if (ph_append_pending(self) < 0)
            return take_back(self, offsets, slots, done);
        if (got == wanted)
            continue;
        PyObject *one = ph_call_slow(object, ph_slow.malloc_many, values[0], values[1], Py_True);
        uint64_t offset;
        if (one == NULL)
            return take_back(self, offsets, slots, done);
        if (read_number(one, &offset))
            slots[done++] = offset;
        Py_DECREF(one);
    }
    if (done < count) { /* closed meanwhile: the slow twin says so */
        Py_DECREF(offsets);
        return ph_call_slow(object, ph_slow.malloc_many, values[0], values[1], Py_False);
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
    Py_ssize_t bad = ph_may_change(self) ? (Py_ssize_t)ph_first_refused(&self->heap, offsets, (uint64_t)count) : 0;

    if (bad == count)
        bad = first_repeated(offsets, count);
    if (bad < 0)
        return PyErr_NoMemory();
    if (bad < count || !ph_may_change(self)) {
        PyObject *index = PyLong_FromSsize_t(bad);
        PyObject *offset = PyLong_FromUnsignedLongLong(count ? ph_outer(self, offsets[bad]) : 0);
        PyObject *result = index && offset ? ph_call_slow(object, ph_slow.free_many, index, offset, NULL) : NULL;
        Py_XDECREF(index);
        Py_XDECREF(offset);
        return result;
    }
    if (ph_free_many(&self->heap, offsets, (uint64_t)count) < 0) /* at once: other threads might change what was seen */
        return PyErr_NoMemory();
    if (ph_append_pending(self) < 0)
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
    PyObject *packed = ph_call_slow(object, ph_slow.free_many, Py_None, items, NULL);
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
"free_many($self, offsets, /)\n--\n\n"
"Free many blocks in one call: all of them or none.\n\n"
"Parameters\n----------\n"
"offsets : buffer of uint64, or iterable of int\n    What `malloc_many` returned, an ``array('Q')``, a numpy array of uint64, a list.\n\n"
"Raises\n------\nUsageError, BufferError\n    As `free`; the message names the index in the batch. Nothing was freed.");

static PyObject *own_free_many(PyObject *object, PyObject *offsets)
{
    if (ph_look_freeing(heap_of(object)) < 0)
        return NULL;
    return PyObject_CheckBuffer(offsets) ? free_buffer(object, offsets) : free_items(object, offsets);
}

PH_PUBLIC(malloc_many, PH_CALL_MALLOC_MANY)
PH_PUBLIC_OF_ONE(free_many, PH_CALL_FREE_MANY)

PyMethodDef ph_batch_methods[] = {
    PH_FAST(malloc_many),
    {"free_many", heap_free_many, METH_O, free_many_doc},
    {NULL, NULL, 0, NULL},
};

PyMethodDef ph_own_batch_methods[] = {
    PH_OWN(malloc_many),
    {"free_many", own_free_many, METH_O, free_many_doc},
    {NULL, NULL, 0, NULL},
};
