/* py/map.c -- MapCore: the calls of an ordered map that C answers alone; `SortedMap` derives from it. */
#include "py/heap_calls.h"
#include "py/door.h"
#include "py/map.h"
#include "py/pins.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

PyDoc_STRVAR(node_doc,
"_node($self, offset, level, /)\n--\n\n"
"The bytes of a node, as this thread sees it; None if there is none of that level.");

static PyObject *node_at(PyObject *object, PyObject *args)
{
    unsigned long long offset;
    unsigned int level;

    if (!PyArg_ParseTuple(args, "KI", &offset, &level) || ph_map_look(object) < 0)
        return NULL;
    const uint8_t *node = ph_map_node(&ph_map_of(object)->map, offset, level);
    return node == NULL ? Py_NewRef(Py_None) : PyBytes_FromStringAndSize((const char *)node, PH_MAP_NODE);
}

static PyObject *header_of(PyObject *object, PyObject *ignored)
{
    struct ph_map_header header;

    (void)ignored;
    if (ph_map_look(object) < 0)
        return NULL;
    int failed = ph_map_header_of(&ph_map_of(object)->map, &header);
    if (failed < 0)
        return ph_map_refuse(object, failed);
    return Py_BuildValue("KKI", (unsigned long long)header.root, (unsigned long long)header.count, header.height);
}

PyDoc_STRVAR(stamp_doc,
"_stamp($self, /)\n--\n\n"
"The eight bytes with which the header begins, and whether it is the one that was attached; None if nothing lies there.");

static PyObject *stamp(PyObject *object, PyObject *ignored)
{
    struct ph_map_header header;

    (void)ignored;
    if (ph_map_look(object) < 0)
        return NULL;
    if (ph_map_header_at(&ph_map_of(object)->map, &header) < 0)
        Py_RETURN_NONE;
    PyObject *magic = PyBytes_FromStringAndSize((const char *)&header.magic, sizeof header.magic);
    PyObject *found = magic == NULL ? NULL : PyTuple_Pack(2, magic, header.id == ph_map_of(object)->map.id ? Py_True : Py_False);
    Py_XDECREF(magic);
    return found;
}

PyDoc_STRVAR(follow_doc,
"_follow($self, pins, root, /)\n--\n\n"
"Be the map that a root leads to as of the last commit, whichever that is: another process changes the heap.");

static PyObject *follow(PyObject *object, PyObject *args)
{
    struct map_object *self = ph_map_of(object);
    PyObject *pins, *root;

    if (!PyArg_ParseTuple(args, "OS", &pins, &root))
        return NULL;
    if (!ph_is_pins(pins) || self->pins != NULL)
        return PyErr_Format(PyExc_TypeError, "map: Pins expected, once, found %R", pins);
    self->root = Py_NewRef(root);
    self->pins = Py_NewRef(pins);
    Py_RETURN_NONE;
}

DOOR(bad, map_object, 0, number(self->map.bad))

PyDoc_STRVAR(attach_doc,
"_attach($self, space, header, alone, beside, /)\n--\n\n"
"Be the map whose header lies at an offset of a HeapCore. `alone`: changes outside of a transaction are committed in C;\n"
"`beside`: another process may change the heap meanwhile.");

static PyObject *attach(PyObject *object, PyObject *args)
{
    struct map_object *self = ph_map_of(object);
    struct ph_map_header header = {0};
    PyObject *space;
    unsigned long long place;
    int alone, beside;

    if (!PyArg_ParseTuple(args, "OKpp", &space, &place, &alone, &beside))
        return NULL;
    if (!ph_is_heap(space))
        return PyErr_Format(PyExc_TypeError, "map: a heap or an arena expected, found %R", space);
    if (self->space != NULL && self->space != space) /* another thread may be at work in that one */
        return PyErr_Format(PyExc_TypeError, "map: the heap that it was made for expected, found %R", space);
    ph_map_fini(&self->map);
    if (self->space == NULL)
        self->space = Py_NewRef(space);
    self->map = (struct ph_map){.heap = &ph_space_of(self)->heap, .arena = ph_space_of(self)->origin >> PH_ARENA_SHIFT,
                                .header = place, .is_fixed = self->pin != NULL || self->pins != NULL, .is_beside = (uint8_t)beside};
    self->may_be_alone = (char)alone;
    ph_map_note_maker(self);
    if (ph_map_look(object) < 0)
        return NULL;
    ph_map_header_at(&self->map, &header); /* if there is none, the first look at it finds out */
    self->map.id = header.id;
    Py_RETURN_NONE;
}

static int traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(ph_map_of(object)->space);
    Py_VISIT(ph_map_of(object)->pin);
    Py_VISIT(ph_map_of(object)->pins);
    Py_VISIT(ph_map_of(object)->skip);
    return 0;
}

/* The heap stays: whatever is called yet needs it. */
static int clear(PyObject *object)
{
    Py_CLEAR(ph_map_of(object)->skip);
    return 0;
}

static void map_dealloc(PyObject *object)
{
    struct map_object *self = ph_map_of(object);

    PyObject_GC_UnTrack(object);
    ph_map_fini(&self->map);
    ph_tx_fini(&self->alone);
    Py_XDECREF(self->space);
    Py_XDECREF(self->pin);
    Py_XDECREF(self->pins);
    Py_XDECREF(self->root);
    Py_XDECREF(self->skip);
    ph_free_object(object);
}

static PyMethodDef own_methods[] = {
    {"_node", node_at, METH_VARARGS, node_doc},
    {"_header", header_of, METH_NOARGS, "_header($self, /)\n--\n\nOffset of the root, entries, height."},
    {"_stamp", stamp, METH_NOARGS, stamp_doc},
    AS_METHOD("_bad", bad, "_bad($self, /)\n--\n\nOffset of the node at which a contradiction was found."),
    {"_follow", follow, METH_VARARGS, follow_doc},
    {"_attach", attach, METH_VARARGS, attach_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef map_members[] = {
    {"_space", T_OBJECT, offsetof(struct map_object, space), READONLY, NULL},
    {"_pin", T_OBJECT, offsetof(struct map_object, pin), 0, NULL},
    {"_pins", T_OBJECT, offsetof(struct map_object, pins), READONLY, NULL},
    {"_skip", T_OBJECT, offsetof(struct map_object, skip), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot map_slots[] = {
    {Py_tp_doc, (void *)"MapCore()\n--\n\nThe calls of an ordered map that C answers alone; `SortedMap` derives from it."},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_dealloc, map_dealloc},
    {Py_tp_methods, NULL}, /* filled in by ph_add_map_type */
    {Py_tp_members, map_members},
    {Py_mp_subscript, ph_map_subscript},
    {Py_mp_ass_subscript, ph_map_assign},
    {Py_mp_length, ph_map_length},
    {Py_sq_contains, ph_map_contains},
    {0, NULL},
};

static PyType_Spec map_spec = {
    .name = "pmemheap._core._hot.MapCore",
    .basicsize = sizeof(struct map_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = map_slots,
};

int ph_add_map_type(PyObject *module)
{
    static PyMethodDef methods[32];
    const PyMethodDef *const tables[] = {ph_map_read_methods, ph_map_change_methods, own_methods, NULL};

    map_slots[4].pfunc = ph_join_methods(methods, tables);
    if (ph_map_begin_looking() < 0)
        return -1;
    return ph_add_map_iterator_type(module) < 0 ? -1 : ph_add_type(module, "MapCore", &map_spec);
}
