/* map/neighbours.c -- two nodes beside each other, below one: dividing their entries evenly, or making one of both. */
#include "map/build.h"

enum {
    PH_SHARED_LEAST = PH_MAP_NODE / 4,    /* what a leaf has to have free so that others move there, */
    PH_CHURNED_LEAST = PH_MAP_NODE / 16,  /* and where records come and go */
    PH_NODE_ROOMY = PH_MAP_NODE * 5 / 8,  /* another one is not looked for */
    PH_NODE_MERGED = PH_MAP_NODE * 7 / 8, /* two nodes become one up to this */
};

/* Child `at` of a node, if it has that. */
static int child_at(const uint8_t *parent, uint32_t at, uint64_t *child)
{
    *child = PH_MAP_NOWHERE;
    return at < ph_node_count(parent) ? ph_map_child(parent, at, child) : 0;
}

/* Whether a node is there, and has less in it than what was found. */
static int look_at(struct ph_map_build *b, uint64_t offset, uint32_t at, uint32_t level, struct ph_map_neighbour *found)
{
    const uint8_t *node = offset == PH_MAP_NOWHERE ? NULL : ph_map_node(b->map, offset, level);
    if (node == NULL)
        return offset == PH_MAP_NOWHERE ? 0 : b->map->why;
    uint32_t used = ph_node_used(node);
    if (found->node == NULL || used < found->used)
        *found = (struct ph_map_neighbour){.offset = offset, .node = node, .at = at, .used = used};
    return 0;
}

/* The node behind child `above->at`; or the one before, if that has less in it and the other one has much. */
static int find_neighbour(struct ph_map_build *b, const struct ph_map_step *above, uint32_t level,
                          struct ph_map_neighbour *found)
{
    const uint8_t *parent = ph_map_node(b->map, above->node, level + 1);
    uint64_t before = PH_MAP_NOWHERE, behind;
    found->node = NULL;
    if (parent == NULL)
        return b->map->why;
    if ((above->at != 0 && child_at(parent, above->at - 1, &before) < 0) || child_at(parent, above->at + 1, &behind) < 0)
        return PH_M_CORRUPT;
    if (before != PH_MAP_NOWHERE)
        __builtin_prefetch(b->map->heap->data + ph_local(before));
    if (behind != PH_MAP_NOWHERE)
        __builtin_prefetch(b->map->heap->data + ph_local(behind));
    int failed = look_at(b, behind, above->at + 1, level, found);
    if (failed == 0 && (found->node == NULL || found->used > PH_NODE_ROOMY))
        failed = look_at(b, before, above->at - 1, level, found);
    return failed < 0 ? failed : found->node != NULL;
}

int ph_map_find_room(struct ph_map_build *b, const struct ph_map_step *above, const uint8_t *leaf,
                     struct ph_map_neighbour *found)
{
    int any = find_neighbour(b, above, 0, found);
    uint32_t least = ph_node_header(leaf).waste == 0 ? PH_SHARED_LEAST : PH_CHURNED_LEAST;
    return any <= 0 ? any : found->used + least <= PH_MAP_NODE;
}

/* Let the entries of b->entries that come first be the last ones. */
static void rotate(struct ph_map_build *b, uint32_t first, uint32_t second)
{
    struct ph_map_item kept[PH_NODE_ENTRIES_MOST + 1];
    memcpy(kept, b->entries, first * sizeof *kept);
    memmove(b->entries, b->entries + first, second * sizeof *kept);
    memcpy(b->entries + second, kept, first * sizeof *kept);
}

/* Read the entries of a neighbour into b->entries, where `count` are those of the node itself, all in their order. How many the
 * neighbour has. That it has none, or other bytes than it says, is damage: what was moved would be lost. */
static int read_both(struct ph_map_build *b, const struct ph_map_step *above, const struct ph_map_neighbour *other, uint32_t count)
{
    int more = ph_map_read_entries(b, other->node, count);
    if (more < 0)
        return more;
    if (more == 0 || ph_map_bytes_of(b->entries + count, (uint32_t)more) != other->used)
        return ph_map_fail(b->map, other->offset, PH_M_CORRUPT);
    if (other->at < above->at)
        rotate(b, count, (uint32_t)more);
    return more;
}

