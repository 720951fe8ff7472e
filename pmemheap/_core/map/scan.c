/* map/scan.c -- going through a map while it changes.
 *
 * A scan stands on the entry that it will give next, and keeps the way there and a copy of the key. Each change of
 * the bytes of blocks increments a count in the log, and so does each change that a transaction collects. While count and
 * transaction are the same, the way is good. Else the key is looked for again; if it is gone, the one behind it is next.
 * So an entry is there at the moment at which it is given. An entry that is added between the last one and the next is not
 * seen, so that a loop that adds something behind each key comes to its end.
 *
 * Each key has to be greater than the one before, or less, backwards: else the nodes are damaged, and a scan of them
 * might never end. */
#include "map/internal.h"

static uint64_t number_of(const struct ph_tx *tx)
{
    return tx == NULL ? 0 : tx->number;
}

/* A reader beside a writer sees no count go on. */
static int is_in_place(const struct ph_map *map, const struct ph_log *log, const struct ph_map_scan *scan)
{
    if (map->is_fixed)
        return scan->has_place;
    return scan->has_place && !map->is_beside && log != NULL && scan->changes == log->changes
        && scan->tx == number_of(map->tx);
}

static int order_with(const struct ph_map_bound *bound, const uint8_t *key, uint64_t nkey)
{
    return ph_key_order(key, nkey, bound->at, bound->length);
}

/* To the last entry whose key is not greater than a bound. */
static int seek_back(struct ph_map *map, struct ph_map_scan *scan, const struct ph_map_bound *from)
{
    const uint8_t *key;
    uint64_t nkey;
    int more = ph_map_seek(map, from->at, from->length, 0, &scan->cursor);
    if (more > 0)
        more = ph_map_entry(map, &scan->cursor, &key, &nkey, NULL);
    if (more < 0 || (more > 0 && order_with(from, key, nkey) == 0))
        return more;
    return ph_map_seek(map, from->at, from->length, 1, &scan->cursor);
}

/* To the entry that is next. */
static int find_place(struct ph_map *map, struct ph_map_scan *scan)
{
    const struct ph_map_bound ahead = {.at = scan->ahead.bytes, .length = scan->ahead.length};
    if (!scan->has_ahead) {
        const struct ph_map_bound *from = scan->back ? &scan->high : &scan->low;
        return ph_map_seek(map, from->at, from->length, scan->back, &scan->cursor);
    }
    return scan->back ? seek_back(map, scan, &ahead) : ph_map_seek(map, ahead.at, ahead.length, 0, &scan->cursor);
}

/* Whether a key does not lie before where the scan goes on. */
static int is_due(const struct ph_map_scan *scan, const uint8_t *key, uint64_t nkey)
{
    const struct ph_map_bound ahead = {.at = scan->ahead.bytes, .length = scan->ahead.length};
    if (scan->has_ahead)
        return scan->back ? order_with(&ahead, key, nkey) <= 0 : order_with(&ahead, key, nkey) >= 0;
    if (scan->back)
        return scan->high.at == NULL || order_with(&scan->high, key, nkey) < 0;
    return scan->low.at == NULL || order_with(&scan->low, key, nkey) >= 0;
}

static int is_beyond(const struct ph_map_scan *scan, const uint8_t *key, uint64_t nkey)
{
    if (scan->back)
        return scan->low.at != NULL && order_with(&scan->low, key, nkey) < 0;
    return scan->high.at != NULL && order_with(&scan->high, key, nkey) >= 0;
}

/* Read the entry at the cursor: the leaf, which is `leaf` unless that is NULL. */
static int entry_here(struct ph_map *map, const struct ph_map_scan *scan, const uint8_t **leaf, struct ph_map_item *entry)
{
    const struct ph_map_step *step = &scan->cursor.path[scan->cursor.height - 1];
    if (*leaf == NULL && (*leaf = ph_map_node(map, step->node, 0)) == NULL)
        return map->why;
    return step->at >= ph_node_count(*leaf) || ph_node_entry(*leaf, step->at, entry) < 0 ? PH_M_CORRUPT : 1;
}

/* To the next entry, as a rule one of the same leaf; to another leaf with `leaf` NULL. */
static int step(struct ph_map *map, struct ph_map_scan *scan, const uint8_t **leaf)
{
    struct ph_map_step *here = &scan->cursor.path[scan->cursor.height - 1];
    if (scan->back ? here->at > 0 : here->at + 1 < ph_node_count(*leaf)) {
        here->at += scan->back ? -1u : 1u;
        return 1;
    }
    *leaf = NULL;
    return ph_map_step(map, &scan->cursor, scan->back);
}

