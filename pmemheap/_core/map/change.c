/* map/change.c -- changing a map: put, remove, patch. map/build.c has the steps. */
#include "map/build.h"

enum {
    PH_NODE_SLACK = PH_MAP_NODE / 32, /* a node that would have less room without its waste is full */
    PH_NODE_LOW = PH_MAP_NODE / 2,    /* one with less in it is merged with a neighbour */
};

/* ---------------------------------------------------------------- one node */

/* Whether a node of so many entries has the places of a change. They were found in it, but others may write to a file. */
static int has_places(const struct ph_map_change *change, uint32_t count)
{
    return (!change->has_child || change->child_at < count) && (!change->takes || change->take_at < count)
        && (!change->adds || change->add_at + change->takes <= count);
}

/* The entries of a node as a change leaves them. */
static int changed_entries(struct ph_map_build *b, const uint8_t *node, struct ph_map_change *change)
{
    int count = ph_map_read_entries(b, node, 0);
    if (count < 0)
        return count;
    struct ph_map_item *entries = b->entries;
    if (!has_places(change, (uint32_t)count)
        || (change->has_child && entries[change->child_at].said != sizeof change->child))
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

static int replace_child(struct ph_map_edit *edit, const struct ph_map_change *change)
{
    struct ph_map_item entry;
    if (ph_node_entry(edit->bytes, change->child_at, &entry) < 0 || entry.said != sizeof change->child)
        return PH_M_CORRUPT;
    uint32_t at = (uint32_t)(entry.value - edit->bytes);
    memcpy(edit->bytes + at, &change->child, sizeof change->child);
    ph_map_edit_range(edit, at, sizeof change->child);
    return 0;
}

/* Whether a copied node has the places of a change, and `need` bytes of room that no entry uses. */
static int can_take(const uint8_t *bytes, const struct ph_map_change *change, uint32_t need)
{
    return has_places(change, ph_node_count(bytes)) && need <= ph_node_room(bytes)
        && (!change->adds || ph_node_room_is_free(bytes));
}

/* Header and slots that are others now: one, if an entry has come for another; else all. */
static void note_slots(struct ph_map_edit *edit, const struct ph_map_change *change, uint32_t prefix)
{
    struct ph_node header = ph_node_header(edit->bytes);
    uint32_t at = ph_node_slot(change->take_at);
    if (!change->takes || !change->adds || change->take_at != change->add_at || header.prefix != prefix) {
        ph_map_edit_range(edit, 0, ph_node_slot(header.count));
        return;
    }
    ph_map_edit_range(edit, 0, PH_NODE_FIRST);
    ph_map_edit_range(edit, at, PH_NODE_SLOT);
}

/* A change of a node where it is, for which there is room. */
static int amend_in_place(struct ph_map_build *b, uint64_t offset, uint32_t level, const uint8_t *node,
                          const struct ph_map_change *change, uint32_t need)
{
    struct ph_map_edit *edit = ph_map_edit_of(b, offset);
    if (edit == NULL)
        return PH_L_NOMEM;
    uint8_t *bytes = edit->bytes;
    if (ph_map_copy_node(b, edit, node, level, 0) < 0 || !can_take(bytes, change, need))
        return ph_map_fail(b->map, offset, PH_M_CORRUPT);
    if (change->has_child && replace_child(edit, change) < 0)
        return PH_M_CORRUPT;
    if (change->takes)
        ph_node_take(bytes, node, change->take_at);
    if (change->adds) {
        uint32_t at = ph_node_add(bytes, node, change->add_at, &change->entry);
        ph_map_edit_range(edit, at, ph_entry_bytes(&change->entry));
    }
    if (change->takes || change->adds)
        note_slots(edit, change, ph_node_header(node).prefix);
    return 0;
}

/* How many entries stay on the left: half of the bytes; all but the new one if that is the last, as keys that come in
 * order want it. */
static uint32_t split_point(const struct ph_map_item *entries, uint32_t count, const struct ph_map_change *change)
{
    if (change->adds && change->add_at == count - 1)
        return count - 1;
    uint32_t half = ph_map_bytes_of(entries, count) / 2, nbytes = PH_NODE_FIRST, i = 0;
    while (i < count - 1 && (i == 0 || nbytes < half))
        nbytes += PH_NODE_SLOT + ph_entry_bytes(&entries[i++]);
    return i;
}

/* Entries from `at` on leave a node, in place. */
static int truncate_node(struct ph_map_build *b, uint64_t offset, uint32_t level, const uint8_t *node,
                         const struct ph_map_change *change, uint32_t at)
{
    struct ph_map_edit *edit = ph_map_edit_of(b, offset);
    if (edit == NULL)
        return PH_L_NOMEM;
    if (ph_map_copy_node(b, edit, node, level, 0) < 0)
        return ph_map_fail(b->map, offset, PH_M_CORRUPT);
    if (change->has_child && change->child_at < at && replace_child(edit, change) < 0)
        return PH_M_CORRUPT;
    while (ph_node_count(edit->bytes) > at)
        ph_node_take(edit->bytes, node, ph_node_count(edit->bytes) - 1);
    ph_map_edit_range(edit, 0, PH_NODE_FIRST);
    return 0;
}

static int split(struct ph_map_build *b, uint64_t offset, uint32_t level, const uint8_t *node, const struct ph_map_change *change,
                 uint32_t count, struct ph_map_outcome *outcome)
{
    const struct ph_map_item *entries = b->entries;
    uint32_t left = split_point(entries, count, change);
    ph_map_separate(outcome, level, &entries[left - 1], &entries[left]);
    int64_t right = ph_map_make_node(b, level, &entries[left], count - left);
    if (right < 0)
        return (int)right;
    outcome->right = (uint64_t)right;
    outcome->has_right = 1;
    if ((!change->adds || change->add_at >= left) && (!change->takes || change->take_at >= left))
        return truncate_node(b, offset, level, node, change, left);
    return ph_map_arrange(b, offset, level, node, entries, left, &outcome->left);
}

/* Move entries of a leaf that is full to one beside it. 1; 0: none has room; or a failure. */
static int share(struct ph_map_build *b, const struct ph_map_step *above, const uint8_t *leaf, struct ph_map_change *change,
                 struct ph_map_outcome *outcome)
{
    struct ph_map_neighbour other;
    int done = ph_map_find_room(b, above, leaf, &other);
    if (done <= 0)
        return done;
    done = ph_map_share_some(b, above, leaf, &other, change, outcome);
    if (done == 0) {
        int count = changed_entries(b, leaf, change);
        done = count < 0 ? count : ph_map_share(b, above, leaf, &other, (uint32_t)count, outcome);
    }
    outcome->has_right = 1;
    outcome->shared_at = above->at > other.at ? above->at : other.at;
    if (done == 0)
        ph_map_stays(outcome, above[1].node);
    return done;
}

/* Change one node, where it is, or made anew, or with a neighbour, or as two. `above` leads to a leaf; NULL: it is the root,
 * or no leaf. */
static int modify(struct ph_map_build *b, uint64_t offset, uint32_t level, struct ph_map_change *change,
                  const struct ph_map_step *above, struct ph_map_outcome *outcome)
{
    const uint8_t *node = ph_map_node(b->map, offset, level);
    ph_map_stays(outcome, offset);
    if (node == NULL)
        return b->map->why;
    uint32_t need = change->adds ? ph_entry_bytes(&change->entry) + (change->takes ? 0 : PH_NODE_SLOT) : 0;
    if (need <= ph_node_room(node))
        return amend_in_place(b, offset, level, node, change, need);
    int is_last = change->adds && change->add_at + !change->takes > ph_node_count(node);
    if (above != NULL && !is_last && ph_node_used(node) + need + PH_NODE_SLACK > PH_MAP_NODE) {
        int shared = share(b, above, node, change, outcome);
        if (shared != 0)
            return shared;
    }
    int count = changed_entries(b, node, change);
    if (count < 0)
        return count;
    if (count < 2 || ph_map_bytes_of(b->entries, (uint32_t)count) + PH_NODE_SLACK <= PH_MAP_NODE)
        return ph_map_arrange(b, offset, level, node, b->entries, (uint32_t)count, &outcome->left);
    return split(b, offset, level, node, change, (uint32_t)count, outcome);
}

/* ---------------------------------------------------------------- put */

/* Make the value of a leaf entry: the bytes, or where they lie apart. `reference`: where it is placed already, its length. */
static int make_entry(struct ph_map_build *b, const void *key, uint64_t nkey, const void *value, uint64_t *reference,
                      struct ph_map_item *entry)
{
    if (reference[0] == PH_MAP_NOWHERE && nkey + reference[1] <= PH_MAP_ENTRY_MOST) {
        *entry = ph_map_item_of(key, nkey, value, reference[1]);
        return 0;
    }
    if (reference[0] == PH_MAP_NOWHERE) {
        int64_t offset = ph_map_make_block(b, reference[1]);
        if (offset < 0)
            return (int)offset;
        int failed = ph_tx_write(b->tx, (uint64_t)offset, value, reference[1]);
        if (failed < 0)
            return failed;
        reference[0] = (uint64_t)offset;
    }
    *entry = ph_map_item_of(key, nkey, reference, PH_NODE_REFERENCE);
    entry->said = PH_NODE_APART;
    return 0;
}

/* A new root over two nodes. */
static int grow(struct ph_map_build *b, const struct ph_map_outcome *outcome)
{
    const struct ph_map_item two[2] = {
        ph_map_item_of("", 0, &outcome->left, 8),
        ph_map_item_of(outcome->separator, outcome->nseparator, &outcome->right, 8),
    };
    if (b->header.height == PH_MAP_HEIGHT_MOST)
        return PH_M_CORRUPT;
    int64_t root = ph_map_make_node(b, b->header.height, two, 2);
    if (root < 0)
        return (int)root;
    b->header.root = (uint64_t)root;
    b->header.height++;
    return 0;
}

/* What happens to a node, whose entry `at` has led to one below. */
static struct ph_map_change change_above(uint32_t at, const struct ph_map_outcome *below)
{
    struct ph_map_change change = {.has_child = below->left != below->left_was, .child_at = at, .child = below->left,
                                   .adds = below->has_right, .add_at = at + 1};
    change.entry = ph_map_item_of(below->separator, below->nseparator, &below->right, 8);
    if (below->shared_at != 0) {
        change.child_at = below->shared_at - 1;
        change.takes = 1;
        change.take_at = change.add_at = below->shared_at;
    }
    return change;
}

int ph_map_carry_up(struct ph_map_build *b, const struct ph_map_cursor *cursor, uint32_t depth,
                    struct ph_map_outcome *below)
{
    struct ph_map_outcome kept[2];
    while (depth-- > 0) {
        const struct ph_map_step *step = &cursor->path[depth];
        struct ph_map_outcome *now = &kept[depth & 1];
        struct ph_map_change change = change_above(step->at, below);
        if (!change.has_child && !change.adds)
            return 0;
        int failed = modify(b, step->node, cursor->height - 1 - depth, &change, NULL, now);
        if (failed < 0)
            return failed;
        below = now;
    }
    b->header.root = below->left;
    return below->has_right ? grow(b, below) : 0;
}

/* Other bytes of the same length, where they are; nobody may be looking. 1, 0: that cannot be done, or a failure. */
static int overwrite(struct ph_map_build *b, const struct ph_map_cursor *cursor, const struct ph_map_value *old,
                     const void *value, uint64_t nvalue)
{
    if (old->is_apart || old->length != nvalue || ph_map_has_views(b->map, old->block))
        return 0;
    struct ph_map_edit *edit = ph_map_edit_of(b, old->block);
    if (edit == NULL)
        return 0;
    if (ph_map_copy_node(b, edit, cursor->leaf, 0, 1) < 0)
        return ph_map_fail(b->map, old->block, PH_M_CORRUPT);
    memcpy(edit->bytes + old->start, value, nvalue);
    ph_map_edit_range(edit, (uint32_t)old->start, (uint32_t)nvalue);
    return 1;
}

/* The first entry of an empty map. */
static int insert_first(struct ph_map_build *b, const struct ph_map_item *entry)
{
    int64_t leaf = ph_map_make_node(b, 0, entry, 1);
    if (leaf < 0)
        return (int)leaf;
    b->header.root = (uint64_t)leaf;
    b->header.height = b->header.count = 1;
    return 0;
}

static int build_put(struct ph_map_build *b, const struct ph_map_cursor *cursor, const struct ph_map_item *entry)
{
    if (cursor->height == 0)
        return insert_first(b, entry);
    const struct ph_map_step *leaf = &cursor->path[cursor->height - 1];
    struct ph_map_change change = {.takes = cursor->found, .take_at = leaf->at, .adds = 1, .add_at = leaf->at, .entry = *entry};
    struct ph_map_outcome outcome;
    int failed = modify(b, leaf->node, 0, &change, cursor->height > 1 ? leaf - 1 : NULL, &outcome);
    b->header.count += !cursor->found;
    if (cursor->is_end)
        b->last_leaf = outcome.has_right ? outcome.right : outcome.left;
    return failed < 0 ? failed : ph_map_carry_up(b, cursor, cursor->height - 1, &outcome);
}

int ph_map_put(struct ph_map *map, const void *key, uint64_t nkey, const void *value, uint64_t nvalue, uint64_t placed)
{
    struct ph_map_cursor cursor;
    struct ph_map_value old = {0};
    struct ph_map_item entry;
    uint64_t reference[2] = {placed, nvalue};
    int failed;
    if (placed == PH_MAP_NOWHERE && ph_map_append(map, key, nkey, value, nvalue))
        return 0;
    struct ph_map_build *b = ph_map_begin(map, &failed);
    if (b == NULL || (failed = ph_map_descend(map, &b->header, key, nkey, &cursor)) < 0
        || (failed = ph_map_own(b, &cursor, cursor.height)) < 0
        || (cursor.found && (failed = ph_map_found(map, &cursor, &old)) < 0))
        return failed;
    int is_done = cursor.found && placed == PH_MAP_NOWHERE ? overwrite(b, &cursor, &old, value, nvalue) : 0;
    if (is_done < 0)
        return ph_map_give_up(b, is_done);
    if (!is_done) {
        if ((failed = make_entry(b, key, nkey, value, reference, &entry)) < 0
            || (failed = build_put(b, &cursor, &entry)) < 0)
            return ph_map_give_up(b, failed);
        if (old.is_apart)
            ph_map_free_later(b, old.block);
    }
    failed = ph_map_emit(b);
    if (failed == 0 && b->last_leaf != PH_MAP_NOWHERE && !map->is_alone)
        ph_map_note_end(b);
    return failed < 0 ? failed : cursor.found;
}

/* ---------------------------------------------------------------- remove */

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
            return root == NULL ? b->map->why : 0;
        if (ph_map_child(root, 0, &only) < 0)
            return PH_M_CORRUPT;
        ph_map_free_later(b, b->header.root);
        b->header.root = only;
        b->header.height--;
    }
    return 0;
}

