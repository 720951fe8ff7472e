"""Native: the only module that sees `ffi`, `lib` and the C types. Typed functions over the C core.

    region, pmem2 ──► native ──┬── _core._sys   cffi: what can block; the GIL is released
                               └── _core._hot   extension types: what cannot; the GIL is kept

`Places` and `AddressRange` of `_hot` map and unmap: they give the GIL up around that system call,
and what they have checked holds until they note the outcome.

Two kinds of failure come out of here. A system call that was refused is a `NativeError`, an
`OSError` with the name of the call; the layer above knows what it meant and says so in its own
exception. The one code of its own is a UsageError.
Interrupted calls and short transfers have been repeated by then.

Addresses are plain integers and trusted: no user may reach these functions with a number of their
own.
"""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from pmemheap._core import _hot
from pmemheap._core._hot import (
    AddressRange,
    BlockBytes,
    Exporter,
    HeapCore,
    LogCore,
    MapCore,
    Places,
    TxCore,
)
from pmemheap._core._sys import ffi, lib
from pmemheap.errors import Portable, UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "BEST_FLUSH",
    "HAS_CRC32C",
    "HUGETLBFS",
    "IS_CHECKED",
    "MAP_ACCEPTED",
    "MAP_BY_PAGE",
    "OVERLAY",
    "TMPFS",
    "AddressRange",
    "Advice",
    "Allocate",
    "BlockBytes",
    "Call",
    "Exporter",
    "Fault",
    "FaultKind",
    "FileStatus",
    "FlushKind",
    "HeapCore",
    "Lock",
    "LogCore",
    "MapCore",
    "NativeError",
    "Places",
    "Residency",
    "TapeEvent",
    "TapeKind",
    "TxCore",
    "all_sealed",
    "cached",
    "can_map_in_sync",
    "check",
    "copy_differences",
    "crc32c",
    "crc32c_but",
    "crc32c_hardware",
    "crc32c_table",
    "fallocate",
    "faults",
    "fdatasync",
    "fence",
    "file_flags",
    "file_is_lost",
    "file_is_own",
    "file_will_map",
    "filesystem_type",
    "flush",
    "fstat",
    "fsync",
    "ftruncate",
    "is_dax",
    "list_mappings",
    "lock_byte",
    "madvise",
    "map_anonymous",
    "map_file",
    "map_flags",
    "memfd_create",
    "memory",
    "msync",
    "omit_rules",
    "pread",
    "pread_into",
    "probe_lock",
    "pwrite",
    "register_file",
    "release_file",
    "residencies",
    "resolutions",
    "store",
    "system_calls",
    "tape_end",
    "tape_is_on",
    "tape_kill",
    "tape_map",
    "tape_note",
    "tape_start",
    "tape_steps",
    "unmap",
]

# Both doors count system calls in one place, so that the next call meets a test's
# armed fault, through whichever door it comes.
_hot.share_faults(int(ffi.cast("uintptr_t", lib.ph_faults_state())))
_hot.share_files(int(ffi.cast("uintptr_t", lib.ph_file_table_state())))

HUGETLBFS = 0x958458F6
TMPFS = 0x01021994
OVERLAY = 0x794C7630
_NOT_TOLD = (-errno.ENOSYS, -errno.EOPNOTSUPP, -errno.EPERM)
_LAST_ERRNO = 4095


class Advice(IntEnum):
    """Advice to the kernel about a range, by `madvise`."""

    DONTNEED = lib.PH_ADVISE_DONTNEED
    REMOVE = lib.PH_ADVISE_REMOVE
    HUGEPAGE = lib.PH_ADVISE_HUGEPAGE
    NOHUGEPAGE = lib.PH_ADVISE_NOHUGEPAGE
    POPULATE_WRITE = lib.PH_ADVISE_POPULATE_WRITE
    DONTFORK = lib.PH_ADVISE_DONTFORK
    RANDOM = lib.PH_ADVISE_RANDOM


class Allocate(IntEnum):
    """Modes of `fallocate` for a range of a file."""

    EXTEND = lib.PH_ALLOCATE_EXTEND
    KEEP_SIZE = lib.PH_ALLOCATE_KEEP_SIZE
    PUNCH_HOLE = lib.PH_ALLOCATE_PUNCH_HOLE
    ZERO_RANGE = lib.PH_ALLOCATE_ZERO_RANGE


