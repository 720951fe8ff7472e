"""What tests of heaps ask of the process around them: descriptors, maps, other processes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import cast, get_args

from address_space import address_map

from pmemheap import DurabilityName, Heap
from pmemheap.file.redo import RedoLog
from pmemheap.units import MiB

TESTS = Path(__file__).parent


def named(kind: str) -> DurabilityName:
    """Return the kind of a heap in a file, which is called by its durability, as one."""
    assert kind in get_args(DurabilityName)
    return cast("DurabilityName", kind)


def redo_of(heap: Heap) -> RedoLog:
    """Return the log of a file heap."""
    log = heap._space.shared.redo
    assert log is not None
    return log


def contents(heap: Heap) -> dict[int, bytes]:
    """Return offset and bytes of all live blocks."""
    return {offset: bytes(heap.view(offset)) for offset, _ in heap.blocks()}


def fill(heap: Heap, offset: int, seed: int) -> None:
    """Make a block recognisable, from its first byte to its last."""
    view = heap.view(offset)
    pattern = seed.to_bytes(8, "little") * (len(view) // 8 + 1)
    view[:] = pattern[: len(view)]


def descriptors() -> dict[int, str]:
    """Return the open descriptors of this process and what they lead to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one by which the directory was read
            continue
    return found


SANITIZER_HEAP = range(0x600000000000, 0x640000000000)
THREAD_HEAP = 64 * MiB


def reserved() -> set[tuple[int, int]]:
    """Return the ranges of this process without access, which reservations are made of.

    Those of AddressSanitizer's own allocator come and go, and are left out; so do the rests of the
    heaps that the C library makes for threads, each of which ends at a multiple of 64 MiB.
    """
    gc.collect()
    return {
        (each.start, each.stop)
        for each in address_map()
        if each.permissions == "---p"
        and each.start not in SANITIZER_HEAP
        and not (each.stop % THREAD_HEAP == 0 and each.stop - each.start < THREAD_HEAP)
    }


def added(now: Iterable[tuple[int, int]], before: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of ranges that are in none of those of before.

    The kernel shows neighbours as one range, of which a part may go: what others have dropped is
    collected at any time. So ranges are compared by what they cover, not by where they begin.
    """
    found = []
    for first, stop in sorted(now):
        start = first
        for low, high in sorted(before):
            if high > start and low < stop:
                if start < low:
                    found.append((start, low))
                start = min(high, stop)
        if start < stop:
            found.append((start, stop))
    return found


def mapped_files(*words: str) -> list[str]:
    """Return the mapped files whose name has one of the words."""
    return [each.name for each in address_map() if any(word in each.name for word in words)]


def python(code: str, *arguments: object, pass_fds: Iterable[int] = ()) -> subprocess.Popen[str]:
    """Start another Python with our package, standard input and output being pipes."""
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=tuple(pass_fds),
        env={**os.environ, "PYTHONPATH": paths},
    )


def answer(process: subprocess.Popen[str], text: str = "") -> str:
    """Send a process its input, wait for its end and return what it printed; it must end well."""
    out, _ = process.communicate(text, timeout=120)
    assert process.returncode == 0, f"exit code {process.returncode}: {out}"
    return out.strip()
