"""keys: commands on keys, whatever their values are.

A cursor of SCAN is a number under which the last key is kept that was given out. The store is in
key order, so a scan sees every key that is there from its begin to its end, whatever comes and goes
meanwhile. Cursors are kept for the whole server, the latest thousands of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import count, islice
from typing import TYPE_CHECKING

from pmemheap.kvstore.commands.registry import ALL, FIRST, FIRST_TWO, Group, in_group
from pmemheap.kvstore.commands.words import SYNTAX, number, scan_options
from pmemheap.kvstore.cursor import end_of
from pmemheap.kvstore.patterns import glob_pattern, glob_prefix
from pmemheap.kvstore.resp import Reply, ReplyError, parse_integer

if TYPE_CHECKING:
    from pmemheap.kvstore.commands.running import Commands
    from pmemheap.kvstore.commands.session import Session

__all__ = ["CURSORS_MOST", "SCANNED_MOST", "Cursors"]

command: Group = in_group("generic")

CURSORS_MOST = 10_000
SCANNED_MOST = 10_000
"""Keys that one SCAN looks at: others wait for it."""

_OK = "OK"
_NO_KEY = "ERR no such key"
_NO_DATABASE = "ERR DB index is out of range"
_EMBEDDED_MOST = 44


class Cursors:
    """Numbers for keys after which scans go on."""

    def __init__(self) -> None:
        self._keys: OrderedDict[int, bytes] = OrderedDict()
        self._numbers = count(1)

    def keep(self, key: bytes) -> int:
        """Return a number for a key; the oldest one is forgotten when there are too many."""
        found = next(self._numbers)
        self._keys[found] = key
        if len(self._keys) > CURSORS_MOST:
            self._keys.popitem(last=False)
        return found

    def key(self, text: bytes) -> bytes | None:
        """Return the key of a number, None for the beginning."""
        cursor = parse_integer(text)
        if cursor == 0:
            return None
        if cursor is None or cursor not in self._keys:
            raise ReplyError("ERR invalid cursor")
        return self._keys[cursor]


@command("UNLINK", "4.0.0", 1, flags="write fast", keys=ALL, uses="RM delete")
@command("DEL", "1.0.0", 1, flags="write", keys=ALL, uses="RM delete")
def delete(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Remove keys; return how many were there."""
    if len(arguments) == 1:
        return on.keys.delete(arguments[0])
    with on.store.transaction():
        return sum([on.keys.delete(key) for key in arguments])


