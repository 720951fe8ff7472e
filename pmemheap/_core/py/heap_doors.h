/* py/heap_doors.h -- what the doors between the Python half of a heap and the C core share. */
#pragma once
#include "py/door.h"
#include "py/heap.h"

static inline struct ph_heap *core_of(PyObject *object)
{
    return &((struct heap_object *)object)->heap;
}

/* An int argument as an offset in the arena; (uint64_t)-1 with an exception set if it is none. */
static inline uint64_t read_inner(PyObject *object, PyObject *argument)
{
    uint64_t offset = PyLong_AsUnsignedLongLong(argument);

    return PyErr_Occurred() ? offset : ph_inner((struct heap_object *)object, offset);
}

/* A code of an enum; -1 with an exception set if it is none. */
static inline long read_code(PyObject *value)
{
    long code = value == NULL ? -1 : PyLong_AsLong(value);

    if (code < 0 && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "a code of an enum expected");
    return code;
}

static inline PyObject *offset_from(PyObject *object, int64_t inner)
{
    if (inner < 0)
        return PyLong_FromLongLong(inner);
    return PyLong_FromUnsignedLongLong(ph_outer((struct heap_object *)object, (uint64_t)inner));
}
