/* py/track.c -- TrackCore: a tracker, and the names of its sites in a list of Python. */
#include "py/track.h"

#include <stddef.h>

#include "block/block.h"
#include "py/door.h"
#include "py/sites.h"
#include "py/tracing.h"

struct track_object {
    PyObject_HEAD
    struct ph_tracker tracker;
    struct ph_sites sites;
    PyObject *names; /* list: of the sites, by number, (file, line) */
};

static PyTypeObject *track_type;

int ph_is_track(PyObject *object)
{
    return track_type != NULL && PyObject_TypeCheck(object, track_type);
}

struct ph_tracker *ph_tracker_of(PyObject *track)
{
    return &((struct track_object *)track)->tracker;
}

/* ---------------------------------------------------------------- sites */

/* file:line, in the bytes of file names; where it has none of these, as good as can be. */
static PyObject *text_of(PyObject *file, int line)
{
    PyObject *text = PyUnicode_FromFormat("%U:%d", file, line);
    PyObject *bytes = text == NULL ? NULL : PyUnicode_AsEncodedString(text, "utf-8", "surrogateescape");

    if (text != NULL && bytes == NULL) {
        PyErr_Clear();
        bytes = PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace");
    }
    Py_XDECREF(text);
    return bytes;
}

static uint32_t name_site(struct ph_sites *sites, PyObject *file, int line)
{
    struct track_object *self = (void *)((char *)sites - offsetof(struct track_object, sites));
    PyObject *bytes = text_of(file, line);
    char *text;
    Py_ssize_t length;
    uint32_t number = 0;

    if (bytes != NULL && PyBytes_AsStringAndSize(bytes, &text, &length) == 0
        && ph_append_new(self->names, Py_BuildValue("(Oi)", file, line)) == 0) {
        number = (uint32_t)PyList_Size(self->names);
        ph_track_file_site(&self->tracker.file, number, text, (uint64_t)length);
    }
    Py_XDECREF(bytes);
    return number;
}

static uint32_t site_of(struct ph_tracker *tracker)
{
    struct track_object *self = (void *)((char *)tracker - offsetof(struct track_object, tracker));

    return ph_site_of(&self->sites);
}

/* ---------------------------------------------------------------- doors */

PyDoc_STRVAR(begin_doc, "_begin($self, own, names, /)\n--\n\nName sites in a list from now on; `own` is the folder of the package.");

static PyObject *begin(PyObject *object, PyObject *arguments)
{
    struct track_object *self = (struct track_object *)object;
    PyObject *own, *names;

    if (!PyArg_ParseTuple(arguments, "UO!", &own, &PyList_Type, &names))
        return NULL;
    self->names = Py_NewRef(names);
    self->sites.own = Py_NewRef(own);
    self->sites.name = name_site;
    self->tracker.site_of = site_of;
    if (ph_can_trace()) {
        self->tracker.trace = ph_trace;
        self->tracker.untrace = ph_untrace;
    }
    return done();
}

static PyObject *pass_over(PyObject *object, PyObject *code)
{
    ph_pass_over(&((struct track_object *)object)->sites, code);
    return done();
}

static PyObject *write_to(struct track_object *self, const uint64_t *n)
{
    self->tracker.file = (struct ph_track_file){.fd = (int32_t)n[0], .nbytes = n[1], .process = ph_process(), .is_on = 1};
    return done();
}

static struct ph_tracked *find(const struct track_object *self, uint64_t offset)
{
    return ph_hash_find(&self->tracker.blocks, sizeof(struct ph_tracked), offset + 1);
}

static PyObject *put_found(struct track_object *self, const uint64_t *n)
{
    ph_track(&self->tracker, n[0], n[1], (uint32_t)n[2], 0);
    struct ph_tracked *block = find(self, n[0]);
    if (block != NULL)
        block->is_found = 1;
    return done();
}

static PyObject *forget_found(struct track_object *self, uint64_t offset)
{
    const struct ph_tracked *block = find(self, offset);
    if (block != NULL && block->is_found)
        ph_track_freed(&self->tracker, offset, 0);
    return done();
}

static PyObject *known(const struct track_object *self, uint64_t offset)
{
    const struct ph_tracked *block = find(self, offset);

    return block == NULL ? done() : pair(block->size, block->site);
}

