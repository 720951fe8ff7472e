/* lifeline.c -- Lifeline: a range of the address space, owned.
 *
 *     start             stop                end
 *       |  shown          |    headroom      |
 *       +-----------------+------------------+
 *
 * The only owner: whoever needs the memory to stay holds a reference, and the range goes back to the system, whatever
 * is mapped in it, when the last one has gone. There is no finalizer and nothing the garbage collector could clear.
 * Each method makes its system call and the change of the borders in one step that no Python signal handler can split.
 * Methods raise OSError with nothing changed. Callers lock: two threads may not change one lifeline at a time.
 */
#include "hot.h"

#include <errno.h>
#include <stddef.h>
#include <structmember.h>

struct lifeline {
    PyObject_HEAD
    uint64_t start, stop, end;
    Py_ssize_t windows;
    PyObject *weak_references;
};

PyDoc_STRVAR(lifeline_doc,
             "Lifeline(address, length, /)\n--\n\n"
             "Reserve [address, address + length), or a range anywhere for address 0, and own it: all of it shown.");

static PyObject *lifeline_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    unsigned long long address, length;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct lifeline *self;
    int64_t got;

    if (keywords != NULL && PyDict_Size(keywords) != 0) {
        PyErr_SetString(PyExc_TypeError, "Lifeline: positional arguments expected, keywords found");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "KK:Lifeline", &address, &length))
        return NULL;
    self = (struct lifeline *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    got = ph_reserve(address, length);
    if (got < 0) {
        Py_DECREF(self);
        return ph_raise_errno(got);
    }
    self->start = (uint64_t)got;
    self->stop = self->end = self->start + length;
    return (PyObject *)self;
}

/* Give [self->start, self->end) back. Returns 0 or a negated errno. */
static int64_t give_back(struct lifeline *self)
{
    int64_t result = self->end > self->start ? ph_unreserve(self->start, self->end - self->start) : 0;

    if (result < 0)
        return result;
    self->stop = self->end = self->start;
    return 0;
}

static void lifeline_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    if (((struct lifeline *)object)->weak_references != NULL)
        PyObject_ClearWeakRefs(object);
    give_back((struct lifeline *)object);
    release(object);
    Py_DECREF(type);
}

void ph_lifeline_pin(PyObject *object, Py_ssize_t change)
{
    if (PyType_GetSlot(Py_TYPE(object), Py_tp_dealloc) == (void *)lifeline_dealloc)
        ((struct lifeline *)object)->windows += change;
}

/* Read one argument, a byte count of at most `most`. Returns 0, or -1 with an exception set. */
static int read_length(PyObject *argument, uint64_t most, uint64_t *length)
{
    *length = PyLong_AsUnsignedLongLong(argument);
    if (*length == (uint64_t)-1 && PyErr_Occurred())
        return -1;
    if (*length <= most)
        return 0;
    PyErr_Format(PyExc_ValueError, "Lifeline: a length of at most %llu expected, %llu found",
                 (unsigned long long)most, (unsigned long long)*length);
    return -1;
}

PyDoc_STRVAR(extend_doc, "extend(length, /)\n--\n\n"
                         "Show `length` bytes more: headroom first, the rest newly reserved behind it.");

