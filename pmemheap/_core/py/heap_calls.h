/* py/heap_calls.h -- what the calls of a heap share: their arguments, and the slow twins that they go on in.
 *
 * A call does what the C core can do alone. For everything else, a missing run, a large block, growth, a bad argument, it
 * calls its slow twin, a method of the object that the Python subclass keeps as `_slow`, which answers or raises. */
#pragma once
#include "py/admit.h"
#include "py/log.h"

/* The names of methods of the Python half: of the slow twins of a heap, of a transaction (tx_...), of a map (map_...). */
struct ph_slow {
    PyObject *of_heap;
    PyObject *malloc, *free, *realloc, *expand, *usable_size, *view, *malloc_many, *free_many, *oldest, *reserve, *refill;
    PyObject *log_upkeep, *mark_in_use, *become_attached, *raise_died, *upkeep;
    PyObject *tx_malloc, *tx_free, *tx_write, *tx_exit, *map_missing, *map_put, *map_remove;
};
extern struct ph_slow ph_slow;
int ph_slow_init(void);

/* ph_call_slow -- call a slow twin of a heap with up to three arguments, the rest NULL.
 * ph_ask_slow -- call one with two arguments, None where NULL, and with the code that the core refused for, 0 if it was not
 * asked. Py_NotImplemented (borrowed): the core is to be asked again. */
PH_SELDOM PyObject *ph_call_slow(PyObject *heap, PyObject *name, PyObject *first, PyObject *second, PyObject *third);
PH_SELDOM PyObject *ph_ask_slow(PyObject *heap, PyObject *name, PyObject *first, PyObject *second, int64_t refusal);

/* ph_read_arguments -- positional `names[0]`, ... and keywords into `values` (borrowed, NULL where absent). */
int ph_read_arguments(const char *method, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                      const char *const *names, Py_ssize_t required, Py_ssize_t capacity, PyObject **values);

static inline struct heap_object *heap_of(PyObject *object)
{
    return (struct heap_object *)object;
}

/* An exact or convertible int that fits 64 bits; 0 with no exception set when it does not. */
PH_INLINED int read_number(PyObject *object, uint64_t *number)
{
    *number = PyLong_AsUnsignedLongLong(object);
    if (*number != (uint64_t)-1 || !PyErr_Occurred())
        return 1;
    PyErr_Clear();
    return 0;
}

/* What malloc is asked for; 0 with no exception set where that can not be. `align_given`: NULL if none was. */
PH_INLINED int read_request(PyObject *size_given, PyObject *align_given, uint64_t *size, uint64_t *align)
{
    return read_number(size_given, size) && *size != 0 && *size <= PH_SIZE_MAX
        && (align_given == NULL || (read_number(align_given, align) && *align != 0 && (*align & (*align - 1)) == 0));
}

static inline struct ph_log *log_of(const struct heap_object *self)
{
    return &((struct log_object *)self->log)->log;
}

static inline uint64_t arena_of(const struct heap_object *self)
{
    return self->origin >> PH_ARENA_SHIFT;
}

/* The offset of the heap for one of this arena, once the log knows of it. */
static inline PyObject *appended_offset(struct heap_object *self, int64_t inner)
{
    return ph_append_pending(self) < 0 ? NULL : PyLong_FromUnsignedLongLong(ph_outer(self, (uint64_t)inner));
}

#define PH_FAST(name) {#name, (PyCFunction)(void (*)(void))heap_##name, METH_FASTCALL | METH_KEYWORDS, name##_doc}
