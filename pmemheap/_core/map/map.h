/* map/map.h -- an ordered map of bytes to bytes in a heap: a B+tree, read in place and changed by a transaction.
 *
 *   header   magic | root | count | height                      a block of 32 bytes, which a root names; an empty map
 *                                                               has no nodes, and all ones for a root
 *   node     4096 bytes, each a block of its own:
 *
 *     as base/format.h shows it: header, slots, room, entries
 *
 * Slots stand in the order of the keys, which have their first `prefix` bytes in common; a hint is the next two, so
 * that a search touches few entries; that a key is not there is confirmed by the keys around its place. What is removed
 * becomes waste. A leaf without room gives entries to one beside it, or is split; its entries move within it, unless
 * somebody looks at a value: then the leaf is made anew elsewhere. So a view of a value shows that value for as long as it
 * lives: the node is freed with the last view. In a leaf a value that is too long for it lies in a block apart, and the
 * entry has { u64 offset; u64 bytes }. Above the leaves a value is the offset of a node, and the first key of a node counts
 * as less than every other, whatever it is.
 *
 * All of it may be damaged: each number is checked where it is used, against the node or the block that it speaks of,
 * and a walk ends where it does not get on. Such a failure is PH_M_CORRUPT.
 *
 * Changed nodes are images of the transaction (tx/images.c): all maps of a heap see the same ones. A map itself remembers
 * where its header lies, and within a transaction where the last key of all was put (map/append.c). */
#ifndef PH_MAP_H
#define PH_MAP_H

#include "tx/tx.h"

enum {
    PH_MAP_HEIGHT_MOST = 24,
    PH_MAP_LINES_AHEAD = 3, /* of a node: header and slots of one that is not full of short entries */
};

#define PH_MAP_NOWHERE UINT64_MAX

/* What a put notes that was behind all keys of the map: the leaf where its entry lies, and the block of that as it was aimed at. */
struct ph_map_end {
    uint64_t tx, resets, version; /* it holds as long as these do: the transaction, 0 for none; its resets; the version of the map */
    uint64_t leaf;
    enum ph_block_state state;
    uint8_t fresh, at_once;
};

struct ph_map {
    struct ph_heap *heap;
    uint64_t arena, header; /* number of the arena; offset of the header block */
    uint32_t id;            /* that its header has to have */
    uint8_t is_alone;       /* the transaction has no second call: it keeps no images */
    uint8_t is_fixed;       /* as of a commit: nothing of it changes, and no table describes what was freed since */
    uint8_t is_beside;      /* another process may change the heap meanwhile: tables that were read may be old */
    struct ph_tx *tx;       /* whose changes are seen; NULL: what is committed */
    struct ph_map_build *build; /* scratch of changes, made with the first */
    struct ph_map_end end;
    int why;                /* the last failure that a function with no code of its own has had */
    uint64_t bad;           /* the node or header at which a contradiction was found */
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
    int is_end;      /* of ph_map_descend: it was not, and belongs behind all that are */
    const uint8_t *leaf; /* of ph_map_descend: the node at the end of the path, until something changes */
};

/* A copy of a key. */
struct ph_map_key {
    uint64_t length;
    uint8_t bytes[PH_MAP_KEY_MOST];
};

void ph_map_fini(struct ph_map *map);
/* ph_map_place -- where `nbytes` from an offset on are mapped; NULL if they are not, or if it is no place for a block. */
const uint8_t *ph_map_place(const struct ph_map *map, uint64_t offset, uint64_t nbytes);
/* ph_map_header_at -- copy the header as map->tx leaves it, whatever it says; 0 or a failure. */
int ph_map_header_at(struct ph_map *map, struct ph_map_header *header);
/* ph_map_make -- a new, empty map; the offset of its header, or a failure. */
int64_t ph_map_make(struct ph_tx *tx, uint64_t arena);

/* The rest see what map->tx has made of the map. 1: there is one, 0: there is none, or a failure. */
int ph_map_get(struct ph_map *map, const void *key, uint64_t nkey, struct ph_map_value *value);
int ph_map_has(struct ph_map *map, const void *key, uint64_t nkey);
int ph_map_count(struct ph_map *map, uint64_t *count);

/* Changes, with the transaction map->tx. A failure has changed nothing. put: 1 if the key was there; `placed`: the fresh
 * block that has the value already, or PH_MAP_NOWHERE. patch: PH_M_OUTSIDE if the range is not inside of the value. */
int ph_map_put(struct ph_map *map, const void *key, uint64_t nkey, const void *value, uint64_t nvalue, uint64_t placed);
int ph_map_remove(struct ph_map *map, const void *key, uint64_t nkey);
int ph_map_patch(struct ph_map *map, const void *key, uint64_t nkey, uint64_t start, const void *bytes, uint64_t nbytes);

/* ph_map_pack -- move the entries of a few leaves from `key` on together, if that saves a leaf. 1, and the key to go on
 * from; 0: it was the end. */
int ph_map_pack(struct ph_map *map, const void *key, uint64_t nkey, struct ph_map_key *next);

/* ph_map_seek -- the first entry whose key is not less than `key`; NULL: the first of all. `last`: the last entry whose
 * key is less than `key`; NULL: the last of all. 1, 0 or a failure. */
int ph_map_seek(struct ph_map *map, const void *key, uint64_t nkey, int last, struct ph_map_cursor *cursor);
int ph_map_step(struct ph_map *map, struct ph_map_cursor *cursor, int back);
/* ph_map_count_range -- entries from `low` on, before `high`; NULL: no bound. O(leaves between them). 0 or a failure. */
int ph_map_count_range(struct ph_map *map, const void *low, uint64_t nlow, const void *high, uint64_t nhigh, uint64_t *count);
/* ph_map_entry -- key and value at a cursor; `value` may be NULL. */
int ph_map_entry(struct ph_map *map, const struct ph_map_cursor *cursor, const uint8_t **key, uint64_t *nkey,
                 struct ph_map_value *value);

/* A scan goes from entry to entry while the map changes: it looks for its place again when something has changed. */
struct ph_map_bound {
    const uint8_t *at; /* NULL: no bound */
    uint64_t length;
};
struct ph_map_scan {
    struct ph_map_bound low, high; /* from `low` on, before `high` */
    uint8_t back, has_place, has_ahead, is_done;
    uint64_t changes, tx; /* what `cursor` rests on: the changes of the log so far, the number of the transaction */
    struct ph_map_cursor cursor;
    struct ph_map_key ahead; /* the key of the entry that is next */
    uint16_t at, nkey, said; /* while the place is good: where that entry lies in its leaf, and its header */
};
/* ph_map_scan_next -- 1: key and value of the next entry; 0: there is none; or a failure. `value` may be NULL. */
int ph_map_scan_next(struct ph_map *map, const struct ph_log *log, struct ph_map_scan *scan, const uint8_t **key,
                     uint64_t *nkey, struct ph_map_value *value);

/* ph_map_scan_many -- hand up to `count` entries to `give`, which returns 0, or 1 to stop; nothing may change meanwhile. How many;
 * or a failure. */
typedef int ph_map_give(void *to, const uint8_t *key, uint64_t nkey, const struct ph_map_value *value);
int ph_map_scan_many(struct ph_map *map, const struct ph_log *log, struct ph_map_scan *scan, int count, ph_map_give *give, void *to);

/* A node, for checks; NULL: see ph_map.why. */
const uint8_t *ph_map_node(struct ph_map *map, uint64_t offset, uint32_t level);
int ph_map_header_of(struct ph_map *map, struct ph_map_header *header);

#endif
