"""Taking over: a writer opens a heap file whose readers go on after the end of the last writer.

    commit_seq, layout_seq   odd: nobody begins a snapshot
    era                      goes up; the floor with it: nobody adopts a snapshot
    pins [Q6]                go: a reader lets its own go when it is asked to go on, and waits
    recovery, tables         as without readers: nobody has a snapshot of what is free
    commit_seq, layout_seq   even, when the first commit of the new writer is whole

A reader that keeps a snapshot, or a view of one, keeps the writer out; it is named then. A writer
that is killed meanwhile leaves the sequences odd, and the next one begins anew.
"""

from __future__ import annotations

import time

from pmemheap.errors import HeapBusyError
from pmemheap.file import pins
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.headerfile import SEQUENCES
from pmemheap.native.rules import Rule, omitted

__all__ = ["PATIENCE", "take_over"]

PATIENCE = 5.0
"""Seconds in which readers have to let their snapshots go."""
_PAUSE = 0.002


def take_over(medium: FileMedium) -> None:
    """Keep readers from beginning snapshots, and wait until none is left.

    Pre: this process is the writer; nothing of the file was changed yet.

    Raises
    ------
    HeapBusyError
        A process keeps a snapshot, or a view of one. The readers go on as before.
    """
    header = medium.header
    header.map(medium.maps.place)
    before = {name: header.word(name) for name in (*SEQUENCES, "floor")}
    for name in SEQUENCES:
        header.store_word(name, before[name] | 1)
    era = header.word("era") + 1
    header.store_word("era", era)
    header.store_word("floor", era)
    try:
        _wait_for_pins(medium, era)
    except BaseException:
        for name, value in before.items():
            header.store_word(name, value)
        raise


def _wait_for_pins(medium: FileMedium, era: int) -> None:
    until = time.monotonic() + PATIENCE
    while not omitted(Rule.Q6) and (found := pins.oldest(medium.lock_fd, era + 1)) is not None:
        if time.monotonic() > until:
            raise HeapBusyError(
                f"heap file {medium.name!r}: no snapshot in other processes expected for a new "
                f"writer, process {found[1]} has kept one, or a view of one, for {PATIENCE:g} s",
                filename=medium.name,
            )
        time.sleep(_PAUSE)
