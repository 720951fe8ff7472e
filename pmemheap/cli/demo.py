"""Demo: the standard library in a heap file that grows under open views, shrinks and comes back.

    load       every .py file becomes a record, largest first; of every 16th a memoryview and two
               numpy arrays stay open, and after each growth all of them are looked at: same
               address, same bytes
    delete     the oldest quarter of the bytes, the newest third, and some in the middle
    trim       head, middle and tail go back to the file system, beside the views still open
    rewrite    every fifth record left gets a longer text, in space that had been given back
    reopen     the views are closed, the heap too, and opened again
    verify     the SHA-256 of every text, and `Heap.check`
    kill       children that change the texts by transactions are killed in the middle of a commit;
               each time the file is opened again and compared: in this heap, and in a copy of it
               that promises the other durability

A byte or an address that is not what it was ends the demo with the exit code of a corrupt file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track
from rich.text import Text

from pmemheap.cli import unitmap
from pmemheap.cli.crashes import Kill, copy_library, kill_in_commits
from pmemheap.cli.files import AsJson, Durability
from pmemheap.cli.library import Library, address_of
from pmemheap.cli.show import output, print_whole, progress_output, table, write_json
from pmemheap.errors import CorruptHeapError, UsageError
from pmemheap.format.layout import UNIT_BYTES_IN_FILE
from pmemheap.heap.arguments import DurabilityName
from pmemheap.heap.heap import Heap
from pmemheap.pictures.model import ArenaMap, read_arena
from pmemheap.units import PAGE, format_bytes

__all__ = ["demo"]

_NUMPY = "numpy"
_WITNESS_EVERY = 16
_REWRITE_EVERY = 5
_DELETED = ((0.0, 0.25), (0.40, 0.55), (0.66, math.inf))  # shares of the bytes, in loading order
_MAP_ROWS = 4
_KILLS = 6
_NOTE = b"\n# Rewritten by the demo of pmemheap.\n"


@dataclass(frozen=True)
class Phase:
    """One row of the table: what the heap was like at the end of a phase; bytes of the file."""

    name: str
    seconds: float
    blocks: int
    file_bytes: int
    disk_bytes: int
    growths: int
    returned_bytes: int


@dataclass(frozen=True)
class Returned:
    """Bytes of the file that trim gave back."""

    head: int
    middle: int
    tail: int


# ---------------------------------------------------------------- witnesses


class Witness:
    """One open view or array, with what it showed at first."""

    def __init__(self, buffer: Any, address: Callable[[Any], int]) -> None:
        self._buffer, self._address = buffer, address
        self._where, self._digest = address(buffer), hashlib.sha256(buffer).digest()

    def check(self) -> None:
        """Compare; CorruptHeapError if it has moved or changed."""
        now = self._address(self._buffer)
        if now != self._where:
            raise CorruptHeapError(f"open view: address {self._where:#x} expected, {now:#x} found")
        if hashlib.sha256(self._buffer).digest() != self._digest:
            raise CorruptHeapError(f"open view at {now:#x}: the same bytes expected, others found")


class Witnesses:
    """The views and arrays that stay open, by the slot of their record."""

    most: int
    checks: int

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        self._seen: dict[int, list[Witness]] = {}
        self._own_blocks: dict[int, int] = {}
        self.with_numpy: bool = importlib.util.find_spec(_NUMPY) is not None
        self.most = self.checks = 0

    def __len__(self) -> int:
        """Return how many views and arrays are open."""
        return sum(map(len, self._seen.values()))

    def __contains__(self, slot: int) -> bool:
        """Tell whether the record of a slot has open views."""
        return slot in self._seen

    def add(self, slot: int, text: memoryview) -> None:
        """Keep a view of a record open; with numpy an array of it too, and one of its line ends."""
        self._seen[slot] = [Witness(text, address_of)]
        if self.with_numpy:
            self._seen[slot] += self._arrays(slot, text)
        self.most = max(self.most, len(self))

    def _arrays(self, slot: int, text: memoryview) -> list[Witness]:
        import numpy as np  # noqa: PLC0415 -- an extra

        letters = np.frombuffer(text, "u1")
        found = np.flatnonzero(letters == ord("\n"))
        line_ends = self._heap.ndarray(len(found), "u4", align=PAGE)
        line_ends[:] = found
        self._own_blocks[slot] = self._heap.offset_of(line_ends)
        return [Witness(letters, _array_address), Witness(line_ends, _array_address)]

    def check(self) -> None:
        """Look at all of them; CorruptHeapError if one has moved or changed."""
        for seen in self._seen.values():
            for witness in seen:
                witness.check()
        self.checks += len(self)

    def let_go(self, slot: int) -> None:
        """Close those of a record; the array's own block is freed when its last array has gone."""
        if slot in self._own_blocks:
            self._heap.free(self._own_blocks.pop(slot), deferred=True)
        self._seen.pop(slot, None)

    def let_all_go(self) -> None:
        """Close all."""
        for slot in list(self._seen):
            self.let_go(slot)


