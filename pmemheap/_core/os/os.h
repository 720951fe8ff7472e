/* os/os.h -- the part of the C core that cffi opens: system calls, flushes, checksums.
 *
 * Read twice: by the C compiler, and by cffi's cdef after build_sys.py has dropped the lines that begin with '#'.
 * So there is nothing in here but constants, plain structs and prototypes of fixed-width types.
 *
 * Results are >= 0, failures are negative: either a negated errno (-1 .. -4095) or one of enum ph_code.
 * Addresses travel as uint64_t. Nothing keeps state, except that the system-call seam counts (see ph_faults) and that
 * a test may have a tape running (see ph_tape).
 */
#pragma once
#include <stdint.h>
#include <stddef.h>
#include "base/codes.h"

/* ---------------------------------------------------------------- the system-call seam
 * Every system call of the core passes here: it is counted, and a test can have one of them refused.
 * EINTR and short transfers are retried above the seam, so an injected one shows that they are. */
enum ph_call {
    PH_CALL_NONE = 0,
    PH_CALL_MMAP,
    PH_CALL_MUNMAP,
    PH_CALL_MREMAP,
    PH_CALL_MPROTECT,
    PH_CALL_MADVISE,
    PH_CALL_MSYNC,
    PH_CALL_FALLOCATE,
    PH_CALL_FTRUNCATE,
    PH_CALL_FSTAT,
    PH_CALL_STATX,
    PH_CALL_FSTATFS,
    PH_CALL_PREAD,
    PH_CALL_PWRITE,
    PH_CALL_FSYNC,
    PH_CALL_FDATASYNC,
    PH_CALL_FCNTL,
    PH_CALL_MEMFD,
    PH_CALL_CACHESTAT,
    PH_CALL_MINCORE,
    PH_CALL_PAGEMAP,
    PH_CALL_COUNT,
};

enum ph_fault_kind {
    PH_FAULT_ERROR, /* the call is not made; it returns the errno given */
    PH_FAULT_SHORT, /* a transfer moves half of what was asked; other calls are let through, the fault stays armed */
    PH_FAULT_FROM,  /* like PH_FAULT_ERROR, and so do all calls after it */
};

struct ph_faults {
    uint64_t calls; /* made or refused, since the start */
    uint64_t at;    /* value of `calls` from which the fault is due; 0 = disarmed */
    int32_t error;
    int32_t kind;
    int32_t hit; /* enum ph_call that was refused or shortened first; PH_CALL_NONE = nothing yet */
};

/* ph_faults_state -- the counters in use, to be handed to ph_faults_share of another copy of the core. */
struct ph_faults *ph_faults_state(void);
/* ph_faults_share -- count in `state` from now on. Pre: it outlives every later call. */
void ph_faults_share(struct ph_faults *state);
/* ph_fault_arm -- refuse the nth call from now (1 = the next one) with `error`, in the way of `kind`. */
int32_t ph_fault_arm(uint64_t nth, int32_t error, int32_t kind);
/* ph_fault_disarm -- let everything through again; return the enum ph_call that was hit, PH_CALL_NONE if none was. */
int32_t ph_fault_disarm(void);

/* ---------------------------------------------------------------- address space */
enum ph_map_flags {
    PH_MAP_SHARED = 1,   /* else private, copy on write */
    PH_MAP_READONLY = 2, /* else readable and writable */
    PH_MAP_SYNC = 4,     /* MAP_SYNC: fails where the file is not on persistent memory */
    PH_MAP_LARGE = 8,    /* the file's pages are larger than a page: -ENOMEM is no limit on address space */
    PH_MAP_STRICT = 16,  /* for Places: the file becomes durable by coarser pieces than asked for; say so, or more */
    PH_MAP_OWN = 32,     /* by an open file description of its own, where the system grants one; one piece */
    PH_MAP_ACCEPTED = 64, /* the file system has accepted the other flags for this file before */
    PH_MAP_RANDOM = 128, /* faulted in page by page, as PH_ADVISE_RANDOM has it */
};

