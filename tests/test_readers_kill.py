"""Eight readers and a writer, killed at random: a small run of `readers_load.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from readers_load import SOON, VISITS, Rounds, made

from pmemheap import DurabilityName

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("where", "durability"), [("disk", "power"), ("/dev/shm", "process"), ("memfd", "process")]
)
def test_anybody_is_killed(tmp_path: Path, where: str, durability: DurabilityName) -> None:
    with made(str(tmp_path) if where == "disk" else where, durability) as path:
        rounds = Rounds(path, seed=1)
        rounds.run(4, most=60)
    assert not rounds.missing(SOON), rounds.describe()


@pytest.mark.parametrize(("where", "durability"), [("disk", "power"), ("memfd", "process")])
def test_anybody_is_killed_while_readers_come_and_go(
    tmp_path: Path, where: str, durability: DurabilityName
) -> None:
    """So that the writer edits in place for a while, and then may not."""
    with made(str(tmp_path) if where == "disk" else where, durability) as path:
        rounds = Rounds(path, seed=2, number=2, visits=True)
        rounds.run(10, most=60)
    assert not rounds.missing((*SOON, *VISITS)), rounds.describe()
