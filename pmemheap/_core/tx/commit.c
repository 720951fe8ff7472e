/* tx/commit.c -- from what a transaction collected to one record, and to what everybody sees. */
#include <stdlib.h>
#include <string.h>

#include "tx/internal.h"

enum { PH_PIECE_MOST = 1 << 20 }; /* of neighbouring blocks in one operation */

enum { PH_BARE_BYTES = 24 }; /* of an operation of a bare call in a record */

/* One word of the bits or entries of an arena that a record changes. */
struct word {
    uint64_t off; /* arena << 55 | byte index in the table */
    uint64_t *at; /* where the core has it: the home of a process heap, the shadow of a power heap */
    uint64_t set, clear, image;
    uint32_t table;
};

/* ---------------------------------------------------------------- words */

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

/* The words that say whether a block is live: its bit, or both words of its entry. */
static void add_block(struct ph_tx_list *list, const struct ph_log *log, uint64_t offset, int live)
{
    struct ph_heap *h = ph_core_of(log, offset);
    uint64_t local = ph_local(offset), unit = local >> PH_UNIT_SHIFT, arena = offset >> PH_ARENA_SHIFT;
    const struct ph_unit *record = &h->units[unit];
    if (record->state == PH_U_RUN || record->state == PH_U_RUN_BODY) {
        uint64_t granule = local >> PH_GRANULE_SHIFT, bit = 1ULL << (granule & 63);
        add_word(list, arena, PH_TABLE_BITS, &h->bits[granule >> 6], granule >> 6, live ? bit : 0, live ? 0 : bit);
        return;
    }
    if (h->entries == NULL)
        return;
    uint64_t *words = (uint64_t *)&h->entries[unit];
    uint64_t first = live ? ph_entry_word(PH_KIND_LARGE, 0, record->nunits) : 0;
    add_word(list, arena, PH_TABLE_ENTRIES, &words[0], unit * 2, first, ~0ULL);
    add_word(list, arena, PH_TABLE_ENTRIES, &words[1], unit * 2 + 1, live ? record->u.nbytes : 0, ~0ULL);
}

/* Table and offset of a word of the shadow. */
static uint64_t place_of_word(const struct ph_heap *h, uint64_t arena, const uint64_t *at, uint32_t *table)
{
    uint64_t index = (uint64_t)(at - h->bits);
    int is_bits = index - h->first_unit * PH_UNIT_WORDS < (h->end_unit - h->first_unit) * PH_UNIT_WORDS;
    *table = is_bits ? PH_TABLE_BITS : PH_TABLE_ENTRIES;
    return arena << PH_ARENA_SHIFT | (is_bits ? index : (uint64_t)(at - (uint64_t *)h->entries)) * 8;
}

