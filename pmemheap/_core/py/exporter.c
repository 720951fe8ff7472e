/* py/exporter.c -- Exporter: raw memory as a buffer.
 *
 *     memoryview, slice, numpy array ──► Exporter ──► keep ──► (an AddressRange) the address range
 *
 * An exporter holds `keep` and cannot be cleared by the garbage collector (it is traversed, so cycles are seen, but it
 * has no tp_clear): the memory stays mapped for as long as anything was exported and lives. It never reads the memory.
 * Before memory is unmapped early its exporter is closed: that is refused while exports live, and nothing is exported
 * afterwards, not even by way of `memoryview.obj`. The exporter of a map gets its memory from Places, and loses it there.
 */
#include "py/address_range.h"
#include "py/door.h"

static PyTypeObject *exporter_type;

PyDoc_STRVAR(exporter_doc,
             "Exporter(address, length, readonly, keep, /)\n--\n\n"
             "A buffer over the `length` bytes at `address`, which are there for as long as `keep` lives.\n\n"
             "Address 0: without memory, until Places places it.");

static PyObject *exporter_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    unsigned long long address;
    Py_ssize_t length;
    int readonly;
    PyObject *keep;
    struct exporter *self;

    if (keywords != NULL && PyDict_Size(keywords) != 0) {
        PyErr_SetString(PyExc_TypeError, "Exporter: positional arguments expected, keywords found");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "KnpO:Exporter", &address, &length, &readonly, &keep))
        return NULL;
    if (length < 0) {
        PyErr_Format(PyExc_ValueError, "Exporter: a length of at least 0 expected, %zd found", length);
        return NULL;
    }
    self = ph_new_object(type);
    if (self == NULL)
        return NULL;
    self->address = (char *)(uintptr_t)address;
    self->length = length;
    self->readonly = readonly;
    if (address == 0) /* `keep` comes with the memory */
        return (PyObject *)self;
    self->state = EXPORTER_OPEN;
    self->keep = Py_NewRef(keep);
    ph_address_range_pin(keep, +1);
    return (PyObject *)self;
}

PyObject *ph_memory_view(const void *bytes, uint64_t length, PyObject *keep)
{
    struct exporter *self = ph_new_object(exporter_type);
    if (self == NULL)
        return NULL;
    self->address = (char *)(uintptr_t)bytes;
    self->length = (Py_ssize_t)length;
    self->readonly = 1;
    self->state = EXPORTER_OPEN;
    self->keep = Py_NewRef(keep);
    PyObject *view = PyMemoryView_FromObject((PyObject *)self);
    Py_DECREF((PyObject *)self);
    return view;
}

static int exporter_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((struct exporter *)object)->keep);
    return 0;
}

static void exporter_dealloc(PyObject *object)
{
    PyObject *keep = ((struct exporter *)object)->keep;

    PyObject_GC_UnTrack(object);
    if (keep != NULL)
        ph_address_range_pin(keep, -1);
    Py_XDECREF(keep);
    ph_free_object(object);
}

int ph_is_exporter(PyObject *object)
{
    return PyType_GetSlot(Py_TYPE(object), Py_tp_dealloc) == (void *)exporter_dealloc;
}

/* Return the state, when it is known whether the exporter stays open. */
static int state_now(struct exporter *self)
{
    while (self->state == EXPORTER_CLOSING && self->era == ph_era()) {
        ph_enter();
        ph_leave();
    }
    return self->state;
}

static int exporter_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
    struct exporter *self = (struct exporter *)object;

    if (state_now(self) != EXPORTER_OPEN) {
        PyErr_SetString(PyExc_ValueError, "exporter: an open one expected, a closed one found");
        view->obj = NULL;
        return -1;
    }
    if (PyBuffer_FillInfo(view, object, self->address, self->length, self->readonly, flags) < 0)
        return -1;
    self->exports++;
    return 0;
}

static void exporter_releasebuffer(PyObject *object, Py_buffer *view)
{
    (void)view;
    ((struct exporter *)object)->exports--;
}

FIELD(exporter_address, exporter, PyLong_FromVoidPtr(self->address))
FIELD(exporter_length, exporter, PyLong_FromSsize_t(self->length))
FIELD(exporter_readonly, exporter, truth(self->readonly))
FIELD(exporter_exports, exporter, PyLong_FromSsize_t(self->exports))
FIELD(exporter_closed, exporter, truth(state_now(self) == EXPORTER_CLOSED))

static PyGetSetDef exporter_attributes[] = {
    {"address", exporter_address, NULL, "Address of the first byte.", NULL},
    {"length", exporter_length, NULL, "Bytes.", NULL},
    {"readonly", exporter_readonly, NULL, "Whether buffers on it refuse writes.", NULL},
    {"exports", exporter_exports, NULL, "Buffers that live: memoryviews, their slices and arrays.", NULL},
    {"closed", exporter_closed, NULL, "Whether its memory has gone.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot exporter_slots[] = {
    {Py_tp_doc, (void *)exporter_doc},
    {Py_tp_new, exporter_new},
    {Py_tp_traverse, exporter_traverse},
    {Py_tp_dealloc, exporter_dealloc},
    {Py_tp_getset, exporter_attributes},
    {Py_bf_getbuffer, exporter_getbuffer},
    {Py_bf_releasebuffer, exporter_releasebuffer},
    {0, NULL},
};

static PyType_Spec exporter_spec = {
    .name = "pmemheap._core._hot.Exporter",
    .basicsize = sizeof(struct exporter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = exporter_slots,
};

int ph_add_exporter_type(PyObject *module)
{
    exporter_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &exporter_spec, NULL);
    return exporter_type == NULL ? -1 : PyModule_AddObjectRef(module, "Exporter", (PyObject *)exporter_type);
}
