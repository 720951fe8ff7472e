/* map.c -- reading a map: nodes, descents, cursors, and what an open transaction has changed. */
#include "map.h"

#include <stdlib.h>

#include "map_internal.h"

/* ---------------------------------------------------------------- what a transaction has changed */

uint8_t *ph_map_take_memory(struct ph_map *map)
{
    return map->spares != 0 ? map->spare[--map->spares] : malloc(PH_MAP_NODE);
}

void ph_map_give_memory(struct ph_map *map, uint8_t *bytes)
{
    if (bytes != NULL && map->spares < sizeof map->spare / sizeof *map->spare)
        map->spare[map->spares++] = bytes;
    else
        free(bytes);
}

static void forget(struct ph_map *map)
{
    for (uint64_t i = 0; map->used != 0 && i < map->capacity; i++) {
        ph_map_give_memory(map, map->images[i].bytes);
        map->images[i] = (struct ph_map_image){0};
    }
    map->used = 0;
    map->tx = NULL;
}

void ph_map_fini(struct ph_map *map)
{
    forget(map);
    while (map->spares != 0)
        free(map->spare[--map->spares]);
    free(map->images);
    free(map->build);
    map->build = NULL;
    map->images = NULL;
    map->capacity = 0;
}

void ph_map_overlay(const struct ph_tx *tx, uint64_t offset, uint64_t nbytes, uint8_t *to)
{
    for (uint64_t i = 0; i < tx->writes.count; i++) {
        const struct ph_tx_bytes *one = &ph_writes(tx)[i];
        uint64_t into = one->offset - offset;
        if (into < nbytes)
            memcpy(to + into, tx->buffer + one->at, one->nbytes < nbytes - into ? one->nbytes : nbytes - into);
    }
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

static int read_header(struct ph_map *map, struct ph_map_header *header)
{
    const uint8_t *at = ph_map_place(map, map->header, sizeof *header);
    map->bad = map->header;
    if (at == NULL)
        return PH_M_CORRUPT;
    memcpy(header, at, sizeof *header);
    return 0;
}

/* A heap has room for so many entries only: whoever is told the number may make room for as many. */
static int header_is_sound(const struct ph_map *map, const struct ph_map_header *header)
{
    uint64_t room = (map->heap->data_end - map->heap->data_first) << PH_UNIT_SHIFT;
    return header->magic == PH_MAP_MAGIC && header->height >= 1 && header->height <= PH_MAP_HEIGHT_MOST
        && header->count <= room / (sizeof(uint32_t) + sizeof(uint32_t)); /* a slot, and an entry without bytes */
}

int ph_map_look(struct ph_map *map, const struct ph_tx *tx)
{
    map->inside = tx != NULL;
    if (tx == NULL)
        return 0;
    if (map->tx == tx && map->tx_number == tx->number && map->rollbacks == tx->rollbacks)
        return 0;
    forget(map);
    int failed = read_header(map, &map->changed);
    if (failed < 0)
        return failed;
    ph_map_overlay(tx, map->header, sizeof map->changed, (uint8_t *)&map->changed);
    map->tx = tx;
    map->tx_number = tx->number;
    map->rollbacks = tx->rollbacks;
    map->is_partial = tx->writes.count != 0;
    map->count_write = UINT64_MAX;
    return 0;
}

int ph_map_header_of(struct ph_map *map, struct ph_map_header *header)
{
    if (map->inside)
        *header = map->changed;
    else if (read_header(map, header) < 0)
        return PH_M_CORRUPT;
    map->bad = map->header;
    return header_is_sound(map, header) ? 0 : PH_M_CORRUPT;
}

/* ---------------------------------------------------------------- images */

static uint64_t slot_of(const struct ph_map *map, uint64_t offset)
{
    uint64_t mask = map->capacity - 1, slot = ph_tx_hash(offset) & mask;
    while (map->images[slot].offset != 0 && map->images[slot].offset != offset + 1)
        slot = (slot + 1) & mask;
    return slot;
}

static uint8_t *image_of(const struct ph_map *map, uint64_t offset)
{
    return map->used == 0 ? NULL : map->images[slot_of(map, offset)].bytes;
}

int ph_map_image_room(struct ph_map *map, uint64_t more)
{
    if ((map->used + more) * 2 <= map->capacity)
        return 0;
    struct ph_map wider = *map;
    wider.capacity = wider.capacity ? wider.capacity : 64;
    while ((map->used + more) * 2 > wider.capacity)
        wider.capacity *= 2;
    wider.images = calloc(wider.capacity, sizeof *wider.images);
    if (wider.images == NULL)
        return PH_L_NOMEM;
    for (uint64_t i = 0; i < map->capacity; i++)
        if (map->images[i].offset != 0)
            wider.images[slot_of(&wider, map->images[i].offset - 1)] = map->images[i];
    free(map->images);
    *map = wider;
    return 0;
}

void ph_map_image_keep(struct ph_map *map, uint64_t offset, uint8_t *bytes)
{
    struct ph_map_image *image = &map->images[slot_of(map, offset)];
    map->used += image->offset == 0;
    ph_map_give_memory(map, image->bytes);
    *image = (struct ph_map_image){.offset = offset + 1, .bytes = bytes};
}

/* An image of what lies at home, with what the transaction has collected for it. */
static const uint8_t *rebuild(struct ph_map *map, uint64_t offset, const uint8_t *home)
{
    uint8_t *bytes = ph_map_take_memory(map);
    if (bytes == NULL || ph_map_image_room(map, 1) < 0) {
        ph_map_give_memory(map, bytes);
        return NULL;
    }
    memcpy(bytes, home, PH_MAP_NODE);
    ph_map_overlay(map->tx, offset, PH_MAP_NODE, bytes);
    ph_map_image_keep(map, offset, bytes);
    return bytes;
}

const uint8_t *ph_map_node(struct ph_map *map, uint64_t offset, uint32_t level)
{
    const uint8_t *node = map->inside ? image_of(map, offset) : NULL;
    if (node == NULL) {
        node = ph_map_place(map, offset, PH_MAP_NODE);
        if (node != NULL && map->inside && map->is_partial)
            node = rebuild(map, offset, node);
    }
    map->bad = offset;
    return node != NULL && ph_node_is_sound(node, level) ? node : NULL;
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
static int lead(const uint8_t *node, const void *key, uint64_t nkey, uint32_t *at)
{
    int found;
    if (ph_node_count(node) == 0 || ph_node_find(node, key, nkey, at, &found) < 0)
        return PH_M_CORRUPT;
    *at -= !found;
    return 0;
}

/* Let the processor fetch what will be looked at first of a node, all at once. */
static void look_ahead(const struct ph_map *map, uint64_t offset)
{
    const uint8_t *node = map->heap->data + ph_local(offset);
    for (uint32_t i = 0; i < PH_MAP_LINES_AHEAD; i++)
        __builtin_prefetch(node + (size_t)PH_MAP_LINE * i);
}

int ph_map_descend(struct ph_map *map, const void *key, uint64_t nkey, struct ph_map_cursor *cursor)
{
    struct ph_map_header header;
    int failed = ph_map_header_of(map, &header);
    uint64_t offset = header.root;
    cursor->height = failed == 0 && offset == PH_MAP_NOWHERE ? 0 : header.height;
    cursor->found = 0;
    for (uint32_t depth = 0; failed == 0 && cursor->height != 0; depth++) {
        const uint8_t *node = ph_map_node(map, offset, header.height - 1 - depth);
        struct ph_map_step *step = &cursor->path[depth];
        if (node == NULL)
            return PH_M_CORRUPT;
        step->node = offset;
        if (depth + 1 == header.height)
            return ph_node_find(node, key, nkey, &step->at, &cursor->found) < 0 ? PH_M_CORRUPT : 0;
        failed = lead(node, key, nkey, &step->at);
        if (failed == 0)
            failed = ph_map_child(node, step->at, &offset);
        if (failed == 0)
            look_ahead(map, offset);
    }
    return failed;
}

/* From step `depth` on, go down along the first entries, or the last. */
static int plunge(struct ph_map *map, struct ph_map_cursor *cursor, uint32_t depth, uint64_t offset, int last)
{
    for (;; depth++) {
        const uint8_t *node = ph_map_node(map, offset, cursor->height - 1 - depth);
        if (node == NULL)
            return PH_M_CORRUPT;
        uint32_t count = ph_node_count(node);
        cursor->path[depth] = (struct ph_map_step){.node = offset, .at = last && count ? count - 1 : 0};
        if (depth + 1 == cursor->height)
            return count != 0;
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
            return PH_M_CORRUPT;
        if (back ? step->at > 0 : step->at + 1 < ph_node_count(node)) {
            step->at += back ? -1u : 1u;
            if (depth + 1 == cursor->height)
                return 1;
            if (ph_map_child(node, step->at, &child) < 0)
                return PH_M_CORRUPT;
            return plunge(map, cursor, depth + 1, child, back);
        }
        if (depth == 0)
            return 0;
    }
}

int ph_map_step(struct ph_map *map, struct ph_map_cursor *cursor, int back)
{
    return advance(map, cursor, cursor->height - 1, back);
}

int ph_map_seek(struct ph_map *map, const void *key, uint64_t nkey, int last, struct ph_map_cursor *cursor)
{
    if (key == NULL) {
        struct ph_map_header header;
        int failed = ph_map_header_of(map, &header);
        cursor->height = header.height;
        if (failed < 0 || header.root == PH_MAP_NOWHERE)
            return failed;
        return plunge(map, cursor, 0, header.root, last);
    }
    int failed = ph_map_descend(map, key, nkey, cursor);
    if (failed < 0 || cursor->height == 0)
        return failed;
    struct ph_map_step *leaf = &cursor->path[cursor->height - 1];
    if (last)
        return advance(map, cursor, cursor->height - 1, 1);
    const uint8_t *node = ph_map_node(map, leaf->node, 0);
    if (leaf->at < ph_node_count(node))
        return 1;
    leaf->at -= leaf->at != 0; /* behind the last one: that is where advance wants to begin */
    return advance(map, cursor, cursor->height - 1, 0);
}

/* How many entries of the leaf at a cursor stand from there on before `high`; NULL: all. `more`: whether others may follow. */
static int64_t left_in_leaf(struct ph_map *map, const struct ph_map_step *leaf, const void *high, uint64_t nhigh, int *more)
{
    const uint8_t *node = ph_map_node(map, leaf->node, 0);
    uint32_t stop = node == NULL ? 0 : ph_node_count(node);
    int found;

    if (node == NULL || (high != NULL && ph_node_find(node, high, nhigh, &stop, &found) < 0))
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
        if (here < 0 || (*count += (uint64_t)here) > most) /* leaves that lead in a circle are no more than all */
            return PH_M_CORRUPT;
        leaf->at += here != 0 ? (uint32_t)here - 1 : 0;
        if (more)
            more = ph_map_step(map, &cursor, 0);
    }
    return more;
}

/* ---------------------------------------------------------------- values */

static int value_of(struct ph_map *map, uint64_t node, const uint8_t *bytes, const struct ph_map_item *entry,
                    struct ph_map_value *value)
{
    uint64_t apart[2];
    if (entry->said != PH_NODE_APART) {
        *value = (struct ph_map_value){.bytes = entry->value, .block = node, .start = (uint64_t)(entry->value - bytes),
                                       .length = entry->nvalue};
        return 1;
    }
    memcpy(apart, entry->value, sizeof apart);
    *value = (struct ph_map_value){.block = apart[0], .length = apart[1], .is_apart = 1};
    value->bytes = ph_map_place(map, apart[0], apart[1]);
    map->bad = node;
    return value->bytes == NULL ? PH_M_CORRUPT : 1;
}

int ph_map_entry(struct ph_map *map, const struct ph_map_cursor *cursor, const uint8_t **key, uint64_t *nkey,
                 struct ph_map_value *value)
{
    const struct ph_map_step *leaf = &cursor->path[cursor->height - 1];
    const uint8_t *node = ph_map_node(map, leaf->node, 0);
    struct ph_map_item entry;
    if (node == NULL || leaf->at >= ph_node_count(node) || ph_node_entry(node, leaf->at, &entry) < 0)
        return PH_M_CORRUPT;
    *key = entry.key;
    *nkey = entry.nkey;
    return value_of(map, leaf->node, node, &entry, value);
}

int ph_map_get(struct ph_map *map, const void *key, uint64_t nkey, struct ph_map_value *value)
{
    struct ph_map_cursor cursor;
    const uint8_t *found_key;
    uint64_t nfound;
    int failed = ph_map_descend(map, key, nkey, &cursor);
    if (failed < 0 || !cursor.found)
        return failed;
    return ph_map_entry(map, &cursor, &found_key, &nfound, value);
}

int ph_map_count(struct ph_map *map, uint64_t *count)
{
    struct ph_map_header header;
    int failed = ph_map_header_of(map, &header);
    *count = header.count;
    return failed;
}