class Lock(IntEnum):
    """How one byte of a file is locked by an open file description."""

    NONE = lib.PH_LOCK_NONE
    READ = lib.PH_LOCK_READ
    WRITE = lib.PH_LOCK_WRITE


class FlushKind(IntEnum):
    """The instruction that writes a cache line back."""

    NONE = lib.PH_FLUSH_NONE
    CLFLUSH = lib.PH_FLUSH_CLFLUSH
    CLFLUSHOPT = lib.PH_FLUSH_CLFLUSHOPT
    CLWB = lib.PH_FLUSH_CLWB
    DC_CVAC = lib.PH_FLUSH_DC_CVAC
    DC_CVAP = lib.PH_FLUSH_DC_CVAP


class FaultKind(IntEnum):
    """How an armed system call fails: once, by a short transfer, or from then on."""

    ERROR = lib.PH_FAULT_ERROR
    SHORT = lib.PH_FAULT_SHORT
    FROM = lib.PH_FAULT_FROM


class Call(IntEnum):
    """A system call, as the seam names it."""

    NONE = lib.PH_CALL_NONE
    MMAP = lib.PH_CALL_MMAP
    MUNMAP = lib.PH_CALL_MUNMAP
    MREMAP = lib.PH_CALL_MREMAP
    MPROTECT = lib.PH_CALL_MPROTECT
    MADVISE = lib.PH_CALL_MADVISE
    MSYNC = lib.PH_CALL_MSYNC
    FALLOCATE = lib.PH_CALL_FALLOCATE
    FTRUNCATE = lib.PH_CALL_FTRUNCATE
    FSTAT = lib.PH_CALL_FSTAT
    STATX = lib.PH_CALL_STATX
    FSTATFS = lib.PH_CALL_FSTATFS
    PREAD = lib.PH_CALL_PREAD
    PWRITE = lib.PH_CALL_PWRITE
    FSYNC = lib.PH_CALL_FSYNC
    FDATASYNC = lib.PH_CALL_FDATASYNC
    FCNTL = lib.PH_CALL_FCNTL
    MEMFD = lib.PH_CALL_MEMFD
    CACHESTAT = lib.PH_CALL_CACHESTAT
    MINCORE = lib.PH_CALL_MINCORE


class TapeKind(IntEnum):
    """Kinds of events on the tape; see `TapeEvent`."""

    STORE = lib.PH_TAPE_STORE
    FOUND = lib.PH_TAPE_FOUND
    WRITE = lib.PH_TAPE_WRITE
    TRUNCATE = lib.PH_TAPE_TRUNCATE
    ALLOCATE = lib.PH_TAPE_ALLOCATE
    SYNC_RANGE = lib.PH_TAPE_SYNC_RANGE
    SYNC_FILE = lib.PH_TAPE_SYNC_FILE
    FLUSH = lib.PH_TAPE_FLUSH
    FENCE = lib.PH_TAPE_FENCE
    MAP = lib.PH_TAPE_MAP
    UNMAP = lib.PH_TAPE_UNMAP
    NOTE = lib.PH_TAPE_NOTE


# ---------------------------------------------------------------- failures


class NativeError(Portable, OSError):
    """A system call was refused; `errno` says why and `call` which.

    Parameters
    ----------
    number : int
        The errno, positive.
    call : str
        Name of the function here.
    """

    def __init__(self, number: int, call: str) -> None:
        super().__init__(number, f"{call}: {os.strerror(number)}")
        self.call = call


def check(result: int, call: str) -> int:
    """Return `result` of the C function behind `call`, or raise what a negative one stands for.

    Raises
    ------
    NativeError
        `result` is a negated errno.
    UsageError
        `result` is the core's own code for a mistake of the caller.
    """
    if result >= 0:
        return result
    if result >= -_LAST_ERRNO:
        raise NativeError(-result, call)
    assert result == lib.PH_EUSAGE, f"{call}: code {result}"
    raise UsageError(f"{call}: code {result} of the C core")


# ---------------------------------------------------------------- faults, for tests


@dataclass
class Fault:
    """The outcome of an armed fault: `hit` is the call that was refused or cut short, if any."""

    hit: Call = Call.NONE


