/* map/read.c -- reading a map: header, nodes, descents, cursors, values. */
#include "map/map.h"

#include <stdlib.h>

#include "base/hints.h"
#include "map/internal.h"

enum { PH_ENTRY_LEAST = PH_NODE_SLOT + 4 }; /* bytes of an entry without key and value, with its slot */

void ph_map_fini(struct ph_map *map)
{
    free(map->build);
    map->build = NULL;
}

const uint8_t *ph_map_place(const struct ph_map *map, uint64_t offset, uint64_t nbytes)
{
    const struct ph_heap *h = map->heap;
    uint64_t local = ph_local(offset), first = h->data_first << PH_UNIT_SHIFT, end = h->data_end << PH_UNIT_SHIFT;
    if (offset >> PH_ARENA_SHIFT != map->arena || local % PH_GRANULE != 0 || local < first || local > end
        || nbytes > end - local)
        return NULL;
    return h->data + local;
}

/* ---------------------------------------------------------------- pages, as the transaction leaves them */

/* An image of what lies at home, with what the transaction has collected for it. What the page has behind `nbytes` is
 * ones: of a header, that its number of entries is collected nowhere, and a version that nobody has noted. */
static const uint8_t *rebuild(struct ph_map *map, uint64_t offset, const uint8_t *home, uint64_t nbytes)
{
    struct ph_tx *tx = map->tx;
    uint8_t *bytes = ph_page_take(tx->log);
    if (bytes == NULL || ph_tx_image_room(tx, 1) < 0) {
        ph_page_give(tx->log, bytes);
        map->why = PH_L_NOMEM;
        return NULL;
    }
    memcpy(bytes, home, nbytes);
    memset(bytes + nbytes, 0xFF, PH_PAGE_BYTES - nbytes);
    ph_tx_overlay(tx, offset, nbytes, bytes);
    ph_tx_image_keep(tx, offset, bytes, 0);
    return bytes;
}

/* The page at an offset as it is committed; NULL: map->why. */
static inline const uint8_t *page_at_home(struct ph_map *map, uint64_t offset, uint64_t nbytes)
{
    const uint8_t *page = ph_map_place(map, offset, nbytes);
    map->bad = offset;
    if (page == NULL)
        map->why = PH_M_CORRUPT;
    return page;
}

/* The same as the transaction leaves it. */
static const uint8_t *page_in_tx(struct ph_map *map, uint64_t offset, uint64_t nbytes)
{
    const uint8_t *page = page_at_home(map, offset, nbytes);
    const uint8_t *image = page == NULL ? NULL : ph_tx_image(map->tx, offset, page);
    if (image != NULL || page == NULL)
        return image;
    return map->tx->images.has_strays && ph_tx_touches(map->tx, offset) ? rebuild(map, offset, page, nbytes) : page;
}

/* A transaction that has changed nothing yet sees what is committed. */
static inline const uint8_t *page_at(struct ph_map *map, uint64_t offset, uint64_t nbytes)
{
    const struct ph_tx *tx = map->tx;
    if (tx == NULL || (tx->images.pages.used == 0 && !tx->images.has_strays))
        return page_at_home(map, offset, nbytes);
    return page_in_tx(map, offset, nbytes);
}

int ph_map_header_at(struct ph_map *map, struct ph_map_header *header)
{
    const uint8_t *at = page_at(map, map->header, sizeof *header);
    if (at == NULL)
        return map->why;
    memcpy(header, at, sizeof *header);
    return 0;
}

/* A map without entries has no nodes, and a heap has room for so many entries only. */
static int header_is_sound(const struct ph_map *map, const struct ph_map_header *header)
{
    uint64_t room = (map->heap->data_end - map->heap->data_first) << PH_UNIT_SHIFT;
    int is_empty = header->root == PH_MAP_NOWHERE;
    return header->magic == PH_MAP_MAGIC && header->id == map->id && header->height >= 1
        && header->height <= (is_empty ? 1 : PH_MAP_HEIGHT_MOST) && header->count <= room / PH_ENTRY_LEAST
        && is_empty == (header->count == 0);
}

