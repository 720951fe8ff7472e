"""Workloads for crashes of a heap: operations on a few marked blocks, and what each leaves behind.

    base       a small heap file, made once: two durabilities, two shapes
    program    names of operations, "swap" or "swap lazy", run on a copy of it under a `Recorder`
    states     `Known` after each commit; the notes on the tape tell how far the program had come

The log has one page, so that it wraps every few commits; where no checkpoint may come in between,
sixteen. The heap lies in a memfd: durability is that of the superblock, and what a power failure
leaves is the simulator's business, not the disk's.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from pmemheap import Heap, Ring, Rows, layout, native
from pmemheap.errors import OutOfSpaceError
from pmemheap.file import openfile
from pmemheap.format.layout import row_units
from pmemheap.heap.making import over_file
from pmemheap.heap.rows import HasRows
from pmemheap.heap.strategies import General, Strategy
from pmemheap.layout import Durability, SegmentKind
from pmemheap.testing import Recorder, Recording
from pmemheap.units import UNIT, MiB

T = TypeVar("T")

HEADROOM = 16 * MiB
LOG_BYTES, ROOMY_LOG_BYTES = 4096, 16 * 4096
SMALL, MIDDLE, LONG = 300, 700, 3 * UNIT
TO_WORD_END = 448
"""Behind 300 bytes, a pad and 40 bytes: up to the last granule of a word of the bits table."""
ROW = 3 * UNIT // 2
"""Two rows are a run."""
SEGMENT = layout.SEGMENT_UNITS * UNIT

Blocks = dict[int, tuple[int, bytes]]
"""Offset of a live block to its usable size, and to as many of its first bytes as are known."""


@dataclass
class Known:
    """What a heap holds when a number of its transactions are committed."""

    blocks: Blocks = field(default_factory=dict)
    roots: dict[str, int] = field(default_factory=dict)
    arenas: set[str] = field(default_factory=set)

    def __hash__(self) -> int:
        """Return a number that is equal for equal states."""
        parts = self.blocks.items(), self.roots.items(), self.arenas
        return hash(tuple(frozenset(part) for part in parts))

    def copy(self) -> Known:
        return Known(dict(self.blocks), dict(self.roots), set(self.arenas))


def mark(seed: int, nbytes: int) -> bytes:
    """Return bytes that tell whose they are, and where in a block."""
    words = (seed << 32 | index for index in range(nbytes // 8 + 1))
    return b"".join(word.to_bytes(8, "little") for word in words)[:nbytes]


class World:
    """A heap, and what is known of it after each of its commits.

    Attributes
    ----------
    states : list of Known
        By number of commits; the first is that of the base.
    names : dict of str to int
        Offsets of blocks by what operations call them.
    seen : Counter
        What was exercised.
    """

    def __init__(self, heap: Heap, known: Known, names: dict[str, int]) -> None:
        self.heap = heap
        self.states = [known]
        self.names = dict(names)
        self.seen: Counter[str] = Counter()
        self.power = heap.durability == "power"
        self._seed = 1000
        self._thread = ThreadPoolExecutor(1)
        self._freed: set[int] = set()

    @property
    def log(self) -> Any:
        self.heap._space.require(write=True)  # while it sleeps it has none
        return self.heap._space.shared.log

    # ------------------------------------------------------------ commits

    @contextmanager
    def _commit(self, durable: bool) -> Iterator[Known]:
        """Let the block be the next commit; it is handed the state to change."""
        after = self.states[-1].copy()
        self.states.append(after)
        number = len(self.states) - 1
        Recorder.begin(number)
        yield after
        Recorder.returned(number)
        if durable:
            Recorder.durable(number)

    def bare(self) -> Any:
        """Return a context in which one call outside of a transaction is made."""
        return self._commit(durable=False)

    @contextmanager
    def transaction(self, durable: bool) -> Iterator[tuple[Any, Known]]:
        """Run a transaction; what it changes is put into the second of what this yields."""
        tx = self.heap.transaction(durable=durable)
        after = self.states[-1].copy()
        yield tx, after
        with self._commit(durable) as known:
            known.blocks, known.roots, known.arenas = after.blocks, after.roots, after.arenas
            tx.commit()

    def bare_malloc(self, space: Any, size: int, align: int = 16) -> int:
        """Allocate a block outside of a transaction; of its bytes nothing is known."""
        with self.bare() as after:
            offset: int = space.malloc(size, align)
            after.blocks[offset] = self.heap.usable_size(offset), b""
        return offset

    def scribble(self, offset: int) -> None:
        """Store to all of a block whose bytes nobody knows."""
        with self.heap.view(offset) as view:
            view[:] = b"?" * len(view)

    def close(self) -> None:
        """Close the heap, and let the other thread go."""
        self._thread.shutdown()
        self.heap.close()

    def synced(self) -> None:
        """Say that everything so far is durable."""
        Recorder.durable(len(self.states) - 1)

    # ------------------------------------------------------------ parts of operations

    def elsewhere(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in another thread, always the same one."""
        return self._thread.submit(function, *arguments).result()

    def meanwhile(self, function: Callable[[], T]) -> Future[T]:
        """Let the other thread call a function."""
        return self._thread.submit(function)

    def forget(self) -> None:
        """Drop the last state: its commit was refused."""
        self.states.pop()

    def named(self, wanted: str) -> str:
        """Return a name that has a block: the one that is wanted, if it was not freed."""
        return next(name for name in (wanted, "b", "c", "behind long") if name in self.names)

    def seed(self) -> int:
        self._seed += 1
        return self._seed

    def allocate(self, tx: Any, after: Known, size: int, name: str, space: Any = None) -> int:
        """Allocate a block in a transaction, and fill it."""
        offset = tx.malloc(size)
        return self.fill(after, offset, name)

    def fill(self, after: Known, offset: int, name: str) -> int:
        """Store to all of a block that nobody else has yet."""
        usable = self.heap.usable_size(offset)
        content = mark(self.seed(), usable)
        with self.heap.view(offset) as view:
            view[:] = content
        after.blocks[offset] = usable, content
        self.names[name] = offset
        if offset in self._freed:
            self.seen["reuse after free"] += 1
        return offset

    def note_free(self, after: Known, name: str) -> int:
        """Forget a block that is about to be freed."""
        offset = self.names.pop(name)
        del after.blocks[offset]
        self._freed.add(offset)
        return offset

    def change(self, after: Known, offset: int, content: bytes) -> None:
        usable, old = after.blocks[offset]
        after.blocks[offset] = usable, content + old[len(content) :]

    def lap(self) -> None:
        """Count what the log does."""
        counters = self.heap._space.core.usage()[0]
        self.seen["quarantine waits"] += counters["quarantined_bytes"] > 0


