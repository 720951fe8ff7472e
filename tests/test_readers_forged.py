"""A reader of a header that is damaged meanwhile: a sample of what `make readers-forged` does."""

from __future__ import annotations

from pathlib import Path

import pytest
from readers_forged import run


@pytest.mark.slow
def test_a_look_is_right_or_an_exception(tmp_path: Path) -> None:
    seen = run(tmp_path / "heap", rounds=100, seed=1)
    assert not [what for what in seen if what.startswith("wrong")]
    assert seen["right"] > 50
    assert seen["refused"] > 50
