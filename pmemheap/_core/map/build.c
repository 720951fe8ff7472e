/* map/build.c -- how a change of a map is built, and handed to the transaction.
 *
 * First all new nodes are made in memory, with all the blocks that they need. Then each range that is to be stored, and
 * each block that is to be freed, is looked at: the nodes lead to it, and they may be damaged. Then there is room for all
 * of it. Up to here a failure changes nothing; behind it nothing fails. */
#include "map/build.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/hints.h"

/* The image of a header: it as the transaction leaves it, and where in the transaction the number of entries was
 * collected last. All objects of a map see the same. */
struct header_image {
    struct ph_map_header header;
    uint64_t count_write;
    uint64_t version; /* the changes of the log, when the map was changed last */
};

struct ph_map_build *ph_map_begin(struct ph_map *map, int *failed)
{
    if (map->build == NULL)
        map->build = malloc(sizeof *map->build);
    struct ph_map_build *b = map->build;
    *failed = PH_L_NOMEM;
    if (b == NULL)
        return NULL;
    b->map = map;
    b->tx = map->tx;
    *failed = ph_map_header_of(map, &b->header);
    ph_map_continue(b);
    return *failed < 0 ? NULL : b;
}

void ph_map_continue(struct ph_map_build *b)
{
    b->edit_count = b->made_count = b->free_count = 0;
    b->last_leaf = PH_MAP_NOWHERE;
    b->before = b->header;
}

int ph_map_give_up(struct ph_map_build *b, int failure)
{
    for (uint32_t i = 0; i < b->made_count; i++)
        ph_tx_free(b->tx, b->made[i]);
    ph_map_drop_edits(b);
    b->made_count = 0;
    return failure;
}

/* ---------------------------------------------------------------- nodes */

int64_t ph_map_make_block(struct ph_map_build *b, uint64_t nbytes)
{
    int64_t offset = ph_tx_malloc(b->tx, b->map->arena, nbytes, PH_GRANULE);
    if (offset >= 0)
        b->made[b->made_count++] = (uint64_t)offset;
    return offset;
}

int64_t ph_map_make_page(struct ph_map_build *b)
{
    int64_t offset = ph_map_make_block(b, PH_MAP_NODE);
    if (offset >= 0)
        ph_tx_say_node(b->tx);
    return offset;
}

struct ph_map_edit *ph_map_edit_of(struct ph_map_build *b, uint64_t offset)
{
    uint8_t *bytes = ph_page_take(b->tx->log);
    struct ph_map_edit *edit = &b->edits[b->edit_count];
    if (bytes == NULL)
        return NULL;
    edit->offset = offset;
    edit->bytes = bytes;
    edit->rest = edit->range_count = 0;
    b->edit_count++;
    return edit;
}

void ph_map_drop_edits(struct ph_map_build *b)
{
    while (b->edit_count != 0)
        ph_page_give(b->tx->log, b->edits[--b->edit_count].bytes);
}

/* A range beside the last one makes that longer. */
int ph_map_edit_range(struct ph_map_edit *edit, uint32_t from, uint32_t length)
{
    uint32_t last = edit->range_count - 1;
    if (length == 0)
        return 0;
    if (edit->range_count != 0 && from + length == edit->from[last]) {
        edit->from[last] = (uint16_t)from;
        edit->length[last] = (uint16_t)(edit->length[last] + length);
        return 0;
    }
    if (edit->range_count == PH_EDIT_RANGES)
        return -1;
    edit->from[edit->range_count] = (uint16_t)from;
    edit->length[edit->range_count++] = (uint16_t)length;
    return 0;
}

/* All but the room between slots and entries is copied. What stays as it is at home can wait until somebody looks at it; and
 * nobody looks at the image of a leaf when the transaction has no second call. The header is read once, and what is looked at
 * is what is copied: another process may write to the file meanwhile. */