int ph_map_header_of(struct ph_map *map, struct ph_map_header *header)
{
    int failed = ph_map_header_at(map, header);
    return failed < 0 ? failed : header_is_sound(map, header) ? 0 : PH_M_CORRUPT;
}

static inline const uint8_t *node_at(struct ph_map *map, uint64_t offset, uint32_t level)
{
    const uint8_t *node = page_at(map, offset, PH_MAP_NODE);
    if (node == NULL || ph_node_is_sound(node, level))
        return node;
    map->why = PH_M_CORRUPT;
    return NULL;
}

const uint8_t *ph_map_node(struct ph_map *map, uint64_t offset, uint32_t level)
{
    return node_at(map, offset, level);
}

/* ---------------------------------------------------------------- descents */

int ph_map_child(const uint8_t *node, uint32_t at, uint64_t *child)
{
    struct ph_map_item entry;
    if (at >= ph_node_count(node) || ph_node_entry(node, at, &entry) < 0 || entry.said != sizeof *child)
        return PH_M_CORRUPT;
    memcpy(child, entry.value, sizeof *child);
    return 0;
}

/* The entry of a node above the leaves that leads to `key`. */
static int child_for_key(const uint8_t *node, const void *key, uint64_t nkey, uint32_t *at)
{
    int found;
    if (ph_node_count(node) == 0 || ph_node_find(node, key, nkey, at, &found) < 0)
        return PH_M_CORRUPT;
    *at -= !found;
    return 0;
}

/* Let the processor fetch what will be looked at first of a node, all at once; and what says that it is a block, if it may
 * be changed. */
static void look_ahead(const struct ph_map *map, uint64_t offset)
{
    const uint8_t *node = map->heap->data + ph_local(offset);
    if (map->tx != NULL)
        __builtin_prefetch(&map->heap->units[ph_local(offset) >> PH_UNIT_SHIFT]);
    for (uint32_t i = 0; i < PH_MAP_LINES_AHEAD; i++)
        __builtin_prefetch(node + (size_t)PH_CACHE_LINE * i);
}

/* Whether a key that is not found lies on its side of the leaf before or behind the one to which its way has led. */
static int confirm_beside(struct ph_map *map, const struct ph_map_cursor *cursor, const void *key, uint64_t nkey, int back)
{
    struct ph_map_cursor beside = *cursor;
    struct ph_map_item entry;
    int found = ph_map_step(map, &beside, back);
    if (found <= 0)
        return found;
    const struct ph_map_step *step = &beside.path[beside.height - 1];
    const uint8_t *leaf = ph_map_node(map, step->node, 0);
    if (leaf == NULL)
        return map->why;
    int order = ph_node_entry(leaf, step->at, &entry) < 0 ? 0 : ph_key_order(entry.key, entry.nkey, key, nkey);
    return (back ? order < 0 : order > 0) ? 0 : ph_map_fail(map, step->node, PH_M_CORRUPT);
}

/* Whether a way leads along the last entries, to the last leaf of all. */
static int is_last_way(const struct ph_map_cursor *cursor, const uint8_t *const *nodes)
{
    for (uint32_t depth = 0; depth + 1 < cursor->height; depth++)
        if (cursor->path[depth].at + 1 != ph_node_count(nodes[depth]))
            return 0;
    return 1;
}

/* Whether the leaf in which a key is not found is the leaf for it: it is if it has keys on both sides of the place, for no two
 * leaves share a range. At an edge the nodes above and the leaf beside it are asked: a separator may be damaged. */
