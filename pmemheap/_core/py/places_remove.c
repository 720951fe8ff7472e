/* py/places_remove.c -- maps that go, one by one or a row of them in one step. */
#include "py/places.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void set_states(const struct entry *row, size_t count, int state)
{
    for (size_t i = 0; i < count; i++) {
        row[i].exporter->state = state;
        row[i].exporter->era = ph_era();
    }
}

/* Unmap `count` entries from `index` on, next to each other, and forget them. Returns 0 or a negated errno with nothing
 * changed. */
static int64_t unmap_row(struct places *self, size_t index, size_t count)
{
    struct entry *row = self->entries + index;
    uint64_t start = row[0].start, length = page_end(&row[count - 1]) - start;
    int64_t result;

    set_states(row, count, EXPORTER_CLOSING);
    Py_BEGIN_ALLOW_THREADS
    result = ph_unmap(start, length);
    Py_END_ALLOW_THREADS
    set_states(row, count, result < 0 ? EXPORTER_OPEN : EXPORTER_CLOSED);
    if (result < 0)
        return result;
    memmove(row, row + count, (self->count - index - count) * sizeof(*row));
    self->count -= count;
    return 0;
}

static void release_entry(const struct entry *entry)
{
    PyObject *keep = entry->exporter->keep;

    entry->exporter->keep = NULL;
    ph_address_range_pin(keep, -1);
    Py_DECREF(keep);
    Py_DECREF(entry->map);
    Py_DECREF((PyObject *)entry->exporter);
}

PyDoc_STRVAR(remove_doc,
             "remove($self, exporter, /)\n--\n\n"
             "Unmap what an exporter shows, whose range stays reserved, and strike its map off; 0 if it is not listed.\n\n"
             "Returns the number of its exports, if there are any, or a negated errno, with nothing changed.");

static PyObject *places_remove(PyObject *object, PyObject *exporter)
{
    struct places *self = (struct places *)object;
    struct entry *found, entry;
    Py_ssize_t exports;
    int64_t result;

    ph_enter();
    found = entry_of(self, exporter);
    exports = found == NULL ? 0 : found->exporter->exports;
    if (found == NULL || exports != 0) {
        ph_leave();
        return result_of(exports);
    }
    entry = *found;
    result = unmap_row(self, (size_t)(found - self->entries), 1);
    ph_leave();
    if (result >= 0)
        release_entry(&entry);
    return result_of(result);
}

/* How many exports entries from `row` to `last` have; -EINVAL if they do not lie next to each other. */
static int64_t exports_of(const struct entry *row, const struct entry *last)
{
    int64_t exports = 0;

    if (row == NULL || last == NULL || row > last)
        return -EINVAL;
    for (; row < last; row++) {
        if (page_end(row) != row[1].start)
            return -EINVAL;
        exports += row->exporter->exports;
    }
    return exports + row->exporter->exports;
}

/* Unmap the entries of a row, of which `gone` gets a copy; their number, or why not. */
static int64_t take_row(struct places *self, const struct entry *first, const struct entry *last, struct entry **gone)
{
    int64_t exports = exports_of(first, last), result;

    if (exports != 0)
        return exports < 0 ? exports : -EBUSY;
    size_t count = (size_t)(last - first) + 1;
    *gone = malloc(count * sizeof(**gone));
    if (*gone == NULL)
        return -ENOMEM;
    memcpy(*gone, first, count * sizeof(**gone));
    result = unmap_row(self, (size_t)(first - self->entries), count);
    return result < 0 ? result : (int64_t)count;
}

PyDoc_STRVAR(remove_row_doc,
             "remove_row($self, first, last, /)\n--\n\n"
             "Do what `remove` does of all exporters from one to another, which lie next to each other, in one step.\n\n"
             "Returns their number, or with nothing changed a negated errno: EBUSY if one has exports, EINVAL if a map is\n"
             "not listed or there is a gap between two.");

static PyObject *places_remove_row(PyObject *object, PyObject *args)
{
    struct places *self = (struct places *)object;
    PyObject *first, *last;
    struct entry *gone = NULL;
    int64_t result;

    if (!PyArg_ParseTuple(args, "OO:remove_row", &first, &last))
        return NULL;
    ph_enter();
    result = take_row(self, entry_of(self, first), entry_of(self, last), &gone);
    ph_leave();
    for (int64_t i = 0; i < result; i++)
        release_entry(&gone[i]);
    free(gone);
    return result_of(result);
}

PyMethodDef ph_remove_methods[] = {
    {"remove", places_remove, METH_O, remove_doc},
    {"remove_row", places_remove_row, METH_VARARGS, remove_row_doc},
    {NULL, NULL, 0, NULL},
};
