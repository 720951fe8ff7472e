/* log/lease.c -- a writer that lets readers in edits in place as long as nobody reads [Q7, Q8].
 *
 *              a look finds nobody              begins to edit
 *     MAY, LATE ──────────────────┐       ┌──── SHUT <─────┐
 *        ^                        └──> SHUT ──> WAIT ──────┘
 *        │                                        │  all is home
 *        └────────────────────────────────────────┘
 *          a look finds somebody; somebody in this process begins to read
 *
 * A reader has its lock before it reads the gate. Copies are made: it may begin. Else it waits for two leases, and then as
 * long as the gate is shut. A lease is shorter, and is counted from before the look that found nobody: what the writer
 * begins to edit when the reader may begin, it edits after a look that finds the reader's lock. So the gate is shut before
 * the clock is read, and before the look. A look also raises the floor: a snapshot of before, which nobody has pinned any more,
 * cannot be adopted.
 *
 * What is freed gets no tag under a lease: of records that go home, and of bare frees of a process heap. */
#include <stddef.h>

#include "base/checked.h"
#include "log/record.h"

enum { PH_LEASES_BETWEEN = 10 }; /* two looks, after one that has found somebody */

/* Pre: it is mapped. */
static inline void store_gate(struct ph_log *log, uint32_t gate)
{
    uint64_t *word = ph_shared_at(log, PH_WRITER_AT);
    log->lease.gate = gate;
    ph_put_word(word, (*word & UINT32_MAX) | (uint64_t)gate << 32);
    __atomic_thread_fence(__ATOMIC_RELEASE); /* what is edited comes after it */
}

static void put_gate(struct ph_log *log, uint32_t gate)
{
    if (log->lease.gate != gate && log->header != NULL)
        store_gate(log, gate);
}

/* No replay that a next writer does stores an older image of what readers see: a process heap has it all home. */
static uint32_t gate_to_copy(const struct ph_log *log)
{
    return log->power && log->tail < log->lease.edited ? PH_READERS_LATE : PH_READERS_MAY;
}

static int is_read(const struct ph_lease *lease)
{
    return ph_find_lock(lease->fd, PH_LOCK_READER_AT, 0) != INT64_MAX; /* a failure: nobody knows */
}

/* After somebody was found. */
static PH_SELDOM void copy_for_a_while(struct ph_log *log, uint64_t now)
{
    log->lease.again = now + PH_LEASES_BETWEEN * log->lease.length;
    put_gate(log, gate_to_copy(log));
}

/* Whether nobody reads, nor can adopt what somebody has read. The gate is shut. */
static PH_SELDOM int look(struct ph_log *log, uint64_t now)
{
    struct ph_lease *lease = &log->lease;
    uint64_t floor = *ph_shared_at(log, PH_FLOOR_AT);
    ph_set_era(log, log->era.now + 1);
    ph_put_word(ph_shared_at(log, PH_ERA_AT), log->era.now);
    ph_put_word(ph_shared_at(log, PH_FLOOR_AT), log->era.now);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (is_read(lease)) {
        ph_put_word(ph_shared_at(log, PH_FLOOR_AT), floor);
        copy_for_a_while(log, now);
        return 0;
    }
    lease->until = now + lease->length;
    lease->floor = log->era.now;
    return 1;
}

/* Whether there is no reason to go on copying: a look that disturbs nobody. */
static PH_SELDOM int may_stop_to_copy(struct ph_log *log)
{
    uint64_t now = ph_now();
    if (now < log->lease.again)
        return 0;
    if (!is_read(&log->lease))
        return 1;
    copy_for_a_while(log, now);
    return 0;
}

static struct ph_log *log_of(struct ph_lender *lender)
{
    return (struct ph_log *)((uint8_t *)lender - offsetof(struct ph_log, lease.lender));
}

static int lend(struct ph_lender *lender)
{
    return ph_lease_lend(log_of(lender));
}

static void take_back(struct ph_lender *lender, int taken)
{
    ph_lease_take_back(log_of(lender), taken);
}

void ph_lease_init(struct ph_log *log)
{
    log->lease.lender = (struct ph_lender){.take = lend, .give = take_back};
}

void ph_lease_begin(struct ph_log *log, const struct ph_lease *lease)
{
    log->lease = *lease;
    log->lease.gate = PH_READERS_MAY;
    ph_lease_init(log);
    log->lease.lender.is_on = 1;
}

void ph_lease_forget(struct ph_log *log)
{
    log->lease.lender.is_on = 0;
    log->lease.gate = PH_READERS_NONE;
}

int ph_lease_end(struct ph_log *log)
{
    int failed = ph_lease_stop(log);
    if (failed < 0)
        return failed;
    ph_lease_forget(log);
    return 0;
}

/* Shut the gate, and look if there is reason to: whether nobody reads. Pre: nothing is pinned here. */
static int shut(struct ph_log *log, int copies)
{
    if (PH_KEPT(Q8))
        store_gate(log, PH_READERS_SHUT);
    uint64_t now = ph_now();
    return PH_LIKELY(!copies && (now < log->lease.until || !PH_KEPT(Q7))) || look(log, now);
}

/* The gate does not wait. */
static int take_otherwise(struct ph_log *log)
{
    const struct ph_lease *lease = &log->lease;
    if (!lease->lender.is_on || log->header == NULL || *lease->pinned != 0)
        return 0;
    return lease->gate == PH_READERS_SHUT /* nobody could begin since then */
        || (may_stop_to_copy(log) && shut(log, 1));
}

int ph_lease_take(struct ph_log *log)
{
    int taken = PH_LIKELY(log->lease.gate == PH_READERS_WAIT) ? shut(log, 0) : take_otherwise(log);
    if (PH_LIKELY(taken))
        log->lease.is_editing = 1;
    return taken;
}

void ph_lease_give(struct ph_log *log)
{
    log->lease.is_editing = 0;
    ph_lease_rest(log);
}

enum { PH_TAKEN = 1, PH_TAKEN_BEFORE = 2 };

int ph_lease_lend(struct ph_log *log)
{
    if (log->lease.gate == PH_READERS_SHUT)
        return PH_TAKEN_BEFORE;
    return ph_lease_take(log) ? PH_TAKEN : 0;
}

void ph_lease_take_back(struct ph_log *log, int taken)
{
    if (taken == PH_TAKEN)
        ph_lease_give(log);
}

/* Somebody in this process waits. */
static PH_SELDOM void let_in(struct ph_log *log)
{
    log->lease.is_wanted = 0;
    copy_for_a_while(log, ph_now());
}

void ph_lease_rest(struct ph_log *log)
{
    struct ph_lease *lease = &log->lease;
    if (lease->gate != PH_READERS_SHUT || lease->is_editing || log->applied < lease->edited)
        return;
    if (PH_LIKELY(!lease->is_wanted))
        store_gate(log, PH_READERS_WAIT);
    else
        let_in(log);
}

int ph_lease_stop(struct ph_log *log)
{
    struct ph_lease *lease = &log->lease;
    int is_home = log->dead && log->power && !lease->is_editing; /* what was edited never goes there */
    if (lease->gate == PH_READERS_SHUT && !is_home) {
        lease->is_wanted = 1;
        return PH_L_EDITING;
    }
    if (lease->gate == PH_READERS_SHUT || lease->gate == PH_READERS_WAIT)
        put_gate(log, gate_to_copy(log));
    return 0;
}

void ph_lease_settle(struct ph_log *log)
{
    if (log->lease.gate == PH_READERS_LATE)
        put_gate(log, gate_to_copy(log));
}
