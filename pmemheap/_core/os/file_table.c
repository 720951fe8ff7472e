/* os/file_table.c -- the heap files that this process has open, and where they are mapped.
 *
 *     files   number | fd | lock_fd | device, inode              one row a heap file
 *     maps    address ......... length | file, offset, flags     by address; what is about to be mapped is here already
 *
 * The table is there for two moments at which no code of Python can be asked.
 *
 * A fork. The child has all maps and descriptors of its parent. Before fork() returns in it, shared maps become private
 * copies of the same bytes, which may be stored to and reach nobody; what cannot be made private becomes inaccessible.
 * The descriptors are closed. Locks have an open file description of their own, `lock_fd`, that is never mapped: so a
 * map in a child does not keep the lock of a parent that has ended. Nothing is opened for that, and no call is made that
 * could be refused for want of descriptors, of rights or of /proc. A child of vfork shares the memory and runs none of
 * this; it has nothing but the call of exec to make.
 *
 * A fault. Somebody has cut a file that is mapped here, or its medium cannot be read: the kernel sends SIGBUS. Pages that
 * the file has no more are replaced by zeros of our own, the file counts as lost, and the call that met it goes on to
 * its end. While a view of the heap lives that was handed out, the fault is left to the handler that was there before,
 * which as a rule ends the process: a reader of the view could not be told that its bytes have gone.
 *
 * A map is entered before it is made and struck off when it has gone. Both copies of the core have one table, and one
 * lock: held while a file is mapped elsewhere and moved, and across a fork, so that a child sees no map on its way. */
#define _GNU_SOURCE
#include "os/file_table.h"
#include "os/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096u

struct file {
    uint64_t number; /* never given again in this process, nor in its children */
    int32_t fd;      /* what the maps are made of; -1: none is left */
    int32_t lock_fd; /* of the description that has the locks; -1: that of fd, which is mapped, or no locks any more */
    uint64_t device, inode;
    uint64_t maps;
    uint64_t filled_to; /* no range from here on was filled; see ph_file_fill */
    uint8_t is_released; /* its heap is closed, without locks: fd is a duplicate, kept for the maps */
    uint8_t is_lost;
};

struct map {
    uint64_t address, length;
    uint64_t file, offset;
    int32_t flags; /* enum ph_map_flags */
};

struct ph_file_table {
    pthread_mutex_t lock;
    uint64_t last;      /* number given */
    uint64_t inherited; /* numbers up to here are of processes that this one is a fork of */
    struct file *files;
    uint64_t file_count, file_room;
    struct map *maps;
    uint64_t map_count, map_room;
    struct ph_file_hooks hooks;
    struct sigaction before; /* what SIGBUS did */
    int is_begun, is_watching;
};

static struct ph_file_table own_table = {.lock = PTHREAD_MUTEX_INITIALIZER};
static struct ph_file_table *table = &own_table;

struct ph_file_table *ph_file_table_state(void)
{
    return table;
}

void ph_file_table_share(struct ph_file_table *state)
{
    table = state;
}

void ph_files_lock(void)
{
    pthread_mutex_lock(&table->lock);
}

void ph_files_unlock(void)
{
    pthread_mutex_unlock(&table->lock);
}

/* ---------------------------------------------------------------- rows */

static int make_room(void **rows, uint64_t *room, uint64_t wanted, size_t width)
{
    uint64_t more = *room ? *room : 16;
    void *got;

    if (wanted <= *room)
        return 0;
    while (more < wanted)
        more *= 2;
    got = realloc(*rows, more * width);
    if (got == NULL)
        return -ENOMEM;
    *rows = got;
    *room = more;
    return 0;
}

static struct file *file_of(uint64_t number)
{
    for (uint64_t i = 0; i < table->file_count; i++)
        if (table->files[i].number == number)
            return &table->files[i];
    return NULL;
}

