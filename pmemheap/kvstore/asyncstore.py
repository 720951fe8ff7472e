"""AsyncKVStore: a store for asyncio. One thread makes all calls, and shares commits among them.

    task --await set(...)--+                             +--> future of each task
    task --await incr(...)-+--> queue --> thread: all    |
    task --await get(...)--+             that waits is one transaction, one commit

While a commit waits for the disk, the calls of other tasks gather, and the next commit is that of
all of them. A call that fails is taken back alone, by a savepoint. A commit that has no room for
all is tried again in halves, down to single calls, whose error is their own.

Calls are made in the order in which they arrive, and a call is answered when its commit has been
made: what a task was told is durable as the store makes it. Calls that make transactions of their
own (`put_many`, `compact`, ...) are made alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import groupby, islice
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from pmemheap import DurabilityName, OpenFlag, OutOfSpaceError, UsageError
from pmemheap.kvstore.store import KVStore, StoreOptions
from pmemheap.kvstore.storefile import AnyPath

__all__ = ["AsyncKVStore"]

T = TypeVar("T")
_TOGETHER_MOST = 1000
_PAGE_ITEMS = 256


class Kind(Enum):
    """How a call may be made."""

    READ = "read"
    CHANGE = "change"
    ALONE = "alone"


@dataclass(frozen=True)
class Job:
    """A call, and who waits for it."""

    call: Callable[[], Any]
    kind: Kind
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


Outcome = tuple[Any, BaseException | None]


class AsyncKVStore:
    """A store whose calls are awaited.

    Parameters
    ----------
    store : KVStore
        Open; `close` closes it. Reading it directly is allowed, and may wait for the disk.

    Examples
    --------
    >>> import asyncio, tempfile
    >>> home = tempfile.TemporaryDirectory()
    >>> async def main():
    ...     async with await AsyncKVStore.open(home.name + "/a.kv") as store:
    ...         await asyncio.gather(*(store.set(b"%d" % n, b"x") for n in range(100)))
    ...         await store.incr(b"visits")
    ...         return [key async for key, _ in store.items(b"97", b"w")]
    >>> asyncio.run(main())
    [b'97', b'98', b'99', b'visits']
    >>> home.cleanup()

    Notes
    -----
    A task that is cancelled while it waits does not take its change back: the change may have been
    made or not. `call` makes any function of the store part of a shared commit.
    """

    def __init__(self, store: KVStore) -> None:
        self.store = store
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_over = False

    @classmethod
    async def open(
        cls,
        path: AnyPath,
        durability: DurabilityName | None = "power",
        flag: OpenFlag = "c",
        **options: Unpack[StoreOptions],
    ) -> Self:
        """Open a store, in a thread, and return it; arguments as of `KVStore`."""
        return cls(await asyncio.to_thread(KVStore, path, durability, flag, **options))

    # ------------------------------------------------------------ calls

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function with the store, and return its result; it is one change.

        What it changes is committed as a whole, or not at all.

        It is called again when the commit that it was to share had no room: so it changes nothing
        but the store.

        Parameters
        ----------
        function : callable
            Takes the store, and `arguments`; it must not wait for this loop.
        """
        return await self._asked(Kind.CHANGE, function, self.store, *arguments)

    async def get(self, key: bytes, default: Any = None) -> Any:
        """Return a copy of the value of a key, or `default`."""
        return await self._asked(Kind.READ, self.store.get, key, default)

    async def contains(self, key: bytes) -> bool:
        """Tell whether there is such a key."""
        return await self._asked(Kind.READ, self.store.__contains__, key)

    async def count(self) -> int:
        """Return the number of keys."""
        return await self._asked(Kind.READ, self.store.__len__)

    async def ttl(self, key: bytes) -> float | None:
        """Return the seconds that a key has left, as `KVStore.ttl`."""
        return await self._asked(Kind.READ, self.store.ttl, key)

    async def set(
        self, key: bytes, value: Any, ttl: float | None = None, tag: str | bytes | None = None
    ) -> None:
        """Give a key a value, as `KVStore.set`."""
        await self._asked(Kind.CHANGE, self.store.set, key, value, ttl, tag)

    async def delete(self, key: bytes) -> bool:
        """Remove a key if it is there; tell whether it was."""
        return await self._asked(Kind.CHANGE, self.store.delete, key)

    async def pop(self, key: bytes, *default: Any) -> Any:
        """Remove a key and return its value, or `default`; KeyError if that is left out."""
        return await self._asked(Kind.CHANGE, self.store.pop, key, *default)

    async def incr(self, key: bytes, delta: int = 1, default: int | None = 0) -> int:
        """Add to a number, as `KVStore.incr`; return the sum."""
        return await self._asked(Kind.CHANGE, self.store.incr, key, delta, default)

    async def expire(self, key: bytes, ttl: float) -> bool:
        """Let a key expire, as `KVStore.expire`; tell whether there is such a key."""
        return await self._asked(Kind.CHANGE, self.store.expire, key, ttl)

    async def put_many(
        self,
        pairs: Iterable[tuple[bytes, Any]],
        *,
        batch: int = 256,
        ttl: float | None = None,
        tag: str | bytes | None = None,
    ) -> None:
        """Give many keys values, as `KVStore.put_many`."""
        put_many = partial(self.store.put_many, batch=batch, ttl=ttl, tag=tag)
        await self._asked(Kind.ALONE, put_many, list(pairs))

    async def evict_tag(self, tag: str | bytes) -> int:
        """Remove all keys that have a tag; return how many."""
        return await self._asked(Kind.ALONE, self.store.evict_tag, tag)

    async def purge(self, most: int | None = None) -> int:
        """Remove keys that have expired; return how many."""
        return await self._asked(Kind.ALONE, self.store.purge, most)

    async def clear(self) -> None:
        """Remove everything."""
        await self._asked(Kind.ALONE, self.store.clear)

    async def compact(self) -> int:
        """Give back what the store does not need, as `KVStore.compact`; return the bytes."""
        return await self._asked(Kind.ALONE, self.store.compact)

    async def sync(self) -> None:
        """Wait until everything that was committed is on the medium."""
        await self._asked(Kind.ALONE, self.store.sync)

    async def items(
        self, start: bytes | None = None, stop: bytes | None = None
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Yield keys and values of a range in order, 256 of one moment at a time."""
        page: list[tuple[bytes, bytes]] | None = None
        while page is None or len(page) >= _PAGE_ITEMS:
            page = await self._asked(Kind.READ, self._page, start, stop, page and page[-1][0])
            for item in page:
                yield item

    def _page(
        self, start: bytes | None, stop: bytes | None, after: bytes | None
    ) -> list[tuple[bytes, bytes]]:
        items = self.store.items(start if after is None else after, stop)
        return list(islice((item for item in items if item[0] != after), _PAGE_ITEMS))

    # ------------------------------------------------------------ the thread

    def _asked(self, kind: Kind, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Let the thread make a call."""
        if self.store.closed:
            raise UsageError(f"{self.store!r}: an open store expected, it is closed")
        found = self._put(kind, partial(function, *arguments))
        if found is None:
            raise UsageError(f"{self.store!r}: an open store expected, it was closed")
        return found

    def _put(self, kind: Kind, call: Callable[[], T]) -> asyncio.Future[T] | None:
        """Hand a call to the thread, which the first one starts; None if the thread has ended."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._lock:
            if self._is_over:
                return None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kvstore", daemon=True)
                self._thread.start()
            self._queue.put(Job(call, kind, loop, future))
        return future

    def _run(self) -> None:
        """Make calls until the store is closed, all that wait together."""
        while not self.store.closed:
            jobs = [self._queue.get()]
            with suppress(Empty):
                while len(jobs) < _TOGETHER_MOST:
                    jobs.append(self._queue.get_nowait())
            for is_alone, some in groupby(jobs, lambda job: job.kind is Kind.ALONE):
                for group in ([job] for job in some) if is_alone else [list(some)]:
                    _answer(group, self._outcomes(group))
        with self._lock, suppress(Empty):
            self._is_over = True
            while True:  # what came too late
                job = self._queue.get_nowait()
                _answer([job], [_outcome(job)])

    def _outcomes(self, jobs: Sequence[Job]) -> list[Outcome]:
        if jobs[0].kind is Kind.ALONE or all(job.kind is Kind.READ for job in jobs):
            return [_outcome(job) for job in jobs]
        try:
            with self.store.transaction():
                return [self._saved(job, is_last=len(jobs) == 1) for job in jobs]
        except BaseException as error:
            if len(jobs) == 1:
                return [(None, error)]
        half = len(jobs) // 2
        return [*self._outcomes(jobs[:half]), *self._outcomes(jobs[half:])]

    def _saved(self, job: Job, *, is_last: bool) -> Outcome:
        """Make a call that is taken back alone if it fails; want of room is a matter of all."""
        try:
            with self.store.transaction():
                return job.call(), None
        except OutOfSpaceError as error:
            if not is_last:
                raise
            return None, error
        except BaseException as error:
            return None, error

    # ------------------------------------------------------------ the end

    async def close(self) -> None:
        """Make the calls that wait, and close the store; twice is allowed.

        Raises
        ------
        BufferError
            Views are alive; the store stays open.
        """
        closing = self._put(Kind.ALONE, self.store.close)
        if closing is not None:
            await closing
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        await self.close()


def _outcome(job: Job) -> Outcome:
    try:
        return job.call(), None
    except BaseException as error:
        return None, error


def _answer(jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
    """Tell who waits; the loop of a task may have ended."""
    for loop, some in groupby(zip(jobs, outcomes, strict=True), lambda pair: pair[0].loop):
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, list(some))


def _settle(answers: Sequence[tuple[Job, Outcome]]) -> None:
    for job, (result, error) in answers:
        if job.future.done():  # cancelled
            continue
        if error is None:
            job.future.set_result(result)
        elif isinstance(error, StopIteration):  # which a future refuses
            job.future.set_exception(RuntimeError(f"call: {error!r}"))
        else:
            job.future.set_exception(error)
