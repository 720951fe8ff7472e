/* map/append.c -- keys that come in order: each goes behind the last one of all.
 *
 * A put behind all keys leaves word of the leaf where its key lies. As long as nothing else of the map has changed, a greater key that
 * fits into that leaf goes there: no way is searched for, no node is copied to be edited, and nothing is looked at twice. Whoever
 * changes bytes of the leaf by other means, or takes back what was done, drops its image. */
#include "map/build.h"

void ph_map_note_end(const struct ph_map_build *b, uint64_t leaf)
{
    for (uint32_t i = 0; i < b->edit_count; i++) {
        const struct ph_tx_aim *aim = &b->edits[i].aim;
        if (b->edits[i].offset == leaf)
            b->map->end = (struct ph_map_end){.tx = b->tx->number, .points = b->tx->points, .version = b->tx->log->changes,
                                              .leaf = leaf, .state = aim->block.state, .fresh = aim->fresh,
                                              .at_once = aim->at_once};
    }
}

/* Whether an entry comes behind the last one of a leaf, and has room there. */
static int goes_behind(const uint8_t *leaf, const struct ph_map_item *entry)
{
    struct ph_map_item last;
    uint32_t count = ph_node_count(leaf);
    return ph_node_is_sound(leaf, 0) && count != 0 && ph_entry_bytes(entry) + PH_NODE_SLOT <= ph_node_room(leaf)
        && ph_node_entry(leaf, count - 1, &last) == 0 && ph_key_order(last.key, last.nkey, entry->key, entry->nkey) < 0;
}

static void store(struct ph_tx *tx, const struct ph_tx_aim *aim, uint64_t offset, const uint8_t *image, uint32_t from, uint32_t nbytes)
{
    ph_tx_store(tx, aim, offset + from, image + from, nbytes);
}

int ph_map_append(struct ph_map *map, const void *key, uint64_t nkey, const void *value, uint64_t nvalue)
{
    struct ph_map_end *end = &map->end;
    struct ph_tx *tx = map->tx;
    if (end->tx != tx->number || end->points != tx->points || nkey + nvalue > PH_MAP_ENTRY_MOST)
        return 0;
    uint8_t *leaf = ph_tx_image(tx, end->leaf, map->heap->data + ph_local(end->leaf));
    struct ph_map_item entry = ph_map_item_of(key, nkey, value, nvalue);
    if (leaf == NULL || !goes_behind(leaf, &entry))
        return 0;
    struct ph_node before = ph_node_header(leaf);
    uint32_t nbytes = ph_entry_bytes(&entry), slots = ph_node_slot(before.count + 1U);
    if ((!end->at_once && ph_tx_reserve(tx, map->heap, 3, slots + nbytes, 0) < 0) || !ph_map_count_up(map, &end->version))
        return 0;
    struct ph_tx_aim aim = {ph_block_known(map->heap, ph_local(end->leaf), end->state), end->fresh, end->at_once};
    store(tx, &aim, end->leaf, leaf, ph_node_add(leaf, leaf, before.count, &entry), nbytes);
    if (ph_node_header(leaf).prefix == before.prefix) { /* else all slots have another hint */
        store(tx, &aim, end->leaf, leaf, 0, PH_NODE_FIRST);
        store(tx, &aim, end->leaf, leaf, slots - PH_NODE_SLOT, PH_NODE_SLOT);
    } else {
        store(tx, &aim, end->leaf, leaf, 0, slots);
    }
    return 1;
}
