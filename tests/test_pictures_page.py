"""The page of a heap: what is in the file, without a browser."""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pmemheap
from pmemheap import Heap, Track
from pmemheap.cli import main
from pmemheap.cli.exits import ExitCode
from pmemheap.layers.track import SiteBlocks
from pmemheap.pictures import page, report
from pmemheap.pictures.figures import free_bars, large_bars
from pmemheap.pictures.model import ArenaMap, read_arenas
from pmemheap.pictures.pieces import Kind, Piece
from pmemheap.pictures.timeline import timeline_of
from pmemheap.traces import parse

UNIT = 4096
TRACE = """\
# tiny 7 5000
a 0 4000
a 1 500
r 1 1000
f 0
a 2 64
f 1
a 3 200
"""


def data_of(text: str) -> Any:
    [told] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(told)


def unpacked(arena: Any) -> Iterator[list[int]]:
    """Yield the rows of the pieces of an arena, as the script of the page makes them."""
    order = arena["order"]
    for number, often in zip(order[::2], order[1::2], strict=True):
        row = arena["rows"][number]
        yield from [row + [0] * (17 - len(row))] * often


def blocks_of(arena: Any) -> set[int]:
    """Return the offsets of the blocks that the page can show, by its own data."""
    found, at = set(), int(arena["origin"], 16) + arena["first"] * UNIT
    for index, row in enumerate(unpacked(arena)):
        nunits, kind, live, room, size = row[:5]
        places = arena["places"].get(str(index))
        if kind == 0 and places is not None:
            bits = int.from_bytes(b64decode(places), "little")
            found |= {at + n * size for n in range(room) if bits >> n & 1}
        elif kind == 0 and live == room:
            found |= {at + n * size for n in range(room)}
        elif kind == 1 and places is not None:
            reached = at
            for gap, granules in zip(places[::2], places[1::2], strict=True):
                found.add(reached + gap * 16)
                reached += (gap + granules) * 16
        elif kind == 2:
            found.add(at)
        at += nunits * UNIT
    return found


@pytest.fixture
def heap() -> Iterator[Heap]:
    with Heap.anonymous() as made:
        offsets = [made.malloc(100 + n % 3000) for n in range(3000)]
        for offset in offsets[::4]:
            made.free(offset)
        made.malloc(500_000)
        queue = made.arena("<b>queue</b>", strategy=pmemheap.Ring())
        for _ in range(300):
            queue.malloc(333)
        yield made


def test_the_data_of_a_page_is_the_model_and_every_block(heap: Heap) -> None:
    maps, found = read_arenas(heap), data_of(page.page(heap))
    for arena, told in zip(maps, found["arenas"], strict=True):
        rows = list(unpacked(told))
        assert [row[0] for row in rows] == [piece.nunits for piece in arena.pieces]
        assert [row[2:5] for row in rows] == [[p.live, p.room, p.size] for p in arena.pieces]
        assert [max(row[8] - 1, 0) for row in rows] == [
            0 if piece.young > 255 else piece.young for piece in arena.pieces
        ]
    assert set().union(*map(blocks_of, found["arenas"])) == {at for at, _ in heap.blocks()}