/* The words of a power heap that bare calls have stored to since the last record. */
static void add_dirty(struct ph_tx_list *list, const struct ph_log *log, uint64_t arena)
{
    const struct ph_heap *h = log->homes[arena].heap;
    for (uint64_t i = 0; i < h->dirty.count; i++) {
        uint32_t table;
        uint64_t off = place_of_word(h, arena, h->dirty.words[i], &table);
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

/* Sort, and let each word stand there once with the image that it will have: [R1] committed state and own changes. */
static void merge_words(struct ph_tx_list *list)
{
    struct word *words = words_of(list);
    uint64_t kept = 0;
    if (list->count > 1)
        qsort(words, list->count, sizeof *words, by_place);
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

static int write_words(struct ph_log *log, const struct ph_tx_list *list)
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

static void store_words(const struct ph_tx_list *list)
{
    for (uint64_t i = 0; i < list->count; i++)
        __atomic_store_n(words_of(list)[i].at, words_of(list)[i].image, __ATOMIC_RELEASE);
}

/* ---------------------------------------------------------------- the record */

static int write_freed(struct ph_log *log, uint64_t offset, uint64_t nbytes)
{
    return ph_record_op(log, PH_OP_FREE, 0, offset, &nbytes, sizeof nbytes);
}

/* Bytes from block `*i` of a list on that lie in one piece, over blocks that are not cancelled; `*i` moves behind them. */
static uint64_t piece(const struct ph_tx_block *blocks, uint64_t count, uint64_t *i)
{
    uint64_t start = blocks[*i].offset, stop = start + blocks[*i].nbytes;
    while (++*i < count && !blocks[*i].is_cancelled && blocks[*i].offset == stop && stop - start < PH_PIECE_MOST)
        stop += blocks[*i].nbytes;
    return stop - start;
}

/* Fresh bytes of a power heap: in the record, or, if they are durable already, by name. In a process heap no older
 * image can be replayed over them. */
static int write_fresh(const struct ph_tx *tx, uint64_t offset, uint64_t nbytes)
{
    struct ph_log *log = tx->log;
    const uint64_t range[2] = {nbytes, 0};
    if (!log->power)
        return 0;
    if (tx->data_first)
        return ph_record_op(log, PH_OP_FRESH, 0, offset, range, sizeof range);
    const uint8_t *data = ph_core_of(log, offset)->data + ph_local(offset);
    return ph_record_op(log, PH_OP_WRITE, PH_WRITE_IS_HOME, offset, data, (uint32_t)nbytes);
}

/* [R19] The final bytes of a snapshot; in a process heap they are where they belong. */
static int write_final(const struct ph_tx *tx, const struct ph_tx_bytes *one)
{
    if (!tx->log->power || one->fresh || !PH_KEPT(R19))
        return 0;
    const struct ph_heap *h = ph_core_of(tx->log, one->offset);
    return ph_record_op(tx->log, PH_OP_WRITE, PH_WRITE_IS_HOME, one->offset, h->data + ph_local(one->offset),
                        (uint32_t)one->nbytes);
}

static int write_bare_frees(struct ph_log *log)
{
    for (uint64_t arena = 0; log->power && arena < log->arenas; arena++) {
        const struct ph_heap *h = log->homes[arena].heap;
        for (uint64_t i = 0; h != NULL && i < h->freed.count; i++) {
            int failed = write_freed(log, arena << PH_ARENA_SHIFT | h->freed.items[i].offset, h->freed.items[i].nbytes);
            if (failed < 0)
                return failed;
        }
    }
    return 0;
}

static int write_bytes(struct ph_tx *tx)
{
    int failed = 0;
    for (uint64_t i = 0; failed == 0 && i < tx->fresh.count;) {
        const struct ph_tx_block *first = &ph_fresh(tx)[i];
        if (first->is_cancelled)
            i++;
        else
            failed = write_fresh(tx, first->offset, piece(ph_fresh(tx), tx->fresh.count, &i));
    }
    for (uint64_t i = 0; failed == 0 && i < tx->snapshots.count; i++)
        failed = write_final(tx, &ph_snapshots(tx)[i]);
    for (uint64_t i = 0; failed == 0 && i < tx->writes.count; i++) {
        const struct ph_tx_bytes *one = &ph_writes(tx)[i];
        if (!ph_tx_is_dropped(tx, one))
            failed = ph_record_op(tx->log, PH_OP_WRITE, 0, one->offset, tx->buffer + one->at, (uint32_t)one->nbytes);
    }
    for (uint64_t i = 0; failed == 0 && i < tx->frees.count;) {
        const struct ph_tx_block *first = &ph_frees(tx)[i];
        if (first->is_cancelled)
            i++;
        else
            failed = write_freed(tx->log, first->offset, piece(ph_frees(tx), tx->frees.count, &i));
    }
    return failed;
}

static uint64_t count_dirty(const struct ph_log *log)
{
    uint64_t count = 0;
    for (uint64_t arena = 0; log->power && arena < log->arenas; arena++)
        if (log->homes[arena].heap != NULL)
            count += log->homes[arena].heap->dirty.count;
    return count;
}

static int collect_words(struct ph_tx *tx, struct ph_tx_list *list)
{
    const struct ph_log *log = tx->log;
    list->count = 0;
    if (ph_list_room(list, (tx->fresh.count + tx->frees.count) * 2 + count_dirty(log), sizeof(struct word)) < 0)
        return PH_L_NOMEM;
    for (uint64_t arena = 0; log->power && arena < log->arenas; arena++)
        if (log->homes[arena].heap != NULL)
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

static uint64_t count_freed(const struct ph_log *log)
{
    uint64_t count = 0;
    for (uint64_t arena = 0; log->power && arena < log->arenas; arena++)
        if (log->homes[arena].heap != NULL)
            count += log->homes[arena].heap->freed.count;
    return count;
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
        uint64_t off = place_of_word(h, arena, h->dirty.words[now.words], &table);
        failed = ph_record_op(log, PH_OP_META, (uint8_t)table, off, h->dirty.words[now.words], 8);
    }
    for (; failed == 0 && now.freed < h->freed.count && most != 0; now.freed++, most--) {
        const struct ph_freed *freed = &h->freed.items[now.freed];
        failed = write_freed(log, arena << PH_ARENA_SHIFT | freed->offset, freed->nbytes);
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
static int64_t flush_much(struct ph_log *log)
{
    uint64_t most = log->size / 4 / PH_BARE_BYTES < UINT16_MAX / 2 ? log->size / 4 / PH_BARE_BYTES : UINT16_MAX / 2;
    int64_t end = 0;
    if (!log->power || count_dirty(log) + count_freed(log) <= most)
        return 0;
    for (uint64_t arena = 0; end >= 0 && arena < log->arenas; arena++)
        if (log->homes[arena].heap != NULL)
            end = flush_core(log, arena, log->homes[arena].heap, most);
    return end;
}

static void forget_bare(struct ph_log *log)
{
    for (uint64_t arena = 0; log->power && arena < log->arenas; arena++) {
        struct ph_heap *h = log->homes[arena].heap;
        if (h != NULL)
            h->dirty.count = h->freed.count = 0;
    }
}

/* ---------------------------------------------------------------- making it visible */

/* The pins of what is freed go, and the images, which show what everybody sees now. Nothing here can fail. */
static void publish(struct ph_tx *tx)
{
    struct ph_log *log = tx->log;
    for (uint64_t i = 0; i < tx->frees.count; i++)
        if (!ph_frees(tx)[i].is_cancelled)
            ph_tx_unpin(ph_core_of(tx->log, ph_frees(tx)[i].offset), ph_local(ph_frees(tx)[i].offset));
    ph_tx_images_drop(tx);
    log->changes++;
}

static void change_sides(struct ph_tx *tx)
{
    const struct ph_log *log = tx->log;
    for (uint64_t i = 0; i < tx->fresh.count; i++) {
        const struct ph_tx_block *one = &ph_fresh(tx)[i];
        struct ph_heap *h = ph_core_of(log, one->offset);
        if (one->is_cancelled == PH_TX_CANCELLED)
            ph_cancel(h, ph_local(one->offset));
        else if (!one->is_cancelled)
            ph_publish(h, ph_local(one->offset));
    }
    for (uint64_t i = 0; i < tx->frees.count; i++)
        if (!ph_frees(tx)[i].is_cancelled)
            ph_retire(ph_core_of(log, ph_frees(tx)[i].offset), ph_local(ph_frees(tx)[i].offset));
}

static void release_frees(struct ph_tx *tx)
{
    for (uint64_t i = 0; i < tx->frees.count; i++)
        if (!ph_frees(tx)[i].is_cancelled)
            ph_release(ph_core_of(tx->log, ph_frees(tx)[i].offset), ph_local(ph_frees(tx)[i].offset));
}

/* Without a log: what ph_log_apply does elsewhere. */
static void apply_in_memory(struct ph_tx *tx)
{
    for (uint64_t i = 0; i < tx->writes.count; i++) {
        const struct ph_tx_bytes *one = &ph_writes(tx)[i];
        struct ph_heap *h = ph_core_of(tx->log, one->offset);
        if (!ph_tx_is_dropped(tx, one))
            memcpy(h->data + ph_local(one->offset), tx->buffer + one->at, one->nbytes);
    }
    release_frees(tx);
}

/* A record of a process heap goes home at once; `applied_lsn` says so to recovery [R22]. */
static void go_home(struct ph_log *log)
{
    if (ph_log_apply(log, log->head) < 0)
        return; /* the log is dead: the caller finds that */
    if (log->header != NULL && PH_KEPT(R22))
        ph_put_word((uint64_t *)(log->header + PH_APPLIED_AT), log->applied);
}

/* Room for everything that must not fail once the record is appended. */
static int reserve_all(struct ph_tx *tx)
{
    for (uint64_t i = 0; i < tx->frees.count; i++)
        if (ph_withheld_reserve(ph_core_of(tx->log, ph_frees(tx)[i].offset), tx->frees.count) < 0)
            return PH_L_NOMEM;
    return 0;
}

/* Whether there is nothing to append, not even what bare calls could not append by themselves. */
static int is_empty(const struct ph_tx *tx, uint16_t others)
{
    return tx->fresh.count == 0 && tx->frees.count == 0 && !ph_tx_changes_homes(tx) && others == 0
        && count_dirty(tx->log) + count_freed(tx->log) == 0;
}

static int64_t append_commit(struct ph_tx *tx, const void *others, uint64_t length, uint16_t count)
{
    struct ph_log *log = tx->log;
    int failed;
    ph_record_begin(log);
    if ((failed = write_words(log, &tx->words)) < 0 || (failed = ph_record_raw(log, others, length, count)) < 0
        || (failed = write_bytes(tx)) < 0 || (failed = write_bare_frees(log)) < 0)
        return failed;
    if (tx->txid == 0)
        tx->txid = ++log->txid;
    return ph_record_append(log, PH_RECORD_COMMIT, tx->txid, log->promised - tx->promise);
}

int64_t ph_tx_commit(struct ph_tx *tx, const void *others, uint64_t length, uint16_t count)
{
    struct ph_log *log = tx->log;
    int64_t end = 0;
    if (is_empty(tx, count))
        return 0;
    if (ph_tx_next_rooted(tx, 0) != tx->frees.count)
        return PH_H_ROOTED;
    if (log->base != NULL && !log->power && !PH_KEPT(R27))
        go_home(log);
    if (log->base != NULL && (end = flush_much(log)) < 0)
        return end;
    end = 0;
    if (reserve_all(tx) < 0 || collect_words(tx, &tx->words) < 0)
        return PH_L_NOMEM;
    if (log->base != NULL && !log->power && !PH_KEPT(R3)) /* [R3] */
        store_words(&tx->words);
    if (log->base != NULL) {
        end = append_commit(tx, others, length, count);
        if (end < 0)
            return end;
        forget_bare(log);
    }
    if (log->base == NULL || log->power)
        store_words(&tx->words);
    publish(tx);
    change_sides(tx);
    if (log->base == NULL)
        apply_in_memory(tx);
    else if (log->power ? !PH_KEPT(R5) : PH_KEPT(R27)) /* [R5], [R27] */
        go_home(log);
    if (!PH_KEPT(R6)) /* [R6] */
        release_frees(tx);
    if (!log->awaited)
        ph_tx_unpin_changes(tx);
    ph_tx_close_undo(tx);
    return end;
}

/* ---------------------------------------------------------------- records of others */

int64_t ph_log_change(struct ph_log *log, const void *operations, uint64_t length, uint16_t count, uint64_t file_end)
{
    struct ph_tx none;
    uint64_t before = log->file_end;
    int64_t end = flush_much(log);
    if (end < 0)
        return end;
    ph_tx_init(&none, log);
    end = collect_words(&none, &none.words);
    if (end == 0 && count == 0 && none.words.count == 0 && count_freed(log) == 0) {
        ph_tx_fini(&none);
        return (int64_t)log->head;
    }
    log->file_end = file_end;
    if (end == 0)
        end = append_commit(&none, operations, length, count);
    if (end < 0)
        log->file_end = before;
    else
        forget_bare(log);
    ph_tx_fini(&none);
    if (end >= 0 && !log->power)
        go_home(log);
    return end;
}

/* The WORD that says what a bare call of a small block has changed; PH_L_CORRUPT if it takes more than that. */
static int64_t flush_word(struct ph_log *log, uint64_t arena, const struct ph_heap *h)
{
    uint32_t table, bit = 0;
    uint64_t granules = 0, off = place_of_word(h, arena, h->dirty.words[0], &table);
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

static int64_t flush_words(struct ph_log *log, uint64_t arena, const struct ph_heap *h)
{
    int failed = 0;
    ph_record_begin(log);
    for (uint64_t i = 0; failed == 0 && i < h->dirty.count; i++) {
        uint32_t table;
        uint64_t off = place_of_word(h, arena, h->dirty.words[i], &table);
        failed = ph_record_op(log, PH_OP_META, (uint8_t)table, off, h->dirty.words[i], 8);
    }
    for (uint64_t i = 0; failed == 0 && i < h->freed.count; i++)
        failed = write_freed(log, arena << PH_ARENA_SHIFT | h->freed.items[i].offset, h->freed.items[i].nbytes);
    return failed < 0 ? failed : ph_record_append(log, PH_RECORD_COMMIT, 0, log->promised);
}

/* Few words, as a rule one; a word may stand there twice. */
int64_t ph_log_flush(struct ph_log *log, uint64_t arena)
{
    struct ph_heap *h = log->homes[arena].heap;
    int64_t end = PH_L_CORRUPT;
    if (h->dirty.count == 1 && h->freed.count <= 1)
        end = flush_word(log, arena, h);
    if (end == PH_L_CORRUPT && (end = flush_much(log)) == 0)
        end = flush_words(log, arena, h);
    if (end >= 0)
        h->dirty.count = h->freed.count = 0;
    return end;
}
