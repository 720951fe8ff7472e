from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pmemheap import Heap, UsageError
from pmemheap.units import UNIT, MiB

BAD_SIZES = [
    0,
    -1,
    1 << 55 | 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    (1 << 64) - UNIT,
    1 << 64,
    1 << 200,
]
NOT_NUMBERS = [None, "5", b"5", 1.0, 5j, [5], object()]
BAD_ALIGNMENTS = [0, -16, 3, 24, 100, 1 << 31, (1 << 30) + 16, 1 << 63, 1 << 64]


def named(value: object) -> str:
    """Return an id that is the same in every process."""
    return f"{type(value).__name__} {value!r}".partition(" object at")[0]


@pytest.fixture(params=["anonymous", "process file"])
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    """A heap with some blocks; afterwards it is sound, and as it was."""
    if request.param == "anonymous":
        made = Heap.anonymous(limit=16 * MiB)
    else:
        made = Heap.create(tmp_path / "a.heap", durability="process", limit=16 * MiB)
    made.roots["small"] = made.malloc(100)
    made.roots["large"] = made.malloc(10 * UNIT)
    made.roots["extent"] = made.malloc(MiB)
    made.malloc(48)
    made.free(made.malloc(4 * MiB))  # so that no test has to grow it
    before = summary(made)
    with made:
        yield made
        assert summary(made) == before
        report = made.check()
        assert report, report


def summary(heap: Heap) -> tuple[Any, ...]:
    stats = heap.stats()
    return (
        stats.blocks,
        stats.allocated,
        stats.mapped,
        stats.live_views,
        list(heap.blocks()),
        dict(heap.roots),
    )


def nameless(heap: Heap) -> int:
    """Return a block that no root names."""
    named = set(heap.roots.values())
    return next((at for at, _ in heap.blocks() if at not in named), heap.roots["small"])


Call = Callable[[Heap, Any], object]

SIZED: dict[str, Call] = {
    "malloc": lambda heap, size: heap.malloc(size),
    "malloc aligned": lambda heap, size: heap.malloc(size, 4096),
    "malloc_many": lambda heap, size: heap.malloc_many(size, 3),
    "alloc": lambda heap, size: heap.alloc(size),
    "realloc small": lambda heap, size: heap.realloc(heap.roots["small"], size),
    "realloc large": lambda heap, size: heap.realloc(heap.roots["large"], size),
    "realloc extent": lambda heap, size: heap.realloc(heap.roots["extent"], size),
    "expand small": lambda heap, size: heap.expand(heap.roots["small"], size),
    "expand extent": lambda heap, size: heap.expand(heap.roots["extent"], size),
    "explain": lambda heap, size: heap.explain(size),
}

PLACED: dict[str, Call] = {
    "free": lambda heap, offset: heap.free(offset),
    "free deferred": lambda heap, offset: heap.free(offset, deferred=True),
    "free_many": lambda heap, offset: heap.free_many([nameless(heap), offset]),
    "realloc": lambda heap, offset: heap.realloc(offset, 10),
    "realloc up": lambda heap, offset: heap.realloc(offset, 2 * MiB),
    "expand": lambda heap, offset: heap.expand(offset, 10),
    "usable_size": lambda heap, offset: heap.usable_size(offset),
    "view": lambda heap, offset: heap.view(offset),
    "view of a length": lambda heap, offset: heap.view(offset, 1),
    "block": lambda heap, offset: heap.block(offset),
    "address": lambda heap, offset: heap.address(offset),
    "ndarray_at": lambda heap, offset: heap.ndarray_at(offset, 1, "u1"),
}


@pytest.mark.parametrize("size", BAD_SIZES)
@pytest.mark.parametrize("call", SIZED)
def test_a_size_out_of_range_is_refused(heap: Heap, call: str, size: int) -> None:
    with pytest.raises(UsageError, match=rf"size: 1 to \d+ expected, {size} found"):
        SIZED[call](heap, size)


@pytest.mark.parametrize("size", NOT_NUMBERS, ids=named)
@pytest.mark.parametrize("call", SIZED)
def test_a_size_that_is_no_number_is_refused(heap: Heap, call: str, size: object) -> None:
    with pytest.raises(
        TypeError, match=re.escape(f"size: a whole number expected, found {size!r}")
    ):
        SIZED[call](heap, size)


