"""Budgets: what the architecture promises, against what a run measured.

A budget is met, missed, or not measured; the last is never silently the first.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import bare
import commits
import kv
import kv_bench
from kv_stores import LMDB, LMDB_MAPPED, SYNCED_BY_OTHERS
from results import Results, geometric_mean
from sections import (
    BATCH,
    EXTENT_CHURN,
    EXTENT_PAIR,
    EXTENTS,
    FRESH,
    GLIBC,
    GROWTH,
    MEMORY,
    MICRO,
    OPEN,
    OURS,
    OURS_FILE,
    PAIR,
    PAIR_SPINNING,
    PMEMOBJ,
    RAW,
    UTILISATION,
    WARM,
)

# Written by hand to try one pattern each; the bars are about programs. Both are shown.
SYNTHETIC = frozenset(
    {
        "binary-bal",
        "binary2-bal",
        "coalescing-bal",
        "random-bal",
        "random2-bal",
        "realloc-bal",
        "realloc2-bal",
    }
)


@dataclass(frozen=True)
class Verdict:
    """One budget: what it is, what was measured, and the bar.

    Attributes
    ----------
    measured, bar : float
        In `unit`; `measured` is NaN where the run has no such figure.
    at_least : bool
        Whether the bar is a floor and no ceiling.
    """

    what: str
    measured: float
    bar: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the bar was kept; None where there is nothing to compare."""
        if math.isnan(self.measured) or math.isnan(self.bar):
            return None
        compare: Callable[[float, float], bool] = operator.ge if self.at_least else operator.le
        return compare(self.measured, self.bar)


def verdicts(results: Results, sections: Collection[str]) -> list[Verdict]:
    """Return the budgets of the sections that were asked for, in the architecture's order."""
    return [
        verdict
        for section, promised in BUDGETS.items()
        if section in sections
        for verdict in promised(results)
    ]


def _calls(results: Results) -> Iterator[Verdict]:
    for ours in (OURS, OURS_FILE):
        quiet = results.best(MICRO, PAIR, ours)
        glibc = results.best(MICRO, PAIR, GLIBC)
        pmemobj = results.best(MICRO, PAIR, PMEMOBJ)
        # Medians: in its luckiest round the other thread hardly ran, and nothing was measured.
        spinning = results.median(MICRO, PAIR_SPINNING, ours)
        usual = results.median(MICRO, PAIR, ours)
        yield Verdict(f"{ours}: malloc+free / glibc by cffi", quiet / glibc, 0.7, "x")
        yield Verdict(f"{ours}: libpmemobj / malloc+free", pmemobj / quiet, 10.0, "x", True)
        yield Verdict(f"{ours}: beside a spinning thread / quiet", spinning / usual, 3.0, "x")
        yield Verdict(
            f"{ours}: malloc_many+free_many, a block", results.best(MICRO, BATCH, ours), 12.0, "ns"
        )


def _traces(results: Results) -> Iterator[Verdict]:
    ratios = trace_ratios(results, WARM)
    real = [ratio for name, ratio in ratios.items() if name not in SYNTHETIC]
    label = "traces, warm, ours / glibc by cffi, geomean"
    yield Verdict(f"{label}, real", geometric_mean(real), 0.8, "x")
    yield Verdict(f"{label}, all", geometric_mean(ratios.values()), 0.8, "x")


def trace_ratios(results: Results, section: str) -> dict[str, float]:
    """Return ours / glibc of each trace that both replayed, in `FRESH` or `WARM`."""
    assert section in {FRESH, WARM}
    theirs = results.bests(section, GLIBC)
    ours = results.bests(section, OURS)
    return {name: ours[name] / theirs[name] for name in ours if name in theirs}


def _utilisation(results: Results) -> Iterator[Verdict]:
    for ours in (OURS, OURS_FILE):
        shares = results.bests(UTILISATION, ours)
        real = [share for name, share in shares.items() if name not in SYNTHETIC]
        worst = min(real, default=math.nan)
        yield Verdict(
            f"{ours}: utilisation, real, geomean", geometric_mean(real), 0.8, "share", True
        )
        yield Verdict(f"{ours}: utilisation, real, worst", worst, 0.55, "share", True)


def _extents(results: Results) -> Iterator[Verdict]:
    by_case: dict[str, list[float]] = {}
    for name, best in results.bests(EXTENTS, OURS).items():
        by_case.setdefault(name.rpartition(",")[0], []).append(best)
    for case in (EXTENT_PAIR, EXTENT_CHURN):
        bests = by_case.get(case, [math.nan])
        yield Verdict(f"extents: {case}, slowest", max(bests), 3.0, "us")
        yield Verdict(f"extents: {case}, most / fewest free", bests[-1] / bests[0], 2.0, "x")


def _growth(results: Results) -> Iterator[Verdict]:
    anonymous = max(results.bests(GROWTH, OURS).values(), default=math.nan)
    yield Verdict("growth by 1 GiB, anonymous, slowest", anonymous, 200.0, "us")
    floors = results.bests(GROWTH, RAW)
    beyond = [best - floors[case] for case, best in results.bests(GROWTH, OURS_FILE).items()]
    yield Verdict(
        "growth by 1 GiB, file, beyond fallocate + fsync",
        max(beyond, default=math.nan),
        200.0,
        "us",
    )


