"""Everything that a user may do with a heap file that was forged, by the API and by commands.

What a call answers is right, or it raises what its documentation names. What is thrown from here is
a fault: another exception, an answer that contradicts itself or what `check` says, a reader that
changes the file.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pmemheap import CorruptHeapError, Heap, OutOfSpaceError, UsageError
from pmemheap.cli import main
from pmemheap.containers import SortedMap, Vector

T = TypeVar("T")

CLEAN = (CorruptHeapError, UsageError, OutOfSpaceError, BufferError, KeyError)
_LOOKED_AT = 40
_READING = ("check", "dump", "info", "map")
_CODES = {
    "check": {0, 1, 3}, "dump": {0}, "info": {0, 3, 4}, "map": {0, 3, 4}, "repair": {0, 1, 3},
    "salvage": {0, 2, 3, 4}, "trim": {0, 2, 3, 4},
}  # fmt: skip


class Use:
    """One forged file and what becomes of it; `counts` says how calls ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()

    def run(self, *, by_commands: bool) -> None:
        """Look, read, write, mend."""
        image = self.path.read_bytes()
        opens = self._opens()
        self._open(readonly=True, sound=opens != "unknown")
        if by_commands:
            for command in _READING:
                self._command(command)
            self._command("dump", "--json", "--units")
        assert self.path.read_bytes() == image, "a reader has changed the file"
        if by_commands:
            self._salvage()
            assert self.path.read_bytes() == image, "salvage has changed the file"
            self._repair(image)
            self.path.write_bytes(image)
        opened = self._open(readonly=False, sound=opens == "yes")
        assert not (opened and opens == "read-only"), "a copy of a heap in use opens to be written"
        self._open(readonly=False, sound=False)
        if by_commands:
            self._command("trim")

    # ------------------------------------------------------------ commands

    def _opens(self) -> str:
        """Return how `check` says that the heap can be opened."""
        out = io.StringIO()
        code = self._command("check", "--json", out=out)
        facts = json.loads(out.getvalue())
        assert facts["sound"] == (code == 0), facts
        assert (facts["opens"] == "unknown") == (code != 0), facts
        return str(facts["opens"])

    def _command(
        self, name: str, *options: object, path: Path | None = None, out: io.StringIO | None = None
    ) -> int:
        out, err = out or io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([name, str(path or self.path), *map(str, options)])
        assert code in _CODES[name], f"{name} {options}: code {code}: {err.getvalue()}"
        assert "Traceback" not in err.getvalue(), err.getvalue()
        if "--json" in options:
            json.loads(out.getvalue())
        self.counts[f"{name}: {code}"] += 1
        return code

    def _salvage(self) -> None:
        new = self.path.with_name("salvaged")
        code = self._command("salvage", new, "--durability", "process")
        if code == 0:
            with Heap.open(new, decay=None) as heap:
                assert heap.check(), f"a salvaged heap: {heap.check()}"
            new.unlink()
        assert not new.exists(), f"salvage ended with {code} and left a file"

    def _repair(self, image: bytes) -> None:
        self._command("repair", "--json")
        assert self.path.read_bytes() == image, "repair has changed the file without --apply"
        if self._command("repair", "--apply") != 0:
            return
        assert self._opens() == "yes", "a repaired heap does not open"
        self._open(readonly=True, sound=True)

    # ------------------------------------------------------------ the API

    def _try(self, act: Callable[[], T]) -> T | None:
        """Return what a call returns; None if it refuses as it may."""
        try:
            found = act()
        except CLEAN as error:  # kept by no name: its frames hold views
            kind, text = type(error).__name__, repr(error)
        else:
            self.counts["answered"] += 1
            return found
        assert "memory" not in text, f"{text}: of memory there is enough"
        self.counts[f"raised: {kind}"] += 1
        return None

    def _open(self, *, readonly: bool, sound: bool) -> bool:
        """Open the file and use it; what `check` calls sound opens, and is sound inside."""
        heap = self._try(lambda: Heap.open(self.path, readonly=readonly, decay=None))
        if heap is None:
            assert not sound, f"check has found nothing, and open raises: {self.counts}"
            return False
        self.counts["opened"] += 1
        with contextlib.closing(_Closing(heap)):
            report = self._try(heap.check)
            assert not sound or report, f"check has found nothing, and Heap.check: {report}"
            self._look(heap)
            if not readonly:
                self._change(heap)
                self._try(heap.check)
        return True

    def _look(self, heap: Heap) -> None:
        self._try(heap.stats)
        self._try(heap.arenas)
        self._try(lambda: heap.explain(5000))
        blocks = self._try(lambda: list(heap.blocks())) or []
        for offset, size in blocks[:_LOOKED_AT]:
            self._try(lambda offset=offset, size=size: _block(heap, offset, size))  # type: ignore[misc]
        roots = self._try(lambda: dict(heap.roots)) or {}
        for name, offset in roots.items():
            self._try(lambda offset=offset: len(bytes(heap.view(offset)[:64])))  # type: ignore[misc]
            self._try(lambda name=name: _read_map(heap, name))  # type: ignore[misc]
            self._try(lambda name=name: _read_vector(heap, name))  # type: ignore[misc]

    def _change(self, heap: Heap) -> None:
        for change in (
            _allocate, _transact, _roll_back, _change_maps, _change_vector, _use_arenas, _copy,
            _free_blocks, _give_back,
        ):  # fmt: skip
            for step in self._try(lambda change=change: list(change(heap, self.path))) or ():  # type: ignore[misc]
                self._try(step)


