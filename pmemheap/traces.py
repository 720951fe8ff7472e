"""Traces: the allocation calls of real programs, and what it costs to repeat them.

    # mutt 32783 652723            name, number of operations, greatest sum of live bytes
    a 0 16                         allocate 16 bytes; IDs count up from 0 in order of allocation
    a 1 364
    r 1 512                        resize block 1; it keeps its ID
    f 0                            free block 0; its ID never comes back

A trace is such a text, plain or gzip. `load` checks all of it before anything is run: an operation
that is no use of an allocator, or a header that the operations do not bear out, is an error with
file and line. What is live after the last operation stays live: the caller of `replay` frees it.

Three passes over a trace, never mixed:

    replay        malloc, realloc and free, and nothing else, against the clock
    empty_replay  the same loop without the calls: what `replay` is charged for the interpreter
    touch_replay  no clock: fills every block, and asks again and again how much memory that took

Invariants of a `Trace`, which `load` establishes:
  1. block IDs are dense, and operations name only live ones;
  2. every size is at least 1;
  3. `peak_live_bytes` is the greatest sum of sizes live at once.

Memory is what the kernel counts: `MemoryMeter` adds up the proportional set size (Pss) of the
mappings of a process, so that metadata counts as well and reserved address space does not.
"""

from __future__ import annotations

import gc
import gzip
import math
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from pmemheap.errors import UsageError

__all__ = [
    "ALLOCATE",
    "FREE",
    "RESIZE",
    "Allocator",
    "MemoryMeter",
    "Operation",
    "Timing",
    "TouchReplay",
    "Touched",
    "Trace",
    "empty_replay",
    "load",
    "measure",
    "parse",
    "replay",
    "touch_replay",
]

ALLOCATE, RESIZE, FREE = 0, 1, 2

_GZIP_MAGIC = b"\x1f\x8b"
_KINDS = {"a": (ALLOCATE, 3), "r": (RESIZE, 3), "f": (FREE, 2)}  # kind, words on the line
_EVEN_SAMPLES = 200
_PEAK_SAMPLES = 16  # A trace can stand at its peak thousands of times; a sample takes milliseconds.

Handle = TypeVar("Handle")

# `ALLOCATE`, `RESIZE` or `FREE`; the block's ID; its new size, 0 for a free. A plain tuple, since
# the interpreter unpacks those quickest and the loop is noise that every figure carries.
Operation = tuple[int, int, int]


class Allocator(Protocol[Handle]):
    """The target of a replay: a heap, or anything else that hands out handles."""

    def malloc(self, size: int, /) -> Handle:
        """Return the handle of a new block of `size` bytes."""
        ...

    def realloc(self, handle: Handle, size: int, /) -> Handle:
        """Resize a block and return its handle, which may have changed."""
        ...

    def free(self, handle: Handle, /) -> None:
        """Give a block back."""
        ...


@dataclass(frozen=True)
class Trace:
    """A checked trace.

    Attributes
    ----------
    name : str
        As the header says.
    operations : tuple of Operation
        In recorded order.
    blocks : int
        Allocations in the trace: IDs run from 0 to ``blocks - 1``.
    peak_live_bytes : int
        Greatest sum of the sizes of live blocks after any operation.
    live_at_end : tuple of int
        IDs that the trace never frees.
    """

    name: str
    operations: tuple[Operation, ...]
    blocks: int
    peak_live_bytes: int
    live_at_end: tuple[int, ...]


