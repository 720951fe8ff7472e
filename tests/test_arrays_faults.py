"""Named arrays while memory and system calls are refused: what raises has not happened."""

from __future__ import annotations

import _testcapi  # type: ignore[import-not-found]
import errno
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmemheap import DurabilityError, DurabilityName, Heap, PmemHeapError, native
from pmemheap.containers import Arrays
from pmemheap.native import FaultKind
from pmemheap.units import MiB

Change = Callable[[Arrays], object]


def content(arrays: Arrays) -> dict[str, Any]:
    return {
        name: (each.dtype.str, each.shape, each[...].tobytes(), dict(each.attrs))
        for name, each in arrays.items()
    }


def together(arrays: Arrays) -> None:
    with arrays.heap.transaction():
        arrays.rename("b", "e")
        arrays["a"].resize(100)
        arrays["a"].extend(range(400))
        arrays.drop("large")


CHANGES: list[Change] = [
    lambda arrays: arrays.create("c", 3000, "i4", fill=1),
    lambda arrays: arrays.create("d", MiB, "u1"),
    lambda arrays: arrays["a"].extend(range(5000)),
    lambda arrays: arrays["large"].extend(np.ones(5 * MiB, "u1")),
    lambda arrays: arrays["a"].__setitem__(slice(None, None, 2), 5),
    lambda arrays: arrays.replace("b", np.zeros(2, [("x", "f4"), ("y", "S9")])),
    lambda arrays: arrays["b"].attrs.update(unit="mm" * 900),
    together,
]


def filled(heap: Heap) -> Arrays:
    arrays = Arrays(heap)
    arrays.update({"a": np.arange(300), "b": ["x", "y"], "large": np.ones(MiB, "u1")})
    return arrays


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_raises_at_a_system_call_has_not_happened(
    tmp_path: Path, durability: DurabilityName
) -> None:
    refused = 0
    for change in CHANGES:
        for number in (1, 2, 4, 7):
            with Heap.create(tmp_path / "heap", durability=durability, replace=True) as heap:
                arrays = filled(heap)
                before = content(arrays)
                with native.faults(number, errno.ENOSPC, FaultKind.FROM):
                    try:
                        change(arrays)
                    except DurabilityError:
                        refused += 1  # whether it has happened is seen when it is opened again
                        with suppress(PmemHeapError):
                            heap.close()
                        continue
                    except (PmemHeapError, MemoryError):
                        refused += 1
                        assert content(arrays) == before
                    else:
                        assert content(arrays) != before
                assert arrays.check()
                assert heap.check()
                del arrays
    assert refused >= 5


@pytest.mark.slow
@pytest.mark.unsanitized
@pytest.mark.parametrize("change", CHANGES)
def test_what_raises_for_lack_of_memory_has_not_happened(
    change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # that of pytest keeps frames
    refused = 0
    for number in range(0, 240, 7):
        with Heap.anonymous() as heap:
            arrays = filled(heap)
            before = content(arrays)
            _testcapi.set_nomemory(number, number + 1)
            try:
                change(arrays)
            except (PmemHeapError, MemoryError):
                _testcapi.remove_mem_hooks()
                refused += 1
                assert content(arrays) == before, number
            finally:
                _testcapi.remove_mem_hooks()
            assert arrays.check()
            assert heap.check()
            del arrays
    assert refused > 10
