"""What a heap may hold after a crash: what had returned, and all or nothing of what was in flight.

    Player ── begin(change) ──► Journal   shared memory: it survives the SIGKILL of who writes
       │       the call         │
       └── returned(offsets) ──►│
                                ▼
    Found.of(heap) ── settle ── Ledger    models by thread, and the change that each was at

A change says before it is made what it will do, without the offsets of new blocks: those are found
by their contents. A block to which bytes were stored outside of a transaction is *loose* until the
heap is synced: in a power heap nothing is known of its contents after a crash of any kind, since
records that are replayed may hold older ones.
"""

from __future__ import annotations

import itertools
import mmap
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pmemheap import Heap
from pmemheap.units import GRANULE, UNIT


@dataclass(frozen=True)
class Make:
    """A block that comes: `sure` are the bytes that it begins with as soon as it is there."""

    size: int
    sure: bytes = b""


@dataclass(frozen=True)
class Change:
    """What one call or transaction does; all of it or nothing, unless it is done `in_parts`.

    A root that is to name a block of `makes` has its index, as -1, -2, ...; None drops it.
    """

    frees: tuple[int, ...] = ()
    writes: tuple[tuple[int, int, bytes], ...] = ()
    in_place: tuple[tuple[int, int, bytes], ...] = ()
    makes: tuple[Make, ...] = ()
    roots: tuple[tuple[str, int | None], ...] = ()
    arenas: tuple[tuple[str, bool], ...] = ()
    in_parts: bool = False
    durable: bool = False
    synced: bool = False


NOTHING = Change()


@dataclass(frozen=True)
class Came:
    """A block that has come: its place, its usable size and the bytes that it begins with."""

    offset: int
    usable: int
    content: bytes
    loose: bool = False


@dataclass
class Model:
    """What one thread knows to be in the heap."""

    blocks: dict[int, bytes] = field(default_factory=dict)
    usable: dict[int, int] = field(default_factory=dict)
    loose: set[int] = field(default_factory=set)
    roots: dict[str, int] = field(default_factory=dict)
    arenas: set[str] = field(default_factory=set)

    def copy(self) -> Model:
        return Model(
            dict(self.blocks), dict(self.usable), set(self.loose), dict(self.roots),
            set(self.arenas),
        )  # fmt: skip

    def apply(self, change: Change, came: Sequence[Came]) -> None:
        assert len(came) == len(change.makes)
        self.take_away(change)
        for each in came:
            assert each.offset not in self.blocks
            self.blocks[each.offset] = each.content
            self.usable[each.offset] = each.usable
            if each.loose:
                self.loose.add(each.offset)
        for name, target in change.roots:
            if target is None:
                self.roots.pop(name, None)
            else:
                self.roots[name] = target if target >= 0 else came[-1 - target].offset
        if change.synced:
            self.loose.clear()
        for name, there in change.arenas:
            (self.arenas.add if there else self.arenas.discard)(name)

    def take_away(self, change: Change) -> None:
        """Do the part of a change that needs no new offsets."""
        for offset in change.frees:
            del self.blocks[offset], self.usable[offset]
            self.loose.discard(offset)
        for offset, at, data in (*change.writes, *change.in_place):
            old = self.blocks[offset]
            assert at + len(data) <= len(old)
            self.blocks[offset] = old[:at] + data + old[at + len(data) :]


@dataclass(frozen=True)
class Found:
    """What a heap holds."""

    blocks: dict[int, bytes]
    roots: dict[str, int]
    arenas: set[str]

    @classmethod
    def of(cls, heap: Heap) -> Found:
        blocks = {offset: bytes(heap.view(offset)) for offset, _ in heap.blocks()}
        return cls(blocks, dict(heap.roots), set(heap.arenas()))


# ---------------------------------------------------------------- the journal


@dataclass(frozen=True)
class Entry:
    """What one thread has to say: that it begins a change, or that it has returned."""

    thread: int
    change: Change | None = None
    came: tuple[Came, ...] | None = None
    note: Any = None


