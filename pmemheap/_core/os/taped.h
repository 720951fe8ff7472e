/* os/taped.h -- a system call of which the tape of a test is told. */
#pragma once
#include "os/file_table.h"
#include "os/seam.h"
#include "os/tape.h"

/* Tell the tape of a call that changes a file, or makes a change durable: before it is made, and when it has been. */
static inline uint64_t before(int32_t fd, uint32_t kind)
{
    return ph_tape_on() ? ph_tape_begin(fd, kind) : 0;
}

static inline int64_t after(uint64_t mark, int64_t result, struct ph_tape_event event, const void *bytes)
{
    if (mark)
        ph_tape_end(mark, result, &event, bytes);
    return result;
}

static inline uint64_t before_range(uint64_t address, uint64_t length)
{
    return ph_tape_on() ? ph_tape_begin_range(address, length) : 0;
}

static inline int64_t after_range(uint64_t mark, int64_t result, uint32_t kind, uint64_t address, uint64_t length)
{
    if (mark)
        ph_tape_end_range(mark, result, kind, address, length);
    return result;
}

/* Tell the tape that nothing of its file is mapped in a range. */
static inline void unmapped(uint64_t address, uint64_t length)
{
    if (ph_tape_on())
        ph_tape_unmap(address, length);
}

/* The same, and the table of files. */
static inline int64_t all_unmapped(uint64_t address, uint64_t length)
{
    unmapped(address, length);
    ph_files_unmapped(address, length);
    return 0;
}