/* Index of the first map that ends behind an address. */
static uint64_t first_behind(uint64_t address)
{
    uint64_t low = 0, high = table->map_count;

    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (table->maps[middle].address + table->maps[middle].length > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* The map that an address lies in; NULL: none of a heap file. */
static const struct map *map_at(uint64_t address)
{
    uint64_t at = first_behind(address);

    return at < table->map_count && table->maps[at].address <= address ? &table->maps[at] : NULL;
}

static void close_quietly(int32_t fd)
{
    if (fd >= 0)
        close(fd);
}

static void forget(struct file *file)
{
    *file = table->files[--table->file_count];
}

static void count_map_out(uint64_t number)
{
    struct file *file = file_of(number);

    if (file == NULL || --file->maps != 0 || !file->is_released)
        return;
    close_quietly(file->fd);
    forget(file);
}

/* Take whole maps out of the table: those that begin in a range. */
static void strike_off(uint64_t address, uint64_t length)
{
    uint64_t first = first_behind(address), stop = first;

    while (stop < table->map_count && table->maps[stop].address < address + length)
        count_map_out(table->maps[stop++].file);
    if (stop == first)
        return;
    memmove(&table->maps[first], &table->maps[stop], (table->map_count - stop) * sizeof *table->maps);
    table->map_count -= stop - first;
}

void ph_files_unmapped(uint64_t address, uint64_t length)
{
    ph_files_lock();
    if (table->map_count != 0)
        strike_off(address, length);
    ph_files_unlock();
}

/* ---------------------------------------------------------------- faults */

/* Put zeros in the place of what a map shows behind the end of its file, and at the address of the fault. */
static int replace_lost(const struct map *map, uint64_t size, uint64_t fault)
{
    uint64_t stop = map->address + map->length, page = fault & ~(uint64_t)(PAGE - 1);
    uint64_t shown = size > map->offset ? (size - map->offset + PAGE - 1) & ~(uint64_t)(PAGE - 1) : 0;
    uint64_t start = shown < map->length ? map->address + shown : stop;

    if (start < stop && ph_map_zeros(start, stop - start) < 0)
        return 0;
    return page < map->address || page >= start || page >= stop || ph_map_zeros(page, PAGE) == 0;
}

static int lose(uint64_t address)
{
    const struct map *map = map_at(address);
    struct file *file = map != NULL ? file_of(map->file) : NULL;
    struct stat status;
    uint64_t size;
    int done = 1;

    if (file == NULL || !table->hooks.lost(file->number))
        return 0;
    size = file->fd >= 0 && fstat(file->fd, &status) == 0 ? (uint64_t)status.st_size : UINT64_MAX;
    file->is_lost = 1;
    for (uint64_t i = 0; done && i < table->map_count; i++)
        if (table->maps[i].file == file->number)
            done = replace_lost(&table->maps[i], size, address);
    return done;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    int saved = errno, done = 0;

    if (info->si_code > 0) {
        ph_files_lock();
        done = lose((uint64_t)(uintptr_t)info->si_addr);
        ph_files_unlock();
    }
    if (!done)
        ph_pass_on(&table->before, number, info, context);
    errno = saved;
}

/* With each file: a process without heaps keeps its handler, and who takes ours away may not know what for. A handler of
 * somebody else that came after ours stays where it is: it calls ours. */
static void watch_faults(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK}, now;

    if (sigaction(SIGBUS, NULL, &now) < 0 || (table->is_watching && !ph_is_nobodys(&now)))
        return;
    sigemptyset(&action.sa_mask);
    table->before = now;
    table->is_watching = sigaction(SIGBUS, &action, NULL) == 0;
}

/* ---------------------------------------------------------------- files */

static int is_same(int32_t fd, uint64_t device, uint64_t inode)
{
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

/* Open the file once more, by whatever name leads to it. Locks are opened under the lock of the table: a child that is
 * forked between this and the entry of the file would keep them. */
static int32_t open_again(const char *path, int32_t flags, const struct stat *status)
{
    int fd = path == NULL ? -1 : open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0 || is_same(fd, status->st_dev, status->st_ino))
        return fd;
    close(fd);
    return -1;
}

/* A description of its own [Q1]. */
static int32_t open_for_locks(int32_t fd, int32_t flags, const char *path, const struct stat *status)
{
    char link[32];
    int32_t got;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    got = open_again(link, flags, status);
    return got < 0 && errno != EMFILE && errno != ENFILE ? open_again(path, flags, status) : got;
}

int64_t ph_file_register(int32_t fd, int32_t flags, const char *path, int32_t *lock_fd)
{
    struct stat status;
    int64_t result;

    if (fstat(fd, &status) < 0)
        return -errno;
    ph_files_lock();
    watch_faults();
    result = make_room((void **)&table->files, &table->file_room, table->file_count + 1, sizeof *table->files);
    *lock_fd = result < 0 ? -1 : open_for_locks(fd, flags, path, &status);
    if (result == 0 && *lock_fd < 0 && (errno == EMFILE || errno == ENFILE))
        result = -errno;
    if (result == 0) {
        table->files[table->file_count++] = (struct file){
            .number = ++table->last, .fd = fd, .lock_fd = *lock_fd, .device = status.st_dev, .inode = status.st_ino};
        result = (int64_t)table->last;
    }
    ph_files_unlock();
    return result;
}

int32_t ph_file_is_own(uint64_t number)
{
    return number > table->inherited;
}

int64_t ph_file_lock_byte(uint64_t number, uint64_t position, int32_t lock)
{
    const struct file *file;
    int64_t result = -EBADF;

    ph_files_lock();
    file = ph_file_is_own(number) ? file_of(number) : NULL;
    if (file != NULL && !file->is_released)
        result = ph_lock_byte(file->lock_fd < 0 ? file->fd : file->lock_fd, position, lock);
    ph_files_unlock();
    return result;
}

int32_t ph_file_is_lost(uint64_t number)
{
    struct file *file;
    int32_t lost;

    ph_files_lock();
    file = file_of(number);
    lost = file != NULL && file->is_lost;
    ph_files_unlock();
    return lost;
}

void ph_file_release(uint64_t number, int32_t keep)
{
    struct file *file;

    ph_files_lock();
    file = file_of(number);
    if (file != NULL && !file->is_released) {
        close_quietly(file->lock_fd);
        file->lock_fd = -1;
        file->is_released = 1;
        if (file->maps == 0)
            forget(file);
        else
            file->fd = keep ? fcntl(file->fd, F_DUPFD_CLOEXEC, 0) : -1;
    }
    ph_files_unlock();
}

int64_t ph_file_will_map(uint64_t number, uint64_t address, const uint64_t *pieces, uint64_t count, int32_t flags)
{
    struct file *file;
    uint64_t at, length = 0;
    int64_t result;

    for (uint64_t i = 0; i < count; i++)
        length += pieces[2 * i + 1];
    ph_files_lock();
    strike_off(address, length);
    file = file_of(number);
    result = file == NULL ? -EBADF
                          : make_room((void **)&table->maps, &table->map_room, table->map_count + count, sizeof *table->maps);
    if (result == 0) {
        at = first_behind(address);
        memmove(&table->maps[at + count], &table->maps[at], (table->map_count - at) * sizeof *table->maps);
        for (uint64_t i = 0; i < count; i++) {
            table->maps[at + i] = (struct map){
                .address = address, .length = pieces[2 * i + 1], .file = number, .offset = pieces[2 * i], .flags = flags};
            address += pieces[2 * i + 1];
        }
        table->map_count += count;
        file->maps += count;
    }
    ph_files_unlock();
    return result;
}

/* ---------------------------------------------------------------- filling */

/* The file to which stores to a map go; NULL: to none that is whole. */
static struct file *file_behind(const struct map *map)
{
    int is_shared = (map->flags & (PH_MAP_SHARED | PH_MAP_READONLY)) == PH_MAP_SHARED;
    struct file *file = is_shared ? file_of(map->file) : NULL;

    return file == NULL || file->is_lost || file->is_released ? NULL : file;
}

/* Bytes from an address on that lie in one map to which stores go to the file, which is `*file`, and where in it; 0: there are
 * none, or somebody has cut the file: a call would make it long again. */
static uint64_t piece_at(uint64_t address, uint64_t length, struct file **file, uint64_t *offset)
{
    const struct map *map = map_at(address);
    struct stat status;
    uint64_t into;

    *file = map != NULL ? file_behind(map) : NULL;
    if (*file == NULL)
        return 0;
    into = address - map->address;
    *offset = map->offset + into;
    if (length > map->length - into)
        length = map->length - into;
    return fstat((*file)->fd, &status) < 0 || (uint64_t)status.st_size < *offset + length ? 0 : length;
}

/* Put bytes into the pieces of a range, unless the first lies before what was filled, and may be mapped. What is refused counts
 * as not filled: the next try is refused as well. */
static int64_t fill_pieces(uint64_t address, const uint8_t *bytes, uint64_t length, int32_t always)
{
    uint64_t done = 0, before = 0, offset, part;
    struct file *file;

    for (; done < length; done += part) {
        int64_t put = 0;

        part = piece_at(address + done, length - done, &file, &offset);
        if (part == 0)
            return 0;
        if (done == 0)
            before = file->filled_to;
        if (file->filled_to < offset + part)
            file->filled_to = offset + part;
        if (always || done != 0 || offset >= before)
            put = ph_write(file->fd, bytes + done, part, offset);
        if (put < 0)
            file->filled_to = before;
        if (put <= 0) /* with -EFAULT the bytes themselves are gone: a store finds that out */
            return put == -EFAULT ? 0 : put;
    }
    return (int64_t)length;
}

/* The lock keeps the descriptors open. Nothing faults under it: the kernel reads the bytes. */
int64_t ph_file_fill(uint64_t address, const void *bytes, uint64_t length, int32_t always)
{
    int64_t result;

    ph_files_lock();
    result = fill_pieces(address, bytes, length, always);
    ph_files_unlock();
    return result;
}

/* ---------------------------------------------------------------- forks */

/* Nothing may be shared with the parent: rather no child than one that stores to its file. */
static void forbid(const struct map *map)
{
    if (ph_forbid(map->address, map->length) < 0)
        abort();
}

static void part_with(const struct map *map, const struct file *file)
{
    int holds_lock = file->lock_fd < 0 && !file->is_released; /* as long as there is any map of the description */

    if (!holds_lock && (!(map->flags & PH_MAP_SHARED) || map->flags & PH_MAP_READONLY))
        return;
    if (holds_lock || file->is_lost || !is_same(file->fd, file->device, file->inode)
        || ph_map_privately(file->fd, map->offset, map->address, map->length) < 0)
        forbid(map);
}

static void close_inherited(const struct file *file)
{
    if (is_same(file->fd, file->device, file->inode))
        close(file->fd);
}

static void close_inherited_lock(const struct file *file)
{
    if (is_same(file->lock_fd, file->device, file->inode))
        close(file->lock_fd);
}

static void after_fork_in_child(void)
{
    for (uint64_t i = 0; i < table->file_count; i++)
        close_inherited_lock(&table->files[i]);
    for (uint64_t i = 0; i < table->map_count; i++)
        part_with(&table->maps[i], file_of(table->maps[i].file));
    for (uint64_t i = 0; i < table->file_count; i++)
        close_inherited(&table->files[i]);
    table->map_count = table->file_count = 0;
    table->inherited = table->last;
    table->hooks.forked();
    ph_files_unlock();
}

int64_t ph_files_begin(const struct ph_file_hooks *hooks)
{
    if (table->is_begun)
        return 0;
    table->hooks = *hooks;
    table->is_begun = 1;
    return -pthread_atfork(ph_files_lock, ph_files_unlock, after_fork_in_child);
}
