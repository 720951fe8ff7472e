"""Crashes: a program that changes a library by transactions, killed in the middle of its commits.

    parent   close | wait ............................ | open: recovery | compare, check | close
    child          | open, commit, commit, com- SIGKILL

The child says in shared memory which transaction it has begun and which has returned. What has
returned must be there when the parent opens the file; the one that the signal cut off may be there
or not, but whole; and nothing else. Transaction number k does the same wherever it is run, so that
the parent knows every text after it.
"""

from __future__ import annotations

import hashlib
import mmap
import random
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pmemheap import native
from pmemheap.cli.library import Library
from pmemheap.errors import CorruptHeapError, UsageError
from pmemheap.format import layout, records
from pmemheap.format.header import read_superblock
from pmemheap.heap.arguments import DurabilityName
from pmemheap.heap.heap import Heap
from pmemheap.offline.replaying import to_replay
from pmemheap.testing import kill_at

__all__ = ["Kill", "copy_library", "kill_in_commits"]

_COUNTER = "transactions"
_COUNTER_BYTES = 8
_TEXTS_AT_ONCE = 3
_TRANSACTIONS = 16  # that a child would do if it were let live
_ATTEMPTS = 10  # for each kill that is asked for: some signals come between two commits
_PROGRESS = struct.Struct("<QQQQ")


@dataclass(frozen=True)
class Kill:
    """One child that was killed in a commit, and what was found when its file was opened again.

    Attributes
    ----------
    durability : str
        Of the heap.
    step : int
        Before which change of the file the signal came, counted from the start of the child.
    acknowledged, in_flight, found : int
        Transactions since the first child: whose commit had returned; that had been begun beyond
        those; that are in the file.
    waiting : int
        Records in the log that opening brought home.
    seconds : float
        That opening took.
    texts : int
        Whose SHA-256 was compared.
    """

    durability: str
    step: int
    acknowledged: int
    in_flight: int
    found: int
    waiting: int
    seconds: float
    texts: int


