/* space/spans.c -- the pool: free ranges of up to 63 units in exact bins, longer ones in the last bin.
 *
 * Best fit, lowest address first: a bit mask finds the tightest bin with something in it, a pairing heap
 * ordered by address the lowest range of that bin. Neighbours merge at once through the records at both ends
 * of a range. Units that were never used are not in the bins: they are the wilderness [wilderness, wilderness_end), and
 * are touched only when no used range is long enough (Wilson et al. 1995, section 3.5). */
#include "space/space.h"

static uint32_t pair_meld(struct ph_heap *h, uint32_t a, uint32_t b)
{
    if (a == PH_NIL)
        return b;
    if (b == PH_NIL)
        return a;
    if (ph_unit_index(h, b) < ph_unit_index(h, a)) {
        uint32_t swap = a;
        a = b;
        b = swap;
    }
    struct ph_unit *top = ph_unit_at(h, a), *under = ph_unit_at(h, b);
    under->sibling = top->child;
    if (top->child != PH_NIL)
        ph_unit_at(h, top->child)->prev = b;
    under->prev = a;
    top->child = b;
    return a;
}

/* Two passes over a list of siblings: meld pairs left to right, then all of them right to left. */
static uint32_t pair_combine(struct ph_heap *h, uint32_t first)
{
    uint32_t done = PH_NIL; /* melded pairs, last one first, linked by `prev` */
    while (first != PH_NIL) {
        uint32_t a = first, b = ph_unit_at(h, a)->sibling;
        first = b == PH_NIL ? PH_NIL : ph_unit_at(h, b)->sibling;
        ph_unit_at(h, a)->sibling = PH_NIL;
        if (b != PH_NIL)
            ph_unit_at(h, b)->sibling = PH_NIL;
        uint32_t pair = pair_meld(h, a, b);
        ph_unit_at(h, pair)->prev = done;
        done = pair;
    }
    uint32_t root = PH_NIL;
    while (done != PH_NIL) {
        uint32_t next = ph_unit_at(h, done)->prev;
        root = pair_meld(h, root, done);
        done = next;
    }
    if (root != PH_NIL)
        ph_unit_at(h, root)->prev = PH_NIL;
    return root;
}

void ph_pair_insert(struct ph_heap *h, uint32_t *root, uint64_t unit)
{
    struct ph_unit *node = &h->units[unit];
    node->child = node->sibling = node->prev = PH_NIL;
    *root = pair_meld(h, *root, (uint32_t)unit);
}

void ph_pair_remove(struct ph_heap *h, uint32_t *root, uint64_t unit)
{
    struct ph_unit *node = &h->units[unit];
    uint32_t orphans = pair_combine(h, node->child);
    if (*root == (uint32_t)unit) {
        *root = orphans;
        return;
    }
    struct ph_unit *before = ph_unit_at(h, node->prev);
    if (before->child == (uint32_t)unit)
        before->child = node->sibling;
    else
        before->sibling = node->sibling;
    if (node->sibling != PH_NIL)
        ph_unit_at(h, node->sibling)->prev = node->prev;
    *root = pair_meld(h, *root, orphans);
}

/* ph_pair_next -- the node after `node` in a walk over all of a pairing heap, PH_NIL after the last. */
uint32_t ph_pair_next(const struct ph_heap *h, uint32_t root, uint32_t node)
{
    if (ph_unit_at(h, node)->child != PH_NIL)
        return ph_unit_at(h, node)->child;
    while (node != root && ph_unit_at(h, node)->sibling == PH_NIL) {
        uint32_t before = ph_unit_at(h, node)->prev; /* to the first of the siblings, then to their parent */
        while (ph_unit_at(h, before)->sibling == node) {
            node = before;
            before = ph_unit_at(h, node)->prev;
        }
        node = before;
    }
    return node == root ? PH_NIL : ph_unit_at(h, node)->sibling;
}

uint32_t ph_bin_of(uint64_t nunits)
{
    return (uint32_t)(nunits < PH_BINS ? nunits : PH_BINS) - 1;
}

static void bin_insert(struct ph_heap *h, uint64_t start, uint64_t nunits)
{
    PH_ASSERT(nunits != 0 && start >= h->first_unit && start + nunits <= h->end_unit);
    if (start <= h->scanned_to && h->scanned_to < start + nunits)
        h->scanned_to = start + nunits; /* merged over the edge of what was read: the rest is known as well now */
    uint32_t bin = ph_bin_of(nunits);
    h->units[start].state = PH_U_FREE;
    h->units[start].nunits = (uint32_t)nunits;
    if (nunits > 1) {
        h->units[start + nunits - 1].state = PH_U_FREE_LAST;
        h->units[start + nunits - 1].nunits = (uint32_t)nunits;
    }
    ph_pair_insert(h, &h->bins[bin], start);
    h->bin_mask |= 1ULL << bin;
    h->pool_free += nunits;
}

