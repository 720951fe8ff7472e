/* py/counters.c -- CountCore. */
#include "py/counters.h"

#include "block/block.h"
#include "py/door.h"

struct count_object {
    PyObject_HEAD
    struct ph_counters counters;
};

PyTypeObject *ph_count_type;

struct ph_counters *ph_counters_of(PyObject *count)
{
    return &((struct count_object *)count)->counters;
}

/* What a Count tells itself of, where it wraps another allocator than a heap. */
DOOR(add_made, count_object, 2, ph_add_made(&self->counters, 1, n[0], n[1]), done())
DOOR(add_freed, count_object, 1, ph_add_freed(&self->counters, 1, n[0]), done())
DOOR(add_resized, count_object, 2, ph_add_resized(&self->counters, n[0], n[1]), done())
DOOR(add_moved, count_object, 0, ph_add_moved(&self->counters, 1), done())

static PyMethodDef count_methods[] = {
    AS_METHOD("_add_made", add_made, "A block was made: bytes asked for, bytes it can hold."),
    AS_METHOD("_add_freed", add_freed, "A block was freed, which could hold so many bytes."),
    AS_METHOD("_add_resized", add_resized, "A block stayed where it is: bytes that it could hold, and can."),
    AS_METHOD("_add_moved", add_moved, "A block was made and freed because it moved."),
    {NULL, NULL, 0, NULL},
};

FIELD(get_blocks, count_object, code((int64_t)(self->counters.made - self->counters.freed)))
FIELD(get_bytes, count_object, code((int64_t)(self->counters.made_bytes - self->counters.freed_bytes)))
FIELD(get_peak, count_object, code(self->counters.peak))
FIELD(get_total, count_object, number(self->counters.made_bytes))
FIELD(get_slack, count_object, number(self->counters.made_bytes - self->counters.asked_bytes))
FIELD(get_moved, count_object, number(self->counters.moved))
FIELD(get_in_place, count_object, number(self->counters.in_place))

static PyGetSetDef count_fields[] = {
    {"blocks", get_blocks, NULL, "Blocks that live, less those that lived when the count began.", NULL},
    {"bytes", get_bytes, NULL, "Bytes that they can hold, in the same way.", NULL},
    {"peak", get_peak, NULL, "The most that `bytes` ever was.", NULL},
    {"total", get_total, NULL, "Bytes of all blocks that were made, and by which blocks grew in place.", NULL},
    {"slack", get_slack, NULL, "Of these, bytes that nobody asked for.", NULL},
    {"moved", get_moved, NULL, "Blocks that a change of their size has moved.", NULL},
    {"in_place", get_in_place, NULL, "Changes of a size that moved nothing.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(count_doc, "CountCore()\n--\n\nCounters of what becomes of blocks.");

static PyType_Slot count_slots[] = {
    {Py_tp_doc, (void *)count_doc},
    {Py_tp_methods, count_methods},
    {Py_tp_getset, count_fields},
    {0, NULL},
};

static PyType_Spec count_spec = {
    .name = "pmemheap._core._hot.CountCore",
    .basicsize = sizeof(struct count_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = count_slots,
};

int ph_add_count_type(PyObject *module)
{
    if (ph_add_type(module, "CountCore", &count_spec) < 0)
        return -1;
    ph_count_type = (PyTypeObject *)PyObject_GetAttrString(module, "CountCore");
    return ph_count_type == NULL ? -1 : 0;
}
