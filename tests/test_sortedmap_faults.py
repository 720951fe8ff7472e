"""SortedMap while memory and system calls are refused: what raises has not happened."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pmemheap import Heap, HeapFileError, PmemHeapError, native
from pmemheap.containers import SortedMap
from pmemheap.file.redo import RedoLog


def puts_beside_refusals(heap: Heap, fault_number: int) -> None:
    """Put some hundred keys, each with its n-th system call refused."""
    made = SortedMap(heap, "map")
    for number in range(350):
        key, value = b"%06d" % (number * 7919 % 1000), bytes([number % 251]) * (number * 37 % 900)
        with native.faults(fault_number, errno.ENOMEM):
            try:
                made[key] = value
            except (PmemHeapError, MemoryError):
                assert key not in made
            else:
                assert made[key] == value
    made.check()
    assert heap.check()


@pytest.mark.slow
@pytest.mark.parametrize("fault_number", [1, 2, 3, 5, 8, 13])
def test_what_raises_has_not_happened(tmp_path: Path, fault_number: int) -> None:
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        puts_beside_refusals(heap, fault_number)


@pytest.mark.parametrize("error", [MemoryError, HeapFileError])
def test_no_change_is_refused_since_the_log_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """It is done by then, and room in the log is for those to come."""
    asked = 0

    def refuse(log: RedoLog) -> None:
        nonlocal asked
        asked += 1
        raise error("refused")

    with Heap.create(tmp_path / "heap", durability="process") as heap:
        made = SortedMap(heap, "map")
        with monkeypatch.context() as patch:
            patch.setattr(RedoLog, "checkpoint_if_due", refuse)
            for number in range(20_000):
                made[b"%06d" % number] = b"value" * 20
                if asked > 1:
                    break
        assert asked
        assert len(made) == number + 1
        made.check()
        assert heap.check()
