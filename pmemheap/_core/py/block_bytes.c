/* py/block_bytes.c -- BlockBytes: the bytes of one block as a buffer, which pins the block.
 *
 *     memoryview, slice, numpy array --> BlockBytes --> the heap --> its address ranges --> the address range
 *
 * One is made for each view. It pins from its birth to its death, and it dies when the last memoryview, slice or
 * array on it does. It is traversed by the garbage collector but has no tp_clear: as long as anything of it can be
 * read the heap object, and through it the mapping, is there. */
#include "py/door.h"
#include "py/heap.h"

struct block_bytes {
    PyObject_HEAD
    struct heap_object *heap;
    uint64_t offset;        /* of the block, inside of its arena */
    uint64_t start, length; /* what is shown of it */
    char readonly, is_own;
};

static PyTypeObject *block_bytes_type;

PyObject *ph_block_view(struct heap_object *heap, const struct ph_block *block, uint64_t length)
{
    return ph_block_part(heap, block, 0, length, 0);
}

PyObject *ph_block_part(struct heap_object *heap, const struct ph_block *block, uint64_t start, uint64_t length,
                        int readonly)
{
    struct block_bytes *self;
    PyObject *view;

    int pinned = ph_view_pin(block);
    if (pinned < 0)
        return pinned == PH_H_NOMEM ? PyErr_NoMemory() : NULL;
    self = PyObject_GC_New(struct block_bytes, block_bytes_type);
    if (self == NULL) {
        ph_view_unpin(&heap->heap, block->offset);
        return NULL;
    }
    self->heap = (struct heap_object *)Py_NewRef((PyObject *)heap);
    self->offset = block->offset;
    self->start = start;
    self->length = length;
    self->readonly = (char)readonly;
    self->is_own = 0;
    PyObject_GC_Track((PyObject *)self);
    view = PyMemoryView_FromObject((PyObject *)self);
    Py_DECREF((PyObject *)self);
    return view;
}

static int traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)((struct block_bytes *)object)->heap);
    return 0;
}

static void dealloc(PyObject *object)
{
    struct block_bytes *self = (struct block_bytes *)object;
    PyTypeObject *type = Py_TYPE(object);

    PyObject_GC_UnTrack(object);
    self->heap->own_views -= self->is_own;
    ph_view_unpin(&self->heap->heap, self->offset);
    Py_DECREF((PyObject *)self->heap);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

static int getbuffer(PyObject *object, Py_buffer *view, int flags)
{
    struct block_bytes *self = (struct block_bytes *)object;

    return PyBuffer_FillInfo(view, object, self->heap->heap.data + self->offset + self->start, (Py_ssize_t)self->length,
                             self->readonly || self->heap->state == PH_S_READONLY, flags);
}

FIELD(get_heap, block_bytes, Py_NewRef((PyObject *)self->heap))
FIELD(get_offset, block_bytes, number(ph_outer(self->heap, self->offset)))

PyDoc_STRVAR(become_own_doc,
"_become_own($self, /)\n--\n\n"
"Be for the use of the package alone: who looks through it asks afterwards whether the heap is lost.");

DOOR(become_own, block_bytes, 0, self->heap->own_views += !self->is_own, self->is_own = 1, done())

static PyMethodDef methods[] = {
    AS_METHOD("_become_own", become_own, become_own_doc),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"heap", get_heap, NULL, "The heap whose block it is.", NULL},
    {"offset", get_offset, NULL, "Offset of the block.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(type_doc, "The bytes of one block, pinned for as long as this object lives; made by ``heap.view``.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)type_doc},
    {Py_tp_traverse, traverse},
    {Py_tp_dealloc, dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_bf_getbuffer, getbuffer},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "pmemheap._core._hot.BlockBytes",
    .basicsize = sizeof(struct block_bytes),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

int ph_add_block_bytes_type(PyObject *module)
{
    block_bytes_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
    if (block_bytes_type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "BlockBytes", (PyObject *)block_bytes_type);
}
