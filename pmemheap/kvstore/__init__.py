"""kvstore: an ordered store of keys and values in one heap file. `docs/kvstore.md` is its manual.

server     for clients of Redis                connections  what has arrived is committed together
commands   what their requests mean            resp         how they are written
patterns   of keys, as KEYS and SCAN have them
spill      the slow layer of a zict, of a Dask worker
sharded    a store over several heap files, each an actor of Dask
cli        get, put, delete, scan, load, dump, snapshot, stats, check, purge, compact, serve
loading    CSV and JSON lines, in and out
dbmlike    `pmemheap.kvstore.open`: str or bytes, as `dbm` takes them
store      KVStore: bytes to bytes   storefile  its file       figures    its statistics
shelf      str keys over a store: pickled values, text
deadlines  when keys expire          texts      str as keys    closing    the end of a `with` block
"""

from pmemheap.kvstore.dbmlike import DbmError as error  # noqa: N813 -- as those of dbm name theirs
from pmemheap.kvstore.dbmlike import DbmStore
from pmemheap.kvstore.dbmlike import open_store as open  # noqa: A004 -- kvstore.open, as dbm.open
from pmemheap.kvstore.figures import StoreStats
from pmemheap.kvstore.shelf import Shelf, TextStore
from pmemheap.kvstore.store import KVStore

__all__ = ["DbmStore", "KVStore", "Shelf", "StoreStats", "TextStore", "error", "open"]
