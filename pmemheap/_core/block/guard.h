/* block/guard.h -- guarded blocks: alone in a chunk, between fences or canaries. */
#pragma once
#include "base/guard.h"
#include "block/block.h"
#include "os/fences.h"

enum {
    PH_GUARD_PROTECTED_MOST = 256, /* guarded blocks at once where each fence is a map of its own */
    PH_GUARD_ZONE = 64,            /* bytes of a canary beside a block without fences, at least */
    PH_CANARY = 0xCA,
};

/* ph_guard_begin -- from now on one block in `every` is guarded, in the way of the other fields, which the caller has set.
 * ph_guard_due -- at a look: whether the next block is to be guarded; if not, when to look again.
 * ph_guard_draw -- when the one after that is due. */
void ph_guard_begin(struct ph_heap *h, uint64_t every);
int ph_guard_due(struct ph_heap *h);
void ph_guard_draw(struct ph_heap *h);

/* ph_guard_malloc -- a guarded block. PH_H_REFILL: the pool lacks a range of `*nunits` units; PH_H_LARGE: it is too large for one, or
 * too many live; PH_H_NOMEM: the system refuses. Nothing has changed. */
int64_t ph_guard_malloc(struct ph_heap *h, uint64_t size, uint64_t align, uint64_t *nunits);

/* ph_guard_let_go -- the freed ones that are fenced become free; whether there were any.
 * ph_guard_forget -- the arena goes, with its memory. */
int ph_guard_let_go(struct ph_heap *h);
void ph_guard_forget(struct ph_heap *h);

/* ph_guarded_at -- the guarded block, live or freed, in whose units an offset lies; NULL. */
struct ph_guarded *ph_guarded_at(const struct ph_heap *h, uint64_t offset);

/* ph_guard_damage -- the address of a byte beside a live one that was overwritten; 0. ph_guard_renew -- forget of it. */
uint64_t ph_guard_damage(const struct ph_guarded *one);
void ph_guard_renew(const struct ph_guarded *one);
/* ph_guard_refusal -- PH_H_DAMAGED for a block of which that is so, else 0. */
int ph_guard_refusal(const struct ph_block *block);

/* ph_block_usable -- bytes of a block that are the user's: of a guarded one those that were asked for. */
PH_SELDOM uint64_t ph_guarded_usable(const struct ph_block *block);
static inline uint64_t ph_block_usable(const struct ph_block *block)
{
    if (PH_UNLIKELY(ph_is_packed(block) && block->record->class_index == PH_IN_GUARD))
        return ph_guarded_usable(block);
    return ph_block_capacity(block);
}
