/* py/numpy_memory.c -- memory of a heap for the arrays that numpy makes (NEP 49).
 *
 *     array --> capsule "mem_handler" --> struct memory --> the heap --> its address ranges
 *
 * Each array keeps the capsule that it was made with, and asks that for its end: so the heap is there for as long as an
 * array of it lives. Numpy may call without the GIL, so all of these take it. Where a heap has no memory, numpy raises
 * MemoryError; what the heap has to say to that stays in the capsule, until it is asked for: an exception as its words, since it
 * would keep the frames, and so the arrays, of its traceback; an interrupt as its type. Nothing of numpy is needed to build this:
 * its table of functions comes from Python. */
#include <string.h>

#include "py/door.h"
#include "py/heap_calls.h"

/* PyDataMem_Handler, version 1. */
struct handler {
    char name[127];
    uint8_t version;
    void *context;
    void *(*malloc)(void *context, size_t size);
    void *(*calloc)(void *context, size_t count, size_t size);
    void *(*realloc)(void *context, void *at, size_t size);
    void (*free)(void *context, void *at, size_t size);
};

struct memory {
    struct handler handler;
    struct heap_object *heap; /* which it keeps */
    PyObject *refusal;        /* str or type: why there was no memory the last time, or NULL */
};

static const char capsule_name[] = "mem_handler"; /* which numpy asks for */

/* ---------------------------------------------------------------- making */

static void note_refusal(struct memory *self)
{
    PyObject *kind, *value, *traceback, *old = self->refusal;
    int is_interrupt = !PyErr_ExceptionMatches(PyExc_Exception);

    PyErr_Fetch(&kind, &value, &traceback);
    self->refusal = is_interrupt ? Py_NewRef(kind) : value == NULL ? NULL : PyObject_Str(value);
    PyErr_Clear();
    Py_XDECREF(old);
    Py_XDECREF(kind);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

/* Take a block that Python has placed, if it is there still: 1, 0 if not, -1 with an exception set. */
static int take_placed(struct heap_object *heap, PyObject *answer, int64_t *inner)
{
    uint64_t offset = PyLong_AsUnsignedLongLong(answer);

    if (PyErr_Occurred())
        return -1;
    *inner = (int64_t)ph_inner(heap, offset);
    return ph_array_take(&heap->heap, (uint64_t)*inner) == 0;
}

/* Ask Python for a block, or for what the core lacks: 1, 0 if the core is to be asked again, -1 with an exception set. */
static int ask_python(struct heap_object *heap, uint64_t size, int64_t refusal, int64_t *inner)
{
    PyObject *bytes = number(size);
    PyObject *answer = bytes == NULL ? NULL : ph_ask_slow((PyObject *)heap, ph_slow.reserve, bytes, NULL, refusal);

    Py_XDECREF(bytes);
    if (answer == NULL || answer == Py_NotImplemented)
        return answer == NULL ? -1 : 0;
    int taken = take_placed(heap, answer, inner);
    Py_DECREF(answer);
    return taken;
}

/* A block for an array, as an offset in the arena: 1, or -1 with an exception set. */
static int reserve(struct heap_object *heap, uint64_t size, int64_t *inner)
{
    int got = ph_tick(heap) < 0 ? -1 : 0;

    while (got == 0) {
        *inner = 0;
        int may_change = ph_may_change(heap);
        if (may_change)
            *inner = ph_array_make(&heap->heap, size);
        got = may_change && *inner >= 0 ? 1 : ask_python(heap, size, *inner, inner);
    }
    if (got < 0 || ph_append_pending(heap) == 0)
        return got;
    ph_array_end(&heap->heap, (uint64_t)*inner);
    return -1;
}

/* The same where more than C is needed. An exception that is set stays so. */
static PH_SELDOM void *asked_for(struct memory *self, uint64_t size)
{
    PyObject *kind, *value, *traceback;
    int64_t inner = 0;

    if (size > PH_SIZE_MAX)
        return NULL;
    PyErr_Fetch(&kind, &value, &traceback);
    int got = reserve(self->heap, size == 0 ? 1 : size, &inner);
    if (got < 0)
        note_refusal(self);
    PyErr_Restore(kind, value, traceback);
    return got < 0 ? NULL : self->heap->heap.data + inner;
}

/* Memory of a heap; NULL if there is none. As a rule C alone has it, and no log is to be told. */
static void *memory_of(struct memory *self, uint64_t size)
{
    struct heap_object *heap = self->heap;
    struct ph_heap *h = &heap->heap;

    if (PH_LIKELY(heap->state == PH_S_OPEN && size - 1 < PH_SIZE_MAX && h->until_look > 1 && !h->is_told)) {
        int64_t inner = ph_array_make(h, size);
        h->until_look--;
        if (PH_LIKELY(inner >= 0))
            return h->data + inner;
    }
    return asked_for(self, size);
}

/* ---------------------------------------------------------------- what numpy calls */

static uint64_t inner_of(const struct memory *self, const void *at)
{
    return (uint64_t)((const uint8_t *)at - self->heap->heap.data);
}

static void *array_malloc(void *context, size_t size)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    void *at = memory_of(context, size);

    PyGILState_Release(gil);
    return at;
}

