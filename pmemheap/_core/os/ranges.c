/* os/ranges.c -- ranges of address space: reserved, mapped, advised, written back.
 *
 * A range that is a caller's reservation never becomes a hole: new memory is mapped elsewhere and moved over it, or mapped
 * in place where the file system has granted such a map before; and where a step fails after the kernel has taken the old
 * mapping away, the placeholder is put back. */
#define _GNU_SOURCE
#include "os/taped.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MAP_SYNC
#define MAP_SYNC 0x080000
#endif
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 0x03
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
static int protection(int32_t flags)
{
    return flags & PH_MAP_READONLY ? PROT_READ : PROT_READ | PROT_WRITE;
}

int64_t ph_unreserve(uint64_t address, uint64_t length)
{
    all_unmapped(address, length); /* first: others may be given these addresses at once */
    return PH_CALL(PH_CALL_MUNMAP, munmap(ph_pointer(address), length));
}

int64_t ph_reserve(uint64_t address, uint64_t length)
{
    int flags = PH_PLACEHOLDER | (address ? MAP_FIXED_NOREPLACE : 0);
    int64_t got = PH_CALL(PH_CALL_MMAP, mmap(ph_pointer(address), length, PROT_NONE, flags, -1, 0));

    if (got < 0 || address == 0 || (uint64_t)got == address)
        return got;
    /* A kernel before 4.17 takes the address for a hint: it found the range in use and went elsewhere. */
    munmap(ph_pointer((uint64_t)got), length);
    return -EEXIST;
}

/* Close a hole that a failed call may have left. The placeholder may still be there: then this does nothing. */
static int64_t mend(uint64_t address, uint64_t length, int64_t error)
{
    void *got = mmap(ph_pointer(address), length, PROT_NONE, PH_PLACEHOLDER | MAP_FIXED_NOREPLACE, -1, 0);

    if (got != MAP_FAILED && got != ph_pointer(address))
        munmap(got, length);
    return error;
}

int64_t ph_unmap(uint64_t address, uint64_t length)
{
    int64_t result = PH_CALL(PH_CALL_MMAP, mmap(ph_pointer(address), length, PROT_NONE, PH_PLACEHOLDER | MAP_FIXED, -1, 0));

    if (result < 0)
        return mend(address, length, result);
    return all_unmapped(address, length);
}

struct backing {
    int fd;
    uint64_t offset;
    int protection;
    int flags;
    int only_moved; /* never mapped over the range, where a failure could leave a hole */
};

static int64_t map_over(const struct backing *b, uint64_t address, uint64_t length)
{
    int64_t result = PH_CALL(PH_CALL_MMAP, mmap(ph_pointer(address), length, b->protection, b->flags | MAP_FIXED, b->fd,
                                             (off_t)b->offset));

    return result < 0 ? mend(address, length, result) : 0;
}

/* Map elsewhere first: whatever the file system refuses, it refuses there. */
static int64_t map_and_move(const struct backing *b, uint64_t address, uint64_t length)
{
    int64_t there = PH_CALL(PH_CALL_MMAP, mmap(NULL, length, b->protection, b->flags, b->fd, (off_t)b->offset));
    int64_t result;

    if (there == -ENOMEM && !b->only_moved) /* perhaps a limit on address space, which a second range would exceed */
        return map_over(b, address, length);
    if (there < 0)
        return there;
    result = PH_CALL(PH_CALL_MREMAP, mremap(ph_pointer((uint64_t)there), length, length, MREMAP_MAYMOVE | MREMAP_FIXED,
                                         ph_pointer(address)));
    if (result >= 0)
        return 0;
    munmap(ph_pointer((uint64_t)there), length);
    return mend(address, length, result);
}

int64_t ph_map_anonymous(uint64_t address, uint64_t length, int32_t flags)
{
    struct backing b = {-1, 0, protection(flags), MAP_ANONYMOUS, 0};

    b.flags |= flags & PH_MAP_SHARED ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE;
    all_unmapped(address, length);
    return map_over(&b, address, length);
}

static struct backing file_backing(int fd, uint64_t offset, int32_t flags)
{
    struct backing b = {fd, offset, protection(flags), 0, flags & PH_MAP_LARGE};

    if (flags & PH_MAP_SYNC)
        b.flags |= MAP_SHARED_VALIDATE | MAP_SYNC;
    else
        b.flags |= flags & PH_MAP_SHARED ? MAP_SHARED : MAP_PRIVATE;
    return b;
}

static void tape_file(int fd, uint64_t offset, uint64_t address, uint64_t length, int32_t flags)
{
    if (ph_tape_on() && (flags & (PH_MAP_SHARED | PH_MAP_SYNC)) && ph_tape_watches(fd))
        ph_tape_map(address, length, offset);
}

/* A descriptor of the same file, with an open file description of its own; -1 if the system refuses. */
static int open_again(int fd)
{
    char link[32];

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return open(link, O_RDWR | O_CLOEXEC | O_NONBLOCK);
}