def _array_address(letters: Any) -> int:
    return int(letters.ctypes.data)


# ---------------------------------------------------------------- the story


class Demo:
    """The phases, one method each, on one heap file."""

    loaded_bytes: int
    verified_bytes: int

    def __init__(
        self, path: Path, durability: DurabilityName, files: list[Path], root: Path
    ) -> None:
        self.path = path
        self.durability = durability
        self.files = files
        self.root = root
        self.phases: list[Phase] = []
        self.maps: dict[str, ArenaMap] = {}
        self.digests: dict[str, bytes] = {}
        self.returned: Returned = Returned(0, 0, 0)
        self.loaded_bytes = self.verified_bytes = 0
        self._growths_before = 0
        self.heap: Heap = Heap.create(path, durability=durability)
        self.library: Library = Library(self.heap)
        self.witnesses: Witnesses = Witnesses(self.heap)

    @contextmanager
    def _phase(self, name: str) -> Iterator[list[int]]:
        """Time what stands under it, and note the heap's size; the list is for returned bytes."""
        returned: list[int] = []
        began = time.perf_counter()
        yield returned
        seconds = time.perf_counter() - began
        stats = self.heap.stats()
        growths = self._growths_before + stats.growths
        size = (stats.blocks, stats.file_bytes, stats.file_blocks)
        self.phases.append(Phase(name, seconds, *size, growths, sum(returned)))

    def run(self) -> None:
        """Play all of it and close the heap, whatever comes."""
        try:
            self.load()
            self.delete()
            self.trim()
            self.rewrite()
            self.reopen()
            self.verify()
        finally:
            self.witnesses.let_all_go()
            with suppress(
                BufferError
            ):  # A view in a traceback must not hide the error it tells of.
                self.heap.close()

    def load(self) -> None:
        """Make a record of each file; look at the witnesses after each growth.

        Half way the index is made wide enough for all: so it lies in the middle, and holds no end.
        """
        half = sum(path.stat().st_size for path in self.files) // 2
        with self._phase("create, load"):
            size = self._file_bytes()
            console = progress_output()
            for path in track(
                self.files, "loading", console=console, transient=True,
                disable=not console.is_terminal,
            ):  # fmt: skip
                self._load_file(path)
                if self.loaded_bytes >= half:
                    self.library.widen(len(self.files))
                if self._file_bytes() != size:
                    size = self._file_bytes()
                    self.witnesses.check()

    def _load_file(self, path: Path) -> None:
        name, text = str(path.relative_to(self.root)), path.read_bytes()
        slot = self.library.add(name, text)
        self.digests[name] = hashlib.sha256(text).digest()
        self.loaded_bytes += len(text)
        if slot % _WITNESS_EVERY == 0 and text:
            self.witnesses.add(slot, self.library.text_view(slot))

    def _file_bytes(self) -> int:
        return os.fstat(self.heap.fileno()).st_size

    def rewrite(self) -> None:
        """Let records grow beside the open views."""
        with self._phase("rewrite"):
            for slot in self.library.slots()[::_REWRITE_EVERY]:
                if slot not in self.witnesses:
                    with self.library.text_view(slot) as old:
                        text = bytes(old) + _NOTE
                    self.library.replace(slot, text)
                    self.digests[self.library.name(slot)] = hashlib.sha256(text).digest()
            self.witnesses.check()

    def delete(self) -> None:
        """Free what lies at the head, in the middle and at the tail."""
        with self._phase("delete"):
            reached = 0
            for slot in self.library.slots():
                part = reached / self.loaded_bytes
                reached += self.library.text_bytes(slot)
                if any(first <= part < stop for first, stop in _DELETED):
                    self._delete(slot)
            self.witnesses.check()
        self.maps["after deleting"] = read_arena(self.heap)

    def _delete(self, slot: int) -> None:
        self.witnesses.let_go(slot)
        del self.digests[self.library.name(slot)]
        self.library.remove(slot)

    def trim(self) -> None:
        """Give back; tell the ends from the middle by what is still mapped."""
        before = self.maps["after deleting"]
        with self._phase("trim") as returned:
            returned.append(self.heap.trim())
            self.witnesses.check()
        after = self.maps["after trimming"] = read_arena(self.heap)
        head = (after.first_unit - before.first_unit) * UNIT_BYTES_IN_FILE
        tail = (before.end_unit - after.end_unit) * UNIT_BYTES_IN_FILE
        self.returned = Returned(head, max(sum(returned) - head - tail, 0), tail)

    def reopen(self) -> None:
        """Close the views, then the file, and open that."""
        with self._phase("close, reopen"):
            self.witnesses.let_all_go()
            self._growths_before = self.heap.stats().growths
            self.heap.close()
            self.heap = Heap.open(self.path)

    def verify(self) -> None:
        """Compare every byte with what was read from the files, and let the heap check itself."""
        with self._phase("verify"):
            self.library = Library(self.heap)
            found = dict(self.library.verify(slot) for slot in self.library.slots())
            if found != self.digests:
                raise CorruptHeapError(
                    f"library: {len(self.digests)} texts expected as they were stored, "
                    f"{len(found.items() & self.digests.items())} found"
                )
            report = self.heap.check()
            if not report:
                raise CorruptHeapError(f"check: a sound heap expected, found {report}")
        self.verified_bytes = sum(map(self.library.text_bytes, self.library.slots()))


