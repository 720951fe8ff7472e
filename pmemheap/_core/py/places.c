/* py/places.c -- Places: the maps of one reservation, by address, on its AddressRange.
 *
 *     address_range     start                                   stop
 *       |            +------+--------+---------+------+------+- - - - -+
 *     entries               |  [0]   |         | [1]  |                    each a map and its exporter
 *
 * Each method has the space (ph_enter) while it looks, makes its system calls, and changes the table and the borders: for
 * other threads, signal handlers, the garbage collector and a fork it is one step, and a failed one has not happened.
 * Calls that may take long (mapping, and unmapping what was touched) give the GIL up in the middle.
 *
 * Methods return 0 or more, a negated errno or a number of libpmem2's; the caller has the words for it.
 */
#include "py/door.h"
#include "py/places.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

PyDoc_STRVAR(places_doc, "Places(address_range, /)\n--\n\nThe maps of a reservation: none yet.");

static PyObject *places_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    PyObject *line;
    struct places *self;

    (void)keywords;
    if (!PyArg_ParseTuple(arguments, "O:Places", &line))
        return NULL;
    if (!ph_is_address_range(line)) {
        PyErr_SetString(PyExc_TypeError, "Places: an AddressRange expected");
        return NULL;
    }
    self = ph_new_object(type);
    if (self != NULL)
        self->line = (struct address_range *)Py_NewRef(line);
    return (PyObject *)self;
}

static int places_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct places *self = (struct places *)object;

    Py_VISIT(Py_TYPE(object));
    for (size_t i = 0; i < self->count; i++) {
        Py_VISIT(self->entries[i].map);
        Py_VISIT((PyObject *)self->entries[i].exporter);
    }
    return 0;
}

static int places_clear(PyObject *object)
{
    struct places *self = (struct places *)object;

    while (self->count > 0) {
        struct entry last = self->entries[--self->count];
        Py_DECREF(last.map);
        Py_DECREF((PyObject *)last.exporter);
    }
    return 0;
}

static void places_dealloc(PyObject *object)
{
    struct places *self = (struct places *)object;

    PyObject_GC_UnTrack(object);
    places_clear(object);
    free(self->entries);
    Py_XDECREF((PyObject *)self->line);
    ph_free_object(object);
}

/* ---------------------------------------------------------------- borders */

PyDoc_STRVAR(extend_doc, "extend($self, length, left, /)\n--\n\nShow `length` bytes more; see ph_range_extend.");

static PyObject *extend(struct places *self, uint64_t length, uint64_t left)
{
    ph_enter();
    int64_t result = self->closed ? PH_ECLOSED : ph_range_extend(range_of(self), length, left);
    ph_leave();
    return result_of(result);
}

DOOR(places_extend, places, 2, extend(self, n[0], n[1]))

static int64_t shrink_locked(struct places *self, uint64_t offset, uint64_t length, int keep)
{
    struct ph_range *range = range_of(self);
    uint64_t size = range->stop - range->start;

    if (self->closed)
        return PH_ECLOSED;
    if (offset >= size)
        return PMEM2_E_OFFSET_OUT_OF_RANGE;
    if (length == 0 || length > size - offset)
        return PMEM2_E_LENGTH_OUT_OF_RANGE;
    if ((offset == 0) == (offset + length == size))
        return PMEM2_E_NOSUPP;
    if (!is_vacant(self, range->start + offset, range->start + offset + length))
        return PMEM2_E_VM_RESERVATION_NOT_EMPTY;
    return offset == 0 ? ph_range_cut_head(range, length) : ph_range_cut_tail(range, length, keep);
}

PyDoc_STRVAR(shrink_doc, "shrink($self, offset, length, keep, /)\n--\n\n"
                         "Give bytes at one end back; at the tail they become headroom if `keep`.");

static PyObject *shrink(struct places *self, uint64_t offset, uint64_t length, int keep)
{
    ph_enter();
    int64_t result = shrink_locked(self, offset, length, keep);
    ph_leave();
    return result_of(result);
}

DOOR(places_shrink, places, 3, shrink(self, n[0], n[1], n[2] != 0))

PyDoc_STRVAR(release_doc, "release($self, /)\n--\n\n"
                          "Give the whole range back, if it is empty: 0 also if that has been done.\n\n"
                          "Returns the number of exporters that live without a map, if there are any, or a code.");

static PyObject *places_release(PyObject *object, PyObject *unused)
{
    struct places *self = (struct places *)object;
    int64_t result;

    (void)unused;
    ph_enter();
    if (self->closed)
        result = 0;
    else if (self->count != 0)
        result = PMEM2_E_VM_RESERVATION_NOT_EMPTY;
    else if (self->line->exporters != 0)
        result = self->line->exporters;
    else
        result = ph_range_give_back(range_of(self));
    if (result == 0)
        self->closed = 1;
    ph_leave();
    return result_of(result);
}

/* ---------------------------------------------------------------- the type */

FIELD(places_line, places, Py_NewRef((PyObject *)self->line))
FIELD(places_closed, places, truth(self->closed))

static PyMethodDef own_methods[] = {
    AS_METHOD("extend", places_extend, extend_doc),
    AS_METHOD("shrink", places_shrink, shrink_doc),
    {"release", places_release, METH_NOARGS, release_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef places_attributes[] = {
    {"address_range", places_line, NULL, "The owner of the addresses.", NULL},
    {"closed", places_closed, NULL, "Whether the range has been given back.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot places_slots[] = {
    {Py_tp_doc, (void *)places_doc},
    {Py_tp_new, places_new},
    {Py_tp_traverse, places_traverse},
    {Py_tp_clear, places_clear},
    {Py_tp_dealloc, places_dealloc},
    {Py_tp_methods, NULL}, /* filled in by ph_add_places_type */
    {Py_tp_getset, places_attributes},
    {0, NULL},
};

static PyType_Spec places_spec = {
    .name = "pmemheap._core._hot.Places",
    .basicsize = sizeof(struct places),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = places_slots,
};

int ph_add_places_type(PyObject *module)
{
    static PyMethodDef methods[16];
    const PyMethodDef *const tables[] = {ph_place_methods, ph_remove_methods, ph_search_methods, own_methods, NULL};

    places_slots[5].pfunc = ph_join_methods(methods, tables);
    return ph_add_type(module, "Places", &places_spec);
}
