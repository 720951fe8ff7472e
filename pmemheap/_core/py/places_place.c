/* py/places_place.c -- maps that come: one for each exporter, next to each other, in one step. */
#include "py/places.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A request to place maps: one for each exporter, next to each other, from pieces of a source. */
struct job {
    uint64_t offset; /* in the reservation */
    uint64_t length; /* in whole pages, of all */
    uint64_t unit;   /* of the source: what address and pieces are multiples of */
    int flags;       /* enum ph_map_flags, PH_MAP_STRICT */
    int fd;          /* -1: anonymous memory */
    Py_ssize_t count, piece_count;
    uint64_t *pieces; /* offset and length of each in the file */
    struct entry *entries;
};

static int read_pieces(struct job *job, PyObject *pieces)
{
    job->piece_count = PyList_Size(pieces) / 2;
    job->pieces = calloc((size_t)job->piece_count * 2 + 1, sizeof(*job->pieces));
    if (job->pieces == NULL)
        return PyErr_NoMemory(), -1;
    for (Py_ssize_t i = 0; i < 2 * job->piece_count; i++) {
        job->pieces[i] = PyLong_AsUnsignedLongLong(PyList_GetItem(pieces, i));
        if (PyErr_Occurred())
            return -1;
    }
    return 0;
}

static int read_maps(struct job *job, PyObject *maps, PyObject *exporters)
{
    job->count = PyList_Size(maps);
    job->entries = calloc((size_t)job->count + 1, sizeof(*job->entries));
    if (job->entries == NULL)
        return PyErr_NoMemory(), -1;
    if (PyList_Size(exporters) != job->count)
        return -1;
    for (Py_ssize_t i = 0; i < job->count; i++) {
        PyObject *exporter = PyList_GetItem(exporters, i);
        if (!ph_is_exporter(exporter) || ((struct exporter *)exporter)->state != EXPORTER_NEW)
            return -1;
        job->entries[i].map = PyList_GetItem(maps, i);
        job->entries[i].exporter = (struct exporter *)exporter;
        job->entries[i].length = (uint64_t)((struct exporter *)exporter)->length;
    }
    return 0;
}

/* Look whether the job can be done here, and make room in the table. Returns 0 or a code. */
static int64_t look(struct places *self, const struct job *job)
{
    const struct ph_range *range = range_of(self);
    uint64_t size = range->stop - range->start, address = range->start + job->offset;
    struct entry *entries;

    if (self->closed)
        return PH_ECLOSED;
    if (job->offset > size || job->length > size - job->offset)
        return PMEM2_E_LENGTH_OUT_OF_RANGE;
    if (address % job->unit)
        return PMEM2_E_ADDRESS_UNALIGNED;
    if (!is_vacant(self, address, address + (job->length ? job->length : 1)))
        return PMEM2_E_MAPPING_EXISTS;
    if (self->count + (size_t)job->count <= self->room)
        return 0;
    entries = realloc(self->entries, 2 * (self->count + (size_t)job->count) * sizeof(*entries));
    if (entries == NULL)
        return -ENOMEM;
    self->entries = entries;
    self->room = 2 * (self->count + (size_t)job->count);
    return 0;
}

/* Map the job's pieces over its range. Returns 0 or a code. */
static int64_t map_over_range(const struct job *job, uint64_t address)
{
    int flags = job->flags & ~PH_MAP_STRICT;
    int64_t result;

    if (job->fd < 0)
        return ph_map_anonymous(address, job->length, flags);
    if (!(job->flags & PH_MAP_STRICT))
        return ph_map_row(job->fd, address, job->pieces, (uint64_t)job->piece_count, flags);
    result = ph_try_map(job->fd, job->pieces[0], job->pieces[1], flags);
    return result < 0 ? result : PMEM2_E_GRANULARITY_NOT_SUPPORTED;
}

/* The table takes its references here, when all has been done: a fork in the middle leaves none behind in the child. */
static void enter_maps(struct places *self, const struct job *job, uint64_t address)
{
    size_t index = index_of(self, address), count = (size_t)job->count;
    struct entry *place = self->entries + index;

    memmove(place + count, place, (self->count - index) * sizeof(*place));
    self->count += count;
    self->line->exporters += (Py_ssize_t)count;
    for (size_t i = 0; i < count; i++) {
        place[i] = job->entries[i];
        place[i].start = address;
        place[i].exporter->address = (char *)(uintptr_t)address;
        place[i].exporter->keep = Py_NewRef((PyObject *)self->line);
        Py_INCREF(place[i].map);
        Py_INCREF((PyObject *)place[i].exporter);
        place[i].exporter->state = EXPORTER_OPEN;
        address = page_end(&place[i]);
    }
}

static int64_t do_job(struct places *self, const struct job *job)
{
    int64_t result;
    uint64_t address;

    ph_enter();
    result = look(self, job);
    if (result < 0) {
        ph_leave();
        return result;
    }
    address = range_of(self)->start + job->offset;
    Py_BEGIN_ALLOW_THREADS
    result = map_over_range(job, address);
    Py_END_ALLOW_THREADS
    if (result >= 0)
        enter_maps(self, job, address);
    ph_leave();
    return result;
}

PyDoc_STRVAR(place_doc,
             "place($self, offset, length, unit, flags, fd, pieces, maps, exporters, /)\n--\n\n"
             "Map `length` bytes at `offset`, and list a map for each exporter, which gets its part of them.\n\n"
             "`pieces` are offsets and lengths in the file, one after the other; fd -1: anonymous memory.\n"
             "Returns 0, or a code with nothing changed.");

static PyObject *places_place(PyObject *object, PyObject *arguments)
{
    struct places *self = (struct places *)object;
    struct job job = {0};
    unsigned long long offset, length, unit;
    PyObject *pieces, *maps, *exporters;
    int64_t result = -EINVAL;

    if (!PyArg_ParseTuple(arguments, "KKKiiO!O!O!:place", &offset, &length, &unit, &job.flags, &job.fd, &PyList_Type,
                          &pieces, &PyList_Type, &maps, &PyList_Type, &exporters))
        return NULL;
    job.offset = offset, job.length = length, job.unit = unit;
    if (read_pieces(&job, pieces) == 0 && read_maps(&job, maps, exporters) == 0)
        result = do_job(self, &job);
    free(job.pieces);
    free(job.entries);
    return PyErr_Occurred() ? NULL : result_of(result);
}

PyMethodDef ph_place_methods[] = {
    {"place", places_place, METH_VARARGS, place_doc},
    {NULL, NULL, 0, NULL},
};
