/* py/heap.c -- HeapCore: the type from which `Heap` derives; its methods stand in the other files. */
#include "py/guard.h"
#include "py/heap_calls.h"
#include "py/layers.h"

static PyTypeObject *core_type;

int ph_is_heap(PyObject *object)
{
    return core_type != NULL && PyObject_TypeCheck(object, core_type);
}

struct ph_heap *ph_join_log(struct heap_object *self, PyObject *log)
{
    PyObject *old = self->log;

    self->log = Py_NewRef(log);
    ph_tags_join(log_of(self), &self->heap);
    Py_XDECREF(old);
    return &self->heap;
}

static PyObject *heap_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    struct heap_object *self = ph_new_object(type);

    (void)args;
    (void)keywords;
    if (self == NULL)
        return NULL;
    self->state = PH_S_CLOSED;
    self->merge_at = PH_RETURNED_MOST;
    self->heap.until_look = self->heap.until_free_look = 1;
    ph_heap_enter(self);
    return (PyObject *)self;
}

static void heap_dealloc(PyObject *object)
{
    struct heap_object *self = heap_of(object);

    ph_forget_layers(self);
    ph_close_doors(self);
    ph_heap_leave(self);
    ph_end_guard(self);
    ph_heap_fini(&self->heap);
    if (self->log != NULL && log_of(self)->homes[arena_of(self)].heap == &self->heap)
        log_of(self)->homes[arena_of(self)].heap = NULL;
    Py_XDECREF(self->log);
    Py_XDECREF(self->keep);
    Py_XDECREF(self->starts);
    ph_free_object(object);
}

PyDoc_STRVAR(core_doc, "HeapCore()\n--\n\nThe calls of a heap that the C core answers alone; `Heap` derives from it.");

static PyType_Slot core_slots[] = {
    {Py_tp_doc, (void *)core_doc},
    {Py_tp_new, heap_new},
    {Py_tp_dealloc, heap_dealloc},
    {Py_tp_methods, NULL}, /* filled in by ph_add_heap_types: calls and batches in one table */
    {0, NULL},
};

static PyType_Spec core_spec = {
    .name = "pmemheap._core._hot.HeapCore",
    .basicsize = sizeof(struct heap_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = core_slots,
};

int ph_add_heap_types(PyObject *module)
{
    static PyMethodDef methods[24];
    PyMethodDef *const behind_doors[] = {ph_own_call_methods, ph_own_batch_methods, ph_control_methods, ph_unit_methods,
                                         ph_block_methods,    ph_count_methods,     ph_step_methods,    ph_strategy_doors,
                                         ph_guard_methods,    ph_placed_doors,      NULL};
    const PyMethodDef *const tables[] = {ph_call_methods, ph_batch_methods, ph_strategy_methods, NULL};
    const PyMethodDef *const own_tables[] = {ph_own_call_methods, ph_own_batch_methods, NULL};

    if (ph_slow_init() < 0)
        return -1;
    core_slots[3].pfunc = ph_join_methods(methods, tables);
    if (ph_add_layer_types(module, own_tables) < 0 || ph_add_block_bytes_type(module) < 0
        || ph_add_type(module, "HeapCore", &core_spec) < 0)
        return -1;
    core_type = (PyTypeObject *)PyObject_GetAttrString(module, "HeapCore");
    return core_type == NULL ? -1 : ph_add_doors_type(module, core_type, behind_doors, ph_door_fields);
}
