"""Examples: that they run, and keep what they say."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import pmemheap
from pmemheap import Budget

EXAMPLES = Path(__file__).parent.parent / "examples"


def loaded(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_readers_see_whole_commits_however_they_are_started() -> None:
    found = subprocess.run(
        [sys.executable, EXAMPLES / "readers.py"], capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines() == [
        "spawn: all sums are 5000",
        "fork: all sums are 5000",
        "loaders have read each table in place",
    ]


@pytest.fixture
def array_store() -> ModuleType:
    return loaded("array_store")


def test_budget_cache_makes_room(capsys: pytest.CaptureFixture[str]) -> None:
    loaded("budget_cache").main()
    kept, left = re.findall(r"^(\d+) arrays", capsys.readouterr().out, re.MULTILINE)
    assert 0 < int(left) < int(kept) < 40


def test_budget_cache_frees_later_what_somebody_looks_at() -> None:
    example = loaded("budget_cache")
    budget = Budget(4 << 20)
    cache = example.Cache(budget)
    first = cache.get("first", lambda: np.arange(1000.0))
    assert cache.get("first", lambda: np.zeros(1)) is first
    for number in range(10):
        cache.get(f"{number}", lambda: np.ones(100_000))
    assert "first" not in cache.arrays
    np.testing.assert_array_equal(first, np.arange(1000.0))
    assert budget.held <= budget.limit


def test_array_store_runs(
    array_store: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array_store.main(str(tmp_path / "arrays.heap"))
    assert "998001" in capsys.readouterr().out
    assert "array_store" not in sys.modules


def test_array_store_keeps_values_and_gives_space_back(
    array_store: ModuleType, tmp_path: Path
) -> None:
    path = str(tmp_path / "arrays.heap")
    store = array_store.ArrayStore(path)
    values = {f"a{i}": np.arange(i * 1000, dtype="f8").reshape(i, 1000) for i in range(1, 40)}
    store.update(values)
    kept = store["a7"]
    del store["a7"]
    np.testing.assert_array_equal(kept, values.pop("a7"))
    with pytest.raises(BufferError):
        store.close()
    del kept
    store.close()

    store = array_store.ArrayStore(path)
    assert store.keys() == values.keys()
    for name, expected in values.items():
        np.testing.assert_array_equal(store[name], expected)
    store.clear()
    assert store.heap.check()
    assert store.heap.stats().blocks == 1, "the index alone is left"
    store.close()
    assert Path(path).stat().st_size < 2 << 20


def test_array_store_takes_names_that_its_index_can_keep(
    array_store: ModuleType, tmp_path: Path
) -> None:
    store = array_store.ArrayStore(str(tmp_path / "arrays.heap"))
    with pytest.raises(TypeError, match="name: str expected, found 5"):
        store[5] = np.zeros(3)
    store["list"] = [1, 2, 3]
    assert store["list"].tolist() == [1, 2, 3]
    assert 5 not in store
    with pytest.raises(KeyError):
        store[5]
    blocks = store.heap.stats().blocks
    for refused in (object(), np.array([object()]), None):
        with pytest.raises((TypeError, ValueError)):
            store["bad"] = refused
    assert (list(store), store.heap.stats().blocks) == (["list"], blocks)
    store.close()


def test_feature_store_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded("feature_store").main(str(tmp_path / "features.heap"))
    assert "is in row 1234, product 1.000" in capsys.readouterr().out


def test_feature_store_keeps_keys_and_vectors_together(tmp_path: Path) -> None:
    path, module = str(tmp_path / "features.heap"), loaded("feature_store")
    store = module.FeatureStore(path)
    for number in range(300):
        store[b"%d" % number] = np.full(module.DIMENSIONS, number)
    for number in range(0, 300, 2):
        del store[b"%d" % number]
    store[b"1"] = np.full(module.DIMENSIONS, -5)
    with pytest.raises(ValueError, match="reshape"):
        store.update_many([(b"new", np.zeros(module.DIMENSIONS)), (b"bad", np.zeros(3))])
    store.close()
    store = module.FeatureStore(path)
    assert b"new" not in store
    assert sorted(store) == sorted(b"%d" % number for number in range(1, 300, 2))
    assert store[b"1"][0] == -5
    assert [product for _, product in store.nearest(np.ones(module.DIMENSIONS), 2)] == [
        299.0 * module.DIMENSIONS,
        297.0 * module.DIMENSIONS,
    ]
    assert store.heap.check()
    store.close()


def test_work_queue_runs(capsys: pytest.CaptureFixture[str]) -> None:
    loaded("work_queue").main()
    assert "10000 jobs done; the file takes" in capsys.readouterr().out


def test_a_killed_worker_leaves_its_jobs(tmp_path: Path) -> None:
    path, child = tmp_path / "queue", os.fork()
    if child == 0:
        queue = loaded("work_queue").WorkQueue(pmemheap.Heap.create(path, durability="process"))
        for number in range(100):
            queue.put(b"%d" % number)
        for _ in range(30):
            queue.work(lambda job, scratch: None)
        queue.work(lambda job, scratch: os.kill(os.getpid(), signal.SIGKILL))
    os.waitpid(child, 0)
    left: list[int] = []
    with pmemheap.Heap.open(path) as heap:
        queue = loaded("work_queue").WorkQueue(heap)
        while queue.work(lambda job, scratch: left.append(int(bytes(job)))):
            pass
        assert left == list(range(30, 100))
        assert heap.check()


def test_a_job_that_fails_is_the_next_one_still() -> None:
    def fail(job: memoryview, scratch: object) -> None:
        raise RuntimeError(bytes(job))

    done: list[bytes] = []
    with pmemheap.Heap.anonymous() as heap:
        queue = loaded("work_queue").WorkQueue(heap)
        for job in (b"first", b"", b"third" * 50_000):
            queue.put(job)
        with pytest.raises(RuntimeError, match="first"):
            queue.work(fail)
        while queue.work(lambda job, scratch: done.append(bytes(job))):
            pass
        assert done == [b"first", b"", b"third" * 50_000]
        assert heap.check()
