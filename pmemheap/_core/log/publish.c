/* log/publish.c -- what readers in other processes go by: words of the shared page beside the tables of the header.
 *
 *     commit_seq   8      9 ............. 9      10           a commit: its blocks are home, then its roots, and then what
 *     roots        A      A  A and B   ...B      B            it frees gets a tag
 *
 * A reader copies the roots between two looks at an even number that stays the same: they are those of one commit. If the
 * writer is killed between, the number stays odd: readers keep the snapshot that they have, and who opens the file anew reads
 * the record that was cut off in the log. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/crc32c.h"
#include "log/record.h"

/* A sequence that is odd already, since somebody was killed or has taken over, stays so until the first commit is whole. */
void ph_sequence_open(const struct ph_log *log, uint32_t at)
{
    if (log->header == NULL)
        return;
    uint64_t *word = ph_shared_at(log, at);
    if (!PH_KEPT(Q10))
        return;
    ph_put_word(word, (*word | 1) + (*word & 1) * 2);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the slots come after it */
}

void ph_sequence_close(const struct ph_log *log, uint32_t at)
{
    if (log->header != NULL)
        ph_put_word(ph_shared_at(log, at), *ph_shared_at(log, at) + (PH_KEPT(Q10) ? 1 : 2)); /* [Q10] */
}

void ph_sequence_pass(const struct ph_log *log, uint32_t at)
{
    if (log->header != NULL)
        ph_put_word(ph_shared_at(log, at), (*ph_shared_at(log, at) | 1) + 1);
}

int ph_log_copies(struct ph_log *log, int copies, uint64_t era)
{
    struct ph_root_slot *roots = NULL;
    if (copies && log->header != NULL && (roots = malloc(PH_ROOT_SLOTS * sizeof *roots)) == NULL)
        return PH_L_NOMEM;
    if (ph_set_copies(log, copies, era) < 0) {
        free(roots);
        return PH_L_NOMEM;
    }
    free(log->roots);
    log->roots = roots;
    if (roots == NULL)
        return 0;
    memcpy(log->roots, log->header + PH_ROOTS_AT, PH_ROOT_SLOTS * sizeof *log->roots);
    for (log->roots_used = PH_ROOT_SLOTS; log->roots_used != 0 && log->roots[log->roots_used - 1].name_length == 0;)
        log->roots_used--;
    ph_put_word((uint64_t *)(log->header + PH_ROOTS_USED_AT), log->roots_used);
    return 0;
}

/* ---------------------------------------------------------------- readers */

enum { PH_LOOKS_MOST = 100000 }; /* at a sequence that is odd: some milliseconds */

uint64_t ph_shared_word(const uint8_t *header, uint32_t at)
{
    if (ph_tape_on())
        ph_tape_look();
    return __atomic_load_n((const uint64_t *)(header + at), __ATOMIC_ACQUIRE);
}

uint64_t ph_root_place(const struct ph_root_slot *slots, uint64_t used, const char *name, uint64_t length)
{
    for (uint64_t i = 0; length - 1 < sizeof slots->name && i < used; i++) {
        if (slots[i].name_length != length || memcmp(slots[i].name, name, length) != 0)
            continue;
        struct ph_root_slot slot = slots[i];
        if (slot.crc != ph_crc32c_but((const uint8_t *)&slot, sizeof slot, offsetof(struct ph_root_slot, crc)))
            break;
        return slot.copy != 0 ? slot.copy : slot.off;
    }
    return PH_NO_ROOT;
}

/* What is to be taken between two looks at the number of the commit: the place that `name` has, or all slots. */
struct capture {
    const char *name;
    uint64_t length, *place;
    struct ph_root_slot *to;
};

static void take(const struct capture *wanted, const struct ph_root_slot *slots, uint64_t used)
{
    if (wanted->name != NULL)
        *wanted->place = ph_root_place(slots, used, wanted->name, wanted->length);
    else
        memcpy(wanted->to, slots, used * sizeof *slots);
}

static int64_t look(const uint8_t *header, uint64_t *sequence, const struct capture *wanted)
{
    for (uint32_t looks = 0; looks < PH_LOOKS_MOST; looks++) {
        uint64_t before = ph_shared_word(header, PH_COMMIT_SEQ_AT);
        uint64_t used = ph_shared_word(header, PH_ROOTS_USED_AT);
        if (ph_tape_on() && before & 1)
            ph_tape_wait();
        if (before & 1 || used > PH_ROOT_SLOTS)
            continue;
        take(wanted, (const struct ph_root_slot *)(header + PH_ROOTS_AT), used);
        __atomic_thread_fence(__ATOMIC_ACQUIRE); /* the slots are read before the sequence is again */
        if (PH_KEPT(Q11) && ph_shared_word(header, PH_COMMIT_SEQ_AT) != before) /* [Q11] */
            continue;
        *sequence = before;
        return (int64_t)used;
    }
    return PH_L_FULL;
}

int64_t ph_capture(const uint8_t *header, uint64_t *sequence, struct ph_root_slot *to)
{
    return look(header, sequence, &(struct capture){.to = to});
}

int64_t ph_capture_root(const uint8_t *header, const char *name, uint64_t length, uint64_t *sequence, uint64_t *place)
{
    int64_t used = look(header, sequence, &(struct capture){.name = name, .length = length, .place = place});
    return used < 0 ? used : 0;
}
