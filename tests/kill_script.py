"""A script of all kinds of changes to a heap file, for tests that end it anywhere.

prepared(path)   blocks, holes, and records in the log that nobody has brought home
play(player)     recovery has been at its beginning; every call follows, close and reopen too
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from kill_oracle import NOTHING, Change, Found, Journal, Ledger, Make, Model, Player

from pmemheap import Heap
from pmemheap.file import openfile
from pmemheap.file.redo import RedoLog
from pmemheap.heap.making import over_file
from pmemheap.heap.transaction import Transaction
from pmemheap.layout import LOG_BYTES, Durability
from pmemheap.testing import kill_at
from pmemheap.units import GiB, KiB, MiB

HEADROOM = 1 * GiB
SMALL_LOG = 16 * KiB
_CHUNK = 4080  # no multiple of a page: pages that are swapped differ


@lru_cache(maxsize=256)
def pattern(seed: int, size: int) -> bytes:
    """Return bytes that say whose they are, everywhere."""
    chunk = random.Random(seed).randbytes(min(size, _CHUNK))
    return (chunk * (-(-size // _CHUNK)))[:size] if size else b""


def made(path: Path, durability: str, log_bytes: int = LOG_BYTES) -> Heap:
    """Make a heap with a log of some size."""
    medium = openfile.create(
        path, Durability[durability.upper()], limit=None, replace_file=False, log_bytes=log_bytes
    )
    heap = over_file(Heap, medium, HEADROOM, None, fresh=True)
    medium.link_name(replace_file=False)
    return heap


def reopened(path: Path) -> Heap:
    return Heap.open(path, headroom=HEADROOM, decay=None)


class Actor:
    """The calls of the script, each of which is one change.

    With `stores` off nothing is stored outside of transactions.
    """

    def __init__(self, player: Player, seed: int = 0) -> None:
        self.player = player
        self.seed = seed

    @property
    def heap(self) -> Heap:
        return self.player.heap

    @property
    def model(self) -> Model:
        return self.player.model

    def new(self, size: int) -> bytes:
        self.seed += 1
        return pattern(self.seed, size)

    def content(self, offset: int) -> bytes:
        return self.model.blocks[offset]

    # ------------------------------------------------------------ bare calls

    def malloc(self, size: int, arena: str | None = None) -> int:
        data = self.new(size)

        def act() -> list[tuple[int, bytes]]:
            space = self.heap if arena is None else self.heap.arena(arena, create=False)
            offset = space.malloc(size)
            self.heap.view(offset, size)[:] = data
            return [(offset, data)]

        return self.player.do(Change(makes=(Make(size),)), act)[0]

    def malloc_many(self, size: int, count: int) -> list[int]:
        data = [self.new(size) for _ in range(count)]

        def act() -> list[tuple[int, bytes]]:
            offsets = list(self.heap.malloc_many(size, count))
            for offset, each in zip(offsets, data, strict=True):
                self.heap.view(offset, size)[:] = each
            return list(zip(offsets, data, strict=True))

        return self.player.do(Change(makes=(Make(size),) * count, in_parts=True), act)

    def free(self, offset: int) -> None:
        self.player.do(Change(frees=(offset,)), lambda: self.heap.free(offset))

    def free_many(self, offsets: Sequence[int]) -> None:
        change = Change(frees=tuple(offsets), in_parts=True)
        self.player.do(change, lambda: self.heap.free_many(offsets))

    def realloc(self, offset: int, size: int) -> int:
        old = self.content(offset)
        kept, more = old[:size], self.new(max(0, size - len(old)))
        forgotten = offset in self.model.loose and self.heap.durability == "power"

        def act() -> list[tuple[int, bytes]]:
            to = self.heap.realloc(offset, size)
            if more:
                self.heap.view(to, size)[len(kept) :] = more
            return [(to, kept + more)]

        make = Make(size, b"" if forgotten else kept)
        return self.player.do(Change(frees=(offset,), makes=(make,)), act)[0]

    def root(self, name: str, offset: int | None) -> None:
        def act() -> list[tuple[int, bytes]]:
            if offset is None:
                del self.heap.roots[name]
            else:
                self.heap.roots[name] = offset
            return []

        self.player.do(Change(roots=((name, offset),)), act)

    # ------------------------------------------------------------ transactions

    def transact(
        self,
        *,
        durable: bool = True,
        allocs: Iterable[int] = (),
        frees: Iterable[int] = (),
        writes: Iterable[tuple[int, int, int]] = (),
        snapshots: Iterable[tuple[int, int, int]] = (),
        roots: Iterable[tuple[str, int | None]] = (),
        extra: Callable[[Transaction], None] = lambda tx: None,
        abort: bool = False,
    ) -> list[int]:
        """Do it all in one transaction; writes and snapshots are (offset, place, length)."""
        data = [self.new(size) for size in allocs]
        stores = [(at, place, self.new(length)) for at, place, length in writes]
        in_place = [(at, place, self.new(length)) for at, place, length in snapshots]
        gone, names = tuple(frees), tuple(roots)
        makes = tuple(Make(len(each), each) for each in data)
        change = Change(gone, tuple(stores), tuple(in_place), makes, names, durable=durable)

        def act() -> list[tuple[int, bytes]]:
            came: list[tuple[int, bytes]] = []
            with self.heap.transaction(durable=durable) as tx:
                for each in data:
                    block = tx.alloc(len(each))
                    with block.view as view:
                        view[:] = each
                    came.append((block.offset, each))
                for at, place, each in stores:
                    tx.write(at + place, each)
                for at, place, each in in_place:
                    tx.snapshot(at + place, len(each))
                    with self.heap.view(at) as view:
                        view[place : place + len(each)] = each
                for offset in gone:
                    tx.free(offset)
                for name, target in names:
                    if target is None:
                        del tx.roots[name]
                    else:
                        tx.roots[name] = target if target >= 0 else came[-1 - target][0]
                extra(tx)
                if abort:
                    tx.abort()
            return [] if abort else came

        return self.player.do(NOTHING if abort else change, act)

    # ------------------------------------------------------------ what changes no block

    def quietly(self, act: Callable[[], object], *, synced: bool = False) -> None:
        """Do something that leaves all blocks as they are."""

        def quiet() -> None:
            act()

        self.player.do(Change(durable=synced, synced=synced), quiet)

    def sync(self) -> None:
        self.quietly(self.heap.sync, synced=True)

    def trim(self) -> None:
        self.quietly(self.heap.trim)

    def checkpoint(self) -> None:
        log = log_of(self.heap)
        self.quietly(lambda: self.heap._space.serve(log.checkpoint))

    def move_log(self, size: int) -> None:
        """Go on in another log, unless a snapshot keeps this one."""
        log = log_of(self.heap)

        def act() -> None:
            if not log.positions()[4] and log.size != size:
                log.move(size)

        self.quietly(lambda: self.heap._space.serve(act))

    def reopen(self) -> None:
        path = Path(self.heap.name)

        def act() -> None:
            self.heap.close()
            self.player.heap = reopened(path)

        self.quietly(act, synced=True)

    def make_arena(self, name: str) -> None:
        def act() -> None:
            self.heap.arena(name)

        self.player.do(Change(arenas=((name, True),)), act)

    def drop_arena(self, name: str) -> None:
        index = self.heap.arena(name, create=False)._space.origin
        blocks = tuple(each for each in self.model.blocks if each & ~((1 << 55) - 1) == index)
        change = Change(frees=blocks, arenas=((name, False),))
        self.player.do(change, lambda: self.heap.arena(name, create=False).drop())


def log_of(heap: Heap) -> RedoLog:
    heap._space.require(write=True)  # while it sleeps it has none
    log = heap._space.shared.redo
    assert log is not None
    return log


# ---------------------------------------------------------------- the script


def begin(actor: Actor) -> None:
    """Fill a new heap a little, and leave with records in the log."""
    blocks = [actor.malloc(size) for size in (24, 200, 3000, 4096, 40 * KiB, 24, 100)]
    actor.sync()
    actor.transact(allocs=[100, 700], roots=[("first", -1), ("second", -2)])
    actor.free(blocks[1])
    actor.transact(durable=False, writes=[(blocks[2], 100, 300), (blocks[4], 5000, 2000)])
    actor.transact(snapshots=[(blocks[3], 10, 50)], frees=[blocks[5]], allocs=[3000])


def play(actor: Actor) -> None:
    """Do everything; about a hundred changes."""
    for part in PARTS:
        part(actor)


def small_changes(actor: Actor) -> None:
    old = sorted(actor.model.blocks)
    a, b = actor.malloc(100), actor.malloc(3000)
    actor.transact(allocs=[200, 5000], roots=[("root", -2)])
    c, d, e = actor.transact(durable=False, allocs=[3000, 24, 24], frees=[a])
    actor.transact(writes=[(b, 0, 100), (c, 2900, 100)], allocs=[48], frees=[d])
    actor.transact(snapshots=[(c, 100, 1000), (e, 0, 24)], writes=[(b, 50, 10)])
    actor.transact(snapshots=[(c, 0, 3000)], writes=[(e, 3, 9)], frees=[b], allocs=[99], abort=True)
    actor.transact(durable=False, snapshots=[(c, 5, 10)], abort=True)
    actor.transact(writes=[(c, 5, 10)], frees=[old[0]])
    actor.root("root", c)
    actor.root("other", e)
    actor.transact(roots=[("root", None), ("third", e)], durable=False)
    actor.root("third", None)


def savepoints(actor: Actor) -> None:
    (a, b) = actor.transact(allocs=[400, 500])

    def roll_back(tx: Transaction) -> None:
        inner = tx.heap.transaction()
        inner.write(b, b"nobody sees this")
        inner.malloc(100)
        inner.snapshot(a, 100)
        with tx.heap.view(a) as view:
            view[:100] = bytes(100)
        inner.free(b)
        inner.abort()

    actor.transact(writes=[(a, 200, 100)], allocs=[64], extra=roll_back)
    actor.transact(writes=[(b, 0, 10)], extra=roll_back, abort=True)
    actor.transact(frees=[a, b], durable=False)


def many_and_realloc(actor: Actor) -> None:
    many = actor.malloc_many(64, 20)
    actor.free_many(many[::2])
    a = actor.malloc(100)
    for size in (110, 3000, 200, 40 * KiB, 90 * KiB, 300 * KiB, 50 * KiB):
        a = actor.realloc(a, size)
    actor.free_many(many[1::2])
    actor.free(a)


def growth(actor: Actor) -> None:
    a = actor.malloc(1500 * KiB)
    (b, c) = actor.transact(allocs=[1200 * KiB, 100])  # the data first
    d = actor.realloc(c, 1100 * KiB)
    actor.free(a)
    actor.trim()
    e = actor.malloc(1300 * KiB)  # where SPARE segments are
    actor.transact(frees=[b], allocs=[70 * KiB])
    actor.free(d)
    actor.free(e)
    actor.trim()


def logs(actor: Actor) -> None:
    (a,) = actor.transact(allocs=[60 * KiB])
    actor.checkpoint()
    actor.transact(writes=[(a, 0, 30 * KiB)])  # moves to a larger log, if it is a small one
    actor.transact(writes=[(a, 10 * KiB, 3 * KiB)], durable=False)
    actor.move_log(256 * KiB)
    actor.transact(writes=[(a, 20 * KiB, 3 * KiB)], frees=[actor.malloc(100)])
    actor.trim()  # moves to a small one
    actor.free(a)


def arenas(actor: Actor) -> None:
    for name in ("a", "b", "a"):
        actor.make_arena(name)
        blocks = [actor.malloc(size, name) for size in (100, 5000, 300 * KiB, 16)]
        actor.transact(writes=[(blocks[1], 0, 50)], frees=[blocks[0]], durable=name == "a")
        actor.malloc(1200 * KiB, name)
        actor.drop_arena(name)


def both_ends(actor: Actor) -> None:
    """Free what is lowest, and what is highest, and give both back."""
    kept = actor.malloc(300 * KiB)
    behind = actor.malloc(2 * MiB)
    last = actor.transact(allocs=[1 * MiB, 20 * KiB])
    for name in list(actor.model.roots):
        actor.root(name, None)
    for offset in sorted(actor.model.blocks):
        if offset < kept and offset not in last:
            actor.free(offset)
    actor.trim()
    actor.transact(frees=[behind, *last])
    actor.trim()
    actor.transact(allocs=[16, 1 * MiB], roots=[("end", -2)])


def close_and_open(actor: Actor) -> None:
    actor.reopen()
    a = actor.malloc(2000)
    actor.transact(writes=[(a, 0, 1000)], durable=False)
    actor.sync()
    actor.transact(allocs=[123], frees=[a])
    actor.reopen()


PARTS = (
    small_changes, savepoints, many_and_realloc, growth, logs, arenas, both_ends, close_and_open,
)  # fmt: skip


# ---------------------------------------------------------------- a file to begin with


def prepared(path: Path, durability: str, log_bytes: int) -> Model:
    """Make a file whose last user was killed; return what is in it."""
    made(path, durability, log_bytes).close()
    journal = Journal()

    def program() -> None:
        begin(Actor(Player(reopened(path), Model(), journal.write), seed=1_000_000))
        os._exit(0)

    assert not kill_at(1 << 40, path, program)
    ledger = Ledger([Model()])
    ledger.read(journal)
    assert not ledger.in_flight
    return ledger.models[0]


# ---------------------------------------------------------------- looking


def look(path: Path, ledger: Ledger) -> list[tuple[Change, bool]]:
    """Open a file after a crash, twice; check all there is to check."""
    with reopened(path) as heap:
        found = Found.of(heap)
        outcome = ledger.settle(found, loose_too=heap.durability == "process")
        assert heap.check(), str(heap.check())
    with reopened(path) as heap:
        assert Found.of(heap) == found
        assert heap.check(), str(heap.check())
    return outcome


def emptied(path: Path) -> int:
    """Free all that is in a heap and give it back; return the bytes of the file then."""
    with reopened(path) as heap:
        heap.roots.clear()
        for name in heap.arenas():
            heap.arena(name).drop()
        for offset, _ in list(heap.blocks()):
            heap.free(offset)
        heap.trim()
        assert not list(heap.blocks())
        assert heap.check(), str(heap.check())
    return path.stat().st_size


# ---------------------------------------------------------------- killed anywhere


@dataclass
class Kills:
    """What was seen by killing the script before each of its changes of the file."""

    path: Path
    durability: str
    log_bytes: int
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.model = prepared(self.path, self.durability, self.log_bytes)
        self.image = self.path.read_bytes()
        self.path.unlink()
        made(self.path, self.durability, self.log_bytes).close()
        self.size = emptied(self.path)

    def at(self, step: int) -> bool:
        """Let the script die before its `step`-th change, and look; False behind the last one."""
        self.path.write_bytes(self.image)
        journal = Journal()

        def program() -> None:
            play(Actor(Player(reopened(self.path), self.model.copy(), journal.write)))

        killed = kill_at(step, self.path, program)
        ledger = Ledger([self.model.copy()])
        ledger.read(journal)
        journal.close()
        opened = bool(ledger.returned or ledger.in_flight)
        self.counts["kills"] += killed
        self.counts["killed while it was opened"] += not opened
        for change, happened in look(self.path, ledger):
            if change != NOTHING:
                self.counts["in flight, there" if happened else "in flight, not there"] += 1
        self.counts["changes that had returned"] += ledger.returned
        size = emptied(self.path)
        self.counts["back to the first size"] += size == self.size
        if self.log_bytes == LOG_BYTES:
            assert size == self.size, f"{self.size} bytes expected, {size} found"
        return killed
