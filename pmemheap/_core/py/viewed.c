/* py/viewed.c -- Viewed: the base of what has a memoryview as its attribute `view`, and is a buffer by that. */
#include "py/types.h"

static int getbuffer(PyObject *object, Py_buffer *buffer, int flags)
{
    PyObject *view = PyObject_GetAttrString(object, "view");
    int failed = view == NULL ? -1 : PyObject_GetBuffer(view, buffer, flags);

    Py_XDECREF(view); /* the buffer keeps it */
    return failed;
}

/* Never called: a buffer is the view's. Where there is none, numpy.frombuffer gives the buffer back at once, and keeps the
 * object alone, which pins nothing. */
static void releasebuffer(PyObject *object, Py_buffer *buffer)
{
    (void)object;
    (void)buffer;
}

PyDoc_STRVAR(viewed_doc, "Viewed()\n--\n\nA buffer of what its attribute `view` shows.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)viewed_doc},
    {Py_tp_dealloc, ph_free_object},
    {Py_bf_getbuffer, getbuffer},
    {Py_bf_releasebuffer, releasebuffer},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "pmemheap._core._hot.Viewed",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int ph_add_viewed_type(PyObject *module)
{
    return ph_add_type(module, "Viewed", &spec);
}
