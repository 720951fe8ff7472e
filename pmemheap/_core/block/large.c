/* block/large.c -- large blocks: whole units, described by one entry.
 *
 * A change of both words of an entry stores first the one whose half-done state is sound: see ph_entry_publish. */
#include "base/guard.h"
#include "block/block.h"
#include "os/os.h"

static void count_large(struct ph_heap *h, const struct ph_unit *head, int by)
{
    h->large_units += (uint64_t)by * head->nunits;
    h->large_bytes += (uint64_t)by * head->u.nbytes;
    h->large_blocks += (uint64_t)by;
}

static struct ph_unit *unit_set(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes, uint8_t state)
{
    struct ph_unit *head = &h->units[unit];
    PH_ASSERT(ph_units_are_untagged(h, unit, nunits));
    head->state = state;
    head->class_index = 0;
    head->nunits = (uint32_t)nunits;
    head->u.nbytes = nbytes;
    head->has_refs = 0;
    return head;
}

/* ph_large_make -- describe `nunits` units, which belong to nobody, as one large block. */
void ph_large_make(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes)
{
    ph_large_set(h, unit, nunits, nbytes);
    if (PH_UNLIKELY(h->guard != NULL))
        h->guard->large_made++;
    ph_entry_publish(h, unit, ph_entry_word(PH_KIND_LARGE, 0, (uint32_t)nunits), nbytes);
    PH_TELL(h, ph_tell_made, unit << PH_UNIT_SHIFT, nbytes, nunits << PH_UNIT_SHIFT);
}

void ph_large_set(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes)
{
    count_large(h, unit_set(h, unit, nunits, nbytes, PH_U_LARGE), 1);
}

static void leave_region(struct ph_heap *h, struct ph_unit *head)
{
    if (head->class_index == PH_IN_REGION_LARGE)
        ph_circle_remove(h, head);
    head->class_index = 0;
}

/* A live block becomes units of nobody. */
void ph_large_clear(struct ph_heap *h, uint64_t unit)
{
    struct ph_unit *head = &h->units[unit];
    PH_ASSERT(head->state == PH_U_LARGE);
    leave_region(h, head);
    ph_entry_withdraw(h, unit);
    head->state = PH_U_OTHER;
    count_large(h, head, -1);
    PH_TELL(h, ph_tell_freed, unit << PH_UNIT_SHIFT, (uint64_t)head->nunits << PH_UNIT_SHIFT);
}

void ph_large_resize(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes)
{
    struct ph_unit *head = &h->units[unit];
    PH_ASSERT(head->state == PH_U_LARGE && nunits != 0 && ph_units_are_untagged(h, unit, nunits));
    PH_TELL(h, ph_tell_resized, unit << PH_UNIT_SHIFT, nbytes, (uint64_t)head->nunits << PH_UNIT_SHIFT, nunits << PH_UNIT_SHIFT);
    count_large(h, head, -1);
    head->nunits = (uint32_t)nunits;
    head->u.nbytes = nbytes;
    count_large(h, head, 1);
    ph_entry_publish(h, unit, ph_entry_word(PH_KIND_LARGE, 0, (uint32_t)nunits), nbytes);
}

/* ph_large_take -- units for a large block out of the pool or of the returned spans, or why there are none. */
int64_t ph_large_take(struct ph_heap *h, uint64_t size, uint64_t align)
{
    uint64_t nunits = ph_units_for(size);
    if (align > PH_UNIT_BYTES)
        return PH_H_LARGE;
    return nunits <= PH_POOL_MAX ? ph_units_take(h, nunits) : ph_returned_take(h, nunits);
}

/* A ring in memory does not use them again: their pages go at once, if the system lets them. */
static PH_SELDOM void give_pages_back(struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    uint64_t address = (uint64_t)(uintptr_t)(h->data + (unit << PH_UNIT_SHIFT));
    if (ph_advise(address, nunits << PH_UNIT_SHIFT, PH_ADVISE_DONTNEED) == 0)
        ph_ages_given_back(&h->ages, unit, nunits);
}

/* ph_give_back -- give units back: up to 63 to the pool, more to the queue of returned spans, which Python drains. */
void ph_give_back(struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    ph_count_freed(h, unit, nunits);
    if (h->strategy == PH_STRATEGY_RING && h->entries == NULL)
        give_pages_back(h, unit, nunits);
    if (nunits <= PH_POOL_MAX) {
        ph_pool_give(h, unit, nunits);
        return;
    }
    struct ph_unit *head = &h->units[unit];
    head->state = PH_U_RETURNED;
    head->nunits = (uint32_t)nunits;
    head->sibling = h->returned;
    h->returned = (uint32_t)unit;
    h->returned_units += nunits;
    h->returned_count++;
}

/* ph_large_free -- a live block goes, and its units go back. */
void ph_large_free(struct ph_heap *h, uint64_t unit)
{
    ph_large_clear(h, unit);
    ph_give_back(h, unit, h->units[unit].nunits);
}

static void count_reserved(struct ph_withheld *t, const struct ph_unit *head, int by)
{
    t->reserved_blocks += (uint64_t)by;
    t->reserved_units += (uint64_t)by * head->nunits;
    t->reserved_bytes += (uint64_t)by * ((uint64_t)head->nunits << PH_UNIT_SHIFT);
}

static void count_quarantined(struct ph_withheld *t, const struct ph_unit *head, int by)
{
    t->freed_blocks += (uint64_t)by;
    t->freed_units += (uint64_t)by * head->nunits;
    t->freed_bytes += (uint64_t)by * ((uint64_t)head->nunits << PH_UNIT_SHIFT);
}

/* ph_reserve_large -- the same as ph_large_make for a block of an open transaction: nothing is stored. */
void ph_reserve_large(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes)
{
    count_reserved(&h->withheld, unit_set(h, unit, nunits, nbytes, PH_U_RESERVED), 1);
}

/* ph_quarantine_units -- units of nobody wait until their release. */
void ph_quarantine_units(struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    count_quarantined(&h->withheld, unit_set(h, unit, nunits, nunits << PH_UNIT_SHIFT, PH_U_QUARANTINE), 1);
}

void ph_large_publish(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    struct ph_unit *head = block->record;
    PH_ASSERT(head->state == PH_U_RESERVED);
    count_reserved(&h->withheld, head, -1);
    head->state = PH_U_LARGE;
    count_large(h, head, 1);
}

void ph_large_quarantine(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    struct ph_unit *head = block->record;
    PH_ASSERT(head->state == PH_U_RESERVED || head->state == PH_U_LARGE);
    leave_region(h, head);
    if (head->state == PH_U_RESERVED)
        count_reserved(&h->withheld, head, -1);
    else
        count_large(h, head, -1);
    head->state = PH_U_QUARANTINE;
    count_quarantined(&h->withheld, head, 1);
}

void ph_large_release(const struct ph_block *block)
{
    struct ph_heap *h = block->arena;
    struct ph_unit *head = block->record;
    PH_ASSERT(head->state == PH_U_QUARANTINE);
    count_quarantined(&h->withheld, head, -1);
    head->state = PH_U_OTHER;
    ph_give_back(h, ph_head_of(block), head->nunits);
}
