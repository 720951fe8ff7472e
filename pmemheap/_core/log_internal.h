/* log_internal.h -- what log.c and log_recovery.c share. */
#ifndef PH_LOG_INTERNAL_H
#define PH_LOG_INTERNAL_H

#include "core.h"
#include "log.h"
#include "tape.h"

static inline void ph_put_word(uint64_t *at, uint64_t word)
{
    if (ph_tape_on())
        ph_tape_store(at, &word, sizeof word);
    __atomic_store_n(at, word, __ATOMIC_RELEASE);
}

void ph_ring_read(const struct ph_log *log, uint64_t lsn, void *to, uint64_t length);
/* ph_record_at, ph_op_at -- copy what lies there; the LSN behind it. */
uint64_t ph_record_at(const struct ph_log *log, uint64_t lsn, struct ph_record *record);
uint64_t ph_op_at(const struct ph_log *log, uint64_t at, struct ph_op *op);

const struct ph_home *ph_home_of(const struct ph_log *log, uint64_t off);
void ph_apply_header(const struct ph_log *log, const struct ph_op *op, uint64_t payload, uint8_t *header);
void ph_apply_meta(const struct ph_log *log, const struct ph_op *op, uint64_t payload);
void ph_apply_word(const struct ph_log *log, const struct ph_record *record);
/* ph_word_freed -- offset of the block that a WORD has freed. */
uint64_t ph_word_freed(const struct ph_record *record);
void ph_apply_bytes(const struct ph_log *log, uint64_t off, uint64_t length, uint64_t payload);

#endif
