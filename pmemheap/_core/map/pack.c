/* map/pack.c -- moving the entries of neighbouring leaves together. */
#include "map/build.h"

enum {
    PH_NODE_PACKED = PH_MAP_NODE * 15 / 16, /* what one of three leaves has: the next keys of all find some room */
    PH_PACKED_MOST = 16,                    /* leaves at a time */
};

/* Neighbours below one node, and what is made of them. */
struct pack {
    uint32_t first, taken;             /* children of the node above */
    uint32_t count, groups;            /* entries; leaves that they fill */
    uint32_t start[PH_PACKED_MOST + 1]; /* the first entry of each of these, and behind the last */
    uint64_t old[PH_PACKED_MOST], made[PH_PACKED_MOST];
    struct ph_map_outcome border[PH_PACKED_MOST]; /* whose separator says where a leaf begins */
};

/* Read the entries of some leaves from child `first` on. */
static int gather(struct ph_map_build *b, const uint8_t *parent, struct pack *pack)
{
    while (pack->first + pack->taken < ph_node_count(parent) && pack->taken < PH_PACKED_MOST) {
        uint64_t *child = &pack->old[pack->taken];
        if (ph_map_child(parent, pack->first + pack->taken, child) < 0)
            return PH_M_CORRUPT;
        const uint8_t *leaf = ph_map_node(b->map, *child, 0);
        if (leaf == NULL)
            return b->map->why;
        if (pack->count + ph_node_count(leaf) > PH_BUILD_ENTRIES)
            return 0;
        int more = ph_map_read_entries(b, leaf, pack->count);
        if (more < 0)
            return more;
        const struct ph_map_item *first = &b->entries[pack->count];
        if (more > 0 && pack->count > 0 && ph_item_order(first - 1, first) >= 0)
            return ph_map_fail(b->map, *child, PH_M_CORRUPT);
        pack->count += (uint32_t)more;
        pack->taken++;
    }
    return 0;
}

/* Divide the entries into leaves that are full, or nearly so. */
static void divide(const struct ph_map_build *b, struct pack *pack)
{
    uint32_t nbytes = PH_MAP_NODE, most = 0;
    for (uint32_t i = 0; i < pack->count; i++) {
        uint32_t more = PH_NODE_SLOT + ph_entry_bytes(&b->entries[i]);
        if (nbytes + more > most) {
            if (pack->groups == PH_PACKED_MOST)
                return;
            most = pack->groups % 3 == 2 ? PH_NODE_PACKED : PH_MAP_NODE;
            pack->start[pack->groups++] = i;
            nbytes = PH_NODE_FIRST;
        }
        nbytes += more;
    }
    pack->start[pack->groups] = pack->count;
}

static int make_leaves(struct ph_map_build *b, struct pack *pack)
{
    for (uint32_t i = 0; i < pack->groups; i++) {
        const struct ph_map_item *entries = &b->entries[pack->start[i]];
        if (i > 0)
            ph_map_separate(&pack->border[i], 0, entries - 1, entries);
        int64_t leaf = ph_map_make_node(b, 0, entries, pack->start[i + 1] - pack->start[i]);
        if (leaf < 0)
            return (int)leaf;
        pack->made[i] = (uint64_t)leaf;
    }
    return 0;
}

/* The node above, with the new leaves in the place of the old ones. 0: it would be too long. */
static int64_t remake_parent(struct ph_map_build *b, const uint8_t *parent, const struct pack *pack)
{
    int count = ph_map_read_entries(b, parent, 0);
    if (count < 0)
        return count;
    if ((uint32_t)count < pack->first + pack->taken)
        return PH_M_CORRUPT;
    struct ph_map_item *at = &b->entries[pack->first];
    uint32_t behind = (uint32_t)count - pack->first - pack->taken;
    memmove(at + pack->groups, at + pack->taken, behind * sizeof *at);
    at[0].value = (const uint8_t *)&pack->made[0];
    for (uint32_t i = 1; i < pack->groups; i++)
        at[i] = ph_map_item_of(pack->border[i].separator, pack->border[i].nseparator, &pack->made[i], sizeof pack->made[i]);
    uint32_t all = pack->first + pack->groups + behind;
    return ph_map_bytes_of(b->entries, all) > PH_MAP_NODE ? 0 : ph_map_make_node(b, 1, b->entries, all);
}