static void bin_remove(struct ph_heap *h, uint64_t start)
{
    uint64_t nunits = h->units[start].nunits;
    uint32_t bin = ph_bin_of(nunits);
    PH_ASSERT(h->units[start].state == PH_U_FREE && h->pool_free >= nunits);
    ph_pair_remove(h, &h->bins[bin], start);
    if (h->bins[bin] == PH_NIL)
        h->bin_mask &= ~(1ULL << bin);
    h->units[start].state = PH_U_OTHER;
    h->units[start + nunits - 1].state = PH_U_OTHER;
    h->pool_free -= nunits;
}

/* Free units of the pool directly in front of `unit`. */
uint64_t ph_pool_room_before(const struct ph_heap *h, uint64_t unit)
{
    if (unit == h->first_unit)
        return 0;
    const struct ph_unit *last = &h->units[unit - 1];
    if (last->state == PH_U_FREE)
        return 1;
    return last->state == PH_U_FREE_LAST ? last->nunits : 0;
}

/* Free units of the pool from `unit` on, the wilderness included. */
uint64_t ph_room_after(struct ph_heap *h, uint64_t unit)
{
    uint64_t room = 0;
    if (unit == h->end_unit)
        return 0;
    if (h->units[unit].state == PH_U_FREE)
        room = h->units[unit].nunits;
    return unit + room == h->wilderness ? room + h->wilderness_end - h->wilderness : room;
}

/* Take `nunits` from `unit` on: the caller has asked ph_room_after. */
void ph_pool_take_after(struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    PH_ASSERT(ph_room_after(h, unit) >= nunits);
    if (h->units[unit].state == PH_U_FREE) {
        uint64_t length = h->units[unit].nunits;
        bin_remove(h, unit);
        if (length > nunits)
            bin_insert(h, unit + nunits, length - nunits);
        if (length >= nunits)
            return;
        nunits -= length;
    }
    h->wilderness += nunits;
}

/* Take the `nunits` in front of `unit`: the caller has asked ph_pool_room_before. */
void ph_pool_take_before(struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    uint64_t length = ph_pool_room_before(h, unit);
    PH_ASSERT(length >= nunits);
    bin_remove(h, unit - length);
    if (length > nunits)
        bin_insert(h, unit - length, length - nunits);
}

int64_t ph_pool_take(struct ph_heap *h, uint64_t nunits)
{
    uint64_t fitting = h->bin_mask >> (nunits - 1);
    if (fitting == 0)
        return PH_H_REFILL;
    uint64_t start = ph_unit_index(h, h->bins[nunits - 1 + (uint64_t)__builtin_ctzll(fitting)]);
    ph_pool_take_after(h, start, nunits);
    return (int64_t)start;
}

/* From the wilderness, and from the free range that ends where it begins. */
int64_t ph_wilderness_take(struct ph_heap *h, uint64_t nunits)
{
    uint64_t before = h->wilderness > h->first_unit ? ph_pool_room_before(h, h->wilderness) : 0;
    if (before + (h->wilderness_end - h->wilderness) < nunits)
        return PH_H_REFILL;
    uint64_t start = h->wilderness - before;
    ph_pool_take_after(h, start, nunits);
    return (int64_t)start;
}

/* ph_wilderness_take_at -- the same from a multiple of `multiple` on; what was left out at both sides is free. */
int64_t ph_wilderness_take_at(struct ph_heap *h, uint64_t nunits, uint64_t multiple)
{
    int64_t start = ph_wilderness_take(h, nunits + multiple - 1);
    if (start < 0)
        return start;
    uint64_t before = (multiple - (uint64_t)start % multiple) % multiple, behind = multiple - 1 - before;
    uint64_t unit = (uint64_t)start + before;
    if (before != 0)
        ph_pool_give(h, unit - before, before);
    if (behind != 0)
        ph_pool_give(h, unit + nunits, behind);
    return (int64_t)unit;
}

/* ph_wilderness_take_growing -- the same for a block that has just outgrown its place and may do so again: at the
 * edge of the wilderness, behind a hole that other blocks may have, so that it can go on growing in place. */
