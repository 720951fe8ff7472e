/* base/hints.h -- what the compiler is told of branches. */
#pragma once

#define PH_LIKELY(x) __builtin_expect(!!(x), 1)
#define PH_UNLIKELY(x) __builtin_expect(!!(x), 0)
