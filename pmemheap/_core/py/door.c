/* py/door.c -- the reader of the arguments of a door. */
#include "py/door.h"

int ph_read_numbers(const char *door, PyObject *const *args, Py_ssize_t given, Py_ssize_t count, uint64_t *numbers)
{
    if (given != count) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", door, count, given);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        numbers[i] = PyLong_AsUnsignedLongLong(args[i]);
        if (numbers[i] == (uint64_t)-1 && PyErr_Occurred())
            return -1;
    }
    return 0;
}
