/* py/places_search.c -- which map lies where. */
#include "py/places.h"

/* Return the map of an entry, None if there is none, and leave the space. */
static PyObject *found_map(const struct places *self, size_t index)
{
    PyObject *map = Py_NewRef(index < self->count ? self->entries[index].map : Py_None);

    ph_leave();
    return map;
}

PyDoc_STRVAR(find_doc, "find($self, offset, length, /)\n--\n\n"
                       "Return the lowest map with a byte in [offset, offset + length), or None.");

static PyObject *places_find(PyObject *object, PyObject *arguments)
{
    struct places *self = (struct places *)object;
    long long offset, length;
    int64_t start, stop;

    if (!PyArg_ParseTuple(arguments, "LL:find", &offset, &length))
        return NULL;
    ph_enter();
    start = (int64_t)range_of(self)->start + offset;
    stop = start + length;
    start = start < 0 ? 0 : start;
    return found_map(self, stop <= start ? self->count : first_meeting(self, (uint64_t)start, (uint64_t)stop, 0));
}

PyDoc_STRVAR(nth_doc, "nth($self, index, /)\n--\n\nReturn a map by its place, from the end if negative, or None.");

static PyObject *places_nth(PyObject *object, PyObject *argument)
{
    struct places *self = (struct places *)object;
    Py_ssize_t index = PyLong_AsSsize_t(argument);

    if (index == -1 && PyErr_Occurred())
        return NULL;
    ph_enter();
    if (index < 0)
        index += (Py_ssize_t)self->count;
    return found_map(self, index < 0 ? self->count : (size_t)index);
}

PyDoc_STRVAR(beside_doc, "beside($self, exporter, step, /)\n--\n\n"
                         "Return the map `step` places above that of an exporter: None if there is none. "
                         "NotImplemented: the exporter is not listed.");

static PyObject *places_beside(PyObject *object, PyObject *arguments)
{
    struct places *self = (struct places *)object;
    const struct entry *entry;
    PyObject *exporter;
    Py_ssize_t step;

    if (!PyArg_ParseTuple(arguments, "On:beside", &exporter, &step))
        return NULL;
    ph_enter();
    entry = entry_of(self, exporter);
    if (entry == NULL) {
        ph_leave();
        return Py_NewRef(Py_NotImplemented);
    }
    return found_map(self, (size_t)(entry - self->entries + step)); /* below the first: past all */
}

PyDoc_STRVAR(all_doc, "all($self, /)\n--\n\nReturn a list of all maps, lowest first.");

static PyObject *places_all(PyObject *object, PyObject *unused)
{
    struct places *self = (struct places *)object;

    (void)unused;
    for (;;) {
        size_t count = self->count;
        PyObject *maps = PyList_New((Py_ssize_t)count); /* not in the space: it may collect garbage */
        if (maps == NULL)
            return NULL;
        ph_enter();
        for (size_t i = 0; i < count && count == self->count; i++)
            PyList_SetItem(maps, (Py_ssize_t)i, Py_NewRef(self->entries[i].map));
        if (count == self->count) {
            ph_leave();
            return maps;
        }
        ph_leave();
        Py_DECREF(maps);
    }
}

PyMethodDef ph_search_methods[] = {
    {"find", places_find, METH_VARARGS, find_doc},
    {"nth", places_nth, METH_O, nth_doc},
    {"beside", places_beside, METH_VARARGS, beside_doc},
    {"all", places_all, METH_NOARGS, all_doc},
    {NULL, NULL, 0, NULL},
};
