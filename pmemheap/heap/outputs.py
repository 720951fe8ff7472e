"""Outputs: which results of a notebook keep views of a heap.

    In [3]: heap.ndarray(10)     ──► Out[3] ──► the array ──► close() is refused

IPython keeps what a cell shows, and so do its names `_`, `__` and `___`: a program that looks for
its own views would not find these. ``%xdel _3`` lets all of them go. ``%reset out`` does not: it
leaves the last three in a second dictionary. IPython is asked if it runs, and never imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

from pmemheap.heap.space import Space, space_of
from pmemheap.native import BlockBytes
from pmemheap.units import UNIT

__all__ = ["outputs_that_keep"]

_LAST, _HIDDEN = ("_", "__", "___"), "get_ipython().user_ns_hidden"
_NAMED_MOST = 5
_HELD_IN = (list, tuple, set, frozenset)


def outputs_that_keep(spaces: Iterable[Space]) -> str:
    """Name the outputs of IPython that keep views of blocks of some arenas, and what lets them go.

    Returns
    -------
    str
        Empty if there are none, or no IPython.
    """
    keeps = _keeps(list(spaces))
    found = [told for told, shown in _outputs() if any(map(keeps, _parts(shown)))]
    if not found:
        return ""
    named = ", ".join(name for name, _ in found[:_NAMED_MOST])
    more = f" and {len(found) - _NAMED_MOST} more" if len(found) > _NAMED_MOST else ""
    ways = ", ".join(way for _, way in found[:_NAMED_MOST])
    return f"; IPython keeps {named}{more}, until {ways}"


def _outputs() -> list[tuple[tuple[str, str], object]]:
    """Return the outputs of the shell in which we run: name and what lets go of it, and the value.

    Its last results are among them if they are none of the outputs any more.
    """
    ask = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = ask() if callable(ask) else None
    outputs = dict(getattr(shell, "user_ns", {}).get("_oh") or {})
    hidden = dict(getattr(shell, "user_ns_hidden", {}))
    known = {id(shown) for shown in outputs.values()}
    last = [name for name in _LAST if name in hidden and id(hidden[name]) not in known]
    return [
        *(((f"Out[{n}]", f"%xdel _{n}"), shown) for n, shown in outputs.items()),
        *(((name, f"{_HIDDEN}.pop({name!r})"), hidden[name]) for name in last),
    ]


def _parts(shown: object) -> Iterator[object]:
    yield shown
    if isinstance(shown, _HELD_IN):
        yield from shown
    elif isinstance(shown, dict):
        yield from shown.values()


def _keeps(arenas: list[Space]) -> Callable[[object], bool]:
    """Return what tells whether something is a view, or an array, of a block of some arenas."""

    def keeps(part: object) -> bool:
        if isinstance(part, memoryview):
            return _viewed_arena(part) in arenas
        address = _address_of(part)
        return address is not None and any(_has(space, address) for space in arenas)

    return keeps


def _viewed_arena(view: memoryview) -> Space | None:
    """Return the arena whose block a view shows, if it shows one and was not released."""
    try:
        owner = view.obj
    except ValueError:
        return None
    return space_of(owner.heap) if isinstance(owner, BlockBytes) else None


def _has(space: Space, address: int) -> bool:
    region = space.region
    unit = (address - region.base("data")) // UNIT
    return region.first_unit <= unit < region.end_unit


def _address_of(part: object) -> int | None:
    """Return where an array of numpy lies."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(part, numpy.ndarray):
        return None
    return int(part.__array_interface__["data"][0])
