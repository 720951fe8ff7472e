"""Contracts: what every allocator keeps, as tests that a class of yours inherits.

    class TestMine(AllocatorContract):
        def allocator(self):
            return Mine()

A test runner that collects classes by their names (pytest, unittest with its `TestCase` as a second
base) runs them all. What an allocator can do beyond the protocol is tested where it has it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.protocols import Allocator

__all__ = ["AllocatorContract"]


def _raised(
    expected: type[Exception] | tuple[type[Exception], ...],
    call: Callable[..., object],
    *arguments: object,
) -> None:
    """Fail unless a call raises."""
    message = None
    try:
        returned = call(*arguments)
    except expected as error:
        message = str(error)
    assert message is not None, f"{call}{arguments}: {expected} expected, returned {returned!r}"
    assert message, f"{call}{arguments}: a message expected, found none"


def _has(allocator: object, *names: str) -> bool:
    """Tell whether an allocator has calls; the `blocks` of a `Count` is a number."""
    return all(callable(getattr(allocator, name, None)) for name in names)


class AllocatorContract:
    """What an `Allocator` promises. Derive from it, and say what is to be tested.

    Attributes
    ----------
    sizes : tuple of int
        Bytes of blocks that it is asked for.
    aligns : tuple of int
        Powers of two to which offsets are asked to be aligned.
    steps : int
        Calls of each random test.
    """

    sizes: tuple[int, ...] = (1, 15, 16, 17, 100, 500, 2000, 5000, 20_000, 70_000)
    aligns: tuple[int, ...] = (16, 64, 4096)
    steps: int = 400

    def allocator(self) -> Any:
        """Return a new allocator, for one test; a context manager is left at its end."""
        raise NotImplementedError(f"{type(self).__name__}: a method allocator() expected")

    def _used(self) -> AbstractContextManager[Any]:
        made = self.allocator()
        return made if hasattr(type(made), "__exit__") else nullcontext(made)

    def _filled(self, allocator: Any) -> list[int]:
        return [allocator.malloc(size) for size in self.sizes for _ in range(5)]

    # ------------------------------------------------------------ blocks

    def test_it_is_an_allocator(self) -> None:
        """It has the calls of the protocol."""
        with self._used() as allocator:
            assert isinstance(allocator, Allocator)

    def test_blocks_hold_what_was_asked_for(self) -> None:
        """Usable size is at least the size."""
        with self._used() as allocator:
            for size in self.sizes:
                assert allocator.usable_size(allocator.malloc(size)) >= size

    def test_offsets_are_aligned(self) -> None:
        """Offsets are multiples of 16, and of what was asked for."""
        with self._used() as allocator:
            for size in self.sizes:
                assert allocator.malloc(size) % 16 == 0
                for align in self.aligns:
                    assert allocator.malloc(size, align) % align == 0

    def test_live_blocks_do_not_overlap(self) -> None:
        """No byte belongs to two blocks, whatever was freed between them."""
        with self._used() as allocator:
            live = self._filled(allocator)
            for offset in live[::3]:
                allocator.free(offset)
            live = [offset for i, offset in enumerate(live) if i % 3] + self._filled(allocator)
            ranges = sorted((offset, allocator.usable_size(offset)) for offset in live)
            for (one, length), (other, _) in itertools.pairwise(ranges):
                assert one + length <= other, f"{one:#x} + {length} and {other:#x}"

    def test_all_that_is_freed_can_be_had_again(self) -> None:
        """Nothing is lost by allocating and freeing."""
        with self._used() as allocator:
            for _ in range(20):
                for offset in self._filled(allocator):
                    allocator.free(offset)

    # ------------------------------------------------------------ bad input

    def test_what_is_no_live_block_is_refused(self) -> None:
        """Double frees, interior and foreign offsets: UsageError, and nothing has changed."""
        with self._used() as allocator:
            kept, gone = allocator.malloc(100), allocator.malloc(100)
            allocator.free(gone)
            for bad in (gone, kept + 16, kept + 1, 1 << 62):
                _raised(UsageError, allocator.free, bad)
                _raised(UsageError, allocator.usable_size, bad)
            assert allocator.usable_size(kept) >= 100
            allocator.free(kept)

    def test_sizes_and_alignments_out_of_range_are_refused(self) -> None:
        """UsageError for what can never be; OutOfSpaceError for what is too much."""
        with self._used() as allocator:
            for size in (0, -1):
                _raised(UsageError, allocator.malloc, size)
            for align in (0, 3, -16):
                _raised(UsageError, allocator.malloc, 16, align)
            _raised((UsageError, OutOfSpaceError), allocator.malloc, 1 << 50)
            allocator.free(allocator.malloc(100))

    # ------------------------------------------------------------ by presence

    def test_bytes_stay_what_they_are(self) -> None:
        """What was stored in a block is there until it is freed, whatever else is done."""
        with self._used() as allocator:
            if not _has(allocator, "view"):
                return
            Model(allocator, self.sizes, seed=1).run(self.steps)

    def test_a_viewed_block_is_not_freed(self) -> None:
        """BufferError, and the block is as it was."""
        with self._used() as allocator:
            if not _has(allocator, "view"):
                return
            offset = allocator.malloc(100)
            view = allocator.view(offset)
            view[:4] = b"kept"
            _raised(BufferError, allocator.free, offset)
            assert bytes(view[:4]) == b"kept"
            view.release()
            allocator.free(offset)

    def test_batches_are_all_or_nothing(self) -> None:
        """`malloc_many` and `free_many` agree with single calls."""
        with self._used() as allocator:
            if not _has(allocator, "malloc_many", "free_many"):
                return
            offsets = list(allocator.malloc_many(100, 50))
            assert len(set(offsets)) == 50
            _raised(UsageError, allocator.free_many, [*offsets, offsets[0]])
            assert all(allocator.usable_size(offset) >= 100 for offset in offsets)
            allocator.free_many(offsets)
            _raised(UsageError, allocator.free, offsets[0])

    def test_blocks_are_those_that_live(self) -> None:
        """`blocks` has each live block once, with its usable size."""
        with self._used() as allocator:
            if not _has(allocator, "blocks"):
                return
            before = dict(allocator.blocks())
            live = self._filled(allocator)
            for offset in live[::2]:
                allocator.free(offset)
            expected = {offset: allocator.usable_size(offset) for offset in live[1::2]}
            found = list(allocator.blocks())
            assert len(found) == len(dict(found))
            assert dict(found) == before | expected

    def test_it_is_sound(self) -> None:
        """`check` finds nothing, before, in the middle and at the end."""
        with self._used() as allocator:
            if not _has(allocator, "check"):
                return
            assert allocator.check()
            live = self._filled(allocator)
            assert allocator.check()
            for offset in live:
                allocator.free(offset)
            assert allocator.check()


class Model:
    """An allocator at random beside a dictionary of what its blocks hold."""

    allocator: Any
    sizes: tuple[int, ...]

    def __init__(self, allocator: Any, sizes: tuple[int, ...], seed: int) -> None:
        self.allocator, self.sizes = allocator, sizes
        self.chance: random.Random = random.Random(seed)
        self.held: dict[int, bytes] = {}
        self.calls: list[Callable[[], None]] = [self.malloc, self.malloc, self.free]
        self.calls += [
            call
            for name, call in (("realloc", self.realloc), ("expand", self.expand))
            if _has(allocator, name)
        ]

    def run(self, steps: int) -> None:
        """Make calls, and look at each block that they touch, and at all in the end."""
        for _ in range(steps):
            call = self.chance.choice(self.calls)
            if self.held or call == self.malloc:
                call()
        for offset in list(self.held):
            self.require(offset)
            self.allocator.free(offset)

    def store(self, offset: int, length: int) -> None:
        """Fill a block with what nobody else has."""
        data = self.chance.randbytes(length)
        self.allocator.view(offset, length)[:] = data
        self.held[offset] = data

    def require(self, offset: int) -> bytes:
        """Fail if a block does not hold what it has to."""
        data = self.held[offset]
        assert bytes(self.allocator.view(offset, len(data))) == data, f"block at {offset:#x}"
        return data

    def any(self) -> int:
        """Return a live block."""
        return self.chance.choice(list(self.held))

    def malloc(self) -> None:
        """Allocate a block and fill it."""
        size = self.chance.choice(self.sizes)
        offset = self.allocator.malloc(size)
        assert offset not in self.held, f"{offset:#x} is a live block already"
        self.store(offset, size)

    def free(self) -> None:
        """Free one whose bytes are right."""
        offset = self.any()
        self.require(offset)
        self.allocator.free(offset)
        del self.held[offset]

    def realloc(self) -> None:
        """Change a size; what both sizes have is kept."""
        offset = self.any()
        data, size = self.require(offset), self.chance.choice(self.sizes)
        del self.held[offset]
        to = self.allocator.realloc(offset, size)
        kept = min(size, len(data))
        assert bytes(self.allocator.view(to, kept)) == data[:kept]
        self.store(to, size)

    def expand(self) -> None:
        """Grow in place, or not; the bytes are kept."""
        offset = self.any()
        data = self.require(offset)
        done = self.allocator.expand(offset, self.chance.choice(self.sizes))
        assert isinstance(done, bool)
        assert bytes(self.allocator.view(offset, len(data))) == data
