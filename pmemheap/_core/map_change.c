/* map_change.c -- changing a map. Each change is first built in memory, with all the blocks it needs, which can fail and
 * changes nothing; then it is handed to the transaction as the bytes that differ. */
#include <stddef.h>
#include <stdlib.h>

#include "map_internal.h"

enum {
    PH_EDITS_MOST = 3 * PH_MAP_HEIGHT_MOST,
    PH_FREES_MOST = 3 * PH_MAP_HEIGHT_MOST + 1,
    PH_NODE_SLACK = PH_MAP_NODE / 8, /* a node that would have less room after it was made anew is split */
    PH_NODE_LOW = PH_MAP_NODE / 4,   /* one with less in it is merged with a neighbour, up to: */
    PH_NODE_MERGED = PH_MAP_NODE * 3 / 4,
    PH_NODE_PACKED = PH_MAP_NODE * 15 / 16, /* what a leaf has when leaves are packed: the next keys find some room */
    PH_PACKED_MOST = 8,                     /* leaves at a time */
};

/* A node with new bytes: all of a new one, up to three ranges of one in place. */
struct edit {
    uint64_t offset;
    uint8_t *bytes;
    uint32_t from[3], length[3];
};

struct ph_map_build {
    struct ph_map *map;
    struct ph_tx *tx;
    struct ph_map_header header;
    struct edit edits[PH_EDITS_MOST];
    uint32_t edit_count;
    uint64_t made[PH_EDITS_MOST];
    uint32_t made_count;
    uint64_t frees[PH_FREES_MOST];
    uint32_t free_count;
    struct ph_map_item entries[2 * PH_NODE_ENTRIES_MOST];
};

/* What happens to one node: a child is replaced, an entry goes, an entry comes, in this order. */
struct change {
    int has_child, takes, adds;
    uint32_t child_at, take_at, add_at;
    uint64_t child;
    struct ph_map_item entry;
};

/* What the node above has to know of it. */
struct outcome {
    uint64_t left, right; /* right: 0 without one */
    uint8_t separator[PH_MAP_KEY_MOST];
    uint16_t nseparator;
    int has_right;
};

/* ---------------------------------------------------------------- building */

/* NULL: no memory, or a header that is none, as `failed` says. */
static struct ph_map_build *begin(struct ph_map *map, struct ph_tx *tx, int *failed)
{
    if (map->build == NULL)
        map->build = malloc(sizeof *map->build);
    struct ph_map_build *b = map->build;
    *failed = PH_L_NOMEM;
    if (b == NULL)
        return NULL;
    b->map = map;
    b->tx = tx;
    b->edit_count = b->made_count = b->free_count = 0;
    *failed = ph_map_header_of(map, &b->header);
    return *failed < 0 ? NULL : b;
}

static int64_t make_block(struct ph_map_build *b, uint64_t nbytes)
{
    int64_t offset = ph_tx_malloc(b->tx, b->map->arena, nbytes, PH_GRANULE);
    if (offset >= 0)
        b->made[b->made_count++] = (uint64_t)offset;
    return offset;
}

/* Give up what was built: the blocks go back, nothing has been collected. */
static int give_up(struct ph_map_build *b, int failure)
{
    for (uint32_t i = 0; i < b->made_count; i++)
        ph_tx_free(b->tx, b->made[i]);
    for (uint32_t i = 0; i < b->edit_count; i++)
        ph_map_give_memory(b->map, b->edits[i].bytes);
    b->edit_count = b->made_count = 0;
    return failure;
}

static struct edit *edit_of(struct ph_map_build *b, uint64_t offset)
{
    uint8_t *bytes = ph_map_take_memory(b->map);
    struct edit *edit = &b->edits[b->edit_count];
    if (bytes == NULL)
        return NULL;
    *edit = (struct edit){.offset = offset, .bytes = bytes};
    b->edit_count++;
    return edit;
}

static uint32_t bytes_of(const struct ph_map_item *entries, uint32_t count)
{
    uint32_t nbytes = PH_NODE_FIRST;
    for (uint32_t i = 0; i < count; i++)
        nbytes += PH_NODE_SLOT + ph_entry_bytes(&entries[i]);
    return nbytes;
}