static int confirm_way(struct ph_map *map, struct ph_map_cursor *cursor, const uint8_t *const *nodes,
                       const void *key, uint64_t nkey)
{
    uint32_t at = cursor->path[cursor->height - 1].at, count = ph_node_count(cursor->leaf);
    int failed = 0;
    if (at > 0 && at < count)
        return 0;
    for (uint32_t depth = 0; depth + 1 < cursor->height; depth++)
        if (!ph_node_leads(nodes[depth], key, nkey, cursor->path[depth].at))
            return ph_map_fail(map, cursor->path[depth].node, PH_M_CORRUPT);
    if (at == 0)
        failed = confirm_beside(map, cursor, key, nkey, 1);
    if (failed < 0 || at < count)
        return failed;
    cursor->is_end = is_last_way(cursor, nodes);
    return cursor->is_end ? 0 : confirm_beside(map, cursor, key, nkey, 0);
}

int ph_map_descend(struct ph_map *map, const struct ph_map_header *header, const void *key, uint64_t nkey,
                   struct ph_map_cursor *cursor)
{
    const uint8_t *nodes[PH_MAP_HEIGHT_MOST];
    uint64_t offset = header->root;
    uint32_t last = header->height - 1;
    cursor->found = cursor->is_end = 0;
    cursor->height = offset == PH_MAP_NOWHERE ? 0 : header->height;
    if (cursor->height == 0)
        return 0;
    for (uint32_t depth = 0;; depth++) {
        const uint8_t *node = node_at(map, offset, last - depth);
        struct ph_map_step *step = &cursor->path[depth];
        if (node == NULL)
            return map->why;
        step->node = offset;
        cursor->leaf = nodes[depth] = node;
        if (depth == last && ph_node_find(node, key, nkey, &step->at, &cursor->found) < 0)
            return PH_M_CORRUPT;
        if (depth == last)
            return cursor->found ? 0 : confirm_way(map, cursor, nodes, key, nkey);
        if (child_for_key(node, key, nkey, &step->at) < 0 || ph_map_child(node, step->at, &offset) < 0)
            return PH_M_CORRUPT;
        look_ahead(map, offset);
    }
}

/* The same from the root of the map. */
static int find(struct ph_map *map, const void *key, uint64_t nkey, struct ph_map_cursor *cursor)
{
    struct ph_map_header header;
    int failed = ph_map_header_of(map, &header);
    return failed < 0 ? failed : ph_map_descend(map, &header, key, nkey, cursor);
}

/* ---------------------------------------------------------------- cursors */

/* The key above the leaf of a cursor that no key of it is less than, or, `behind`, that all of it are less than. 0: there
 * is none. */
static int border(struct ph_map *map, const struct ph_map_cursor *cursor, int behind, struct ph_map_item *key)
{
    for (uint32_t depth = cursor->height - 1; depth-- > 0;) {
        const struct ph_map_step *step = &cursor->path[depth];
        const uint8_t *node = ph_map_node(map, step->node, cursor->height - 1 - depth);
        uint32_t at = step->at + (behind ? 1 : 0);
        if (node == NULL)
            return map->why;
        if (at != 0 && at < ph_node_count(node))
            return ph_node_entry(node, at, key) < 0 ? PH_M_CORRUPT : 1;
    }
    return 0;
}

/* Whether the keys of the leaf at a cursor lie where those above say. No leaf is empty. */
static int enter_leaf(struct ph_map *map, const struct ph_map_cursor *cursor)
{
    uint64_t offset = cursor->path[cursor->height - 1].node;
    struct ph_map_item low, high, first, last;
    int has_low = border(map, cursor, 0, &low), has_high = has_low < 0 ? has_low : border(map, cursor, 1, &high);
    if (has_high < 0)
        return has_high;
    const uint8_t *node = ph_map_node(map, offset, 0);
    uint32_t count = node == NULL ? 0 : ph_node_count(node);
    if (node == NULL)
        return map->why;
    if (count == 0 || ph_node_entry(node, 0, &first) < 0 || ph_node_entry(node, count - 1, &last) < 0
        || (has_low && ph_item_order(&first, &low) < 0) || (has_high && ph_item_order(&last, &high) >= 0))
        return PH_M_CORRUPT;
    return 1;
}

