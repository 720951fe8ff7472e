"""Named arrays against a dict of numpy's: through transactions, views, refusals and reopening."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pmemheap import Heap, UsageError
from pmemheap.containers import Array, Arrays

Model = dict[str, tuple[np.ndarray[Any, Any], dict[str, Any]]]

SEEDS = st.integers(0, 99)
NAMES = st.sampled_from(["a", "b", "c/d", "ä"])
DTYPES = st.sampled_from(["u1", "<i4", ">f8", "S3", "M8[s]", "i2,S5"])
KEYS = st.one_of(st.slices(12), st.lists(st.integers(-12, 12), max_size=5), st.integers(-12, 12))
ROWS = st.sampled_from([(), (), (3,), (2, 2), (0,)])


def some_rows(dtype: Any, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    """Return an array of a type and a shape, each seed another one."""
    array = np.empty(shape, dtype)
    raw = np.random.default_rng(seed).integers(0, 127, array.nbytes, "u1")
    return np.frombuffer(raw.tobytes(), array.dtype).reshape(shape)


class ArraysMachine(RuleBasedStateMachine):
    """Two objects over the same root take turns; what one does the other has to see."""

    heap: Heap

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.path = Path(self.home.name) / "heap"
        self.model: Model = {}
        self.open: list[tuple[Any, Model]] = []
        self.handles: dict[str, Array] = {}
        self.views: list[tuple[np.ndarray[Any, Any], bytes]] = []

    @initialize(kind=st.sampled_from(["anonymous", "process", "power"]))
    def begin_with(self, kind: Literal["anonymous", "process", "power"]) -> None:
        self.heap = (
            Heap.anonymous() if kind == "anonymous" else Heap.create(self.path, durability=kind)
        )
        warm = Arrays(self.heap, "warm")
        warm["log"] = np.zeros(4 << 20, "u1")
        warm["log"][: 2 << 20] = 1  # a log that holds what a transaction snapshots
        del warm["log"]
        self.objects = [Arrays(self.heap), Arrays(self.heap)]

    @property
    def arrays(self) -> Arrays:
        self.objects.reverse()
        return self.objects[0]

    def _attempt(self, call: Callable[[], object]) -> bool:
        """Make a call; tell whether it was done, which it may not be where views live."""
        try:
            call()
        except BufferError:
            assert self.views
            return False
        return True

    # ------------------------------------------------------------ arrays

    @rule(name=NAMES, dtype=DTYPES, rows=ROWS, apart=st.booleans(), seed=SEEDS)
    def create(self, name: str, dtype: str, rows: tuple[int, ...], apart: bool, seed: int) -> None:
        data = some_rows(dtype, (seed // 3, *rows), seed)
        if name in self.model:
            with pytest.raises(UsageError, match="a name without an array"):
                self.arrays.create(name, data=data)
            return
        self.arrays.create(name, data=data, in_place=apart, attrs={"seed": seed})
        self.model[name] = data.copy(), {"seed": seed}

    @rule(name=NAMES, dtype=DTYPES, length=st.integers(0, 200), deferred=st.booleans(), seed=SEEDS)
    def replace(self, name: str, dtype: str, length: int, deferred: bool, seed: int) -> None:
        data = some_rows(dtype, (length,), seed)
        if name not in self.model:
            with pytest.raises(KeyError):
                self.arrays.replace(name, data, deferred=deferred)
        elif self._attempt(lambda: self.arrays.replace(name, data, deferred=deferred)):
            self.model[name] = data.copy(), self.model[name][1]

    @rule(name=NAMES, deferred=st.booleans())
    def drop(self, name: str, deferred: bool) -> None:
        if name not in self.model:
            with pytest.raises(KeyError):
                self.arrays.drop(name, deferred=deferred)
        elif self._attempt(lambda: self.arrays.drop(name, deferred=deferred)):
            del self.model[name]

    @rule(old=NAMES, new=NAMES)
    def rename(self, old: str, new: str) -> None:
        if old not in self.model or new in self.model:
            with pytest.raises((KeyError, UsageError)):
                self.arrays.rename(old, new)
            return
        self.arrays.rename(old, new)
        self.model[new] = self.model.pop(old)

    # ------------------------------------------------------------ rows

    @precondition(lambda self: self.model)
    @rule(name=NAMES, count=st.integers(1, 5), times=st.sampled_from([1, 1, 300]), seed=SEEDS)
    def extend(self, name: str, count: int, times: int, seed: int) -> None:
        if name not in self.model:
            return
        array, attrs = self.model[name]
        rows = some_rows(array.dtype, (count * times, *array.shape[1:]), seed)
        if self._attempt(lambda: self.arrays[name].extend(rows)):
            self.model[name] = np.concatenate([array, rows], dtype=array.dtype), attrs

    @precondition(lambda self: self.model)
    @rule(name=NAMES, length=st.integers(0, 60))
    def resize(self, name: str, length: int) -> None:
        if name not in self.model:
            return
        array, attrs = self.model[name]
        zeros = np.zeros((max(length - len(array), 0), *array.shape[1:]), array.dtype)
        if self._attempt(lambda: self.arrays[name].resize(length)):
            self.model[name] = np.concatenate([array[:length], zeros], dtype=array.dtype), attrs

    @precondition(lambda self: self.model)
    @rule(name=NAMES, key=KEYS, as_mask=st.booleans(), seed=SEEDS)
    def assign(self, name: str, key: Any, as_mask: bool, seed: int) -> None:
        if name not in self.model:
            return
        array = self.model[name][0]
        if isinstance(key, list):
            key = [number for number in key if -len(array) <= number < len(array)]
            if as_mask:
                key = np.isin(np.arange(len(array)), key)
        value = some_rows(array.dtype, (1,), seed)[0]
        try:
            array[key] = value
        except IndexError:
            with pytest.raises(IndexError):
                self.arrays[name][key] = value
            return
        self.arrays[name][key] = value
        self.views = [(view, view.tobytes()) for view, _ in self.views]

    @precondition(lambda self: self.model)
    @rule(name=NAMES, key=st.sampled_from("xy"), value=st.text(max_size=5))
    def describe(self, name: str, key: str, value: str) -> None:
        if name in self.model:
            self.arrays[name].attrs[key] = value
            self.model[name] = self.model[name][0], {**self.model[name][1], key: value}

    # ------------------------------------------------------------ views, handles

    @precondition(lambda self: self.model and len(self.views) < 3)
    @rule(name=NAMES)
    def view(self, name: str) -> None:
        if name in self.model:
            view = self.arrays[name].view()
            self.views.append((view, view.tobytes()))

    @rule()
    def let_views_go(self) -> None:
        self.views.clear()

    @rule(name=NAMES)
    def keep_handle(self, name: str) -> None:
        if name in self.model:
            self.handles[name] = self.arrays[name]

    # ------------------------------------------------------------ transactions

    @precondition(lambda self: len(self.open) < 3)
    @rule()
    def begin(self) -> None:
        self.open.append((self.heap.transaction().__enter__(), copy_of(self.model)))

    @precondition(lambda self: self.open)
    @rule()
    def commit(self) -> None:
        self.open.pop()[0].commit()

    @precondition(lambda self: self.open)
    @rule()
    def abort(self) -> None:
        tx, self.model = self.open.pop()
        tx.abort()
        self.views = [(view, view.tobytes()) for view, _ in self.views]

    @precondition(lambda self: not self.open and self.path.exists())
    @rule()
    def open_again(self) -> None:
        self.views.clear()
        self.heap.close()
        for handle in self.handles.values():
            with pytest.raises(UsageError, match="it is closed"):
                handle[...]
        self.handles.clear()
        self.heap = Heap.open(self.path)
        self.objects = [Arrays(self.heap), Arrays(self.heap)]

    # ------------------------------------------------------------ what must hold

    @invariant()
    def both_are_the_same(self) -> None:
        if not hasattr(self, "objects"):
            return
        arrays = self.arrays
        assert (list(arrays), len(arrays)) == (sorted(self.model), len(self.model))
        for name, (expected, attrs) in self.model.items():
            found = arrays[name]
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert (found[...].tobytes(), dict(found.attrs)) == (expected.tobytes(), attrs)
        report = arrays.check()
        assert report, report.findings

    @invariant()
    def views_show_what_they_showed(self) -> None:
        for view, shown in self.views:
            assert view.tobytes() == shown

    @invariant()
    def handles_show_the_array_or_say_that_it_is_gone(self) -> None:
        for name, handle in self.handles.items():
            try:
                found = handle[...]
            except UsageError:
                continue
            assert found.tobytes() == self.model[name][0].tobytes()

    def teardown(self) -> None:
        for tx, _ in reversed(self.open):
            tx.abort()
        self.views.clear()
        if hasattr(self, "heap"):
            assert self.heap.check()
            self.heap.close()
        self.home.cleanup()


def copy_of(model: Model) -> Model:
    return {name: (array.copy(), dict(attrs)) for name, (array, attrs) in model.items()}


TestArraysMachine = ArraysMachine.TestCase
TestArraysMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestArraysMachine = pytest.mark.slow(TestArraysMachine)
