/* tx/words.c -- the words of the tables that a record changes, each once, with the image that it will have. */
#include <stdlib.h>

#include "tx/internal.h"

enum { PH_SORTED_FEW = 16 };

/* One word of the bits or entries of an arena that a record changes. */
struct word {
    uint64_t off; /* arena << 55 | byte index in the table */
    uint64_t *at; /* where the core has it: the home of a process heap, the shadow of a power heap */
    uint64_t set, clear, image;
    uint32_t table;
};

static struct word *words_of(const struct ph_tx_list *list)
{
    return list->items;
}

static void add_word(struct ph_tx_list *list, uint64_t arena, uint32_t table, uint64_t *at, uint64_t index, uint64_t set,
                     uint64_t clear)
{
    words_of(list)[list->count++] = (struct word){
        .off = arena << PH_ARENA_SHIFT | index * 8, .at = at, .set = set, .clear = clear, .table = table,
    };
}

/* The words that say whether a block is live. */
static void add_block(struct ph_tx_list *list, const struct ph_log *log, uint64_t offset, int live)
{
    struct ph_block block = ph_resolve_known(log, offset, live ? PH_B_RESERVED : PH_B_LIVE);
    struct ph_block_word words[2];
    uint32_t count = ph_block_words(&block, live, words);
    for (uint32_t i = 0; i < count; i++)
        add_word(list, offset >> PH_ARENA_SHIFT, words[i].table, words[i].at, words[i].index, words[i].set, words[i].clear);
}

/* The words of a power heap that bare calls have stored to since the last record. */
static void add_dirty(struct ph_tx_list *list, const struct ph_log *log, uint64_t arena)
{
    const struct ph_heap *h = ph_log_core(log, arena);
    for (uint64_t i = 0; i < h->dirty.count; i++) {
        uint32_t table;
        uint64_t off = ph_place_of_word(h, arena, h->dirty.words[i], &table);
        add_word(list, 0, table, h->dirty.words[i], off / 8, 0, 0);
    }
}

static int by_place(const void *left, const void *right)
{
    const struct word *a = left, *b = right;
    if (a->table != b->table)
        return a->table < b->table ? -1 : 1;
    return a->off < b->off ? -1 : a->off > b->off;
}

/* Most records change few words. */
static void sort_words(struct word *words, uint64_t count)
{
    if (count > PH_SORTED_FEW) {
        qsort(words, count, sizeof *words, by_place);
        return;
    }
    for (uint64_t i = 1; i < count; i++) {
        struct word one = words[i];
        uint64_t at = i;
        for (; at > 0 && by_place(&words[at - 1], &one) > 0; at--)
            words[at] = words[at - 1];
        words[at] = one;
    }
}

/* Sort, and let each word stand there once with the image that it will have: [R1] committed state and own changes. */
static void merge_words(struct ph_tx_list *list)
{
    struct word *words = words_of(list);
    uint64_t kept = 0;
    sort_words(words, list->count);
    for (uint64_t i = 0; i < list->count; i++) {
        uint64_t before = kept > 0 && words[kept - 1].at == words[i].at ? words[--kept].image : *words[i].at;
        words[kept] = words[i];
        words[kept++].image = (before & ~words[i].clear) | words[i].set;
    }
    list->count = kept;
}

/* What images hold that are taken of the volatile bitmap: what open transactions have reserved is in them. */
static void show_reserved(struct ph_tx_list *list, const struct ph_log *log)
{
    for (uint64_t i = 0; i < list->count; i++) {
        struct word *word = &words_of(list)[i];
        const struct ph_heap *h = ph_core_of(log, word->off);
        const struct ph_withheld_word *withheld = ph_withheld_find(h, (uint64_t)(word->at - h->bits));
        if (word->table == PH_TABLE_BITS && withheld != NULL)
            word->image |= withheld->reserved;
    }
}

int ph_words_write(struct ph_log *log, const struct ph_tx_list *list)
{
    const struct word *words = words_of(list);
    uint64_t images[64];
    for (uint64_t i = 0, n; i < list->count; i += n) {
        n = 0;
        do
            images[n] = words[i + n].image, n++;
        while (n < 64 && i + n < list->count && words[i + n].table == words[i].table
               && words[i + n].off == words[i].off + n * 8);
        int failed = ph_record_op(log, PH_OP_META, (uint8_t)words[i].table, words[i].off, images, (uint32_t)(n * 8));
        if (failed < 0)
            return failed;
    }
    return 0;
}

void ph_words_store(const struct ph_tx_list *list)
{
    for (uint64_t i = 0; i < list->count; i++)
        __atomic_store_n(words_of(list)[i].at, words_of(list)[i].image, __ATOMIC_RELEASE);
}

int ph_words_collect(struct ph_tx *tx, struct ph_tx_list *list)
{
    const struct ph_log *log = tx->log;
    list->count = 0;
    if (ph_list_room(list, (tx->fresh.count + tx->frees.count) * 2 + ph_count_bare(log), sizeof(struct word)) < 0)
        return PH_L_NOMEM;
    for (uint64_t arena = 0; log->power && arena < log->arenas; arena++)
        if (ph_log_core(log, arena) != NULL)
            add_dirty(list, log, arena);
    for (uint64_t i = 0; i < tx->fresh.count; i++)
        if (!ph_fresh(tx)[i].is_cancelled)
            add_block(list, log, ph_fresh(tx)[i].offset, 1);
    for (uint64_t i = 0; i < tx->frees.count; i++)
        if (!ph_frees(tx)[i].is_cancelled)
            add_block(list, log, ph_frees(tx)[i].offset, 0);
    merge_words(list);
    if (!PH_KEPT(R1)) /* [R1] */
        show_reserved(list, log);
    return 0;
}

