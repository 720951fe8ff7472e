/* log/record.h -- what the files of the log share. */
#ifndef PH_LOG_INTERNAL_H
#define PH_LOG_INTERNAL_H

#include "base/crc32c.h"
#include "os/os.h"
#include "log/log.h"
#include "os/tape.h"

/* Bytes of a payload of `length` in a record. */
static inline uint64_t ph_padded(uint64_t length)
{
    return (length + 7) & ~7ULL;
}

/* Where in the ring an LSN lies. Sizes that are chosen here are powers of two, and a division takes longer than to read what
 * lies there. */
static inline uint64_t ph_ring_at(const struct ph_log *log, uint64_t lsn)
{
    uint64_t mask = log->size - 1;
    return (log->size & mask) == 0 ? lsn & mask : lsn % log->size;
}

/* How many of `length` bytes from a place of the ring on lie before its end; the others are at its start. */
static inline uint64_t ph_ring_first(const struct ph_log *log, uint64_t at, uint64_t length)
{
    uint64_t room = log->size - at;
    return room < length ? room : length;
}

/* The bytes from an LSN on, or NULL if they do not lie in one piece. */
static inline const uint8_t *ph_ring_piece(const struct ph_log *log, uint64_t lsn, uint64_t length)
{
    uint64_t at = ph_ring_at(log, lsn);
    return length <= log->size - at ? log->base + at : NULL;
}

/* A word of the shared page. */
static inline uint64_t *ph_shared_at(const struct ph_log *log, uint32_t at)
{
    return (uint64_t *)(log->header + at);
}

void ph_ring_read(const struct ph_log *log, uint64_t lsn, void *to, uint64_t length);

/* The same of a few bytes, whose number the compiler knows. */
static inline void ph_ring_take(const struct ph_log *log, uint64_t lsn, void *to, uint64_t length)
{
    const uint8_t *piece = ph_ring_piece(log, lsn, length);
    if (piece != NULL)
        memcpy(to, piece, length);
    else
        ph_ring_read(log, lsn, to, length);
}

/* ph_record_at, ph_op_at -- copy what lies there; the LSN behind it. */
uint64_t ph_record_at(const struct ph_log *log, uint64_t lsn, struct ph_record *record);
uint64_t ph_op_at(const struct ph_log *log, uint64_t at, struct ph_op *op);
/* ph_next_record -- read the record at `lsn`; 0 if there is none that ends at `end` or before: walks end there. */
int ph_next_record(const struct ph_log *log, uint64_t lsn, uint64_t end, struct ph_record *record);
/* ph_next_op -- the operation at `*at` of a record whose operations fit; `*at` moves behind it. LSN of its payload. */
uint64_t ph_next_op(const struct ph_log *log, uint64_t *at, struct ph_op *op);

const struct ph_home *ph_home_of(const struct ph_log *log, uint64_t off);
/* ph_sequence_open, ph_sequence_close -- a sequence of the shared page is odd from the one to the other [Q10, Q11]. ph_sequence_pass
 * -- both at once, after a change that nobody has looked at. */
void ph_sequence_open(const struct ph_log *log, uint32_t at);
void ph_sequence_close(const struct ph_log *log, uint32_t at);
void ph_sequence_pass(const struct ph_log *log, uint32_t at);
void ph_apply_header(const struct ph_log *log, const struct ph_op *op, uint64_t payload, uint8_t *header);
void ph_apply_meta(const struct ph_log *log, const struct ph_op *op, uint64_t payload);
void ph_apply_word(const struct ph_log *log, const struct ph_record *record);
/* ph_word_freed -- offset of the block that a WORD has freed. */
uint64_t ph_word_freed(const struct ph_record *record);
void ph_apply_bytes(const struct ph_log *log, uint64_t off, uint64_t length, uint64_t payload);

#endif