enum ph_advice {
    PH_ADVISE_DONTNEED, /* private memory: pages go back, read zero afterwards */
    PH_ADVISE_REMOVE,   /* shared memory: pages and file blocks go back, read zero afterwards */
    PH_ADVISE_HUGEPAGE,
    PH_ADVISE_NOHUGEPAGE,
    PH_ADVISE_POPULATE_READ, /* what is in the page cache gets mapped */
    PH_ADVISE_POPULATE_WRITE,
    PH_ADVISE_DONTFORK,
    PH_ADVISE_RANDOM, /* no read-ahead: a first touch brings one page in, not a large folio */
    PH_ADVISE_FENCE,  /* private memory: pages go back, and each access is a SIGSEGV; -EINVAL before Linux 6.13 */
    PH_ADVISE_UNFENCE, /* the reverse: the pages read zero */
};

/* ph_reserve -- take [address, address + length) with nothing behind it; anywhere when address is 0.
 * Returns the address. -EEXIST when the range touches anything mapped, -ENOMEM when there is no room. */
int64_t ph_reserve(uint64_t address, uint64_t length);
/* ph_unreserve -- give a range back to the system, whatever is mapped in it. */
int64_t ph_unreserve(uint64_t address, uint64_t length);
/* ph_map_anonymous, ph_map_file -- put zeroed memory or a piece of a file over a reserved range of the caller's.
 * On failure the range is reserved and empty as before: never a hole that somebody else could be given. */
int64_t ph_map_anonymous(uint64_t address, uint64_t length, int32_t flags);
int64_t ph_map_file(int32_t fd, uint64_t offset, uint64_t address, uint64_t length, int32_t flags);
/* ph_try_map -- what ph_map_file would say of the file, with nothing mapped in the end. */
int64_t ph_try_map(int32_t fd, uint64_t offset, uint64_t length, int32_t flags);
/* ph_map_row -- ph_map_file of `count` pieces, each an offset and a length, one behind the other; all or none. */
int64_t ph_map_row(int32_t fd, uint64_t address, const uint64_t *pieces, uint64_t count, int32_t flags);
/* ph_unmap -- make a range reserved and empty again, in one step. */
int64_t ph_unmap(uint64_t address, uint64_t length);
/* ph_map_privately -- map a piece of a file over a range that is mapped; on failure part of the range may be a hole.
 * ph_forbid -- let nothing be reached at a range any more. ph_map_zeros -- put memory that reads zero over it. These three
 * may be called in a signal handler and in a forked child; only the first can be refused by a test. */
int64_t ph_map_privately(int32_t fd, uint64_t offset, uint64_t address, uint64_t length);
int64_t ph_forbid(uint64_t address, uint64_t length);
int64_t ph_map_zeros(uint64_t address, uint64_t length);
int64_t ph_advise(uint64_t address, uint64_t length, int32_t advice);

struct ph_memory {
    uint64_t resident, swapped; /* bytes */
};

/* ph_count_memory -- the memory behind whole pages, by a descriptor of /proc/self/pagemap: what is in memory, and what was
 * moved out. Pages that were only read and never stored to are neither. Before Linux 6.15 a fenced page counts as moved
 * out. -ENOTTY before 6.7, which has no call for it. */
int64_t ph_count_memory(int32_t fd, uint64_t start, uint64_t stop, struct ph_memory *out);

/* ---------------------------------------------------------------- files */
enum ph_allocate_mode {
    PH_ALLOCATE_EXTEND,     /* blocks for the range; the file grows to its end */
    PH_ALLOCATE_KEEP_SIZE,  /* blocks for the range; the size stays */
    PH_ALLOCATE_PUNCH_HOLE, /* blocks of the range go back; it reads zero; the size stays */
    PH_ALLOCATE_ZERO_RANGE, /* the range reads zero and has blocks; the size stays */
};

struct ph_stat {
    uint64_t size;   /* bytes */
    uint64_t blocks; /* bytes that are really allocated */
    uint64_t device;
    uint64_t inode;
    uint64_t special_device; /* of a device file: major << 32 | minor */
    uint64_t links;
    uint64_t birth;          /* nanoseconds since 1970 at which the file was made; 0: the file system does not know */
    uint32_t mode;
    uint32_t block_size;
};

