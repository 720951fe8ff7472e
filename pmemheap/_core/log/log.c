/* log/log.c -- the redo log: building and appending records. Bringing them home: apply.c; recovery: recovery.c. */
#include "log/log.h"

#include <stdlib.h>
#include <string.h>

#include "log/record.h"

enum { PH_SCRATCH_MIN = 4096 };

void ph_log_fini(struct ph_log *log)
{
    while (log->pages.count != 0)
        free(log->pages.spare[--log->pages.count]);
    free(log->scratch);
    log->scratch = NULL;
    free(log->homes);
    free(log->roots);
    log->homes = NULL;
    log->roots = NULL;
    log->homes_room = 0;
    log->capacity = 0;
}

/* ---------------------------------------------------------------- building */

static int make_room(struct ph_log *log, uint64_t more)
{
    uint64_t needed = log->length + more + PH_LOG_ALIGN;
    if (needed <= log->capacity)
        return 0;
    uint64_t capacity = log->capacity ? log->capacity : PH_SCRATCH_MIN;
    while (capacity < needed)
        capacity *= 2;
    uint8_t *scratch = realloc(log->scratch, capacity);
    if (scratch == NULL)
        return PH_L_NOMEM;
    log->scratch = scratch;
    log->capacity = capacity;
    return 0;
}

void ph_record_begin(struct ph_log *log)
{
    log->length = sizeof(struct ph_record);
    log->nops = 0;
}

int ph_record_op(struct ph_log *log, uint8_t type, uint8_t flags, uint64_t off, const void *payload, uint32_t length)
{
    uint64_t padded = ph_padded(length);
    struct ph_op op = {.type = type, .flags = flags, .len = length, .off = off};
    if (log->nops == UINT16_MAX)
        return PH_L_MANY;
    if (make_room(log, sizeof op + padded) < 0)
        return PH_L_NOMEM;
    uint8_t *at = log->scratch + log->length;
    memcpy(at, &op, sizeof op);
    memcpy(at + sizeof op, payload, length);
    memset(at + sizeof op + length, 0, padded - length);
    log->length += sizeof op + padded;
    log->nops++;
    return 0;
}

int ph_record_raw(struct ph_log *log, const void *operations, uint64_t length, uint16_t count)
{
    if (log->nops + count > UINT16_MAX)
        return PH_L_MANY;
    if (make_room(log, length) < 0)
        return PH_L_NOMEM;
    if (length != 0)
        memcpy(log->scratch + log->length, operations, length);
    log->length += length;
    log->nops = (uint16_t)(log->nops + count);
    return 0;
}

/* ---------------------------------------------------------------- appending */

int ph_log_room(const struct ph_log *log, uint64_t bytes, uint64_t spare)
{
    if (log->dead)
        return PH_L_DEAD;
    if (log->frozen)
        return PH_L_FULL;
    if (bytes > log->size / 2)
        return PH_L_LARGE;
    if (PH_KEPT(R2) && log->head + bytes + spare - log->tail > log->size) /* [R2] */
        return PH_L_FULL;
    if (log->limit != 0 && log->head + bytes + spare > log->limit)
        return PH_L_FULL;
    return 0;
}

/* Whether one of the superblocks is that of this opening: who writes the file over, or cuts it, takes them away. */
int ph_log_has_header(const struct ph_log *log)
{
    uint64_t first, second;
    if (log->header == NULL)
        return 1;
    memcpy(&first, log->header + PH_EPOCH_AT, sizeof first);
    memcpy(&second, log->header + PH_OTHER_EPOCH_AT, sizeof second);
    return first == log->epoch || second == log->epoch;
}

/* The same for a record that is to be appended now: a refusal is remembered, for the upkeep that makes room. */
static int claim_room(struct ph_log *log, uint64_t bytes, uint64_t spare)
{
    int refused = ph_log_room(log, bytes, spare);
    log->refused = refused < 0 ? bytes : 0;
    log->refused_spare = refused < 0 ? spare : 0;
    return refused;
}

/* A record has been stored to the ring: the LSN behind it. */
static int64_t appended(struct ph_log *log, const struct ph_record *record)
{
    log->head += record->total_len;
    log->chain = record->crc;
    log->records++;
    log->bytes += record->total_len;
    return (int64_t)log->head;
}