/* From step `depth` on, go down along the first entries, or the last. */
static int go_down(struct ph_map *map, struct ph_map_cursor *cursor, uint32_t depth, uint64_t offset, int last)
{
    for (;; depth++) {
        const uint8_t *node = ph_map_node(map, offset, cursor->height - 1 - depth);
        if (node == NULL)
            return map->why;
        uint32_t count = ph_node_count(node);
        cursor->path[depth] = (struct ph_map_step){.node = offset, .at = last && count ? count - 1 : 0};
        if (depth + 1 == cursor->height)
            return enter_leaf(map, cursor);
        if (ph_map_child(node, cursor->path[depth].at, &offset) < 0)
            return PH_M_CORRUPT;
    }
}

/* To the next entry of the node at `depth`, or the one before; up and down again where it has none. */
static int advance(struct ph_map *map, struct ph_map_cursor *cursor, uint32_t depth, int back)
{
    for (;; depth--) {
        struct ph_map_step *step = &cursor->path[depth];
        const uint8_t *node = ph_map_node(map, step->node, cursor->height - 1 - depth);
        uint64_t child;
        if (node == NULL)
            return map->why;
        if (back ? step->at > 0 : step->at + 1 < ph_node_count(node)) {
            step->at += back ? -1u : 1u;
            if (depth + 1 == cursor->height)
                return 1;
            if (ph_map_child(node, step->at, &child) < 0)
                return PH_M_CORRUPT;
            return go_down(map, cursor, depth + 1, child, back);
        }
        if (depth == 0)
            return 0;
    }
}

int ph_map_step(struct ph_map *map, struct ph_map_cursor *cursor, int back)
{
    return advance(map, cursor, cursor->height - 1, back);
}

static int seek_end(struct ph_map *map, int last, struct ph_map_cursor *cursor)
{
    struct ph_map_header header;
    int failed = ph_map_header_of(map, &header);
    cursor->height = header.height;
    if (failed < 0 || header.root == PH_MAP_NOWHERE)
        return failed;
    return go_down(map, cursor, 0, header.root, last);
}

int ph_map_seek(struct ph_map *map, const void *key, uint64_t nkey, int last, struct ph_map_cursor *cursor)
{
    if (key == NULL)
        return seek_end(map, last, cursor);
    int failed = find(map, key, nkey, cursor);
    if (failed == 0 && cursor->height != 0)
        failed = enter_leaf(map, cursor);
    if (failed <= 0)
        return failed;
    struct ph_map_step *leaf = &cursor->path[cursor->height - 1];
    const uint8_t *node = ph_map_node(map, leaf->node, 0);
    if (node == NULL)
        return map->why;
    if (!last && leaf->at < ph_node_count(node))
        return 1;
    if (!last)
        leaf->at -= leaf->at != 0; /* behind the last one: that is where advance wants to begin */
    return advance(map, cursor, cursor->height - 1, last);
}

/* How many entries of the leaf at a cursor stand from there on before `high`; NULL: all. `more`: whether others may follow. */
static int64_t left_in_leaf(struct ph_map *map, const struct ph_map_step *leaf, const void *high, uint64_t nhigh, int *more)
{
    const uint8_t *node = ph_map_node(map, leaf->node, 0);
    uint32_t stop = node == NULL ? 0 : ph_node_count(node);
    int found;

    if (node == NULL)
        return map->why;
    if (high != NULL && ph_node_find(node, high, nhigh, &stop, &found) < 0)
        return PH_M_CORRUPT;
    *more = stop == ph_node_count(node);
    return stop > leaf->at ? stop - leaf->at : 0;
}

