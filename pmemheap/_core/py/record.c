/* py/record.c -- RecordCore: where the frames of a recorder go.
 *
 *     sealed frames ──► ph_record_write: one thread at a time, the GIL let go ──► the file, at its end
 *
 * A frame is written whole or, if that fails, the trace ends with a part of it. The program goes on in any case. */
#include "py/record.h"

#include <errno.h>
#include <stddef.h>

#include "block/block.h"
#include "py/door.h"
#include "py/sites.h"

struct record_object {
    PyObject_HEAD
    struct ph_recorder recorder;
    struct ph_sites sites;
    PyThread_type_lock writing; /* taken without the GIL, and the GIL under it */
    int64_t error;              /* a negated errno: why nothing is recorded any more; 0 */
    uint64_t nbytes;            /* of the file, up to which it is written */
    uint64_t process;           /* that writes: none that was forked from it */
    int fd;                     /* Python's */
};

static PyTypeObject *record_type;

int ph_is_record(PyObject *object)
{
    return record_type != NULL && PyObject_TypeCheck(object, record_type);
}

struct ph_recorder *ph_recorder_of(PyObject *record)
{
    return &((struct record_object *)record)->recorder;
}

/* ---------------------------------------------------------------- the file */

static void fail(struct record_object *self, int64_t error)
{
    self->recorder.is_on = 0;
    if (self->error == 0)
        self->error = error;
}

/* With the lock. */
static void write_frame(struct record_object *self, const struct ph_sealed *sealed)
{
    uint64_t length = sizeof sealed->frame + sealed->frame.length, at = self->nbytes;
    int64_t written;
    int fd = self->fd;

    if (self->error != 0)
        return;
    Py_BEGIN_ALLOW_THREADS
    written = ph_write(fd, &sealed->frame, length, at);
    Py_END_ALLOW_THREADS
    if (written < 0)
        fail(self, written);
    else
        self->nbytes += length;
}

void ph_record_write(PyObject *record)
{
    struct record_object *self = (struct record_object *)record;

    if (self->recorder.first == NULL)
        return;
    if (self->process != ph_process()) { /* in a forked child nobody might let go of the lock */
        self->recorder.is_on = 0;
        return;
    }
    Py_INCREF(record);
    Py_BEGIN_ALLOW_THREADS
    PyThread_acquire_lock(self->writing, WAIT_LOCK);
    Py_END_ALLOW_THREADS
    for (struct ph_sealed *frame; (frame = ph_recorder_take(&self->recorder)) != NULL;) {
        write_frame(self, frame);
        ph_recorder_reuse(&self->recorder, frame);
    }
    PyThread_release_lock(self->writing);
    Py_DECREF(record);
}

void ph_record_flush(PyObject *record)
{
    struct record_object *self = (struct record_object *)record;

    ph_recorder_seal(&self->recorder);
    ph_record_write(record);
    if (self->recorder.lacks_memory)
        fail(self, -ENOMEM);
}

static PyObject *flush(struct record_object *self)
{
    ph_record_flush((PyObject *)self);
    return done();
}

/* ---------------------------------------------------------------- doors */

static uint32_t site_of(struct ph_recorder *recorder)
{
    struct record_object *self = (void *)((char *)recorder - offsetof(struct record_object, recorder));

    return ph_site_of(&self->sites);
}

static uint32_t name_site(struct ph_sites *sites, PyObject *file, int line)
{
    struct record_object *self = (void *)((char *)sites - offsetof(struct record_object, sites));
    char name[PH_SITE_MOST];
    uint64_t length = ph_site_text(file, line, name, sizeof name);

    return length == 0 ? 0 : ph_record_site(&self->recorder, name, length);
}

PyDoc_STRVAR(begin_doc, "_begin($self, fd, own, /)\n--\n\nRecord into a file from now on; with sites unless `own`, the folder of the package, is None.");

