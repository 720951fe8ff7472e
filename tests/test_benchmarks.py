"""Each benchmark runs: one value of every pyperf file, one quick comparison on small traces."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

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

pytestmark = pytest.mark.slow


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
    quick = ("--blocks", "1000") if script.stem == "bench_open" else ()
    printed = run(script, "--debug-single-value", "--quiet", *quick)
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
    run(BENCHMARKS / "commits.py", "--quick", "--peers", "pmemheap", "--out", str(tmp_path))
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
    run(BENCHMARKS / "kv.py", "--quick", "--peers", "pmemheap", "--out", str(tmp_path))
    document = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    measured = {(row["section"], row["case"], row["contender"]) for row in document["rows"]}
    assert {
        ("kv, process", "load", "pmemheap"),
        ("kv, process", "view", "pmemheap"),
        ("kv, process", "mix E", "SQLite WAL, OFF"),
        ("kv, process", "1 MiB: patch of 4 KiB", "SQLite WAL, OFF"),
        ("kv, disk", "all deleted, compacted", "pmemheap"),
    } <= measured
    assert all(value > 0 for row in document["rows"] for value in row["values"])
    if "kv, power" not in document["skipped"]:
        assert ("kv, power", "commit of 100", "pmemheap") in measured
        assert ("kv, power", "commit of 1", "SQLite WAL, FULL") in measured
    contenders = {contender for _, _, contender in measured}
    for what, reason in document["skipped"].items():
        if " on " in what:  # A store that cannot be imported: the result says how to get it.
            assert "No module named" in reason
            assert what.partition(" on ")[2] not in contenders
    assert "pmemheap / best peer" in (tmp_path / "compare.md").read_text(encoding="utf-8")
