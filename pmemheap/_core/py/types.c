/* py/types.c -- what all extension types need. */
#include "py/types.h"

#include <errno.h>

int ph_add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    int result;

    if (type == NULL)
        return -1;
    result = PyModule_AddObjectRef(module, name, type);
    Py_DECREF(type);
    return result;
}

PyObject *ph_raise_errno(int64_t error)
{
    errno = (int)-error;
    return PyErr_SetFromErrno(PyExc_OSError);
}
