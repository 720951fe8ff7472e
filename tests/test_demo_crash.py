"""The end of the demo: children killed in the middle of a commit, and what is found afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pmemheap
from pmemheap import DurabilityName
from pmemheap.cli import crashes, main
from pmemheap.cli.crashes import copy_library, kill_in_commits
from pmemheap.cli.library import Library
from pmemheap.errors import CorruptHeapError

pytestmark = pytest.mark.slow
TEXTS = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed process heap with a library of a few texts."""
    made = tmp_path / "library.heap"
    with pmemheap.Heap.create(made, durability="process") as heap:
        library = Library(heap)
        for number in range(TEXTS):
            library.add(f"m{number}", b"x" * 500 * number)
    return made


@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_was_acknowledged_is_there_after_a_kill_in_a_commit(
    path: Path, tmp_path: Path, durability: DurabilityName
) -> None:
    copy: Path | None = path
    if durability == "power":
        copy = copy_library(path, tmp_path, durability)
        if copy is None:
            pytest.skip("this file system keeps nothing over a power failure")
    assert copy is not None
    kills = list(kill_in_commits(copy, 3))
    assert len(kills) == 3
    for kill in kills:
        assert kill.durability == durability
        assert kill.in_flight == 1
        assert kill.acknowledged <= kill.found <= kill.acknowledged + 1
        assert kill.texts == TEXTS
    with pmemheap.Heap.open(copy) as heap:
        assert heap.check()


def test_a_text_that_is_not_as_committed_is_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def transact(library: Library, number: int, slots: list[int], progress: object) -> None:
        real(library, number, slots, progress)  # type: ignore[arg-type]
        library.replace(slots[0], b"never committed by a transaction")

    real = crashes._transact
    monkeypatch.setattr(crashes, "_transact", transact)
    with pytest.raises(CorruptHeapError, match="texts after transaction"):
        list(kill_in_commits(path, 3))


def test_a_commit_that_did_not_happen_is_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def transact(_: Library, number: int, __: object, progress: crashes._Progress) -> None:
        progress.begun = progress.returned = number
        progress.store()

    monkeypatch.setattr(crashes, "_transact", transact)
    with pytest.raises(CorruptHeapError, match="transactions up to"):
        list(kill_in_commits(path, 3))


def test_demo_kills_in_both_kinds_of_heaps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (tmp_path / f"m{number}.py").write_text(f"line = {number}\n" * 500, encoding="utf-8")
    monkeypatch.setattr("pmemheap.cli.demo._KILLS", 1)
    assert main(["demo", "--source", str(tmp_path), "--json"]) == 0
    kills = json.loads(capsys.readouterr().out)["kills"]
    assert {kill["durability"] for kill in kills} >= {"process"}
    assert all(kill["in_flight"] == 1 for kill in kills)
    assert main(["demo", "--source", str(tmp_path)]) == 0
    assert "nothing committed is missing" in " ".join(capsys.readouterr().out.split())