/* A record that is synced at once goes by the descriptor: a store through the map would meet a page that the last sync
 * has write-protected, and its fault and the next protection cost more than the call. 0 if the system refuses. */
static int ring_write(const struct ph_log *log, uint64_t at, const uint8_t *bytes, uint64_t first, uint64_t length)
{
    return log->awaited && log->fd >= 0 && ph_write(log->fd, bytes, first, log->place + at) == (int64_t)first
        && (first == length || ph_write(log->fd, bytes + first, length - first, log->place) == (int64_t)(length - first));
}

static void ring_store(struct ph_log *log, uint64_t lsn, const uint8_t *bytes, uint64_t length)
{
    uint64_t at = ph_ring_at(log, lsn), first = ph_ring_first(log, at, length);
    if (ring_write(log, at, bytes, first, length))
        return;
    ph_put(log->base + at, bytes, first);
    if (first < length)
        ph_put(log->base, bytes + first, length - first);
}

/* The CRC of a record in scratch memory. [R12]: it covers header and operations. */
static uint32_t record_crc(const uint8_t *record, uint32_t seed, uint64_t length)
{
    return ph_crc32c(seed, record + 8, (PH_KEPT(R12) ? length : sizeof(struct ph_record)) - 8);
}

int64_t ph_record_append(struct ph_log *log, uint8_t kind, uint32_t txid, uint64_t spare)
{
    uint64_t total = ph_record_bytes(log->length);
    int refused = claim_room(log, total, spare);
    if (refused < 0)
        return refused;
    if (!ph_log_has_header(log))
        return PH_L_GONE;
    memset(log->scratch + log->length, 0, total - log->length);
    struct ph_record header = {
        .magic = PH_LOG_MAGIC, .lsn = log->head, .epoch = log->epoch, .durable_lsn = log->durable,
        .file_end = log->file_end, .total_len = (uint32_t)total, .prev_crc = log->chain, .txid = txid,
        .nops = log->nops, .kind = kind,
    };
    memcpy(log->scratch, &header, sizeof header);
    header.crc = record_crc(log->scratch, log->chain, total);
    memcpy(log->scratch, &header, sizeof header);
    ring_store(log, log->head, log->scratch, total);
    return appended(log, &header);
}

int64_t ph_record_word(struct ph_log *log, uint64_t off, uint64_t image, uint64_t freed_granules, uint32_t bit)
{
    int refused = claim_room(log, sizeof(struct ph_record), log->promised);
    if (refused < 0)
        return refused;
    struct ph_record record = {
        .magic = PH_LOG_MAGIC, .lsn = log->head, .epoch = log->epoch, .durable_lsn = log->durable,
        .file_end = image, .zero = off, .total_len = sizeof record, .prev_crc = log->chain,
        .nops = (uint16_t)freed_granules, .kind = PH_RECORD_WORD, .pad = (uint8_t)bit,
    };
    record.crc = ph_crc32c(log->chain, (const uint8_t *)&record + 8, sizeof record - 8);
    ph_put(log->base + ph_ring_at(log, log->head), &record, sizeof record); /* aligned: it never wraps */
    return appended(log, &record);
}

/* ---------------------------------------------------------------- reading */

void ph_ring_read(const struct ph_log *log, uint64_t lsn, void *to, uint64_t length)
{
    uint64_t at = ph_ring_at(log, lsn), first = ph_ring_first(log, at, length);
    memcpy(to, log->base + at, first);
    if (first < length)
        memcpy((uint8_t *)to + first, log->base, length - first);
}

/* ---------------------------------------------------------------- homes */

struct ph_home *ph_log_home_make(struct ph_log *log, uint32_t arena)
{
    PH_ASSERT(arena < PH_ARENAS);
    if (arena >= log->homes_room) {
        uint32_t room = arena == 0 ? 1 : 2U << (31 - __builtin_clz(arena));
        struct ph_home *homes = realloc(log->homes, room * sizeof(*homes));
        if (homes == NULL)
            return NULL;
        memset(homes + log->homes_room, 0, (room - log->homes_room) * sizeof(*homes));
        log->homes = homes;
        log->homes_room = room;
    }
    return &log->homes[arena];
}
