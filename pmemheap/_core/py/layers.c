/* py/layers.c -- Upstream, what a layer calls, and the layers of a heap. */
#include "py/layers.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

#include "py/door.h"
#include "py/heap_calls.h"
#include "py/counters.h"
#include "py/record.h"
#include "py/track.h"

struct upstream {
    PyObject_HEAD
    PyObject *doors;       /* of the heap, which they do not keep */
    PyObject *layer;       /* whose upstream this is */
    struct upstream *next; /* that of the layer below it, NULL: the heap itself */
    uint32_t has;          /* of the calls, those that the layer answers */
    char is_installed;
};

static PyTypeObject *upstream_type;

static const char *const names[PH_CALLS] = {
    "malloc", "free", "usable_size", "realloc", "expand", "malloc_many", "free_many", "view",
};
static PyObject *interned[PH_CALLS];
static const PyMethodDef *own[PH_CALLS]; /* the calls as a heap itself answers them */

static PyObject *call_own(PyObject *heap, enum ph_layered_call call, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    typedef PyObject *(*fast_call)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
    PyCFunction function = own[call]->ml_meth;

    return own[call]->ml_flags == METH_O ? function(heap, args[0])
                                         : ((fast_call)(void (*)(void))function)(heap, args, count, keywords);
}

static PyObject *call_one(PyObject *layer, enum ph_layered_call call, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    if (keywords == NULL && count == 1)
        return PyObject_CallMethodObjArgs(layer, interned[call], args[0], NULL);
    if (keywords == NULL && count == 2)
        return PyObject_CallMethodObjArgs(layer, interned[call], args[0], args[1], NULL);
    PyObject *method = PyObject_GetAttr(layer, interned[call]), *result = NULL;
    PyObject *tuple = PyTuple_New(count), *named = keywords == NULL ? NULL : PyDict_New();
    int failed = method == NULL || tuple == NULL || (keywords != NULL && named == NULL);
    for (Py_ssize_t i = 0; !failed && i < count; i++)
        failed = PyTuple_SetItem(tuple, i, Py_NewRef(args[i])) < 0;
    for (Py_ssize_t i = 0; !failed && named != NULL && i < PyTuple_Size(keywords); i++)
        failed = PyDict_SetItem(named, PyTuple_GetItem(keywords, i), args[count + i]) < 0;
    if (!failed)
        result = PyObject_Call(method, tuple, named);
    Py_XDECREF(method);
    Py_XDECREF(tuple);
    Py_XDECREF(named);
    return result;
}

PyObject *ph_call_layers(const struct upstream *upstream, PyObject *heap, enum ph_layered_call call, PyObject *const *args,
                         Py_ssize_t count, PyObject *keywords)
{
    while (upstream != NULL && !(upstream->has >> call & 1))
        upstream = upstream->next;
    if (upstream == NULL)
        return call_own(heap, call, args, count, keywords);
    PyObject *layer = Py_NewRef(upstream->layer);
    PyObject *result = call_one(layer, call, args, count, keywords);
    Py_DECREF(layer);
    return result;
}

/* ---------------------------------------------------------------- what a layer calls */

static PyObject *call_upstream(PyObject *object, enum ph_layered_call call, PyObject *const *args, Py_ssize_t count,
                               PyObject *keywords)
{
    struct upstream *self = (struct upstream *)object;
    PyObject *heap = (PyObject *)ph_heap_behind(self->doors);

    if (heap == NULL)
        return NULL;
    Py_INCREF(heap);
    PyObject *result = ph_call_layers(self->next, heap, call, args, count, keywords);
    Py_DECREF(heap);
    return result;
}

#define UPSTREAM(name, call)                                                                                        \
    static PyObject *upstream_##name(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords) \
    {                                                                                                               \
        return call_upstream(object, call, args, count, keywords);                                                  \
    }

#define UPSTREAM_OF_ONE(name, call)                                        \
    static PyObject *upstream_##name(PyObject *object, PyObject *argument) \
    {                                                                      \
        return call_upstream(object, call, &argument, 1, NULL);            \
    }

