/* heap.c -- malloc, free and realloc: what is on the path of every call. */
#include <stdlib.h>
#include <string.h>

#include "heap_internal.h"

static uint64_t units_for(uint64_t nbytes)
{
    return (nbytes + PH_UNIT_BYTES - 1) >> PH_UNIT_SHIFT;
}

static void class_init(struct ph_class *c, uint32_t size, uint16_t run_units, uint64_t *starts)
{
    c->current = c->partial = PH_NIL;
    c->granules = size >> PH_GRANULE_SHIFT;
    c->run_units = run_units;
    c->run_blocks = (uint16_t)(run_units * PH_UNIT_GRANULES / c->granules);
    c->starts = starts;
    for (uint32_t block = 0; block < c->run_blocks; block++)
        starts[block * c->granules / 64] |= 1ULL << block * c->granules % 64;
}

/* table[i] = first class that holds i * step bytes. */
static void fill_lookup(uint8_t *table, uint32_t length, uint32_t step, const uint32_t *sizes, uint32_t count)
{
    for (uint32_t i = 0, index = 0; i < length; i++) {
        while (index < count - 1 && sizes[index] < i * step)
            index++;
        table[i] = (uint8_t)index;
    }
}

/* ph_heap_init -- an empty heap without tables. PH_H_CORRUPT: classes that cannot be; PH_H_NOMEM. */
int ph_heap_init(struct ph_heap *h, const uint32_t *sizes, const uint16_t *run_units, uint32_t count)
{
    if (count == 0 || count > PH_CLASSES_MAX || sizes[count - 1] > PH_SMALL_MAX)
        return PH_H_CORRUPT;
    memset(h, 0, sizeof *h);
    uint64_t total = 0, at = 0;
    for (uint32_t i = 0; i < count; i++)
        total += run_units[i];
    h->starts = calloc(total * PH_UNIT_WORDS, sizeof *h->starts);
    if (h->starts == NULL)
        return PH_H_NOMEM;
    h->limbo = PH_NIL;
    h->nclasses = count;
    h->small_max = sizes[count - 1];
    for (uint32_t i = 0; i < PH_BINS; i++)
        h->bins[i] = PH_NIL;
    for (uint32_t i = 0; i < count; at += run_units[i++])
        class_init(&h->classes[i], sizes[i], run_units[i], h->starts + at * PH_UNIT_WORDS);
    fill_lookup(h->class_by_granule, sizeof h->class_by_granule, PH_GRANULE, sizes, count);
    fill_lookup(h->class_by_line, sizeof h->class_by_line, PH_LINE, sizes, count);
    return 0;
}

void ph_heap_fini(struct ph_heap *h)
{
    free(h->starts);
    free(h->marks.slots);
    h->starts = NULL;
    h->marks = (struct ph_marks){0};
}

/* Whole units serve a size at least as well as its class does when they round it up no further. */
static int units_serve_better(const struct ph_class *c, uint64_t size)
{
    return size > PH_UNIT_BYTES / 2 && units_for(size) * PH_UNIT_BYTES <= c->granules * PH_GRANULE;
}

int ph_class_of(const struct ph_heap *h, uint64_t size, uint64_t align)
{
    if (size > h->small_max || align > PH_UNIT_BYTES / 2)
        return -1;
    int index = size <= PH_BY_GRANULE_MAX ? h->class_by_granule[(size + PH_GRANULE - 1) / PH_GRANULE]
                                          : h->class_by_line[(size + PH_LINE - 1) / PH_LINE];
    if (PH_UNLIKELY(units_serve_better(&h->classes[index], size)))
        return -1;
    if (PH_LIKELY(align <= PH_GRANULE))
        return index;
    for (; index < (int)h->nclasses; index++)
        if (h->classes[index].granules * PH_GRANULE % align == 0)
            return index;
    return -1;
}

