/* py/map.h -- MapCore, for its iterators. */
#pragma once
#include "py/log.h"
#include "map/map.h"

struct map_object {
    PyObject_HEAD
    struct ph_map map;
    PyObject *space;    /* HeapCore in which it lies */
    PyObject *pin;      /* of the snapshot that it shows, which views keep; NULL: it is the map as it is now */
    PyObject *pins;     /* Pins of a heap that another process changes: it is the map as of the last commit; NULL */
    PyObject *root;     /* bytes: the name of its root, for that */
    uint64_t sequence;  /* of the commit whose root `map` has, for that */
    PyObject *skip;     /* tells whether the iterators that ask for it leave a key out; NULL: all keys are there */
    struct ph_tx alone; /* of changes outside of a transaction */
    char may_be_alone;  /* they commit as C can commit alone */
    uint64_t made_in, made_at; /* the transaction, and its rollbacks so far, that has made it; 0: it is committed */
};

/* A key or a value that was handed in. */
struct bytes_in {
    const void *at;
    uint64_t length;
    Py_buffer buffer;
};

static inline struct map_object *ph_map_of(PyObject *object)
{
    return (struct map_object *)object;
}

static inline int is_bytes_like(PyObject *object)
{
    return PyBytes_Check(object) || PyObject_CheckBuffer(object);
}

static inline struct heap_object *ph_space_of(const struct map_object *self)
{
    return (struct heap_object *)self->space;
}

static inline struct log_object *ph_log_of(const struct map_object *self)
{
    return (struct log_object *)ph_space_of(self)->log;
}

/* ph_read_bytes -- the bytes of an argument, to be released; -1 with an exception set. It may call Python. */
int ph_read_bytes(PyObject *object, const char *what, struct bytes_in *in);
void ph_release_bytes(struct bytes_in *in);
/* ph_map_refuse -- let Python raise what a code means; NULL. */
PyObject *ph_map_refuse(PyObject *map, int64_t code);
/* ph_map_look -- see what this thread is to see; 0, or -1 with an exception set. It may call Python. */
int ph_map_look(PyObject *map);
/* ph_map_confirm -- a map that was made in a transaction is there for this thread, until the transaction is taken back;
 * for others it is when it is committed. Python knows the roots. -1 with an exception set.
 * ph_map_note_maker -- it was made in the open transaction of this thread, if there is one. */
int ph_map_confirm(PyObject *map);
void ph_map_note_maker(struct map_object *self);
/* ph_map_begin_looking -- once, before the first look; -1 with an exception set. */
int ph_map_begin_looking(void);
/* ph_map_kept -- `result`, of what was read since ph_map_look; -1 with an exception set if it is not what the heap has
 * stored: its file was cut meanwhile. */
int ph_map_kept(PyObject *map, int result);
/* ph_map_tables -- after PH_M_UNMAPPED: map the tables. 0: look again; -1 with an exception set. */
int ph_map_tables(PyObject *map);
/* ph_map_bytes -- a copy of a value. */
PyObject *ph_map_bytes(const struct ph_map *map, const struct ph_map_value *value);

/* Beside a writer in another process:
 * ph_map_last -- look a key up as of the last commit. 1: there is one, and `value`, unless it is NULL, has a copy of it; 0: there
 * is none; PH_M_UNSEEN: a snapshot has to be asked; -1 with an exception set.
 * ph_map_read -- the map that a call reads: itself, or one of a new snapshot. NULL with an exception set. */
enum { PH_M_UNSEEN = 2 };
int ph_map_last(PyObject *map, PyObject *key, PyObject **value);
PyObject *ph_map_read(PyObject *map);

/* map._iterate(low, high, back, what, skips): an iterator over keys, values or items. */
PyObject *ph_map_iterate(PyObject *map, PyObject *const *args, Py_ssize_t count);
int ph_add_map_iterator_type(PyObject *module);

/* For changes of a key that is no bytes: it is not there, if the map can be looked at. 0 or PH_M_RAISED. */
int64_t ph_map_find_none(PyObject *object);

/* The slots of a mapping; the methods by what they do. */
PyObject *ph_map_subscript(PyObject *object, PyObject *key);
int ph_map_assign(PyObject *object, PyObject *key, PyObject *value);
int ph_map_contains(PyObject *object, PyObject *key);
Py_ssize_t ph_map_length(PyObject *object);
extern PyMethodDef ph_map_read_methods[], ph_map_change_methods[];
