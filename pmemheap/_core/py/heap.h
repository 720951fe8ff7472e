/* py/heap.h -- the objects of the allocator: HeapCore and the exporter of a block's bytes. */
#pragma once
#include "py/types.h"

#include "arena/arena.h"

struct doors;
struct upstream;

struct heap_object {
    PyObject_HEAD
    struct ph_heap heap;
    PyObject *keep;        /* the address ranges of the tables and of the data */
    PyObject *starts;      /* bytes: `starts` of its size classes, which all heaps share */
    PyObject *log;         /* LogCore of a heap with transactions, which forgets this core before the core goes */
    uint64_t origin;       /* number of the arena << 55: what the offsets of its blocks begin with */
    uint64_t merge_at;     /* `returned_count` at which Python merges what was freed */
    int state;
    uint64_t own_views;    /* of the live views those through which only the package itself looks */
    uint64_t file;         /* number of its file in the table of files; 0: it has none */
    struct heap_object *next, **link; /* all heaps of this process: py/heap_list.c */
    struct doors *doors;   /* of this heap, if there are any; they do not keep it */
    PyObject *upstreams;   /* tuple of those of its layers, top first, or NULL */
    PyObject *told;        /* tuple of the CountCores, TrackCores and RecordCores that are told of its blocks, or NULL */
    struct upstream *top;  /* of `upstreams`, the first one whose layer answers calls; NULL: there is none */
    PyObject *weak_references;
};

/* An offset of the heap as one in this arena; beyond its end if the block lies in another arena. */
static inline uint64_t ph_inner(const struct heap_object *self, uint64_t offset)
{
    return offset ^ self->origin;
}

/* The reverse. */
static inline uint64_t ph_outer(const struct heap_object *self, uint64_t inner)
{
    return inner ^ self->origin;
}

/* A memoryview over `length` bytes of a block, which it pins; NULL with an exception set,
 * or with none where the block is none. */
PyObject *ph_block_view(struct heap_object *self, const struct ph_block *block, uint64_t length);

/* The same over a part of the block, which may be read-only. */
PyObject *ph_block_part(struct heap_object *self, const struct ph_block *block, uint64_t start, uint64_t length,
                        int readonly);

int ph_is_heap(PyObject *object);

/* ph_look -- look at the clock, and let Python give back and merge what is due; -1 with an exception set, 1 if the next block is to
 * be guarded. It may call Python. */
PH_SELDOM int ph_look(struct heap_object *self);

PH_SELDOM int ph_look_freeing(struct heap_object *self);

/* ph_tick -- one more call: every so many look at the clock. ph_tick_free -- one that is likely to free. */
static inline int ph_tick(struct heap_object *self)
{
    return __builtin_expect(--self->heap.until_look != 0, 1) ? 0 : ph_look(self);
}

static inline int ph_tick_free(struct heap_object *self)
{
    return __builtin_expect(--self->heap.until_free_look != 0, 1) ? 0 : ph_look_freeing(self);
}

/* ph_heap_enter, ph_heap_leave -- a heap comes into the list of all, and goes. ph_heap_watch -- look after them at forks
 * and when a file is lost; a negated errno if that cannot be. */
void ph_heap_enter(struct heap_object *self);
void ph_heap_leave(struct heap_object *self);
int64_t ph_heap_watch(void);

/* The public calls, and the same without layers; then the doors of the Python half, of which the last ones are empty in a
 * release. */
extern PyMethodDef ph_call_methods[], ph_batch_methods[], ph_own_call_methods[], ph_own_batch_methods[], ph_strategy_methods[];
extern PyMethodDef ph_guard_methods[], ph_control_methods[], ph_unit_methods[], ph_block_methods[], ph_count_methods[], ph_step_methods[], ph_strategy_doors[],
    ph_placed_doors[];
extern PyGetSetDef ph_door_fields[];
int ph_add_block_bytes_type(PyObject *module);
int ph_add_region_type(PyObject *module);

/* ph_class_starts -- class_starts(sizes, units), a function of the module.
 * ph_add_doors_type -- the type of the doors to the methods of some tables, over the type of heaps, with attributes of its own.
 * ph_close_doors -- the heap goes.
 * ph_heap_behind -- the heap to which doors lead (borrowed); NULL with an exception set if they are none, or lead nowhere.
 * ph_heap_if_there -- the same without an exception. ph_seen_behind -- to look at: one that is closed and empty if they lead
 * nowhere. */
PyObject *ph_class_starts(PyObject *module, PyObject *arguments);
int ph_add_doors_type(PyObject *module, PyTypeObject *core, PyMethodDef *const *tables, PyGetSetDef *fields);
void ph_close_doors(struct heap_object *heap);
struct heap_object *ph_heap_behind(PyObject *object);
struct heap_object *ph_heap_if_there(PyObject *object);
const struct heap_object *ph_seen_behind(PyObject *object);