UPSTREAM(malloc, PH_CALL_MALLOC)
UPSTREAM(free, PH_CALL_FREE)
UPSTREAM(realloc, PH_CALL_REALLOC)
UPSTREAM(expand, PH_CALL_EXPAND)
UPSTREAM(malloc_many, PH_CALL_MALLOC_MANY)
UPSTREAM(view, PH_CALL_VIEW)
UPSTREAM_OF_ONE(usable_size, PH_CALL_USABLE_SIZE)
UPSTREAM_OF_ONE(free_many, PH_CALL_FREE_MANY)

static PyObject *upstream_free_refusal(PyObject *object, PyObject *argument)
{
    PyObject *heap = (PyObject *)ph_heap_behind(((struct upstream *)object)->doors);

    if (heap == NULL)
        return NULL;
    Py_INCREF(heap);
    PyObject *result = ph_refusal_of_free((struct heap_object *)heap, argument);
    Py_DECREF(heap);
    return result;
}

#define AS_CALL(name, doc) {#name, (PyCFunction)(void (*)(void))upstream_##name, METH_FASTCALL | METH_KEYWORDS, doc}

static PyMethodDef upstream_methods[] = {
    AS_CALL(malloc, "malloc($self, /, size, align=16)\n--\n\nAs of the heap."),
    AS_CALL(free, "free($self, /, offset, deferred=False)\n--\n\nAs of the heap."),
    {"usable_size", upstream_usable_size, METH_O, "usable_size($self, offset, /)\n--\n\nAs of the heap."},
    AS_CALL(realloc, "realloc($self, /, offset, size)\n--\n\nAs of the heap."),
    AS_CALL(expand, "expand($self, /, offset, size)\n--\n\nAs of the heap."),
    AS_CALL(malloc_many, "malloc_many($self, /, size, count)\n--\n\nAs of the heap."),
    {"free_many", upstream_free_many, METH_O, "free_many($self, offsets, /)\n--\n\nAs of the heap."},
    AS_CALL(view, "view($self, /, offset, length=None)\n--\n\nAs of the heap."),
    {"_free_refusal", upstream_free_refusal, METH_O, "Why the heap would refuse a free; 0: it would not."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef upstream_members[] = {
    {"layer", T_OBJECT, offsetof(struct upstream, layer), READONLY, "The layer whose upstream it is."},
    {"is_installed", T_BOOL, offsetof(struct upstream, is_installed), READONLY, "Whether the layer is on the heap."},
    {NULL, 0, 0, 0, NULL},
};

/* Of the calls, those that a layer has; -1 with an exception set. */
static int64_t calls_of(PyObject *layer)
{
    int64_t has = 0;

    for (int call = 0; call < PH_CALLS; call++) {
        PyObject *method = PyObject_GetAttr(layer, interned[call]);
        if (method == NULL && !PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
        has |= (int64_t)(method != NULL) << call;
        Py_XDECREF(method);
    }
    return has;
}

static PyObject *upstream_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    PyObject *doors, *layer;
    int is_called;

    (void)keywords;
    if (!PyArg_ParseTuple(arguments, "OOp:Upstream", &doors, &layer, &is_called) || ph_heap_behind(doors) == NULL)
        return NULL;
    int64_t has = is_called ? calls_of(layer) : 0;
    struct upstream *self = has < 0 ? NULL : ph_new_object(type);
    if (self == NULL)
        return NULL;
    self->doors = Py_NewRef(doors);
    self->layer = Py_NewRef(layer);
    self->has = (uint32_t)has;
    return (PyObject *)self;
}

static int upstream_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct upstream *self = (struct upstream *)object;

    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->layer);
    Py_VISIT(self->next);
    return 0;
}

static int upstream_clear(PyObject *object)
{
    struct upstream *self = (struct upstream *)object;

    Py_CLEAR(self->layer);
    Py_CLEAR(self->next);
    self->has = 0; /* a call that comes yet passes by */
    return 0;
}

