/* py/door.h -- doors that take numbers: how such a method is written, and what it can answer with.
 *
 *     DOOR(young_end, heap_object, 2, number(ph_ages_young_end(&self->heap.ages, n[0], n[0] + n[1])))
 *
 * is the method `young_end` of a heap_object, `self`. It takes two ints, `n[0]` and `n[1]`, and answers with what the expression
 * gives: an object, or NULL with an exception set. */
#pragma once
#include "py/types.h"

/* ph_read_numbers -- just `count` ints of 64 bits, or bools; -1 with an exception set. */
int ph_read_numbers(const char *door, PyObject *const *args, Py_ssize_t given, Py_ssize_t count, uint64_t *numbers);

#define DOOR(name, type, count, ...)                                                              \
    static PyObject *name(PyObject *object, PyObject *const *args, Py_ssize_t given)                \
    {                                                                                               \
        struct type *self = (struct type *)object;                                                  \
        uint64_t n[(count) + 1];                                                                    \
        (void)self;                                                                                 \
        return ph_read_numbers(#name, args, given, count, n) < 0 ? NULL : (__VA_ARGS__);            \
    }

/* The getter of an attribute, in the same way. */
#define FIELD(name, type, ...)                                                                      \
    static PyObject *name(PyObject *object, void *closure)                                          \
    {                                                                                               \
        struct type *self = (struct type *)object;                                                  \
        (void)closure;                                                                              \
        return (__VA_ARGS__);                                                                       \
    }

/* The entry of a door in a table of methods. */
#define AS_METHOD(name, door, doc) {name, (PyCFunction)(void (*)(void))door, METH_FASTCALL, doc}

static inline PyObject *number(uint64_t value)
{
    return PyLong_FromUnsignedLongLong(value);
}

/* 0 or what was found, or a negative code. */
static inline PyObject *code(int64_t value)
{
    return PyLong_FromLongLong(value);
}

static inline PyObject *truth(int value)
{
    return PyBool_FromLong(value);
}

static inline PyObject *done(void)
{
    return Py_NewRef(Py_None);
}

static inline PyObject *pair(uint64_t first, uint64_t second)
{
    return Py_BuildValue("KK", (unsigned long long)first, (unsigned long long)second);
}
