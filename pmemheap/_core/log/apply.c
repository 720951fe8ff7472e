/* log/apply.c -- the redo log: reading records back, and bringing them home. */
#include <string.h>

#include "log/record.h"

/* Copy `length` bytes of the ring to a home. */
static void ring_bring(const struct ph_log *log, uint64_t lsn, uint8_t *to, uint64_t length)
{
    uint64_t at = ph_ring_at(log, lsn), first = ph_ring_first(log, at, length);
    ph_put(to, log->base + at, first);
    if (first < length)
        ph_put(to + first, log->base, length - first);
}

const struct ph_home *ph_home_of(const struct ph_log *log, uint64_t off)
{
    uint64_t arena = off >> PH_ARENA_SHIFT;
    return arena < log->homes_room && log->homes[arena].data != NULL ? &log->homes[arena] : NULL;
}

/* Clip [off, off + length) of one arena, `width` bytes a unit, to the units that are mapped. */
static uint64_t clip(const struct ph_home *home, uint64_t width, uint64_t *off, uint64_t length)
{
    uint64_t start = ph_local(*off), base = *off - start, stop = start + length;
    const struct ph_heap *h = home->heap;
    uint64_t low = (h ? h->first_unit : home->first_unit) * width, high = (h ? h->end_unit : home->end_unit) * width;
    start = start < low ? low : start;
    stop = stop > high ? high : stop;
    *off = base + start;
    return stop > start ? stop - start : 0;
}

static const uint32_t header_place[PH_TABLES] = {
    [PH_TABLE_ROOTS] = 0x18000, [PH_TABLE_SEGMENTS] = 0x4000, [PH_TABLE_ARENAS] = 0x14000,
};
static const uint32_t header_bytes[PH_TABLES] = {
    [PH_TABLE_ROOTS] = 0x10000, [PH_TABLE_SEGMENTS] = 0x10000, [PH_TABLE_ARENAS] = 0x4000,
};

void ph_apply_header(const struct ph_log *log, const struct ph_op *op, uint64_t payload, uint8_t *header)
{
    if (op->flags < PH_TABLE_ROOTS || op->flags >= PH_TABLES || op->len > header_bytes[op->flags]
        || op->off > header_bytes[op->flags] - op->len)
        return;
    ring_bring(log, payload, header + header_place[op->flags] + op->off, op->len);
}

static void bring_words(const struct ph_log *log, const struct ph_op *op, uint64_t payload, uint64_t width,
                        const struct ph_home *home, uint8_t *table)
{
    uint64_t off = op->off, length = clip(home, width, &off, op->len), lsn = payload + (off - op->off);
    const uint8_t *piece = ph_ring_piece(log, lsn, length);
    for (uint64_t i = 0; i < length; i += 8) {
        uint64_t word;
        if (piece != NULL)
            memcpy(&word, piece + i, sizeof word);
        else
            ph_ring_read(log, lsn + i, &word, sizeof word);
        uint64_t *at = (uint64_t *)(table + ph_local(off) + i);
        if (*at != word)
            ph_put_word(at, word);
    }
}

void ph_apply_meta(const struct ph_log *log, const struct ph_op *op, uint64_t payload)
{
    if (op->flags > PH_TABLE_BITS) {
        if (log->header != NULL)
            ph_apply_header(log, op, payload, log->header);
        return;
    }
    const struct ph_home *home = ph_home_of(log, op->off);
    if (home == NULL)
        return;
    if (op->flags == PH_TABLE_BITS)
        bring_words(log, op, payload, PH_UNIT_WORDS * 8, home, (uint8_t *)home->bits);
    else
        bring_words(log, op, payload, sizeof(struct ph_entry), home, home->entries);
}

/* ph_apply_bytes -- [off, off + length) of the data, whose bytes begin at `payload`; what is not mapped is left out. */
void ph_apply_bytes(const struct ph_log *log, uint64_t off, uint64_t length, uint64_t payload)
{
    const struct ph_home *home = ph_home_of(log, off);
    uint64_t inside = off, count = home == NULL ? 0 : clip(home, PH_UNIT_BYTES, &inside, length);
    if (count != 0)
        ring_bring(log, payload + (inside - off), home->data + ph_local(inside), count);
}

/* It stays in quarantine until a recycle [Q3]. */
static void tag(const struct ph_block *block)
{
    ph_tag_awaited(&block->arena->tags, block->offset, ph_block_capacity(block));
}

/* Nobody reads it: it needs no tag [Q7]. */
static void release_unread(const struct ph_block *block)
{
    struct ph_tags *tags = &block->arena->tags;
    tags->awaited -= tags->awaited != 0;
    ph_release(block);
}

