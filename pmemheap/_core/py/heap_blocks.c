/* py/heap_blocks.c -- single blocks: handles, roots, views, and which there are. */
#include "py/heap_doors.h"

static PyObject *handle_make(PyObject *object, PyObject *argument)
{
    uint64_t offset = read_inner(object, argument);

    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromLongLong(ph_handle_make(core_of(object), offset));
}

static PyObject *handle_is_valid(PyObject *object, PyObject *args)
{
    unsigned long long offset, serial;

    if (!PyArg_ParseTuple(args, "KK", &offset, &serial))
        return NULL;
    return PyBool_FromLong(ph_handle_valid(core_of(object), ph_inner((struct heap_object *)object, offset), serial));
}

static PyObject *handle_drop(PyObject *object, PyObject *args)
{
    unsigned long long offset, serial;

    if (!PyArg_ParseTuple(args, "KK", &offset, &serial))
        return NULL;
    ph_handle_drop(core_of(object), ph_inner((struct heap_object *)object, offset), serial);
    Py_RETURN_NONE;
}

static PyObject *set_rooted(PyObject *object, PyObject *args)
{
    unsigned long long offset;
    int rooted;

    if (!PyArg_ParseTuple(args, "Kp", &offset, &rooted))
        return NULL;
    return PyLong_FromLong(ph_set_rooted(core_of(object), ph_inner((struct heap_object *)object, offset), rooted));
}

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

static PyObject *views_of(PyObject *object, PyObject *argument)
{
    uint64_t offset = read_inner(object, argument);

    if (PyErr_Occurred())
        return NULL;
    const struct ph_refs *refs = ph_refs_find(core_of(object), offset);
    return PyLong_FromUnsignedLong(refs == NULL ? 0 : refs->views);
}

static PyObject *live_views(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(core_of(object)->refs.views);
}

enum { VIEWED = 5 };

/* (number of blocks with live views, [(offset, size, views), ...] of the lowest ones). */
static PyObject *viewed(PyObject *object, PyObject *ignored)
{
    struct ph_viewed found[VIEWED];
    uint64_t total = ph_viewed(core_of(object), found, VIEWED), kept = total < VIEWED ? total : VIEWED;

    (void)ignored;
    int held = ph_hold_collector();
    PyObject *list = PyList_New((Py_ssize_t)kept);
    for (uint64_t i = 0; list != NULL && i < kept; i++) {
        struct ph_block block = ph_block_at(core_of(object), found[i].offset);
        uint64_t size = block.state == PH_B_NONE ? 0 : ph_block_capacity(&block);
        PyObject *one = Py_BuildValue("KKI", (unsigned long long)ph_outer((struct heap_object *)object, found[i].offset),
                                      (unsigned long long)size, found[i].views);
        if (one == NULL || PyList_SetItem(list, (Py_ssize_t)i, one) < 0)
            Py_CLEAR(list);
    }
    ph_let_collector(held);
    return list == NULL ? NULL : Py_BuildValue("KN", (unsigned long long)total, list);
}

static PyObject *move_into(PyObject *object, PyObject *args)
{
    unsigned long long offset, to, size;

    if (!PyArg_ParseTuple(args, "KKK", &offset, &to, &size))
        return NULL;
    const struct heap_object *self = (struct heap_object *)object;
    return PyLong_FromLong(ph_move_into(core_of(object), ph_inner(self, offset), ph_inner(self, to), size));
}

enum { BLOCKS = 512 };

/* (next cursor, [(offset, usable size), ...]); an empty list at the end. */
static PyObject *blocks(PyObject *object, PyObject *argument)
{
    uint64_t cursor = PyLong_AsUnsignedLongLong(argument), offsets[BLOCKS], sizes[BLOCKS];

    if (PyErr_Occurred())
        return NULL;
    int64_t count = ph_blocks(core_of(object), &cursor, offsets, sizes, BLOCKS);
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (int64_t i = 0; list != NULL && i < count; i++) {
        PyObject *block = range_or_none(1, ph_outer((struct heap_object *)object, offsets[i]), sizes[i]);
        if (block == NULL || PyList_SetItem(list, (Py_ssize_t)i, block) < 0)
            Py_CLEAR(list);
    }
    return list == NULL ? NULL : Py_BuildValue("KN", (unsigned long long)cursor, list);
}

static PyObject *held_size(PyObject *object, PyObject *argument)
{
    uint64_t offset = read_inner(object, argument);

    if (PyErr_Occurred())
        return NULL;
    struct ph_block block = ph_block_at(core_of(object), offset);
    return PyLong_FromLongLong(block.state == PH_B_NONE ? PH_H_BAD_OFFSET : (long long)ph_block_capacity(&block));
}

PyMethodDef ph_block_methods[] = {
    {"handle_make", handle_make, METH_O, "Serial number for a handle to a live block, or a negative code."},
    {"handle_is_valid", handle_is_valid, METH_VARARGS, "Whether the block of a handle still lives."},
    {"handle_drop", handle_drop, METH_VARARGS, "A handle is gone."},
    {"set_rooted", set_rooted, METH_VARARGS, "Note whether a root names the block at an offset; 0, or a negative code."},
    {"set_roots", set_roots, METH_O, "Note which blocks roots name, and that they name no others."},
    {"views_of", views_of, METH_O, "Live views of the block at an offset."},
    {"viewed", viewed, METH_NOARGS, "Blocks with live views: how many, and the lowest ones."},
    {"live_views", live_views, METH_NOARGS, "Live views of all blocks."},
    {"move_into", move_into, METH_VARARGS, "Copy a block into a large one and free it: from, to, size."},
    {"blocks", blocks, METH_O, "Some live blocks."},
    {"held_size", held_size, METH_O, "Bytes of a live, reserved or quarantined block."},
    {NULL, NULL, 0, NULL},
};
