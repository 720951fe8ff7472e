from __future__ import annotations

import os

import pytest
from fuzz_api import fuzz

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}
SECONDS = 30 if IN_CI else 8


@pytest.mark.slow
def test_random_calls_with_hostile_arguments_never_crash_the_interpreter() -> None:
    """Ten minutes by hand: ``make fuzz``."""
    well, report = fuzz(SECONDS, seed="ci")
    assert well, report
