"""The tape, for tests: every store to a watched file and every system call on it, in order."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from pmemheap._core import _hot
from pmemheap._core._sys import ffi, lib
from pmemheap.errors import UsageError
from pmemheap.native.failures import check

__all__ = [
    "TapeEvent",
    "TapeKind",
    "tape_end",
    "tape_hand_at",
    "tape_is_on",
    "tape_kill",
    "tape_map",
    "tape_note",
    "tape_start",
    "tape_step",
    "tape_steps",
    "tape_turns",
    "tape_wait",
]


class TapeKind(IntEnum):
    """Kinds of events on the tape; see `TapeEvent`."""

    STORE = lib.PH_TAPE_STORE
    FOUND = lib.PH_TAPE_FOUND
    WRITE = lib.PH_TAPE_WRITE
    TRUNCATE = lib.PH_TAPE_TRUNCATE
    ALLOCATE = lib.PH_TAPE_ALLOCATE
    SYNC_RANGE = lib.PH_TAPE_SYNC_RANGE
    SYNC_FILE = lib.PH_TAPE_SYNC_FILE
    FLUSH = lib.PH_TAPE_FLUSH
    FENCE = lib.PH_TAPE_FENCE
    MAP = lib.PH_TAPE_MAP
    UNMAP = lib.PH_TAPE_UNMAP
    NOTE = lib.PH_TAPE_NOTE


class TapeEvent(NamedTuple):
    """One thing that changed the file of a tape, or made changes durable.

    `offset` and `length` are a range of the file, `data` its new bytes where there are any.
    `detail` is the mode of an ALLOCATE, or the kind of a NOTE, whose number is `length`.
    `step` is the argument of `tape_kill` that ends the process before this event.
    `begin` counts the events that were there when a system call was made: what came after it is not
    covered by a sync.
    """

    kind: TapeKind
    offset: int
    length: int
    detail: int
    step: int
    begin: int
    data: bytes


_NEVER = 2**64 - 1


def _share_tape(tape: Any) -> None:
    lib.ph_tape_share(tape)
    _hot.share_tape(int(ffi.cast("uintptr_t", tape)))


def _make_tape(fd: int, kill_at: int) -> None:
    if tape_is_on():
        raise UsageError("tape: no other one expected in this process, one is running")
    out = ffi.new("struct ph_tape **")
    check(lib.ph_tape_make(fd, kill_at, out), "tape")
    _share_tape(out[0])


def tape_is_on() -> bool:
    """Tell whether this process has a tape running."""
    return bool(lib.ph_tape_state() != ffi.NULL)


def tape_start(fd: int) -> None:
    """Record what changes the file behind `fd`, from its bytes of now on; for tests.

    Told are the stores of the C core and `store`, and the system calls of this module. Maps that
    are there already are to be told by `tape_map`. Stores of others are found before the next
    event, as FOUND.

    Raises
    ------
    UsageError
        There is a tape already.
    NativeError
        No memory for a copy of the file.
    """
    _make_tape(fd, 0)


def tape_kill(fd: int, step: int) -> None:
    """End this process by SIGKILL just before the `step`-th change of the file from now; for tests.

    Notes and maps are no steps. Nothing is recorded. `tape_end` lets the process live.
    """
    if step < 1:
        raise UsageError(f"tape: a step from 1 on expected, {step} found")
    _make_tape(fd, step)


def tape_end() -> list[TapeEvent]:
    """End the tape and return what is on it.

    Raises
    ------
    NativeError
        Memory ran out while it was recorded.
    """
    tape = lib.ph_tape_state()
    if tape == ffi.NULL:
        raise UsageError("tape: one that runs expected, none found")
    lib.ph_tape_note(0, 0)  # looks for the last stores that nobody told
    _share_tape(ffi.NULL)
    try:
        check(-tape.error, "tape")
        if not tape.count:
            return []
        payload = ffi.buffer(tape.payload, tape.used) if tape.used else b""
        return [_tape_event(raw, payload) for raw in ffi.unpack(tape.events, tape.count - 1)]
    finally:
        lib.ph_tape_free(tape)


_WITH_DATA = {TapeKind.STORE, TapeKind.FOUND, TapeKind.WRITE}


def _tape_event(raw: Any, payload: Any) -> TapeEvent:
    kind = TapeKind(raw.kind)
    data = payload[raw.payload : raw.payload + raw.length] if kind in _WITH_DATA else b""
    return TapeEvent(kind, raw.offset, raw.length, raw.detail, raw.step, raw.begin, data)


def tape_note(kind: int, number: int) -> None:
    """Put a note on the tape, if there is one."""
    if tape_is_on():
        lib.ph_tape_note(kind, number)


def tape_map(address: int, length: int, offset: int) -> None:
    """Tell the tape of a shared map of its file that was there before it."""
    if tape_is_on():
        lib.ph_tape_map(address, length, offset)


def tape_turns(fd: int, told: int, granted: int) -> None:
    """Let this process and another one work by turns on the file behind `fd`; for tests.

    Nothing is recorded. `tape_hand_at` begins.

    Parameters
    ----------
    fd : int
    told, granted : int
        Descriptors of pipes: before the step at which it waits the process writes a word to `told`,
        twice the number of steps, plus 1 if it cannot go on before the other one has; then it reads
        one from `granted`: the step before which it waits next.
    """
    _make_tape(fd, _NEVER)
    lib.ph_tape_hands(lib.ph_tape_state(), told, granted)


def tape_hand_at(step: int) -> None:
    """Count steps from 0 on, and wait before this one; 0: there are no turns any more.

    Looks at what others change are steps as well, and all system calls of the seam.
    """
    lib.ph_tape_hand_at(step)


def tape_step() -> None:
    """Count a step of the program's own, if there is a tape whose steps are scheduled."""
    if tape_is_on():
        lib.ph_tape_look()


def tape_wait() -> None:
    """Let the other one go on, if there is a tape whose steps are scheduled."""
    if tape_is_on():
        lib.ph_tape_wait()


def tape_steps() -> int:
    """Return the steps that the tape was told so far."""
    tape = lib.ph_tape_state()
    return 0 if tape == ffi.NULL else int(tape.steps)
