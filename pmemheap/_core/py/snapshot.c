/* py/snapshot.c -- SnapshotCore: a pin, and the roots as one commit left them; `Snapshot` derives from it.
 *
 * C begins one, and goes on to a later commit, where nothing has to be mapped for it. Else Python does it. */
#include "py/door.h"
#include "py/log.h"
#include "py/pins.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>


struct snapshot_object {
    PyObject_HEAD
    struct heap_object *core; /* the heap, as its default arena */
    struct pin_object *pin;   /* NULL: it is closed */
    PyObject *slots;          /* bytes: those of the roots, as of the commit */
    PyObject *roots;          /* what Python makes of them, or NULL */
    uint64_t sequence;        /* of the commit */
};

static struct snapshot_object *snapshot_of(PyObject *object)
{
    return (struct snapshot_object *)object;
}

static void show(struct snapshot_object *self, PyObject *slots, uint64_t sequence)
{
    PyObject *old = self->slots;
    self->slots = slots;
    self->sequence = sequence;
    Py_XDECREF(old);
    Py_CLEAR(self->roots);
}

static void set_pin(struct snapshot_object *self, struct pin_object *pin)
{
    struct pin_object *old = self->pin;
    self->pin = pin;
    Py_XDECREF((PyObject *)old);
}

static void set_core(struct snapshot_object *self, PyObject *heap)
{
    PyObject *old = (PyObject *)self->core;
    self->core = (struct heap_object *)Py_NewRef(heap);
    Py_XDECREF(old);
}

/* Show the last commit under the pin that is there, which keeps it [Q2]. As `begin`. */
static int capture(struct snapshot_object *self, const struct pins_object *pins)
{
    uint64_t sequence;
    PyObject *slots = ph_captured(pins->header, &sequence);
    if (slots != NULL && ph_is_mapped(pins)) {
        show(self, slots, sequence);
        return 1;
    }
    Py_XDECREF(slots);
    return PyErr_Occurred() ? -1 : 0;
}

/* Begin anew. 1; 0: Python has to; or -1 with an exception set. */
static int begin(struct snapshot_object *self, struct pins_object *pins)
{
    uint64_t sequence;
    int64_t failed;
    if (pins->header == NULL || self->core->state > PH_S_READONLY)
        return 0;
    PyObject *early = PH_KEPT(Q2) ? NULL : ph_captured(pins->header, &sequence);
    struct pin_object *pin = ph_pin_era(pins, ph_era_now(pins), (PyObject *)self->core, &failed);
    if (pin == NULL)
        return failed < 0 ? 0 : -1;
    PyObject *slots = early != NULL ? early : ph_captured(pins->header, &sequence); /* [Q2] */
    if (slots == NULL || !ph_is_mapped(pins)) {
        Py_XDECREF(slots);
        Py_DECREF((PyObject *)pin);
        return PyErr_Occurred() ? -1 : 0;
    }
    show(self, slots, sequence);
    set_pin(self, pin);
    return 1;
}

PyDoc_STRVAR(begin_doc,
"_begin($self, heap, pins, /)\n--\n\n"
"Begin: whether that could be done here.");

static PyObject *begin_here(PyObject *object, PyObject *args)
{
    struct snapshot_object *self = snapshot_of(object);
    PyObject *heap, *pins;

    if (!PyArg_ParseTuple(args, "OO", &heap, &pins))
        return NULL;
    if (!ph_is_heap(heap) || !ph_is_pins(pins))
        return PyErr_Format(PyExc_TypeError, "snapshot: a heap and Pins expected, found %R and %R", heap, pins);
    set_core(self, heap);
    int begun = begin(self, (struct pins_object *)pins);
    return begun < 0 ? NULL : truth(begun);
}

PyDoc_STRVAR(refresh_doc,
"refresh($self, /)\n--\n\n"
"Go on to the commit that is the last one now; tell whether there is a newer one.\n\n"
"What was taken before keeps what it shows. 60 ns when there is none.\n\n"
"Raises\n------\nUsageError\n    The snapshot, or its heap, is closed.\nHeapBusyError\n    A new writer was stopped while it took over, or one in the middle of the next commit but one.");

static PyObject *refresh(PyObject *object, PyObject *ignored)
{
    struct snapshot_object *self = snapshot_of(object);

    (void)ignored;
    if (self->pin == NULL || self->pin->pins->header == NULL || self->core->state > PH_S_READONLY)
        return PyObject_CallMethod(object, "_go_on", NULL);
    struct pins_object *pins = self->pin->pins;
    if (ph_is_last(pins, self->sequence))
        Py_RETURN_FALSE;
    int gone_on = ph_era_now(pins) == self->pin->era ? capture(self, pins) : begin(self, pins);
    if (gone_on == 0)
        return PyObject_CallMethod(object, "_go_on", NULL);
    return gone_on < 0 ? NULL : Py_NewRef(Py_True);
}

