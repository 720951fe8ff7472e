from __future__ import annotations

import importlib
import os
import pickle
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pmemheap
from pmemheap import errors, units
from pmemheap.errors import (
    CorruptHeapError,
    DurabilityError,
    HeapBusyError,
    HeapExistsError,
    HeapFileError,
    HeapNotFoundError,
    HeapPermissionError,
    OutOfSpaceError,
    Pmem2Error,
    PmemHeapError,
    UsageError,
)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (UsageError, ValueError),
        (OutOfSpaceError, MemoryError),
        (CorruptHeapError, Exception),
        (DurabilityError, OSError),
        (HeapFileError, UsageError),
        (HeapNotFoundError, FileNotFoundError),
        (HeapExistsError, FileExistsError),
        (HeapBusyError, BlockingIOError),
        (HeapPermissionError, PermissionError),
        (Pmem2Error, Exception),
    ],
)
def test_errors_are_ours_and_of_a_builtin_kind(
    error: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(error, PmemHeapError)
    assert issubclass(error, builtin)


def test_all_errors_are_exported_by_the_package() -> None:
    assert all(getattr(pmemheap, name) is getattr(errors, name) for name in errors.__all__)


def test_pmem2_error_tells_message_name_and_number_and_survives_pickling() -> None:
    error = Pmem2Error(-100007, "PMEM2_E_MAPPING_EXISTS", "occupied")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.name, copy.message) == (-100007, "PMEM2_E_MAPPING_EXISTS", "occupied")
    assert str(copy) == "occupied (PMEM2_E_MAPPING_EXISTS, -100007)"


def test_durability_error_carries_an_errno() -> None:
    assert DurabilityError(5, "sync").errno == 5


@given(st.integers(-(1 << 70), 1 << 70), st.integers(1, 1 << 40))
def test_alignment_brackets_the_value(value: int, alignment: int) -> None:
    low, high = units.align_down(value, alignment), units.align_up(value, alignment)
    assert low % alignment == high % alignment == 0
    assert value - alignment < low <= value <= high < value + alignment
    assert units.is_aligned(value, alignment) == (low == high)


@given(st.integers(0, 200), st.integers(-3, 3))
def test_powers_of_two_have_one_bit(exponent: int, off: int) -> None:
    value = (1 << exponent) + off
    assert units.is_power_of_two(value) == (value > 0 and bin(value).count("1") == 1)


@pytest.mark.parametrize(
    ("count", "text"),
    [(1023, "1023 B"), (units.GiB, "1 GiB"), (3 * units.TiB // 2, "1.50 TiB"), (-1, "-1 B")],
)
def test_bytes_are_written_for_people(count: int, text: str) -> None:
    assert units.format_bytes(count) == text


@given(st.integers(0, 1 << 60))
def test_round_sizes_are_read_back(count: int) -> None:
    assert units.parse_bytes(str(count)) == count
    text = units.format_bytes(count)
    if "." not in text:
        assert units.parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "K", "ten", "1.0001 KiB", "1 XiB", "1..5"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        units.parse_bytes(text)


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "riscv64")])
def test_other_platforms_are_told(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    with pytest.raises(ImportError, match="Linux on x86-64 or aarch64 expected"):
        importlib.reload(pmemheap)
    monkeypatch.undo()
    importlib.reload(pmemheap)
