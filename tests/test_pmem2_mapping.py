from __future__ import annotations

import copy
import errno
import gc
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from address_space import permissions

from pmemheap import native, pmem2
from pmemheap.errors import DurabilityError, Pmem2Error, UsageError
from pmemheap.native import Call
from pmemheap.pmem2 import Granularity, Map, Source, VMReservation
from pmemheap.pmem2 import source as source_module
from pmemheap.pmem2.source import FileSource, Options
from pmemheap.units import PAGE, MiB

PAGES = 16


def code_of(call: Callable[[], object]) -> int:
    with pytest.raises(Pmem2Error) as raised:
        call()
    return raised.value.code


@pytest.fixture
def reservation() -> Iterator[VMReservation]:
    with VMReservation(PAGES * PAGE) as made:
        yield made


@pytest.fixture
def fd() -> Iterator[int]:
    descriptor = native.memfd_create("mapping")
    os.ftruncate(descriptor, 10_000)
    yield descriptor
    os.close(descriptor)


def pages(reservation: VMReservation) -> str:
    return permissions(reservation.address, reservation.address + reservation.size)


# ---------------------------------------------------------------- anonymous


def test_anonymous_memory_is_placed_and_reads_zero(reservation: VMReservation) -> None:
    made = Map.anonymous(reservation, 2 * PAGE, 3 * PAGE)
    assert made.address == reservation.address + 2 * PAGE
    assert (made.offset, made.length, made.reservation) == (2 * PAGE, 3 * PAGE, reservation)
    assert made.granularity is Granularity.BYTE
    assert bytes(made.view) == bytes(3 * PAGE)
    assert pages(reservation) == "--www" + "-" * 11