/* A new node of some entries; its offset. */
static int64_t make_node(struct ph_map_build *b, uint32_t level, const struct ph_map_item *entries, uint32_t count)
{
    if (bytes_of(entries, count) > PH_MAP_NODE) /* they overlap in a node that is damaged */
        return PH_M_CORRUPT;
    int64_t offset = make_block(b, PH_MAP_NODE);
    struct edit *edit = offset < 0 ? NULL : edit_of(b, (uint64_t)offset);
    if (edit == NULL)
        return offset < 0 ? offset : PH_L_NOMEM;
    ph_node_fill(edit->bytes, level, entries, count);
    edit->length[0] = PH_MAP_NODE;
    return offset;
}

/* The entries of a node behind those that are there already; how many, or a failure. */
static int read_entries(struct ph_map_build *b, const uint8_t *node, uint32_t at)
{
    uint32_t count = ph_node_count(node);
    for (uint32_t i = 0; i < count; i++)
        if (at + i >= 2 * PH_NODE_ENTRIES_MOST || ph_node_entry(node, i, &b->entries[at + i]) < 0)
            return PH_M_CORRUPT;
    return (int)count;
}

/* The entries of a node as a change leaves them. */
static int changed_entries(struct ph_map_build *b, const uint8_t *node, struct change *change)
{
    int count = read_entries(b, node, 0);
    if (count < 0)
        return count;
    struct ph_map_item *entries = b->entries;
    if (change->has_child && entries[change->child_at].nvalue != sizeof change->child)
        return PH_M_CORRUPT;
    if (change->has_child)
        entries[change->child_at].value = (const uint8_t *)&change->child;
    if (change->takes) {
        memmove(&entries[change->take_at], &entries[change->take_at + 1],
                ((uint32_t)count - change->take_at - 1) * sizeof *entries);
        count--;
    }
    if (change->adds) {
        memmove(&entries[change->add_at + 1], &entries[change->add_at], ((uint32_t)count - change->add_at) * sizeof *entries);
        entries[change->add_at] = change->entry;
        count++;
    }
    return count;
}

static void note_range(struct edit *edit, uint32_t i, uint32_t from, uint32_t length)
{
    edit->from[i] = from;
    edit->length[i] = length;
}

static int replace_child(struct edit *edit, const struct change *change)
{
    struct ph_map_item entry;
    if (ph_node_entry(edit->bytes, change->child_at, &entry) < 0 || entry.nvalue != sizeof change->child)
        return PH_M_CORRUPT;
    uint32_t at = (uint32_t)(entry.value - edit->bytes);
    memcpy(edit->bytes + at, &change->child, sizeof change->child);
    note_range(edit, 1, at, sizeof change->child);
    return 0;
}

/* What a change in place begins with: all but the room between slots and entries. Nobody looks at the image of a leaf
 * when the transaction has no second call: header and slots will do then. */
static void copy_node(const struct ph_map_build *b, uint8_t *bytes, const uint8_t *node)
{
    struct ph_node header = ph_node_header(node);
    memcpy(bytes, node, ph_node_slot(header.count));
    if (!b->map->is_alone || header.level != 0)
        memcpy(bytes + header.top, node + header.top, PH_MAP_NODE - header.top);
}

/* A change of a node where it is. Pre: there is room. */
static int amend_in_place(struct ph_map_build *b, uint64_t offset, const uint8_t *node, const struct change *change)
{
    struct edit *edit = edit_of(b, offset);
    if (edit == NULL)
        return PH_L_NOMEM;
    uint8_t *bytes = edit->bytes;
    copy_node(b, bytes, node);
    if (change->has_child && replace_child(edit, change) < 0)
        return PH_M_CORRUPT;
    if (change->takes)
        ph_node_take(bytes, node, change->take_at);
    if (change->adds) {
        uint32_t at = ph_node_add(bytes, node, change->add_at, &change->entry);
        note_range(edit, 2, at, ph_entry_bytes(&change->entry));
    }
    if (change->takes || change->adds)
        note_range(edit, 0, 0, ph_node_slot(ph_node_count(bytes)));
    return 0;
}

