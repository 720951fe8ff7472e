"""The next writer of the model: what it finds, what it replays [Q6], [Q12]."""

from __future__ import annotations

from collections.abc import Iterator

from readers_state import EDIT, GATES, ROOTS, SHUT, Bounds, State, Writer

Step = tuple[str, State]


class Opening:
    """The steps from the lock on 0x3000 to the first transaction. `out`: rules left out."""

    def __init__(self, bounds: Bounds, out: frozenset[str]) -> None:
        self.bounds = bounds
        self.out = out
        self.age = 2 * bounds.lease + 1
        """Of a look that it has not had: too old to tell anything."""

    def opened(self, state: State) -> State:
        pc = "opens: takes back" if {"Q6 SHUT", "Q6 EDIT"} & self.out else "opens: shuts"
        writer = Writer(pc, age=self.age, tags=(0,) * self.bounds.blocks)
        return state._replace(writer=writer)

    def steps(self, state: State) -> Iterator[Step]:
        file, writer = state.file, state.writer
        match writer.pc:
            case "opens: shuts":
                yield "gate := SHUT", _gated(state, SHUT, "opens: takes back")
            case "opens: takes back":
                yield self._recovers(state)
            case "opens: copies":
                yield self._copies_over(state, (file.seq + 1) % 2, "opens: replays")
            case "opens: replays":
                yield self._replays(state)
            case "opens: evens":
                yield self._copies_over(state, (file.seq + 1) % 2, "opens: epoch")
            case "opens: epoch":
                changed = file._replace(epoch=file.epoch + 1, log=None, booted=True)
                ghost = state.ghost._replace(acknowledged=state.ghost.values)
                evened = State(changed, writer._replace(pc="opens: tags"), state.readers, ghost)
                yield f"epoch := {changed.epoch}", evened
            case "opens: tags":
                yield self._tags_all(state)
            case "opens: allows":
                gate = file.gate if "Q6 EDIT" in self.out else EDIT
                yield f"gate := {GATES[gate]}", _gated(state, gate, "idle")

    def _recovers(self, state: State) -> Step:
        """Store what the log says of blocks in place, one at a time."""
        file = state.file
        todo = file.undo or (file.log.blocks if file.log else ())
        for block, value in todo:
            if file.data[block] != value:
                return f"recovers block {block}", state._replace(file=file.stored(block, value))
        pc = "opens: replays" if "Q12 copies" in self.out else "opens: copies"
        writer = state.writer._replace(pc=pc)
        return "has recovered blocks", state._replace(file=file._replace(undo=()), writer=writer)

    def _copies_over(self, state: State, table: int, then: str) -> Step:
        file = state.file
        other = file.tables[1 - table]
        for root in range(ROOTS):
            if file.tables[table][root] != other[root]:
                changed = file.slot(table, root, other[root])
                return f"copies slot {root} to table {table}", state._replace(file=changed)
        return "tables are equal", state._replace(writer=state.writer._replace(pc=then))

    def _replays(self, state: State) -> Step:
        file, writer = state.file, state.writer
        if file.log is None:
            return "has no record to replay", state._replace(
                writer=writer._replace(pc="opens: epoch")
            )
        table = (file.seq + 1) % 2
        for root, block in file.log.roots:
            if file.tables[table][root] != block:
                changed = file.slot(table, root, block)
                return f"replays slot {root} in table {table}", state._replace(file=changed)
        published = file._replace(seq=file.seq + 1)
        ghost = state.ghost._replace(values=state.ghost.logged)
        pc = "opens: epoch" if "Q12 evens" in self.out else "opens: evens"
        return f"commit_seq := {published.seq}", State(
            published, writer._replace(pc=pc), state.readers, ghost
        )

    def _tags_all(self, state: State) -> Step:
        file = state.file
        free = [block for block in range(self.bounds.blocks) if block not in file.image()]
        floor = 0 if "Q6 floor" in self.out else file.floor
        writer = state.writer._replace(pc="opens: allows", recycled=floor)
        if "Q6 tags" in self.out:
            mask = sum(1 << block for block in free)
            return "has its free blocks", state._replace(writer=writer._replace(mask=mask))
        tags = tuple(file.era if block in free else 0 for block in range(self.bounds.blocks))
        raised = file._replace(era=file.era + 1, looking=False)
        return f"tags free blocks {file.era}, era := {raised.era}", state._replace(
            file=raised, writer=writer._replace(tags=tags)
        )


def _gated(state: State, gate: int, then: str) -> State:
    writer = state.writer._replace(pc=then)
    return state._replace(file=state.file._replace(gate=gate), writer=writer)