@contextmanager
def faults(nth: int, number: int = 0, kind: FaultKind = FaultKind.ERROR) -> Iterator[Fault]:
    """Let the `nth` system call of the block fail with errno `number`; for tests.

    Parameters
    ----------
    nth : int
        1 is the next call, in whichever thread.
    number : int
        Positive; not looked at for `FaultKind.SHORT`.
    kind : FaultKind
        ``SHORT`` waits for the first transfer that is the `nth` call or a later one.

    Yields
    ------
    Fault
        Its `hit` is set when the block ends.
    """
    fault = Fault()
    check(lib.ph_fault_arm(nth, number, kind), "faults")
    try:
        yield fault
    finally:
        fault.hit = Call(lib.ph_fault_disarm())


IS_CHECKED = hasattr(_hot, "omit")
"""Whether the core asserts, and can leave rules out: it was built with PMEMHEAP_CHECKED=1."""


def omit_rules(rules: int) -> None:
    """Leave the rules of the log out whose bits are set; see `rules.omitting`.

    Raises
    ------
    UsageError
        The core is not checked.
    """
    if not IS_CHECKED:
        raise UsageError("rules: a core that was built with PMEMHEAP_CHECKED=1 expected")
    _hot.omit(rules)


def resolutions() -> int:
    """Return how often a checked core has resolved an offset to its block."""
    return _hot.resolutions()


def system_calls() -> int:
    """Return the number of system calls made or refused so far, by all threads."""
    return int(lib.ph_faults_state().calls)


# ---------------------------------------------------------------- the tape, for tests


class TapeEvent(NamedTuple):
    """One thing that changed the file of a tape, or made changes durable.

    `offset` and `length` are a range of the file, `data` its new bytes where there are any.
    `detail` is the mode of an ALLOCATE, or the kind of a NOTE, whose number is `length`.
    `step` is the argument of `tape_kill` that ends the process before this event.
    `begin` counts the events that were there when a system call was made: what came after it is not
    covered by a sync.
    """

    kind: TapeKind
    offset: int
    length: int
    detail: int
    step: int
    begin: int
    data: bytes


def _share_tape(tape: Any) -> None:
    lib.ph_tape_share(tape)
    _hot.share_tape(int(ffi.cast("uintptr_t", tape)))


def _make_tape(fd: int, kill_at: int) -> None:
    if tape_is_on():
        raise UsageError("tape: no other one expected in this process, one is running")
    out = ffi.new("struct ph_tape **")
    check(lib.ph_tape_make(fd, kill_at, out), "tape")
    _share_tape(out[0])


def tape_is_on() -> bool:
    """Tell whether this process has a tape running."""
    return bool(lib.ph_tape_state() != ffi.NULL)


def tape_start(fd: int) -> None:
    """Record what changes the file behind `fd`, from its bytes of now on; for tests.

    Told are the stores of the C core and `store`, and the system calls of this module. Maps that
    are there already are to be told by `tape_map`. Stores of others are found before the next
    event, as FOUND.

    Raises
    ------
    UsageError
        There is a tape already.
    NativeError
        No memory for a copy of the file.
    """
    _make_tape(fd, 0)


def tape_kill(fd: int, step: int) -> None:
    """End this process by SIGKILL just before the `step`-th change of the file from now; for tests.

    Notes and maps are no steps. Nothing is recorded. `tape_end` lets the process live.
    """
    if step < 1:
        raise UsageError(f"tape: a step from 1 on expected, {step} found")
    _make_tape(fd, step)


def tape_end() -> list[TapeEvent]:
    """End the tape and return what is on it.

    Raises
    ------
    NativeError
        Memory ran out while it was recorded.
    """
    tape = lib.ph_tape_state()
    if tape == ffi.NULL:
        raise UsageError("tape: one that runs expected, none found")
    lib.ph_tape_note(0, 0)  # looks for the last stores that nobody told
    _share_tape(ffi.NULL)
    try:
        check(-tape.error, "tape")
        if not tape.count:
            return []
        payload = ffi.buffer(tape.payload, tape.used) if tape.used else b""
        return [_tape_event(raw, payload) for raw in ffi.unpack(tape.events, tape.count - 1)]
    finally:
        lib.ph_tape_free(tape)


_WITH_DATA = {TapeKind.STORE, TapeKind.FOUND, TapeKind.WRITE}


def _tape_event(raw: Any, payload: Any) -> TapeEvent:
    kind = TapeKind(raw.kind)
    data = payload[raw.payload : raw.payload + raw.length] if kind in _WITH_DATA else b""
    return TapeEvent(kind, raw.offset, raw.length, raw.detail, raw.step, raw.begin, data)


