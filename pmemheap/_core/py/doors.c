/* py/doors.c -- HeapDoors: what the package asks of the C core of a heap, apart from the calls that users see.
 *
 *     Heap, Arena (HeapCore)   public calls   <-- users
 *              ^
 *     HeapDoors                its other methods, and these   <-- the Python half of the heap
 *
 * The doors do not keep the heap: one that nobody else has is closed at once. Then they lead nowhere, and show what a heap
 * shows that is closed. */
#include "py/heap.h"

struct doors {
    PyObject_HEAD
    struct heap_object *heap; /* NULL once it is gone */
};

static PyObject *methods; /* name: method descriptor of HeapCore */
static descrgetfunc bind;
static PyTypeObject *doors_type, *core_type;

/* While a heap goes, nobody may hold it again. */
struct heap_object *ph_heap_if_there(PyObject *object)
{
    struct heap_object *heap = Py_TYPE(object) == doors_type ? ((struct doors *)object)->heap : NULL;

    return heap != NULL && Py_REFCNT((PyObject *)heap) > 0 ? heap : NULL;
}

/* It was closed before it went: another thread has dropped the arena, as a rule. */
static void refuse_what_is_gone(void)
{
    PyObject *errors = PyImport_ImportModule("pmemheap.errors");
    PyObject *kind = errors == NULL ? NULL : PyObject_GetAttrString(errors, "UsageError");

    if (kind != NULL)
        PyErr_SetString(kind, "an open heap or arena expected, found one that is closed and gone");
    Py_XDECREF(kind);
    Py_XDECREF(errors);
}

struct heap_object *ph_heap_behind(PyObject *object)
{
    struct heap_object *heap = ph_heap_if_there(object);

    if (heap == NULL)
        refuse_what_is_gone();
    return heap;
}

const struct heap_object *ph_seen_behind(PyObject *object)
{
    static struct heap_object gone = {.state = PH_S_CLOSED};
    const struct heap_object *heap = ph_heap_if_there(object);

    return heap == NULL ? &gone : heap;
}

static PyObject *doors_get(PyObject *object, PyObject *name)
{
    PyObject *method = PyDict_GetItemWithError(methods, name);
    struct heap_object *heap;

    if (method == NULL)
        return PyErr_Occurred() ? NULL : PyObject_GenericGetAttr(object, name);
    heap = ph_heap_behind(object);
    return heap == NULL ? NULL : bind(method, (PyObject *)heap, NULL);
}

/* The size classes, as numbers of 32 bits, and the units of their runs, of 16 bits. */
struct classes {
    const uint32_t *sizes;
    const uint16_t *units;
    uint32_t count;
};

/* -1 with an exception set. */
static int read_classes(struct classes *c, PyObject *size_bytes, PyObject *unit_bytes)
{
    char *sizes, *units;
    Py_ssize_t length, units_length;

    if (PyBytes_AsStringAndSize(size_bytes, &sizes, &length) < 0 || PyBytes_AsStringAndSize(unit_bytes, &units, &units_length) < 0)
        return -1;
    *c = (struct classes){(const uint32_t *)sizes, (const uint16_t *)units, (uint32_t)(length / 4)};
    if (length / 4 == units_length / 2)
        return 0;
    PyErr_SetString(PyExc_ValueError, "size classes: a run length for each size expected");
    return -1;
}

PyObject *ph_class_starts(PyObject *module, PyObject *arguments)
{
    struct classes c;
    PyObject *size_bytes, *unit_bytes, *starts;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "SS", &size_bytes, &unit_bytes) || read_classes(&c, size_bytes, unit_bytes) < 0)
        return NULL;
    uint64_t length = ph_starts_words(c.units, c.count) * sizeof(uint64_t);
    if ((starts = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length)) == NULL)
        return NULL;
    char *bytes = PyBytes_AsString(starts);
    memset(bytes, 0, length);
    ph_starts_fill((uint64_t *)(void *)bytes, c.sizes, c.units, c.count);
    return starts;
}

