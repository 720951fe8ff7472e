"""A limit for what snapshots hold back: who is beyond it is named, called, or refused."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from reader_world import DURABILITIES, Reader

from pmemheap import Heap, Held, OutOfSpaceError, UsageError
from pmemheap import Reader as Found
from pmemheap.heap import holding
from pmemheap.units import MiB


@pytest.fixture(params=DURABILITIES)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    """A writer that lets readers in."""
    with Heap.create(tmp_path / "a.heap", durability=request.param, readers=True) as made:
        yield made


def replace(heap: Heap, size: int = 300_000) -> None:
    """Put a block in the place of another one, as a commit."""
    with heap.transaction() as tx:
        block = tx.alloc(size)
        if "block" in tx.roots:
            tx.free(tx.roots["block"])
        tx.roots["block"] = block.offset


def hold(heap: Heap, turns: int = 40) -> None:
    for _ in range(turns):
        replace(heap)


@contextmanager
def stopped(heap: Heap) -> Iterator[Reader]:
    """A reader that has a snapshot and does not go on."""
    replace(heap)
    with Reader(Path(heap.name)) as reader:
        assert reader("snap.commit") > 0
        os.kill(reader.pid, signal.SIGSTOP)
        yield reader


def test_a_stopped_reader_is_refused_by_name(heap: Heap) -> None:
    heap.held = Held(4 * MiB, action="refuse")
    hold(heap)  # nobody reads
    with stopped(heap) as reader:
        with pytest.raises(OutOfSpaceError, match=rf"at most 4 MiB .*process {reader.pid} holds"):
            hold(heap)
        assert heap.check()
        (found,) = heap.readers()
        assert found.held_bytes < 8 * MiB
        size = heap.stats().file_bytes
        for _ in range(20):
            with pytest.raises(OutOfSpaceError):
                replace(heap)
        assert heap.stats().file_bytes == size, "what is refused takes nothing"
        os.kill(reader.pid, signal.SIGCONT)
        reader("snap.refresh()")
        for _ in range(20):
            hold(heap, 4)
            assert reader("snap.refresh()")
        heap.held = None
    hold(heap)


def test_a_warning_names_it_once_in_a_while(heap: Heap) -> None:
    heap.held = Held(2 * MiB)
    with stopped(heap) as reader, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        hold(heap, 60)
        os.kill(reader.pid, signal.SIGCONT)
    told = [str(each.message) for each in seen if each.category is ResourceWarning]
    assert told
    assert f"process {reader.pid} holds" in told[0]
    assert len(told) <= 5, "once a second at most"


def test_a_callable_gets_them_without_a_lock(heap: Heap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_TOLD_SECONDS", 0.0)
    seen: list[list[Found]] = []

    def end(readers: list[Found]) -> None:
        seen.append(readers)
        assert heap.check()
        replace(heap, 100)
        os.kill(readers[0].pid, signal.SIGKILL)

    heap.held = Held(2 * MiB, action=end)
    with stopped(heap) as reader:
        hold(heap)
        assert {each.pid for each in seen[0]} == {reader.pid}
        assert seen[0][0].held_bytes > 2 * MiB
        assert seen[0][0].commits >= 1
        hold(heap)
        assert heap.readers() == []
        before = heap.stats().file_bytes
        hold(heap)
        assert heap.stats().file_bytes == before


def test_what_a_callable_raises_is_raised_by_the_call(
    heap: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "_TOLD_SECONDS", 0.0)

    def refuse(readers: list[Found]) -> None:
        raise KeyError(readers[0].pid)

    heap.held = Held(2 * MiB, action=refuse)
    with stopped(heap) as reader:
        with pytest.raises(KeyError, match=str(reader.pid)):
            hold(heap)
        heap.held = None
        assert heap.check()
        hold(heap)
        os.kill(reader.pid, signal.SIGCONT)


def test_seconds_are_a_limit_too(heap: Heap, monkeypatch: pytest.MonkeyPatch) -> None:
    heap.held = Held(seconds=3600, action="refuse")
    began = time.monotonic()
    now = [began]
    monkeypatch.setattr(holding, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with heap.read() as snap:
        hold(heap)
        now[0] = began + 3599
        hold(heap)
        assert 0 < heap.readers()[0].seconds <= 3600
        now[0] = began + 7200
        with pytest.raises(OutOfSpaceError, match=f"at most 3600 s .*process {os.getpid()} holds"):
            hold(heap)
        assert heap.readers()[0].seconds > 3600
        snap.refresh()
        hold(heap)


@pytest.mark.parametrize(
    "options",
    [{}, {"nbytes": -1}, {"seconds": "1"}, {"nbytes": 1, "action": "stop"}, {"seconds": -0.5}],
)
def test_what_is_no_limit_is_refused(options: Any) -> None:
    with pytest.raises(UsageError, match=r"held: .*expected"):
        Held(**options)


def test_a_heap_without_readers_has_none(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap") as heap:
        with pytest.raises(UsageError, match="readers=True expected"):
            heap.held = Held(1)
        heap.held = None
        assert heap.held is None
    with Heap.shared(readers=True) as shared:
        with pytest.raises(UsageError, match="a Held or None expected, int found"):
            shared.held = 5  # type: ignore[assignment]
        shared.held = limit = Held(nbytes=5)
        assert shared.held is limit