static int build_remove(struct ph_map_build *b, const struct ph_map_cursor *cursor)
{
    uint32_t last = cursor->height - 1;
    struct ph_map_change change = {.takes = 1, .take_at = cursor->path[last].at};
    for (uint32_t depth = last;; depth--) {
        const struct ph_map_step *step = &cursor->path[depth];
        uint32_t level = last - depth;
        const uint8_t *node = ph_map_node(b->map, step->node, level);
        int count = node == NULL ? b->map->why : changed_entries(b, node, &change);
        if (count < 0)
            return count;
        struct ph_map_change above = {0};
        int merged = 0;
        if (depth == 0 && count == 0) {
            ph_map_free_later(b, step->node);
            b->header.root = PH_MAP_NOWHERE;
            b->header.height = 1;
            return 0;
        }
        if (count == 0) {
            ph_map_free_later(b, step->node);
            above = (struct ph_map_change){.takes = 1, .take_at = step[-1].at};
            merged = 1;
        } else if (depth > 0 && ph_map_bytes_of(b->entries, (uint32_t)count) < PH_NODE_LOW) {
            merged = ph_map_merge(b, step - 1, level, (uint32_t)count, &above);
        }
        if (merged < 0)
            return merged;
        if (!merged)
            return amend_in_place(b, step->node, level, node, &change, 0);
        change = above;
    }
}