@pytest.mark.parametrize("align", BAD_ALIGNMENTS)
def test_an_alignment_that_cannot_be_is_refused(heap: Heap, align: int) -> None:
    with pytest.raises(UsageError, match=rf"align: .* expected, {align} found"):
        heap.malloc(100, align)
    with pytest.raises(UsageError, match=rf"align: .* expected, {align} found"):
        heap.ndarray(10, "u1", align)


@pytest.mark.parametrize("count", [-1, 1 << 60, 1 << 64])
def test_a_count_out_of_range_is_refused(heap: Heap, count: int) -> None:
    with pytest.raises(UsageError, match=rf"malloc_many: count: .* expected, {count} found"):
        heap.malloc_many(16, count)


OFFSETS: dict[str, tuple[Callable[[Heap], int], str]] = {
    "negative": (lambda _: -1, "0 to .* expected, -1 found"),
    "past 63 bits": (lambda _: 1 << 63, "expected"),
    "past 64 bits": (lambda _: 1 << 64, "expected"),
    "beyond the end": (lambda heap: heap.stats().mapped * 2 // UNIT * UNIT, "outside of the heap"),
    "far beyond": (lambda _: (1 << 62) + 16, "outside of the heap"),
    "not aligned": (lambda heap: heap.roots["small"] + 1, "not a multiple of 16"),
    "inside of a small block": (
        lambda heap: heap.roots["small"] + 16,
        "16 bytes inside of the block at",
    ),
    "inside of a large block": (
        lambda heap: heap.roots["large"] + 16,
        "inside of the large block at",
    ),
    "a unit of a large block": (lambda heap: heap.roots["large"] + UNIT, "inside of a large block"),
    "never allocated": (
        lambda heap: heap.roots["extent"] + MiB + UNIT,
        "no block lies there|outside",
    ),
    "a free block of a run": (lambda heap: heap.roots["small"] + 112, "is free already"),
}


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("call", PLACED)
def test_an_offset_of_no_block_is_refused(heap: Heap, call: str, offset: str) -> None:
    place, message = OFFSETS[offset]
    with pytest.raises(UsageError, match=message):
        PLACED[call](heap, place(heap))


@pytest.mark.parametrize("call", ["free", "usable_size", "view", "realloc", "expand"])
def test_a_refusal_names_the_call(heap: Heap, call: str) -> None:
    size = (100,) if call in {"realloc", "expand"} else ()
    with pytest.raises(UsageError, match=f"^{call}: offset of a live block expected"):
        getattr(heap, call)(heap.roots["small"] + 112, *size)


@pytest.mark.parametrize("offset", NOT_NUMBERS, ids=named)
@pytest.mark.parametrize("call", PLACED)
def test_an_offset_that_is_no_number_is_refused(heap: Heap, call: str, offset: object) -> None:
    with pytest.raises(TypeError, match=r"a whole number expected"):
        PLACED[call](heap, offset)


@pytest.mark.parametrize("size", [10, 3 * UNIT, MiB])
@pytest.mark.parametrize("call", PLACED)
def test_a_freed_offset_is_refused(heap: Heap, call: str, size: int) -> None:
    offset = heap.malloc(size)
    heap.free(offset)
    with pytest.raises(UsageError, match=f"{offset:#x}"):
        PLACED[call](heap, offset)


def test_a_block_that_waits_for_its_views_counts_as_freed(heap: Heap) -> None:
    offset = heap.malloc(100)
    view = heap.view(offset)
    heap.free(offset, deferred=True)
    view[:] = b"x" * len(view)
    for call in PLACED.values():
        with pytest.raises(UsageError):
            call(heap, offset)
    assert bytes(view) == b"x" * len(view)
    view.release()


@pytest.mark.parametrize("length", [-1, 113, 1 << 63, 1 << 64])
def test_a_view_longer_than_its_block_is_refused(heap: Heap, length: int) -> None:
    with pytest.raises(
        UsageError, match=f"length of the block at offset .* 0 to 112 expected, {length} found"
    ):
        heap.view(heap.roots["small"], length)


@pytest.mark.parametrize(
    "buffer", [b"12345678", bytearray(16), memoryview(b"1234"), "text", 5, None, object()]
)
def test_a_batch_of_other_things_is_refused(heap: Heap, buffer: Any) -> None:
    with pytest.raises(TypeError):
        heap.free_many(buffer)


@pytest.mark.parametrize("name", ["", "x" * 44, "é" * 22, "\ud800"])
def test_a_root_name_that_does_not_fit_is_refused(heap: Heap, name: str) -> None:
    with pytest.raises(UsageError, match=r"root .* expected"):
        heap.roots[name] = 0


@pytest.mark.parametrize(("name", "offset"), [(5, 0), (b"a", 0), ("a", None), ("a", 1.5)])
def test_a_root_of_another_type_is_refused(heap: Heap, name: Any, offset: Any) -> None:
    with pytest.raises(TypeError, match="root"):
        heap.roots[name] = offset
    with pytest.raises(UsageError, match="an offset of the heap expected"):
        heap.roots["a"] = -1


def test_arguments_of_calls_are_counted(heap: Heap) -> None:
    for call in (heap.malloc, heap.free, heap.realloc, heap.view, heap.expand, heap.malloc_many):
        with pytest.raises(TypeError, match=r"misses its argument|takes at most"):
            call()  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="takes at most"):
            call(1, 2, 3)  # type: ignore[call-arg, arg-type]
        with pytest.raises(TypeError, match="unexpected or repeated"):
            call(1, nothing=2)  # type: ignore[call-arg]


