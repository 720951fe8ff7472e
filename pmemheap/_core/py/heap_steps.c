/* py/heap_steps.c -- the steps of a transaction and of a walk one by one, for tests: in a checked core alone. Each answers 0
 * or an offset, or a negative code. */
#include "py/heap_doors.h"

#ifdef PH_CHECKED
DOOR(reserve_block, heap_object, 2, offset_from(object, ph_reserve_block(&self->heap, n[0], n[1])))

DOOR(try_malloc, heap_object, 2, offset_from(object, ph_malloc(&self->heap, n[0], n[1])))
DOOR(try_realloc, heap_object, 2, offset_from(object, ph_realloc(&self->heap, ph_inner(self, n[0]), n[1])))

DOOR(handle_make, heap_object, 1, code(ph_handle_make(&self->heap, ph_inner(self, n[0]))))
DOOR(handle_is_valid, heap_object, 2, truth(ph_handle_valid(&self->heap, ph_inner(self, n[0]), n[1])))
DOOR(handle_drop, heap_object, 2, ph_handle_drop(&self->heap, ph_inner(self, n[0]), n[1]), done())

static PyObject *step(PyObject *object, PyObject *argument, int (*call)(const struct ph_block *))
{
    uint64_t offset = read_inner(object, argument);

    if (PyErr_Occurred())
        return NULL;
    struct ph_block block = ph_block_at(core_of(object), offset);
    return PyLong_FromLong(call(&block));
}

static int publish_stored(const struct ph_block *block)
{
    if (block->state != PH_B_RESERVED)
        return PH_H_BAD_OFFSET;
    if (ph_journal_reserve(block->arena, 2, 0) < 0)
        return PH_H_NOMEM;
    ph_publish(block);
    ph_describe(block);
    return 0;
}

static int cancel_reserved(const struct ph_block *block)
{
    if (block->state != PH_B_RESERVED)
        return PH_H_BAD_OFFSET;
    ph_cancel(block);
    return 0;
}

static int retire_stored(const struct ph_block *block)
{
    if (block->state != PH_B_LIVE)
        return PH_H_BAD_OFFSET;
    if (ph_withheld_reserve(block->arena, 1) < 0 || ph_journal_reserve(block->arena, 2, 0) < 0)
        return PH_H_NOMEM;
    ph_retire(block);
    ph_undescribe(block);
    return 0;
}

static int release_retired(const struct ph_block *block)
{
    if (!ph_is_retired(block))
        return PH_H_BAD_OFFSET;
    ph_release(block);
    return 0;
}

static int unpin_pinned(const struct ph_block *block)
{
    const struct ph_refs *refs = ph_refs_of(block);
    if (refs == NULL || refs->pins == 0)
        return PH_H_BAD_OFFSET;
    ph_unpin(block->arena, block->offset);
    return 0;
}

#define STEP(name, call)                                        \
    static PyObject *name(PyObject *object, PyObject *argument) \
    {                                                           \
        return step(object, argument, call);                    \
    }

STEP(publish, publish_stored)
STEP(cancel, cancel_reserved)
STEP(retire, retire_stored)
STEP(release, release_retired)
STEP(pin, ph_pin)
STEP(unpin, unpin_pinned)

static PyObject *block_start(PyObject *object, PyObject *argument)
{
    uint64_t offset = read_inner(object, argument);

    if (PyErr_Occurred())
        return NULL;
    struct ph_block block = ph_block_holding(core_of(object), offset);
    return offset_from(object, block.state == PH_B_NONE ? PH_H_BAD_OFFSET : (int64_t)block.offset);
}

/* (next cursor, start, nunits, state, class, live, nbytes), or None at the end. */
static PyObject *walk(PyObject *object, PyObject *argument)
{
    uint64_t cursor = PyLong_AsUnsignedLongLong(argument);
    struct ph_piece piece;

    if (PyErr_Occurred())
        return NULL;
    if (!ph_walk(core_of(object), &cursor, &piece))
        Py_RETURN_NONE;
    return Py_BuildValue("KKKIIIK", (unsigned long long)cursor, (unsigned long long)piece.start,
                         (unsigned long long)piece.nunits, piece.state, piece.class_index, piece.live,
                         (unsigned long long)piece.nbytes);
}

/* ([(offset, bytes) freed, ...], [address of a word that was stored to, ...]), which are forgotten. */
static PyObject *noted(PyObject *object, PyObject *ignored)
{
    struct ph_heap *h = core_of(object);
    PyObject *freed = PyList_New(0), *dirty = PyList_New(0);

    (void)ignored;
    for (uint64_t i = 0; freed != NULL && i < h->freed.count; i++) {
        uint64_t offset = ph_outer((struct heap_object *)object, h->freed.items[i].offset);
        if (ph_append_new(freed, pair(offset, h->freed.items[i].nbytes)) < 0)
            Py_CLEAR(freed);
    }
    for (uint64_t i = 0; dirty != NULL && i < h->dirty.count; i++)
        if (ph_append_new(dirty, PyLong_FromVoidPtr(h->dirty.words[i])) < 0)
            Py_CLEAR(dirty);
    if (freed == NULL || dirty == NULL) {
        Py_XDECREF(freed);
        Py_XDECREF(dirty);
        return NULL;
    }
    h->freed.count = h->dirty.count = 0;
    return Py_BuildValue("NN", freed, dirty);
}

PyMethodDef ph_step_methods[] = {
    AS_METHOD("reserve", reserve_block, "Offset of a block that is reserved, or a negative code."),
    AS_METHOD("try_malloc", try_malloc, "Offset, or a negative code."),
    AS_METHOD("try_realloc", try_realloc, "Offset, or a negative code."),
    AS_METHOD("handle_make", handle_make, "Number of the life of a block, for one more handle, or a negative code."),
    AS_METHOD("handle_is_valid", handle_is_valid, "Whether that life goes on."),
    AS_METHOD("handle_drop", handle_drop, "A handle is gone."),
    {"publish", publish, METH_O, "Reserved to live, stored."},
    {"cancel", cancel, METH_O, "Reserved to free."},
    {"retire", retire, METH_O, "Live to quarantined, stored."},
    {"release", release, METH_O, "Quarantined to free."},
    {"pin", pin, METH_O, "A transaction holds the block."},
    {"unpin", unpin, METH_O, "It holds it no more."},
    {"block_start", block_start, METH_O, "Where the block begins that holds a byte, or a negative code."},
    {"walk", walk, METH_O, "The next piece that is described."},
    {"noted", noted, METH_NOARGS, "Take what a power heap has noted for its log: freed, and words stored to."},
    {NULL, NULL, 0, NULL},
};
#else
PyMethodDef ph_step_methods[] = {{NULL, NULL, 0, NULL}};
#endif