/* Mark the blocks `bits` of the current word of a class as live. */
static inline void claim(struct ph_heap *h, struct ph_class *c, uint64_t bits, uint32_t count, uint64_t size)
{
    c->mask ^= bits;
    ph_store(h, &h->bits[c->word], h->bits[c->word] | bits);
    struct ph_unit *run = ph_unit_at(h, c->current);
    run->u.run.live = (uint16_t)(run->u.run.live + count);
    c->live += count;
    c->mallocs += count;
    c->requested += size * count;
}

static inline uint64_t offset_of_bit(uint64_t word, uint64_t bit)
{
    return (word << 6 | (uint64_t)__builtin_ctzll(bit)) << PH_GRANULE_SHIFT;
}

int64_t ph_malloc_small(struct ph_heap *h, uint32_t class_index, uint64_t size)
{
    struct ph_class *c = &h->classes[class_index];
    if (PH_UNLIKELY(c->mask == 0)) {
        int refill = ph_class_refill(h, c);
        if (refill < 0)
            return refill;
    }
    uint64_t bit = c->mask & -c->mask;
    claim(h, c, bit, 1, size);
    return (int64_t)offset_of_bit(c->word, bit);
}

/* Up to `count` blocks of a class into `offsets`, a word of the bits table at a time; how many there were. */
static uint64_t malloc_small_many(struct ph_heap *h, uint32_t class_index, uint64_t size, uint64_t count, uint64_t *offsets)
{
    struct ph_class *c = &h->classes[class_index];
    uint64_t done = 0;
    while (done < count && (c->mask != 0 || ph_class_refill(h, c) == 0)) {
        uint64_t rest = c->mask, before = done;
        for (; rest != 0 && done < count; rest &= rest - 1)
            offsets[done++] = offset_of_bit(c->word, rest & -rest);
        claim(h, c, c->mask & ~rest, (uint32_t)(done - before), size);
    }
    return done;
}

/* ph_large_make -- describe `nunits` units, which belong to nobody, as one large block. */
void ph_large_make(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes)
{
    ph_large_dress(h, unit, nunits, nbytes);
    ph_entry_publish(h, unit, ph_entry_word(PH_KIND_LARGE, 0, (uint32_t)nunits), nbytes);
}

void ph_large_dress(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes)
{
    struct ph_unit *head = &h->units[unit];
    head->state = PH_U_LARGE;
    head->nunits = (uint32_t)nunits;
    head->u.nbytes = nbytes;
    head->marked = 0;
    h->large_units += nunits;
    h->large_bytes += nbytes;
    h->large_blocks++;
}

static void large_undress(struct ph_heap *h, uint64_t unit)
{
    struct ph_unit *head = &h->units[unit];
    ph_entry_withdraw(h, unit);
    head->state = PH_U_OTHER;
    h->large_units -= head->nunits;
    h->large_bytes -= head->u.nbytes;
    h->large_blocks--;
}

static void large_resize(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes)
{
    struct ph_unit *head = &h->units[unit];
    h->large_units += nunits - head->nunits;
    h->large_bytes += nbytes - head->u.nbytes;
    head->nunits = (uint32_t)nunits;
    head->u.nbytes = nbytes;
    ph_entry_publish(h, unit, ph_entry_word(PH_KIND_LARGE, 0, (uint32_t)nunits), nbytes);
}

int64_t ph_malloc(struct ph_heap *h, uint64_t size, uint64_t align)
{
    int index = ph_class_of(h, size, align);
    if (PH_LIKELY(index >= 0))
        return ph_malloc_small(h, (uint32_t)index, size);
    uint64_t nunits = units_for(size);
    if (align > PH_UNIT_BYTES)
        return PH_H_LARGE;
    int64_t unit = nunits <= PH_POOL_MAX ? ph_pool_take(h, nunits) : ph_limbo_take(h, nunits);
    if (unit < 0)
        return unit;
    ph_large_make(h, (uint64_t)unit, nunits, size);
    return unit << PH_UNIT_SHIFT;
}

