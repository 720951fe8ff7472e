"""Loads of the gallery: what lives over time, and the memory that each allocator has for that.

    python benchmarks/gallery_loads.py ring "bytes objects" < steps

A load is a list of steps, made from a seed. Another process reads it, plays it in one allocator,
with every byte of a block written and its handle kept in a list that was there before, and stops at
even distances, so that the other one can look what the kernel counts for it, beyond that of the
beginning: tables, headers and Python's own objects are in it. Were the steps made here, or the
memory looked at, that would leave free memory behind, in which some objects would cost nothing.

    number >= 0     allocate block `number`, of ``sizes[number]`` bytes
    number < 0      free block ``~number``
    (3, 5, 8)       a request ends: these blocks of it live still, and die; the next one begins
    TRIM            the heap gives back what it can; so does the C library, if it is the allocator

jemalloc gives back at once, as its settings say that `gallery` runs this with.
"""

from __future__ import annotations

import ctypes
import gc
import heapq
import pickle
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from peers import GlibcMethods, JemallocMethods, Obstack, Peer, PeerUnavailableError

from pmemheap import General, Heap, Ring, Rows
from pmemheap.heap.strategies import Strategy

TRIM = "trim"
SAMPLES = 80
ROW = 1200
SMALL = (24, 40, 100, 300, 1000)
FILL = memoryview(b"\xa5" * (1 << 17))

Step = int | tuple[int, ...] | str


