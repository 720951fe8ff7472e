"""A KeyboardInterrupt at any place of a call where CPython would raise one for a signal.

CPython 3.11 looks for signals at the beginning of a function, behind a call of what is written in
C, and when a loop goes round. `places` lists those that a call passes; `interrupted` makes the call
again and interrupts it at one of them. What a signal does by chance is done here at every place.

The exceptions come from a profile function, which stands where the signals are looked for: raised
one instruction later, they would miss the handler that a real one finds.
"""

from __future__ import annotations

import dis
import functools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

_HERE = str(Path(__file__).parent)
_JUMP = dis.opmap["JUMP_BACKWARD"]


class Place(NamedTuple):
    """Where a signal is looked for: in which function, behind which instruction."""

    code: CodeType
    instruction: int

    def __str__(self) -> str:
        lines = [line for start, line in dis.findlinestarts(self.code) if start <= self.instruction]
        name = Path(self.code.co_filename).name
        return f"{name}:{lines[-1] if lines else 0}, {self.code.co_qualname}"


@functools.cache
def _has_loop(code: CodeType) -> bool:
    return any(each.opcode == _JUMP for each in dis.get_instructions(code))


class _Watch:
    """Sees all places that a call passes, and raises where `reached` says so."""

    def __init__(self, reached: Callable[[Place], bool]) -> None:
        self.reached = reached

    def __enter__(self) -> None:
        self.hook, sys.unraisablehook = sys.unraisablehook, self.unraisable
        sys.settrace(self.trace)
        sys.setprofile(self.profile)

    def __exit__(self, *exception: object) -> None:
        sys.setprofile(None)
        sys.settrace(None)
        sys.unraisablehook = self.hook

    def unraisable(self, one: sys.UnraisableHookArgs) -> None:
        """Tell what a finalizer raised, unless it is the interrupt."""
        if one.exc_type is not KeyboardInterrupt:
            self.hook(one)

    def pass_by(self, frame: FrameType) -> None:
        place = Place(frame.f_code, frame.f_lasti)
        if not frame.f_code.co_filename.startswith(_HERE) and self.reached(place):
            sys.setprofile(None)
            sys.settrace(None)
            raise KeyboardInterrupt

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        if event in {"call", "c_return"}:
            self.pass_by(frame)

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "call" and _has_loop(frame.f_code):
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return self.step
        return None

    def step(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode" and frame.f_code.co_code[frame.f_lasti] == _JUMP:
            self.pass_by(frame)
        return self.step


def places(call: Callable[[], object]) -> Counter[Place]:
    """Make a call; the places that it passes, in the order of the first time, and how often."""
    passed: Counter[Place] = Counter()

    def count(place: Place) -> bool:
        passed[place] += 1
        return False

    with _Watch(count):
        call()
    return passed


def interrupted(place: Place, nth: int, call: Callable[[], object]) -> bool:
    """Make a call and interrupt it at a place, when it gets there the `nth` time.

    Returns
    -------
    bool
        Whether it raised the interrupt: it may go lost in a finalizer, or the call not get there.
    """
    left = nth

    def count_down(here: Place) -> bool:
        nonlocal left
        left -= here == place
        return left == 0 and here == place

    try:
        with _Watch(count_down):
            call()
    except KeyboardInterrupt:
        return True
    return False