/* The entry behind one of a leaf: 1; 0 if there is none, and the scan is done; or a failure. */
static int behind(struct ph_map *map, struct ph_map_scan *scan, const uint8_t **leaf, const struct ph_map_item *entry,
                  struct ph_map_item *next)
{
    int more = step(map, scan, leaf);
    if (more > 0)
        more = entry_here(map, scan, leaf, next);
    if (more < 0)
        return more;
    scan->is_done = more == 0 || is_beyond(scan, next->key, next->nkey);
    if (scan->is_done)
        return 0;
    int order = ph_item_order(next, entry);
    return (scan->back ? order >= 0 : order <= 0) ? PH_M_CORRUPT : 1;
}

static void stand_on(const struct ph_map *map, const struct ph_log *log, struct ph_map_scan *scan, const uint8_t *leaf,
                     const struct ph_map_item *next)
{
    scan->at = (uint16_t)(next->key - leaf);
    scan->nkey = next->nkey;
    scan->said = next->said;
    scan->ahead.length = next->nkey;
    memcpy(scan->ahead.bytes, next->key, next->nkey); /* no longer than PH_MAP_KEY_MOST: ph_entry_at */
    scan->has_ahead = scan->has_place = 1;
    scan->changes = log == NULL ? 0 : log->changes;
    scan->tx = number_of(map->tx);
}

/* The entry that the scan stands on, as it was read when it came there: 1, with its leaf. */
static int stood_on(struct ph_map *map, const struct ph_map_scan *scan, const uint8_t **leaf, struct ph_map_item *entry)
{
    *leaf = ph_map_node(map, scan->cursor.path[scan->cursor.height - 1].node, 0);
    if (*leaf == NULL)
        return map->why;
    entry->key = *leaf + scan->at;
    entry->value = entry->key + scan->nkey;
    entry->nkey = scan->nkey;
    entry->said = scan->said;
    entry->nvalue = ph_entry_value_bytes(scan->said);
    return 1;
}

/* Look for the place again: 1 if there is an entry there. */
static int look_again(struct ph_map *map, struct ph_map_scan *scan, const uint8_t **leaf, struct ph_map_item *entry)
{
    int more = find_place(map, scan);
    if (more > 0)
        more = entry_here(map, scan, leaf, entry);
    if (more > 0 && !is_due(scan, entry->key, entry->nkey))
        more = PH_M_CORRUPT;
    if (more > 0 && is_beyond(scan, entry->key, entry->nkey))
        more = 0;
    scan->is_done = more == 0;
    return more;
}

/* The entry that is next: 1, with its leaf. */
static int first(struct ph_map *map, const struct ph_log *log, struct ph_map_scan *scan, const uint8_t **leaf,
                 struct ph_map_item *entry)
{
    int is_good = is_in_place(map, log, scan);
    scan->has_place = 0;
    if (scan->is_done)
        return 0;
    return is_good ? stood_on(map, scan, leaf, entry) : look_again(map, scan, leaf, entry);
}

static int value_here(struct ph_map *map, const struct ph_map_scan *scan, const uint8_t *leaf,
                      const struct ph_map_item *entry, struct ph_map_value *value)
{
    return ph_map_value_of(map, scan->cursor.path[scan->cursor.height - 1].node, leaf, entry, value);
}

int ph_map_scan_next(struct ph_map *map, const struct ph_log *log, struct ph_map_scan *scan, const uint8_t **key,
                     uint64_t *nkey, struct ph_map_value *value)
{
    const uint8_t *leaf = NULL;
    struct ph_map_item entry, next;
    int more = first(map, log, scan, &leaf, &entry);
    if (more > 0 && value != NULL)
        more = value_here(map, scan, leaf, &entry, value);
    if (more <= 0)
        return more;
    *key = entry.key;
    *nkey = entry.nkey;
    more = behind(map, scan, &leaf, &entry, &next);
    if (more > 0)
        stand_on(map, log, scan, leaf, &next);
    return more < 0 ? more : 1;
}

/* An entry whose value, or what is behind it, cannot be read yet is the first of the next row. */
int ph_map_scan_many(struct ph_map *map, const struct ph_log *log, struct ph_map_scan *scan, int count, ph_map_give *give, void *to)
{
    const uint8_t *leaf = NULL;
    struct ph_map_item entry, next;
    struct ph_map_value value;
    int given = 0, most = map->is_beside ? 1 : count; /* a writer elsewhere may change the way at any time */
    int more = first(map, log, scan, &leaf, &entry);
    while (more > 0 && given < most) {
        more = value_here(map, scan, leaf, &entry, &value);
        if (more > 0)
            more = behind(map, scan, &leaf, &entry, &next);
        if (more < 0)
            break;
        if (give(to, entry.key, entry.nkey, &value) != 0)
            return given;
        given++;
        if (more > 0)
            entry = next;
    }
    if (given == 0 || (more < 0 && more != PH_M_UNMAPPED))
        return more;
    if (more != 0) {
        stand_on(map, log, scan, leaf, &entry);
        scan->has_place = more > 0; /* else its key is looked for: the cursor may have left it */
    }
    return given;
}