class _Closing:
    """Closes a heap whose views may be held by an exception."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap

    def close(self) -> None:
        with contextlib.suppress(BufferError, CorruptHeapError):
            self._heap.close()


def _block(heap: Heap, offset: int, size: int) -> None:
    assert heap.usable_size(offset) == size
    with heap.view(offset) as view:
        assert len(view) == size
        bytes(view)


def _read_map(heap: Heap, name: str) -> None:
    """Read a map in all ways; what it answers does not contradict itself."""
    there = SortedMap(heap, name)
    keys = list(there)
    assert all(left < right for left, right in itertools.pairwise(keys)), "keys ascend"
    pairs = list(there.items())
    assert [key for key, _ in pairs] == keys
    for key, value in pairs[:_LOOKED_AT]:
        assert there.get(key) == value, f"{name}: {key!r} is yielded and not found"
        with there.view(key) as view:
            assert bytes(view) == value
    there.scan(keys[len(keys) // 2] if keys else b"", 25)
    there.check()
    assert len(there) == len(keys), "a map that check calls sound has as many keys as it says"
    there.statistics()


def _read_vector(heap: Heap, name: str) -> None:
    there = Vector(heap, name)
    array = there.array
    assert len(array) == len(there)
    array.tobytes()
    there.check()
    there.statistics()


# ---------------------------------------------------------------- changes, step by step

Steps = Iterator[Callable[[], Any]]


def _allocate(heap: Heap, _: Path) -> Steps:
    def resize(size: int) -> None:
        offset = heap.malloc(size)
        with heap.view(offset) as view:
            view[:] = bytes(len(view))
        heap.expand(offset, 40_000)
        heap.free(heap.realloc(offset, 50_000))

    for size in (16, 100, 1000, 3000, 5000, 20_000, 300_000):
        yield partial(resize, size)
    yield lambda: heap.free_many(heap.malloc_many(64, 500))


def _free_blocks(heap: Heap, _: Path) -> Steps:
    named = set(heap.roots.values())
    blocks = [offset for offset, _ in itertools.islice(heap.blocks(), 60)]
    for offset in blocks[::7]:
        if offset not in named:
            yield partial(heap.free, offset, deferred=bool(offset % 3))


def _transact(heap: Heap, _: Path) -> Steps:
    def commit(root: str, durable: bool) -> None:
        with heap.transaction(durable=durable) as tx:
            tx.roots[root] = tx.malloc(5000)
            tx.write(tx.roots[root], b"written")
            tx.snapshot(heap.roots["root 1"], 16)
            with heap.view(heap.roots["root 1"]) as view:
                view[:4] = b"here"
            tx.free(heap.roots["root 2"])
            del tx.roots["root 2"]

    yield lambda: commit("forged", True)
    yield lambda: commit("again", False)


def _roll_back(heap: Heap, _: Path) -> Steps:
    def abort() -> None:
        with contextlib.suppress(ZeroDivisionError), heap.transaction() as tx:
            tx.alloc(100)
            tx.write(heap.roots["root 5"], b"never")
            with heap.transaction():
                tx.malloc(10_000)
            raise ZeroDivisionError

    yield abort


def _change_maps(heap: Heap, _: Path) -> Steps:
    for name in ("low", "wide", "tall"):
        yield from _change_map(heap, name)


def _change_map(heap: Heap, name: str) -> Steps:
    def with_map(act: Callable[[SortedMap], object]) -> Callable[[], object]:
        return lambda: act(SortedMap(heap, name))

    for key in (b"", b"001", b"00042", b"00199", b"apart 1", b"zz", b"020" + b"k" * 700):
        yield with_map(lambda there, key=key: there.__setitem__(key, b"new" * 30))  # type: ignore[misc]
    yield with_map(lambda there: there.__setitem__(b"00200", b"n" * 5000))
    yield with_map(lambda there: there.patch(b"apart 2", 5, b"patch"))
    for key in (b"003", b"00007", b"apart 0", b"005" + b"k" * 700):
        yield with_map(lambda there, key=key: there.pop(key, None))  # type: ignore[misc]
    yield with_map(lambda there: there.update((b"%04d" % i, b"u" * i) for i in range(60)))
    yield with_map(lambda there: there.compact())
    yield with_map(lambda there: there.check())
    yield lambda: _read_map(heap, name)
    yield with_map(lambda there: there.clear())


def _change_vector(heap: Heap, _: Path) -> Steps:
    def with_vector(act: Callable[[Vector], object]) -> Callable[[], object]:
        return lambda: act(Vector(heap, "vector", "f8"))

    yield with_vector(lambda there: there.append(1.0))
    yield with_vector(lambda there: there.extend(range(20_000)))
    yield with_vector(lambda there: there.pop())
    yield with_vector(lambda there: there.truncate(10))
    yield lambda: _read_vector(heap, "vector")
    yield with_vector(lambda there: there.drop())


def _use_arenas(heap: Heap, _: Path) -> Steps:
    def use(name: str) -> None:
        heap.free(heap.arena(name).malloc(1000))
        heap.arena(name).drop()

    for name in ("kept", "gone", "new"):
        yield partial(use, name)


def _copy(heap: Heap, path: Path) -> Steps:
    copy = path.with_name("copy")

    def snapshot() -> None:
        heap.snapshot(copy)
        is_sound = bool(heap.check())  # else only the process may be wrong, and its file right
        with Heap.open(copy, readonly=True) as other:
            assert other.check() or not is_sound

    yield snapshot
    yield lambda: copy.unlink(missing_ok=True)


def _give_back(heap: Heap, _: Path) -> Steps:
    yield heap.trim
    yield lambda: heap.malloc(700_000)
    yield heap.sync