# ---------------------------------------------------------------- arguments that run code


class Index:
    def __init__(self, value: int, action: Callable[[], object]) -> None:
        self.value, self.action = value, action

    def __index__(self) -> int:
        self.action()
        return self.value

    def __bool__(self) -> bool:
        self.action()
        return True


@pytest.mark.parametrize("call", [*SIZED, *PLACED])
def test_an_argument_that_closes_the_heap_is_too_late_or_refused(call: str) -> None:
    heap = Heap.anonymous()
    names = {"small": 100, "large": 10 * UNIT, "extent": MiB}
    for name, size in names.items():
        heap.roots[name] = heap.malloc(size)
    hostile = Index(heap.roots["small"] or 64, heap.close)
    with pytest.raises(UsageError, match="open heap expected, it is closed"):
        {**SIZED, **PLACED}[call](heap, hostile)
    assert heap.closed


@pytest.mark.parametrize("deferred", [False, True])
def test_an_argument_that_frees_the_block_meanwhile_is_a_double_free(deferred: bool) -> None:
    with Heap.anonymous() as heap:
        offset = heap.malloc(100)
        with pytest.raises(UsageError, match="offset of a live block expected"):
            heap.free(Index(offset, lambda: heap.free(offset)), deferred)  # type: ignore[arg-type]
        offset = heap.malloc(100)
        with pytest.raises(UsageError, match="offset of a live block expected"):
            heap.free(offset, Index(1, lambda: heap.free(offset)))  # type: ignore[arg-type]
        offset = heap.malloc(MiB)
        with pytest.raises(UsageError, match="offset of a live block expected"):
            heap.realloc(offset, Index(5 * MiB, lambda: heap.free(offset)))  # type: ignore[arg-type]
        assert heap.stats().blocks == 0
        assert heap.check()


# ---------------------------------------------------------------- heaps that may not be changed

CHANGES: dict[str, Callable[[Heap, int], object]] = {
    "malloc": lambda heap, _: heap.malloc(10),
    "malloc_many": lambda heap, _: heap.malloc_many(10, 2),
    "free": lambda heap, offset: heap.free(offset),
    "free deferred": lambda heap, offset: heap.free(offset, deferred=True),
    "free_many": lambda heap, offset: heap.free_many([offset]),
    "realloc": lambda heap, offset: heap.realloc(offset, 10),
    "expand": lambda heap, offset: heap.expand(offset, 10),
    "alloc": lambda heap, _: heap.alloc(10),
    "ndarray": lambda heap, _: heap.ndarray(10),
    "trim": lambda heap, _: heap.trim(),
    "root": lambda heap, offset: heap.roots.__setitem__("b", offset),
    "no root": lambda heap, _: heap.roots.__delitem__("a"),
}

