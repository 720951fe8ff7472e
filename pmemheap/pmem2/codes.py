"""Codes: libpmem2's error numbers, and the exception made from one.

    refused(PMEM2_E_MAPPING_EXISTS, "...")  ──►  Pmem2Error(.code = -100007, .name, message)
    refused(-errno.ENOMEM, "...")           ──►  Pmem2Error(.code = -12, .name = "ENOMEM", message)

Numbers that this package never raises stand here too where the contract names them, so that a
program written against libpmem2 finds its constants.
"""

from __future__ import annotations

import errno

from pmemheap.errors import Pmem2Error
from pmemheap.native.constants import (
    PMEM2_E_ADDRESS_UNALIGNED,
    PMEM2_E_GRANULARITY_NOT_SET,
    PMEM2_E_GRANULARITY_NOT_SUPPORTED,
    PMEM2_E_INVALID_FILE_HANDLE,
    PMEM2_E_INVALID_FILE_TYPE,
    PMEM2_E_LENGTH_OUT_OF_RANGE,
    PMEM2_E_LENGTH_UNALIGNED,
    PMEM2_E_MAP_EXISTS,
    PMEM2_E_MAP_RANGE,
    PMEM2_E_MAPPING_EXISTS,
    PMEM2_E_MAPPING_NOT_FOUND,
    PMEM2_E_NO_ACCESS,
    PMEM2_E_NOSUPP,
    PMEM2_E_OFFSET_OUT_OF_RANGE,
    PMEM2_E_OFFSET_UNALIGNED,
    PMEM2_E_SOURCE_EMPTY,
    PMEM2_E_VM_RESERVATION_NOT_EMPTY,
)

__all__ = [
    "PMEM2_E_ADDRESS_UNALIGNED",
    "PMEM2_E_GRANULARITY_NOT_SET",
    "PMEM2_E_GRANULARITY_NOT_SUPPORTED",
    "PMEM2_E_INVALID_FILE_HANDLE",
    "PMEM2_E_INVALID_FILE_TYPE",
    "PMEM2_E_LENGTH_OUT_OF_RANGE",
    "PMEM2_E_LENGTH_UNALIGNED",
    "PMEM2_E_MAPPING_EXISTS",
    "PMEM2_E_MAPPING_NOT_FOUND",
    "PMEM2_E_MAP_EXISTS",
    "PMEM2_E_MAP_RANGE",
    "PMEM2_E_NOSUPP",
    "PMEM2_E_NO_ACCESS",
    "PMEM2_E_OFFSET_OUT_OF_RANGE",
    "PMEM2_E_OFFSET_UNALIGNED",
    "PMEM2_E_SOURCE_EMPTY",
    "PMEM2_E_VM_RESERVATION_NOT_EMPTY",
]


_NAMES = {globals()[name]: name for name in __all__}


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
