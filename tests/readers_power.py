"""Two root tables and a power cut [Q12]: what of the cache reaches the medium is up to chance.

One writer, two roots, no reader. A commit appends a record, syncs the log, stores slots, raises
`commit_seq`. Each word of the shared pages is written back at any time, or not. A checkpoint
makes the tables equal, syncs everything and drops the records. A cut leaves the medium, and of the
records that were not synced any beginning. Wrong: a table that counts, after an opening or in the
running writer, that differs from the commits that were acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from readers_state import Pair


class Words(NamedTuple):
    """The shared pages: `slots` has root 0 and 1 of table A, then those of B."""

    seq: int = 0
    slots: tuple[int, int, int, int] = (0, 0, 0, 0)

    def table(self, number: int) -> Pair:
        return self.slots[2 * number], self.slots[2 * number + 1]

    def stored(self, place: int, value: int) -> Words:
        slots = list(self.slots)
        slots[place] = value
        return self._replace(slots=(slots[0], slots[1], slots[2], slots[3]))


class Power(NamedTuple):
    pc: str = "idle"
    cache: Words = Words()
    medium: Words = Words()
    log: tuple[Pair, ...] = ()
    """Root and value of each record since the last checkpoint."""
    synced: int = 0
    previous: int = -1
    todo: tuple[Pair, ...] = ()
    values: Pair = (0, 0)
    """What the roots are after all records of the log."""
    commits: int = 0
    cuts: int = 0


class PowerCuts:
    """The world. `out`: rules that are left out."""

    def __init__(self, commits: int, cuts: int, out: frozenset[str] = frozenset()) -> None:
        self.commits = commits
        self.cuts = cuts
        self.out = out

    def start(self) -> Power:
        return Power()

    def same(self, state: Power) -> Power:
        return state

    def wrong(self, state: Power) -> str:
        counts = state.cache.table(state.cache.seq % 2)
        if state.pc == "idle" and counts != state.values:
            return f"the table that counts has {counts}, {state.values} were committed"
        return ""

    def steps(self, state: Power) -> Iterator[tuple[str, Power]]:
        yield from self._writes_back(state)
        if state.cuts < self.cuts:
            yield from self._cut(state)
        yield from self._works(state)

    def _writes_back(self, state: Power) -> Iterator[tuple[str, Power]]:
        cache, medium = state.cache, state.medium
        if cache.seq != medium.seq:
            yield (
                f"medium: commit_seq {cache.seq}",
                state._replace(medium=medium._replace(seq=cache.seq)),
            )
        for place, value in enumerate(cache.slots):
            if medium.slots[place] != value:
                yield (
                    f"medium: slot {place % 2} of table {place // 2}: {value}",
                    state._replace(medium=medium.stored(place, value)),
                )

    def _cut(self, state: Power) -> Iterator[tuple[str, Power]]:
        for kept in range(state.synced, len(state.log) + 1):
            log = state.log[:kept]
            values = state.values
            if kept < len(state.log):
                values = state.todo[0]
            yield (
                f"power: cut, {kept} records left",
                Power(
                    "opens",
                    state.medium,
                    state.medium,
                    log,
                    kept,
                    values=values,
                    commits=state.commits,
                    cuts=state.cuts + 1,
                ),
            )

    def _works(self, state: Power) -> Iterator[tuple[str, Power]]:
        cache = state.cache
        match state.pc:
            case "idle":
                yield from self._begins(state)
            case "syncs":
                yield "writer: syncs the log", self._synced(state)
            case "stores" | "replays":
                yield self._stores(state) if state.todo else self._publishes(state)
            case "opens":
                yield from self._evens(state, state._replace(pc="replays", todo=state.log))
            case "evens":
                yield from self._evens(state, state._replace(pc="checkpoint"))
            case "checkpoint":
                yield (
                    "writer: syncs everything",
                    state._replace(pc="tail", medium=cache, synced=len(state.log)),
                )
            case "tail":
                yield "writer: drops the records", state._replace(pc="idle", log=(), synced=0)

    def _begins(self, state: Power) -> Iterator[tuple[str, Power]]:
        if state.log:
            pc = "checkpoint" if "Q12 checkpoint" in self.out else "evens"
            yield "writer: begins a checkpoint", state._replace(pc=pc)
        if state.commits == self.commits:
            return
        number = state.commits + 1
        for root in (0, 1):
            values = (number, state.values[1]) if root == 0 else (state.values[0], number)
            yield (
                f"writer: appends root {root} := {number}",
                state._replace(
                    pc="syncs",
                    log=(*state.log, (root, number)),
                    todo=(state.values,),
                    values=values,
                    commits=number,
                ),
            )

    def _synced(self, state: Power) -> Power:
        root, value = state.log[-1]
        todo: tuple[Pair, ...] = ((root, value),)
        if state.previous == 1 - root:
            todo = (*todo, (1 - root, state.values[1 - root]))
        return state._replace(pc="stores", synced=len(state.log), previous=root, todo=todo)

    def _publishes(self, state: Power) -> tuple[str, Power]:
        pc = "idle" if state.pc == "stores" else "evens"
        cache = state.cache._replace(seq=state.cache.seq + 1)
        return f"writer: commit_seq := {cache.seq}", state._replace(pc=pc, cache=cache)

    def _stores(self, state: Power) -> tuple[str, Power]:
        table = (state.cache.seq + 1) % 2
        root, value = state.todo[0]
        cache = state.cache.stored(2 * table + root, value)
        return (
            f"writer: stores slot {root} of table {table}: {value}",
            state._replace(cache=cache, todo=state.todo[1:]),
        )

    def _evens(self, state: Power, then: Power) -> Iterator[tuple[str, Power]]:
        """Copy a slot of the table that counts to the other one, as long as one differs."""
        counts = state.cache.seq % 2
        for root, value in enumerate(state.cache.table(counts)):
            place = 2 * (1 - counts) + root
            if state.cache.slots[place] != value and "Q12 evens" not in self.out:
                cache = state.cache.stored(place, value)
                yield (
                    f"writer: copies slot {root} to table {1 - counts}",
                    state._replace(cache=cache),
                )
                return
        yield "writer: tables are equal", then
