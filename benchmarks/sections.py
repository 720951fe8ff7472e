"""Sections: what `compare.py` measures. Contenders take turns within a round, rounds repeat.

Two programs measured one after the other on a shared machine are measured on two machines. So each
round gives every contender its turn, and a figure is the least over the rounds.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import workloads
from bare import bare
from commits import commits
from footprint import measure_footprint
from kv import kv
from peers import PEERS, Peer, PeerUnavailableError, heap_class, open_peer
from plan import Log, Plan, Values, calibrated, rows
from recovery import recovery
from results import Results, Row
from utilisation import measure_utilisation
from workloads import EXTENT_SIZE, PAGE, GiB, MiB

from pmemheap.errors import OutOfSpaceError
from pmemheap.space.extents import ExtentMap
from pmemheap.traces import Timing, Trace, load, measure

OURS, OURS_FILE, GLIBC, PMEMOBJ = (
    "pmemheap",
    "pmemheap (process file)",
    "glibc (cffi)",
    "libpmemobj (cffi)",
)
MICRO, FRESH, WARM, UTILISATION = "micro", "traces, fresh", "traces, warm", "utilisation"
EXTENTS, GROWTH, OPEN, MEMORY = "extents", "growth", "open", "memory"
GROWTH_ROUNDS = 10
PAIR, PAIR_SPINNING, BATCH = "malloc+free 64 B", "the same, thread spinning", "batch of 1000, 64 B"
EXTENT_PAIR, EXTENT_CHURN = "malloc+free 256 KiB", "free+malloc 256-768 KiB, 64 live"
BARE_MAP = "ExtentMap"
RAW = "fallocate + fsync"

BATCH_COUNT = 1000
MOST_PASSES = 40
SLOW = frozenset({"multiprocessing.heap"})  # One round in the traces: thousands of ns a call.
NO_UTILISATION = frozenset({"bytearray"})  # A replay still holds each object that it has emptied.


# -------------------------------------------------------------------------------------------- micro


def micro(plan: Plan, results: Results, log: Log) -> None:
    """Measure single calls, the same beside a spinning thread, and batches."""
    values: Values = defaultdict(list)
    with contextlib.ExitStack() as opened:
        peers = {name: opened.enter_context(open_peer(name)) for name in plan.contenders}
        for number in range(plan.rounds):
            log(f"micro: round {number + 1} of {plan.rounds}")
            for name, peer in peers.items():
                for case, ns in _micro_cases(peer, plan.seconds):
                    values[case, name].append(ns)
    results.add(rows(MICRO, "ns", values))


def _micro_cases(peer: Peer, seconds: float) -> Iterator[tuple[str, float]]:
    def pairs(loops: int) -> float:
        return workloads.pair(loops, peer.malloc, peer.free, 64)

    yield PAIR, calibrated(pairs, seconds) * 1e9
    with workloads.spinning():
        # The other thread may hold the GIL for 5 ms at a time: fewer turns than these tell little.
        yield PAIR_SPINNING, calibrated(pairs, max(seconds, 0.1)) * 1e9
    if hasattr(peer, "malloc_many"):
        took = calibrated(lambda loops: workloads.batch(loops, peer, 64, BATCH_COUNT), seconds)
        yield BATCH, took / BATCH_COUNT * 1e9


# ------------------------------------------------------------------------------------------- traces


def traces(plan: Plan, results: Results, log: Log) -> None:
    """Replay traces: the first pass over a new heap, and later passes over the same heap."""
    for path in plan.traces:
        trace = load(path)
        log(f"traces: {trace.name}")
        timings: dict[str, list[Timing]] = defaultdict(list)
        for name in _turns(plan):
            try:
                with open_peer(name) as peer:
                    timings[name].append(measure(trace, peer, _passes(trace, plan, name)))
            except (MemoryError, OutOfSpaceError) as error:
                results.skipped[f"{trace.name} on {name}"] = f"{type(error).__name__}: {error}"
        results.add(_trace_rows(trace, timings))


def _turns(plan: Plan) -> Iterator[str]:
    for number in range(plan.rounds):
        yield from (name for name in plan.contenders if number == 0 or name not in SLOW)


def _passes(trace: Trace, plan: Plan, name: str) -> int:
    """Return more passes for a short trace: the least of three moments is still a moment's luck."""
    if name in SLOW:
        return 2
    return max(plan.passes, min(MOST_PASSES, plan.operations // max(len(trace.operations), 1)))


def _trace_rows(trace: Trace, timings: dict[str, list[Timing]]) -> Iterator[Row]:
    """Yield the rows of one trace, every pass net of the one quickest loop of the whole run.

    The loop is the same for all; a loop that was timed in a slow moment would make whoever was
    timed with it look quick.
    """
    loop = min((each.loop_seconds for many in timings.values() for each in many), default=0.0)
    for name, measured in timings.items():
        exact = [replace(each, loop_seconds=loop) for each in measured]
        fresh = tuple(each.fresh_ns for each in exact)
        warm = tuple(each.net_ns(took) for each in exact for took in each.pass_seconds[1:])
        yield Row(FRESH, trace.name, name, "ns", fresh)
        yield Row(WARM, trace.name, name, "ns", warm)


def utilisation(plan: Plan, results: Results, log: Log) -> None:
    """Measure peak live payload as a share of peak touched memory, each in a fresh process."""
    values: Values = defaultdict(list)
    for path in plan.traces:
        trace = load(path)
        log(f"utilisation: {trace.name}")
        for name in plan.contenders:
            if name not in NO_UTILISATION:
                touched = measure_utilisation(name, str(path))
                values[trace.name, name].append(touched.utilisation(trace))
    results.add(rows(UTILISATION, "share", values))


# ------------------------------------------------------------------------------------------ extents


def extents(plan: Plan, results: Results, log: Log) -> None:
    """Measure extents among free extents, through the heap's own malloc and free."""
    values: Values = defaultdict(list)
    with contextlib.ExitStack() as opened:
        heaps = {}
        for holes in plan.holes:
            log(f"extents: a heap with {holes} free extents")
            heaps[holes] = opened.enter_context(workloads.anonymous_heap())
            workloads.fragment(heaps[holes], holes)
        for _ in range(plan.rounds):
            for holes, heap in heaps.items():
                for case, us in _extent_cases(heap, plan.seconds):
                    values[f"{case}, {holes} free", OURS].append(us)
        for holes in plan.holes:
            bare = workloads.fragmented_map(holes)
            for _ in range(plan.rounds):
                for case, us in _map_cases(bare, plan.seconds):
                    values[f"{case}, {holes} free", BARE_MAP].append(us)
    results.add(rows(EXTENTS, "us", values))


def _extent_cases(heap: Any, seconds: float) -> Iterator[tuple[str, float]]:
    def pairs(loops: int) -> float:
        return workloads.pair(loops, heap.malloc, heap.free, EXTENT_SIZE)

    def churn(loops: int) -> float:
        return workloads.churn(loops, heap)

    yield EXTENT_PAIR, calibrated(pairs, seconds) * 1e6
    yield EXTENT_CHURN, calibrated(churn, seconds) * 1e6


def _map_cases(bare: ExtentMap, seconds: float) -> Iterator[tuple[str, float]]:
    pages = EXTENT_SIZE // PAGE
    pairs = calibrated(lambda loops: workloads.map_pair(loops, bare, pages), seconds)
    settled = calibrated(lambda loops: workloads.map_settled_pair(loops, bare, pages), seconds)
    yield EXTENT_PAIR, pairs * 1e6
    yield "malloc+free+settle 256 KiB", settled * 1e6


# ---------------------------------------------------------------------------------- growth and open


def growth(plan: Plan, results: Results, log: Log) -> None:
    """Measure one growth by 1 GiB, at several sizes of the heap, beside the file system's share."""
    values: Values = defaultdict(list)
    temporary = tempfile.gettempdir()
    rounds = max(plan.rounds, GROWTH_ROUNDS)  # one event a round: few would be all noise
    for number in range(rounds):
        log(f"growth: round {number + 1} of {rounds}")
        for label, size in {"1 MiB": MiB, "1 GiB": GiB, "10 GiB": 10 * GiB}.items():
            with workloads.anonymous_heap() as heap:
                heap.malloc(size)
                values[f"heap of {label}", OURS].append(workloads.grow(heap, GiB) * 1e6)
        for label, size in {"1 MiB": MiB, "2 GiB": 2 * GiB}.items():
            raw = workloads.raw_growth(temporary, size, GiB) * 1e6
            values[f"heap of {label}", RAW].append(raw)
            with workloads.file_heap() as heap:
                heap.malloc(size)
                values[f"heap of {label}", OURS_FILE].append(workloads.grow(heap, GiB) * 1e6)
    results.add(rows(GROWTH, "us", values))


def opening(plan: Plan, results: Results, log: Log) -> None:
    """Measure open to first allocation and read, of a file with many blocks."""
    values: Values = defaultdict(list)
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "store"
        log(f"open: building a heap of {plan.open_blocks} blocks")
        workloads.build_store(path, plan.open_blocks)
        for _ in range(max(plan.rounds, 5)):
            took = workloads.open_store(1, path)
            values[f"{plan.open_blocks} blocks", OURS_FILE].append(took * 1e3)
    results.add(rows(OPEN, "ms", values))


def memory(plan: Plan, results: Results, log: Log) -> None:
    """Measure the memory of the package beside its heap, less the 2 % that it may take."""
    blocks = max(plan.open_blocks // 10, 1)
    log(f"memory: a heap of {blocks} blocks")
    beyond = measure_footprint(blocks).fixed_bytes / MiB
    results.add([Row(MEMORY, f"{blocks} blocks, beyond 2 % of the heap", OURS, "MiB", (beyond,))])


Section = Callable[[Plan, Results, Log], None]

SECTIONS: dict[str, Section] = {
    "micro": micro,
    "traces": traces,
    "utilisation": utilisation,
    "extents": extents,
    "growth": growth,
    "open": opening,
    "memory": memory,
    "bare": bare,
    "commits": commits,
    "recovery": recovery,
    "kv": kv,
}
NEED_TRACES = frozenset({"traces", "utilisation"})
NEED_PEERS = frozenset({"micro", *NEED_TRACES})
NEED_HEAP = frozenset({"extents", "growth", "open", "memory", "bare", "commits", "recovery", "kv"})


def refusal(section: str, plan: Plan) -> str | None:
    """Tell why a section cannot be run, or None."""
    if section in NEED_TRACES and not plan.traces:
        return "no traces: give a directory of *.trace.gz with --traces"
    if section in NEED_HEAP:
        try:
            heap_class()
        except PeerUnavailableError as error:
            return str(error)
    return None


def available(names: tuple[str, ...] | None, refused: dict[str, str]) -> tuple[str, ...]:
    """Return the contenders to measure: the named ones, or all, less those that are missing."""
    return tuple(name for name in (names or PEERS) if name not in refused)
