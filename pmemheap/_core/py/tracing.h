/* py/tracing.h -- tracemalloc: blocks that stand in its snapshots beside those of Python, in a domain of their own. */
#pragma once
#include "py/types.h"

/* ph_can_trace -- whether this Python has what it takes. ph_trace -- a block is there, made where the caller stands, or has another
 * size; whether it is traced now: only while tracemalloc runs, and where it has memory for it. ph_untrace -- it is gone. */
int ph_can_trace(void);
int ph_trace(uint64_t address, uint64_t size);
void ph_untrace(uint64_t address);
