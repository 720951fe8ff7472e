/* map.h -- an ordered map of bytes to bytes in a heap: a B+tree, read in place and changed by a transaction.
 *
 *   header   magic | root | count | height                      a block of 32 bytes, which a root names; an empty map
 *                                                               has no nodes, and all ones for a root
 *   node     4096 bytes, each a block of its own:
 *
 *     0      4       5   6      8      10     12      14  16      16 + 4 count       top                    4096
 *     +------+-------+---+------+------+------+-------+---+-------+--------- - - -----+----------------------+
 *     | magic| level | 0 | count| top  | waste| prefix| 0 | slots |       room        | entries, any order   |
 *     +------+-------+---+------+------+------+-------+---+-------+--------- - - -----+----------------------+
 *     slot   { u16 position of the entry; u16 hint }
 *     entry  { u16 key bytes; u16 value bytes, or PH_NODE_APART; key; value }
 *
 * Slots stand in the order of the keys, which have their first `prefix` bytes in common; a hint is the next two, so
 * that a search touches few entries. An entry that was added is never moved within its node: what is removed
 * becomes waste, and a node without room is made anew elsewhere. So a view of a value shows that value for as long
 * as it lives: the node is freed with the last view. In a leaf a value that is too long for it lies in a block
 * apart, and the entry has { u64 offset; u64 bytes }. Above the leaves a value is the offset of a node, and the
 * first key of a node counts as less than every other, whatever it is.
 *
 * Within a transaction changed nodes are kept as images, which its later calls read. They are a cache: what the
 * transaction has collected says the same. */
#ifndef PH_MAP_H
#define PH_MAP_H

#include "tx.h"

enum {
    PH_MAP_NODE = 4096,
    PH_MAP_KEY_MOST = 1024,  /* bytes of a key */
    PH_MAP_ENTRY_MOST = 1024, /* bytes of key and value in one entry */
    PH_MAP_HEIGHT_MOST = 24,
    PH_MAP_SPARES = 128, /* what a transaction of a hundred puts needs */
    PH_MAP_LINE = 64,
    PH_MAP_LINES_AHEAD = 3, /* of a node: header and slots of one that is not full of short entries */
};

#define PH_MAP_NOWHERE UINT64_MAX

/* Failures of this file, besides those of the allocator core and of transactions. */
enum {
    PH_M_CORRUPT = -40, /* see ph_map.bad */
    PH_M_TORN = -41,    /* no memory in the middle of a change: the transaction has to be aborted */
    PH_M_OUTSIDE = -42, /* the range lies outside of the value */
};

struct ph_map_header {
    uint64_t magic, root, count;
    uint32_t height, zero; /* nodes from the root to a leaf, 1 for a single leaf */
};
_Static_assert(sizeof(struct ph_map_header) == 32, "format 1");

struct ph_map_image {
    uint64_t offset; /* of the node + 1; 0: an empty slot */
    uint8_t *bytes;
};

struct ph_map {
    struct ph_heap *heap;
    uint64_t arena, header; /* number of the arena; offset of the header block */
    int inside;             /* what is asked for now is what `tx` has made of it */
    /* of the transaction that has changed it last, as far as it is open */
    const struct ph_tx *tx;
    uint64_t tx_number, rollbacks; /* that it is this one, and has not gone back since */
    int is_partial;               /* it had collected bytes before: a node without an image may have some */
    struct ph_map_header changed; /* the header as it leaves it */
    struct ph_map_image *images;
    uint64_t used, capacity;
    int is_alone;           /* the transaction has no second call: nothing is kept for it */
    struct ph_map_build *build; /* scratch of changes, made with the first */
    uint64_t count_write;       /* where the transaction has collected the number of entries; ~0: nowhere alone */
    uint8_t *spare[PH_MAP_SPARES]; /* memory of images that are not needed any more */
    uint32_t spares;
    uint64_t bad; /* the node at which a contradiction was found */
};

