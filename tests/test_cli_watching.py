"""The commands `stats`, `top` and `snapshot`: closed files, files in use, and refusals in words."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import pmemheap
from pmemheap.cli import main
from pmemheap.cli.exits import ExitCode
from pmemheap.cli.show import output
from pmemheap.cli.watching import Watched


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "120", "LC_ALL": "C.UTF-8", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed heap of two arenas."""
    made = tmp_path / "a.heap"
    with pmemheap.Heap.create(made, durability="process") as heap:
        heap.malloc_many(1000, 30)
        heap.arena("names").malloc(10_000)
    return made


@pytest.fixture(params=["closed", "in use"])
def looked_at(request: pytest.FixtureRequest, path: Path) -> Iterator[Path]:
    """The same, also while its writer has it open."""
    if request.param == "closed":
        yield path
        return
    with pmemheap.Heap.open(path):
        yield path


# ------------------------------------------------------------------------------------------ stats


def test_stats_are_a_line_an_arena(looked_at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(looked_at)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^\(default\) +30 +30 KiB ", printed, re.M)
    assert re.search(r"^names +1 +10 KiB ", printed, re.M)
    assert main(["stats", str(looked_at), "--json"]) == 0
    arenas = json.loads(capsys.readouterr().out)["arenas"]
    assert {name: each["blocks"] for name, each in arenas.items()} == {"": 30, "names": 1}


def test_stats_for_prometheus(looked_at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(looked_at), "--prometheus"]) == 0
    families = text_string_to_metric_families(capsys.readouterr().out)
    found = {
        sample.labels["arena"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "pmemheap_blocks" and sample.labels["heap"] == str(looked_at)
    }
    assert found == {"": 30, "names": 1}
    assert main(["stats", str(looked_at), "--prometheus", "--json"]) == ExitCode.USAGE


# ------------------------------------------------------------------------------------------- info


def test_info_names_the_writer(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told() -> tuple[str, dict[str, object]]:
        assert main(["info", str(path)]) == 0
        found = re.search(r"^ *state +(.*?) *$", capsys.readouterr().out, re.M)
        assert found
        assert main(["info", str(path), "--json"]) == 0
        header = json.loads(capsys.readouterr().out)["header"]
        return found[1], {name: header[name] for name in ("closed", "writer", "commit")}

    me = os.getpid()
    before = {"closed": True, "writer": None, "commit": None}
    assert told() == ("closed; opened for writing 1 time", before)
    with pmemheap.Heap.open(path) as heap:
        heap.malloc(10)
        assert told() == (
            f"open: process {me} writes; opened for writing 2 times",
            {"closed": False, "writer": me, "commit": None},
        )
    with pmemheap.Heap.open(path, readers=True) as heap:
        heap.roots["a"] = heap.malloc(10)
        commit = heap.read().commit
        assert told() == (
            f"open: process {me} writes, commit {commit} is there; opened for writing 3 times",
            {"closed": False, "writer": me, "commit": commit},
        )


def test_damage_that_is_met_beside_the_writer_names_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def contradicted(_: pmemheap.Heap) -> None:
        raise pmemheap.CorruptHeapError("descriptor 5: a sound table expected")

    monkeypatch.setattr("pmemheap.cli.watching.by_arena", contradicted)
    with pmemheap.Heap.open(path):
        assert main(["stats", str(path)]) == ExitCode.CORRUPT
    assert str(path) in capsys.readouterr().err


def test_what_is_no_heap_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(bytes(2 << 20))
    for command in ("stats", "top"):
        assert main([command, str(tmp_path / "absent")]) == ExitCode.USAGE
        assert "absent" in capsys.readouterr().err
        assert main([command, str(garbage)]) == ExitCode.CORRUPT
        assert "magic" in capsys.readouterr().err


def test_a_writer_that_gives_no_moment_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise pmemheap.HeapBusyError("descriptor 3: a writer that rests for a moment expected")

    monkeypatch.setattr(pmemheap.Heap, "attach", refuse)
    with pmemheap.Heap.open(path):
        for command in ("stats", "top"):
            assert main([command, str(path)]) == ExitCode.USAGE
            told = capsys.readouterr().err
            assert re.fullmatch(r"pmemheap: heap file '.*a\.heap': .* a writer that .*\n", told)


# -------------------------------------------------------------------------------------------- top


def test_top_looks_once_in_a_pipe(looked_at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--once"]):
        assert main(["top", str(looked_at), *options]) == 0
        printed = capsys.readouterr().out
        assert re.search(r"^\(default\) +30 ", printed, re.M)
        assert printed.count("(default)") == 1


def drawn(watched: Watched) -> str:
    console = output()
    with console.capture() as captured:
        console.print(watched.shown())
    return captured.get()


def test_top_tells_what_changes_a_second(path: Path) -> None:
    times = iter([10.0, 12.0])
    watched = Watched(path, lambda: next(times))
    assert drawn(watched).splitlines()[3].split()[:2] == ["(default)", "30"]
    with pmemheap.Heap.open(path) as heap:
        heap.malloc_many(100, 10)
        heap.arena("new").malloc(100)
        lines = drawn(watched).splitlines()
    assert lines[3].split()[-3:] == ["+5", "560", "B"]
    assert [line.split()[0] for line in lines[3:]] == ["(default)", "names", "new"]


def test_top_says_why_a_look_was_refused(path: Path) -> None:
    """The first refusal ends it; a later one is told below what was seen last."""
    watched = Watched(path)
    assert "since then" not in drawn(watched)
    path.rename(path.with_name("elsewhere"))
    shown = " ".join(drawn(watched).split())
    assert "30 30 KiB" in shown
    assert re.search(r"since then: pmemheap: .*No such file or directory", shown)
    path.with_name("elsewhere").rename(path)
    assert "since then" not in drawn(watched)
    with pytest.raises(pmemheap.HeapNotFoundError):
        Watched(path.with_name("absent")).shown()


class Terminal(io.StringIO):
    """A stream that says it is one."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_top_goes_on_until_it_is_interrupted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, pauses = Terminal(), [0.5, 0.5]

    def pause(seconds: float) -> None:
        if not pauses:
            raise KeyboardInterrupt
        assert seconds == pauses.pop()

    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("pmemheap.cli.watching.time.sleep", pause)
    assert main(["top", str(path), "--every", "0.5"]) == 0
    assert terminal.getvalue().count("(default)") >= 3


# --------------------------------------------------------------------------------------- snapshot


def test_a_snapshot_is_a_heap_of_its_own(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = path.with_name("copy")
    assert main(["snapshot", str(path), str(copy)]) == 0
    assert "31 blocks" in capsys.readouterr().out
    assert main(["snapshot", str(path), str(copy)]) == ExitCode.USAGE
    capsys.readouterr()
    words = ["snapshot", str(path), str(copy), "--replace", "--new-identity", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["blocks"], told["file_bytes"]) == (31, copy.stat().st_size)
    with pmemheap.Heap.open(path) as old, pmemheap.Heap.open(copy) as new:
        assert list(old.blocks()) == list(new.blocks())
        assert (str(new.uuid), new.uuid != old.uuid) == (told["uuid"], True)
