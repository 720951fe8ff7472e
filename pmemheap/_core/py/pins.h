/* py/pins.h -- Pins and Pin, for snapshots. */
#pragma once
#include "py/types.h"

/* How many snapshots and views of this process need an era. */
struct pinned_era {
    uint64_t era, count;
};

struct pins_object {
    PyObject_HEAD
    struct ph_log *log;      /* of the writer that this process is; NULL */
    uint64_t file;           /* number of the file whose locks tell other processes; 0: nobody has to know */
    uint64_t process;
    const uint8_t *header;   /* mapped header of the heap; NULL: nobody changes it */
    uint64_t layout;         /* number of the segments and arenas that are mapped; PH_ANY_LAYOUT: always all */
    struct pinned_era *eras; /* in order */
    uint32_t used, room;
};

struct pin_object {
    PyObject_HEAD
    struct pins_object *pins;
    uint64_t era;
    PyObject *keep;
};

#define PH_ANY_LAYOUT UINT64_MAX

int ph_is_pins(PyObject *object);
int ph_is_pin(PyObject *object);
/* ph_pin_era -- a pin of an era; NULL: `failed` is a negated errno, or there is an exception if it is 0. */
struct pin_object *ph_pin_era(struct pins_object *pins, uint64_t era, PyObject *keep, int64_t *failed);
/* ph_era_now -- the era that is now; 0: nobody changes the heap. */
uint64_t ph_era_now(const struct pins_object *pins);
/* ph_is_mapped -- whether what commits lead to is mapped. A layout is as new as the commits that were captured before it was
 * read [Q14]. */
int ph_is_mapped(const struct pins_object *pins);
/* ph_is_last -- whether no later commit than one that was captured is there: the next one may be half done, as long as it is not
 * that of a new writer, who makes the number of the layout odd before he changes anything. */
int ph_is_last(const struct pins_object *pins, uint64_t sequence);
int ph_add_pins_types(PyObject *module);
int ph_add_snapshot_type(PyObject *module);