/* Units go back to whom their number belongs: the pool, or limbo, where Python takes them from. */
static void give_back(struct ph_heap *h, uint64_t unit, uint64_t nunits)
{
    h->freed_units += nunits;
    if (nunits <= PH_POOL_MAX) {
        ph_pool_give(h, unit, nunits);
        return;
    }
    struct ph_unit *head = &h->units[unit];
    head->state = PH_U_LIMBO;
    head->nunits = (uint32_t)nunits;
    head->sibling = h->limbo;
    h->limbo = (uint32_t)unit;
    h->limbo_units += nunits;
    h->limbo_count++;
}

/* ph_block_at -- the record of the run or large block of which a live block begins at `offset`, else NULL. */
struct ph_unit *ph_block_at(struct ph_heap *h, uint64_t offset)
{
    uint64_t unit = offset >> PH_UNIT_SHIFT;
    if (PH_UNLIKELY(unit - h->first_unit >= h->end_unit - h->first_unit || offset % PH_GRANULE))
        return NULL;
    struct ph_unit *record = &h->units[unit];
    if (PH_UNLIKELY(record->state == PH_U_OTHER && unit >= h->known))
        ph_boot_unit(h, unit);
    if (PH_LIKELY(record->state == PH_U_RUN || record->state == PH_U_RUN_BODY)) {
        uint64_t granule = offset >> PH_GRANULE_SHIFT;
        if (!(h->bits[granule >> 6] >> (granule & 63) & 1))
            return NULL;
        return record->state == PH_U_RUN ? record : record - record->back;
    }
    return record->state == PH_U_LARGE && offset % PH_UNIT_BYTES == 0 ? record : NULL;
}

/* Free a block that is known to be live, unviewed and without a mark. */
void ph_block_free(struct ph_heap *h, uint64_t offset, struct ph_unit *record)
{
    if (PH_LIKELY(record->state == PH_U_RUN)) {
        uint64_t granule = offset >> PH_GRANULE_SHIFT;
        uint64_t *word = &h->bits[granule >> 6];
        ph_store(h, word, *word & ~(1ULL << (granule & 63)));
        ph_run_freed(h, (uint64_t)(record - h->units), granule >> 6, 1ULL << (granule & 63));
        return;
    }
    uint64_t unit = (uint64_t)(record - h->units), nunits = record->nunits;
    large_undress(h, unit);
    give_back(h, unit, nunits);
}

/* ph_free_refusal -- how ph_free would fail, 0 if it would not. */
int ph_free_refusal(struct ph_heap *h, uint64_t offset)
{
    const struct ph_unit *record = ph_block_at(h, offset);
    if (record == NULL)
        return PH_H_BAD_OFFSET;
    return ph_is_marked(record) ? ph_mark_refusal(h, offset) : 0;
}

int ph_free(struct ph_heap *h, uint64_t offset)
{
    struct ph_unit *record = ph_block_at(h, offset);
    if (PH_UNLIKELY(record == NULL))
        return PH_H_BAD_OFFSET;
    if (PH_UNLIKELY(ph_is_marked(record))) {
        int refused = ph_mark_refusal(h, offset);
        if (refused < 0)
            return refused;
        ph_mark_forget(h, offset);
    }
    ph_block_free(h, offset, record);
    return 0;
}

static uint64_t capacity_of(const struct ph_heap *h, const struct ph_unit *record)
{
    return record->state == PH_U_RUN ? h->classes[record->class_index].granules * PH_GRANULE
                                     : (uint64_t)record->nunits << PH_UNIT_SHIFT;
}

/* The same as ph_block_at for who does not look at marks: NULL as well where a free waits for the last view. */
static struct ph_unit *block_in_use(struct ph_heap *h, uint64_t offset)
{
    struct ph_unit *record = ph_block_at(h, offset);
    if (record == NULL || !ph_is_marked(record))
        return record;
    return ph_mark_refusal(h, offset) == PH_H_BAD_OFFSET ? NULL : record;
}

