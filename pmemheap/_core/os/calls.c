/* os/calls.c -- every system call of the core, behind one seam.
 *
 *     ph_write ──► PH_CALL(PH_CALL_PWRITE, pwrite(...)) ──► the kernel
 *                    │ counts; refuses the one a test has armed; repeats on EINTR
 *
 * A range that is a caller's reservation never becomes a hole: new memory is mapped elsewhere and moved over it, and
 * where a step fails after the kernel has taken the old mapping away, the placeholder is put back.
 */
#define _GNU_SOURCE
#include "os/file_table.h"
#include "os/seam.h"
#include "os/tape.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
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
#define MADV_POPULATE_WRITE 23
#endif
#ifndef STATX_ATTR_DAX
#define STATX_ATTR_DAX 0x00200000
#endif

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* since Linux 6.5, the same for all processors */
#endif


/* ---------------------------------------------------------------- the seam */

/* Tell the tape of a call that changes a file, or makes a change durable: before it is made, and when it has been. */
static uint64_t before(int32_t fd, uint32_t kind)
{
    return ph_tape_on() ? ph_tape_begin(fd, kind) : 0;
}

static int64_t after(uint64_t mark, int64_t result, struct ph_tape_event event, const void *bytes)
{
    if (mark)
        ph_tape_end(mark, result, &event, bytes);
    return result;
}

static uint64_t before_range(uint64_t address, uint64_t length)
{
    return ph_tape_on() ? ph_tape_begin_range(address, length) : 0;
}

static int64_t after_range(uint64_t mark, int64_t result, uint32_t kind, uint64_t address, uint64_t length)
{
    if (mark)
        ph_tape_end_range(mark, result, kind, address, length);
    return result;
}

/* Tell the tape that nothing of its file is mapped in a range. */
static void unmapped(uint64_t address, uint64_t length)
{
    if (ph_tape_on())
        ph_tape_unmap(address, length);
}

/* The same, and the table of files. */
static int64_t all_unmapped(uint64_t address, uint64_t length)
{
    unmapped(address, length);
    ph_files_unmapped(address, length);
    return 0;
}

/* ---------------------------------------------------------------- address space */

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
        [PH_ADVISE_POPULATE_WRITE] = MADV_POPULATE_WRITE, [PH_ADVISE_DONTFORK] = MADV_DONTFORK,
        [PH_ADVISE_RANDOM] = MADV_RANDOM,
    };
    uint64_t mark = 0;

    if (advice < 0 || advice > PH_ADVISE_RANDOM)
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

/* ---------------------------------------------------------------- files */

int64_t ph_allocate(int32_t fd, uint64_t offset, uint64_t length, int32_t mode)
{
    static const int modes[] = {
        [PH_ALLOCATE_EXTEND] = 0,
        [PH_ALLOCATE_KEEP_SIZE] = FALLOC_FL_KEEP_SIZE,
        [PH_ALLOCATE_PUNCH_HOLE] = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
        [PH_ALLOCATE_ZERO_RANGE] = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
    };

    struct ph_tape_event event = {
        .kind = PH_TAPE_ALLOCATE, .detail = (uint32_t)mode, .offset = offset, .length = length};
    uint64_t mark;

    if (mode < 0 || mode > PH_ALLOCATE_ZERO_RANGE)
        return -EINVAL;
    mark = before(fd, PH_TAPE_ALLOCATE);
    return after(mark, PH_CALL(PH_CALL_FALLOCATE, fallocate(fd, modes[mode], (off_t)offset, (off_t)length)), event, NULL);
}

int64_t ph_truncate(int32_t fd, uint64_t length)
{
    struct ph_tape_event event = {.kind = PH_TAPE_TRUNCATE, .length = length};
    uint64_t mark = before(fd, PH_TAPE_TRUNCATE);

    return after(mark, PH_CALL(PH_CALL_FTRUNCATE, ftruncate(fd, (off_t)length)), event, NULL);
}

/* Asks for no times that change: since Linux 6.13 who reads the time of a change has the next change take a new one, which
 * a sync of an ext4 without a journal writes as well: one block more for each commit. */
static int64_t stat_without_times(int32_t fd, struct statx *out)
{
    unsigned int wanted = (STATX_BASIC_STATS & ~(STATX_ATIME | STATX_MTIME | STATX_CTIME)) | STATX_BTIME;

    return PH_CALL(PH_CALL_FSTAT, syscall(SYS_statx, fd, "", AT_EMPTY_PATH, wanted, out));
}

int64_t ph_stat(int32_t fd, struct ph_stat *out)
{
    struct statx st;
    int64_t result = stat_without_times(fd, &st);

    if (result < 0)
        return result;
    out->size = st.stx_size;
    out->blocks = st.stx_blocks * 512;
    out->device = makedev(st.stx_dev_major, st.stx_dev_minor);
    out->inode = st.stx_ino;
    out->special_device = (uint64_t)st.stx_rdev_major << 32 | st.stx_rdev_minor;
    out->links = st.stx_nlink;
    out->birth = st.stx_mask & STATX_BTIME ? (uint64_t)st.stx_btime.tv_sec * 1000000000 + st.stx_btime.tv_nsec : 0;
    out->mode = st.stx_mode;
    out->block_size = st.stx_blksize;
    return 0;
}

int64_t ph_is_dax(int32_t fd)
{
    struct statx stx;
    int64_t result = PH_CALL(PH_CALL_STATX, syscall(SYS_statx, fd, "", AT_EMPTY_PATH, 0, &stx));

    if (result == -ENOSYS)
        return 0;
    return result < 0 ? result : (stx.stx_attributes & STATX_ATTR_DAX) != 0;
}

