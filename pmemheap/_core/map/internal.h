/* map/internal.h -- what the files of the map share. */
#ifndef PH_MAP_INTERNAL_H
#define PH_MAP_INTERNAL_H

#include "map/node.h"
#include "tx/tx.h"

#define PH_MAP_MAGIC 0x0001504D53504850ULL /* "PHPSMP", format 1 */

/* ph_map_fail -- note the node at which a failure was found; the failure. */
static inline int ph_map_fail(struct ph_map *map, uint64_t offset, int failure)
{
    map->bad = offset;
    map->why = failure;
    return failure;
}

/* ph_map_descend -- the path from the root of a header to where `key` is, or would be: its last step is where it belongs
 * in the leaf. */
int ph_map_descend(struct ph_map *map, const struct ph_map_header *header, const void *key, uint64_t nkey,
                   struct ph_map_cursor *cursor);
/* ph_map_found -- the entry that a descent has found, and its value. 1 or a failure. */
int ph_map_found(struct ph_map *map, const struct ph_map_cursor *cursor, struct ph_map_value *value);
/* ph_map_child -- the node to which entry `at` of one above the leaves leads; 0 or PH_M_CORRUPT. */
int ph_map_child(const uint8_t *node, uint32_t at, uint64_t *child);
/* ph_map_value_of -- the value of an entry of a leaf, whose bytes are `leaf`. 1 or a failure. */
int ph_map_value_of(struct ph_map *map, uint64_t node, const uint8_t *leaf, const struct ph_map_item *entry,
                    struct ph_map_value *value);

#endif