/* Whether the outer edge of a neighbour lies within the keys above it: a new separator is taken from its keys. */
static int is_within(const struct ph_map_build *b, const uint8_t *parent, const struct ph_map_neighbour *other, int is_left, uint32_t all)
{
    struct ph_map_item border;
    uint32_t at = is_left ? other->at : other->at + 1;
    if (at == 0 || at >= ph_node_count(parent))
        return 1;
    if (ph_node_entry(parent, at, &border) < 0)
        return 0;
    return is_left ? ph_item_order(&border, &b->entries[0]) <= 0 : ph_item_order(&b->entries[all - 1], &border) < 0;
}

/* How many entries the left one gets; 0: an entry is too long for either way. */
static uint32_t divide(const struct ph_map_item *entries, uint32_t all)
{
    uint32_t total = ph_map_bytes_of(entries, all), nbytes = PH_NODE_FIRST, i = 0;
    while (i < all - 1 && (i == 0 || nbytes + (PH_NODE_SLOT + ph_entry_bytes(&entries[i])) / 2 < total / 2))
        nbytes += PH_NODE_SLOT + ph_entry_bytes(&entries[i++]);
    return nbytes <= PH_MAP_NODE && total - nbytes + PH_NODE_FIRST <= PH_MAP_NODE ? i : 0;
}

int ph_map_share(struct ph_map_build *b, const struct ph_map_step *above, const uint8_t *leaf,
                 const struct ph_map_neighbour *other, uint32_t count, struct ph_map_outcome *outcome)
{
    int more = read_both(b, above, other, count), is_left = other->at < above->at;
    if (more < 0)
        return more;
    const uint8_t *parent = ph_map_node(b->map, above->node, 1);
    uint32_t all = count + (uint32_t)more, left = divide(b->entries, all);
    if (left == 0) {
        if (is_left)
            rotate(b, (uint32_t)more, count);
        return 0;
    }
    const struct ph_map_item *border = &b->entries[left];
    if (parent == NULL || !is_within(b, parent, other, is_left, all) || ph_item_order(border - 1, border) >= 0)
        return ph_map_fail(b->map, other->offset, PH_M_CORRUPT);
    uint64_t own = above[1].node;
    const struct ph_map_step at[2] = {{.node = is_left ? other->offset : own}, {.node = is_left ? own : other->offset}};
    outcome->left_was = at[0].node;
    ph_map_separate(outcome, 0, border - 1, border);
    int failed = ph_map_arrange(b, at[0].node, 0, is_left ? other->node : leaf, b->entries, left, &outcome->left);
    if (failed == 0)
        failed = ph_map_arrange(b, at[1].node, 0, is_left ? leaf : other->node, border, all - left, &outcome->right);
    return failed < 0 ? failed : 1;
}

int ph_map_merge(struct ph_map_build *b, const struct ph_map_step *above, uint32_t level, uint32_t count,
                 struct ph_map_change *change)
{
    struct ph_map_neighbour other;
    struct ph_map_item to_right;
    uint64_t merged;
    int found = find_neighbour(b, above, level, &other);
    if (found <= 0 || other.used + ph_map_bytes_of(b->entries, count) > PH_NODE_MERGED + PH_NODE_FIRST)
        return found < 0 ? found : 0;
    const uint8_t *parent = ph_map_node(b->map, above->node, level + 1);
    uint32_t right = other.at < above->at ? above->at : other.at;
    int more = read_both(b, above, &other, count);
    if (more < 0)
        return more;
    if (parent == NULL || ph_node_entry(parent, right, &to_right) < 0)
        return PH_M_CORRUPT;
    uint32_t border = other.at < above->at ? (uint32_t)more : count, all = count + (uint32_t)more;
    if (level != 0) { /* a first key says nothing: the key above does */
        b->entries[border].key = to_right.key;
        b->entries[border].nkey = to_right.nkey;
    }
    if (ph_map_bytes_of(b->entries, all) > PH_MAP_NODE)
        return 0;
    int failed = ph_map_arrange(b, other.offset, level, other.node, b->entries, all, &merged);
    if (failed < 0)
        return failed;
    ph_map_free_later(b, above[1].node);
    *change = (struct ph_map_change){.has_child = right == other.at || merged != other.offset, .child_at = right - 1,
                                     .child = merged, .takes = 1, .take_at = right};
    return 1;
}
