"""Extras: numpy, which only who asks for arrays needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pmemheap.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["dtype_argument", "numpy"]


def numpy() -> Any:
    """Return numpy; an ImportError says how to get it."""
    try:
        import numpy as np  # noqa: PLC0415 -- an extra: only who asks for arrays needs it
    except ImportError as error:
        raise ImportError("arrays need numpy: pip install 'pmemheap[numpy]'") from error
    return np


def dtype_argument(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return a dtype that may lie in a heap: one without Python objects."""
    try:
        kind: np.dtype[Any] = numpy().dtype(dtype)
    except ValueError as error:
        raise UsageError(f"dtype: one of numpy's expected, {dtype!r} found: {error}") from error
    if kind.hasobject:
        raise UsageError(f"dtype: one without Python objects expected, {kind} found")
    return kind
