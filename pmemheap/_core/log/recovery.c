/* log/recovery.c -- reading a log that somebody else has written: which records count, and what they leave. */
#include <stdlib.h>
#include <string.h>

#include "log/record.h"

static uint32_t ring_crc(const struct ph_log *log, uint64_t lsn, uint64_t length, uint32_t seed)
{
    uint64_t at = ph_ring_at(log, lsn), first = ph_ring_first(log, at, length);
    uint32_t crc = ph_crc32c(seed, log->base + at, first);
    return first < length ? ph_crc32c(crc, log->base, length - first) : crc;
}

/* The length that a range has as its payload; FRESH has a zero behind it. */
static int range_is_possible(const struct ph_log *log, const struct ph_op *op, uint64_t payload)
{
    uint64_t words[2] = {0, 0};
    uint64_t length = op->type == PH_OP_FRESH ? 16 : 8;

    if (op->len != length || op->flags != 0)
        return 0;
    ph_ring_read(log, payload, words, length);
    return words[1] == 0 && words[0] <= UINT64_MAX - op->off;
}

/* Whether an operation can be one, wherever it leads. `records.py` refuses the same. */
static int is_possible(const struct ph_log *log, const struct ph_op *op, uint64_t payload)
{
    switch (op->type) {
    case PH_OP_META:
        return op->len != 0 && op->len % 8 == 0 && op->off % 8 == 0 && op->flags < PH_TABLES
               && op->len <= UINT64_MAX - op->off;
    case PH_OP_WRITE:
        return (op->flags & ~PH_WRITE_IS_HOME) == 0 && op->len <= UINT64_MAX - op->off;
    case PH_OP_OLD:
        return op->flags == 0 && op->len <= UINT64_MAX - op->off;
    case PH_OP_FRESH:
    case PH_OP_FREE:
        return range_is_possible(log, op, payload);
    default:
        return 0;
    }
}

/* Whether the operations of a record are possible, and fill it exactly. */
static int operations_fit(const struct ph_log *log, uint64_t lsn, const struct ph_record *record)
{
    uint64_t at = lsn + sizeof *record, end = lsn + record->total_len;
    if (record->kind == PH_RECORD_WORD)
        return at == end && record->zero % 8 == 0 && record->pad < 64;
    if (record->zero != 0 || record->pad != 0)
        return 0;
    for (uint32_t i = 0; i < record->nops; i++) {
        struct ph_op op;
        if (end - at < sizeof op)
            return 0;
        at = ph_op_at(log, at, &op);
        if (op.zero != 0 || ph_padded(op.len) > end - at || !is_possible(log, &op, at))
            return 0;
        at += ph_padded(op.len);
    }
    return end - at < PH_LOG_ALIGN;
}

/* Whether the bytes at `lsn` are a record that continues `seed`. [R12] */
static int is_record(const struct ph_log *log, uint64_t lsn, uint64_t room, const struct ph_record *record, uint32_t seed)
{
    if (record->magic != PH_LOG_MAGIC || record->kind < PH_RECORD_COMMIT || record->kind > PH_RECORD_WORD
        || record->prev_crc != seed || record->total_len < sizeof *record
        || record->total_len % PH_LOG_ALIGN || record->total_len > room)
        return 0;
    uint64_t covered = PH_KEPT(R12) ? record->total_len : sizeof *record;
    return ring_crc(log, lsn + 8, covered - 8, seed) == record->crc && operations_fit(log, lsn, record);
}

void ph_log_scan(const struct ph_log *log, uint64_t tail, uint32_t chain, struct ph_scan *scan)
{
    *scan = (struct ph_scan){.end = tail, .chain = chain};
    while (scan->end - tail < log->size) {
        struct ph_record record;
        ph_record_at(log, scan->end, &record);
        uint32_t seed = PH_KEPT(R11) ? scan->chain : record.prev_crc;
        if ((record.lsn != scan->end && PH_KEPT(R11)) || record.epoch != log->epoch /* [R11] */
            || !is_record(log, scan->end, log->size - (scan->end - tail), &record, seed))
            return;
        scan->end += record.total_len;
        scan->chain = record.crc;
        if (record.kind != PH_RECORD_WORD)
            scan->file_end = record.file_end;
        scan->records++;
        scan->undos += record.kind == PH_RECORD_UNDO;
        if (record.txid > scan->txid)
            scan->txid = record.txid;
    }
}

uint64_t ph_log_damage(struct ph_log *log, uint64_t end)
{
    for (uint64_t at = 0; at < log->size; at += PH_LOG_ALIGN) {
        struct ph_record record;
        memcpy(&record, log->base + at, sizeof record);
        if (record.magic != PH_LOG_MAGIC || record.lsn % log->size != at)
            continue;
        int proves = record.durable_lsn > end || record.epoch >> 32 > log->epoch >> 32;
        if (proves && is_record(log, record.lsn, log->size / 2, &record, record.prev_crc))
            return record.lsn;
    }
    return 0;
}