def test_a_page_needs_no_network_and_takes_nothing_of_a_name_for_markup(
    tmp_path: Path, heap: Heap
) -> None:
    report(heap, tmp_path / "heap.html")
    text = (tmp_path / "heap.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"'>) ]+)", text)
    assert links == ["data:,"]
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "<b>queue" not in text
    assert "&lt;b&gt;queue" in text
    assert data_of(text)["arenas"][1]["name"] == "<b>queue</b>"


def test_a_name_that_is_no_text_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "odd\udcff.heap"
    with Heap.create(path, durability="process") as heap:
        report(heap, tmp_path / "odd.html", sites=[SiteBlocks("line\udcfe.py:1", 1, 1)])
    text = (tmp_path / "odd.html").read_text(encoding="utf-8")
    assert "odd\\udcff.heap" in text
    assert "line\\udcfe.py:1" in text


def test_figures_of_a_page_are_those_of_the_heap(heap: Heap) -> None:
    text, stats = page.page(heap), heap.stats()
    assert f"in {stats.blocks:,} blocks" in text
    assert f"{stats.external_fragmentation:.1%}" in text
    for each in stats.classes:
        if each.runs:
            assert re.search(rf'row">{each.size:,}</th><td>{each.blocks:,}</td>', text)


def test_sites_come_from_the_track_on_the_heap() -> None:
    with Heap.anonymous() as heap:
        heap.malloc(10)
        assert "Who made it" not in page.page(heap)
        with heap.install(Track()):
            heap.malloc(1000)
            text = page.page(heap)
    assert re.search(r"test_pictures_page\.py:\d+</th><td>1</td><td>1000 B</td>", text)


@pytest.mark.slow
def test_a_timeline_shows_growth_and_what_came_back() -> None:
    trace = parse(TRACE.splitlines(), "tiny")
    found = timeline_of(trace)
    assert [each.operations for each in found] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert [each.live for each in found] == [4000, 4500, 5000, 1000, 1064, 64, 264, 0]
    assert all(each.allocated >= each.live for each in found)
    assert len(timeline_of(trace, 2)) == 4
    with Heap.anonymous() as heap:
        text = page.page(heap, trace=trace)
    assert "the 7 calls of tiny are repeated" in text
    assert [each[:2] for each in data_of(text)["moments"]] == [[*each[:2]] for each in found]


def test_bars_are_of_powers_of_two() -> None:
    pieces = (
        Piece.whole(0, 5, Kind.FREE),
        Piece.whole(5, 1, Kind.LARGE)._replace(live=1),
        Piece.whole(6, 7, Kind.FREE),
        Piece.whole(13, 3, Kind.LARGE)._replace(live=1),
    )
    maps = [ArenaMap(0, 16, pieces)]
    assert [(each.label, each.cells) for each in free_bars(maps)] == [
        ("16 KiB to 32 KiB", ("2", "48 KiB"))
    ]
    assert [each.cells[0] for each in large_bars(maps)] == ["1", "1"]
    assert [each.share for each in large_bars(maps)] == [pytest.approx(1 / 3), 1]


@pytest.mark.slow
def test_a_page_of_sixteen_gibibytes_is_short(tmp_path: Path) -> None:
    with Heap.anonymous() as heap:
        offsets = []
        for n in range(70_000):
            offsets.append(heap.malloc(UNIT * (1 + n % 100)))
            offsets.append(heap.malloc(40 << n % 9))
        for offset in offsets[::3]:
            heap.free(offset)
        heap.malloc(3 << 30)
        assert heap.stats().mapped > 16 << 30
        report(heap, tmp_path / "large.html", at=offsets[1])
        assert (tmp_path / "large.html").stat().st_size < page.PAGE_BYTES_MOST


@pytest.mark.slow
def test_a_page_that_would_be_long_is_made_of_cells(
    heap: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = page.page(heap)
    monkeypatch.setattr(page, "PAGE_BYTES_MOST", len(whole) - 1)
    shorter = page.page(heap)
    assert len(shorter.encode()) < len(whole)
    before, after = (data_of(text)["arenas"][0] for text in (whole, shorter))
    assert (len(after["places"]), len(after["order"])) < (
        len(before["places"]),
        len(before["order"]),
    )


def test_without_jinja2_the_error_says_how_to_get_it(
    heap: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"pip install 'pmemheap\[html\]'"):
        page.page(heap)


@pytest.mark.parametrize("wrong", [-1, 1 << 64, "0x10"])
def test_what_is_no_offset_is_refused(heap: Heap, wrong: Any) -> None:
    with pytest.raises((pmemheap.UsageError, TypeError), match="offset"):
        page.page(heap, at=wrong)


def test_an_offset_in_no_arena_leaves_the_page_as_it_is(heap: Heap) -> None:
    told = data_of(page.page(heap, at=99 << 55))
    assert told["arenas"] == data_of(page.page(heap))["arenas"]


def test_a_place_that_cannot_be_written_is_named(heap: Heap, tmp_path: Path) -> None:
    with pytest.raises(pmemheap.HeapNotFoundError, match=r"absent/heap\.html"):
        report(heap, tmp_path / "absent" / "heap.html")


@pytest.mark.slow
def test_the_command_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, made = tmp_path / "a.heap", tmp_path / "a.html"
    (tmp_path / "tiny.trace").write_text(TRACE)
    track = Track(sites=tmp_path / "a.heap.sites")
    with Heap.create(path, durability="process") as heap:
        heap.malloc(4000)
        with heap.install(track):
            offset = heap.malloc(3000)
    options = [
        "--html", made, "--at", hex(offset), "--trace", tmp_path / "tiny.trace",
        "--sites", tmp_path / "a.heap.sites",
    ]  # fmt: skip
    assert main(["map", str(path), *map(str, options)]) == 0
    assert re.search(r"a\.html: a page of [\d.]+ KiB", capsys.readouterr().out)
    text = made.read_text(encoding="utf-8")
    assert data_of(text)["at"] == hex(offset)
    assert re.search(r"\(unknown\)</th><td>1</td>", text)
    assert re.search(r"test_pictures_page\.py:\d+</th><td>1</td>", text)
    assert "calls of tiny are repeated" in text
    assert main(["map", str(path), "--html", str(made), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"path": str(path), "page": str(made), "page_bytes": made.stat().st_size}
    assert main(["map", str(path), "--at", "0x10"]) == ExitCode.USAGE
    assert main(["map", str(path), "--html", str(made), "--at", "ten"]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "--html PAGE expected" in said
    assert "found 'ten'" in said
