/* block/circle.c -- circles of chunks and large blocks: those of a region, or of a ring, in the order in which they came.
 *
 * By `sibling` to the next one, by `prev` back; the newest one is followed by the oldest. */
#include "block/block.h"

/* ph_circle_append -- what was made at a unit comes behind the newest one; `last`: PH_NIL if there is none. */
void ph_circle_append(struct ph_heap *h, uint32_t last, uint64_t unit)
{
    struct ph_unit *one = &h->units[unit];
    uint32_t number = (uint32_t)unit;
    one->sibling = last == PH_NIL ? number : ph_unit_at(h, last)->sibling;
    one->prev = last == PH_NIL ? number : last;
    ph_unit_at(h, one->sibling)->prev = number;
    ph_unit_at(h, one->prev)->sibling = number;
}

/* ph_circle_remove -- one goes. Of a region its newest one is behind its first, of a ring it is kept in mind. */
void ph_circle_remove(struct ph_heap *h, const struct ph_unit *one)
{
    if (h->strategy == PH_STRATEGY_RING && ph_unit_at(h, h->ring.last) == one)
        h->ring.last = one->prev == h->ring.last ? PH_NIL : one->prev;
    ph_unit_at(h, one->prev)->sibling = one->sibling;
    ph_unit_at(h, one->sibling)->prev = one->prev;
}
