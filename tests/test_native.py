from __future__ import annotations

import errno
import fcntl
import gc
import os
import pickle
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pmemheap
from pmemheap import native
from pmemheap._core._sys import lib
from pmemheap.errors import UsageError
from pmemheap.native import (
    AddressRange,
    Advice,
    Allocate,
    Call,
    Exporter,
    FaultKind,
    FlushKind,
    Lock,
    NativeError,
    Places,
)
from pmemheap.native.constants import (
    CLOSED,
    Finding,
    Kind,
    Refusal,
    Scan,
    State,
    TxState,
    UnitState,
)
from pmemheap.units import PAGE, MiB

CORE = Path(pmemheap.__file__).parent / "_core"


@pytest.fixture
def fd() -> Iterator[int]:
    descriptor = native.memfd_create("native")
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def line() -> AddressRange:
    return AddressRange(0, 16 * PAGE)


# ---------------------------------------------------------------- codes


def enumerators(name: str) -> list[str]:
    text = (CORE / "base/codes.h").read_text() + (CORE / "os/os.h").read_text()
    body = re.search(rf"enum {name} {{(.*?)}};", text, re.DOTALL)
    assert body is not None
    return re.findall(r"(?:^|,)\s*(PH_\w+)", body[1], re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "enum"),
    [
        ("ph_call", Call),
        ("ph_fault_kind", FaultKind),
        ("ph_advice", Advice),
        ("ph_allocate_mode", Allocate),
        ("ph_lock", Lock),
        ("ph_flush_kind", FlushKind),
        ("ph_heap_state", State),
        ("ph_tx_state", TxState),
        ("ph_kind", Kind),
        ("ph_unit_state", UnitState),
        ("ph_scanned", Scan),
        ("ph_finding_code", Finding),
    ],
)
def test_python_and_c_list_the_same_names(name: str, enum: type[Call]) -> None:
    in_c = {getattr(lib, entry): entry for entry in enumerators(name)}
    in_c.pop(lib.PH_CALL_COUNT if name == "ph_call" else None, None)
    assert {int(member) for member in enum} == set(in_c)
    assert all(in_c[int(member)].endswith(f"_{member.name}") for member in enum)


def test_each_refusal_has_a_number_and_a_name_of_its_own() -> None:
    in_c = [getattr(lib, entry) for entry in enumerators("ph_refusal")]
    named = [number for name, number in vars(Refusal).items() if name.isupper()]
    assert len(set(in_c)) == len(in_c)
    assert sorted([*named, lib.PH_M_RAISED]) == sorted(in_c)


def test_a_code_of_the_core_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="somewhere"):
        native.check(lib.PH_EUSAGE, "somewhere")


def test_an_errno_is_raised_with_the_call_and_survives_pickling() -> None:
    with pytest.raises(NativeError) as raised:
        native.check(-errno.ENOSPC, "fallocate")
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (copy.errno, copy.call, str(copy)) == (errno.ENOSPC, "fallocate", str(raised.value))


def test_results_pass() -> None:
    assert native.check(7, "anything") == 7


# ---------------------------------------------------------------- the seam


def test_the_nth_call_fails_and_the_next_does_not(fd: int) -> None:
    gc.collect()
    before = native.system_calls()
    with native.faults(2, errno.EIO) as fault:
        native.fsync(fd)
        with pytest.raises(NativeError) as raised:
            native.fdatasync(fd)
        native.fsync(fd)
    assert raised.value.errno == errno.EIO
    assert fault.hit is Call.FDATASYNC
    assert native.system_calls() == before + 3


def test_a_fault_that_nothing_met_says_so() -> None:
    with native.faults(1, errno.EIO) as fault:
        pass
    assert fault.hit is Call.NONE


