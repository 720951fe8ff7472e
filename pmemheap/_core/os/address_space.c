/* os/address_space.c -- who has which addresses, and what becomes of headroom that somebody else needs.
 *
 *     range a                               range b
 *       | shown  | headroom     |             | shown       |
 *    ...+--------+--------------+.............+-------------+...
 *                     [-- a request that names these --]
 *
 * Headroom is a wish: it is asked for again at half the size until it can be had, and it gives way to a request that
 * cannot be met otherwise. A request that something else stands in the way of costs nobody anything:
 *
 *   - Addresses that are named: first the gaps between headrooms are reserved. When the kernel has given all of them,
 *     the headroom in between changes its owner by a change of two borders; nothing is unmapped, nothing given back.
 *   - Any addresses: the tail of one headroom that is large enough changes its owner in the same way.
 *   - A limit on the address space (RLIMIT_AS) that no single headroom makes up for: headroom is unmapped, as much as is
 *     missing, and only if there is that much. Should the call fail all the same, it goes back at once.
 *
 * Nothing but `end` of another range is ever changed.
 */
#include "os/address_space.h"
#include "base/checked.h"
#include "os/file_table.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#define ALIGNED_TRIES 16

static struct ph_range *ranges;    /* all that are owned */
static struct ph_range *leftovers; /* [start, end) of each is to be unmapped */

/* ---------------------------------------------------------------- lists */

static void list(struct ph_range **head, struct ph_range *range)
{
    range->previous = NULL;
    range->next = *head;
    if (*head != NULL)
        (*head)->previous = range;
    *head = range;
    range->listed = 1;
}

static void unlist(struct ph_range **head, struct ph_range *range)
{
    if (range->previous != NULL)
        range->previous->next = range->next;
    else
        *head = range->next;
    if (range->next != NULL)
        range->next->previous = range->previous;
    range->listed = 0;
}

struct ph_range *ph_leftovers(void)
{
    return leftovers;
}

void ph_leave_over(struct ph_range *range)
{
    unlist(&ranges, range);
    list(&leftovers, range);
}

void ph_forget_leftover(struct ph_range *range)
{
    unlist(&leftovers, range);
    free(range);
}

/* Unmap a range that nobody owns, now or later. */
static void let_go(uint64_t start, uint64_t length)
{
    struct ph_range *rest;

    if (length == 0 || ph_unreserve(start, length) >= 0)
        return;
    rest = calloc(1, sizeof(*rest));
    if (rest == NULL)
        return;
    rest->start = start;
    rest->stop = rest->end = start + length;
    list(&leftovers, rest);
}

/* ---------------------------------------------------------------- headroom */

static uint64_t headroom_of(const struct ph_range *range)
{
    return range->end - range->stop;
}

static uint64_t half(uint64_t headroom)
{
    return headroom / 2 / PH_PAGE * PH_PAGE;
}

/* Reserve `wish` bytes behind a range, or half of it, and so on. */
static void add_headroom(struct ph_range *range, uint64_t wish)
{
    for (; wish != 0; wish = half(wish)) {
        if (ph_reserve(range->end, wish) < 0)
            continue;
        range->end += wish;
        return;
    }
}

/* Give headroom beyond `keep` bytes back. If the kernel refuses, it stays headroom. */
static void trim_headroom(struct ph_range *range, uint64_t keep)
{
    uint64_t surplus = headroom_of(range) > keep ? headroom_of(range) - keep : 0;

    if (surplus != 0 && ph_unreserve(range->end - surplus, surplus) >= 0)
        range->end -= surplus;
}

/* Return the range whose headroom has the lowest address in [at, stop), and where it begins there; NULL if none has. */
static struct ph_range *headroom_in(uint64_t at, uint64_t stop, const struct ph_range *asker, uint64_t *begin)
{
    struct ph_range *found = NULL;

    *begin = stop;
    for (struct ph_range *each = ranges; each != NULL; each = each->next) {
        uint64_t first = each->stop > at ? each->stop : at;
        if (each == asker || first >= each->end || first >= *begin)
            continue;
        found = each;
        *begin = first;
    }
    return found;
}

