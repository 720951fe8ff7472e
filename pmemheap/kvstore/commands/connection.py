"""connection: commands on the connection of a client: HELLO, CLIENT, what ends it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pmemheap.kvstore.commands.registry import Group, in_group, quoted
from pmemheap.kvstore.commands.session import Session, Silence
from pmemheap.kvstore.commands.transactions import reset as end_transaction
from pmemheap.kvstore.commands.words import SYNTAX, number
from pmemheap.kvstore.resp import Reply, ReplyError, Verbatim, parse_integer

if TYPE_CHECKING:
    from pmemheap.kvstore.commands.running import Commands

__all__ = ["LAST_WORDS", "VERSION"]

command: Group = in_group("connection")

VERSION = "7.0.0"
"""Of the Redis whose replies these are, for clients that ask."""

LAST_WORDS = frozenset({b"QUIT", b"POST", b"HOST:"})
"""Nothing is to be run behind these."""

_OK = "OK"
_ANY_TIME = "noscript loading stale"
_ADMIN = f"admin {_ANY_TIME}"
_ALWAYS = f"fast {_ANY_TIME} no_auth allow_busy"
_DEFAULT_USER = b"default"
_KILL_FILTERS = {b"ID", b"ADDR", b"LADDR", b"TYPE", b"USER", b"SKIPME"}
_NO_ID = "ERR client-id should be greater than 0"
_GRAPHIC = frozenset(range(33, 127))


@command("PING", "1.0.0", 0, 1, flags="fast")
def ping(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Return PONG, or what was sent."""
    return arguments[0] if arguments else "PONG"


