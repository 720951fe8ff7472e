"""introspection: COMMAND, which tells what commands there are, from the table of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from pmemheap.kvstore.commands.registry import Command, Group, Keys, find, in_group, table
from pmemheap.kvstore.commands.words import SYNTAX
from pmemheap.kvstore.patterns import glob_pattern
from pmemheap.kvstore.resp import NO_ARRAY, Reply, ReplyError

if TYPE_CHECKING:
    from pmemheap.kvstore.commands.running import Commands
    from pmemheap.kvstore.commands.session import Session

__all__: list[str] = []

command: Group = in_group("server")

_NAMES_MOST = 1000  # at a time: what is told of one is much longer than its name
_NO_KEYS = Keys(0, 0, 0)
_TOLD = {"flags": "loading stale", "categories": "connection"}


@command("COMMAND", "2.8.13", 0, **_TOLD)
def command_(_: Commands, __: Session, ___: list[bytes]) -> Reply:
    """Return what is known of all commands."""
    return [_info(one) for one in table.values()]


@command("COMMAND|COUNT", "2.8.13", 0, 0, **_TOLD)
def command_count(_: Commands, __: Session, ___: list[bytes]) -> Reply:
    """Return how many commands there are."""
    return len(table)


@command("COMMAND|INFO", "2.8.13", 0, _NAMES_MOST, **_TOLD)
def command_info(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Return what is known of some commands."""
    found = [find([name]) for name in arguments] if arguments else list(table.values())
    return [NO_ARRAY if one is None else _info(one) for one in found]


@command("COMMAND|DOCS", "7.0.0", 0, _NAMES_MOST, **_TOLD)
def command_docs(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Return what some commands do, or all."""
    found = map(find, ([name] for name in arguments)) if arguments else table.values()
    return _docs(one for one in found if one is not None)


@command("COMMAND|LIST", "7.0.0", 0, **_TOLD)
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


@command("COMMAND|GETKEYS", "2.8.13", 2, **_TOLD)
def command_getkeys(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return which words of a request are keys."""
    return [key for key, _ in _keys_of(arguments)]


@command("COMMAND|GETKEYSANDFLAGS", "7.0.0", 2, **_TOLD)
def command_getkeysandflags(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return which words of a request are keys, and what is done to each."""
    return [[key, frozenset(use.split())] for key, use in _keys_of(arguments)]


def _keys_of(words: list[bytes]) -> Iterator[tuple[bytes, str]]:
    """Yield the keys of a request, each with what is done to it."""
    one = find(words[:2])
    if one is None:
        raise ReplyError("ERR Invalid command specified")
    request = words[1:] if b"|" in one.name else words
    if one.refused(len(request) - 1) is not None:
        raise ReplyError("ERR Invalid number of arguments specified for command")
    if one.keys is None:
        raise ReplyError("ERR The command has no key arguments")
    uses = cycle(_use_of_set(request) if "variable_flags" in one.uses[0] else one.uses)
    yield from zip(one.keys.of(request), uses, strict=False)


def _use_of_set(request: list[bytes]) -> Sequence[str]:
    """Return what SET does to its key, which depends on an option."""
    gets = b"GET" in map(bytes.upper, request[3:])
    return ["RW access update" if gets else "OW update"]


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
    yield from one.flags
    if one.keys is not None and not one.keys.first:
        yield "movablekeys"


def _categories(one: Command) -> Iterable[str]:
    """Yield the groups of commands that rights are given for, as Redis makes them of the flags."""
    yield from one.categories.split()
    yield "fast" if "fast" in one.flags else "slow"
    if "write" in one.flags:
        yield "write"
    if "readonly" in one.flags:
        yield "read"
    if "admin" in one.flags:
        yield from ("admin", "dangerous")


def _key_specs(one: Command, shift: int) -> Sequence[Reply]:
    """Return where keys stand, and what is done to them, as Redis 7 tells it."""
    keys = one.keys
    if keys is None:
        return []
    if not keys.first:
        return [_key_spec(one.uses[0], 2, "keynum", {"keynumidx": 0, "firstkey": 1, "keystep": 1})]
    last = keys.last if keys.last < 0 else keys.last - keys.first
    if len(one.uses) > 1:  # each key has its own
        last = 0
    return [
        _key_spec(use, at, "range", {"lastkey": last, "keystep": keys.step, "limit": 0})
        for at, use in enumerate(one.uses, keys.first + shift)
    ]


def _key_spec(use: str, index: int, kind: str, found: dict[str, int]) -> Reply:
    spec = {name.encode(): value for name, value in found.items()}
    return {
        b"flags": frozenset(use.split()),
        b"begin_search": {b"type": b"index", b"spec": {b"index": index}},
        b"find_keys": {b"type": kind.encode(), b"spec": spec},
    }


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
