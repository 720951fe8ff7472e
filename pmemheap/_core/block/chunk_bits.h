/* block/chunk_bits.h -- the bits of a chunk: starts, flags, the fill mark. Granules are those of the whole table. */
#pragma once
#include "block/block.h"

static inline uint64_t *word_of(const struct ph_heap *h, uint64_t granule)
{
    return &h->bits[granule >> 6];
}

static inline uint64_t bit_of(uint64_t granule)
{
    return 1ULL << (granule & 63);
}

static inline int is_set(const struct ph_heap *h, uint64_t granule)
{
    return (*word_of(h, granule) & bit_of(granule)) != 0;
}

static inline void set_bits(struct ph_heap *h, uint64_t granule, uint64_t bits)
{
    ph_store(h, word_of(h, granule), *word_of(h, granule) | bits);
}

static inline void clear_bits(struct ph_heap *h, uint64_t granule, uint64_t bits)
{
    ph_store(h, word_of(h, granule), *word_of(h, granule) & ~bits);
}

static inline void set_bit(struct ph_heap *h, uint64_t granule)
{
    set_bits(h, granule, bit_of(granule));
}

/* Set bits directly below one of a word. */
static inline unsigned ones_below(uint64_t word, uint64_t granule)
{
    unsigned at = granule & 63;
    uint64_t below = at == 0 ? 0 : word << (64 - at);
    return below == ~0ULL ? at : (unsigned)__builtin_clzll(~below);
}

/* Whether a set bit is a start; else it is the flag of the piece before it. */
static inline int is_start(const struct ph_heap *h, uint64_t granule)
{
    uint64_t word = *word_of(h, granule);
    return (word & bit_of(granule)) != 0 && ones_below(word, granule) % 2 == 0;
}

static inline int is_dead(const struct ph_heap *h, uint64_t start)
{
    return is_set(h, start + 1);
}

/* The first set bit in [from, end), else `end`. */
static inline uint64_t next_set(const struct ph_heap *h, uint64_t from, uint64_t end)
{
    uint64_t word = from < end ? *word_of(h, from) & (~0ULL << (from & 63)) : 0;
    while (word == 0) {
        from = (from | 63) + 1;
        if (from >= end)
            return end;
        word = *word_of(h, from);
    }
    from = (from & ~63ULL) + (uint64_t)__builtin_ctzll(word);
    return from < end ? from : end;
}

/* The last set bit in [first, from), else `from`. */
static inline uint64_t last_set(const struct ph_heap *h, uint64_t first, uint64_t from)
{
    uint64_t at = from;
    while (at > first) {
        uint64_t base = (at - 1) & ~63ULL, word = *word_of(h, base) & (~0ULL >> (63 - ((at - 1) & 63)));
        if (word != 0)
            return base + 63 - (uint64_t)__builtin_clzll(word);
        at = base;
    }
    return from;
}

static inline uint64_t first_of(const struct ph_heap *h, const struct ph_unit *chunk)
{
    return (uint64_t)(chunk - h->units) * PH_UNIT_GRANULES;
}

static inline uint64_t fill_of(const struct ph_heap *h, const struct ph_unit *chunk)
{
    return first_of(h, chunk) + chunk->u.packed.fill;
}

/* The granule behind a piece of a chunk. */
static inline uint64_t end_of(const struct ph_heap *h, const struct ph_unit *chunk, uint64_t start)
{
    return next_set(h, start + 2, fill_of(h, chunk));
}
