"""Track against a dictionary of lines, while layers come and go among the calls."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pmemheap import Count, Heap
from pmemheap.layers import Fail, Fill, Passing, Track
from pmemheap.layers.sites import read_sites

SIZES = st.sampled_from((1, 16, 100, 600, 3000, 9000, 70_000))
LINES = 5


def malloc_at(heap: Any, line: int, size: int) -> int:
    """Allocate at a line of a file that is nowhere."""
    return int(eval(compile("\n" * line + "heap.malloc(size)", "program.py", "eval")))


def many_at(heap: Heap, line: int, size: int, count: int) -> list[int]:
    code = compile("\n" * line + "list(heap.malloc_many(size, count))", "program.py", "eval")
    return list(eval(code))


def realloc_at(heap: Heap, line: int, offset: int, size: int) -> int:
    return int(eval(compile("\n" * line + "heap.realloc(offset, size)", "program.py", "eval")))


def commit_at(heap: Heap, line: int, size: int) -> int:
    code = "with heap.transaction() as tx: made = tx.malloc(size)"
    space: dict[str, Any] = {"heap": heap, "size": size}
    exec(compile("\n" * line + code, "program.py", "exec"), space)
    return int(space["made"])


class Known:
    """What a Track should know: by offset, the line and the size."""

    def __init__(self, layer: Any, path: Path | None) -> None:
        self.layer, self.path, self.blocks = layer, path, dict[int, tuple[int, int]]()

    def rows(self) -> list[tuple[str, int, int]]:
        lines = {line for line, _ in self.blocks.values()}
        sizes = {
            line: [size for each, size in self.blocks.values() if each == line] for line in lines
        }
        rows = [(f"program.py:{n + 1}", len(sizes[n]), sum(sizes[n])) for n in lines]
        return sorted(rows, key=lambda row: (-row[2], -row[1], row[0]))


class TrackMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.heap = Heap.anonymous()
        self.folder = tempfile.TemporaryDirectory()
        self.on: list[Known | Any] = []
        self.live: set[int] = set()
        self.beside: set[int] = set()  # in an arena
        self.files = 0

    def teardown(self) -> None:
        for layer in [*self.heap.layers][::2]:
            self.heap.uninstall(layer)
        self.heap.free_many(sorted(self.live))
        self.heap.arena("beside").drop()
        assert not list(self.heap.blocks())
        self.heap.close()
        self.folder.cleanup()

    @property
    def tracks(self) -> list[Known]:
        return [each for each in self.on if isinstance(each, Known)]

    def path(self, number: int) -> Path:
        return Path(self.folder.name) / f"sites{number}"

    # ------------------------------------------------------------ layers

    @precondition(lambda self: len(self.on) < 3)
    @rule(in_file=st.booleans())
    def install_track(self, in_file: bool) -> None:
        self.files += 1
        path = self.path(self.files) if in_file else None
        self.on.append(Known(self.heap.install(Track(sites=path)).layer, path))

    @precondition(lambda self: len(self.on) < 3)
    @rule(kind=st.sampled_from((Count, Passing, Fill, Fail)))
    def install_another(self, kind: Any) -> None:
        self.on.append(self.heap.install(kind()).layer)

    @precondition(lambda self: self.on)
    @rule(data=st.data())
    def uninstall(self, data: st.DataObject) -> None:
        each = self.on.pop(data.draw(st.integers(0, len(self.on) - 1)))
        self.heap.uninstall(each.layer if isinstance(each, Known) else each)

    # ------------------------------------------------------------ calls

    def any(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.live)))

    def made(self, offset: int, line: int, size: int) -> None:
        self.live.add(offset)
        for known in self.tracks:
            known.blocks[offset] = line, size

    def freed(self, offset: int) -> None:
        self.live.remove(offset)
        for known in self.tracks:
            known.blocks.pop(offset, None)

    @rule(line=st.integers(0, LINES), size=SIZES)
    def malloc(self, line: int, size: int) -> None:
        self.made(malloc_at(self.heap, line, size), line, size)

    @rule(line=st.integers(0, LINES), size=st.sampled_from((112, 70_000)))
    def malloc_in_a_transaction(self, line: int, size: int) -> None:
        self.made(commit_at(self.heap, line, size), line, size)

    @rule(line=st.integers(0, LINES), size=SIZES)
    def malloc_in_an_arena(self, line: int, size: int) -> None:
        offset = malloc_at(self.heap.arena("beside"), line, size)
        self.made(offset, line, size)
        self.live.remove(offset)
        self.beside.add(offset)

    @precondition(lambda self: self.beside)
    @rule()
    def drop_the_arena(self) -> None:
        self.heap.arena("beside").drop()
        self.live |= self.beside
        for offset in self.beside:
            self.freed(offset)
        self.beside.clear()

    @rule(line=st.integers(0, LINES), size=SIZES, count=st.integers(0, 4))
    def malloc_many(self, line: int, size: int, count: int) -> None:
        for offset in many_at(self.heap, line, size, count):
            self.made(offset, line, size)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), line=st.integers(0, LINES), size=SIZES)
    def realloc(self, data: st.DataObject, line: int, size: int) -> None:
        offset = self.any(data)
        to = realloc_at(self.heap, line, offset, size)
        self.freed(offset)
        self.made(to, line, size)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), more=st.sampled_from((0, 5000, 200_000)))
    def expand(self, data: st.DataObject, more: int) -> None:
        offset = self.any(data)
        size = self.heap.usable_size(offset) + more
        if self.heap.expand(offset, size):
            for known in self.tracks:
                if offset in known.blocks:
                    known.blocks[offset] = known.blocks[offset][0], size

    @precondition(lambda self: self.live)
    @rule(data=st.data(), deferred=st.booleans())
    def free(self, data: st.DataObject, deferred: bool) -> None:
        offset = self.any(data)
        self.heap.free(offset, deferred)
        self.freed(offset)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free_many(self, data: st.DataObject) -> None:
        offsets = data.draw(st.lists(st.sampled_from(sorted(self.live)), unique=True, max_size=4))
        self.heap.free_many(offsets)
        for offset in offsets:
            self.freed(offset)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free_what_is_viewed(self, data: st.DataObject) -> None:
        offset = self.any(data)
        with self.heap.view(offset):
            with pytest.raises(BufferError):
                self.heap.free(offset)
            with pytest.raises(BufferError):
                self.heap.free_many([offset])

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free_in_a_transaction(self, data: st.DataObject) -> None:
        offset = self.any(data)
        with self.heap.transaction() as tx:
            tx.free(offset)
        self.freed(offset)

    # ------------------------------------------------------------ what is known

    @invariant()
    def each_knows_what_it_saw(self) -> None:
        for known in self.tracks:
            expected = {o: f"program.py:{line + 1}" for o, (line, _) in known.blocks.items()}
            assert known.layer.live() == expected
            assert known.layer.report() == known.rows()

    @invariant()
    def files_say_the_same(self) -> None:
        for known in self.tracks:
            if known.path is not None:
                told = read_sites(known.path)
                found = {offset: told[offset] for offset in told.keys() & (self.live | self.beside)}
                assert {o: (s.line - 1, size) for o, (s, size) in found.items()} == known.blocks


class FileMachine(TrackMachine):
    """With a Track that is put on the heap again and again, as in one run after another."""

    @rule(line=st.integers(0, LINES), size=SIZES)
    def run_again(self, line: int, size: int) -> None:
        path = self.path(0)
        before = {o for o in (read_sites(path) if path.exists() else {}) if o in self.live}
        track = Track(sites=path)
        with self.heap.install(track):
            assert track.live().keys() == before
            offset = malloc_at(self.heap, line, size)
            assert track.live().keys() == before | {offset}
        self.made(offset, line, size)
        assert read_sites(path).keys() & self.live == before | {offset}


TestTrack = pytest.mark.slow(TrackMachine.TestCase)
TestTrackInFile = pytest.mark.slow(FileMachine.TestCase)
