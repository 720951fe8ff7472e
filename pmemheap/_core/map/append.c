/* map/append.c -- keys that come in order: each goes behind the last one of all.
 *
 * A put behind all keys leaves word of the leaf where its key lies. As long as nothing else of the map has changed, a greater key that
 * fits into that leaf goes there: no way is searched for, no node is copied to be edited, and nothing is looked at twice. A
 * change of the leaf by other means, and a rollback, drop its image, which is a reset of the transaction. */
#include "map/build.h"

enum { PH_TOGETHER_MOST = PH_NODE_FIRST + 8 * PH_NODE_SLOT }; /* a range more takes as much of a record */

void ph_map_note_end(const struct ph_map_build *b)
{
    for (uint32_t i = 0; i < b->edit_count; i++) {
        const struct ph_tx_aim *aim = &b->edits[i].aim;
        if (b->edits[i].offset == b->last_leaf)
            b->map->end = (struct ph_map_end){.tx = b->tx->number, .resets = b->tx->resets, .version = b->tx->log->changes,
                                              .leaf = b->last_leaf, .state = aim->block.state, .fresh = aim->fresh,
                                              .at_once = aim->at_once};
    }
}

/* Whether what was noted of the end still holds; it is forgotten otherwise. */
static int holds(struct ph_map *map)
{
    const struct ph_tx *tx = map->tx;
    struct ph_map_end *end = &map->end;
    if (end->tx == tx->number && end->resets == tx->resets && ph_map_is_at(map, end->version))
        return 1;
    end->tx = 0;
    return 0;
}

/* Whether an entry comes behind the last one of a leaf, and has room there. */
static int goes_behind(const uint8_t *leaf, const struct ph_map_item *entry)
{
    struct ph_map_item last;
    uint32_t count = ph_node_count(leaf);
    return ph_node_is_sound(leaf, 0) && count != 0 && ph_entry_bytes(entry) + PH_NODE_SLOT <= ph_node_room(leaf)
        && ph_node_entry(leaf, count - 1, &last) == 0 && ph_key_order(last.key, last.nkey, entry->key, entry->nkey) < 0;
}

/* What of the leaf is stored beside the entry: header and slots; of many slots the last one alone, if the prefix is as before: else all
 * have another hint. */
static void store_slots(struct ph_tx *tx, const struct ph_tx_aim *aim, uint64_t offset, const uint8_t *leaf, uint32_t prefix)
{
    uint32_t stop = ph_node_slot(ph_node_count(leaf)), last = stop - PH_NODE_SLOT;
    if (stop <= PH_TOGETHER_MOST || ph_node_header(leaf).prefix != prefix) {
        ph_tx_store(tx, aim, offset, leaf, stop);
        return;
    }
    ph_tx_store(tx, aim, offset, leaf, PH_NODE_FIRST);
    ph_tx_store(tx, aim, offset + last, leaf + last, PH_NODE_SLOT);
}

int ph_map_append(struct ph_map *map, const void *key, uint64_t nkey, const void *value, uint64_t nvalue)
{
    struct ph_map_end *end = &map->end;
    struct ph_tx *tx = map->tx;
    if (!holds(map) || nkey + nvalue > PH_MAP_ENTRY_MOST)
        return 0;
    uint8_t *leaf = ph_tx_image(tx, end->leaf, map->heap->data + ph_local(end->leaf));
    struct ph_map_item entry = ph_map_item_of(key, nkey, value, nvalue);
    if (leaf == NULL || !goes_behind(leaf, &entry))
        return 0;
    uint32_t count = ph_node_count(leaf), prefix = ph_node_header(leaf).prefix, nbytes = ph_entry_bytes(&entry);
    if ((!end->at_once && ph_tx_reserve(tx, map->heap, 3, ph_node_slot(count + 1) + nbytes, 0) < 0)
        || !ph_map_count_up(map, &end->version))
        return 0;
    const struct ph_tx_aim aim = {.block = ph_block_known(map->heap, ph_local(end->leaf), end->state), .fresh = end->fresh,
                                  .at_once = end->at_once, .is_large = 1};
    uint32_t at = ph_node_add(leaf, leaf, count, &entry);
    ph_tx_store(tx, &aim, end->leaf + at, leaf + at, nbytes);
    store_slots(tx, &aim, end->leaf, leaf, prefix);
    return 1;
}