int ph_map_remove(struct ph_map *map, const void *key, uint64_t nkey)
{
    struct ph_map_cursor cursor;
    struct ph_map_value old;
    int failed;
    struct ph_map_build *b = ph_map_begin(map, &failed);
    if (b == NULL || (failed = ph_map_descend(map, &b->header, key, nkey, &cursor)) < 0 || !cursor.found)
        return failed;
    if ((failed = ph_map_own(b, &cursor, cursor.height)) < 0 || (failed = ph_map_found(map, &cursor, &old)) < 0)
        return failed;
    if ((failed = build_remove(b, &cursor)) < 0 || (failed = shrink(b)) < 0)
        return ph_map_give_up(b, failed);
    b->header.count--;
    if (old.is_apart)
        ph_map_free_later(b, old.block);
    failed = ph_map_emit(b);
    return failed < 0 ? failed : 1;
}

/* ---------------------------------------------------------------- patch */

/* Other bytes of a value of a leaf, where they are. */
static int patch_here(struct ph_map_build *b, const struct ph_map_cursor *cursor, uint64_t at, const void *bytes,
                      uint64_t nbytes)
{
    uint64_t offset = cursor->path[cursor->height - 1].node;
    struct ph_map_edit *edit = ph_map_edit_of(b, offset);
    if (edit == NULL)
        return PH_L_NOMEM;
    if (ph_map_copy_node(b, edit, cursor->leaf, 0, 1) < 0)
        return ph_map_fail(b->map, offset, PH_M_CORRUPT);
    memcpy(edit->bytes + at, bytes, nbytes);
    ph_map_edit_range(edit, (uint32_t)at, (uint32_t)nbytes);
    return 0;
}