int ph_map_count_range(struct ph_map *map, const void *low, uint64_t nlow, const void *high, uint64_t nhigh, uint64_t *count)
{
    struct ph_map_cursor cursor;
    uint64_t most;
    int more = ph_map_count(map, &most);

    *count = 0;
    if (more == 0)
        more = ph_map_seek(map, low, nlow, 0, &cursor);
    while (more > 0) {
        struct ph_map_step *leaf = &cursor.path[cursor.height - 1];
        int64_t here = left_in_leaf(map, leaf, high, nhigh, &more);
        if (here < 0)
            return (int)here;
        if ((*count += (uint64_t)here) > most) /* leaves that lead in a circle are no more than all */
            return PH_M_CORRUPT;
        leaf->at += here != 0 ? (uint32_t)here - 1 : 0;
        if (more)
            more = ph_map_step(map, &cursor, 0);
    }
    return more;
}

/* ---------------------------------------------------------------- values */

/* Whether a value apart lies in one block that begins with it. A block that was freed by a commit of which not all is
 * home yet is one as well. */
static int apart_is_sound(struct ph_map *map, const struct ph_map_value *value)
{
    if (value->bytes == NULL)
        return PH_M_CORRUPT;
    if (map->is_beside || map->is_fixed)
        return 1;
    if (map->heap->first_unit == map->heap->end_unit)
        return PH_M_UNMAPPED;
    struct ph_block block = ph_block_at(map->heap, ph_local(value->block));
    return block.state == PH_B_NONE || ph_block_capacity(&block) < value->length ? PH_M_CORRUPT : 1;
}

static int apart_of(struct ph_map *map, const struct ph_map_item *entry, struct ph_map_value *value)
{
    uint64_t apart[2];
    memcpy(apart, entry->value, sizeof apart);
    *value = (struct ph_map_value){.block = apart[0], .length = apart[1], .is_apart = 1};
    value->bytes = ph_map_place(map, apart[0], apart[1]);
    return apart_is_sound(map, value);
}

int ph_map_value_of(struct ph_map *map, uint64_t node, const uint8_t *leaf, const struct ph_map_item *entry,
                    struct ph_map_value *value)
{
    if (entry->said == PH_NODE_APART)
        return apart_of(map, entry, value);
    value->bytes = entry->value;
    value->block = node;
    value->start = (uint64_t)(entry->value - leaf);
    value->length = entry->nvalue;
    value->is_apart = 0;
    return 1;
}

int ph_map_entry(struct ph_map *map, const struct ph_map_cursor *cursor, const uint8_t **key, uint64_t *nkey,
                 struct ph_map_value *value)
{
    const struct ph_map_step *leaf = &cursor->path[cursor->height - 1];
    const uint8_t *node = ph_map_node(map, leaf->node, 0);
    struct ph_map_item entry;
    if (node == NULL)
        return map->why;
    if (leaf->at >= ph_node_count(node) || ph_node_entry(node, leaf->at, &entry) < 0)
        return PH_M_CORRUPT;
    *key = entry.key;
    *nkey = entry.nkey;
    return value == NULL ? 1 : ph_map_value_of(map, leaf->node, node, &entry, value);
}

int ph_map_found(struct ph_map *map, const struct ph_map_cursor *cursor, struct ph_map_value *value)
{
    const struct ph_map_step *step = &cursor->path[cursor->height - 1];
    struct ph_map_item entry;
    if (ph_node_entry(cursor->leaf, step->at, &entry) < 0)
        return PH_M_CORRUPT;
    return ph_map_value_of(map, step->node, cursor->leaf, &entry, value);
}

int ph_map_get(struct ph_map *map, const void *key, uint64_t nkey, struct ph_map_value *value)
{
    struct ph_map_cursor cursor;
    int failed = find(map, key, nkey, &cursor);
    return failed < 0 || !cursor.found ? failed : ph_map_found(map, &cursor, value);
}

int ph_map_has(struct ph_map *map, const void *key, uint64_t nkey)
{
    struct ph_map_cursor cursor;
    int failed = find(map, key, nkey, &cursor);
    return failed < 0 ? failed : cursor.found;
}

int ph_map_count(struct ph_map *map, uint64_t *count)
{
    struct ph_map_header header;
    int failed = ph_map_header_of(map, &header);
    *count = header.count;
    return failed;
}
