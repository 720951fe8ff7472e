"""Stores of named arrays that are measured beside each other; each in a directory of its own.

What cannot be imported is not measured: `stores` names it.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pmemheap import DurabilityName, Heap
from pmemheap.containers import Arrays

Rows = np.ndarray[Any, Any]


class Store(ABC):
    """Arrays by name. A handle is what the store gives for one: what is called again and again."""

    title: ClassVar[str]
    needs: ClassVar[str] = "numpy"
    small_most: ClassVar[int] = 1 << 60
    """Small arrays beyond which it would take minutes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.start()

    @abstractmethod
    def start(self) -> None:
        """Make it, or open what is there."""

    @abstractmethod
    def close(self) -> None:
        """Let it go, with all that it has stored."""

    @abstractmethod
    def create(self, names: list[str], rows: Rows) -> None:
        """Make arrays that are all the same, and can grow."""

    @abstractmethod
    def open(self, name: str) -> Any:
        """Return a handle."""

    @abstractmethod
    def append(self, name: str, handle: Any, row: Rows) -> Any:
        """Add a row; return the handle to go on with."""

    def reading(self, handle: Any) -> Any:
        """Return what rows are read of, of a handle: made once."""
        return handle

    def everything(self, reading: Any) -> Rows:
        """Return all rows as an array of numpy, of what `reading` returns."""
        rows: Rows = reading[...]
        return rows

    @abstractmethod
    def drop(self, name: str) -> None:
        """Remove an array."""


class Pmemheap(Store):
    title = "pmemheap, process"
    durability: ClassVar[DurabilityName] = "process"

    def start(self) -> None:
        path = self.home / "arrays.heap"
        self.heap = (
            Heap.open(path) if path.exists() else Heap.create(path, durability=self.durability)
        )
        self.arrays = Arrays(self.heap)

    def close(self) -> None:
        self.heap.trim()
        self.heap.close()

    def create(self, names: list[str], rows: Rows) -> None:
        self.arrays.update((name, rows) for name in names)

    def open(self, name: str) -> Any:
        return self.arrays[name]

    def append(self, name: str, handle: Any, row: Rows) -> Any:
        handle.append(row)
        return handle

    def reading(self, handle: Any) -> Any:
        return handle.view()

    def drop(self, name: str) -> None:
        del self.arrays[name]


class PmemheapPower(Pmemheap):
    title = "pmemheap, power"
    durability = "power"


class H5py(Store):
    title = "h5py"
    needs = "h5py"

    def start(self) -> None:
        h5py = importlib.import_module("h5py")
        self.file = h5py.File(self.home / "arrays.h5", "a", libver="latest")

    def close(self) -> None:
        self.file.close()

    def create(self, names: list[str], rows: Rows) -> None:
        most = (None, *rows.shape[1:])
        chunks = (min(len(rows), 1024), *rows.shape[1:])
        for name in names:
            self.file.create_dataset(name, data=rows, maxshape=most, chunks=chunks)

    def open(self, name: str) -> Any:
        return self.file[name]

    def append(self, name: str, handle: Any, row: Rows) -> Any:
        handle.resize(len(handle) + 1, axis=0)
        handle[-1] = row
        return handle

    def drop(self, name: str) -> None:
        del self.file[name]


class Zarr(Store):
    title = "zarr"
    needs = "zarr"
    small_most = 2000

    def start(self) -> None:
        zarr = importlib.import_module("zarr")
        self.group = zarr.open_group(str(self.home / "arrays.zarr"), mode="a")

    def close(self) -> None:
        del self.group

    def create(self, names: list[str], rows: Rows) -> None:
        chunks = (min(len(rows), 1024), *rows.shape[1:])
        for name in names:
            self.group.create_array(name, data=rows, chunks=chunks, compressors=None)

    def open(self, name: str) -> Any:
        return self.group[name]

    def append(self, name: str, handle: Any, row: Rows) -> Any:
        handle.append(row[None])
        return handle

    def drop(self, name: str) -> None:
        del self.group[name]


class Memmap(Store):
    """A file for each, of which the program has to know dtype and shape of the rows."""

    title = "numpy.memmap"

    def __init__(self, home: Path) -> None:
        self.rows: dict[str, Rows] = {}
        super().__init__(home)

    def start(self) -> None:
        """Do nothing: the directory is there."""

    def close(self) -> None:
        """Do nothing: each file was closed."""

    def create(self, names: list[str], rows: Rows) -> None:
        for name in names:
            rows.tofile(self.home / name)
            self.rows[name[:1]] = rows[:0]

    def open(self, name: str) -> Any:
        like = self.rows[name[:1]]
        return np.memmap(self.home / name, like.dtype, "r+").reshape(-1, *like.shape[1:])

    def append(self, name: str, handle: Any, row: Rows) -> Any:
        with (self.home / name).open("ab") as file:
            file.write(row.tobytes())
        return self.open(name)

    def drop(self, name: str) -> None:
        (self.home / name).unlink()


STORES: tuple[type[Store], ...] = (Pmemheap, PmemheapPower, H5py, Zarr, Memmap)


def stores(home: Path) -> tuple[list[Store], list[str]]:
    """Return the stores that can be had, each in a new directory, and what is missing."""
    made, missing = [], []
    for number, kind in enumerate(STORES):
        if importlib.util.find_spec(kind.needs) is None:
            missing.append(kind.title)
            continue
        (where := home / str(number)).mkdir()
        made.append(kind(where))
    return made, missing


def disk_bytes(store: Store) -> int:
    """Return the bytes of the blocks of all files of a store, directories as well."""
    return 512 * sum(path.lstat().st_blocks for path in [store.home, *store.home.rglob("*")])


def remove(store: Store) -> None:
    """Close a store and remove its files."""
    store.close()
    shutil.rmtree(store.home)
