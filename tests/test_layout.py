from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmemheap import layout
from pmemheap.errors import CorruptHeapError
from pmemheap.format.superblock import COUNTS_END, Superblock, newest_superblock
from pmemheap.layout import ArenaSlot, Durability, HeapState, RootSlot, SegmentKind, SegmentSlot
from pmemheap.native import crc32c
from pmemheap.native.constants import StrategyCode
from pmemheap.units import KiB

words = st.integers(0, 2**64 - 1)
counters = st.integers(0, COUNTS_END - 1)
superblocks = st.builds(
    Superblock,
    generation=counters,
    uuid=st.binary(min_size=16, max_size=16),
    durability=st.sampled_from(Durability),
    state=st.sampled_from(HeapState),
    file_end=words,
    log_off=words,
    log_size=words,
    tail_lsn=words,
    epoch=counters,
    boot_id=st.binary(min_size=16, max_size=16),
    chain_seed=st.integers(0, 2**32 - 1),
    features_compat=words,
)
segments = st.builds(
    SegmentSlot,
    st.sampled_from([SegmentKind.DATA, SegmentKind.LOG, SegmentKind.SPARE]),
    words,
    words,
    st.integers(0, 255),
    words,
    words,
)
MOST_UNITS = 1 << layout.ARENA_BITS - 12


def names(most: int) -> st.SearchStrategy[str]:
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=most)
    return texts.filter(lambda name: len(name.encode()) <= most)


arenas = st.builds(
    lambda units, name, strategy: ArenaSlot(min(units), max(units), name, strategy),
    st.tuples(st.integers(0, MOST_UNITS), st.integers(0, MOST_UNITS)),
    names(31),
    st.sampled_from(
        [bytes(7), *(layout.packed_strategy(StrategyCode.ROWS, size) for size in (16, 528, 65_536))]
    ),
)
copies = st.integers(0, (1 << 51) - 1).map(lambda granule: granule * 16)
roots = st.builds(RootSlot, names(layout.ROOT_NAME_BYTES), words, copies)
SUPERBLOCK = Superblock(
    7, b"u" * 16, Durability.POWER, HeapState.CLEAN, 1355776, 0x28000, 128 * KiB, 64, 1 << 32,
    b"b" * 16,
)  # fmt: skip
SEGMENT = SegmentSlot(SegmentKind.DATA, 0x48000, 256, 0, 0, 256)
SLOTS = [
    (SEGMENT, "segment slot"),
    (ArenaSlot(0, 256, "default"), "arena slot"),
    (RootSlot("index", 4096), "root slot"),
]


@given(superblocks)
def test_superblock_round_trip(block: Superblock) -> None:
    image = block.pack()
    assert len(image) == 512
    assert Superblock.unpack(image, 0) == block


@given(segments)
def test_segment_round_trip(slot: SegmentSlot) -> None:
    assert SegmentSlot.unpack(slot.pack(), 0) == slot


@given(arenas)
def test_arena_round_trip(slot: ArenaSlot) -> None:
    assert ArenaSlot.unpack(slot.pack(), 0) == slot


@given(roots)
def test_root_round_trip(slot: RootSlot) -> None:
    assert RootSlot.unpack(slot.pack(), 0) == slot


@given(superblocks, st.integers(0, 511), st.integers(1, 255))
def test_superblock_with_any_byte_changed_is_refused(
    block: Superblock, place: int, mask: int
) -> None:
    image = bytearray(block.pack())
    image[place] ^= mask
    with pytest.raises(CorruptHeapError, match=r"superblock at file offset 0x1000: .* expected, "):
        Superblock.unpack(bytes(image), 0x1000)


@pytest.mark.parametrize(("slot", "thing"), SLOTS, ids=lambda each: str(each)[:10])
def test_slot_with_any_bit_changed_is_refused(
    slot: SegmentSlot | ArenaSlot | RootSlot, thing: str
) -> None:
    for place in range(layout.SLOT_BYTES):
        for bit in range(8):
            image = bytearray(slot.pack())
            image[place] ^= 1 << bit
            with pytest.raises(CorruptHeapError, match=f"{thing} at file offset 0x40: crc32c"):
                type(slot).unpack(bytes(image), 0x40)


def test_empty_slots_are_none() -> None:
    zeros = bytes(layout.SLOT_BYTES)
    assert SegmentSlot.unpack(zeros, 0) is None
    assert ArenaSlot.unpack(zeros, 0) is None
    assert RootSlot.unpack(zeros, 0) is None
    assert SegmentSlot(SegmentKind.NONE, 0, 0).pack() == zeros


# ---------------------------------------------------------------- what is wrong is named


def sealed(image: bytearray) -> bytes:
    struct.pack_into("<I", image, 12, 0)
    struct.pack_into("<I", image, 12, crc32c(image))
    return bytes(image)


