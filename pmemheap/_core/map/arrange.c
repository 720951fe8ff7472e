/* map/arrange.c -- giving a node other entries, in its place.
 *
 * An entry stays where it lies if it can: what is stored, and logged, is what comes and what moves. If there is no room
 * below all entries, those that come, and those that lie lowest, fill the gaps that others have left. Entries of different
 * sizes leave pieces of gaps, which are waste: if that is too much, all of them are laid anew.
 *
 * Only a node whose bytes need not stay is changed so: a view shows its value for as long as it lives, and others may
 * read the nodes of a commit. */
#include "base/hints.h"
#include "map/build.h"

enum {
    PH_ARRANGED_MOST = 64,                /* entries of a node whose gaps are filled: it costs their square */
    PH_ARRANGED_WASTE = PH_MAP_NODE / 16, /* that may be left in gaps */
};

struct gap {
    uint32_t from, to;
};

/* Where the entries of a node are to lie. */
struct arranged {
    const struct ph_map_item *entries;
    uint32_t count, stayed, gap_count;
    uint16_t at[PH_NODE_ENTRIES_MOST];     /* of each entry; 0: nowhere yet */
    uint16_t stays[PH_ARRANGED_MOST];      /* those that lie in the node already, from the lowest on */
    struct gap gaps[PH_ARRANGED_MOST];     /* above the lowest of these, from the highest on */
    uint8_t is_stored[PH_ARRANGED_MOST];   /* the entry comes, or moves */
};

/* Where an entry lies in a node; 0: nowhere. */
static uint32_t place_in(const uint8_t *node, const struct ph_map_item *entry)
{
    uintptr_t key = (uintptr_t)entry->key - (uintptr_t)node;
    if (key < PH_NODE_FIRST + 4 || key > PH_MAP_NODE || entry->value != entry->key + entry->nkey)
        return 0;
    uint32_t at = (uint32_t)key - 4;
    return ph_node_u16(node, at) == entry->nkey && ph_node_u16(node, at + 2) == entry->said ? at : 0;
}

static uint32_t end_of(const struct arranged *a, uint32_t i)
{
    return a->at[i] + ph_entry_bytes(&a->entries[i]);
}

/* Find those that lie in the node, and the gaps between them. PH_M_CORRUPT: two share bytes. */
static int look_at_places(struct arranged *a, const uint8_t *node)
{
    for (uint32_t i = 0; i < a->count; i++) {
        uint32_t at = place_in(node, &a->entries[i]), k = a->stayed;
        a->at[i] = (uint16_t)at;
        a->is_stored[i] = at == 0;
        if (at == 0)
            continue;
        for (; k > 0 && a->at[a->stays[k - 1]] > at; k--)
            a->stays[k] = a->stays[k - 1];
        a->stays[k] = (uint16_t)i;
        a->stayed++;
    }
    uint32_t end = PH_MAP_NODE;
    for (uint32_t k = a->stayed; k-- > 0; end = a->at[a->stays[k]]) {
        uint32_t from = end_of(a, a->stays[k]);
        if (from > end)
            return PH_M_CORRUPT;
        if (from < end)
            a->gaps[a->gap_count++] = (struct gap){.from = from, .to = end};
    }
    return 0;
}

/* Lay an entry in a gap that begins at `least` or above; whether there is one. */
static int lay_in_gap(struct arranged *a, uint32_t i, uint32_t least)
{
    uint32_t nbytes = ph_entry_bytes(&a->entries[i]);
    for (uint32_t k = 0; k < a->gap_count && a->gaps[k].from >= least; k++)
        if (a->gaps[k].to - a->gaps[k].from >= nbytes) {
            a->gaps[k].to -= nbytes;
            a->at[i] = (uint16_t)a->gaps[k].to;
            a->is_stored[i] = 1;
            return 1;
        }
    return 0;
}

/* Lay the entries that have no place below all others; where the lowest begins, or less than what the slots leave. */
static int32_t lay_below(struct arranged *a)
{
    int32_t low = PH_MAP_NODE;
    for (uint32_t i = 0; i < a->count; i++)
        if (a->at[i] != 0 && a->at[i] < low)
            low = a->at[i];
    for (uint32_t i = 0; i < a->count; i++)
        if (a->at[i] == 0) {
            low -= (int32_t)ph_entry_bytes(&a->entries[i]);
            if (low < (int32_t)ph_node_slot(a->count))
                return low;
            a->at[i] = (uint16_t)low;
        }
    return low;
}

