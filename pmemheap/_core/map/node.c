/* map/node.c -- the image of one node of a map.
 *
 * A search believes prefix and hints, which may be damaged, until it has found the key. If it has not, the keys around the
 * place say whether it is not there. If the place is at an edge of its leaf, the nodes above (ph_node_leads) and the leaf
 * beside it are asked as well: so a key that is there is found by hints alone. */
#include "map/node.h"

#include "base/checked.h"
#include "base/hints.h"

enum { PH_VALUE_LINES = 2 }; /* fetched of a value ahead: of 100 bytes and a key of 24 */

/* The two bytes of a key from `prefix` on, in their order; none counts as 0. */
static uint32_t hint_of(const uint8_t *key, uint64_t nkey, uint32_t prefix)
{
    uint32_t first = prefix < nkey ? key[prefix] : 0, second = prefix + 1 < nkey ? key[prefix + 1] : 0;
    return first << 8 | second;
}

/* How the key of entry `i` compares with a key; `none` if it is no entry. */
static int order_at(const uint8_t *node, uint32_t i, const void *key, uint64_t nkey, int none)
{
    struct ph_map_item entry;
    return ph_node_entry(node, i, &entry) < 0 ? none : ph_key_order(entry.key, entry.nkey, key, nkey);
}

int ph_node_leads(const uint8_t *node, const void *key, uint64_t nkey, uint32_t at)
{
    return (at == 0 || order_at(node, at, key, nkey, 1) <= 0)
        && (at + 1 >= ph_node_count(node) || order_at(node, at + 1, key, nkey, -1) > 0);
}

/* Whether a key that was not found in a leaf belongs before entry `at`. */
static int lacks(const uint8_t *leaf, const void *key, uint64_t nkey, uint32_t at)
{
    return (at == 0 || order_at(leaf, at - 1, key, nkey, 1) < 0)
        && (at >= ph_node_count(leaf) || order_at(leaf, at, key, nkey, -1) > 0);
}

/* Let the processor fetch the two entries that `lacks` will ask, all at once. */
static void fetch_around(const uint8_t *leaf, uint32_t count, uint32_t at)
{
    for (uint32_t i = at != 0 ? at - 1 : 0; i <= at && i < count; i++)
        __builtin_prefetch(leaf + ph_node_u16(leaf, ph_node_slot(i)) % PH_MAP_NODE);
}

/* How a key compares with what all keys of a node begin with: less or greater than all of them, or 0. */
static int prefix_order(const struct ph_map_item *any, uint32_t prefix, const void *key, uint64_t nkey)
{
    int order = memcmp(key, any->key, nkey < prefix ? nkey : prefix);
    return order != 0 ? order : nkey < prefix ? -1 : 0;
}

/* A key that is not there, and does not begin as all in the node do, belongs before them or behind: hints say nothing. */
static int heed_prefix(const uint8_t *node, const struct ph_node *header, const void *key, uint64_t nkey, uint32_t *at)
{
    struct ph_map_item entry;
    uint32_t first = header->level != 0;
    if (ph_node_entry(node, first, &entry) < 0 || entry.nkey < header->prefix)
        return -1;
    int order = prefix_order(&entry, header->prefix, key, nkey);
    if (order != 0)
        *at = order < 0 ? first : header->count;
    return 0;
}

/* Let the processor fetch what lies behind the first line of an entry, before that line, which says how long the entry is,
 * is there: whoever finds a key looks at its value next. A tenth of a lookup. */
static void fetch_value(const struct ph_map_item *entry)
{
    for (uint32_t i = 1; i <= PH_VALUE_LINES; i++)
        __builtin_prefetch(entry->key + (size_t)PH_CACHE_LINE * i);
}

