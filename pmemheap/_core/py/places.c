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
#include "py/address_range.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    uint64_t start, length; /* of the content: it takes whole pages */
    PyObject *map;
    struct exporter *exporter;
};

struct places {
    PyObject_HEAD
    struct address_range *line;
    struct entry *entries;
    size_t count, room;
    int closed;
};

PyDoc_STRVAR(places_doc, "Places(address_range, /)\n--\n\nThe maps of a reservation: none yet.");

static PyObject *places_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *line;
    struct places *self;

    (void)keywords;
    if (!PyArg_ParseTuple(arguments, "O:Places", &line))
        return NULL;
    if (!ph_is_address_range(line)) {
        PyErr_SetString(PyExc_TypeError, "Places: an AddressRange expected");
        return NULL;
    }
    self = (struct places *)allocate(type, 0);
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
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    struct places *self = (struct places *)object;

    PyObject_GC_UnTrack(object);
    places_clear(object);
    free(self->entries);
    Py_XDECREF((PyObject *)self->line);
    release(object);
    Py_DECREF(type);
}

static PyObject *result_of(int64_t code)
{
    return PyLong_FromLongLong(code);
}

static struct ph_range *range_of(const struct places *self)
{
    return self->line->range;
}

static uint64_t page_end(const struct entry *entry)
{
    return entry->start + (entry->length + PH_PAGE - 1) / PH_PAGE * PH_PAGE;
}

/* Index of the first entry that begins at an address or behind it. */
static size_t index_of(const struct places *self, uint64_t address)
{
    size_t low = 0, high = self->count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (self->entries[middle].start < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Index of the lowest map with a byte in [start, stop), or with a page in it; `count` if there is none. */
static size_t first_meeting(const struct places *self, uint64_t start, uint64_t stop, int whole_pages)
{
    size_t index = index_of(self, start);

    if (index > 0) {
        const struct entry *before = &self->entries[index - 1];
        if (start < (whole_pages ? page_end(before) : before->start + before->length))
            return index - 1;
    }
    return index < self->count && self->entries[index].start < stop ? index : self->count;
}

static int is_vacant(const struct places *self, uint64_t start, uint64_t stop)
{
    return first_meeting(self, start, stop, 1) == self->count;
}

/* ---------------------------------------------------------------- placing */

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
             "place(offset, length, unit, flags, fd, pieces, maps, exporters, /)\n--\n\n"
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

/* ---------------------------------------------------------------- removing */

/* Return the entry of an exporter, NULL if it is not here. */
static struct entry *entry_of(const struct places *self, PyObject *exporter)
{
    size_t index;

    if (!ph_is_exporter(exporter))
        return NULL;
    index = index_of(self, (uint64_t)(uintptr_t)((struct exporter *)exporter)->address);
    if (index == self->count || (PyObject *)self->entries[index].exporter != exporter)
        return NULL;
    return &self->entries[index];
}

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
             "remove(exporter, /)\n--\n\n"
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
             "remove_row(first, last, /)\n--\n\n"
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

/* ---------------------------------------------------------------- borders */

PyDoc_STRVAR(extend_doc, "extend(length, left, /)\n--\n\nShow `length` bytes more; see ph_range_extend.");

static PyObject *places_extend(PyObject *object, PyObject *arguments)
{
    struct places *self = (struct places *)object;
    unsigned long long length, left;
    int64_t result;

    if (!PyArg_ParseTuple(arguments, "KK:extend", &length, &left))
        return NULL;
    ph_enter();
    result = self->closed ? PH_ECLOSED : ph_range_extend(range_of(self), length, left);
    ph_leave();
    return result_of(result);
}

static int64_t shrink(struct places *self, uint64_t offset, uint64_t length, int keep)
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

PyDoc_STRVAR(shrink_doc, "shrink(offset, length, keep, /)\n--\n\n"
                         "Give bytes at one end back; at the tail they become headroom if `keep`.");

static PyObject *places_shrink(PyObject *object, PyObject *arguments)
{
    unsigned long long offset, length;
    int keep;
    int64_t result;

    if (!PyArg_ParseTuple(arguments, "KKp:shrink", &offset, &length, &keep))
        return NULL;
    ph_enter();
    result = shrink((struct places *)object, offset, length, keep);
    ph_leave();
    return result_of(result);
}

PyDoc_STRVAR(release_doc, "release()\n--\n\n"
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

/* ---------------------------------------------------------------- searches */

/* Return the map of an entry, None if there is none, and leave the space. */
static PyObject *found_map(const struct places *self, size_t index)
{
    PyObject *map = Py_NewRef(index < self->count ? self->entries[index].map : Py_None);

    ph_leave();
    return map;
}

PyDoc_STRVAR(find_doc, "find(offset, length, /)\n--\n\n"
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

PyDoc_STRVAR(nth_doc, "nth(index, /)\n--\n\nReturn a map by its place, from the end if negative, or None.");

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

PyDoc_STRVAR(beside_doc, "beside(exporter, step, /)\n--\n\n"
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

PyDoc_STRVAR(all_doc, "all()\n--\n\nReturn a list of all maps, lowest first.");

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

static PyObject *places_line(PyObject *object, void *closure)
{
    (void)closure;
    return Py_NewRef((PyObject *)((struct places *)object)->line);
}

static PyObject *places_closed(PyObject *object, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((struct places *)object)->closed);
}

static PyMethodDef places_methods[] = {
    {"place", places_place, METH_VARARGS, place_doc},
    {"remove", places_remove, METH_O, remove_doc},
    {"remove_row", places_remove_row, METH_VARARGS, remove_row_doc},
    {"extend", places_extend, METH_VARARGS, extend_doc},
    {"shrink", places_shrink, METH_VARARGS, shrink_doc},
    {"release", places_release, METH_NOARGS, release_doc},
    {"find", places_find, METH_VARARGS, find_doc},
    {"nth", places_nth, METH_O, nth_doc},
    {"beside", places_beside, METH_VARARGS, beside_doc},
    {"all", places_all, METH_NOARGS, all_doc},
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
    {Py_tp_methods, places_methods},
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
    return ph_add_type(module, "Places", &places_spec);
}
