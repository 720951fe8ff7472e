/* journal/journal.c -- the journals of heaps that tell nobody, and which of all an arena has. */
#include "journal/journal.h"

static int reserve(struct ph_heap *h, uint64_t stores, uint64_t frees)
{
    (void)h;
    (void)stores;
    (void)frees;
    return 0;
}

static void store(struct ph_heap *h, uint64_t *at)
{
    (void)h;
    (void)at;
}

static void freed(struct ph_heap *h, uint64_t offset, uint64_t nbytes)
{
    (void)h;
    (void)offset;
    (void)nbytes;
}

/* Nothing outlives the memory. */
static const struct ph_journal none = {
    .durability = PH_VOLATILE, .may_move = 1, .reserve = reserve, .store = store, .freed = freed,
};

/* A store is where it belongs at once, and outlives the process: any prefix of the stores of a call has to be sound. */
static const struct ph_journal direct = {
    .durability = PH_PROCESS, .repeats = 1, .reserve = reserve, .store = store, .freed = freed,
};

void ph_set_journal(struct ph_heap *h, enum ph_durability durability)
{
    int is_tagged = h->tags.era != NULL && PH_KEPT(Q3); /* [Q3] */
    if (durability == PH_POWER)
        h->journal = is_tagged ? &ph_journal_redo_tagged : &ph_journal_redo;
    else if (durability == PH_PROCESS)
        h->journal = is_tagged ? &ph_journal_direct_tagged : &direct;
    else
        h->journal = &none;
    h->is_told = h->journal->is_told;
    h->withholds = h->journal->withholds;
}

void ph_note(struct ph_heap *h, uint64_t *at, uint64_t value)
{
    h->journal->store(h, at);
    if (ph_tape_on())
        ph_tape_store(at, &value, sizeof value);
}
