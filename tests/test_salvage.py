"""Salvage: every block whose own records are intact comes out with its bytes and its root."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from damage_load import BITS, DATA, KINDS
from wreck import LogWriter, Wreck, contents, entry_place, grown, look, opened, segments, wreck

from pmemheap import Heap, OutOfSpaceError, layout
from pmemheap.cli import main
from pmemheap.cli.exits import ExitCode
from pmemheap.errors import UsageError
from pmemheap.format.records import Operation
from pmemheap.layout import Durability, RootSlot, Table
from pmemheap.salvage import MAP_ROOT, SalvageReport, read_map, salvage, translate


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Wreck:
    return wreck(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Wreck:
    return grown(tmp_path_factory.mktemp("large"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.heap"


def saved(made: Wreck, out: Path) -> tuple[SalvageReport, set[int]]:
    """Salvage; return the report and the offsets of the blocks that came out whole."""
    before = made.path.read_bytes()
    out.unlink(missing_ok=True)
    report = salvage(made.path, out)
    assert made.path.read_bytes() == before
    whole = set()
    with opened(out) as heap:
        places = read_map(heap) if report.map_root else {}
        for old, data in made.blocks.items():
            if old in places:
                found = bytes(heap.view(places[old]))
                length = min(len(found), len(data))
                if found[:length] == data[:length]:
                    whole.add(old)
        for name, target in heap.roots.items():
            if name.startswith("root "):
                assert target in places.values()
    return report, whole


def test_a_sound_heap_comes_out_whole(large: Wreck, out: Path) -> None:
    large.write()
    report, whole = saved(large, out)
    assert whole == large.blocks.keys()
    assert (report.blocks, report.roots) == (len(large.blocks), len(large.blocks))
    assert (report.lost_roots, report.cut_blocks, report.findings) == ([], 0, 0)
    with opened(out) as heap, Heap.open(large.path) as old:
        for name, place in old.roots.items():
            assert translate(heap, place) == heap.roots[name]
        assert translate(heap, 12345) is None


def test_both_superblocks_are_gone(large: Wreck, out: Path) -> None:
    large.change((0, bytes(512)), (4096, bytes(512)))
    report, whole = saved(large, out)
    assert whole == large.blocks.keys()
    assert report.roots == len(large.blocks)


def test_the_segment_table_is_gone_too(large: Wreck, out: Path) -> None:
    large.change((0, bytes(layout.ROOT_TABLE)))
    report, whole = saved(large, out)
    assert whole == large.blocks.keys()
    assert report.roots == len(large.blocks)


def test_the_whole_header_is_gone(large: Wreck, out: Path) -> None:
    """What is left are entries, bits and data, and the log, which still knows the roots."""
    large.change((0, bytes(layout.HEADER_BYTES)))
    report, whole = saved(large, out)
    assert whole == large.blocks.keys()
    assert report.roots == len(large.blocks)
    large.change((0, bytes(layout.HEADER_BYTES + layout.LOG_BYTES)))
    report, whole = saved(large, out)
    assert whole == large.blocks.keys()
    assert report.roots == 0


def test_a_lost_segment_costs_its_blocks_only(large: Wreck, out: Path) -> None:
    lost = segments(large.image)[2]
    large.change((lost.entries_off, b"\xff" * (lost.data_off - lost.entries_off)))
    _, whole = saved(large, out)
    inside = {at for at in large.blocks if 0 <= at // 4096 - lost.first_unit < lost.nunits}
    assert inside
    assert large.blocks.keys() - inside - whole <= {max(large.blocks.keys() - inside, default=0)}


def test_a_cut_file_gives_what_it_has(sample: Wreck, out: Path) -> None:
    last = max(sample.blocks)
    sample.write(sample.image[: DATA + last + 6000])
    report, whole = saved(sample, out)
    assert whole == sample.blocks.keys() - {last}
    assert (report.cut_blocks, report.roots) == (1, len(sample.blocks))
    with opened(out) as heap:
        place = translate(heap, last)
        assert place is not None
        data = bytes(heap.view(place))
        assert data[:6000] == sample.blocks[last][:6000]
        assert not any(data[6000:])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flips", "garbage", "truncations"])
def test_blocks_whose_own_records_are_intact_come_out(kind: str, sample: Wreck, out: Path) -> None:
    stride = {"flips": 401, "garbage": 41, "truncations": 71}[kind]
    sample.write()
    inside = layout.SEGMENT_UNITS  # of the first segment
    extents = [extent for extent in look(sample.path).extents() if extent.stop <= inside]
    for name, damaged in KINDS[kind](sample.image, stride):
        sample.write(damaged)
        report, whole = saved(sample, out)
        for extent in extents:
            entry = slice(entry_place(extent.unit), entry_place(extent.unit + extent.nunits))
            bits = slice(BITS + 32 * extent.unit, BITS + 32 * extent.stop)
            data = slice(DATA + 4096 * extent.unit, DATA + 4096 * extent.stop)
            header = slice(layout.SEGMENT_TABLE, layout.HEADER_BYTES)
            if all(damaged[p] == sample.image[p] for p in (entry, bits, data)) and (
                damaged[header] == sample.image[header] or kind == "flips"
            ):
                offsets = {block.offset for block in extent.blocks()}
                stolen = claimed(damaged, sample.image, extent.unit)
                assert offsets <= whole or stolen, (name, report)


def claimed(damaged: bytes, image: bytes, unit: int) -> bool:
    """Tell whether a damaged entry before a unit may claim it: then one of two owners is kept."""
    before = slice(entry_place(0), entry_place(unit))
    return damaged[before] != image[before]


def test_committed_work_in_the_log_comes_out(sample: Wreck, out: Path) -> None:
    for gone in ((), ((0, bytes(512)), (4096, bytes(512)))):
        writer = LogWriter(sample, Durability.POWER)
        entry = struct.pack("<BBHIQ", 1, 0, 0, 2, 8000)
        writer.append(Operation.meta(Table.ENTRIES, 16 * 200, entry))
        writer.append(
            Operation.write(4096 * 200, b"committed"),
            Operation.meta(Table.ROOTS, 64 * 30, RootSlot("new", 4096 * 200).pack()),
        )
        writer.write(*gone)
        saved(sample, out)
        with opened(out) as heap:
            assert bytes(heap.view(heap.roots["new"], 9)) == b"committed"


def test_salvaging_what_was_salvaged_keeps_both_maps(sample: Wreck, out: Path) -> None:
    sample.write()
    salvage(sample.path, out)
    again = out.with_name("again.heap")
    report = salvage(out, again)
    assert report.map_root == f"{MAP_ROOT} 2"
    with opened(again) as heap:
        first = read_map(heap)
        second = read_map(heap, report.map_root)
        for old, data in sample.blocks.items():
            length = min(len(data), heap.usable_size(second[first[old]]))
            assert bytes(heap.view(second[first[old]], length)) == data[:length]


def test_garbage_gives_an_empty_heap(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "garbage"
    for image in (b"", b"text" * 1000, bytes(2 << 20)):
        path.write_bytes(image)
        report = salvage(path, out)
        assert (report.blocks, report.map_root) == (0, "")
        with opened(out) as heap:
            assert contents(heap) == {}
            with pytest.raises(UsageError, match="salvage:map"):
                read_map(heap)
        out.unlink()


def test_a_root_that_is_no_map_is_refused(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap") as heap:
        heap.roots[MAP_ROOT] = heap.malloc(64)
        heap.view(heap.roots[MAP_ROOT], 8)[:] = b"\xff" * 8
        with pytest.raises(UsageError, match="a map"):
            read_map(heap)


def test_nothing_is_overwritten(sample: Wreck, out: Path) -> None:
    sample.write()
    out.write_bytes(b"mine")
    with pytest.raises(UsageError):
        salvage(sample.path, out)
    assert out.read_bytes() == b"mine"


def test_a_salvage_that_fails_leaves_nothing(
    sample: Wreck, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OutOfSpaceError("no space left on device")

    sample.write()
    monkeypatch.setattr(Heap, "malloc", refuse)
    with pytest.raises(OutOfSpaceError):
        salvage(sample.path, out)
    assert not out.exists()


def test_the_command_prints_counts(
    sample: Wreck, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample.flip(layout.ROOT_TABLE + 3)
    assert main(["salvage", str(sample.path), str(out)]) == 0
    printed = capsys.readouterr().out
    for words in (f"{len(sample.blocks)} blocks", "lost: root 'root 0'", MAP_ROOT):
        assert words in printed
    assert main(["salvage", str(sample.path), str(out)]) == ExitCode.USAGE
    out.unlink()
    arguments = ["salvage", str(sample.path), str(out), "--durability", "process", "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"]["blocks"] == len(sample.blocks)
