/* map_internal.h -- what the files of the map share. */
#ifndef PH_MAP_INTERNAL_H
#define PH_MAP_INTERNAL_H

#include "map_node.h"
#include "tx_internal.h"

#define PH_MAP_MAGIC 0x0001504D53504850ULL /* "PHPSMP", format 1 */

/* ph_map_descend -- the path to where `key` is, or would be: its last step is where it belongs in the leaf. */
int ph_map_descend(struct ph_map *map, const void *key, uint64_t nkey, struct ph_map_cursor *cursor);
/* ph_map_child -- the node to which entry `at` of one above the leaves leads; 0 or PH_M_CORRUPT. */
int ph_map_child(const uint8_t *node, uint32_t at, uint64_t *child);
/* ph_map_take_memory -- memory for an image, which ph_map_give_memory takes back; NULL: there is none. */
uint8_t *ph_map_take_memory(struct ph_map *map);
void ph_map_give_memory(struct ph_map *map, uint8_t *bytes);
/* ph_map_image_keep -- `bytes` is the image of the node at `offset` from now on. Pre: ph_map_image_room. */
int ph_map_image_room(struct ph_map *map, uint64_t more);
void ph_map_image_keep(struct ph_map *map, uint64_t offset, uint8_t *bytes);

#endif
