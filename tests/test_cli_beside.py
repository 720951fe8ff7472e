"""Commands that look closely at a heap file which its writer goes on changing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pmemheap
from pmemheap.cli import main
from pmemheap.cli.exits import ExitCode
from pmemheap.containers import SortedMap
from pmemheap.heap.insight import CheckReport


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.heap"


@pytest.fixture
def written(path: Path) -> Iterator[SortedMap]:
    """A map of a heap whose writer lets readers in."""
    with pmemheap.open(path, "c", durability="process", readers=True) as heap:
        table = SortedMap(heap, "table")
        for number in range(200):
            table[b"%d" % number] = b"x" * 100
        heap.arena("more").malloc(100)
        yield table


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_heap_is_checked(
    written: SortedMap, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(path)]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "sound" in said
    assert f"Process {os.getpid()} goes on writing" in said
    code, facts = run_json(capsys, "check", path)
    assert code == ExitCode.DONE
    assert facts["sound"] is True
    assert facts["writer"] == os.getpid()
    with written.heap.read() as snap:
        assert facts["commit"] == snap.commit
    assert facts["blocks"] == written.heap.check().blocks
    assert not written.heap.readers()


def test_what_a_check_finds_is_said(
    written: SortedMap,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = CheckReport(("unit 7: a block expected, none found",), 1, 5, 256)
    monkeypatch.setattr(pmemheap.Heap, "check", lambda _: found)
    assert main(["check", str(path)]) == ExitCode.FINDINGS
    said = capsys.readouterr().out
    assert "1 finding" in said
    assert "unit 7: a block expected" in said
    code, facts = run_json(capsys, "check", path)
    assert code == ExitCode.FINDINGS
    assert facts["findings"] == ["unit 7: a block expected, none found"]


def test_the_tables_of_the_header_are_dumped(
    written: SortedMap, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, facts = run_json(capsys, "dump", path)
    assert code == ExitCode.DONE
    assert [row["name"] for row in facts["roots"]] == ["table"]
    assert facts["roots"][0]["offset"] == written.heap.roots["table"]
    assert [row["name"] for row in facts["arenas"]] == ["", "more"]
    assert {"log", "data"} <= {row["kind"] for row in facts["segments"]}
    assert [row["counts"] for row in facts["superblocks"]].count(True) == 1
    assert not {"log", "units"} & facts.keys()
    assert main(["dump", str(path), "--roots"]) == ExitCode.DONE
    assert "table" in capsys.readouterr().out


@pytest.mark.parametrize("table", ["--log", "--units"])
def test_what_changes_all_the_time_is_not_dumped(
    written: SortedMap, path: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dump", str(path), table]) == ExitCode.USAGE
    assert f"process {os.getpid()} has it open" in capsys.readouterr().err
    assert len(written) == 200


@pytest.mark.parametrize("command", ["check", "dump"])
def test_a_writer_that_lets_nobody_in_is_named(
    path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pmemheap.open(path, "c"):
        assert main([command, str(path)]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert f"no other user expected, process {os.getpid()} has it open" in said
