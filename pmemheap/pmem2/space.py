"""Space: the address space of this process, and the headroom that reservations keep in it.

     lifeline a                            lifeline b
       | shown  | headroom     |             | shown       |
    ...+--------+--------------+.............+-------------+...
                       ^ somebody needs these very addresses: a gives up its headroom from there on

A lifeline owns its range and gives it back when nobody holds it any more; this module remembers,
weakly, which lifelines there are. Headroom is a wish: it is asked for again at half the size until
it can be had, and it is given up where it would make somebody's request fail, either because the
request names the addresses or because the process may have no more of them.

One lock for the process: whoever changes the borders of a lifeline holds it. The garbage collector
rests meanwhile: a finalizer that it ran in here could wait for a heap whose owner waits for this
lock.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import threading
from collections.abc import Callable, Iterable
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakSet

from pmemheap.native import Lifeline
from pmemheap.pmem2.numbers import ADDRESS_LIMIT
from pmemheap.units import PAGE, align_down

__all__ = ["AddressSpace", "occupant", "space"]

_ALIGNED_TRIES = 16

_Result = TypeVar("_Result")
_Rest = ParamSpec("_Rest")


def _alone(
    method: Callable[Concatenate[AddressSpace, _Rest], _Result],
) -> Callable[Concatenate[AddressSpace, _Rest], _Result]:
    """Let a method run under the lock, and the garbage collector rest.

    No context manager written in Python: an interrupt at either end of it would leave it at rest.
    """

    @functools.wraps(method)
    def run(self: AddressSpace, /, *args: _Rest.args, **kwargs: _Rest.kwargs) -> _Result:
        with self.lock:
            is_collecting = gc.isenabled()
            try:
                gc.disable()
                return method(self, *args, **kwargs)
            finally:
                if is_collecting:
                    gc.enable()

    return run


class AddressSpace:
    """Makes and changes lifelines. Every method raises OSError with nothing changed."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._lifelines: WeakSet[Lifeline] = WeakSet()

    @_alone
    def reserve(self, address: int, size: int, headroom: int) -> Lifeline:
        """Take ``[address, address + size)``, and as much of `headroom` behind it as is free.

        Raises
        ------
        OSError
            EEXIST: the range is occupied. ENOMEM: no room, or past the limit of user addresses.
        """
        stop = address + size
        lifeline = self._insist(lambda: Lifeline(address, size), address, stop)
        while headroom:
            try:
                lifeline.extend(headroom)
                lifeline.hide(headroom)
                break
            except OSError:
                headroom = _half(headroom)
        self._lifelines.add(lifeline)
        return lifeline

    @_alone
    def reserve_anywhere(self, size: int, headroom: int, alignment: int, skew: int) -> Lifeline:
        """Take `size` bytes where ``(start - skew) % alignment == 0``, and `headroom` if it is had.

        Raises
        ------
        OSError
            ENOMEM: no room for `size` bytes, even without headroom.
        """
        while True:
            try:
                lifeline = self._reserve_aligned(size, headroom, alignment, skew)
                break
            except OSError:
                if headroom == 0:
                    raise
                headroom = _half(headroom)
        self._lifelines.add(lifeline)
        return lifeline

    @_alone
    def extend(self, lifeline: Lifeline, length: int) -> None:
        """Show `length` bytes more of `lifeline`: its headroom first, then what is free behind it.

        Raises
        ------
        OSError
            EEXIST: the range behind is occupied. ENOMEM: past a limit.
        """
        stop = lifeline.stop + length
        self._insist(lambda: lifeline.extend(length), lifeline.end, stop, lifeline)

    @_alone
    def cut_head(self, lifeline: Lifeline, length: int) -> None:
        """Give the first `length` bytes of `lifeline` back."""
        lifeline.cut_head(length)

    @_alone
    def cut_tail(self, lifeline: Lifeline, length: int, *, keep: bool) -> None:
        """Give the last `length` shown bytes of `lifeline` back, or `keep` them as headroom."""
        lifeline.hide(length)
        if keep:
            return
        try:
            lifeline.trim(length)
        except OSError:
            lifeline.extend(length)  # no system call: they are headroom still
            raise

    @_alone
    def release(self, lifeline: Lifeline) -> None:
        """Give all of `lifeline` back; BufferError while windows on it live."""
        lifeline.release()
        self._lifelines.discard(lifeline)

    def _reserve_aligned(self, size: int, headroom: int, alignment: int, skew: int) -> Lifeline:
        try:
            return self._reserve_with_slack(size, headroom, alignment, skew)
        except OSError as error:
            if error.errno != errno.ENOMEM or alignment == PAGE:
                raise
            lifeline = _reserve_below(size + headroom, alignment, skew)
            lifeline.hide(headroom)
            return lifeline

    def _reserve_with_slack(self, size: int, headroom: int, alignment: int, skew: int) -> Lifeline:
        total = size + headroom + alignment - PAGE
        if total >= ADDRESS_LIMIT:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        if headroom:
            lifeline = Lifeline(0, total)
        else:
            lifeline = self._insist(lambda: Lifeline(0, total), 0, total)
        lifeline.cut_head((skew - lifeline.start) % alignment)
        lifeline.hide(lifeline.size - size)
        lifeline.trim(lifeline.headroom - headroom)
        return lifeline

    def _insist(
        self,
        attempt: Callable[[], _Result],
        start: int,
        stop: int,
        asker: Lifeline | None = None,
    ) -> _Result:
        """Call `attempt`, which needs ``[start, stop)``, and again with others' headroom given up.

        Where that does not help, the headroom goes back to those who had it.
        """
        try:
            return attempt()
        except OSError as error:
            if error.errno == errno.EEXIST:
                given = _trim(self._in_the_way(start, stop))
            elif error.errno == errno.ENOMEM:
                given = _trim(self._largest(stop - start, asker))
            else:
                raise
            if not given:
                raise
        try:
            return attempt()
        except OSError:
            _restore(given)
            raise

    def _in_the_way(self, start: int, stop: int) -> list[tuple[Lifeline, int]]:
        """Return whose headroom meets ``[start, stop)``, and its length from there to its end."""
        return [
            (lifeline, lifeline.end - max(start, lifeline.stop))
            for lifeline in self._lifelines
            if lifeline.headroom and lifeline.stop < stop and start < lifeline.end
        ]

    def _largest(self, length: int, asker: Lifeline | None) -> list[tuple[Lifeline, int]]:
        """Return the largest headrooms until they make `length` together, or all there are."""
        others = [each for each in self._lifelines if each.headroom and each is not asker]
        others.sort(key=lambda lifeline: lifeline.headroom)
        wanted: list[tuple[Lifeline, int]] = []
        while others and length > 0:
            lifeline = others.pop()
            wanted.append((lifeline, lifeline.headroom))
            length -= lifeline.headroom
        return wanted


