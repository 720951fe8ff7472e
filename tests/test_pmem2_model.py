"""Reservations against a naive model: which page of the arena belongs to whom, a list of maps."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from address_space import free_range, permissions
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pmemheap import pmem2
from pmemheap.errors import Pmem2Error
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.units import PAGE, align_up

PAGES = 64
FILE_BYTES = 5 * PAGE + 1234

pages = st.integers(-2, PAGES + 2)
few_pages = st.integers(-1, 12)
awkward = st.sampled_from([0, 0, 0, 0, 0, 1, -1])


@dataclass
class ModelMap:
    start: int  # byte in the arena
    length: int
    value: int
    made: Map

    @property
    def stop(self) -> int:
        return self.start + align_up(self.length, PAGE)


@dataclass
class Model:
    """A reservation: bytes from the arena's start, and its maps in no order."""

    start: int
    stop: int
    keeps_tail: bool
    real: VMReservation
    end: int = 0
    maps: list[ModelMap] = field(default_factory=list)

    def in_order(self) -> list[ModelMap]:
        return sorted(self.maps, key=lambda each: each.start)


def refusal(*conditions: tuple[bool, int]) -> int:
    """Return the code of the first condition that holds, 0 if none does."""
    return next((code for holds, code in conditions if holds), 0)


class ReservationMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.base = free_range(PAGES * PAGE)
        self.models: list[Model] = []
        self.file = os.memfd_create("model")
        os.ftruncate(self.file, FILE_BYTES)

    def teardown(self) -> None:
        for model in self.models:
            for each in model.maps:
                each.made.close()
            model.real.close()
        os.close(self.file)

    # ------------------------------------------------------------ asking and answering

    def is_free(self, start: int, stop: int, but: Model | None = None) -> bool:
        """Tell whether nobody is shown in a range; headroom gives way."""
        return all(
            model is but or model.stop <= start or stop <= model.start for model in self.models
        )

    def give_way(self, start: int, stop: int) -> None:
        for model in self.models:
            if model.stop < stop and start < model.end:
                model.end = max(model.stop, start)

    def attempt(self, call: object, expected: int) -> bool:
        """Make a call; demand the expected code; tell whether it succeeded."""
        assert callable(call)
        if expected == 0:
            call()
            return True
        with pytest.raises(Pmem2Error) as raised:
            call()
        assert raised.value.code == expected, raised.value
        return False

    def pick(self, data: st.DataObject) -> Model:
        return data.draw(st.sampled_from(self.models))

    # ------------------------------------------------------------ reservations

    @precondition(lambda self: len(self.models) < 4)
    @rule(page=st.integers(0, PAGES - 1), count=few_pages, odd=awkward, room=st.integers(0, 8))
    def new(self, page: int, count: int, odd: int, room: int) -> None:
        start, size = page * PAGE, count * PAGE + odd
        code = refusal(
            (size % PAGE != 0, pmem2.PMEM2_E_LENGTH_UNALIGNED),
            (size <= 0, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
            (not self.is_free(start, start + size), pmem2.PMEM2_E_MAPPING_EXISTS),
        )
        made: list[VMReservation] = []

        def call() -> None:
            made.append(VMReservation(size, self.base + start, headroom=room * PAGE))

        if self.attempt(call, code):
            self.give_way(start, start + size)
            model = Model(start, start + size, room > 0, made[0])
            model.end = model.stop + made[0].headroom
            self.models.append(model)
            assert made[0].headroom in {0, room * PAGE} or made[0].headroom < room * PAGE

    @precondition(lambda self: self.models)
    @rule(data=st.data(), count=few_pages, odd=awkward)
    def extend(self, data: st.DataObject, count: int, odd: int) -> None:
        model, size = self.pick(data), count * PAGE + odd
        code = refusal(
            (size % PAGE != 0, pmem2.PMEM2_E_LENGTH_UNALIGNED),
            (size < 0, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
            (
                not self.is_free(model.stop, model.stop + size, model),
                pmem2.PMEM2_E_MAPPING_EXISTS,
            ),
        )
        if self.attempt(lambda: model.real.extend(size), code):
            model.stop += size
            model.end = max(model.end, model.stop)

    @precondition(lambda self: self.models)
    @rule(data=st.data(), page=pages, count=few_pages, odd=awkward, to_the_end=st.booleans())
    def shrink(
        self, data: st.DataObject, page: int, count: int, odd: int, to_the_end: bool
    ) -> None:
        model = self.pick(data)
        length = model.stop - model.start
        offset = page * PAGE
        size = length - offset if to_the_end else count * PAGE + odd
        offset = 0 if not to_the_end and page % 2 else offset
        at_head, at_tail = offset == 0, offset + size == length
        start = model.start + offset
        occupied = any(m.start < start + size and start < m.stop for m in model.maps)
        code = refusal(
            (size % PAGE != 0, pmem2.PMEM2_E_LENGTH_UNALIGNED),
            (not 0 <= offset < length, pmem2.PMEM2_E_OFFSET_OUT_OF_RANGE),
            (size <= 0 or offset + size > length, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
            (at_head == at_tail, pmem2.PMEM2_E_NOSUPP),
            (occupied, pmem2.PMEM2_E_VM_RESERVATION_NOT_EMPTY),
        )
        if not self.attempt(lambda: model.real.shrink(offset, size), code):
            return
        if at_head:
            model.start += size
        else:
            model.stop -= size
            model.end = model.end if model.keeps_tail else model.stop

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        model = self.pick(data)
        code = pmem2.PMEM2_E_VM_RESERVATION_NOT_EMPTY if model.maps else 0
        if self.attempt(model.real.close, code):
            self.models.remove(model)

    # ------------------------------------------------------------ maps

    @precondition(lambda self: self.models)
    @rule(data=st.data(), page=pages, count=few_pages, odd=awkward, of_file=st.booleans())
    def place(self, data: st.DataObject, page: int, count: int, odd: int, of_file: bool) -> None:
        model = self.pick(data)
        offset, length = page * PAGE, count * PAGE + odd
        size = FILE_BYTES if of_file else length
        content = FILE_BYTES if of_file and length == 0 else length
        start = model.start + offset
        stop = start + align_up(content, PAGE)
        occupied = any(m.start < stop and start < m.stop for m in model.maps)
        code = refusal(
            (size == 0, pmem2.PMEM2_E_SOURCE_EMPTY),
            (length % PAGE != 0, pmem2.PMEM2_E_LENGTH_UNALIGNED),
            (length < 0 or length > size, pmem2.PMEM2_E_MAP_RANGE),
            (offset < 0 or stop > model.stop, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
            (occupied, pmem2.PMEM2_E_MAPPING_EXISTS),
        )
        made: list[Map] = []

        def call() -> None:
            if of_file:
                made.append(Map.file(self.file, model.real, offset, length, sharing="private"))
            else:
                made.append(Map.anonymous(model.real, offset, length))

        if self.attempt(call, code):
            view = made[0].view
            assert len(view) == content
            assert view[0] == view[-1] == 0
            value = 1 + len(model.maps) % 255
            view[0] = view[-1] = value
            view.release()
            model.maps.append(ModelMap(start, content, value, made[0]))

    @precondition(lambda self: any(model.maps for model in self.models))
    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from([each for each in self.models if each.maps]))
        chosen = data.draw(st.sampled_from(model.maps))
        view = chosen.made.view
        with pytest.raises(BufferError):
            chosen.made.close()
        view.release()
        chosen.made.close()
        model.maps.remove(chosen)

    # ------------------------------------------------------------ searches

    @precondition(lambda self: self.models)
    @rule(data=st.data(), offset=st.integers(-3, PAGES * PAGE), length=st.integers(0, 9 * PAGE))
    def find(self, data: st.DataObject, offset: int, length: int) -> None:
        model = self.pick(data)
        start = model.start + offset
        stop = start + (length or 1)
        meeting = [m for m in model.in_order() if m.start < stop and start < m.start + m.length]
        expected = pmem2.PMEM2_E_MAPPING_NOT_FOUND if not meeting else 0
        found: list[Map] = []
        if self.attempt(lambda: found.append(model.real.find(offset, length)), expected):
            assert found == [meeting[0].made]

    # ------------------------------------------------------------ what always holds

    @invariant()
    def maps_are_listed_in_order(self) -> None:
        for model in self.models:
            expected = [each.made for each in model.in_order()]
            assert model.real.maps() == expected
            if not expected:
                continue
            assert (model.real.first(), model.real.last()) == (expected[0], expected[-1])
            for low, high in pairwise(expected):
                assert model.real.next(low) is high
                assert model.real.prev(high) is low

    @invariant()
    def contents_and_offsets_stay(self) -> None:
        for model in self.models:
            for each in model.maps:
                assert each.made.address == self.base + each.start
                assert each.made.offset == each.start - model.start
                with each.made.view as view:
                    assert view[0] == view[-1] == each.value

    @invariant()
    def sizes_agree_and_the_kernel_shows_no_more(self) -> None:
        shown = max([2 * PAGES, *(model.end // PAGE for model in self.models)])
        expected = ["."] * shown
        for model in self.models:
            model.real.check()
            real = model.real
            assert (real.address, real.size) == (self.base + model.start, model.stop - model.start)
            assert real.headroom == model.end - model.stop
            for page in range(model.start // PAGE, model.end // PAGE):
                expected[page] = "-"
            for each in model.maps:
                for page in range(each.start // PAGE, each.stop // PAGE):
                    expected[page] = "w"
        assert permissions(self.base, self.base + shown * PAGE) == "".join(expected)


TestReservationMachine = pytest.mark.slow(ReservationMachine.TestCase)