# ---------------------------------------------------------------- command


def demo(
    path: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Make the heap file there, and keep it.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="Load the .py files of this directory instead."),
    ] = None,
    durability: Annotated[
        Durability, typer.Option(help="Of the heap; power is refused on tmpfs.")
    ] = Durability.PROCESS,
    as_json: AsJson = False,
) -> None:
    """Load the standard library into a growing heap file, change it, trim it, read it back."""
    root = source or Path(sysconfig.get_path("stdlib"))
    files = _python_files(root)
    with tempfile.TemporaryDirectory(prefix="pmemheap-") as directory:
        play = Demo(path or Path(directory) / "demo.heap", durability.named, files, root)
        play.run()
        kills = _kills(play, Path(directory))
    if as_json:
        write_json(_document(play) | {"kills": kills})
    else:
        _print(play)
        _print_kills(kills)


def _kills(play: Demo, directory: Path) -> list[Kill]:
    """Kill children that write to the demo's heap, and to a copy of the other durability."""
    other: DurabilityName = "process" if play.durability == "power" else "power"
    copy = copy_library(play.path, directory, other)
    paths = [play.path] if copy is None else [play.path, copy]
    return [kill for path in paths for kill in kill_in_commits(path, _KILLS)]


def _python_files(root: Path) -> list[Path]:
    """Return what to load: the largest first, so that what is deleted later lies together."""
    packages = {"site-packages", "dist-packages"}
    found = [
        path for path in root.rglob("*.py")
        if not packages & set(path.parts[len(root.parts) :]) and os.access(path, os.R_OK)
        and path.is_file()
    ]  # fmt: skip
    if not found:
        raise UsageError(f"demo: .py files expected in {str(root)!r}, none found")
    return sorted(found, key=lambda path: (-path.stat().st_size, path))


