/* py/counters.h -- CountCore: counters of what becomes of blocks, of a heap or of what a Count wraps. */
#pragma once
#include "py/types.h"

#include "base/heap.h"

extern PyTypeObject *ph_count_type;
int ph_add_count_type(PyObject *module);
struct ph_counters *ph_counters_of(PyObject *count);
