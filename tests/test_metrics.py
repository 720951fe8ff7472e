"""Metrics: the statistics of each arena, and their text read by the parser of Prometheus."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

import pmemheap
from pmemheap import Heap
from pmemheap.metrics import by_arena, exposition

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def heap() -> Iterator[Heap]:
    with Heap.anonymous(decay=None) as made:
        made.malloc_many(100, 10)
        made.arena("names").malloc(100_000)
        yield made


def samples(text: str) -> list[Sample]:
    """Return what Prometheus reads; each metric is told of once, its samples together."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.type != "unknown" for family in families)
    return [sample for family in families for sample in family.samples]


def figures(text: str) -> Figures:
    found = {(each.name, frozenset(each.labels.items())): each.value for each in samples(text)}
    assert len(found) == len(samples(text))
    return found


def test_every_figure_of_an_arena_is_shown(heap: Heap) -> None:
    found = figures(exposition({"cache": heap}))
    shown = {name.removeprefix("pmemheap_") for name, _ in found}
    assert len({field.name for field in dataclasses.fields(pmemheap.HeapStats)}) == len(
        {name for name in shown if not name.startswith("class_")} | {"classes"}
    )
    for arena, stats in by_arena(heap).items():
        labels = frozenset({("heap", "cache"), ("arena", arena)})
        assert found["pmemheap_allocated_bytes", labels] == stats.allocated
        assert found["pmemheap_blocks", labels] == stats.blocks
        assert found["pmemheap_growths_total", labels] == stats.growths
        assert found["pmemheap_external_fragmentation_ratio", labels] == pytest.approx(
            stats.external_fragmentation
        )
    of_class = frozenset({("heap", "cache"), ("arena", ""), ("size", "112")})
    assert found["pmemheap_class_blocks", of_class] == 10
    assert found["pmemheap_class_mallocs_total", of_class] == 10


def test_arenas_add_up_to_the_heap(heap: Heap) -> None:
    arenas, whole = by_arena(heap), heap.stats()
    assert list(arenas) == ["", "names"]
    for name in ("allocated", "blocks", "free", "mapped"):
        assert sum(getattr(each, name) for each in arenas.values()) == getattr(whole, name)


@pytest.mark.parametrize("name", ['a "b"', "back\\slash", "two\nlines", "ü", "", "{a='b'}", "#"])
def test_names_are_data(name: str, heap: Heap) -> None:
    text = exposition({name: heap})
    assert {each.labels["heap"] for each in samples(text)} == {name}
    assert text.endswith("\n")


def test_bytes_that_are_no_text_are_escaped(heap: Heap) -> None:
    text = exposition({os.fsdecode(b"\xff"): heap})
    assert {each.labels["heap"] for each in samples(text)} == {r"\udcff"}


def test_two_heaps_are_one_text(heap: Heap) -> None:
    with Heap.anonymous() as other:
        found = figures(exposition({"a": heap, "b": other}))
    for name, blocks in (("a", 10), ("b", 0)):
        labels = frozenset({("heap", name), ("arena", "")})
        assert found["pmemheap_blocks", labels] == blocks


LOOK = """
import sys
from pmemheap import Heap
from pmemheap.metrics import by_arena
with open(sys.argv[1], "rb") as file, Heap.attach(file.fileno()) as heap:
    print({name: each.blocks for name, each in by_arena(heap).items()})
    offset = next(heap.blocks())[0]
    with heap.view(offset, 8) as view:
        print([each.live_views for each in by_arena(heap).values()])
"""


@pytest.mark.slow
def test_a_reader_sees_what_its_writer_does(tmp_path: Path) -> None:
    """Its figures are those of now, its views those of its own process."""
    path = tmp_path / "a.heap"
    with Heap.create(path, durability="process") as heap:
        heap.malloc(100)
        heap.arena("names").malloc_many(10, 5)
        command = [sys.executable, "-c", LOOK, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "{'': 1, 'names': 5}\n[1, 0]\n"