void ph_log_header_tables(const struct ph_log *log, uint64_t from, uint64_t end, uint64_t commits_from, uint8_t *header,
                          uint64_t length)
{
    if (length < 0x28000)
        return;
    struct ph_record record;
    for (; from < end && ph_next_record(log, from, end, &record); from += record.total_len) {
        uint64_t at = from + sizeof record, stop = from + record.total_len;
        int counts = record.kind == PH_RECORD_COMMIT && from >= commits_from;
        for (uint32_t i = 0; counts && i < record.nops; i++) {
            struct ph_op op;
            uint64_t payload = ph_next_op(log, &at, &op);
            if (at > stop)
                break;
            if (op.type == PH_OP_META)
                ph_apply_header(log, &op, payload, header);
        }
    }
}

/* ---------------------------------------------------------------- replay */

struct range {
    uint64_t start, stop, lsn;
    uint64_t reach; /* greatest stop of this range and all before it */
};

struct undone {
    uint32_t txid, committed;
};

struct plan {
    struct range *ranges;
    uint64_t count, capacity;
    struct undone *undos;
    uint64_t undo_count, undo_capacity;
    uint64_t undone, revoked; /* what replay did: UNDOs stored, parts of writes left out */
};

static int grow(void **array, uint64_t count, uint64_t *capacity, size_t width)
{
    if (count < *capacity)
        return 0;
    uint64_t wider = *capacity ? *capacity * 2 : 64;
    void *moved = realloc(*array, wider * width);
    if (moved == NULL)
        return PH_L_NOMEM;
    *array = moved;
    *capacity = wider;
    return 0;
}

static int add_range(struct plan *plan, uint64_t off, uint64_t nbytes, uint64_t lsn)
{
    if (grow((void **)&plan->ranges, plan->count, &plan->capacity, sizeof *plan->ranges) < 0)
        return PH_L_NOMEM;
    plan->ranges[plan->count++] = (struct range){.start = off, .stop = off + nbytes, .lsn = lsn};
    return 0;
}

static int by_txid(const void *left, const void *right)
{
    const struct undone *a = left, *b = right;
    return a->txid < b->txid ? -1 : a->txid > b->txid;
}

/* A transaction with an UNDO, once the UNDOs are sorted. */
static struct undone *find_undone(const struct plan *plan, uint32_t txid)
{
    struct undone key = {.txid = txid};
    return plan->undo_count ? bsearch(&key, plan->undos, plan->undo_count, sizeof key, by_txid) : NULL;
}

static int note_undo(struct plan *plan, const struct ph_record *record)
{
    if (record->kind != PH_RECORD_UNDO
        || (plan->undo_count != 0 && plan->undos[plan->undo_count - 1].txid == record->txid))
        return 0;
    if (grow((void **)&plan->undos, plan->undo_count, &plan->undo_capacity, sizeof *plan->undos) < 0)
        return PH_L_NOMEM;
    plan->undos[plan->undo_count++] = (struct undone){.txid = record->txid};
    return 0;
}

/* Sort the transactions with an UNDO, each once, and find out which of them were committed. */
static void sort_undos(const struct ph_log *log, uint64_t from, uint64_t end, struct plan *plan)
{
    uint64_t kept = 0;
    if (plan->undo_count == 0)
        return;
    qsort(plan->undos, plan->undo_count, sizeof *plan->undos, by_txid);
    for (uint64_t i = 0; i < plan->undo_count; i++)
        if (kept == 0 || plan->undos[kept - 1].txid != plan->undos[i].txid)
            plan->undos[kept++] = plan->undos[i];
    plan->undo_count = kept;
    struct ph_record record;
    for (; from < end && ph_next_record(log, from, end, &record); from += record.total_len) {
        struct undone *undone = record.kind == PH_RECORD_COMMIT ? find_undone(plan, record.txid) : NULL;
        if (undone != NULL)
            undone->committed = 1;
    }
}

static int note_ranges(const struct ph_log *log, struct plan *plan, uint64_t lsn, const struct ph_record *record)
{
    uint64_t at = lsn + sizeof *record, stop = lsn + record->total_len;
    if (record->kind == PH_RECORD_WORD)
        return record->nops == 0 ? 0
                                 : add_range(plan, ph_word_freed(record), (uint64_t)record->nops << PH_GRANULE_SHIFT, lsn);
    for (uint32_t i = 0; i < record->nops; i++) {
        struct ph_op op;
        uint64_t payload = ph_next_op(log, &at, &op), nbytes;
        if (at > stop)
            return PH_L_GONE;
        if (op.type == PH_OP_FRESH || op.type == PH_OP_FREE) {
            ph_ring_read(log, payload, &nbytes, 8);
            if (add_range(plan, op.off, nbytes, lsn) < 0)
                return PH_L_NOMEM;
        }
    }
    return 0;
}

static int by_start(const void *left, const void *right)
{
    const struct range *a = left, *b = right;
    return a->start < b->start ? -1 : a->start > b->start;
}

