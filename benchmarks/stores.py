"""Stores: a table of 10 000 values on a disk, kept by pmemheap and by others, behind one face.

    one operation   the value under one key is replaced by another of the same length
    one commit      some operations that become part of the store together
    pmemheap        malloc of the new value, write of its offset into a table, free of the old one
    LMDB, SQLite    one put, one UPDATE by a statement that is prepared
    libpmemobj      tx_alloc, tx_add_range of the slot in the table, tx_free

Each lives in a process of its own: so every one has its own counters of what it wrote, and
libpmemobj can be loaded both ways.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from native_build import BuildError, cffi_peer
from peers import PeerUnavailableError, heap_class

KEYS = 10_000
VALUE_BYTES = 100
TABLE_ENTRY_BYTES = 8
MAP_BYTES = 64 << 20
ROOTS = 100
BATCHES = 1000  # Of keys, drawn before the clock starts.
SECTOR_BYTES = 512  # Of /proc/diskstats, whatever the device has.
Keys = list[int]


class Store:
    """A table of values; made and filled in an empty directory, a context manager in no need."""

    def commit(self, keys: Keys, value: bytes) -> None:
        """Give all `keys` a new value, all or none."""
        raise NotImplementedError

    def logged(self) -> tuple[int, int]:
        """Return bytes written to a log, and syncs of it, since the store was made; if known."""
        return 0, 0

    def close(self) -> None:
        """Let the store go."""


# --------------------- pmemheap


class Pmemheap(Store):
    """A heap file: offsets of the values in a table, which is a block as well."""

    def __init__(self, directory: Path, durability: str, durable: bool) -> None:
        self.heap = heap_class().create(directory / "heap", durability=durability)
        self._durable = durable
        self._table = self.heap.malloc(KEYS * TABLE_ENTRY_BYTES)
        self._offsets = self.heap.view(self._table, KEYS * TABLE_ENTRY_BYTES).cast("Q")
        self._offsets[:] = self.heap.malloc_many(VALUE_BYTES, KEYS)
        self.heap.roots["table"] = self._table
        self.heap.sync()

    def commit(self, keys: Keys, value: bytes) -> None:
        offsets, table = self._offsets, self._table
        with self.heap.transaction(durable=self._durable) as tx:
            for key in keys:
                offset = tx.malloc(VALUE_BYTES)
                tx.write(offset, value)
                tx.free(offsets[key])
                tx.write(table + TABLE_ENTRY_BYTES * key, offset.to_bytes(8, "little"))

    def logged(self) -> tuple[int, int]:
        _, nbytes, syncs = self.heap._space.shared.log.counters()
        return nbytes, syncs

    def close(self) -> None:
        self._offsets.release()
        self.heap.close()


class PmemheapRoots(Store):
    """The same with a root for each of 100 values: no byte in place is changed.

    A lazy commit of a power heap waits for a sync when it changes bytes in place: they may not
    reach the disk before their record. Of blocks that come and go only the record is written.
    """

    def __init__(self, directory: Path, durability: str, durable: bool) -> None:
        self.heap = heap_class().create(directory / "heap", durability=durability)
        self._durable = durable
        self._names = [str(number) for number in range(ROOTS)]
        with self.heap.transaction() as tx:
            tx.roots.update({name: tx.malloc(VALUE_BYTES) for name in self._names})

    def commit(self, keys: Keys, value: bytes) -> None:
        with self.heap.transaction(durable=self._durable) as tx:
            roots = tx.roots
            for key in keys:
                name = self._names[key % ROOTS]
                offset = tx.malloc(VALUE_BYTES)
                tx.write(offset, value)
                tx.free(roots[name])
                roots[name] = offset

    def logged(self) -> tuple[int, int]:
        _, nbytes, syncs = self.heap._space.shared.log.counters()
        return nbytes, syncs

    def close(self) -> None:
        self.heap.close()


# --------------------- LMDB


class Lmdb(Store):
    """LMDB through its Python binding; keys of 8 bytes, big-endian."""

    def __init__(self, directory: Path, **options: bool) -> None:
        try:
            lmdb = importlib.import_module("lmdb")
        except ImportError as error:
            raise PeerUnavailableError(f"LMDB: {error} (pip install lmdb)") from error
        self._env = lmdb.open(str(directory / "lmdb"), map_size=MAP_BYTES, **options)
        self._keys = [key.to_bytes(8, "big") for key in range(KEYS)]
        self.commit(list(range(KEYS)), bytes(VALUE_BYTES))

    def commit(self, keys: Keys, value: bytes) -> None:
        names = self._keys
        with self._env.begin(write=True) as transaction:
            put = transaction.put
            for key in keys:
                put(names[key], value)

    def close(self) -> None:
        self._env.close()


# --------------------- SQLite


class Sqlite(Store):
    """SQLite with a write-ahead log; the binding keeps the statement prepared."""

    UPDATE = "UPDATE store SET value = ? WHERE key = ?"

    def __init__(self, directory: Path, synchronous: str) -> None:
        self._database = sqlite3.connect(directory / "sqlite", isolation_level=None)
        execute = self._database.execute
        execute("PRAGMA journal_mode = WAL")
        execute("CREATE TABLE store (key INTEGER PRIMARY KEY, value BLOB)")
        execute("BEGIN")
        self._database.executemany(
            "INSERT INTO store VALUES (?, ?)", ((key, bytes(VALUE_BYTES)) for key in range(KEYS))
        )
        execute("COMMIT")
        execute("PRAGMA wal_checkpoint(TRUNCATE)")
        execute(f"PRAGMA synchronous = {synchronous}")
        self._execute = execute

    def commit(self, keys: Keys, value: bytes) -> None:
        execute = self._execute
        if len(keys) == 1:  # A transaction of its own, and two statements fewer.
            execute(self.UPDATE, (value, keys[0]))
            return
        execute("BEGIN")
        for key in keys:
            execute(self.UPDATE, (value, key))
        execute("COMMIT")

    def close(self) -> None:
        self._database.close()


# --------------------- libpmemobj


def _pmemobj() -> tuple[Any, Any]:
    try:
        pair: tuple[Any, Any] = cffi_peer(
            "pmemobj_store", "", "pmemobj_store.c", ("pmemobj", "pmem"), "store.h"
        )
    except BuildError as error:
        raise PeerUnavailableError(f"{error} (apt-get install libpmemobj-dev)") from error
    return pair


def make_pool(path: str) -> int:
    """Make a pool and fill it; 0, or -1."""
    lib = _pmemobj()[1]
    if lib.store_make(os.fsencode(path), MAP_BYTES, KEYS, VALUE_BYTES) != 0:
        return -1
    lib.store_close()
    return 0


class PmemobjStore(Store):
    """libpmemobj in C, one call a commit; its pool is an ordinary file, or taken for more."""

    def __init__(self, directory: Path, durable: bool) -> None:
        os.environ["PMEM_IS_PMEM_FORCE"] = str(int(not durable))  # Read when it is loaded.
        self._ffi, self._lib = _pmemobj()
        path = directory / "pool"
        # Filled by somebody who syncs nothing: the 10 000 commits would take minutes.
        command = [sys.executable, __file__, str(path)]
        filled = subprocess.run(command, check=False, env=os.environ | {"PMEM_IS_PMEM_FORCE": "1"})
        if filled.returncode != 0:
            raise PeerUnavailableError("libpmemobj: no pool could be filled")
        if self._lib.store_open(os.fsencode(path), KEYS, VALUE_BYTES) != 0:
            raise PeerUnavailableError(f"libpmemobj: no pool of {MAP_BYTES} bytes")
        if bool(self._lib.store_syncs()) != durable:
            raise PeerUnavailableError("libpmemobj: another kind of memory")

    def commit(self, keys: Keys, value: bytes) -> None:
        if self._lib.store_commit(self._ffi.new("uint64_t[]", keys), len(keys), value) != 0:
            raise MemoryError("libpmemobj: transaction aborted")

    def close(self) -> None:
        self._lib.store_close()


# --------------------- contenders

DURABLE: dict[str, Callable[[Path], Store]] = {
    "pmemheap": lambda directory: Pmemheap(directory, "power", True),
    "SQLite WAL, FULL": lambda directory: Sqlite(directory, "FULL"),
    "LMDB": Lmdb,
    "LMDB, writemap": lambda directory: Lmdb(directory, writemap=True),
    "libpmemobj": lambda directory: PmemobjStore(directory, True),
}
"""Every commit that has returned survives a power failure."""

LAZY: dict[str, Callable[[Path], Store]] = {
    "pmemheap, process": lambda directory: Pmemheap(directory, "process", False),
    "pmemheap, power, lazy": lambda directory: Pmemheap(directory, "power", False),
    "pmemheap, power, lazy, roots": lambda directory: PmemheapRoots(directory, "power", False),
    "SQLite WAL, NORMAL": lambda directory: Sqlite(directory, "NORMAL"),
    "SQLite WAL, OFF": lambda directory: Sqlite(directory, "OFF"),
    "LMDB, sync=False": lambda directory: Lmdb(directory, sync=False),
    "LMDB, sync=False, writemap": lambda directory: Lmdb(directory, sync=False, writemap=True),
    "libpmemobj, nothing synced": lambda directory: PmemobjStore(directory, False),
}
"""Every commit that has returned survives the end of the process."""


@dataclass(frozen=True)
class Turn:
    """What one turn of a contender took.

    Attributes
    ----------
    commits : int
    seconds : float
        Of all of them.
    log_bytes, syncs : int
        Of the log, where the store has one and tells.
    fewest_syncs : int
        Of one of ten commits behind them: of one when nothing else was due.
    disk_bytes : int
        That reached the device, until all of it was there: file system and neighbours included. 0
        where the system does not count them.
    """

    commits: int
    seconds: float
    log_bytes: int
    syncs: int
    fewest_syncs: int
    disk_bytes: int


GROUPS = {"durable": DURABLE, "lazy": LAZY}


class Timed:
    """A store; it is asked for operations a commit, and seconds, and answers with a `Turn`."""

    def __init__(self, group: str, name: str, home: Path) -> None:
        self._directory = home
        self._store = GROUPS[group][name](home)
        self.close = self._store.close

    def answer(self, asked: tuple[int, float]) -> Turn:
        settle(self._directory)
        return _turn(self._store, self._directory, *asked)


def settle(directory: Path) -> None:
    """Sync what the turn before has left: the system would write it back in the turn of others."""
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # Some stores clean up by themselves.
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


def _turn(store: Store, directory: Path, operations: int, seconds: float) -> Turn:
    rng = random.Random(operations)
    batches = [[rng.randrange(KEYS) for _ in range(operations)] for _ in range(BATCHES)]
    batches = [list(dict.fromkeys(keys)) for keys in batches]  # A key once a commit.
    stamp = time.perf_counter_ns()  # No value comes twice: SQLite does not write what is there.
    rest = bytes(VALUE_BYTES - 8)
    store.commit(batches[-1], stamp.to_bytes(8, "little") + rest)
    log, syncs = store.logged()
    written, clock, commit = _disk_bytes(directory), time.perf_counter, store.commit
    done, began = 0, time.perf_counter()
    while (took := clock() - began) < seconds:
        done += 1
        commit(batches[done % BATCHES], (stamp + done).to_bytes(8, "little") + rest)
    log_after, syncs_after = store.logged()
    settle(directory)
    written = _disk_bytes(directory) - written
    fewest = min(_syncs_of_one(store, batches[number], stamp + number) for number in range(10))
    return Turn(done, took, log_after - log, syncs_after - syncs, fewest, written)


def _syncs_of_one(store: Store, keys: Keys, stamp: int) -> int:
    _, before = store.logged()
    store.commit(keys, stamp.to_bytes(8, "little") + bytes(VALUE_BYTES - 8))
    return store.logged()[1] - before


def _disk_bytes(directory: Path) -> int:
    """Return what was written so far to the device on which a directory lies."""
    device = directory.stat().st_dev
    for line in Path("/proc/diskstats").read_text(encoding="ascii").splitlines():
        fields = line.split()
        if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)):
            return int(fields[9]) * SECTOR_BYTES
    return 0


def power_refusal() -> str | None:
    """Tell why the directory for temporary files cannot keep what must survive the power."""
    with tempfile.TemporaryDirectory() as home:
        heap: Any = heap_class()
        try:
            heap.create(Path(home) / "heap", durability="power").close()
        except ValueError as refused:
            what = str(refused).replace(f"{home}/", "")
            return f"{what}; name another directory with TMPDIR"
    return None


if __name__ == "__main__":
    sys.exit(make_pool(sys.argv[1]))
