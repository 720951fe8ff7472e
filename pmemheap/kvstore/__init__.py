"""kvstore: an ordered store of keys and values in one heap file. `docs/kvstore.md` is its manual.

server     for clients of Redis                connections  what has arrived is committed together
commands   what their requests mean            resp         how they are written
patterns   of keys, as KEYS and SCAN have them
spill      the slow layer of a zict, of a Dask worker
sharded    a store over several heap files, each an actor of Dask
asyncstore for asyncio: one thread, shared commits             memoizing  results of functions
arrow      tables of Apache Arrow
cli        get, put, delete, scan, load, dump, snapshot, stats, check, purge, compact, serve
loading    CSV and JSON lines, in and out
dbmlike    `pmemheap.kvstore.open`: str or bytes, as `dbm` takes them
store      KVStore: a file of keys and values, and of sub-stores
substore   keys and values under a name: what changes them     reading    what does not
eviction   which key goes when a limit is reached              limiting   how a store gets a limit
deadlines  when keys expire          tags       groups of keys            counters   numbers, hits
cursor     from key to key           shelf      str keys: pickled values, text
storefile  the file of a store       figures    its statistics            entries    its map
texts      str as keys               closing    the end of a `with` block
shown      StoreSnapshot: a store as of one commit
"""

from pmemheap.kvstore.asyncstore import AsyncKVStore
from pmemheap.kvstore.cursor import Cursor
from pmemheap.kvstore.dbmlike import DbmError as error  # noqa: N813 -- as those of dbm name theirs
from pmemheap.kvstore.dbmlike import DbmStore
from pmemheap.kvstore.dbmlike import open_store as open  # noqa: A004 -- kvstore.open, as dbm.open
from pmemheap.kvstore.figures import StoreStats
from pmemheap.kvstore.memoizing import memoize
from pmemheap.kvstore.shelf import Shelf, TextStore
from pmemheap.kvstore.shown import StoreSnapshot
from pmemheap.kvstore.store import KVStore
from pmemheap.kvstore.substore import SubStore

__all__ = [
    "AsyncKVStore",
    "Cursor",
    "DbmStore",
    "KVStore",
    "Shelf",
    "StoreSnapshot",
    "StoreStats",
    "SubStore",
    "TextStore",
    "error",
    "memoize",
    "open",
]