/* Bytes of the entries that have no place, below the lowest one that has. */
static int has_room_below(const struct arranged *a)
{
    uint32_t need = ph_node_slot(a->count), low = a->stayed == 0 ? PH_MAP_NODE : a->at[a->stays[0]];
    for (uint32_t i = 0; i < a->count; i++)
        need += a->at[i] == 0 ? ph_entry_bytes(&a->entries[i]) : 0;
    return need <= low;
}

/* Fill the gaps, and then lay the rest below. 0: too much is left of them. */
static int fill_gaps(struct arranged *a)
{
    uint32_t used = 0, k = 0;
    for (uint32_t i = 0; i < a->count; i++) {
        used += ph_entry_bytes(&a->entries[i]);
        if (a->at[i] == 0)
            lay_in_gap(a, i, 0);
    }
    while (k < a->stayed && lay_in_gap(a, a->stays[k], a->at[a->stays[k]]))
        k++;
    int32_t low = lay_below(a);
    return low >= (int32_t)ph_node_slot(a->count) && PH_MAP_NODE - (uint32_t)low <= used + PH_ARRANGED_WASTE;
}

/* 1: all have a place; 0: they are to be laid anew; or PH_M_CORRUPT. */
static int find_places(struct arranged *a, const uint8_t *node)
{
    if (a->count > PH_ARRANGED_MOST)
        return 0;
    if (look_at_places(a, node) < 0)
        return PH_M_CORRUPT;
    return has_room_below(a) ? lay_below(a) >= 0 : fill_gaps(a);
}

/* Store what comes and what moves; -1: in too many places. */
static int store(const struct arranged *a, struct ph_map_edit *edit)
{
    for (uint32_t i = 0; i < a->count; i++)
        if (a->is_stored[i]) {
            ph_node_put(edit->bytes, a->at[i], &a->entries[i]);
            if (ph_map_edit_range(edit, a->at[i], ph_entry_bytes(&a->entries[i])) < 0)
                return -1;
        }
    return 0;
}

static void lay_anew(const struct arranged *a, uint32_t level, struct ph_map_edit *edit)
{
    ph_node_fill(edit->bytes, level, a->entries, a->count);
    uint32_t top = ph_node_header(edit->bytes).top;
    edit->range_count = 0;
    ph_map_edit_range(edit, 0, ph_node_slot(a->count));
    ph_map_edit_range(edit, top, PH_MAP_NODE - top);
}

static int arrange_in_place(struct ph_map_build *b, uint64_t offset, uint32_t level, const uint8_t *node,
                            const struct ph_map_item *entries, uint32_t count)
{
    struct arranged a;
    a.entries = entries;
    a.count = count;
    a.stayed = a.gap_count = 0;
    if (!ph_map_can_be_node(entries, count, level))
        return ph_map_fail(b->map, offset, PH_M_CORRUPT);
    struct ph_map_edit *edit = ph_map_edit_of(b, offset);
    if (edit == NULL)
        return PH_L_NOMEM;
    int found = find_places(&a, node);
    if (found < 0)
        return ph_map_fail(b->map, offset, found);
    if (found && !(b->map->is_alone && level == 0)) /* nobody looks at the rest of the image of a leaf then */
        ph_copy_long(edit->bytes, node, PH_MAP_NODE);
    if (!found || ph_map_edit_range(edit, 0, ph_node_slot(count)) < 0 || store(&a, edit) < 0)
        lay_anew(&a, level, edit);
    else
        ph_node_head(edit->bytes, level, entries, a.at, count);
    return 0;
}

int ph_map_has_views(const struct ph_map *map, uint64_t block)
{
    const struct ph_refs *refs = ph_refs_find(map->heap, ph_local(block));
    return refs != NULL && refs->views != 0;
}

int ph_map_is_kept(const struct ph_map_build *b, uint64_t offset)
{
    return ph_map_has_views(b->map, offset) || (ph_map_copies(b) && !ph_tx_has_made(b->tx, offset));
}

int ph_map_arrange(struct ph_map_build *b, uint64_t offset, uint32_t level, const uint8_t *node,
                   const struct ph_map_item *entries, uint32_t count, uint64_t *at)
{
    *at = offset;
    if (!ph_map_is_kept(b, offset))
        return arrange_in_place(b, offset, level, node, entries, count);
    int64_t remade = ph_map_make_node(b, level, entries, count);
    if (remade < 0)
        return (int)remade;
    ph_map_free_later(b, offset);
    *at = (uint64_t)remade;
    return 0;
}
