/* os/tape_record.h -- what a tape records. The caller has the lock of the tape. */
#pragma once
#include "os/os.h"

#define PAGE 4096u
#define LINE 64u

/* ph_tape_grown -- room for `wanted` elements of `size` bytes; NULL and an error on the tape if there is none. */
void *ph_tape_grown(struct ph_tape *t, void *old, uint64_t *room, uint64_t wanted, size_t size);
/* ph_tape_append -- one more event, of this step, with its bytes or NULL.
 * ph_tape_change -- the same of an event that changes the file: the copy is changed as well.
 * ph_tape_look_around -- find what nobody told: another size, other bytes. */
void ph_tape_append(struct ph_tape *t, const struct ph_tape_event *event, const void *bytes);
void ph_tape_change(struct ph_tape *t, const struct ph_tape_event *event, const void *bytes);
void ph_tape_look_around(struct ph_tape *t);
/* ph_tape_take_copy -- begin with a copy of the file as it is. */
void ph_tape_take_copy(struct ph_tape *t, uint64_t size);
