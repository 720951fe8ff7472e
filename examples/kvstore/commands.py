r"""commands: what the commands of Redis do to a store, without a socket.

    [(session, [b"SET", b"k", b"v"]), ...] ---> Commands.run ---> [b"+OK\r\n", ...]
                                                     |
                                                     +--> one transaction of the store, if two or
                                                          more of them write: one durable commit

What a command refuses, a value that is no number or a key that is too long, has changed nothing: it
is a reply like others and does not disturb the rest of its batch. A batch that fails as a whole,
because it has no room in the log, say, has changed nothing either: it is run again in halves, down
to single commands, whose error is their reply.

A cursor of SCAN is a number under which the last key is kept that was given out. The store is in
key order, so that a scan sees every key that is there from its begin to its end, whatever comes and
goes meanwhile. Cursors are kept for the whole server, the latest thousands of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice

from kvstore.patterns import end_of, glob_pattern, glob_prefix
from kvstore.resp import Reply, ReplyError, encode, parse_integer
from kvstore.store import KVStore

__all__ = ["LAST_WORDS", "Call", "Commands", "Session"]

CURSORS_MOST = 10_000
MOST_SECONDS = 100 * 366 * 86400  # a hundred years: what the store takes
LAST_WORDS = frozenset({b"QUIT", b"POST", b"HOST:"})  # nothing is to be run behind these
VERSION = "7.0.0"  # of the Redis whose replies these are, for clients that ask

_INTEGER_EXPECTED = "ERR value is not an integer or out of range"
_SYNTAX = "ERR syntax error"
_OK = "OK"
_SHORTEST = 1e-6


@dataclass
class Session:
    """What is remembered of a connection."""

    number: int
    name: bytes = b""
    quitting: bool = False


Call = tuple[Session, list[bytes]]


@dataclass(frozen=True)
class _Command:
    run: Callable[[Commands, Session, list[bytes]], Reply]
    least: int
    most: int | None
    writes: bool


_COMMANDS: dict[bytes, _Command] = {}

_Method = Callable[["Commands", Session, list[bytes]], Reply]


def _command(
    names: str, least: int, most: int | None = None, *, writes: bool = False
) -> Callable[[_Method], _Method]:
    """Enter a method under names, with how many arguments follow the name."""

    def enter(method: _Method) -> _Method:
        for name in names.split():
            _COMMANDS[name.encode()] = _Command(method, least, most, writes)
        return method

    return enter


class Commands:
    """The commands over one store. Not thread-safe: one thread runs all of them.

    Parameters
    ----------
    store : KVStore
        Open.
    facts : callable, optional
        Returns what the server adds to INFO, by section.
    """

    def __init__(
        self, store: KVStore, facts: Callable[[], dict[str, dict[str, object]]] | None = None
    ) -> None:
        self.store = store
        self.commands_run = 0
        self._facts = facts
        self._cursors: OrderedDict[int, bytes] = OrderedDict()
        self._cursor_numbers = count(1)

    # ------------------------------------------------------------ running

    def run(self, calls: Sequence[Call], most_bytes: int | None = None) -> list[bytes]:
        """Run commands in order; return their replies, encoded.

        Parameters
        ----------
        calls : sequence of Call
            At least one.
        most_bytes : int, optional
            No further command is begun when the replies have as many bytes.

        Returns
        -------
        list of bytes
            One for each command that was run: the first ones of `calls`, at least one.
        """
        if sum(map(_writes, calls)) < 2:
            return list(self._replies(calls, most_bytes))
        try:
            with self.store.transaction():
                return list(self._replies(calls, most_bytes, together=True))
        except Exception:
            half = len(calls) // 2
            replies = self.run(calls[:half], most_bytes)
            if len(replies) == half and (most_bytes is None or _total(replies) < most_bytes):
                replies += self.run(calls[half:], most_bytes)
            return replies

    def _replies(
        self, calls: Iterable[Call], most_bytes: int | None, *, together: bool = False
    ) -> Iterator[bytes]:
        produced = 0
        for session, request in calls:
            reply = encode(self._reply(session, request, together))
            produced += len(reply)
            yield reply
            if most_bytes is not None and produced >= most_bytes:
                return

    def _reply(self, session: Session, request: list[bytes], together: bool) -> Reply:
        self.commands_run += 1
        try:
            return self._dispatch(session, request)
        except ReplyError as error:
            return error
        except ValueError as error:
            return ReplyError(f"ERR {error}")
        except Exception as error:
            if together:
                raise
            return ReplyError(f"{'OOM' if isinstance(error, MemoryError) else 'ERR'} {error}")

    def _dispatch(self, session: Session, request: list[bytes]) -> Reply:
        name, *arguments = request
        command = _COMMANDS.get(name.upper())
        if command is None:
            raise ReplyError(_unknown(name, arguments))
        if len(arguments) < command.least or (
            command.most is not None and len(arguments) > command.most
        ):
            raise _wrong_number(name)
        return command.run(self, session, arguments)

    # ------------------------------------------------------------ strings

    @_command("GET", 1, 1)
    def _get(self, _: Session, arguments: list[bytes]) -> Reply:
        return self._value(arguments[0])

    @_command("SET", 2, writes=True)
    def _set(self, _: Session, arguments: list[bytes]) -> Reply:
        key, value, *words = arguments
        options = _SetOptions(words)
        old, left = self._lookup(key) if options.looks else (None, None)
        if not options.condition or (old is not None) == (options.condition == b"XX"):
            self.store.set(key, value, left if options.keep else options.ttl)
        elif not options.get:
            return None
        return old if options.get else _OK

    @_command("SETNX", 2, 2, writes=True)
    def _setnx(self, _: Session, arguments: list[bytes]) -> Reply:
        if arguments[0] in self.store:
            return 0
        self.store.set(arguments[0], arguments[1])
        return 1

    @_command("SETEX", 3, 3, writes=True)
    def _setex(self, _: Session, arguments: list[bytes]) -> Reply:
        key, seconds, value = arguments
        self.store.set(key, value, ttl=_positive_seconds(seconds, 1, "setex"))
        return _OK

    @_command("PSETEX", 3, 3, writes=True)
    def _psetex(self, _: Session, arguments: list[bytes]) -> Reply:
        key, milliseconds, value = arguments
        self.store.set(key, value, ttl=_positive_seconds(milliseconds, 1000, "psetex"))
        return _OK

    @_command("GETSET", 2, 2, writes=True)
    def _getset(self, _: Session, arguments: list[bytes]) -> Reply:
        old = self._value(arguments[0])
        self.store.set(arguments[0], arguments[1])
        return old

    @_command("GETDEL", 1, 1, writes=True)
    def _getdel(self, _: Session, arguments: list[bytes]) -> Reply:
        value: bytes | None = self.store.pop(arguments[0], None)
        return value

    @_command("MGET", 1)
    def _mget(self, _: Session, arguments: list[bytes]) -> Reply:
        return [self._value(key) for key in arguments]

    @_command("MSET", 2, writes=True)
    def _mset(self, _: Session, arguments: list[bytes]) -> Reply:
        if len(arguments) % 2:
            raise _wrong_number(b"mset")
        with self.store.transaction():
            for key, value in zip(arguments[::2], arguments[1::2], strict=True):
                self.store.set(key, value)
        return _OK

    @_command("APPEND", 2, 2, writes=True)
    def _append(self, _: Session, arguments: list[bytes]) -> Reply:
        key, more = arguments
        value, left = self._lookup(key)
        value = (value or b"") + more
        self.store.set(key, value, left)
        return len(value)

    @_command("STRLEN", 1, 1)
    def _strlen(self, _: Session, arguments: list[bytes]) -> Reply:
        return len(self._value(arguments[0]) or b"")

    def _value(self, key: bytes) -> bytes | None:
        value: bytes | None = self.store.get(key)
        return value

    # ------------------------------------------------------------ numbers

    @_command("INCR", 1, 1, writes=True)
    def _incr(self, _: Session, arguments: list[bytes]) -> Reply:
        return self._add(arguments[0], 1)

    @_command("DECR", 1, 1, writes=True)
    def _decr(self, _: Session, arguments: list[bytes]) -> Reply:
        return self._add(arguments[0], -1)

    @_command("INCRBY", 2, 2, writes=True)
    def _incrby(self, _: Session, arguments: list[bytes]) -> Reply:
        return self._add(arguments[0], _number(arguments[1]))

    @_command("DECRBY", 2, 2, writes=True)
    def _decrby(self, _: Session, arguments: list[bytes]) -> Reply:
        amount = _number(arguments[1])
        if amount == -(1 << 63):
            raise ReplyError("ERR decrement would overflow")
        return self._add(arguments[0], -amount)

    def _add(self, key: bytes, amount: int) -> int:
        value, left = self._lookup(key)
        number = (0 if value is None else _number(value)) + amount
        if not -(1 << 63) <= number < 1 << 63:
            raise ReplyError("ERR increment or decrement would overflow")
        self.store.set(key, b"%d" % number, left)
        return number

    # ------------------------------------------------------------ keys

    @_command("DEL UNLINK", 1, writes=True)
    def _del(self, _: Session, arguments: list[bytes]) -> Reply:
        with self.store.transaction():
            return sum([self.store.delete(key) for key in arguments])

    @_command("EXISTS", 1)
    def _exists(self, _: Session, arguments: list[bytes]) -> Reply:
        return sum(key in self.store for key in arguments)

    @_command("TYPE", 1, 1)
    def _type(self, _: Session, arguments: list[bytes]) -> Reply:
        return "string" if arguments[0] in self.store else "none"

    @_command("DBSIZE", 0, 0)
    def _dbsize(self, _: Session, __: list[bytes]) -> Reply:
        return len(self.store)

    @_command("KEYS", 1, 1)
    def _keys(self, _: Session, arguments: list[bytes]) -> Reply:
        matches = glob_pattern(arguments[0]).fullmatch
        return [key for key in self._keys_from(glob_prefix(arguments[0])) if matches(key)]

    @_command("SCAN", 1)
    def _scan(self, _: Session, arguments: list[bytes]) -> Reply:
        cursor = parse_integer(arguments[0])
        pattern, number = _scan_options(arguments[1:])
        after = self._cursors.get(cursor) if cursor else None
        if cursor is None or (cursor and after is None):
            raise ReplyError("ERR invalid cursor")
        keys = list(islice(self._keys_from(glob_prefix(pattern), after), number))
        following = self._keep_cursor(keys[-1]) if len(keys) == number else 0
        matches = glob_pattern(pattern).fullmatch
        return [b"%d" % following, [key for key in keys if matches(key)]]

    def _keys_from(self, prefix: bytes, after: bytes | None = None) -> Iterator[bytes]:
        """Yield the keys that begin with `prefix`, those behind `after`."""
        start = prefix if after is None else max(prefix, after)
        for key in self.store.keys(start or None, end_of(prefix)):
            if key != after:
                yield key

    def _keep_cursor(self, key: bytes) -> int:
        number = next(self._cursor_numbers)
        self._cursors[number] = key
        if len(self._cursors) > CURSORS_MOST:
            self._cursors.popitem(last=False)
        return number

    @_command("FLUSHDB FLUSHALL", 0, 1, writes=True)
    def _flush(self, _: Session, arguments: list[bytes]) -> Reply:
        if arguments and arguments[0].upper() not in {b"SYNC", b"ASYNC"}:
            raise ReplyError(_SYNTAX)
        self.store.clear()
        return _OK

    # ------------------------------------------------------------ expiry

    @_command("EXPIRE", 2, 2, writes=True)
    def _expire(self, _: Session, arguments: list[bytes]) -> Reply:
        return self._expire_in(arguments[0], _seconds(arguments[1], 1, "expire"))

    @_command("PEXPIRE", 2, 2, writes=True)
    def _pexpire(self, _: Session, arguments: list[bytes]) -> Reply:
        return self._expire_in(arguments[0], _seconds(arguments[1], 1000, "pexpire"))

    def _expire_in(self, key: bytes, seconds: float) -> bool:
        if seconds <= 0:
            return self.store.delete(key)
        return self.store.expire(key, seconds)

    @_command("TTL", 1, 1)
    def _ttl_seconds(self, _: Session, arguments: list[bytes]) -> Reply:
        return self._time_left(arguments[0], 1)

    @_command("PTTL", 1, 1)
    def _ttl_milliseconds(self, _: Session, arguments: list[bytes]) -> Reply:
        return self._time_left(arguments[0], 1000)

    def _time_left(self, key: bytes, per_second: int) -> int:
        try:
            left = self.store.ttl(key)
        except KeyError:
            return -2
        return -1 if left is None else int(left * per_second + 0.5)

    @_command("PERSIST", 1, 1, writes=True)
    def _persist(self, _: Session, arguments: list[bytes]) -> Reply:
        return self.store.persist(arguments[0])

    def _lookup(self, key: bytes) -> tuple[bytes | None, float | None]:
        """Return value and seconds left of a key, both None if it is not there.

        In this order: what expires in between is not there, rather than there for ever.
        """
        try:
            left = self.store.ttl(key)
        except KeyError:
            return None, None
        value = self._value(key)
        if value is None or left is None:
            return value, None
        return value, max(left, _SHORTEST)

    # ------------------------------------------------------------ connections and server

    @_command("PING", 0, 1)
    def _ping(self, _: Session, arguments: list[bytes]) -> Reply:
        return arguments[0] if arguments else "PONG"

    @_command("ECHO", 1, 1)
    def _echo(self, _: Session, arguments: list[bytes]) -> Reply:
        return arguments[0]

    @_command("SELECT", 1, 1)
    def _select(self, _: Session, arguments: list[bytes]) -> Reply:
        if _number(arguments[0]):
            raise ReplyError("ERR DB index is out of range")
        return _OK

    @_command("QUIT", 0)
    def _quit(self, session: Session, _: list[bytes]) -> Reply:
        session.quitting = True
        return _OK

    @_command("POST HOST:", 0)
    def _web(self, session: Session, _: list[bytes]) -> Reply:
        """End what is a browser that was talked into sending commands in a web request."""
        session.quitting = True
        raise ReplyError("ERR Possible SECURITY ATTACK detected: this is no web server")

    @_command("HELLO", 0)
    def _hello(self, session: Session, arguments: list[bytes]) -> Reply:
        if arguments:
            version = parse_integer(arguments[0])
            if version is None:
                raise ReplyError("ERR Protocol version is not an integer or out of range")
            if version != 2:
                raise ReplyError("NOPROTO unsupported protocol version")
        if len(arguments) == 3 and arguments[1].upper() == b"SETNAME":
            session.name = arguments[2]
        elif len(arguments) > 1:
            raise ReplyError(f"ERR Syntax error in HELLO option '{_text(arguments[1])}'")
        facts: dict[bytes, Reply] = {
            b"server": b"redis", b"version": VERSION.encode(), b"proto": 2, b"id": session.number,
            b"mode": b"standalone", b"role": b"master", b"modules": [],
        }  # fmt: skip
        return [part for pair in facts.items() for part in pair]

    @_command("CLIENT", 1)
    def _client(self, session: Session, arguments: list[bytes]) -> Reply:
        match [arguments[0].upper(), *arguments[1:]]:
            case [b"ID"]:
                return session.number
            case [b"SETNAME", name]:
                session.name = name
                return _OK
            case [b"GETNAME"]:
                return session.name or None
            case [b"SETINFO", _, _]:
                return _OK
        raise _unknown_subcommand("CLIENT", arguments[0])

    @_command("COMMAND", 0)
    def _command_table(self, _: Session, arguments: list[bytes]) -> Reply:
        return len(_COMMANDS) if arguments[:1] and arguments[0].upper() == b"COUNT" else []

    @_command("CONFIG", 1)
    def _config(self, _: Session, arguments: list[bytes]) -> Reply:
        if arguments[0].upper() != b"GET":
            raise _unknown_subcommand("CONFIG", arguments[0])
        settings = {b"save": b"", b"appendonly": b"yes", b"databases": b"1"}
        patterns = [glob_pattern(name.lower()) for name in arguments[1:]]
        if not patterns:
            raise _wrong_number(b"config|get")
        return [
            part
            for pair in settings.items()
            if any(pattern.fullmatch(pair[0]) for pattern in patterns)
            for part in pair
        ]

    @_command("INFO", 0)
    def _info(self, _: Session, arguments: list[bytes]) -> Reply:
        wanted = {_text(name).lower() for name in arguments} - {"all", "default", "everything"}
        sections: dict[str, dict[str, object]] = {
            "server": {"redis_version": VERSION, "server_name": "pmemheap-kvstore"},
            "stats": {"total_commands_processed": self.commands_run},
            "keyspace": {"db0": f"keys={len(self.store)},avg_ttl=0"},
        }
        if "store" in wanted:  # O(keys)
            sections["store"] = asdict(self.store.stats())
        for section, more in (self._facts() if self._facts else {}).items():
            sections.setdefault(section, {}).update(more)
        return "\r\n".join(
            f"# {section.capitalize()}\r\n{_fact_lines(facts)}"
            for section, facts in sections.items()
            if not wanted or section in wanted
        ).encode()


# ---------------------------------------------------------------- options


class _SetOptions:
    """What follows key and value in SET."""

    def __init__(self, words: list[bytes]) -> None:
        self.condition = b""
        self.keep = self.get = False
        self.ttl: float | None = None
        rest = iter(words)
        for word in map(bytes.upper, rest):
            if word in {b"NX", b"XX"} and self.condition in {b"", word}:
                self.condition = word
            elif word == b"GET":
                self.get = True
            elif word == b"KEEPTTL" and self.ttl is None:
                self.keep = True
            elif word in {b"EX", b"PX"} and self.ttl is None and not self.keep:
                self.ttl = self._take_time(rest, 1 if word == b"EX" else 1000)
            else:
                raise ReplyError(_SYNTAX)

    @property
    def looks(self) -> bool:
        """Whether it matters what was there before."""
        return self.keep or self.get or bool(self.condition)

    @staticmethod
    def _take_time(rest: Iterator[bytes], per_second: int) -> float:
        text = next(rest, None)
        if text is None:
            raise ReplyError(_SYNTAX)
        return _positive_seconds(text, per_second, "set")


def _scan_options(words: list[bytes]) -> tuple[bytes, int]:
    """Return pattern and count of SCAN."""
    pattern, number = b"*", 10
    if len(words) % 2:
        raise ReplyError(_SYNTAX)
    for word, value in zip(words[::2], words[1::2], strict=True):
        match word.upper():
            case b"MATCH":
                pattern = value
            case b"COUNT":
                number = _number(value)
            case b"TYPE" if value.lower() == b"string":
                pass
            case _:
                raise ReplyError(_SYNTAX)
    if number < 1:
        raise ReplyError(_SYNTAX)
    return pattern, number


def _number(text: bytes) -> int:
    number = parse_integer(text)
    if number is None:
        raise ReplyError(_INTEGER_EXPECTED)
    return number


def _seconds(text: bytes, per_second: int, command: str) -> float:
    seconds = _number(text) / per_second
    if abs(seconds) > MOST_SECONDS:
        raise ReplyError(f"ERR invalid expire time in '{command}' command")
    return seconds


def _positive_seconds(text: bytes, per_second: int, command: str) -> float:
    seconds = _seconds(text, per_second, command)
    if seconds <= 0:
        raise ReplyError(f"ERR invalid expire time in '{command}' command")
    return seconds


# ---------------------------------------------------------------- texts


def _writes(call: Call) -> bool:
    command = _COMMANDS.get(call[1][0].upper())
    return command is not None and command.writes


def _total(replies: list[bytes]) -> int:
    return sum(map(len, replies))


def _text(word: bytes) -> str:
    """Return bytes of a client as what an error can quote."""
    return word[:128].decode(errors="backslashreplace")


def _wrong_number(name: bytes) -> ReplyError:
    return ReplyError(f"ERR wrong number of arguments for '{_text(name).lower()}' command")


def _unknown(name: bytes, arguments: list[bytes]) -> str:
    quoted = "".join(f"'{_text(word)}' " for word in arguments[:8])
    return f"ERR unknown command '{_text(name)}', with args beginning with: {quoted}"


def _unknown_subcommand(command: str, word: bytes) -> ReplyError:
    return ReplyError(f"ERR unknown subcommand '{_text(word)}'. Try {command} HELP.")


def _fact_lines(facts: dict[str, object]) -> str:
    return "".join(f"{name}:{value}\r\n" for name, value in facts.items())