def _reserve_below(length: int, alignment: int, skew: int) -> Lifeline:
    """Take an aligned range near where the kernel would put one: a limit may leave no slack."""
    probe = Lifeline(0, length)
    start = probe.start - (probe.start - skew) % alignment
    probe.release()
    for address in range(start, start - _ALIGNED_TRIES * alignment, -alignment):
        try:
            return Lifeline(address, length)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def _half(headroom: int) -> int:
    return align_down(headroom // 2, PAGE)


def _trim(wanted: Iterable[tuple[Lifeline, int]]) -> list[tuple[Lifeline, int]]:
    """Give up each lifeline's last bytes of headroom; return those that could be."""
    trimmed = []
    for lifeline, length in wanted:
        try:
            lifeline.trim(length)
        except OSError:
            continue
        trimmed.append((lifeline, length))
    return trimmed


def _restore(trimmed: Iterable[tuple[Lifeline, int]]) -> None:
    """Ask again for the headroom that has been given up; it may be gone by now."""
    for lifeline, length in trimmed:
        headroom = lifeline.headroom + length
        try:
            lifeline.extend(headroom)
        except OSError:
            continue
        lifeline.hide(headroom)


def occupant(start: int, stop: int) -> str:
    """Name what is mapped first in ``[start, stop)``, for a message: a line of /proc/self/maps."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            first, last = (int(number, 16) for number in line.partition(" ")[0].split("-"))
            if first < stop and start < last:
                name = line[73:].strip() or "anonymous memory"
                return f"{name} at [{first:#x}, {last:#x})"
    return "nothing any more"


space = AddressSpace()
"""The one of this process."""

os.register_at_fork(
    before=space.lock.acquire,
    after_in_parent=space.lock.release,
    after_in_child=space.lock.release,
)