def _document(play: Demo) -> dict[str, object]:
    return {
        "source": str(play.root),
        "files": len(play.files),
        "loaded_bytes": play.loaded_bytes,
        "verified_files": len(play.digests),
        "verified_bytes": play.verified_bytes,
        "open_views": play.witnesses.most,
        "with_numpy": play.witnesses.with_numpy,
        "checks_of_views": play.witnesses.checks,
        "phases": play.phases,
        "returned": play.returned,
    }


def _print(play: Demo) -> None:
    console = output()
    loaded = f"{len(play.files):,} files, {format_bytes(play.loaded_bytes)}"
    console.print(f"{loaded}, of {play.root} in a heap file", soft_wrap=True)
    console.print()
    made = table("", "phase", "seconds", "blocks", "file", "on disk", "growths", "given back")
    for each in play.phases:
        made.add_row(
            each.name, f"{each.seconds:.3f}", f"{each.blocks:,}", format_bytes(each.file_bytes),
            format_bytes(each.disk_bytes), str(each.growths),
            format_bytes(each.returned_bytes) if each.returned_bytes else "",
        )  # fmt: skip
    print_whole(console, made)
    console.print()
    for sentence in _sentences(play):
        console.print(Text(sentence))
    for title, found in play.maps.items():
        console.print(f"\n{title}", style="bold")
        console.print(unitmap.draw([found], console.width, _MAP_ROWS), end="", soft_wrap=True)
        per_mark = unitmap.units_per_mark([found], console.width, _MAP_ROWS)
        console.print(unitmap.legend([found], console.width, per_mark))


def _print_kills(kills: list[Kill]) -> None:
    console = output()
    console.print()
    made = table(
        "killed in the middle of a commit", "heap", "before change", "acknowledged", "in flight",
        "found", "recovered", "ms",
    )  # fmt: skip
    for kill in kills:
        made.add_row(
            kill.durability, str(kill.step), str(kill.acknowledged), str(kill.in_flight),
            str(kill.found), str(kill.waiting), f"{kill.seconds * 1e3:.1f}",
        )  # fmt: skip
    print_whole(console, made)
    console.print()
    durabilities = list(dict.fromkeys(kill.durability for kill in kills))
    if len(durabilities) == 1:
        console.print(
            f"Only a {durabilities[0]} heap: this file system cannot keep another promise."
        )
    console.print(
        f"{len(kills)} children were killed by SIGKILL inside of a commit, durable and lazy ones. "
        "Each time the file was opened again and compared: nothing committed is missing, nothing "
        f"else is there; all {kills[0].texts:,} texts are as committed (SHA-256), and check found "
        "nothing."
    )


def _sentences(play: Demo) -> Iterator[str]:
    growths = play.phases[0].growths
    kinds = "views and arrays" if play.witnesses.with_numpy else "views"
    yield (
        f"{play.witnesses.most} {kinds} stayed open over {growths} growths, deleting, trimming and "
        f"rewriting, and were looked at {play.witnesses.checks:,} times: none had moved, none had "
        "changed."
    )
    if not play.witnesses.with_numpy:
        yield "numpy is not installed, so no arrays: pip install 'pmemheap[numpy]'"
    given = play.returned
    yield (
        f"trim gave back {format_bytes(given.head)} at the head, {format_bytes(given.middle)} in "
        f"the middle, {format_bytes(given.tail)} at the tail; no offset changed."
    )
    yield (
        f"Reopened: {len(play.digests):,} texts, {format_bytes(play.verified_bytes)}, every byte "
        "as stored (SHA-256); check found nothing."
    )
