/* block/idle.c -- runs and chunks without a block, and rows that are not in use: which of them may go. */
#include "block/block.h"

/* Whether what stands at a unit was such a run or chunk, and has gone. */
static int release_idle(struct ph_heap *h, uint64_t head)
{
    struct ph_unit *record = &h->units[head];
    if (record->state == PH_U_PACKED && ph_chunk_is_idle(record) && ph_chunk_may_go(h)) {
        ph_chunk_give_back(h, record);
        return 1;
    }
    if (record->state != PH_U_RUN || ph_run_occupied(record) != 0 || h->classes[record->class_index].current == (uint32_t)head
        || !ph_run_may_go(h))
        return 0;
    ph_run_end(h, head);
    return 1;
}

/* ph_release_idle_runs -- give back the runs and chunks without a block that were read while they could not be: nothing was to be
 * changed then, or one block of its unit was asked for. 1 if there was one. O(units), once after they were read. */
int ph_release_idle_runs(struct ph_heap *h)
{
    int released = 0;
    if (!h->idle_runs || h->readonly)
        return 0;
    h->idle_runs = 0;
    for (uint64_t head = h->first_unit; head < h->end_unit; head++)
        released |= release_idle(h, head);
    return released;
}

/* ph_rows_key -- what stands for the whole table in the table of refs: no block begins at such an offset. */
uint64_t ph_rows_key(const struct ph_heap *h)
{
    return h->rows_first << PH_UNIT_SHIFT | 1;
}

/* ph_rows_are_viewed -- whether somebody looks at the whole table. */
int ph_rows_are_viewed(const struct ph_heap *h)
{
    return ph_refs_find(h, ph_rows_key(h)) != NULL;
}

/* ph_rows_cut -- the runs at the end of a table in which no row is in use go, unless somebody looks at the whole of it. */
void ph_rows_cut(struct ph_heap *h)
{
    for (struct ph_gap table; (table = ph_rows_range(h)).nunits != 0 && !ph_rows_are_viewed(h);) {
        uint64_t head = table.start + table.nunits - h->classes[0].run_units;
        if (h->units[head].state != PH_U_RUN || ph_run_occupied(&h->units[head]) != 0 || h->readonly
            || ph_journal_reserve(h, 2, 0) < 0)
            return;
        ph_run_end(h, head);
        h->rows_end = head;
    }
}
