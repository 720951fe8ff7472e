"""Spilling into a heap file: below zict, and below a Dask worker."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import zict
from distributed import Client, LocalCluster

import pmemheap
from pmemheap.errors import HeapBusyError
from pmemheap.kvstore.spill import AnyKeySpillStore, HeapSpillBuffer, SpillStore
from pmemheap.kvstore.store import KVStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spill.kv"


@pytest.fixture
def spill(path: Path) -> Iterator[SpillStore]:
    spill = SpillStore(KVStore(path, durability="process"))
    yield spill
    spill.close()


def test_it_is_a_mapping_of_texts_to_bytes(spill: SpillStore) -> None:
    spill.update({"ä": b"1", "b": b"2"})
    spill["b"] = [b"a", memoryview(b"bc")]
    assert dict(spill) == {"b": b"abc", "ä": b"1"}
    spill["b"] = (bytearray(b"a"), memoryview(b"b"), b"c")
    assert dict(spill) == {"b": b"abc", "ä": b"1"}
    assert ("b" in spill, "c" in spill, len(spill)) == (True, False, 2)
    del spill["b"]
    for missing in (spill.__getitem__, spill.__delitem__):
        with pytest.raises(KeyError, match="'b'"):
            missing("b")


def test_zict_keeps_the_latest_and_spills_the_others(spill: SpillStore, path: Path) -> None:
    fast: dict[str, bytes] = {}
    buffer = zict.Buffer(fast, spill, n=3)
    for i in range(10):
        buffer[f"k{i}"] = bytes([i]) * 1000
    assert (sorted(fast), len(spill), len(buffer)) == (["k7", "k8", "k9"], 7, 10)
    assert buffer["k0"] == bytes(1000), "comes back, and another goes"
    assert ("k0" in fast, "k0" in spill, "k7" in spill) == (True, False, True)
    del buffer["k1"]
    assert "k1" not in buffer
    assert {key: value[0] for key, value in buffer.items()} == {
        f"k{i}": i for i in range(10) if i != 1
    }
    buffer.evict_until_below_target(0)
    buffer.close()
    with KVStore(path) as store:
        assert len(store) == 9, "found again"
        store.check()


def test_values_of_any_kind_go_through_a_func(spill: SpillStore) -> None:
    def load(data: bytes) -> Any:
        return np.frombuffer(data, "f8")

    buffer = zict.Buffer({}, zict.Func(np.ndarray.tobytes, load, spill), n=1)
    for i in range(4):
        buffer[str(i)] = np.full(100, float(i))
    np.testing.assert_array_equal(buffer["2"], np.full(100, 2.0))


def test_keys_of_any_kind(spill: SpillStore) -> None:
    store = AnyKeySpillStore(spill)
    keys: list[Any] = ["1", 1, ("x", 0, 1), b"1"]
    for number, key in enumerate(keys):
        store[key] = [bytes([number]), b"!"]
    store[1] = b"again"
    assert list(store) == keys
    assert store[("x", 0, 1)] == b"\x02!"
    copy: Any = store[("x", 0, 1)]
    copy[0] = 9
    assert [store["1"], store[1], store[("x", 0, 1)]] == [b"\x00!", b"again", b"\x02!"]
    del store["1"]
    assert ("1" in store, 1 in store, len(store), len(spill)) == (False, True, 3, 3)
    with pytest.raises(KeyError):
        del store["1"]


def test_a_full_file_is_an_os_error_and_changes_nothing(path: Path) -> None:
    spill = AnyKeySpillStore(SpillStore(KVStore(path, "process", limit=4 << 20)))
    with pytest.raises(OSError, match=f"Errno {errno.ENOSPC}"):
        spill.update((i, bytes(200_000)) for i in range(100))
    assert list(spill) == list(range(len(spill)))
    assert 0 < len(spill) < 20
    spill.close()


def test_a_spill_buffer_without_a_worker(tmp_path: Path) -> None:
    buffer = HeapSpillBuffer(str(tmp_path), target=1_000_000)
    arrays = {("a", i): np.full(50_000, float(i)) for i in range(8)}
    buffer.update(arrays)
    assert len(buffer.memory) == 2
    assert len(buffer.disk) == len(buffer.store) == 6
    assert buffer.spilled_total.memory > 2_000_000
    assert buffer.evict() >= 400_000
    for key, array in arrays.items():
        np.testing.assert_array_equal(buffer[key], array)
    back: Any = buffer[("a", 3)]
    back[0] = 7  # an array that came back can be changed
    for key in arrays:
        del buffer[key]
    assert buffer.spilled_total == (0, 0)
    assert len(buffer.store) == 0
    buffer.close()
    assert not buffer.path.exists()


# ---------------------------------------------------------------- as Dask tests its own


OF_THE_COLLECTOR = sys.getsizeof(object.__new__(type("Empty", (), {"__sizeof__": lambda _: 0})))


class Big:
    """A value of a known size, which may refuse to be written or read."""

    def __init__(self, size: int, refuses: str = "") -> None:
        self.size = size
        self.refuses = refuses

    def __sizeof__(self) -> int:
        return self.size - OF_THE_COLLECTOR

    def __getstate__(self) -> Any:
        if self.refuses == "dump":
            raise LookupError("not to be written")
        return {"size": self.size, "refuses": self.refuses, "padding": os.urandom(self.size)}

    def __setstate__(self, state: Any) -> None:
        self.size, self.refuses = state["size"], state["refuses"]


@pytest.fixture
def buffer(tmp_path: Path) -> Iterator[HeapSpillBuffer]:
    buffer = HeapSpillBuffer(str(tmp_path), target=1000, max_spill=3000)
    yield buffer
    buffer.store.check()
    buffer.close()


def places(buffer: HeapSpillBuffer) -> tuple[set[Any], set[Any]]:
    assert set(buffer) == set(buffer.memory) | set(buffer.disk)
    return set(buffer.memory), set(buffer.disk)


def test_what_is_over_the_target_goes_to_disk_and_comes_back(buffer: HeapSpillBuffer) -> None:
    for key in "abc":
        buffer[key] = Big(400)
    assert places(buffer) == ({"b", "c"}, {"a"})
    assert cast("Big", buffer["a"]).size == 400
    assert places(buffer) == ({"a", "c"}, {"b"})
    buffer["large"] = Big(1500)
    assert places(buffer) == ({"a", "c"}, {"b", "large"}), "at once"
    del buffer["b"], buffer["a"]
    assert places(buffer) == ({"c"}, {"large"})
    assert buffer.spilled_total.memory == 1500
    with pytest.raises(KeyError):
        buffer["a"]


def test_more_than_the_limit_stays_in_memory(
    buffer: HeapSpillBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    buffer["a"] = Big(1500)
    buffer["b"] = Big(2000)
    assert places(buffer) == ({"b"}, {"a"})
    assert "Spill file on disk reached capacity" in caplog.text
    assert buffer.evict() == -1
    del buffer["a"]
    assert buffer.evict() == 2000
    assert places(buffer) == (set(), {"b"})


def test_a_value_that_cannot_be_written_is_the_error_of_the_one_that_stores_it(
    buffer: HeapSpillBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TypeError, match="Failed to pickle 'bad'"):
        buffer["bad"] = Big(1500, "dump")
    assert places(buffer) == (set(), set())
    buffer["bad"] = Big(600, "dump")
    buffer["good"] = Big(600)
    assert places(buffer) == ({"bad", "good"}, set()), "kept, and another's fault"
    assert "Failed to pickle 'bad'" in caplog.text


def test_a_disk_that_refuses_leaves_values_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = HeapSpillBuffer(str(tmp_path), target=1000)
    buffer["a"] = Big(600)

    def refuse(*_: Any) -> None:
        raise pmemheap.OutOfSpaceError("no room")

    monkeypatch.setattr(KVStore, "set", refuse)
    buffer["b"] = Big(600)
    assert places(buffer) == ({"a", "b"}, set())
    assert "Spill to disk failed; keeping data in memory" in caplog.text
    assert buffer.evict() == -1
    monkeypatch.undo()
    assert buffer.evict() == 600
    assert places(buffer) == ({"b"}, {"a"})
    buffer.close()


def test_keys_of_one_text_are_kept_apart(tmp_path: Path) -> None:
    buffer = HeapSpillBuffer(str(tmp_path), target=1000)
    keys: list[Any] = [1, "1", b"1", ("1",), "('1',)"]
    for size, key in enumerate(keys, 1100):
        buffer[key] = Big(size)
    assert places(buffer) == (set(), set(keys))
    for size, key in enumerate(keys, 1100):
        assert cast("Big", buffer[key]).size == size
    buffer.close()


def test_a_value_in_use_is_not_made_twice(buffer: HeapSpillBuffer) -> None:
    buffer["a"] = value = Big(1200)
    assert places(buffer) == (set(), {"a"})
    assert buffer["a"] is value, "it was still there"
    del value
    first = buffer["a"]
    assert buffer["a"] is first


def test_reading_and_writing_is_metered_and_pop_is_refused(buffer: HeapSpillBuffer) -> None:
    buffer["a"] = Big(1200)
    assert cast("Big", buffer["a"]).size == 1200
    assert buffer.cumulative_metrics["disk-write", "count"] == 1
    assert buffer.cumulative_metrics["disk-read", "count"] == 1
    assert buffer.cumulative_metrics["disk-read", "bytes"] > 1200
    with pytest.raises(NotImplementedError):
        buffer.pop("a", None)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.unsanitized
@pytest.mark.slow
def test_what_is_spilled_is_no_memory_of_the_process(tmp_path: Path) -> None:
    buffer = HeapSpillBuffer(str(tmp_path), target=1_000_000)
    before = resident()
    for i in range(60):
        buffer[i] = np.full(250_000, float(i))
    sums: list[Any] = [np.sum(buffer[i]) for i in range(60)]  # type: ignore[call-overload]
    assert sums == [250_000.0 * i for i in range(60)]
    assert resident() - before < 60_000_000, "120 MB were spilled"
    buffer.store.check()
    buffer.close()


def test_what_an_earlier_worker_left_is_gone(tmp_path: Path) -> None:
    first = HeapSpillBuffer(str(tmp_path), target=1)
    first["a"] = b"x" * 1000
    first.store.close()
    assert first.path.exists()
    second = HeapSpillBuffer(str(tmp_path), target=1)
    assert not second
    second.close()


def test_what_a_worker_at_work_has_is_not_taken_away(tmp_path: Path) -> None:
    with closing(HeapSpillBuffer(str(tmp_path), target=0)) as first:
        first["key"] = b"x" * 1000
        with pytest.raises(HeapBusyError):
            HeapSpillBuffer(str(tmp_path), target=0)
        assert first["key"] == b"x" * 1000


@pytest.mark.slow
def test_a_dask_worker_spills_and_computes(tmp_path: Path) -> None:
    data = (HeapSpillBuffer, {"target": 2_000_000})
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="localhost:0",
            local_directory=os.fspath(tmp_path), data=data, memory_limit=0,
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        parts = client.map(np.full, [125_000] * 12, [float(i) for i in range(12)])
        sums = client.gather(client.map(np.sum, parts))
        (worker,) = cluster.workers.values()
        assert sums == [125_000.0 * i for i in range(12)]
        assert len(worker.data.store) >= 10
        np.testing.assert_array_equal(parts[0].result(), np.zeros(125_000))
        del parts
        buffer = worker.data
    buffer.store.check()
    buffer.close()