def test_a_fault_is_not_spent_on_what_the_collector_frees(fd: int) -> None:
    cycle: list[object] = [AddressRange(0, PAGE)]
    cycle.append(cycle)
    del cycle
    with native.faults(1, errno.EIO) as fault:
        assert len([[] for _ in range(10 * gc.get_threshold()[0])]) > 0
        with pytest.raises(NativeError):
            native.fsync(fd)
    assert fault.hit is Call.FSYNC
    assert gc.isenabled()


def test_from_then_on_all_calls_fail(fd: int) -> None:
    with native.faults(2, errno.ENOSPC, FaultKind.FROM):
        native.fsync(fd)
        for _ in range(3):
            with pytest.raises(NativeError):
                native.fsync(fd)
    native.fsync(fd)


def test_interrupted_calls_are_repeated(fd: int) -> None:
    with native.faults(1, errno.EINTR) as fault:
        native.fsync(fd)
    assert fault.hit is Call.FSYNC


@pytest.mark.parametrize("nth", [1, 2])
def test_short_transfers_are_finished(fd: int, nth: int) -> None:
    text = b"a text of some length"
    with native.faults(nth, kind=FaultKind.SHORT) as fault:
        native.fsync(fd)
        native.pwrite(fd, text, 5)
    assert fault.hit is Call.PWRITE
    with native.faults(nth, kind=FaultKind.SHORT) as fault:
        native.fsync(fd)
        assert native.pread(fd, 100, 0) == bytes(5) + text
    assert fault.hit is Call.PREAD


def test_both_doors_share_the_seam() -> None:
    gc.collect()  # what a test before has left would make the first call
    with native.faults(1, errno.ENOMEM) as fault, pytest.raises(OSError, match="memory"):
        AddressRange(0, PAGE)
    assert fault.hit is Call.MMAP


@pytest.mark.parametrize(
    ("nth", "number", "kind"),
    [(0, 5, FaultKind.ERROR), (1, -5, FaultKind.ERROR), (1, errno.EINTR, FaultKind.FROM)],
)
def test_a_fault_without_sense_is_refused(nth: int, number: int, kind: FaultKind) -> None:
    with pytest.raises(UsageError), native.faults(nth, number, kind):
        pass


# ---------------------------------------------------------------- address_ranges and exporters


def is_mapped(address: int) -> bool:
    """Tell whether anything is mapped at an address: then it cannot be reserved."""
    try:
        AddressRange(address, PAGE)
    except FileExistsError:
        return True
    return False


def test_a_address_range_owns_its_range_until_the_last_reference() -> None:
    line = AddressRange(0, 16 * PAGE)
    start = line.start
    exporter = Exporter(start, PAGE, False, line)
    view = memoryview(exporter)
    del line, exporter
    gc.collect()
    assert is_mapped(start)
    view.release()
    del view
    assert not is_mapped(start)


def test_places_move_the_borders_of_their_address_range() -> None:
    line = AddressRange(0, 10 * PAGE, 6 * PAGE)
    places, start = Places(line), line.start
    assert (line.size, line.headroom) == (10 * PAGE, 6 * PAGE)
    assert places.extend(2 * PAGE, 0) == 0
    assert places.shrink(11 * PAGE, PAGE, False) == 0
    assert (line.size, line.headroom) == (11 * PAGE, 4 * PAGE)
    assert places.shrink(0, PAGE, True) == 0
    assert (line.start, line.size) == (start + PAGE, 10 * PAGE)
    assert not is_mapped(start)
    assert is_mapped(start + 10 * PAGE)
    assert not is_mapped(start + 15 * PAGE)
    assert places.release() == places.release() == 0
    assert (line.size, line.headroom) == (0, 0)
    assert not is_mapped(start + PAGE)
    answers = [places.extend(PAGE, 0), places.shrink(0, PAGE, True), place(places, [])]
    assert answers == [CLOSED] * 3


def place(places: Places, exporters: list[Exporter]) -> int:
    flags = native.map_flags(shared=False)
    return places.place(0, PAGE, PAGE, flags, -1, [], [object() for _ in exporters], exporters)


