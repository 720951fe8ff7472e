"""Spilling into a heap file: below zict, and below a Dask worker."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zict
from distributed import Client, LocalCluster
from kvstore.spill import AnyKeySpillStore, HeapSpillBuffer, SpillStore
from kvstore.store import KVStore


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


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


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


@pytest.mark.slow
def test_a_dask_worker_spills_and_computes(tmp_path: Path) -> None:
    data = (HeapSpillBuffer, {"target": 2_000_000})
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None,
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