/* A copy of a value apart, for the transaction to change; the entry leads to it. */
static int copy_apart(struct ph_map_build *b, const struct ph_map_cursor *cursor, struct ph_map_value *value)
{
    struct ph_map_item entry;
    int64_t to = ph_map_make_block(b, value->length);
    int failed = to < 0 ? (int)to : ph_tx_write(b->tx, (uint64_t)to, value->bytes, value->length);
    if (failed < 0)
        return failed;
    ph_tx_carry(b->tx, value->block, value->length, (uint64_t)to);
    ph_map_free_later(b, value->block);
    value->block = (uint64_t)to;
    if (ph_node_entry(cursor->leaf, cursor->path[cursor->height - 1].at, &entry) < 0 || entry.said != PH_NODE_APART)
        return PH_M_CORRUPT;
    return patch_here(b, cursor, (uint64_t)(entry.value - cursor->leaf), &value->block, sizeof value->block);
}

static int patch_apart(struct ph_map_build *b, const struct ph_map_cursor *cursor, struct ph_map_value *value,
                       uint64_t start, const void *bytes, uint64_t nbytes)
{
    int is_kept = ph_map_copies(b) && !ph_tx_has_made(b->tx, value->block);
    int failed = is_kept ? copy_apart(b, cursor, value) : 0;
    if (failed == 0 && (failed = ph_tx_write(b->tx, value->block + start, bytes, nbytes)) < 0)
        failed = ph_map_refusal(b->map, value->block, failed);
    return failed;
}

int ph_map_patch(struct ph_map *map, const void *key, uint64_t nkey, uint64_t start, const void *bytes, uint64_t nbytes)
{
    struct ph_map_cursor cursor;
    struct ph_map_value value;
    int failed;
    struct ph_map_build *b = ph_map_begin(map, &failed);
    if (b == NULL || (failed = ph_map_descend(map, &b->header, key, nkey, &cursor)) < 0 || !cursor.found)
        return failed;
    if ((failed = ph_map_found(map, &cursor, &value)) < 0)
        return failed;
    if (start > value.length || nbytes > value.length - start)
        return PH_M_OUTSIDE;
    if (nbytes == 0)
        return 1;
    if ((failed = ph_map_own(b, &cursor, cursor.height)) < 0 || (failed = ph_map_found(map, &cursor, &value)) < 0)
        return failed;
    failed = value.is_apart ? patch_apart(b, &cursor, &value, start, bytes, nbytes)
                            : patch_here(b, &cursor, value.start + start, bytes, nbytes);
    if (failed < 0)
        return ph_map_give_up(b, failed);
    failed = b->edit_count == 0 ? 0 : ph_map_emit(b);
    return failed < 0 ? failed : 1;
}
