"""A writer and a reader by turns: what a reader sees is right, and a rule left out is missed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pairs_worlds import WORLDS, World, run

from pmemheap import Heap, Snapshot
from pmemheap.native.rules import Rule, omitting
from pmemheap.testing import Crash, Schedule, pairs
from pmemheap.testing.parts import Begin

BEGINS: tuple[Begin, ...] = ("read", "refresh", "open")
SHORT = {"read": 3000, "refresh": 12_000}
SCHEDULES = {"put": SHORT, "slide": SHORT, "both": SHORT, "append": {"read": 1000}}
"""Random ones, by what a round takes; with those of other worlds 50,000 in all."""
OTHERS = {"moved": 200, "large": 200}
MOST_OTHERS = 500
OPENED = 80
KILLS = 12


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory in memory: what is killed is a process."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


@pytest.mark.slow
@pytest.mark.parametrize("begin", BEGINS)
@pytest.mark.parametrize("name", WORLDS)
def test_a_reader_sees_whole_commits(home: Path, name: str, begin: Begin) -> None:
    others = OTHERS.get(name, MOST_OTHERS)
    count = OPENED if begin == "open" else SCHEDULES.get(name, {}).get(begin, others)
    report = run(home, name, begin, schedules=count, kills=KILLS)
    assert report.rounds > count
    assert report.kills > 1
    assert report.waits > 0
    assert min(report.writer_steps, report.reader_steps) > 5


@pytest.mark.slow
def test_a_lookup_without_a_snapshot_is_of_a_whole_commit(home: Path) -> None:
    report = run(home, "last", "last", schedules=1000, kills=KILLS)
    assert report.rounds > 1000
    assert report.kills > 1
    assert min(report.writer_steps, report.reader_steps) > 5


@pytest.mark.slow
@pytest.mark.parametrize(("begin", "count"), [("read", 500), ("open", 40)])
def test_an_array_that_is_sent_is_as_it_was_or_gone(home: Path, begin: Begin, count: int) -> None:
    report = run(home, "sent", begin, schedules=count, kills=KILLS)
    assert report.rounds > count


def test_a_heap_on_a_medium(tmp_path: Path) -> None:
    report = run(tmp_path, "put", schedules=20, kills=9, durability="power")
    assert report.kills > 2


# ---------------------------------------------------------------- what it finds


def _set(heap: Heap, number: int) -> None:
    with heap.transaction() as tx:
        tx.roots["number"] = tx.roots.get("block", 0) or tx.alloc(64).offset
        tx.roots["block"] = tx.roots["number"]
        tx.write(tx.roots["block"], b"%08d" % number)


def _read(snap: Snapshot) -> int:
    return int(bytes(snap.view(snap.roots["block"], 8)))


def _in_place(number: int) -> int:
    return number


def test_bytes_that_are_changed_in_place_are_seen(home: Path) -> None:
    """That is what is said of `tx.write`: a snapshot does not keep them."""
    world = World(_set, _read, _in_place)
    with pytest.raises(AssertionError, match="a snapshot that stays as it was expected"):
        pairs(home / "heap", world.write, world.read, world.check, setup=world.setup, kills=0)


def test_a_check_that_fails_names_the_schedule(home: Path) -> None:
    def check(value: object, crash: Crash) -> None:
        assert crash.most < 5, "five writes are too many"

    world = WORLDS["block"]
    said = r"round 4: writer \d, reader to its end, writer: five writes"
    with pytest.raises(AssertionError, match=said):
        pairs(home / "heap", world.write, world.read, check, setup=world.setup)


@pytest.mark.parametrize("side", ["writer", "reader"])
@pytest.mark.parametrize("end", ["raises", "dies"])
def test_a_process_that_fails_is_an_error(home: Path, side: str, end: str) -> None:
    world = WORLDS["block"]
    calls = []

    def failing(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            if end == "dies":
                os._exit(0)
            raise RuntimeError("the third call")
        return world.write(*args) if side == "writer" else world.read(*args)

    wrong = world._replace(**{"write" if side == "writer" else "read": failing})
    said = "the third call" if end == "raises" else "it lives expected, it ended"
    with pytest.raises(AssertionError, match=said):
        pairs(home / "heap", wrong.write, wrong.read, wrong.check, setup=world.setup)


def test_a_schedule_says_what_it_is() -> None:
    assert str(Schedule("writer", (3, 4))) == "writer 3, reader 4, writer to its end, reader"
    assert str(Schedule("reader")) == "reader to its end, writer"


# ---------------------------------------------------------------- rules that are left out

PLANTED: dict[Rule, tuple[str, Begin]] = {
    Rule.Q3: ("block", "read"),
    Rule.Q4: ("sent", "read"),
    Rule.Q5: ("put", "read"),
    Rule.Q6: ("block", "read"),
    Rule.Q14: ("large", "read"),
}
"""Others are searched in `test_planted_bugs`."""


@pytest.mark.slow
@pytest.mark.checked
@pytest.mark.parametrize("rule", PLANTED, ids=lambda rule: rule.name)
def test_a_rule_that_is_left_out_is_missed(home: Path, rule: Rule) -> None:
    with omitting(rule), pytest.raises(AssertionError):
        run(home, *PLANTED[rule], schedules=2000, kills=1)
