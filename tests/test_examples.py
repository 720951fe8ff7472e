"""Examples: that they run, and keep what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def array_store() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "array_store", EXAMPLES / "array_store.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


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