@dataclass(frozen=True)
class Timing:
    """The times of the passes over one trace.

    Attributes
    ----------
    operations : int
        Operations in one pass.
    loop_seconds : float
        The quickest pass of the loop without calls.
    pass_seconds : tuple of float
        One entry a pass, the loop included. The first pass met the allocator as it was handed over;
        the later ones found the space of the earlier ones free.
    """

    operations: int
    loop_seconds: float
    pass_seconds: tuple[float, ...]

    def net_ns(self, seconds: float) -> float:
        """Nanoseconds an operation of a pass that took `seconds`, net of the loop."""
        return (seconds - self.loop_seconds) / max(self.operations, 1) * 1e9

    @property
    def fresh_ns(self) -> float:
        """Nanoseconds an operation of the first pass, net of the loop."""
        return self.net_ns(self.pass_seconds[0])

    @property
    def warm_ns(self) -> float:
        """Nanoseconds an operation of the quickest later pass; NaN after a single pass."""
        return self.net_ns(min(self.pass_seconds[1:], default=math.nan))


@dataclass(frozen=True)
class Touched:
    """The result of `touch_replay`.

    Attributes
    ----------
    peak_bytes : int
        The greatest sample.
    sample_count : int
        Samples taken, those at the peak of live bytes included.
    """

    peak_bytes: int
    sample_count: int

    def utilisation(self, trace: Trace) -> float:
        """Peak of live payload as a share of the peak of touched memory."""
        return trace.peak_live_bytes / self.peak_bytes if self.peak_bytes else math.nan


# --------------------------------------------------------------------------------------- loading


