/* py/layers.h -- the layers of a heap: objects that its calls go through, top first, before the heap answers them itself.
 *
 *     heap.malloc ──► top.malloc ──► top.upstream.malloc ──► next.malloc ──► ... ──► the heap
 *
 * Each layer that is put on a heap gets an Upstream, which knows the next one. One that was taken off again leads on as it did,
 * for calls that are in the middle of it. No call goes through a layer that only counts, tracks or records: the core tells it. */
#pragma once
#include "base/hints.h"
#include "py/heap.h"

enum ph_layered_call {
    PH_CALL_MALLOC,
    PH_CALL_FREE,
    PH_CALL_USABLE_SIZE,
    PH_CALL_REALLOC,
    PH_CALL_EXPAND,
    PH_CALL_MALLOC_MANY,
    PH_CALL_FREE_MANY,
    PH_CALL_VIEW,
    PH_CALLS,
};

/* ph_call_layers -- answer a call by the topmost layer from `upstream` on that has it, else by the heap. */
PH_SELDOM PyObject *ph_call_layers(const struct upstream *upstream, PyObject *heap, enum ph_layered_call call,
                                   PyObject *const *args, Py_ssize_t count, PyObject *keywords);

/* A public call of a heap, over `own_...`, which answers it by the heap itself. */
#define PH_PUBLIC(name, call)                                                                                          \
    static PyObject *heap_##name(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)        \
    {                                                                                                                  \
        const struct upstream *top = ((struct heap_object *)object)->top;                                              \
        if (PH_UNLIKELY(top != NULL))                                                                                  \
            return ph_call_layers(top, object, call, args, count, keywords);                                           \
        return own_##name(object, args, count, keywords);                                                              \
    }

#define PH_PUBLIC_OF_ONE(name, call)                                             \
    static PyObject *heap_##name(PyObject *object, PyObject *argument)           \
    {                                                                            \
        const struct upstream *top = ((struct heap_object *)object)->top;        \
        if (PH_UNLIKELY(top != NULL))                                            \
            return ph_call_layers(top, object, call, &argument, 1, NULL);        \
        return own_##name(object, argument);                                     \
    }

#define PH_OWN(name) {#name, (PyCFunction)(void (*)(void))own_##name, METH_FASTCALL | METH_KEYWORDS, name##_doc}

/* ph_set_layers -- the door for a tuple of Upstreams, top first, and one of the CountCores, TrackCores and RecordCores that are
 * told what becomes of blocks. ph_write_records -- write what is full of these, or all that they have; it may let the GIL go.
 * ph_end_watch -- the memory of the heap goes: what was recorded is written, and no block of it is traced any longer.
 * ph_forget_layers -- the heap goes. ph_add_layer_types -- `own_tables`: the calls that a heap answers itself. */
PyObject *ph_set_layers(PyObject *heap, PyObject *lists);
void ph_write_records(struct heap_object *heap, int all);
void ph_end_watch(struct heap_object *heap);
void ph_forget_layers(struct heap_object *heap);
int ph_add_layer_types(PyObject *module, const PyMethodDef *const *own_tables);
