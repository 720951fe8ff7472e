/* block/idle.c -- runs and chunks without a block, and rows that are not in use: which of them may go. */
#include "block/block.h"

/* Whether a chunk is the first one of a region that is none any more: it goes last, or what names it would be one of the next
 * region that begins there. */
static int is_first_of_gone(const struct ph_heap *h, uint64_t head)
{
    return h->units[head].class_index == PH_IN_REGION_GONE && h->entries[head].flags == PH_CHUNK_FIRST;
}

/* The first chunks of regions that are none any more go, once there are no others of them, and none to be read. */
static int release_firsts(struct ph_heap *h)
{
    int released = 0, all_read = h->scanned_to >= h->end_unit;
    for (uint64_t head = h->first_unit; head < h->end_unit; head++)
        if (h->units[head].state == PH_U_PACKED && is_first_of_gone(h, head)) {
            released |= all_read && ph_chunk_let_go(h, &h->units[head]) > 0;
            h->idle_runs |= !all_read;
        }
    return released;
}

/* Whether what stands at a unit was such a run, and has gone. */
static int release_idle(struct ph_heap *h, uint64_t head)
{
    struct ph_unit *record = &h->units[head];
    if (record->state != PH_U_RUN || ph_run_is_shown(record) || ph_run_occupied(record) != 0
        || h->classes[record->class_index].current == (uint32_t)head || !ph_run_may_go(h))
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
    for (uint64_t head = h->first_unit; head < h->end_unit; head++) {
        int is_chunk = h->units[head].state == PH_U_PACKED && !is_first_of_gone(h, head);
        released |= (is_chunk ? ph_chunk_let_go(h, &h->units[head]) : release_idle(h, head)) > 0;
    }
    return h->idle_runs ? released : released | release_firsts(h);
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

/* Whether a run of rows has one that is in use, so that it stays [R35]. */
static int has_rows(const struct ph_unit *run)
{
    return ph_run_occupied(run) > (PH_KEPT(R35) ? 0u : 1u);
}

/* ph_rows_cut -- the runs at the end of a table in which no row is in use go, unless somebody looks at the whole of it. */
void ph_rows_cut(struct ph_heap *h)
{
    for (struct ph_gap table; (table = ph_rows_range(h)).nunits != 0 && !ph_rows_are_viewed(h);) {
        uint64_t head = table.start + table.nunits - h->classes[0].run_units;
        if (h->units[head].state != PH_U_RUN || has_rows(&h->units[head]) || h->readonly || h->is_shown
            || ph_journal_reserve(h, 2, 0) < 0)
            return;
        ph_run_end(h, head);
        h->rows_end = head;
    }
}