Operation = Callable[[World, bool], None]
TRANSACTIONS: dict[str, Operation] = {}
CALLS: dict[str, Operation] = {}


def transaction(function: Operation) -> Operation:
    """Register an operation that is a transaction: durable, or lazy."""
    TRANSACTIONS[function.__name__.replace("_", "-").strip("-")] = function
    return function


def call(function: Operation) -> Operation:
    """Register an operation that is none."""
    CALLS[function.__name__.replace("_", "-").strip("-")] = function
    return function


# ---------------------------------------------------------------- transactions


@transaction
def alloc(world: World, durable: bool) -> None:
    with world.transaction(durable) as (tx, after):
        world.allocate(tx, after, SMALL, f"n{world.seed()}")


@transaction
def alloc_first(world: World, durable: bool) -> None:
    """More than a record carries: the data is synced before it."""
    with world.transaction(durable) as (tx, after):
        world.allocate(tx, after, MIDDLE, f"n{world.seed()}")
        world.allocate(tx, after, MIDDLE, f"n{world.seed()}")


@transaction
def swap(world: World, durable: bool) -> None:
    with world.transaction(durable) as (tx, after):
        old = world.note_free(after, world.named("a"))
        new = world.allocate(tx, after, SMALL, "a")
        tx.free(old)
        tx.roots["a"] = new
        after.roots["a"] = new


