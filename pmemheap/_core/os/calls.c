/* os/calls.c -- the system calls on files, behind one seam.
 *
 *     ph_write ──► PH_CALL(PH_CALL_PWRITE, pwrite(...)) ──► the kernel
 *                    │ counts; refuses the one a test has armed; repeats on EINTR
 */
#define _GNU_SOURCE
#include "os/taped.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#ifndef STATX_TYPE /* musl before 1.2.5 leaves struct statx to the kernel's headers; later ones contradict them */
#include <linux/stat.h>
#endif

#ifndef FALLOC_FL_ZERO_RANGE
#define FALLOC_FL_ZERO_RANGE 0x10 /* glibc has it from the kernel's headers, musl has not got it */
#endif

#ifndef STATX_ATTR_DAX
#define STATX_ATTR_DAX 0x00200000
#endif

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* since Linux 6.5, the same for all processors */
#endif

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

int64_t ph_find_lock(int32_t fd, uint64_t position, uint64_t length)
{
    struct flock what;
    int64_t result = describe_lock(&what, position, PH_LOCK_WRITE);

    what.l_len = (off_t)length;
    if (result == 0)
        result = PH_CALL(PH_CALL_FCNTL, fcntl(fd, F_OFD_GETLK, &what));
    return result < 0 ? result : what.l_type == F_UNLCK ? INT64_MAX : (int64_t)what.l_start;
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

uint64_t ph_clock(void)
{
    return clock_of(CLOCK_MONOTONIC);
}

uint64_t ph_thread(void)
{
    return (uint64_t)pthread_self();
}

uint64_t ph_process(void)
{
    return (uint64_t)getpid();
}

uint64_t ph_thread_time(void)
{
    return clock_of(CLOCK_THREAD_CPUTIME_ID);
}
