/* py/types.h -- what the files of the extension types know of each other. Include it first: it brings Python.h.
 *
 * No format of PyArg_ParseTuple or Py_BuildValue has a '#': headers of 3.13 leave out what Python 3.12 needs for it. */
#pragma once
#include <Python.h>
#include "os/os.h"

/* Each adds its types to the module; 0, or -1 with an exception set. */
int ph_add_address_range_type(PyObject *module);
int ph_add_exporter_type(PyObject *module);
int ph_add_places_type(PyObject *module);
int ph_add_heap_types(PyObject *module);
int ph_add_handle_type(PyObject *module);
int ph_add_numpy_memory(PyObject *module);

/* ph_add_type -- make a heap type of `spec` and add it to `module` under `name`. */
int ph_add_type(PyObject *module, const char *name, PyType_Spec *spec);
/* ph_join_methods -- the methods of several tables, up to NULL, in one, which has room for them. */
PyMethodDef *ph_join_methods(PyMethodDef *to, const PyMethodDef *const *tables);
/* ph_new_object -- the zeroed object of a type; NULL with an exception set. ph_free_object -- the end of its dealloc. */
static inline void *ph_new_object(PyTypeObject *type)
{
    return ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
}

static inline void ph_free_object(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);

    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* ph_append_new -- append an object that was just made, if it was; -1 with an exception set. It is the list's then. */
static inline int ph_append_new(PyObject *list, PyObject *made)
{
    int failed = made == NULL ? -1 : PyList_Append(list, made);

    Py_XDECREF(made);
    return failed;
}

/* ph_hold_collector -- let the garbage collector wait while C walks what finalizers may change: up to Python 3.11 each object
 * that is made may call it. Whether it was on, for ph_let_collector. */
static inline int ph_hold_collector(void)
{
    return PyGC_Disable();
}

static inline void ph_let_collector(int was_on)
{
    if (was_on)
        PyGC_Enable();
}

/* ph_raise_errno -- set OSError from a negated errno. Returns NULL. */
PyObject *ph_raise_errno(int64_t error);
