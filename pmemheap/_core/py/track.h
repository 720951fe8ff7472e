/* py/track.h -- TrackCore: the blocks that live and where they were made, of a heap or of what a Track wraps. */
#pragma once
#include "py/types.h"

#include "base/tracker.h"

int ph_add_track_type(PyObject *module);
int ph_is_track(PyObject *object);
struct ph_tracker *ph_tracker_of(PyObject *track);
