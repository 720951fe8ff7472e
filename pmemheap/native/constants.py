"""Constants: the numbers that the C core shares with Python, under Python's names.

    _core/codes.h ──► cffi ──► this module ──► everybody

They are typed in `codes.h` alone; here each gets a name. A number that is missing there is an
AttributeError when the package is imported.
"""

from __future__ import annotations

from enum import IntEnum

from pmemheap._core._sys import lib

__all__ = [
    "CLOSED",
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
    "VOLATILE",
    "Durability",
    "Finding",
    "Kind",
    "Refusal",
    "Scan",
    "State",
    "TxState",
    "UnitState",
]

PMEM2_E_NOSUPP: int = lib.PMEM2_E_NOSUPP
PMEM2_E_INVALID_FILE_HANDLE: int = lib.PMEM2_E_INVALID_FILE_HANDLE
PMEM2_E_INVALID_FILE_TYPE: int = lib.PMEM2_E_INVALID_FILE_TYPE
PMEM2_E_MAP_RANGE: int = lib.PMEM2_E_MAP_RANGE
PMEM2_E_MAPPING_EXISTS: int = lib.PMEM2_E_MAPPING_EXISTS
PMEM2_E_GRANULARITY_NOT_SET: int = lib.PMEM2_E_GRANULARITY_NOT_SET
PMEM2_E_GRANULARITY_NOT_SUPPORTED: int = lib.PMEM2_E_GRANULARITY_NOT_SUPPORTED
PMEM2_E_OFFSET_OUT_OF_RANGE: int = lib.PMEM2_E_OFFSET_OUT_OF_RANGE
PMEM2_E_OFFSET_UNALIGNED: int = lib.PMEM2_E_OFFSET_UNALIGNED
PMEM2_E_LENGTH_UNALIGNED: int = lib.PMEM2_E_LENGTH_UNALIGNED
PMEM2_E_MAPPING_NOT_FOUND: int = lib.PMEM2_E_MAPPING_NOT_FOUND
PMEM2_E_SOURCE_EMPTY: int = lib.PMEM2_E_SOURCE_EMPTY
PMEM2_E_ADDRESS_UNALIGNED: int = lib.PMEM2_E_ADDRESS_UNALIGNED
PMEM2_E_LENGTH_OUT_OF_RANGE: int = lib.PMEM2_E_LENGTH_OUT_OF_RANGE
PMEM2_E_NO_ACCESS: int = lib.PMEM2_E_NO_ACCESS
PMEM2_E_VM_RESERVATION_NOT_EMPTY: int = lib.PMEM2_E_VM_RESERVATION_NOT_EMPTY
PMEM2_E_MAP_EXISTS: int = lib.PMEM2_E_MAP_EXISTS

CLOSED: int = lib.PH_ECLOSED
"""Why a reservation refused: it is closed."""


class Refusal:
    """Why a call of the C core was refused; plain ints, since they are compared at each call."""

    REFILL: int = lib.PH_H_REFILL
    LARGE: int = lib.PH_H_LARGE
    BAD_OFFSET: int = lib.PH_H_BAD_OFFSET
    PINNED: int = lib.PH_H_PINNED
    NOMEM: int = lib.PH_H_NOMEM
    MOVE: int = lib.PH_H_MOVE
    UPSTREAM: int = lib.PH_H_UPSTREAM
    CORRUPT: int = lib.PH_H_CORRUPT
    IN_TRANSACTION: int = lib.PH_H_IN_TRANSACTION
    MOVE_LOGGED: int = lib.PH_H_MOVE_LOGGED
    ROOTED: int = lib.PH_H_ROOTED

    LOG_FULL: int = lib.PH_L_FULL
    LOG_LARGE: int = lib.PH_L_LARGE
    LOG_DEAD: int = lib.PH_L_DEAD
    LOG_NOMEM: int = lib.PH_L_NOMEM
    LOG_CORRUPT: int = lib.PH_L_CORRUPT
    LOG_MANY: int = lib.PH_L_MANY
    LOG_GONE: int = lib.PH_L_GONE
    LOG_GATED: int = lib.PH_L_GATED

    TX_OUTSIDE: int = lib.PH_T_OUTSIDE
    TX_TWICE: int = lib.PH_T_TWICE
    TX_ENDED: int = lib.PH_T_ENDED

    MAP_CORRUPT: int = lib.PH_M_CORRUPT
    MAP_OUTSIDE: int = lib.PH_M_OUTSIDE
    MAP_UNMAPPED: int = lib.PH_M_UNMAPPED
    MAP_NO_TRANSACTION: int = lib.PH_M_NO_TX
    MAP_BUSY: int = lib.PH_M_BUSY


