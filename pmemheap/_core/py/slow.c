/* py/slow.c -- from a call that C does not answer alone to the Python half of its heap. */
#include "py/heap_calls.h"

struct ph_slow ph_slow;

static int intern(PyObject **name, const char *text)
{
    *name = PyUnicode_InternFromString(text);
    return *name == NULL ? -1 : 0;
}

int ph_slow_init(void)
{
    const struct {
        PyObject **name;
        const char *text;
    } names[] = {
        {&ph_slow.of_heap, "_slow"},
        {&ph_slow.malloc, "malloc"},                 {&ph_slow.free, "free"},
        {&ph_slow.realloc, "realloc"},               {&ph_slow.expand, "expand"},
        {&ph_slow.usable_size, "usable_size"},       {&ph_slow.view, "view"},
        {&ph_slow.malloc_many, "malloc_many"},       {&ph_slow.free_many, "free_many"},
        {&ph_slow.log_upkeep, "log_upkeep"},         {&ph_slow.mark_in_use, "mark_in_use"},
        {&ph_slow.become_attached, "become_attached"}, {&ph_slow.raise_died, "raise_died"},
        {&ph_slow.upkeep, "upkeep"},                 {&ph_slow.oldest, "oldest"},
        {&ph_slow.reserve, "reserve"},               {&ph_slow.refill, "refill"},
        {&ph_slow.tx_malloc, "_malloc_slow"},        {&ph_slow.tx_free, "_free_slow"},
        {&ph_slow.tx_write, "_write_slow"},          {&ph_slow.tx_exit, "_exit_slow"},
        {&ph_slow.map_missing, "__missing__"},       {&ph_slow.map_put, "_put_slow"},
        {&ph_slow.map_remove, "_remove_slow"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (intern(names[i].name, names[i].text) < 0)
            return -1;
    return 0;
}

PyObject *ph_call_slow(PyObject *heap, PyObject *name, PyObject *first, PyObject *second, PyObject *third)
{
    if (PyErr_Occurred()) /* an interrupt, while the call asked whether it may go on */
        return NULL;
    PyObject *slow = PyObject_GetAttr(heap, ph_slow.of_heap);
    PyObject *done = slow == NULL ? NULL : PyObject_CallMethodObjArgs(slow, name, first, second, third, NULL);

    Py_XDECREF(slow);
    return done;
}

PyObject *ph_ask_slow(PyObject *heap, PyObject *name, PyObject *first, PyObject *second, int64_t refusal)
{
    if (PyErr_Occurred()) /* see above */
        return NULL;
    PyObject *code = PyLong_FromLongLong(refusal);
    PyObject *done = code == NULL ? NULL : ph_call_slow(heap, name, first, second == NULL ? Py_None : second, code);

    Py_XDECREF(code);
    if (done == Py_NotImplemented)
        Py_DECREF(done);
    return done;
}

int ph_read_arguments(const char *method, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                      const char *const *names, Py_ssize_t required, Py_ssize_t capacity, PyObject **values)
{
    if (count > capacity) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments (%zd given)", method, capacity, count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < capacity; i++)
        values[i] = i < count ? args[i] : NULL;
    for (Py_ssize_t k = 0; keywords != NULL && k < PyTuple_Size(keywords); k++) {
        PyObject *keyword = PyTuple_GetItem(keywords, k);
        Py_ssize_t i = 0;
        while (i < capacity && PyUnicode_CompareWithASCIIString(keyword, names[i]) != 0)
            i++;
        if (i == capacity || values[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected or repeated argument '%U'", method, keyword);
            return -1;
        }
        values[i] = args[count + k];
    }
    for (Py_ssize_t i = 0; i < required; i++)
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() misses its argument '%s'", method, names[i]);
            return -1;
        }
    return 0;
}