static int make_plan(const struct ph_log *log, uint64_t from, uint64_t end, struct plan *plan)
{
    struct ph_record record;
    for (uint64_t lsn = from; lsn < end; lsn += record.total_len) {
        int failed = !ph_next_record(log, lsn, end, &record) ? PH_L_GONE : note_undo(plan, &record);
        if (failed == 0)
            failed = note_ranges(log, plan, lsn, &record);
        if (failed < 0)
            return failed;
    }
    sort_undos(log, from, end, plan);
    if (plan->count != 0)
        qsort(plan->ranges, plan->count, sizeof *plan->ranges, by_start);
    for (uint64_t i = 0, reach = 0; i < plan->count; i++) {
        reach = plan->ranges[i].stop > reach ? plan->ranges[i].stop : reach;
        plan->ranges[i].reach = reach;
    }
    return 0;
}

/* Index of the first range that could reach beyond `off`. */
static uint64_t first_reaching(const struct plan *plan, uint64_t off)
{
    uint64_t low = 0, high = plan->count;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (plan->ranges[middle].reach > off)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* [R13] Bring the parts home that no later record names as fresh or freed. */
static void bring_unrevoked(const struct ph_log *log, struct plan *plan, uint64_t lsn, const struct ph_op *op,
                            uint64_t payload)
{
    uint64_t at = op->off, stop = op->off + op->len;
    uint64_t i = PH_KEPT(R13) ? first_reaching(plan, at) : plan->count;
    for (; i < plan->count && plan->ranges[i].start < stop; i++) {
        const struct range *range = &plan->ranges[i];
        if (range->lsn <= lsn || range->stop <= at)
            continue;
        plan->revoked++;
        if (range->start > at)
            ph_apply_bytes(log, at, range->start - at, payload + (at - op->off));
        at = range->stop;
        if (at >= stop)
            return;
    }
    ph_apply_bytes(log, at, stop - at, payload + (at - op->off));
}

static int replay_record(const struct ph_log *log, struct plan *plan, uint64_t lsn, const struct ph_record *record)
{
    uint64_t at = lsn + sizeof *record, stop = lsn + record->total_len;
    if (record->kind == PH_RECORD_WORD) {
        ph_apply_word(log, record);
        return 0;
    }
    for (uint32_t i = 0; i < record->nops; i++) {
        struct ph_op op;
        uint64_t payload = ph_next_op(log, &at, &op);
        if (at > stop)
            return PH_L_GONE;
        if (op.type == PH_OP_META)
            ph_apply_meta(log, &op, payload);
        else if (op.type == PH_OP_WRITE || op.type == PH_OP_OLD)
            bring_unrevoked(log, plan, lsn, &op, payload);
    }
    return 0;
}

/* Whether replay stores the images of a record. [R21]: an UNDO, if its transaction has no commit. */
static int is_replayed(const struct plan *plan, const struct ph_record *record, uint64_t lsn, uint64_t from, uint64_t undo_from)
{
    if (record->kind != PH_RECORD_UNDO)
        return lsn >= from;
    const struct undone *undone = find_undone(plan, record->txid);
    return lsn >= undo_from && undo_from != UINT64_MAX && undone != NULL && !undone->committed && PH_KEPT(R21);
}

int ph_log_replay(struct ph_log *log, uint64_t from, uint64_t end, uint64_t commits_from, uint64_t undo_from)
{
    struct plan plan = {0};
    int failed = make_plan(log, from, end, &plan);
    struct ph_record record;
    for (uint64_t lsn = from; failed == 0 && lsn < end; lsn += record.total_len) {
        if (!ph_next_record(log, lsn, end, &record)) {
            failed = PH_L_GONE;
        } else if (is_replayed(&plan, &record, lsn, commits_from, undo_from)) {
            plan.undone += record.kind == PH_RECORD_UNDO;
            failed = replay_record(log, &plan, lsn, &record);
        }
    }
    log->undone = plan.undone;
    log->revoked = plan.revoked;
    free(plan.ranges);
    free(plan.undos);
    return failed;
}

static int touch_op(const struct ph_log *log, const struct ph_op *op, uint64_t payload, ph_touch touch, void *context)
{
    uint64_t length = op->len;

    if (op->type == PH_OP_META)
        return op->flags > PH_TABLE_BITS ? 0 : touch(context, op->flags, op->off, length);
    if (op->type == PH_OP_WRITE || op->type == PH_OP_OLD)
        return touch(context, PH_TOUCH_DATA, op->off, length);
    if (op->type != PH_OP_FRESH)
        return 0;
    ph_ring_read(log, payload, &length, sizeof length);
    return touch(context, PH_TOUCH_FRESH, op->off, length);
}

int ph_log_touched(const struct ph_log *log, uint64_t from, uint64_t end, ph_touch touch, void *context)
{
    struct ph_record record;
    for (; from < end && ph_next_record(log, from, end, &record); from += record.total_len) {
        uint64_t at = from + sizeof record;
        if (record.kind == PH_RECORD_WORD && touch(context, PH_TABLE_BITS, record.zero, 8) < 0)
            return -1;
        for (uint32_t i = 0; record.kind != PH_RECORD_WORD && i < record.nops && at < from + record.total_len; i++) {
            struct ph_op op;
            uint64_t payload = ph_next_op(log, &at, &op);
            if (touch_op(log, &op, payload, touch, context) < 0)
                return -1;
        }
    }
    return 0;
}