static void *array_calloc(void *context, size_t count, size_t size)
{
    size_t nbytes;
    void *at = __builtin_mul_overflow(count, size, &nbytes) ? NULL : array_malloc(context, nbytes);

    return at == NULL ? NULL : memset(at, 0, nbytes);
}

static void array_free(void *context, void *at, size_t size)
{
    struct memory *self = context;
    PyGILState_STATE gil = PyGILState_Ensure();

    (void)size;
    if (at != NULL)
        ph_array_end(&self->heap->heap, inner_of(self, at));
    PyGILState_Release(gil);
}

/* What was kept stays what it is: it never moves, and an array that outgrows it goes on elsewhere. */
static void *resized(struct memory *self, void *at, uint64_t size)
{
    struct ph_block block = ph_block_at(&self->heap->heap, inner_of(self, at));
    uint64_t capacity = block.state == PH_B_NONE ? 0 : ph_block_capacity(&block);
    int may_stay = size <= capacity && (block.state != PH_B_RESERVED || size > capacity / 2);
    void *to = may_stay || capacity == 0 ? NULL : memory_of(self, size);

    if (to == NULL)
        return size <= capacity ? at : NULL;
    memcpy(to, at, size < capacity ? size : capacity);
    ph_array_end(&self->heap->heap, block.offset);
    return to;
}

static void *array_realloc(void *context, void *at, size_t size)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    void *to = at == NULL ? memory_of(context, size) : resized(context, at, size);

    PyGILState_Release(gil);
    return to;
}

/* ---------------------------------------------------------------- the capsule */

static struct memory *memory_in(PyObject *capsule)
{
    return PyCapsule_GetPointer(capsule, capsule_name);
}

static void let_go(PyObject *capsule)
{
    struct memory *self = memory_in(capsule);

    Py_XDECREF(self->refusal);
    Py_DECREF((PyObject *)self->heap);
    PyMem_Free(self);
}

static PyObject *numpy_memory(PyObject *module, PyObject *heap)
{
    static const struct handler handler = {
        .name = "pmemheap", .version = 1,
        .malloc = array_malloc, .calloc = array_calloc, .realloc = array_realloc, .free = array_free,
    };
    struct memory *self;
    PyObject *capsule;

    (void)module;
    if (!ph_is_heap(heap)) {
        PyErr_SetString(PyExc_TypeError, "numpy_memory: a heap expected");
        return NULL;
    }
    self = PyMem_Malloc(sizeof *self);
    if (self == NULL)
        return PyErr_NoMemory();
    *self = (struct memory){handler, (struct heap_object *)Py_NewRef(heap), NULL};
    self->handler.context = self;
    capsule = PyCapsule_New(self, capsule_name, let_go);
    if (capsule == NULL) {
        Py_DECREF(heap);
        PyMem_Free(self);
    }
    return capsule;
}

static PyObject *numpy_refusal(PyObject *module, PyObject *capsule)
{
    struct memory *self = memory_in(capsule);
    PyObject *refusal;

    (void)module;
    if (self == NULL || self->refusal == NULL)
        return self == NULL ? NULL : done();
    refusal = self->refusal;
    self->refusal = NULL;
    return refusal;
}

/* Places in numpy's table of functions, and what the second one answers from numpy 1.22 on. */
enum { FEATURE_VERSION_AT = 211, SET_HANDLER_AT = 304, HAS_HANDLERS = 0xF };

static PyObject *set_numpy_memory(PyObject *module, PyObject *args)
{
    PyObject *table, *capsule;

    (void)module;
    if (!PyArg_ParseTuple(args, "OO:set_numpy_memory", &table, &capsule))
        return NULL;
    void *const *functions = PyCapsule_GetPointer(table, NULL);
    if (functions == NULL)
        return NULL;
    if (((unsigned (*)(void))functions[FEATURE_VERSION_AT])() < HAS_HANDLERS) {
        PyErr_SetString(PyExc_ImportError, "numpy_allocator: numpy 1.22 or later expected");
        return NULL;
    }
    return ((PyObject * (*)(PyObject *))functions[SET_HANDLER_AT])(capsule);
}

int ph_add_numpy_memory(PyObject *module)
{
    static PyMethodDef functions[] = {
        {"numpy_memory", numpy_memory, METH_O, "numpy_memory(heap, /)\n--\n\nA capsule by which numpy has arrays in the heap, which it keeps."},
        {"numpy_refusal", numpy_refusal, METH_O, "numpy_refusal(capsule, /)\n--\n\nWhy there was no memory the last time, in words, or the type of an interrupt; or\nNone, as from the second time on."},
        {"set_numpy_memory", set_numpy_memory, METH_VARARGS,
         "set_numpy_memory(table, capsule, /)\n--\n\nLet numpy, by its table of functions, use the capsule in this context; the one before."},
        {NULL, NULL, 0, NULL},
    };

    return PyModule_AddFunctions(module, functions);
}
