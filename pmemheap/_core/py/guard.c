/* py/guard.c -- guarded blocks, as far as Python has to do with them: units for them, who made and freed them, what is found. */
#include "py/guard.h"

#include <stdlib.h>

#include "block/guard.h"
#include "py/door.h"
#include "py/heap_calls.h"
#include "py/heap_doors.h"
#include "py/sites.h"

/* Of one arena. It stays until that goes, whatever layers come and go: they own no block. */
struct own_guard {
    struct ph_guard guard;
    struct ph_sites sites;
};

static void site_of(struct ph_guard *guard, char *name, uint64_t room)
{
    ph_site_name(&((struct own_guard *)guard)->sites, name, room);
}

/* Have the pool get a range of units; -1 if that is not to be had. Only an interrupt is an exception then. */
static int ask_for_units(PyObject *heap, uint64_t nunits)
{
    PyObject *units = number(nunits);
    PyObject *done = units == NULL ? NULL : ph_call_slow(heap, ph_slow.refill, units, NULL, NULL);

    Py_XDECREF(units);
    if (done == NULL && PyErr_ExceptionMatches(PyExc_Exception))
        PyErr_Clear();
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

PyObject *ph_guarded(PyObject *object, PyObject *size_given, PyObject *align_given)
{
    struct heap_object *self = heap_of(object);
    uint64_t size, align = PH_GRANULE, nunits = 0;
    int64_t inner = PH_H_REFILL;

    ph_guard_draw(&self->heap); /* first: what follows may allocate */
    while (inner == PH_H_REFILL) {
        if (!ph_may_change(self) || !read_request(size_given, align_given, &size, &align))
            return NULL;
        inner = ph_guard_malloc(&self->heap, size, align, &nunits);
        if (inner == PH_H_REFILL && ask_for_units(object, nunits) < 0)
            return NULL;
    }
    return inner < 0 ? NULL : number(ph_outer(self, (uint64_t)inner));
}

void ph_end_guard(struct heap_object *self)
{
    struct own_guard *own = (struct own_guard *)self->heap.guard;

    ph_guard_forget(&self->heap);
    self->heap.guard = NULL;
    if (own != NULL)
        ph_sites_fini(&own->sites);
    free(own);
}

/* ---------------------------------------------------------------- doors */

static struct ph_guard *guard_of(struct heap_object *self, PyObject *package)
{
    if (self->heap.guard != NULL)
        return self->heap.guard;
    struct own_guard *own = calloc(1, sizeof *own);
    if (own == NULL)
        return NULL;
    own->sites.own = Py_NewRef(package);
    own->guard.site_of = site_of;
    own->guard.origin = self->origin;
    return self->heap.guard = &own->guard;
}

static void begin(struct heap_object *self, uint64_t every)
{
    if (self->state == PH_S_OPEN)
        ph_guard_begin(&self->heap, every);
    else
        self->heap.guard->every = 0;
}

PyDoc_STRVAR(set_guard_doc,
"set_guard($self, every, limit, has_fences, own, /)\n--\n\n"
"Guard one block in `every` from now on, at most so many at once; `own` is the folder of the package. 0: none.");

static PyObject *set_guard(PyObject *object, PyObject *arguments)
{
    struct heap_object *self = heap_of(object);
    unsigned long long every;
    unsigned int limit;
    PyObject *own;
    int has_fences;

    if (!PyArg_ParseTuple(arguments, "KIpU", &every, &limit, &has_fences, &own))
        return NULL;
    if (every == 0 && self->heap.guard == NULL)
        Py_RETURN_NONE;
    struct ph_guard *guard = guard_of(self, own);
    if (guard == NULL)
        return PyErr_NoMemory();
    if (every != 0) {
        guard->limit = limit;
        guard->has_fences = (uint32_t)has_fences;
        ph_guarded_watch();
    }
    begin(self, every);
    Py_RETURN_NONE;
}

/* (offset, size, whether it lives, made by, freed by, where bytes were overwritten, relative to the begin of the block, or None). */
static PyObject *described(const struct ph_guarded *one)
{
    uint64_t at = one->state == PH_G_LIVE ? ph_guard_damage(one) : 0;
    PyObject *damage = at == 0 ? done() : PyLong_FromLongLong((int64_t)(at - one->address));

    return Py_BuildValue("KKNssN", (unsigned long long)one->offset, (unsigned long long)one->size,
                         truth(one->state == PH_G_LIVE), one->made_by, one->freed_by, damage);
}

static PyObject *guarded_at(struct heap_object *self, uint64_t offset)
{
    const struct ph_guarded *one = ph_guarded_at(&self->heap, ph_inner(self, offset));

    return one == NULL || one->state == PH_G_NONE ? done() : described(one);
}

static PyObject *renew_canary(struct heap_object *self, uint64_t offset)
{
    const struct ph_guarded *one = ph_guarded_at(&self->heap, ph_inner(self, offset));

    if (one != NULL && one->state == PH_G_LIVE)
        ph_guard_renew(one);
    return done();
}

static PyObject *guarded(PyObject *object, PyObject *ignored)
{
    const struct ph_guard *guard = heap_of(object)->heap.guard;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);

    (void)ignored;
    for (uint32_t i = 0; list != NULL && guard != NULL && i < guard->count; i++)
        if (guard->slots[i]->state != PH_G_NONE && ph_append_new(list, described(guard->slots[i])) < 0)
            Py_CLEAR(list);
    ph_let_collector(held);
    return list;
}

DOOR(guarded_at_door, heap_object, 1, guarded_at(self, n[0]))
DOOR(renew_canary_door, heap_object, 1, renew_canary(self, n[0]))
DOOR(let_guarded_go, heap_object, 0, truth(ph_guard_let_go(&self->heap)))
DOOR(count_guarded, heap_object, 0, number(self->heap.guard == NULL ? 0 : self->heap.guard->made))

PyMethodDef ph_guard_methods[] = {
    {"set_guard", set_guard, METH_VARARGS, set_guard_doc},
    {"guarded", guarded, METH_NOARGS, "What is known of each guarded block, live or freed and kept."},
    AS_METHOD("guarded_at", guarded_at_door, "The same of that in whose units an offset lies; None."),
    AS_METHOD("renew_canary", renew_canary_door, "Forget that bytes beside a guarded block were overwritten."),
    AS_METHOD("let_guarded_go", let_guarded_go, "Have freed blocks that are kept become free; whether there were any."),
    AS_METHOD("count_guarded", count_guarded, "How many guarded blocks were made."),
    {NULL, NULL, 0, NULL},
};