@dataclass
class Load:
    """What is done: see above.

    Attributes
    ----------
    requested : list of bool
        Of each block whether it belongs to a request, and dies with it at the latest.
    """

    sizes: list[int] = field(default_factory=list)
    requested: list[bool] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def allocate(self, size: int, requested: bool = False) -> int:
        """Add a block of `size` bytes, and return its number."""
        self.sizes.append(size)
        self.requested.append(requested)
        self.steps.append(len(self.sizes) - 1)
        return len(self.sizes) - 1

    def free(self, block: int) -> None:
        self.steps.append(~block)

    def payload(self) -> list[int]:
        """Return the bytes in live blocks after each step."""
        live, after = 0, []
        for step in self.steps:
            if isinstance(step, tuple):
                live -= sum(self.sizes[block] for block in step)
            elif isinstance(step, int):
                live += self.sizes[step] if step >= 0 else -self.sizes[~step]
            after.append(live)
        return after

    def stops(self) -> list[int]:
        """Return the steps after which to look: at even distances, and around what frees much."""
        last = len(self.steps) - 1
        stops = {last * number // (SAMPLES - 1) for number in range(SAMPLES)}
        for number, step in enumerate(self.steps):
            if not isinstance(step, int):
                stops |= {max(number - 1, 0), number}
        return sorted(stops)


# ---------------------------------------------------------------- what is done


def _log_normal(drawn: random.Random) -> int:
    return min(60_000, int(drawn.lognormvariate(6, 1)) + 1)


def mixed(scale: float) -> Load:
    """Blocks of all sizes come; of four three go, at random; others come; all go."""
    drawn, load = random.Random(1), Load()
    first = [load.allocate(_log_normal(drawn)) for _ in range(int(40_000 * scale))]
    drawn.shuffle(first)
    for block in first[len(first) // 4 :]:
        load.free(block)
    load.steps.append(TRIM)
    later = [load.allocate(2 * _log_normal(drawn)) for _ in range(int(15_000 * scale))]
    for block in (*first[: len(first) // 4], *later):
        load.free(block)
    load.steps.append(TRIM)
    return load


def requests(scale: float) -> Load:
    """Six requests of many blocks each, which die together; one in 200 is a result that stays."""
    drawn, load = random.Random(2), Load()
    for _ in range(6):
        made = [
            load.allocate(drawn.choice(SMALL), requested=number % 200 > 0)
            for number in range(int(20_000 * scale))
        ]
        load.steps += [tuple(block for block in made if load.requested[block]), TRIM]
    return load


def streamed(scale: float) -> Load:
    """One request whose blocks die soon, each by itself; one in 50 lives to its end."""
    drawn, load = random.Random(3), Load()
    soon: list[int] = []
    late: list[int] = []
    for number in range(int(80_000 * scale)):
        (soon if number % 50 else late).append(load.allocate(drawn.choice(SMALL), requested=True))
        if len(soon) > 500:
            load.free(soon.pop(drawn.randrange(len(soon))))
    load.steps += [(*soon, *late), TRIM]
    return load


def queued(scale: float, lifetime: Callable[[random.Random], float]) -> Load:
    """A queue fills, runs for four times its length, and drains; a lifetime is in its lengths."""
    drawn, load = random.Random(4), Load()
    length = int(20_000 * scale)
    deaths: list[tuple[float, int]] = []
    for now in range(5 * length):
        while deaths and deaths[0][0] <= now:
            load.free(heapq.heappop(deaths)[1])
        block = load.allocate(_log_normal(drawn))
        heapq.heappush(deaths, (now + length * lifetime(drawn), block))
    while deaths:
        load.free(heapq.heappop(deaths)[1])
    load.steps.append(TRIM)
    return load


def vectors(scale: float, size: Callable[[random.Random], int]) -> Load:
    """Vectors come; half of them go, at random; as many as have gone come; the newest go."""
    drawn, load = random.Random(5), Load()
    count = int(20_000 * scale)
    first = [load.allocate(size(drawn)) for _ in range(count)]
    drawn.shuffle(first)
    for block in first[count // 2 :]:
        load.free(block)
    later = [load.allocate(size(drawn)) for _ in range(count)]
    for block in reversed(later):
        load.free(block)
    load.steps.append(TRIM)
    return load


LOADS: dict[str, Callable[[float], Load]] = {
    "general: mixed sizes and lives": mixed,
    "region: requests that die together": requests,
    "region: most blocks die soon": streamed,
    "ring: lifetimes alike": lambda scale: queued(scale, lambda _: 1.0),
    "ring: lifetimes exponential": lambda scale: queued(scale, lambda drawn: drawn.expovariate(1)),
    "rows: vectors of 1200 bytes": lambda scale: vectors(scale, lambda _: ROW),
    "rows: values of 16 to 1200 bytes": lambda scale: vectors(
        scale, lambda drawn: drawn.randrange(16, ROW + 1)
    ),
}


# ---------------------------------------------------------------- where it is done


class Place:
    """An allocator as a load drives it: `put` writes a block, `take` frees it."""

    def put(self, size: int, requested: bool) -> Any:
        """Allocate a block, write every byte of it, and return its handle."""
        raise NotImplementedError

    def take(self, handle: Any) -> None:
        """Free a block."""

    def all_gone(self, handles: Iterable[Any]) -> None:
        """End a request, of which these blocks live."""
        for handle in handles:
            self.take(handle)

    def trim(self) -> None:
        """Give back what is free, if somebody has to ask for that."""


class InArena(Place):
    """A heap whose blocks lie in an arena of a strategy."""

    def __init__(self, strategy: Strategy) -> None:
        self.heap = Heap.anonymous(decay=None)
        self.arena = self.heap.arena("gallery", strategy=strategy)

    def put(self, size: int, requested: bool) -> int:
        offset: int = self.arena.malloc(size)
        self.write(offset, size)
        return offset

    def write(self, offset: int, size: int) -> None:
        self.heap.view(offset, size)[:] = FILL[:size]

    def take(self, handle: int) -> None:
        self.arena.free(handle)

    def trim(self) -> None:
        self.heap.trim()


class InRegion(InArena):
    """A scratch region a request; what stays lies in the heap."""

    def __init__(self) -> None:
        super().__init__(General())
        self.region = self.heap.scratch()

    def put(self, size: int, requested: bool) -> int:
        if not requested:
            return super().put(size, requested)
        offset = self.region.malloc(size)
        self.write(offset, size)
        return offset

    def take(self, handle: int) -> None:
        self.heap.free(handle)

    def all_gone(self, handles: Iterable[int]) -> None:
        self.region.drop()
        self.region = self.heap.scratch()


class InRows(InArena):
    """Rows of 1200 bytes: what is shorter wastes the rest."""

    def __init__(self) -> None:
        super().__init__(Rows(ROW))

    def put(self, size: int, requested: bool) -> int:
        return super().put(ROW, requested)


class InPeer(Place):
    """An allocator of `peers`."""

    def __init__(self, kind: type[Peer]) -> None:
        self.peer = kind()

    def put(self, size: int, requested: bool) -> int:
        block: int = self.peer.malloc(size)
        self.peer.touch(block, size)
        return block

    def take(self, handle: int) -> None:
        self.peer.free(handle)

    def trim(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)


class InObstack(InPeer):
    """An obstack for a request, the C library's malloc for what stays."""

    def __init__(self) -> None:
        super().__init__(GlibcMethods)
        self.stack = Obstack()
        self.first = self.stack.malloc(1)

    def put(self, size: int, requested: bool) -> int:
        if not requested:
            return super().put(size, requested)
        block: int = self.stack.malloc(size)
        self.stack.touch(block, size)
        return block

    def take(self, handle: int) -> None:
        """Leave it: an obstack frees none by itself."""

    def all_gone(self, handles: Iterable[int]) -> None:
        self.stack.free(self.first)
        self.first = self.stack.malloc(1)


class InBytes(Place):
    """A bytes object a block, as in a deque or a list; its handle is the last reference."""

    def put(self, size: int, requested: bool) -> bytes:
        return bytes(FILL[:size])

    def trim(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)


class InArrays(InBytes):
    """An array of numpy a block."""

    def put(self, size: int, requested: bool) -> Any:
        return np.full(size, 0xA5, "u1")


class InTable(Place):
    """One array of numpy, which is copied into one of twice the length when it is full."""

    def __init__(self) -> None:
        self.rows = np.empty((64, ROW), "u1")
        self.free = list(range(64))[::-1]

    def put(self, size: int, requested: bool) -> int:
        if not self.free:
            length = len(self.rows)
            grown = np.empty((2 * length, ROW), "u1")
            grown[:length] = self.rows
            self.rows = grown
            self.free = list(range(length, 2 * length))[::-1]
        row = self.free.pop()
        self.rows[row] = 0xA5
        return row

    def take(self, handle: int) -> None:
        self.free.append(handle)


Places = dict[str, Callable[[], Place]]
_DEFAULT: Places = {"default arena": lambda: InArena(General())}
_JEMALLOC: Places = {"jemalloc": lambda: InPeer(JemallocMethods)}
_BYTES: Places = {"bytes objects": InBytes}

PLACES: dict[str, Places] = {
    "general": _DEFAULT | {"glibc": lambda: InPeer(GlibcMethods)} | _JEMALLOC | _BYTES,
    "region": _DEFAULT | {"region": InRegion, "obstack": InObstack} | _JEMALLOC,
    "ring": _DEFAULT | {"ring": lambda: InArena(Ring())} | _BYTES | _JEMALLOC,
    "rows": _DEFAULT | {"rows": InRows, "one numpy array": InTable, "numpy arrays": InArrays},
}
"""By the first word of a load: where it is done, the default arena and ours first."""


# ---------------------------------------------------------------- the measured process


def play(load: Load, place: Place, handles: list[Any], sample: Callable[[], None]) -> None:
    """Do what a load says, with room for its handles; look after the steps of its stops."""
    stops = set(load.stops())
    for number, step in enumerate(load.steps):
        if isinstance(step, str):
            place.trim()
        elif isinstance(step, tuple):
            place.all_gone(handles[block] for block in step)
            for block in step:
                handles[block] = None
        elif step >= 0:
            handles[step] = place.put(load.sizes[step], load.requested[step])
        else:
            place.take(handles[~step])
            handles[~step] = None
        if number in stops:
            sample()


def main(strategy: str, place: str) -> None:
    """Play the load that is read; say when it begins, and at each stop, and wait for an answer."""
    load = Load(*pickle.load(sys.stdin.buffer))
    make, handles = PLACES[strategy][place], [None] * len(load.sizes)

    def say() -> None:
        sys.stdout.buffer.write(b".")
        sys.stdout.flush()
        sys.stdin.buffer.read(1)

    try:
        make().put(64, requested=False)  # What is imported late is no memory of an allocator.
    except PeerUnavailableError as error:
        sys.exit(str(error))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    say()
    play(load, make(), handles, say)


if __name__ == "__main__":
    main(*sys.argv[1:])
