/* os/taking_over.c -- what takes the place of a map in a forked child, and of pages that a file has lost.
 *
 * All of it may be called in a signal handler, and in a child before any code of the child. */
#define _GNU_SOURCE
#include "os/seam.h"

#include <sys/mman.h>

int64_t ph_map_privately(int32_t fd, uint64_t offset, uint64_t address, uint64_t length)
{
    int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE; /* all of a heap would be too much to be promised */

    return PH_CALL(PH_CALL_MMAP, mmap(ph_pointer(address), length, PROT_READ | PROT_WRITE, flags, fd, (off_t)offset)) < 0 ? -1 : 0;
}

int64_t ph_forbid(uint64_t address, uint64_t length)
{
    if (mmap(ph_pointer(address), length, PROT_NONE, PH_PLACEHOLDER | MAP_FIXED, -1, 0) != MAP_FAILED)
        return 0;
    return ph_outcome(mprotect(ph_pointer(address), length, PROT_NONE));
}

int64_t ph_map_zeros(uint64_t address, uint64_t length)
{
    void *got = mmap(ph_pointer(address), length, PROT_READ | PROT_WRITE, PH_PLACEHOLDER | MAP_FIXED, -1, 0);

    return got == MAP_FAILED ? -errno : 0;
}
