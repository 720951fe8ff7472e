"""The key-value store, killed at random times: a sample of `make kvkill`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from heap_world import named
from kvstore_kill_load import TEN, Rounds


@pytest.mark.slow
def test_killed_at_any_time(tmp_path: Path) -> None:
    """What is never met is missing from all places together: a place alone has few rounds."""
    counts: Counter[str] = Counter()
    with TemporaryDirectory(dir="/dev/shm") as memory:
        places = [(tmp_path, "power"), (tmp_path, "process"), (Path(memory), "process")]
        for number, (where, durability) in enumerate(places):
            for operations in (1, TEN):
                path = where / f"{number} {operations}.kv"
                rounds = Rounds(path, named(durability), operations, seed=number, counts=counts)
                rounds.run(10)
    rounds.require()
