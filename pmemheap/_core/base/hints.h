/* base/hints.h -- what the compiler is told: of branches, of calls that are rare, and of long copies. */
#pragma once

#include <stdint.h>
#include <string.h>

#define PH_LIKELY(x) __builtin_expect(!!(x), 1)
#define PH_UNLIKELY(x) __builtin_expect(!!(x), 0)
/* Of a function that is seldom called: it is not made part of its callers, which would save registers for it each time. */
#define PH_SELDOM __attribute__((cold, noinline))
/* Of what each malloc and free does: it is made part of its callers, however large the rest of the core grows. */
#define PH_INLINED static inline __attribute__((always_inline))

enum { PH_CACHE_LINE = 64 };

/* ph_fetch_to_store -- let the processor fetch lines that are stored to in a moment, all at once, while it does something else. */
static inline void ph_fetch_to_store(const uint8_t *at, size_t nbytes)
{
    for (size_t i = 0; i < nbytes; i += PH_CACHE_LINE)
        __builtin_prefetch(at + i, 1);
}

/* ph_copy_long -- memcpy as the library has it. Where the compiler knows a bound of the length it copies by itself, word by
 * word, which takes longer for some hundred bytes; so that bound is hidden. */
static inline void ph_copy_long(void *to, const void *from, size_t nbytes)
{
    __asm__("" : "+r"(nbytes));
    memcpy(to, from, nbytes);
}