static void upstream_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    (void)upstream_clear(object);
    Py_CLEAR(((struct upstream *)object)->doors);
    ph_free_object(object);
}

PyDoc_STRVAR(upstream_doc,
             "Upstream(doors, layer, is_called, /)\n--\n\n"
             "What a layer of a heap calls: the layers below it, and the heap. It does not keep the heap.");

static PyType_Slot upstream_slots[] = {
    {Py_tp_doc, (void *)upstream_doc},
    {Py_tp_new, upstream_new},
    {Py_tp_dealloc, upstream_dealloc},
    {Py_tp_traverse, upstream_traverse},
    {Py_tp_clear, upstream_clear},
    {Py_tp_methods, upstream_methods},
    {Py_tp_members, upstream_members},
    {0, NULL},
};

static PyType_Spec upstream_spec = {
    .name = "pmemheap._core._hot.Upstream",
    .basicsize = sizeof(struct upstream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = upstream_slots,
};

/* ---------------------------------------------------------------- the layers of a heap */

static struct upstream *upstream_at(PyObject *tuple, Py_ssize_t index)
{
    return (struct upstream *)PyTuple_GetItem(tuple, index);
}

static int are_upstreams(PyObject *tuple)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(tuple); i++)
        if (!PyObject_TypeCheck(PyTuple_GetItem(tuple, i), upstream_type)) {
            PyErr_SetString(PyExc_TypeError, "set_layers: a tuple of Upstreams expected");
            return 0;
        }
    return 1;
}

static int are_watchers(PyObject *told)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(told); i++) {
        PyObject *one = PyTuple_GetItem(told, i);
        if (!PyObject_TypeCheck(one, ph_count_type) && !ph_is_record(one) && !ph_is_track(one)) {
            PyErr_SetString(PyExc_TypeError, "set_layers: a tuple of CountCores, TrackCores and RecordCores expected");
            return 0;
        }
    }
    return 1;
}

/* Those of a tuple that watch an arena, as C knows them; NULL with an exception set. */
static struct ph_watch *make_watch(PyObject *told, uint64_t arena)
{
    size_t most = (size_t)PyTuple_Size(told) + 1, counts = 0, records = 0, tracks = 0;
    struct ph_watch *watch = PyMem_Calloc(1, sizeof *watch + 3 * most * sizeof(void *));

    if (watch == NULL)
        return (struct ph_watch *)PyErr_NoMemory();
    struct ph_counters **counters = (void *)(watch + 1);
    struct ph_recorder **recorders = (void *)(counters + most);
    struct ph_tracker **trackers = (void *)(recorders + most);
    for (Py_ssize_t i = 0; i < PyTuple_Size(told); i++) {
        PyObject *one = PyTuple_GetItem(told, i);
        if (ph_is_record(one))
            recorders[records++] = ph_recorder_of(one);
        else if (ph_is_track(one))
            trackers[tracks++] = ph_tracker_of(one);
        else
            counters[counts++] = ph_counters_of(one);
    }
    *watch = (struct ph_watch){
        (uint32_t)arena, records == 0 ? NULL : recorders, tracks == 0 ? NULL : trackers, counters};
    return watch;
}

static int is_among(const struct ph_tracker *tracker, struct ph_tracker *const *others)
{
    while (*others != NULL && *others != tracker)
        others++;
    return *others != NULL;
}

/* Of those who track this arena and are not among others, no block of it is traced any longer. */
static void leave_trackers(struct heap_object *self, struct ph_tracker *const *others)
{
    struct ph_tracker *const none = NULL, *const *each = self->heap.watch == NULL ? NULL : self->heap.watch->trackers;

    others = others == NULL ? &none : others;
    for (; each != NULL && *each != NULL; each++)
        if (!is_among(*each, others))
            ph_track_left(*each, self->heap.watch->arena, (uint64_t)(uintptr_t)self->heap.data, others);
}

