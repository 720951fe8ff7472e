/* py/heap_blocks.c -- single blocks: handles, roots, views, and which there are. */
#include "py/heap_doors.h"

DOOR(handle_make, heap_object, 1, code(ph_handle_make(&self->heap, ph_inner(self, n[0]))))
DOOR(handle_is_valid, heap_object, 2, truth(ph_handle_valid(&self->heap, ph_inner(self, n[0]), n[1])))
DOOR(handle_drop, heap_object, 2, ph_handle_drop(&self->heap, ph_inner(self, n[0]), n[1]), done())
DOOR(set_rooted, heap_object, 2, code(ph_set_rooted(&self->heap, ph_inner(self, n[0]), n[1] != 0)))

static PyObject *set_roots(PyObject *object, PyObject *offsets)
{
    struct heap_object *self = (struct heap_object *)object;
    Py_ssize_t count = PyList_Size(offsets);

    if (count < 0)
        return NULL;
    ph_forget_roots(&self->heap);
    for (Py_ssize_t i = 0; i < count; i++) {
        uint64_t offset = PyLong_AsUnsignedLongLong(PyList_GetItem(offsets, i));
        if (PyErr_Occurred())
            return NULL;
        if (ph_set_rooted(&self->heap, ph_inner(self, offset), 1) == PH_H_NOMEM)
            return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

enum { VIEWED = 5 };

/* (number of blocks with live views, [(offset, size, views), ...] of the lowest ones). */
static PyObject *viewed(PyObject *object, PyObject *ignored)
{
    struct ph_viewed found[VIEWED];
    uint64_t total = ph_viewed(core_of(object), found, VIEWED), kept = total < VIEWED ? total : VIEWED;

    (void)ignored;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    for (uint64_t i = 0; list != NULL && i < kept; i++) {
        struct ph_block block = ph_block_at(core_of(object), found[i].offset);
        uint64_t size = block.state == PH_B_NONE ? 0 : ph_block_capacity(&block);
        uint64_t offset = ph_outer((struct heap_object *)object, found[i].offset);
        if (ph_append_new(list, Py_BuildValue("KKI", offset, size, found[i].views)) < 0)
            Py_CLEAR(list);
    }
    ph_let_collector(held);
    return list == NULL ? NULL : Py_BuildValue("KN", (unsigned long long)total, list);
}

DOOR(move_into, heap_object, 3, code(ph_move_into(&self->heap, ph_inner(self, n[0]), ph_inner(self, n[1]), n[2])))

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
    AS_METHOD("handle_make", handle_make, "Serial number for a handle to a live block, or a negative code."),
    AS_METHOD("handle_is_valid", handle_is_valid, "Whether the block of a handle still lives."),
    AS_METHOD("handle_drop", handle_drop, "A handle is gone."),
    AS_METHOD("set_rooted", set_rooted, "Note whether a root names the block at an offset; 0, or a negative code."),
    {"set_roots", set_roots, METH_O, "Note which blocks roots name, and that they name no others."},
    {"viewed", viewed, METH_NOARGS, "Blocks with live views: how many, and the lowest ones."},
    AS_METHOD("move_into", move_into, "Copy a block into a large one and free it: from, to, size."),
    {"blocks", blocks, METH_O, "Some live blocks."},
    {NULL, NULL, 0, NULL},
};
