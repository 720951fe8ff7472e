/* os/tape.h -- the hooks that stores to persistent bytes pass. core.h has the rest of the tape: this part cffi cannot read.
 *
 * Without a tape a hook costs one load and a branch that is never taken.
 */
#pragma once
#include "os/os.h"

#include <string.h>

/* ph_tape -- the tape that this copy of the core tells what it does; NULL = none. */
extern struct ph_tape *ph_tape;

/* ph_tape_on -- whether the next change is to be told. */
static inline int ph_tape_on(void)
{
    return __builtin_expect(ph_tape != NULL, 0);
}

/* ph_put -- store any number of bytes that may be persistent, in this order with all stores before and after it. */
static inline void ph_put(void *to, const void *from, uint64_t length)
{
    if (ph_tape_on())
        ph_tape_store(to, from, length);
    memmove(to, from, (size_t)length); /* `from` may be a view of the same block */
    __asm__ volatile("" : : : "memory");
}

/* ph_put_word -- the same of one word, which others see whole, behind all that was stored before. */
static inline void ph_put_word(uint64_t *at, uint64_t word)
{
    if (ph_tape_on())
        ph_tape_store(at, &word, sizeof word);
    __atomic_store_n(at, word, __ATOMIC_RELEASE);
}
