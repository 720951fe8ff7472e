/* map/build.h -- a change of a map while it is built: what is made, edited and freed before anything has happened. */
#ifndef PH_MAP_BUILD_H
#define PH_MAP_BUILD_H

#include "map/internal.h"

enum {
    PH_EDITS_MOST = 3 * PH_MAP_HEIGHT_MOST,
    PH_FREES_MOST = 3 * PH_MAP_HEIGHT_MOST + 1,
    PH_EDIT_RANGES = 20,
    PH_BUILD_ENTRIES = 4 * (PH_NODE_ENTRIES_MOST + 1), /* of a few nodes, and one that is about to be added */
};

/* A node with new bytes: all of a new one, a few ranges of one in place; or a copy of another node, which may have another
 * child. */
struct ph_map_edit {
    uint64_t offset;
    uint8_t *bytes;        /* NULL: it is a copy of `copied`, which has the header `head` */
    const uint8_t *copied;
    struct ph_node head;
    uint64_t child;
    uint32_t child_at;     /* where in the copy `child` goes; 0: nowhere */
    uint32_t rest;         /* where the entries begin that are as at home, and were not copied; 0: all are there */
    uint32_t range_count;
    uint16_t from[PH_EDIT_RANGES], length[PH_EDIT_RANGES];
    struct ph_tx_aim aim;
};

struct ph_map_build {
    struct ph_map *map;
    struct ph_tx *tx;
    struct ph_map_header before, header; /* as it was, as it will be */
    struct ph_map_edit edits[PH_EDITS_MOST];
    uint32_t edit_count;
    uint64_t made[PH_EDITS_MOST];
    uint32_t made_count;
    uint64_t frees[PH_FREES_MOST];
    uint32_t free_count;
    struct ph_map_item entries[PH_BUILD_ENTRIES];
    uint64_t last_leaf; /* where the new key lies, if it is behind all others; or PH_MAP_NOWHERE */
};

/* ph_map_begin -- begin a change with the transaction of the map; NULL: `failed` says why. */
struct ph_map_build *ph_map_begin(struct ph_map *map, int *failed);
/* ph_map_continue -- begin another one behind one that was handed over. */
void ph_map_continue(struct ph_map_build *b);
/* ph_map_give_up -- the blocks that were made go back; nothing has changed. Returns `failure`. */
int ph_map_give_up(struct ph_map_build *b, int failure);
/* ph_map_emit -- let all of it happen, or, with a failure, nothing. */
int ph_map_emit(struct ph_map_build *b);

/* ph_map_make_block -- a block of the transaction; its offset. */
int64_t ph_map_make_block(struct ph_map_build *b, uint64_t nbytes);
/* ph_map_make_page -- one that is to be a node. */
int64_t ph_map_make_page(struct ph_map_build *b);
/* ph_map_make_node -- a new node of some entries, whose keys have to ascend; its offset. */
int64_t ph_map_make_node(struct ph_map_build *b, uint32_t level, const struct ph_map_item *entries, uint32_t count);
/* ph_map_edit_of -- an edit of the node at an offset, without bytes yet; NULL: no memory.
 * ph_map_edit_range -- one more range of it is stored; -1: it has too many already. */
struct ph_map_edit *ph_map_edit_of(struct ph_map_build *b, uint64_t offset);
int ph_map_edit_range(struct ph_map_edit *edit, uint32_t from, uint32_t length);
/* ph_map_drop_edits -- as if nothing had been edited.
 * ph_map_copy_node -- copy a node to change it in place. `whole`: also the entries of a leaf, which change. 0 or
 * PH_M_CORRUPT. */
void ph_map_drop_edits(struct ph_map_build *b);
int ph_map_copy_node(const struct ph_map_build *b, struct ph_map_edit *edit, const uint8_t *node, uint32_t level, int whole);
/* ph_map_free_later -- free a block when the change is handed over. */
void ph_map_free_later(struct ph_map_build *b, uint64_t offset);

/* ph_map_copies -- whether what a commit can reach is copied, not edited in place: others may be reading it [Q5], or may begin to [Q7].
 * ph_map_renew -- let the first `count` nodes of a path be nodes that the transaction has made: copies of those that are
 * not. 0, or a failure with nothing changed; the change that is being built begins anew.
 * ph_map_own -- the same, if that is so. */
static inline int ph_map_copies(const struct ph_map_build *b)
{
    return b->tx->log->copies && PH_KEPT(Q5) && !ph_tx_edits(b->tx);
}
int ph_map_renew(struct ph_map_build *b, struct ph_map_cursor *cursor, uint32_t count);
static inline int ph_map_own(struct ph_map_build *b, struct ph_map_cursor *cursor, uint32_t count)
{
    return ph_map_copies(b) ? ph_map_renew(b, cursor, count) : 0;
}

/* ph_map_note_end -- a put is done, whose key lies in b->last_leaf.
 * ph_map_append -- put an entry behind the one that was noted, if that is all there is to do. 1; 0: it is not, and nothing has changed.
 * ph_map_is_at -- whether the map was changed last by the change that has made this version of it.
 * ph_map_count_up -- one entry more in the header, and another version; 0: that takes more than a store, and nothing has changed. */
