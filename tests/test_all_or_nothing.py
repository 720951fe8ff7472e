"""A call that raises has changed nothing: calls that make more than one thing, refused anywhere.

Each operation is tried with the first system call refused, then a later one, and so on, until it
succeeds; and in a heap that may not grow. After each refusal blocks, roots, arenas, the length of
the file and the files beside it are what they were before.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heap_world import named

import pmemheap
from pmemheap import Heap, native
from pmemheap.containers import SortedMap, Vector
from pmemheap.errors import DurabilityError, OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.kvstore import KVStore
from pmemheap.native import Call
from pmemheap.units import KiB, MiB

ALL = bool(os.environ.get("PMEMHEAP_ALL_REFUSALS"))
"""Refuse each call with each number; else every third one, with one of them."""
CALLS_MOST = 10_000
KINDS = ["anonymous", "shared", "process", "power"]
Work = Callable[["World"], object]


@dataclass
class World:
    """A heap with some of everything in it, and the directory of its file."""

    heap: Heap
    home: Path
    small: int
    large: int

    @classmethod
    def made(cls, kind: str, home: Path, limit: int | None = None) -> World:
        heap = make(kind, home, limit)
        small, large = heap.malloc(100), heap.malloc(300 * KiB)
        heap.roots["kept"] = heap.malloc(64)
        heap.arena("other").malloc(5000)
        SortedMap(heap, "map")[b"key"] = b"value"
        Vector(heap, "vector", "u4").extend(range(1000))
        heap.sync()
        return cls(heap, home, small, large)

    def state(self, name: str = "") -> tuple[Any, ...]:
        """Return what a refused operation may not change."""
        heap = self.heap
        if name in GROWS_IN_STEPS:
            for space in (heap, *map(heap.arena, heap.arenas())):
                space.trim()
        blocks = sorted(heap.blocks())
        return (
            [offset for offset, _ in blocks] if name in LEAVES_ROOM else blocks,
            dict(heap.roots),
            heap.arenas(),
            0 if name in LEAVES_ROOM else file_bytes(heap),
            sorted(os.listdir(self.home)),
            heap.stats().reserved,
            len(Vector(heap, "vector")),
        )


def make(kind: str, home: Path, limit: int | None) -> Heap:
    if kind == "anonymous":
        return Heap.anonymous(decay=None, limit=limit)
    if kind == "shared":
        return Heap.shared(decay=None, limit=limit)
    return Heap.create(home / "data.heap", durability=named(kind), decay=None, limit=limit)


def file_bytes(heap: Heap) -> int:
    return 0 if heap.durability == "none" else os.fstat(heap.fileno()).st_size


# ---------------------------------------------------------------- what is tried


def in_transaction(work: Callable[[World, Any], object]) -> Work:
    """Return what does something in a transaction, which a refusal ends."""

    def run(world: World) -> None:
        with world.heap.transaction() as tx:
            work(world, tx)

    return run


def caught_in_transaction(work: Callable[[World, Any], object]) -> Work:
    """Return what does something in a transaction that goes on after a refusal, and commits."""

    def run(world: World) -> None:
        refused: list[PmemHeapError] = []
        with world.heap.transaction() as tx:
            try:
                work(world, tx)
            except OutOfSpaceError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    return run


def new_file(world: World) -> None:
    with Heap.create(world.home / "new.heap", durability="process", decay=None) as heap:
        heap.malloc(10)
    os.unlink(world.home / "new.heap")


def new_store(world: World) -> None:
    KVStore(world.home / "new.store", durability="power").close()
    os.unlink(world.home / "new.store")


def snapshot(world: World) -> None:
    world.heap.snapshot(world.home / "copy.heap")
    os.unlink(world.home / "copy.heap")


def many(world: World, face: Any) -> None:
    face.malloc_many(3000, 2000)


OPERATIONS: dict[str, Work] = {
    "arena": lambda world: world.heap.arena("new"),
    "alloc": lambda world: world.heap.alloc(5 * MiB),
    "ndarray": lambda world: world.heap.ndarray((1000, 1000)),
    "malloc_many": lambda world: many(world, world.heap),
    "malloc_many in an arena": lambda world: many(world, world.heap.arena("other")),
    "realloc": lambda world: world.heap.realloc(world.small, 5 * MiB),
    "realloc large": lambda world: world.heap.realloc(world.large, 5 * MiB),
    "expand": lambda world: world.heap.expand(world.large, 5 * MiB),
    "free_many": lambda world: world.heap.free_many([world.small, world.large]),
    "deferred free": lambda world: world.heap.free(world.small, deferred=True),
    "roots": lambda world: world.heap.roots.update(a=world.small, b=world.large),
    "no roots": lambda world: world.heap.roots.pop("kept"),
    "vector": lambda world: Vector(world.heap, "new", "f8"),
    "long vector": lambda world: Vector(world.heap, "new", "f8", capacity=1_000_000),
    "extend": lambda world: Vector(world.heap, "vector").extend(np.zeros(1_000_000)),
    "drop of an arena": lambda world: world.heap.arena("other").drop(),
    "map": lambda world: SortedMap(world.heap, "new"),
    "put": lambda world: SortedMap(world.heap, "map").__setitem__(b"new", bytes(5 * MiB)),
    "replace": lambda world: SortedMap(world.heap, "map").__setitem__(b"key", bytes(5000)),
    "commit": in_transaction(lambda world, tx: (tx.alloc(3 * MiB), tx.free(world.large))),
    "commit of roots": in_transaction(lambda _, tx: tx.roots.update(a=tx.malloc(5 * MiB))),
    "malloc_many in one": in_transaction(many),
    "ndarray in one": in_transaction(lambda _, tx: tx.ndarray((1000, 1000))),
    "ndarray of the heap in one": in_transaction(lambda world, _: world.heap.ndarray((1000, 1000))),
    "realloc in one": in_transaction(lambda world, tx: tx.realloc(world.large, 5 * MiB)),
    "malloc_many, caught": caught_in_transaction(many),
    "realloc, caught": caught_in_transaction(lambda world, tx: tx.realloc(world.large, 5 * MiB)),
    "ndarray, caught": caught_in_transaction(lambda _, tx: tx.ndarray((1000, 1000))),
    "snapshot": snapshot,
    "file": new_file,
    "store": new_store,
}
NEEDS_FILE = {"snapshot"}
IS_FILE = {"file", "store"}
"""What the kind of the heap beside it is no matter for."""
GROWS_IN_STEPS = {
    "malloc_many", "malloc_many in an arena", "malloc_many in one", "malloc_many, caught", "commit"
}  # fmt: skip
"""What it got before it was refused is free space of the heap, which `trim` gives back."""
LEAVES_ROOM = {"extend"}
"""The block of a vector that has grown already keeps the space, as room for later."""
NEVER_GROWS = {
    "free_many", "deferred free", "roots", "no roots", "drop of an arena", "replace", "snapshot",
    "file", "store", "map",
}  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def places(name: str) -> Iterator[int]:
    """Yield which call of an operation to refuse: the later, the wider apart, since they repeat."""
    nth = 1 if ALL else 1 + sum(name.encode()) % 5
    while nth < CALLS_MOST:
        yield nth
        nth += 1 if ALL else max(5, nth // 5)


def attempts(kind: str, home: Path, name: str, number: int) -> Iterator[int]:
    """Try an operation with each of its system calls refused; yield how often it was refused."""
    refused = 0
    for nth in places(name):
        directory = home / str(nth)
        directory.mkdir()
        world = World.made(kind, directory)
        before = world.state(name)
        error: BaseException | None = None
        with native.faults(nth, number) as fault:
            try:
                OPERATIONS[name](world)
            except (PmemHeapError, OSError, MemoryError) as raised:
                error = raised
        if error is not None and not isinstance(error, DurabilityError):
            refused += 1
            assert world.state(name) == before, (name, nth, fault.hit, error)
            assert world.heap.check(), (name, nth, fault.hit, world.heap.check().findings)
        with suppress(DurabilityError):
            world.heap.close()
        shutil.rmtree(directory)
        if fault.hit == Call.NONE:
            assert error is None
            yield refused
            return
    raise AssertionError(f"{name} makes more than {CALLS_MOST} system calls")


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_refused_system_call_leaves_all_as_it_was(kind: str, name: str, tmp_path: Path) -> None:
    if (kind == "anonymous" and name in NEEDS_FILE) or (kind != "shared" and name in IS_FILE):
        return
    both = (errno.ENOSPC, errno.ENOMEM)
    for number in both if ALL else both[KINDS.index(kind) % 2 :][:1]:
        home = tmp_path / errno.errorcode[number]
        home.mkdir()
        for _ in attempts(kind, home, name, number):
            pass


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in NEVER_GROWS])
def test_a_limit_that_is_reached_leaves_all_as_it_was(kind: str, name: str, tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.mkdir()
    with World.made(kind, probe).heap as heap:
        limit = heap.stats().mapped if kind == "anonymous" else file_bytes(heap)
    home = tmp_path / "limited"
    home.mkdir()
    world = World.made(kind, home, limit)
    with world.heap:
        before = world.state()
        if name == "expand":
            assert OPERATIONS[name](world) is False
        else:
            with pytest.raises(OutOfSpaceError):
                OPERATIONS[name](world)
        assert world.state() == before
        assert world.heap.check(), world.heap.check().findings


# ---------------------------------------------------------------- what cannot be at all


IMPOSSIBLE: dict[str, Work] = {
    "vector": lambda world: Vector(world.heap, "new", "f8", capacity=1 << 50),
    "vector of an impossible size": lambda world: Vector(
        world.heap, "new", "S4096", capacity=1 << 52
    ),
    "vector of objects": lambda world: Vector(world.heap, "new", "O"),
    "vector without a type": lambda world: Vector(world.heap, "new"),
    "vector under a map's name": lambda world: Vector(world.heap, "map", "f8"),
    "vector in an arena that is used": lambda world: Vector(world.heap, "other", "f8"),
    "map under a vector's name": lambda world: SortedMap(world.heap, "vector"),
    "arena with a long name": lambda world: world.heap.arena("x" * 32),
    "ndarray": lambda world: world.heap.ndarray((1 << 30, 1 << 30)),
    "ndarray of too many sides": lambda world: world.heap.ndarray((1,) * 100),
    "ndarray of objects": lambda world: world.heap.ndarray(5, "O"),
    "alloc": lambda world: world.heap.alloc(1 << 54),
    "alloc of odd alignment": lambda world: world.heap.alloc(100, 3),
    "malloc_many": lambda world: world.heap.malloc_many(1 << 50, 1000),
    "free_many": lambda world: world.heap.free_many([world.small, world.large, 77777]),
    "free_many twice": lambda world: world.heap.free_many([world.small, world.large, world.small]),
    "free_many of a root": lambda world: world.heap.free_many(
        [world.small, world.heap.roots["kept"]]
    ),
    "roots": lambda world: world.heap.roots.update(a=world.small, b=77777),
    "realloc": lambda world: world.heap.realloc(world.small, 1 << 54),
    "snapshot": lambda world: world.heap.snapshot(world.home / "no such directory" / "copy"),
    "commit": in_transaction(lambda _, tx: (tx.malloc(100), tx.malloc(1 << 54))),
    "commit of a root": in_transaction(
        lambda world, tx: (tx.malloc(300), tx.free(world.heap.roots["kept"]))
    ),
    "many, caught": caught_in_transaction(lambda _, tx: tx.malloc_many(1 << 50, 1000)),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_leaves_all_as_it_was(kind: str, name: str, tmp_path: Path) -> None:
    world = World.made(kind, tmp_path)
    with world.heap:
        before = world.state()
        with pytest.raises((PmemHeapError, OSError)):
            IMPOSSIBLE[name](world)
        assert world.state() == before
        assert world.heap.check(), world.heap.check().findings


OPTIONS: list[dict[str, Any]] = [
    {"durability": "none"}, {"durability": 5}, {"limit": 10}, {"limit": -1}, {"limit": "much"},
    {"headroom": -1}, {"headroom": 1.5}, {"headroom": 1 << 60}, {"decay": "soon"},
    {"decay": float("nan")}, {"unknown": 1},
]  # fmt: skip
MAKERS: dict[str, Callable[..., object]] = {
    "create": Heap.create,
    "open": lambda path, **options: pmemheap.open(path, "c", **options),
    "replace": lambda path, **options: pmemheap.open(path, "n", **options),
    "store": KVStore,
}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("is_there", [False, True])
def test_a_file_is_not_made_with_options_that_cannot_be(
    tmp_path: Path, maker: str, options: dict[str, Any], *, is_there: bool
) -> None:
    path = tmp_path / "heap"
    if is_there:
        Heap.create(path, durability="process").close()
    before = path.read_bytes() if is_there else None
    if is_there and maker in {"open", "store"}:
        options = {**options, "headroom": -1}
    with pytest.raises((PmemHeapError, TypeError, OSError)):
        MAKERS[maker](path, **options)
    assert os.listdir(tmp_path) == (["heap"] if is_there else [])
    assert before is None or path.read_bytes() == before


def test_a_store_whose_maps_cannot_be_made_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OutOfSpaceError("on purpose")

    monkeypatch.setattr(KVStore, "_enter_maps", refuse)
    for flag in ("c", "n"):
        with pytest.raises(OutOfSpaceError):
            KVStore(tmp_path / "store", flag=flag)
        assert not os.listdir(tmp_path)
    Heap.create(tmp_path / "store").close()
    with pytest.raises(OutOfSpaceError):
        KVStore(tmp_path / "store")
    assert os.listdir(tmp_path) == ["store"]


# ---------------------------------------------------------------- what is made in a transaction


MADE: dict[str, Callable[[Heap, Any], object]] = {
    "alloc": lambda heap, _: heap.alloc(100),
    "alloc of much": lambda heap, _: heap.alloc(3 * MiB),
    "ndarray": lambda heap, _: heap.ndarray(10, "i8"),
    "ndarray of much": lambda heap, _: heap.ndarray((1000, 1000)),
    "in an arena": lambda heap, _: heap.arena("other").ndarray(10),
    "alloc in an arena": lambda heap, _: heap.arena("other").alloc(10),
    "of the transaction": lambda _, tx: tx.ndarray((3, 4), "f4"),
    "of the transaction, in an arena": lambda heap, tx: tx.ndarray(4, arena=heap.arena("other")),
    "in a savepoint": lambda heap, _: heap.transaction().ndarray(10),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_in_a_transaction_that_aborts_is_gone(
    kind: str, name: str, tmp_path: Path
) -> None:
    with make(kind, tmp_path, None) as heap:
        heap.arena("other")
        before = sorted(heap.blocks())
        tx = heap.transaction()
        made = MADE[name](heap, tx)
        if isinstance(made, np.ndarray):
            assert not made.any()
            made[:] = 7
        assert sorted(heap.blocks()) == before
        tx.abort() if tx.is_open else None
        if isinstance(made, np.ndarray):
            assert (made == 7).all()
        del made
        assert sorted(heap.blocks()) == before
        assert (heap.stats().reserved, heap.stats().quarantined) == (0, 0)


@pytest.mark.parametrize("name", [name for name in MADE if "savepoint" not in name])
def test_what_is_made_in_a_transaction_is_there_when_it_commits(
    kind: str, name: str, tmp_path: Path
) -> None:
    with make(kind, tmp_path, None) as heap:
        heap.arena("other")
        with heap.transaction() as tx:
            made: Any = MADE[name](heap, tx)
            is_array = isinstance(made, np.ndarray)
            offset = heap.offset_of(made) if is_array else made.offset
            if is_array:
                made[:] = 7
        assert [at for at, _ in heap.blocks()] == [offset]
        if is_array:
            assert (heap.ndarray_at(offset, made.shape, made.dtype) == 7).all()
        del made


def test_a_savepoint_that_is_taken_back_takes_what_was_made_in_it(memory: Heap) -> None:
    with memory.transaction():
        kept = memory.alloc(100)
        with suppress(KeyError), memory.transaction():
            memory.alloc(100)
            memory.ndarray(10)
            raise KeyError
    assert [at for at, _ in memory.blocks()] == [kept.offset]


def test_a_handle_frees_as_part_of_the_transaction(kind: str, tmp_path: Path) -> None:
    with make(kind, tmp_path, None) as heap:
        old = heap.alloc(100)
        with suppress(KeyError), heap.transaction():
            old.free()
            with heap.alloc(50):
                pass
            raise KeyError
        assert old.is_live
        with heap.transaction():
            old.free()
            assert old.is_live
            with pytest.raises(UsageError, match="has not freed"):
                old.free()
            heap.alloc(50).free()
        assert not old.is_live
        assert not list(heap.blocks())


def test_an_array_of_a_transaction_is_freed_by_its_offset(memory: Heap) -> None:
    with memory.transaction():
        array = memory.ndarray(10)
        offset = memory.offset_of(array)
        with pytest.raises(BufferError):
            memory.free(offset)
        memory.free(offset, deferred=True)
        with pytest.raises(UsageError):
            memory.free(offset)
        assert not array.any()
        del array
    assert not list(memory.blocks())
    assert (memory.stats().reserved, memory.stats().quarantined) == (0, 0)


def test_calls_by_offset_are_no_part_of_a_transaction(memory: Heap) -> None:
    with suppress(KeyError), memory.transaction():
        offset = memory.malloc(100)
        raise KeyError
    assert [at for at, _ in memory.blocks()] == [offset]
