"""Journeys: what a call costs on its way, counted: Python calls, crossings into C, system calls.

    counted(work) ── sys.setprofile ──► calls of Python functions of the package
                                   └──► crossings: calls of `_hot` and `_sys`, attributes not
                  ── the seam ───────► system calls

Times are noise on a shared machine, and these are not: a journey has its budget, which only falls.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pmemheap
from pmemheap import Heap, native
from pmemheap._core._sys import lib
from pmemheap.containers import SortedMap
from pmemheap.units import MiB

PACKAGE = str(Path(pmemheap.__file__).parent)
NOT_COUNTED = f"{PACKAGE}/dataclass.py"  # nor are methods that the standard library makes


@dataclass(frozen=True)
class Count:
    """How often a journey calls Python, crosses into C, and calls the system."""

    python: int
    crossings: int
    system: int

    def exceeds(self, budget: Count) -> bool:
        return (
            self.python > budget.python
            or self.crossings > budget.crossings
            or self.system > budget.system
        )


def _is_of_the_core(function: Any) -> bool:
    """Tell whether a built-in function is one of the C core's."""
    owner = getattr(function, "__self__", None)
    if owner is lib:
        return True
    return any(each.__module__ == "pmemheap._core._hot" for each in type(owner).__mro__)


def counted(work: Callable[[], object]) -> Count:
    """Run something and count its way."""
    python = crossings = 0

    def look(frame: FrameType, event: str, what: Any) -> None:
        nonlocal python, crossings
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(PACKAGE) and file != NOT_COUNTED:
            python += 1
        elif event == "c_call" and _is_of_the_core(what):
            crossings += 1

    gc.collect()
    gc.disable()  # heaps of other tests close in finalizers
    before = native.system_calls()
    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return Count(python, crossings, native.system_calls() - before)


# ---------------------------------------------------------------- the journeys


@contextmanager
def grown(path: Path) -> Iterator[Heap]:
    with Heap.create(path, durability="power", decay=None) as heap:
        heap.malloc(100)
        yield heap


def growth(path: Path) -> Count:
    """Count a malloc that a power file has to grow for."""
    with grown(path) as heap:
        before = heap.stats().growths
        count = counted(lambda: heap.malloc(3 * MiB))
        assert heap.stats().growths == before + 1
        return count


def opening_after_a_crash(path: Path) -> Count:
    """Count the opening of a power heap whose process was killed between two commits."""
    child = os.fork()
    if child == 0:
        heap = Heap.create(path, durability="power", decay=None)
        for number in range(20):
            with heap.transaction() as tx:
                tx.roots[f"root {number}"] = tx.malloc(100)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    opened: list[Heap] = []
    count = counted(lambda: opened.append(Heap.open(path, decay=None)))
    assert len(opened[0].roots) == 20
    opened[0].close()
    return count


def first_put(path: Path) -> Count:
    """Count the first change of a map in a power heap that was closed and opened again."""
    with grown(path) as heap:
        SortedMap(heap, "map").update({b"%d" % key: bytes(50) for key in range(500)})
    with Heap.open(path, decay=None) as heap:
        there = SortedMap(heap, "map")
        return counted(lambda: there.__setitem__(b"new", bytes(50)))


def trim_of_nine_segments(path: Path) -> Count:
    """Count a trim that gives the head and the tail of a process file back, in nine segments."""
    with Heap.create(path, decay=None) as heap:
        first = [heap.malloc(16 * MiB) for _ in range(4)]
        kept = heap.malloc(16 * MiB)
        last = [heap.malloc(16 * MiB) for _ in range(4)]
        for offset in first + last:
            heap.free(offset)
        size = path.stat().st_size
        count = counted(heap.trim)
        assert path.stat().st_size < size
        heap.free(kept)
        return count


def durable_commit(path: Path) -> Count:
    """Count a transaction of a power heap with a write and a snapshot."""
    with grown(path) as heap:
        one, other = heap.malloc(100), heap.malloc(100)

        def commit() -> None:
            with heap.transaction() as tx:
                tx.write(one, bytes(50))
                tx.snapshot(other, 50)

        commit()
        return counted(commit)


JOURNEYS = {
    "growth": growth,
    "opening after a crash": opening_after_a_crash,
    "first put": first_put,
    "trim of nine segments": trim_of_nine_segments,
    "durable commit": durable_commit,
}