def load(path: str | Path) -> Trace:
    """Read and check a trace, gzip or plain by its first two bytes.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    Trace
        With every invariant of this module's opening checked.

    Raises
    ------
    UsageError
        The file is no such trace: says file, line, what was expected and what was found.
    OSError
        The file cannot be read.
    """
    path = Path(path)
    with path.open("rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
    opener: Callable[..., IO[Any]] = gzip.open if compressed else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            return parse(lines, str(path))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{path}: whole gzip data expected, found damage: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: UTF-8 text expected, found {error}") from error


def parse(lines: Iterable[str], source: str) -> Trace:
    """Check the lines of a trace.

    Parameters
    ----------
    lines : iterable of str
        Header first.
    source : str
        Where they come from, for messages.

    Returns
    -------
    Trace

    Raises
    ------
    UsageError
        As for `load`.
    """
    numbered = enumerate(lines, 1)
    name, count, peak = _header(next(numbered, (1, ""))[1], source)
    state = _Liveness()
    operations = tuple(_operations(numbered, state, source))
    _expect(len(operations) == count, f"{source}, line 1", f"{count} operations", len(operations))
    _expect(state.peak == peak, f"{source}, line 1", f"peak of {peak} live bytes", state.peak)
    return Trace(name, operations, state.allocated, peak, tuple(state.sizes))


class _Liveness:
    """Which blocks of a trace live, and the greatest sum of their sizes so far."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.allocated = 0
        self.live = 0
        self.peak = 0

    def apply(self, operation: Operation, place: str) -> None:
        kind, block, size = operation
        if kind == ALLOCATE:
            _expect(block == self.allocated, place, f"ID {self.allocated}", f"ID {block}")
            self.allocated += 1
        else:
            _expect(block in self.sizes, place, "the ID of a live block", f"ID {block}")
        self.live += size - self.sizes.pop(block, 0)
        if kind != FREE:
            self.sizes[block] = size
        self.peak = max(self.peak, self.live)


def _operations(
    numbered: Iterator[tuple[int, str]], state: _Liveness, source: str
) -> Iterator[Operation]:
    for number, line in numbered:
        place = f"{source}, line {number}"
        operation = _operation(line, place)
        state.apply(operation, place)
        yield operation


def _header(line: str, source: str) -> tuple[str, int, int]:
    words = line.split()
    well_formed = len(words) == 4 and words[0] == "#" and _are_numbers(words[2:])
    _expect(well_formed, f"{source}, line 1", "'# name ops peak_live_bytes'", line.rstrip("\n"))
    return words[1], int(words[2]), int(words[3])


def _operation(line: str, place: str) -> Operation:
    words = line.split()
    kind, length = _KINDS.get(words[0] if words else "", (-1, -1))
    well_formed = len(words) == length and _are_numbers(words[1:])
    _expect(well_formed, place, "'a ID SIZE', 'r ID SIZE' or 'f ID'", line.rstrip("\n"))
    size = 0 if kind == FREE else int(words[2])
    _expect(kind == FREE or size >= 1, place, "a size of at least 1", size)
    return kind, int(words[1]), size


def _are_numbers(words: Iterable[str]) -> bool:
    return all(word.isascii() and word.isdigit() for word in words)


def _expect(fact: bool, place: str, expected: str, found: object) -> None:
    if not fact:
        raise UsageError(f"{place}: {expected} expected, {found!r} found")


# ---------------------------------------------------------------------------------------- timing


def measure(trace: Trace, allocator: Allocator[Any], passes: int = 2) -> Timing:
    """Replay a trace several times on one allocator, and the empty loop as often.

    Parameters
    ----------
    trace : Trace
        What to replay.
    allocator : Allocator
        Handed over as it is: the first pass pays for its growth.
    passes : int
        At least 1; the second and later ones are warm.

    Returns
    -------
    Timing
    """
    loop_seconds = min(empty_replay(trace) for _ in range(max(passes, 3)))
    return Timing(
        len(trace.operations), loop_seconds, tuple(replay(trace, allocator) for _ in range(passes))
    )


def replay(trace: Trace, allocator: Allocator[Handle]) -> float:
    """Time one pass over a trace, then free what it left live (outside the clock).

    Parameters
    ----------
    trace : Trace
        What to replay.
    allocator : Allocator
        Its three bound methods are all that the loop calls. After an error of one of them the
        blocks of the pass stay allocated.

    Returns
    -------
    float
        Seconds, the loop included: subtract `empty_replay`.
    """
    handles: list[Any] = [None] * trace.blocks
    malloc, realloc, free = allocator.malloc, allocator.realloc, allocator.free
    with _collector_paused():
        began = time.perf_counter()
        for kind, block, size in trace.operations:
            if kind == ALLOCATE:
                handles[block] = malloc(size)
            elif kind == FREE:
                free(handles[block])
            else:
                handles[block] = realloc(handles[block], size)
        seconds = time.perf_counter() - began
    for block in trace.live_at_end:
        free(handles[block])
    return seconds


def empty_replay(trace: Trace) -> float:
    """Time the loop of `replay` with its loads and stores, without its calls.

    Parameters
    ----------
    trace : Trace
        What not to replay.

    Returns
    -------
    float
        Seconds.
    """
    handles: list[Any] = [None] * trace.blocks
    with _collector_paused():
        began = time.perf_counter()
        for kind, block, size in trace.operations:
            if kind == ALLOCATE:
                handles[block] = size
            elif kind == FREE:
                handles[block]
            else:
                handles[block] = handles[block]
        return time.perf_counter() - began


class _collector_paused:  # noqa: N801 - a context manager, named as it reads after `with`
    """Keep the cyclic collector out of a timed loop, as `timeit` does."""

    def __enter__(self) -> None:
        self._was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._was_enabled:
            gc.enable()


# -------------------------------------------------------------------------------------- touching


def touch_replay(
    trace: Trace,
    allocator: Allocator[Handle],
    touch: Callable[[Handle, int], object],
    sample: Callable[[], int],
) -> Touched:
    """Replay a trace and use what it allocates: a `TouchReplay` made and run in one call."""
    return TouchReplay(trace).run(allocator, touch, sample)


class TouchReplay:
    """A pass over a trace that uses what it allocates, and samples the memory that takes.

    Not timed. Memory that was never written is no memory, and an allocator would look better for
    every block that its caller leaves alone. Samples are spread evenly over the operations; more
    are taken the first times that the live bytes stand at their peak, and after the last operation.

    To make one takes memory, to run it hardly any: who samples the whole process makes it before
    the zero of the measurement.

    Parameters
    ----------
    trace : Trace
        What to replay.
    handles : mutable sequence, optional
        Room for ``trace.blocks`` handles; an ``array`` of integers keeps them without an object
        each. A list unless given.
    """

    def __init__(self, trace: Trace, handles: MutableSequence[Any] | None = None) -> None:
        self._trace = trace
        self._handles: MutableSequence[Any] = [None] * trace.blocks if handles is None else handles
        self._stops = _sampling_points(trace)

    def run(
        self,
        allocator: Allocator[Handle],
        touch: Callable[[Handle, int], object],
        sample: Callable[[], int],
    ) -> Touched:
        """Make the pass; at the end the remaining blocks are freed.

        Parameters
        ----------
        allocator : Allocator
            As for `replay`.
        touch : callable
            Called as ``touch(handle, size)`` after every allocation and resize; writes every byte,
            or at least one byte of every page that the block reaches into.
        sample : callable
            Returns the touched bytes of now: `MemoryMeter.growth_bytes`, or what the heap says.

        Returns
        -------
        Touched
        """
        handles, stops = self._handles, self._stops
        peak_bytes = 0
        for number, (kind, block, size) in enumerate(self._trace.operations):
            if kind == FREE:
                allocator.free(handles[block])
            else:
                if kind == ALLOCATE:
                    handles[block] = allocator.malloc(size)
                else:
                    handles[block] = allocator.realloc(handles[block], size)
                touch(handles[block], size)
            if number in stops:
                peak_bytes = max(peak_bytes, sample())
        for block in self._trace.live_at_end:
            allocator.free(handles[block])
        return Touched(peak_bytes, len(stops))


def _sampling_points(trace: Trace) -> frozenset[int]:
    """Return the operations after which to sample."""
    last = len(trace.operations) - 1
    step = max(1, len(trace.operations) // _EVEN_SAMPLES)
    points = set(range(step - 1, last + 1, step)) | ({last} if last >= 0 else set())
    points.update(_peak_moments(trace))
    return frozenset(points)


def _peak_moments(trace: Trace) -> list[int]:
    sizes = [0] * trace.blocks
    live = 0
    moments: list[int] = []
    for number, (_, block, size) in enumerate(trace.operations):
        live += size - sizes[block]
        sizes[block] = size
        if live == trace.peak_live_bytes and len(moments) < _PEAK_SAMPLES:
            moments.append(number)
    return moments


# ------------------------------------------------------------------ memory as the kernel counts


class MemoryMeter:
    """How much more memory a process uses than when the meter was made, by the kernel's books.

    Adds up the Pss of all mappings, so it sees data, metadata and the interpreter's own objects,
    wherever they lie. Left out are stacks and the kernel's pages, and files that were mapped before
    (code and constants of libraries come in when first used, which is no allocation).

    Parameters
    ----------
    process : int or str
        A process ID, or ``"self"``. Measured from outside, a process is not charged for measuring.

    References
    ----------
    Linux, Documentation/filesystems/proc.rst, section 3.1: ``smaps``.
    """

    _LINE = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$|^Pss: +(\d+) kB$", re.M)

    def __init__(self, process: int | str = "self") -> None:
        self._smaps = Path("/proc") / str(process) / "smaps"
        self._ignored = {name for name, _ in self._mappings() if name.startswith(b"/")}
        self._before_bytes = self._sum_bytes()

    def growth_bytes(self) -> int:
        """Return the bytes used now beyond those of the beginning; can be negative."""
        return self._sum_bytes() - self._before_bytes

    def _sum_bytes(self) -> int:
        return sum(pss for name, pss in self._mappings() if self._counts(name))

    def _counts(self, name: bytes) -> bool:
        return name not in self._ignored and not name.startswith((b"[stack", b"[v"))

    def _mappings(self) -> Iterator[tuple[bytes, int]]:
        """Yield name and Pss in bytes of each mapping; anonymous ones have an empty name."""
        name = b""
        for match in self._LINE.finditer(self._smaps.read_bytes()):
            if match[2] is None:
                name = match[1]
            else:
                yield name, int(match[2]) * 1024