void ph_map_note_end(const struct ph_map_build *b);
int ph_map_append(struct ph_map *map, const void *key, uint64_t nkey, const void *value, uint64_t nvalue);
int ph_map_is_at(const struct ph_map *map, uint64_t version);
int ph_map_count_up(struct ph_map *map, uint64_t *version);

/* ph_map_refusal -- what stops a block from being changed or freed: that there is none where nodes lead to is damage. */
int ph_map_refusal(struct ph_map *map, uint64_t offset, int refused);

/* ph_map_read_entries -- the entries of a node, into b->entries from `at` on; how many, or a failure. */
int ph_map_read_entries(struct ph_map_build *b, const uint8_t *node, uint32_t at);
/* ph_map_bytes_of -- of a node with some entries. */
uint32_t ph_map_bytes_of(const struct ph_map_item *entries, uint32_t count);

static inline struct ph_map_item ph_map_item_of(const void *key, uint64_t nkey, const void *value, uint64_t nvalue)
{
    return (struct ph_map_item){.key = key, .value = value, .nkey = (uint16_t)nkey, .nvalue = (uint16_t)nvalue,
                                .said = (uint16_t)nvalue};
}

/* What happens to one node: a child is replaced, an entry goes, an entry comes, in this order. */
struct ph_map_change {
    int has_child, takes, adds;
    uint32_t child_at, take_at, add_at;
    uint64_t child;
    struct ph_map_item entry;
};

/* What becomes of one node: the node above has to know of it. */
struct ph_map_outcome {
    uint64_t left, right;
    uint8_t separator[PH_MAP_KEY_MOST]; /* from which key on the right one has them */
    uint16_t nseparator;
    int has_right;
    uint32_t shared_at; /* the entry above that led to `right`, which was there already; 0: it is a new node */
    uint64_t left_was;  /* where `left` was */
};

/* ph_map_stays -- the outcome of a node that is where it was, alone. The separator means nothing then, and stays as it is. */
static inline void ph_map_stays(struct ph_map_outcome *outcome, uint64_t offset)
{
    outcome->left = outcome->left_was = offset;
    outcome->shared_at = 0;
    outcome->right = 0;
    outcome->nseparator = 0;
    outcome->has_right = 0;
}

/* ph_map_separate -- the shortest key that is greater than all on the left and no greater than those on the right. */
void ph_map_separate(struct ph_map_outcome *outcome, uint32_t level, const struct ph_map_item *left,
                     const struct ph_map_item *right);
/* ph_map_has_views -- whether anybody looks at values in a block.
 * ph_map_is_kept -- whether the bytes of a node stay as they are: that is so, or others may have it as of a commit [Q5]. */
int ph_map_has_views(const struct ph_map *map, uint64_t block);
int ph_map_is_kept(const struct ph_map_build *b, uint64_t offset);
/* ph_map_can_be_node -- whether a node can be made of entries. Of a node that is damaged they may overlap, or stand in
 * another order. */
int ph_map_can_be_node(const struct ph_map_item *entries, uint32_t count, uint32_t level);
/* ph_map_arrange -- let a node at an offset, whose bytes are `node`, have other entries: in its place if its bytes need not
 * stay, as a new one else. `at`: where it is then. 0 or a failure. */
int ph_map_arrange(struct ph_map_build *b, uint64_t offset, uint32_t level, const uint8_t *node,
                   const struct ph_map_item *entries, uint32_t count, uint64_t *at);
/* A node beside another one. */
struct ph_map_neighbour {
    uint64_t offset;
    const uint8_t *node;
    uint32_t at, used; /* the entry above that leads to it; its bytes without waste */
};

/* `above` leads to the node above a node and the one beside it. 1; 0: that cannot be done; or a failure.
 * ph_map_find_room -- find one beside a leaf that has room for some of its entries.
 * ph_map_share_some -- move some of them there, and make a change of the leaf itself.
 * ph_map_share -- divide the entries of both evenly; the first `count` of b->entries are those of the leaf as changed.
 * ph_map_merge -- make one node of both; b->entries as before. `change` is what happens to the node above. */
int ph_map_find_room(struct ph_map_build *b, const struct ph_map_step *above, const uint8_t *leaf,
                     struct ph_map_neighbour *found);
int ph_map_share_some(struct ph_map_build *b, const struct ph_map_step *above, const uint8_t *leaf,
                      const struct ph_map_neighbour *other, const struct ph_map_change *change,
                      struct ph_map_outcome *outcome);
int ph_map_share(struct ph_map_build *b, const struct ph_map_step *above, const uint8_t *leaf,
                 const struct ph_map_neighbour *other, uint32_t count, struct ph_map_outcome *outcome);
int ph_map_merge(struct ph_map_build *b, const struct ph_map_step *above, uint32_t level, uint32_t count,
                 struct ph_map_change *change);
/* ph_map_carry_up -- tell the nodes above what became of the one at `depth`. */
int ph_map_carry_up(struct ph_map_build *b, const struct ph_map_cursor *cursor, uint32_t depth,
                    struct ph_map_outcome *below);

#endif
