"""Each benchmark runs: one value of every pyperf file, one quick comparison on small traces."""

from __future__ import annotations

import importlib
import json
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

for needed in ("pyperf", "matplotlib", "rich"):
    pytest.importorskip(needed, reason="benchmarks need more: pip install pmemheap[bench,cli]")

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
PYPERF_FILES = sorted(BENCHMARKS.glob("bench_*.py"))
TRACE = """\
# tiny 8 5000
a 0 4000
a 1 500
r 1 1000
f 0
a 2 64
f 1
a 3 200
f 3
"""

MACHINE_PATH = re.compile(r"(^|[\s'\"(])/\w+/")

KV_KINDS = ("", "16 B-16 KiB: ")
KV_ORDERED = {
    f"100 a commit, {count} {order}"
    for count in (100, 200, 500)
    for order in ("in order", "in no order")
}
KV_LONG = {f"{size}: {what}" for size in ("4 KiB", "64 KiB", "1 MiB") for what in ("put", "get")}
KV_BOTH = {"load, 100 a commit", "reopen and get", "reopen and get, 500"} | KV_ORDERED | KV_LONG
KV_TIMES = KV_BOTH | {
    *(f"mix {name}" for name in "ABCDEF"),
    *(kind + what for kind in KV_KINDS for what in ("load", "churn: delete + insert", "delete")),
    *("1 MiB: view", "1 MiB: patch of 4 KiB", "get", "view", "update"),
    *(f"scan of {count}" for count in (1, 10, 25, 100)),
    "scan of 25, back",
}
KV_DISK = {
    kind + what
    for kind in KV_KINDS
    for what in (
        *("loaded", "churned", "churned, closed", "churned, compacted"),
        *("all deleted", "all deleted, compacted"),
    )
} | {"loaded, 100 a commit"}
KV_COMMITS = {"commit of 1", "commit of 100"}
KV_POWER = KV_BOTH | KV_COMMITS | {"churn: delete + insert, 100 a commit"}
KV_POWER_DISK = {"loaded, 100 a commit", "churned", "churned, closed"}

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def run(script: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", PYPERF_FILES, ids=lambda path: path.stem)
def test_a_pyperf_file_measures_a_value(script: Path) -> None:
    """In one process; `make bench` starts one for each of its benchmarks."""
    quick = ("--blocks", "1000") if script.stem == "bench_open" else ()
    once = "--worker", "--loops", "1", "--values", "1", "--warmups", "0"
    printed = run(script, *once, "--quiet", *quick)
    lines = printed.splitlines()
    assert lines
    assert all(re.fullmatch(r"[\w+]+/\S+: [\d.]+ (sec|ms|us|ns)", line) for line in lines), printed


def test_compare_skips_traces_that_it_was_not_given() -> None:
    printed = run(BENCHMARKS / "compare.py", "--quick", "--only", "traces", "--peers", "bytearray")
    assert "no traces: give a directory" in printed
    assert "not measured" in printed


def test_compare_writes_what_it_measured(tmp_path: Path) -> None:
    (tmp_path / "tiny.trace").write_text(TRACE, encoding="utf-8")
    out = tmp_path / "out"
    arguments = ("--quick", "--only", "micro,traces,utilisation,extents,open")
    peers = ("--peers", "pmemheap,pmemheap (process file),glibc (cffi),glibc (methods)")
    run(BENCHMARKS / "compare.py", *arguments, *peers, "--traces", str(tmp_path), "--out", str(out))
    document = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    sections = {row["section"] for row in document["rows"]}
    assert sections == {"micro", "traces, fresh", "traces, warm", "utilisation", "extents", "open"}
    assert "## Budgets" in (out / "compare.md").read_text(encoding="utf-8")
    assert (out / "compare.svg").stat().st_size > 0


def test_commits_are_measured_beside_others(tmp_path: Path) -> None:
    run(
        BENCHMARKS / "compare.py", "--only", "commits,recovery,bare", "--quick",
        "--peers", "pmemheap", "--out", str(tmp_path),
    )  # fmt: skip
    document = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    if any(what.startswith("commits") for what in document["skipped"] if " on " not in what):
        pytest.skip("this file system keeps nothing over a power failure")
    measured = {(row["section"], row["contender"]) for row in document["rows"]}
    assert {
        ("commits, durable", "pmemheap"),
        ("commits, durable", "SQLite WAL, FULL"),
        ("commits, lazy", "pmemheap, process"),
        ("commits, durable: log bytes", "pmemheap"),
        ("open after a crash", "pmemheap, power"),
        ("open after close", "pmemheap, process"),
        ("malloc+free 64 B, outside of transactions", "power"),
    } <= measured
    budgets = {each["what"]: each for each in document["budgets"]}
    assert budgets["log bytes of a durable commit beyond its payload"]["met"]
    assert budgets["syncs of a durable commit, nothing else due"]["met"]


def test_the_key_value_store_is_measured_beside_others_that_are_there(tmp_path: Path) -> None:
    run(
        BENCHMARKS / "compare.py", "--only", "kv", "--quick", "--peers", "pmemheap",
        "--out", str(tmp_path),
    )  # fmt: skip
    document = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    measured: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in document["rows"]:
        measured[row["section"]][row["contender"]].add(row["case"])
        assert all(value > 0 for value in row["values"]) or row["section"] == "kv, memory", row
    assert measured["kv, process"]["pmemheap"] == KV_TIMES
    assert measured["kv, process"]["SQLite WAL, OFF"] == KV_TIMES - {"view", "1 MiB: view"}
    for contender in ("pmemheap", "SQLite WAL, OFF"):
        assert measured["kv, disk"][contender] == KV_DISK
        assert measured["kv, memory"][contender] == {"anonymous", "of files"}
    skipped = document["skipped"]
    if "kv, power" not in skipped:
        assert measured["kv, power"]["pmemheap"] == KV_POWER
        assert measured["kv, power"]["SQLite WAL, FULL"] == KV_POWER
        assert measured["kv, power: disk"]["pmemheap"] == KV_POWER_DISK
        assert measured["kv, power: bytes written"]["pmemheap"] == KV_COMMITS
        assert measured["kv, power"]["file"] == {"one sync of the disk"}
    for what, reason in skipped.items():
        assert what.startswith("kv, "), what
        assert not MACHINE_PATH.search(reason), reason
        if " on " in what and "reopen" not in what:  # It is not there: this is how to get it.
            assert "No module named" in reason
            assert not any(what.partition(" on ")[2] in names for names in measured.values())
    assert all(each["what"].startswith("kv, ") for each in document["budgets"])
    assert "pmemheap / best peer, by medians" in (tmp_path / "compare.md").read_text("utf-8")
    assert (tmp_path / "compare.svg").stat().st_size > 0


def test_what_cannot_be_built_says_what_is_missing_and_no_path() -> None:
    build: Any = importlib.import_module("native_build")
    with pytest.raises(build.BuildError, match=r"^nobody: header no/such\.h not found$"):
        build.cffi_peer("nobody", "#include <no/such.h>", "heap_peer.c")
    names = "".join(
        f"#define HEAP_{verb.upper()} {verb}\n" for verb in ("malloc", "realloc", "free")
    )
    preamble = f"#include <stdlib.h>\n{names}"
    with pytest.raises(build.BuildError, match=r"^nobody: library nobodys not found$"):
        build.cffi_peer("nobody", preamble, "heap_peer.c", ("nobodys",))
    with pytest.raises(build.BuildError) as refused:
        build.cffi_peer("nobody", "#error nobody knows", "heap_peer.c")
    assert str(refused.value).startswith("nobody: ")
    assert not MACHINE_PATH.search(str(refused.value))


LMDBS = ("LMDB, sync=False", "LMDB, sync=False, writemap")


def judged(*rows: tuple[str, str, str, tuple[float, ...]]) -> dict[str, tuple[float, bool | None]]:
    """Return what is measured and whether it is met, of each budget of the key-value store."""
    results: Any = importlib.import_module("results")
    made = [results.Row(section, case, who, "us", values) for section, case, who, values in rows]
    verdicts = importlib.import_module("budgets").verdicts(results.Results(made), ["kv"])
    return {each.what: (each.measured, each.met) for each in verdicts}


def test_budgets_of_what_was_not_measured_are_neither_met_nor_missed() -> None:
    verdicts = judged()
    assert len(verdicts) == 14
    assert {met for _, met in verdicts.values()} == {None}
    lone = judged(("kv, power", "reopen and get", "pmemheap", (1.0,)))  # And no bare sync beside.
    assert lone["kv, power: reopen and get"] == (1.0, None)


@pytest.mark.parametrize(("ours", "met"), [((0.1, 0.8, 5.0), True), ((0.1, 1.7), False)])
def test_a_budget_beside_others_compares_medians(ours: tuple[float, ...], met: bool) -> None:
    verdicts = judged(
        ("kv, process", "get", "pmemheap", ours),
        ("kv, process", "get", LMDBS[0], (3.0, 2.0)),
        ("kv, process", "get", LMDBS[1], (0.9, 1.0, 1.1)),
        ("kv, process", "get", "somebody quicker", (0.1,)),  # Who is not part of the promise.
    )
    expected = statistics.median(ours), met
    assert verdicts["kv, process: get, ours / the best LMDB"] == expected


def test_a_power_store_may_sync_three_times_when_it_is_opened() -> None:
    for took, met in ((1600.0, True), (1601.0, False)):
        verdicts = judged(
            ("kv, power", "one sync of the disk", "file", (200.0, 300.0)),
            ("kv, power", "reopen and get, 1,000,000", "pmemheap", (took,)),
        )
        assert verdicts["kv, power: reopen and get, 1,000,000"] == (took, met)


def test_only_budgets_of_what_was_asked_for_are_shown() -> None:
    results = importlib.import_module("results").Results()
    budgets = importlib.import_module("budgets")
    assert budgets.verdicts(results, ["recovery"]) == []
    assert len(budgets.verdicts(results, ["bare"])) == 2
    sections = importlib.import_module("sections").SECTIONS
    assert set(budgets.BUDGETS) < set(sections)


def benchmark(name: str) -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


STRATEGIES, ARRAYS = benchmark("bench_strategies"), benchmark("bench_arrays")


@pytest.mark.parametrize("what", [*STRATEGIES.FACTORS, *STRATEGIES.COSTS])
def test_a_strategy_wins_by_its_factor_and_costs_no_more(what: str) -> None:
    ours, other, bar = (STRATEGIES.FACTORS | STRATEGIES.COSTS)[what]
    tries = (STRATEGIES.ratio(ours, other, 12) for _ in range(5))  # beside other tests
    assert any(ratio <= bar for ratio in tries), what


@pytest.mark.parametrize("what", STRATEGIES.PAYLOADS)
def test_a_strategy_holds_little_beside_its_payload(what: str) -> None:
    strategy, bar = STRATEGIES.PAYLOADS[what]
    assert STRATEGIES.payload(strategy) >= bar


@pytest.mark.parametrize("what", STRATEGIES.SECONDS)
def test_a_strategy_keeps_its_time(what: str) -> None:
    load, bar = STRATEGIES.SECONDS[what]
    assert not STRATEGIES.exceeded(load, bar, 60), what


@pytest.mark.parametrize("what", ARRAYS.RATIOS, ids=lambda what: f"{what[0].__name__}-{what[1]}")
def test_arrays_in_a_heap_cost_little_more(what: Any) -> None:
    tries = (ARRAYS.ratio(*what, rounds=9) for _ in range(5))  # beside other tests
    assert any(ratio <= ARRAYS.RATIOS[what] for ratio in tries), what


GALLERY, DOCS = benchmark("gallery"), BENCHMARKS.parent / "docs"
NUMBER = re.compile(r"-?[0-9.]+")


def curves(picture: Path) -> dict[str, list[float]]:
    """Return the numbers of the path of each curve in a picture."""
    groups = ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}g")
    found = {group.get("id", ""): group[0].get("d", "") for group in groups if len(group)}
    return {
        name: [float(number) for number in NUMBER.findall(path)]
        for name, path in found.items()
        if name.startswith("panel-")
    }