class Journal:
    """Entries in shared memory: each is there at once, whenever its writer dies."""

    def __init__(self, nbytes: int = 64 << 20) -> None:
        self._bytes = mmap.mmap(-1, nbytes)
        with memoryview(self._bytes) as whole, whole[:8] as first:
            self._end = first.cast("Q")
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self._end[0] = 8

    def is_empty(self) -> bool:
        return self._end[0] == 8

    def close(self) -> None:
        self._end.release()
        self._bytes.close()

    def write(self, entry: Entry) -> None:
        data = pickle.dumps(entry)
        with self._lock:
            end = self._end[0]
            self._bytes[end : end + 4] = len(data).to_bytes(4, "little")
            self._bytes[end + 4 : end + 4 + len(data)] = data
            self._end[0] = end + 4 + len(data)

    def __iter__(self) -> Iterator[Entry]:
        at = 8
        while at < self._end[0]:
            size = int.from_bytes(self._bytes[at : at + 4], "little")
            yield pickle.loads(self._bytes[at + 4 : at + 4 + size])
            at += 4 + size


@dataclass
class Ledger:
    """The models of some threads, and what each is in the middle of."""

    models: list[Model]
    in_flight: dict[int, Change] = field(default_factory=dict)
    notes: list[Any] = field(default_factory=list)
    returned: int = 0

    def read(self, journal: Journal) -> None:
        for entry in journal:
            if entry.note is not None:
                self.notes.append(entry.note)
            if entry.change is not None:
                assert entry.thread not in self.in_flight
                self.in_flight[entry.thread] = entry.change
            if entry.came is not None:
                self.models[entry.thread].apply(self.in_flight.pop(entry.thread), entry.came)
                self.returned += 1

    def settle(self, found: Found, *, loose_too: bool = True) -> list[tuple[Change, bool]]:
        """Decide of each change in flight whether it has happened; take that over.

        Raises
        ------
        AssertionError
            What was found is none of what may be.
        """
        threads = sorted(self.in_flight)
        troubles: dict[str, list[list[int]]] = {}
        for happened in itertools.product([False, True], repeat=len(threads)):
            chosen = {t for t, done in zip(threads, happened, strict=True) if done}
            models, trouble = self._suppose(chosen, found, loose_too)
            if not trouble:
                self.models = models
                outcome = [(self.in_flight[t], t in chosen) for t in threads]
                self.in_flight = {}
                return outcome
            troubles.setdefault(trouble, []).append(sorted(chosen))
        changes = [f"in flight: {_brief(change)}" for change in self.in_flight.values()]
        words = [f"if {chosen} have happened: {trouble}" for trouble, chosen in troubles.items()]
        raise AssertionError("\n".join(["none of the states that may be:", *changes, *words]))

    def _suppose(self, chosen: set[int], found: Found, loose_too: bool) -> tuple[list[Model], str]:
        """Return the models if just these changes have happened; or what speaks against it."""
        models = [model.copy() for model in self.models]
        makers: list[tuple[int, list[Make]]] = []
        for thread in chosen:
            change = self.in_flight[thread]
            if change.in_parts:
                change = _parts(change, models[thread], found)
            models[thread].take_away(change)
            makers.append((thread, list(change.makes)))
        expected: dict[int, bytes] = {}
        for model in models:
            double = expected.keys() & model.blocks.keys()
            if double:
                return models, f"two blocks at {sorted(map(hex, double))}"
            expected |= model.blocks
        trouble = _differences(expected, models, found, loose_too)
        if trouble:
            return models, trouble
        rest = {
            offset: content for offset, content in found.blocks.items() if offset not in expected
        }
        for thread, makes in sorted(makers, key=_vague):
            change = self.in_flight[thread]
            came = _match(makes, rest, some=change.in_parts)
            if came is None:
                return models, f"new blocks missing: {len(makes)} expected, {_places(rest)} found"
            tail = Change(makes=tuple(makes[: len(came)]), roots=change.roots, arenas=change.arenas)
            models[thread].apply(tail, came)
        if rest:
            return models, f"blocks that nobody made: {_places(rest)}"
        return models, _names(models, found)


def _vague(maker: tuple[int, list[Make]]) -> bool:
    """Tell whether new blocks could be any: those that can be recognised are matched first."""
    return any(not make.sure for make in maker[1])


