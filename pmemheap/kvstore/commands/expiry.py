"""expiry: commands on when keys expire."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pmemheap.kvstore.commands.keyspace import MS, SECOND
from pmemheap.kvstore.commands.registry import FIRST, Group, Run, in_group
from pmemheap.kvstore.commands.words import ExpireOptions, moment
from pmemheap.kvstore.resp import Reply

if TYPE_CHECKING:
    from pmemheap.kvstore.commands.running import Commands
    from pmemheap.kvstore.commands.session import Session

command: Group = in_group("generic")


def _expire(name: str, unit: int, summary: str, *, counts_from_1970: bool) -> Run:
    """Return what EXPIRE and its like do."""

    def run(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
        key, units, *words = arguments
        options = ExpireOptions(words)
        deadline = moment(units, unit, 0 if counts_from_1970 else on.keys.now(), name)
        try:
            old = on.keys.deadline(key)
        except KeyError:
            return 0
        return options.allow(old, deadline) and on.keys.expire_at(key, deadline)

    run.__doc__ = summary
    return run


def _enter_expire() -> None:
    """Enter EXPIRE and its like."""
    for name, since, unit, from_1970, summary in [
        ("expire", "1.0.0", SECOND, False, "Let a key expire after some seconds."),
        ("pexpire", "2.6.0", MS, False, "Let a key expire after some milliseconds."),
        ("expireat", "1.2.0", SECOND, True, "Let a key expire at a second since 1970."),
        ("pexpireat", "2.6.0", MS, True, "Let a key expire at a millisecond since 1970."),
    ]:
        enter = command(name.upper(), since, 2, flags="write fast", keys=FIRST, uses="RW update")
        enter(_expire(name, unit, summary, counts_from_1970=from_1970))


_enter_expire()


def _asked(on: Commands, key: bytes, answer: Callable[[int], int]) -> int:
    """Return what is to be said of a deadline; -1 if there is none, -2 if there is no such key."""
    try:
        deadline = on.keys.deadline(key)
    except KeyError:
        return -2
    return -1 if deadline is None else answer(deadline)


def _left(on: Commands, deadline: int) -> int:
    """Return the milliseconds until a deadline, the nearest."""
    return max(deadline - on.keys.now() + MS // 2, 0) // MS


@command("TTL", "1.0.0", 1, 1, flags="readonly fast", keys=FIRST, uses="RO access")
def ttl(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return the seconds that a key has left."""
    return _asked(on, arguments[0], lambda deadline: (_left(on, deadline) + 500) // 1000)


@command("PTTL", "2.6.0", 1, 1, flags="readonly fast", keys=FIRST, uses="RO access")
def pttl(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return the milliseconds that a key has left."""
    return _asked(on, arguments[0], lambda deadline: _left(on, deadline))


@command("EXPIRETIME", "7.0.0", 1, 1, flags="readonly fast", keys=FIRST, uses="RO access")
def expiretime(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return the second since 1970 in which a key expires."""
    return _asked(on, arguments[0], lambda deadline: (deadline + SECOND // 2) // SECOND)


@command("PEXPIRETIME", "7.0.0", 1, 1, flags="readonly fast", keys=FIRST, uses="RO access")
def pexpiretime(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return the millisecond since 1970 in which a key expires."""
    return _asked(on, arguments[0], lambda deadline: (deadline + MS // 2) // MS)


@command("PERSIST", "2.2.0", 1, 1, flags="write fast", keys=FIRST, uses="RW update")
def persist(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Let a key not expire; tell whether it would have."""
    return on.keys.persist(arguments[0])