int64_t ph_map_file(int32_t fd, uint64_t offset, uint64_t address, uint64_t length, int32_t flags)
{
    struct backing b = file_backing(fd, offset, flags);
    int64_t result;
    int own;

    if (offset > INT64_MAX)
        return -EOVERFLOW;
    unmapped(address, length);
    ph_files_lock(); /* no child sees the map where it is made first */
    own = flags & PH_MAP_OWN ? open_again(fd) : -1;
    b.fd = own < 0 ? fd : own;
    result = map_and_move(&b, address, length);
    if (own >= 0)
        close(own);
    ph_files_unlock();
    if (result == 0)
        tape_file(fd, offset, address, length, flags);
    return result;
}

int64_t ph_try_map(int32_t fd, uint64_t offset, uint64_t length, int32_t flags)
{
    struct backing b = file_backing(fd, offset, flags);
    int64_t there = PH_CALL(PH_CALL_MMAP, mmap(NULL, length, b.protection, b.flags, b.fd, (off_t)b.offset));

    if (there < 0)
        return there;
    munmap(ph_pointer((uint64_t)there), length);
    return 0;
}

/* Map a piece where a file system has accepted the flags already. */
static int64_t map_accepted(int32_t fd, uint64_t offset, uint64_t address, uint64_t length, int32_t flags)
{
    struct backing b = file_backing(fd, offset, flags);
    int64_t result = -EOVERFLOW;

    unmapped(address, length);
    if (offset <= INT64_MAX)
        result = map_over(&b, address, length);
    if (result == 0)
        tape_file(fd, offset, address, length, flags);
    return result;
}

/* A file system that has accepted the flags for one piece accepts them for all: the others need no second call. */
int64_t ph_map_row(int32_t fd, uint64_t address, const uint64_t *pieces, uint64_t count, int32_t flags)
{
    uint64_t at = address;
    int accepted = (flags & PH_MAP_ACCEPTED) && !(flags & (PH_MAP_OWN | PH_MAP_LARGE));
    int64_t result = 0;

    for (uint64_t i = 0; result == 0 && i < count; i++, accepted = 1) {
        uint64_t offset = pieces[2 * i], length = pieces[2 * i + 1];
        result = accepted ? map_accepted(fd, offset, at, length, flags) : ph_map_file(fd, offset, at, length, flags);
        if (result == 0)
            at += length;
        else if (at != address)
            ph_unmap(address, at - address);
    }
    if (result == 0 && at != address && (flags & PH_MAP_RANDOM))
        ph_advise(address, at - address, PH_ADVISE_RANDOM); /* which is only faster */
    return result;
}

int64_t ph_advise(uint64_t address, uint64_t length, int32_t advice)
{
    static const int advices[] = {
        [PH_ADVISE_DONTNEED] = MADV_DONTNEED,       [PH_ADVISE_REMOVE] = MADV_REMOVE,
        [PH_ADVISE_HUGEPAGE] = MADV_HUGEPAGE,       [PH_ADVISE_NOHUGEPAGE] = MADV_NOHUGEPAGE,
        [PH_ADVISE_POPULATE_READ] = MADV_POPULATE_READ, [PH_ADVISE_POPULATE_WRITE] = MADV_POPULATE_WRITE,
        [PH_ADVISE_DONTFORK] = MADV_DONTFORK,
        [PH_ADVISE_RANDOM] = MADV_RANDOM,           [PH_ADVISE_FENCE] = MADV_GUARD_INSTALL,
        [PH_ADVISE_UNFENCE] = MADV_GUARD_REMOVE,
    };
    uint64_t mark = 0;

    if (advice < 0 || advice > PH_ADVISE_UNFENCE)
        return -EINVAL;
    if (advice == PH_ADVISE_REMOVE)
        mark = before_range(address, length);
    return after_range(mark, PH_CALL(PH_CALL_MADVISE, madvise(ph_pointer(address), length, advices[advice])),
                       PH_TAPE_ALLOCATE, address, length);
}

int64_t ph_sync_range(uint64_t address, uint64_t length)
{
    uint64_t mark = before_range(address, length);

    return after_range(mark, PH_CALL(PH_CALL_MSYNC, msync(ph_pointer(address), length, MS_SYNC)), PH_TAPE_SYNC_RANGE,
                       address, length);
}

int64_t ph_sync_part(int32_t fd, uint64_t offset, uint64_t length)
{
    struct ph_tape_event event = {.kind = PH_TAPE_SYNC_RANGE, .offset = offset, .length = length};
    ph_files_lock(); /* no child gets the map: it would keep the locks of the descriptor */
    int64_t at = PH_CALL(PH_CALL_MMAP, mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)offset));
    if (at >= 0)
        madvise(ph_pointer((uint64_t)at), length, MADV_DONTFORK);
    ph_files_unlock();
    if (at < 0)
        return ph_sync_all(fd);
    uint64_t mark = before(fd, PH_TAPE_SYNC_RANGE);
    int64_t result = after(mark, PH_CALL(PH_CALL_MSYNC, msync(ph_pointer((uint64_t)at), length, MS_SYNC)), event, NULL);
    munmap(ph_pointer((uint64_t)at), length);
    return result;
}