PyDoc_STRVAR(begin_as_doc,
"_begin_as($self, heap, pin, sequence, slots, /)\n--\n\nBegin with what Python has found.");

static PyObject *begin_as(PyObject *object, PyObject *args)
{
    unsigned long long sequence;
    PyObject *heap, *pin, *slots;

    if (!PyArg_ParseTuple(args, "OOKS", &heap, &pin, &sequence, &slots))
        return NULL;
    if (!ph_is_heap(heap) || !ph_is_pin(pin))
        return PyErr_Format(PyExc_TypeError, "snapshot: a heap and a Pin expected, found %R and %R", heap, pin);
    set_core(snapshot_of(object), heap);
    show(snapshot_of(object), Py_NewRef(slots), sequence);
    set_pin(snapshot_of(object), (struct pin_object *)Py_NewRef(pin));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(place_doc,
"_place($self, name, /)\n--\n\n"
"Where the bytes are that a root names, as of the commit; None without such a root, or if its slot is damaged.");

static PyObject *place(PyObject *object, PyObject *name)
{
    const struct snapshot_object *self = snapshot_of(object);
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(name, &length);
    if (text == NULL)
        return NULL;
    uint64_t found = PH_NO_ROOT;
    if (self->slots != NULL)
        found = ph_root_place((const struct ph_root_slot *)PyBytes_AsString(self->slots),
                              (uint64_t)PyBytes_Size(self->slots) / PH_SLOT_BYTES, text, (uint64_t)length);
    if (found == PH_NO_ROOT)
        Py_RETURN_NONE;
    return number(found);
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\nLet it go; views and arrays of it keep what they show. Closing twice is allowed.");

static PyObject *close_it(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    set_pin(snapshot_of(object), NULL);
    Py_RETURN_NONE;
}

static int snapshot_traverse(PyObject *object, visitproc visit, void *arg)
{
    const struct snapshot_object *self = snapshot_of(object);

    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->core);
    Py_VISIT((PyObject *)self->pin);
    Py_VISIT(self->roots);
    return 0;
}

static int snapshot_clear(PyObject *object)
{
    Py_CLEAR(snapshot_of(object)->roots);
    return 0;
}

static void snapshot_dealloc(PyObject *object)
{
    struct snapshot_object *self = snapshot_of(object);

    PyObject_GC_UnTrack(object);
    Py_XDECREF((PyObject *)self->pin);
    Py_XDECREF((PyObject *)self->core);
    Py_XDECREF(self->slots);
    Py_XDECREF(self->roots);
    ph_free_object(object);
}

static PyMethodDef snapshot_methods[] = {
    {"refresh", refresh, METH_NOARGS, refresh_doc},
    {"close", close_it, METH_NOARGS, close_doc},
    {"_begin", begin_here, METH_VARARGS, begin_doc},
    {"_begin_as", begin_as, METH_VARARGS, begin_as_doc},
    {"_place", place, METH_O, place_doc},
    {NULL, NULL, 0, NULL},
};

static int is_half_done(const struct snapshot_object *self)
{
    return self->pin != NULL && self->pin->pins->header != NULL && self->core->state <= PH_S_READONLY
        && (ph_shared_word(self->pin->pins->header, PH_COMMIT_SEQ_AT) & 1);
}

FIELD(snapshot_is_half_done, snapshot_object, truth(is_half_done(self)))

static PyGetSetDef snapshot_attributes[] = {
    {"_is_half_done", snapshot_is_half_done, NULL, "Whether a commit is being made, or a writer takes over.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef snapshot_members[] = {
    {"_pin", T_OBJECT, offsetof(struct snapshot_object, pin), READONLY, NULL},
    {"_slots", T_OBJECT, offsetof(struct snapshot_object, slots), READONLY, NULL},
    {"_seen", T_OBJECT, offsetof(struct snapshot_object, roots), 0, NULL},
    {"_sequence", T_ULONGLONG, offsetof(struct snapshot_object, sequence), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot snapshot_slots[] = {
    {Py_tp_doc, (void *)"SnapshotCore()\n--\n\nWhat C does of a snapshot alone; `Snapshot` derives from it."},
    {Py_tp_traverse, snapshot_traverse},
    {Py_tp_clear, snapshot_clear},
    {Py_tp_dealloc, snapshot_dealloc},
    {Py_tp_methods, snapshot_methods},
    {Py_tp_members, snapshot_members},
    {Py_tp_getset, snapshot_attributes},
    {0, NULL},
};

static PyType_Spec snapshot_spec = {
    .name = "pmemheap._core._hot.SnapshotCore",
    .basicsize = sizeof(struct snapshot_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = snapshot_slots,
};

int ph_add_snapshot_type(PyObject *module)
{
    return ph_add_type(module, "SnapshotCore", &snapshot_spec);
}