static PyObject *begin(PyObject *object, PyObject *arguments)
{
    struct record_object *self = (struct record_object *)object;
    PyObject *own;
    int fd;

    if (!PyArg_ParseTuple(arguments, "iO", &fd, &own))
        return NULL;
    if (self->writing == NULL && (self->writing = PyThread_allocate_lock()) == NULL)
        return PyErr_NoMemory();
    self->fd = fd;
    self->process = ph_process();
    if (own != Py_None) {
        self->sites.own = Py_NewRef(own);
        self->sites.name = name_site;
        self->recorder.site_of = site_of;
    }
    self->recorder.began = ph_clock();
    self->recorder.is_on = 1;
    (void)ph_recorder_begin(&self->recorder); /* an empty frame, so that the file is a trace from now on */
    return flush(self);
}

static PyObject *pass_over(PyObject *object, PyObject *code)
{
    ph_pass_over(&((struct record_object *)object)->sites, code);
    return done();
}

static PyObject *add(struct record_object *self, const uint64_t *n)
{
    ph_record(&self->recorder, (struct ph_event){.kind = (uint32_t)n[0], .offset = n[1], .to = n[2], .size = n[3]});
    ph_record_write((PyObject *)self);
    return done();
}

static PyObject *put(struct record_object *self, const uint64_t *n)
{
    ph_record_event(&self->recorder, &(struct ph_event){
        .kind = (uint32_t)n[0], .site = (uint32_t)n[1], .thread = (uint32_t)n[2], .arena = (uint32_t)n[3], .time = n[4],
        .offset = n[5], .to = n[6], .size = n[7]});
    return done();
}

static PyObject *stop(struct record_object *self)
{
    PyObject *flushed = flush(self);

    self->recorder.is_on = 0;
    return flushed;
}

DOOR(record_add, record_object, 4, add(self, n))
DOOR(record_put, record_object, 8, put(self, n))
DOOR(record_flush, record_object, 0, flush(self))
DOOR(record_stop, record_object, 0, stop(self))

static PyMethodDef record_methods[] = {
    {"_begin", begin, METH_VARARGS, begin_doc},
    {"_pass_over", pass_over, METH_O, "Frames of a code are no callers."},
    AS_METHOD("_add", record_add, "An event of now: its kind, offset, where it went to, size."),
    AS_METHOD("_put", record_put, "An event, all told: kind, site, thread, arena, time, offset, to, size."),
    AS_METHOD("_flush", record_flush, "Write all that was recorded."),
    AS_METHOD("_stop", record_stop, "The same, and record nothing any more."),
    {NULL, NULL, 0, NULL},
};

FIELD(get_events, record_object, number(self->recorder.events))
FIELD(get_nbytes, record_object, number(self->nbytes))
FIELD(get_error, record_object, code(self->recorder.lacks_memory ? -ENOMEM : self->error))

static PyGetSetDef record_fields[] = {
    {"events", get_events, NULL, "Events so far, those included that are not written yet.", NULL},
    {"nbytes", get_nbytes, NULL, "Bytes of the file so far.", NULL},
    {"_error", get_error, NULL, "A negated errno: why nothing is recorded any more; 0.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static void record_dealloc(PyObject *object)
{
    struct record_object *self = (struct record_object *)object;

    ph_recorder_fini(&self->recorder);
    ph_sites_fini(&self->sites);
    if (self->writing != NULL)
        PyThread_free_lock(self->writing);
    ph_free_object(object);
}

PyDoc_STRVAR(record_doc, "RecordCore()\n--\n\nA trace of what becomes of blocks.");

static PyType_Slot record_slots[] = {
    {Py_tp_doc, (void *)record_doc},
    {Py_tp_dealloc, record_dealloc},
    {Py_tp_methods, record_methods},
    {Py_tp_getset, record_fields},
    {0, NULL},
};

static PyType_Spec record_spec = {
    .name = "pmemheap._core._hot.RecordCore",
    .basicsize = sizeof(struct record_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = record_slots,
};

int ph_add_record_type(PyObject *module)
{
    if (ph_sites_init() < 0 || ph_add_type(module, "RecordCore", &record_spec) < 0)
        return -1;
    record_type = (PyTypeObject *)PyObject_GetAttrString(module, "RecordCore");
    return record_type == NULL ? -1 : 0;
}