/* The shortest key that is greater than all on the left and no greater than those on the right. */
static void set_separator(struct outcome *outcome, uint32_t level, const struct ph_map_item *left,
                          const struct ph_map_item *right)
{
    uint32_t length = right->nkey;
    if (level == 0)
        for (length = 0; length < right->nkey && length < left->nkey && left->key[length] == right->key[length];)
            length++;
    outcome->nseparator = (uint16_t)(length < right->nkey ? length + 1 : length);
    memcpy(outcome->separator, right->key, outcome->nseparator);
}

/* How many entries stay on the left: half of the bytes; all but the new one if that is the last, as keys that come in
 * order want it. */
static uint32_t split_point(const struct ph_map_item *entries, uint32_t count, const struct change *change)
{
    if (change->adds && change->add_at == count - 1)
        return count - 1;
    uint32_t half = bytes_of(entries, count) / 2, nbytes = PH_NODE_FIRST, i = 0;
    while (i < count - 1 && (i == 0 || nbytes < half))
        nbytes += PH_NODE_SLOT + ph_entry_bytes(&entries[i++]);
    return i;
}

/* Entries from `at` on leave a node, in place. */
static int truncate_node(struct ph_map_build *b, uint64_t offset, const uint8_t *node, const struct change *change, uint32_t at)
{
    struct edit *edit = edit_of(b, offset);
    if (edit == NULL)
        return PH_L_NOMEM;
    copy_node(b, edit->bytes, node);
    if (change->has_child && change->child_at < at && replace_child(edit, change) < 0)
        return PH_M_CORRUPT;
    while (ph_node_count(edit->bytes) > at)
        ph_node_take(edit->bytes, node, ph_node_count(edit->bytes) - 1);
    note_range(edit, 0, 0, PH_NODE_FIRST);
    return 0;
}

static int split(struct ph_map_build *b, uint64_t offset, uint32_t level, const uint8_t *node, const struct change *change,
                 uint32_t count, struct outcome *outcome)
{
    const struct ph_map_item *entries = b->entries;
    uint32_t left = split_point(entries, count, change);
    set_separator(outcome, level, &entries[left - 1], &entries[left]);
    int64_t right = make_node(b, level, &entries[left], count - left);
    if (right < 0)
        return (int)right;
    outcome->right = (uint64_t)right;
    outcome->has_right = 1;
    if ((!change->adds || change->add_at >= left) && (!change->takes || change->take_at >= left))
        return truncate_node(b, offset, node, change, left);
    int64_t remade = make_node(b, level, entries, left);
    if (remade < 0)
        return (int)remade;
    b->frees[b->free_count++] = offset;
    outcome->left = (uint64_t)remade;
    return 0;
}

/* Change one node, where it is, or made anew, or as two. */
static int amend(struct ph_map_build *b, uint64_t offset, uint32_t level, struct change *change, struct outcome *outcome)
{
    const uint8_t *node = ph_map_node(b->map, offset, level);
    *outcome = (struct outcome){.left = offset};
    if (node == NULL)
        return PH_M_CORRUPT;
    uint32_t need = change->adds ? ph_entry_bytes(&change->entry) + (change->takes ? 0 : PH_NODE_SLOT) : 0;
    if (need <= ph_node_room(node))
        return amend_in_place(b, offset, node, change);
    int count = changed_entries(b, node, change);
    if (count < 0)
        return count;
    uint32_t nbytes = bytes_of(b->entries, (uint32_t)count);
    if (count < 2 || nbytes + PH_NODE_SLACK <= PH_MAP_NODE) {
        int64_t remade = make_node(b, level, b->entries, (uint32_t)count);
        if (remade < 0)
            return (int)remade;
        b->frees[b->free_count++] = offset;
        outcome->left = (uint64_t)remade;
        return 0;
    }
    return split(b, offset, level, node, change, (uint32_t)count, outcome);
}

/* ---------------------------------------------------------------- handing over */

static int store(struct ph_tx *tx, const struct edit *edit)
{
    int failed = 0;
    for (int i = 0; failed == 0 && i < 3; i++)
        if (edit->length[i] != 0)
            failed = ph_tx_write(tx, edit->offset + edit->from[i], edit->bytes + edit->from[i], edit->length[i]);
    return failed;
}

