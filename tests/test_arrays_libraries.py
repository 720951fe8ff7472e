"""Named arrays in the hands of other libraries: with a copy or without, as docs/arrays.md says.

Each is collected where the library is installed: `make libraries` installs those that wheels bring
in a minute. torch is tested where it is there.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pmemheap import Heap
from pmemheap.containers import Array, Arrays

Take = Callable[[Any, Array], Any]
"""Given the library and an array, returns what it makes of it, and how numpy sees that."""

NO_COPY, COPY = True, False

CASES: list[tuple[str, str, str, Take, bool]] = [
    ("numpy", "from_dlpack", "table", lambda np, a: np.from_dlpack(a), NO_COPY),
    ("numpy", "asarray", "table", lambda np, a: np.asarray(a), NO_COPY),
    ("numpy", "a[...]", "table", lambda np, a: a[...], COPY),
    ("pandas", "Series", "line", lambda pd, a: pd.Series(a, copy=False).to_numpy(), NO_COPY),
    ("pandas", "Series of times", "times",
     lambda pd, a: pd.Series(a, copy=False).to_numpy(), NO_COPY),
    ("pandas", "Series by default", "line", lambda pd, a: pd.Series(a.view()).to_numpy(), COPY),
    ("pandas", "DataFrame", "table",
     lambda pd, a: pd.DataFrame(a.view(), copy=False).to_numpy(), NO_COPY),
    ("pandas", "DataFrame of columns", "line",
     lambda pd, a: pd.DataFrame({"a": a.view()}, copy=False)["a"].to_numpy(), NO_COPY),
    ("pandas", "DataFrame of fields", "fields",
     lambda pd, a: pd.DataFrame(a.view())["p"].to_numpy(), COPY),
    ("polars", "Series", "line", lambda pl, a: pl.Series(a.view()).to_numpy(), NO_COPY),
    ("polars", "DataFrame of columns", "line",
     lambda pl, a: pl.DataFrame({"a": a.view()})["a"].to_numpy(), NO_COPY),
    ("polars", "from_numpy", "table", lambda pl, a: pl.from_numpy(a.view())[:, 0].to_numpy(), COPY),
    ("pyarrow", "array", "line", lambda pa, a: pa.array(a.view()).to_numpy(), NO_COPY),
    ("pyarrow", "array of times", "times", lambda pa, a: pa.array(a.view()).to_numpy(), NO_COPY),
    ("pyarrow", "array of strings", "words",
     lambda pa, a: pa.array(a.view()).to_numpy(zero_copy_only=False), COPY),
    ("pyarrow", "table", "line",
     lambda pa, a: pa.table({"a": a.view()})["a"].chunk(0).to_numpy(), NO_COPY),
    ("pyarrow", "Tensor", "table",
     lambda pa, a: pa.Tensor.from_numpy(a.view()).to_numpy(), NO_COPY),
    ("pyarrow", "py_buffer", "line", lambda pa, a: np.frombuffer(pa.py_buffer(a.view())), NO_COPY),
    ("torch", "from_dlpack", "table", lambda torch, a: torch.from_dlpack(a).numpy(), NO_COPY),
    ("torch", "from_numpy", "table", lambda torch, a: torch.from_numpy(a.view()).numpy(), NO_COPY),
]  # fmt: skip

INSTALLED = [case for case in CASES if importlib.util.find_spec(case[0])]


@pytest.mark.slow  # the import of a library
@pytest.mark.parametrize(
    ("library", "which", "take", "is_shared"),
    [(library, which, take, shared) for library, _, which, take, shared in INSTALLED],
    ids=[f"{library}-{what}" for library, what, *_ in INSTALLED],
)
def test_other_libraries_take_it(library: str, which: str, take: Take, is_shared: bool) -> None:
    with Heap.anonymous() as heap:
        arrays = Arrays(heap)
        arrays.update({
            "table": np.arange(6.0).reshape(3, 2),
            "line": np.arange(6.0),
            "times": np.arange(3).astype("M8[ns]"),
            "fields": np.zeros(3, [("p", "f4"), ("q", "i8")]),
            "words": ["a", "bc"],
        })  # fmt: skip
        array = arrays[which]
        taken = take(importlib.import_module(library), array)
        assert (taken.__array_interface__["data"][0] == array.view().ctypes.data) == is_shared
        if is_shared:
            array[0] = array[1]
            assert (np.asarray(taken) == array[...]).all()
            with pytest.raises(BufferError):
                arrays.drop(which)
        del taken, array