def tape_note(kind: int, number: int) -> None:
    """Put a note on the tape, if there is one."""
    if tape_is_on():
        lib.ph_tape_note(kind, number)


def tape_map(address: int, length: int, offset: int) -> None:
    """Tell the tape of a shared map of its file that was there before it."""
    if tape_is_on():
        lib.ph_tape_map(address, length, offset)


def tape_steps() -> int:
    """Return the steps that the tape was told so far."""
    tape = lib.ph_tape_state()
    return 0 if tape == ffi.NULL else int(tape.steps)


def store(address: int, data: Buffer) -> None:
    """Store bytes to mapped memory: the way for all that may be persistent."""
    with ffi.from_buffer(data) as raw:
        lib.ph_put_at(address, raw, len(raw))


def copy_differences(target: Buffer, source: Buffer) -> int:
    """Make `target` equal `source`, storing only to pages that differ; return their number."""
    with (
        ffi.from_buffer(target, require_writable=True) as to,
        ffi.from_buffer(source) as origin,
    ):
        if len(to) != len(origin):
            raise UsageError(f"copy: {len(to)} bytes expected, {len(origin)} found")
        addresses = (int(ffi.cast("uintptr_t", raw)) for raw in (to, origin))
        return check(lib.ph_copy_differences(*addresses, len(to)), "copy_differences")


# ---------------------------------------------------------------- address space


def memory(address: int, length: int, owner: object, *, readonly: bool = False) -> memoryview:
    """Return the bytes at `address` as a memoryview that keeps `owner` alive.

    Parameters
    ----------
    address, length : int
        A range that is mapped for as long as `owner` lives, and can be written unless `readonly`.
    owner : object
        A `AddressRange`, as a rule.
    readonly : bool
        Refuse stores through the view.

    Returns
    -------
    memoryview
        ``(length,)`` of uint8. Slices and numpy arrays made of it keep `owner` as well.
    """
    return memoryview(Exporter(address, length, readonly, owner))


_SHARED, _READONLY, _SYNC = lib.PH_MAP_SHARED, lib.PH_MAP_READONLY, lib.PH_MAP_SYNC
_LARGE, _STRICT, _OWN = lib.PH_MAP_LARGE, lib.PH_MAP_STRICT, lib.PH_MAP_OWN

MAP_ACCEPTED: int = lib.PH_MAP_ACCEPTED
"""A flag besides: the file system has granted the others for this file before."""
MAP_BY_PAGE: int = lib.PH_MAP_RANDOM
"""A flag besides: the map is faulted in page by page, without read-ahead."""


def map_flags(  # noqa: PLR0913 -- flags, which do not depend on each other
    *,
    shared: bool,
    readonly: bool = False,
    sync: bool = False,
    large: bool = False,
    strict: bool = False,
    own: bool = False,
) -> int:
    """Return the flags that the C core has for how something is to be mapped.

    Parameters
    ----------
    shared, readonly : bool
        Whether stores reach the file; whether there can be any.
    sync : bool
        Ask for MAP_SYNC: persistent memory only, EOPNOTSUPP elsewhere.
    large : bool
        The pages of the file are larger than a page of memory.
    strict : bool
        For `Places`: only say what stands in the way, and in the end that the granularity does.
    own : bool
        By an open file description of its own, if the system grants one: the kernel tells it
        of each failed write-back, also if another descriptor of the file is synced before.
    """
    return int(
        shared * _SHARED | readonly * _READONLY | sync * _SYNC | large * _LARGE | strict * _STRICT
        | own * _OWN
    )  # fmt: skip


def can_map_in_sync(fd: int, offset: int, length: int) -> bool:
    """Tell whether the kernel grants MAP_SYNC for a piece of a file; nothing stays mapped."""
    flags = map_flags(shared=True, sync=True)
    return bool(lib.ph_try_map(fd, offset, length, flags) >= 0)


def map_anonymous(
    address: int, length: int, *, shared: bool = False, readonly: bool = False
) -> None:
    """Put zeroed memory over ``[address, address + length)`` of an own reservation.

    Raises
    ------
    NativeError
        The kernel refused; the range is reserved and empty.
    """
    flags = map_flags(shared=shared, readonly=readonly)
    check(lib.ph_map_anonymous(address, length, flags), "map_anonymous")


