"""The example of a key-value store: what it keeps, what expires, what a crash leaves."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pmemheap import CorruptHeapError
from pmemheap.testing import copy_as_crashed

EXAMPLE = Path(__file__).parent.parent / "examples" / "kvstore" / "small_store.py"
NS = 1_000_000_000
NOW = [1_700_000_000 * NS]


@pytest.fixture(scope="module")
def example() -> Any:
    specification = importlib.util.spec_from_file_location("small_store", EXAMPLE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def store(example: Any, tmp_path: Path) -> Iterator[Any]:
    store = example.SmallStore(str(tmp_path / "a.heap"), "process", clock=lambda: NOW[0])
    yield store
    store.check()
    store.close()


def test_the_example_is_short() -> None:
    lines = [path.read_text(encoding="utf-8").count("\n") for path in EXAMPLE.parent.glob("*.py")]
    assert sum(lines) < 250


def test_it_runs(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example.main(str(tmp_path / "fruit.heap"))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "1000 keys, 100 of a hundred"
    assert said[1] == "no session after its deadline"
    assert int(said[2].split()[0]) >= 0
    assert said[3] == "100 keys after it was opened again"


def test_it_is_a_mapping_in_key_order(store: Any) -> None:
    store.update({b"b": b"2", b"a": b"1", b"c": b"3"})
    assert list(store.items()) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    assert list(store.between(b"b", b"c")) == [b"b"]
    assert store.pop(b"a") == b"1"
    assert (b"a" in store, len(store)) == (False, 2)
    with pytest.raises(KeyError):
        del store[b"a"]


def test_keys_expire_and_are_purged(store: Any) -> None:
    for number in range(250):
        store.set(b"%d" % number, b"x", seconds=5 + number // 200)
    store.set(b"0", b"for good")
    NOW[0] += 5 * NS
    assert (b"1" in store, b"200" in store, len(store)) == (False, True, 51)
    with pytest.raises(KeyError):
        del store[b"1"]  # which removes it, as the next change of it does
    assert store.purge() == 198
    assert (len(store.deadlines), len(store.due), len(store)) == (50, 50, 51)


def test_an_error_takes_all_of_a_change_back(store: Any) -> None:
    store.set(b"a", b"1", seconds=9)
    with pytest.raises(TypeError):
        store.set(b"a", "no bytes", seconds=10)
    with pytest.raises(KeyError), store.heap.transaction():
        del store[b"a"], store[b"b"]
    assert dict(store) == {b"a": b"1"}


def test_what_was_committed_is_there_after_a_crash(
    example: Any, store: Any, tmp_path: Path
) -> None:
    store.set(b"a", b"1", seconds=9)
    copy = tmp_path / "copy.heap"
    with store.heap.transaction():
        store[b"a"] = b"2"
        copy_as_crashed(store.heap.name, copy)
    found = example.SmallStore(str(copy), clock=lambda: NOW[0])
    found.check()
    assert dict(found) == {b"a": b"1"}
    found.close()


def test_check_finds_maps_that_are_apart(example: Any, tmp_path: Path) -> None:
    store = example.SmallStore(str(tmp_path / "a.heap"), "process")
    store.set(b"a", b"1", seconds=9)
    store.due.clear()
    with pytest.raises(CorruptHeapError, match="maps in step expected"):
        store.check()
    store.close()
