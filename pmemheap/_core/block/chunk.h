/* block/chunk.h -- a part of block/block.h: chunks, and the pieces in them [R31] [R32]. */
#pragma once

/* ph_owner -- whose a chunk is: of a ring, or of the region whose first chunk begins at a unit. In its entry that is the flags, enum
 * ph_chunk_flag, and the second word. */
struct ph_owner {
    uint64_t flags, first;
};

/* ph_chunk_entry -- the first word of the entry of a chunk of so many units. */
static inline uint64_t ph_chunk_entry(uint64_t nunits, uint64_t flags)
{
    return ph_entry_word(PH_KIND_PACKED, 0, (uint32_t)nunits) | flags << PH_ENTRY_FLAGS_AT;
}
void ph_chunk_set(struct ph_heap *h, uint64_t unit, uint64_t nunits);
void ph_chunk_make(struct ph_heap *h, uint64_t unit, uint64_t nunits, struct ph_owner owner);
int ph_chunk_adopt(struct ph_heap *h, uint64_t unit, uint64_t nunits);
/* ph_region_lives -- whether a region begins at a unit: its first chunk is there, and the piece that stands for it [R33] [R34]. */
int ph_region_lives(const struct ph_heap *h, uint64_t first);
/* ph_heads_region -- whether a block stands for a region: it goes with that alone. */
static inline int ph_heads_region(const struct ph_block *block)
{
    return ph_is_packed(block) && (block->record->has_refs & PH_HEADS_REGION) != 0
        && block->offset == ph_head_of(block) << PH_UNIT_SHIFT;
}
/* ph_chunk_let_go -- a chunk in which nothing is, and which nobody keeps, goes: 1; it is in use: 0; it cannot go now: -1, and
 * ph_release_idle_runs asks again. */
int ph_chunk_let_go(struct ph_heap *h, struct ph_unit *chunk);
/* ph_chunk_is_idle -- whether nothing is in a chunk, and nobody keeps it. */
static inline int ph_chunk_is_idle(const struct ph_unit *chunk)
{
    return chunk->u.packed.live == 0 && chunk->u.packed.withheld == 0
        && (chunk->class_index == 0 || chunk->class_index == PH_IN_REGION_GONE);
}
/* ph_count_bumped -- the mark of a chunk has come to a granule of it, above a new piece of so many. */
static inline void ph_count_bumped(struct ph_heap *h, struct ph_unit *chunk, uint64_t mark, uint64_t granules)
{
    chunk->u.packed.fill = (uint16_t)mark;
    chunk->u.packed.live++;
    h->packed.blocks++;
    h->packed.bytes += granules << PH_GRANULE_SHIFT;
}

/* ph_piece_granules, ph_piece_align -- what a block of so many bytes, at such an alignment, asks of a chunk. */
static inline uint64_t ph_piece_granules(uint64_t size)
{
    uint64_t granules = (size + PH_GRANULE - 1) >> PH_GRANULE_SHIFT;
    return granules < PH_PIECE_LEAST ? PH_PIECE_LEAST : granules;
}

static inline uint64_t ph_piece_align(uint64_t align)
{
    return align <= PH_GRANULE ? 1 : align >> PH_GRANULE_SHIFT;
}

/* ph_chunk_units_for -- units in which there is room for a piece, whatever it has to be padded by, and for the mark. */
static inline uint64_t ph_chunk_units_for(uint64_t granules, uint64_t align)
{
    uint64_t most = granules + (align > 1 ? align + 2 : 0) + 2;
    return (most + PH_UNIT_GRANULES - 1) / PH_UNIT_GRANULES;
}

/* ph_chunk_units_after -- of the chunk that follows one of so many units. */
static inline uint32_t ph_chunk_units_after(uint32_t nunits)
{
    return nunits * 2 < PH_CHUNK_UNITS_MAX ? nunits * 2 : PH_CHUNK_UNITS_MAX;
}

/* ph_chunk_cut -- a chunk keeps the units that it has filled. */
void ph_chunk_cut(struct ph_heap *h, struct ph_unit *chunk);
/* ph_chunk_pad -- a dead piece from the mark of a chunk to a granule of the table, at which the mark stands then. */
void ph_chunk_pad(struct ph_heap *h, struct ph_unit *chunk, uint64_t start);
int64_t ph_chunk_bump(struct ph_heap *h, struct ph_unit *chunk, uint64_t granules, uint64_t align);
void ph_chunk_rewind(struct ph_heap *h, struct ph_unit *chunk, uint64_t fill);
void ph_chunk_give_back(struct ph_heap *h, struct ph_unit *chunk);
/* ph_chunk_mark -- it may be rewound to a granule: the chunk stays, and no free lowers the fill mark below that. */
static inline void ph_chunk_mark(struct ph_unit *chunk, uint64_t fill)
{
    chunk->back = (uint16_t)fill;
    chunk->class_index = PH_IN_REGION_MARKED;
}
int ph_chunk_can_hold(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t fill);
enum ph_block_state ph_piece_state(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t offset);
uint64_t ph_piece_holding(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t offset);
int ph_piece_next(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t *at, uint64_t *end);
/* The steps below, for a piece. */
void ph_piece_free(const struct ph_block *block);
void ph_piece_end(const struct ph_block *block);
void ph_piece_publish(const struct ph_block *block);
void ph_piece_quarantine(const struct ph_block *block);
void ph_piece_kill(const struct ph_block *block);
void ph_piece_release(const struct ph_block *block);
/* ph_chunk_reserve -- the same as ph_chunk_bump for a piece that is reserved: as good as dead, and nobody else's. */
int64_t ph_chunk_reserve(struct ph_heap *h, struct ph_unit *chunk, uint64_t granules, uint64_t align);
int ph_chunk_is_settled(const struct ph_heap *h, const struct ph_unit *chunk);

struct ph_chunk_count {
    uint64_t live, live_bytes, reserved, reserved_bytes, freed, freed_bytes;
    uint64_t dead; /* granules */
};
uint64_t ph_chunk_check(const struct ph_heap *h, const struct ph_unit *chunk, struct ph_chunk_count *count);