int64_t ph_usable_size(struct ph_heap *h, uint64_t offset)
{
    const struct ph_unit *record = block_in_use(h, offset);
    return record == NULL ? PH_H_BAD_OFFSET : (int64_t)capacity_of(h, record);
}

/* Room for a block that moves because it grew. What outgrows 2 KiB tends to go on: it gets whole units. */
static int64_t take_for_move(struct ph_heap *h, uint64_t size, int grows)
{
    int index = ph_class_of(h, size, PH_GRANULE);
    if (index >= 0 && (!grows || size <= PH_GROWING))
        return ph_malloc_small(h, (uint32_t)index, size);
    uint64_t nunits = units_for(size);
    if (nunits > PH_POOL_MAX)
        return PH_H_LARGE;
    int64_t unit = grows ? ph_pool_take_growing(h, nunits) : ph_pool_take(h, nunits);
    if (unit < 0)
        return unit;
    ph_large_make(h, (uint64_t)unit, nunits, size);
    return unit << PH_UNIT_SHIFT;
}

static int64_t move(struct ph_heap *h, uint64_t offset, struct ph_unit *record, uint64_t size)
{
    uint64_t old_size = record->state == PH_U_LARGE ? record->u.nbytes : capacity_of(h, record);
    uint64_t held = capacity_of(h, record); /* all that a view of the block shows */
    int64_t to = take_for_move(h, size, size > old_size);
    if (to < 0)
        return to;
    memcpy(h->data + to, h->data + offset, held < size ? held : size);
    ph_mark_forget(h, offset);
    ph_block_free(h, offset, record);
    return to;
}

/* Grow a large block in place over the free units behind it. */
static int grow_up(struct ph_heap *h, uint64_t unit, uint64_t more, uint64_t nbytes)
{
    uint64_t have = h->units[unit].nunits;
    if (ph_room_after(h, unit + have) < more)
        return 0;
    ph_pool_take_after(h, unit + have, more);
    large_resize(h, unit, have + more, nbytes);
    return 1;
}

/* Grow a large block over free units in front of it and behind it; its bytes move down. */
static int64_t grow_down(struct ph_heap *h, uint64_t unit, uint64_t more, uint64_t nbytes)
{
    uint64_t have = h->units[unit].nunits, held = have << PH_UNIT_SHIFT;
    uint64_t after = ph_room_after(h, unit + have), before = ph_pool_room_before(h, unit);
    if (before + after < more)
        return PH_H_MOVE;
    uint64_t to = unit - (more - after);
    if (after)
        ph_pool_take_after(h, unit + have, after);
    ph_pool_take_before(h, unit, more - after);
    memmove(h->data + (to << PH_UNIT_SHIFT), h->data + (unit << PH_UNIT_SHIFT), held);
    ph_mark_forget(h, unit << PH_UNIT_SHIFT);
    large_undress(h, unit);
    ph_large_make(h, to, have + more, nbytes);
    return (int64_t)(to << PH_UNIT_SHIFT);
}

static void shrink_large(struct ph_heap *h, uint64_t unit, uint64_t nunits, uint64_t nbytes)
{
    uint64_t have = h->units[unit].nunits;
    large_resize(h, unit, nunits, nbytes);
    if (nunits < have)
        give_back(h, unit + nunits, have - nunits);
}

static int64_t realloc_run(struct ph_heap *h, uint64_t offset, struct ph_unit *record, uint64_t size, int pinned)
{
    uint64_t capacity = capacity_of(h, record);
    if (ph_class_of(h, size, PH_GRANULE) == record->class_index)
        return (int64_t)offset;
    if (pinned)
        return size <= capacity ? (int64_t)offset : PH_H_PINNED;
    int64_t to = move(h, offset, record, size);
    return to < 0 && size <= capacity ? (int64_t)offset : to; /* a shrink never fails */
}

