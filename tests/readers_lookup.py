"""A reader of the model that looks something up without a pin [Q19].

It reads era and commit, copies the roots, reads what they lead to, and then the floor: where that
has come above the era it begins a snapshot, for which all other rules hold.
"""

from __future__ import annotations

from collections.abc import Iterator

from readers_state import ROOTS, File, Reader, Snapshot, State


class Lookups:
    """The steps of a lookup. `out`: rules that it does not follow."""

    def __init__(self, out: frozenset[str]) -> None:
        self.out = out

    def begins(self, reader: Reader, state: State) -> Iterator[tuple[str, Reader]]:
        era = state.file.era
        if "Q19 era first" in self.out:
            yield "begins a lookup", reader._replace(pc="lookup reads seq")
        else:
            yield f"reads era {era}", reader._replace(pc="lookup reads seq", era=era)

    def steps(self, reader: Reader, state: State) -> Iterator[tuple[str, Reader]]:
        file = state.file
        match reader.pc:
            case "lookup reads seq":
                changed = reader._replace(
                    pc="lookup copies", seq=file.seq, image=(), wanted=state.ghost.values
                )
                yield f"reads commit_seq {file.seq}", changed
            case "lookup copies":
                yield self._copies(reader, file)
            case "lookup reads seq again":
                same = file.seq == reader.seq
                there = "lookup reads block" if same else "lookup reads seq"
                yield f"reads commit_seq {file.seq}", reader._replace(pc=there)
            case "lookup reads block":
                yield self._reads(reader, file)
            case "lookup reads floor":
                yield f"reads floor {file.floor}", self._believes(reader, file)

    @staticmethod
    def _copies(reader: Reader, file: File) -> tuple[str, Reader]:
        root = len(reader.image)
        block = file.tables[reader.seq % 2][root]
        changed = reader._replace(image=(*reader.image, block))
        if root == ROOTS - 1:
            changed = changed._replace(pc="lookup reads seq again")
        return f"copies slot {root} of table {reader.seq % 2}: block {block}", changed

    def _reads(self, reader: Reader, file: File) -> tuple[str, Reader]:
        block = reader.image[len(reader.private)]
        found = (*reader.private, (block, file.data[block]))
        changed = reader._replace(private=found)
        if not reader.private and "Q19 era first" in self.out:
            changed = changed._replace(era=file.era)
        if len(found) == ROOTS:
            changed = changed._replace(pc="lookup reads floor")
        return f"reads block {block}: {file.data[block]}", changed

    def _believes(self, reader: Reader, file: File) -> Reader:
        if file.floor > reader.era and "Q19 floor" not in self.out:
            return Reader("locks", attached=True, era=file.era)
        first, second = reader.image
        wanted = (reader.wanted[0], reader.wanted[1])
        found = Snapshot(reader.era, (first, second), wanted, reader.private)
        return Reader("has", attached=True, snapshots=(found,), era=reader.era)