def _opening(results: Results) -> Iterator[Verdict]:
    slowest = max(results.bests(OPEN, OURS_FILE).values(), default=math.nan)
    yield Verdict("open to first allocation and read", slowest, 50.0, "ms")


def _memory(results: Results) -> Iterator[Verdict]:
    most = max(results.bests(MEMORY, OURS).values(), default=math.nan)
    yield Verdict("memory of the package beyond 2 % of the heap", most, 20.0, "MiB")


def _bare(results: Results) -> Iterator[Verdict]:
    anonymous = results.best(bare.BARE, bare.CALLS, bare.ANONYMOUS)
    for name, bar in ((bare.PROCESS, 1.1), (bare.POWER, 3.0)):
        ratio = results.best(bare.BARE, bare.CALLS, name) / anonymous
        yield Verdict(f"malloc+free, {name} heap / anonymous heap", ratio, bar, "x")


def _commits(results: Results) -> Iterator[Verdict]:
    """Yield the promises of a durable commit of one operation: by medians, since syncs vary."""
    one, section = commits.case_of(1), commits.DURABLE
    ours = results.median(section, one, commits.OURS)
    for theirs, bar in ((commits.SQLITE, 1.0), (commits.LMDB, 2.0), (commits.LMDB_MAPPED, 2.0)):
        ratio = ours / results.median(section, one, theirs)
        yield Verdict(f"durable commits/s, 1 operation, ours / {theirs}", ratio, bar, "x", True)
    logged = results.median(f"{section}: {commits.LOGGED}", one, commits.OURS)
    beyond = logged - commits.PAYLOAD_BYTES
    yield Verdict("log bytes of a durable commit beyond its payload", beyond, 512.0, "bytes")
    syncs = results.best(f"{section}: {commits.SYNCED_ALONE}", one, commits.OURS)
    yield Verdict("syncs of a durable commit, nothing else due", syncs, 1.0, "syncs")


BEST_PEER, BEST_LMDB = "the best peer", "the best LMDB"


def _kv(results: Results) -> Iterator[Verdict]:
    """Yield the promises of the key-value store, by medians."""
    both, mapped = (LMDB, LMDB_MAPPED), (LMDB_MAPPED,)
    for case, bar in ((kv_bench.GET, 0.8), (kv_bench.VIEW, 0.8), (kv_bench.SCAN, 1.2)):
        yield _kv_ratio(results, kv_bench.TIMES, case, BEST_LMDB, both, bar)
    for case in (kv_bench.LOAD, kv_bench.UPDATE, kv_bench.CHURN):
        yield _kv_ratio(results, kv_bench.TIMES, case, LMDB_MAPPED, mapped, 1.0)
    yield _kv_ratio(results, kv_bench.TIMES, kv_bench.PATCH, BEST_PEER, None, 0.5)
    yield from _kv_reopenings(results)
    synced = "the best of " + ", ".join(SYNCED_BY_OTHERS)
    one, many = kv_bench.COMMIT, kv_bench.COMMIT_MANY
    yield _kv_ratio(results, kv_bench.DURABLE, one, synced, SYNCED_BY_OTHERS, 1.0)
    yield _kv_ratio(results, kv_bench.DURABLE, many, BEST_PEER, None, 1.5)
    case = f"{kv_bench.SIZED}: {kv_bench.COMPACTED}"
    yield Verdict(f"{kv_bench.DISK}: {case}", results.median(kv_bench.DISK, case, OURS), 1.3, "x")


def _kv_ratio(
    results: Results, section: str, case: str, whose: str, names: Sequence[str] | None, bar: float
) -> Verdict:
    ratio = kv.ratio_to_best_peer(results, section, case, names)
    return Verdict(f"{section}: {case}, ours / {whose}", ratio, bar, "x")


def _kv_reopenings(results: Results) -> Iterator[Verdict]:
    """Yield that it opens in a millisecond; where it syncs, in that and three bare syncs."""
    syncs = 3 * results.best(kv_bench.DURABLE, kv.ONE_SYNC, kv.FILE)
    for section, bar in ((kv_bench.TIMES, 1000.0), (kv_bench.DURABLE, 1000.0 + syncs)):
        for case in (kv_bench.REOPEN, kv_bench.reopen_of(1_000_000)):
            yield Verdict(f"{section}: {case}", results.best(section, case, OURS), bar, "us")


BUDGETS: dict[str, Callable[[Results], Iterator[Verdict]]] = {
    "micro": _calls,
    "traces": _traces,
    "utilisation": _utilisation,
    "extents": _extents,
    "growth": _growth,
    "open": _opening,
    "memory": _memory,
    "bare": _bare,
    "commits": _commits,
    "kv": _kv,
}
"""By the section of `compare.py` that measures what it needs."""