def expected_curves(strategy: str, data: dict[str, Any]) -> set[str]:
    loads = [load for name, load in data["memory"].items() if name.startswith(f"{strategy}: ")]
    return {
        GALLERY.gid(number, place) for number, load in enumerate(loads) for place in load["held"]
    }


def test_the_gallery_shows_what_was_measured(tmp_path: Path) -> None:
    data = json.loads((DOCS / "gallery" / "data.json").read_text(encoding="utf-8"))
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    (tmp_path / "gallery.md").write_text(page, encoding="utf-8")
    (tmp_path / "gallery").mkdir()
    GALLERY.draw_all(data, tmp_path)
    assert (tmp_path / "gallery.md").read_text(encoding="utf-8") == page
    for strategy in GALLERY.PLACES:
        shown = DOCS / "gallery" / f"{strategy}.svg"
        drawn, expected = curves(tmp_path / "gallery" / shown.name), expected_curves(strategy, data)
        assert drawn.keys() == curves(shown).keys() == expected
        for name, path in curves(shown).items():
            assert drawn[name] == pytest.approx(path, abs=0.5), name
        text = shown.read_text(encoding="utf-8")
        assert len(text) < 60_000
        assert all(f">{place}</text>" in text for place in GALLERY.PLACES[strategy])
        assert f"(gallery/{shown.name})" in page