enum ph_lock { PH_LOCK_NONE, PH_LOCK_READ, PH_LOCK_WRITE };

int64_t ph_allocate(int32_t fd, uint64_t offset, uint64_t length, int32_t mode);
int64_t ph_truncate(int32_t fd, uint64_t length);
int64_t ph_stat(int32_t fd, struct ph_stat *out);
/* ph_is_dax -- 1 when the file's pages are its storage (STATX_ATTR_DAX), 0 when not or not known. */
int64_t ph_is_dax(int32_t fd);
/* ph_filesystem_type -- f_type of statfs: 0x01021994 tmpfs, 0xEF53 ext4, 0x58465342 xfs ... */
int64_t ph_filesystem_type(int32_t fd);
/* ph_file_flags -- F_GETFL. */
int64_t ph_file_flags(int32_t fd);
/* ph_read, ph_write -- all of it, whatever the kernel moves at a time. ph_read returns less only at the file's end. */
int64_t ph_read(int32_t fd, void *buffer, uint64_t length, uint64_t offset);
int64_t ph_write(int32_t fd, const void *buffer, uint64_t length, uint64_t offset);
/* ph_cached -- how many pages of a range of a file are in memory, page-aligned; a length of 0 reaches to the end.
 * -ENOSYS where the system has no call for it.
 * ph_cached_by_map -- the same for a range with an end, by a map of its own, which brings nothing in. */
int64_t ph_cached(int32_t fd, uint64_t offset, uint64_t length);
int64_t ph_cached_by_map(int32_t fd, uint64_t offset, uint64_t length);
int64_t ph_sync_range(uint64_t address, uint64_t length);
/* ph_sync_part -- the same of whole pages of a file that are not mapped; of all where there is no room to map them. */
int64_t ph_sync_part(int32_t fd, uint64_t offset, uint64_t length);
/* ph_now -- nanoseconds of the monotonic clock, some milliseconds late: it costs no system call. */
uint64_t ph_now(void);
/* ph_clock -- nanoseconds of the monotonic clock. ph_thread -- a number that no other thread has as long as this one lives, not 0. */
uint64_t ph_clock(void);
uint64_t ph_thread(void);
/* ph_process -- the number of this process. */
uint64_t ph_process(void);
/* ph_thread_time -- nanoseconds of processor time that this thread has had. */
uint64_t ph_thread_time(void);
int64_t ph_sync_data(int32_t fd);
int64_t ph_sync_all(int32_t fd);
/* ph_lock_byte -- take, change or drop the lock of this open file description on one byte. -EAGAIN when others hold it. */
int64_t ph_lock_byte(int32_t fd, uint64_t position, int32_t lock);
/* ph_probe_lock -- the enum ph_lock that stands in the way of taking `lock` there; PH_LOCK_NONE if it could be had. */
int64_t ph_probe_lock(int32_t fd, uint64_t position, int32_t lock);
/* ph_find_lock -- where a lock of others begins that touches [position, position + length); INT64_MAX if there is none. */
int64_t ph_find_lock(int32_t fd, uint64_t position, uint64_t length);
/* ph_memory_file -- a memfd that can be sealed. */
int64_t ph_memory_file(const char *name);

/* ---------------------------------------------------------------- the heap files of this process
 * A table of them, and of their maps: what a forked child gives up, and what a fault in a file that was cut is about. */

/* ph_file_table_state -- the table in use, to be handed to ph_file_table_share of another copy of the core. */
struct ph_file_table *ph_file_table_state(void);
void ph_file_table_share(struct ph_file_table *state);
/* ph_file_register -- enter an open file; its number. `lock_fd` becomes another descriptor of it, opened with `flags`,
 * which is closed by ph_file_release and by a forked child, and never mapped; -1 where none can be had. `path` is where
 * the file may be found if /proc is not there; NULL: nowhere. -EMFILE, -ENFILE, -ENOMEM: nothing has changed. */
int64_t ph_file_register(int32_t fd, int32_t flags, const char *path, int32_t *lock_fd);
/* ph_file_release -- the locks go, and the caller closes fd next. With `keep` a duplicate of it stays for as long as there
 * are maps, so that a child can have them for itself. */