/* Let freed blocks that lie in one piece out of quarantine [R6], or have them wait on. */
static void release_retired(const struct ph_log *log, uint64_t off, uint64_t nbytes)
{
    const struct ph_home *home = ph_home_of(log, off);
    if (home == NULL || home->heap == NULL)
        return;
    int is_tagged = home->heap->journal->is_tagged != 0;
    ph_each_retired(home->heap, ph_local(off), nbytes, !is_tagged ? ph_release : log->unread ? release_unread : tag);
}

/* In which order a record goes home beside readers: where units lie, what is reached, what leads there [Q10, Q13]; then what
 * was freed gets its tag [Q3]. */
enum stage { STAGE_LAYOUT, STAGE_REACHED, STAGE_ROOTS, STAGE_FREED, STAGES };

static enum stage stage_of(const struct ph_op *op)
{
    if (op->type == PH_OP_FREE)
        return STAGE_FREED;
    if (op->type != PH_OP_META || op->flags < PH_TABLE_ROOTS)
        return STAGE_REACHED;
    return op->flags == PH_TABLE_ROOTS ? STAGE_ROOTS : STAGE_LAYOUT;
}

static void apply_op(struct ph_log *log, const struct ph_op *op, uint64_t payload)
{
    if (op->type == PH_OP_META)
        ph_apply_meta(log, op, payload);
    else if (op->type == PH_OP_WRITE && !(op->flags & PH_WRITE_IS_HOME))
        ph_apply_bytes(log, op->off, op->len, payload);
    else if (op->type == PH_OP_FREE) {
        uint64_t nbytes;
        ph_ring_read(log, payload, &nbytes, sizeof nbytes);
        release_retired(log, op->off, nbytes);
    }
}

uint64_t ph_record_at(const struct ph_log *log, uint64_t lsn, struct ph_record *record)
{
    ph_ring_take(log, lsn, record, sizeof *record);
    return lsn + sizeof *record;
}

uint64_t ph_op_at(const struct ph_log *log, uint64_t at, struct ph_op *op)
{
    ph_ring_take(log, at, op, sizeof *op);
    return at + sizeof *op;
}

uint64_t ph_next_op(const struct ph_log *log, uint64_t *at, struct ph_op *op)
{
    uint64_t payload = ph_op_at(log, *at, op);
    *at = payload + ph_padded(op->len);
    return payload;
}

uint64_t ph_word_freed(const struct ph_record *record)
{
    uint64_t word = ph_local(record->zero);
    return (record->zero - word) | ((word / 8 << 6) + record->pad) << PH_GRANULE_SHIFT;
}

void ph_apply_word(const struct ph_log *log, const struct ph_record *record)
{
    const struct ph_home *home = ph_home_of(log, record->zero);
    uint64_t off = record->zero;
    if (home == NULL || clip(home, PH_UNIT_WORDS * 8, &off, 8) == 0)
        return;
    uint64_t *at = &home->bits[ph_local(off) / 8];
    if (*at != record->file_end)
        ph_put_word(at, record->file_end);
}

int ph_next_record(const struct ph_log *log, uint64_t lsn, uint64_t end, struct ph_record *record)
{
    ph_record_at(log, lsn, record);
    return record->magic == PH_LOG_MAGIC && (record->lsn == lsn || !PH_KEPT(R11)) && record->total_len >= sizeof *record
        && record->total_len % PH_LOG_ALIGN == 0 && record->total_len <= end - lsn;
}

/* Bring the operations of a record home. Returns which stages it has, a bit each; 0 if they do not fit into it. */
static uint32_t apply_ops(struct ph_log *log, uint64_t at, const struct ph_record *record)
{
    uint64_t end = at - sizeof *record + record->total_len;
    uint32_t found = 1U << STAGE_REACHED;
    for (uint32_t i = 0; i < record->nops; i++) {
        struct ph_op op;
        uint64_t payload = ph_next_op(log, &at, &op);
        if (at > end)
            return 0;
        found |= 1U << stage_of(&op);
        apply_op(log, &op, payload);
    }
    return found;
}

enum { PH_OPS_READ = 24 };

/* Operations of a record that were read: all, of most records, so that each is read once for all stages. */
struct read_ops {
    uint32_t count;
    uint64_t next; /* where the one behind them begins */
    struct {
        struct ph_op op;
        uint64_t payload;
        enum stage stage;
    } each[PH_OPS_READ];
};

