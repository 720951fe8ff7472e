"""SortedMap beside readers: no byte that a commit can reach changes, and it stays a dict [Q5]."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant, precondition, rule
from map_reach import Reach, begin_copying, header_of, recycle, require_no_others, search_changes
from test_sortedmap_model import MapMachine

from pmemheap import DurabilityName, Heap
from pmemheap.containers import SortedMap
from pmemheap.errors import OutOfSpaceError
from pmemheap.units import MiB

Change = Callable[[SortedMap], object]


class GivenUpError(Exception):
    """What takes a transaction back."""


def filled(heap: Heap, count: int = 400) -> SortedMap:
    """Return a map of three levels, with a long value, beside which others may read."""
    made = SortedMap(heap, "map")
    made.put_many((key_of(number), b"%0300d" % number) for number in range(count))
    made[b"long"] = b"l" * 5000
    begin_copying(heap)
    return made


def key_of(number: int) -> bytes:
    return b"%0250d" % number


def remove(*numbers: int) -> Change:
    return lambda made: [made.discard(key_of(number)) for number in numbers]


def thin_out(made: SortedMap) -> None:
    remove(*range(1, 400, 3))(made)
    made.compact()


CHANGES: dict[str, Change] = {
    "new key": lambda made: made.update({key_of(7) + b"x": b"new"}),
    "first key": lambda made: made.update({b"": b"new"}),
    "equal length": lambda made: made.update({key_of(7): b"!" * 300}),
    "shorter": lambda made: made.update({key_of(7): b"!"}),
    "apart": lambda made: made.update({key_of(7): b"!" * 3000}),
    "no more apart": lambda made: made.update({b"long": b"short"}),
    "other apart": lambda made: made.update({b"long": b"m" * 5000}),
    "split": lambda made: made.update({key_of(7) + b"%d" % n: b"!" * 300 for n in range(9)}),
    "removed": remove(7),
    "leaf removed": remove(*range(40, 60)),
    "merged": remove(*range(0, 400, 3)),
    "patched": lambda made: made.patch(key_of(7), 5, b"!"),
    "patched apart": lambda made: made.patch(b"long", 4990, b"!"),
    "compacted": thin_out,
    "cleared": SortedMap.clear,
}
"""What happens to a map."""


@pytest.fixture(params=["process", "power"])
def durability(request: pytest.FixtureRequest) -> DurabilityName:
    name: DurabilityName = request.param
    return name


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_commit_can_reach_keeps_its_bytes(change: Change, memory: Heap) -> None:
    """Also of the commits in between; a map that edits in place ends up with the same entries."""
    made, other = filled(memory), SortedMap(memory, "other")
    other.update(made)
    before = dict(made)
    reach = Reach(made, holds=True)
    change(made)
    change(other)
    assert reach.changed() is None
    assert dict(made) == dict(other) != before
    made.check()
    reach.release()


def test_a_change_that_changes_nothing_copies_nothing(memory: Heap) -> None:
    made = filled(memory)
    before = header_of(made)
    made.patch(key_of(7), 5, b"")
    made.discard(b"none")
    assert header_of(made) == before


def test_a_transaction_copies_a_node_once(memory: Heap) -> None:
    made = filled(memory)
    root, nodes = header_of(made)[0], made.statistics().nodes
    with memory.transaction():
        made[key_of(7)] = b"!" * 300
        copied = made._header()[0]
        for number in range(300):
            made[key_of(number)] = b"!" * 300
        assert made._header()[0] == copied
    assert header_of(made)[0] == copied != root
    assert made.statistics().nodes == nodes
    require_no_others(made)


def test_a_long_value_is_copied_once(memory: Heap) -> None:
    made = filled(memory)
    reach = Reach(made)
    with memory.transaction():
        made.patch(b"long", 0, b"1")
        made.patch(b"long", 4999, b"2")
        assert reach.changed() is None
        inner = memory.transaction()
        made.patch(b"long", 1, b"3")
        assert made[b"long"][:2] == b"13"
        inner.abort()
        assert made[b"long"][:2] == b"1l"
    assert made[b"long"] == b"1" + b"l" * 4998 + b"2"
    assert reach.changed() is None


@pytest.mark.parametrize("size", [200_000, 3 * MiB])
def test_a_value_that_is_too_long_for_c_is_patched(memory: Heap, size: int) -> None:
    made = filled(memory)
    made[b"huge"] = b"h" * size
    reach = Reach(made)
    made.patch(b"huge", size - 2, memoryview(b"!!"))
    assert reach.changed() is None
    assert made[b"huge"] == b"h" * (size - 2) + b"!!"


def test_what_is_taken_back_leaves_the_nodes_of_the_commit(memory: Heap) -> None:
    made = filled(memory)
    before, reach = dict(made), Reach(made)
    with memory.transaction():
        made[key_of(3)] = b"kept"
        with suppress(GivenUpError), memory.transaction():
            CHANGES["merged"](made)
            CHANGES["split"](made)
            raise GivenUpError
        assert dict(made) == {**before, key_of(3): b"kept"}
        made[key_of(4)] = b"kept"
        assert reach.changed() is None
    assert reach.changed() is None
    assert dict(made) == {**before, key_of(3): b"kept", key_of(4): b"kept"}
    with suppress(GivenUpError), memory.transaction():
        CHANGES["compacted"](made)
        raise GivenUpError
    made.check()
    require_no_others(made)


def test_objects_of_one_map_share_the_copies(memory: Heap) -> None:
    made = filled(memory)
    other = SortedMap(memory, "map")
    reach = Reach(made)
    with memory.transaction():
        for number, each in enumerate([made, other] * 50):
            each[key_of(number)] = b"%d" % number
            each.discard(key_of(399 - number))
    assert reach.changed() is None
    assert dict(made) == dict(other)
    made.check()


def test_copying_begins_within_a_transaction(memory: Heap) -> None:
    """What the transaction has edited in place by then is copied as it has left it."""
    made = SortedMap(memory, "map")
    made.put_many((key_of(number), b"0") for number in range(100))
    made[b"long"] = b"l" * 5000
    with memory.transaction():
        made[key_of(1)] = b"1"
        made.patch(b"long", 0, b"1")
        begin_copying(memory)
        made[key_of(2)] = b"2"
        made.patch(b"long", 1, b"2")
    assert [made[key_of(number)] for number in range(4)] == [b"0", b"1", b"2", b"0"]
    assert made[b"long"][:3] == b"12l"
    made.check()


def test_a_scan_goes_on_while_nodes_are_copied(memory: Heap) -> None:
    made = filled(memory, 60)
    for number, key in enumerate(made.keys(b"", b"long")):
        assert key == key_of(number)
        made[key] = b"seen"
        made.discard(key_of(number + 30))
    assert number == 29


def test_a_full_heap_refuses_and_stays_as_it_was(tmp_path: Path) -> None:
    """A removal wants room for the copies, which the space of other things makes."""
    with Heap.create(tmp_path / "heap", durability="process", limit=3 * MiB) as heap:
        made, spare = filled(heap), [heap.malloc(8192) for _ in range(8)]
        model = dict(made)

        def fill() -> None:
            for number in range(5000):
                made[b"%08d" % number] = model[b"%08d" % number] = bytes(900)

        with pytest.raises(OutOfSpaceError):
            fill()
        assert dict(made) == model
        for offset in spare:
            heap.free(offset)
        require_no_others(made)
        for key in model:
            recycle(heap)
            del made[key]
        require_no_others(made)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_random_changes(tmp_path: Path, durability: DurabilityName, seed: int) -> None:
    assert search_changes(tmp_path / "heap", durability, steps=200, seed=seed) is None


class CopyingMachine(MapMachine):
    """The same beside readers, who are at what a few commits can reach."""

    copies = True

    def attach(self, heap: Heap) -> None:
        super().attach(heap)
        self.reaches: list[Reach] = []

    @precondition(lambda self: not self.open and len(self.reaches) < 3)
    @rule()
    def read(self) -> None:
        self.reaches.append(Reach(self.map, holds=True))

    @precondition(lambda self: self.reaches)
    @rule()
    def let_a_reader_go(self) -> None:
        self.reaches.pop(0).release()

    def let_go(self) -> None:
        super().let_go()
        for reach in self.reaches:
            reach.release()

    @invariant()
    def is_as_it_was_read(self) -> None:
        for reach in self.reaches:
            assert reach.changed() is None


TestCopying = CopyingMachine.TestCase
TestCopying.settings = settings(stateful_step_count=30, max_examples=20)