/* The number of entries changes most often: what was collected for it is changed, as far as that is no other savepoint's. */
static int store_header(struct ph_map_build *b, const struct ph_map_header *before)
{
    struct ph_map *map = b->map;
    const uint64_t at = offsetof(struct ph_map_header, count), rest = offsetof(struct ph_map_header, root);
    if (before->root != b->header.root || before->height != b->header.height) {
        map->count_write = UINT64_MAX;
        return ph_tx_write(b->tx, map->header + rest, (const uint8_t *)&b->header + rest, sizeof b->header - rest);
    }
    if (before->count == b->header.count
        || ph_tx_rewrite(b->tx, map->count_write, map->header + at, &b->header.count, sizeof b->header.count))
        return 0;
    map->count_write = b->tx->writes.count;
    return ph_tx_write(b->tx, map->header + at, &b->header.count, sizeof b->header.count);
}

/* Everything is there: from here on a failure tears the transaction. */
static int hand_over(struct ph_map_build *b)
{
    struct ph_map *map = b->map;
    struct ph_map_header before = map->changed;
    int failed = map->is_alone ? 0 : ph_map_image_room(map, b->edit_count);
    if (failed < 0)
        return give_up(b, failed);
    for (uint32_t i = 0; failed == 0 && i < b->edit_count; i++)
        failed = store(b->tx, &b->edits[i]);
    for (uint32_t i = 0; i < b->edit_count; i++)
        if (map->is_alone)
            ph_map_give_memory(map, b->edits[i].bytes);
        else
            ph_map_image_keep(map, b->edits[i].offset, b->edits[i].bytes);
    map->changed = b->header;
    if (failed == 0)
        failed = store_header(b, &before);
    for (uint32_t i = 0; failed == 0 && i < b->free_count; i++)
        failed = ph_tx_free_deferred(b->tx, b->frees[i]);
    return failed < 0 ? PH_M_TORN : 0;
}

/* ---------------------------------------------------------------- put */

static struct ph_map_item entry_of(const void *key, uint64_t nkey, const void *value, uint64_t nvalue)
{
    return (struct ph_map_item){.key = key, .value = value, .nkey = (uint16_t)nkey, .nvalue = (uint16_t)nvalue,
                             .said = (uint16_t)nvalue};
}

/* What a leaf gets for a key: the value, or where it lies apart. `reference`: where it is placed already, its length. */
static int make_entry(struct ph_map_build *b, const void *key, uint64_t nkey, const void *value, uint64_t *reference,
                      struct ph_map_item *entry)
{
    if (reference[0] == PH_MAP_NOWHERE && nkey + reference[1] <= PH_MAP_ENTRY_MOST) {
        *entry = entry_of(key, nkey, value, reference[1]);
        return 0;
    }
    if (reference[0] == PH_MAP_NOWHERE) {
        int64_t offset = make_block(b, reference[1]);
        if (offset < 0)
            return (int)offset;
        if (ph_tx_write(b->tx, (uint64_t)offset, value, reference[1]) < 0)
            return PH_L_NOMEM;
        reference[0] = (uint64_t)offset;
    }
    *entry = entry_of(key, nkey, reference, PH_NODE_REFERENCE);
    entry->said = PH_NODE_APART;
    return 0;
}

/* A new root over two nodes. */
static int grow(struct ph_map_build *b, const struct outcome *outcome)
{
    const struct ph_map_item two[2] = {
        entry_of("", 0, &outcome->left, 8),
        entry_of(outcome->separator, outcome->nseparator, &outcome->right, 8),
    };
    if (b->header.height == PH_MAP_HEIGHT_MOST)
        return PH_M_CORRUPT;
    int64_t root = make_node(b, b->header.height, two, 2);
    if (root < 0)
        return (int)root;
    b->header.root = (uint64_t)root;
    b->header.height++;
    return 0;
}