static PyObject *lifeline_extend(PyObject *object, PyObject *argument)
{
    struct lifeline *self = (struct lifeline *)object;
    uint64_t length;

    if (read_length(argument, UINT64_MAX, &length) < 0)
        return NULL;
    if (length > self->end - self->stop) {
        uint64_t rest = length - (self->end - self->stop);
        int64_t got = ph_reserve(self->end, rest);

        if (got < 0)
            return ph_raise_errno(got);
        self->end += rest;
    }
    self->stop += length;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(cut_head_doc, "cut_head(length, /)\n--\n\nGive the first `length` shown bytes back.");

static PyObject *lifeline_cut_head(PyObject *object, PyObject *argument)
{
    struct lifeline *self = (struct lifeline *)object;
    uint64_t length;
    int64_t result;

    if (read_length(argument, self->stop - self->start, &length) < 0)
        return NULL;
    result = length ? ph_unreserve(self->start, length) : 0;
    if (result < 0)
        return ph_raise_errno(result);
    self->start += length;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(hide_doc, "hide(length, /)\n--\n\nTurn the last `length` shown bytes into headroom.");

static PyObject *lifeline_hide(PyObject *object, PyObject *argument)
{
    struct lifeline *self = (struct lifeline *)object;
    uint64_t length;

    if (read_length(argument, self->stop - self->start, &length) < 0)
        return NULL;
    self->stop -= length;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(trim_doc, "trim(length, /)\n--\n\nGive the last `length` bytes of headroom back.");

static PyObject *lifeline_trim(PyObject *object, PyObject *argument)
{
    struct lifeline *self = (struct lifeline *)object;
    uint64_t length;
    int64_t result;

    if (read_length(argument, self->end - self->stop, &length) < 0)
        return NULL;
    result = length ? ph_unreserve(self->end - length, length) : 0;
    if (result < 0)
        return ph_raise_errno(result);
    self->end -= length;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(release_doc, "release()\n--\n\n"
                          "Give everything back now, whoever holds a reference; BufferError while windows on it live.");

static PyObject *lifeline_release(PyObject *object, PyObject *unused)
{
    struct lifeline *self = (struct lifeline *)object;
    int64_t result;

    (void)unused;
    if (self->windows) {
        PyErr_Format(PyExc_BufferError, "address range at %p: no windows expected, %zd found",
                     (void *)(uintptr_t)self->start, self->windows);
        return NULL;
    }
    result = give_back(self);
    if (result < 0)
        return ph_raise_errno(result);
    Py_RETURN_NONE;
}

static PyObject *lifeline_size(PyObject *object, void *closure)
{
    struct lifeline *self = (struct lifeline *)object;

    (void)closure;
    return PyLong_FromUnsignedLongLong(self->stop - self->start);
}

static PyObject *lifeline_headroom(PyObject *object, void *closure)
{
    struct lifeline *self = (struct lifeline *)object;

    (void)closure;
    return PyLong_FromUnsignedLongLong(self->end - self->stop);
}

static PyMethodDef lifeline_methods[] = {
    {"extend", lifeline_extend, METH_O, extend_doc},
    {"cut_head", lifeline_cut_head, METH_O, cut_head_doc},
    {"hide", lifeline_hide, METH_O, hide_doc},
    {"trim", lifeline_trim, METH_O, trim_doc},
    {"release", lifeline_release, METH_NOARGS, release_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lifeline_attributes[] = {
    {"size", lifeline_size, NULL, "Bytes shown: stop - start.", NULL},
    {"headroom", lifeline_headroom, NULL, "Bytes reserved behind them: end - stop.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef lifeline_members[] = {
    {"start", T_ULONGLONG, offsetof(struct lifeline, start), READONLY, "First address."},
    {"stop", T_ULONGLONG, offsetof(struct lifeline, stop), READONLY, "Address behind the shown part."},
    {"windows", T_PYSSIZET, offsetof(struct lifeline, windows), READONLY, "Windows that live."},
    {"end", T_ULONGLONG, offsetof(struct lifeline, end), READONLY, "Address behind the headroom."},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct lifeline, weak_references), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot lifeline_slots[] = {
    {Py_tp_doc, (void *)lifeline_doc},
    {Py_tp_new, lifeline_new},
    {Py_tp_dealloc, lifeline_dealloc},
    {Py_tp_methods, lifeline_methods},
    {Py_tp_getset, lifeline_attributes},
    {Py_tp_members, lifeline_members},
    {0, NULL},
};

static PyType_Spec lifeline_spec = {
    .name = "pmemheap._core._hot.Lifeline",
    .basicsize = sizeof(struct lifeline),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lifeline_slots,
};

int ph_add_lifeline_type(PyObject *module)
{
    return ph_add_type(module, "Lifeline", &lifeline_spec);
}
