"""scripting: a few scripts that many clients send, recognised by what they say.

There is no Lua here. Locks, though, are released by a script, because comparing a token and
removing the key has to be one step; and nearly all of them send one of the scripts below. They are
known by a digest of their text without comments and white space, and done by functions. Any other
script is refused when it is sent, and one that was not sent is not there (NOSCRIPT), as with Redis.

    KEYS[1] is the key of a lock, ARGV[1] the token that it has to have; else they return 0
    release      remove the key                      redis-py, and the one of the manual of Redis
    extend       add ARGV[2] milliseconds, or have so many if ARGV[3] is not "0"     redis-py
    reacquire    have ARGV[2] milliseconds                                           redis-py
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha1
from typing import TYPE_CHECKING, Any

from pmemheap.kvstore.commands.keyspace import MS
from pmemheap.kvstore.commands.registry import COUNTED, Group, in_group
from pmemheap.kvstore.commands.words import moment, number
from pmemheap.kvstore.resp import Reply, ReplyError

if TYPE_CHECKING:
    from pmemheap.kvstore.commands.running import Commands
    from pmemheap.kvstore.commands.session import Session

__all__ = ["digest_of"]

command: Group = in_group("scripting")

Script = Callable[["Commands", bytes, list[bytes]], Reply]

_COMMENT, _SPACE = re.compile(rb"--[^\n]*"), re.compile(rb"\s+")
_SCRIPTS_MOST = 1000
_EVAL: dict[str, Any] = {
    "flags": "noscript stale skip_monitor no_mandatory_keys", "keys": COUNTED,
    "uses": "RW access update", "may_write": True,
}  # fmt: skip


def digest_of(text: bytes) -> str:
    """Return the digest by which a script is known."""
    plain = _SPACE.sub(b"", _COMMENT.sub(b"", text)).replace(b'"', b"'")
    return sha1(plain).hexdigest()


def _owns(on: Commands, key: bytes, token: bytes) -> bool:
    return on.keys.get(key) == token


def _release(on: Commands, key: bytes, arguments: list[bytes]) -> Reply:
    (token,) = arguments
    return _owns(on, key, token) and on.keys.delete(key)


def _extend(on: Commands, key: bytes, arguments: list[bytes]) -> Reply:
    token, milliseconds, replaces = arguments
    deadline = on.store.entry(key)[1] if _owns(on, key, token) else None
    if deadline is None:
        return 0
    start = deadline if replaces == b"0" else on.keys.now()
    return on.keys.expire_at(key, moment(milliseconds, MS, start, "pexpire"))


def _reacquire(on: Commands, key: bytes, arguments: list[bytes]) -> Reply:
    token, milliseconds = arguments
    if not _owns(on, key, token):
        return 0
    return on.keys.expire_at(key, moment(milliseconds, MS, on.keys.now(), "pexpire"))


_KNOWN: dict[str, tuple[Script, int]] = {
    "1179e693b29fda653472cdbc3d5eb3ba1316ffd4": (_release, 1),  # of redis-py
    "f74f76b5b5a8290bbcc17f740b44fdbe5a56ff72": (_extend, 3),
    "44f9927bdcb1e8eac2b677d9aff29ef04afdca7a": (_reacquire, 2),
    "588c09aae54753afd325984e748a4e18801f6735": (_release, 1),  # of the manual of Redis
    "54dbf8d5b825beba1c79c099bd30cabbb42c44b9": (_reacquire, 2),
}
"""By their digests: what they do, and how many arguments they want."""


# ---------------------------------------------------------------- commands


def _loaded(on: Commands, text: bytes) -> str:
    """Remember a script that is known; return the name by which EVALSHA has it."""
    digest = digest_of(text)
    if digest not in _KNOWN:
        raise ReplyError(
            "ERR no such script: this server runs no Lua, it knows the scripts of redis-py's Lock "
            "and of the locks of the manual of Redis"
        )
    name = sha1(text).hexdigest()
    if len(on.scripts) >= _SCRIPTS_MOST:  # the same ones with other white space
        on.scripts.clear()
    on.scripts[name] = digest
    return name


def _evaluate(on: Commands, digest: str, arguments: list[bytes]) -> Reply:
    """Run a script on the words that follow it: how many keys, keys, arguments."""
    count = number(arguments[0])
    if count < 0:
        raise ReplyError("ERR Number of keys can't be negative")
    if count > len(arguments) - 1:
        raise ReplyError("ERR Number of keys can't be greater than number of args")
    script, wanted = _KNOWN[digest]
    keys, rest = arguments[1 : 1 + count], arguments[1 + count :]
    if len(keys) != 1 or len(rest) != wanted:
        raise ReplyError(f"ERR script: 1 key and {wanted} arguments expected")
    return script(on, keys[0], rest)


@command("EVAL", "2.6.0", 2, **_EVAL)
def eval_(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Run one of the scripts that are known here."""
    return _evaluate(on, on.scripts[_loaded(on, arguments[0])], arguments[1:])


@command("EVALSHA", "2.6.0", 2, **_EVAL)
def evalsha(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Run a script that was sent before."""
    digest = on.scripts.get(arguments[0].lower().decode(errors="replace"))
    if digest is None:
        raise ReplyError("NOSCRIPT No matching script. Please use EVAL.")
    return _evaluate(on, digest, arguments[1:])


@command("SCRIPT|LOAD", "2.6.0", 1, 1, flags="noscript stale")
def script_load(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Remember one of the scripts that are known here."""
    return _loaded(on, arguments[0]).encode()


@command("SCRIPT|EXISTS", "2.6.0", 1, flags="noscript")
def script_exists(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Tell which scripts were sent before."""
    return [name.lower().decode(errors="replace") in on.scripts for name in arguments]


@command("SCRIPT|FLUSH", "2.6.0", 0, 1, flags="noscript")
def script_flush(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Forget all scripts."""
    if arguments and arguments[0].upper() not in {b"SYNC", b"ASYNC"}:
        raise ReplyError("ERR SCRIPT FLUSH only support SYNC|ASYNC option")
    on.scripts.clear()
    return "OK"


@command("SCRIPT|KILL", "2.6.0", 0, 0, flags="noscript allow_busy")
def script_kill(_: Commands, __: Session, ___: list[bytes]) -> Reply:
    """Refuse: no script runs."""
    raise ReplyError("NOTBUSY No scripts in execution right now.")
