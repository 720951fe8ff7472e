/* The malloc of a library as methods of a Python type that keep the GIL: the floor for a call from
 * Python. HEAP_MALLOC, HEAP_REALLOC and HEAP_FREE name it; what they include stands in front.
 * Limited API, as pmemheap's own type, so that the comparison is of like with like. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

static int as_u64(PyObject *object, uint64_t *value)
{
    *value = PyLong_AsUnsignedLongLong(object);
    return *value == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

static PyObject *as_int(void *block)
{
    return block == NULL ? PyErr_NoMemory() : PyLong_FromUnsignedLongLong((uintptr_t)block);
}

static PyObject *peer_malloc(PyObject *self, PyObject *argument)
{
    uint64_t size;
    (void)self;
    return as_u64(argument, &size) < 0 ? NULL : as_int(HEAP_MALLOC(size));
}

static PyObject *peer_realloc(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    uint64_t block, size;
    (void)self;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "realloc: block and size expected");
        return NULL;
    }
    if (as_u64(arguments[0], &block) < 0 || as_u64(arguments[1], &size) < 0)
        return NULL;
    return as_int(HEAP_REALLOC((void *)(uintptr_t)block, size));
}

static PyObject *peer_free(PyObject *self, PyObject *argument)
{
    uint64_t block;
    (void)self;
    if (as_u64(argument, &block) < 0)
        return NULL;
    HEAP_FREE((void *)(uintptr_t)block);
    Py_RETURN_NONE;
}

static PyObject *peer_touch(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    uint64_t block, size;
    (void)self;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "touch: block and size expected");
        return NULL;
    }
    if (as_u64(arguments[0], &block) < 0 || as_u64(arguments[1], &size) < 0)
        return NULL;
    memset((void *)(uintptr_t)block, 0xA5, size);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"malloc", peer_malloc, METH_O, NULL},
    {"realloc", (PyCFunction)(void (*)(void))peer_realloc, METH_FASTCALL, NULL},
    {"free", peer_free, METH_O, NULL},
    {"touch", (PyCFunction)(void (*)(void))peer_touch, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static void dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyType_Slot slots[] = {
    {Py_tp_methods, methods},
    {Py_tp_dealloc, (void *)dealloc},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "method_peer.MethodPeer",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "method_peer", NULL, -1, NULL, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_method_peer(void)
{
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module == NULL ? NULL : PyType_FromSpec(&spec);
    if (type == NULL || PyModule_AddObject(module, "MethodPeer", type) < 0) {
        Py_XDECREF(type);
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
