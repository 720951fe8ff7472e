/* block/shown.c -- a heap whose writer was followed by this one while others have snapshots of it [Q6].
 *
 * Such a snapshot may show blocks that the last writer had freed: the tables say that they are free. So nothing that they say to
 * be free is used as long as one is there. Runs that are read, since one of their blocks is named, are not offered; chunks stay;
 * gaps are not read, which Python sees to. What this writer frees waits for the same snapshots by its tag. */
#include "block/block.h"

/* ph_end_shown -- the last of these snapshots has gone: offer what was not. O(units). */
void ph_end_shown(struct ph_heap *h)
{
    h->is_shown = 0;
    for (uint64_t head = h->first_unit; head < h->end_unit; head++) {
        struct ph_unit *run = &h->units[head];
        if (run->state != PH_U_RUN || !ph_run_is_shown(run))
            continue;
        run->has_refs = 0;
        uint32_t occupied = ph_run_occupied(run);
        if (occupied < run->u.run.blocks)
            ph_pair_insert(h, &h->classes[run->class_index].partial, head);
        h->idle_runs |= occupied == 0;
    }
}
