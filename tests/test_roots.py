"""Roots as a mapping: who has them has the heap, and threads see one state of them."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pmemheap import Heap, UsageError
from pmemheap.containers import SortedMap

KINDS = ["anonymous", "process", "power"]


@pytest.fixture(params=KINDS)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    kind = request.param
    made = Heap.anonymous() if kind == "anonymous" else Heap.create(tmp_path / "a", durability=kind)
    with made:
        yield made


KEEPERS: list[Callable[[Any], Any]] = [
    lambda roots: roots,
    lambda roots: roots.items(),
    lambda roots: roots.values(),
    lambda roots: roots.keys(),
]


@pytest.mark.parametrize("of", KEEPERS)
def test_roots_keep_their_heap_open(of: Callable[[Any], Any]) -> None:
    kept = of(Heap.anonymous().roots)
    gc.collect()
    assert list(kept) == []


def test_a_heap_that_is_dropped_is_closed_at_once(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "heap")
    heap.roots["a"] = heap.malloc(10)
    gone = weakref.ref(heap)
    gc.disable()
    try:
        del heap
        assert gone() is None, "no cycle leads from a heap to its roots and back"
    finally:
        gc.enable()
    with Heap.open(tmp_path / "heap") as heap:
        assert list(heap.roots) == ["a"]


def test_views_are_as_those_of_a_dict(heap: Heap) -> None:
    offsets = list(heap.malloc_many(16, 3))
    model = dict(zip("abc", offsets, strict=True))
    heap.roots.update(model)
    with heap.transaction() as tx:
        for roots in (heap.roots, tx.roots):
            keys, values, items = roots.keys(), roots.values(), roots.items()
            assert (len(keys), len(values), len(items)) == (3, 3, 3)
            assert list(items) == list(model.items())
            assert list(keys) == list(model.keys())
            assert list(values) == list(model.values())
            assert keys & {"a", "z"} == {"a"}
            assert items - {("a", offsets[0])} == set(model.items()) - {("a", offsets[0])}
            assert offsets[1] in values
            assert -1 not in values
            assert ("a", offsets[0]) in items
            assert ("a", offsets[1]) not in items
        del tx.roots["a"]
        assert list(tx.roots.items()) == list(model.items())[1:]


@pytest.mark.parametrize("bad", [5, None, b"a", ("a",), 1.5])
def test_a_key_that_is_no_str_is_not_there_and_not_stored(heap: Heap, bad: Any) -> None:
    offset = heap.roots["a"] = heap.malloc(10)
    with heap.transaction() as tx:
        for roots in (heap.roots, tx.roots):
            assert bad not in roots
            assert roots.get(bad) is None
            assert roots.pop(bad, 7) == 7
            assert (bad, offset) not in roots.items()
            for call in (roots.__getitem__, roots.__delitem__, roots.pop):
                with pytest.raises(KeyError) as missing:
                    call(bad)
                assert missing.value.args == (bad,)
            stores: list[Callable[[Any], object]] = [
                lambda it: it.update({bad: offset}), lambda it: it.setdefault(bad, 0),
                lambda it: it.__setitem__(bad, offset),
            ]  # fmt: skip
            for store in stores:
                with pytest.raises(TypeError, match="key: str expected") as refused:
                    store(roots)
                assert repr(bad) in str(refused.value)
    assert dict(heap.roots) == {"a": offset}


def test_roots_are_iterated_beside_threads_that_change_them(heap: Heap) -> None:
    """A name that another thread removed was a KeyError in the middle of items()."""
    offset = heap.malloc(16)
    for number in range(40):
        heap.roots[f"kept {number}"] = offset
    stop = threading.Event()
    failures: list[BaseException] = []

    def change() -> None:
        try:
            while not stop.is_set():
                heap.roots["a"] = heap.roots["b"] = offset
                del heap.roots["a"]
                with heap.transaction() as tx:
                    tx.roots["c"] = offset
                    tx.roots.pop("b", None)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    for _ in range(300):
        assert {name for name, place in heap.roots.items() if place == offset} >= {"kept 1"}
        assert set(heap.roots.values()) == {offset}
        assert offset in heap.roots.values()
    stop.set()
    thread.join()
    assert not failures


def test_a_name_can_be_taken_once(heap: Heap) -> None:
    """Each of several threads that find no such name makes one; all get the same."""
    offsets = list(heap.malloc_many(16, 4))
    barrier = threading.Barrier(4)
    got: list[int] = []

    def work(offset: int) -> None:
        barrier.wait()
        got.append(heap.roots.setdefault("a", offset))

    threads = [threading.Thread(target=work, args=(offset,)) for offset in offsets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [heap.roots["a"]] * 4
    with pytest.raises(UsageError):
        heap.roots.setdefault("b", 1)
    with pytest.raises(TypeError):
        heap.roots.setdefault("b")
    assert heap.check()


def test_a_map_keeps_its_heap() -> None:
    found = SortedMap(Heap.anonymous(), "map")
    gc.collect()
    found[b"k"] = b"v"
    assert found[b"k"] == b"v"
