/* map/share.c -- moving entries of a full leaf to one beside it that has room, so that it need not be split.
 *
 * The usual case touches little: the leaf beside gets the entries below its own; in the full one those that lie lowest
 * move to where others were. Of either only the entries that move are read. The leaf beside is arranged anew if its room is
 * waste, as that of one that was split; both are (map/neighbours.c) where that will not do: somebody looks at values, or
 * waste of the full one is in the way. */
#include "map/build.h"

enum {
    PH_SHARED_MOST = 16, /* entries that move so: each is stored by itself */
};

/* Where an entry lay; it is free up to `to`. */
struct gap {
    uint32_t from, to, end;
};

struct share {
    struct ph_map_build *b;
    const uint8_t *leaf;
    const struct ph_map_change *change;
    uint32_t all;      /* entries of the leaf with the new one, */
    uint32_t moved;    /* those of them that move, */
    uint32_t taken;    /* and those of these that are there already */
    uint32_t nbytes;   /* of those that move, with their slots */
    int is_left;       /* they go to the leaf before */
    struct ph_map_item items[PH_SHARED_MOST], stays; /* from the edge on; the one behind them, which stays */
    struct gap gaps[PH_SHARED_MOST];                 /* where they lie, from the highest on */
};

/* The entry that is `i`-th from the edge, the new one among them. */
static int item_at(const struct share *share, uint32_t i, struct ph_map_item *item)
{
    uint32_t at = share->is_left ? i : share->all - 1 - i, add_at = share->change->add_at;
    if (at == add_at) {
        *item = share->change->entry;
        return 0;
    }
    return ph_node_entry(share->leaf, at < add_at ? at : at - 1, item);
}

/* Whether one entry stands further from the edge than another. */
static int is_inward(const struct share *share, const struct ph_map_item *edge, const struct ph_map_item *inner)
{
    int order = ph_item_order(edge, inner);
    return share->is_left ? order < 0 : order > 0;
}

static void keep_gap(struct share *share, const struct ph_map_item *item)
{
    struct gap gap = {.from = (uint32_t)(item->key - 4 - share->leaf)};
    gap.to = gap.end = gap.from + ph_entry_bytes(item);
    uint32_t k = share->taken++;
    for (; k > 0 && share->gaps[k - 1].from < gap.from; k--)
        share->gaps[k] = share->gaps[k - 1];
    share->gaps[k] = gap;
}

/* Choose the entries that move: about `want` bytes, `room` at most. */
static int choose(struct share *share, uint32_t want, uint32_t room)
{
    for (uint32_t i = 0;; i++) {
        struct ph_map_item item;
        if (item_at(share, i, &item) < 0 || (i > 0 && !is_inward(share, &share->items[i - 1], &item)))
            return PH_M_CORRUPT;
        uint32_t more = PH_NODE_SLOT + ph_entry_bytes(&item);
        if (i == PH_SHARED_MOST || i + 1 == share->all || share->nbytes + more / 2 > want || share->nbytes + more > room) {
            share->stays = item;
            return i != 0;
        }
        share->items[share->moved++] = item;
        share->nbytes += more;
        if ((share->is_left ? i : share->all - 1 - i) != share->change->add_at)
            keep_gap(share, &item);
    }
}

/* The entry that lies lowest in a leaf. */
static uint32_t find_lowest(const uint8_t *bytes)
{
    uint32_t count = ph_node_count(bytes), lowest = 0, least = PH_MAP_NODE;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = ph_node_u16(bytes, ph_node_slot(i));
        if (at < least) {
            least = at;
            lowest = i;
        }
    }
    return lowest;
}

/* Where an entry goes that lies at `at`: the highest gap above it with room for it; 0: none. */
static uint32_t gap_for(struct share *share, uint32_t at, uint32_t nbytes)
{
    for (uint32_t k = 0; k < share->taken && share->gaps[k].from > at; k++)
        if (share->gaps[k].to - share->gaps[k].from >= nbytes)
            return share->gaps[k].to -= nbytes;
    return 0;
}

/* Whether an entry that lies at `at` has been moved there. */
static int is_moved(const struct share *share, uint32_t at)
{
    for (uint32_t k = 0; k < share->taken; k++)
        if (at >= share->gaps[k].from && at < share->gaps[k].end)
            return 1;
    return 0;
}

/* Let the entries that lie lowest lie where others were. */
static int fill_gaps(struct share *share, struct ph_map_edit *edit)
{
    uint8_t *bytes = edit->bytes;
    uint32_t lowest = find_lowest(bytes);
    for (uint32_t i = 0; i < PH_SHARED_MOST; i++, lowest = find_lowest(bytes)) {
        uint32_t at = ph_node_u16(bytes, ph_node_slot(lowest)), to;
        struct ph_map_item item;
        if (is_moved(share, at))
            break;
        if (ph_entry_at(share->leaf, at, &item) < 0)
            return PH_M_CORRUPT;
        if ((to = gap_for(share, at, ph_entry_bytes(&item))) == 0)
            break;
        ph_node_move(bytes, lowest, to, &item);
        ph_map_edit_range(edit, to, ph_entry_bytes(&item));
    }
    return ph_node_settle(bytes, ph_node_u16(bytes, ph_node_slot(lowest))) < 0 ? PH_M_CORRUPT : 0;
}

