"""libpmem2's reservation contract: address space that is kept, and maps placed in it.

Numbers that this package never raises are here too where the contract names them, so that a program
written against libpmem2 finds its constants.
"""

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
from pmemheap.pmem2.mapping import Access, Map, Sharing
from pmemheap.pmem2.reservation import VMReservation
from pmemheap.pmem2.source import Granularity, Source

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
    "Access",
    "Granularity",
    "Map",
    "Sharing",
    "Source",
    "VMReservation",
]
