/* os/tape.c -- what changes one file, in the order in which it happens.
 *
 *     a hook ──► take the lock ──► count, perhaps SIGKILL ──► look around ──► append the event, change the copy
 *
 * tape_record.c has the events and the copy. The last event is the one that is about to happen.
 * Not told, as it changes no file: stores to private maps and to memory.
 */
#define _GNU_SOURCE
#include "os/tape.h"
#include "os/tape_record.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* Let the other one go on. If it has gone for good, so does this one. */
static void hand_over(struct ph_tape *t, uint64_t waits)
{
    uint64_t word = t->steps << 1 | waits;
    if (write(t->told, &word, sizeof word) != sizeof word || read(t->granted, &word, sizeof word) != sizeof word)
        kill(getpid(), SIGKILL);
    t->hand_at = word;
}

static void step(struct ph_tape *t)
{
    t->steps++;
    if (t->steps == t->hand_at)
        hand_over(t, 0);
    if (t->steps != t->kill_at)
        return;
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* ---------------------------------------------------------------- making and freeing */

int64_t ph_tape_make(int32_t fd, uint64_t kill_at, struct ph_tape **out)
{
    struct ph_tape *t = calloc(1, sizeof *t);
    struct stat st;
    int64_t error;

    if (t == NULL)
        return -ENOMEM;
    t->fd = t->told = t->granted = -1;
    if (fstat(fd, &st) < 0 || (kill_at == 0 && (t->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0)) {
        error = errno;
        free(t);
        return -error;
    }
    t->device = st.st_dev;
    t->inode = st.st_ino;
    t->kill_at = kill_at;
    if (kill_at == 0)
        ph_tape_take_copy(t, (uint64_t)st.st_size);
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
    got = ph_tape_grown(t, t->maps, &t->map_room, t->map_count + 1, sizeof *t->maps);
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
        ph_tape_append(t, &event, NULL);
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
    ph_tape_look_around(t);
    cut_maps(t, address, address + length);
    event.begin = t->count;
    ph_tape_append(t, &event, NULL);
    add_map(t, address, address + length, offset);
    drop_lock(t);
}

void ph_tape_unmap(uint64_t address, uint64_t length)
{
    struct ph_tape *t = ph_tape;

    take_lock(t);
    ph_tape_look_around(t);
    cut_maps(t, address, address + length);
    drop_lock(t);
}

/* ---------------------------------------------------------------- stores */

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
        ph_tape_look_around(t);
    }
    for (; part; part = next_piece(t, &address, stop, &offset)) {
        struct ph_tape_event event = {.kind = PH_TAPE_STORE, .begin = t->count, .offset = offset, .length = part};

        ph_tape_change(t, &event, (const char *)from + (address - start));
        address += part;
    }
    drop_lock(t);
}

void ph_tape_note(uint32_t kind, uint64_t number)
{
    struct ph_tape_event event = {.kind = PH_TAPE_NOTE, .detail = kind, .length = number};
    struct ph_tape *t = ph_tape;

    take_lock(t);
    ph_tape_look_around(t);
    event.begin = t->count;
    ph_tape_append(t, &event, NULL);
    drop_lock(t);
}

/* Append an event of mapped memory once for each map that it meets. */
static void append_pieces(struct ph_tape *t, const struct ph_tape_event *event, uint64_t address, uint64_t stop)
{
    struct ph_tape_event piece = *event;

    while ((piece.length = next_piece(t, &address, stop, &piece.offset)) != 0) {
        ph_tape_append(t, &piece, NULL);
        address += piece.length;
    }
}

void ph_tape_flush(uint64_t address, uint64_t length)
{
    struct ph_tape_event event = {.kind = PH_TAPE_FLUSH};
    uint64_t start = address & ~(uint64_t)(LINE - 1), stop = (address + length + LINE - 1) & ~(uint64_t)(LINE - 1);
    struct ph_tape *t = ph_tape;

    take_lock(t);
    ph_tape_look_around(t);
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
        ph_tape_look_around(t);
        t->flushed = 0;
        event.begin = t->count;
        ph_tape_append(t, &event, NULL);
    }
    drop_lock(t);
}

void ph_put_at(uint64_t address, const void *from, uint64_t length)
{
    ph_put((void *)(uintptr_t)address, from, length);
}

/* ---------------------------------------------------------------- turns */

void ph_tape_hands(struct ph_tape *tape, int32_t told, int32_t granted)
{
    tape->told = told;
    tape->granted = granted;
}

void ph_tape_hand_at(uint64_t hand_at)
{
    ph_tape->steps = 0;
    ph_tape->hand_at = hand_at;
}

void ph_tape_look(void)
{
    struct ph_tape *t = ph_tape;

    if (t->hand_at != 0) /* who works by turns has one thread */
        step(t);
}

void ph_tape_wait(void)
{
    if (ph_tape->hand_at != 0)
        hand_over(ph_tape, 1);
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
    ph_tape_look_around(t);
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

void ph_tape_end(uint64_t mark, int64_t result, const struct ph_tape_event *event, const void *bytes)
{
    struct ph_tape_event complete = *event;
    struct ph_tape *t = ph_tape;

    if (mark == 0)
        return;
    complete.begin = mark - 1;
    if (keeps_lock(event->kind)) {
        if (result >= 0)
            ph_tape_change(t, &complete, bytes);
    } else {
        take_lock(t);
        if (result >= 0) {
            ph_tape_look_around(t);
            ph_tape_append(t, &complete, NULL);
        }
    }
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
            ph_tape_change(t, &event, NULL);
        }
    } else {
        ph_tape_look_around(t);
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
