"""Following: the region of a reader, which becomes what a writer in another process makes of it."""

from __future__ import annotations

from pmemheap.space.medium import Piece
from pmemheap.space.region import Region

__all__ = ["FollowingRegion"]


class FollowingRegion(Region):
    """The memory of an arena that another process changes.

    Nothing that a snapshot reaches moves or goes: what was withdrawn at the end had been in
    nobody's reach before, and what was withdrawn at the begin stays mapped.
    """

    def follow(self, pieces: list[Piece]) -> None:
        """Map what has come behind, and unmap what has gone there.

        Parameters
        ----------
        pieces : list of Piece
            The segments of the arena as they are in the file now, by their units.

        Raises
        ------
        OutOfSpaceError
            No address space for them; nothing has changed.
        """
        now = {(piece.first_unit, piece.nunits, _place(piece)) for piece in pieces}
        first = pieces[0].first_unit if pieces else 0
        gone = [
            segment
            for segment in self._segments
            if segment.piece.first_unit >= first
            and (segment.piece.first_unit, segment.piece.nunits, _place(segment.piece)) not in now
        ]
        if gone:
            start = gone[0].piece.first_unit
            tail = [segment for segment in self._segments if segment.piece.first_unit >= start]
            self._keep([segment for segment in self._segments if segment not in tail])
            self._unmap(tail)
            self._narrow_tables()
        end = self.end_unit
        self.adopt([piece for piece in pieces if piece.first_unit >= end])


def _place(piece: Piece) -> int:
    return -1 if piece.slot is None else piece.slot.file_off
