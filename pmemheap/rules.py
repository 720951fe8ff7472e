"""Rules of crash consistency, by the tags that code, tests and documents cite.

Tests leave a rule out to show that its absence is found: a rule that nothing would miss is either
not needed or not tested. Nobody else does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from pmemheap import native

__all__ = ["Rule", "omitted", "omitting"]

_omitted: set[Rule] = set()


class Rule(IntEnum):
    """What must hold for a recovery to be right; `docs/crash-consistency.md` explains each."""

    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R12 = 12
    R13 = 13
    R14 = 14
    R15 = 15
    R16 = 16
    R17 = 17
    R18 = 18
    R19 = 19
    R20 = 20
    R21 = 21
    R22 = 22
    R23 = 23
    R24 = 24
    R25 = 25
    R26 = 26
    R27 = 27
    R28 = 28
    R29 = 29
    R30 = 30
    DAMAGE = 31
    DATA_FIRST = 32
    SPARE_TABLES = 33
    SPARE_SYNC = 34


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
