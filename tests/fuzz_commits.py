"""Random calls of transactions, arenas and copies, while system calls fail and signals come.

A part of the sessions of `fuzz_api`, whose lists of things to call with it shares.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import random
import signal
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pmemheap import Heap, HeapBusyError, OutOfSpaceError, PmemHeapError, native
from pmemheap.file import openfile
from pmemheap.heap.making import over_file
from pmemheap.layout import Durability
from pmemheap.testing import copy_as_crashed

LOG_BYTES = (4096, 8192, 128 << 10)
TRANSACTIONS = 6
NUMBERS = (errno.ENOSPC, errno.EIO, errno.EINTR, errno.ENOMEM, errno.EAGAIN)
UNTIL_SIGNAL = 0.004  # seconds, at most


class Commits:
    """Calls of transactions and of what is about them; `Session` is one."""

    random: random.Random
    directory: Path
    disk: Path
    heaps: list[Heap]
    offsets: list[Any]
    views: list[Any]
    transactions: list[Any]
    arenas: list[Any]
    failures: dict[str, str]
    depth: int
    has_threads: bool
    beginners: set[int]
    signals: set[int]
    is_refused: bool

    any_call: Callable[[], None]
    boom: Callable[[], None]
    buffer: Callable[[], Any]
    call: Callable[..., Any]
    close_one: Callable[[], None]
    heap: Callable[[], Heap]
    keep: Callable[..., None]
    number: Callable[[], Any]
    offset: Callable[[], Any]
    oddity: Callable[[], Any]
    options: Callable[[], dict[str, Any]]
    path: Callable[[], Path]

    # ------------------------------------------------------------ transactions

    def add_power_heap(self) -> None:
        """Make a heap that survives power failures, some with a log that is full at once."""
        path, options = self.disk / self.path().name, self.options()
        medium = openfile.create(
            path, Durability.POWER, limit=options["limit"], replace_file=False,
            log_bytes=self.random.choice(LOG_BYTES),
        )  # fmt: skip
        made = over_file(Heap, medium, options["headroom"], options["decay"], fresh=True)
        medium.link_name(replace_file=False)
        self.heaps.append(made)  # once it has its name: other threads close what is there

    def begin(self) -> None:
        """Begin a transaction, or a savepoint of the one that this thread has."""
        if self.has_threads:
            self.scoped()
            return
        heap, durable = self.heap(), self.random.choice((None, True, False, self.oddity()))
        made = self.call("transaction", heap.transaction, durable=durable)
        if made is not None:
            self.keep(self.transactions, made, TRANSACTIONS)

    def scoped(self) -> None:
        """Use a transaction that ends here; one at a time: no two threads wait for each other."""
        thread = threading.get_ident()
        if thread in self.beginners:
            return
        self.beginners.add(thread)
        try:
            made = self.call("transaction", self.heap().transaction)
            for _ in range(self.random.randrange(6) if made is not None else 0):
                self.use(made)
            if made is not None:
                self.call("tx.__exit__", made.__exit__, *self.ending(), None, None)
        finally:
            self.beginners.discard(thread)

    def ending(self) -> tuple[Any]:
        return (self.random.choice((None, None, ValueError)),)

    def transaction(self) -> None:
        """Make a call of a transaction, open or not."""
        if self.transactions:
            self.use(self.random.choice(self.transactions))

    def use(self, tx: Any) -> None:
        name = self.random.choice((*["malloc", "write", "free"] * 3, *TX_CALLS))
        TX_CALLS.get(name, Commits.tx_simple)(self, tx, name)

    def tx_malloc(self, tx: Any, name: str) -> None:
        options = {}
        if self.random.random() < 0.3:
            options["arena"] = self.random.choice((None, *self.arenas[-3:], self.oddity()))
        if self.random.random() < 0.2:
            options["align"] = self.random.choice((16, 4096, self.number()))
        made = self.call(f"tx.{name}", getattr(tx, name), self.number(), **options)
        if made is not None:
            self.keep(self.offsets, made)

    def tx_many(self, tx: Any, name: str) -> None:
        count = self.random.choice((0, 3, 40, self.number()))
        size = self.random.choice((16, 500, self.number()))
        if isinstance(count, int) and not 0 <= count < 10_000 < count * 2:  # quadratic in nothing
            count = min(max(int(count), -1), 300)
        made = self.call("tx.malloc_many", tx.malloc_many, size, count)
        if made is not None:
            self.keep(self.views, made)

    def tx_write(self, tx: Any, name: str) -> None:
        data = self.random.choice((b"x" * 10, bytes(5000), b"", self.buffer()))
        self.call("tx.write", tx.write, self.offset(), data)

    def tx_snapshot(self, tx: Any, name: str) -> None:
        self.call("tx.snapshot", tx.snapshot, self.offset(), self.number())

    def tx_realloc(self, tx: Any, name: str) -> None:
        made = self.call("tx.realloc", tx.realloc, self.offset(), self.number())
        if made is not None:
            self.keep(self.offsets, made)

    def tx_free(self, tx: Any, name: str) -> None:
        self.call("tx.free", tx.free, self.offset())

    def tx_roots(self, tx: Any, name: str) -> None:
        key = self.random.choice(("a", "b", "x" * 44, "\ud800", self.oddity()))
        calls: tuple[Callable[[], object], ...] = (
            lambda: tx.roots.__setitem__(key, self.offset()),
            lambda: tx.roots[key],
            lambda: tx.roots.__delitem__(key),
            lambda: dict(tx.roots),
            lambda: tx.roots.update({str(i): self.offset() for i in range(40)}),
        )
        self.call("roots.of_transaction", self.random.choice(calls))

    def tx_end(self, tx: Any, name: str) -> None:
        if self.has_threads:
            return
        ends = (tx.commit, tx.commit, tx.abort, lambda: tx.__exit__(*self.ending(), None, None))
        self.call("tx.end", self.random.choice(ends))

    def tx_elsewhere(self, tx: Any, name: str) -> None:
        """Use it from another thread: refused."""
        if self.has_threads or self.signals:  # which `threading` does not survive
            return
        calls = (lambda: tx.malloc(16), lambda: tx.write(self.offset(), b"x"), tx.commit, tx.abort)
        one = self.random.choice(calls)
        other = threading.Thread(target=lambda: self.call("tx.elsewhere", one))
        other.start()
        other.join()

    def tx_drop(self, tx: Any, name: str) -> None:
        """Let go of it while it is open; now and then somebody watches it go."""
        if self.random.random() < 0.3:
            watching = self.random.choice(
                (
                    self.begin,
                    self.transaction,
                    lambda: self.heap().transaction().abort(),
                    gc.collect,
                )
            )
            with contextlib.suppress(TypeError):  # savepoints are not watched
                weakref.finalize(tx, quietly, watching)
        if tx in self.transactions:
            self.transactions.remove(tx)

    def tx_simple(self, tx: Any, name: str) -> None:
        self.call(f"tx.{name}", lambda: (repr(tx), tx.is_open, tx.durable, tx.heap))

    # ------------------------------------------------------------ arenas

    def arena(self) -> None:
        if not self.arenas or self.random.random() < 0.3:
            name = self.random.choice(("a", "b", "c", "x" * 31, "x" * 32, "", self.oddity()))
            made = self.call(
                "arena", self.heap().arena, name, self.random.choice((True, True, False))
            )
            if made is not None:
                self.keep(self.arenas, made, 6)
            return
        arena = self.random.choice(self.arenas)
        name = self.random.choice(
            ("malloc", "malloc", "free", "malloc_many", "realloc", "drop", *ARENA_CALLS)
        )
        choices: dict[str, Callable[[], tuple[Any, ...]]] = {
            "malloc": lambda: (self.number(),),
            "free": lambda: (self.offset(),),
            "view": lambda: (self.offset(),),
            "malloc_many": lambda: (self.number(), self.random.choice((3, 200))),
            "realloc": lambda: (self.offset(), self.number()),
        }
        arguments = choices.get(name, lambda: ())()
        made = self.call(f"arena.{name}", lambda: _asked(arena, name, arguments))
        if name in {"malloc", "realloc"} and made is not None:
            self.keep(self.offsets, made)
        elif name == "malloc_many" and made is not None:
            for offset in list(made[:5]):
                self.keep(self.offsets, offset)
        elif name == "view" and made is not None:
            self.keep(self.views, made)

    # ------------------------------------------------------------ copies, faults, signals

    def copy_heap(self) -> None:
        """Copy a heap that is open, and open the copy."""
        place = self.random.choice((self.disk, self.directory))
        path = place / f"copy of {self.path().name}"  # no heap that somebody has open
        self.call("snapshot", self.heap().snapshot, path)
        if path.exists():
            self.require_opens(path, "a copy")

    def kill(self) -> None:
        """Open what would be left of a heap if the process were killed now."""
        if self.depth > 1 or self.has_threads or self.is_refused or self.signals:
            return
        with contextlib.suppress(PmemHeapError):
            heap = self.heap()
            if heap.readonly:
                return
            path = self.disk / self.path().name
            copy_as_crashed(f"/proc/self/fd/{heap.fileno()}", path)
            self.require_opens(path, f"{heap.durability} heap")

    def require_opens(self, path: Path, what: str) -> None:
        with contextlib.suppress(OutOfSpaceError):
            try:
                with Heap.open(path, decay=None) as heap:
                    found = list(heap.check().findings)
            except HeapBusyError as error:  # a second thread opens all that is in the directory
                found = [] if self.has_threads else [repr(error)]
            except PmemHeapError as error:
                found = [] if isinstance(error, OutOfSpaceError) else [repr(error)]
            if found and not self.is_refused:
                self.failures.setdefault(f"{what} that was killed: {found[0][:60]}", str(found))
        path.unlink(missing_ok=True)

    def refused(self) -> None:
        """Make some calls while system calls fail."""
        if self.is_refused or self.has_threads:
            return
        self.is_refused = True
        nth, number = self.random.randrange(1, 12), self.random.choice(NUMBERS)
        kind = self.random.choice(list(native.FaultKind))
        number = errno.EIO if kind == native.FaultKind.FROM else number  # EINTR for ever hangs
        with native.faults(nth, number, kind):
            for _ in range(3):
                self.any_call()
        self.is_refused = False

    def interrupted(self) -> None:
        """Make a call that a signal interrupts somewhere."""
        if self.depth > 1 or threading.current_thread() is not threading.main_thread():
            return
        depth, is_armed = self.depth, [True]

        def ring(*_: object) -> None:
            if is_armed:
                is_armed.clear()
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, ring)
        self.signals.add(signal.SIGALRM)
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + self.random.random() * UNTIL_SIGNAL)
            for _ in range(10):
                self.any_call()
            is_armed.clear()
        except KeyboardInterrupt:
            self.depth = depth
            self.is_refused = False
            with native.faults(1):
                pass  # the signal may have come before `refused` let the calls succeed again
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        self.signals.clear()


def _asked(arena: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    found = getattr(arena, name)
    return found(*arguments) if callable(found) else found


def quietly(action: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        action()


TX_CALLS: dict[str, Callable[[Commits, Any, str], None]] = {
    "malloc": Commits.tx_malloc,
    "alloc": Commits.tx_malloc,
    "malloc_many": Commits.tx_many,
    "write": Commits.tx_write,
    "snapshot": Commits.tx_snapshot,
    "realloc": Commits.tx_realloc,
    "free": Commits.tx_free,
    "roots": Commits.tx_roots,
    "end": Commits.tx_end,
    "elsewhere": Commits.tx_elsewhere,
    "drop": Commits.tx_drop,
    "look": Commits.tx_simple,
}
ARENA_CALLS = ("view", "stats", "check", "trim", "name", "closed")