@pytest.mark.parametrize("argument", ["1", None, 1.5])
def test_places_take_only_numbers(line: AddressRange, argument: Any) -> None:
    places = Places(line)
    with pytest.raises(TypeError):
        places.extend(argument, 0)
    with pytest.raises(TypeError):
        places.find(0, argument)
    with pytest.raises(TypeError):
        Places(argument)


def test_places_with_exporters_are_not_released(line: AddressRange) -> None:
    places = Places(line)
    exporter = Exporter(line.start, PAGE, False, line)
    assert places.release() == 1
    del exporter
    assert places.release() == 0


def test_a_exporter_has_its_memory_from_being_placed_to_being_removed(line: AddressRange) -> None:
    places, exporter = Places(line), Exporter(0, PAGE, False, None)
    with pytest.raises(ValueError, match="open"):
        memoryview(exporter)
    assert (place(places, [exporter]), exporter.address, line.exporters) == (0, line.start, 1)
    assert place(places, [exporter]) == -errno.EINVAL  # an exporter has one place
    with memoryview(exporter) as view:
        view[0] = 1
        assert places.remove(exporter) == 1
    assert places.remove(exporter) == places.remove(exporter) == 0
    assert (exporter.closed, line.exporters) == (True, 0)
    with pytest.raises(ValueError, match="open"):
        memoryview(exporter)


def row_of(places: Places, count: int) -> list[Exporter]:
    row = [Exporter(0, PAGE, False, None) for _ in range(count)]
    flags = native.map_flags(shared=False)
    maps: list[object] = [object() for _ in row]
    assert places.place(0, count * PAGE, PAGE, flags, -1, [], maps, row) == 0
    return row


def test_a_row_is_removed_in_one_call(line: AddressRange) -> None:
    places = Places(line)
    row = row_of(places, 4)
    calls = native.system_calls()
    assert places.remove_row(row[1], row[2]) == 2
    assert native.system_calls() == calls + 1
    assert [each.closed for each in row] == [False, True, True, False]
    assert (line.exporters, len(places.all())) == (2, 2)
    assert [places.remove(row[0]), places.remove(row[3]), places.release()] == [0, 0, 0]


def test_a_row_with_a_view_a_gap_or_a_refusal_stays(line: AddressRange) -> None:
    places = Places(line)
    row = row_of(places, 3)
    with memoryview(row[1]):
        assert places.remove_row(row[0], row[2]) == -errno.EBUSY
    with native.faults(1, errno.ENOMEM):
        assert places.remove_row(row[0], row[2]) == -errno.ENOMEM
    assert places.remove_row(row[2], row[0]) == -errno.EINVAL
    assert places.remove_row(row[0], Exporter(0, PAGE, False, None)) == -errno.EINVAL
    with memoryview(row[1]) as view:  # all of it is there
        view[0] = 1
    assert places.remove(row[1]) == 0
    assert places.remove_row(row[0], row[2]) == -errno.EINVAL  # a gap
    assert places.remove_row(row[0], row[0]) == 1
    assert len(places.all()) == 1


def test_a_dead_address_range_leaves_its_weak_references() -> None:
    line = AddressRange(0, 16 * PAGE)
    reference = weakref.ref(line)
    del line
    assert reference() is None


def test_a_exporter_counts_views_slices_and_arrays(line: AddressRange) -> None:
    native.map_anonymous(line.start, PAGE)
    exporter = Exporter(line.start, PAGE, False, line)
    view = memoryview(exporter)
    part = view[16:32]
    del view
    assert exporter.exports == 1
    array = np.frombuffer(part, dtype="u4")
    del part
    assert exporter.exports == 1
    array[:] = 7
    assert native.memory(line.start + 16, 4, line)[0] == 7
    del array
    gc.collect()
    assert exporter.exports == 0