@transaction
def write(world: World, durable: bool) -> None:
    with world.transaction(durable) as (tx, after):
        for name in ("a", "b"):
            offset = world.names[world.named(name)]
            content = mark(world.seed(), SMALL // 2)
            tx.write(offset, content)
            world.change(after, offset, content)


@transaction
def snapshot(world: World, durable: bool) -> None:
    with world.transaction(durable) as (tx, after):
        _change_in_place(world, tx, after, "b")


@transaction
def snapshot_alloc(world: World, durable: bool) -> None:
    with world.transaction(durable) as (tx, after):
        _change_in_place(world, tx, after, "a")
        world.allocate(tx, after, SMALL, f"n{world.seed()}")


@transaction
def snapshot_checkpoint(world: World, durable: bool) -> None:
    """A checkpoint while old bytes may still be needed [R20]."""
    with world.transaction(durable) as (tx, after):
        _change_in_place(world, tx, after, "a")
        _checkpoint(world)
        assert world.log.positions()[4], "an open UNDO holds the tail"
        world.seen["checkpoints held by an undo"] += 1
        _change_in_place(world, tx, after, "b")


@transaction
def snapshot_abort(world: World, durable: bool) -> None:
    tx = world.heap.transaction(durable=durable)
    _change_in_place(world, tx, world.states[-1].copy(), "a")
    world.allocate(tx, Known(), SMALL, "nobody's")
    tx.abort()


@transaction
def abort_write(world: World, durable: bool) -> None:
    """An abort, then a commit that changes the same bytes [R21]."""
    snapshot_abort(world, durable)
    write(world, durable)


@transaction
def free(world: World, durable: bool) -> None:
    with world.transaction(durable) as (tx, after):
        tx.free(world.note_free(after, world.named("b")))
    world.lap()


@transaction
def free_viewed(world: World, durable: bool) -> None:
    """Free a block that is viewed until after the commit."""
    with world.transaction(durable) as (tx, after):
        offset = world.note_free(after, world.named("b"))
        view = world.heap.view(offset)
        tx.free(offset, deferred=True)
    world.lap()
    view.release()


@transaction
def regenerate(world: World, durable: bool) -> None:
    """Free blocks that were written to; others fill their places, not by a record [R13]."""
    with world.transaction(durable) as (tx, after):
        for name in ("left", "right"):
            world.allocate(tx, after, MIDDLE, name)
    with world.transaction(True) as (tx, after):
        for name in ("left", "right"):
            tx.write(world.names[name], mark(world.seed(), 200))
            tx.free(world.note_free(after, name))
    alloc_first(world, durable)


@transaction
def even(world: World, durable: bool) -> None:
    """More than a lap of records of one length: a stale one lies where the next one will [R11]."""
    for _ in range(11):
        with world.transaction(durable) as (tx, after):
            content = mark(world.seed(), 512 - 64 - 16)
            tx.write(world.names["behind long"], content)
            world.change(after, world.names["behind long"], content)


@transaction
def snapshot_crowd(world: World, durable: bool) -> None:
    """Fill the log while old bytes pin its tail: the last ones are refused [R2]."""
    with world.transaction(durable) as (tx, after):
        _change_in_place(world, tx, after, "a")
        for _ in range(12):
            if not world.elsewhere(_alloc_if_room, world):
                break
        after.blocks = world.states[-1].blocks | {world.names["a"]: after.blocks[world.names["a"]]}
    world.seen["checkpoints held by an undo"] += 1


def _alloc_if_room(world: World) -> bool:
    try:
        alloc(world, False)
    except OutOfSpaceError:
        world.forget()
        return False
    return True


def group(world: World, durable: bool) -> None:
    """Commit, and let another thread append while the sync of that is under way [R4].

    Which comes first is known only if the interpreter switches threads at syncs alone, and if syncs
    take their time: so this is in no alphabet.
    """
    begun = threading.Event()
    others = world.meanwhile(lambda: begun.wait() and [alloc(world, False) for _ in range(3)])
    tx = world.heap.transaction(durable=durable)
    after = world.states[-1].copy()
    world.allocate(tx, after, SMALL, f"n{world.seed()}")
    world.states.append(after)  # complete before the other thread copies it
    number = len(world.states) - 1
    Recorder.begin(number)
    begun.set()
    tx.commit()
    Recorder.returned(number)
    Recorder.durable(number)
    others.result()


@transaction
def two_open(world: World, durable: bool) -> None:
    """Commit a block while another transaction has reserved its neighbour [R1]."""
    other = world.elsewhere(world.heap.transaction)
    for _ in range(2):
        world.elsewhere(other.malloc, SMALL)
    alloc(world, durable)
    world.elsewhere(other.abort)


@transaction
def free_written(world: World, durable: bool) -> None:
    """Free a block that an open transaction is about to change, and let others have it [R26]."""
    place = world.names[world.named("c")]
    with world.transaction(durable) as (tx, after):
        tx.write(place, mark(world.seed(), 64))
        try:
            world.elsewhere(world.heap.free, place)
        except BufferError:
            world.change(after, place, mark(world._seed, 64))
        else:
            raise AssertionError("a block was freed that a transaction is about to change")


@transaction
def refill(world: World, durable: bool) -> None:
    """Free a block, then let others have its place, twice: generations of one block [R6, R13]."""
    for _ in range(2):
        with world.transaction(durable) as (tx, after):
            content = mark(world.seed(), 64)
            name = world.named("c")
            tx.write(world.names[name], content)
            tx.free(world.note_free(after, name))
        world.lap()
        world.heap.sync()
        world.synced()
        with world.transaction(durable) as (tx, after):
            world.allocate(tx, after, SMALL, "c")


@transaction
def rows(world: World, durable: bool) -> None:
    """Commit rows, in one run and the next one, and free one that was there [R35]."""
    table = _table(world)
    with world.transaction(durable) as (tx, after):
        _put_rows(world, table, tx, after)
        if len(names := _rows(world)) > 3:
            tx.free(world.note_free(after, names[0]))
    world.lap()


@transaction
def rows_abort(world: World, durable: bool) -> None:
    """Reserve rows of a new run, and give them up."""
    table = _table(world)
    tx = world.heap.transaction(durable=durable)
    for _ in range(3):
        world.fill(Known(), tx.malloc(ROW, arena=table), "nobody's")
    tx.abort()
    del world.names["nobody's"]


@transaction
def rows_held(world: World, durable: bool) -> None:
    """Trim while the only rows of the last runs are reserved; then commit them [R35]."""
    table = _table(world)
    with world.transaction(durable) as (tx, after):
        _put_rows(world, table, tx, after)
        _trim(world)


def _put_rows(world: World, table: Any, tx: Any, after: Any) -> None:
    """Let a transaction make three rows."""
    for _ in range(3):
        world.fill(after, tx.malloc(ROW, arena=table), f"row {world.seed()}")


def _table(world: World) -> Any:
    """Return what has rows: the heap itself, else an arena, made if there is none."""
    return world.heap if isinstance(world.heap, HasRows) else _arena(world, "table", Rows(ROW))


def _arena(world: World, name: str, strategy: Any) -> Any:
    if name in world.states[-1].arenas:
        return world.heap.arena(name)
    with world.bare() as after:
        made = world.heap.arena(name, strategy=strategy)
        after.arenas.add(name)
    return made


def _rows(world: World) -> list[str]:
    return _called(world, "row")


def _called(world: World, kind: str) -> list[str]:
    return [name for name in world.names if name.startswith(f"{kind} ")]


@transaction
def queue(world: World, durable: bool) -> None:
    """Commit blocks of a ring, one of them behind a pad, and free the oldest ones [R31, R32]."""
    ring = _ring(world)
    with world.transaction(durable) as (tx, after):
        for size, align in ((SMALL, 16), (40, 512), (TO_WORD_END, 16)):
            world.fill(after, tx.malloc(size, align, arena=ring), f"item {world.seed()}")
        for name in _called(world, "item")[:-3]:
            tx.free(world.note_free(after, name))
    world.lap()


@transaction
def queue_clear(world: World, durable: bool) -> None:
    """Free all that is in a ring, in one commit, so that its first chunk goes with that."""
    put(world, durable)
    with world.transaction(durable) as (tx, after):
        for name in _called(world, "item"):
            tx.free(world.note_free(after, name))
    queue(world, durable)


@transaction
def region_pieces(world: World, durable: bool) -> None:
    """Free blocks of a region together with a block of the heap, in one commit."""
    made = _region(world)
    with world.transaction(durable) as (tx, after):
        for name in _pieces(world, made)[1:]:
            tx.free(world.note_free(after, name))
        world.allocate(tx, after, SMALL, f"n{world.seed()}")
    world.lap()


@transaction
def queue_abort(world: World, durable: bool) -> None:
    """Reserve blocks of a ring, and give them up."""
    ring = _ring(world)
    tx = world.heap.transaction(durable=durable)
    for size, align in ((SMALL, 512), (5000, 16)):
        world.fill(Known(), tx.malloc(size, align, arena=ring), "nobody's")
    tx.abort()
    del world.names["nobody's"]


@transaction
def queue_two_open(world: World, durable: bool) -> None:
    """Commit to a ring while another transaction has reserved what lies before and behind [R32]."""
    ring = _ring(world)
    other = world.elsewhere(world.heap.transaction)
    world.elsewhere(lambda: other.malloc(UNIT // 2, arena=ring))
    with world.transaction(durable) as (tx, after):
        world.fill(after, tx.malloc(SMALL, arena=ring), f"item {world.seed()}")
        world.elsewhere(lambda: other.malloc(UNIT // 2, arena=ring))
    world.elsewhere(other.abort)


def _ring(world: World) -> Any:
    """Return the ring, made if there is none."""
    return _arena(world, "queue", Ring())


def _change_in_place(world: World, tx: Any, after: Known, name: str) -> None:
    offset = world.names[world.named(name)]
    tx.snapshot(offset, SMALL // 2)
    content = mark(world.seed(), SMALL // 2)
    with world.heap.view(offset) as view:
        view[: len(content)] = content
    world.change(after, offset, content)


# ---------------------------------------------------------------- calls outside of transactions


@call
def malloc(world: World, durable: bool) -> None:
    offset = world.bare_malloc(world.heap, SMALL)
    world.scribble(offset)
    world.names[f"m{world.seed()}"] = offset


@call
def bare_free(world: World, durable: bool) -> None:
    with world.bare() as after:
        world.heap.free(world.note_free(after, world.named("c")))
    world.lap()


@call
def bare_free_viewed(world: World, durable: bool) -> None:
    """Free a block that is viewed: it is gone at the call, not with the view."""
    view = world.heap.view(world.names[world.named("c")])
    with world.bare() as after:
        world.heap.free(world.note_free(after, world.named("c")), deferred=True)
    with world.bare() as after:
        offset = world.heap.malloc(SMALL)
        after.blocks[offset] = world.heap.usable_size(offset), b""
    world.names[f"m{world.seed()}"] = offset
    view.release()


@call
def realloc(world: World, durable: bool) -> None:
    """Let a block move: what it held is committed with its new place."""
    with world.bare() as after:
        name = world.named("b")
        _, content = after.blocks[world.names[name]]
        old = world.note_free(after, name)
        new = world.heap.realloc(old, MIDDLE)
        after.blocks[new] = world.heap.usable_size(new), content[:MIDDLE]
        world.names[name] = new


@call
def grow(world: World, durable: bool) -> None:
    before = world.heap._space.region.end_unit
    world.names[f"g{world.seed()}"] = world.bare_malloc(world.heap, SEGMENT)
    world.seen["growths"] += world.heap._space.region.end_unit > before


@call
def refill_head(world: World, durable: bool) -> None:
    """Give the first segment back, and grow into its place, which has tables of live units."""
    before = world.log.checkpoints
    _cut(world, "head", 0)
    given_back = spare_bytes(world.heap)
    world.names[f"g{world.seed()}"] = world.bare_malloc(world.heap, SEGMENT)
    # A checkpoint would have synced the tables. The second time there is no head any more.
    is_grown = spare_bytes(world.heap) < given_back and world.log.checkpoints == before
    world.seen["growths into SPARE"] += is_grown


def spare_bytes(heap: Any) -> int:
    """Return the bytes of the file that wait for the next growth."""
    slots = heap._space.shared.medium.segments.values()
    return sum(slot.file_bytes for slot in slots if slot.kind == SegmentKind.SPARE)


@call
def grow_odd(world: World, durable: bool) -> None:
    """Grow by no whole number of segments [R25]."""
    offset = world.bare_malloc(world.heap, 2 * SEGMENT + 40 * UNIT)
    world.names[f"g{world.seed()}"] = offset


@call
def mallocs(world: World, durable: bool) -> None:
    for _ in range(3):
        malloc(world, durable)


@call
def trim(world: World, durable: bool) -> None:
    _trim(world)


@call
def punch(world: World, durable: bool) -> None:
    """Free some units in the middle, and give their file blocks back."""
    _cut(world, "long", 0)


@call
def trim_tail(world: World, durable: bool) -> None:
    _cut(world, "tail", 1)


@call
def trim_head(world: World, durable: bool) -> None:
    _cut(world, "head", 0)


@call
def arena(world: World, durable: bool) -> None:
    with world.bare() as after:
        world.heap.arena("other")
        after.arenas.add("other")
    world.names["in arena"] = world.bare_malloc(world.heap.arena("other"), SMALL)


@call
def arena_drop(world: World, durable: bool) -> None:
    if "other" not in world.states[-1].arenas:
        arena(world, durable)
    with world.bare() as after:
        other = world.heap.arena("other")
        other.drop()
        after.arenas.discard("other")
        gone = other._space.index
        after.blocks = {off: each for off, each in after.blocks.items() if off >> 55 != gone}
    world.seen["arena drops"] += 1


@call
def row(world: World, durable: bool) -> None:
    table = _table(world)
    world.names[f"row {world.seed()}"] = world.bare_malloc(table, ROW)


@call
def put(world: World, durable: bool) -> None:
    """Let a block come into a ring behind a pad, and one of its own units close the chunk."""
    ring = _ring(world)
    for size, align in ((SMALL, 512), (SMALL, 16), (SMALL, 2 * UNIT), (SMALL, 16)):
        offset = world.bare_malloc(ring, size, align)
        world.scribble(offset)
        world.names[f"item {world.seed()}"] = offset


@call
def queue_drain(world: World, durable: bool) -> None:
    """Free all that is in a ring: each chunk goes with its last block; then the queue goes on."""
    put(world, durable)
    ring = _ring(world)
    before = ring._space.core.freed_units
    for name in _called(world, "item"):
        with world.bare() as after:
            world.heap.free(world.note_free(after, name))
    world.heap.sync()
    world.synced()
    world.seen["chunks gone"] += ring._space.core.freed_units > before
    put(world, durable)


@call
def region(world: World, durable: bool) -> None:
    """Make a region of two chunks, and give what is in it bytes by a commit."""
    with world.bare() as after:
        made = world.heap.region()
        after.blocks[made.offset] = 2 * 16, b""
    world.names[f"region {made.offset}"] = made.offset
    for size in (SMALL, UNIT - 600, SMALL):
        offset = world.bare_malloc(made, size)
        world.names[f"piece {world.seed()} of {made.offset}"] = offset
    with world.transaction(True) as (tx, after):
        for name in _pieces(world, made):
            content = mark(world.seed(), 100)
            tx.write(world.names[name], content)
            world.change(after, world.names[name], content)
    _checkpoint(world)


def _region(world: World) -> Any:
    """Return a region, made if there is none."""
    if not _called(world, "region"):
        region(world, True)
    return world.heap.region(at=world.names[_called(world, "region")[0]])


def _pieces(world: World, made: Any) -> list[str]:
    return [name for name in _called(world, "piece") if name.endswith(f" of {made.offset}")]


@call
def region_drop(world: World, durable: bool) -> None:
    """Let a region go at once [R33], and others have its place [R6]."""
    made = _region(world)
    with world.bare() as after:
        for name in (*_pieces(world, made), f"region {made.offset}"):
            world.note_free(after, name)
        made.drop()
    world.lap()
    world.seen["regions dropped"] += 1
    for _ in range(2):
        alloc(world, False)
    malloc(world, durable)


@call
def region_rewind(world: World, durable: bool) -> None:
    """Take the newest block of a region back, and let another one have its place [R6]."""
    made = _region(world)
    where = made.mark()
    offset = world.bare_malloc(made, MIDDLE)
    with world.transaction(True) as (tx, after):
        tx.write(offset, mark(world.seed(), 200))
        world.change(after, offset, mark(world._seed, 200))
    world.names["newest"] = offset
    _checkpoint(world)  # or the log brings the bytes back
    with world.bare() as after:
        world.note_free(after, "newest")
        made.rewind(where)
    offset = world.bare_malloc(made, SMALL)
    world.scribble(offset)
    world.names[f"piece {world.seed()} of {made.offset}"] = offset


@call
def region_free(world: World, durable: bool) -> None:
    """Free all blocks of a region, one by one: its other chunks go, the first one stays."""
    made = _region(world)
    for name in _pieces(world, made):
        with world.bare() as after:
            world.heap.free(world.note_free(after, name))
    world.lap()


@call
def rows_cut(world: World, durable: bool) -> None:
    """Free all rows, and give the runs back in which none is left."""
    for _ in range(3):
        row(world, durable)
    for name in _rows(world):
        with world.bare() as after:
            world.heap.free(world.note_free(after, name))
    table = _table(world)
    world.heap.sync()
    world.synced()
    before = len(table.live)
    world.heap.trim()
    world.seen["rows cut"] += len(table.live) < before
    row(world, durable)


@call
def move_log(world: World, durable: bool) -> None:
    log = world.log
    world.heap._space.serve(log.move, 2 * log.size if log.size == LOG_BYTES else LOG_BYTES)
    world.seen["log moves"] += 1


@call
def checkpoint(world: World, durable: bool) -> None:
    _checkpoint(world)


@call
def sync(world: World, durable: bool) -> None:
    world.heap.sync()
    world.synced()


def _checkpoint(world: World) -> None:
    world.heap._space.serve(world.log.checkpoint)


def _trim(world: World) -> None:
    world.heap.trim()


def _cut(world: World, name: str, bound: int) -> None:
    before = world.heap._space.core.bounds[bound]
    for each in [each for each in world.names if each.partition(" of ")[0] == name]:
        with world.bare() as after:
            world.heap.free(world.note_free(after, each))
    _trim(world)
    world.seen["cuts"] += world.heap._space.core.bounds[bound] != before


# ---------------------------------------------------------------- bases


SMALL_SHAPE, LARGE_SHAPE, ROOMY_SHAPE, ROWS_SHAPE = "small", "large", "roomy", "rows"
SHAPES = (SMALL_SHAPE, LARGE_SHAPE, ROOMY_SHAPE, ROWS_SHAPE)
_NEAR_THE_END = LOG_BYTES - 900, LOG_BYTES - 200  # where the log of a base stands: soon it wraps
NEEDS_LARGE = {"trim-head", "trim-tail"}
NEEDS_ROOMY = {"refill-head"}
WITH_ROWS = {
    "alloc", "swap", "write", "snapshot", "snapshot-abort", "free", "free-viewed", "two-open",
    "refill", "rows", "rows-abort", "rows-held", "queue", "malloc", "bare-free", "trim", "row",
    "rows-cut", "arena-drop", "move-log", "checkpoint", "sync",
}  # fmt: skip
"""What a heap can do that has rows itself."""
LEFT_IN_ROWS = 2
"""Rows that can still come before such a heap grows."""


@dataclass(frozen=True)
class Base:
    """A heap file to start from."""

    image: bytes
    known: Known
    names: dict[str, int]


@lru_cache
def base(durability: str, shape: str) -> Base:
    """Make a heap of a few marked blocks.

    A large one has a segment to cut off at either end, and a roomy one a larger log as well. One
    that has rows itself is almost full.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        path = Path(directory) / "base"
        is_roomy, has_rows = shape == ROOMY_SHAPE, shape == ROWS_SHAPE
        is_large = shape in {LARGE_SHAPE, ROOMY_SHAPE}
        heap = create_heap(
            path, durability, ROOMY_LOG_BYTES if is_roomy else LOG_BYTES,
            Rows(ROW) if has_rows else None,
        )  # fmt: skip
        world = World(heap, Known(), {})
        if is_large:  # two blocks: what comes later covers the entry of the first alone
            _bulk(world, "head", SEGMENT // 2)
            _bulk(world, "head of two", SEGMENT // 2)
        for name in "abc":
            with world.transaction(True) as (tx, after):
                offset = world.allocate(tx, after, SMALL, name)
                if name == "a":
                    tx.roots["a"] = offset
                    after.roots["a"] = offset
        with world.transaction(True) as (tx, after):
            world.allocate(tx, after, ROW if has_rows else LONG, "long")
            world.allocate(tx, after, UNIT, "behind long")
        if is_large:
            _bulk(world, "tail")
        while has_rows and len(world.states[-1].blocks) < rows_in(heap) - LEFT_IN_ROWS:
            world.bare_malloc(heap, ROW)
        while (
            not is_roomy
            and not _NEAR_THE_END[0] <= world.log.positions()[3] % LOG_BYTES < _NEAR_THE_END[1]
        ):
            write(world, True)
        world.close()
        return Base(path.read_bytes(), world.states[-1], world.names)


def _bulk(world: World, name: str, size: int = SEGMENT) -> None:
    world.names[name] = world.bare_malloc(world.heap, size)


def rows_in(heap: Heap) -> int:
    """Return the rows of `ROW` bytes for which a heap has units, live ones among them."""
    first, end, _, _ = heap._space.core.bounds
    run_units = row_units(ROW)
    return (end // run_units - -(-first // run_units)) * run_units * UNIT // ROW


def create_heap(
    path: Path, durability: str, log_bytes: int = LOG_BYTES, strategy: Strategy | None = None
) -> Heap:
    """Make a heap file as `Heap.create` does, with a small log."""
    medium = openfile.create(
        path, Durability[durability.upper()], limit=None, replace_file=False, log_bytes=log_bytes,
        strategy=(strategy or General()).packed(),
    )  # fmt: skip
    heap = over_file(Heap, medium, HEADROOM, None, strategy=strategy, fresh=True)
    medium.link_name(replace_file=False)
    return heap


def attach(fd: int) -> Heap:
    """Open a heap file as its writer."""
    return Heap.attach(fd, readonly=False, headroom=HEADROOM, decay=None)


# ---------------------------------------------------------------- programs


@dataclass(frozen=True)
class Program:
    """Operations one after the other, on a heap of some durability."""

    durability: str
    operations: tuple[str, ...]
    has_rows: bool = False
    """Whether the heap itself has rows."""

    @property
    def shape(self) -> str:
        if self.has_rows:
            return ROWS_SHAPE
        if NEEDS_ROOMY & set(self.operations):
            return ROOMY_SHAPE
        return LARGE_SHAPE if NEEDS_LARGE & set(self.operations) else SMALL_SHAPE

    def __str__(self) -> str:
        of_rows = " of rows" if self.has_rows else ""
        return f"{self.durability}{of_rows}: {', '.join(self.operations)}"


def alphabet(*, has_rows: bool = False) -> list[str]:
    """Return the operations, of a heap that has rows itself or of others.

    A transaction is durable and lazy.
    """
    every = [*TRANSACTIONS, *(f"{name} lazy" for name in TRANSACTIONS), *CALLS]
    return [each for each in every if not has_rows or each.partition(" ")[0] in WITH_ROWS]


def run(world: World, operation: str) -> None:
    name, _, lazy = operation.partition(" ")
    function = group if name == "group" else TRANSACTIONS.get(name) or CALLS[name]
    function(world, not lazy)


def reproducible() -> Any:
    """Return a context in which epochs are no accident."""
    return mock.patch("secrets.randbits", random.Random(0).getrandbits)


def record(program: Program, path: Path | None = None) -> tuple[Recording, World]:
    """Run a program under a recorder, in a memfd or a file on disk."""
    start = base(program.durability, program.shape)
    fd = native.memfd_create("world") if path is None else os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.write(fd, start.image)
        heap = attach(fd)
        world = World(heap, start.known, start.names)
        unattached = world.heap._space.shared.redo is None
        before = 0 if unattached else world.log.checkpoints
        with Recorder(fd) as recorder:
            for operation in program.operations:
                run(world, operation)
        world.seen["checkpoints"] += world.log.checkpoints - before
        world.close()
    finally:
        os.close(fd)
    world.seen["wrapped records"] += wraps(recorder.recording)
    return recorder.recording, world


def wraps(recording: Recording) -> int:
    """Count the records that continue at the beginning of the log."""
    first = layout.HEADER_BYTES
    stores = [each for each in recording.events if each.data]
    return sum(
        one.offset + one.length == first + LOG_BYTES and other.offset == first
        for one, other in pairwise(stores)
    )
