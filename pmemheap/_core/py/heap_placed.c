/* py/heap_placed.c -- what a `Space` of the user is asked and told for: pieces, chunks, and what it does not know yet. In steps. */
#include "py/heap_doors.h"

enum { PH_STEP_GRANULES = PH_STEP / PH_GRANULE };

DOOR(place, heap_object, 4,
     offset_from(object, ph_placed_put(&self->heap, n[0] * PH_STEP_GRANULES, n[1] * PH_STEP_GRANULES, n[2], n[3] != 0)))

DOOR(add_chunk, heap_object, 1, code(ph_placed_add(&self->heap, n[0])))

/* Take what was not told yet: a list of (is it free, start, steps); None: some of it was lost, and all is to be told. */
static PyObject *take_changes(struct ph_changes *changes)
{
    int held = ph_hold_collector(), was_lost = changes->is_lost;
    PyObject *list = PyList_New(0);

    for (uint64_t i = 0; list != NULL && i < changes->count; i++) {
        const struct ph_change *one = &changes->items[i];
        if (ph_append_new(list, Py_BuildValue("NKK", truth(one->is_free != 0), one->start, one->count)) < 0)
            Py_CLEAR(list);
    }
    changes->is_lost = list == NULL;
    changes->count = 0;
    ph_let_collector(held);
    if (list == NULL || !was_lost)
        return list;
    Py_DECREF(list);
    Py_RETURN_NONE;
}

DOOR(placed_changes, heap_object, 0, take_changes(&self->heap.changes))

/* All that is free, a list of (start, steps), and whether there are changes that were not told yet. With `tells` there are none
 * from then on. */
static PyObject *list_free(struct ph_heap *h, int tells)
{
    struct ph_free_walk walk = {0};
    uint64_t start, end;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);

    while (list != NULL && ph_placed_next(h, &walk, &start, &end))
        if (ph_append_new(list, pair(start / PH_STEP_GRANULES, (end - start) / PH_STEP_GRANULES)) < 0)
            Py_CLEAR(list);
    if (list != NULL && tells)
        h->changes.count = h->changes.is_lost = 0;
    int has_changes = h->changes.count != 0 || h->changes.is_lost;
    ph_let_collector(held);
    return list == NULL ? NULL : Py_BuildValue("NN", list, truth(has_changes));
}

DOOR(placed_free, heap_object, 1, list_free(&self->heap, n[0] != 0))

PyMethodDef ph_placed_doors[] = {
    AS_METHOD("place", place, "Make a piece of so many steps at one, live or reserved; its offset, or a negative code."),
    AS_METHOD("add_chunk", add_chunk, "Make another chunk, of so many units; a negative code if the pool has none."),
    AS_METHOD("placed_changes", placed_changes, "Take what became free or was taken since; None if some of it was lost."),
    AS_METHOD("placed_free", placed_free, "All ranges that are free, and whether there is more to tell; with True there is not, then."),
    {NULL, NULL, 0, NULL},
};