int ph_map_copy_node(const struct ph_map_build *b, struct ph_map_edit *edit, const uint8_t *node, uint32_t level, int whole)
{
    struct ph_node header = ph_node_header_once(node);
    if (!ph_node_header_is_sound(&header, level))
        return PH_M_CORRUPT;
    memcpy(edit->bytes, node, ph_node_slot(header.count));
    memcpy(edit->bytes, &header, sizeof header);
    if (level == 0 && b->map->is_alone)
        return 0;
    if (level == 0 && !whole && node == b->map->heap->data + ph_local(edit->offset))
        edit->rest = header.top;
    else
        ph_copy_long(edit->bytes + header.top, node + header.top, PH_MAP_NODE - header.top);
    return 0;
}

void ph_map_free_later(struct ph_map_build *b, uint64_t offset)
{
    b->frees[b->free_count++] = offset;
}

uint32_t ph_map_bytes_of(const struct ph_map_item *entries, uint32_t count)
{
    uint32_t nbytes = PH_NODE_FIRST;
    for (uint32_t i = 0; i < count; i++)
        nbytes += PH_NODE_SLOT + ph_entry_bytes(&entries[i]);
    return nbytes;
}

int ph_map_can_be_node(const struct ph_map_item *entries, uint32_t count, uint32_t level)
{
    for (uint32_t i = level != 0 ? 2 : 1; i < count; i++)
        if (ph_item_order(&entries[i - 1], &entries[i]) >= 0)
            return 0;
    return ph_map_bytes_of(entries, count) <= PH_MAP_NODE;
}

int64_t ph_map_make_node(struct ph_map_build *b, uint32_t level, const struct ph_map_item *entries, uint32_t count)
{
    if (!ph_map_can_be_node(entries, count, level))
        return PH_M_CORRUPT;
    int64_t offset = ph_map_make_page(b);
    struct ph_map_edit *edit = offset < 0 ? NULL : ph_map_edit_of(b, (uint64_t)offset);
    if (edit == NULL)
        return offset < 0 ? offset : PH_L_NOMEM;
    ph_node_fill(edit->bytes, level, entries, count);
    ph_map_edit_range(edit, 0, PH_MAP_NODE);
    return offset;
}

int ph_map_read_entries(struct ph_map_build *b, const uint8_t *node, uint32_t at)
{
    uint32_t count = ph_node_count(node);
    for (uint32_t i = 0; i < count; i++)
        if (at + i >= PH_BUILD_ENTRIES || ph_node_entry(node, i, &b->entries[at + i]) < 0)
            return PH_M_CORRUPT;
    return (int)count;
}

void ph_map_separate(struct ph_map_outcome *outcome, uint32_t level, const struct ph_map_item *left,
                     const struct ph_map_item *right)
{
    uint32_t length = right->nkey;
    if (level == 0)
        for (length = 0; length < right->nkey && length < left->nkey && left->key[length] == right->key[length];)
            length++;
    outcome->nseparator = (uint16_t)(length < right->nkey ? length + 1 : length);
    memcpy(outcome->separator, right->key, outcome->nseparator); /* no longer than a key: ph_entry_at */
}

/* ---------------------------------------------------------------- handing over */

int ph_map_refusal(struct ph_map *map, uint64_t offset, int refused)
{
    int is_damage = refused == PH_H_BAD_OFFSET || refused == PH_T_OUTSIDE || refused == PH_T_TWICE;
    return ph_map_fail(map, offset, is_damage ? PH_M_CORRUPT : refused);
}

/* A node, or the header, is a block of its own. */
static int aim_at(struct ph_map_build *b, uint64_t offset, uint64_t nbytes, struct ph_tx_aim *aim)
{
    int refused = ph_tx_aim(b->tx, offset, nbytes, aim);
    if (refused == 0 && aim->block.offset != ph_local(offset))
        refused = PH_T_OUTSIDE;
    return refused < 0 ? ph_map_refusal(b->map, offset, refused) : 0;
}

/* The block of a copy was made a moment ago: there is nothing to look at. */
static void aim_at_copy(const struct ph_map_build *b, struct ph_map_edit *edit)
{
    edit->aim = (struct ph_tx_aim){
        .block = ph_block_known(b->map->heap, ph_local(edit->offset), PH_B_RESERVED), .fresh = 1, .at_once = 1, .is_large = 1,
    };
}

