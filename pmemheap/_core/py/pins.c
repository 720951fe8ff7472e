/* py/pins.c -- pins: which snapshots are in use, so that nothing that they show is used again [Q2].
 *
 *     snapshot, view, array ──► Pin ──► Pins ──► a lock for each era, on a byte that no file has
 *
 * The byte says who holds what back: era << 22 | process. A killed process leaves nothing behind, and a descriptor that may
 * only read will do. */
#include "py/pins.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>
#include <unistd.h>

#include "log/log.h"
#include "py/door.h"

static PyTypeObject *pin_type;

static uint64_t byte_of(const struct pins_object *pins, uint64_t era)
{
    return 1ULL << 62 | era << PH_PIN_ERA_SHIFT | pins->process;
}

/* Index of an era, or of the first behind it. */
static uint32_t place_of(const struct pins_object *pins, uint64_t era)
{
    uint32_t at = pins->used;
    while (at > 0 && pins->eras[at - 1].era >= era)
        at--;
    return at;
}

static int make_room(struct pins_object *pins)
{
    uint32_t room = pins->room == 0 ? 8 : 2 * pins->room;
    if (pins->used < pins->room)
        return 0;
    struct pinned_era *eras = realloc(pins->eras, room * sizeof *eras);
    if (eras == NULL)
        return -ENOMEM;
    pins->eras = eras;
    pins->room = room;
    return 0;
}

static int64_t take(struct pins_object *pins, uint64_t era)
{
    uint32_t at = place_of(pins, era);
    if (at < pins->used && pins->eras[at].era == era) {
        pins->eras[at].count++;
        return 0;
    }
    int64_t failed = make_room(pins);
    if (failed == 0 && pins->file != 0)
        failed = ph_file_lock_byte(pins->file, byte_of(pins, era), PH_LOCK_READ);
    if (failed < 0)
        return failed;
    memmove(&pins->eras[at + 1], &pins->eras[at], (pins->used++ - at) * sizeof *pins->eras);
    pins->eras[at] = (struct pinned_era){.era = era, .count = 1};
    return 0;
}

/* A file that was closed has no locks any more, and those of a fork are its parent's: there is nothing to be done then. */
static void let_go(struct pins_object *pins, uint64_t era)
{
    uint32_t at = place_of(pins, era);
    if (--pins->eras[at].count != 0)
        return;
    memmove(&pins->eras[at], &pins->eras[at + 1], (--pins->used - at) * sizeof *pins->eras);
    if (pins->file != 0)
        ph_file_lock_byte(pins->file, byte_of(pins, era), PH_LOCK_NONE);
}

/* ---------------------------------------------------------------- Pin */

uint64_t ph_era_now(const struct pins_object *pins)
{
    return pins->header == NULL ? 0 : ph_shared_word(pins->header, PH_ERA_AT);
}

int ph_is_mapped(const struct pins_object *pins)
{
    return pins->layout == PH_ANY_LAYOUT || !PH_KEPT(Q14) || ph_shared_word(pins->header, PH_LAYOUT_SEQ_AT) == pins->layout;
}

int ph_is_last(const struct pins_object *pins, uint64_t sequence)
{
    uint64_t now = ph_shared_word(pins->header, PH_COMMIT_SEQ_AT);
    return now == sequence || (now == (sequence | 1) && ph_is_mapped(pins));
}

struct pin_object *ph_pin_era(struct pins_object *pins, uint64_t era, PyObject *keep, int64_t *failed)
{
    struct pin_object *self = ph_new_object(pin_type);
    *failed = 0;
    if (self == NULL)
        return NULL;
    *failed = pins->log != NULL && ph_lease_stop(pins->log) < 0 ? -EBUSY : take(pins, era);
    if (*failed < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* what is captured is captured behind the lock */
    self->era = era;
    self->pins = (struct pins_object *)Py_NewRef((PyObject *)pins);
    self->keep = Py_NewRef(keep);
    return self;
}

static int pin_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((struct pin_object *)object)->keep);
    return 0;
}

static void pin_dealloc(PyObject *object)
{
    struct pin_object *self = (struct pin_object *)object;

    PyObject_GC_UnTrack(object);
    if (self->pins != NULL)
        let_go(self->pins, self->era);
    Py_XDECREF((PyObject *)self->pins);
    Py_XDECREF(self->keep);
    ph_free_object(object);
}

