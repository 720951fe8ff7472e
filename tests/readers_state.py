"""The state of the model of readers beside a writer: what lies in the file, and who knows what.

    File      shared words, two root tables, blocks, the last record of the log
    Writer    volatile: whom it knows of, which blocks are free, which wait and for whom
    Reader    locks that it holds, snapshots, how far its capture is
    Ghost     what nobody stores: the values of the newest commit, what was acknowledged, bounds

Two roots lead to one block each. A block holds the number of the transaction that wrote it. Time
is the age of the writer's last look and what is left of a reader's wait: both end, so that the
clock may tick for ever without a new state.
"""

from __future__ import annotations

from typing import NamedTuple

ROOTS = 2
TORN = -1
COPY, EDIT, SHUT = 0, 1, 2
GATES = ("COPY", "EDIT", "SHUT")
NOT_READING = -1

Pair = tuple[int, int]


class Snapshot(NamedTuple):
    era: int
    image: Pair
    """Blocks that the roots lead to."""
    wanted: Pair
    """What they must hold as long as this lives."""
    private: tuple[Pair, ...] = ()
    """Blocks replayed into pages of its own, and what they hold there."""


class Record(NamedTuple):
    """A commit in the log: the roots that it moves, the blocks that it changes in place."""

    roots: tuple[Pair, ...]
    blocks: tuple[Pair, ...]


class File(NamedTuple):
    seq: int
    tables: tuple[Pair, Pair]
    data: tuple[int, ...]
    era: int = 1
    floor: int = 0
    looking: bool = False
    """The floor is raised for a look; what it will be is not known yet."""
    gate: int = EDIT
    log: Record | None = None
    """The one record that is not yet applied."""
    undo: tuple[Pair, ...] = ()
    """Blocks of the open transaction that were changed in place, and what they held."""
    epoch: int = 1
    booted: bool = True
    """The superblock names this boot: the words of the shared page are of it as well."""

    def image(self) -> Pair:
        """Return the table that counts."""
        return self.tables[self.seq % 2]

    def slot(self, table: int, root: int, block: int) -> File:
        """Return the file with one slot stored to."""
        pair = self.tables[table]
        pair = (block, pair[1]) if root == 0 else (pair[0], block)
        return self._replace(
            tables=(pair, self.tables[1]) if table == 0 else (self.tables[0], pair)
        )

    def stored(self, block: int, value: int) -> File:
        """Return the file with one block stored to."""
        return self._replace(data=(*self.data[:block], value, *self.data[block + 1 :]))


class Writer(NamedTuple):
    pc: str
    leased: bool = True
    """Knows of no reader: may edit in place while `age` is below the lease."""
    age: int = 0
    reading: int = NOT_READING
    """Ticks since the clock was read for a look that is still to come."""
    mask: int = 0
    """What `malloc` takes from, a bit a block."""
    beside: int = 0
    """Freed since the last look, without a tag."""
    tags: tuple[int, ...] = ()
    """By block: the era in which it was freed; 0: not in quarantine."""
    loose: int = 0
    """Unlinked by a commit, not yet freed."""
    previous: int = 0
    """Roots that commit n - 1 moved, a bit a root."""
    tx: int = 0
    roots: tuple[int, ...] = ()
    edits: int = 0
    """How many of the roots, from the first on, have their blocks edited in place."""
    made: tuple[int, ...] = ()
    """Blocks that the transaction has made, as long as no commit leads to them."""
    todo: tuple[Pair, ...] = ()
    unlinks: bool = False
    """Its old blocks are not freed with the commit, but at some time later."""
    tag: int = 0
    """Era of what it frees, if that was read too early."""
    recycler: str = "rests"
    bound: int = 0
    recycled: int = 0
    """Below it everything was handed out again at some time."""


class Reader(NamedTuple):
    pc: str = "away"
    attached: bool = False
    pins: tuple[int, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    wait: int = 0
    gate: int = COPY
    era: int = 0
    seq: int = 0
    image: tuple[int, ...] = ()
    wanted: tuple[int, ...] = ()
    private: tuple[Pair, ...] = ()


class Ghost(NamedTuple):
    values: Pair = (0, 0)
    logged: Pair = (0, 0)
    """With the record of the log that is not yet applied."""
    acknowledged: Pair = (0, 0)
    mail: Snapshot | None = None
    """A snapshot that was sent: era and root image, no lock."""
    transactions: int = 0
    kills: int = 0
    recyclings: int = 0


class State(NamedTuple):
    file: File
    writer: Writer
    readers: tuple[Reader, ...]
    ghost: Ghost


DEAD = Writer("dead")


class Bounds(NamedTuple):
    """How much of the world a search sees. `lease` is in ticks; a reader waits two and one."""

    blocks: int = 4
    readers: int = 2
    kinds: tuple[tuple[str, tuple[int, ...]], ...] = (("edit", (0, 1)),)
    """Transactions: `edit` in place if it may, `put` blocks anew, `mix`: edit the first root, put
    the others; `unlink`: put, free the old block later."""
    transactions: int = 2
    kills: int = 0
    recyclings: int = 0
    aborts: bool = False
    sends: bool = False
    views: bool = False
    """A reader may keep its old snapshot while it takes a new one."""
    lookups: bool = False
    """A reader may look something up without a pin."""
    lease: int = 1
    starts_in: int = EDIT
    rebooted: bool = False
    """Begins after a power cut: words of an older time, a record whose homes half landed."""


def bits(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
