"""What a notebook shows of heaps and of what they tell; which outputs keep a heap open."""

from __future__ import annotations

import gc
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pmemheap
from pmemheap import CheckReport, Heap
from pmemheap.containers import SortedMap
from pmemheap.notebook import bar, listed, table


class Balanced(HTMLParser):
    """Requires that all elements are closed, and collects the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def shown(thing: Any) -> str:
    """Return the text of what a notebook would show; small, whole, without a script."""
    html = thing._repr_html_()
    assert len(html) < 5000
    assert "<script" not in html
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    return "\n".join(parser.text)


def test_everything_that_comes_into_a_table_is_escaped() -> None:
    wild = "<b>&\"'"
    for html in (table(wild, {wild: wild}), listed(wild, [wild], [[wild]]), bar({wild: 3})):
        assert "<b>" not in html
        assert "&lt;b&gt;&amp;&quot;" in html


def test_a_bar_is_as_wide_as_its_parts() -> None:
    html = bar({"live": 30, "free": 10})
    assert 'aria-label="live 75%, free 25%"' in html
    assert "width:75.0%" in html
    assert "width:25.0%" in html
    assert "width:0.0%" in bar({"live": 0})


def test_a_heap_and_an_arena_show_their_figures(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "<i>.heap", durability="process") as heap:
        heap.malloc_many(100, 10)
        arena = heap.arena("<b>")
        arena.malloc(5000)
        told = shown(heap)
        assert "<i>.heap', open" in told
        assert f"{pmemheap.units.format_bytes(heap.stats().allocated)} in 11 blocks" in told
        assert "on disk" in told
        assert "5 KiB in 1 block" in shown(arena)
        assert "5 KiB in 1 block" not in told
    assert "closed" in shown(heap)
    assert "live" not in shown(heap)


def test_figures_that_cannot_be_had_are_said_to_be_missing(
    memory: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise pmemheap.HeapBusyError("a writer that rests expected")

    monkeypatch.setattr("pmemheap.heap.totals.stats", refuse)
    assert "none: a writer that rests expected" in shown(memory)


def test_statistics_explanations_and_reports_show_themselves(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "a.heap", durability="process", limit=4 << 20) as heap:
        heap.malloc(1000)
        assert "1 KiB in 1 block" in shown(heap.stats())
        assert "would be served; fits into free space" in shown(heap.explain(100))
        refused = shown(heap.explain(1 << 30))
        assert "would be refused; does not fit into free space" in refused
        assert "left to the limit" in refused
        assert "a larger limit= would help" in refused
        assert "1 block in" in shown(heap.check())
    found = shown(CheckReport(tuple(f"unit {n}: <b>" for n in range(64)), 99, 1, 256))
    assert "check: 99 findings, 20 of them here" in found
    assert "unit 19: <b>" in found
    assert "unit 20" not in found


def test_a_map_shows_its_first_entries(memory: Heap) -> None:
    prices = SortedMap(memory, "<prices>")
    for n in range(30):
        prices[b"<key %02d>" % n] = b"x" * 1000
    told = shown(prices)
    assert "'<prices>' of anonymous heap: 30 entries, the first 10 here" in told
    assert "b'<key 00>'" in told
    assert "<key 10>" not in told
    assert "and 960 bytes more" in told
    memory.close()
    assert "an open heap expected" in shown(prices)


# ------------------------------------------------------------------------- outputs


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> dict[int, object]:
    """The outputs of a shell of IPython that seems to run."""
    kept: dict[int, object] = {}
    shell = SimpleNamespace(user_ns={"_oh": kept})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return kept


def refusal(heap: Heap) -> str:
    with pytest.raises(BufferError) as caught:
        heap.close()
    return str(caught.value)


def test_close_names_the_outputs_that_keep_views(outputs: dict[int, object]) -> None:
    heap, other = Heap.anonymous(), Heap.anonymous()
    outputs[1] = 42
    outputs[2] = heap.view(heap.malloc(100))
    outputs[3] = heap.ndarray(10, "f8")[2:]
    outputs[4] = other.view(other.malloc(10))
    outputs[5] = [heap.arena("named").ndarray(3, "i4")]
    outputs[6] = np.zeros(3)
    outputs[7] = heap
    told = refusal(heap)
    assert told.endswith(
        "; IPython keeps Out[2], Out[3], Out[5], until %xdel _2, %xdel _3, %xdel _5"
    )
    assert "IPython keeps Out[4], until" in refusal(other)
    outputs.clear()
    gc.collect()
    heap.close()
    other.close()


def test_arrays_of_the_allocator_and_of_regions_are_found(outputs: dict[int, object]) -> None:
    heap = Heap.anonymous()
    with heap.numpy_allocator():
        outputs[1] = np.ones(1000)
    scratch = heap.scratch()
    outputs[2] = {"a": scratch.view(scratch.malloc(100))}
    for n in range(3, 10):
        outputs[n] = heap.view(heap.malloc(100))
    assert "IPython keeps Out[1], Out[2], Out[3], Out[4], Out[5] and 4 more" in refusal(heap)
    outputs.clear()
    scratch.drop()
    heap.close()


def test_a_view_that_was_released_is_no_reason(outputs: dict[int, object]) -> None:
    heap = Heap.anonymous()
    view = heap.view(heap.malloc(100))
    view.release()
    outputs[1] = view
    mine = heap.view(heap.malloc(100))
    assert "IPython" not in refusal(heap)
    mine.release()
    heap.close()


def test_the_last_results_are_named_when_the_outputs_are_gone(
    memory: Heap, outputs: dict[int, object]
) -> None:
    shell = sys.modules["IPython"].get_ipython()
    shell.user_ns_hidden = {"_": memory.view(memory.malloc(100)), "__": "", "_i": "1"}
    way = "get_ipython().user_ns_hidden.pop('_')"
    assert refusal(memory).endswith(f"; IPython keeps _, until {way}")
    outputs[9] = "another one"
    assert refusal(memory).endswith(f"; IPython keeps _, until {way}")
    outputs[9] = shell.user_ns_hidden["_"]
    assert refusal(memory).endswith("; IPython keeps Out[9], until %xdel _9")
    outputs.clear()
    shell.user_ns_hidden.clear()


@pytest.mark.parametrize(
    "module",
    [
        SimpleNamespace(),
        SimpleNamespace(get_ipython=lambda: None),
        SimpleNamespace(get_ipython=lambda: SimpleNamespace(user_ns={})),
    ],
)
def test_without_a_shell_nothing_is_said_of_it(
    module: Any, memory: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", module)
    view = memory.view(memory.malloc(100))
    assert refusal(memory).endswith("(112 bytes)")
    view.release()
