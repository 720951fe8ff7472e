"""A bounded model of readers in other processes beside one writer: its rules, each left out once.

    python tests/readers_model.py --states 3000000      # every search, larger bounds, what it saw

Rules are those of the design's pages, `[Qn]`. A step is one store, load or lock call of one
process, in a sequentially consistent memory: the fences that the rules name are taken for granted.
Any process may be killed between two steps; a clock ticks at any time.

    readers_state     the state, its bounds           readers_search   breadth first; random walks
    readers_writer    edits, commits, looks           readers_opening  recovery by the next writer
    readers_recycler  eras, floor, quarantine         readers_reader   attach, pin, capture, adopt
    readers_layout    units that come and go, Q13-15  readers_power    two tables, a power cut, Q12
    readers_lookup    what takes no pin, Q19

`RULES` names what may be left out and the world in which that goes wrong; with all rules nothing
does. Not in the model: Q1 and Q16 (calls of the kernel), readers in the writer's own process,
forks, several threads with transactions, CRC of slots (a torn slot is seen as such).

Where the model follows more than the pages said, since without it the search found a wrong read
(rules with an asterisk in `RULES`):

1. Q9 gate last. A reader reads the gate *again* after it has seen 0x3000 free. Else: it reads EDIT,
   the writer edits in place under its lease and dies; the reader sees nobody and captures half.
2. Q8 floor. Each look that may allow edits, or allow to hand out what was freed: first `floor` :=
   `era` + 1; fence; look. Nobody: `era` := `floor`, which stays. Somebody: `floor` is what it was.
   Else a snapshot that was sent, and that nobody holds any more, is adopted after its blocks were
   edited in place. To raise era and floor together before the look is not enough: a reader may
   pin, send and die between them and the look. To leave it out where the last look is not older
   than two leases by the clock that was read before is not enough either (Q8 each look).
3. Q9 boot. After a power cut `gate` is a word of an older time: it counts as SHUT as long as the
   superblock does not name this boot (read before the gate). Else COPY is believed, and the
   recovery stores in place.
4. Q8 until home. A refill within a transaction that edits in place may find a reader: the gate
   stays SHUT until homes are stored, and is COPY then. For several threads: SHUT is counted, and
   nobody stores another gate as long as one transaction edits.
5. Q13 opening. The next writer raises `layout_seq`: a writer may die after it stored a slot.
6. Q15 cancels. To grow over withdrawn units takes back the cut of the file that waits for pins.
7. Q2 era again, Q2 floor again: nothing wrong is read without them, but a snapshot is refused
   although somebody holds it. A reader that has locked reads `era` again, and locks the newer one
   if it has changed; the floor that is raised for a look has a mark, and an adopter waits until the
   look is over or nobody holds 0x3000. A writer that dies within a look may still refuse.

8. Q19. A lookup without a pin: era, roots, blocks, then the floor. What commits that were published
   before the era was read lead to is not stored to before the floor is above that era.

What the code needs under one lock: a look and its tags with each free's choice between a tag and
`beside`; the clock and the taking of what lies beside; a raised floor with a recycling. With more
threads the age that decides on tags is read after the look: another may free in between.

Simpler than the pages, and as right in the model:

1. `one lease`: a look that finds a reader tags what lies beside always, however old the last look
   is. Then a reader waits one lease and two ticks, not two leases, and no age decides on tags.
2. Only what lies beside is tagged, not all that is free: what is in the mask was freed before a
   look that found nobody, and no reader can have captured since.
3. `floor` after a recycling: the highest tag recycled so far + 1. The oldest pin need not be in it,
   so the floor never falls below what it was at rest, and more snapshots can be adopted.
4. With the boot (3 above) `gate` := SHUT at an opening is never missed, nor are Q17's "records to
   replay": gate SHUT and nobody at 0x3000 is enough to open privately.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

from readers_layout import Layouts
from readers_power import PowerCuts
from readers_reader import Readers
from readers_search import Found, World, search, walk
from readers_state import (
    COPY,
    DEAD,
    EDIT,
    TORN,
    Bounds,
    File,
    Ghost,
    Reader,
    Record,
    State,
    Writer,
    bits,
)
from readers_writer import Writers


class Beside:
    """A writer and its readers. `out`: rules that are left out."""

    def __init__(self, bounds: Bounds, out: frozenset[str] = frozenset()) -> None:
        self.bounds = bounds
        self.readers = Readers(bounds, out)
        self.writers = Writers(bounds, out)

    def start(self) -> State:
        bounds = self.bounds
        readers = (Reader(),) * bounds.readers
        file = File(0, ((0, 1), (0, 1)), (0,) * bounds.blocks, gate=bounds.starts_in)
        if bounds.rebooted:
            file = file.stored(0, 1)._replace(
                gate=COPY, booted=False, log=Record((), ((0, 1), (1, 1)))
            )
            ghost = Ghost(logged=(1, 1), acknowledged=(1, 1), transactions=1)
            return State(file, DEAD, readers, ghost)
        writer = Writer(
            "idle",
            leased=bounds.starts_in == EDIT,
            age=self.writers.old,
            mask=(1 << bounds.blocks) - 4,
            tags=(0,) * bounds.blocks,
        )
        return State(file, writer, readers, Ghost())

    def same(self, state: State) -> State:
        return state._replace(readers=tuple(sorted(state.readers)))

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        yield from self.writers.steps(state)
        yield from self.readers.steps(state)
        yield from self.writers.tick(state)

    def wrong(self, state: State) -> str:
        if TORN in state.file.image():
            return "J3: the table that counts has a torn slot"
        if state.file.floor > state.file.era + 1:
            return "J2: the floor is above the era"
        for reader in state.readers:
            if wrong := self._wrong_snapshot(state, reader):
                return wrong
        return self._wrong_at_rest(state) if state.writer.pc == "idle" else ""

    def _wrong_snapshot(self, state: State, reader: Reader) -> str:
        for snapshot in reader.snapshots:
            private = dict(snapshot.private)
            for root, block in enumerate(snapshot.image):
                if block == TORN:
                    return "J3: a snapshot has a torn slot"
                got, wanted = private.get(block, state.file.data[block]), snapshot.wanted[root]
                if got != wanted:
                    return f"J1: root {root} of a snapshot leads to {got}, {wanted} expected"
                if state.writer.mask >> block & 1 and block not in private:
                    return f"J2: block {block} is free, and a snapshot reaches it"
        mail = state.ghost.mail
        refused = reader.pc == "gone" and state.ghost.kills == 0
        if refused and any(mail in other.snapshots for other in state.readers):
            return "J7: a snapshot that somebody holds is refused"
        return ""

    def _wrong_at_rest(self, state: State) -> str:
        """Return what is wrong between transactions, when all homes are stored."""
        file, writer, ghost = state.file, state.writer, state.ghost
        image = file.image()
        values = (file.data[image[0]], file.data[image[1]])
        if values != ghost.values:
            return f"J3: the table that counts leads to {values}, {ghost.values} were published"
        if values[0] < ghost.acknowledged[0] or values[1] < ghost.acknowledged[1]:
            return f"a commit is lost: {values}, {ghost.acknowledged} were acknowledged"
        tagged = sum(1 << block for block, tag in enumerate(writer.tags) if tag)
        places = [writer.mask, writer.beside, tagged, writer.loose, 1 << image[0] | 1 << image[1]]
        owned = sorted(block for place in places for block in bits(place))
        if owned != list(range(self.bounds.blocks)):
            return f"J6: blocks {owned} have a place, each of {self.bounds.blocks} once expected"
        return ""

    def drained(self, state: State) -> State:
        """Return where a writer comes to that lives on, once all readers are gone."""
        state = state._replace(
            readers=(Reader(),) * self.bounds.readers,
            ghost=state.ghost._replace(
                transactions=self.bounds.transactions, kills=self.bounds.kills, recyclings=0
            ),
        )
        while step := next(self.writers.steps(state), None):
            state = step[1]
        return state


EDIT_0 = ("edit", (0,))
PUT_0, PUT_1, PUT_BOTH = ("put", (0,)), ("put", (1,)), ("put", (0, 1))
MIX = ("mix", (0, 1))
UNLINK_0 = ("unlink", (0,))

COPIES = Bounds(
    readers=1, blocks=3, kinds=(PUT_0,), transactions=1, recyclings=1, lease=0, starts_in=COPY
)
"""The writer knows of readers from the start; a block is made anew, the old one recycled."""
REPEATS = COPIES._replace(blocks=4, transactions=2)
LOOKS_UP = REPEATS._replace(lookups=True)
SENDS = COPIES._replace(sends=True)
HOLDS = SENDS._replace(readers=2)
EDITS = Bounds(readers=1, kinds=(EDIT_0,), lease=0)
"""The writer knows of nobody yet; two edits in place."""
DIES = EDITS._replace(kills=1)
LEASES = Bounds(readers=1, blocks=3, kinds=(PUT_0,), lease=0)
"""One spare block: the second transaction asks for what the first one freed."""
MIXES = LEASES._replace(kinds=(MIX,))
ALONE = REPEATS._replace(readers=0, kinds=(PUT_0, PUT_1), kills=1, recyclings=0)

Make = Callable[[frozenset[str]], World[Any]]


def beside(bounds: Bounds) -> Make:
    return lambda out: Beside(bounds, out)


def layout(kills: int) -> Make:
    return lambda out: Layouts(kills=kills, out=out)


def power(out: frozenset[str]) -> World[Any]:
    return PowerCuts(2, 1, out)


GROWS, OPENS = layout(kills=0), layout(kills=1)

RULES: dict[str, tuple[str, Make]] = {
    "Q2 lock first": ("captures, then locks", beside(COPIES)),
    "Q2 counts": (
        "unlocks an era at the first of its snapshots",
        beside(REPEATS._replace(views=True)),
    ),
    "Q2 floor": ("adopts whatever the floor is", beside(SENDS)),
    "Q2 floor after lock": ("reads the floor, then locks", beside(SENDS)),
    "Q2 era again": ("* does not look again at the era that it has locked", beside(HOLDS)),
    "Q2 floor again": ("* takes a floor that is raised for a look as final", beside(HOLDS)),
    "Q3 tags": ("frees at once", beside(COPIES)),
    "Q3 late": (
        "reads the era of a free before the commit is published (Q10: tags come after)",
        beside(REPEATS._replace(recyclings=2)),
    ),
    "Q4 floor first": ("looks, then raises the floor", beside(SENDS)),
    "Q4 again": (
        "takes the first pin that the kernel names for the oldest",
        beside(COPIES._replace(readers=2, recyclings=2)),
    ),
    "Q4 recycled": (
        "floor := the oldest pin",
        beside(SENDS._replace(recyclings=2)),
    ),
    "Q5": ("edits in place in COPY", beside(EDITS._replace(starts_in=COPY))),
    "Q6 tags": (
        "takes what nobody reaches for free",
        beside(REPEATS._replace(kills=1, recyclings=0)),
    ),
    "Q6 EDIT": (
        "leaves the gate as it is found",
        beside(LEASES._replace(starts_in=COPY, kills=1)),
    ),
    "Q6 floor": (
        "forgets what its predecessor recycled",
        beside(EDITS._replace(kills=1, sends=True)),
    ),
    "Q6 cuts nothing": ("cuts a long file when it opens", OPENS),
    "Q7 lease": ("believes a look for ever", beside(EDITS)),
    "Q7 beside": ("frees into the mask", beside(LEASES)),
    "Q7 tags": ("does not tag what a reader may have captured", beside(LEASES)),
    "Q7 clock first": ("looks, then reads the clock", beside(EDITS)),
    "Q8 SHUT": ("edits with the gate at EDIT", beside(EDITS)),
    "Q8 before look": ("gives up COPY after the look", beside(EDITS._replace(starts_in=COPY))),
    "Q8 floor": ("* edits in place below the floor", beside(EDITS._replace(sends=True))),
    "Q8 each look": (
        "* leaves the floor if the last look seemed young",
        beside(LEASES._replace(sends=True, lease=1, transactions=4)),
    ),
    "Q8 until home": ("* a refill that finds a reader opens the gate", beside(MIXES)),
    "Q9 wait": ("does not wait for the lease", beside(EDITS)),
    "Q9 two leases": (
        "waits one lease",
        beside(Bounds(readers=1, blocks=3, kinds=(EDIT_0, PUT_0), transactions=3, lease=1)),
    ),
    "Q9 until not SHUT": ("waits for the lease only", beside(EDITS)),
    "Q9 gate last": ("* reads the gate before it asks who writes", beside(DIES)),
    "Q9 boot": ("* believes the gate of another boot", beside(EDITS._replace(rebooted=True))),
    "Q10 n - 1": (
        "stores the slots of commit n only",
        beside(REPEATS._replace(kinds=(PUT_0, PUT_1), recyclings=0)),
    ),
    "Q10 slots first": ("publishes, then stores slots", beside(COPIES)),
    "Q10 other table": ("stores to the table that counts", beside(COPIES)),
    "Q10 applied last": (
        "stores applied_lsn before the homes",
        beside(MIXES._replace(kills=1, transactions=1)),
    ),
    "Q11 again": (
        "does not read commit_seq again",
        beside(REPEATS._replace(kinds=(PUT_BOTH,), blocks=6, recyclings=0)),
    ),
    "Q12 copies": ("replays into a table as it was", beside(ALONE)),
    "Q12 evens": ("leaves the tables different after a replay", beside(ALONE)),
    "Q12 checkpoint": ("drops records that one table has not", power),
    "Q13": ("does not raise layout_seq when it grows", GROWS),
    "Q13 opening": ("* does not raise it when it opens", OPENS),
    "Q14 again": ("does not read layout_seq again", GROWS),
    "Q15 quarantine": ("uses units that a snapshot reaches", GROWS),
    "Q15 waits": ("cuts the file below a pin", GROWS),
    "Q15 cancels": ("* cuts units that have grown again", GROWS),
    "Q17 private": ("attaches to what a writer left half edited", beside(DIES)),
    "Q17 believes": ("believes its copy although a writer came", beside(DIES)),
    "Q19 floor": ("* believes a lookup whatever the floor is", beside(LOOKS_UP)),
    "Q19 era first": ("* looks up, then reads the era", beside(LOOKS_UP)),
}
"""What each name leaves out, and where that is wrong. `*`: the pages do not have the rule."""

LARGER: dict[str, World[Any]] = {
    "two readers, edits and puts": Beside(Bounds(kinds=(EDIT_0, PUT_0), blocks=3)),
    "two readers, puts of both, recycling": Beside(
        REPEATS._replace(readers=2, kinds=(PUT_BOTH, PUT_1), blocks=5)
    ),
    "two readers, a kill": Beside(DIES._replace(readers=2, kinds=(EDIT_0, PUT_1), recyclings=1)),
    "two readers, mixed, aborts, a kill": Beside(MIXES._replace(readers=2, kills=1, aborts=True)),
    "two readers that send": Beside(
        EDITS._replace(readers=2, kinds=(EDIT_0, PUT_0), sends=True, recyclings=1)
    ),
    "views of older snapshots": Beside(
        REPEATS._replace(kinds=(PUT_0, UNLINK_0), views=True, recyclings=2, transactions=3)
    ),
    "lookups": Beside(LOOKS_UP._replace(readers=2, recyclings=2, kinds=(PUT_0, UNLINK_0), kills=1)),
    "lookups, edits": Beside(LEASES._replace(lookups=True, kinds=(EDIT_0, PUT_0), kills=1)),
    "late frees": Beside(LEASES._replace(readers=2, kinds=(EDIT_0, UNLINK_0), recyclings=1)),
    "after a power cut": Beside(EDITS._replace(readers=2, rebooted=True, kills=1)),
    "one lease": Beside(
        Bounds(blocks=3, kinds=(EDIT_0, PUT_0, UNLINK_0)), frozenset({"one lease"})
    ),
    "one lease, a reader that sends": Beside(
        LEASES._replace(kinds=(EDIT_0, PUT_0), sends=True, lease=1, transactions=4),
        frozenset({"one lease"}),
    ),
    "one lease, a kill": Beside(
        LEASES._replace(kinds=(EDIT_0, PUT_0), lease=1, transactions=3, kills=1),
        frozenset({"one lease"}),
    ),
    "an opening without SHUT": Beside(DIES._replace(kinds=(EDIT_0, PUT_1)), frozenset({"Q6 SHUT"})),
    "layout": Layouts(readers=2, kills=1),
    "power": PowerCuts(3, 2),
}
"""With all rules, but for two that the model does not need."""

WALKED = Bounds(
    blocks=5,
    kinds=(EDIT_0, PUT_0, PUT_BOTH, MIX, UNLINK_0),
    transactions=12,
    kills=3,
    recyclings=6,
    aborts=True,
    sends=True,
    views=True,
)
"""Beyond what can be searched: for random walks."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--states", type=int, default=1_000_000, help="the most of one search")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the random walk")
    parser.add_argument("--traces", action="store_true", help="print each counterexample")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failed = 0
    for name, (left_out, make) in RULES.items():
        found = search(make(frozenset({name})), options.states)
        failed += not found.wrong
        _say(f"{name}: {left_out}", _shown(found, options.traces))
    for title, world in LARGER.items():
        found = search(world, options.states)
        failed += bool(found.wrong)
        _say(title, str(found))
    walked = walk(Beside(WALKED), options.seed, options.steps)
    _say(f"random walks, seed {options.seed}", str(walked))
    return int(failed > 0 or bool(walked.wrong))


def _say(title: str, found: str) -> None:
    sys.stdout.write(f"{title}\n    {found}\n")
    sys.stdout.flush()


def _shown(found: Found[Any], with_trace: bool) -> str:
    if with_trace or not found.wrong:
        return str(found)
    return f"{str(found).splitlines()[0]}; {len(found.trace)} steps"


if __name__ == "__main__":
    sys.exit(main())
