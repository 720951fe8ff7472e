/* py/handle.c -- Handle: what knows one life of a block; the base of `Block`. A buffer of what its attribute `view` shows.
 *
 * The core numbers the lives of blocks that have handles. A handle keeps neither the block nor the heap. */
#include "py/door.h"
#include "py/heap.h"

struct handle {
    PyObject_HEAD
    PyObject *doors; /* of the heap; NULL before the first begin */
    uint64_t offset;
    uint64_t life;   /* number of the life; 0: of none */
};

/* The heap, if it is there; looked at without a change. */
static struct heap_object *heap_of_handle(const struct handle *self)
{
    return self->doors == NULL ? NULL : ph_heap_if_there(self->doors);
}

static void drop_life(struct handle *self)
{
    struct heap_object *heap = heap_of_handle(self);

    if (heap != NULL && self->life != 0)
        ph_handle_drop(&heap->heap, ph_inner(heap, self->offset), self->life);
    self->life = 0;
}

static int handle_init(PyObject *object, PyObject *args, PyObject *keywords)
{
    struct handle *self = (struct handle *)object;
    unsigned long long offset;
    PyObject *doors, *old = self->doors;

    (void)keywords;
    if (!PyArg_ParseTuple(args, "OK:Handle", &doors, &offset))
        return -1;
    drop_life(self);
    self->doors = Py_NewRef(doors);
    self->offset = offset;
    Py_XDECREF(old);
    struct heap_object *heap = ph_heap_behind(doors);
    if (heap == NULL)
        return -1;
    int64_t life = ph_handle_make(&heap->heap, ph_inner(heap, offset));
    self->life = life < 0 ? 0 : (uint64_t)life;
    return 0;
}

static void handle_dealloc(PyObject *object)
{
    struct handle *self = (struct handle *)object;

    drop_life(self);
    Py_XDECREF(self->doors);
    ph_free_object(object);
}

static int is_valid(const struct handle *self)
{
    const struct heap_object *heap = heap_of_handle(self);

    return heap != NULL && heap->state != PH_S_CLOSED && self->life != 0
        && ph_handle_valid(&heap->heap, ph_inner(heap, self->offset), self->life);
}

FIELD(get_life, handle, number(self->life))
FIELD(get_is_valid, handle, truth(is_valid(self)))

static PyObject *keep(PyObject *object, PyObject *ignored)
{
    struct handle *self = (struct handle *)object;
    struct heap_object *heap = heap_of_handle(self);

    (void)ignored;
    if (heap != NULL && is_valid(self))
        ph_handle_make(&heap->heap, ph_inner(heap, self->offset));
    return done();
}

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

PyDoc_STRVAR(handle_doc,
"Handle(doors, offset, /)\n--\n\nA handle to the life of the block at an offset, and a buffer of what its attribute `view` shows.");

static PyGetSetDef fields[] = {
    {"_life", get_life, NULL, "Number of the life; 0 if no live block began there.", NULL},
    {"_is_valid", get_is_valid, NULL, "Whether that life goes on, in a heap that is open.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    {"_keep", keep, METH_NOARGS, "Let the life keep its number, when there are no handles any more."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)handle_doc},
    {Py_tp_init, handle_init},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_getset, fields},
    {Py_tp_methods, methods},
    {Py_bf_getbuffer, getbuffer},
    {Py_bf_releasebuffer, releasebuffer},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "pmemheap._core._hot.Handle",
    .basicsize = sizeof(struct handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int ph_add_handle_type(PyObject *module)
{
    return ph_add_type(module, "Handle", &spec);
}