int64_t ph_wilderness_take_growing(struct ph_heap *h, uint64_t nunits)
{
    uint64_t hole = nunits / 2;
    if (h->wilderness_end - h->wilderness < 2 * nunits + hole)
        return PH_H_REFILL;
    uint64_t start = h->wilderness + hole;
    uint64_t gap = h->wilderness;
    h->wilderness = start + nunits;
    if (hole)
        ph_pool_give(h, gap, hole);
    return (int64_t)start;
}

/* ph_pool_give -- put a range back; neighbours merge. */
void ph_pool_give(struct ph_heap *h, uint64_t start, uint64_t nunits)
{
    uint64_t before = ph_pool_room_before(h, start);
    uint64_t end = start + nunits;
    uint64_t after = end < h->end_unit && h->units[end].state == PH_U_FREE ? h->units[end].nunits : 0;
    if (before)
        bin_remove(h, start - before);
    if (after)
        bin_remove(h, end);
    bin_insert(h, start - before, before + nunits + after);
}

/* ph_wilderness_give -- never used units for the pool. Where they begin at its end the wilderness becomes longer. */
void ph_wilderness_give(struct ph_heap *h, uint64_t start, uint64_t nunits)
{
    if (h->wilderness == h->wilderness_end)
        h->wilderness = h->wilderness_end = start;
    if (h->wilderness_end != start) { /* a new wilderness: what is left of the old one becomes ordinary */
        uint64_t old = h->wilderness, length = h->wilderness_end - h->wilderness;
        h->wilderness = h->wilderness_end = start;
        ph_pool_give(h, old, length);
    }
    h->wilderness_end += nunits;
}

/* ph_pool_take_range -- take a whole free range out of the pool, by its first unit, or the wilderness. */
void ph_pool_take_range(struct ph_heap *h, uint64_t start)
{
    if (start == h->wilderness && h->units[start].state != PH_U_FREE)
        h->wilderness = h->wilderness_end;
    else
        bin_remove(h, start);
}

/* ph_pool_longest -- units of the longest free range; looks at each range of the last bin. */
uint64_t ph_pool_longest(const struct ph_heap *h)
{
    uint64_t longest = h->wilderness_end - h->wilderness;
    if (h->bin_mask == 0)
        return longest;
    uint32_t bin = 63 - (uint32_t)__builtin_clzll(h->bin_mask);
    for (uint32_t node = h->bins[bin]; node != PH_NIL; node = ph_pair_next(h, h->bins[bin], node)) {
        if (ph_unit_at(h, node)->nunits > longest)
            longest = ph_unit_at(h, node)->nunits;
        if (bin < PH_BINS - 1)
            break; /* all of this bin are of one length */
    }
    return longest;
}

/* ph_pool_next -- the next free range; 0 at the end. A walk begins with bin 0 and node PH_NIL, and nothing is taken or
 * given meanwhile. */
int ph_pool_next(const struct ph_heap *h, uint32_t *bin, uint32_t *node, uint64_t *start, uint64_t *nunits)
{
    if (*node != PH_NIL) {
        *node = ph_pair_next(h, h->bins[*bin], *node);
        *bin += *node == PH_NIL;
    }
    while (*node == PH_NIL && *bin < PH_BINS) {
        *node = h->bins[*bin];
        *bin += *node == PH_NIL;
    }
    if (*node == PH_NIL)
        return 0;
    *start = ph_unit_index(h, *node);
    *nunits = h->units[*start].nunits;
    return 1;
}

/* Take the span at `*link` out of the queue of returned ones. */
static uint64_t unlink_returned(struct ph_heap *h, uint32_t *link)
{
    uint64_t start = ph_unit_index(h, *link);
    struct ph_unit *unit = &h->units[start];
    *link = unit->sibling;
    h->returned_units -= unit->nunits;
    h->returned_count--;
    unit->state = PH_U_OTHER;
    return start;
}

/* ph_returned_take -- an extent of just `nunits` units among the last few that were freed, or PH_H_LARGE. */
int64_t ph_returned_take(struct ph_heap *h, uint64_t nunits)
{
    uint32_t *link = &h->returned;
    for (int looked = 0; *link != PH_NIL && looked < PH_RETURNED_LOOKED; looked++) {
        struct ph_unit *unit = ph_unit_at(h, *link);
        if (unit->nunits == nunits)
            return (int64_t)unlink_returned(h, link);
        link = &unit->sibling;
    }
    return PH_H_LARGE;
}

/* ph_returned_pop -- the extent that was freed last, for Python to take back. */
int ph_returned_pop(struct ph_heap *h, uint64_t *start, uint64_t *nunits)
{
    if (h->returned == PH_NIL)
        return 0;
    *nunits = ph_unit_at(h, h->returned)->nunits;
    *start = unlink_returned(h, &h->returned);
    return 1;
}