def _parts(change: Change, model: Model, found: Found) -> Change:
    """Return the part of a change that can be seen to have happened."""
    gone = tuple(offset for offset in change.frees if offset not in found.blocks)
    return Change(gone, makes=change.makes)


def _differences(
    expected: dict[int, bytes], models: list[Model], found: Found, loose_too: bool
) -> str:
    missing = expected.keys() - found.blocks.keys()
    if missing:
        return f"missing: {_places(dict.fromkeys(missing, b''))}"
    for model in models:
        for offset, content in model.blocks.items():
            there = found.blocks[offset]
            if len(there) != model.usable[offset]:
                return f"{model.usable[offset]} bytes at {offset:#x} expected, {len(there)} found"
            if offset in model.loose and not loose_too:
                model.blocks[offset] = there[: len(content)]
            elif not there.startswith(content):
                at = next(i for i, byte in enumerate(content) if byte != there[i])
                wrong = sum(a != b for a, b in zip(content, there, strict=False))
                return (
                    f"block {offset:#x} of {len(content)} bytes differs in {wrong}, from {at} on: "
                    f"{content[at : at + 8].hex()} expected, {there[at : at + 8].hex()} found"
                )
    return ""


def _match(makes: list[Make], rest: dict[int, bytes], *, some: bool) -> list[Came] | None:
    """Find each new block among what is left over; take it out of there."""
    came: list[Came] = []
    for make in sorted(makes, key=lambda each: -len(each.sure)) if not some else makes:
        fitting = [at for at, there in rest.items() if _fits(make, there)]
        offset = min(fitting, key=lambda at: len(rest[at]), default=None)  # others may need more
        if offset is None:
            if some:
                return came
            return None
        there = rest.pop(offset)
        came.append(Came(offset, len(there), there, loose=len(make.sure) < make.size))
    order = sorted(range(len(makes)), key=lambda i: -len(makes[i].sure))
    return came if some else [came[order.index(i)] for i in range(len(makes))]


def _fits(make: Make, there: bytes) -> bool:
    most = max(make.size + make.size // 4 + 2 * GRANULE, make.size + 2 * UNIT)
    return make.size <= len(there) <= most and there.startswith(make.sure)


def _names(models: list[Model], found: Found) -> str:
    roots: dict[str, int] = {}
    arenas: set[str] = set()
    for model in models:
        roots |= model.roots
        arenas |= model.arenas
    if roots != found.roots:
        return f"roots {roots} expected, {found.roots} found"
    return "" if arenas == found.arenas else f"arenas {arenas} expected, {found.arenas} found"


def _places(blocks: dict[int, bytes]) -> str:
    return ", ".join(f"{at:#x} ({len(blocks[at])})" for at in sorted(blocks)[:10]) or "none"


def _brief(change: Change) -> str:
    makes = [(each.size, len(each.sure)) for each in change.makes]
    writes, in_place = (
        [(hex(offset), at, len(data)) for offset, at, data in ranges]
        for ranges in (change.writes, change.in_place)
    )
    return (
        f"frees {[hex(each) for each in change.frees]}, writes {writes}, "
        f"in place {in_place}, makes {makes}, roots {change.roots}, arenas {change.arenas}, "
        f"durable {change.durable}"
    )


# ---------------------------------------------------------------- doing


class Player:
    """Does changes to a heap, telling before and after; one for each thread.

    `tell` may end the process: then what was told is what counts.
    """

    def __init__(
        self, heap: Heap, model: Model, tell: Callable[[Entry], None], thread: int = 0
    ) -> None:
        self.heap, self.model, self._tell, self.thread = heap, model, tell, thread

    def do(
        self, change: Change, act: Callable[[], Sequence[tuple[int, bytes]] | None]
    ) -> list[int]:
        """Make a change: `act` returns offset and contents of the blocks that came."""
        self._tell(Entry(self.thread, change))
        came = []
        for (offset, content), make in zip(act() or (), change.makes, strict=True):
            loose = len(make.sure) < len(content)
            came.append(Came(offset, self.heap.usable_size(offset), content, loose))
        self._tell(Entry(self.thread, came=tuple(came)))
        self.model.apply(change, came)
        return [each.offset for each in came]

    def note(self, note: Any) -> None:
        self._tell(Entry(self.thread, note=note))