static int is_shown(uint64_t start, uint64_t stop, const struct ph_range *asker)
{
    for (const struct ph_range *each = ranges; each != NULL; each = each->next)
        if (each != asker && each->start < stop && start < each->stop)
            return 1;
    return 0;
}

enum walk { RESERVE, UNDO, LOOK };

/* Reserve a gap, unmap it again, or only look whether it is free: the kernel says so before it looks at a limit. */
static int64_t at_gap(enum walk what, uint64_t start, uint64_t length)
{
    int64_t result;

    if (what == UNDO) {
        let_go(start, length);
        return 0;
    }
    result = ph_reserve(start, length);
    if (what == RESERVE)
        return result;
    if (result >= 0)
        let_go(start, length);
    return result == -EEXIST ? result : 0;
}

/* Walk the parts of [start, stop) that are nobody's headroom. Returns where it was stopped, by *error. */
static uint64_t walk_gaps(enum walk what, uint64_t start, uint64_t stop, const struct ph_range *asker, int64_t *error)
{
    uint64_t at = start, begin;

    while (at < stop) {
        const struct ph_range *room = headroom_in(at, stop, asker, &begin);
        *error = begin > at ? at_gap(what, at, begin - at) : 0;
        if (*error < 0)
            return at;
        at = room == NULL || room->end >= stop ? stop : room->end;
    }
    *error = 0;
    return stop;
}

/* Reserve what of [start, stop) is nobody's headroom; all or nothing. -ENOMEM only if all of it is free. */
static int64_t fill_gaps(uint64_t start, uint64_t stop, const struct ph_range *asker)
{
    int64_t error, other;
    uint64_t came = walk_gaps(RESERVE, start, stop, asker, &error);

    if (error >= 0)
        return 0;
    walk_gaps(UNDO, start, came, asker, &other);
    if (error == -ENOMEM)
        walk_gaps(LOOK, came, stop, asker, &other);
    return other < 0 ? other : error;
}

/* Make the headroom of others in [start, stop) the caller's. Returns the end of what is the caller's now: the last one's
 * headroom behind `stop` goes along. */
static uint64_t take_headroom(uint64_t start, uint64_t stop, const struct ph_range *asker)
{
    uint64_t end = stop, begin;
    struct ph_range *room;

    while ((room = headroom_in(start, stop, asker, &begin)) != NULL) {
        if (room->end > end)
            end = room->end;
        room->end = begin;
    }
    return end;
}

/* Take exactly [start, stop); *end is the end of what was taken. */
static int64_t take(uint64_t start, uint64_t stop, const struct ph_range *asker, uint64_t *end)
{
    uint64_t begin;
    int64_t result = ph_reserve(start, stop - start);

    *end = stop;
    if (result != -EEXIST || is_shown(start, stop, asker) || headroom_in(start, stop, asker, &begin) == NULL)
        return result;
    result = fill_gaps(start, stop, asker);
    if (result < 0)
        return result;
    *end = take_headroom(start, stop, asker);
    return 0;
}

/* ---------------------------------------------------------------- a limit on the address space */

static struct ph_range *largest_headroom(const struct ph_range *asker, uint64_t start, uint64_t stop)
{
    struct ph_range *found = NULL;

    for (struct ph_range *each = ranges; each != NULL; each = each->next) {
        if (each == asker || each->lent || (each->stop < stop && start < each->end))
            continue;
        if (headroom_of(each) > (found == NULL ? 0 : headroom_of(found)))
            found = each;
    }
    return found;
}

static void restore_lent(void)
{
    for (struct ph_range *each = ranges; each != NULL; each = each->next) {
        add_headroom(each, each->lent);
        each->lent = 0;
    }
}

static void keep_lent(void)
{
    for (struct ph_range *each = ranges; each != NULL; each = each->next)
        each->lent = 0;
}

static uint64_t all_headroom(const struct ph_range *asker, uint64_t start, uint64_t stop)
{
    uint64_t sum = 0;

    for (const struct ph_range *each = ranges; each != NULL; each = each->next)
        if (each != asker && !(each->stop < stop && start < each->end))
            sum += headroom_of(each);
    return sum;
}