/* Tell the nodes above what became of the one at `depth`. */
static int carry_up(struct ph_map_build *b, const struct ph_map_cursor *cursor, uint32_t depth, struct outcome *below)
{
    struct outcome kept[2];
    while (depth-- > 0) {
        const struct ph_map_step *step = &cursor->path[depth];
        struct outcome *now = &kept[depth & 1];
        struct change change = {.has_child = below->left != step[1].node, .child_at = step->at, .child = below->left,
                                .adds = below->has_right, .add_at = step->at + 1};
        if (!change.has_child && !change.adds)
            return 0;
        change.entry = entry_of(below->separator, below->nseparator, &below->right, 8);
        int failed = amend(b, step->node, cursor->height - 1 - depth, &change, now);
        if (failed < 0)
            return failed;
        below = now;
    }
    b->header.root = below->left;
    return below->has_right ? grow(b, below) : 0;
}

static int has_views(const struct ph_map *map, uint64_t block)
{
    const struct ph_mark *mark = ph_mark_find(map->heap, ph_local(block));
    return mark != NULL && mark->views != 0;
}

/* Other bytes of the same length, where they are; nobody may be looking. 0: that cannot be done. */
static int overwrite(struct ph_map_build *b, uint64_t offset, const struct ph_map_value *old, const void *value, uint64_t nvalue)
{
    if (old->is_apart || old->length != nvalue || has_views(b->map, offset))
        return 0;
    const uint8_t *node = ph_map_node(b->map, offset, 0);
    struct edit *edit = node == NULL ? NULL : edit_of(b, offset);
    if (edit == NULL)
        return 0;
    copy_node(b, edit->bytes, node);
    memcpy(edit->bytes + old->start, value, nvalue);
    note_range(edit, 0, (uint32_t)old->start, (uint32_t)nvalue);
    return 1;
}

/* The first entry of an empty map. */
static int plant(struct ph_map_build *b, const struct ph_map_item *entry)
{
    int64_t leaf = make_node(b, 0, entry, 1);
    if (leaf < 0)
        return (int)leaf;
    b->header.root = (uint64_t)leaf;
    b->header.height = b->header.count = 1;
    return 0;
}

static int build_put(struct ph_map_build *b, const struct ph_map_cursor *cursor, const struct ph_map_item *entry)
{
    if (cursor->height == 0)
        return plant(b, entry);
    const struct ph_map_step *leaf = &cursor->path[cursor->height - 1];
    struct change change = {.takes = cursor->found, .take_at = leaf->at, .adds = 1, .add_at = leaf->at, .entry = *entry};
    struct outcome outcome;
    int failed = amend(b, leaf->node, 0, &change, &outcome);
    b->header.count += !cursor->found;
    return failed < 0 ? failed : carry_up(b, cursor, cursor->height - 1, &outcome);
}

int ph_map_put(struct ph_map *map, struct ph_tx *tx, const void *key, uint64_t nkey, const void *value, uint64_t nvalue,
               uint64_t placed)
{
    struct ph_map_cursor cursor;
    struct ph_map_value old = {0};
    const uint8_t *old_key;
    uint64_t nold, reference[2] = {placed, nvalue};
    struct ph_map_item entry;
    int failed;
    struct ph_map_build *b = begin(map, tx, &failed);
    if (b == NULL || (failed = ph_map_descend(map, key, nkey, &cursor)) < 0
        || (cursor.found && (failed = ph_map_entry(map, &cursor, &old_key, &nold, &old)) < 0))
        return failed;
    int found = cursor.found;
    if (!found || placed != PH_MAP_NOWHERE || !overwrite(b, cursor.path[cursor.height - 1].node, &old, value, nvalue)) {
        if ((failed = make_entry(b, key, nkey, value, reference, &entry)) < 0
            || (failed = build_put(b, &cursor, &entry)) < 0)
            return give_up(b, failed);
        if (old.is_apart)
            b->frees[b->free_count++] = old.block;
    }
    failed = hand_over(b);
    return failed < 0 ? failed : found;
}

/* ---------------------------------------------------------------- remove */

/* Merge a node, of which `entries` has what is left, with a neighbour; 0: there is none with room for it. `above` has
 * them both; on return it says what happens to it. */
