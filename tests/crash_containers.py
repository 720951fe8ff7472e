"""Containers at work in a heap with a small log, for crashes everywhere.

    scenario   steps, each one commit or none; what the container holds after each of them
    log        four pages, so that it wraps, is checkpointed and moves between the steps

A crash leaves the container after one of its commits; recoveries are crashed as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from crash_world import create_heap

from pmemheap import Heap
from pmemheap.containers import Arrays, SortedMap, Vector
from pmemheap.kvstore import KVStore
from pmemheap.testing import Crash, Image, Kind, Recorder, Recording, Report, check_states
from pmemheap.units import MiB

LOG_BYTES = 4 * 4096
NS = 1_000_000_000

Step = Callable[[Any], object]


class Scenario(ABC):
    """A container, what is done to it, and how it is looked at."""

    steps: ClassVar[list[Step]]

    def __init__(self, *, readers: bool = False, is_read: bool = False) -> None:
        self.readers, self.is_read = readers or is_read, is_read
        """Whether others may read beside it, and do: then what a commit can reach is copied."""

    @contextmanager
    def heap(self, path: str | Path) -> Iterator[Heap]:
        """Open the heap, as it is opened for the container."""
        with Heap.open(path, decay=None, readers=self.readers) as heap:
            if not self.is_read:
                yield heap
                return
            with heap.read():
                yield heap

    @contextmanager
    @abstractmethod
    def opened(self, path: str | Path) -> Iterator[Any]:
        """Open the container of a file; make it in a new one."""

    @abstractmethod
    def content(self, container: Any) -> object:
        """Return what it holds, after a check of its own."""

    @abstractmethod
    def use(self, container: Any) -> None:
        """Change it once more."""


# ---------------------------------------------------------------- maps


def put(*keys: int, size: int = 300) -> Step:
    return lambda container: container.update({b"%03d" % key: bytes([key]) * size for key in keys})


def drop(*keys: int) -> Step:
    def step(container: Any) -> None:
        for key in keys:
            del container[b"%03d" % key]

    return step


def heap_of(container: Any) -> Heap:
    heap: Heap = container._heap if isinstance(container, Vector) else container.heap
    return heap


def together(*steps: Step) -> Step:
    """Take steps in one transaction."""

    def step(container: Any) -> None:
        owner = container if hasattr(container, "transaction") else heap_of(container)
        with owner.transaction():
            for each in steps:
                each(container)

    return step


def compact(container: Any) -> None:
    container.compact()


MAP_STEPS: list[Step] = [
    together(put(*range(0, 30, 3))),
    together(put(*range(1, 30, 3)), drop(*range(0, 9, 3))),
    together(put(5, 10, 12, size=3000)),  # values apart from their leaves
    together(drop(*range(10, 22, 3)), put(40)),
    compact,
    together(put(5, size=20), drop(12)),
    together(put(*range(50, 62), size=900)),
    compact,
    together(drop(*range(50, 62)), put(1, size=40)),
]
"""A tree that grows, empties its leaves, is compacted and empties again."""


class MapScenario(Scenario):
    steps = MAP_STEPS

    @contextmanager
    def opened(self, path: str | Path) -> Iterator[SortedMap]:
        with self.heap(path) as heap:
            yield SortedMap(heap, "map")
            assert heap.check()

    def content(self, container: SortedMap) -> object:
        container.check()
        return dict(container)

    def use(self, container: SortedMap) -> None:
        container[b"usable"] = b"yes"
        assert container[b"usable"] == b"yes"


class StoreScenario(Scenario):
    """The same and deadlines; `compact` gives memory back as well."""

    steps: ClassVar = [
        *MAP_STEPS[:4],
        lambda store: store.set(b"001", b"short", ttl=100),
        lambda store: store.set(b"004", b"long", ttl=10_000),
        compact,
        lambda store: store.persist(b"004"),
        lambda store: store.set(b"large", bytes(MiB)),
        lambda store: store.delete(b"large"),
        compact,
        *MAP_STEPS[5:7],
    ]

    @contextmanager
    def opened(self, path: str | Path) -> Iterator[KVStore]:
        with KVStore(path, clock=lambda: 1_700_000_000 * NS) as store:
            yield store

    def content(self, container: KVStore) -> object:
        container.check()
        return {key: (value, container.ttl(key)) for key, value in container.items()}

    def use(self, container: KVStore) -> None:
        container.set(b"usable", b"yes", ttl=5)
        assert container[b"usable"] == b"yes"


# ---------------------------------------------------------------- vectors


def append(*values: bytes) -> Step:
    return lambda vector: vector.extend(list(values))


class VectorScenario(Scenario):
    steps: ClassVar = [
        append(b"a" * 700, b"b"),
        lambda vector: vector.append(b"c" * 800),
        together(append(b"d"), append(b"e" * 90)),
        lambda vector: vector.__setitem__(1, b"f" * 500),
        together(lambda vector: vector.truncate(2), append(b"g"), lambda vector: vector.pop()),
        lambda vector: vector.extend([b"%d" % number for number in range(40)]),  # moves the log
        lambda vector: vector.__setitem__(slice(20, 24), [b"h", b"i" * 800, b"j", b"k"]),
        lambda vector: vector.truncate(10),
        append(*[bytes([number]) * 800 for number in range(65, 75)]),
    ]

    @contextmanager
    def opened(self, path: str | Path) -> Iterator[Vector]:
        with self.heap(path) as heap:
            yield Vector(heap, "vector", "S800")
            assert heap.check()

    def content(self, container: Vector) -> object:
        assert container.check()
        return container[:].tolist()

    def use(self, container: Vector) -> None:
        container.append(b"usable")
        assert container[-1] == b"usable"


# ---------------------------------------------------------------- named arrays


def assign(name: str, key: Any, value: Any) -> Step:
    return lambda arrays: arrays[name].__setitem__(key, value)


def extend(name: str, *rows: bytes) -> Step:
    return lambda arrays: arrays[name].extend(list(rows))


class ArraysScenario(Scenario):
    """One that moves, one in an arena of its own, and others that come and go beside them."""

    steps: ClassVar = [
        lambda arrays: arrays.create("grows", 1, "S100", in_place=True),
        lambda arrays: arrays.update({"a": np.arange(40.0), "b": [[b"x" * 30] * 3]}),
        extend("grows", b"a" * 90, b"b"),
        together(
            lambda arrays: arrays["a"].append(7),  # moves
            assign("a", slice(None, None, 8), 5),
            lambda arrays: arrays["b"].attrs.update(unit="mm"),
        ),
        together(
            lambda arrays: arrays.rename("b", "c"),
            lambda arrays: arrays["grows"].resize(1),
            extend("grows", b"c" * 90, b"d", b"e"),
            assign("grows", [0, 2], b"f" * 50),
            lambda arrays: arrays["c"].append([b"y", b"z", b""]),
        ),
        together(
            lambda arrays: arrays.replace("a", np.zeros(3, [("p", "f4"), ("q", "S70")])),
            lambda arrays: arrays.drop("grows"),
            lambda arrays: arrays.rename("c", "grows"),
        ),
        lambda arrays: arrays.clear(),
    ]

    @contextmanager
    def opened(self, path: str | Path) -> Iterator[Arrays]:
        with self.heap(path) as heap:
            yield Arrays(heap)
            assert heap.check()

    def content(self, container: Arrays) -> object:
        assert container.check()
        return {
            name: (array.dtype.str, array.shape, array[...].tobytes(), dict(array.attrs))
            for name, array in container.items()
        }

    def use(self, container: Arrays) -> None:
        container.create("usable", 1).append(2)
        assert container["usable"][1] == 2


SCENARIOS: dict[str, Scenario] = {
    "map": MapScenario(), "store": StoreScenario(), "vector": VectorScenario(),
    "arrays": ArraysScenario(), "map that may be read": MapScenario(readers=True),
    "map beside readers": MapScenario(is_read=True),
    "vector beside readers": VectorScenario(is_read=True),
    "arrays beside readers": ArraysScenario(is_read=True),
}  # fmt: skip


# ---------------------------------------------------------------- crashes


def record(scenario: Scenario, path: Path, durability: str) -> tuple[Recording, list[object]]:
    """Take the steps under a recorder; return what it heard, and what was there after each."""
    create_heap(path, durability, LOG_BYTES).close()
    with scenario.opened(path) as container:
        states = [scenario.content(container)]
    with Recorder(path) as recorder, scenario.opened(path) as container:
        done = recorder.durable if durability == "power" else recorder.returned
        for number, step in enumerate(scenario.steps, 1):
            recorder.begin(number)
            step(container)
            done(number)
            states.append(scenario.content(container))
    return recorder.recording, states


def crash(
    name: str,
    path: Path,
    durability: str,
    *,
    budget: int,
    share: float = 0.02,
    workers: int = 1,
    seed: int = 0,
) -> Report:
    """Crash a scenario at every event, and a share of the recoveries; look at what is left."""
    scenario = SCENARIOS[name]
    recording, states = record(scenario, path, durability)

    def look(image: Image, crash: Crash) -> None:
        with scenario.opened(image.path) as container:
            found = scenario.content(container)
            assert found in states[crash.least : crash.most + 1], (crash.least, crash.most)
            scenario.use(container)

    def recover(image: Image) -> None:
        with scenario.opened(image.path):
            pass

    return check_states(
        recording, look, kinds=(Kind.KILL, Kind.POWER) if durability == "power" else (Kind.KILL,),
        budget=budget, seed=seed, workers=workers, recover=recover, recovery_share=share,
        recovery_budget=budget,
    )  # fmt: skip