/* Have those of a tuple told what becomes of blocks, which is kept; NULL: nobody. -1 with an exception set. */
static int set_told(struct heap_object *self, PyObject *told)
{
    const struct ph_watch *before = self->heap.watch;
    PyObject *old = self->told;
    struct ph_watch *watch = NULL;

    if (told != NULL && PyTuple_Size(told) != 0 && (watch = make_watch(told, self->origin >> PH_ARENA_SHIFT)) == NULL)
        return -1;
    leave_trackers(self, watch == NULL ? NULL : watch->trackers);
    self->told = Py_XNewRef(told);
    self->heap.watch = watch;
    PyMem_Free((void *)before);
    Py_XDECREF(old);
    return 0;
}

void ph_write_records(struct heap_object *self, int all)
{
    PyObject *told = Py_XNewRef(self->told); /* others may put layers on and take them off meanwhile */

    for (Py_ssize_t i = 0; told != NULL && i < PyTuple_Size(told); i++)
        if (ph_is_record(PyTuple_GetItem(told, i)))
            (all ? ph_record_flush : ph_record_write)(PyTuple_GetItem(told, i));
    Py_XDECREF(told);
}

void ph_end_watch(struct heap_object *self)
{
    leave_trackers(self, NULL);
    ph_write_records(self, 1);
}

static void mark_installed(PyObject *upstreams, int is_installed)
{
    for (Py_ssize_t i = 0; upstreams != NULL && i < PyTuple_Size(upstreams); i++)
        upstream_at(upstreams, i)->is_installed = (char)is_installed;
}

/* Lead each of a tuple to the next; the first one that answers calls. */
static struct upstream *link_all(PyObject *upstreams)
{
    struct upstream *next = NULL, *top = NULL;

    for (Py_ssize_t i = PyTuple_Size(upstreams); i-- > 0;) {
        struct upstream *one = upstream_at(upstreams, i), *old = one->next;
        Py_XINCREF((PyObject *)next);
        one->next = next;
        Py_XDECREF((PyObject *)old);
        next = one;
        top = one->has ? one : top;
    }
    return top;
}

PyObject *ph_set_layers(PyObject *heap, PyObject *tuples)
{
    struct heap_object *self = (struct heap_object *)heap;
    PyObject *upstreams, *told, *old = self->upstreams;

    if (!PyArg_ParseTuple(tuples, "O!O!", &PyTuple_Type, &upstreams, &PyTuple_Type, &told)
        || !are_upstreams(upstreams) || !are_watchers(told) || set_told(self, told) < 0)
        return NULL;
    mark_installed(old, 0);
    mark_installed(upstreams, 1);
    self->top = link_all(upstreams);
    self->upstreams = Py_NewRef(upstreams);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

void ph_forget_layers(struct heap_object *self)
{
    (void)set_told(self, NULL);
    mark_installed(self->upstreams, 0);
    self->top = NULL;
    Py_CLEAR(self->upstreams);
}

/* Find the call of a name in one of the tables. */
static const PyMethodDef *find_own(const PyMethodDef *const *tables, const char *name)
{
    for (; *tables != NULL; tables++)
        for (const PyMethodDef *one = *tables; one->ml_name != NULL; one++)
            if (strcmp(one->ml_name, name) == 0)
                return one;
    return NULL;
}

int ph_add_layer_types(PyObject *module, const PyMethodDef *const *own_tables)
{
    for (int call = 0; call < PH_CALLS; call++) {
        own[call] = find_own(own_tables, names[call]);
        PH_ASSERT(own[call] != NULL);
        if ((interned[call] = PyUnicode_InternFromString(names[call])) == NULL)
            return -1;
    }
    if (ph_add_count_type(module) < 0 || ph_add_record_type(module) < 0 || ph_add_track_type(module) < 0
        || ph_add_type(module, "Upstream", &upstream_spec) < 0)
        return -1;
    upstream_type = (PyTypeObject *)PyObject_GetAttrString(module, "Upstream");
    return upstream_type == NULL ? -1 : 0;
}