static int merge(struct ph_map_build *b, const struct ph_map_step *step, uint32_t level, uint32_t count, struct change *above)
{
    const uint8_t *parent = ph_map_node(b->map, step->node, level + 1);
    uint32_t nchildren = parent == NULL ? 0 : ph_node_count(parent);
    if (nchildren < 2)
        return 0;
    uint32_t right = step->at + 1 < nchildren ? step->at + 1 : step->at, other = right == step->at ? right - 1 : right;
    struct ph_map_item to_right;
    uint64_t neighbour;
    if (ph_map_child(parent, other, &neighbour) < 0 || ph_node_entry(parent, right, &to_right) < 0)
        return PH_M_CORRUPT;
    const uint8_t *node = ph_map_node(b->map, neighbour, level);
    int more = node == NULL ? PH_M_CORRUPT : read_entries(b, node, count);
    if (more < 0)
        return more;
    uint32_t all = count + (uint32_t)more;
    if (other < step->at) { /* the neighbour comes first */
        struct ph_map_item own[PH_NODE_ENTRIES_MOST];
        memcpy(own, b->entries, count * sizeof *own);
        memmove(b->entries, b->entries + count, (uint32_t)more * sizeof *own);
        memcpy(b->entries + more, own, count * sizeof *own);
    }
    uint32_t border = other < step->at ? (uint32_t)more : count;
    if (level != 0 && border < all) { /* a first key says nothing: the key above does */
        b->entries[border].key = to_right.key;
        b->entries[border].nkey = to_right.nkey;
    }
    if (bytes_of(b->entries, all) > PH_NODE_MERGED)
        return 0;
    int64_t merged = make_node(b, level, b->entries, all);
    if (merged < 0)
        return 0;
    b->frees[b->free_count++] = step[1].node;
    b->frees[b->free_count++] = neighbour;
    *above = (struct change){.has_child = 1, .child_at = right - 1, .child = (uint64_t)merged, .takes = 1, .take_at = right};
    return 1;
}

/* A root above the leaves with one child is none. */
static int shrink(struct ph_map_build *b)
{
    while (b->header.height > 1) {
        const uint8_t *root = NULL;
        for (uint32_t i = 0; i < b->edit_count; i++)
            if (b->edits[i].offset == b->header.root)
                root = b->edits[i].bytes;
        if (root == NULL)
            root = ph_map_node(b->map, b->header.root, b->header.height - 1);
        uint64_t only;
        if (root == NULL || ph_node_count(root) != 1)
            return root == NULL ? PH_M_CORRUPT : 0;
        if (ph_map_child(root, 0, &only) < 0)
            return PH_M_CORRUPT;
        b->frees[b->free_count++] = b->header.root;
        b->header.root = only;
        b->header.height--;
    }
    return 0;
}

static int build_remove(struct ph_map_build *b, const struct ph_map_cursor *cursor)
{
    uint32_t last = cursor->height - 1;
    struct change change = {.takes = 1, .take_at = cursor->path[last].at};
    for (uint32_t depth = last;; depth--) {
        const struct ph_map_step *step = &cursor->path[depth];
        uint32_t level = last - depth;
        const uint8_t *node = ph_map_node(b->map, step->node, level);
        int count = node == NULL ? PH_M_CORRUPT : changed_entries(b, node, &change);
        if (count < 0)
            return count;
        struct change above = {0};
        int merged = 0;
        if (depth == 0 && count == 0) {
            b->frees[b->free_count++] = step->node;
            b->header.root = PH_MAP_NOWHERE;
            b->header.height = 1;
            return 0;
        }
        if (count == 0) {
            b->frees[b->free_count++] = step->node;
            above = (struct change){.takes = 1, .take_at = step[-1].at};
            merged = 1;
        } else if (depth > 0 && bytes_of(b->entries, (uint32_t)count) < PH_NODE_LOW) {
            merged = merge(b, step - 1, level, (uint32_t)count, &above);
        }
        if (merged < 0)
            return merged;
        if (!merged)
            return amend_in_place(b, step->node, node, &change);
        change = above;
    }
}

