/* block/refs.c -- what this process knows of single blocks: live views, handles, pins, roots.
 *
 * An open-addressing table keyed by offset; only blocks that have one of them are in it, and the record
 * of their run or extent says so, so that free() looks here only when it must. */
#include <stdlib.h>

#include "block/block.h"

enum { PH_MARKS_MIN = 64 };

static uint64_t slot_of(const struct ph_marks *t, uint64_t offset)
{
    return ((offset >> PH_GRANULE_SHIFT) * 0x9E3779B97F4A7C15ULL >> 20) & (t->capacity - 1);
}

static struct ph_mark *find(const struct ph_marks *t, uint64_t offset)
{
    if (t->capacity == 0)
        return NULL;
    for (uint64_t i = slot_of(t, offset);; i = (i + 1) & (t->capacity - 1)) {
        if (t->slots[i].key == 0)
            return NULL;
        if (t->slots[i].key == offset + 1)
            return &t->slots[i];
    }
}

const struct ph_mark *ph_mark_find(const struct ph_heap *h, uint64_t offset)
{
    return find(&h->marks, offset);
}

static struct ph_mark *place(struct ph_marks *t, struct ph_mark mark)
{
    uint64_t i = slot_of(t, mark.key - 1);
    while (t->slots[i].key != 0)
        i = (i + 1) & (t->capacity - 1);
    t->slots[i] = mark;
    return &t->slots[i];
}

static int make_room(struct ph_marks *t, uint64_t more)
{
    if ((t->used + more) * 4 <= t->capacity * 3)
        return 0;
    struct ph_marks wider = *t;
    wider.capacity = t->capacity ? t->capacity : PH_MARKS_MIN;
    while ((t->used + more) * 4 > wider.capacity * 3)
        wider.capacity *= 2;
    wider.slots = calloc(wider.capacity, sizeof *wider.slots);
    if (wider.slots == NULL)
        return PH_H_NOMEM;
    for (uint64_t i = 0; i < t->capacity; i++)
        if (t->slots[i].key != 0)
            place(&wider, t->slots[i]);
    free(t->slots);
    *t = wider;
    return 0;
}

/* ph_marks_reserve -- room for the marks of so many blocks more, or PH_H_NOMEM. */
int ph_marks_reserve(struct ph_heap *h, uint64_t count)
{
    return make_room(&h->marks, count);
}

/* There is no record any more when the heap was closed before the handle went. */
static void count_mark(struct ph_unit *record, int by)
{
    if (record == NULL)
        return;
    if (record->state == PH_U_RUN)
        record->u.run.marks = (uint16_t)(record->u.run.marks + by);
    else
        record->marked = (uint32_t)((int)record->marked + by);
}

/* The mark of a block, made if there is none. `record`: that of the block, NULL if there is no block that may have one. */
static int mark_with(struct ph_heap *h, uint64_t offset, struct ph_unit *record, struct ph_mark **mark)
{
    if (record == NULL)
        return PH_H_BAD_OFFSET;
    *mark = find(&h->marks, offset);
    if (*mark != NULL)
        return (*mark)->is_released ? PH_H_BAD_OFFSET : 0;
    if (make_room(&h->marks, 1) < 0)
        return PH_H_NOMEM;
    *mark = place(&h->marks, (struct ph_mark){.key = offset + 1});
    h->marks.used++;
    count_mark(record, 1);
    return 0;
}

/* That of the live or reserved block at `offset`. */
static int mark_of(struct ph_heap *h, uint64_t offset, struct ph_mark **mark)
{
    return mark_with(h, offset, ph_visible_at(h, offset), mark);
}

/* Take a mark out and close the gap in its chain (Knuth, volume 3, 6.4, algorithm R). */
static void drop(struct ph_heap *h, struct ph_mark *mark)
{
    struct ph_marks *t = &h->marks;
    count_mark(ph_record_of(h, mark->key - 1), -1);
    t->used--;
    uint64_t hole = (uint64_t)(mark - t->slots), mask = t->capacity - 1;
    for (uint64_t i = (hole + 1) & mask; t->slots[i].key != 0; i = (i + 1) & mask) {
        uint64_t home = slot_of(t, t->slots[i].key - 1);
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            t->slots[hole] = t->slots[i];
            hole = i;
        }
    }
    t->slots[hole] = (struct ph_mark){0};
}

