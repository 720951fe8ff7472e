"""What the kernel counts for ranges of addresses: by range, or as it lists all mappings."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pmemheap import Heap, native
from pmemheap.native import AddressRange, Advice, Call, NativeError, Residency, residency
from pmemheap.units import PAGE


@pytest.fixture
def line() -> AddressRange:
    return AddressRange(0, 512 * PAGE)


@pytest.fixture
def fd() -> Iterator[int]:
    descriptor = native.memfd_create("residency")
    yield descriptor
    os.close(descriptor)


def test_residency_counts_touched_pages(line: AddressRange) -> None:
    native.map_anonymous(line.start, 8 * PAGE)
    middle = line.start + 4 * PAGE
    ranges = {"here": (line.start, middle), "there": (middle, line.stop)}
    assert native.residencies(ranges)["here"].resident == 0
    native.memory(line.start, 2 * PAGE, line)[:] = b"x" * 2 * PAGE
    found = native.residencies(ranges)
    assert found["here"].resident == 2 * PAGE
    assert found["there"].resident == 0


def no_list() -> bytes:
    raise AssertionError("the kernel counts by range")


def use_smaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "_PAGEMAP", "/nowhere")


def resident_pages(start: int, stop: int) -> int:
    found = native.residencies({"here": (start, stop)}, no_list)["here"]
    assert found.swapped == 0
    return found.resident // PAGE


def test_residency_counts_by_page(line: AddressRange) -> None:
    """More stretches than one call of the kernel reports; what is read, given back or unmapped."""
    assert resident_pages(line.start, line.stop) == 0
    native.map_anonymous(line.start, 400 * PAGE)
    native.madvise(line.start, 400 * PAGE, Advice.NOHUGEPAGE)
    view = native.memory(line.start, 400 * PAGE, line)
    assert not any(view[::PAGE]), "read, never stored to"
    assert resident_pages(line.start, line.stop) == 0
    for page in range(0, 400, 2):
        view[page * PAGE] = 1
    assert resident_pages(line.start, line.stop) == 200
    assert resident_pages(line.start + PAGE, line.start + 5 * PAGE) == 2
    native.madvise(line.start, 100 * PAGE, Advice.DONTNEED)
    assert resident_pages(line.start, line.stop) == 150
    native.unmap(line.start + 300 * PAGE, 100 * PAGE)
    assert resident_pages(line.start, line.stop) == 100
    assert resident_pages(line.stop, line.stop) == 0


def test_a_fenced_page_is_neither_in_memory_nor_moved_out(line: AddressRange) -> None:
    native.map_anonymous(line.start, 4 * PAGE)
    native.memory(line.start, 4 * PAGE, line)[:] = b"x" * 4 * PAGE
    try:
        native.madvise(line.start, PAGE, Advice.FENCE)
    except NativeError:
        native.madvise(line.start, PAGE, Advice.DONTNEED)  # Linux before 6.13
    assert resident_pages(line.start, line.stop) == 3


def test_a_shared_page_counts_whole(line: AddressRange, fd: int) -> None:
    native.ftruncate(fd, 8 * PAGE)
    for place in (line.start, line.start + 8 * PAGE):
        native.map_file(fd, 0, place, 8 * PAGE, shared=True)
        native.memory(place, 8 * PAGE, line)[: 3 * PAGE] = b"x" * 3 * PAGE
    assert resident_pages(line.start, line.start + 8 * PAGE) >= 3
    assert resident_pages(line.start, line.stop) >= 6


@pytest.mark.parametrize("is_file", [False, True])
def test_both_ways_of_counting_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_file: bool
) -> None:
    made = Heap.create(tmp_path / "heap", decay=None) if is_file else Heap.anonymous(decay=None)
    with made as heap:
        offsets = [heap.malloc(200_000) for _ in range(20)]
        for offset in offsets:
            heap.view(offset)[:100_000] = b"x" * 100_000
        for offset in offsets[::3]:
            heap.free(offset)
        heap.trim()
        by_range = heap.stats()
        use_smaps(monkeypatch)
        assert heap.stats() == by_range
        assert by_range.touched > 12 * 100_000


@pytest.mark.parametrize("error", [errno.ENOTTY, errno.EPERM])
def test_an_older_kernel_lists_its_mappings(line: AddressRange, error: int) -> None:
    native.map_anonymous(line.start, PAGE)
    native.memory(line.start, PAGE, line)[:] = b"x" * PAGE
    ranges = {"here": (line.start, line.stop)}
    with native.faults(1, error) as fault:
        assert native.residencies(ranges) == {"here": Residency(PAGE, 0)}
    assert fault.hit == Call.PAGEMAP


def test_a_kernel_that_knows_no_fences_is_asked_without(line: AddressRange) -> None:
    native.map_anonymous(line.start, PAGE)
    native.memory(line.start, PAGE, line)[:] = b"x" * PAGE
    with native.faults(1, errno.EINVAL) as fault:
        assert resident_pages(line.start, line.stop) == 1
    assert fault.hit == Call.PAGEMAP


def test_a_refused_count_is_an_error(line: AddressRange) -> None:
    with native.faults(1, errno.ENOMEM), pytest.raises(NativeError, match="pagemap: "):
        native.residencies({"here": (line.start, line.stop)})


def test_without_proc_nothing_is_known_of_residency(
    line: AddressRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_smaps(monkeypatch)
    monkeypatch.setattr(residency, "_SMAPS", "/nowhere")
    native.map_anonymous(line.start, PAGE)
    native.memory(line.start, PAGE, line)[:] = b"x" * PAGE
    found = native.residencies({"here": (line.start, line.stop)})
    assert found == {"here": Residency(0, 0)}
