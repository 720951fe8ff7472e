"""Constants: the numbers that the C core shares with Python, under Python's names.

    _core/codes.h, base/format.h ──► cffi ──► this module ──► everybody

They are typed in the two headers alone; one that is missing there is an AttributeError here.
"""

from __future__ import annotations

from enum import IntEnum

from pmemheap._core._sys import ffi, lib

__all__ = [
    "CHUNK_FIRST",
    "CHUNK_RING",
    "CHUNK_UNITS_MOST",
    "CLOSED",
    "PLACED_MOST",
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
    "POOL_MOST",
    "REGION_MOST",
    "RING_WHOLE",
    "ROW_MOST",
    "STEP",
    "TAKE_ALL",
    "TAKE_OLD",
    "TAKE_RETURNED",
    "TOUCHED_DATA",
    "UNPLACED",
    "VOLATILE",
    "ArenaState",
    "Durability",
    "Event",
    "Finding",
    "Format",
    "HeapState",
    "Kind",
    "OperationType",
    "RecordKind",
    "Refusal",
    "Rule",
    "Scan",
    "SegmentKind",
    "State",
    "Table",
    "TraceFormat",
    "TrackFormat",
    "TxState",
    "UnitState",
    "place",
    "width",
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


CHUNK_UNITS_MOST: int = lib.PH_CHUNK_UNITS_MAX
"""Units of the longest chunk."""

REGION_MOST: int = lib.PH_REGION_MOST
"""Bytes of the longest block of a region that is kept."""

RING_WHOLE: int = lib.PH_RING_WHOLE
"""Bytes above which a block of a ring has units of its own."""

ROW_MOST: int = lib.PH_ROW_MAX
"""Bytes of the longest row of an arena of rows."""

STEP: int = lib.PH_STEP
"""Bytes of a step, in which a `Space` counts that says where blocks lie."""

PLACED_MOST: int = lib.PH_PLACED_MOST
"""Bytes of the longest block that such a one is asked for."""

POOL_MOST: int = lib.PH_POOL_MAX
"""Units of the longest block that C serves from its pool; what is longer is an extent."""

TAKE_RETURNED: int = lib.PH_TAKE_RETURNED
"""Free ranges that were freed, and belong to no pool."""

TAKE_OLD: int = lib.PH_TAKE_OLD
"""Those of the pool that are old in part."""

TAKE_ALL: int = lib.PH_TAKE_ALL
"""All of the pool, with runs that are empty."""


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
    IN_REGION: int = lib.PH_H_IN_REGION
    DAMAGED: int = lib.PH_H_DAMAGED
    PLACE: int = lib.PH_H_PLACE

    LOG_FULL: int = lib.PH_L_FULL
    LOG_LARGE: int = lib.PH_L_LARGE
    LOG_DEAD: int = lib.PH_L_DEAD
    LOG_NOMEM: int = lib.PH_L_NOMEM
    LOG_CORRUPT: int = lib.PH_L_CORRUPT
    LOG_MANY: int = lib.PH_L_MANY
    LOG_GONE: int = lib.PH_L_GONE
    LOG_EDITING: int = lib.PH_L_EDITING
    LOG_GATED: int = lib.PH_L_GATED
    TX_OUTSIDE: int = lib.PH_T_OUTSIDE
    TX_TWICE: int = lib.PH_T_TWICE
    TX_ENDED: int = lib.PH_T_ENDED
    TX_SYSTEM: int = lib.PH_T_SYSTEM
    MAP_CORRUPT: int = lib.PH_M_CORRUPT
    MAP_OUTSIDE: int = lib.PH_M_OUTSIDE
    MAP_UNMAPPED: int = lib.PH_M_UNMAPPED
    MAP_NO_TRANSACTION: int = lib.PH_M_NO_TX
    MAP_BUSY: int = lib.PH_M_BUSY


TOUCHED_DATA: int = lib.PH_TOUCH_DATA
"""Instead of a table that a record touches: bytes of blocks."""

UNPLACED: int = lib.PH_UNPLACED
"""Where a long value of a map lies that has no place yet."""


class StrategyCode(IntEnum):
    """Where the blocks of an arena come from, as its slot says it."""

    GENERAL = lib.PH_STRATEGY_GENERAL
    RING = lib.PH_STRATEGY_RING
    ROWS = lib.PH_STRATEGY_ROWS
    PLACED = lib.PH_STRATEGY_PLACED


class Durability(IntEnum):
    """The failures that a commit survives."""

    PROCESS = lib.PH_PROCESS
    POWER = lib.PH_POWER


VOLATILE: int = lib.PH_VOLATILE
"""Instead of a durability: memory, which has no log."""


class State(IntEnum):
    """States of a heap: what its public calls may do."""

    OPEN = lib.PH_S_OPEN
    CLEAN = lib.PH_S_CLEAN
    READONLY = lib.PH_S_READONLY
    UNATTACHED = lib.PH_S_UNATTACHED
    LOST = lib.PH_S_LOST
    FORKED = lib.PH_S_FORKED
    CLOSED = lib.PH_S_CLOSED


class TxState(IntEnum):
    """States of a transaction."""

    OPEN = lib.PH_X_OPEN
    COMMITTED = lib.PH_X_COMMITTED
    ABORTED = lib.PH_X_ABORTED


class Kind(IntEnum):
    """Kinds of entries in a file: what begins at a unit."""

    FREE = lib.PH_KIND_FREE
    LARGE = lib.PH_KIND_LARGE
    RUN = lib.PH_KIND_RUN
    PACKED = lib.PH_KIND_PACKED
    ROWS = lib.PH_KIND_ROWS


CHUNK_FIRST: int = lib.PH_CHUNK_FIRST
"""Flag of the entry of a chunk: the first one of a region, which is called by it."""
CHUNK_RING: int = lib.PH_CHUNK_RING
"""Flag of the entry of a chunk: of a ring."""


class UnitState(IntEnum):
    """Volatile states of a unit."""

    OTHER = lib.PH_U_OTHER
    FREE = lib.PH_U_FREE
    FREE_LAST = lib.PH_U_FREE_LAST
    RUN = lib.PH_U_RUN
    RUN_BODY = lib.PH_U_RUN_BODY
    LARGE = lib.PH_U_LARGE
    RETURNED = lib.PH_U_RETURNED
    RESERVED = lib.PH_U_RESERVED
    QUARANTINE = lib.PH_U_QUARANTINE
    PACKED = lib.PH_U_PACKED
    PACKED_BODY = lib.PH_U_PACKED_BODY


class Scan(IntEnum):
    """The part of an entry that a scan yields."""

    KEYS = lib.PH_SCAN_KEYS
    VALUES = lib.PH_SCAN_VALUES
    ITEMS = lib.PH_SCAN_ITEMS


class Rule(IntEnum):
    """Rules without which recoveries or readers go wrong; see `docs/crash-consistency.md`."""

    R1 = lib.PH_R1
    R2 = lib.PH_R2
    R3 = lib.PH_R3
    R4 = lib.PH_R4
    R5 = lib.PH_R5
    R6 = lib.PH_R6
    R7 = lib.PH_R7
    R8 = lib.PH_R8
    R9 = lib.PH_R9
    R10 = lib.PH_R10
    R11 = lib.PH_R11
    R12 = lib.PH_R12
    R13 = lib.PH_R13
    R14 = lib.PH_R14
    R15 = lib.PH_R15
    R16 = lib.PH_R16
    R17 = lib.PH_R17
    R18 = lib.PH_R18
    R19 = lib.PH_R19
    R20 = lib.PH_R20
    R21 = lib.PH_R21
    R22 = lib.PH_R22
    R23 = lib.PH_R23
    R24 = lib.PH_R24
    R25 = lib.PH_R25
    R26 = lib.PH_R26
    R27 = lib.PH_R27
    R28 = lib.PH_R28
    R29 = lib.PH_R29
    R30 = lib.PH_R30
    R31 = lib.PH_R31
    R32 = lib.PH_R32
    R33 = lib.PH_R33
    R34 = lib.PH_R34
    R35 = lib.PH_R35
    DAMAGE = lib.PH_DAMAGE
    DATA_FIRST = lib.PH_DATA_FIRST
    SPARE_TABLES = lib.PH_SPARE_TABLES
    SPARE_SYNC = lib.PH_SPARE_SYNC
    REWOUND = lib.PH_REWOUND
    Q1 = lib.PH_Q1
    Q2 = lib.PH_Q2
    Q3 = lib.PH_Q3
    Q4 = lib.PH_Q4
    Q5 = lib.PH_Q5
    Q6 = lib.PH_Q6
    Q7 = lib.PH_Q7
    Q8 = lib.PH_Q8
    Q9 = lib.PH_Q9
    Q10 = lib.PH_Q10
    Q11 = lib.PH_Q11
    Q13 = lib.PH_Q13
    Q14 = lib.PH_Q14
    Q15 = lib.PH_Q15
    Q19 = lib.PH_Q19


class Finding(IntEnum):
    """Findings of a check of the allocator."""

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
    RETURNED = lib.PH_F_RETURNED
    RUN_COUNT = lib.PH_F_RUN_COUNT
    LARGE_UNITS = lib.PH_F_LARGE_UNITS
    LARGE_BYTES = lib.PH_F_LARGE_BYTES
    LARGE_COUNT = lib.PH_F_LARGE_COUNT
    RUN_WITHHELD = lib.PH_F_RUN_WITHHELD
    WITHHELD_BITS = lib.PH_F_WITHHELD_BITS
    CLASS_WITHHELD = lib.PH_F_CLASS_WITHHELD
    CLASS_MASK = lib.PH_F_CLASS_MASK
    WITHHELD_COUNT = lib.PH_F_WITHHELD_COUNT
    WITHHELD_UNITS = lib.PH_F_WITHHELD_UNITS
    WITHHELD_BYTES = lib.PH_F_WITHHELD_BYTES
    CHUNK_BITS = lib.PH_F_CHUNK_BITS
    CHUNK_LIVE = lib.PH_F_CHUNK_LIVE
    CHUNK_WITHHELD = lib.PH_F_CHUNK_WITHHELD
    CHUNK_BODY = lib.PH_F_CHUNK_BODY
    CHUNK_COUNT = lib.PH_F_CHUNK_COUNT
    TAGGED = lib.PH_F_TAGGED
    TAG_ERA = lib.PH_F_TAG_ERA


# ---------------------------------------------------------------- what a file holds


def place(struct: str, field: str) -> int:
    """Return where in a stored struct of `base/format.h` a field lies, in bytes.

    Examples
    --------
    >>> place("ph_superblock", "generation")
    16
    """
    return int(ffi.offsetof(f"struct {struct}", field))


def width(struct: str) -> int:
    """Return the bytes of a stored struct of `base/format.h`."""
    return int(ffi.sizeof(f"struct {struct}"))


class Format:
    """Sizes and places of a heap file, in bytes; numbers of slots."""

    VERSION: int = lib.PH_VERSION
    UNIT: int = lib.PH_UNIT_BYTES
    GRANULE: int = lib.PH_GRANULE
    SEGMENT_UNITS: int = lib.PH_SEGMENT_UNITS
    ENTRY: int = lib.PH_ENTRY_BYTES
    BITS: int = lib.PH_BITS_BYTES
    ARENA_BITS: int = lib.PH_ARENA_SHIFT
    SUPERBLOCKS: tuple[int, int] = (lib.PH_SUPERBLOCK_AT, lib.PH_OTHER_SUPERBLOCK_AT)
    SHARED: int = lib.PH_SHARED_AT
    LOCK_WRITER: int = lib.PH_LOCK_WRITER_AT
    LOCK_READER: int = lib.PH_LOCK_READER_AT
    LOCK_FOLLOWER: int = lib.PH_LOCK_FOLLOWER_AT
    SEGMENTS: int = lib.PH_SEGMENTS_AT
    SEGMENT_SLOTS: int = lib.PH_SEGMENT_SLOTS
    ARENAS: int = lib.PH_ARENAS_AT
    ARENA_SLOTS: int = lib.PH_ARENA_SLOTS
    ROOTS: int = lib.PH_ROOTS_AT
    ROOT_SLOTS: int = lib.PH_ROOT_SLOTS
    ROOT_COPY: int = lib.PH_ROOT_COPY
    PIN_ERA_SHIFT: int = lib.PH_PIN_ERA_SHIFT
    HEADER: int = lib.PH_HEADER_BYTES
    SLOT: int = lib.PH_SLOT_BYTES
    LOG: int = lib.PH_LOG_BYTES
    UNDER_REPAIR: int = lib.PH_UNDER_REPAIR
    HAS_ROWS: int = lib.PH_HAS_ROWS
    HAS_PACKED: int = lib.PH_HAS_PACKED

    LOG_MAGIC: int = lib.PH_LOG_MAGIC
    LOG_ALIGN: int = lib.PH_LOG_ALIGN
    LOG_FIRST: int = lib.PH_LOG_FIRST
    INLINE_MOST: int = lib.PH_INLINE_MOST
    LONG_LEAST: int = lib.PH_LONG_LEAST
    WRITE_IS_HOME: int = lib.PH_WRITE_IS_HOME

    NODE: int = lib.PH_MAP_NODE
    KEY_MOST: int = lib.PH_MAP_KEY_MOST
    MAP_ENTRY_MOST: int = lib.PH_MAP_ENTRY_MOST
    APART: int = lib.PH_NODE_APART


class HeapState(IntEnum):
    """Whether the file was closed."""

    CLEAN = lib.PH_FILE_CLEAN
    IN_USE = lib.PH_FILE_IN_USE


class SegmentKind(IntEnum):
    """Kinds of slots of the segment table."""

    NONE = lib.PH_SEGMENT_NONE
    DATA = lib.PH_SEGMENT_DATA
    LOG = lib.PH_SEGMENT_LOG
    SPARE = lib.PH_SEGMENT_SPARE


class ArenaState(IntEnum):
    """Kinds of slots of the arena table; a dropped arena's keeps its unit range [R24]."""

    NONE = lib.PH_ARENA_NONE
    LIVE = lib.PH_ARENA_LIVE
    DROPPED = lib.PH_ARENA_DROPPED


class Table(IntEnum):
    """A table of the file; the numbers are those of META operations in the log."""

    ENTRIES = lib.PH_TABLE_ENTRIES
    BITS = lib.PH_TABLE_BITS
    ROOTS = lib.PH_TABLE_ROOTS
    SEGMENTS = lib.PH_TABLE_SEGMENTS
    ARENAS = lib.PH_TABLE_ARENAS


class RecordKind(IntEnum):
    """Kinds of records; a WORD is the commit of one word of the bits table, in a header alone."""

    COMMIT = lib.PH_RECORD_COMMIT
    UNDO = lib.PH_RECORD_UNDO
    WORD = lib.PH_RECORD_WORD


class OperationType(IntEnum):
    """Kinds of operations of a record."""

    META = lib.PH_OP_META
    WRITE = lib.PH_OP_WRITE
    FRESH = lib.PH_OP_FRESH
    FREE = lib.PH_OP_FREE
    OLD = lib.PH_OP_OLD


# ---------------------------------------------------------------- what a trace holds


class Event(IntEnum):
    """Kinds of events of a trace: what becomes of a block."""

    MADE = lib.PH_EVENT_MADE
    FREED = lib.PH_EVENT_FREED
    RESIZED = lib.PH_EVENT_RESIZED
    MOVED = lib.PH_EVENT_MOVED
    DROPPED = lib.PH_EVENT_DROPPED
    SITE = lib.PH_EVENT_SITE


class TraceFormat:
    """Numbers of a trace."""

    MAGIC: int = lib.PH_FRAME_MAGIC
    FRAME_MOST: int = lib.PH_FRAME_MOST
    SITE_MOST: int = lib.PH_SITE_MOST
    KIND_MASK: int = lib.PH_EVENT_KIND_MASK
    HAS_TIME: int = lib.PH_EVENT_HAS_TIME
    HAS_SITE: int = lib.PH_EVENT_HAS_SITE
    HAS_PLACE: int = lib.PH_EVENT_HAS_PLACE
    HAS_SIZE: int = lib.PH_EVENT_HAS_SIZE


class TrackFormat:
    """Numbers of a file of sites, and of the blocks of a `Track` in tracemalloc."""

    SITE_MOST: int = lib.PH_TRACK_SITE_MOST
    SITE: int = lib.PH_TRACK_SITE
    MADE: int = lib.PH_TRACK_MADE
    FREED: int = lib.PH_TRACK_FREED
    DOMAIN: int = lib.PH_TRACK_DOMAIN