static int aim_all(struct ph_map_build *b, struct ph_tx_aim *header)
{
    int failed = 0;
    for (uint32_t i = 0; failed == 0 && i < b->edit_count; i++)
        if (b->edits[i].bytes == NULL)
            aim_at_copy(b, &b->edits[i]);
        else
            failed = aim_at(b, b->edits[i].offset, PH_MAP_NODE, &b->edits[i].aim);
    if (failed == 0 && memcmp(&b->before, &b->header, sizeof b->header) != 0)
        failed = aim_at(b, b->map->header, sizeof b->header, header);
    return failed;
}

/* Each block that goes is one, and goes once. */
static int look_at_frees(const struct ph_map_build *b)
{
    for (uint32_t i = 0; i < b->free_count; i++) {
        int refused = ph_tx_may_free(b->tx, b->frees[i]);
        for (uint32_t k = 0; refused == 0 && k < i; k++)
            refused = b->frees[k] == b->frees[i] ? PH_T_TWICE : 0;
        if (refused < 0)
            return ph_map_refusal(b->map, b->frees[i], refused);
    }
    return 0;
}

static int reserve_all(struct ph_map_build *b)
{
    uint64_t ranges = 2, nbytes = sizeof b->header;
    for (uint32_t i = 0; i < b->edit_count; i++)
        for (uint32_t k = 0; !b->edits[i].aim.at_once && k < b->edits[i].range_count; k++) {
            ranges++;
            nbytes += b->edits[i].length[k];
        }
    if (!b->map->is_alone && ph_tx_image_room(b->tx, b->edit_count + 1) < 0)
        return PH_L_NOMEM;
    return ph_tx_reserve(b->tx, b->map->heap, ranges, nbytes, b->free_count);
}

/* A copy needs no image: its block is new, so that it stores at once. What no entry uses is left out; which that is, the header says
 * that was looked at, and that is the one of the copy. */
static void store_copy(struct ph_map_build *b, const struct ph_map_edit *edit)
{
    const uint32_t slots = ph_node_slot(edit->head.count), top = edit->head.top;
    ph_tx_store(b->tx, &edit->aim, edit->offset, &edit->head, sizeof edit->head);
    ph_tx_store(b->tx, &edit->aim, edit->offset + PH_NODE_FIRST, edit->copied + PH_NODE_FIRST, slots - PH_NODE_FIRST);
    ph_tx_store(b->tx, &edit->aim, edit->offset + top, edit->copied + top, PH_MAP_NODE - top);
    if (edit->child_at != 0)
        ph_tx_store(b->tx, &edit->aim, edit->offset + edit->child_at, &edit->child, sizeof edit->child);
}

static void store_edit(struct ph_map_build *b, struct ph_map_edit *edit)
{
    for (uint32_t i = 0; i < edit->range_count; i++)
        ph_tx_store(b->tx, &edit->aim, edit->offset + edit->from[i], edit->bytes + edit->from[i], edit->length[i]);
    if (b->map->is_alone)
        ph_page_give(b->tx->log, edit->bytes);
    else
        ph_tx_image_keep(b->tx, edit->offset, edit->bytes, edit->rest);
}

/* The number of entries changes most often: what was collected for it is changed, as far as that is no other savepoint's. */
static void store_header(struct ph_map_build *b, const struct ph_tx_aim *aim, struct header_image *image)
{
    const uint64_t place = b->map->header, at = offsetof(struct ph_map_header, count);
    const uint64_t rest = offsetof(struct ph_map_header, root);
    uint64_t none = UINT64_MAX, *count_write = image == NULL ? &none : &image->count_write;
    if (image != NULL)
        image->header = b->header;
    if (b->before.root != b->header.root || b->before.height != b->header.height) {
        *count_write = UINT64_MAX;
        ph_tx_store(b->tx, aim, place + rest, (const uint8_t *)&b->header + rest, sizeof b->header - rest);
        return;
    }
    if (b->before.count == b->header.count
        || ph_tx_rewrite(b->tx, *count_write, place + at, &b->header.count, sizeof b->header.count))
        return;
    *count_write = b->tx->writes.count;
    ph_tx_store(b->tx, aim, place + at, &b->header.count, sizeof b->header.count);
}

