"""Codes: libpmem2's error numbers, and the exception made from one.

refused(PMEM2_E_MAPPING_EXISTS, "...")  ──►  Pmem2Error(.code = -100007, .name, message)
refused(-errno.ENOMEM, "...")           ──►  Pmem2Error(.code = -12, .name = "ENOMEM", message)
"""

from __future__ import annotations

import errno

from pmemheap.errors import Pmem2Error
from pmemheap.native import constants

__all__ = ["name_of", "refused"]

_NAMES = {getattr(constants, name): name for name in dir(constants) if name[:8] == "PMEM2_E_"}


def name_of(code: int) -> str:
    """Return the name of a libpmem2 number or of a negated errno.

    Examples
    --------
    >>> name_of(-100007), name_of(-12)
    ('PMEM2_E_MAPPING_EXISTS', 'ENOMEM')
    """
    return _NAMES.get(code) or errno.errorcode.get(-code, "unknown")


def refused(code: int, message: str) -> Pmem2Error:
    """Return the exception to raise for `code`."""
    return Pmem2Error(code, name_of(code), message)