class _Progress:
    """Numbers that outlive the child: shared memory of both processes."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _PROGRESS.size)
        self.begun = self.returned = self.opened_at = self.ended_at = 0

    def store(self) -> None:
        _PROGRESS.pack_into(
            self._memory, 0, self.begun, self.returned, self.opened_at, self.ended_at
        )

    def load(self) -> None:
        self.begun, self.returned, self.opened_at, self.ended_at = _PROGRESS.unpack(self._memory)


# ---------------------------------------------------------------- what transaction number k does


def _slots_of(number: int, slots: list[int]) -> list[int]:
    return random.Random(number).sample(slots, min(_TEXTS_AT_ONCE, len(slots)))


def _text_of(number: int, name: str) -> bytes:
    return f"# {name}: rewritten by transaction {number}.\n".encode() * (1 + number % 40)


def _transact(library: Library, number: int, slots: list[int], progress: _Progress) -> None:
    """Give some texts other contents, and count: durable and lazy ones in turn."""
    heap, counter = library.heap, library.heap.roots[_COUNTER]
    with heap.transaction(durable=number % 2 == 0) as tx:
        for slot in _slots_of(number, slots):
            library.put(tx, slot, _text_of(number, library.name(slot)))
        if number % 3:
            tx.write(counter, number.to_bytes(_COUNTER_BYTES, "little"))
        else:
            tx.snapshot(counter, _COUNTER_BYTES)
            with heap.view(counter, _COUNTER_BYTES) as view:
                view[:] = number.to_bytes(_COUNTER_BYTES, "little")
        progress.begun = number
        progress.store()
    progress.returned = number
    progress.store()


def _child(path: Path, progress: _Progress) -> None:
    """Open the file and change it, to the end of the list or of this process."""
    heap = Heap.open(path)
    library = Library(heap)
    slots = library.slots()
    progress.opened_at = native.tape_steps()
    progress.store()
    first = _count(heap) + 1
    for number in range(first, first + _TRANSACTIONS):
        _transact(library, number, slots, progress)
    progress.ended_at = native.tape_steps()
    progress.store()


def _count(heap: Heap) -> int:
    with heap.view(heap.roots[_COUNTER], _COUNTER_BYTES) as view:
        return int.from_bytes(view, "little")


# ---------------------------------------------------------------- kill, open, compare


def kill_in_commits(path: Path, kills: int) -> Iterator[Kill]:
    """Kill a child in the middle of a commit, again and again; yield what was found each time.

    Parameters
    ----------
    path : Path
        Of a closed heap with a library in it.
    kills : int
        Signals that are to come inside of a commit. Those that come between two of them are
        followed by the same look at the file.

    Raises
    ------
    CorruptHeapError
        Something that was committed is missing, or something else is there.
    """
    with Heap.open(path) as heap:
        durability = heap.durability
        with heap.transaction() as tx:
            counter = tx.alloc(_COUNTER_BYTES)
            tx.write(counter.offset, bytes(_COUNTER_BYTES))
            tx.roots[_COUNTER] = counter.offset
        library = Library(heap)
        slots = library.slots()
        names = {slot: library.name(slot) for slot in slots}
        expected = dict(library.verify(slot) for slot in slots)
    progress, choose = _Progress(), random.Random(kills)
    progress.store()
    first, last, done = 0, 1 << 40, 0
    for _ in range(kills * _ATTEMPTS):
        step = choose.randint(first, last) if first else last
        kill_at(step, path, lambda: _child(path, progress))
        before = progress.returned
        progress.load()
        if progress.ended_at:  # from now on it is known when commits begin and end
            first, last = progress.opened_at + 1, progress.ended_at
        found, waiting, seconds = _recovered(path, progress, names, expected, before)
        in_flight = progress.begun - progress.returned
        if in_flight:
            done += 1
            yield Kill(
                durability, step, progress.returned, in_flight, found, waiting, seconds, len(names)
            )
        progress.begun = progress.returned = found
        progress.opened_at = progress.ended_at = 0
        progress.store()
        if done == kills:
            return
    raise CorruptHeapError(f"crashes: {kills} signals inside of commits expected, {done} came")


def _recovered(
    path: Path, progress: _Progress, names: dict[int, str], expected: dict[str, bytes], before: int
) -> tuple[int, int, float]:
    """Open the file and compare it with what it must hold; bring `expected` up to date."""
    waiting = _waiting_records(path)
    began = time.perf_counter()
    with Heap.open(path) as heap:
        seconds = time.perf_counter() - began
        found = _count(heap)
        if not progress.returned <= found <= progress.begun:
            raise CorruptHeapError(
                f"heap file {path.name!r}: transactions up to {progress.returned} expected, at "
                f"most up to {progress.begun}; found those up to {found}"
            )
        for number in range(before + 1, found + 1):
            for slot in _slots_of(number, list(names)):
                digest = hashlib.sha256(_text_of(number, names[slot])).digest()
                expected[names[slot]] = digest
        library = Library(heap)
        if dict(library.verify(slot) for slot in library.slots()) != expected:
            raise CorruptHeapError(
                f"heap file {path.name!r}: the texts after transaction {found} expected, found "
                "others"
            )
        report = heap.check()
        if not report:
            raise CorruptHeapError(f"check: a sound heap expected, found {report}")
    return found, waiting, seconds


def _waiting_records(path: Path) -> int:
    """Return how many records of the log opening will bring home."""
    with path.open("rb") as file:
        image = bytearray(file.read(layout.HEADER_BYTES))
        superblock, _ = read_superblock(image)
        file.seek(superblock.log_off)
        log = file.read(superblock.log_size)
    found = records.scan(
        log, superblock.log_size, superblock.tail_lsn, superblock.chain_seed, superblock.epoch
    )
    applied, undo = struct.unpack_from("<QQ", image, layout.SHARED_PAGE)
    process = superblock.durability == layout.Durability.PROCESS
    chosen = to_replay(found.records, process=process, applied_lsn=applied, open_undo_lsn=undo)
    return len(chosen)


# ---------------------------------------------------------------- the other heap


def copy_library(source: Path, directory: Path, durability: DurabilityName) -> Path | None:
    """Copy the records of a library into a new heap of another durability.

    Returns
    -------
    Path or None
        None where the file system cannot keep that promise.
    """
    path = directory / f"demo-{durability}.heap"
    try:
        made = Heap.create(path, durability=durability)
    except UsageError:
        return None
    with made as heap, Heap.open(source, readonly=True) as old:
        theirs, ours = Library(old), Library(heap)
        for slot in theirs.slots():
            with theirs.text_view(slot) as text:
                ours.add(theirs.name(slot), bytes(text))
    return path
