/* os/fences.h -- pages that nobody may reach, and what is said when somebody does: os/fences.c. */
#pragma once
#include <stdint.h>

enum ph_guard_state {
    PH_G_NONE = 0,
    PH_G_LIVE,  /* fenced on both sides, or between canaries */
    PH_G_FREED, /* fenced as a whole */
};

/* ph_guarded -- a guarded block, as a handler of faults has to know it: by addresses. */
struct ph_guarded {
    struct ph_guarded *next; /* the owner's */
    uint64_t start, stop;    /* of its units */
    uint64_t low, high;      /* of what lies between its fences */
    uint64_t address, size;  /* of the block, as asked for */
    uint64_t offset;         /* as users have it */
    uint32_t state;          /* enum ph_guard_state */
    uint32_t has_fences;     /* else canaries alone */
    uint32_t number;         /* of the slot, the owner's */
    char made_by[512], freed_by[512]; /* file:line; empty: not known */
};

/* ph_fence_pages -- let nobody reach pages of private memory, whose bytes go; a negated errno. `by_protection`: whether that is done by
 * mprotect, each range of which is a map of its own; it becomes so where the system has no other way.
 * ph_unfence_pages -- the reverse: the pages read zero. Where it fails, the fence stays. */
int64_t ph_fence_pages(uint64_t address, uint64_t length, uint32_t *by_protection);
int64_t ph_unfence_pages(uint64_t address, uint64_t length, uint32_t by_protection);

/* ph_guarded_take -- a row of the table of guarded blocks, all zero, or NULL; ph_guarded_give -- it is not needed any more. The caller
 * has the GIL. ph_guarded_watch -- have faults told, from now on. */
struct ph_guarded *ph_guarded_take(void);
void ph_guarded_give(struct ph_guarded *one);
void ph_guarded_watch(void);
