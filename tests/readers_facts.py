"""What a commit leaves and a reader can check wholly; the writer and the readers of `readers_load`.

    "facts"         number of the commit, items, sum of all items, number and length of the array
    "twin"          the same bytes, in a block that each commit makes anew
    "left"          key -> number of a commit, some bytes, a CRC of all that and the key
    "right"         the same, keys backwards
    "array"         filled with the number of the commit that made it

All of them agree in each snapshot, or it is wrong.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

import pmemheap
from pmemheap import Heap, HeapBusyError
from pmemheap.containers import SortedMap
from pmemheap.heap import readers
from pmemheap.heap.snapshots import Snapshot
from pmemheap.heap.space import space_of
from pmemheap.native.gate import ReaderGate

KEYS = 300
OLD_MOST = 6
_FACTS = struct.Struct("<5Q")
_SUM = (1 << 64) - 1
_SIZES = (0, 20, 100, 600, 600, 5000, 20_000)
_ARRAY_MOST = 1 << 17
_BARE_MOST = 8
_PAUSE = 0.003
_ABSENCE, _LEAVES = 0.06, 0.1  # seconds until a visitor comes again; chance that a step is the last


class WrongError(AssertionError):
    """A snapshot that cannot be."""


# ---------------------------------------------------------------- boards


class Board:
    """Words that a process and its parent share, and what is wrong as text: both outlive a kill."""

    WORDS = (
        "acknowledged", "stop", "found", "commits", "aborts", "arrays made", "arrays dropped",
        "trims", "compactions", "maps cleared", "arenas made", "arenas dropped",
        "checks by the writer",
        "recycled beside readers", "checks of the newest", "checks of an older one", "refreshes",
        "refreshes with news", "snapshots", "views looked at later",
        "refused for a while", "met a half commit", "patches",
        "commits in place", "visits",
        "lookups", "kept out for a while", "let go for a writer", "kept over a writers end",
    )  # fmt: skip
    _TEXT = 1024

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 16 << 10)
        self._words = memoryview(self._map).cast("Q")

    def __getitem__(self, name: str) -> int:
        return int(self._words[self.WORDS.index(name)])

    def __setitem__(self, name: str, value: int) -> None:
        self._words[self.WORDS.index(name)] = value

    def count(self, name: str, by: int = 1) -> None:
        self[name] += by

    def counts(self) -> Counter[str]:
        return Counter({name: self[name] for name in self.WORDS[3:] if self[name]})

    @property
    def text(self) -> str:
        return self._map[self._TEXT :].rstrip(b"\0").decode(errors="replace")

    def say(self, text: str) -> None:
        data = text.encode()[-(len(self._map) - self._TEXT) :]
        self._map[self._TEXT : self._TEXT + len(data)] = data


def be_child(board: Board, work: Callable[[Board], None]) -> None:
    """Be a child process: work, and end here."""
    try:
        sys.unraisablehook = lambda said: board.say(
            "".join(traceback.format_exception(said.exc_value))
        )
        work(board)
    except BaseException:
        board.say(traceback.format_exc())
    finally:
        os._exit(0)


# ---------------------------------------------------------------- facts


@dataclass(frozen=True)
class Facts:
    """What a commit says of itself."""

    number: int
    items: int = 0
    total: int = 0
    array_number: int = 0
    array_length: int = 0

    def pack(self) -> bytes:
        return _FACTS.pack(*astuple(self))


def weight(key: bytes, value: bytes) -> int:
    """Return what an item adds to the sum of all."""
    return crc32(value, crc32(key)) + 1


def value_of(key: bytes, number: int, body: bytes) -> bytes:
    head = number.to_bytes(8, "little") + body
    return head + crc32(head, crc32(key)).to_bytes(4, "little")


def expect(condition: bool, *what: Any) -> None:
    if not condition:
        raise WrongError(" ".join(map(str, what)))


def facts_at(snap: Snapshot, name: str) -> Facts:
    place = snap.place(name)
    assert place is not None
    return Facts(*_FACTS.unpack(snap.view(place, _FACTS.size)))


def whole(snap: Snapshot) -> Facts:
    """Check all that a snapshot shows; return its facts.

    Raises
    ------
    WrongError
        It is not of one commit.
    """
    facts = facts_at(snap, "facts")
    expect(facts == facts_at(snap, "twin"), facts, "beside", facts_at(snap, "twin"))
    for name, step in ("left", 1), ("right", -1):
        items = list(SortedMap(snap, name).items())
        total = sum(weight(key[::step], value) for key, value in items) & _SUM
        expect(
            (len(items), total) == (facts.items, facts.total),
            name, len(items), total, "beside", facts, "commit", snap.commit,
        )  # fmt: skip
        expect(len(SortedMap(snap, name)) == facts.items, name, "length", facts)
        for key, value in items:
            expect(value == value_of(key[::step], _number(value), value[8:-4]), name, key, "crc")
            expect(_number(value) <= facts.number, name, key, "is of a later commit than", facts)
    expect(("array" in snap.roots) == (facts.array_length > 0), dict(snap.roots), facts)
    if facts.array_length:
        array = snap.ndarray_at(snap.roots["array"], facts.array_length, "i8")
        expect(bool((array == facts.array_number).all()), "array", array, facts)
    return facts


def _number(value: bytes) -> int:
    return int.from_bytes(value[:8], "little")


def prepare(heap: Heap, number: int = 0) -> None:
    """Make the roots of an empty heap, in one commit."""
    facts = Facts(number)
    with heap.transaction() as tx:
        for name in "facts", "twin":
            block = tx.alloc(_FACTS.size)
            block.view[:] = facts.pack()
            tx.roots[name] = block.offset
            del block
        for name in "left", "right":
            SortedMap(heap, name)


# ---------------------------------------------------------------- the writer


def run_writer(board: Board, path: Path, seed: int) -> None:
    """Commit until the end comes."""
    heap = _taken_over(board, path)
    writer = _Writer(heap, board, random.Random(seed))
    board["found"] = writer.facts.number + 1
    while not board["stop"]:
        writer.step()
    del writer
    heap.close()


def _taken_over(board: Board, path: Path) -> Heap:
    """Open it, also beside readers; one that is just coming may be in the way."""
    while True:
        try:
            return pmemheap.open(path, "w", readers=True)
        except HeapBusyError:
            board.count("kept out for a while")


class _AbortedError(Exception):
    """Not a failure."""


class _Writer:
    def __init__(self, heap: Heap, board: Board, rng: random.Random) -> None:
        self.heap, self.board, self.rng = heap, board, rng
        self.left, self.right = SortedMap(heap, "left"), SortedMap(heap, "right")
        self.model = dict(self.left.items())
        with heap.read() as snap:
            self.facts = whole(snap)
        self.bare: list[int] = []

    def step(self) -> None:
        kinds, weights = zip(*_KINDS, strict=True)
        self.rng.choices(kinds, weights)[0](self)

    # ------------------------------------------------------------ commits

    def commit(self) -> None:
        self._commit(self._change_items)

    def _commit(self, change: Callable[[dict[bytes, bytes], int], None]) -> None:
        """Change something, and the facts with it; sometimes it is taken back."""
        model, number, aborts = dict(self.model), self.facts.number + 1, self.rng.random() < 0.1
        durable = None if self.rng.random() < 0.7 else False
        with suppress(_AbortedError), self.heap.transaction(durable=durable) as tx:
            change(model, number)
            array_number, array_length = self._change_array(tx, number)
            total = sum(weight(key, value) for key, value in model.items()) & _SUM
            facts = Facts(number, len(model), total, array_number, array_length)
            tx.write(self.heap.roots["facts"], facts.pack())
            tx.free(self.heap.roots["twin"])
            block = tx.alloc(_FACTS.size)
            block.view[:] = facts.pack()
            tx.roots["twin"] = block.offset
            del block
            if aborts:
                raise _AbortedError
        if aborts:
            self.board.count("aborts")
            return
        self.model, self.facts = model, facts
        self.board["acknowledged"] = number
        self.board.count("commits")
        file = space_of(self.heap).shared.writable
        assert file is not None
        self.board.count("commits in place", file.header.word("gate") == ReaderGate.WAIT)

    def _change_items(self, model: dict[bytes, bytes], number: int) -> None:
        rng = self.rng
        for _ in range(rng.choice([0, 1, 1, 2, 3, 10, 40])):
            key = b"key %d" % rng.randrange(KEYS)
            if key in model and rng.random() < 0.3:
                del model[key], self.left[key], self.right[key[::-1]]
                continue
            size = rng.randint(0, rng.choice(_SIZES))
            old = model.get(key)
            patches = old is not None and rng.random() < 0.3
            if patches:
                assert old is not None
                size = len(old) - 12
            body = rng.randbytes(16) * (size // 16 + 1)
            model[key] = value = value_of(key, number, body[:size])
            if patches:
                self.left.patch(key, 0, value)
                self.right.patch(key[::-1], 0, value)
                self.board.count("patches")
            else:
                self.left[key] = self.right[key[::-1]] = value

    def clear(self) -> None:
        def change(model: dict[bytes, bytes], _: int) -> None:
            model.clear()
            self.left.clear()
            self.right.clear()

        self._commit(change)
        self.board.count("maps cleared")

    def _change_array(self, tx: Any, number: int) -> tuple[int, int]:
        """Replace it, mostly by a larger one, drop it, or leave it."""
        facts, rng = self.facts, self.rng
        if rng.random() < 0.8:
            return facts.array_number, facts.array_length
        if facts.array_length:
            tx.free(self.heap.roots["array"])
        length = facts.array_length * 5 // 4 + rng.randint(1, 4000)
        if length > _ARRAY_MOST or rng.random() < 0.1:
            if facts.array_length:
                del tx.roots["array"]
                self.board.count("arrays dropped")
            return 0, 0
        block = tx.alloc(8 * length)
        np.frombuffer(block.view, "i8")[:length] = number
        tx.roots["array"] = block.offset
        self.board.count("arrays made")
        return number, length

    # ------------------------------------------------------------ what changes nothing

    def allocate(self) -> None:
        """Use space again: what was freed too early is overwritten."""
        rng = self.rng
        size = rng.randint(1, rng.choice([64, 64, 600, 8000, 100_000]))
        offset = self.heap.malloc(size)
        self.heap.view(offset, size)[:] = b"\xff" * size
        self.bare.append(offset)
        while len(self.bare) > _BARE_MOST:
            self.heap.free(self.bare.pop(rng.randrange(len(self.bare))))

    def trim(self) -> None:
        self.heap.trim()
        self.board.count("trims")

    def compact(self) -> None:
        self.rng.choice([self.left, self.right]).compact()
        self.board.count("compactions")

    def recycle(self) -> None:
        space = space_of(self.heap)
        if space.serve(readers.recycle, space.shared):
            self.board.count("recycled beside readers")

    def check(self) -> None:
        with self.heap.read() as snap:
            expect(whole(snap) == self.facts, self.facts)
        del snap
        expect(bool(checked := self.heap.check()), checked)
        self.board.count("checks by the writer")

    def arena(self) -> None:
        if "part" not in self.heap.arenas():
            self.heap.arena("part").malloc(5000)
            self.board.count("arenas made")
            return
        with suppress(BufferError):  # somebody shows it
            self.heap.arena("part").drop()
            self.board.count("arenas dropped")

    def pause(self) -> None:
        time.sleep(self.rng.uniform(0, _PAUSE))


_KINDS: list[tuple[Callable[[_Writer], None], float]] = [
    (_Writer.commit, 70), (_Writer.allocate, 25), (_Writer.trim, 1.5), (_Writer.compact, 0.7),
    (_Writer.recycle, 5), (_Writer.clear, 0.3), (_Writer.check, 0.5), (_Writer.arena, 1),
    (_Writer.pause, 8),
]  # fmt: skip


# ---------------------------------------------------------------- a reader


def run_reader(board: Board, path: Path, seed: int, *, visits: bool = False) -> None:
    """Look at snapshots until the end comes; where processors are few, the writer goes first.

    One that visits closes the heap now and then, and comes again.
    """
    os.nice(5)
    rng, last = random.Random(seed), 0
    while not board["stop"]:
        if (heap := _opened(board, path)) is None:
            board.count("refused for a while")
            time.sleep(0.002)
            continue
        last = _look_around(_Reader(heap, board, rng, last), visits=visits)
        heap.close()
        if visits:
            board.count("visits")
            time.sleep(rng.uniform(0, _ABSENCE))


def _look_around(reader: _Reader, *, visits: bool) -> int:
    """Look at snapshots until the visit is over; return the number of the last commit seen."""
    while not reader.board["stop"] and not (visits and reader.rng.random() < _LEAVES):
        reader.step()
    reader.look_again()
    return reader.last


def _opened(board: Board, path: Path) -> Heap | None:
    """Open it; None: the writer is opening it, or somebody looks whether there are readers."""
    try:
        return Heap.open(path, readonly=True, readers=True)
    except HeapBusyError:
        return None


@dataclass
class _Old:
    """A snapshot that is kept, what it said first, views of it and their bytes."""

    snap: Snapshot | None
    facts: Facts
    views: list[tuple[Any, int]]


class _Reader:
    def __init__(self, heap: Heap, board: Board, rng: random.Random, last: int) -> None:
        self.heap, self.board, self.rng = heap, board, rng
        self.old: list[_Old] = []
        self.left: SortedMap | None = None
        self.found: dict[bytes, int] = {}
        self.snap = self._begun()
        self.last = last

    def step(self) -> None:
        chance = self.rng.random()
        if chance < 0.4:
            self.go_on()
        elif chance < 0.5:
            self.keep()
        elif chance < 0.75:
            self.look_again()
        elif chance < 0.85:
            self.look_up()
        elif chance < 0.95:
            self.check()
        else:
            time.sleep(self.rng.uniform(0, _PAUSE))
        if len(self.old) > OLD_MOST or (self.old and self.rng.random() < 0.15):
            self.old.pop(self.rng.randrange(len(self.old)))

    def _begun(self) -> Snapshot:
        """Begin a snapshot; a writer that was stopped or killed in a commit gives none."""
        while True:
            try:
                return self.heap.read()
            except HeapBusyError:
                self.board.count("met a half commit")
                self._let_some_go()
                if hasattr(self, "snap"):
                    self.snap.close()
                if self.board["stop"]:
                    os._exit(0)
                time.sleep(0.002)

    def _let_some_go(self) -> None:
        """Let go of what a new writer has to grow for; or keep it, and look at it later."""
        if self.rng.random() < 0.5:
            self.old.clear()
        else:
            self.board.count("kept over a writers end", len(self.old))

    def go_on(self) -> None:
        before = self.snap.commit
        if self.snap.is_wanted:
            self.look_again()
            self._let_some_go()
            self.board.count("let go for a writer")
        try:
            news = self.snap.refresh()
        except HeapBusyError:
            self.board.count("met a half commit")
            if self.snap.is_between:
                self._let_some_go()
                self.snap = self._begun()
            return
        expect(news == (self.snap.commit != before), "refresh", news, before, self.snap.commit)
        expect(self.snap.commit >= before, "refresh: commit", self.snap.commit, "after", before)
        self.board.count("refreshes")
        self.board.count("refreshes with news", int(news))

    def check(self) -> None:
        facts = whole(self.snap)
        expect(facts.number >= self.last, "commit", facts.number, "after", self.last)
        self.last = facts.number
        self.board.count("checks of the newest")

    def look_up(self) -> None:
        """Look some keys up in the map as of the last commit, each by itself."""
        keys = self.rng.choices([*SortedMap(self.snap, "left"), b"none"], k=20)
        try:
            self.left = self.left or SortedMap(self.heap, "left")
            found = [(key, value) for key in keys if (value := self.left.get(key)) is not None]
        except HeapBusyError:
            self.board.count("met a half commit")
            return
        for key, value in found:
            number = _number(value)
            expect(value == value_of(key, number, value[8:-4]), "a lookup of", key, "crc")
            expect(number >= self.found.get(key, 0), "a lookup of", key, "is of an earlier commit")
            self.found[key] = number
        self.board.count("lookups", len(found))

    def keep(self) -> None:
        """Keep the snapshot, or views of it alone; go on with a new one."""
        self.old.append(self._kept(self.snap))
        del self.snap  # it is not to be closed for another one
        self.snap = self._begun()
        self.board.count("snapshots")

    def _kept(self, snap: Snapshot) -> _Old:
        rng = self.rng
        facts = whole(snap)
        left = SortedMap(snap, "left")
        keys = list(left)
        views: list[Any] = [left.view(rng.choice(keys)) for _ in range(min(len(keys), 3))]
        if facts.array_length:
            views.append(snap.ndarray_at(snap.roots["array"], facts.array_length, "i8"))
        kept = None if rng.random() < 0.4 else snap
        if kept is None and rng.random() < 0.5:
            snap.close()
        return _Old(kept, facts, [(view, crc32(view)) for view in views])

    def look_again(self) -> None:
        for old in self.old:
            if old.snap is not None:
                expect(whole(old.snap) == old.facts, "kept", old.facts)
                self.board.count("checks of an older one")
            for view, crc in old.views:
                expect(crc32(view) == crc, "a view that was kept", old.facts)
                self.board.count("views looked at later")