/* Give a heap its size classes; -1 with an exception set. */
static int set_classes(struct heap_object *heap, PyObject *size_bytes, PyObject *unit_bytes, PyObject *starts)
{
    struct classes c;

    if (read_classes(&c, size_bytes, unit_bytes) < 0)
        return -1;
    int is_whole = (uint64_t)PyBytes_Size(starts) == ph_starts_words(c.units, c.count) * sizeof(uint64_t);
    if (!is_whole || ph_heap_init(&heap->heap, c.sizes, c.units, c.count, (const uint64_t *)(const void *)PyBytes_AsString(starts)) < 0) {
        PyErr_Format(PyExc_ValueError, "HeapDoors: ascending sizes up to %d, and their starts, expected", PH_SMALL_MAX);
        return -1;
    }
    heap->starts = Py_NewRef(starts);
    return 0;
}

static PyObject *doors_to(PyTypeObject *type, struct heap_object *heap)
{
    struct doors *self = ph_new_object(type);

    if (self == NULL)
        return NULL;
    self->heap = heap;
    heap->doors = self;
    return (PyObject *)self;
}

static PyObject *doors_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    unsigned long long origin, file;
    PyObject *object, *sizes, *units, *starts;

    (void)keywords;
    if (!PyArg_ParseTuple(arguments, "OSSSKK:HeapDoors", &object, &sizes, &units, &starts, &origin, &file))
        return NULL;
    struct heap_object *heap = (struct heap_object *)object;
    if (!PyObject_TypeCheck(object, core_type) || heap->doors != NULL) {
        PyErr_SetString(PyExc_TypeError, "HeapDoors: a HeapCore that has none expected");
        return NULL;
    }
    if (set_classes(heap, sizes, units, starts) < 0)
        return NULL;
    heap->origin = origin;
    heap->file = file;
    return doors_to(type, heap);
}

void ph_close_doors(struct heap_object *heap)
{
    if (heap->doors != NULL)
        heap->doors->heap = NULL;
}

static void doors_dealloc(PyObject *object)
{
    struct doors *self = (struct doors *)object;

    if (self->heap != NULL)
        self->heap->doors = NULL;
    ph_free_object(object);
}

PyDoc_STRVAR(doors_doc, "HeapDoors(heap, sizes, units, starts, origin, file, /)\n--\n\n"
"The methods of a heap that the package calls. Does not keep the heap.\n\n"
"The heap is empty then. It has got its size classes, what its offsets begin with, and the number of its file.");

static PyType_Slot doors_slots[] = {
    {Py_tp_doc, (void *)doors_doc},
    {Py_tp_new, doors_new},
    {Py_tp_dealloc, doors_dealloc},
    {Py_tp_getattro, doors_get},
    {Py_tp_getset, NULL}, /* given to ph_add_doors_type */
    {0, NULL},
};

static PyType_Spec doors_spec = {
    .name = "pmemheap._core._hot.HeapDoors",
    .basicsize = sizeof(struct doors),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = doors_slots,
};

static int add_methods(PyTypeObject *core, PyMethodDef *table)
{
    for (; table->ml_name != NULL; table++) {
        PyObject *method = PyDescr_NewMethod(core, table);
        if (method == NULL || PyDict_SetItemString(methods, table->ml_name, method) < 0) {
            Py_XDECREF(method);
            return -1;
        }
        bind = (descrgetfunc)PyType_GetSlot(Py_TYPE(method), Py_tp_descr_get);
        Py_DECREF(method);
    }
    return 0;
}

int ph_add_doors_type(PyObject *module, PyTypeObject *core, PyMethodDef *const *tables, PyGetSetDef *fields)
{
    core_type = core;
    doors_slots[4].pfunc = fields;
    methods = PyDict_New();
    for (; methods != NULL && *tables != NULL; tables++)
        if (add_methods(core, *tables) < 0)
            return -1;
    if (methods == NULL || ph_add_type(module, "HeapDoors", &doors_spec) < 0)
        return -1;
    doors_type = (PyTypeObject *)PyObject_GetAttrString(module, "HeapDoors");
    return doors_type == NULL ? -1 : 0;
}
