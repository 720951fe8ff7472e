/* os/tape_record.c -- what a tape records: the events, and a copy of its file as they make it.
 *
 *     file   ......x.....          x: stored by a user, through a view: nobody told
 *     copy   ............          looking around finds it, appends a FOUND event and changes the copy
 *
 * The file is seen through a map of the tape's own, in pieces of a page, so no store can hide.
 */
#include "os/tape_record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define SECTOR 512u

/* ---------------------------------------------------------------- the events */

void *ph_tape_grown(struct ph_tape *t, void *old, uint64_t *room, uint64_t wanted, size_t size)
{
    uint64_t more = *room;
    void *got;

    if (wanted <= *room)
        return old;
    while (more < wanted)
        more = more ? 2 * more : 64;
    got = realloc(old, (size_t)more * size);
    if (got == NULL)
        t->error = ENOMEM;
    else
        *room = more;
    return got;
}

void ph_tape_append(struct ph_tape *t, const struct ph_tape_event *event, const void *bytes)
{
    void *got;

    if (t->fd < 0 || t->error)
        return;
    got = ph_tape_grown(t, t->events, &t->room, t->count + 1, sizeof *t->events);
    if (got == NULL)
        return;
    t->events = got;
    if (bytes != NULL && event->length) {
        got = ph_tape_grown(t, t->payload, &t->payload_room, t->used + event->length, 1);
        if (got == NULL)
            return;
        t->payload = got;
        memcpy(t->payload + t->used, bytes, (size_t)event->length);
    }
    t->events[t->count] = *event;
    t->events[t->count].step = t->steps;
    t->events[t->count].payload = t->used;
    t->count++;
    if (bytes != NULL)
        t->used += event->length;
}

/* ---------------------------------------------------------------- the copy */

static void resize(struct ph_tape *t, uint64_t size)
{
    unsigned char *got;

    if (size == t->size)
        return;
    got = realloc(t->copy, size ? (size_t)size : 1);
    if (got == NULL) {
        t->error = ENOMEM;
        return;
    }
    if (size > t->size)
        memset(got + t->size, 0, (size_t)(size - t->size));
    t->copy = got;
    t->size = size;
}

static void zero(struct ph_tape *t, uint64_t offset, uint64_t length)
{
    if (offset >= t->size)
        return;
    if (length > t->size - offset)
        length = t->size - offset;
    memset(t->copy + offset, 0, (size_t)length);
}

void ph_tape_change(struct ph_tape *t, const struct ph_tape_event *event, const void *bytes)
{
    uint64_t stop = event->offset + event->length;

    ph_tape_append(t, event, bytes);
    if (t->fd < 0)
        return;
    if (event->kind == PH_TAPE_TRUNCATE) {
        resize(t, event->length);
    } else if (event->kind == PH_TAPE_ALLOCATE) {
        if (event->detail == PH_ALLOCATE_EXTEND && stop > t->size)
            resize(t, stop);
        if (event->detail == PH_ALLOCATE_PUNCH_HOLE || event->detail == PH_ALLOCATE_ZERO_RANGE)
            zero(t, event->offset, event->length);
    } else {
        if (stop > t->size)
            resize(t, stop);
        if (!t->error)
            memcpy(t->copy + event->offset, bytes, (size_t)event->length);
    }
}

/* See all of the file: its last page as well, which it may fill in part. */
static void look_far(struct ph_tape *t, uint64_t size)
{
    void *got;

    if (size <= t->view_length)
        return;
    size = (size + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    if (t->view != NULL)
        munmap(t->view, (size_t)t->view_length);
    got = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, t->fd, 0);
    t->view = got == MAP_FAILED ? NULL : got;
    t->view_length = got == MAP_FAILED ? 0 : size;
    if (got == MAP_FAILED)
        t->error = errno;
}

static void found(struct ph_tape *t, uint64_t offset, uint64_t length)
{
    struct ph_tape_event event = {.kind = PH_TAPE_FOUND, .begin = t->count, .offset = offset, .length = length};

    memcpy(t->copy + offset, t->view + offset, (size_t)length);
    ph_tape_append(t, &event, t->copy + offset);
}

/* Report what has changed in a sector: the lines from the first that did to the last one, in one piece each. */
static void search_sector(struct ph_tape *t, uint64_t sector, uint64_t stop)
{
    uint64_t line, begin = UINT64_MAX;

    for (line = sector; line < stop; line += LINE) {
        uint64_t length = stop - line < LINE ? stop - line : LINE;
        int differs = memcmp(t->copy + line, t->view + line, (size_t)length) != 0;

        if (differs && begin == UINT64_MAX)
            begin = line;
        if (!differs && begin != UINT64_MAX) {
            found(t, begin, line - begin);
            begin = UINT64_MAX;
        }
    }
    if (begin != UINT64_MAX)
        found(t, begin, stop - begin);
}

static void search_page(struct ph_tape *t, uint64_t page)
{
    uint64_t stop = t->size - page < PAGE ? t->size : page + PAGE;
    uint64_t sector;

    if (memcmp(t->copy + page, t->view + page, (size_t)(stop - page)) == 0)
        return;
    for (sector = page; sector < stop; sector += SECTOR)
        search_sector(t, sector, stop - sector < SECTOR ? stop : sector + SECTOR);
}

void ph_tape_look_around(struct ph_tape *t)
{
    struct stat st;
    uint64_t page;

    if (t->fd < 0 || t->error)
        return;
    if (fstat(t->fd, &st) < 0) {
        t->error = errno;
        return;
    }
    if ((uint64_t)st.st_size != t->size) {
        struct ph_tape_event event = {.kind = PH_TAPE_TRUNCATE, .begin = t->count, .length = (uint64_t)st.st_size};
        ph_tape_change(t, &event, NULL);
    }
    look_far(t, t->size);
    for (page = 0; page < t->size && !t->error; page += PAGE)
        search_page(t, page);
}

void ph_tape_take_copy(struct ph_tape *t, uint64_t size)
{
    resize(t, size);
    look_far(t, size);
    if (!t->error && size)
        memcpy(t->copy, t->view, (size_t)size);
}