/* Where a value lies: `block` is the node or the block apart, `start` counts from its first byte. */
struct ph_map_value {
    const uint8_t *bytes;
    uint64_t block, start, length;
    int is_apart;
};

/* One place in a leaf, and how it was reached. */
struct ph_map_step {
    uint64_t node;
    uint32_t at;
};
struct ph_map_cursor {
    struct ph_map_step path[PH_MAP_HEIGHT_MOST]; /* from the root on */
    uint32_t height; /* 0: the map is empty */
    int found;       /* the key was there */
};

void ph_map_fini(struct ph_map *map);
/* ph_map_look -- whose changes the next calls see: those of `tx`, NULL for what is committed. */
int ph_map_look(struct ph_map *map, const struct ph_tx *tx);
/* ph_map_place -- where `nbytes` from an offset on are mapped; NULL if they are not, or if it is no place for a block. */
const uint8_t *ph_map_place(const struct ph_map *map, uint64_t offset, uint64_t nbytes);
/* ph_map_overlay -- put what `tx` has collected for [offset, offset + nbytes) over a copy of these bytes. */
void ph_map_overlay(const struct ph_tx *tx, uint64_t offset, uint64_t nbytes, uint8_t *to);
/* ph_map_make -- a new, empty map; the offset of its header, or a failure. */
int64_t ph_map_make(struct ph_tx *tx, uint64_t arena);

/* The rest see what the last ph_map_look said. 1: there is one, 0: there is none, or a failure. */
int ph_map_get(struct ph_map *map, const void *key, uint64_t nkey, struct ph_map_value *value);
int ph_map_count(struct ph_map *map, uint64_t *count);

/* Changes, with the transaction of the last ph_map_look. A failure has changed nothing, but for PH_M_TORN. put: 1 if
 * the key was there; `placed`: the fresh block that has the value already, or PH_MAP_NOWHERE. patch: PH_M_OUTSIDE if the range is not inside of the value. */
int ph_map_put(struct ph_map *map, struct ph_tx *tx, const void *key, uint64_t nkey, const void *value, uint64_t nvalue,
               uint64_t placed);
int ph_map_remove(struct ph_map *map, struct ph_tx *tx, const void *key, uint64_t nkey);
int ph_map_patch(struct ph_map *map, struct ph_tx *tx, const void *key, uint64_t nkey, uint64_t start, const void *bytes,
                 uint64_t nbytes);

/* A copy of a key. */
struct ph_map_key {
    uint64_t length;
    uint8_t bytes[PH_MAP_KEY_MOST];
};

/* ph_map_pack -- move the entries of a few leaves from `key` on together, if that saves a leaf. 1, and the key to go on
 * from; 0: it was the end. */
int ph_map_pack(struct ph_map *map, struct ph_tx *tx, const void *key, uint64_t nkey, struct ph_map_key *next);

/* ph_map_seek -- the first entry whose key is not less than `key`; NULL: the first of all. `last`: the last entry whose
 * key is less than `key`; NULL: the last of all. 1, 0 or a failure. */
int ph_map_seek(struct ph_map *map, const void *key, uint64_t nkey, int last, struct ph_map_cursor *cursor);
int ph_map_step(struct ph_map *map, struct ph_map_cursor *cursor, int back);
/* ph_map_count_range -- entries from `low` on, before `high`; NULL: no bound. O(leaves between them). 0 or a failure. */
int ph_map_count_range(struct ph_map *map, const void *low, uint64_t nlow, const void *high, uint64_t nhigh, uint64_t *count);
/* ph_map_entry -- key and value at a cursor. */
int ph_map_entry(struct ph_map *map, const struct ph_map_cursor *cursor, const uint8_t **key, uint64_t *nkey,
                 struct ph_map_value *value);

/* A node, for who checks them all: its image as the last ph_map_look said, or NULL. */
const uint8_t *ph_map_node(struct ph_map *map, uint64_t offset, uint32_t level);
int ph_map_header_of(struct ph_map *map, struct ph_map_header *header);

#endif
