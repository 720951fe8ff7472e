/* py/guard.h -- guarded blocks, as far as Python has to do with them. */
#pragma once
#include "py/heap.h"

/* ph_guarded -- a guarded block for a call of malloc; NULL with no exception set: the call goes on as ever. `align`: NULL if none
 * was given. ph_end_guard -- the heap goes. */
PH_SELDOM PyObject *ph_guarded(PyObject *heap, PyObject *size, PyObject *align);
void ph_end_guard(struct heap_object *self);
