/* base/checked.c -- see checked.h; empty in a release. */
#include "base/checked.h"

#ifdef PH_CHECKED
#include <stdio.h>
#include <stdlib.h>

uint64_t ph_resolutions;
static uint64_t omitted;

int ph_rule_is_kept(enum ph_rule rule)
{
    return !(omitted >> rule & 1);
}

void ph_omit(uint64_t rules)
{
    omitted = rules;
}

void ph_assertion_failed(const char *what, const char *file, int line)
{
    fprintf(stderr, "pmemheap: %s:%d: %s expected\n", file, line, what);
    abort();
}
#endif