/* Copy the least key behind child `at` of the node at `depth`; 0: there is none. */
static int key_behind(struct ph_map_build *b, const struct ph_map_cursor *cursor, uint32_t depth, uint32_t at,
                      struct ph_map_key *next)
{
    for (;; at = cursor->path[depth].at) {
        const uint8_t *node = ph_map_node(b->map, cursor->path[depth].node, cursor->height - 1 - depth);
        struct ph_map_item entry;
        if (node == NULL)
            return b->map->why;
        if (at + 1 < ph_node_count(node)) {
            if (ph_node_entry(node, at + 1, &entry) < 0)
                return PH_M_CORRUPT;
            next->length = entry.nkey;
            memcpy(next->bytes, entry.key, entry.nkey);
            return 1;
        }
        if (depth-- == 0)
            return 0;
    }
}

/* Put the divided nodes in the place of the gathered ones. */
static int build_pack(struct ph_map_build *b, const struct ph_map_cursor *cursor, struct pack *pack)
{
    uint32_t depth = cursor->height - 2;
    const struct ph_map_step *step = &cursor->path[depth];
    int failed = make_leaves(b, pack);
    if (failed < 0)
        return failed;
    const uint8_t *above = ph_map_node(b->map, step->node, 1);
    int64_t parent = above == NULL ? b->map->why : remake_parent(b, above, pack);
    if (parent <= 0)
        return (int)parent;
    struct ph_map_outcome outcome = {.left = (uint64_t)parent, .left_was = step->node};
    for (uint32_t i = 0; i < pack->taken; i++)
        ph_map_free_later(b, pack->old[i]);
    ph_map_free_later(b, step->node);
    failed = ph_map_carry_up(b, cursor, depth, &outcome);
    return failed < 0 ? failed : 1;
}

int ph_map_pack(struct ph_map *map, const void *key, uint64_t nkey, struct ph_map_key *next)
{
    struct ph_map_cursor cursor;
    struct pack pack = {0};
    int failed;
    struct ph_map_build *b = ph_map_begin(map, &failed);
    if (b == NULL || (failed = ph_map_descend(map, &b->header, key, nkey, &cursor)) < 0 || cursor.height < 2)
        return failed;
    uint32_t depth = cursor.height - 2;
    const uint8_t *parent = ph_map_node(map, cursor.path[depth].node, 1);
    pack.first = cursor.path[depth].at;
    if (parent == NULL)
        return map->why;
    if ((failed = gather(b, parent, &pack)) < 0)
        return failed;
    int more = key_behind(b, &cursor, depth, pack.first + pack.taken - 1, next);
    if (more > 0 && ph_key_order(next->bytes, next->length, key, nkey) <= 0) /* who goes on from there does not get on */
        more = ph_map_fail(map, cursor.path[depth].node, PH_M_CORRUPT);
    divide(b, &pack);
    if (more < 0 || pack.groups >= pack.taken || pack.groups == 0)
        return more;
    if ((failed = ph_map_own(b, &cursor, depth)) < 0)
        return failed;
    int is_last = pack.first + pack.taken == ph_node_count(parent);
    int packed = build_pack(b, &cursor, &pack);
    if (packed <= 0)
        return ph_map_give_up(b, packed < 0 ? packed : more);
    if (!is_last && pack.groups > 1) { /* the last leaf has room for what comes next */
        next->length = pack.border[pack.groups - 1].nseparator;
        memcpy(next->bytes, pack.border[pack.groups - 1].separator, next->length);
    }
    failed = ph_map_emit(b);
    return failed < 0 ? failed : more;
}

