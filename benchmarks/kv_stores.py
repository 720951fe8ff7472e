"""Key-value stores behind one face: `pmemheap.kvstore`, and others that can be installed.

    one operation   a method of the store, which is a commit of its own
    apply           some puts that become part of the store together
    "process"       a commit survives the end of its process
    "power"         a commit that has returned survives a power failure

What each does for the one and the other stands in `PROCESS` and `POWER`. A method that a store does
not have is None, and is left out: others would only show what it costs to do without. Only `patch`
is done by all, by reading and writing the whole value where nothing better is there.
"""

from __future__ import annotations

import importlib
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from peers import PeerUnavailableError
from workloads import GiB, MiB

from pmemheap import DurabilityName
from pmemheap.kvstore import KVStore

Pairs = Sequence[tuple[bytes, bytes]]
Changes = Sequence[tuple[bytes, bytes, bytes]]
"""A key that goes, and a pair that comes."""
MAP_BYTES = 8 * GiB  # Addresses that LMDB takes; the file is as long as its data.
CACHE_BYTES = 64 * MiB


def imported(module: str, install: str) -> Any:
    """Import what may not be there; raises `PeerUnavailableError` with what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PeerUnavailableError(f"{error} ({install})") from error


class Kv:
    """A store in a directory; made if it is not there.

    Attributes
    ----------
    get, put, delete : callable
        Of one key; `get` returns a copy.
    scan : callable or None
        Return so many entries from a key on, in order.
    scan_back : callable or None
        Return so many entries back from a key, without it.
    view : callable or None
        Read the first byte of a value where it lies.
    apply : callable or None
        Put some pairs, all or none.
    change : callable or None
        Delete some keys and put as many pairs, all or none.
    """

    get: Callable[[bytes], Any]
    put: Callable[[bytes, bytes], Any]
    delete: Callable[[bytes], Any]
    scan: Callable[[bytes, int], Sequence[Any]] | None = None
    scan_back: Callable[[bytes, int], Sequence[Any]] | None = None
    view: Callable[[bytes], int] | None = None
    apply: Callable[[Pairs], None] | None = None
    change: Callable[[Changes], None] | None = None

    def put_long(self, key: bytes, value: bytes) -> None:
        """Put a value of a megabyte or so."""
        self.put(key, value)

    def get_long(self, key: bytes) -> Any:
        """Return a copy of such a value."""
        return self.get(key)

    def patch(self, key: bytes, offset: int, data: bytes) -> None:
        """Change bytes inside of such a value."""
        value = bytearray(self.get(key))
        value[offset : offset + len(data)] = data
        self.put(key, bytes(value))

    def compact(self) -> None:
        """Give back what is not needed, as far as the store can."""

    def close(self) -> None:
        """Close it; the directory can be opened again."""
        raise NotImplementedError


# --------------------- pmemheap


class Ours(Kv):
    """`pmemheap.kvstore.KVStore`."""

    def __init__(self, directory: Path, durability: DurabilityName) -> None:
        self._store = store = KVStore(directory / "store.kv", durability)
        self.get, self.put, self.delete = store.get, store.set, store.delete
        self.scan, self.view, self.apply = store.scan, self._view, self._apply
        self.scan_back, self.change = self._scan_back, self._change

    def _scan_back(self, key: bytes, count: int) -> Sequence[Any]:
        return list(islice(self._store.items(stop=key, reverse=True), count))

    def _change(self, changes: Changes) -> None:
        with self._store.transaction():
            for victim, key, value in changes:
                self._store.delete(victim)
                self._store.set(key, value)

    def _view(self, key: bytes) -> int:
        with self._store.view(key) as view:
            first: int = view[0]
        return first

    def _apply(self, pairs: Pairs) -> None:
        put = self._store.set
        with self._store.transaction():
            for key, value in pairs:
                put(key, value)

    def patch(self, key: bytes, offset: int, data: bytes) -> None:
        self._store.patch(key, offset, data)

    def compact(self) -> None:
        self._store.compact()

    def close(self) -> None:
        self._store.close()


# --------------------- LMDB


class Lmdb(Kv):
    """LMDB; a transaction for each call, and buffers of the map for `view`."""

    def __init__(self, directory: Path, **options: bool) -> None:
        self._lmdb = imported("lmdb", "pip install lmdb")
        self._path, self._options = directory / "lmdb", options
        self._open()
        self.get, self.put, self.delete = self._get, self._put, self._delete
        self.scan, self.view, self.apply = self._scan, self._view, self._apply
        self.scan_back, self.change = self._scan_back, self._change

    def _open(self) -> None:
        self._env = self._lmdb.open(str(self._path), map_size=MAP_BYTES, **self._options)

    def _get(self, key: bytes) -> Any:
        with self._env.begin() as transaction:
            return transaction.get(key)

    def _put(self, key: bytes, value: bytes) -> None:
        with self._env.begin(write=True) as transaction:
            transaction.put(key, value)

    def _delete(self, key: bytes) -> None:
        with self._env.begin(write=True) as transaction:
            transaction.delete(key)

    def _scan(self, key: bytes, count: int) -> Sequence[Any]:
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            return list(islice(cursor, count)) if cursor.set_range(key) else []

    def _scan_back(self, key: bytes, count: int) -> Sequence[Any]:
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            behind = cursor.set_range(key)
            found = cursor.iterprev()
            return list(islice(found, 1 if behind else 0, count + (1 if behind else 0)))

    def _change(self, changes: Changes) -> None:
        with self._env.begin(write=True) as transaction:
            for victim, key, value in changes:
                transaction.delete(victim)
                transaction.put(key, value)

    def _view(self, key: bytes) -> int:
        with self._env.begin(buffers=True) as transaction:
            first: int = transaction.get(key)[0]
        return first

    def _apply(self, pairs: Pairs) -> None:
        with self._env.begin(write=True) as transaction:
            for key, value in pairs:
                transaction.put(key, value)

    def compact(self) -> None:
        """Copy it without its free pages, and put the copy in its place."""
        copy = self._path.with_name("copy")
        copy.mkdir()
        self._env.copy(str(copy), compact=True)
        self._env.close()
        shutil.rmtree(self._path)
        copy.rename(self._path)
        self._open()

    def close(self) -> None:
        self._env.close()


# --------------------- RocksDB, LevelDB


class RocksDb(Kv):
    """RocksDB by rocksdict, keys and values as they are."""

    def __init__(self, directory: Path, sync: bool) -> None:
        self._module = module = imported("rocksdict", "pip install rocksdict")
        self._database = database = module.Rdict(
            str(directory / "rocksdb"), module.Options(raw_mode=True)
        )
        options = module.WriteOptions()
        options.sync = sync
        database.set_write_options(options)
        self._options = options
        self.get, self.put, self.delete = database.get, database.put, database.delete
        self.scan, self.apply, self.change = self._scan, self._apply, self._change
        self.scan_back = self._scan_back

    def _scan(self, key: bytes, count: int) -> Sequence[Any]:
        return list(islice(self._database.items(from_key=key), count))

    def _scan_back(self, key: bytes, count: int) -> Sequence[Any]:
        found = self._database.items(backwards=True, from_key=key)
        return [entry for entry in islice(found, count + 1) if entry[0] != key][:count]

    def _change(self, changes: Changes) -> None:
        batch = self._module.WriteBatch(raw_mode=True)
        for victim, key, value in changes:
            batch.delete(victim)
            batch.put(key, value)
        self._database.write(batch, self._options)

    def _apply(self, pairs: Pairs) -> None:
        batch = self._module.WriteBatch(raw_mode=True)
        for key, value in pairs:
            batch.put(key, value)
        self._database.write(batch, self._options)

    def compact(self) -> None:
        self._database.flush()
        self._database.compact_range(None, None)

    def close(self) -> None:
        self._database.close()


class LevelDb(Kv):
    """LevelDB by plyvel."""

    def __init__(self, directory: Path, sync: bool) -> None:
        plyvel = imported("plyvel", "pip install plyvel")
        self._database = plyvel.DB(str(directory / "leveldb"), create_if_missing=True)
        self._sync = sync
        self.get = self._database.get
        self.put, self.delete = self._database.put, self._database.delete
        if sync:
            self.put, self.delete = self._put, self._delete
        self.scan, self.apply, self.change = self._scan, self._apply, self._change
        self.scan_back = self._scan_back

    def _put(self, key: bytes, value: bytes) -> None:
        self._database.put(key, value, sync=True)

    def _delete(self, key: bytes) -> None:
        self._database.delete(key, sync=True)

    def _scan(self, key: bytes, count: int) -> Sequence[Any]:
        with self._database.iterator(start=key) as entries:
            return list(islice(entries, count))

    def _scan_back(self, key: bytes, count: int) -> Sequence[Any]:
        with self._database.iterator(stop=key, reverse=True) as entries:
            return list(islice(entries, count))

    def _change(self, changes: Changes) -> None:
        with self._database.write_batch(transaction=True, sync=self._sync) as batch:
            for victim, key, value in changes:
                batch.delete(victim)
                batch.put(key, value)

    def _apply(self, pairs: Pairs) -> None:
        with self._database.write_batch(transaction=True, sync=self._sync) as batch:
            for key, value in pairs:
                batch.put(key, value)

    def compact(self) -> None:
        self._database.compact_range()

    def close(self) -> None:
        self._database.close()


# --------------------- SQLite and what is built on it


class Sqlite(Kv):
    """SQLite with a write-ahead log, a large cache, and its file mapped.

    Long values are kept in a table of another kind, whose rows can be changed in place.
    """

    TABLES = (
        "CREATE TABLE IF NOT EXISTS store (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS long (key BLOB PRIMARY KEY, value BLOB)",
    )
    GET = "SELECT value FROM store WHERE key = ?"
    PUT = "INSERT OR REPLACE INTO store VALUES (?, ?)"
    SCAN = "SELECT key, value FROM store WHERE key >= ? ORDER BY key LIMIT ?"
    SCAN_BACK = "SELECT key, value FROM store WHERE key < ? ORDER BY key DESC LIMIT ?"
    DELETE = "DELETE FROM store WHERE key = ?"

    def __init__(self, directory: Path, synchronous: str) -> None:
        self._database = sqlite3.connect(directory / "sqlite", isolation_level=None)
        self._execute = execute = self._database.execute
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {synchronous}")
        execute(f"PRAGMA cache_size = -{CACHE_BYTES // 1024}")
        execute(f"PRAGMA mmap_size = {GiB}")
        for table in self.TABLES:
            execute(table)
        self.get, self.put, self.delete = self._get, self._put, self._delete
        self.scan, self.apply, self.change = self._scan, self._apply, self._change
        self.scan_back = self._scan_back

    def _get(self, key: bytes) -> Any:
        found = self._execute(self.GET, (key,)).fetchone()
        return None if found is None else found[0]

    def _put(self, key: bytes, value: bytes) -> None:
        self._execute(self.PUT, (key, value))

    def _delete(self, key: bytes) -> None:
        self._execute(self.DELETE, (key,))

    def _scan(self, key: bytes, count: int) -> Sequence[Any]:
        return self._execute(self.SCAN, (key, count)).fetchall()

    def _scan_back(self, key: bytes, count: int) -> Sequence[Any]:
        return self._execute(self.SCAN_BACK, (key, count)).fetchall()

    def _change(self, changes: Changes) -> None:
        self._execute("BEGIN")
        self._database.executemany(self.DELETE, [(victim,) for victim, _, _ in changes])
        self._database.executemany(self.PUT, [(key, value) for _, key, value in changes])
        self._execute("COMMIT")

    def _apply(self, pairs: Pairs) -> None:
        self._execute("BEGIN")
        self._database.executemany(self.PUT, pairs)
        self._execute("COMMIT")

    def put_long(self, key: bytes, value: bytes) -> None:
        self._execute("INSERT OR REPLACE INTO long VALUES (?, ?)", (key, value))

    def get_long(self, key: bytes) -> Any:
        return self._execute("SELECT value FROM long WHERE key = ?", (key,)).fetchone()[0]

    def patch(self, key: bytes, offset: int, data: bytes) -> None:
        row = self._execute("SELECT rowid FROM long WHERE key = ?", (key,)).fetchone()[0]
        with self._database.blobopen("long", "value", row) as blob:
            blob.seek(offset)
            blob.write(data)

    def compact(self) -> None:
        self._execute("VACUUM")
        self._execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._database.close()


class DiskCache(Kv):
    """diskcache, which evicts nothing; long values are files of their own."""

    def __init__(self, directory: Path, synchronous: int) -> None:
        diskcache = imported("diskcache", "pip install diskcache")
        self._cache = cache = diskcache.Cache(
            str(directory / "diskcache"),
            eviction_policy="none",
            size_limit=1 << 40,
            cull_limit=0,
            sqlite_synchronous=synchronous,
        )
        self.get, self.put, self.delete = cache.get, cache.set, cache.delete
        self.apply, self.change = self._apply, self._change

    def _change(self, changes: Changes) -> None:
        with self._cache.transact():
            for victim, key, value in changes:
                self._cache.delete(victim)
                self._cache.set(key, value)

    def _apply(self, pairs: Pairs) -> None:
        with self._cache.transact():
            for key, value in pairs:
                self._cache.set(key, value)

    def compact(self) -> None:
        self._cache.check()  # Which vacuums, into the log.
        self._cache.close()  # Which empties the log; the next call opens it again.

    def close(self) -> None:
        self._cache.close()


# --------------------- dbm


class Gnu(Kv):
    """GNU dbm: no order, no transactions."""

    def __init__(self, directory: Path) -> None:
        gnu = imported("dbm.gnu", "a Python that was built with libgdbm")
        self._database = database = gnu.open(str(directory / "gdbm"), "cf")
        self.get, self.put, self.delete = database.get, self._put, self._delete

    def _put(self, key: bytes, value: bytes) -> None:
        self._database[key] = value

    def _delete(self, key: bytes) -> None:
        del self._database[key]

    def compact(self) -> None:
        self._database.reorganize()

    def close(self) -> None:
        self._database.close()


# --------------------- contenders

Make = Callable[[Path], Kv]
OURS = "pmemheap"
LMDB_NAMES = "LMDB"
"""With what the names of those of LMDB begin."""
LMDB, LMDB_MAPPED = "LMDB, sync=False", "LMDB, sync=False, writemap"
ROCKSDB_SYNC, LEVELDB_SYNC, SQLITE_FULL = "RocksDB, sync", "LevelDB, sync", "SQLite WAL, FULL"
SYNCED_BY_OTHERS = (SQLITE_FULL, ROCKSDB_SYNC, LEVELDB_SYNC)
"""Whose commit of one operation ours may not be slower than."""

PROCESS: dict[str, Make] = {
    OURS: lambda directory: Ours(directory, "process"),
    LMDB: lambda directory: Lmdb(directory, sync=False),
    LMDB_MAPPED: lambda directory: Lmdb(directory, sync=False, writemap=True),
    "RocksDB, no sync": lambda directory: RocksDb(directory, sync=False),
    "LevelDB, no sync": lambda directory: LevelDb(directory, sync=False),
    "SQLite WAL, OFF": lambda directory: Sqlite(directory, "OFF"),
    "diskcache, OFF": lambda directory: DiskCache(directory, 0),
    "GNU dbm, fast": Gnu,
}
"""Every commit that has returned survives the end of the process; GNU dbm promises less."""

POWER: dict[str, Make] = {
    OURS: lambda directory: Ours(directory, "power"),
    "LMDB": Lmdb,
    "LMDB, writemap": lambda directory: Lmdb(directory, writemap=True),
    ROCKSDB_SYNC: lambda directory: RocksDb(directory, sync=True),
    LEVELDB_SYNC: lambda directory: LevelDb(directory, sync=True),
    SQLITE_FULL: lambda directory: Sqlite(directory, "FULL"),
    "diskcache, FULL": lambda directory: DiskCache(directory, 2),
}
"""Every commit that has returned survives a power failure; GNU dbm cannot promise that."""

GROUPS = {"process": PROCESS, "power": POWER}

FAMILIES = (OURS, "LMDB", "LMDB, writemap", "RocksDB", "LevelDB", "SQLite", "diskcache", "GNU dbm")
"""What both groups have, in the order of each."""
