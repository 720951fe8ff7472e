/* block/idle_rows.c -- rows that are not in use: whether the table may do without them. */
#include "block/block.h"

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