/* Read the first ones. Returns which stages the record has, a bit each; 0 if its operations do not fit into it. */
static uint32_t read_ops(const struct ph_log *log, uint64_t at, const struct ph_record *record, struct read_ops *read)
{
    uint64_t end = at - sizeof *record + record->total_len;
    uint32_t found = 1U << STAGE_REACHED;
    read->count = 0;
    for (uint32_t i = 0; i < record->nops; i++) {
        struct ph_op op;
        uint64_t payload = ph_next_op(log, &at, &op);
        if (at > end)
            return 0;
        enum stage stage = stage_of(&op);
        found |= 1U << stage;
        if (i < PH_OPS_READ) {
            read->each[i].op = op;
            read->each[i].payload = payload;
            read->each[i].stage = stage;
            read->count = i + 1;
            read->next = at;
        }
    }
    return found;
}

static void apply_stage(struct ph_log *log, const struct ph_record *record, const struct read_ops *read, enum stage stage)
{
    uint64_t at = read->next;
    for (uint32_t i = 0; i < read->count; i++)
        if (read->each[i].stage == stage)
            apply_op(log, &read->each[i].op, read->each[i].payload);
    for (uint32_t i = read->count; i < record->nops; i++) {
        struct ph_op op;
        uint64_t payload = ph_next_op(log, &at, &op);
        if (stage_of(&op) == stage)
            apply_op(log, &op, payload);
    }
}

static const uint32_t sequence_at[STAGES] = {[STAGE_LAYOUT] = PH_LAYOUT_SEQ_AT, [STAGE_ROOTS] = PH_COMMIT_SEQ_AT};

/* The same beside readers, who go by the two sequences. */
static int apply_in_stages(struct ph_log *log, uint64_t at, const struct ph_record *record)
{
    struct read_ops read;
    uint32_t stages = read_ops(log, at, record, &read);
    for (uint32_t stage = 0; stage < STAGES; stage++) {
        if (!(stages >> stage & 1))
            continue;
        int is_raised = sequence_at[stage] != 0 && (stage != STAGE_LAYOUT || PH_KEPT(Q13));
        if (is_raised)
            ph_sequence_open(log, sequence_at[stage]);
        apply_stage(log, record, &read, stage);
        if (is_raised)
            ph_sequence_close(log, sequence_at[stage]);
    }
    return stages != 0;
}

/* The same where nobody reads until all of it is home: they find the sequences raised [Q8]. */
static int apply_unread(struct ph_log *log, uint64_t at, const struct ph_record *record)
{
    uint32_t stages = apply_ops(log, at, record);
    if (stages >> STAGE_LAYOUT & 1)
        ph_sequence_pass(log, sequence_at[STAGE_LAYOUT]);
    if (stages >> STAGE_ROOTS & 1)
        ph_sequence_pass(log, sequence_at[STAGE_ROOTS]);
    return stages != 0;
}

static int apply_commit(struct ph_log *log, uint64_t at, const struct ph_record *record)
{
    if (!log->copies)
        return apply_ops(log, at, record) != 0;
    return log->unread ? apply_unread(log, at, record) : apply_in_stages(log, at, record);
}

static void apply_freed_word(struct ph_log *log, const struct ph_record *record)
{
    ph_apply_word(log, record);
    if (record->nops != 0)
        release_retired(log, ph_word_freed(record), (uint64_t)record->nops << PH_GRANULE_SHIFT);
}

int ph_log_apply(struct ph_log *log, uint64_t upto)
{
    int sound = 1, taken = log->copies && log->applied < upto ? ph_lease_lend(log) : 0;
    log->unread = taken != 0;
    while (log->applied < upto) {
        struct ph_record record;
        sound = ph_next_record(log, log->applied, upto, &record);
        if (sound && record.kind == PH_RECORD_WORD)
            apply_freed_word(log, &record);
        else if (sound && record.kind == PH_RECORD_COMMIT)
            sound = apply_commit(log, log->applied + sizeof record, &record);
        if (!sound)
            break;
        log->changes += record.kind == PH_RECORD_COMMIT;
        log->applied += record.total_len;
    }
    ph_lease_take_back(log, taken);
    if (log->power)
        ph_lease_rest(log); /* of records that were not home when their transactions ended */
    if (!sound || log->lost)
        log->dead = 1;
    return log->dead ? PH_L_GONE : 0;
}

uint32_t ph_log_chain_at(const struct ph_log *log, uint64_t lsn)
{
    struct ph_record record;
    if (lsn == log->head)
        return log->chain;
    ph_record_at(log, lsn, &record);
    return record.prev_crc;
}