/* Have others give up as much headroom outside of [start, stop) as is missing where `needed` bytes are asked for and
 * `left` are left. Returns 1 if that was done: 0 where the limit is not the reason, or there is not as much. */
static int lend(uint64_t needed, uint64_t left, const struct ph_range *asker, uint64_t start, uint64_t stop)
{
    struct ph_range *each;
    uint64_t missing = needed > left ? needed - left : 0;

    if (missing == 0 || all_headroom(asker, start, stop) < missing)
        return 0;
    while (missing != 0 && (each = largest_headroom(asker, start, stop)) != NULL) {
        uint64_t part = headroom_of(each) < missing ? headroom_of(each) : missing;
        if (ph_unreserve(each->end - part, part) < 0)
            break;
        each->end -= part;
        each->lent = part;
        missing -= part;
    }
    if (missing == 0)
        return 1;
    restore_lent();
    return 0;
}

/* Return how many bytes of [start, stop) are nobody's headroom. */
static uint64_t gap_bytes(uint64_t start, uint64_t stop, const struct ph_range *asker)
{
    uint64_t sum = stop - start;

    for (const struct ph_range *each = ranges; each != NULL; each = each->next) {
        uint64_t low = each->stop > start ? each->stop : start, high = each->end < stop ? each->end : stop;
        if (each != asker && low < high)
            sum -= high - low;
    }
    return sum;
}

static int64_t take_or_lend(uint64_t start, uint64_t stop, const struct ph_range *asker, uint64_t left, uint64_t *end)
{
    int64_t result = take(start, stop, asker, end);

    if (result != -ENOMEM || stop < start || is_shown(start, stop, asker))
        return result;
    if (!lend(gap_bytes(start, stop, asker), left, asker, start, stop))
        return result;
    result = take(start, stop, asker, end);
    result < 0 ? restore_lent() : keep_lent();
    return result;
}

/* ---------------------------------------------------------------- anywhere */

/* Nothing of a file is mapped in what is shown from now on: what the table of files says of it is left over of a map that
 * was refused when it was another's headroom. */
static void show(struct ph_range *range, uint64_t start, uint64_t size, uint64_t end)
{
    ph_files_unmapped(start, size);
    range->start = start;
    range->stop = start + size;
    range->end = end;
}

static uint64_t align_down(uint64_t address, const struct ph_wish *wish)
{
    return address - (address - wish->skew) % wish->alignment;
}

/* Near where the kernel would put one: a limit may leave no slack for more. */
static int64_t place_without_slack(const struct ph_wish *wish, uint64_t length)
{
    int64_t result, probe = ph_reserve(0, length);
    uint64_t at;

    if (probe < 0 || align_down((uint64_t)probe, wish) == (uint64_t)probe)
        return probe;
    let_go((uint64_t)probe, length);
    at = align_down((uint64_t)probe, wish);
    for (int tries = 0; tries < ALIGNED_TRIES && at >= PH_PAGE && at <= (uint64_t)probe; tries++) {
        result = ph_reserve(at, length);
        if (result != -EEXIST)
            return result;
        at -= wish->alignment;
    }
    return -ENOMEM;
}

static int64_t place_with_slack(const struct ph_wish *wish, uint64_t length, uint64_t slack)
{
    int64_t got = ph_reserve(0, length + slack);
    uint64_t start;

    if (got < 0 || slack == 0)
        return got;
    start = align_down((uint64_t)got + slack, wish);
    let_go((uint64_t)got, start - (uint64_t)got);
    let_go(start + length, (uint64_t)got + slack - start);
    return (int64_t)start;
}

static int64_t place(struct ph_range *range, const struct ph_wish *wish, uint64_t headroom)
{
    uint64_t length = wish->size + headroom, slack = wish->alignment - PH_PAGE;
    int64_t got = -ENOMEM;

    if (length < headroom)
        return got;
    if (length + slack >= length)
        got = place_with_slack(wish, length, slack);
    if (got == -ENOMEM && slack != 0)
        got = place_without_slack(wish, length);
    if (got >= 0)
        show(range, (uint64_t)got, wish->size, (uint64_t)got + length);
    return got < 0 ? got : 0;
}