def test_the_gallery_measures_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {place: GALLERY.PLACES["ring"][place] for place in ("ring", "bytes objects")}
    monkeypatch.setitem(GALLERY.PLACES, "ring", places)
    name = "ring: lifetimes alike"
    load = GALLERY.held(name, 0.1, lambda _: None)
    assert load["held"].keys() == places.keys()
    for place, values in load["held"].items():
        assert len(values) == len(load["at"]) == len(load["payload"])
        assert 0.9 * max(load["payload"]) < max(values) < 3 * max(load["payload"]), place
    GALLERY.draw("ring", {"memory": {name: load}}, tmp_path / "ring.svg")
    drawn = curves(tmp_path / "ring.svg")
    assert drawn.keys() == expected_curves("ring", {"memory": {name: load}})


def test_the_gallery_times_who_is_there() -> None:
    told: list[str] = []
    name = "region: 1000 mixed blocks, then all gone"
    timed = GALLERY.timed(name, 2, told.append)
    missing = {place for place in GALLERY.TIMES[name] if f"{place}: left out" in " ".join(told)}
    assert timed.keys() == GALLERY.TIMES[name].keys() - missing
    assert {"default arena", "region", "obstack"} <= timed.keys()
    assert all(len(values) == 2 and min(values) > 0 for values in timed.values())
