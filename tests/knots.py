"""Knots: files that need each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

import pytest


def require_no_knot(needs: Mapping[str, Iterable[str]]) -> None:
    """Fail if one file needs another that needs it, also by way of others."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(f"no knot expected, found {' -> '.join(error.args[1])}")
