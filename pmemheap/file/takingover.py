"""Taking over: a writer opens a heap file whose readers go on after the end of the last writer.

    commit_seq, layout_seq   odd: nobody begins a snapshot
    era                      goes up; the floor with it: nobody adopts a snapshot
    pins [Q6]                go: a reader lets its own go when it is asked to go on, and waits
    recovery                 as without readers: what a snapshot shows has one image in the log
    free space               as without readers, or not used while a pin of before is there
    commit_seq, layout_seq   even, when the first commit of the new writer is whole

A snapshot, or a view of one, may show what the last writer had freed: the tables say that it is
free. So the heap grows as long as somebody keeps one. What roots name is changed in place: a
snapshot has a copy of that, which a writer with readers makes. Of a file that such a writer has
not left, or left when there were no readers, it has none: then who keeps one keeps the writer out,
and is named. A writer that is killed meanwhile leaves the sequences odd, and the next one begins
anew.
"""

from __future__ import annotations

import time

from pmemheap.errors import HeapBusyError
from pmemheap.file import pins
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.headerfile import SEQUENCES
from pmemheap.file.shownspace import ShownSpace
from pmemheap.native.gate import ReaderGate
from pmemheap.native.rules import Rule, omitted

__all__ = ["PATIENCE", "take_over"]

PATIENCE = 5.0
"""Seconds in which readers have to let snapshots go that have no copies of what roots name."""
_MOMENT = 0.05
"""Seconds in which readers that go on let others go: then all free space can be used."""
_PAUSE = 0.002


def take_over(medium: FileMedium, gate: int) -> None:
    """Keep readers from beginning snapshots, and wait a moment until none is left.

    Pre: this process is the writer; nothing of the file was changed yet. Afterwards the medium
    tells whether snapshots of before are left.

    Parameters
    ----------
    gate : int
        The word of the file that lets readers in, as the last writer has left it.

    Raises
    ------
    HeapBusyError
        A process keeps a snapshot that has no copies, or a view of one. The readers go on as
        before.
    """
    header = medium.header
    header.map(medium.maps.place)
    before = {name: header.word(name) for name in (*SEQUENCES, "floor")}
    for name in SEQUENCES:
        header.store_word(name, before[name] | 1)
    era = header.word("era") + 1
    header.store_word("era", era)
    header.store_word("floor", era)
    has_copies = gate in {ReaderGate.MAY, ReaderGate.STAY} or (
        gate == ReaderGate.WAIT and not medium.is_power
    )
    if has_copies:  # the next writer knows, if this one is killed before it lets readers in
        header.store_word("gate", ReaderGate.STAY)
    try:
        found = _pin_after(medium, era, _MOMENT if has_copies else PATIENCE)
        if found is not None and not omitted(Rule.Q6):
            if not has_copies:
                raise HeapBusyError(
                    f"heap file {medium.name!r}: no snapshot in other processes expected of a file "
                    f"whose last writer had no readers, process {found[1]} has kept one, or a view "
                    f"of one, for {PATIENCE:g} s",
                    filename=medium.name,
                )
            medium.is_shown = lambda: _find_pin(medium, era) is not None
            medium.shown = ShownSpace()
    except BaseException:
        for name, value in before.items():
            header.store_word(name, value)
        raise


def _pin_after(medium: FileMedium, era: int, seconds: float) -> tuple[int, int] | None:
    """Wait at most so long until there is none; return what `_find_pin` has found last."""
    until = time.monotonic() + seconds
    while (found := _find_pin(medium, era)) is not None and time.monotonic() < until:
        time.sleep(_PAUSE)
    return found


def _find_pin(medium: FileMedium, era: int) -> tuple[int, int] | None:
    """Return the oldest snapshot of an era, or of one before it, as `pins.oldest` does."""
    return pins.oldest(medium.lock_fd, era + 1)