/* Change the full leaf. 0: it has no room for the new entry even so. */
static int give(struct share *share, uint64_t offset)
{
    struct ph_map_build *b = share->b;
    uint32_t count = share->all - 1, add_at = share->change->add_at;
    struct ph_map_edit *edit = share->taken == 0 ? NULL : ph_map_edit_of(b, offset);
    if (edit == NULL)
        return share->taken == 0 ? 1 : PH_L_NOMEM;
    uint8_t *bytes = edit->bytes;
    if (ph_map_copy_node(b, edit, share->leaf, 0, 1) < 0 || ph_node_count(bytes) != count)
        return PH_M_CORRUPT;
    for (uint32_t i = 0; i < share->taken; i++)
        ph_node_take(bytes, share->leaf, share->is_left ? 0 : count - 1 - i);
    if (share->moved == share->taken) /* the new one stays */
        ph_node_meet(bytes, share->leaf, add_at, &share->change->entry);
    if (fill_gaps(share, edit) < 0)
        return PH_M_CORRUPT;
    if (share->moved == share->taken) {
        uint32_t need = PH_NODE_SLOT + ph_entry_bytes(&share->change->entry);
        if (ph_node_room(bytes) < need)
            return 0;
        uint32_t at = ph_node_insert(bytes, share->is_left ? add_at - share->taken : add_at, &share->change->entry);
        ph_map_edit_range(edit, at, need - PH_NODE_SLOT);
    }
    ph_map_edit_range(edit, 0, ph_node_slot(ph_node_count(bytes)));
    return 1;
}

/* Change a leaf whose room is waste. */
static int receive_anew(const struct share *share, const struct ph_map_neighbour *other)
{
    struct ph_map_build *b = share->b;
    uint64_t at;
    int count = ph_map_read_entries(b, other->node, share->is_left ? 0 : share->moved);
    struct ph_map_item *own = share->is_left ? b->entries : b->entries + share->moved, *come = b->entries;
    if (count <= 0 || ph_map_bytes_of(own, (uint32_t)count) != other->used)
        return PH_M_CORRUPT;
    if (share->is_left)
        come += count;
    for (uint32_t i = 0; i < share->moved; i++)
        come[share->is_left ? i : share->moved - 1 - i] = share->items[i];
    int failed = ph_map_arrange(b, other->offset, 0, other->node, b->entries, (uint32_t)count + share->moved, &at);
    return failed < 0 ? failed : 1;
}

/* Change the leaf that has room. */
static int receive(const struct share *share, const struct ph_map_neighbour *other)
{
    if (share->nbytes > ph_node_room(other->node))
        return receive_anew(share, other);
    struct ph_map_edit *edit = ph_map_edit_of(share->b, other->offset);
    struct ph_map_item edge;
    if (edit == NULL)
        return PH_L_NOMEM;
    uint8_t *bytes = edit->bytes;
    if (ph_map_copy_node(share->b, edit, other->node, 0, 0) < 0)
        return PH_M_CORRUPT;
    uint32_t count = ph_node_count(bytes), low = ph_node_header(bytes).top, at = share->is_left ? count : 0;
    if (count == 0 || ph_node_entry(other->node, share->is_left ? count - 1 : 0, &edge) < 0
        || !is_inward(share, &edge, &share->items[0]) || !ph_node_room_is_free(bytes))
        return PH_M_CORRUPT;
    ph_node_meet(bytes, other->node, at, &share->items[share->moved - 1]);
    uint32_t end = low;
    for (uint32_t i = 0; i < share->moved; i++)
        low = ph_node_insert(bytes, share->is_left ? count + i : 0, &share->items[i]);
    ph_map_edit_range(edit, 0, ph_node_slot(ph_node_count(bytes)));
    ph_map_edit_range(edit, low, end - low);
    return 1;
}

/* Let the processor fetch the entries at the edge, all at once. */
static void look_ahead(const struct share *share)
{
    uint32_t count = share->all - 1;
    for (uint32_t i = 0; i < PH_SHARED_MOST / 2 && i < count; i++)
        __builtin_prefetch(share->leaf
                           + ph_node_u16(share->leaf, ph_node_slot(share->is_left ? i : count - 1 - i)) % PH_MAP_NODE);
}

int ph_map_share_some(struct ph_map_build *b, const struct ph_map_step *above, const uint8_t *leaf,
                      const struct ph_map_neighbour *other, const struct ph_map_change *change,
                      struct ph_map_outcome *outcome)
{
    struct share share = {.b = b, .leaf = leaf, .change = change, .all = ph_node_count(leaf) + 1,
                          .is_left = other->at < above->at};
    uint32_t need = PH_NODE_SLOT + ph_entry_bytes(&change->entry), used = ph_node_used(leaf) + need;
    if (used <= other->used || change->takes || change->add_at >= share.all || ph_map_is_kept(b, above[1].node)
        || (ph_map_copies(b) && !ph_tx_has_made(b->tx, other->offset)))
        return 0;
    look_ahead(&share);
    uint32_t room = ph_map_is_kept(b, other->offset) ? ph_node_room(other->node) : PH_MAP_NODE - other->used;
    int done = choose(&share, (used - other->used) / 2, room);
    if (done > 0)
        done = give(&share, above[1].node);
    if (done > 0)
        done = receive(&share, other);
    if (done < 0)
        return ph_map_fail(b->map, above[1].node, done);
    if (done == 0) {
        ph_map_drop_edits(b);
        return 0;
    }
    const struct ph_map_item *edge = &share.items[share.moved - 1];
    ph_map_separate(outcome, 0, share.is_left ? edge : &share.stays, share.is_left ? &share.stays : edge);
    outcome->left = outcome->left_was = share.is_left ? other->offset : above[1].node;
    outcome->right = share.is_left ? above[1].node : other->offset;
    return 1;
}
