"""The plots of benchmarks: the ratios that they show, numbers at axes, what is committed."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

for needed in ("pyperf", "matplotlib", "rich"):
    pytest.importorskip(needed, reason="benchmarks need more: pip install pmemheap[bench,cli]")

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SHOWN = [BENCHMARKS / "results" / name for name in ("", "kv", "commits")]


def benchmark(name: str) -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


PLOTS, RESULTS, REPORT, FIGURES = map(benchmark, ("plots", "results", "report", "figures"))
SCALING, SCALED = benchmark("scaling"), BENCHMARKS / "results" / "scaling"
SIZES, SIZED = benchmark("kv_sizes"), BENCHMARKS / "results" / "sizes"


def texts(picture: Path) -> list[str]:
    return re.findall(r">([^<>]+)</text>", picture.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (1, "", "1"), (10, "", "10"), (1000, "", "1 k"), (2_500_000, "", "2.5 M"),
        (0.5, "ns", "0.5 ns"), (1000, "ns", "1 us"), (1.5e6, "ns", "1.5 ms"), (2e9, "ns", "2 s"),
        (512, "bytes", "512 B"), (1 << 20, "bytes", "1 MiB"), (1 << 36, "bytes", "64 GiB"),
        (0.25, "ratio", "1/4"), (1, "ratio", "1"), (16, "ratio", "16"),
    ],
)  # fmt: skip
def test_the_mark_of_an_axis_is_short(value: float, unit: str, words: str) -> None:
    assert FIGURES.mark(value, unit) == words


def made(*rows: tuple[str, str, str, str, tuple[float, ...]]) -> Any:
    return RESULTS.Results([RESULTS.Row(*row) for row in rows])


def test_less_is_left_of_one_whatever_is_measured() -> None:
    """Times and bytes by ours over theirs; shares and rates, where more is better, by theirs."""
    results = made(
        ("micro", "a", "pmemheap", "ns", (4.0, 2.0)),
        ("micro", "a", "pmemheap (process file)", "ns", (9.0,)),
        ("micro", "a", "other", "ns", (8.0, 9.0)),
        ("micro", "b", "pmemheap", "ns", (1.0,)),
        ("micro", "b", "other", "ns", (1.0,)),
        ("micro", "c", "other", "ns", (1.0,)),
        ("utilisation", "a", "pmemheap", "share", (0.8,)),
        ("utilisation", "a", "other", "share", (0.4,)),
        ("commits, durable", "1", "pmemheap", "commits/s", (1.0, 3.0, 100.0)),
        ("commits, durable", "1", "other", "commits/s", (12.0,)),
        ("kv, memory", "a", "pmemheap", "MiB", (0.0,)),
        ("kv, memory", "a", "other", "MiB", (1.0,)),
    )
    assert PLOTS.ratios(results, "micro", ["a", "b", "c"]) == {
        "other": {"geometric mean": 0.5, "a": 0.25, "b": 1.0}
    }
    assert PLOTS.ratios(results, "utilisation", ["a"])["other"]["a"] == 0.5
    assert PLOTS.ratios(results, "commits, durable", ["1"])["other"]["1"] == 4.0
    assert PLOTS.ratios(results, "kv, memory", ["a"]) == {}


def test_a_table_is_read_as_it_was_written() -> None:
    results = made(
        ("traces, warm", "gcc-c", "pmemheap", "ns", (1234.0, 2000.0)),
        ("traces, warm", "gcc-c", "glibc (cffi)", "ns", (0.25, 0.25)),
        ("traces, warm", "boat", "pmemheap", "ns", (7.0, 7.0)),
        ("commits, lazy", "1 operation", "pmemheap, process", "commits/s", (9.0, 3.0)),
        ("commits, lazy", "1 operation", "LMDB, sync=False", "commits/s", (6.0, 6.0)),
    )
    lines = []
    for section in results.sections():
        lines += [
            f"## {section}",
            "",
            f"| {' | '.join(REPORT.header(results, section))} |",
            "|---|",
        ]
        lines += [f"| {' | '.join(cells)} |" for cells in REPORT.body(results, section)]
    found = PLOTS.results_of("\n".join(lines))
    assert {(row.section, row.case, row.contender) for row in found.rows} == {
        (row.section, row.case, row.contender) for row in results.rows
    }
    for row in results.rows:
        same = found.find(row.section, row.case, row.contender)
        assert (same.best, same.median) == (row.best, pytest.approx(row.median, abs=1.6))


@pytest.mark.slow
@pytest.mark.parametrize("directory", SHOWN, ids=lambda path: path.name)
def test_a_plot_shows_what_its_table_has(directory: Path, tmp_path: Path) -> None:
    results = PLOTS.results_of((directory / "compare.md").read_text(encoding="utf-8"))
    PLOTS.plot(results, tmp_path / "compare.svg")
    shown = directory / "compare.svg"
    assert texts(tmp_path / "compare.svg") == texts(shown)
    panels = [panel for panel in PLOTS.PANELS if panel.section in results.sections()]
    assert texts(shown).count("geometric mean") == len(panels) > 1
    assert {panel.title for panel in panels} <= set(texts(shown))
    assert "fill: #ffffff" not in shown.read_text(encoding="utf-8")  # It fits a dark page.


@pytest.mark.slow
def test_a_dot_beyond_the_axis_is_a_triangle_at_its_edge(tmp_path: Path) -> None:
    results = made(
        ("kv, disk", "a", "pmemheap", "x", (1000.0,)), ("kv, disk", "a", "other", "x", (1.0,))
    )
    drawn: dict[str, dict[int, float]] = {}

    class Axis:
        def plot(self, places: list[float], rows: list[int], **look: Any) -> None:
            drawn[look["marker"]] = dict(zip(rows, places, strict=True))

    PLOTS._dots(Axis(), {0: 1000.0, 1: 2.0, 2: 0.001, 3: 0.5}, 32.0, {"marker": "o"})
    assert drawn == {">": {0: 32.0}, "o": {1: 2.0, 3: 0.5}, "<": {2: 1 / 32}}
    PLOTS.plot(results, tmp_path / "far.svg")
    assert "16" in texts(tmp_path / "far.svg")
    PLOTS.plot(made(("kv, disk", "a", "pmemheap", "x", (1.0,))), tmp_path / "alone.svg")
    assert not (tmp_path / "alone.svg").exists()


# ----------------------------------------------------------------------------------------- scaling


@pytest.mark.slow
def test_scaling_measures_every_line_and_draws_it(tmp_path: Path) -> None:
    places: list[str] = []
    data = SCALING.measure(1, quick=True, tell=places.append)
    assert len(places) == 6
    whole = json.loads((SCALED / "data.json").read_text(encoding="utf-8"))
    assert data["machine"].keys() == whole["machine"].keys()
    for panel, lines in whole["panels"].items():
        assert lines.keys() == data["panels"][panel].keys()
        for rounds in data["panels"][panel].values():
            assert [int(place) for place in rounds] == list(SCALING.QUICK[panel])
            assert all(len(values) == 1 and values[0] > 1 for values in rounds.values())
        for rounds in lines.values():
            assert tuple(map(int, rounds)) == SCALING.PANELS[panel][2]
    SCALING.draw(data, tmp_path / "quick.svg")
    assert set(SCALING.PANELS) <= set(texts(tmp_path / "quick.svg"))


@pytest.mark.slow
def test_the_scaling_that_is_shown_is_what_was_measured(tmp_path: Path) -> None:
    data = json.loads((SCALED / "data.json").read_text(encoding="utf-8"))
    SCALING.draw(data, tmp_path / "scaling.svg")
    numbers = re.compile(r"-?\d+\.\d+")
    drawn, shown = (
        [float(each) for each in numbers.findall(path.read_text(encoding="utf-8"))]
        for path in (tmp_path / "scaling.svg", SCALED / "scaling.svg")
    )
    assert drawn == pytest.approx(shown, abs=0.5)


# ------------------------------------------------------------------------------------------- sizes


@pytest.mark.slow
@pytest.mark.parametrize("group", ["process", "power"])
def test_stores_of_every_size_are_measured_and_drawn(group: str, tmp_path: Path) -> None:
    here = tmp_path / "quick.json"
    command = [sys.executable, str(BENCHMARKS / "kv_sizes.py"), "measure", str(here)]
    subprocess.run([*command, "--most", "1000", "--durability", group], check=True)
    data = json.loads(here.read_text(encoding="utf-8"))
    whole = json.loads((SIZED / f"{group}.json").read_text(encoding="utf-8"))
    assert data["machine"].keys() == whole["machine"].keys()
    assert tuple(data["panels"]) == tuple(whole["panels"]) == SIZES.PANELS
    for panel, lines in data["panels"].items():
        assert SIZES.OURS in lines
        assert lines.keys() <= whole["panels"][panel].keys()
        for points in lines.values():
            assert list(points) == ["1000"]
            assert points["1000"] > 0
        for points in whole["panels"][panel].values():
            assert max(map(int, points)) == SIZES.MOST[group]
    SIZES.draw(data, tmp_path / "quick.svg")
    assert set(SIZES.PANELS) <= set(texts(tmp_path / "quick.svg"))


def test_records_are_what_they_are_counted_as(tmp_path: Path) -> None:
    grown = SIZES.Grown("process", SIZES.OURS, 40, tmp_path)
    grown.grow(250)
    grown.grow(1234)
    found = grown.store.scan(b"", 10_000)
    assert sorted(key for key, _ in found) == sorted(map(SIZES.key_of, range(1234)))
    assert {len(key) for key, _ in found} == {SIZES.KEY_BYTES}
    assert {len(value) for _, value in found} == {SIZES.VALUE_BYTES}
    grown.store.close()