class Durability(IntEnum):
    """What a commit waits for."""

    PROCESS = lib.PH_PROCESS
    POWER = lib.PH_POWER


VOLATILE: int = lib.PH_VOLATILE
"""Instead of a durability: memory, which has no log."""


class State(IntEnum):
    """What the public calls of a heap may do."""

    OPEN = lib.PH_S_OPEN
    QUIET = lib.PH_S_QUIET
    READONLY = lib.PH_S_READONLY
    ASLEEP = lib.PH_S_ASLEEP
    LOST = lib.PH_S_LOST
    FORKED = lib.PH_S_FORKED
    CLOSED = lib.PH_S_CLOSED


class TxState(IntEnum):
    """What a transaction is."""

    OPEN = lib.PH_X_OPEN
    COMMITTED = lib.PH_X_COMMITTED
    ABORTED = lib.PH_X_ABORTED


class Kind(IntEnum):
    """What an entry of a file says of the units from its own on."""

    FREE = lib.PH_KIND_FREE
    LARGE = lib.PH_KIND_LARGE
    RUN = lib.PH_KIND_RUN


class UnitState(IntEnum):
    """What a unit is, as far as this process knows."""

    OTHER = lib.PH_U_OTHER
    FREE = lib.PH_U_FREE
    FREE_LAST = lib.PH_U_FREE_LAST
    RUN = lib.PH_U_RUN
    RUN_BODY = lib.PH_U_RUN_BODY
    LARGE = lib.PH_U_LARGE
    LIMBO = lib.PH_U_LIMBO
    RESERVED = lib.PH_U_RESERVED
    QUARANTINE = lib.PH_U_QUARANTINE


class Scan(IntEnum):
    """What of a map a scan yields."""

    KEYS = lib.PH_SCAN_KEYS
    VALUES = lib.PH_SCAN_VALUES
    ITEMS = lib.PH_SCAN_ITEMS


class Finding(IntEnum):
    """What a check of the allocator has found."""

    ENTRY_WORD = lib.PH_F_ENTRY_WORD
    ENTRY_BYTES = lib.PH_F_ENTRY_BYTES
    STRAY_BITS = lib.PH_F_STRAY_BITS
    MISPLACED_BITS = lib.PH_F_MISPLACED_BITS
    RUN_LIVE = lib.PH_F_RUN_LIVE
    RUN_UNITS = lib.PH_F_RUN_UNITS
    RUN_BODY = lib.PH_F_RUN_BODY
    FREE_ENDS = lib.PH_F_FREE_ENDS
    UNMERGED = lib.PH_F_UNMERGED
    OVERLAP = lib.PH_F_OVERLAP
    STATE = lib.PH_F_STATE
    LINK = lib.PH_F_LINK
    BIN_MASK = lib.PH_F_BIN_MASK
    FREE_COUNT = lib.PH_F_FREE_COUNT
    FREE_UNITS = lib.PH_F_FREE_UNITS
    CLASS_LIVE = lib.PH_F_CLASS_LIVE
    CLASS_RUNS = lib.PH_F_CLASS_RUNS
    CLASS_ROOMY = lib.PH_F_CLASS_ROOMY
    LIMBO = lib.PH_F_LIMBO
    RUN_COUNT = lib.PH_F_RUN_COUNT
    LARGE_UNITS = lib.PH_F_LARGE_UNITS
    LARGE_BYTES = lib.PH_F_LARGE_BYTES
    LARGE_COUNT = lib.PH_F_LARGE_COUNT
    RUN_HELD = lib.PH_F_RUN_HELD
    HELD_BITS = lib.PH_F_HELD_BITS
    CLASS_HELD = lib.PH_F_CLASS_HELD
    CLASS_MASK = lib.PH_F_CLASS_MASK
    HELD_COUNT = lib.PH_F_HELD_COUNT
    HELD_UNITS = lib.PH_F_HELD_UNITS
    HELD_BYTES = lib.PH_F_HELD_BYTES
