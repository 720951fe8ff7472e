/* window.c -- Window: raw memory as a buffer.
 *
 *     memoryview, slice, numpy array ──► Window ──► keep ──► (a Lifeline) the address range
 *
 * A window holds `keep` and cannot be cleared by the garbage collector (it is traversed, so cycles are seen, but it
 * has no tp_clear): the memory stays mapped for as long as anything was exported and lives. It never reads the memory.
 * Who unmaps early closes the window first: that is refused while exports live, and nothing is exported afterwards, not
 * even by way of `memoryview.obj`.
 */
#include "hot.h"

struct window {
    PyObject_HEAD
    char *address;
    Py_ssize_t length;
    int readonly;
    Py_ssize_t exports;
    PyObject *keep;
};

PyDoc_STRVAR(window_doc,
             "Window(address, length, readonly, keep, /)\n--\n\n"
             "A buffer over the `length` bytes at `address`, which are there for as long as `keep` lives.");

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

static int window_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
    struct window *self = (struct window *)object;

    if (self->keep == NULL) {
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

PyDoc_STRVAR(close_doc, "close()\n--\n\n"
                        "Export nothing more and let go of what is kept; BufferError while exports live.");

static PyObject *window_close(PyObject *object, PyObject *unused)
{
    struct window *self = (struct window *)object;
    PyObject *keep = self->keep;

    (void)unused;
    if (self->exports) {
        PyErr_Format(PyExc_BufferError, "window at %p: no live views expected, %zd found", (void *)self->address,
                     self->exports);
        return NULL;
    }
    self->keep = NULL;
    if (keep != NULL) {
        ph_lifeline_pin(keep, -1);
        Py_DECREF(keep);
    }
    Py_RETURN_NONE;
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

static PyGetSetDef window_attributes[] = {
    {"address", window_address, NULL, "Address of the first byte.", NULL},
    {"length", window_length, NULL, "Bytes.", NULL},
    {"readonly", window_readonly, NULL, "Whether buffers on it refuse writes.", NULL},
    {"exports", window_exports, NULL, "Buffers that live: memoryviews, their slices and arrays.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef window_methods[] = {
    {"close", window_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot window_slots[] = {
    {Py_tp_doc, (void *)window_doc},
    {Py_tp_new, window_new},
    {Py_tp_traverse, window_traverse},
    {Py_tp_dealloc, window_dealloc},
    {Py_tp_methods, window_methods},
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
