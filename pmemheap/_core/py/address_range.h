/* py/address_range.h -- the objects that keep addresses: AddressRange, Exporter, and what Places knows of both. */
#pragma once
#include "py/types.h"
#include "os/address_space.h"

struct address_range {
    PyObject_HEAD
    struct ph_range *range;
    Py_ssize_t exporters;
    PyObject *weak_references;
};

enum exporter_state {
    EXPORTER_NEW,     /* without memory */
    EXPORTER_OPEN,
    EXPORTER_CLOSING, /* its memory is being unmapped: the outcome is known when the space is free */
    EXPORTER_CLOSED,
};

struct exporter {
    PyObject_HEAD
    char *address;
    Py_ssize_t length;
    int readonly;
    int state; /* enum exporter_state */
    unsigned era; /* of CLOSING: in a later one nobody is at it */
    Py_ssize_t exports;
    PyObject *keep;
};

/* ph_enter, ph_leave -- have the address space of the process to oneself. What these files know changes under the GIL
 * and between the two; so a call may give the GIL up for a system call in between, and who wants the space meanwhile
 * waits without the GIL. Until ph_leave nothing of Python's may be allocated, released or raised: a finalizer could come
 * back. A fork does not wait: the child has the space, and what another thread was about when it forked is either not
 * begun there, or to be done again. */
void ph_enter(void);
void ph_leave(void);
/* ph_era -- counts the forks that led to this process. */
unsigned ph_era(void);
/* ph_start_eras -- let forks be counted. Returns 0 or a negated errno. */
int ph_start_eras(void);

int ph_is_address_range(PyObject *object);
int ph_is_exporter(PyObject *object);
/* ph_memory_view -- a read-only memoryview of bytes that are there for as long as `keep` lives. */
PyObject *ph_memory_view(const void *bytes, uint64_t length, PyObject *keep);
/* ph_address_range_pin -- count (change +1) or discount (-1) an exporter on an address range, which is not given back while there are
 * any. Does nothing for an object of another type. */
void ph_address_range_pin(PyObject *object, Py_ssize_t change);
