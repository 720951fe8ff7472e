"""Fill against a dictionary of what each block holds, while layers come and go among the calls."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pmemheap import Count, Heap
from pmemheap.layers import Fill, Passing

SIZES = st.sampled_from((1, 16, 100, 112, 600, 3000, 9000, 70_000, 300_000))
BYTES = st.one_of(st.none(), st.integers(1, 250))


class Put(NamedTuple):
    """A layer that is on the heap, and the bytes that it fills with."""

    layer: Any
    made: int | None = None
    freed: int | None = None


class FillMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.heap = Heap.anonymous(decay=None)
        self.on: list[Put] = []  # top first
        self.held: dict[int, bytes] = {}
        self.number = 0

    def teardown(self) -> None:
        for put in self.on[::2]:
            self.heap.uninstall(put.layer)
        for offset in self.held:
            self.heap.free(offset)
        assert not list(self.heap.blocks())
        assert self.heap.check()
        self.heap.close()

    # ------------------------------------------------------------ layers

    def put(self, put: Put) -> None:
        self.heap.install(put.layer)
        self.on.insert(0, put)

    @precondition(lambda self: len(self.on) < 3)
    @rule(made=BYTES, freed=BYTES)
    def install_fill(self, made: int | None, freed: int | None) -> None:
        self.put(Put(Fill(malloc=made, free=freed), made, freed))

    @precondition(lambda self: len(self.on) < 3)
    @rule(kind=st.sampled_from((Count, Passing)))
    def install_another(self, kind: Any) -> None:
        self.put(Put(kind()))

    @precondition(lambda self: self.on)
    @rule(data=st.data())
    def uninstall(self, data: st.DataObject) -> None:
        put = self.on.pop(data.draw(st.integers(0, len(self.on) - 1)))
        self.heap.uninstall(put.layer)

    # ------------------------------------------------------------ what is expected

    def store(self, offset: int, start: int) -> None:
        """Look at what is new in a block, and fill it with what no other has."""
        with self.heap.view(offset) as view:
            byte = next((put.made for put in self.on if put.made is not None), None)
            if byte is not None:
                assert view[start:] == bytes([byte]) * (len(view) - start)
            self.number += 1
            data = self.number.to_bytes(4, "big") * (len(view) // 4)
            view[:] = data
        self.held[offset] = data

    def place(self, offset: int) -> tuple[int, int]:
        return self.heap.address(offset), len(self.held[offset])

    def require_poison(self, place: tuple[int, int]) -> None:
        """The lowest layer is the last one that writes."""
        byte = next((put.freed for put in reversed(self.on) if put.freed is not None), None)
        if byte is not None:
            address, length = place
            assert ctypes.string_at(address, length) == bytes([byte]) * length

    def any(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.held)))

    # ------------------------------------------------------------ calls

    @rule(size=SIZES, align=st.sampled_from((16, 16, 256)))
    def malloc(self, size: int, align: int) -> None:
        self.store(self.heap.malloc(size, align), 0)

    @rule(size=SIZES, count=st.integers(0, 4))
    def malloc_many(self, size: int, count: int) -> None:
        for offset in self.heap.malloc_many(size, count):
            self.store(offset, 0)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), deferred=st.booleans())
    def free(self, data: st.DataObject, deferred: bool) -> None:
        offset = self.any(data)
        place = self.place(offset)
        self.heap.free(offset, deferred)
        del self.held[offset]
        self.require_poison(place)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free_many(self, data: st.DataObject) -> None:
        offsets = data.draw(st.lists(st.sampled_from(sorted(self.held)), unique=True, max_size=4))
        places = [self.place(offset) for offset in offsets]
        self.heap.free_many(offsets)
        for offset, place in zip(offsets, places, strict=True):
            del self.held[offset]
            self.require_poison(place)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free_what_is_viewed(self, data: st.DataObject) -> None:
        offset = self.any(data)
        with self.heap.view(offset), pytest.raises(BufferError):
            self.heap.free(offset)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free_under_a_view(self, data: st.DataObject) -> None:
        offset = self.any(data)
        with self.heap.view(offset) as view:
            self.heap.free(offset, True)
            assert view == self.held.pop(offset)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), size=SIZES)
    def realloc(self, data: st.DataObject, size: int) -> None:
        offset = self.any(data)
        place, before = self.place(offset), self.held[offset]
        to = self.heap.realloc(offset, size)
        usable = self.heap.usable_size(to)
        kept = min(len(before), usable if to == offset else size)
        assert usable >= size
        assert self.heap.view(to, kept) == before[:kept]
        del self.held[offset]
        self.store(to, kept)
        if to != offset:
            self.require_poison(place)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), more=st.sampled_from((0, 1, 5000, 200_000)))
    def expand(self, data: st.DataObject, more: int) -> None:
        offset = self.any(data)
        before = self.held[offset]
        if self.heap.expand(offset, len(before) + more):
            assert self.heap.view(offset, len(before)) == before
            self.store(offset, len(before))

    @invariant()
    def blocks_hold_what_they_did(self) -> None:
        for offset, data in self.held.items():
            assert self.heap.view(offset) == data


TestFill = pytest.mark.slow(FillMachine.TestCase)
