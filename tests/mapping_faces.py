"""The mappings of the package and of the key-value store, each as a `Face` that a test can make.

All of them promise what `dict` promises, as far as it fits a file: `test_mapping_contract.py` takes
every face through the same checks.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmemheap import Heap, kvstore
from pmemheap.containers import SortedMap
from pmemheap.kvstore.spill import AnyKeySpillStore, SpillStore
from pmemheap.kvstore.store import KVStore
from pmemheap.units import MiB

__all__ = ["FACES", "Face"]

Mapping = MutableMapping[Any, Any]


@dataclass(frozen=True)
class Face:
    """A kind of mapping.

    Attributes
    ----------
    name : str
        Of the kind.
    make : callable
        Makes an empty one in a directory; what the stack gets closes it.
    key, value : callable
        Make a key and a value that it can have of a text.
    default : object
        What `setdefault` stores if nothing is said; a TypeError if it refuses then.
    ordered, lists, named : bool
        Whether keys are in order and views may be ranges; whether `keys` is a list; whether
        ``update(name=value)`` can be meant.
    takes_any_key, takes_any_value : bool
        Whether nothing is refused.
    stored : callable
        How a key comes out again.
    """

    name: str
    make: Callable[[ExitStack, Path], Mapping]
    key: Callable[[str], Any]
    value: Callable[[str], Any]
    default: Any = b""
    ordered: bool = True
    lists: bool = False
    named: bool = True
    takes_any_key: bool = False
    takes_any_value: bool = False
    stored: Callable[[Any], Any] = lambda key: key


def _map(stack: ExitStack, heap: Heap) -> SortedMap:
    stack.enter_context(heap)
    return SortedMap(heap, "map")


def _store(stack: ExitStack, directory: Path, **options: Any) -> KVStore:
    return stack.enter_context(KVStore(directory / "a.kv", "process", **options))


def _expiring(stack: ExitStack, directory: Path) -> KVStore:
    store = _store(stack, directory)
    store.set(b"of another time", b"", ttl=1e-9)
    return store


def _limited(stack: ExitStack, directory: Path) -> KVStore:
    return _store(stack, directory, limit=MiB, evict="lru", count_hits=True)


def _sub(stack: ExitStack, directory: Path) -> Mapping:
    return _store(stack, directory).sub("name")


def _spill(stack: ExitStack, directory: Path) -> SpillStore:
    return SpillStore(_store(stack, directory))


def _dbm(stack: ExitStack, directory: Path) -> Mapping:
    return stack.enter_context(kvstore.open(directory / "a.kv", "n", durability="process"))


def _roots(stack: ExitStack, heap: Heap) -> Mapping:
    """Roots of a heap that has a block at every `_offset`."""
    stack.enter_context(heap)
    assert set(heap.malloc_many(16, _BLOCKS)) == {16 * number for number in range(_BLOCKS)}
    return heap.roots


def _offset(text: str) -> int:
    return 16 * (sum(text.encode()) % _BLOCKS)


_BLOCKS = 128

FACES = [
    Face("map in memory", lambda stack, _: _map(stack, Heap.anonymous()),
         str.encode, str.encode, named=False),
    Face("map in a power heap",
         lambda stack, home: _map(stack, Heap.create(home / "a.heap", durability="power")),
         str.encode, str.encode, named=False),
    Face("store", _store, str.encode, str.encode, named=False),
    Face("store with deadlines", _expiring, str.encode, str.encode, named=False),
    Face("store with a limit", _limited, str.encode, str.encode, named=False),
    Face("sub-store", _sub, str.encode, str.encode, named=False),
    Face("dbm", _dbm, str, str.encode, lists=True, stored=str.encode),
    Face("shelf", lambda stack, home: kvstore.Shelf(_store(stack, home)),
         str, lambda text: (text, 1), default=None, takes_any_value=True),
    Face("texts", lambda stack, home: kvstore.TextStore(_store(stack, home)), str, str, default=""),
    Face("spill", _spill, str, str.encode),
    Face("spill of any key", lambda stack, home: AnyKeySpillStore(_spill(stack, home)),
         lambda text: (text, 5), str.encode, ordered=False, named=False, takes_any_key=True),
    Face("roots", lambda stack, _: _roots(stack, Heap.anonymous()),
         str, _offset, default=TypeError, ordered=False),
    Face("roots of a file",
         lambda stack, home: _roots(stack, Heap.create(home / "a.heap", durability="power")),
         str, _offset, default=TypeError, ordered=False),
]  # fmt: skip