READS: dict[str, Callable[[Heap, int], object]] = {
    "view": lambda heap, offset: heap.view(offset),
    "usable_size": lambda heap, offset: heap.usable_size(offset),
    "block": lambda heap, offset: heap.block(offset).offset,
    "ndarray_at": lambda heap, offset: heap.ndarray_at(offset, 1, "u1"),
    "address": lambda heap, offset: heap.address(offset),
    "stats": lambda heap, _: heap.stats(),
    "check": lambda heap, _: heap.check(),
    "explain": lambda heap, _: heap.explain(10),
    "blocks": lambda heap, _: list(heap.blocks()),
    "roots": lambda heap, _: dict(heap.roots),
    "root": lambda heap, _: heap.roots["a"],
    "fileno": lambda heap, _: heap.fileno(),
    "sync": lambda heap, _: heap.sync(),
}


def file_with_a_block(path: Path) -> int:
    with Heap.create(path, durability="process") as heap:
        offset = heap.malloc(100)
        heap.roots["a"] = offset
    return offset


@pytest.mark.parametrize("call", CHANGES)
def test_a_read_only_heap_refuses_changes(tmp_path: Path, call: str) -> None:
    path = tmp_path / "a.heap"
    offset = file_with_a_block(path)
    before = path.read_bytes()
    with Heap.open(path, readonly=True) as heap:
        with pytest.raises(UsageError, match="a writable heap expected, it was opened read-only"):
            CHANGES[call](heap, offset)
        with pytest.raises(TypeError):
            heap.view(offset)[0] = 1
        for read in READS.values():
            read(heap, offset)
        assert heap.check()
    assert path.read_bytes() == before


@pytest.mark.parametrize("call", [*CHANGES, *READS])
def test_a_closed_heap_refuses_everything(tmp_path: Path, call: str) -> None:
    for kind in ("anonymous", "file"):
        if kind == "file":
            offset = file_with_a_block(tmp_path / "a.heap")
            heap = Heap.open(tmp_path / "a.heap")
        else:
            heap = Heap.anonymous()
            offset = heap.malloc(100)
        heap.close()
        with pytest.raises(UsageError, match="heap expected, it is closed"):
            {**READS, **CHANGES}[call](heap, offset)


def test_a_forked_child_is_refused_everything(tmp_path: Path) -> None:
    for heap in (Heap.anonymous(), Heap.create(tmp_path / "a.heap", durability="process")):
        offset = heap.malloc(100)
        heap.roots["a"] = offset
        view = heap.view(offset)
        view[:3] = b"abc"
        pid = os.fork()
        if pid == 0:
            os._exit(what_a_child_may_do(heap, offset, view))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert bytes(view[:3]) == b"abc"
        del view
        assert heap.check()
        heap.close()


def what_a_child_may_do(heap: Heap, offset: int, view: memoryview) -> int:
    """Return 0 if all was refused as it should be."""
    for call in (*CHANGES.values(), *READS.values()):
        try:
            call(heap, offset)
        except UsageError as error:
            if "it belongs to the parent process" not in str(error):
                return 2
        except BaseException:
            return 3
        else:
            return 1
    view[:3] = b"xyz"
    del view
    heap.close()
    return 0


# ---------------------------------------------------------------- options and paths


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 1000}, {"limit": -1}, {"limit": 1 << 64}, {"headroom": -1}, {"headroom": 1 << 60},
        {"decay": float("nan")}, {"limit": "5"}, {"headroom": 1.5}, {"decay": "5"},
    ],
    ids=str,
)  # fmt: skip
def test_an_option_out_of_range_makes_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "a.heap"
    for call in (
        Heap.anonymous,
        Heap.shared,
        lambda **some: Heap.create(path, durability="process", **some),
    ):
        with pytest.raises((UsageError, TypeError), match=f"{next(iter(options))}: .* expected"):
            call(**options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "path", ["a\0b", "\ud800", "x" * 5000, "no/such/directory/a.heap", ".", "/dev/null"]
)
def test_a_path_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (Heap.open, Heap.create):
        with pytest.raises(
            UsageError, match=r"heap file|path: one that the system can have expected"
        ):
            call(path)
    assert not list(tmp_path.iterdir())


def test_a_heap_has_no_constructor_and_no_copy() -> None:
    for arguments in ((), ("data.heap",)):
        with pytest.raises(TypeError, match=r"Heap\.open\(path\).*Heap\.create.*Heap\.anonymous"):
            Heap(*arguments)