@pytest.mark.parametrize(
    ("offset", "length", "code"),
    [
        (1, 0, pmem2.PMEM2_E_SOURCE_EMPTY),
        (1, 1, pmem2.PMEM2_E_LENGTH_UNALIGNED),
        (1, -PAGE, pmem2.PMEM2_E_MAP_RANGE),
        (1, PAGE, pmem2.PMEM2_E_OFFSET_UNALIGNED),
        (PAGES * PAGE, PAGE, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (-PAGE, PAGE, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (0, (PAGES + 1) * PAGE, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (0, 1 << 64, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (0, 5 * PAGE, pmem2.PMEM2_E_MAPPING_EXISTS),
        (5 * PAGE, PAGE, pmem2.PMEM2_E_MAPPING_EXISTS),
        (4 * PAGE, 4 * PAGE, pmem2.PMEM2_E_MAPPING_EXISTS),
    ],
)
def test_anonymous_refuses_and_changes_nothing(
    reservation: VMReservation, offset: int, length: int, code: int
) -> None:
    Map.anonymous(reservation, 4 * PAGE, 2 * PAGE).view[0] = 7
    before = pages(reservation)
    assert code_of(lambda: Map.anonymous(reservation, offset, length)) == code
    assert pages(reservation) == before
    assert reservation.first().view[0] == 7


@pytest.mark.parametrize("sharing", ["shared", "private"])
def test_a_forked_child_shares_what_is_shared(reservation: VMReservation, sharing: str) -> None:
    made = Map.anonymous(reservation, 0, PAGE, sharing=sharing)  # type: ignore[arg-type]
    view = made.view
    child = os.fork()
    if child == 0:
        view[0] = 9
        os._exit(0)
    os.waitpid(child, 0)
    assert view[0] == (9 if sharing == "shared" else 0)
    view.release()


def test_sharing_and_access_have_two_values(reservation: VMReservation, fd: int) -> None:
    with pytest.raises(UsageError, match="sharing"):
        Map.anonymous(reservation, 0, PAGE, sharing="public")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="access"):
        Map.file(fd, reservation, 0, PAGE, access="w")  # type: ignore[arg-type]


# ---------------------------------------------------------------- files


def test_a_whole_file_may_end_inside_a_page(reservation: VMReservation, fd: int) -> None:
    made = Map.file(fd, reservation, PAGE, 0)
    assert (made.length, made.view.nbytes) == (10_000, 10_000)
    assert made.granularity is Granularity.PAGE
    assert reservation.find(PAGE + 9_999, 1) is made
    not_found = code_of(lambda: reservation.find(PAGE + 10_000, 1))
    assert not_found == pmem2.PMEM2_E_MAPPING_NOT_FOUND
    occupied = code_of(lambda: Map.anonymous(reservation, 3 * PAGE, PAGE))
    assert occupied == pmem2.PMEM2_E_MAPPING_EXISTS


def test_stores_reach_the_file(reservation: VMReservation, fd: int) -> None:
    made = Map.file(fd, reservation, 0, PAGE, PAGE)
    made.view[:3] = b"abc"
    made.persist(0, 3)
    assert os.pread(fd, 3, PAGE) == b"abc"


def test_stores_to_a_private_map_do_not(reservation: VMReservation, fd: int) -> None:
    made = Map.file(fd, reservation, 0, PAGE, sharing="private")
    made.view[:3] = b"abc"
    made.persist()
    assert os.pread(fd, 3, 0) == bytes(3)
    assert made.granularity is Granularity.BYTE


def test_a_map_outlives_its_descriptor(reservation: VMReservation, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * PAGE)
    with path.open("r+b") as file:
        made = Map.file(file.fileno(), reservation, 0, 0)
    made.view[0:1] = b"y"
    assert path.read_bytes()[:2] == b"yx"


def test_a_read_only_map_refuses_stores(reservation: VMReservation, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * PAGE)
    with path.open("rb") as file:
        refusal = code_of(lambda: Map.file(file.fileno(), reservation, 0, 0))
        assert refusal == pmem2.PMEM2_E_NO_ACCESS
        assert pages(reservation) == "-" * PAGES
        made = Map.file(file.fileno(), reservation, 0, 0, access="r")
    view = made.view
    assert view.readonly
    assert pages(reservation)[0] == "r"
    with pytest.raises(TypeError):
        view[0] = 1
    made.persist()
    view.release()


@pytest.mark.parametrize(
    ("offset", "length", "begin", "code"),
    [
        (1, 1, 1 << 63, pmem2.PMEM2_E_OFFSET_OUT_OF_RANGE),
        (1, 1, -PAGE, pmem2.PMEM2_E_OFFSET_OUT_OF_RANGE),
        (1, 1, 1, pmem2.PMEM2_E_OFFSET_UNALIGNED),
        (1, 1, 0, pmem2.PMEM2_E_LENGTH_UNALIGNED),
        (1, 3 * PAGE, 0, pmem2.PMEM2_E_MAP_RANGE),
        (1, 0, 3 * PAGE, pmem2.PMEM2_E_MAP_RANGE),
        (1, -PAGE, 0, pmem2.PMEM2_E_MAP_RANGE),
        (1, 0, 0, pmem2.PMEM2_E_OFFSET_UNALIGNED),
        ((PAGES - 2) * PAGE, 0, 0, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (0, 0, 0, pmem2.PMEM2_E_MAPPING_EXISTS),
    ],
)
def test_file_refuses_and_changes_nothing(
    reservation: VMReservation, fd: int, offset: int, length: int, begin: int, code: int
) -> None:
    Map.anonymous(reservation, 2 * PAGE, PAGE)
    before = pages(reservation)
    assert code_of(lambda: Map.file(fd, reservation, offset, length, begin)) == code
    assert pages(reservation) == before


def test_an_empty_file_is_empty_before_it_is_anything(reservation: VMReservation, fd: int) -> None:
    os.ftruncate(fd, 0)
    refusal = code_of(lambda: Map.file(fd, reservation, 1, 1))
    assert refusal == pmem2.PMEM2_E_SOURCE_EMPTY


def test_an_empty_piece_at_the_end_is_invalid(reservation: VMReservation, fd: int) -> None:
    os.ftruncate(fd, 2 * PAGE)
    assert code_of(lambda: Map.file(fd, reservation, 0, 0, 2 * PAGE)) == -errno.EINVAL
    Map.anonymous(reservation, 0, PAGE)
    refusal = code_of(lambda: Map.file(fd, reservation, 0, 0, 2 * PAGE))
    assert refusal == pmem2.PMEM2_E_MAPPING_EXISTS


def test_an_empty_piece_of_what_cannot_be_mapped_gets_the_kernels_answer(
    reservation: VMReservation, fd: int
) -> None:
    os.ftruncate(fd, 2 * PAGE)
    path_only = os.open(f"/proc/self/fd/{fd}", os.O_PATH)
    assert code_of(lambda: Map.file(path_only, reservation, 0, 0, 2 * PAGE)) == -errno.EBADF
    os.close(path_only)


def test_granularity_is_asked_for(reservation: VMReservation, fd: int) -> None:
    refusals = [
        code_of(lambda: Map.file(fd, reservation, 1, 1, 1, granularity=None)),
        code_of(lambda: Map.file(fd, reservation, 0, 0, granularity=Granularity.CACHE_LINE)),
    ]
    assert refusals == [
        pmem2.PMEM2_E_GRANULARITY_NOT_SET,
        pmem2.PMEM2_E_GRANULARITY_NOT_SUPPORTED,
    ]
    assert pages(reservation) == "-" * PAGES


def test_what_is_no_open_file_is_refused(reservation: VMReservation, tmp_path: Path) -> None:
    handle, kind = pmem2.PMEM2_E_INVALID_FILE_HANDLE, pmem2.PMEM2_E_INVALID_FILE_TYPE
    for fd in (-1, 999_999, 1 << 31, 1 << 70):
        assert code_of(lambda: Map.file(fd, reservation, 0, 0)) == handle  # noqa: B023
    read, write = os.pipe()
    directory = os.open(tmp_path, os.O_RDONLY)
    null = os.open("/dev/null", os.O_RDWR)
    writable = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    expected = {read: kind, write: handle, directory: kind, null: kind, writable: handle}
    for fd, code in expected.items():
        assert code_of(lambda: Map.file(fd, reservation, 0, 0)) == code  # noqa: B023
        os.close(fd)


@pytest.mark.parametrize("argument", [True, 1.0, "1", None])
def test_numbers_are_whole(reservation: VMReservation, fd: int, argument: object) -> None:
    with pytest.raises(TypeError, match="whole number"):
        Map.anonymous(reservation, argument, PAGE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="whole number"):
        Map.file(fd, reservation, 0, 0, argument)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="whole number"):
        Map.file(argument, reservation, 0, 0)  # type: ignore[arg-type]


def test_numpy_integers_are_whole(reservation: VMReservation) -> None:
    assert Map.anonymous(reservation, np.int64(PAGE), np.uint32(PAGE)).offset == PAGE


# ---------------------------------------------------------------- persistent memory, pretended


def test_a_file_on_persistent_memory_has_cache_line_granularity(
    reservation: VMReservation, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "is_dax", lambda fd: True)
    monkeypatch.setattr(native, "can_map_in_sync", lambda *piece: True)
    source = FileSource(fd)
    granularity = Granularity.CACHE_LINE
    offer = source.offer([(0, PAGE)], Options(granularity=granularity))
    assert offer.granularity is granularity
    assert offer.flags == native.map_flags(shared=True, sync=True)
    refusal = code_of(lambda: Map.file(fd, reservation, 0, 0))  # the kernel knows better
    assert refusal == pmem2.PMEM2_E_NOSUPP
    assert pages(reservation) == "-" * PAGES
    private = source.offer([(0, PAGE)], Options(shared=False))
    assert private.granularity is Granularity.BYTE


def test_a_file_that_cannot_be_mapped_in_sync_is_mapped_without(
    reservation: VMReservation, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "is_dax", lambda fd: True)  # the kernel knows better
    assert Map.file(fd, reservation, 0, 0).granularity is Granularity.PAGE


def test_cache_lines_are_flushed_by_the_processor(
    reservation: VMReservation, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Map.anonymous(reservation, 0, PAGE)
    flushed = []
    monkeypatch.setattr(made, "_granularity", Granularity.CACHE_LINE)
    monkeypatch.setattr(native, "flush", lambda address, length: flushed.append((address, length)))
    made.persist(100, 200)
    made.persist(300, 0)
    assert flushed == [(made.address + 100, 200)]


def test_device_dax_is_measured_in_sysfs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = tmp_path / "devices" / "dax0.0"
    (device / "device").mkdir(parents=True)
    (tmp_path / "dax").mkdir()
    (device / "subsystem").symlink_to(tmp_path / "dax")
    (device / "size").write_text(f"{16 * MiB}\n")
    (device / "device" / "align").write_text(f"{2 * MiB}\n")
    monkeypatch.setattr(source_module, "_sysfs", lambda status: device)
    with open("/dev/null", "r+b") as null:
        source = FileSource(null.fileno())
        assert (source.size, source.alignment) == (16 * MiB, 2 * MiB)
        (device / "size").unlink()
        assert code_of(lambda: FileSource(null.fileno())) == pmem2.PMEM2_E_NOSUPP


# ---------------------------------------------------------------- hugetlb, and what a source says

HUGE = 2 * MiB


@pytest.fixture
def huge_fd() -> Iterator[int]:
    descriptor = os.memfd_create("huge", os.MFD_HUGETLB | os.MFD_HUGE_2MB)
    os.ftruncate(descriptor, 4 * HUGE)
    yield descriptor
    os.close(descriptor)


def test_a_source_says_its_size_and_alignment(fd: int, huge_fd: int) -> None:
    sources = [Source.anonymous(3 * PAGE), Source.file(fd), Source.file(huge_fd)]
    told = [(source.size, source.alignment) for source in sources]
    assert told == [(3 * PAGE, PAGE), (10_000, PAGE), (4 * HUGE, HUGE)]
    assert repr(sources[2]).endswith("0x800000 bytes by 0x200000>")
    assert code_of(lambda: Source.file(-1)) == pmem2.PMEM2_E_INVALID_FILE_HANDLE
    for wrong in ("1", True, None):
        with pytest.raises(TypeError, match="whole number"):
            Source.file(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("offset", "length", "begin", "code"),
    [
        (0, PAGE, 0, pmem2.PMEM2_E_LENGTH_UNALIGNED),
        (0, HUGE + PAGE, 0, pmem2.PMEM2_E_LENGTH_UNALIGNED),
        (0, HUGE, PAGE, pmem2.PMEM2_E_OFFSET_UNALIGNED),
        (PAGE, HUGE, 0, pmem2.PMEM2_E_ADDRESS_UNALIGNED),
        (PAGE, 0, 3 * HUGE, pmem2.PMEM2_E_ADDRESS_UNALIGNED),
        (0, 0, 0, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (HUGE, HUGE, 0, pmem2.PMEM2_E_MAPPING_EXISTS),
    ],
)
def test_a_file_of_large_pages_takes_no_place_of_its_neighbours(
    huge_fd: int, offset: int, length: int, begin: int, code: int
) -> None:
    """The kernel rounds such a map up to whole large pages, over what lies behind it."""
    with VMReservation(3 * HUGE) as reservation:
        neighbours = [Map.anonymous(reservation, at, PAGE) for at in (HUGE + PAGE, 2 * HUGE - PAGE)]
        for each in neighbours:
            each.view[0] = 7
        before = permissions(reservation.address, reservation.address + 3 * HUGE)
        assert code_of(lambda: Map.file(huge_fd, reservation, offset, length, begin)) == code
        assert permissions(reservation.address, reservation.address + 3 * HUGE) == before
        assert [each.view[0] for each in neighbours] == [7, 7]


def test_a_file_of_large_pages_without_memory_leaves_the_range(huge_fd: int) -> None:
    with VMReservation(2 * HUGE) as reservation:
        with native.faults(5, errno.ENOMEM) as fault:  # most machines have none to spare anyway
            refusal = code_of(lambda: Map.file(huge_fd, reservation, 0, HUGE))
        assert (refusal, fault.hit) == (-errno.ENOMEM, Call.MMAP)
        start = reservation.address
        assert permissions(start, start + 2 * HUGE) == "-" * (2 * HUGE // PAGE)


def test_a_file_system_that_is_not_told_is_an_error(
    reservation: VMReservation, huge_fd: int
) -> None:
    for nth in range(1, 4):
        with native.faults(nth, errno.EIO) as fault:
            refusal = code_of(lambda: Map.file(huge_fd, reservation, 0, HUGE))
        assert (refusal, fault.hit is not Call.NONE) == (-errno.EIO, True)


# ---------------------------------------------------------------- options, and what is not public


@pytest.mark.parametrize(
    "options",
    [
        {"granularity": 7},
        {"granularity": "page"},
        {"granularity": True},
        {"granularity": 1.0},
        {"granularity": []},
        {"sharing": []},
        {"sharing": None},
        {"access": {}},
    ],
)
def test_options_are_checked_before_any_work(
    reservation: VMReservation, options: dict[str, object]
) -> None:
    calls = native.system_calls()
    with pytest.raises(UsageError, match=next(iter(options))):
        Map.file(-1, reservation, 1, 1, 1, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a VMReservation expected"):
        Map.anonymous(object(), 0, PAGE)  # type: ignore[arg-type]
    assert native.system_calls() == calls


def test_granularity_may_be_told_by_its_number(reservation: VMReservation, fd: int) -> None:
    assert Map.file(fd, reservation, 0, 0, granularity=2).granularity is Granularity.PAGE  # type: ignore[arg-type]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_there_are_no_copies_of_a_map_or_a_reservation(
    reservation: VMReservation, copied: Callable[[object], object]
) -> None:
    made = Map.anonymous(reservation, 0, PAGE)
    for each in (made, reservation):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            copied(each)
    with pytest.raises(TypeError, match=r"Map\.anonymous or Map\.file"):
        Map()


def test_only_the_words_of_the_contract_are_public(reservation: VMReservation) -> None:
    made = Map.anonymous(reservation, 0, PAGE)
    assert {name for name in dir(reservation) if name[0] != "_"} == {
        "address", "check", "close", "closed", "extend", "find", "first", "headroom", "last",
        "maps", "next", "prev", "shrink", "size",
    }  # fmt: skip
    assert {name for name in dir(made) if name[0] != "_"} == {
        "address", "anonymous", "close", "closed", "drain", "file", "flush", "granularity",
        "length", "offset", "persist", "reservation", "view",
    }  # fmt: skip


# ---------------------------------------------------------------- persist


@pytest.mark.parametrize(
    ("offset", "length", "code"),
    [
        (-1, 1, pmem2.PMEM2_E_OFFSET_OUT_OF_RANGE),
        (10_001, 0, pmem2.PMEM2_E_OFFSET_OUT_OF_RANGE),
        (10_000, 1, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (0, -1, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (0, 1 << 70, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
    ],
)
def test_persist_stays_inside(
    reservation: VMReservation, fd: int, offset: int, length: int, code: int
) -> None:
    made = Map.file(fd, reservation, 0, 0)
    assert code_of(lambda: made.persist(offset, length)) == code


def test_persist_syncs_the_pages_of_the_range(reservation: VMReservation, fd: int) -> None:
    made = Map.file(fd, reservation, 0, 0)
    before = native.system_calls()
    made.persist(PAGE + 1, 2)
    made.persist(10_000, 0)
    made.flush(5)
    made.drain()
    assert native.system_calls() == before + 2


def test_a_sync_that_fails_is_told(reservation: VMReservation, fd: int) -> None:
    made = Map.file(fd, reservation, 0, 0)
    with native.faults(1, errno.EIO) as fault, pytest.raises(DurabilityError) as raised:
        made.persist()
    assert (fault.hit, raised.value.errno) == (Call.MSYNC, errno.EIO)
    made.persist()


# ---------------------------------------------------------------- the end


def test_a_closed_map_leaves_the_range_reserved(reservation: VMReservation) -> None:
    made = Map.anonymous(reservation, PAGE, PAGE)
    made.view[0] = 1
    made.close()
    made.close()
    assert made.closed
    assert "closed" in repr(made)
    assert pages(reservation) == "-" * PAGES
    assert Map.anonymous(reservation, PAGE, PAGE).view[0] == 0


@pytest.mark.parametrize("keep", [memoryview, lambda view: view[1:2], np.asarray])
def test_a_map_with_live_views_is_not_closed(
    reservation: VMReservation, keep: Callable[[memoryview], object]
) -> None:
    made = Map.anonymous(reservation, 0, PAGE)
    view = made.view
    kept = keep(view)
    del view
    gc.collect()
    with pytest.raises(BufferError, match="1 found"):
        made.close()
    assert not made.closed
    assert reservation.maps() == [made]
    del kept
    gc.collect()
    made.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda closed: closed.address,
        lambda closed: closed.offset,
        lambda closed: closed.length,
        lambda closed: closed.granularity,
        lambda closed: closed.view,
        lambda closed: closed.persist(),
        lambda closed: closed.drain(),
        lambda closed: closed.__enter__(),
    ],
)
def test_a_closed_map_is_refused(reservation: VMReservation, use: Callable[[Map], object]) -> None:
    made = Map.anonymous(reservation, 0, PAGE)
    made.close()
    with pytest.raises(UsageError, match="closed"):
        use(made)


def test_the_block_closes_the_map(reservation: VMReservation) -> None:
    with Map.anonymous(reservation, 0, PAGE) as made:
        made.view[0] = 1
    assert made.closed


def test_the_block_does_not_hide_its_own_error_behind_a_live_view(
    reservation: VMReservation,
) -> None:
    made = Map.anonymous(reservation, 0, PAGE)
    view = made.view
    with pytest.raises(KeyError), made:
        raise KeyError
    assert not made.closed
    with pytest.raises(BufferError), made:
        pass
    view.release()


def test_a_closed_map_makes_no_views_by_a_back_door(reservation: VMReservation) -> None:
    made = Map.anonymous(reservation, 0, PAGE)
    view = made.view
    exporter = view.obj
    view.release()
    made.close()
    with pytest.raises(ValueError, match="closed"):
        memoryview(exporter)


def test_a_dropped_map_stays_and_is_found(reservation: VMReservation) -> None:
    Map.anonymous(reservation, 0, PAGE).view[0] = 5
    gc.collect()
    assert reservation.find(0, 1).view[0] == 5