@command("ECHO", "1.0.0", 1, 1, flags="fast loading stale")
def echo(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Return what was sent."""
    return arguments[0]


@command("SELECT", "1.0.0", 1, 1, flags="fast loading stale")
def select(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Choose a database: there is one, 0."""
    if number(arguments[0]):
        raise ReplyError("ERR DB index is out of range")
    return _OK


@command("QUIT", "1.0.0", 0, flags=_ALWAYS, is_immediate=True)
def quit_(_: Commands, session: Session, __: list[bytes]) -> Reply:
    """End the connection."""
    session.quitting = True
    return _OK


@command("POST HOST:", "3.2.0", 0, is_immediate=True, is_listed=False)
def web(_: Commands, session: Session, __: list[bytes]) -> Reply:
    """End what is a browser that was talked into sending commands in a web request."""
    session.quitting = True
    raise ReplyError("ERR Possible SECURITY ATTACK detected: this is no web server")


@command("RESET", "6.2.0", 0, 0, flags=_ALWAYS, is_immediate=True)
def reset(on: Commands, session: Session, _: list[bytes]) -> Reply:
    """Make a connection as it was at its beginning."""
    end_transaction(on, session)
    session.protocol = 2
    session.name = b""
    session.silence = Silence.NONE
    return "RESET"


# ---------------------------------------------------------------- who, and in which protocol


@command("AUTH", "1.0.0", 1, flags=_ALWAYS)
def auth(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Say who one is: there is one user, who needs no password."""
    if len(arguments) > 2:
        raise ReplyError(SYNTAX)
    if len(arguments) == 1:
        raise ReplyError(
            "ERR AUTH <password> called without any password configured for the default user. "
            "Are you sure your configuration is correct?"
        )
    _require_default_user(arguments[0])
    return _OK


def _require_default_user(name: bytes) -> None:
    if name != _DEFAULT_USER:
        raise ReplyError("WRONGPASS invalid username-password pair or user is disabled.")


@command("HELLO", "6.0.0", 0, flags=_ALWAYS)
def hello(on: Commands, session: Session, arguments: list[bytes]) -> Reply:
    """Choose the protocol, RESP2 or RESP3, and return what this is."""
    protocol, name = session.protocol, session.name
    if arguments:
        protocol = _protocol(arguments[0])
        name = _hello_name(arguments[1:], name)
    session.protocol, session.name = protocol, name
    return {
        b"server": b"redis", b"version": VERSION.encode(), b"proto": protocol,
        b"id": session.number, b"mode": b"standalone", b"role": b"master", b"modules": [],
    }  # fmt: skip


def _protocol(text: bytes) -> int:
    found = parse_integer(text)
    if found is None:
        raise ReplyError("ERR Protocol version is not an integer or out of range")
    if found not in {2, 3}:
        raise ReplyError("NOPROTO unsupported protocol version")
    return found


def _hello_name(words: list[bytes], name: bytes) -> bytes:
    """Return the name of the connection after the options of HELLO."""
    rest = iter(words)
    for word in rest:
        if word.upper() == b"SETNAME" and (text := next(rest, None)) is not None:
            name = _checked_name(text)
        elif word.upper() == b"AUTH" and (text := next(rest, None)) is not None:
            if next(rest, None) is None:
                raise ReplyError(f"ERR Syntax error in HELLO option '{quoted(word)}'")
            _require_default_user(text)
        else:
            raise ReplyError(f"ERR Syntax error in HELLO option '{quoted(word)}'")
    return name


def _checked_name(name: bytes) -> bytes:
    """Return a name; spaces may be in it, which Redis refuses and clients still use."""
    if not _GRAPHIC.issuperset(name.replace(b" ", b"")):
        raise ReplyError("ERR Client names cannot contain newlines or special characters.")
    return name


# ---------------------------------------------------------------- CLIENT


@command("CLIENT|ID", "5.0.0", 0, 0, flags=_ANY_TIME)
def client_id(_: Commands, session: Session, __: list[bytes]) -> Reply:
    """Return the number of the connection."""
    return session.number


@command("CLIENT|SETNAME", "2.6.9", 1, 1, flags=_ANY_TIME)
def client_setname(_: Commands, session: Session, arguments: list[bytes]) -> Reply:
    """Name the connection."""
    session.name = _checked_name(arguments[0])
    return _OK


@command("CLIENT|GETNAME", "2.6.9", 0, 0, flags=_ANY_TIME)
def client_getname(_: Commands, session: Session, __: list[bytes]) -> Reply:
    """Return the name of the connection."""
    return session.name or None


@command("CLIENT|SETINFO", "7.2.0", 2, 2, flags=_ANY_TIME)
def client_setinfo(_: Commands, session: Session, arguments: list[bytes]) -> Reply:
    """Say which library the client has: LIB-NAME, LIB-VER."""
    what, text = arguments
    match what.upper():
        case b"LIB-NAME":
            session.library = _checked_info(what, text)
        case b"LIB-VER":
            session.library_version = _checked_info(what, text)
        case _:
            raise ReplyError(f"ERR Unrecognized option '{quoted(what)}'")
    return _OK


def _checked_info(what: bytes, text: bytes) -> bytes:
    if not _GRAPHIC.issuperset(text):
        raise ReplyError(
            f"ERR {quoted(what).lower()} cannot contain spaces, newlines or special characters."
        )
    return text


@command("CLIENT|INFO", "6.2.0", 0, 0, flags=_ANY_TIME)
def client_info(on: Commands, session: Session, _: list[bytes]) -> Reply:
    """Return what is known of the connection."""
    return Verbatim(_line_of(session))


@command("CLIENT|LIST", "2.4.0", 0, flags=_ADMIN)
def client_list(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return what is known of all connections, or of those of a TYPE or with an ID."""
    sessions: list[Session] = list(on.sessions.values())
    match [word.upper() for word in arguments[:1]], arguments[1:]:
        case [], []:
            pass
        case [b"TYPE"], [kind]:
            sessions = sessions if _is_normal(kind) else []
        case [b"ID"], [_, *_] as texts:
            wanted = dict.fromkeys(_client_id(text) for text in texts)
            sessions = [on.sessions[one] for one in wanted if one in on.sessions]
        case _:
            raise ReplyError(SYNTAX)
    return Verbatim("".join(f"{_line_of(one)}\n" for one in sessions))


def _is_normal(kind: bytes) -> bool:
    """Tell whether a type of connections is the only one that there is here."""
    if kind.lower() not in {b"normal", b"master", b"slave", b"replica", b"pubsub"}:
        raise ReplyError(f"ERR Unknown client type '{quoted(kind)}'")
    return kind.lower() == b"normal"


def _client_id(text: bytes, refusal: str = "ERR Invalid client ID") -> int:
    found = parse_integer(text)
    if found is None or found < 1:
        raise ReplyError(refusal)
    return found


def _line_of(session: Session) -> str:
    now = time.monotonic()
    queue = session.queue
    queued = 0 if queue is None else queue.nbytes
    held, unsent = session.sizes()
    facts: dict[str, object] = {
        "id": session.number, "addr": session.address, "laddr": session.own_address,
        "name": session.name.decode().replace(" ", "\\x20"), "age": int(now - session.began),
        "idle": int(now - session.used), "flags": "N" if queue is None else "x", "db": 0,
        "sub": 0, "psub": 0, "ssub": 0, "multi": -1 if queue is None else len(queue.requests),
        "qbuf": held, "qbuf-free": 0, "argv-mem": 0, "multi-mem": queued, "obl": 0,
        "oll": int(unsent > 0), "omem": unsent, "tot-mem": held + queued + unsent, "events": "r",
        "user": "default", "redir": -1, "resp": session.protocol,
        "lib-name": session.library.decode(), "lib-ver": session.library_version.decode(),
    }  # fmt: skip
    return " ".join(f"{name}={value}" for name, value in facts.items())


@command("CLIENT|KILL", "2.4.0", 1, flags=_ADMIN)
def client_kill(on: Commands, session: Session, arguments: list[bytes]) -> Reply:
    """End other connections: by address, or by ID, ADDR, LADDR, TYPE, USER, SKIPME."""
    if len(arguments) == 1:
        found = [one for one in on.sessions.values() if one.address == quoted(arguments[0])]
        if not found:
            raise ReplyError("ERR No such client")
        _end(found, session)
        return _OK
    if len(arguments) % 2:
        raise ReplyError(SYNTAX)
    filters = {word.upper(): text for word, text in zip(*[iter(arguments)] * 2, strict=True)}
    found = list(_matching(on, session, filters))
    _end(found, session)
    return len(found)


def _matching(on: Commands, own: Session, filters: dict[bytes, bytes]) -> Iterator[Session]:
    skips_me = filters.get(b"SKIPME", b"yes").lower()
    if not filters.keys() <= _KILL_FILTERS or skips_me not in {b"yes", b"no"}:
        raise ReplyError(SYNTAX)
    number_ = _client_id(filters[b"ID"], _NO_ID) if b"ID" in filters else None
    if (user := filters.get(b"USER", _DEFAULT_USER)) != _DEFAULT_USER:
        raise ReplyError(f"ERR No such user '{quoted(user)}'")
    if not _is_normal(filters.get(b"TYPE", b"normal")):
        return
    for one in on.sessions.values():
        if (
            (number_ is None or one.number == number_)
            and one.address == quoted(filters.get(b"ADDR", one.address.encode()))
            and one.own_address == quoted(filters.get(b"LADDR", one.own_address.encode()))
            and not (skips_me == b"yes" and one is own)
        ):
            yield one


def _end(sessions: list[Session], own: Session) -> None:
    for one in sessions:
        if one is own:
            one.quitting = True
        else:
            one.hang_up()


@command("CLIENT|NO-EVICT", "7.0.0", 1, 1, flags=_ADMIN)
def client_no_evict(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Ask that the connection be kept when there are too many: none is ended for that."""
    if arguments[0].upper() not in {b"ON", b"OFF"}:
        raise ReplyError(SYNTAX)
    return _OK


@command("CLIENT|REPLY", "3.2.0", 1, 1, flags=_ANY_TIME)
def client_reply(_: Commands, session: Session, arguments: list[bytes]) -> Reply:
    """Leave replies out: ON, OFF, or SKIP the next one."""
    wanted = {b"ON": Silence.NONE, b"OFF": Silence.OFF, b"SKIP": Silence.SKIPS}
    if arguments[0].upper() not in wanted:
        raise ReplyError(SYNTAX)
    session.silence = wanted[arguments[0].upper()]
    return _OK


@command("CLIENT|GETREDIR", "6.0.0", 0, 0, flags=_ANY_TIME)
def client_getredir(_: Commands, __: Session, ___: list[bytes]) -> Reply:
    """Return where tracking messages go: keys are not tracked."""
    return -1


@command("CLIENT|TRACKINGINFO", "6.2.0", 0, 0, flags=_ANY_TIME)
def client_trackinginfo(_: Commands, __: Session, ___: list[bytes]) -> Reply:
    """Return what is tracked for the connection: nothing."""
    return {b"flags": frozenset({b"off"}), b"redirect": -1, b"prefixes": []}


@command("CLIENT|UNBLOCK", "5.0.0", 1, 2, flags=_ADMIN)
def client_unblock(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """End the waiting of a connection: no command waits."""
    number(arguments[0])
    if arguments[1:] and arguments[1].upper() not in {b"TIMEOUT", b"ERROR"}:
        raise ReplyError("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    return 0
