"""introspection: COMMAND, which tells what commands there are, from the table of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kvstore.commands.registry import Command, Keys, find, in_group, table
from kvstore.commands.words import SYNTAX
from kvstore.patterns import glob_pattern
from kvstore.resp import NO_ARRAY, Reply, ReplyError

if TYPE_CHECKING:
    from kvstore.commands.running import Commands
    from kvstore.commands.session import Session

__all__: list[str] = []

command = in_group("server")

_NAMES_MOST = 1000  # at a time: what is told of one is much longer than its name
_NO_KEYS = Keys(0, 0, 0)
_KINDS = {"generic": "keyspace", "server": "admin", "transactions": "transaction"}


@command("COMMAND", "2.8.13", 0)
def command_(_: Commands, __: Session, ___: list[bytes]) -> Reply:
    """Return what is known of all commands."""
    return [_info(one) for one in table.values()]


@command("COMMAND|COUNT", "2.8.13", 0, 0)
def command_count(_: Commands, __: Session, ___: list[bytes]) -> Reply:
    """Return how many commands there are."""
    return len(table)


@command("COMMAND|INFO", "2.8.13", 0, _NAMES_MOST)
def command_info(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Return what is known of some commands."""
    found = [find([name]) for name in arguments] if arguments else list(table.values())
    return [NO_ARRAY if one is None else _info(one) for one in found]


@command("COMMAND|DOCS", "7.0.0", 0, _NAMES_MOST)
def command_docs(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Return what some commands do, or all."""
    found = map(find, ([name] for name in arguments)) if arguments else table.values()
    return _docs(one for one in found if one is not None)


@command("COMMAND|LIST", "7.0.0", 0)
def command_list(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Return the names of all commands, or FILTERBY PATTERN, ACLCAT or MODULE."""
    match [word.upper() for word in arguments[:2]], arguments[2:]:
        case [], []:
            found = list(table.values())
        case [b"FILTERBY", b"PATTERN"], [pattern]:
            matches = glob_pattern(pattern.lower()).fullmatch
            found = [one for one in table.values() if matches(one.shown_name.encode())]
        case [b"FILTERBY", b"ACLCAT"], [name]:
            found = [one for one in table.values() if name.lower().decode() in _categories(one)]
        case [b"FILTERBY", b"MODULE"], [_]:
            found = []
        case _:
            raise ReplyError(SYNTAX)
    return [one.shown_name.encode() for one in found]


@command("COMMAND|GETKEYS", "2.8.13", 2)
def command_getkeys(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return which words of a request are keys."""
    one = find(arguments[:2])
    if one is None:
        raise ReplyError("ERR Invalid command specified")
    is_sub = b"|" in one.name
    request = arguments[1:] if is_sub else arguments
    if one.refused(len(request) - 1) is not None:
        raise ReplyError("ERR Invalid number of arguments specified for command")
    if one.keys is None:
        raise ReplyError("ERR The command has no key arguments")
    return list(one.keys.of(request))


# ---------------------------------------------------------------- what is told of one


def _info(one: Command) -> Sequence[Reply]:
    keys = _NO_KEYS if one.keys is None else one.keys
    shift = one.name.count(b"|") if keys.first else 0
    return [
        one.shown_name.encode(), one.arity, frozenset(_flags(one)), keys.first + shift,
        keys.last + shift if keys.last > 0 else keys.last, keys.step,
        frozenset(f"@{name}" for name in _categories(one)), frozenset(), _key_specs(one, shift),
        [_info(sub) for sub in one.subcommands.values()],
    ]  # fmt: skip


def _flags(one: Command) -> Iterable[str]:
    """Yield the words that Redis has for what a command does."""
    if one.writes:
        yield "write"
    elif one.keys is not None:
        yield "readonly"
    if one.group == "server":
        yield "admin"
    if one.keys is not None and not one.keys.first:
        yield "movablekeys"


def _categories(one: Command) -> Iterable[str]:
    yield _KINDS.get(one.group, one.group)
    if one.writes or one.keys is not None:
        yield "write" if one.writes else "read"


def _key_specs(one: Command, shift: int) -> Sequence[Reply]:
    """Return where keys stand, as Redis 7 tells it."""
    keys = one.keys
    if keys is None or not keys.first:
        return []
    last = keys.last if keys.last < 0 else keys.last - keys.first
    return [
        {
            b"flags": frozenset({"RW" if one.writes else "RO", "access"}),
            b"begin_search": {b"type": b"index", b"spec": {b"index": keys.first + shift}},
            b"find_keys": {
                b"type": b"range",
                b"spec": {b"lastkey": last, b"keystep": keys.step, b"limit": 0},
            },
        }
    ]


def _docs(found: Iterable[Command]) -> Reply:
    docs: dict[bytes, Reply] = {}
    for one in found:
        docs[one.shown_name.encode()] = entry = {
            b"summary": one.summary.encode(), b"since": one.since.encode(),
            b"group": one.group.encode(),
        }  # fmt: skip
        if one.subcommands:
            docs[one.shown_name.encode()] = {
                **entry, b"subcommands": _docs(one.subcommands.values())
            }  # fmt: skip
    return docs