int ph_map_remove(struct ph_map *map, struct ph_tx *tx, const void *key, uint64_t nkey)
{
    struct ph_map_cursor cursor;
    struct ph_map_value old;
    const uint8_t *old_key;
    uint64_t nold;
    int failed;
    struct ph_map_build *b = begin(map, tx, &failed);
    if (b == NULL || (failed = ph_map_descend(map, key, nkey, &cursor)) < 0 || !cursor.found)
        return failed;
    if ((failed = ph_map_entry(map, &cursor, &old_key, &nold, &old)) < 0)
        return failed;
    if ((failed = build_remove(b, &cursor)) < 0 || (failed = shrink(b)) < 0)
        return give_up(b, failed);
    b->header.count--;
    if (old.is_apart)
        b->frees[b->free_count++] = old.block;
    failed = hand_over(b);
    return failed < 0 ? failed : 1;
}

/* ---------------------------------------------------------------- pack */

/* Neighbours below one node, and what is made of them. */
struct pack {
    uint32_t first, taken;             /* children of the node above */
    uint32_t count, groups;            /* entries; leaves that they fill */
    uint32_t start[PH_PACKED_MOST + 1]; /* the first entry of each of these, and behind the last */
    uint64_t old[PH_PACKED_MOST], made[PH_PACKED_MOST];
    struct outcome border[PH_PACKED_MOST]; /* whose separator says where a leaf begins */
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
            return PH_M_CORRUPT;
        if (pack->count + ph_node_count(leaf) > 2 * PH_NODE_ENTRIES_MOST)
            return 0;
        int more = read_entries(b, leaf, pack->count);
        if (more < 0)
            return more;
        pack->count += (uint32_t)more;
        pack->taken++;
    }
    return 0;
}

