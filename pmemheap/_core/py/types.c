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

PyMethodDef *ph_join_methods(PyMethodDef *to, const PyMethodDef *const *tables)
{
    size_t count = 0;

    for (; *tables != NULL; tables++)
        for (const PyMethodDef *one = *tables; one->ml_name != NULL; one++)
            to[count++] = *one;
    to[count] = (PyMethodDef){NULL, NULL, 0, NULL};
    return to;
}

PyObject *ph_raise_errno(int64_t error)
{
    errno = (int)-error;
    return PyErr_SetFromErrno(PyExc_OSError);
}