static int64_t realloc_large(struct ph_heap *h, uint64_t offset, struct ph_unit *record, uint64_t size, int pinned)
{
    uint64_t unit = offset >> PH_UNIT_SHIFT, nunits = units_for(size), have = record->nunits;
    if (nunits > have) {
        if (nunits > UINT32_MAX)
            return PH_H_LARGE;
        if (grow_up(h, unit, nunits - have, size))
            return (int64_t)offset;
        if (nunits > PH_POOL_MAX)
            return PH_H_UPSTREAM;
        if (pinned)
            return PH_H_PINNED;
        int64_t to = grow_down(h, unit, nunits - have, size);
        return to == PH_H_MOVE ? move(h, offset, record, size) : to;
    }
    if (pinned)
        return (int64_t)offset;
    if (size <= PH_GROWING && ph_class_of(h, size, PH_GRANULE) >= 0) {
        int64_t to = move(h, offset, record, size);
        if (to >= 0)
            return to;
    }
    shrink_large(h, unit, nunits, size);
    return (int64_t)offset;
}

/* ph_realloc -- the new offset of the block, or a failure with nothing changed. PH_H_UPSTREAM and PH_H_LARGE
 * ask for the extents; a viewed block stays where it is or is refused. */
int64_t ph_realloc(struct ph_heap *h, uint64_t offset, uint64_t size)
{
    struct ph_unit *record = ph_block_at(h, offset);
    if (record == NULL)
        return PH_H_BAD_OFFSET;
    int refused = PH_UNLIKELY(ph_is_marked(record)) ? ph_mark_refusal(h, offset) : 0;
    if (refused == PH_H_BAD_OFFSET)
        return refused;
    int pinned = refused == PH_H_PINNED;
    return record->state == PH_U_RUN ? realloc_run(h, offset, record, size, pinned)
                                     : realloc_large(h, offset, record, size, pinned);
}

/* ph_expand -- make the block hold `size` bytes where it is. 0 = done. */
int ph_expand(struct ph_heap *h, uint64_t offset, uint64_t size)
{
    struct ph_unit *record = block_in_use(h, offset);
    if (record == NULL)
        return PH_H_BAD_OFFSET;
    if (record->state == PH_U_RUN)
        return size <= capacity_of(h, record) ? 0 : PH_H_MOVE;
    uint64_t unit = offset >> PH_UNIT_SHIFT, nunits = units_for(size);
    if (nunits > record->nunits) {
        if (nunits > UINT32_MAX)
            return PH_H_MOVE;
        return grow_up(h, unit, nunits - record->nunits, size) ? 0 : PH_H_UPSTREAM;
    }
    if (size > record->u.nbytes)
        large_resize(h, unit, record->nunits, size);
    return 0;
}

/* ph_large_extend -- after PH_H_UPSTREAM: the pool's units behind the block and [start, stop), which the caller
 * has taken from the extents, become part of the block. 0, with nothing changed, when the block was freed while the
 * caller took them, or the pool does not reach from it to `start` any more. */
int ph_large_extend(struct ph_heap *h, uint64_t offset, uint64_t start, uint64_t stop, uint64_t nbytes)
{
    const struct ph_unit *record = ph_block_at(h, offset);
    if (record == NULL || record->state != PH_U_LARGE)
        return 0;
    uint64_t unit = offset >> PH_UNIT_SHIFT, end = unit + record->nunits, after = ph_room_after(h, end);
    if (end + after != start)
        return 0;
    if (after)
        ph_pool_take_after(h, end, after);
    large_resize(h, unit, stop - unit, nbytes);
    return 1;
}

/* ph_move_into -- the bytes of a block go to the large block at `to`, up to `size` of them, and it is freed. A
 * refusal as of ph_free, with nothing changed. */