int ph_node_find(const uint8_t *node, const void *key, uint64_t nkey, uint32_t *at, int *found)
{
    struct ph_node header = ph_node_header(node);
    uint32_t low = header.level != 0, high = header.count;
    struct ph_map_item entry;
    *found = 0;
    *at = low;
    if (high > PH_NODE_ENTRIES_MOST)
        return -1;
    if (high <= low)
        return 0;
    uint32_t hint = hint_of(key, nkey, header.prefix);
    while (low < high) {
        uint32_t middle = (low + high) / 2, other = ph_node_u16(node, ph_node_slot(middle) + 2);
        int order = other < hint ? -1 : other > hint;
        if (order == 0) {
            if (ph_node_entry(node, middle, &entry) < 0)
                return -1;
            if (header.level == 0)
                fetch_value(&entry);
            order = ph_key_order(entry.key, entry.nkey, key, nkey);
            if (order == 0) {
                *at = middle;
                *found = 1;
                return 0;
            }
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *at = low;
    if (header.level == 0)
        fetch_around(node, header.count, low);
    if (header.prefix != 0 && heed_prefix(node, &header, key, nkey, at) < 0)
        return -1;
    return header.level != 0 || lacks(node, key, nkey, *at) ? 0 : -1;
}

static void set_u16(uint8_t *node, uint32_t at, uint32_t number)
{
    uint16_t word = (uint16_t)number;
    memcpy(node + at, &word, sizeof word);
}

void ph_node_put(uint8_t *node, uint32_t at, const struct ph_map_item *entry)
{
    PH_ASSERT(at >= PH_NODE_FIRST && at + ph_entry_bytes(entry) <= PH_MAP_NODE);
    set_u16(node, at, entry->nkey);
    set_u16(node, at + 2, entry->said);
    memcpy(node + at + 4, entry->key, entry->nkey);
    memcpy(node + at + 4 + entry->nkey, entry->value, entry->nvalue);
}

static void set_slot(uint8_t *node, uint32_t i, uint32_t at, const struct ph_map_item *entry, uint32_t prefix)
{
    set_u16(node, ph_node_slot(i), at);
    set_u16(node, ph_node_slot(i) + 2, hint_of(entry->key, entry->nkey, prefix));
}

static uint32_t common(const struct ph_map_item *left, const struct ph_map_item *right)
{
    uint32_t most = left->nkey < right->nkey ? left->nkey : right->nkey, i = 0;
    while (i < most && left->key[i] == right->key[i])
        i++;
    return i;
}

void ph_node_head(uint8_t *node, uint32_t level, const struct ph_map_item *entries, const uint16_t *at, uint32_t count)
{
    uint32_t first = level != 0, top = PH_MAP_NODE, used = 0;
    uint32_t prefix = count > first + 1 ? common(&entries[first], &entries[count - 1]) : 0;
    for (uint32_t i = 0; i < count; i++) {
        set_slot(node, i, at[i], &entries[i], prefix);
        top = at[i] < top ? at[i] : top;
        used += ph_entry_bytes(&entries[i]);
    }
    struct ph_node header = {
        .magic = PH_NODE_MAGIC, .level = (uint8_t)level, .count = (uint16_t)count, .top = (uint16_t)top,
        .waste = (uint16_t)(PH_MAP_NODE - top - used), .prefix = (uint16_t)prefix,
    };
    memcpy(node, &header, sizeof header);
}

void ph_node_fill(uint8_t *node, uint32_t level, const struct ph_map_item *entries, uint32_t count)
{
    uint16_t at[PH_NODE_ENTRIES_MOST];
    uint32_t top = PH_MAP_NODE;
    memset(node, 0, PH_MAP_NODE);
    for (uint32_t i = 0; i < count; i++) {
        top -= ph_entry_bytes(&entries[i]);
        at[i] = (uint16_t)top;
        ph_node_put(node, top, &entries[i]);
    }
    ph_node_head(node, level, entries, at, count);
}

uint32_t ph_node_used(const uint8_t *node)
{
    struct ph_node header = ph_node_header(node);
    uint32_t entries = PH_MAP_NODE - header.top;
    return ph_node_slot(header.count) + entries - (header.waste < entries ? header.waste : entries);
}

uint32_t ph_node_room(const uint8_t *node)
{
    struct ph_node header = ph_node_header(node);
    return header.top - ph_node_slot(header.count);
}

int ph_node_room_is_free(const uint8_t *node)
{
    struct ph_node header = ph_node_header(node);
    uint32_t lowest = PH_MAP_NODE;
    for (uint32_t i = 0; i < header.count; i++) {
        uint32_t at = ph_node_u16(node, ph_node_slot(i));
        lowest = at < lowest ? at : lowest;
    }
    return header.top <= lowest;
}

/* Entry `i` of the slots of one node, in the bytes of another. */
static int entry_in(const uint8_t *from, const uint8_t *node, uint32_t i, struct ph_map_item *entry)
{
    return ph_entry_at(from, ph_node_u16(node, ph_node_slot(i)), entry);
}

void ph_node_take(uint8_t *node, const uint8_t *from, uint32_t i)
{
    struct ph_node header = ph_node_header(node);
    struct ph_map_item gone;
    uint8_t *at = node + ph_node_slot(i);
    header.waste = (uint16_t)(header.waste + (entry_in(from, node, i, &gone) < 0 ? 0 : ph_entry_bytes(&gone)));
    header.count--;
    memmove(at, at + PH_NODE_SLOT, (size_t)PH_NODE_SLOT * (header.count - i));
    memcpy(node, &header, sizeof header);
}

/* Let all hints be those behind another prefix. */
static void set_prefix(uint8_t *node, const uint8_t *from, uint32_t prefix)
{
    struct ph_node header = ph_node_header(node);
    struct ph_map_item entry;
    header.prefix = (uint16_t)prefix;
    memcpy(node, &header, sizeof header);
    for (uint32_t i = 0; i < header.count; i++)
        if (entry_in(from, node, i, &entry) == 0)
            set_u16(node, ph_node_slot(i) + 2, hint_of(entry.key, entry.nkey, prefix));
}

void ph_node_meet(uint8_t *node, const uint8_t *from, uint32_t i, const struct ph_map_item *entry)
{
    struct ph_node header = ph_node_header(node);
    uint32_t first = header.level != 0;
    struct ph_map_item other;
    if (header.prefix == 0 || i < first)
        return;
    uint32_t prefix = header.count <= first || entry_in(from, node, first, &other) < 0 ? 0 : common(&other, entry);
    if (prefix < header.prefix)
        set_prefix(node, from, prefix);
}

uint32_t ph_node_insert(uint8_t *node, uint32_t i, const struct ph_map_item *entry)
{
    struct ph_node header = ph_node_header(node);
    uint8_t *at = node + ph_node_slot(i);
    PH_ASSERT(ph_entry_bytes(entry) <= header.top);
    header.top = (uint16_t)(header.top - ph_entry_bytes(entry));
    ph_node_put(node, header.top, entry);
    memmove(at + PH_NODE_SLOT, at, (size_t)PH_NODE_SLOT * (header.count - i));
    set_slot(node, i, header.top, entry, header.prefix);
    header.count++;
    memcpy(node, &header, sizeof header);
    return header.top;
}

uint32_t ph_node_add(uint8_t *node, const uint8_t *from, uint32_t i, const struct ph_map_item *entry)
{
    ph_node_meet(node, from, i, entry);
    return ph_node_insert(node, i, entry);
}

void ph_node_move(uint8_t *node, uint32_t i, uint32_t to, const struct ph_map_item *entry)
{
    ph_node_put(node, to, entry);
    set_u16(node, ph_node_slot(i), to);
}

int ph_node_settle(uint8_t *node, uint32_t top)
{
    struct ph_node header = ph_node_header(node);
    if (top < header.top || top - header.top > header.waste)
        return -1;
    header.waste = (uint16_t)(header.waste - (top - header.top));
    header.top = (uint16_t)top;
    memcpy(node, &header, sizeof header);
    return 0;
}
