/* os/seam.h -- the one way to make a system call: it is counted, and refused if a test wants that. */
#pragma once
#include "os/os.h"

#include <errno.h>

#define PH_PLACEHOLDER (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
#define PH_LARGEST_TRANSFER ((uint64_t)1 << 30)

/* ph_refusal -- count a call; 0 to make it, or the negated errno that it is to fail with.
 * ph_allowance -- how much of `length` the next transfer may ask for. */
int64_t ph_refusal(enum ph_call call);
uint64_t ph_allowance(enum ph_call call, uint64_t length);

static inline int64_t ph_outcome(int64_t result)
{
    return result == -1 ? -(int64_t)errno : result;
}

static inline void *ph_pointer(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

#define PH_CALL(call, expression)                      \
    __extension__({                                 \
        int64_t result_;                            \
        do {                                        \
            result_ = ph_refusal(call);                \
            if (result_ == 0)                       \
                result_ = ph_outcome((int64_t)(expression)); \
        } while (result_ == -EINTR);                \
        result_;                                    \
    })
