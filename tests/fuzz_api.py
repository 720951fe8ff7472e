"""Random calls of the whole public API with hostile arguments: nothing may crash the interpreter.

    python tests/fuzz_api.py --seconds 600 --seed 7

The calls are made in a child process, in *sessions*: each has heaps, reservations and blocks of its
own, some hundred calls, and a check of every heap at its end. A call may raise what is documented;
anything else is a failure, and so is a child that dies or hangs. `--session N` repeats one session.
In some sessions a second thread makes calls of its own; those repeat only by luck.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import faulthandler
import gc
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_commits import Commits

import pmemheap
from pmemheap import Block, Heap, HeapBusyError, PmemHeapError
from pmemheap.pmem2 import Map, VMReservation

CALLS_A_SESSION = 300
HANG_SECONDS = 600  # of a session: in a log of 4 KiB a million blocks take thousands of syncs
MiB = 1 << 20
PAGE = 4096
LIMIT = 24 * MiB

DOCUMENTED = (PmemHeapError, BufferError, TypeError, MemoryError, OverflowError)
# What memoryview and numpy say of arguments that are theirs; nobody can reword it.
OF_ARGUMENTS = ("released memoryview", "truth value of an array", "in a buffer")


class Boom(Exception):  # noqa: N818 -- what a hostile argument raises itself
    """Raised by an argument while a call converts it."""


def is_documented(name: str, error: BaseException) -> bool:
    if isinstance(error, (*DOCUMENTED, Boom)):
        return True
    if isinstance(error, KeyError):
        return name.startswith("roots.") or name == "arena"
    return type(error) is ValueError and any(words in str(error) for words in OF_ARGUMENTS)


class Index:
    """An argument whose conversion runs code of the caller: frees, closes, trims, raises."""

    def __init__(self, value: object, action: Callable[[], object]) -> None:
        self.value = value
        self.action = action

    def __index__(self) -> Any:
        self.action()
        return self.value

    def __bool__(self) -> bool:
        self.action()
        return bool(self.value)

    def __repr__(self) -> str:
        return f"Index({self.value!r})"


class Liar(int):
    """An int that says something else when it is asked."""

    def __index__(self) -> int:
        return 1 << 70

    def __int__(self) -> int:
        return -5


class Finalizer:
    """Garbage that uses the heap when it is collected, wherever that happens."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.cycle = self

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.action()


def describe(thing: Any) -> str:
    """Show an argument without calling code of others."""
    if isinstance(thing, dict):
        return ", ".join(f"{key}={describe(value)}" for key, value in thing.items())
    if type(thing) in {list, tuple}:
        return f"[{', '.join(describe(each) for each in thing[:8])}]"
    if type(thing) in {int, str, bytes, bool, float, type(None), Index}:
        return repr(thing)[:100]
    return f"<{type(thing).__name__}>"


