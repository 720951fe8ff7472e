"""Units that come and go beside readers [Q13]-[Q15], and the opening that finds them [Q6].

    unit      0        1
    file   [ root's ][ grown, used, freed, withdrawn, punched, cut, grown again ]

One root, in unit 0 or 1; readers attach to a writer that copies. A snapshot has the units that its
process has mapped. Wrong: one whose root lies outside of them or has other bytes, one whose units
lie outside of the file, a unit of the heap outside of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Viewer(NamedTuple):
    """A reader: what it has mapped, and as of which `layout_seq`."""

    pc: str = "in"
    pin: int = 0
    era: int = 0
    seen: int = 0
    mapped: int = 0
    root: int = -1
    wanted: int = 0


class Layout(NamedTuple):
    length: int = 1
    """Units of the file."""
    units: int = 1
    """Units that the segment table speaks of."""
    layout_seq: int = 1
    era: int = 1
    root: int = 0
    data: int = 0
    """Bytes of unit 1; 0: none, or punched."""
    pc: str = "idle"
    freed: int = 0
    """Era in which unit 1 was freed; 0: not in quarantine."""
    free: bool = True
    """Unit 1 is free, if there is one."""
    cut: int = 0
    """Era in which unit 1 was withdrawn from the heap; 0: it was not, or the file is cut."""
    bound: int = 0
    viewers: tuple[Viewer, ...] = ()
    writes: int = 0
    kills: int = 0
    recyclings: int = 0


Step = tuple[str, Layout]


class Layouts:
    """The world. `out`: rules that are left out."""

    def __init__(
        self,
        readers: int = 1,
        writes: int = 2,
        kills: int = 0,
        recyclings: int = 2,
        out: frozenset[str] = frozenset(),
    ) -> None:
        self.readers, self.writes = readers, writes
        self.kills, self.recyclings = kills, recyclings
        self.out = out

    def start(self) -> Layout:
        return Layout(viewers=(Viewer(),) * self.readers)

    def same(self, state: Layout) -> Layout:
        """Return the state with no more than whether each reader has seen the last `layout_seq`."""
        newest = state.layout_seq
        viewers = (viewer._replace(seen=int(viewer.seen == newest)) for viewer in state.viewers)
        return state._replace(layout_seq=1, viewers=tuple(sorted(viewers)))

    def wrong(self, state: Layout) -> str:
        if state.length < state.units:
            return "J5: a unit of the heap lies outside of the file"
        for viewer in state.viewers:
            if viewer.pc != "has":
                continue
            if viewer.root >= viewer.mapped:
                return "J5: the root of a snapshot leads out of what is mapped"
            if viewer.mapped > state.length:
                return "J5: a unit that a snapshot has mapped lies outside of the file"
            if viewer.root == 1 and viewer.wanted != state.data:
                return f"J1: a snapshot reads {state.data}, {viewer.wanted} expected"
        return ""

    def steps(self, state: Layout) -> Iterator[Step]:
        if state.pc == "dead":
            yield "writer: opens", state._replace(pc="opens")
        else:
            for label, after in self._works(state):
                yield f"writer: {label}", after
            if state.kills < self.kills:
                dead = state._replace(
                    pc="dead", freed=0, free=False, cut=0, bound=0, kills=state.kills + 1
                )
                yield "writer: is killed", dead
        for index, viewer in enumerate(state.viewers):
            for label, changed in self._views(viewer, state):
                viewers = (*state.viewers[:index], changed, *state.viewers[index + 1 :])
                yield f"reader {index}: {label}", state._replace(viewers=viewers)

    # The writer

    def _works(self, state: Layout) -> Iterator[Step]:
        raised = state.layout_seq + 1
        match state.pc:
            case "idle":
                yield from self._begins(state)
            case "grows":
                yield "stores the segment slot: 2 units", self._grown(state)
            case "grown":
                yield (
                    f"layout_seq := {raised}",
                    state._replace(layout_seq=raised, pc="idle", free=True),
                )
            case "withdraws":
                yield (
                    f"layout_seq := {raised}",
                    state._replace(layout_seq=raised, pc="idle", cut=state.era),
                )
            case "asks":
                yield from self._asks(state)
            case "opens":
                yield from self._opens(state, raised)

    def _begins(self, state: Layout) -> Iterator[Step]:
        if state.units == 1:
            cut = state.cut if "Q15 cancels" in self.out else 0
            yield "grows the file", state._replace(pc="grows", length=2, cut=cut)
        if state.units == 2 and state.free:
            if state.root == 0 and state.writes < self.writes:
                writes = state.writes + 1
                yield (
                    f"commits root 1, written {writes}",
                    state._replace(root=1, data=writes, writes=writes, free=False),
                )
            yield self._withdraws(state)
        if state.root == 1:
            yield "commits root 0", self._frees(state)
        if (state.freed or state.cut) and state.recyclings < self.recyclings:
            era = state.era + 1
            yield (
                f"era := {era}",
                state._replace(era=era, bound=era, pc="asks", recyclings=state.recyclings + 1),
            )

    def _grown(self, state: Layout) -> Layout:
        grown = state._replace(units=2)
        if "Q13" in self.out:
            return grown._replace(pc="idle", free=True)
        return grown._replace(pc="grown")

    def _frees(self, state: Layout) -> Layout:
        if "Q15 quarantine" in self.out:
            return state._replace(root=0, free=True)
        return state._replace(root=0, freed=state.era)

    def _withdraws(self, state: Layout) -> Step:
        """Store the smaller segment slot and punch; the file keeps its length until a recycling."""
        return "withdraws and punches unit 1", state._replace(
            units=1, free=False, data=0, pc="withdraws"
        )

    def _asks(self, state: Layout) -> Iterator[Step]:
        pins = {viewer.pin for viewer in state.viewers if 0 < viewer.pin < state.bound}
        if pins:
            oldest = min(pins)
            yield f"asks for pins: {oldest}", state._replace(bound=oldest)
            return
        after = state._replace(pc="idle", bound=0)
        if 0 < state.freed < state.bound:
            after = after._replace(freed=0, free=True)
        if state.cut and (state.cut < state.bound or "Q15 waits" in self.out):
            after = after._replace(cut=0, length=1)
        yield "asks for pins: none, recycles", after

    def _opens(self, state: Layout, raised: int) -> Iterator[Step]:
        """Open: what is free waits for the pins that live, and so does the cut of a long file."""
        if state.length > state.units and "Q6 cuts nothing" in self.out:
            yield "cuts the file", state._replace(length=state.units)
            return
        if "Q13 opening" in self.out:
            raised = state.layout_seq
        freed = state.era if state.units == 2 and state.root == 0 else 0
        cut = state.era if state.length > state.units else 0
        yield (
            f"layout_seq := {raised}, tags {state.era}",
            state._replace(pc="idle", layout_seq=raised, freed=freed, cut=cut, era=state.era + 1),
        )

    # Readers

    def _views(self, viewer: Viewer, state: Layout) -> Iterator[tuple[str, Viewer]]:
        match viewer.pc:
            case "in":
                yield f"reads era {state.era}", viewer._replace(pc="locks", era=state.era)
            case "locks":
                changed = viewer._replace(pc="reads layout_seq", pin=viewer.era, era=0)
                yield f"locks pin {viewer.era}", changed
            case "reads layout_seq":
                known = state.layout_seq == viewer.seen
                pc = "captures" if known else "maps"
                changed = viewer._replace(pc=pc, seen=state.layout_seq)
                yield f"reads layout_seq {state.layout_seq}", changed
            case "maps":
                changed = viewer._replace(pc="captures", mapped=state.units)
                yield f"maps {state.units} units", changed
            case "captures":
                changed = viewer._replace(pc="checks", root=state.root, wanted=state.data)
                yield f"captures root {state.root}", changed
            case "checks":
                again = state.layout_seq != viewer.seen and "Q14 again" not in self.out
                pc = "reads layout_seq" if again else "has"
                yield f"reads layout_seq {state.layout_seq}", viewer._replace(pc=pc)
            case "has":
                away = viewer._replace(root=-1, wanted=0)
                yield "drops its snapshot", away._replace(pc="in", pin=0)
                yield "refreshes", away._replace(pc="reads layout_seq")
