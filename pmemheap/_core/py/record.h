/* py/record.h -- RecordCore: a trace of what becomes of blocks, of a heap or of what a Record wraps, and the file that it goes to. */
#pragma once
#include "py/types.h"

#include "base/recorder.h"

int ph_add_record_type(PyObject *module);
int ph_is_record(PyObject *object);
struct ph_recorder *ph_recorder_of(PyObject *record);

/* ph_record_write -- write the frames that are full; it may let the GIL go. A failure is noted and ends the trace.
 * ph_record_flush -- the same of all that was recorded so far. */
void ph_record_write(PyObject *record);
void ph_record_flush(PyObject *record);