void ph_file_release(uint64_t number, int32_t keep);
/* ph_file_will_map -- `count` pieces, each an offset and a length, are about to be mapped one behind the other at
 * `address`; they count as mapped until the range is unmapped. -ENOMEM, -EBADF: nothing has changed. */
int64_t ph_file_will_map(uint64_t number, uint64_t address, const uint64_t *pieces, uint64_t count, int32_t flags);
/* ph_file_fill -- put bytes that take the place of whatever stands at a mapped address, by a call: they are in the file, and the
 * map shows them. Unless `always`, only behind all that was filled: pages before that are mapped as a rule, and a store is faster.
 * `length`; 0: a store is to do it; or a refusal, with part of it done. */
int64_t ph_file_fill(uint64_t address, const void *bytes, uint64_t length, int32_t always);
/* ph_file_lock_byte -- take, change or drop the lock of a file that is open here on one byte, as ph_lock_byte does. -EBADF: it is
 * closed, or its locks are those of a parent. */
int64_t ph_file_lock_byte(uint64_t number, uint64_t position, int32_t lock);
/* ph_file_is_own -- whether this process has entered it, and not one that this is a fork of. */
int32_t ph_file_is_own(uint64_t number);
/* ph_file_is_lost -- whether a page of a map was found to have no page of the file behind it. */
int32_t ph_file_is_lost(uint64_t number);

/* ---------------------------------------------------------------- the tape, for tests
 * What changes one file, in program order: stores through its shared maps, and the system calls above. Stores that
 * nobody told (a user's, through a view) are found by comparing the file with a copy before each event.
 * A tape can also end the process: see kill_at. */
enum ph_tape_kind {
    PH_TAPE_STORE = 1,  /* bytes at offset := payload */
    PH_TAPE_FOUND,      /* the same, of a change that was only found; at most a sector of 512 bytes */
    PH_TAPE_WRITE,      /* the same, by pwrite; the file may have grown */
    PH_TAPE_TRUNCATE,   /* length is the file's size now */
    PH_TAPE_ALLOCATE,   /* fallocate of the range; detail is an enum ph_allocate_mode */
    PH_TAPE_SYNC_RANGE, /* what was stored to the range before event `begin` is durable */
    PH_TAPE_SYNC_FILE,  /* the same for all of the file, and its size */
    PH_TAPE_FLUSH,      /* cache lines of the range are on their way; durable at the next fence */
    PH_TAPE_FENCE,
    PH_TAPE_MAP,        /* the range can be stored to */
    PH_TAPE_UNMAP,
    PH_TAPE_NOTE,       /* of the test: detail is its kind, length its number */
};

struct ph_tape_event {
    uint32_t kind;
    uint32_t detail;
    uint64_t step;    /* the value of kill_at that ends the process before this event */
    uint64_t begin;   /* events on the tape when a system call was made; others may have come in before it returned */
    uint64_t offset;  /* in the file */
    uint64_t length;
    uint64_t payload; /* where the bytes begin in ph_tape.payload */
};

struct ph_tape_map {
    uint64_t start, stop; /* addresses of a shared map of the file */
    uint64_t offset;
};

struct ph_tape {
    uint64_t device, inode;
    uint64_t steps;   /* told so far: stores, writes, syncs, changes of the file; not notes and maps */
    uint64_t kill_at; /* SIGKILL before this step; 0 = never */
    uint64_t hand_at; /* wait for a word before this step; UINT64_MAX: before none; 0: what others do is not scheduled */
    int32_t told, granted; /* descriptors: who waits says so in one, and reads the word from the other; -1: none */
    int32_t fd;       /* of the tape's own; -1: nothing is recorded */
    int32_t error;    /* errno that ended the recording; 0 = none */
    int32_t lock;
    int32_t flushed;  /* since the last fence */
    unsigned char *copy; /* of the file, as the events so far make it */
    unsigned char *view; /* of the file, mapped by the tape */
    uint64_t size;       /* of the file and of copy */
    uint64_t view_length;
    struct ph_tape_map *maps;
    uint64_t map_count, map_room;
    struct ph_tape_event *events;
    uint64_t count, room;
    unsigned char *payload;
    uint64_t used, payload_room;
};

