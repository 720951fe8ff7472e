/* py/window.c -- Window: raw memory as a buffer.
 *
 *     memoryview, slice, numpy array ──► Window ──► keep ──► (a Lifeline) the address range
 *
 * A window holds `keep` and cannot be cleared by the garbage collector (it is traversed, so cycles are seen, but it
 * has no tp_clear): the memory stays mapped for as long as anything was exported and lives. It never reads the memory.
 * Before memory is unmapped early its window is closed: that is refused while exports live, and nothing is exported
 * afterwards, not even by way of `memoryview.obj`. The window of a map gets its memory from Places, and loses it there.
 */
#include "py/lifeline.h"

PyDoc_STRVAR(window_doc,
             "Window(address, length, readonly, keep, /)\n--\n\n"
             "A buffer over the `length` bytes at `address`, which are there for as long as `keep` lives.\n\n"
             "Address 0: without memory, until Places places it.");

static PyObject *window_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    unsigned long long address;
    Py_ssize_t length;
    int readonly;
    PyObject *keep;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct window *self;

    if (keywords != NULL && PyDict_Size(keywords) != 0) {
        PyErr_SetString(PyExc_TypeError, "Window: positional arguments expected, keywords found");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "KnpO:Window", &address, &length, &readonly, &keep))
        return NULL;
    if (length < 0) {
        PyErr_Format(PyExc_ValueError, "Window: a length of at least 0 expected, %zd found", length);
        return NULL;
    }
    self = (struct window *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->address = (char *)(uintptr_t)address;
    self->length = length;
    self->readonly = readonly;
    if (address == 0) /* `keep` comes with the memory */
        return (PyObject *)self;
    self->state = WINDOW_OPEN;
    self->keep = Py_NewRef(keep);
    ph_lifeline_pin(keep, +1);
    return (PyObject *)self;
}

static int window_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((struct window *)object)->keep);
    return 0;
}

static void window_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    PyObject *keep = ((struct window *)object)->keep;

    PyObject_GC_UnTrack(object);
    if (keep != NULL)
        ph_lifeline_pin(keep, -1);
    Py_XDECREF(keep);
    release(object);
    Py_DECREF(type);
}

int ph_is_window(PyObject *object)
{
    return PyType_GetSlot(Py_TYPE(object), Py_tp_dealloc) == (void *)window_dealloc;
}

/* Return the state, when it is known whether the window stays open. */
static int settled_state(struct window *self)
{
    while (self->state == WINDOW_CLOSING && self->era == ph_era()) {
        ph_enter();
        ph_leave();
    }
    return self->state;
}

static int window_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
    struct window *self = (struct window *)object;

    if (settled_state(self) != WINDOW_OPEN) {
        PyErr_SetString(PyExc_ValueError, "window: an open one expected, a closed one found");
        view->obj = NULL;
        return -1;
    }
    if (PyBuffer_FillInfo(view, object, self->address, self->length, self->readonly, flags) < 0)
        return -1;
    self->exports++;
    return 0;
}

static void window_releasebuffer(PyObject *object, Py_buffer *view)
{
    (void)view;
    ((struct window *)object)->exports--;
}

static PyObject *window_address(PyObject *object, void *closure)
{
    (void)closure;
    return PyLong_FromVoidPtr(((struct window *)object)->address);
}

static PyObject *window_length(PyObject *object, void *closure)
{
    (void)closure;
    return PyLong_FromSsize_t(((struct window *)object)->length);
}

static PyObject *window_readonly(PyObject *object, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((struct window *)object)->readonly);
}

static PyObject *window_exports(PyObject *object, void *closure)
{
    (void)closure;
    return PyLong_FromSsize_t(((struct window *)object)->exports);
}

static PyObject *window_closed(PyObject *object, void *closure)
{
    (void)closure;
    return PyBool_FromLong(settled_state((struct window *)object) == WINDOW_CLOSED);
}

static PyGetSetDef window_attributes[] = {
    {"address", window_address, NULL, "Address of the first byte.", NULL},
    {"length", window_length, NULL, "Bytes.", NULL},
    {"readonly", window_readonly, NULL, "Whether buffers on it refuse writes.", NULL},
    {"exports", window_exports, NULL, "Buffers that live: memoryviews, their slices and arrays.", NULL},
    {"closed", window_closed, NULL, "Whether its memory has gone.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot window_slots[] = {
    {Py_tp_doc, (void *)window_doc},
    {Py_tp_new, window_new},
    {Py_tp_traverse, window_traverse},
    {Py_tp_dealloc, window_dealloc},
    {Py_tp_getset, window_attributes},
    {Py_bf_getbuffer, window_getbuffer},
    {Py_bf_releasebuffer, window_releasebuffer},
    {0, NULL},
};

static PyType_Spec window_spec = {
    .name = "pmemheap._core._hot.Window",
    .basicsize = sizeof(struct window),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = window_slots,
};

int ph_add_window_type(PyObject *module)
{
    return ph_add_type(module, "Window", &window_spec);
}
