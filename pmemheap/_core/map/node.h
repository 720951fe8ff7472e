/* map/node.h -- the image of one node of a map: what lies where in its 4096 bytes, and how that is changed. */
#ifndef PH_MAP_NODE_H
#define PH_MAP_NODE_H

#include <string.h>

#include "map/map.h"

enum {
    PH_NODE_ENTRIES_MOST = (PH_MAP_NODE - PH_NODE_FIRST) / (PH_NODE_SLOT + 4), /* of a sound node */
};

/* An entry, in a node or about to be in one. */
struct ph_map_item {
    const uint8_t *key, *value;
    uint16_t nkey, nvalue; /* bytes in the entry */
    uint16_t said;         /* nvalue, or PH_NODE_APART */
};

static inline uint16_t ph_node_u16(const uint8_t *node, uint32_t at)
{
    uint16_t number;
    memcpy(&number, node + at, sizeof number);
    return number;
}

static inline struct ph_node ph_node_header(const uint8_t *node)
{
    struct ph_node header;
    memcpy(&header, node, sizeof header);
    return header;
}

/* ph_node_header_once -- the same, and nothing that the compiler makes of it reads the node again: others may be writing to it. */
static inline struct ph_node ph_node_header_once(const uint8_t *node)
{
    struct ph_node header = ph_node_header(node);
    __asm__ volatile("" : : : "memory");
    return header;
}

static inline uint32_t ph_node_count(const uint8_t *node)
{
    return ph_node_u16(node, 6);
}

static inline uint32_t ph_node_slot(uint32_t i)
{
    return PH_NODE_FIRST + PH_NODE_SLOT * i;
}

static inline uint32_t ph_entry_bytes(const struct ph_map_item *entry)
{
    return 4u + entry->nkey + entry->nvalue;
}

/* ph_entry_value_bytes -- bytes in an entry of a value of which it says so much. */
static inline uint16_t ph_entry_value_bytes(uint16_t said)
{
    return said == PH_NODE_APART ? PH_NODE_REFERENCE : said;
}

/* ph_entry_at -- the entry that lies at a byte of a node; -1 if none does. The caller may rely on it: the entry lies inside of
 * the node, behind its slots, and the key is no longer than a key may be. */
static inline int ph_entry_at(const uint8_t *node, uint32_t at, struct ph_map_item *entry)
{
    if (at < ph_node_u16(node, 8) || at > PH_MAP_NODE - 4)
        return -1;
    entry->nkey = ph_node_u16(node, at);
    entry->said = ph_node_u16(node, at + 2);
    entry->nvalue = ph_entry_value_bytes(entry->said);
    entry->key = node + at + 4;
    entry->value = entry->key + entry->nkey;
    return entry->nkey <= PH_MAP_KEY_MOST && at + ph_entry_bytes(entry) <= PH_MAP_NODE ? 0 : -1;
}

/* ph_node_entry -- entry `i`, or -1. Pre: i < count; a count that has changed since it was looked at leads nowhere. */
static inline int ph_node_entry(const uint8_t *node, uint32_t i, struct ph_map_item *entry)
{
    if (i >= PH_NODE_ENTRIES_MOST)
        return -1;
    return ph_entry_at(node, ph_node_u16(node, ph_node_slot(i)), entry);
}

/* The first 8 bytes of a key as a number in their order. */
static inline uint64_t ph_key_front(const void *key)
{
    uint64_t front;
    memcpy(&front, key, sizeof front);
    return __builtin_bswap64(front);
}

static inline int ph_key_order(const void *left, uint64_t nleft, const void *right, uint64_t nright)
{
    if (nleft >= 8 && nright >= 8) { /* most keys differ here, and memcmp is a call */
        uint64_t front = ph_key_front(left), other = ph_key_front(right);
        if (front != other)
            return front < other ? -1 : 1;
    }
    int order = memcmp(left, right, nleft < nright ? nleft : nright);
    return order != 0 ? order : nleft < nright ? -1 : nleft > nright;
}

static inline int ph_item_order(const struct ph_map_item *left, const struct ph_map_item *right)
{
    return ph_key_order(left->key, left->nkey, right->key, right->nkey);
}

/* ph_node_header_is_sound -- whether it is that of a node of this level: slots can be read. */
static inline int ph_node_header_is_sound(const struct ph_node *header, uint32_t level)
{
    return header->magic == PH_NODE_MAGIC && header->level == level && header->top <= PH_MAP_NODE
        && header->count <= PH_NODE_ENTRIES_MOST && ph_node_slot(header->count) <= header->top
        && header->prefix <= PH_MAP_KEY_MOST;
}

static inline int ph_node_is_sound(const uint8_t *node, uint32_t level)
{
    struct ph_node header = ph_node_header(node);
    return ph_node_header_is_sound(&header, level);
}
/* ph_node_find -- the first entry whose key is not less, above the leaves without entry 0; `found`: it is equal. -1: see
 * ph_node_entry; or a leaf contradicts that a key is not in it.
 * ph_node_leads -- whether the keys of a node above the leaves agree that entry `at` leads to a key. */
int ph_node_find(const uint8_t *node, const void *key, uint64_t nkey, uint32_t *at, int *found);
int ph_node_leads(const uint8_t *node, const void *key, uint64_t nkey, uint32_t at);
/* ph_node_fill -- make a node of entries that fit.
 * ph_node_put -- store one at a byte of a node, to which no slot leads.
 * ph_node_head -- make header and slots for entries that lie at `at`. */
void ph_node_fill(uint8_t *node, uint32_t level, const struct ph_map_item *entries, uint32_t count);
void ph_node_put(uint8_t *node, uint32_t at, const struct ph_map_item *entry);
void ph_node_head(uint8_t *node, uint32_t level, const struct ph_map_item *entries, const uint16_t *at, uint32_t count);
/* ph_node_used -- bytes that a node has without its waste, as its header has them. */
uint32_t ph_node_used(const uint8_t *node);
/* ph_node_room -- bytes for one more entry and its slot. */
uint32_t ph_node_room(const uint8_t *node);
/* ph_node_room_is_free -- whether no entry begins in that room. O(entries). */
int ph_node_room_is_free(const uint8_t *node);
/* Header and slots of `node` are changed; entries, which stay where they are, are read in `from`: the node itself, or
 * what it was copied from.
 * ph_node_take -- remove entry `i`: its bytes become waste.
 * ph_node_add -- add an entry before entry `i`; where it lies. Pre: there is room. It is in two parts:
 * ph_node_meet -- let the slots leave out no more of each key than a new entry has in common with them.
 * ph_node_insert -- add it.
 * ph_node_move -- let entry `i`, which is `entry`, lie elsewhere.
 * ph_node_settle -- the lowest entry lies at `top` now; -1: the header contradicts. */
void ph_node_take(uint8_t *node, const uint8_t *from, uint32_t i);
uint32_t ph_node_add(uint8_t *node, const uint8_t *from, uint32_t i, const struct ph_map_item *entry);
void ph_node_meet(uint8_t *node, const uint8_t *from, uint32_t i, const struct ph_map_item *entry);
uint32_t ph_node_insert(uint8_t *node, uint32_t i, const struct ph_map_item *entry);
void ph_node_move(uint8_t *node, uint32_t i, uint32_t to, const struct ph_map_item *entry);
int ph_node_settle(uint8_t *node, uint32_t top);

#endif
