/* base/checked.h -- what a checked core does besides: it asserts, counts, and a test may leave rules of recovery out.
 *
 * A core is checked if it was built with PH_CHECKED (setup.py: PMEMHEAP_CHECKED=1), as for the tests that need it and under
 * the sanitizers. In a release nothing of it is left. */
#pragma once
#include <stdint.h>

#include "base/codes.h"

#ifdef PH_CHECKED
/* ph_kept -- whether no test has left a rule out, to show that its absence is found. */
int ph_rule_is_kept(enum ph_rule rule);
void ph_omit(uint64_t rules);
_Noreturn void ph_assertion_failed(const char *what, const char *file, int line);
#define PH_KEPT(rule) ph_rule_is_kept(PH_##rule)
/* ph_resolutions -- how often an offset was resolved to its block. */
extern uint64_t ph_resolutions;
#define PH_RESOLVES() (ph_resolutions++)
#define PH_ASSERT(what) ((what) ? (void)0 : ph_assertion_failed(#what, __FILE__, __LINE__))
#else
#define PH_KEPT(rule) 1
#define PH_RESOLVES() ((void)0)
#define PH_ASSERT(what) ((void)0)
#endif