/* A copy, made in one step: what looks at it may call Python. */
static PyObject *all_blocks(const struct track_object *self)
{
    const struct ph_hash_table *table = &self->tracker.blocks;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(table->used * sizeof(struct ph_tracked)));
    struct ph_tracked *to = bytes == NULL ? NULL : (struct ph_tracked *)PyBytes_AsString(bytes);

    for (uint64_t i = 0; to != NULL && i < table->capacity; i++)
        if (ph_hash_key(table, sizeof *to, i) != 0)
            *to++ = ((const struct ph_tracked *)table->slots)[i];
    return bytes;
}

/* What a Track tells itself of, where it wraps another allocator than a heap. */
DOOR(track_add_made, track_object, 2, ph_track_made(&self->tracker, n[0], n[1], 0), done())
DOOR(track_add_freed, track_object, 1, ph_track_freed(&self->tracker, n[0], 0), done())
DOOR(track_add_expanded, track_object, 2, ph_track_expanded(&self->tracker, n[0], n[1], 0), done())
DOOR(track_add_again, track_object, 3, ph_track(&self->tracker, n[0], n[1], (uint32_t)n[2], 0), done())
DOOR(track_known, track_object, 1, known(self, n[0]))
DOOR(track_blocks, track_object, 0, all_blocks(self))
DOOR(track_clear, track_object, 0, ph_track_clear(&self->tracker), done())
DOOR(track_write_to, track_object, 2, write_to(self, n))
DOOR(track_leave_out, track_object, 1, self->tracker.file.left_out = n[0], done())
DOOR(track_put_found, track_object, 3, put_found(self, n))
DOOR(track_forget_found, track_object, 1, forget_found(self, n[0]))

static PyMethodDef track_methods[] = {
    {"_begin", begin, METH_VARARGS, begin_doc},
    {"_pass_over", pass_over, METH_O, "Frames of a code are no callers."},
    AS_METHOD("_add_made", track_add_made, "A block was made, at the line that calls: offset, bytes asked for."),
    AS_METHOD("_add_freed", track_add_freed, "A block was freed."),
    AS_METHOD("_add_expanded", track_add_expanded, "A block has grown where it is: offset, bytes asked for."),
    AS_METHOD("_add_again", track_add_again, "A block is there after all: offset, bytes asked for, site."),
    AS_METHOD("_known", track_known, "Bytes asked for and site of a block; None: it is not known."),
    AS_METHOD("_blocks", track_blocks, "All that live, as their structs in C."),
    AS_METHOD("_clear", track_clear, "Forget all."),
    AS_METHOD("_write_to", track_write_to, "Write records to a descriptor from now on, behind so many bytes."),
    AS_METHOD("_leave_out", track_leave_out, "Write no records of the blocks of an arena; 0: leave none out."),
    AS_METHOD("_put_found", track_put_found, "A block that an earlier run has left: offset, bytes asked for, site."),
    AS_METHOD("_forget_found", track_forget_found, "One of these does not live, unless it was made again."),
    {NULL, NULL, 0, NULL},
};

FIELD(get_forgotten, track_object, number(self->tracker.forgotten))
FIELD(get_error, track_object, code(self->tracker.file.error))

static PyGetSetDef track_fields[] = {
    {"forgotten", get_forgotten, NULL, "Blocks that are not known because there was no memory for it.", NULL},
    {"_error", get_error, NULL, "A negated errno: why nothing is written any more; 0.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static void track_dealloc(PyObject *object)
{
    struct track_object *self = (struct track_object *)object;

    ph_track_clear(&self->tracker);
    ph_sites_fini(&self->sites);
    Py_XDECREF(self->names);
    ph_free_object(object);
}

PyDoc_STRVAR(track_doc, "TrackCore()\n--\n\nThe blocks that live, and where they were made.");

static PyType_Slot track_slots[] = {
    {Py_tp_doc, (void *)track_doc},
    {Py_tp_dealloc, track_dealloc},
    {Py_tp_methods, track_methods},
    {Py_tp_getset, track_fields},
    {0, NULL},
};

static PyType_Spec track_spec = {
    .name = "pmemheap._core._hot.TrackCore",
    .basicsize = sizeof(struct track_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = track_slots,
};

int ph_add_track_type(PyObject *module)
{
    if (ph_add_type(module, "TrackCore", &track_spec) < 0)
        return -1;
    track_type = (PyTypeObject *)PyObject_GetAttrString(module, "TrackCore");
    return track_type == NULL ? -1 : 0;
}