def map_file(  # noqa: PLR0913 -- the four numbers of mmap, and how
    fd: int,
    offset: int,
    address: int,
    length: int,
    *,
    shared: bool = True,
    readonly: bool = False,
    sync: bool = False,
) -> None:
    """Put ``[offset, offset + length)`` of a file over the same length of an own reservation.

    Parameters
    ----------
    fd : int
        An open file; it may be closed afterwards.
    offset, address, length : int
        Multiples of a page.
    shared, readonly : bool
        Whether stores reach the file; whether there can be any.
    sync : bool
        Ask for MAP_SYNC: persistent memory only, EOPNOTSUPP elsewhere.

    Raises
    ------
    NativeError
        The kernel refused; the range is reserved and empty, never a hole.
    """
    flags = map_flags(shared=shared, readonly=readonly, sync=sync)
    check(lib.ph_map_file(fd, offset, address, length, flags), "map_file")


def unmap(address: int, length: int) -> None:
    """Make a range of an own reservation empty again, in one step; it stays reserved."""
    check(lib.ph_unmap(address, length), "unmap")


def madvise(address: int, length: int, advice: Advice) -> None:
    """Tell the kernel what will become of a mapped range of whole pages."""
    check(lib.ph_advise(address, length, advice), "madvise")


def msync(address: int, length: int) -> None:
    """Write the dirty pages of a range back, and wait; `address` is a multiple of a page."""
    check(lib.ph_sync_range(address, length), "msync")


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class FileStatus:
    """The result of `fstat`: sizes in bytes, `special_device` as (major, minor) of a device file.

    `links` is the number of names; `birth` is when the file was made, in nanoseconds since 1970, 0
    where the file system does not know.
    """

    size: int
    allocated: int
    device: int
    inode: int
    links: int
    birth: int
    mode: int
    block_size: int
    special_device: tuple[int, int]


def fstat(fd: int) -> FileStatus:
    """Return size, allocated bytes and identity of an open file."""
    raw = ffi.new("struct ph_stat *")
    check(lib.ph_stat(fd, raw), "fstat")
    return FileStatus(
        size=raw.size,
        allocated=raw.blocks,
        device=raw.device,
        inode=raw.inode,
        links=raw.links,
        birth=raw.birth,
        mode=raw.mode,
        block_size=raw.block_size,
        special_device=divmod(raw.special_device, 1 << 32),
    )


def is_dax(fd: int) -> bool:
    """Tell whether the file's pages are its storage: whether MAP_SYNC has a chance."""
    return bool(check(lib.ph_is_dax(fd), "is_dax"))


def filesystem_type(fd: int) -> int:
    """Return the magic number of the file's file system: `TMPFS` for tmpfs and memfd."""
    return check(lib.ph_filesystem_type(fd), "filesystem_type")


def file_flags(fd: int) -> int:
    """Return the flags a file was opened with: ``flags & os.O_ACCMODE`` is the access."""
    return check(lib.ph_file_flags(fd), "file_flags")


def fallocate(fd: int, offset: int, length: int, mode: Allocate = Allocate.EXTEND) -> None:
    """Give a range of a file its blocks, or take them.

    Raises
    ------
    NativeError
        ENOSPC: no room, EOPNOTSUPP: not by this file system. The size is as before; blocks may have
        been added.
    """
    check(lib.ph_allocate(fd, offset, length, mode), "fallocate")


def ftruncate(fd: int, length: int) -> None:
    """Set the size of a file; what is new reads zero and has no blocks."""
    check(lib.ph_truncate(fd, length), "ftruncate")


def fsync(fd: int) -> None:
    """Wait until data, size and all else that `fstat` tells of a file are durable."""
    check(lib.ph_sync_all(fd), "fsync")


def fdatasync(fd: int) -> None:
    """Wait until the data of a file are durable, and the size if it is needed to read them."""
    check(lib.ph_sync_data(fd), "fdatasync")


def cached(fd: int, offset: int, length: int = 0) -> int | None:
    """Return how many pages of a range of a file are in memory, or None if that is not told.

    Parameters
    ----------
    offset, length : int
        Multiples of a page. A length of 0 reaches to the end: that an older system, or a file
        system over others, does not tell.
    """
    result = -errno.ENOSYS
    if filesystem_type(fd) != OVERLAY:  # whose files have their pages elsewhere
        result = lib.ph_cached(fd, offset, length)
    if result in _NOT_TOLD and length:
        result = lib.ph_cached_by_map(fd, offset, length)
    return None if result in _NOT_TOLD else check(result, "cached")


