/* py/tracing.c -- the two functions of tracemalloc for memory of extensions. They are public, and not of the limited API, so they
 * are looked up when they are first asked for; an interpreter may be without them. Neither runs Python. */
#define _GNU_SOURCE
#include "py/tracing.h"

#include <dlfcn.h>

#include "base/format.h"

static int (*trace)(unsigned int domain, uintptr_t address, size_t size);
static int (*untrace)(unsigned int domain, uintptr_t address);

int ph_can_trace(void)
{
    static int is_looked_up;

    if (!is_looked_up) {
        *(void **)&trace = dlsym(RTLD_DEFAULT, "PyTraceMalloc_Track");
        *(void **)&untrace = dlsym(RTLD_DEFAULT, "PyTraceMalloc_Untrack");
        is_looked_up = 1;
    }
    return trace != NULL && untrace != NULL;
}

int ph_trace(uint64_t address, uint64_t size)
{
    return trace(PH_TRACK_DOMAIN, (uintptr_t)address, (size_t)size) == 0;
}

void ph_untrace(uint64_t address)
{
    (void)untrace(PH_TRACK_DOMAIN, (uintptr_t)address);
}
