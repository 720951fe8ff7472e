"""Eras, the floor and the quarantine [Q3], [Q4]: a thread of the model's writer."""

from __future__ import annotations

from collections.abc import Iterator

from readers_state import Bounds, State, bits

Step = tuple[str, State]


def tagged(tags: tuple[int, ...], blocks: int, era: int) -> tuple[int, ...]:
    """Return the tags by block, with those of `blocks` set to `era`."""
    chosen = bits(blocks)
    return tuple(era if block in chosen else tag for block, tag in enumerate(tags))


class Recycler:
    """Frees blocks, and hands out again what no pin holds. `out`: rules that are left out."""

    def __init__(self, bounds: Bounds, out: frozenset[str]) -> None:
        self.bounds = bounds
        self.out = out

    def steps(self, state: State) -> Iterator[Step]:
        file, writer, ghost = state.file, state.writer, state.ghost
        if writer.loose:
            yield "frees what was unlinked", self.frees(state, writer.loose)
        match writer.recycler:
            case "rests":
                useful = any(writer.tags) or writer.recycled
                if useful and ghost.recyclings < self.bounds.recyclings:
                    counted = ghost._replace(recyclings=ghost.recyclings + 1)
                    raised = file._replace(era=file.era + ("Q4 era" not in self.out))
                    changed = writer._replace(recycler="raises", bound=raised.era)
                    yield f"era := {raised.era}", State(raised, changed, state.readers, counted)
            case "raises":
                floor = file.floor if "Q4 floor first" in self.out else writer.bound
                changed = writer._replace(recycler="asks")
                raised = file._replace(floor=floor, looking=True)
                yield f"floor := {floor}", state._replace(file=raised, writer=changed)
            case "asks":
                yield from self._asks(state)
            case "frees":
                yield self._hands_back(state)
            case "lowers":
                floor = writer.bound if "Q4 recycled" in self.out else writer.recycled
                changed = writer._replace(recycler="rests", bound=0)
                lowered = file._replace(floor=floor, looking=False)
                yield f"floor := {floor}", state._replace(file=lowered, writer=changed)

    def _asks(self, state: State) -> Iterator[Step]:
        writer = state.writer
        eras = {pin for reader in state.readers for pin in reader.pins if pin < writer.bound}
        for era in sorted(eras):
            there = "frees" if "Q4 again" in self.out else "asks"
            changed = writer._replace(bound=era, recycler=there)
            yield f"asks below {writer.bound}: pin {era}", state._replace(writer=changed)
        if not eras:
            changed = writer._replace(recycler="frees")
            yield f"asks below {writer.bound}: none", state._replace(writer=changed)

    def _hands_back(self, state: State) -> Step:
        writer = state.writer
        gone = [block for block, tag in enumerate(writer.tags) if 0 < tag < writer.bound]
        highest = max((writer.tags[block] + 1 for block in gone), default=0)
        changed = writer._replace(
            recycler="lowers",
            mask=writer.mask | sum(1 << block for block in gone),
            tags=tuple(0 if tag < writer.bound else tag for tag in writer.tags),
            recycled=max(writer.recycled, highest),
        )
        return f"recycles {gone}", state._replace(writer=changed)

    def frees(self, state: State, blocks: int) -> State:
        """Return the state with blocks freed: tagged in COPY, beside the mask under a lease."""
        writer = state.writer
        loose = writer.loose & ~blocks
        if "Q3 tags" in self.out or (writer.leased and "Q7 beside" in self.out):
            writer = writer._replace(mask=writer.mask | blocks)
        elif writer.leased:
            writer = writer._replace(beside=writer.beside | blocks)
        else:
            era = writer.tag or state.file.era
            writer = writer._replace(tags=tagged(writer.tags, blocks, era))
        return state._replace(writer=writer._replace(loose=loose))
