"""Candidates: the strategies that `recommend` knows, and which groups of blocks they suit.

A new one is one entry of `STRATEGIES`: what suits it, how to make its allocator, the code to print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from pmemheap.format.layout import ARENA_NAME_BYTES
from pmemheap.heap.heap import Heap
from pmemheap.heap.strategies import Ring, Rows
from pmemheap.native.constants import ROW_MOST
from pmemheap.traces.groups import Group
from pmemheap.units import GRANULE, align_up

__all__ = ["STRATEGIES", "Plan", "Strategy", "plans_for"]

_ROWS_LEAST = 100


@dataclass(frozen=True)
class Strategy:
    """A way to allocate the blocks of a group.

    Attributes
    ----------
    name : str
        As it is printed.
    suits : callable
        Tells by the figures of a group whether to try it.
    opened : callable
        Returns its allocator, of a heap and for a group.
    code : callable
        Returns the line that makes it, for a group.
    by_batch : bool
        It is opened for each batch; at the end of one it drops all blocks, and none is freed.
    """

    name: str
    suits: Callable[[Group], bool]
    opened: Callable[[Heap, Group], Any]
    code: Callable[[Group], str]
    by_batch: bool = False


def _title(group: Group) -> str:
    """Return a name for the arena of a group: that of the file that makes it."""
    stem = PurePath(group.name.rpartition(":")[0] or group.name).stem
    return stem.encode()[:ARENA_NAME_BYTES].decode(errors="ignore")


def _row_bytes(group: Group) -> int:
    return align_up(group.size, GRANULE)


def _fits_rows(group: Group) -> bool:
    return len(group.blocks) >= _ROWS_LEAST and 0 < group.size <= ROW_MOST


STRATEGIES = (
    Strategy(
        "scratch",
        suits=lambda group: group.together_share >= 0.9 and group.batch_blocks >= 50,
        opened=lambda heap, _: heap.scratch(),
        code=lambda _: "with heap.scratch() as s:",
        by_batch=True,
    ),
    Strategy(
        "ring",
        suits=lambda group: group.fifo_share >= 0.95 and not group.resizes,
        opened=lambda heap, group: heap.arena(_title(group), strategy=Ring()),
        code=lambda group: f'heap.arena("{_title(group)}", strategy=Ring())',
    ),
    Strategy(
        "rows",
        suits=lambda group: group.size_share == 1 and _fits_rows(group),
        opened=lambda heap, group: heap.arena(_title(group), strategy=Rows(_row_bytes(group))),
        code=lambda group: f'heap.arena("{_title(group)}", strategy=Rows({_row_bytes(group)}))',
    ),
)


@dataclass(frozen=True)
class Plan:
    """Which groups get which strategy; the others are the heap's own blocks.

    Attributes
    ----------
    parts : mapping of str to Strategy
        By the name of the group; empty: the default.
    """

    parts: Mapping[str, Strategy] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it does, in words."""
        said = (f"{strategy.name} for {group}" for group, strategy in self.parts.items())
        return ", ".join(said) or "default"


def plans_for(groups: Sequence[Group]) -> list[Plan]:
    """Return what to try: the default first, each strategy for each group, and all together."""
    single = [Plan({group.name: strategy}) for group, strategy in _suiting(groups)]
    together: dict[str, Strategy] = {}
    for group, strategy in _suiting(groups):
        together.setdefault(group.name, strategy)
    return [Plan(), *single, *([Plan(together)] if len(together) > 1 else [])]


def _suiting(groups: Sequence[Group]) -> Iterator[tuple[Group, Strategy]]:
    for group in groups:
        if group.name != "rest":
            yield from ((group, strategy) for strategy in STRATEGIES if strategy.suits(group))
