/* os/tape.c -- what changes one file, in the order in which it happens.
 *
 *     a hook ──► take the lock ──► count, perhaps SIGKILL ──► look around ──► append the event, change the copy
 *
 *     file   ......x.....          x: stored by a user, through a view: nobody told
 *     copy   ............          looking around finds it, appends a FOUND event and changes the copy
 *
 * The copy is the file as the events make it; the file is seen through a map of the tape's own, in pieces of a page, so
 * no store can hide. The last event is the one that is about to happen.
 * Not told, as it changes no file: stores to private maps and to memory.
 */
#define _GNU_SOURCE
#include "os/tape.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096u
#define SECTOR 512u
#define LINE 64u

struct ph_tape *ph_tape;

struct ph_tape *ph_tape_state(void)
{
    return ph_tape;
}

void ph_tape_share(struct ph_tape *tape)
{
    ph_tape = tape;
}

static void take_lock(struct ph_tape *t)
{
    while (__atomic_exchange_n(&t->lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
}

static void drop_lock(struct ph_tape *t)
{
    __atomic_store_n(&t->lock, 0, __ATOMIC_RELEASE);
}

/* ---------------------------------------------------------------- the events */

/* Make room for one more element, or for `wanted` bytes; NULL and an error on the tape if there is none. */
static void *grown(struct ph_tape *t, void *old, uint64_t *room, uint64_t wanted, size_t size)
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

static void append(struct ph_tape *t, const struct ph_tape_event *event, const void *bytes)
{
    void *got;

    if (t->fd < 0 || t->error)
        return;
    got = grown(t, t->events, &t->room, t->count + 1, sizeof *t->events);
    if (got == NULL)
        return;
    t->events = got;
    if (bytes != NULL && event->length) {
        got = grown(t, t->payload, &t->payload_room, t->used + event->length, 1);
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

static void step(struct ph_tape *t)
{
    t->steps++;
    if (t->steps != t->kill_at)
        return;
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
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
    append(t, &event, t->copy + offset);
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

/* Find what nobody told: another size, other bytes. */
static void look_around(struct ph_tape *t)
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
        append(t, &event, NULL);
        resize(t, event.length);
    }
    look_far(t, t->size);
    for (page = 0; page < t->size && !t->error; page += PAGE)
        search_page(t, page);
}

/* ---------------------------------------------------------------- making and freeing */

int64_t ph_tape_make(int32_t fd, uint64_t kill_at, struct ph_tape **out)
{
    struct ph_tape *t = calloc(1, sizeof *t);
    struct stat st;
    int64_t error;

    if (t == NULL)
        return -ENOMEM;
    t->fd = -1;
    if (fstat(fd, &st) < 0 || (kill_at == 0 && (t->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0)) {
        error = errno;
        free(t);
        return -error;
    }
    t->device = st.st_dev;
    t->inode = st.st_ino;
    t->kill_at = kill_at;
    if (kill_at == 0) {
        resize(t, (uint64_t)st.st_size);
        look_far(t, t->size);
        if (!t->error && t->size)
            memcpy(t->copy, t->view, (size_t)t->size);
    }
    if (t->error) {
        error = t->error;
        ph_tape_free(t);
        return -error;
    }
    *out = t;
    return 0;
}

void ph_tape_free(struct ph_tape *t)
{
    if (t->view != NULL)
        munmap(t->view, (size_t)t->view_length);
    if (t->fd >= 0)
        close(t->fd);
    free(t->copy);
    free(t->maps);
    free(t->events);
    free(t->payload);
    free(t);
}

/* ---------------------------------------------------------------- maps */

static void add_map(struct ph_tape *t, uint64_t start, uint64_t stop, uint64_t offset)
{
    struct ph_tape_map *got;

    if (start >= stop)
        return;
    got = grown(t, t->maps, &t->map_room, t->map_count + 1, sizeof *t->maps);
    if (got == NULL)
        return;
    t->maps = got;
    t->maps[t->map_count++] = (struct ph_tape_map){start, stop, offset};
}

/* Cut a range out of the maps; what remains on its sides stays. */
static void cut_maps(struct ph_tape *t, uint64_t start, uint64_t stop)
{
    uint64_t i = 0;

    while (i < t->map_count) {
        struct ph_tape_map m = t->maps[i];
        uint64_t from = m.start > start ? m.start : start, to = m.stop < stop ? m.stop : stop;
        struct ph_tape_event event = {.kind = PH_TAPE_UNMAP, .begin = t->count};

        if (from >= to) {
            i++;
            continue;
        }
        event.offset = m.offset + (from - m.start);
        event.length = to - from;
        append(t, &event, NULL);
        t->maps[i] = t->maps[--t->map_count];
        add_map(t, m.start, from, m.offset);
        add_map(t, to, m.stop, m.offset + (to - m.start));
    }
}

void ph_tape_map(uint64_t address, uint64_t length, uint64_t offset)
{
    struct ph_tape_event event = {.kind = PH_TAPE_MAP, .offset = offset, .length = length};
    struct ph_tape *t = ph_tape;

    take_lock(t);
    look_around(t);
    cut_maps(t, address, address + length);
    event.begin = t->count;
    append(t, &event, NULL);
    add_map(t, address, address + length, offset);
    drop_lock(t);
}

void ph_tape_unmap(uint64_t address, uint64_t length)
{
    struct ph_tape *t = ph_tape;

    take_lock(t);
    look_around(t);
    cut_maps(t, address, address + length);
    drop_lock(t);
}

/* ---------------------------------------------------------------- stores */

static void store(struct ph_tape *t, uint32_t kind, uint64_t offset, const void *from, uint64_t length)
{
    struct ph_tape_event event = {.kind = kind, .begin = t->count, .offset = offset, .length = length};

    append(t, &event, from);
    if (t->fd >= 0 && offset + length > t->size)
        resize(t, offset + length);
    if (t->fd >= 0 && !t->error)
        memcpy(t->copy + offset, from, (size_t)length);
}

/* The part of a range that lies in one map, at its beginning or behind it; 0 when there is none any more. */
static uint64_t next_piece(const struct ph_tape *t, uint64_t *address, uint64_t stop, uint64_t *offset)
{
    const struct ph_tape_map *next = NULL;
    uint64_t i;

    for (i = 0; i < t->map_count; i++) {
        const struct ph_tape_map *m = &t->maps[i];
        if (m->stop > *address && m->start < stop && (next == NULL || m->start < next->start))
            next = m;
    }
    if (next == NULL)
        return 0;
    if (next->start > *address)
        *address = next->start;
    *offset = next->offset + (*address - next->start);
    return (next->stop < stop ? next->stop : stop) - *address;
}

void ph_tape_store(const void *to, const void *from, uint64_t length)
{
    uint64_t start = (uint64_t)(uintptr_t)to, stop = start + length, address = start, offset, part;
    struct ph_tape *t = ph_tape;

    take_lock(t);
    part = next_piece(t, &address, stop, &offset);
    if (part) {
        step(t);
        look_around(t);
    }
    for (; part; part = next_piece(t, &address, stop, &offset)) {
        store(t, PH_TAPE_STORE, offset, (const char *)from + (address - start), part);
        address += part;
    }
    drop_lock(t);
}

void ph_tape_note(uint32_t kind, uint64_t number)
{
    struct ph_tape_event event = {.kind = PH_TAPE_NOTE, .detail = kind, .length = number};
    struct ph_tape *t = ph_tape;

    take_lock(t);
    look_around(t);
    event.begin = t->count;
    append(t, &event, NULL);
    drop_lock(t);
}

/* Append an event of mapped memory once for each map that it meets. */
static void append_pieces(struct ph_tape *t, const struct ph_tape_event *event, uint64_t address, uint64_t stop)
{
    struct ph_tape_event piece = *event;

    while ((piece.length = next_piece(t, &address, stop, &piece.offset)) != 0) {
        append(t, &piece, NULL);
        address += piece.length;
    }
}

void ph_tape_flush(uint64_t address, uint64_t length)
{
    struct ph_tape_event event = {.kind = PH_TAPE_FLUSH};
    uint64_t start = address & ~(uint64_t)(LINE - 1), stop = (address + length + LINE - 1) & ~(uint64_t)(LINE - 1);
    struct ph_tape *t = ph_tape;

    take_lock(t);
    look_around(t);
    event.begin = t->count;
    append_pieces(t, &event, start, stop);
    t->flushed |= t->count > event.begin;
    drop_lock(t);
}

void ph_tape_fence(void)
{
    struct ph_tape_event event = {.kind = PH_TAPE_FENCE};
    struct ph_tape *t = ph_tape;

    take_lock(t);
    if (t->flushed) {
        step(t);
        look_around(t);
        t->flushed = 0;
        event.begin = t->count;
        append(t, &event, NULL);
    }
    drop_lock(t);
}

void ph_put_at(uint64_t address, const void *from, uint64_t length)
{
    ph_put((void *)(uintptr_t)address, from, length);
}

/* ---------------------------------------------------------------- system calls */

int32_t ph_tape_watches(int32_t fd)
{
    const struct ph_tape *t = ph_tape;
    struct stat st;

    return fstat(fd, &st) == 0 && st.st_dev == t->device && st.st_ino == t->inode;
}

/* The lock stays taken until the end of what others must not look into: another size, or bytes of a write. */
static uint64_t begin(struct ph_tape *t, int keep_lock)
{
    uint64_t mark;

    take_lock(t);
    step(t);
    look_around(t);
    mark = t->count + 1;
    if (!keep_lock)
        drop_lock(t);
    return mark;
}

static int keeps_lock(uint32_t kind)
{
    return kind == PH_TAPE_TRUNCATE || kind == PH_TAPE_WRITE || kind == PH_TAPE_ALLOCATE;
}

uint64_t ph_tape_begin(int32_t fd, uint32_t kind)
{
    return ph_tape_watches(fd) ? begin(ph_tape, keeps_lock(kind)) : 0;
}

uint64_t ph_tape_begin_range(uint64_t address, uint64_t length)
{
    struct ph_tape *t = ph_tape;
    uint64_t offset;

    return next_piece(t, &address, address + length, &offset) ? begin(t, 0) : 0;
}

static void zero(struct ph_tape *t, uint64_t offset, uint64_t length)
{
    if (offset >= t->size)
        return;
    if (length > t->size - offset)
        length = t->size - offset;
    memset(t->copy + offset, 0, (size_t)length);
}

static void allocated(struct ph_tape *t, const struct ph_tape_event *event)
{
    append(t, event, NULL);
    if (event->detail == PH_ALLOCATE_EXTEND && t->fd >= 0 && event->offset + event->length > t->size)
        resize(t, event->offset + event->length);
    if (event->detail == PH_ALLOCATE_PUNCH_HOLE || event->detail == PH_ALLOCATE_ZERO_RANGE)
        zero(t, event->offset, event->length);
}

/* Change the copy as a call on the file has changed the file, and tell it. */
static void called(struct ph_tape *t, const struct ph_tape_event *event, const void *bytes)
{
    if (event->kind == PH_TAPE_WRITE) {
        store(t, PH_TAPE_WRITE, event->offset, bytes, event->length);
    } else if (event->kind == PH_TAPE_ALLOCATE) {
        allocated(t, event);
    } else if (event->kind == PH_TAPE_TRUNCATE) {
        append(t, event, NULL);
        if (t->fd >= 0)
            resize(t, event->length);
    } else {
        look_around(t);
        append(t, event, NULL);
    }
}

void ph_tape_end(uint64_t mark, int64_t result, const struct ph_tape_event *event, const void *bytes)
{
    struct ph_tape_event complete = *event;
    struct ph_tape *t = ph_tape;

    if (mark == 0)
        return;
    complete.begin = mark - 1;
    if (!keeps_lock(event->kind))
        take_lock(t);
    if (result >= 0)
        called(t, &complete, bytes);
    drop_lock(t);
}

void ph_tape_end_range(uint64_t mark, int64_t result, uint32_t kind, uint64_t address, uint64_t length)
{
    struct ph_tape_event event = {.kind = kind, .begin = mark - 1};
    uint64_t stop = (address + length + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    struct ph_tape *t = ph_tape;

    if (mark == 0 || result < 0)
        return;
    take_lock(t);
    if (kind == PH_TAPE_ALLOCATE) { /* MADV_REMOVE: a hole */
        uint64_t offset, part;

        for (event.detail = PH_ALLOCATE_PUNCH_HOLE; (part = next_piece(t, &address, stop, &offset)); address += part) {
            event.offset = offset;
            event.length = part;
            allocated(t, &event);
        }
    } else {
        look_around(t);
        append_pieces(t, &event, address, stop);
    }
    drop_lock(t);
}

int64_t ph_copy_differences(uint64_t to, uint64_t from, uint64_t length)
{
    unsigned char *target = (unsigned char *)(uintptr_t)to;
    const unsigned char *source = (const unsigned char *)(uintptr_t)from;
    int64_t pages = 0;
    uint64_t at;

    for (at = 0; at < length; at += PAGE) {
        size_t part = length - at < PAGE ? (size_t)(length - at) : PAGE;

        if (memcmp(target + at, source + at, part) == 0)
            continue;
        memcpy(target + at, source + at, part);
        pages++;
    }
    return pages;
}