def pread_into(fd: int, buffer: Buffer, offset: int) -> int:
    """Fill `buffer` from a file; return the bytes read, fewer than asked only at the file's end."""
    with ffi.from_buffer(buffer, require_writable=True) as raw:
        return check(lib.ph_read(fd, raw, len(raw), offset), "pread")


def pread(fd: int, length: int, offset: int) -> bytes:
    """Return `length` bytes of a file, fewer only at its end."""
    buffer = bytearray(length)
    return bytes(buffer[: pread_into(fd, buffer, offset)])


def pwrite(fd: int, data: Buffer, offset: int) -> None:
    """Write all of `data` to a file at `offset`.

    Raises
    ------
    NativeError
        Part of it may have been written.
    """
    with ffi.from_buffer(data) as raw:
        check(lib.ph_write(fd, raw, len(raw), offset), "pwrite")


def lock_byte(fd: int, position: int, lock: Lock) -> bool:
    """Take, change or drop the lock of an open file description on one byte, without waiting.

    Returns
    -------
    bool
        False when another open file description holds a lock that stands in the way; nothing has
        changed.
    """
    result = lib.ph_lock_byte(fd, position, lock)
    if result in {-errno.EAGAIN, -errno.EACCES}:
        return False
    check(result, "lock_byte")
    return True


def probe_lock(fd: int, position: int, lock: Lock = Lock.WRITE) -> Lock:
    """Return the lock of others that stands in the way of `lock` on a byte, or ``Lock.NONE``."""
    return Lock(check(lib.ph_probe_lock(fd, position, lock), "probe_lock"))


def memfd_create(name: str) -> int:
    """Return a descriptor of a new memory file of size 0 that can be sealed; closed on exec."""
    return check(lib.ph_memory_file(name.encode()), "memfd_create")


# ---------------------------------------------------------------- the heap files of this process


def register_file(fd: int, path: str | None, *, readonly: bool) -> tuple[int, int]:
    """Enter an open file that will be mapped: a fork gives it up in the child.

    Parameters
    ----------
    fd : int
        The caller closes it, after `release_file`.
    path : str, optional
        Where the file may be found where there is no /proc.

    Returns
    -------
    tuple of (int, int)
        The number of the file, which no other one gets, and a descriptor to lock it by, which is
        never mapped and belongs to the table; `fd` itself if no other one could be had.

    Raises
    ------
    NativeError
        No descriptor or no memory is left.
    """
    lock_fd = ffi.new("int32_t *")
    flags = os.O_RDONLY if readonly else os.O_RDWR
    name = ffi.NULL if path is None else os.fsencode(path)
    number = check(lib.ph_file_register(fd, flags, name, lock_fd), "register_file")
    return number, fd if lock_fd[0] < 0 else lock_fd[0]


def release_file(number: int, *, keep: bool) -> None:
    """Let the locks of a file go, before its descriptor is closed.

    Parameters
    ----------
    keep : bool
        Views are left: keep a duplicate of the descriptor until they have gone, so that a child can
        have what they show for itself.
    """
    lib.ph_file_release(number, keep)


def file_will_map(
    number: int,
    address: int,
    pieces: Sequence[tuple[int, int]],
    *,
    shared: bool = True,
    readonly: bool = False,
) -> None:
    """Enter pieces of a file, ``(offset, length)``, that are about to be mapped at an address.

    They count as mapped until the range is unmapped or given back.

    Raises
    ------
    NativeError
        EBADF: the file was released, or entered by a process of which this is a fork. ENOMEM.
    """
    flags = shared * _SHARED | readonly * _READONLY
    places = list(chain.from_iterable(pieces))
    check(lib.ph_file_will_map(number, address, places, len(pieces), flags), "file_will_map")


def file_is_own(number: int) -> bool:
    """Tell whether this process has entered a file, and not one that it is a fork of."""
    return bool(lib.ph_file_is_own(number))


def file_is_lost(number: int) -> bool:
    """Tell whether a map of a file has met a page that the file does not have any more."""
    return bool(lib.ph_file_is_lost(number))


# ---------------------------------------------------------------- flush, fence, checksum

BEST_FLUSH = FlushKind(lib.ph_flush_best())
"""The best instruction of this machine."""

HAS_CRC32C = bool(lib.ph_crc32c_has_hardware())
"""Whether this machine has an instruction for CRC-32C."""


