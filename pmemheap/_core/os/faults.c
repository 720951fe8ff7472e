/* os/faults.c -- what a test has refused of the system calls, and how many there were. */
#include "os/seam.h"
#include "os/tape.h"

static struct ph_faults own_faults;
static struct ph_faults *faults = &own_faults;

struct ph_faults *ph_faults_state(void)
{
    return faults;
}

void ph_faults_share(struct ph_faults *state)
{
    faults = state;
}

int32_t ph_fault_arm(uint64_t nth, int32_t error, int32_t kind)
{
    if (nth == 0 || error < 0 || error > 4095 || kind < PH_FAULT_ERROR || kind > PH_FAULT_FROM)
        return PH_EUSAGE;
    if (error == EINTR && kind == PH_FAULT_FROM) /* would be repeated for ever */
        return PH_EUSAGE;
    faults->error = error;
    faults->kind = kind;
    faults->hit = PH_CALL_NONE;
    __atomic_store_n(&faults->at, __atomic_load_n(&faults->calls, __ATOMIC_RELAXED) + nth, __ATOMIC_RELEASE);
    return PH_OK;
}

int32_t ph_fault_disarm(void)
{
    __atomic_store_n(&faults->at, 0, __ATOMIC_RELEASE);
    return faults->hit;
}

static void note_hit(enum ph_call call)
{
    if (faults->hit == PH_CALL_NONE)
        faults->hit = call;
}

/* Count a call; return 0 to make it, or the negated errno it is to fail with. */
int64_t ph_refusal(enum ph_call call)
{
    if (ph_tape_on())
        ph_tape_look();
    uint64_t number = __atomic_add_fetch(&faults->calls, 1, __ATOMIC_RELAXED);
    uint64_t at = __atomic_load_n(&faults->at, __ATOMIC_ACQUIRE);

    if (at == 0 || faults->kind == PH_FAULT_SHORT || number < at)
        return 0;
    if (number > at && faults->kind == PH_FAULT_ERROR)
        return 0;
    note_hit(call);
    return -faults->error;
}

/* Return how much of `length` the next transfer may ask for. */
uint64_t ph_allowance(enum ph_call call, uint64_t length)
{
    uint64_t at = __atomic_load_n(&faults->at, __ATOMIC_ACQUIRE);

    if (length > PH_LARGEST_TRANSFER)
        length = PH_LARGEST_TRANSFER;
    if (at == 0 || faults->kind != PH_FAULT_SHORT || length < 2)
        return length;
    if (__atomic_load_n(&faults->calls, __ATOMIC_RELAXED) + 1 < at)
        return length;
    note_hit(call);
    __atomic_store_n(&faults->at, 0, __ATOMIC_RELEASE);
    return length / 2;
}
