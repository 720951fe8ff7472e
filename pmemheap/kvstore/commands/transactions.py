"""transactions: MULTI, EXEC, DISCARD, WATCH, UNWATCH.

    MULTI              from here on requests are queued: checked, answered by QUEUED, not run
    SET k v            one that is refused breaks the queue
    EXEC               all of them in one transaction of the heap, and so one durable commit

EXEC runs nothing if the queue is broken (EXECABORT) or if a watched key has changed (a missing
array). As with Redis, a command that is refused by what it finds, a value that is no number, is an
error among the replies and the others count. What fails for the whole, the file that is full, takes
back the whole: EXECABORT, and nothing has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmemheap.kvstore.commands.registry import ALL, Command, Group, in_group
from pmemheap.kvstore.commands.session import Queue, Session
from pmemheap.kvstore.resp import NO_ARRAY, Reply, ReplyError

if TYPE_CHECKING:
    from pmemheap.kvstore.commands.running import Commands

__all__ = ["enqueue", "reset"]

command: Group = in_group("transactions")

_OK = "OK"
_ANY_TIME = "fast noscript loading stale allow_busy"
_QUEUED = "QUEUED"
_WATCHED_MOST = 10_000


def enqueue(on: Commands, session: Session, request: list[bytes], one: Command | None) -> Reply:
    """Put a request behind the others of an open MULTI, or break the queue."""
    queue = session.queue
    assert queue is not None
    refused = on.refusal(request, one)
    nbytes = queue.nbytes + sum(map(len, request))
    if refused is None and nbytes > on.limits.transaction:
        refused = ReplyError(f"ERR transaction of more than {on.limits.transaction} bytes")
    if refused is not None:
        queue.is_broken = True
        return refused
    queue.requests.append(request)
    queue.nbytes = nbytes
    return _QUEUED


def reset(on: Commands, session: Session) -> None:
    """End MULTI and WATCH."""
    session.queue = None
    session.watched = {}
    on.keys.forget_unwatched(on.sessions.values())


@command("MULTI", "1.2.0", 0, 0, flags=_ANY_TIME, is_immediate=True)
def multi(_: Commands, session: Session, __: list[bytes]) -> Reply:
    """Queue the requests that follow, for EXEC."""
    if session.queue is not None:
        raise ReplyError("ERR MULTI calls can not be nested")
    session.queue = Queue()
    return _OK


@command(
    "EXEC",
    "1.2.0",
    0,
    0,
    flags="noscript loading stale skip_slowlog",
    may_write=True,
    is_immediate=True,
)
def exec_(on: Commands, session: Session, _: list[bytes]) -> Reply:
    """Run what was queued, all of it or nothing."""
    queue, watched = session.queue, session.watched
    if queue is None:
        raise ReplyError("ERR EXEC without MULTI")
    reset(on, session)
    if queue.is_broken:
        raise ReplyError("EXECABORT Transaction discarded because of previous errors.")
    if not queue.requests and not watched:
        return []
    try:
        return _run_all(on, session, queue, watched)
    except ReplyError:
        raise
    except Exception as error:
        if on.is_batch:  # it is run again by itself, with what was watched and queued
            raise
        raise ReplyError(f"EXECABORT Transaction discarded because of: {error}") from error


def _run_all(on: Commands, session: Session, queue: Queue, watched: dict[bytes, object]) -> Reply:
    if not watched and not any(on.writes(request) for request in queue.requests):
        return on.run_queued(session, queue.requests)
    with on.store.exclusive() if watched else on.store.transaction():
        if not on.keys.is_unchanged(watched):
            return NO_ARRAY
        return on.run_queued(session, queue.requests)


@command("DISCARD", "2.0.0", 0, 0, flags=_ANY_TIME, is_immediate=True)
def discard(on: Commands, session: Session, _: list[bytes]) -> Reply:
    """Forget what was queued."""
    if session.queue is None:
        raise ReplyError("ERR DISCARD without MULTI")
    reset(on, session)
    return _OK


@command("WATCH", "2.2.0", 1, flags=_ANY_TIME, keys=ALL, uses="RO", is_immediate=True)
def watch(on: Commands, session: Session, arguments: list[bytes]) -> Reply:
    """Let EXEC run nothing if one of these keys changes until then."""
    if session.queue is not None:
        raise ReplyError("ERR WATCH inside MULTI is not allowed")
    if len(session.watched) + len(arguments) > _WATCHED_MOST:
        raise ReplyError(f"ERR more than {_WATCHED_MOST} watched keys")
    for key in arguments:
        if key not in session.watched:
            session.watched[key] = on.keys.seen(key)
    return _OK


@command("UNWATCH", "2.2.0", 0, 0, flags=_ANY_TIME)
def unwatch(on: Commands, session: Session, _: list[bytes]) -> Reply:
    """Forget what was watched."""
    session.watched = {}
    on.keys.forget_unwatched(on.sessions.values())
    return _OK