def test_a_exporter_in_a_cycle_keeps_its_memory_until_it_is_collected() -> None:
    line = AddressRange(0, 16 * PAGE)
    native.map_anonymous(line.start, PAGE)
    holder: list[object] = [native.memory(line.start, PAGE, line)]
    holder.append(holder)
    reference = weakref.ref(line)
    del line
    assert reference() is not None
    del holder
    gc.collect()
    assert reference() is None


def test_a_readonly_exporter_refuses_stores(line: AddressRange) -> None:
    native.map_anonymous(line.start, PAGE, readonly=True)
    view = native.memory(line.start, PAGE, line, readonly=True)
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1


def test_exporters_and_address_ranges_take_what_they_take() -> None:
    with pytest.raises(TypeError):
        AddressRange(address=0, length=PAGE)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Exporter(0, 0, False, keep=None)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="length"):
        Exporter(0, -1, False, None)


# ---------------------------------------------------------------- maps and files


def test_anonymous_memory_reads_zero_and_can_be_emptied(line: AddressRange) -> None:
    native.map_anonymous(line.start, 2 * PAGE)
    view = native.memory(line.start, 2 * PAGE, line)
    view[PAGE] = 9
    native.madvise(line.start, 2 * PAGE, Advice.DONTNEED)
    assert bytes(view) == bytes(2 * PAGE)
    native.unmap(line.start, 2 * PAGE)
    native.map_anonymous(line.start, PAGE, shared=True)
    assert view[0] == 0


def test_a_file_is_mapped_and_written_back(line: AddressRange, fd: int) -> None:
    native.ftruncate(fd, 4 * PAGE)
    native.map_file(fd, PAGE, line.start, PAGE)
    native.memory(line.start, PAGE, line)[:3] = b"abc"
    native.msync(line.start, PAGE)
    assert native.pread(fd, 3, PAGE) == b"abc"


def test_a_private_map_does_not_write_back(line: AddressRange, fd: int) -> None:
    native.ftruncate(fd, PAGE)
    native.map_file(fd, 0, line.start, PAGE, shared=False)
    native.memory(line.start, PAGE, line)[:3] = b"abc"
    assert native.pread(fd, 3, 0) == bytes(3)


def test_a_map_that_fails_leaves_the_placeholder(line: AddressRange) -> None:
    with open("/proc/self/maps", "rb") as text, pytest.raises(NativeError) as raised:
        native.map_file(text.fileno(), 0, line.start, PAGE)
    assert raised.value.errno in {errno.ENODEV, errno.EACCES, errno.EIO}
    assert is_mapped(line.start)


