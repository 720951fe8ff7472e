/* py/region.c -- RegionCore: the calls of a region that the C core answers alone. */
#include "arena/region.h"
#include "py/door.h"
#include "py/heap_calls.h"
#include "py/heap_doors.h"

struct region_object {
    PyObject_HEAD
    struct heap_object *heap; /* which it keeps */
    struct ph_region region;
    int is_over;              /* dropped */
};

static PyObject *region_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *heap;

    (void)keywords;
    if (!PyArg_ParseTuple(args, "O:RegionCore", &heap))
        return NULL;
    if (!ph_is_heap(heap)) {
        PyErr_SetString(PyExc_TypeError, "RegionCore: a heap expected");
        return NULL;
    }
    struct region_object *self = ph_new_object(type);
    if (self == NULL)
        return NULL;
    self->heap = (struct heap_object *)Py_NewRef(heap);
    ph_region_init(&self->region, &self->heap->heap);
    return (PyObject *)self;
}

static void region_dealloc(PyObject *object)
{
    Py_DECREF((PyObject *)((struct region_object *)object)->heap);
    ph_free_object(object);
}

/* Ask Python for what the core lacks, as ph_ask_slow does; and with how many units are wanted. */
static PyObject *ask_slow(PyObject *region, PyObject *const *values, int64_t refusal, uint64_t nunits)
{
    if (PyErr_Occurred())
        return NULL;
    PyObject *code = PyLong_FromLongLong(refusal), *units = code == NULL ? NULL : number(nunits);
    PyObject *align = values[1] == NULL ? Py_None : values[1];
    PyObject *done = units == NULL
        ? NULL : PyObject_CallMethodObjArgs(region, ph_slow.tx_malloc, values[0], align, code, units, NULL);

    Py_XDECREF(code);
    Py_XDECREF(units);
    if (done == Py_NotImplemented)
        Py_DECREF(done);
    return done;
}

static PyObject *region_malloc(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"size", "align"};
    struct region_object *self = (struct region_object *)object;
    PyObject *values[2] = {count > 0 ? args[0] : NULL, NULL}, *answer;
    uint64_t size, align = PH_GRANULE, nunits = 0;

    if ((count != 1 || keywords != NULL) && ph_read_arguments("malloc", args, count, keywords, names, 1, 2, values) < 0)
        return NULL;
    if (ph_tick(self->heap) < 0)
        return NULL;
    do {
        int64_t inner = 0;
        if (ph_may_change(self->heap) && !self->is_over && read_request(values[0], values[1], &size, &align)) {
            inner = align <= PH_GRANULE ? ph_region_bump(&self->region, size) : PH_H_REFILL;
            if (PH_UNLIKELY(inner < 0))
                inner = ph_region_malloc_any(&self->region, size, align, &nunits);
            if (inner >= 0)
                return appended_offset(self->heap, inner);
        }
        answer = ask_slow(object, values, inner, nunits);
    } while (answer == Py_NotImplemented);
    return answer;
}

/* Begin a region that is kept: its offset, or the units in one piece that the pool lacks, negated. */
static PyObject *begin(struct region_object *self)
{
    uint64_t nunits = 0;
    int64_t inner = ph_region_begin(&self->region, &nunits);

    if (inner == PH_H_NOMEM)
        return PyErr_NoMemory();
    return inner < 0 ? PyLong_FromLongLong(-(int64_t)nunits) : appended_offset(self->heap, inner);
}

DOOR(region_begin, region_object, 0, begin(self))

DOOR(region_find, region_object, 1, code(ph_region_find(&self->region, ph_inner(self->heap, n[0]))))

/* A large block that Python has placed becomes one of the region, unless that was dropped. */
static PyObject *take_large(struct region_object *self, uint64_t offset)
{
    if (!self->is_over)
        ph_region_take(&self->region, ph_inner(self->heap, offset));
    return truth(!self->is_over);
}

DOOR(region_take, region_object, 1, take_large(self, n[0]))