@command("EXISTS", "1.0.0", 1, flags="readonly fast", keys=ALL, uses="RO")
def exists(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return how many of the keys are there, one that is named twice counting twice."""
    return sum(key in on.store for key in arguments)


@command("TOUCH", "3.2.1", 1, flags="readonly fast", keys=ALL, uses="RO")
def touch(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Use keys for nothing; return how many are there."""
    return sum(key in on.store for key in arguments)


@command("TYPE", "1.0.0", 1, 1, flags="readonly fast", keys=FIRST, uses="RO")
def type_(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return what kind of value a key has."""
    return "string" if arguments[0] in on.store else "none"


@command("RANDOMKEY", "1.0.0", 0, 0, flags="readonly")
def randomkey(on: Commands, _: Session, __: list[bytes]) -> Reply:
    """Return some key."""
    return on.keys.random_key()


# ---------------------------------------------------------------- all keys


@command("KEYS", "1.0.0", 1, 1, flags="readonly", categories="keyspace dangerous")
def keys(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return the keys that match a pattern."""
    matches = glob_pattern(arguments[0]).fullmatch
    return on.bounded(key for key in _keys_from(on, glob_prefix(arguments[0])) if matches(key))


@command("SCAN", "2.8.0", 1, flags="readonly")
def scan(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return some keys that match a pattern, and a cursor to go on from."""
    pattern, most, strings = scan_options(arguments[1:])
    after = on.cursors.key(arguments[0])
    most = min(most, SCANNED_MOST)
    found = list(islice(_keys_from(on, glob_prefix(pattern), after), most))
    following = on.cursors.keep(found[-1]) if len(found) == most else 0
    matches = glob_pattern(pattern).fullmatch
    return [b"%d" % following, [key for key in found if strings and matches(key)]]


def _keys_from(on: Commands, prefix: bytes, after: bytes | None = None) -> Iterator[bytes]:
    """Yield the keys that begin with `prefix`, those behind `after`."""
    start = prefix if after is None else max(prefix, after)
    for key in on.keys.keys_from(start or None, end_of(prefix)):
        if key != after:
            yield key


# ---------------------------------------------------------------- names


@command("RENAME", "1.0.0", 2, 2, flags="write", keys=FIRST_TWO, uses="RW access delete; OW update")
def rename(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Give a value another key, in place of what that had."""
    old, new = arguments
    _move(on, old, new)
    return _OK


@command(
    "RENAMENX",
    "1.0.0",
    2,
    2,
    flags="write fast",
    keys=FIRST_TWO,
    uses="RW access delete; OW insert",
)
def renamenx(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Give a value another key if that has none."""
    old, new = arguments
    if old in on.store and new in on.store:
        return 0
    _move(on, old, new)
    return 1


def _move(on: Commands, old: bytes, new: bytes) -> None:
    value, deadline = on.store.entry(old)
    if value is None:
        raise ReplyError(_NO_KEY)
    if old != new:
        with on.store.transaction():
            on.keys.set(new, value, deadline)
            on.keys.delete(old)


@command("COPY", "6.2.0", 2, flags="write denyoom", keys=FIRST_TWO, uses="RO access; OW update")
def copy(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Give a value a second key."""
    source, target, *words = arguments
    replaces = _copy_options(words)
    if source == target:
        raise ReplyError("ERR source and destination objects are the same")
    value, deadline = on.store.entry(source)
    if value is None or (not replaces and target in on.store):
        return 0
    on.keys.set(target, value, deadline)
    return 1


def _copy_options(words: list[bytes]) -> bool:
    replaces = False
    rest = iter(words)
    for word in map(bytes.upper, rest):
        if word == b"REPLACE":
            replaces = True
        elif word == b"DB" and (text := next(rest, None)) is not None:
            _require_database(text)
        else:
            raise ReplyError(SYNTAX)
    return replaces


def _require_database(text: bytes) -> None:
    """Refuse a number of another database than the one that there is."""
    if number(text):
        raise ReplyError(_NO_DATABASE)


@command("MOVE", "1.0.0", 2, 2, flags="write fast", keys=FIRST, uses="RW access update")
def move(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Refuse to move a key to another database: there is one."""
    _require_database(arguments[1])
    raise ReplyError("ERR source and destination objects are the same")


# ---------------------------------------------------------------- what a value is


@command("OBJECT|ENCODING", "2.2.3", 1, 1, flags="readonly", keys=FIRST, uses="RO")
def object_encoding(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return how Redis would keep a value: as a number, a short string or a string."""
    value = on.keys.get(arguments[0])
    if value is None:
        return None
    if parse_integer(value) is not None:
        return b"int"
    return b"embstr" if len(value) <= _EMBEDDED_MOST else b"raw"


@command("OBJECT|REFCOUNT", "2.2.3", 1, 1, flags="readonly", keys=FIRST, uses="RO")
def object_refcount(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return how many keys share a value in memory: none does."""
    return 1 if arguments[0] in on.store else None


@command("OBJECT|IDLETIME", "2.2.3", 1, 1, flags="readonly", keys=FIRST, uses="RO")
def object_idletime(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return the seconds since a command named a key, counted from the first time this is asked."""
    return on.keys.idle_seconds(arguments[0]) if arguments[0] in on.store else None


@command("OBJECT|FREQ", "4.0.0", 1, 1, flags="readonly", keys=FIRST, uses="RO")
def object_freq(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Refuse: how often keys are used is not counted."""
    if arguments[0] not in on.store:
        return None
    raise ReplyError(
        "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note "
        "that when switching between policies at runtime LRU and LFU data will take some time to "
        "adjust."
    )


@command("WAIT", "3.0.0", 2, 2, flags="noscript", categories="connection")
def wait(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Return how many replicas have what was written: there are none."""
    replicas, timeout = map(number, arguments)
    if min(replicas, timeout) < 0:
        raise ReplyError("ERR timeout is negative")
    return 0