/* ph_tape_make -- a tape for the file behind fd. It records unless `kill_at`; its copy is the file as it is now. */
int64_t ph_tape_make(int32_t fd, uint64_t kill_at, struct ph_tape **out);
/* ph_tape_free -- Pre: no copy of the core has it. */
void ph_tape_free(struct ph_tape *tape);
/* ph_tape_state -- the tape of this copy of the core, or NULL. */
struct ph_tape *ph_tape_state(void);
/* ph_tape_share -- tell `tape` from now on; NULL ends it. */
void ph_tape_share(struct ph_tape *tape);
/* ph_tape_store -- tell of a store that comes next. */
void ph_tape_store(const void *to, const void *from, uint64_t length);
/* ph_tape_note -- put a word of the test on the tape, behind what can be found until now. */
void ph_tape_note(uint32_t kind, uint64_t number);
/* ph_tape_map, ph_tape_unmap -- a shared map of the file came, or a range is one no longer. */
void ph_tape_map(uint64_t address, uint64_t length, uint64_t offset);
void ph_tape_unmap(uint64_t address, uint64_t length);
/* ph_tape_hands -- let this process and another work by turns once `hand_at` is set. Before that step a word is written to `told`,
 * steps << 1, and one is read from `granted`: the next `hand_at`. What only looks is a step as well.
 * ph_tape_hand_at -- count steps from 0 on, and wait before this one.
 * ph_tape_look -- a look at what the other one changes, or a system call, comes next.
 * ph_tape_wait -- nothing can be done before the other one has: steps << 1 | 1 is written. */
void ph_tape_hands(struct ph_tape *tape, int32_t told, int32_t granted);
void ph_tape_hand_at(uint64_t hand_at);
void ph_tape_look(void);
void ph_tape_wait(void);
/* ph_tape_watches -- whether a descriptor is one of the tape's file. Pre: there is a tape. */
int32_t ph_tape_watches(int32_t fd);
/* ph_tape_flush, ph_tape_fence -- cache lines were flushed; a fence has come. */
void ph_tape_flush(uint64_t address, uint64_t length);
void ph_tape_fence(void);
/* ph_tape_begin -- a system call on a file comes next; 0 if it is not the tape's, else to be handed to ph_tape_end.
 * ph_tape_begin_range -- the same for one on mapped memory. ph_tape_end, ph_tape_end_range -- it returned `result`. */
uint64_t ph_tape_begin(int32_t fd, uint32_t kind);
uint64_t ph_tape_begin_range(uint64_t address, uint64_t length);
void ph_tape_end(uint64_t mark, int64_t result, const struct ph_tape_event *event, const void *bytes);
void ph_tape_end_range(uint64_t mark, int64_t result, uint32_t kind, uint64_t address, uint64_t length);
/* ph_put_at -- ph_put of os/tape.h, for Python. */
void ph_put_at(uint64_t address, const void *from, uint64_t length);
/* ph_copy_differences -- make `length` bytes at `to` equal those at `from`; store only to pages that differ.
 * Returns their number. Tells no tape. */
int64_t ph_copy_differences(uint64_t to, uint64_t from, uint64_t length);

/* ---------------------------------------------------------------- flush and fence */
enum ph_flush_kind {
    PH_FLUSH_NONE, /* nothing usable found: ph_flush does nothing, callers fall back to ph_sync_range */
    PH_FLUSH_CLFLUSH,
    PH_FLUSH_CLFLUSHOPT,
    PH_FLUSH_CLWB,
    PH_FLUSH_DC_CVAC,
    PH_FLUSH_DC_CVAP,
};

/* ph_flush_best -- the best kind this processor has. */
int32_t ph_flush_best(void);
/* ph_flush -- start the write-back of the cache lines that meet the range. -EINVAL for a kind of another machine. */
int64_t ph_flush(uint64_t address, uint64_t length, int32_t kind);
/* ph_fence -- order all flushes before it. */
void ph_fence(void);
