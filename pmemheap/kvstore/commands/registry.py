"""registry: the table of commands, and what is known of each: its arity, its keys, its words.

    @command("GETRANGE", "2.4.0", 3, 3,                  name, since, least and most arguments
             flags="readonly", keys=FIRST, uses="RO access")
    def getrange(on, session, arguments): ...            its first line says what it does

    @command("CLIENT|ID", "5.0.0", 0, 0)                 a subcommand; CLIENT is made with the first

All that `COMMAND` tells of the server comes from here, and what is not in here the server does not
have. A function gets the `Commands` it runs on, the session, and the arguments behind its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pmemheap.kvstore.resp import Reply, ReplyError, parse_integer

if TYPE_CHECKING:
    from pmemheap.kvstore.commands.running import Commands
    from pmemheap.kvstore.commands.session import Session

__all__ = [
    "ALL",
    "COUNTED",
    "FIRST",
    "FIRST_TWO",
    "PAIRS",
    "UNLIMITED",
    "Command",
    "Group",
    "Keys",
    "Run",
    "command_of",
    "find",
    "in_group",
    "quoted",
    "table",
    "unknown_command",
    "unknown_subcommand",
    "wrong_number",
]

Run = Callable[["Commands", "Session", list[bytes]], Reply]
Group = Callable[..., Callable[[Run], Run]]
"""Takes the facts of a command, as `in_group` has them, and returns what enters it."""

UNLIMITED = 1 << 30
_CATEGORIES = {"string": "string", "generic": "keyspace", "connection": "connection",
               "transactions": "transaction", "scripting": "scripting"}  # fmt: skip
_HELP_SINCE = {b"ACL": "6.0.0", b"MEMORY": "4.0.0", b"OBJECT": "6.2.0"}
_QUOTED_BYTES, _QUOTED_WORDS = 128, 8


@dataclass(frozen=True)
class Keys:
    """Where keys stand among the arguments: from `first` to `last`, each `step`-th, from 1 on."""

    first: int
    last: int
    step: int

    def of(self, request: Sequence[bytes]) -> Sequence[bytes]:
        """Return the keys of a request, whose first word is the name."""
        return request[self.first : None if self.last < 0 else self.last + 1 : self.step]


class _CountedKeys(Keys):
    """Keys whose number stands before them, as those of EVAL."""

    def of(self, request: Sequence[bytes]) -> Sequence[bytes]:
        """Return the keys of a request."""
        count = parse_integer(request[2]) or 0
        return request[3 : 3 + max(count, 0)]


FIRST, FIRST_TWO, ALL, PAIRS = Keys(1, 1, 1), Keys(1, 2, 1), Keys(1, -1, 1), Keys(1, -1, 2)
COUNTED = _CountedKeys(0, 0, 0)


@dataclass(frozen=True)
class Command:
    """What is known of a command.

    Attributes
    ----------
    name : bytes
        In capitals; of a subcommand ``CLIENT|ID``.
    run : callable
        Runs it.
    least, most : int
        Arguments behind the name.
    group, since, summary : str
        As the documents of Redis have them: since which of its versions there is such a command.
    flags : frozenset of str
        As `COMMAND` of Redis has them: ``write``, ``readonly``, ``fast``, ...
    categories : str
        Those that do not follow from the flags.
    keys : Keys or None
        Which arguments are keys.
    uses : tuple of str
        What is done to the keys, to each if there are several: ``RO access``.
    writes : bool
        Whether it may change the store.
    is_immediate : bool
        Whether it is run at once between MULTI and EXEC, too.
    changes_session : bool
        Whether it may change what is remembered of its connection.
    subcommands : dict
        By their second word, in capitals.
    """

    name: bytes
    run: Run
    least: int
    most: int
    group: str
    since: str
    summary: str
    flags: frozenset[str] = frozenset()
    categories: str = ""
    keys: Keys | None = None
    uses: tuple[str, ...] = ()
    writes: bool = False
    is_immediate: bool = False
    changes_session: bool = False
    subcommands: dict[bytes, Command] = field(default_factory=dict)

    @property
    def shown_name(self) -> str:
        """The name as replies have it."""
        return self.name.decode().lower()

    @property
    def arity(self) -> int:
        """Words of a request; negative if there may be more."""
        words = self.least + 1 + self.name.count(b"|")
        return words if self.least == self.most else -words

    def refused(self, count: int) -> ReplyError | None:
        """Return why so many arguments are refused, if they are."""
        return None if self.least <= count <= self.most else wrong_number(self.shown_name)


table: dict[bytes, Command] = {}
"""Commands by their names in capitals."""

_unlisted: dict[bytes, Command] = {}
"""What is understood and is no command: the first words of other protocols."""


def command_of(request: Sequence[bytes]) -> Command | None:
    """Return the command, or the container of commands, that a request names."""
    name = request[0]
    found = table.get(name) or table.get(name.upper())
    return found or _unlisted.get(name.upper())


def in_group(group: str) -> Group:
    """Return the decorator that enters the functions of a module."""

    def command(  # noqa: PLR0913 -- the facts of a command
        names: str,
        since: str,
        least: int,
        most: int | None = None,
        *,
        flags: str = "",
        categories: str = _CATEGORIES.get(group, ""),
        keys: Keys | None = None,
        uses: str = "",
        may_write: bool = False,
        is_immediate: bool = False,
        is_listed: bool = True,
    ) -> Callable[[Run], Run]:
        words = frozenset(flags.split())

        def enter(run: Run) -> Run:
            for name in names.encode().split():
                one = Command(
                    name, run, least, UNLIMITED if most is None else most, group, since,
                    _summary(run), words, categories, keys, tuple(uses.split("; ")),
                    may_write or "write" in words, is_immediate,
                    group in {"connection", "transactions"},
                )  # fmt: skip
                if is_listed:
                    _enter(one)
                else:
                    _unlisted[name] = one
            return run

        return enter

    return command


def _summary(run: Run) -> str:
    return (run.__doc__ or "").strip().splitlines()[0]


def _enter(one: Command) -> None:
    name, bar, sub = one.name.partition(b"|")
    if not bar:
        table[name] = one
        return
    if name not in table or not table[name].subcommands:
        table[name] = container = _container(name, one, table.get(name))
        container.subcommands[b"HELP"] = _help_of(container, one.categories)
    elif _version(one.since) < _version(table[name].since):
        container = table[name]
        table[name] = replace(container, since=one.since)
    table[name].subcommands[sub] = one


def _container(name: bytes, first: Command, bare: Command | None) -> Command:
    """Return what runs the subcommands of a name, and `bare` without one."""
    run = _run_subcommand(name, bare)
    if bare is not None:
        return replace(bare, run=run, most=UNLIMITED, subcommands={})
    summary = f"A container of commands; see {name.decode()} HELP."
    return replace(
        first, name=name, run=run, least=1, most=UNLIMITED, flags=frozenset(), categories="",
        keys=None, writes=False, summary=summary, subcommands={},
    )  # fmt: skip


def _version(text: str) -> list[int]:
    return [int(part) for part in text.split(".")]


def _run_subcommand(name: bytes, bare: Command | None) -> Run:
    def run(on: Commands, session: Session, arguments: list[bytes]) -> Reply:
        if bare is not None and not arguments:
            return bare.run(on, session, arguments)
        one = _subcommand(table[name], arguments)
        return one.run(on, session, arguments[1:])

    return run


def _subcommand(container: Command, arguments: Sequence[bytes]) -> Command:
    one = container.subcommands.get(arguments[0].upper())
    if one is None:
        raise unknown_subcommand(container, arguments[0])
    if refused := one.refused(len(arguments) - 1):
        raise refused
    return one


def _help_of(container: Command, categories: str) -> Command:
    def run(on: Commands, session: Session, arguments: list[bytes]) -> Reply:
        """Return what there is."""
        return list(_help_lines(container))

    return replace(
        container, name=container.name + b"|HELP", run=run, least=0, most=0,
        since=_HELP_SINCE.get(container.name, "5.0.0"), summary=_summary(run), subcommands={},
        flags=frozenset({"loading", "stale"}), categories=categories,
    )  # fmt: skip


def _help_lines(container: Command) -> Iterator[str]:
    name = container.name.decode()
    yield f"{name} <subcommand> [<arg> ...]. Subcommands are:"
    for word, one in container.subcommands.items():
        yield word.decode()
        yield f"    {one.summary}"


def find(words: Iterable[bytes]) -> Command | None:
    """Return the command of a name, ``CLIENT|ID`` or ``client|id`` for a subcommand."""
    name, *rest = words
    first, _, sub = name.upper().partition(b"|")
    one = table.get(first)
    if one is None or not (sub or (rest and one.subcommands)):
        return one
    return one.subcommands.get(sub or rest[0].upper())


# ---------------------------------------------------------------- what is no command


def quoted(word: bytes) -> str:
    """Return bytes of a client as what an error can quote."""
    return word[:_QUOTED_BYTES].decode(errors="backslashreplace")


def wrong_number(shown_name: str) -> ReplyError:
    """Return the refusal of a number of arguments."""
    return ReplyError(f"ERR wrong number of arguments for '{shown_name}' command")


def unknown_command(request: Sequence[bytes]) -> ReplyError:
    """Return the refusal of a name."""
    name, *arguments = request
    words = "".join(f"'{quoted(word)}' " for word in arguments[:_QUOTED_WORDS])
    return ReplyError(f"ERR unknown command '{quoted(name)}', with args beginning with: {words}")


def unknown_subcommand(container: Command, word: bytes) -> ReplyError:
    """Return the refusal of a second word."""
    name = container.name.decode()
    return ReplyError(f"ERR unknown subcommand '{quoted(word)}'. Try {name} HELP.")
