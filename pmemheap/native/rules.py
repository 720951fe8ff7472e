"""Rules of crash consistency, by the tags that code, tests and documents cite.

Tests leave a rule out to show that its absence is found: a rule that nothing would miss is either
not needed or not tested. Nobody else does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pmemheap import native
from pmemheap.native.constants import Rule

__all__ = ["Rule", "omitted", "omitting"]

_omitted: set[Rule] = set()


def omitted(rule: Rule) -> bool:
    """Tell whether a test has left a rule out."""
    return rule in _omitted


@contextmanager
def omitting(*rules: Rule) -> Iterator[None]:
    """Leave rules out, in this process, while the block runs."""
    _omitted.update(rules)
    native.omit_rules(sum(1 << rule for rule in _omitted))
    try:
        yield
    finally:
        _omitted.difference_update(rules)
        native.omit_rules(sum(1 << rule for rule in _omitted))
