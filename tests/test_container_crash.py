"""Containers are crashed at every event: each is as one of its commits has left it.

The scenarios are in `crash_containers`; `make crash` takes more of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_containers import SCENARIOS, crash


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["power", "process"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_crash_leaves_a_container_as_a_commit_did(
    tmp_path: Path, name: str, durability: str
) -> None:
    share = 0.003 if durability == "power" else 0.012  # of about ten times as many crashes
    report = crash(name, tmp_path / "heap", durability, budget=2, share=share)
    report.require(distinct=60, recoveries=1, nested=1)