static void drop_if_idle(struct ph_heap *h, struct ph_mark *mark)
{
    if (mark->views == 0 && mark->handles == 0 && mark->pins == 0 && !mark->is_rooted)
        drop(h, mark);
}

/* A view or a pin has gone: whether that was the last one of a block that was freed, whose space is to become free. */
static int was_last(struct ph_heap *h, struct ph_mark *mark)
{
    if (mark->views != 0 || mark->pins != 0)
        return 0;
    int is_released = mark->is_released;
    if (is_released)
        drop(h, mark);
    else
        drop_if_idle(h, mark);
    return is_released;
}

/* ph_is_retired -- whether the block is quarantined and waits for its release, not only for a last view. */
int ph_is_retired(struct ph_heap *h, uint64_t offset)
{
    const struct ph_mark *mark = ph_mark_find(h, offset);
    return ph_is_quarantined(h, offset) && (mark == NULL || !mark->is_released);
}

/* ph_view_pin -- a view of a block begins. The block may have been freed by a commit of which not all is home yet: what
 * is committed still leads to it. Then it waits for that, and from now on for the view as well. */
int ph_view_pin(struct ph_heap *h, uint64_t offset)
{
    struct ph_unit *record = ph_visible_at(h, offset);
    struct ph_mark *mark;
    if (record == NULL && ph_is_retired(h, offset))
        record = ph_record_of(h, offset);
    int failure = mark_with(h, offset, record, &mark);
    if (failure < 0)
        return failure;
    mark->views++;
    h->marks.views++;
    return 0;
}

int ph_mark_view_gone(struct ph_heap *h, uint64_t offset)
{
    struct ph_mark *mark = find(&h->marks, offset);
    PH_ASSERT(mark != NULL && mark->views != 0);
    h->marks.views--;
    mark->views--;
    return was_last(h, mark);
}

/* ph_pin -- an open transaction holds the live or reserved block [R26]. */
int ph_pin(struct ph_heap *h, uint64_t offset)
{
    struct ph_mark *mark;
    int failure = mark_of(h, offset, &mark);
    if (failure < 0)
        return failure;
    mark->pins++;
    h->marks.pins++;
    return 0;
}

/* ph_pin_change_of -- the same, and it is about to change bytes of it: only one transaction at a time may. `record`: of
 * the block. ph_pin_change looks for it. */
int ph_pin_change_of(struct ph_heap *h, uint64_t offset, struct ph_unit *record)
{
    struct ph_mark *mark;
    int failure = mark_with(h, offset, record, &mark);
    if (failure < 0)
        return failure;
    mark->pins++;
    mark->changes++;
    h->marks.pins++;
    return 0;
}

int ph_pin_change(struct ph_heap *h, uint64_t offset)
{
    return ph_pin_change_of(h, offset, ph_visible_at(h, offset));
}

/* A heap that was closed while a transaction waited for its sync has no marks any more. */
int ph_mark_pin_gone(struct ph_heap *h, uint64_t offset, int changes)
{
    struct ph_mark *mark = find(&h->marks, offset);
    if (mark == NULL)
        return 0;
    PH_ASSERT(mark->pins != 0 && mark->changes >= (unsigned)changes);
    mark->changes -= (unsigned)changes;
    h->marks.pins--;
    mark->pins--;
    return was_last(h, mark);
}

/* Put a block among those of lowest offset, in order, of which `capacity` are kept. */
static void insert_lowest(struct ph_viewed *found, uint64_t *count, uint64_t capacity, struct ph_viewed one)
{
    uint64_t at = *count < capacity ? (*count)++ : capacity;
    for (; at > 0 && found[at - 1].offset > one.offset; at--)
        if (at < capacity)
            found[at] = found[at - 1];
    if (at < capacity)
        found[at] = one;
}

