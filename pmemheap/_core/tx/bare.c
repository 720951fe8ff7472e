/* tx/bare.c -- what bare calls have changed in a power heap since the last record, on its way into the log. */
#include <string.h>

#include "tx/internal.h"

enum { PH_BARE_BYTES = 24 }; /* of an operation of a bare call in a record */

uint64_t ph_place_of_word(const struct ph_heap *h, uint64_t arena, const uint64_t *at, uint32_t *table)
{
    uint64_t index = (uint64_t)(at - h->bits);
    int is_bits = index - h->first_unit * PH_UNIT_WORDS < (h->end_unit - h->first_unit) * PH_UNIT_WORDS;
    *table = is_bits ? PH_TABLE_BITS : PH_TABLE_ENTRIES;
    return arena << PH_ARENA_SHIFT | (is_bits ? index : (uint64_t)(at - (uint64_t *)h->entries)) * 8;
}

uint64_t ph_count_bare(const struct ph_log *log)
{
    uint64_t count = 0;
    for (uint64_t arena = 0; log->power && arena < log->arenas; arena++) {
        const struct ph_heap *h = ph_log_core(log, arena);
        if (h != NULL)
            count += h->dirty.count + h->freed.count;
    }
    return count;
}

int ph_write_freed(struct ph_log *log, uint64_t offset, uint64_t nbytes)
{
    return ph_record_op(log, PH_OP_FREE, 0, offset, &nbytes, sizeof nbytes);
}

int ph_write_bare_frees(struct ph_log *log)
{
    for (uint64_t arena = 0; log->power && arena < log->arenas; arena++) {
        const struct ph_heap *h = ph_log_core(log, arena);
        for (uint64_t i = 0; h != NULL && i < h->freed.count; i++) {
            int failed = ph_write_freed(log, arena << PH_ARENA_SHIFT | h->freed.items[i].offset, h->freed.items[i].nbytes);
            if (failed < 0)
                return failed;
        }
    }
    return 0;
}

/* How much of what a core has changed is in records. */
struct flushed {
    uint64_t words, freed;
};

/* One record of what a core has changed beyond `done`, as much of it as `most` operations hold: words first, in the order
 * of their stores, of which any beginning is sound, as in a process that is killed; then what was freed. */
static int64_t flush_piece(struct ph_log *log, uint64_t arena, const struct ph_heap *h, uint64_t most, struct flushed *done)
{
    struct flushed now = *done;
    int failed = 0;
    ph_record_begin(log);
    for (; failed == 0 && now.words < h->dirty.count && most != 0; now.words++, most--) {
        uint32_t table;
        uint64_t off = ph_place_of_word(h, arena, h->dirty.words[now.words], &table);
        failed = ph_record_op(log, PH_OP_META, (uint8_t)table, off, h->dirty.words[now.words], 8);
    }
    for (; failed == 0 && now.freed < h->freed.count && most != 0; now.freed++, most--) {
        const struct ph_freed *freed = &h->freed.items[now.freed];
        failed = ph_write_freed(log, arena << PH_ARENA_SHIFT | freed->offset, freed->nbytes);
    }
    int64_t end = failed < 0 ? failed : ph_record_append(log, PH_RECORD_COMMIT, 0, log->promised);
    if (end >= 0)
        *done = now;
    return end;
}

static void forget_flushed(struct ph_heap *h, const struct flushed *done)
{
    h->dirty.count -= done->words;
    h->freed.count -= done->freed;
    if (done->words != 0)
        memmove(h->dirty.words, h->dirty.words + done->words, h->dirty.count * sizeof *h->dirty.words);
    if (done->freed != 0)
        memmove(h->freed.items, h->freed.items + done->freed, h->freed.count * sizeof *h->freed.items);
}

static int64_t flush_core(struct ph_log *log, uint64_t arena, struct ph_heap *h, uint64_t most)
{
    struct flushed done = {0};
    int64_t end = 0;
    while (end >= 0 && done.words + done.freed < h->dirty.count + h->freed.count)
        end = flush_piece(log, arena, h, most, &done);
    forget_flushed(h, &done);
    return end;
}

/* What bare calls have changed goes ahead in pieces if it is too much for one record: too many bytes, or operations. */
int64_t ph_flush_much(struct ph_log *log)
{
    uint64_t most = log->size / 4 / PH_BARE_BYTES < UINT16_MAX / 2 ? log->size / 4 / PH_BARE_BYTES : UINT16_MAX / 2;
    int64_t end = 0;
    if (!log->power || ph_count_bare(log) <= most)
        return 0;
    for (uint64_t arena = 0; end >= 0 && arena < log->arenas; arena++)
        if (ph_log_core(log, arena) != NULL)
            end = flush_core(log, arena, ph_log_core(log, arena), most);
    return end;
}

void ph_forget_bare(struct ph_log *log)
{
    for (uint64_t arena = 0; log->power && arena < log->arenas; arena++) {
        struct ph_heap *h = ph_log_core(log, arena);
        if (h != NULL)
            h->dirty.count = h->freed.count = 0;
    }
}

/* The WORD that says what a bare call of a small block has changed; PH_L_CORRUPT if it takes more than that. */
static int64_t flush_word(struct ph_log *log, uint64_t arena, const struct ph_heap *h)
{
    uint32_t table, bit = 0;
    uint64_t granules = 0, off = ph_place_of_word(h, arena, h->dirty.words[0], &table);
    if (table != PH_TABLE_BITS)
        return PH_L_CORRUPT;
    if (h->freed.count == 1) {
        const struct ph_freed *freed = &h->freed.items[0];
        granules = freed->nbytes >> PH_GRANULE_SHIFT;
        bit = freed->offset >> PH_GRANULE_SHIFT & 63;
        if (freed->offset >> (PH_GRANULE_SHIFT + 6) != ph_local(off) / 8 || granules > UINT16_MAX)
            return PH_L_CORRUPT;
    }
    return ph_record_word(log, off, *h->dirty.words[0], granules, bit);
}

/* Few words, as a rule one; a word may stand there twice. */
int64_t ph_log_flush(struct ph_log *log, uint64_t arena)
{
    struct ph_heap *h = ph_log_core(log, arena);
    struct flushed done = {0};
    int64_t end = PH_L_CORRUPT;
    if (h->dirty.count == 1 && h->freed.count <= 1)
        end = flush_word(log, arena, h);
    if (end == PH_L_CORRUPT && (end = ph_flush_much(log)) == 0)
        end = flush_piece(log, arena, h, UINT64_MAX, &done);
    if (end >= 0)
        h->dirty.count = h->freed.count = 0;
    return end;
}