static PyMemberDef pin_members[] = {
    {"era", T_ULONGLONG, offsetof(struct pin_object, era), READONLY, "What is freed in this era or later waits."},
    {"keep", T_OBJECT, offsetof(struct pin_object, keep), READONLY, "What lives as long."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot pin_slots[] = {
    {Py_tp_doc, (void *)"An era that a snapshot, or a view of one, needs. The last reference to it lets the era go."},
    {Py_tp_traverse, pin_traverse},
    {Py_tp_dealloc, pin_dealloc},
    {Py_tp_members, pin_members},
    {0, NULL},
};

static PyType_Spec pin_spec = {
    .name = "pmemheap._core._hot.Pin",
    .basicsize = sizeof(struct pin_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = pin_slots,
};

int ph_is_pin(PyObject *object)
{
    return Py_TYPE(object) == pin_type;
}

/* ---------------------------------------------------------------- Pins */

PyDoc_STRVAR(pins_doc,
"Pins(file, header, layout, /)\n--\n\n"
"The pins of this process on a heap.\n\n"
"`file`: number of the open file whose locks tell other processes, 0 if nobody has to know. `header`: where it is mapped, 0\n"
"if nobody changes it. `layout`: number of the segments and arenas that are mapped; None: always all.");

static int set_layout(PyObject *object, PyObject *value, void *closure)
{
    (void)closure;
    uint64_t layout = value == Py_None ? PH_ANY_LAYOUT : PyLong_AsUnsignedLongLong(value);
    if (layout == PH_ANY_LAYOUT && PyErr_Occurred())
        return -1;
    ((struct pins_object *)object)->layout = layout;
    return 0;
}

static PyObject *pins_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    unsigned long long file, header;
    PyObject *layout;

    (void)keywords;
    if (!PyArg_ParseTuple(arguments, "KKO:Pins", &file, &header, &layout))
        return NULL;
    struct pins_object *self = ph_new_object(type);
    if (self == NULL)
        return NULL;
    self->file = file;
    self->process = (uint64_t)getpid() & ((1ULL << PH_PIN_ERA_SHIFT) - 1);
    self->header = (const uint8_t *)(uintptr_t)header;
    if (set_layout((PyObject *)self, layout, NULL) == 0)
        return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return NULL;
}

static void pins_dealloc(PyObject *object)
{
    free(((struct pins_object *)object)->eras);
    ph_free_object(object);
}

static PyObject *eras(PyObject *object, void *closure)
{
    const struct pins_object *self = (const struct pins_object *)object;
    PyObject *list = PyList_New(0);

    (void)closure;
    for (uint32_t i = 0; list != NULL && i < self->used; i++)
        if (ph_append_new(list, number(self->eras[i].era)) < 0)
            Py_CLEAR(list);
    return list;
}

PyDoc_STRVAR(pin_doc, "pin($self, keep, /)\n--\n\nA Pin of the era that is now, with which `keep` lives. OSError: the kernel has no lock.");

static PyObject *pin(PyObject *object, PyObject *keep)
{
    int64_t failed;
    struct pins_object *self = (struct pins_object *)object;
    struct pin_object *made = ph_pin_era(self, ph_era_now(self), keep, &failed);

    return made == NULL && failed < 0 ? ph_raise_errno(failed) : (PyObject *)made;
}

PyDoc_STRVAR(adopt_doc,
"adopt($self, era, keep, /)\n--\n\nA Pin of an era that somebody else has pinned. The floor, looked at afterwards, says whether it came in time.");

static PyObject *adopt(PyObject *object, PyObject *args)
{
    unsigned long long era;
    PyObject *keep;
    int64_t failed;

    if (!PyArg_ParseTuple(args, "KO:adopt", &era, &keep))
        return NULL;
    if (era >= 1ULL << (62 - PH_PIN_ERA_SHIFT))
        return PyErr_Format(PyExc_ValueError, "Pins.adopt: era: at most 40 bits expected, %llu found", era);
    struct pin_object *made = ph_pin_era((struct pins_object *)object, era, keep, &failed);
    return made == NULL && failed < 0 ? ph_raise_errno(failed) : (PyObject *)made;
}

static PyMethodDef pins_methods[] = {
    {"pin", pin, METH_O, pin_doc},
    {"adopt", adopt, METH_VARARGS, adopt_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef pins_attributes[] = {
    {"eras", eras, NULL, "The eras that are pinned here, in order.", NULL},
    {"layout", NULL, set_layout, "Number of the segments and arenas that are mapped.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot pins_slots[] = {
    {Py_tp_doc, (void *)pins_doc},
    {Py_tp_new, pins_new},
    {Py_tp_dealloc, pins_dealloc},
    {Py_tp_methods, pins_methods},
    {Py_tp_getset, pins_attributes},
    {0, NULL},
};

static PyType_Spec pins_spec = {
    .name = "pmemheap._core._hot.Pins",
    .basicsize = sizeof(struct pins_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = pins_slots,
};

int ph_is_pins(PyObject *object)
{
    return PyType_GetSlot(Py_TYPE(object), Py_tp_dealloc) == (void *)pins_dealloc;
}

int ph_add_pins_types(PyObject *module)
{
    pin_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &pin_spec, NULL);
    if (pin_type == NULL || PyModule_AddObjectRef(module, "Pin", (PyObject *)pin_type) < 0)
        return -1;
    return ph_add_type(module, "Pins", &pins_spec);
}