/* Whether a block can hold so many bytes where it is; who watches is told that it has that size now. */
static PyObject *stays(struct region_object *self, uint64_t offset, uint64_t size)
{
    int64_t capacity = ph_may_change(self->heap) ? ph_usable_size(self->region.arena, offset) : PH_H_BAD_OFFSET;
    int does = capacity >= 0 && size <= (uint64_t)capacity;

    if (does) {
        PH_TELL(self->region.arena, ph_tell_resized, offset, size, 0, 0);
        PH_TELL(self->region.arena, ph_tell_reallocated, offset, size);
    }
    return truth(does);
}

DOOR(region_stays, region_object, 2, stays(self, ph_inner(self->heap, n[0]), n[1]))

static PyObject *mark_of(const struct region_object *self)
{
    struct ph_region_mark mark = ph_region_mark(&self->region);

    return Py_BuildValue("III", mark.made, mark.chunk, mark.fill);
}

DOOR(region_mark, region_object, 0, mark_of(self))

/* A code, once the log knows of what went. */
static PyObject *appended_code(const struct region_object *self, int64_t refused)
{
    return ph_append_pending(self->heap) < 0 ? NULL : code(refused);
}

DOOR(region_rewind, region_object, 3,
     appended_code(self, ph_region_rewind(&self->region, (struct ph_region_mark){(uint32_t)n[0], (uint32_t)n[1], (uint32_t)n[2]})))

static int64_t drop(struct region_object *self)
{
    int64_t refused = self->is_over || self->heap->state != PH_S_OPEN ? 0 : ph_region_drop(&self->region);

    self->is_over |= refused == 0;
    return refused;
}

DOOR(region_drop, region_object, 0, appended_code(self, drop(self)))

FIELD(region_is_over, region_object, truth(self->is_over))

static PyGetSetDef region_fields[] = {
    {"dropped", region_is_over, NULL, "Whether the region was dropped.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(malloc_doc,
"malloc($self, /, size, align=16)\n--\n\n"
"Allocate a block of the region and return its offset, as `Heap.malloc` does.\n\n"
"Raises\n------\n"
"UsageError\n    Size or alignment out of range; the region was dropped, the heap is closed.\n"
"OutOfSpaceError\n    The heap cannot grow. Nothing has changed.\n\n"
"Notes\n-----\nO(1): a bump in a chunk; blocks above 8 KiB are large blocks of the heap, which go with the region.");

static PyMethodDef region_methods[] = {
    {"malloc", (PyCFunction)(void (*)(void))region_malloc, METH_FASTCALL | METH_KEYWORDS, malloc_doc},
    AS_METHOD("_begin", region_begin, "Begin a region that is kept: its offset, or the units that the pool lacks, negated."),
    AS_METHOD("_find", region_find, "Be the one that is called by an offset; 0, or a negative code."),
    AS_METHOD("_take", region_take, "A large block becomes one of the region; whether the region is there."),
    AS_METHOD("_stays", region_stays, "Whether a block can hold so many bytes where it is, which it was asked for."),
    AS_METHOD("_mark", region_mark, "Where it is now: three numbers."),
    AS_METHOD("_rewind", region_rewind, "Go back to such a point; 0, or a negative code."),
    AS_METHOD("_drop", region_drop, "Free all blocks; 0, or a negative code."),
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(region_doc, "RegionCore(heap, /)\n--\n\nThe calls of a region that the C core answers alone. It keeps the heap.");

static PyType_Slot region_slots[] = {
    {Py_tp_doc, (void *)region_doc},
    {Py_tp_new, region_new},
    {Py_tp_dealloc, region_dealloc},
    {Py_tp_methods, region_methods},
    {Py_tp_getset, region_fields},
    {0, NULL},
};

static PyType_Spec region_spec = {
    .name = "pmemheap._core._hot.RegionCore",
    .basicsize = sizeof(struct region_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = region_slots,
};

int ph_add_region_type(PyObject *module)
{
    return ph_add_type(module, "RegionCore", &region_spec);
}