int ph_move_into(struct ph_heap *h, uint64_t offset, uint64_t to, uint64_t size)
{
    int refused = ph_free_refusal(h, offset);
    if (refused < 0)
        return refused;
    uint64_t capacity = capacity_of(h, ph_block_at(h, offset));
    memcpy(h->data + to, h->data + offset, capacity < size ? capacity : size);
    return ph_free(h, offset);
}

/* ph_malloc_many -- up to `count` blocks of one size; how many there were before the core needed help. */
uint64_t ph_malloc_many(struct ph_heap *h, uint64_t size, uint64_t count, uint64_t *offsets)
{
    int index = ph_class_of(h, size, PH_GRANULE);
    if (index >= 0)
        return malloc_small_many(h, (uint32_t)index, size, count, offsets);
    uint64_t done = 0;
    for (int64_t offset; done < count && (offset = ph_malloc(h, size, PH_GRANULE)) >= 0; done++)
        offsets[done] = (uint64_t)offset;
    return done;
}

/* The leading offsets of a batch whose bits stand in one word of the bits table: their number, and the bits.
 * An offset that is no multiple of a granule, or repeats one, ends the group. */
static uint64_t same_word(const uint64_t *offsets, uint64_t count, uint64_t *bits)
{
    uint64_t word = offsets[0] >> (PH_GRANULE_SHIFT + 6), i = 0;
    *bits = 0;
    for (; i < count && offsets[i] >> (PH_GRANULE_SHIFT + 6) == word && offsets[i] % PH_GRANULE == 0; i++) {
        uint64_t bit = 1ULL << (offsets[i] >> PH_GRANULE_SHIFT & 63);
        if (*bits & bit)
            break;
        *bits |= bit;
    }
    return i;
}

/* The unmarked run in which all of a group of one word are live blocks, else NULL. */
static struct ph_unit *run_of_group(struct ph_heap *h, uint64_t offset, uint64_t bits)
{
    struct ph_unit *record = ph_block_at(h, offset);
    if (record == NULL || record->state != PH_U_RUN || ph_is_marked(record))
        return NULL;
    return bits & ~h->bits[offset >> (PH_GRANULE_SHIFT + 6)] ? NULL : record;
}

/* ph_first_refused -- index of the first offset of a batch that ph_free would refuse; `count` if none. That no
 * offset stands there twice is the caller's to see. */
uint64_t ph_first_refused(struct ph_heap *h, const uint64_t *offsets, uint64_t count)
{
    for (uint64_t i = 0, bits; i < count;) {
        uint64_t group = same_word(offsets + i, count - i, &bits);
        if (group > 1 && run_of_group(h, offsets[i], bits) != NULL) {
            i += group;
            continue;
        }
        if (ph_free_refusal(h, offsets[i]) < 0)
            return i;
        i++;
    }
    return count;
}

/* ph_free_many -- free a batch in which there is nothing to refuse. */
int ph_free_many(struct ph_heap *h, const uint64_t *offsets, uint64_t count)
{
    for (uint64_t i = 0, bits; i < count;) {
        uint64_t group = same_word(offsets + i, count - i, &bits);
        struct ph_unit *run = group > 1 ? run_of_group(h, offsets[i], bits) : NULL;
        if (run == NULL) {
            ph_free(h, offsets[i++]);
            continue;
        }
        uint64_t word = offsets[i] >> (PH_GRANULE_SHIFT + 6);
        ph_store(h, &h->bits[word], h->bits[word] & ~bits);
        ph_run_freed(h, (uint64_t)(run - h->units), word, bits);
        i += group;
    }
    return 0;
}

void ph_record(struct ph_recorder *recorder, uint64_t *at, uint64_t value)
{
    if (recorder->count < recorder->capacity)
        recorder->events[recorder->count] = (struct ph_store_event){(uint64_t)(uintptr_t)at, *at, value};
    recorder->count++;
}
