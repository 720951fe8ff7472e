"""Groups: the blocks of a trace by the line that made them, and how those of one line die.

    queue.py:41   a b c d   f a f b ...    the oldest that lives is freed: FIFO
    stack.py:7    a b c   f c f b f a      the youngest is: LIFO
    parse.py:12   a b c ... f f f          none is left: a batch, which died together

A trace without sites is grouped by the size of its blocks, if a few sizes make most of the bytes;
else it is one group.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pmemheap.traces.trace import ALLOCATE, FREE, RESIZE, Trace

__all__ = ["Group", "groups_of"]

_LEAST_SHARE = 0.05
_LATE_SHARE = 0.1


@dataclass(frozen=True)
class Group:
    """Blocks that are made alike, and figures of them; shares are from 0 to 1.

    Attributes
    ----------
    name : str
        ``file:line``; of a trace without sites, the size of the blocks, or ``all blocks``;
        or ``rest``.
    blocks : tuple of int
        Their IDs, in order of allocation.
    byte_share : float
        Their part of all bytes that were asked for.
    size, size_share : int, float
        The most frequent size, and the share of blocks that had it all their life.
    fifo_share, lifo_share : float
        The share of frees that were of the oldest, or the youngest, block of those that lived; of
        frees with one block alive none counts.
    batches : tuple of tuple of int
        The blocks that were made from one moment at which none lived to the next. The last batch
        may live on at the end.
    together_share : float
        The share of blocks that were freed when no other of their batch was made any more, and all
        at once: meanwhile the program made at most a tenth as many blocks as the batch has.
    resizes : int
        How often blocks got another size.
    """

    name: str
    blocks: tuple[int, ...]
    byte_share: float
    size: int
    size_share: float
    fifo_share: float
    lifo_share: float
    batches: tuple[tuple[int, ...], ...]
    together_share: float
    resizes: int

    @property
    def batch_blocks(self) -> float:
        """Blocks a batch, on average."""
        return len(self.blocks) / max(len(self.batches), 1)


def groups_of(trace: Trace) -> list[Group]:
    """Group the blocks of a trace; those with less than 5 % of the bytes go to ``rest``, the last.

    Parameters
    ----------
    trace : Trace
        Its blocks are grouped by site if it has sites, else by size.

    Returns
    -------
    list of Group
        Most bytes first. O(operations).
    """
    sizes = _sizes(trace)
    total = sum(sizes) or 1
    names = _names(trace)
    shown = _large(names, sizes)
    if not _has_sites(trace) and 2 * sum(shown.values()) < total:
        names = ["all blocks"] * trace.blocks
        shown = _large(names, sizes)
    makings = {name: _Making() for name in [*shown, "rest"]}
    of_block = [makings.get(name, makings["rest"]) for name in names]
    allocations = 0
    for kind, block, size in trace.operations:
        allocations += kind == ALLOCATE
        _STEPS[kind](of_block[block], block, size, allocations)
    return [
        made.group(name, sum(sizes[block] for block in made.sizes) / total)
        for name, made in makings.items()
        if made.sizes
    ]


def _large(names: Sequence[str], sizes: Sequence[int]) -> dict[str, int]:
    """Return the names with enough of the bytes, and how many these are; most first."""
    nbytes: Counter[str] = Counter()
    for name, size in zip(names, sizes, strict=True):
        nbytes[name] += size
    least = _LEAST_SHARE * nbytes.total()
    return {name: size for name, size in nbytes.most_common() if size >= least and name != "rest"}


def _has_sites(trace: Trace) -> bool:
    return any(origin.site for origin in trace.origins)


def _names(trace: Trace) -> list[str]:
    """Return the name of each block's group."""
    made = [number for number, (kind, *_) in enumerate(trace.operations) if kind == ALLOCATE]
    if _has_sites(trace):
        return [trace.origins[number].site or "rest" for number in made]
    return [f"blocks of {trace.operations[number][2]:,} bytes" for number in made]


def _sizes(trace: Trace) -> list[int]:
    """Return the bytes that each block was asked for with, at most."""
    sizes = [0] * trace.blocks
    for _, block, size in trace.operations:
        sizes[block] = max(sizes[block], size)
    return sizes


class _Making:
    """What is known of a group so far."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}  # 0: it had several
        self.live: OrderedDict[int, None] = OrderedDict()
        self.batches: list[list[int]] = []
        self.ending = self.end_began = self.together = 0
        self.resizes = self.frees = self.oldest = self.youngest = 0

    def make(self, block: int, size: int, _: int) -> None:
        if not self.live:
            self.batches.append([])
        self.batches[-1].append(block)
        self.sizes[block] = size
        self.live[block] = None
        self.ending = 0

    def resize(self, block: int, size: int, _: int) -> None:
        self.resizes += 1
        if self.sizes[block] != size:
            self.sizes[block] = 0

    def free(self, block: int, _: int, allocations: int) -> None:
        if len(self.live) > 1:
            self.frees += 1
            self.oldest += block == next(iter(self.live))
            self.youngest += block == next(reversed(self.live))
        del self.live[block]
        if not self.ending:
            self.end_began = allocations
        self.ending += 1
        late = allocations - self.end_began
        if not self.live and late <= _LATE_SHARE * len(self.batches[-1]):
            self.together += self.ending

    def group(self, name: str, byte_share: float) -> Group:
        counts = Counter(self.sizes.values())
        size, most = max(counts.items(), key=lambda item: (bool(item[0]), item[1]))
        return Group(
            name,
            tuple(self.sizes),
            byte_share,
            size,
            most / len(self.sizes) if size else 0.0,
            self.oldest / max(self.frees, 1),
            self.youngest / max(self.frees, 1),
            tuple(map(tuple, self.batches)),
            self.together / len(self.sizes),
            self.resizes,
        )


_STEPS: dict[int, Callable[[_Making, int, int, int], None]] = {
    ALLOCATE: _Making.make,
    RESIZE: _Making.resize,
    FREE: _Making.free,
}
