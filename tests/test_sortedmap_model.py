"""SortedMap against a dict: changes, transactions, savepoints, views, and the heap opened again.

Each step is done by one of several objects over the same root, some of which were made within a
transaction: all of them have to see the same.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from map_reach import begin_copying

from pmemheap import DurabilityName, Heap
from pmemheap.containers import SortedMap
from pmemheap.testing import copy_as_crashed

keys = st.one_of(
    st.binary(max_size=3),
    st.integers(0, 200).map(lambda number: b"key %03d" % number),
    st.builds(
        lambda byte, length: bytes([byte]) * length, st.integers(0, 255), st.integers(0, 900)
    ),
)
sizes = st.one_of(st.integers(0, 40), st.sampled_from([100, 400, 900, 1024, 2000, 9000]))
values = st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 255), sizes)


class MapMachine(RuleBasedStateMachine):
    """The model is a dict, and a stack of dicts for what can be taken back."""

    copies = False
    """Whether others may read, so that nothing that a commit can reach is changed in place."""

    @initialize(durability=st.sampled_from(["process", "power"]))
    def make(self, durability: DurabilityName) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.attach(Heap.create(self.home / "heap", durability=durability))
        self.turn = 0
        self.model: dict[bytes, bytes] = {}
        self.open: list[tuple[object, dict[bytes, bytes]]] = []
        self.views: list[tuple[memoryview, bytes]] = []

    def attach(self, heap: Heap) -> None:
        self.heap = heap
        if self.copies:
            begin_copying(heap)
        self.maps = [SortedMap(heap, "map")]

    def let_go(self) -> None:
        """Release what keeps the heap from being closed."""
        self.views = []

    @property
    def map(self) -> SortedMap:
        """The objects take turns."""
        self.turn += 1
        return self.maps[self.turn % len(self.maps)]

    @precondition(lambda self: len(self.maps) < 4)
    @rule()
    def open_the_map_once_more(self) -> None:
        self.maps.append(SortedMap(self.heap, "map"))

    @precondition(lambda self: len(self.maps) > 1)
    @rule()
    def let_an_object_go(self) -> None:
        self.maps.pop(0)

    @rule(key=keys, value=values)
    def put(self, key: bytes, value: bytes) -> None:
        self.map[key] = value
        self.model[key] = value

    @rule(key=keys, value=values, count=st.integers(2, 60))
    def put_neighbours(self, key: bytes, value: bytes, count: int) -> None:
        pairs = [(b"%s%02d" % (key, number), value) for number in range(count)]
        self.map.put_many(pairs)
        self.model.update(pairs)

    @precondition(lambda self: len(max(self.model, default=b"")) < 900)
    @rule(value=values, count=st.integers(2, 60), every=st.integers(1, 3))
    def put_behind(self, value: bytes, count: int, every: int) -> None:
        """Keys that come in order, by one object or by several."""
        last, one = max(self.model, default=b""), self.map
        for number in range(count):
            key = b"%s%02d" % (last, number)
            (one if number % every else self.map)[key] = value
            self.model[key] = value

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        assert self.map.discard(key) == (self.model.pop(key, None) is not None)

    @precondition(lambda self: self.model)
    @rule(part=st.integers(2, 9), data=st.data())
    def remove_many(self, part: int, data: st.DataObject) -> None:
        start = data.draw(st.sampled_from(sorted(self.model)))
        for key in list(self.map.keys(start))[::part]:
            del self.map[key]
            del self.model[key]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def patch(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        old = self.model[key]
        start = data.draw(st.integers(0, len(old)))
        new = data.draw(st.binary(max_size=min(len(old) - start, 20)))
        self.map.patch(key, start, new)
        self.model[key] = old[:start] + new + old[start + len(new) :]
        if not self.copies:
            self.views = []  # it shows through them

    @precondition(lambda self: self.model and not self.open)
    @rule(data=st.data())
    def view(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        self.views.append((self.map.view(key), self.model[key]))

    @rule()
    def compact(self) -> None:
        before = self.map.statistics()
        self.map.compact()
        after = self.map.statistics()
        assert (after.entries, after.apart_bytes) == (before.entries, before.apart_bytes)
        assert after.leaves <= before.leaves

    @rule()
    def let_views_go(self) -> None:
        self.views = []

    @precondition(lambda self: len(self.open) < 3)
    @rule()
    def begin(self) -> None:
        self.open.append((self.heap.transaction(), dict(self.model)))

    @precondition(lambda self: self.open)
    @rule()
    def commit(self) -> None:
        self.open.pop()[0].commit()  # type: ignore[attr-defined]

    @precondition(lambda self: self.open)
    @rule()
    def abort(self) -> None:
        transaction, self.model = self.open.pop()
        transaction.abort()  # type: ignore[attr-defined]

    @precondition(lambda self: not self.open)
    @rule()
    def open_what_a_kill_leaves(self) -> None:
        """The file as it is now is what SIGKILL would leave."""
        copy_as_crashed(self.home / "heap", self.home / "killed")
        with Heap.open(self.home / "killed") as heap:
            found = SortedMap(heap, "map")
            found.check()
            assert dict(found) == self.model

    @precondition(lambda self: not self.open)
    @rule()
    def open_again(self) -> None:
        self.let_go()
        self.heap.close()
        self.attach(Heap.open(self.home / "heap"))

    @invariant()
    def is_the_dict(self) -> None:
        if not hasattr(self, "maps"):
            return
        assert list(self.map.items()) == sorted(self.model.items())
        assert list(self.map.keys(reverse=True)) == sorted(self.model, reverse=True)
        assert len(self.map) == len(self.model)
        for view, value in self.views:
            assert bytes(view) == value

    @invariant()
    def is_sound(self) -> None:
        if hasattr(self, "maps"):
            self.map.check()

    def teardown(self) -> None:
        if not hasattr(self, "maps"):
            return
        self.let_go()
        while self.open:
            self.abort()
        self.heap.check()
        self.heap.close()
        shutil.rmtree(self.home)


TestSortedMap = MapMachine.TestCase
TestSortedMap.settings = settings(stateful_step_count=30)