def test_a_file_gets_blocks_and_gives_them_back(fd: int) -> None:
    native.fallocate(fd, 0, MiB)
    assert (native.fstat(fd).size, native.fstat(fd).allocated) == (MiB, MiB)
    native.fallocate(fd, MiB, MiB, Allocate.KEEP_SIZE)
    assert (native.fstat(fd).size, native.fstat(fd).allocated) == (MiB, 2 * MiB)
    native.fallocate(fd, 0, MiB // 2, Allocate.PUNCH_HOLE)
    assert (native.fstat(fd).size, native.fstat(fd).allocated) == (MiB, 2 * MiB - MiB // 2)


def test_a_range_of_a_file_is_zeroed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3 * PAGE)
    with path.open("r+b") as file:
        try:
            native.fallocate(file.fileno(), PAGE, PAGE, Allocate.ZERO_RANGE)
        except NativeError as error:
            assert error.errno == errno.EOPNOTSUPP  # noqa: PT017 -- not every file system can
            return
    assert path.read_bytes() == b"x" * PAGE + bytes(PAGE) + b"x" * PAGE


def test_reading_stops_at_the_end(fd: int) -> None:
    native.pwrite(fd, b"abc", 0)
    buffer = bytearray(10)
    assert native.pread_into(fd, buffer, 1) == 2
    assert buffer[:3] == b"bc\0"


def test_status_is_that_of_os_fstat(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    with path.open("rb") as file:
        ours, theirs = native.fstat(file.fileno()), os.fstat(file.fileno())
        assert ours.size == theirs.st_size
        assert ours.allocated == theirs.st_blocks * 512
        assert (ours.inode, ours.mode) == (theirs.st_ino, theirs.st_mode)
        assert not native.is_dax(file.fileno())
        assert native.file_flags(file.fileno()) & os.O_ACCMODE == os.O_RDONLY


def test_a_device_has_its_numbers() -> None:
    with open("/dev/null", "rb") as null:
        assert native.fstat(null.fileno()).special_device == (1, 3)


def test_a_memory_file_lies_on_tmpfs_and_can_be_sealed(fd: int) -> None:
    assert native.filesystem_type(fd) == native.TMPFS
    native.ftruncate(fd, PAGE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with pytest.raises(NativeError) as raised:
        native.ftruncate(fd, 0)
    assert raised.value.errno == errno.EPERM


def test_byte_locks_belong_to_the_open_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with path.open("r+b") as one, path.open("r+b") as other:
        a, b = one.fileno(), other.fileno()
        assert native.lock_byte(a, 100, Lock.READ)
        assert native.lock_byte(b, 100, Lock.READ)
        assert not native.lock_byte(a, 100, Lock.WRITE)
        assert native.probe_lock(a, 100) is Lock.READ
        assert native.lock_byte(b, 100, Lock.NONE)
        assert native.lock_byte(a, 100, Lock.WRITE)
        assert native.probe_lock(b, 100, Lock.READ) is Lock.WRITE
        assert native.probe_lock(b, 101) is Lock.NONE
        assert native.probe_lock(a, 100) is Lock.NONE
        assert not native.lock_byte(b, 100, Lock.READ)


def test_a_lock_on_a_closed_file_is_an_error() -> None:
    with pytest.raises(NativeError):
        native.lock_byte(999_999, 0, Lock.WRITE)


# ---------------------------------------------------------------- flush and checksum


@pytest.mark.parametrize("length", [0, 1, 64, 65, PAGE])
def test_flush_leaves_the_bytes_alone(line: AddressRange, length: int) -> None:
    native.map_anonymous(line.start, PAGE)
    view = native.memory(line.start, PAGE, line)
    view[:] = bytes(range(256)) * 16
    native.flush(line.start + 3, min(length, PAGE - 3))
    native.fence()
    assert bytes(view) == bytes(range(256)) * 16


def test_flush_knows_the_instructions_of_this_machine_only() -> None:
    foreign = {FlushKind.DC_CVAC, FlushKind.CLFLUSH} - {native.BEST_FLUSH}
    foreign = {kind for kind in foreign if (kind.name < "D") == (native.BEST_FLUSH.name > "D")}
    for kind in foreign:
        with pytest.raises(NativeError):
            native.flush(0, 1, kind)
    native.flush(0, 1, FlushKind.NONE)


VECTORS = [
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
]


@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_checksum_of_known_vectors(data: bytes, expected: int) -> None:
    """RFC 3720, B.4, and the check value of the CRC catalogues."""
    assert native.crc32c(data) == native.crc32c_table(data) == expected


@given(st.binary(max_size=300), st.integers(0, (1 << 32) - 1), st.integers(0, 16))
def test_instruction_and_table_agree(data: bytes, seed: int, skip: int) -> None:
    part = memoryview(data)[skip:]
    assert native.crc32c(part, seed) == native.crc32c_table(part, seed)
    if native.HAS_CRC32C:
        assert native.crc32c_hardware(part, seed) == native.crc32c_table(part, seed)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_checksums_go_on_from_each_other(first: bytes, second: bytes) -> None:
    assert native.crc32c(second, native.crc32c(first)) == native.crc32c(first + second)
