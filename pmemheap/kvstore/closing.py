"""Closing: what is closed by the end of a ``with`` block."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from pmemheap.refusals import end_with

__all__ = ["Closing"]


class Closing:
    """A context manager for whatever has a method `close`."""

    def close(self) -> None:
        """Close it; twice is allowed."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; an exception that leaves the block is not replaced by one of `close`."""
        end_with(value, self.close)