/* ph_viewed -- how many blocks have live views; those of lowest offset, `capacity` at most, go to `found`. O(marks). */
uint64_t ph_viewed(const struct ph_heap *h, struct ph_viewed *found, uint64_t capacity)
{
    uint64_t total = 0, count = 0;
    for (uint64_t i = 0; i < h->marks.capacity; i++) {
        const struct ph_mark *mark = &h->marks.slots[i];
        if (mark->key == 0 || mark->views == 0)
            continue;
        insert_lowest(found, &count, capacity, (struct ph_viewed){mark->key - 1, mark->views});
        total++;
    }
    return total;
}

/* ph_handle_make -- the serial number of this life of the block, one more handle to it. */
int64_t ph_handle_make(struct ph_heap *h, uint64_t offset)
{
    struct ph_mark *mark;
    int failure = mark_of(h, offset, &mark);
    if (failure < 0)
        return failure;
    if (mark->serial == 0)
        mark->serial = ++h->marks.serial;
    mark->handles++;
    return (int64_t)mark->serial;
}

int ph_handle_valid(const struct ph_heap *h, uint64_t offset, uint64_t serial)
{
    const struct ph_mark *mark = find(&h->marks, offset);
    return mark != NULL && mark->serial == serial;
}

void ph_handle_drop(struct ph_heap *h, uint64_t offset, uint64_t serial)
{
    struct ph_mark *mark = find(&h->marks, offset);
    if (mark == NULL || mark->serial != serial)
        return;
    mark->handles--;
    if (mark->handles == 0)
        mark->serial = 0;
    drop_if_idle(h, mark);
}

/* ph_set_rooted -- a root names the live or reserved block at `offset`, or none does any more. */
int ph_set_rooted(struct ph_heap *h, uint64_t offset, int rooted)
{
    struct ph_mark *mark = find(&h->marks, offset);
    int failure = rooted ? mark_of(h, offset, &mark) : 0;
    if (failure < 0 || mark == NULL)
        return failure;
    mark->is_rooted = rooted != 0;
    drop_if_idle(h, mark);
    return 0;
}

/* ph_forget_roots -- no root names anything, until ph_set_rooted says so again. A mark that goes may bring another one
 * to its slot. */
void ph_forget_roots(struct ph_heap *h)
{
    for (uint64_t i = 0; i < h->marks.capacity; i++)
        while (h->marks.slots[i].is_rooted)
            ph_set_rooted(h, h->marks.slots[i].key - 1, 0);
}

static int refusal_of(const struct ph_mark *mark)
{
    if (mark->is_rooted)
        return PH_H_ROOTED;
    return mark->pins != 0 ? PH_H_IN_TRANSACTION : mark->views != 0 ? PH_H_PINNED : 0;
}

static void make_stale(struct ph_heap *h, struct ph_mark *mark)
{
    mark->handles = 0;
    mark->serial = 0;
    mark->is_rooted = 0;
    drop_if_idle(h, mark);
}

/* ph_mark_refusal -- why the live block may not go or move: PH_H_ROOTED, PH_H_IN_TRANSACTION, PH_H_PINNED, or 0. */
int ph_mark_refusal(const struct ph_heap *h, uint64_t offset)
{
    const struct ph_mark *mark = find(&h->marks, offset);
    return mark == NULL ? 0 : refusal_of(mark);
}

/* ph_mark_stale -- the block goes: its handles are stale from now on, and no root names it. */
void ph_mark_stale(struct ph_heap *h, uint64_t offset)
{
    struct ph_mark *mark = find(&h->marks, offset);
    if (mark != NULL)
        make_stale(h, mark);
}

/* ph_mark_end -- the same if the block may go, else the refusal. */
int ph_mark_end(struct ph_heap *h, uint64_t offset)
{
    struct ph_mark *mark = find(&h->marks, offset);
    int refused = mark == NULL ? 0 : refusal_of(mark);
    if (mark != NULL && refused == 0)
        make_stale(h, mark);
    return refused;
}

/* ph_mark_waits -- whether views or pins keep the space of a quarantined block: then it goes with the last of them. */
int ph_mark_waits(struct ph_heap *h, uint64_t offset)
{
    struct ph_mark *mark = find(&h->marks, offset);
    if (mark == NULL)
        return 0;
    mark->is_released = 1;
    return 1;
}