/* Divide the entries into leaves that are nearly full. */
static void divide(const struct ph_map_build *b, struct pack *pack)
{
    uint32_t nbytes = PH_MAP_NODE;
    for (uint32_t i = 0; i < pack->count; i++) {
        uint32_t more = PH_NODE_SLOT + ph_entry_bytes(&b->entries[i]);
        if (nbytes + more > PH_NODE_PACKED) {
            if (pack->groups == PH_PACKED_MOST)
                return;
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
            set_separator(&pack->border[i], 0, entries - 1, entries);
        int64_t leaf = make_node(b, 0, entries, pack->start[i + 1] - pack->start[i]);
        if (leaf < 0)
            return (int)leaf;
        pack->made[i] = (uint64_t)leaf;
    }
    return 0;
}

/* The node above, with the new leaves in the place of the old ones. 0: it would be too long. */
static int64_t remake_parent(struct ph_map_build *b, const uint8_t *parent, const struct pack *pack)
{
    int count = read_entries(b, parent, 0);
    if (count < 0)
        return count;
    struct ph_map_item *at = &b->entries[pack->first];
    uint32_t behind = (uint32_t)count - pack->first - pack->taken;
    memmove(at + pack->groups, at + pack->taken, behind * sizeof *at);
    at[0].value = (const uint8_t *)&pack->made[0];
    for (uint32_t i = 1; i < pack->groups; i++)
        at[i] = entry_of(pack->border[i].separator, pack->border[i].nseparator, &pack->made[i], sizeof pack->made[i]);
    uint32_t all = pack->first + pack->groups + behind;
    return bytes_of(b->entries, all) > PH_MAP_NODE ? 0 : make_node(b, 1, b->entries, all);
}

/* Copy the least key behind child `at` of the node at `depth`; 0: there is none. */
static int key_behind(struct ph_map_build *b, const struct ph_map_cursor *cursor, uint32_t depth, uint32_t at,
                      struct ph_map_key *next)
{
    for (;; at = cursor->path[depth].at) {
        const uint8_t *node = ph_map_node(b->map, cursor->path[depth].node, cursor->height - 1 - depth);
        struct ph_map_item entry;
        if (node == NULL || at >= ph_node_count(node))
            return PH_M_CORRUPT;
        if (at + 1 < ph_node_count(node)) {
            if (ph_node_entry(node, at + 1, &entry) < 0 || entry.nkey > PH_MAP_KEY_MOST)
                return PH_M_CORRUPT;
            next->length = entry.nkey;
            memcpy(next->bytes, entry.key, entry.nkey);
            return 1;
        }
        if (depth-- == 0)
            return 0;
    }
}

/* What was divided takes the place of what was gathered. */
static int build_pack(struct ph_map_build *b, const struct ph_map_cursor *cursor, struct pack *pack)
{
    uint32_t depth = cursor->height - 2;
    const struct ph_map_step *step = &cursor->path[depth];
    int failed = make_leaves(b, pack);
    if (failed < 0)
        return failed;
    int64_t parent = remake_parent(b, ph_map_node(b->map, step->node, 1), pack);
    if (parent <= 0)
        return (int)parent;
    struct outcome outcome = {.left = (uint64_t)parent};
    for (uint32_t i = 0; i < pack->taken; i++)
        b->frees[b->free_count++] = pack->old[i];
    b->frees[b->free_count++] = step->node;
    failed = carry_up(b, cursor, depth, &outcome);
    return failed < 0 ? failed : 1;
}

int ph_map_pack(struct ph_map *map, struct ph_tx *tx, const void *key, uint64_t nkey, struct ph_map_key *next)
{
    struct ph_map_cursor cursor;
    struct pack pack = {0};
    int failed;
    struct ph_map_build *b = begin(map, tx, &failed);
    if (b == NULL || (failed = ph_map_descend(map, key, nkey, &cursor)) < 0 || cursor.height < 2)
        return failed;
    uint32_t depth = cursor.height - 2;
    const uint8_t *parent = ph_map_node(map, cursor.path[depth].node, 1);
    pack.first = cursor.path[depth].at;
    if (parent == NULL || (failed = gather(b, parent, &pack)) < 0)
        return PH_M_CORRUPT;
    int more = key_behind(b, &cursor, depth, pack.first + pack.taken - 1, next);
    divide(b, &pack);
    if (more < 0 || pack.groups >= pack.taken || pack.groups == 0)
        return more;
    int is_last = pack.first + pack.taken == ph_node_count(parent);
    int packed = build_pack(b, &cursor, &pack);
    if (packed <= 0)
        return give_up(b, packed < 0 ? packed : more);
    if (!is_last && pack.groups > 1) { /* the last leaf has room for what comes next */
        next->length = pack.border[pack.groups - 1].nseparator;
        memcpy(next->bytes, pack.border[pack.groups - 1].separator, next->length);
    }
    failed = hand_over(b);
    return failed < 0 ? failed : more;
}

/* ---------------------------------------------------------------- patch, make */

int ph_map_patch(struct ph_map *map, struct ph_tx *tx, const void *key, uint64_t nkey, uint64_t start, const void *bytes,
                 uint64_t nbytes)
{
    struct ph_map_value value;
    int found;
    struct ph_map_build *b = begin(map, tx, &found);
    if (b == NULL || (found = ph_map_get(map, key, nkey, &value)) <= 0)
        return found;
    if (start > value.length || nbytes > value.length - start)
        return PH_M_OUTSIDE;
    if (value.is_apart) {
        int failed = ph_tx_write(tx, value.block + start, bytes, nbytes);
        return failed < 0 ? failed : 1;
    }
    const uint8_t *node = ph_map_node(map, value.block, 0);
    struct edit *edit = node == NULL ? NULL : edit_of(b, value.block);
    if (edit == NULL)
        return node == NULL ? PH_M_CORRUPT : PH_L_NOMEM;
    copy_node(b, edit->bytes, node);
    memcpy(edit->bytes + value.start + start, bytes, nbytes);
    note_range(edit, 0, (uint32_t)(value.start + start), (uint32_t)nbytes);
    int failed = hand_over(b);
    return failed < 0 ? failed : 1;
}

int64_t ph_map_make(struct ph_tx *tx, uint64_t arena)
{
    struct ph_map_header header = {.magic = PH_MAP_MAGIC, .root = PH_MAP_NOWHERE, .height = 1};
    int64_t at = ph_tx_malloc(tx, arena, sizeof header, PH_GRANULE);
    if (at >= 0 && ph_tx_write(tx, (uint64_t)at, &header, sizeof header) < 0)
        return PH_M_TORN;
    return at;
}
