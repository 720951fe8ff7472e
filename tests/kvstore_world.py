"""What tests of the key-value store share: a clock that they set."""

from __future__ import annotations

NS = 1_000_000_000


class Clock:
    """Time in nanoseconds, which passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * NS

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * NS)
