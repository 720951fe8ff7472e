/* map/renew.c -- making the nodes on the way to an entry anew, before the entry is changed [Q5].
 *
 * A node that a commit can reach may be read by others as of that commit: its bytes stay as they are. So a transaction
 * first lets all nodes of the way be its own: it copies those that are not, lets the nodes above lead to the copies, and
 * frees what it has copied. The map says the same as before. The change itself then edits nodes of the transaction, as
 * in a heap that nobody else reads; the next change on that way finds them there. */
#include "map/build.h"

#include "base/hints.h"

/* Where in a node the offset of the child to which entry `at` leads lies; 0: it leads to none. */
static uint32_t place_of_child(const uint8_t *node, uint32_t at)
{
    struct ph_map_item entry;
    if (at >= ph_node_count(node) || ph_node_entry(node, at, &entry) < 0 || entry.said != sizeof(uint64_t))
        return 0;
    return (uint32_t)(entry.value - node);
}

/* Let a node of a path be copied; the step leads to the copy. */
static int copy_node(struct ph_map_build *b, struct ph_map_step *step, const uint8_t *node, uint32_t level)
{
    struct ph_node header = ph_node_header_once(node);
    if (!ph_node_header_is_sound(&header, level))
        return ph_map_fail(b->map, step->node, PH_M_CORRUPT);
    int64_t to = ph_map_make_page(b);
    if (to < 0)
        return (int)to;
    ph_fetch_to_store(b->map->heap->data + ph_local((uint64_t)to), PH_MAP_NODE);
    struct ph_map_edit *edit = &b->edits[b->edit_count++];
    edit->offset = (uint64_t)to;
    edit->bytes = NULL;
    edit->copied = node;
    edit->head = header;
    edit->child_at = edit->range_count = 0;
    ph_map_free_later(b, step->node);
    step->node = (uint64_t)to;
    return 0;
}

/* Let a node of a path lead to the copy of the next one: it is copied itself, or the transaction's. */
static int lead_to(struct ph_map_build *b, const struct ph_map_step *step, const uint8_t *node, int is_own)
{
    struct ph_map_edit *edit = is_own ? ph_map_edit_of(b, step->node) : &b->edits[b->edit_count - 1];
    if (edit == NULL)
        return PH_L_NOMEM;
    uint32_t at = place_of_child(node, step->at);
    if (at == 0)
        return ph_map_fail(b->map, step->node, PH_M_CORRUPT);
    if (!is_own) {
        edit->child_at = at;
        edit->child = step[1].node;
        return 0;
    }
    memcpy(edit->bytes, node, PH_MAP_NODE);
    memcpy(edit->bytes + at, &step[1].node, sizeof step[1].node);
    ph_map_edit_range(edit, at, sizeof step[1].node);
    return 0;
}

static int build_renewal(struct ph_map_build *b, struct ph_map_cursor *cursor, uint32_t count)
{
    int moved = 0; /* the node below */
    for (uint32_t depth = count; depth-- > 0;) {
        struct ph_map_step *step = &cursor->path[depth];
        int is_own = ph_tx_has_made(b->tx, step->node);
        if (is_own && !moved)
            continue;
        uint32_t level = cursor->height - 1 - depth;
        const uint8_t *node = ph_map_node(b->map, step->node, level);
        int failed = node == NULL ? b->map->why : is_own ? 0 : copy_node(b, step, node, level);
        if (failed == 0 && moved)
            failed = lead_to(b, step, node, is_own);
        if (failed < 0)
            return failed;
        moved = !is_own;
    }
    if (moved)
        b->header.root = cursor->path[0].node;
    return 0;
}

int ph_map_renew(struct ph_map_build *b, struct ph_map_cursor *cursor, uint32_t count)
{
    int failed = build_renewal(b, cursor, count);
    if (failed < 0)
        return ph_map_give_up(b, failed);
    if (b->edit_count == 0)
        return 0;
    if ((failed = ph_map_emit(b)) < 0)
        return failed;
    ph_map_continue(b);
    cursor->leaf = ph_map_node(b->map, cursor->path[cursor->height - 1].node, 0);
    return cursor->leaf == NULL ? b->map->why : 0;
}