int64_t ph_filesystem_type(int32_t fd)
{
    struct statfs fs;
    int64_t result = PH_CALL(PH_CALL_FSTATFS, fstatfs(fd, &fs));

    return result < 0 ? result : (int64_t)(uint32_t)fs.f_type;
}

int64_t ph_file_flags(int32_t fd)
{
    return PH_CALL(PH_CALL_FCNTL, fcntl(fd, F_GETFL));
}

int64_t ph_read(int32_t fd, void *buffer, uint64_t length, uint64_t offset)
{
    uint64_t done = 0;

    while (done < length) {
        uint64_t part = ph_allowance(PH_CALL_PREAD, length - done);
        int64_t got = PH_CALL(PH_CALL_PREAD, pread(fd, (char *)buffer + done, part, (off_t)(offset + done)));

        if (got < 0)
            return got;
        if (got == 0)
            break;
        done += (uint64_t)got;
    }
    return (int64_t)done;
}

int64_t ph_write(int32_t fd, const void *buffer, uint64_t length, uint64_t offset)
{
    uint64_t done = 0;

    while (done < length) {
        uint64_t part = ph_allowance(PH_CALL_PWRITE, length - done);
        const char *from = (const char *)buffer + done;
        uint64_t mark = before(fd, PH_TAPE_WRITE);
        int64_t put = PH_CALL(PH_CALL_PWRITE, pwrite(fd, from, part, (off_t)(offset + done)));
        struct ph_tape_event event = {.kind = PH_TAPE_WRITE, .offset = offset + done, .length = (uint64_t)put};

        after(mark, put, event, from);
        if (put < 0)
            return put;
        if (put == 0)
            return -EIO;
        done += (uint64_t)put;
    }
    return (int64_t)done;
}

int64_t ph_cached(int32_t fd, uint64_t offset, uint64_t length)
{
    struct {
        uint64_t offset, length;
    } range = {offset, length};
    struct {
        uint64_t cached, dirty, written_back, evicted, recently_evicted;
    } found = {0};
    int64_t result = PH_CALL(PH_CALL_CACHESTAT, syscall(SYS_cachestat, fd, &range, &found, 0));

    return result < 0 ? result : (int64_t)found.cached;
}

int64_t ph_cached_by_map(int32_t fd, uint64_t offset, uint64_t length)
{
    enum { PAGES = 1024 };
    unsigned char present[PAGES];
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), count = 0;
    int64_t result = 0, at = PH_CALL(PH_CALL_MMAP, mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)offset));

    if (at < 0)
        return at;
    for (uint64_t done = 0; result >= 0 && done < length; done += PAGES * page) {
        uint64_t part = length - done < PAGES * page ? length - done : PAGES * page;

        result = PH_CALL(PH_CALL_MINCORE, mincore(ph_pointer((uint64_t)at + done), part, present));
        for (uint64_t i = 0; result >= 0 && i * page < part; i++)
            count += present[i] & 1;
    }
    munmap(ph_pointer((uint64_t)at), length);
    return result < 0 ? result : (int64_t)count;
}

int64_t ph_sync_data(int32_t fd)
{
    struct ph_tape_event event = {.kind = PH_TAPE_SYNC_FILE};
    uint64_t mark = before(fd, PH_TAPE_SYNC_FILE);

    return after(mark, PH_CALL(PH_CALL_FDATASYNC, fdatasync(fd)), event, NULL);
}

int64_t ph_sync_all(int32_t fd)
{
    struct ph_tape_event event = {.kind = PH_TAPE_SYNC_FILE};
    uint64_t mark = before(fd, PH_TAPE_SYNC_FILE);

    return after(mark, PH_CALL(PH_CALL_FSYNC, fsync(fd)), event, NULL);
}

static int describe_lock(struct flock *out, uint64_t position, int32_t lock)
{
    static const short types[] = {
        [PH_LOCK_NONE] = F_UNLCK, [PH_LOCK_READ] = F_RDLCK, [PH_LOCK_WRITE] = F_WRLCK};

    if (lock < PH_LOCK_NONE || lock > PH_LOCK_WRITE || position > INT64_MAX)
        return -EINVAL;
    *out = (struct flock){.l_type = types[lock], .l_whence = SEEK_SET, .l_start = (off_t)position, .l_len = 1};
    return 0;
}

int64_t ph_lock_byte(int32_t fd, uint64_t position, int32_t lock)
{
    struct flock what;
    int invalid = describe_lock(&what, position, lock);

    return invalid ? invalid : PH_CALL(PH_CALL_FCNTL, fcntl(fd, F_OFD_SETLK, &what));
}

int64_t ph_probe_lock(int32_t fd, uint64_t position, int32_t lock)
{
    struct flock what;
    int64_t result = describe_lock(&what, position, lock);

    if (result == 0)
        result = PH_CALL(PH_CALL_FCNTL, fcntl(fd, F_OFD_GETLK, &what));
    if (result < 0)
        return result;
    return what.l_type == F_UNLCK ? PH_LOCK_NONE : what.l_type == F_RDLCK ? PH_LOCK_READ : PH_LOCK_WRITE;
}

int64_t ph_memory_file(const char *name)
{
    return PH_CALL(PH_CALL_MEMFD, memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
}


static uint64_t clock_of(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t ph_now(void)
{
    return clock_of(CLOCK_MONOTONIC_COARSE);
}

uint64_t ph_thread_time(void)
{
    return clock_of(CLOCK_THREAD_CPUTIME_ID);
}