class Session(Commits):
    """Heaps, what was made of them, and one random call after another."""

    def __init__(self, seed: str, directory: Path, disk: Path, log: Callable[[str], None]) -> None:
        self.random = random.Random(seed)
        self.directory = directory
        self.log = log
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.failures: dict[str, str] = {}
        self.depth = 0
        self.files = itertools.count()  # shared with a second thread
        self.heaps: list[Heap] = []
        self.reservations: list[VMReservation] = []
        self.maps: list[Map] = []
        self.offsets: list[Any] = [0]
        self.blocks: list[Block] = []
        self.views: list[Any] = []
        self.transactions: list[Any] = []
        self.arenas: list[Any] = []
        self.disk = disk
        self.has_threads = self.random.random() < 0.2
        self.beginners: set[int] = set()
        self.is_refused = False
        self.signals: set[int] = set()  # that may come; shared with a second thread
        self.add_heap()

    # ------------------------------------------------------------ things to call with

    def options(self) -> dict[str, Any]:
        pick = self.random.choice
        return {
            "limit": pick((LIMIT, 4 * MiB, LIMIT // 2)),
            "headroom": pick((None, 0, 1 << 30, 1 << 40)),
            "decay": pick((0, 0.001, None, 10.0)),
        }

    def path(self) -> Path:
        return self.directory / f"{next(self.files)}.heap"

    def add_heap(self) -> None:
        try:
            self.make_heap(self.random.randrange(6))
        except HeapBusyError:  # a second thread opens all that is in the directory
            if not self.has_threads:
                raise

    def make_heap(self, kind: int) -> None:
        if kind == 5:
            self.add_power_heap()
            return
        if kind == 0:
            heap = Heap.create(self.path(), durability="process", **self.options())
        elif kind == 1:
            heap = Heap.shared(**self.options())
        else:
            heap = Heap.anonymous(**self.options())
        self.heaps.append(heap)

    def heap(self) -> Heap:
        return self.random.choice(self.heaps)

    def keep(self, things: list[Any], thing: Any, most: int = 60) -> None:
        things.append(thing)
        if len(things) > most:
            things.pop(self.random.randrange(len(things)))

    def number(self) -> Any:
        """Return something a caller may take for a size, an offset or a count."""
        roll = self.random.random()
        if roll < 0.45:
            return self.random.choice((16, 100, 4096, 5000, 70_000, 300_000, 1_500_000))
        if roll < 0.6:
            return self.random.randrange(1, 1 << self.random.randrange(1, 24))
        if roll < 0.75:
            return self.random.choice(
                (
                    0,
                    -1,
                    1 << 31,
                    1 << 55,
                    (1 << 55) + 1,
                    (1 << 63) - 1,
                    1 << 63,
                    (1 << 64) - 1,
                    (1 << 64) - 4096,
                    1 << 64,
                    -(1 << 63),
                    1 << 100,
                )
            )
        return self.oddity()

    def offset(self) -> Any:
        roll = self.random.random()
        if roll < 0.75:
            return self.random.choice(self.offsets)
        if roll < 0.85:
            known = self.random.choice(self.offsets)
            return known + self.random.choice((1, 8, 16, 4096)) if isinstance(known, int) else known
        return self.number()

    def oddity(self) -> Any:
        pick = self.random.choice
        simple: tuple[Any, ...] = (
            None,
            "12",
            b"12",
            1.5,
            float("nan"),
            True,
            (),
            [],
            {},
            object(),
            int,
            Liar(64),
            3j,
            np.int64(64),
            np.uint64(4096),
            np.float64(2),
            np.arange(3),
            "\ud800",
            "a\0b",
        )
        if self.random.random() < 0.6:
            return pick(simple)
        values = (64, 5000, self.random.choice(self.offsets), -1, 1 << 80, "no number", None)
        return Index(
            pick(values),
            pick(
                (self.boom, self.any_call, self.any_call, self.free, self.trim_all, self.close_one)
            ),
        )

    def boom(self) -> None:
        raise Boom

    def close_all(self) -> None:
        for heap in self.heaps:
            with contextlib.suppress(*DOCUMENTED):
                heap.close()

    def close_one(self) -> None:
        with contextlib.suppress(*DOCUMENTED):
            self.heap().close()

    def trim_all(self) -> None:
        for heap in self.heaps:
            with contextlib.suppress(*DOCUMENTED):
                heap.trim()

    def buffer(self) -> Any:
        things = [*self.views[-20:], bytearray(64), array("Q", [0, 16, 1 << 63]), np.zeros(4)]
        return self.random.choice(things) if self.random.random() < 0.9 else self.oddity()

    def batch(self) -> Any:
        some = [self.offset() for _ in range(self.random.randrange(6))]
        if self.random.random() < 0.4:
            return self.random.choice((iter(some), tuple(some), (self.offset() for _ in range(4))))
        if self.random.random() < 0.4:
            return self.buffer()
        return some

    # ------------------------------------------------------------ calling

    def call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make one call and count how it ended; the result, or None."""
        self.log(f"{name} {describe(args)} {describe(kwargs)}")
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            self.counts[name, type(error).__name__] += 1
            allowed = bool(self.signals) and isinstance(error, KeyboardInterrupt)
            allowed |= self.is_refused and isinstance(error, (RuntimeWarning, OSError))
            if not allowed and not is_documented(name, error):
                key = f"{name}: {type(error).__name__}: {str(error)[:80]}"
                self.failures.setdefault(
                    key, f"{describe(args)} {describe(kwargs)}\n{traceback.format_exc()}"
                )
            return None
        self.counts[name, "returned"] += 1
        return result

    def any_call(self) -> None:
        """Make one random call; also from inside of another, up to a depth."""
        if self.depth > 3:
            return
        if self.depth == 0 and all(heap.closed for heap in self.heaps):
            self.add_heap()
        self.depth += 1
        try:
            self.random.choice(CALLS)(self)
        finally:
            self.depth -= 1

    # ------------------------------------------------------------ the calls

    def malloc(self) -> None:
        for _ in range(self.random.randrange(1, 6)):
            if self.random.random() < 0.7:
                made = self.call("malloc", self.heap().malloc, self.number())
            else:
                align = self.random.choice((16, 64, 4096, 1 << 16, 3, 0, self.number()))
                made = self.call("malloc", self.heap().malloc, self.number(), align=align)
            if made is not None:
                self.keep(self.offsets, made)

    def malloc_many(self) -> None:
        count = self.random.choice((0, 1, 10, 500, 500, self.number()))
        made = self.call("malloc_many", self.heap().malloc_many, self.number(), count)
        if made is not None:
            self.keep(self.views, made)
            for offset in list(made[:20]):
                self.keep(self.offsets, offset)

    def free(self) -> None:
        for _ in range(self.random.randrange(1, 5)):
            deferred = self.random.choice((False, False, True, self.oddity()))
            if self.random.random() < 0.6:
                self.call("free", self.heap().free, self.offset())
            else:
                with_keyword = {"deferred": deferred}
                self.call("free", self.heap().free, self.offset(), **with_keyword)

    def free_many(self) -> None:
        self.call("free_many", self.heap().free_many, self.batch())

    def realloc(self) -> None:
        made = self.call("realloc", self.heap().realloc, self.offset(), self.number())
        if made is not None:
            self.keep(self.offsets, made)

    def expand(self) -> None:
        self.call("expand", self.heap().expand, self.offset(), self.number())

    def lookup(self) -> None:
        name = self.random.choice(("usable_size", "address", "block", "view"))
        made = self.call(name, getattr(self.heap(), name), self.offset())
        if name == "block" and made is not None:
            self.keep(self.blocks, made)
        if name == "view" and made is not None:
            self.keep(self.views, made)

    def view_length(self) -> None:
        made = self.call("view", self.heap().view, self.offset(), self.number())
        if made is not None:
            self.keep(self.views, made)

    def use_view(self) -> None:
        """Write through a view or an array, slice it, let it go."""
        if not self.views:
            return
        index = self.random.randrange(len(self.views))
        with contextlib.suppress(Exception):
            view = self.views[index]
            if self.random.random() < 0.4:
                view[: min(len(view), 64)] = bytes([self.random.randrange(256)]) * min(
                    len(view), 64
                )
            elif self.random.random() < 0.3:
                self.keep(self.views, view[self.random.randrange(9) :])
            elif self.random.random() < 0.3:
                self.keep(self.views, np.frombuffer(view, "u1"))
            elif self.random.random() < 0.3:
                view.release()
            else:
                del self.views[index]

    def alloc(self) -> None:
        made = self.call("alloc", self.heap().alloc, self.number())
        if made is not None:
            self.keep(self.blocks, made)

    def use_block(self) -> None:
        if not self.blocks:
            return
        block = self.random.choice(self.blocks)
        name = self.random.choice(
            (
                "offset",
                "size",
                "view",
                "is_live",
                "heap",
                "free",
                "with",
                "repr",
                "hash",
                "pickle",
                "copy",
                "drop",
                "deferred",
            )
        )
        if name == "free":
            self.call("Block.free", block.free, self.random.choice((False, True)))
        elif name == "deferred":
            self.call("Block.free", block.free, deferred=self.oddity())
        elif name == "with":
            self.call("Block.with", lambda: block.__exit__(None, None, None))
        elif name == "pickle":
            self.call("Block.pickle", lambda: pickle.loads(pickle.dumps(block)))
        elif name == "copy":
            self.call("Block.copy", copy.copy, block)
        elif name == "drop":
            self.blocks.remove(block)
        elif name in {"repr", "hash"}:
            self.call(f"Block.{name}", {"repr": repr, "hash": hash}[name], block)
        else:
            made = self.call(f"Block.{name}", getattr, block, name)
            if name == "view" and made is not None:
                self.keep(self.views, made)

    def block_of_closed(self) -> None:
        self.call("Block", Block, self.heap(), self.offset(), self.number())

    def arrays(self) -> None:
        shape = self.random.choice(
            (5, (3, 4), (), (0, 1 << 62), self.number(), [self.number()], [1] * 80)
        )
        dtype = self.random.choice(
            ("f4", "u1", "S5", "V7", [("a", "i4")], "O", "M8", self.oddity())
        )
        if self.random.random() < 0.5:
            made = self.call("ndarray", self.heap().ndarray, shape, dtype)
        else:
            made = self.call("ndarray_at", self.heap().ndarray_at, self.offset(), shape, dtype)
        if made is not None:
            self.keep(self.views, made)

    def offset_of(self) -> None:
        self.call("offset_of", self.heap().offset_of, self.buffer())

    def insight(self) -> None:
        heap = self.heap()
        name = self.random.choice(
            ("stats", "check", "trim", "sync", "fileno", "explain", "blocks", "close")
        )
        if name == "explain":
            self.call(
                "explain", heap.explain, self.number(), self.random.choice((16, self.number()))
            )
        elif name == "blocks":
            self.call(
                "blocks",
                lambda: self.walk(heap),
            )
        elif name == "close":
            if self.random.random() < 0.3:
                self.call("close", heap.close)
        else:
            self.call(name, getattr(heap, name))

    def walk(self, heap: Heap) -> None:
        """Look at some blocks while they change."""
        for _ in zip(heap.blocks(), range(3), strict=False):
            self.any_call()

    def attributes(self) -> None:
        heap = self.heap()
        name = self.random.choice(("name", "uuid", "durability", "closed", "readonly", "roots"))
        self.call(name, getattr, heap, name)
        self.call("repr", repr, heap)
        self.call("copy", copy.copy, heap) if self.random.random() < 0.2 else None
        self.call("pickle", pickle.dumps, heap) if self.random.random() < 0.2 else None
        self.call("Heap", Heap) if self.random.random() < 0.2 else None

    def roots(self) -> None:
        roots = self.heap().roots
        name = self.random.choice(
            ("a", "b", "x" * 43, "x" * 44, "", "\ud800", "a\0", "é" * 30, self.oddity())
        )
        kind = self.random.choice(
            ("set", "set", "get", "delete", "iterate", "pop", "clear", "in", "len")
        )
        calls: dict[str, Callable[[], object]] = {
            "set": lambda: roots.__setitem__(name, self.offset()),
            "get": lambda: roots[name],
            "delete": lambda: roots.__delitem__(name),
            "iterate": lambda: dict(roots),
            "pop": lambda: roots.pop(name),
            "clear": roots.clear,
            "in": lambda: name in roots,
            "len": lambda: len(roots),
        }
        self.call(f"roots.{kind}", calls[kind])

    def make(self) -> None:  # noqa: C901 -- one branch a way to make a heap
        """Make heaps with options of any kind; only bounded ones are kept."""
        options: dict[str, Any] = self.options()
        for option in options:
            if self.random.random() < 0.3:
                options[option] = self.number()
        if options["limit"] is None:
            options["limit"] = LIMIT
        names = [
            *self.directory.iterdir(),
            self.path(),
            self.directory,
            Path("/dev/null"),
            self.oddity(),
        ]
        path: Any = self.random.choice(names)
        kind = self.random.choice(
            ("anonymous", "shared", "create", "open", "attach", "pmemheap.open")
        )
        if kind == "anonymous":
            made = self.call("Heap.anonymous", Heap.anonymous, **options)
        elif kind == "shared":
            made = self.call("Heap.shared", Heap.shared, **options)
        elif kind == "create":
            durability = self.random.choice(("process", "process", "power", self.oddity()))
            replace = self.random.random() < 0.2
            made = self.call(
                "Heap.create", Heap.create, path, durability=durability, replace=replace, **options
            )
        elif kind == "open":
            readonly = self.random.random() < 0.3
            made = self.call("Heap.open", Heap.open, path, readonly=readonly, **options)
        elif kind == "attach":
            fds = [-1, 0, 1 << 40, self.oddity(), *self.descriptors()]
            made = self.call("Heap.attach", Heap.attach, self.random.choice(fds), **options)
        else:
            flag = self.random.choice(("r", "w", "c", "n", "x", self.oddity()))
            made = self.call("pmemheap.open", pmemheap.open, path, flag, **options)
        if made is not None:
            bounded = isinstance(options["limit"], int) and options["limit"] <= 64 * MiB
            self.heaps.append(made) if bounded else self.call("close", made.close)
        while len(self.heaps) > 5:
            self.heaps.pop(self.random.randrange(len(self.heaps)))

    def descriptors(self) -> list[int]:
        found = []
        for heap in self.heaps:
            with contextlib.suppress(PmemHeapError):
                found.append(heap.fileno())
        return found

    def garbage(self) -> None:
        """Leave garbage that calls, or collect it."""
        if self.random.random() < 0.7:
            Finalizer(
                self.random.choice(
                    (self.free, self.malloc, self.any_call, self.close_all, self.use_view)
                )
            )
        else:
            gc.collect()

    def fork(self) -> None:
        """Let a child use what it inherited: it may be refused, but not die."""
        if threading.active_count() > 1 or self.depth > 1 or self.random.random() < 0.8:
            return
        known = set(self.failures)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                signal.alarm(HANG_SECONDS // 4)  # faulthandler's watchdog did not come along
                for _ in range(20):
                    self.any_call()
            for key in self.failures.keys() - known:
                self.log(f"FAILED in the child: {key}")
            os._exit(1 if self.failures.keys() - known else 0)
        _, status = os.waitpid(pid, 0)
        if status:
            self.failures.setdefault(f"fork: status {status:#x}", "in a forked child; see the log")

    # ------------------------------------------------------------ pmem2

    def reserve(self) -> None:
        size = self.random.choice((PAGE, 16 * PAGE, MiB, self.number()))
        options = {
            name: self.number()
            for name in ("headroom", "alignment", "skew")
            if self.random.random() < 0.1
        }
        address = self.random.choice((None, None, 0, self.number()))
        made = self.call("VMReservation", VMReservation, size, address, **options)
        if made is not None:
            self.keep(self.reservations, made, 5)

    def page_number(self) -> Any:
        return self.random.choice(
            (0, PAGE, 2 * PAGE, 8 * PAGE, -PAGE, self.number(), self.oddity())
        )

    def use_reservation(self) -> None:
        if not self.reservations:
            return
        reservation: Any = self.random.choice(self.reservations)
        name = self.random.choice(
            (
                "extend",
                "shrink",
                "find",
                "first",
                "last",
                "next",
                "prev",
                "maps",
                "close",
                "check",
                "size",
                "address",
                "headroom",
                "repr",
                "anonymous",
                "file",
            )
        )
        full = f"VMReservation.{name}"
        some_map: Any = self.random.choice(self.maps) if self.maps else self.oddity()
        if name == "extend":
            self.call(full, reservation.extend, self.page_number())
        elif name in {"shrink", "find"}:
            self.call(full, getattr(reservation, name), self.page_number(), self.page_number())
        elif name in {"next", "prev"}:
            target = some_map if self.random.random() < 0.8 else self.oddity()
            self.call(full, getattr(reservation, name), target)
        elif name in {"size", "address", "headroom"}:
            self.call(full, getattr, reservation, name)
        elif name == "repr":
            self.call(full, repr, reservation)
        elif name == "maps":
            self.call(full, lambda: list(reservation.maps()))
        elif name in {"anonymous", "file"}:
            self.map_in(reservation, name)
        else:
            self.call(full, getattr(reservation, name))

    def map_in(self, reservation: Any, name: str) -> None:
        target = reservation if self.random.random() < 0.9 else self.oddity()
        place = self.page_number(), self.page_number()
        if name == "anonymous":
            sharing = self.random.choice(("shared", "private", self.oddity()))
            made = self.call("Map.anonymous", Map.anonymous, target, *place, sharing=sharing)
        else:
            fd = self.random.choice([*self.descriptors(), -1, 0, self.number()])
            made = self.call(
                "Map.file",
                Map.file,
                fd,
                target,
                *place,
                self.page_number(),
                access=self.random.choice(("r", "r", self.oddity())),
            )
        if made is not None:
            self.keep(self.maps, made, 10)

    def use_map(self) -> None:
        if not self.maps:
            return
        a_map = self.random.choice(self.maps)
        name = self.random.choice(
            (
                "persist",
                "flush",
                "drain",
                "view",
                "address",
                "offset",
                "length",
                "granularity",
                "closed",
                "close",
                "repr",
            )
        )
        if name in {"persist", "flush"}:
            self.call(f"Map.{name}", getattr(a_map, name), self.page_number(), self.page_number())
        elif name in {"drain", "close"}:
            self.call(f"Map.{name}", getattr(a_map, name))
        elif name == "repr":
            self.call("Map.repr", repr, a_map)
        else:
            made = self.call(f"Map.{name}", getattr, a_map, name)
            if name == "view" and made is not None and not made.readonly:
                self.keep(self.views, made)

    # ------------------------------------------------------------ a whole session

    def run(self) -> None:
        other = threading.Thread(target=self.beside) if self.has_threads else None
        if other:
            other.start()
        for _ in range(CALLS_A_SESSION):
            self.any_call()
        if other:
            other.join()
        self.finish()

    def beside(self) -> None:
        """Calls of a second thread: the same, from a random source of its own."""
        twin = object.__new__(Session)
        twin.__dict__.update(self.__dict__)
        twin.random, twin.depth = random.Random(self.random.random()), 0
        for _ in range(CALLS_A_SESSION):
            with contextlib.suppress(IndexError, ValueError):  # of the lists that both change
                twin.any_call()

    def finish(self) -> None:
        """Let everything go, in an order that is never the same, and check what is left."""
        self.depth = 9  # no calls of finalizers any more
        held = [self.views, self.blocks, self.maps, self.transactions, self.arenas]
        for things in self.random.sample(held, len(held)):
            things.clear()
        gc.collect()
        for heap in self.heaps:
            if heap.closed:
                continue
            report = self.call("check", heap.check)
            # A reader beside its writer sees changes.
            beside = heap.readonly and heap.name.startswith("descriptor")
            findings = () if report is None or beside else report.findings
            if findings:
                self.failures.setdefault(f"check of {heap!r}", "\n".join(findings))
            self.call("close", heap.close)


CALLS: list[Callable[[Session], None]] = [
    *[Session.malloc] * 6,
    *[Session.free] * 5,
    *[Session.realloc] * 3,
    *[Session.lookup] * 3,
    *[Session.use_view] * 3,
    *[Session.use_block] * 3,
    *[Session.use_reservation] * 3,
    Session.malloc_many,
    Session.free_many,
    Session.expand,
    Session.view_length,
    Session.alloc,
    Session.block_of_closed,
    Session.arrays,
    Session.offset_of,
    Session.insight,
    Session.attributes,
    Session.roots,
    Session.make,
    Session.garbage,
    Session.reserve,
    Session.use_map,
    Session.fork,
    *[Session.begin] * 3,
    *[Session.transaction] * 12,
    *[Session.arena] * 4,
    Session.copy_heap,
    Session.kill,
    Session.kill,
    Session.refused,
    Session.interrupted,
]


# ---------------------------------------------------------------- processes


def child(seed: str, first: int, last: int, seconds: float, log_path: Path) -> int:
    """Run sessions until the time is up; print the counts, and what failed."""
    warnings.simplefilter("error")
    sys.unraisablehook = tell
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    failures: dict[str, str] = {}
    ends_at = time.monotonic() + seconds
    number = first
    while number < last and time.monotonic() < ends_at:
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        directory = Path(tempfile.mkdtemp(prefix="fuzz", dir=log_path.parent))
        disk = Path(tempfile.mkdtemp(prefix="fuzz"))  # power heaps need more than memory
        os.chdir(directory)  # names without a directory are tried as well
        with open(log_path, "wb", buffering=0) as log:
            log.write(f"session {number}\n".encode())
            session = Session(f"{seed}/{number}", directory, disk, lambda line: note(log, line))
            session.run()
        counts.update(session.counts)
        for key, detail in session.failures.items():
            failures.setdefault(key, f"session {number}: {detail}")
        del session
        os.chdir(log_path.parent)
        shutil.rmtree(directory)
        shutil.rmtree(disk)
        number += 1
    faulthandler.cancel_dump_traceback_later()
    ends = sorted(counts.items())
    print(json.dumps({"sessions": number - first, "ends": ends, "failures": failures}))  # noqa: T201 -- for the parent
    return 1 if failures else 0


def tell(unraisable: Any) -> None:
    """Print what a finalizer raised, unless it is the signal of an interrupted call."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)


def note(log: Any, line: str) -> None:
    with contextlib.suppress(ValueError):  # a finalizer after the session
        log.write(line.encode(errors="replace") + b"\n")


def fuzz(seconds: float, seed: str, first: int = 0, last: int = 1 << 60) -> tuple[bool, str]:
    """Run a child; whether all went well, and a report to read."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        log = Path(directory) / "log"
        command = [
            sys.executable,
            "-X",
            "faulthandler",
            str(Path(__file__).resolve()),
            "--child",
            str(log),
            "--seed",
            seed,
            "--seconds",
            str(seconds),
            "--session",
            str(first),
            "--last",
            str(last),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        if done.returncode not in {0, 1} or not lines or not lines[-1].startswith("{"):
            tail = log.read_text(errors="replace").splitlines() if log.exists() else []
            head = f"child ended with {done.returncode}, seed {seed}, {tail[:1]}; last calls:"
            return False, "\n".join((head, *tail[-25:], done.stdout[-2000:], done.stderr[-6000:]))
    outcome = json.loads(lines[-1])
    text = "".join(f"FAILED {key}\n{detail}\n\n" for key, detail in outcome["failures"].items())
    text += table(outcome["ends"]) + f"\n{outcome['sessions']} sessions, seed {seed}\n"
    return not outcome["failures"] and done.returncode == 0, text + done.stderr[-3000:]


def table(ends: Sequence[tuple[tuple[str, str], int]]) -> str:
    """Lay calls and how they ended out in lines."""
    by_call: dict[str, list[str]] = collections.defaultdict(list)
    for (call, end), count in ends:
        by_call[call].append(f"{end} {count}")
    return "\n".join(f"{call:24} {', '.join(found)}" for call, found in by_call.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--session", type=int, help="repeat this one")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--last", type=int, default=1 << 60, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.seed, options.session, options.last, options.seconds, options.child)
    one = options.session
    well, report = (
        fuzz(options.seconds, options.seed)
        if one is None
        else fuzz(1e9, options.seed, one, one + 1)
    )
    print(report)  # noqa: T201 -- a script
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
