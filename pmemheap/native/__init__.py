"""Native: the only folder that sees `ffi`, `lib` and the C types. Typed functions over the C core.

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

    failures    NativeError                 files       bytes, blocks, locks, syncs
    ranges      memory: maps, stores        checksums   CRC32C
    seam, tape  for tests                   residency   what the kernel counts behind ranges
    constants   the numbers of the C core   rules       those of recovery, which a test leaves out
"""

from __future__ import annotations

from pmemheap._core import _hot
from pmemheap._core._hot import (
    AddressRange,
    BlockBytes,
    CountCore,
    Exporter,
    Handle,
    HeapCore,
    HeapDoors,
    LogCore,
    MapCore,
    Pin,
    Pins,
    Places,
    RecordCore,
    RegionCore,
    SnapshotCore,
    TrackCore,
    TxCore,
    Upstream,
    capture,
    class_starts,
    numpy_memory,
    numpy_refusal,
    set_numpy_memory,
)
from pmemheap._core._sys import ffi, lib
from pmemheap.native.checksums import (
    HAS_CRC32C,
    all_sealed,
    crc32c,
    crc32c_but,
    crc32c_hardware,
    crc32c_table,
)
from pmemheap.native.failures import NativeError, check
from pmemheap.native.files import (
    HUGETLBFS,
    OVERLAY,
    TMPFS,
    Allocate,
    FileStatus,
    Lock,
    cached,
    fallocate,
    fdatasync,
    file_flags,
    file_is_lost,
    file_is_own,
    filesystem_type,
    find_lock,
    fstat,
    fsync,
    ftruncate,
    is_dax,
    lock_byte,
    memfd_create,
    pread,
    pread_into,
    probe_lock,
    pwrite,
    register_file,
    release_file,
    sync_part,
)
from pmemheap.native.ranges import (
    BEST_FLUSH,
    MAP_ACCEPTED,
    MAP_BY_PAGE,
    Advice,
    FlushKind,
    become_own,
    can_map_in_sync,
    copy_differences,
    fence,
    file_will_map,
    flush,
    madvise,
    map_anonymous,
    map_file,
    map_flags,
    memory,
    msync,
    store,
    unmap,
)
from pmemheap.native.residency import Residency, free_memory, list_mappings, residencies
from pmemheap.native.seam import (
    IS_CHECKED,
    Call,
    Fault,
    FaultKind,
    faults,
    omit_rules,
    resolutions,
    system_calls,
)
from pmemheap.native.tape import (
    TapeEvent,
    TapeKind,
    tape_end,
    tape_is_on,
    tape_kill,
    tape_map,
    tape_note,
    tape_start,
    tape_steps,
)

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
    "CountCore",
    "Exporter",
    "Fault",
    "FaultKind",
    "FileStatus",
    "FlushKind",
    "Handle",
    "HeapCore",
    "HeapDoors",
    "Lock",
    "LogCore",
    "MapCore",
    "NativeError",
    "Pin",
    "Pins",
    "Places",
    "RecordCore",
    "RegionCore",
    "Residency",
    "SnapshotCore",
    "TapeEvent",
    "TapeKind",
    "TrackCore",
    "TxCore",
    "Upstream",
    "all_sealed",
    "become_own",
    "cached",
    "can_map_in_sync",
    "capture",
    "check",
    "class_starts",
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
    "find_lock",
    "flush",
    "free_memory",
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
    "numpy_memory",
    "numpy_refusal",
    "omit_rules",
    "pread",
    "pread_into",
    "probe_lock",
    "pwrite",
    "register_file",
    "release_file",
    "residencies",
    "resolutions",
    "set_numpy_memory",
    "store",
    "sync_part",
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