def flush(address: int, length: int, kind: FlushKind = BEST_FLUSH) -> None:
    """Start the write-back of the cache lines of a mapped range; `fence` orders it."""
    check(lib.ph_flush(address, length, kind), "flush")


def fence() -> None:
    """Order all flushes before it: on persistent memory they are durable when it returns."""
    lib.ph_fence()


def crc32c(data: Buffer, seed: int = 0) -> int:
    """Return the CRC-32C of `data`, going on from `seed`, the CRC of what came before.

    Examples
    --------
    >>> hex(crc32c(b"123456789")), crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")
    ('0xe3069283', True)
    """
    with ffi.from_buffer(data) as raw:
        return int(lib.ph_crc32c(seed, raw, len(raw)))


def crc32c_but(data: bytes, at: int) -> int:
    """Return the CRC-32C of `data`, of which the four bytes from `at` on count as zero."""
    if not 0 <= at <= len(data) - 4:
        raise UsageError(f"crc32c: four bytes inside of {len(data)} expected, {at} found")
    return int(lib.ph_crc32c_but(data, len(data), at))


def all_sealed(slots: bytes, width: int, at: int) -> bool:
    """Tell whether slots of `width` bytes are zero, or have at `at` the `crc32c_but` of theirs."""
    if width < 1 or len(slots) % width or not 0 <= at <= width - 4:
        raise UsageError(f"seals: whole slots of {width} bytes expected, {len(slots)} found")
    return bool(lib.ph_all_sealed(slots, len(slots) // width, width, at))


def crc32c_table(data: Buffer, seed: int = 0) -> int:
    """Return the same as `crc32c`, computed by table; for tests."""
    with ffi.from_buffer(data) as raw:
        return int(lib.ph_crc32c_table(seed, raw, len(raw)))


def crc32c_hardware(data: Buffer, seed: int = 0) -> int:
    """Return the same as `crc32c`, computed by instruction; for tests.

    Raises
    ------
    UsageError
        This machine has none: `HAS_CRC32C` tells.
    """
    if not HAS_CRC32C:
        raise UsageError("crc32c_hardware: an instruction for CRC-32C expected, none found")
    with ffi.from_buffer(data) as raw:
        return int(lib.ph_crc32c_hardware(seed, raw, len(raw)))


# ---------------------------------------------------------------- residency


_SMAPS = "/proc/self/smaps"
_MAPPING = re.compile(rb"^([0-9a-f]+)-[0-9a-f]+ ", re.MULTILINE)
_MEMORY = re.compile(rb"^(Rss|Pss|Swap): +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Residency:
    """Memory behind a range, in bytes.

    `resident` counts pages that are in memory, `proportional` a shared page by its part (Pss),
    `swapped` those that have been moved out.
    """

    resident: int
    proportional: int
    swapped: int


def list_mappings() -> bytes:
    """Return the kernel's list of the mappings of this process; empty where there is no /proc.

    Raises
    ------
    OSError
        It cannot be opened.
    """
    try:
        with open(_SMAPS, "rb") as smaps:
            return smaps.read()
    except FileNotFoundError:
        return b""


def residencies(
    ranges: dict[str, tuple[int, int]], listed: bytes | None = None
) -> dict[str, Residency]:
    """Return what the kernel counts for the mappings that begin inside each of some ranges.

    Parameters
    ----------
    ranges : dict of str to (int, int)
        Name to ``[start, stop)``; ranges do not overlap.
    listed : bytes, optional
        What `list_mappings` has returned, if it is asked for several of them.

    Returns
    -------
    dict of str to Residency
        O(mappings of the process). All zero where there is no /proc.

    Raises
    ------
    OSError
        They cannot be listed.
    """
    listed = list_mappings() if listed is None else listed
    found = {name: Counter[bytes]() for name in ranges}
    headers = [*_MAPPING.finditer(listed)]
    for header, following in zip_longest(headers, headers[1:]):
        first = int(header[1], 16)
        name = next((n for n, (start, stop) in ranges.items() if start <= first < stop), None)
        if name is not None:
            stop = len(listed) if following is None else following.start()
            for field, kilobytes in _MEMORY.findall(listed, header.end(), stop):
                found[name][field] += int(kilobytes) * 1024
    return {name: Residency(of[b"Rss"], of[b"Pss"], of[b"Swap"]) for name, of in found.items()}
