"""The writer of the model: it looks, edits in place or copies, commits, is killed."""

from __future__ import annotations

from collections.abc import Iterator

from readers_opening import Opening
from readers_recycler import Recycler, tagged
from readers_state import (
    COPY,
    DEAD,
    EDIT,
    GATES,
    NOT_READING,
    ROOTS,
    SHUT,
    TORN,
    Bounds,
    Record,
    State,
    Writer,
    bits,
)

Step = tuple[str, State]


class Writers:
    """The steps of the writer's two threads: one works, one recycles. `out`: rules left out."""

    def __init__(self, bounds: Bounds, out: frozenset[str]) -> None:
        self.bounds = bounds
        self.out = out
        self.opening = Opening(bounds, out)
        self.recycler = Recycler(bounds, out)
        self.old = 2 * bounds.lease + 1
        """Ticks after a look from which a reader may have captured."""

    def steps(self, state: State) -> Iterator[Step]:
        writer, ghost = state.writer, state.ghost
        if writer.pc == "dead":
            yield "writer: locks 0x3000", self.opening.opened(state)
            return
        if ghost.kills < self.bounds.kills:
            killed = ghost._replace(kills=ghost.kills + 1)
            yield "writer: is killed", state._replace(writer=DEAD, ghost=killed)
        work = self.opening.steps if writer.pc.startswith("opens") else self._works
        for label, after in work(state):
            yield f"writer: {label}", after
        for label, after in self.recycler.steps(state):
            yield f"recycler: {label}", after

    def tick(self, state: State) -> Iterator[Step]:
        """Let a tick of the coarse clock pass, as long as somebody could tell."""
        writer = state.writer
        if writer.pc != "dead":
            reading = writer.reading
            if reading != NOT_READING:
                reading = min(reading + 1, self.old)
            writer = writer._replace(age=min(writer.age + 1, self.old), reading=reading)
        readers = tuple(
            reader._replace(wait=reader.wait - 1)
            if reader.wait and reader.pc == "waits"
            else reader
            for reader in state.readers
        )
        if writer != state.writer or readers != state.readers:
            yield "clock: ticks", state._replace(writer=writer, readers=readers)

    def _works(self, state: State) -> Iterator[Step]:
        match state.writer.pc:
            case "idle":
                yield from self._begins(state)
            case "edits":
                yield from self._edits(state)
            case "takes back":
                yield self._takes_back(state)
            case "makes":
                yield from self._makes(state)
            case "stores slots" | "publishes" | "tags" | "applied" | "ends":
                yield self._commits(state)
            case _:
                yield from self._asks(state)

    def _asks(self, state: State) -> Iterator[Step]:
        """Return the steps of one who wants to edit in place, or to take what was freed."""
        writer = state.writer
        match writer.pc:
            case "shuts":
                yield "gate := SHUT", self._gate(state, SHUT, "reads clock")
            case "reads clock" | "refills":
                yield self._reads_clock(state)
            case "raises floor" | "raises era" | "lowers floor":
                yield from self._raises(state)
            case "looks":
                yield self._looks(state)
            case "reads clock late":
                pc = "edits" if self._is_first_look(state) else "makes"
                yield (
                    "reads clock",
                    state._replace(writer=writer._replace(pc=pc, age=0, recycler="rests")),
                )
            case "copies after all":
                if writer.edits and "Q8 until home" not in self.out:
                    yield "stays SHUT", state._replace(writer=writer._replace(pc="makes"))
                else:
                    yield "gate := COPY", self._gate(state, COPY, "makes")

    def _commits(self, state: State) -> Step:
        match state.writer.pc:
            case "stores slots":
                return self._stores_slot(state)
            case "publishes":
                return self._publishes(state)
            case "tags":
                return self._tags(state)
            case "applied":
                return self._applied(state)
        gate = EDIT if state.writer.leased else COPY
        return f"gate := {GATES[gate]}", self._rests(state, gate)

    # One transaction

    def _begins(self, state: State) -> Iterator[Step]:
        writer, ghost = state.writer, state.ghost
        if ghost.transactions == self.bounds.transactions:
            return
        number = ghost.transactions + 1
        ghost = ghost._replace(transactions=number)
        for kind, roots in self.bounds.kinds:
            begun = writer._replace(tx=number, roots=roots, unlinks=kind == "unlink")
            edits = {"edit": len(roots), "mix": 1}.get(kind, 0)
            if edits:
                pc = "reads clock" if "Q8 before look" in self.out else "shuts"
                if "Q5" in self.out and not writer.leased:
                    pc = "edits"
                changed = begun._replace(pc=pc, edits=edits)
                yield f"begins to edit {roots}", State(state.file, changed, state.readers, ghost)
            if not edits or not writer.leased:
                changed = begun._replace(pc="makes")
                yield f"begins to put {roots}", State(state.file, changed, state.readers, ghost)

    def _gate(self, state: State, gate: int, then: str) -> State:
        file = state.file
        if gate != SHUT or "Q8 SHUT" not in self.out:
            file = file._replace(gate=gate)
        return state._replace(file=file, writer=state.writer._replace(pc=then))

    def _reads_clock(self, state: State) -> Step:
        writer = state.writer
        edits = writer.pc == "reads clock"
        valid = writer.age <= self.bounds.lease or "Q7 lease" in self.out
        if writer.leased and valid:
            if edits:
                return "reads clock: lease holds", state._replace(
                    writer=writer._replace(pc="edits")
                )
            taken = writer._replace(pc="makes", mask=writer.beside, beside=0)
            return "reads clock: lease holds, takes the freed", state._replace(writer=taken)
        far = not writer.leased or writer.age >= self.old
        raises = (far or "Q8 each look" not in self.out) and "Q8 floor" not in self.out
        pc = "raises floor" if raises else "looks"
        changed = writer._replace(pc=pc, reading=0)
        return "reads clock: lease over", state._replace(writer=changed)

    def _raises(self, state: State) -> Iterator[Step]:
        """Raise the floor above all pins before a look that may allow edits; then the era."""
        file, writer = state.file, state.writer
        match writer.pc:
            case "raises floor":
                if writer.recycler != "rests":
                    return
                raised = file._replace(floor=file.era + 1, looking=True)
                changed = writer._replace(pc="looks", recycler="waits")
            case "raises era":
                raised = file._replace(era=file.floor, looking=False)
                pc = "edits" if self._is_first_look(state) else "makes"
                changed = writer._replace(pc=pc, recycler="rests")
            case _:
                raised = file._replace(floor=writer.recycled, looking=False)
                changed = writer._replace(pc="copies after all", recycler="rests")
        yield (
            f"era, floor := {raised.era}, {raised.floor}",
            state._replace(file=raised, writer=changed),
        )

    def _looks(self, state: State) -> Step:
        seen = any(reader.attached for reader in state.readers)
        writer = self._seen(state) if seen else self._alone(state)
        if "Q7 clock first" in self.out and not seen:
            writer = writer._replace(pc="reads clock late")
        found = "a reader" if seen else "nobody"
        return f"looks: {found}", state._replace(writer=writer)

    def _alone(self, state: State) -> Writer:
        """Return the writer after a look that found nobody: all that is free may be taken."""
        writer = state.writer
        raised = writer.recycler == "waits"
        quarantined = sum(1 << block for block, tag in enumerate(writer.tags) if tag)
        freed = writer.beside | quarantined
        first = self._is_first_look(state)
        there = "edits" if first else "makes"
        return writer._replace(
            pc="raises era" if raised else there,
            leased=True,
            age=writer.reading,
            reading=NOT_READING,
            mask=writer.mask if first else writer.mask | freed,
            beside=freed if first else 0,
            tags=(0,) * len(writer.tags),
            recycled=state.file.floor if raised else writer.recycled,
        )

    def _seen(self, state: State) -> Writer:
        """Return the writer after a look that found a reader; it may have captured."""
        writer = state.writer
        old = "Q7 tags" not in self.out and (writer.age >= self.old or "one lease" in self.out)
        return writer._replace(
            pc="lowers floor" if writer.recycler == "waits" else "copies after all",
            leased=False,
            edits=0 if self._is_first_look(state) else writer.edits,
            age=self.old,
            reading=NOT_READING,
            beside=0,
            mask=writer.mask if old else writer.mask | writer.beside,
            tags=tagged(writer.tags, writer.beside, state.file.era) if old else writer.tags,
        )

    def _is_first_look(self, state: State) -> bool:
        """Tell whether the transaction asks for its first edit, not for blocks later on."""
        return state.writer.edits > 0 and not state.file.undo

    def _edits(self, state: State) -> Iterator[Step]:
        file, writer = state.file, state.writer
        done = len(file.undo)
        if done:
            yield from self._aborts(state, "takes back")
        root = writer.roots[done]
        block = file.image()[root]
        undo = (*file.undo, (block, file.data[block]))
        changed = file.stored(block, writer.tx)._replace(undo=undo)
        pc = "edits" if done + 1 < writer.edits else "makes"
        yield (
            f"edits block {block} of root {root} in place",
            state._replace(file=changed, writer=writer._replace(pc=pc)),
        )

    def _aborts(self, state: State, then: str) -> Iterator[Step]:
        if self.bounds.aborts:
            yield "aborts", state._replace(writer=state.writer._replace(pc=then))

    def _takes_back(self, state: State) -> Step:
        block, value = state.file.undo[-1]
        file = state.file.stored(block, value)._replace(undo=state.file.undo[:-1])
        pc = "takes back" if file.undo else "ends"
        writer = state.writer._replace(pc=pc)
        return f"takes back block {block}", state._replace(file=file, writer=writer)

    def _makes(self, state: State) -> Iterator[Step]:
        file, writer = state.file, state.writer
        done = writer.edits + len(writer.made)
        if done == len(writer.roots):
            yield self._logs(state)
            return
        root = writer.roots[done]
        if not writer.mask:
            waiting = writer.beside or any(writer.tags)
            if writer.leased and waiting:
                yield "has no block", state._replace(writer=writer._replace(pc="refills"))
            else:
                yield "has no space: aborts", self._drops(state)
            return
        block = bits(writer.mask)[0]
        changed = writer._replace(mask=writer.mask & ~(1 << block), made=(*writer.made, block))
        yield (
            f"makes block {block} for root {root}",
            state._replace(file=file.stored(block, writer.tx), writer=changed),
        )

    def _drops(self, state: State) -> State:
        """Return the state after an abort: what was made is free at once, edits are taken back."""
        made = sum(1 << block for block in state.writer.made)
        writer = state.writer._replace(mask=state.writer.mask | made, made=())
        if state.file.undo:
            return state._replace(writer=writer._replace(pc="takes back"))
        return self._rests(state._replace(writer=writer), state.file.gate)

    def _rests(self, state: State, gate: int) -> State:
        writer = state.writer._replace(
            pc="idle", tx=0, edits=0, roots=(), made=(), todo=(), tag=0, unlinks=False
        )
        return state._replace(file=state.file._replace(gate=gate), writer=writer)

    # Its commit

    def _logs(self, state: State) -> Step:
        file, writer, ghost = state.file, state.writer, state.ghost
        image = file.image()
        moved = tuple(zip(writer.roots[writer.edits :], writer.made, strict=True))
        edited = tuple((image[root], writer.tx) for root in writer.roots[: writer.edits])
        logged = tuple(
            writer.tx if root in writer.roots else ghost.values[root] for root in range(ROOTS)
        )
        todo = dict(moved)
        if "Q10 n - 1" not in self.out:
            todo = {root: image[root] for root in bits(writer.previous)} | todo
        changed = writer._replace(pc="stores slots", todo=tuple(todo.items()))
        if "Q3 late" in self.out:
            changed = changed._replace(tag=file.era)
        if "Q10 slots first" in self.out or not todo:
            changed = changed._replace(pc="publishes")
        record = None if "Q10 applied last" in self.out else Record(moved, edited)
        return "appends the record", State(
            file._replace(log=record, undo=()),
            changed,
            state.readers,
            ghost._replace(logged=(logged[0], logged[1])),
        )

    def _stores_slot(self, state: State) -> Step:
        """Store a slot of 32 bytes: it is torn until its last word is there."""
        file, writer = state.file, state.writer
        table = (file.seq + 1) % 2
        if "Q10 other table" in self.out or "Q10 slots first" in self.out:
            table = file.seq % 2
        root, block = writer.todo[0]
        if file.tables[table][root] != TORN:
            torn = file.slot(table, root, TORN)
            return f"begins slot {root} of table {table}", state._replace(file=torn)
        changed = writer._replace(todo=writer.todo[1:])
        if not changed.todo:
            changed = changed._replace(pc="tags" if "Q10 slots first" in self.out else "publishes")
        return (
            f"ends slot {root} of table {table}: block {block}",
            state._replace(file=file.slot(table, root, block), writer=changed),
        )

    def _publishes(self, state: State) -> Step:
        file, writer = state.file, state.writer
        image = file.image()
        moved = writer.roots[writer.edits :]
        previous = sum(1 << root for root in moved)
        old = tuple(image[root] for root in moved)
        changed = writer._replace(pc="tags", previous=previous, made=old)
        if writer.todo:
            changed = changed._replace(pc="stores slots")
        ghost = state.ghost._replace(values=state.ghost.logged)
        published = file._replace(seq=file.seq + 1)
        return f"commit_seq := {published.seq}", State(published, changed, state.readers, ghost)

    def _tags(self, state: State) -> Step:
        writer = state.writer
        old = sum(1 << block for block in writer.made)
        changed = state._replace(writer=writer._replace(pc="applied", made=()))
        if writer.unlinks:
            changed = changed._replace(writer=changed.writer._replace(loose=writer.loose | old))
            return "unlinks its old blocks", changed
        return "gives its old blocks back", self.recycler.frees(changed, old)

    def _applied(self, state: State) -> Step:
        file = state.file._replace(log=None)
        ghost = state.ghost._replace(acknowledged=state.ghost.values)
        changed = State(file, state.writer, state.readers, ghost)
        if state.writer.edits:
            writer = state.writer._replace(pc="ends")
            return "stores applied_lsn", changed._replace(writer=writer)
        return "stores applied_lsn, returns", self._rests(changed, file.gate)
