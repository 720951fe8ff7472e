/* os/address_space.h -- the ranges of address space that this process keeps, and the headroom behind them. Knows no Python. */
#pragma once
#include "os/os.h"

#define PH_PAGE ((uint64_t)4096)
#define PH_NO_LIMIT UINT64_MAX

/* ph_range -- an owned part of the address space.
 *
 *     start             stop                end
 *       |  shown          |    headroom      |
 *       +-----------------+------------------+
 */
struct ph_range {
    uint64_t start, stop, end;
    uint64_t lent; /* headroom that a call under way has taken, and gives back if that does not help */
    int listed;
    struct ph_range *next, *previous;
};

struct ph_wish {
    uint64_t address;   /* 0: anywhere, with (start - skew) % alignment == 0 */
    uint64_t size;      /* whole pages, at least one */
    uint64_t headroom;  /* a wish: halved until it can be had */
    uint64_t alignment; /* a power of two, at least a page */
    uint64_t skew;      /* whole pages, below alignment */
};

/* Pre of all: the caller has the space (ph_enter of py/address_range.h). */

/* ph_leftovers -- ranges that have ended and are still to be unmapped, in a list by `next`.
 * ph_leave_over -- put a range there. ph_forget_leftover -- free one that has been unmapped. */
struct ph_range *ph_leftovers(void);
void ph_leave_over(struct ph_range *range);
void ph_forget_leftover(struct ph_range *range);
/* ph_range_make -- take what is wished for. `left` is what the process may still have: where less is left than is needed
 * the largest headrooms of others give way, if that can help. PH_NO_LIMIT: they do not.
 * Returns 0, -EEXIST (something else than headroom lies there) or -ENOMEM with nothing changed. */
int64_t ph_range_make(struct ph_range *range, const struct ph_wish *wish, uint64_t left);
/* ph_range_split -- make the first `length` bytes of a range, of which `shown` are shown, a range of its own: `part`.
 * Pre: whole pages; fewer than are shown; nothing is mapped there. */
void ph_range_split(struct ph_range *range, struct ph_range *part, uint64_t shown, uint64_t length);
/* ph_range_extend -- show `length` bytes more: headroom first, then what is free behind it or headroom of others. */
int64_t ph_range_extend(struct ph_range *range, uint64_t length, uint64_t left);
/* ph_range_cut_head, ph_range_cut_tail -- give shown bytes back; those of the tail become headroom if `keep`.
 * Pre: fewer than are shown. */
int64_t ph_range_cut_head(struct ph_range *range, uint64_t length);
int64_t ph_range_cut_tail(struct ph_range *range, uint64_t length, int keep);
/* ph_range_give_back -- give all of it back. It is no longer listed then. */
int64_t ph_range_give_back(struct ph_range *range);
