"""strings: commands on values, which are bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmemheap.kvstore.commands.keyspace import MS, SECOND
from pmemheap.kvstore.commands.lcs import longest_common
from pmemheap.kvstore.commands.registry import (
    ALL,
    FIRST,
    FIRST_TWO,
    PAIRS,
    Group,
    in_group,
    wrong_number,
)
from pmemheap.kvstore.commands.words import SetOptions, add_floats, moment, number
from pmemheap.kvstore.resp import Reply, ReplyError

if TYPE_CHECKING:
    from pmemheap.kvstore.commands.running import Commands
    from pmemheap.kvstore.commands.session import Session

command: Group = in_group("string")

_OK = "OK"
_OF_SET = frozenset({b"NX", b"XX", b"GET", b"KEEPTTL"})
_OF_GETEX = frozenset({b"PERSIST"})
_INTEGERS = range(-(1 << 63), 1 << 63)


@command("GET", "1.0.0", 1, 1, flags="readonly fast", keys=FIRST, uses="RO access")
def get(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return the value of a key."""
    value: bytes | None = on.store.get(arguments[0])
    return value


@command(
    "SET", "1.0.0", 2, flags="write denyoom", keys=FIRST, uses="RW access update variable_flags"
)
def set_(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Give a key a value, on conditions and for a time, and return the old one if asked to."""
    key, value, *words = arguments
    if not words:
        on.keys.set(key, value)
        return _OK
    options = SetOptions(words, _OF_SET)
    deadline = options.deadline(on.keys.now(), "set")
    old, before = on.store.entry(key) if options.looks else (None, None)
    if not options.condition or (old is not None) == (options.condition == b"XX"):
        on.keys.set(key, value, before if options.keeps else deadline)
    elif not options.gets:
        return None
    return old if options.gets else _OK


@command("SETNX", "1.0.0", 2, 2, flags="write denyoom fast", keys=FIRST, uses="OW insert")
def setnx(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Give a key a value if it has none."""
    if arguments[0] in on.store:
        return 0
    on.keys.set(arguments[0], arguments[1])
    return 1


@command("SETEX", "2.0.0", 3, 3, flags="write denyoom", keys=FIRST, uses="OW update")
def setex(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Give a key a value for some seconds."""
    return _set_for(on, arguments, SECOND, "setex")


@command("PSETEX", "2.6.0", 3, 3, flags="write denyoom", keys=FIRST, uses="OW update")
def psetex(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Give a key a value for some milliseconds."""
    return _set_for(on, arguments, MS, "psetex")


def _set_for(on: Commands, arguments: list[bytes], unit: int, name: str) -> Reply:
    key, units, value = arguments
    on.keys.set(key, value, moment(units, unit, on.keys.now(), name, least=1))
    return _OK


@command("GETSET", "1.0.0", 2, 2, flags="write denyoom fast", keys=FIRST, uses="RW access update")
def getset(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Give a key a value and return the old one."""
    old = on.keys.get(arguments[0])
    on.keys.set(arguments[0], arguments[1])
    return old


@command("GETDEL", "6.2.0", 1, 1, flags="write fast", keys=FIRST, uses="RW access delete")
def getdel(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Remove a key and return its value."""
    old = on.keys.get(arguments[0])
    on.keys.delete(arguments[0])
    return old


@command("GETEX", "6.2.0", 1, flags="write fast", keys=FIRST, uses="RW access update")
def getex(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return the value of a key, and let it expire, or not any more."""
    key, *words = arguments
    options = SetOptions(words, _OF_GETEX)
    value = on.keys.get(key)
    if value is None:
        return None
    deadline = options.deadline(on.keys.now(), "getex")
    if deadline is not None:
        on.keys.expire_at(key, deadline)
    elif options.persists:
        on.keys.persist(key)
    return value


@command("MGET", "1.0.0", 1, flags="readonly fast", keys=ALL, uses="RO access")
def mget(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return the values of keys."""
    return on.bounded(map(on.keys.get, arguments))


@command("MSET", "1.0.1", 2, flags="write denyoom", keys=PAIRS, uses="OW update")
def mset(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Give keys values, all of them or none."""
    _require_pairs(arguments, "mset")
    _set_pairs(on, arguments)
    return _OK


@command("MSETNX", "1.0.1", 2, flags="write denyoom", keys=PAIRS, uses="OW insert")
def msetnx(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Give keys values if none of them has one."""
    _require_pairs(arguments, "msetnx")
    if any(key in on.store for key in arguments[::2]):
        return 0
    _set_pairs(on, arguments)
    return 1


def _require_pairs(arguments: list[bytes], name: str) -> None:
    if len(arguments) % 2:
        raise wrong_number(name)


def _set_pairs(on: Commands, arguments: list[bytes]) -> None:
    with on.store.transaction():
        for key, value in zip(arguments[::2], arguments[1::2], strict=True):
            on.keys.set(key, value)


@command("APPEND", "2.0.0", 2, 2, flags="write denyoom fast", keys=FIRST, uses="RW insert")
def append(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Put bytes behind a value; return how long it is now."""
    key, more = arguments
    on.require_value(on.keys.length(key) + len(more))
    value, deadline = on.store.entry(key)
    value = (value or b"") + more
    on.keys.set(key, value, deadline)
    return len(value)


@command("STRLEN", "2.2.0", 1, 1, flags="readonly fast", keys=FIRST, uses="RO")
def strlen(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return how long a value is."""
    return on.keys.length(arguments[0])


@command("SUBSTR", "1.0.0", 3, 3, flags="readonly", keys=FIRST, uses="RO access")
@command("GETRANGE", "2.4.0", 3, 3, flags="readonly", keys=FIRST, uses="RO access")
def getrange(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return a part of a value; places that are negative count from its end."""
    first, last = number(arguments[1]), number(arguments[2])
    if last < first < 0:
        return b""
    try:
        with on.store.view(arguments[0]) as view:
            first, last = (max(at + view.nbytes if at < 0 else at, 0) for at in (first, last))
            return bytes(view[first : last + 1])
    except KeyError:
        return b""


@command("SETRANGE", "2.2.0", 3, 3, flags="write denyoom", keys=FIRST, uses="RW update")
def setrange(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Put bytes into a value, which grows if it must; return how long it is now."""
    key, offset, data = arguments[0], number(arguments[1]), arguments[2]
    if offset < 0:
        raise ReplyError("ERR offset is out of range")
    length, end = on.keys.length(key), offset + len(data)
    if not data:
        return length
    on.require_value(end)
    if end <= length:
        on.keys.patch(key, offset, data)
        return length
    value, deadline = on.store.entry(key)
    on.keys.set(key, (value or b"")[:offset].ljust(offset, b"\0") + data, deadline)
    return end


@command("LCS", "7.0.0", 2, flags="readonly", keys=FIRST_TWO, uses="RO access")
def lcs(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return the longest bytes in order that two values have in common, their number or places."""
    first, second = (on.keys.get(key) or b"" for key in arguments[:2])
    return longest_common(first, second, arguments[2:])


# ---------------------------------------------------------------- numbers


@command("INCR", "1.0.0", 1, 1, flags="write denyoom fast", keys=FIRST, uses="RW access update")
def incr(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Add one to a value."""
    return _add(on, arguments[0], 1)


@command("DECR", "1.0.0", 1, 1, flags="write denyoom fast", keys=FIRST, uses="RW access update")
def decr(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Take one from a value."""
    return _add(on, arguments[0], -1)


@command("INCRBY", "1.0.0", 2, 2, flags="write denyoom fast", keys=FIRST, uses="RW access update")
def incrby(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Add to a value."""
    return _add(on, arguments[0], number(arguments[1]))


@command("DECRBY", "1.0.0", 2, 2, flags="write denyoom fast", keys=FIRST, uses="RW access update")
def decrby(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Take from a value."""
    amount = -number(arguments[1])
    if amount not in _INTEGERS:
        raise ReplyError("ERR decrement would overflow")
    return _add(on, arguments[0], amount)


def _add(on: Commands, key: bytes, amount: int) -> int:
    value, deadline = on.store.entry(key)
    total = (0 if value is None else number(value)) + amount
    if total not in _INTEGERS:
        raise ReplyError("ERR increment or decrement would overflow")
    on.keys.set(key, b"%d" % total, deadline)
    return total


@command(
    "INCRBYFLOAT", "2.6.0", 2, 2, flags="write denyoom fast", keys=FIRST, uses="RW access update"
)
def incrbyfloat(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Add to a value that may have a fraction."""
    key, amount = arguments
    value, deadline = on.store.entry(key)
    total = add_floats(b"0" if value is None else value, amount)
    on.keys.set(key, total, deadline)
    return total