/* Where a range of that size would begin at the end of a headroom; 0 where there is no room. */
static uint64_t start_in_headroom(const struct ph_range *range, const struct ph_wish *wish)
{
    uint64_t start;

    if (headroom_of(range) < wish->size)
        return 0;
    start = align_down(range->end - wish->size, wish);
    return start >= range->stop && start <= range->end - wish->size ? start : 0;
}

/* Be the tail of the largest headroom that is large enough. */
static int64_t move_in(struct ph_range *range, const struct ph_wish *wish)
{
    struct ph_range *from = NULL;

    for (struct ph_range *each = ranges; each != NULL; each = each->next)
        if (start_in_headroom(each, wish) && headroom_of(each) > (from == NULL ? 0 : headroom_of(from)))
            from = each;
    if (from == NULL)
        return -ENOMEM;
    show(range, start_in_headroom(from, wish), wish->size, from->end);
    from->end = range->start;
    trim_headroom(range, wish->headroom);
    return 0;
}

static int64_t make_anywhere(struct ph_range *range, const struct ph_wish *wish, uint64_t left)
{
    uint64_t headroom = wish->headroom;
    int64_t result;

    while ((result = place(range, wish, headroom)) < 0 && headroom != 0)
        headroom = half(headroom);
    if (result == -ENOMEM)
        result = move_in(range, wish);
    if (result == -ENOMEM && lend(wish->size, left, NULL, 0, 0)) {
        result = place(range, wish, 0);
        result < 0 ? restore_lent() : keep_lent();
    }
    return result;
}

static int64_t make_at(struct ph_range *range, const struct ph_wish *wish, uint64_t left)
{
    uint64_t end;
    int64_t result = take_or_lend(wish->address, wish->address + wish->size, NULL, left, &end);

    if (result < 0)
        return result;
    show(range, wish->address, wish->size, end);
    trim_headroom(range, wish->headroom);
    if (headroom_of(range) < wish->headroom)
        add_headroom(range, wish->headroom - headroom_of(range));
    return 0;
}

/* ---------------------------------------------------------------- one range */

int64_t ph_range_make(struct ph_range *range, const struct ph_wish *wish, uint64_t left)
{
    int64_t result = wish->address != 0 ? make_at(range, wish, left) : make_anywhere(range, wish, left);

    if (result >= 0)
        list(&ranges, range);
    return result < 0 ? result : 0;
}

void ph_range_split(struct ph_range *range, struct ph_range *part, uint64_t shown, uint64_t length)
{
    PH_ASSERT(0 < shown && shown <= length && length < range->stop - range->start);
    part->start = range->start;
    part->stop = range->start + shown;
    part->end = range->start = range->start + length;
    list(&ranges, part);
}

int64_t ph_range_extend(struct ph_range *range, uint64_t length, uint64_t left)
{
    uint64_t end, rest = length > headroom_of(range) ? length - headroom_of(range) : 0;
    int64_t result;

    if (rest != 0) {
        result = take_or_lend(range->end, range->end + rest, range, left, &end);
        if (result < 0)
            return result;
        range->end = end;
    }
    ph_files_unmapped(range->stop, length);
    range->stop += length;
    if (rest != 0)
        trim_headroom(range, 0);
    return 0;
}

int64_t ph_range_cut_head(struct ph_range *range, uint64_t length)
{
    int64_t result = ph_unreserve(range->start, length);

    if (result >= 0)
        range->start += length;
    return result;
}

int64_t ph_range_cut_tail(struct ph_range *range, uint64_t length, int keep)
{
    int64_t result = keep ? 0 : ph_unreserve(range->end - length, length);

    if (result < 0)
        return result;
    range->stop -= length;
    range->end -= keep ? 0 : length;
    return 0;
}

int64_t ph_range_give_back(struct ph_range *range)
{
    int64_t result = ph_unreserve(range->start, range->end - range->start);

    if (result < 0)
        return result;
    unlist(&ranges, range);
    range->stop = range->end = range->start;
    return 0;
}
