/* py/heap_blocks.c -- single blocks: roots, views, and which there are. */
#include "block/guard.h"
#include "py/admit.h"
#include "py/heap_doors.h"

/* Each offset of a list; the first code that is not 0, or 1 with an exception set. */
static int set_each(struct heap_object *self, PyObject *offsets, int rooted)
{
    int refusal = 0;

    for (Py_ssize_t i = 0; refusal == 0 && i < PyList_Size(offsets); i++) {
        uint64_t offset = PyLong_AsUnsignedLongLong(PyList_GetItem(offsets, i));
        refusal = PyErr_Occurred() ? 1 : ph_set_rooted(&self->heap, ph_inner(self, offset), rooted);
    }
    return refusal;
}

static PyObject *set_rooted(PyObject *object, PyObject *args)
{
    struct heap_object *self = (struct heap_object *)object;
    PyObject *offsets;
    int rooted, others;

    if (!PyArg_ParseTuple(args, "O!pp", &PyList_Type, &offsets, &rooted, &others))
        return NULL;
    if (!others)
        ph_forget_roots(&self->heap);
    int refusal = set_each(self, offsets, rooted);
    return refusal > 0 ? NULL : code(refusal);
}

enum { VIEWED = 5 };

/* (number of blocks with live views, [(offset, size, views), ...] of the lowest ones, arrays that own a block). */
static PyObject *viewed(PyObject *object, PyObject *ignored)
{
    struct ph_viewed found[VIEWED];
    uint64_t total = ph_viewed(core_of(object), found, VIEWED), kept = total < VIEWED ? total : VIEWED;

    (void)ignored;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    for (uint64_t i = 0; list != NULL && i < kept; i++) {
        struct ph_block block = ph_block_at(core_of(object), found[i].offset);
        uint64_t size = block.state == PH_B_NONE ? 0 : ph_block_usable(&block);
        uint64_t offset = ph_outer((struct heap_object *)object, found[i].offset);
        if (ph_append_new(list, Py_BuildValue("KKI", offset, size, found[i].views)) < 0)
            Py_CLEAR(list);
    }
    ph_let_collector(held);
    return list == NULL ? NULL : Py_BuildValue("KNK", total, list, core_of(object)->refs.arrays);
}

DOOR(move_into, heap_object, 3, code(ph_move_into(&self->heap, ph_inner(self, n[0]), ph_inner(self, n[1]), n[2])))

/* 0, or a negative code, also where the heap takes no changes. */
static PyObject *keep(struct heap_object *self, uint64_t offset)
{
    int refusal = self->state != PH_S_OPEN ? PH_H_BAD_OFFSET : ph_array_keep(&self->heap, ph_inner(self, offset));

    return refusal == 0 && ph_append_pending(self) < 0 ? NULL : code(refusal);
}

DOOR(keep_array, heap_object, 1, keep(self, n[0]))

enum { BLOCKS = 512 };

/* (next cursor, [(offset, usable size), ...]); an empty list at the end. */
static PyObject *blocks(PyObject *object, PyObject *argument)
{
    uint64_t cursor = PyLong_AsUnsignedLongLong(argument), offsets[BLOCKS], sizes[BLOCKS];

    if (PyErr_Occurred())
        return NULL;
    int64_t count = ph_blocks(core_of(object), &cursor, offsets, sizes, BLOCKS);
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list != NULL && i < count; i++)
        if (ph_append_new(list, pair(ph_outer((struct heap_object *)object, offsets[i]), sizes[i])) < 0)
            Py_CLEAR(list);
    return list == NULL ? NULL : Py_BuildValue("KN", (unsigned long long)cursor, list);
}

PyMethodDef ph_block_methods[] = {
    {"set_rooted", set_rooted, METH_VARARGS, "Note whether roots name the blocks of a list, and some others as before; 0, or a negative code."},
    {"viewed", viewed, METH_NOARGS, "Blocks with live views: how many, and the lowest ones; arrays that own a block."},
    AS_METHOD("move_into", move_into, "Copy a block into a large one and free it: from, to, size."),
    AS_METHOD("keep_array", keep_array, "The reserved block of an array becomes live, and stays when the array goes."),
    {"blocks", blocks, METH_O, "Some live blocks."},
    {NULL, NULL, 0, NULL},
};