/* The image of the header; NULL: there is none. */
static struct header_image *header_image(const struct ph_map *map)
{
    return (struct header_image *)ph_tx_image(map->tx, map->header, NULL);
}

/* The same, made if there is none; NULL: no memory. */
static struct header_image *make_header_image(struct ph_map_build *b)
{
    struct header_image *image = header_image(b->map);
    if (image == NULL && (image = (struct header_image *)ph_page_take(b->tx->log)) != NULL) {
        *image = (struct header_image){.header = b->before, .count_write = UINT64_MAX};
        ph_tx_image_keep(b->tx, b->map->header, (uint8_t *)image, 0);
    }
    return image;
}

int ph_map_is_at(const struct ph_map *map, uint64_t version)
{
    const struct header_image *image = header_image(map);
    return image != NULL && image->version == version;
}

/* Of a map that the transaction has made nothing is collected: its header is new, and stored to at once. */
int ph_map_count_up(struct ph_map *map, uint64_t *version)
{
    struct header_image *image = header_image(map);
    uint64_t count = image->header.count + 1, at = map->header + offsetof(struct ph_map_header, count);
    if (!ph_tx_rewrite(map->tx, image->count_write, at, &count, sizeof count)) {
        struct ph_tx_aim aim;
        if (ph_tx_aim(map->tx, map->header, sizeof image->header, &aim) < 0 || !aim.at_once)
            return 0;
        ph_tx_store(map->tx, &aim, at, &count, sizeof count);
    }
    image->header.count = count;
    image->version = *version = ++map->tx->log->changes;
    return 1;
}

/* A map has no nodes when it has no entries, and some else. */
static int counts_right(const struct ph_map_build *b)
{
    return (b->header.count == 0) == (b->header.root == PH_MAP_NOWHERE);
}

int ph_map_emit(struct ph_map_build *b)
{
    struct ph_map *map = b->map;
    struct ph_tx_aim header = {0};
    struct header_image *image = NULL;
    int failed = counts_right(b) ? aim_all(b, &header) : ph_map_fail(map, map->header, PH_M_CORRUPT);
    if (failed == 0)
        failed = look_at_frees(b);
    if (failed == 0)
        failed = reserve_all(b);
    if (failed == 0 && !map->is_alone && (image = make_header_image(b)) == NULL)
        failed = PH_L_NOMEM;
    if (failed < 0)
        return ph_map_give_up(b, failed);
    for (uint32_t i = 0; i < b->edit_count; i++)
        if (b->edits[i].bytes == NULL)
            store_copy(b, &b->edits[i]);
        else
            store_edit(b, &b->edits[i]);
    store_header(b, &header, image);
    for (uint32_t i = 0; i < b->free_count; i++)
        ph_tx_free_deferred(b->tx, b->frees[i]); /* looked at, and there is room */
    b->tx->log->changes++;
    if (image != NULL)
        image->version = b->tx->log->changes;
    return 0;
}

/* ---------------------------------------------------------------- make */

/* No two maps of a heap have the same but by accident: the epoch is that of the opening, the other number goes on. */
static uint32_t new_id(struct ph_log *log)
{
    return (uint32_t)ph_tx_hash((log->epoch ^ ++log->changes * 0x9E3779B97F4A7C15ULL) << PH_GRANULE_SHIFT);
}

int64_t ph_map_make(struct ph_tx *tx, uint64_t arena)
{
    struct ph_map_header header = {.magic = PH_MAP_MAGIC, .root = PH_MAP_NOWHERE, .height = 1, .id = new_id(tx->log)};
    int64_t at = ph_tx_malloc(tx, arena, sizeof header, PH_GRANULE);
    if (at >= 0)
        ph_tx_write(tx, (uint64_t)at, &header, sizeof header); /* of a block of its own: stored at once */
    return at;
}
