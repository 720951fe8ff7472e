"""A reader of the model: attach [Q9], pin [Q2], capture [Q11], adopt, open privately [Q17], die."""

from __future__ import annotations

from collections.abc import Iterator

from readers_lookup import Lookups
from readers_state import COPY, GATES, ROOTS, SHUT, Bounds, File, Ghost, Reader, Snapshot, State

Step = tuple[str, State]


def with_lock(pins: tuple[int, ...], era: int) -> tuple[int, ...]:
    return tuple(sorted({*pins, era}))


class Readers:
    """The steps of all readers. `out`: rules that they do not follow."""

    def __init__(self, bounds: Bounds, out: frozenset[str]) -> None:
        self.bounds = bounds
        self.out = out
        self.lookups = Lookups(out)

    def steps(self, state: State) -> Iterator[Step]:
        for index, reader in enumerate(state.readers):
            before, after = state.readers[:index], state.readers[index + 1 :]
            for label, changed, ghost in self._choices(reader, state):
                readers = (*before, changed, *after)
                yield f"reader {index}: {label}", state._replace(readers=readers, ghost=ghost)

    def _choices(self, reader: Reader, state: State) -> Iterator[tuple[str, Reader, Ghost]]:
        ghost = state.ghost
        if reader.pc == "away":
            yield "locks `attached`", Reader("asks gate", attached=True), ghost
            return
        yield "is killed: its locks go", Reader(), ghost
        if reader.pc == "has":
            yield from self._has(reader, state)
        elif reader.pc == "in":
            yield from self._in(reader, state)
        elif reader.pc == "waits" and reader.wait:
            return
        elif reader.pc.startswith("lookup"):
            for label, changed in self.lookups.steps(reader, state):
                yield label, changed, ghost
        else:
            for label, changed in self._attaches(reader, state):
                yield label, changed, ghost

    def _attaches(self, reader: Reader, state: State) -> Iterator[tuple[str, Reader]]:
        file = state.file
        held = state.writer.pc != "dead"
        gate = file.gate if file.booted or "Q9 boot" in self.out else SHUT
        match reader.pc:
            case "asks gate":
                there = "in" if gate == COPY else "asks who"
                yield f"reads gate {GATES[gate]}", reader._replace(pc=there, gate=gate)
            case "asks who" | "asks again":
                yield f"sees 0x3000 {'held' if held else 'free'}", self._told(reader, held)
            case "nobody writes":
                private = gate == SHUT and "Q17 private" not in self.out
                yield (
                    f"reads gate {GATES[gate]}",
                    reader._replace(pc="reads epoch" if private else "in"),
                )
            case "waits":
                blocked = gate == SHUT and "Q9 until not SHUT" not in self.out
                there = "asks again" if blocked else "in"
                yield (
                    f"has waited, reads gate {GATES[gate]}",
                    reader._replace(pc=there, gate=gate if blocked else COPY),
                )
            case _:
                yield from self._captures(reader, state)

    def _captures(self, reader: Reader, state: State) -> Iterator[tuple[str, Reader]]:
        file = state.file
        match reader.pc:
            case "locks":
                pins = with_lock(reader.pins, reader.era)
                looks = self.bounds.sends and "Q2 era again" not in self.out
                changed = reader._replace(pins=pins, pc="reads era again" if looks else "reads seq")
                if reader.wanted:  # captured before it has the lock
                    yield from self._captured(changed)
                else:
                    yield f"locks pin {reader.era}", changed
            case "reads era again":
                yield f"reads era {file.era} again", self._seen_again(reader, file.era)
            case "reads seq":
                yield (
                    f"reads commit_seq {file.seq}",
                    reader._replace(pc="copies", seq=file.seq, image=(), wanted=state.ghost.values),
                )
            case "copies":
                yield self._copies(reader, file, "reads seq again")
            case "reads seq again":
                yield from self._again(reader, file)
            case "reads floor":
                yield from self._adopts(reader, state)
            case "gone":
                yield "unlocks: SnapshotGone", Reader("in", attached=True)
            case _:
                yield from self._privately(reader, state)

    def _told(self, reader: Reader, held: bool) -> Reader:
        if held and reader.pc == "asks again":
            return reader._replace(pc="waits", gate=COPY)
        if held:
            leases = 1 if {"Q9 two leases", "one lease"} & self.out else 2
            wait = 0 if "Q9 wait" in self.out else leases * self.bounds.lease + 1
            return reader._replace(pc="waits", wait=wait, gate=COPY)
        if "Q9 gate last" not in self.out:
            return reader._replace(pc="nobody writes", gate=COPY)
        private = reader.gate == SHUT and "Q17 private" not in self.out
        return reader._replace(pc="reads epoch" if private else "in", gate=COPY)

    def _in(self, reader: Reader, state: State) -> Iterator[tuple[str, Reader, Ghost]]:
        era = state.file.era
        there = "reads seq" if "Q2 lock first" in self.out else "locks"
        yield f"reads era {era}", reader._replace(pc=there, era=era), state.ghost
        if self.bounds.lookups:
            for label, changed in self.lookups.begins(reader, state):
                yield label, changed, state.ghost
        mail = state.ghost.mail
        if mail is None:
            return
        if "Q2 floor after lock" in self.out:
            if state.file.floor <= mail.era:
                yield (
                    f"gets the snapshot of era {mail.era}, reads floor {state.file.floor}",
                    reader._replace(pc="locks", era=mail.era, image=mail.image, wanted=mail.wanted),
                    state.ghost,
                )
            return
        changed = reader._replace(
            pc="reads floor", era=mail.era, pins=with_lock(reader.pins, mail.era)
        )
        yield f"gets the snapshot of era {mail.era}, locks pin {mail.era}", changed, state.ghost

    def _has(self, reader: Reader, state: State) -> Iterator[tuple[str, Reader, Ghost]]:
        file, ghost, newest = state.file, state.ghost, reader.snapshots[-1]
        yield "drops its newest snapshot", self._without(reader), ghost
        if newest.private:
            return
        if file.seq != reader.seq:
            pinned = file.era == newest.era
            there = "reads seq" if pinned or "Q2 lock first" in self.out else "locks"
            yield f"refreshes, reads era {file.era}", reader._replace(pc=there, era=file.era), ghost
        if self.bounds.sends and ghost.mail is None:
            yield f"sends its snapshot of era {newest.era}", reader, ghost._replace(mail=newest)

    def _without(self, reader: Reader) -> Reader:
        """Return the reader without its newest snapshot; the last of an era takes its lock."""
        kept = reader.snapshots[:-1]
        eras = {snapshot.era for snapshot in kept}
        if "Q2 counts" in self.out:
            eras.discard(reader.snapshots[-1].era)
        if not kept:
            return Reader("asks gate" if reader.snapshots[-1].private else "in", attached=True)
        pins = tuple(pin for pin in reader.pins if pin in eras)
        return reader._replace(snapshots=kept, pins=pins, era=kept[-1].era, seq=-1)

    def _copies(self, reader: Reader, file: File, then: str) -> tuple[str, Reader]:
        root = len(reader.image)
        block = file.tables[reader.seq % 2][root]
        changed = reader._replace(image=(*reader.image, block))
        if root == ROOTS - 1:
            changed = changed._replace(pc=then)
        return f"copies slot {root} of table {reader.seq % 2}: block {block}", changed

    def _again(self, reader: Reader, file: File) -> Iterator[tuple[str, Reader]]:
        if file.seq != reader.seq and "Q11 again" not in self.out:
            yield f"reads commit_seq {file.seq}: again", reader._replace(pc="reads seq", image=())
        elif "Q2 lock first" in self.out and reader.era not in reader.pins:
            yield "reads commit_seq, as before", reader._replace(pc="locks")
        else:
            yield from self._captured(reader)

    def _captured(self, reader: Reader) -> Iterator[tuple[str, Reader]]:
        """Return what it has with the snapshot just taken: in place of the older, or beside it."""
        first, second = reader.image
        taken = Snapshot(reader.era, (first, second), (reader.wanted[0], reader.wanted[1]))
        clean = reader._replace(pc="has", image=(), wanted=())
        yield (
            f"has its snapshot of commit {reader.seq}",
            clean._replace(snapshots=(taken,), pins=(reader.era,)),
        )
        if self.bounds.views and len(reader.snapshots) == 1:
            yield (
                f"has its snapshot of commit {reader.seq}, and a view of the older",
                clean._replace(snapshots=(*reader.snapshots, taken)),
            )

    def _seen_again(self, reader: Reader, era: int) -> Reader:
        if era == reader.era:
            return reader._replace(pc="reads seq")
        kept = {snapshot.era for snapshot in reader.snapshots}
        pins = tuple(pin for pin in reader.pins if pin != reader.era or pin in kept)
        return reader._replace(pc="locks", pins=pins, era=era)

    def _adopts(self, reader: Reader, state: State) -> Iterator[tuple[str, Reader]]:
        file, mail = state.file, state.ghost.mail
        below = file.floor > reader.era and "Q2 floor" not in self.out
        writes = state.writer.pc != "dead"
        if below and file.looking and writes and "Q2 floor again" not in self.out:
            return  # the look will end
        if below or mail is None:
            changed = reader._replace(pc="gone")
        else:
            changed = reader._replace(pc="has", snapshots=(mail,), seq=-1)
        yield f"reads floor {file.floor}", changed

    def _privately(self, reader: Reader, state: State) -> Iterator[tuple[str, Reader]]:
        """Return the steps of one who opens a dead writer's heap in pages of its own."""
        file = state.file
        match reader.pc:
            case "reads epoch":
                changed = reader._replace(pc="reads era", wait=file.epoch)
                yield f"reads epoch {file.epoch}", changed
            case "reads era":
                changed = reader._replace(pc="locks privately", era=file.era)
                yield f"reads era {file.era}", changed
            case "locks privately":
                changed = reader._replace(pc="maps privately", pins=(reader.era,))
                yield f"locks pin {reader.era}", changed
            case "maps privately":
                changed = reader._replace(pc="copies privately", seq=file.seq)
                yield f"reads commit_seq {file.seq}", changed
            case "copies privately":
                yield self._copies(reader, file, "replays privately")
            case "replays privately":
                yield "replays into pages of its own", self._replayed(reader, state)
            case "looks for a writer":
                yield from self._believes(reader, state)

    def _replayed(self, reader: Reader, state: State) -> Reader:
        image, private = list(reader.image), state.file.undo
        if state.file.log is not None:
            for root, block in state.file.log.roots:
                image[root] = block
            private = state.file.log.blocks
        return reader._replace(
            pc="looks for a writer",
            image=tuple(image),
            private=private,
            wanted=state.ghost.logged,
        )

    def _believes(self, reader: Reader, state: State) -> Iterator[tuple[str, Reader]]:
        changed = state.writer.pc != "dead" or state.file.epoch != reader.wait
        if changed and "Q17 believes" not in self.out:
            yield "sees a writer, begins again", Reader("asks gate", attached=True)
            return
        first, second = reader.image
        wanted = (reader.wanted[0], reader.wanted[1])
        taken = Snapshot(reader.era, (first, second), wanted, reader.private)
        yield (
            "believes its copy",
            Reader("has", attached=True, pins=reader.pins, snapshots=(taken,), era=reader.era),
        )
