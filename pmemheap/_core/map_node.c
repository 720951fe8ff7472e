/* map_node.c -- the image of one node of a map. */
#include "map_node.h"

int ph_node_is_sound(const uint8_t *node, uint32_t level)
{
    struct ph_node header = ph_node_header(node);
    return header.magic == PH_NODE_MAGIC && header.level == level && header.top <= PH_MAP_NODE
        && PH_NODE_FIRST + 2u * header.count <= header.top;
}

int ph_node_find(const uint8_t *node, uint32_t first, const void *key, uint64_t nkey, uint32_t *at, int *found)
{
    uint32_t low = first, high = ph_node_count(node);
    *found = 0;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        ph_entry_of_map entry;
        if (ph_node_entry(node, middle, &entry) < 0)
            return -1;
        int order = ph_key_order(entry.key, entry.nkey, key, nkey);
        if (order == 0) {
            *at = middle;
            *found = 1;
            return 0;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *at = low;
    return 0;
}

static void set_u16(uint8_t *node, uint32_t at, uint32_t number)
{
    uint16_t word = (uint16_t)number;
    memcpy(node + at, &word, sizeof word);
}

/* Store an entry below `top`; where it lies. */
static uint32_t put_below(uint8_t *node, uint32_t top, const ph_entry_of_map *entry)
{
    uint32_t at = top - ph_entry_bytes(entry);
    set_u16(node, at, entry->nkey);
    set_u16(node, at + 2, entry->said);
    memcpy(node + at + 4, entry->key, entry->nkey);
    memcpy(node + at + 4 + entry->nkey, entry->value, entry->nvalue);
    return at;
}

void ph_node_fill(uint8_t *node, uint32_t level, const ph_entry_of_map *entries, uint32_t count)
{
    uint32_t top = PH_MAP_NODE;
    memset(node, 0, PH_MAP_NODE);
    for (uint32_t i = 0; i < count; i++) {
        top = put_below(node, top, &entries[i]);
        set_u16(node, PH_NODE_FIRST + 2 * i, top);
    }
    struct ph_node header = {
        .magic = PH_NODE_MAGIC, .level = (uint8_t)level, .count = (uint16_t)count, .top = (uint16_t)top,
    };
    memcpy(node, &header, sizeof header);
}

uint32_t ph_node_room(const uint8_t *node)
{
    struct ph_node header = ph_node_header(node);
    return header.top - PH_NODE_FIRST - 2u * header.count;
}

void ph_node_take(uint8_t *node, uint32_t i)
{
    struct ph_node header = ph_node_header(node);
    ph_entry_of_map gone;
    uint8_t *at = node + PH_NODE_FIRST + 2 * i;
    header.waste = (uint16_t)(header.waste + (ph_node_entry(node, i, &gone) < 0 ? 0 : ph_entry_bytes(&gone)));
    header.count--;
    memmove(at, at + 2, 2u * (header.count - i));
    memcpy(node, &header, sizeof header);
}

uint32_t ph_node_add(uint8_t *node, uint32_t i, const ph_entry_of_map *entry)
{
    struct ph_node header = ph_node_header(node);
    uint8_t *at = node + PH_NODE_FIRST + 2 * i;
    header.top = (uint16_t)put_below(node, header.top, entry);
    memmove(at + 2, at, 2u * (header.count - i));
    set_u16(node, PH_NODE_FIRST + 2 * i, header.top);
    header.count++;
    memcpy(node, &header, sizeof header);
    return header.top;
}