def changed(offset: int, data: bytes) -> bytes:
    image = bytearray(SUPERBLOCK.pack())
    image[offset : offset + len(data)] = data
    return sealed(image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (changed(0, b"NOTAHEAP"), r"magic b'PMEMHEAP' expected, b'NOTAHEAP' found"),
        (changed(8, struct.pack("<I", 2)), "version 1 expected, 2 found"),
        (changed(8, struct.pack(">I", 1)), "a file of the other byte order"),
        (changed(40, struct.pack("<I", 9)), "durability and state 0 or 1 expected"),
        (changed(44, struct.pack("<I", 9)), "durability and state 0 or 1 expected"),
        (changed(48, struct.pack("<Q", 8)), "incompatible features 0 expected, 0x8 found"),
        (SUPERBLOCK.pack()[:511], "length 512 expected, 511 found"),
        (b"", "length 512 expected, 0 found"),
        (bytes(512), "magic"),
    ],
)
def test_superblock_names_what_is_wrong(image: bytes, message: str) -> None:
    with pytest.raises(CorruptHeapError, match=f"superblock at file offset 0x0: .*{message}"):
        Superblock.unpack(image, 0)


def test_unknown_segment_kind_is_refused() -> None:
    image = bytearray(SEGMENT.pack())
    image[0] = 9
    struct.pack_into("<I", image, 60, 0)
    struct.pack_into("<I", image, 60, crc32c(image))
    with pytest.raises(CorruptHeapError, match="kind 1, 2 or 3 expected, 9 found"):
        SegmentSlot.unpack(bytes(image), 0)


def test_name_that_is_no_text_is_refused() -> None:
    image = bytearray(RootSlot("ab", 1).pack())
    image[21] = 0xFF
    struct.pack_into("<I", image, 16, 0)
    struct.pack_into("<I", image, 16, crc32c(image))
    with pytest.raises(CorruptHeapError, match="UTF-8"):
        RootSlot.unpack(bytes(image), 0)


@pytest.mark.parametrize("units", [(5, 4), (0, MOST_UNITS + 1)])
def test_impossible_arena_is_refused(units: tuple[int, int]) -> None:
    with pytest.raises(CorruptHeapError, match="unit range"):
        ArenaSlot.unpack(ArenaSlot(*units).pack(), 0)


# ---------------------------------------------------------------- the two copies


def test_newest_superblock_wins() -> None:
    older, newer = SUPERBLOCK.pack(), SUPERBLOCK.successor(file_end=5).pack()
    assert newest_superblock((older, newer))[1] == 1
    found, copy = newest_superblock((newer, older))
    assert (found.file_end, found.generation, copy) == (5, 8, 0)


def test_damaged_superblock_gives_way_to_the_other_copy() -> None:
    newer = replace(SUPERBLOCK, generation=99).pack()
    assert newest_superblock((SUPERBLOCK.pack(), newer[:100] + b"!" + newer[101:]))[1] == 0
    with pytest.raises(CorruptHeapError, match="file offset 0x0"):
        newest_superblock((bytes(512), bytes(512)))


def test_layout_is_that_of_format_1() -> None:
    """The numbers of the published format, not computed from the module's own constants."""
    assert layout.SUPERBLOCKS == (0, 0x1000)
    assert (layout.LOCK_WRITER, layout.LOCK_READER) == (0x3000, 0x3001)
    assert layout.LOCK_FOLLOWER == 0x3002
    assert (layout.SEGMENT_TABLE, layout.ARENA_TABLE) == (0x4000, 0x14000)
    assert (layout.ROOT_TABLE, layout.HEADER_BYTES) == (0x18000, 0x28000)
    image = SUPERBLOCK.pack()
    assert image[:12] == b"PMEMHEAP\x01\0\0\0"
    assert struct.unpack_from("<QQ", image, 128) == (64, 1 << 32)
    slot = SegmentSlot(SegmentKind.DATA, 0x48000, 512, 3, 1024, 256)
    assert struct.unpack_from("<BxH4xQ", slot.pack()) == (1, 3, 0x48000)
    assert struct.unpack_from("<QQQ", slot.pack(), 16) == (512, 1024, 256)
    assert (slot.entries_off, slot.bits_off) == (0x48000, 0x48000 + 16 * 512)
    assert slot.data_off == 0x48000 + 48 * 512
    assert slot.file_stop == 0x48000 + 4144 * 512


@pytest.mark.parametrize("field", ["generation", "epoch"])
def test_a_count_that_no_heap_reaches_is_no_superblock(field: str) -> None:
    block = replace(SUPERBLOCK, **{field: COUNTS_END - 1})  # type: ignore[arg-type]
    assert Superblock.unpack(block.pack(), 0) == block
    beyond = replace(SUPERBLOCK, **{field: COUNTS_END})  # type: ignore[arg-type]
    with pytest.raises(CorruptHeapError, match=r"below 2\^62"):
        Superblock.unpack(beyond.pack(), 0)


def test_a_count_that_ends_has_no_successor() -> None:
    with pytest.raises(CorruptHeapError, match="can be counted on"):
        replace(SUPERBLOCK, generation=COUNTS_END - 1).successor()
    with pytest.raises(CorruptHeapError, match="can be counted on"):
        SUPERBLOCK.successor(epoch=COUNTS_END)
    last = replace(SUPERBLOCK, generation=COUNTS_END - 2).successor()
    assert last.generation == COUNTS_END - 1
