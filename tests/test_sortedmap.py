"""SortedMap by example: what is in it, in which order, views, transactions, bad input, damage."""

from __future__ import annotations

import random
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from pmemheap import DurabilityName, Heap, Rows
from pmemheap.containers import SortedMap, Vector
from pmemheap.containers.sortedmap import KEY_BYTES_MOST
from pmemheap.errors import CorruptHeapError, OutOfSpaceError, UsageError
from pmemheap.testing import copy_as_crashed
from pmemheap.units import MiB

NODE = 4096


def filled(heap: Heap, count: int, size: int = 20) -> SortedMap:
    """Return a map of `count` keys, entered in some order."""
    made = SortedMap(heap, "map")
    keys = list(range(count))
    random.Random(count).shuffle(keys)
    made.put_many((b"%06d" % key, b"%0*d" % (size, key)) for key in keys)
    return made


def test_an_empty_map(heap: Heap) -> None:
    empty = SortedMap(heap, "map")
    assert len(empty) == 0
    assert list(empty) == []
    assert list(reversed(empty)) == []
    assert b"" not in empty
    assert empty.get(b"x") is None
    assert empty.get(b"x", 7) == 7
    with pytest.raises(KeyError):
        empty[b"x"]
    with pytest.raises(KeyError):
        del empty[b"x"]
    assert not empty.discard(b"x")
    empty.check()


@pytest.mark.parametrize("row", [512, 4080])
def test_a_map_wants_rows_that_hold_its_nodes(row: int) -> None:
    with Heap.anonymous(strategy=Rows(row)) as heap:
        Vector(heap, "vector", "f8")
        with pytest.raises(UsageError, match=rf"map 'map': a node: at most {row} bytes.* 4096"):
            SortedMap(heap, "map")
        assert list(heap.roots) == ["vector"]
    with Heap.anonymous(strategy=Rows(NODE)) as heap:
        filled(heap, 100).check()


def test_keys_come_in_order_whatever_the_order_they_were_entered_in(heap: Heap) -> None:
    made = filled(heap, 3000)
    made.check()
    assert list(made) == [b"%06d" % key for key in range(3000)]
    assert list(reversed(made)) == [b"%06d" % key for key in range(2999, -1, -1)]
    assert made[b"001234"] == b"%020d" % 1234
    assert made.statistics().height == 2
    assert made.statistics().entries == len(made) == 3000


def test_ascending_keys_fill_their_leaves(memory: Heap) -> None:
    made = SortedMap(memory, "map")
    made.put_many((b"%06d" % key, bytes(100)) for key in range(5000))
    assert made.statistics().fill > 0.85


@pytest.mark.parametrize(
    ("start", "stop"),
    [(None, None), (b"000010", None), (None, b"000990"), (b"000100", b"000900"),
     (b"0001", b"00095"), (b"5", None), (None, b""), (b"000500", b"000500"),
     (b"000900", b"000100"), (b"", b"\xff")],
)  # fmt: skip
def test_ranges_are_those_of_a_sorted_list(
    memory: Heap, start: bytes | None, stop: bytes | None
) -> None:
    made = filled(memory, 1000)
    expected = [
        key
        for key in (b"%06d" % number for number in range(1000))
        if (start is None or key >= start) and (stop is None or key < stop)
    ]
    assert list(made.keys(start, stop)) == expected
    assert list(made.keys(start, stop, reverse=True)) == expected[::-1]
    assert list(made.items(start, stop)) == [(key, made[key]) for key in expected]
    assert list(made.values(start, stop, reverse=True)) == [made[key] for key in expected[::-1]]


def test_a_scan_goes_on_while_the_map_is_changed(memory: Heap) -> None:
    made = filled(memory, 500)
    seen = []
    for key in made:
        seen.append(key)
        del made[key]
        made[b"/" + key] = b"before, not seen again"
    assert seen == [b"%06d" % key for key in range(500)]
    made.check()


def test_deleting_everything_gives_all_nodes_back(heap: Heap) -> None:
    made = SortedMap(heap, "map")
    before = heap.stats().allocated
    random_values = random.Random(3)
    keys = [b"%d" % random_values.randrange(10**9) for _ in range(4000)]
    for key in keys:
        made[key] = bytes(random_values.choice((0, 10, 500, 5000)))
    made.check()
    random_values.shuffle(keys)
    for key in keys:
        made.discard(key)
    made.check()
    heap.sync()
    assert made.statistics().nodes == 0
    assert heap.stats().allocated == before
    made[b"again"] = b"1"
    assert dict(made) == {b"again": b"1"}


@pytest.mark.parametrize("size", [0, 1, 100, 1018, 1019, 4096, 70_000, 3 * MiB])
def test_values_of_any_length(heap: Heap, size: int) -> None:
    made = SortedMap(heap, "map")
    value = random.Random(size).randbytes(size)
    made[b"before"] = b"b"
    made[b"key"] = value
    made[b"later"] = b"l"
    assert made[b"key"] == value
    assert bytes(made.view(b"key")) == value
    assert list(made.items(b"key", b"kez")) == [(b"key", value)]
    made[b"key"] = value[::-1]
    assert made[b"key"] == value[::-1]
    made.check()
    del made[b"key"]
    assert list(made) == [b"before", b"later"]
    made.check()


def test_keys_of_any_length(memory: Heap) -> None:
    made = SortedMap(memory, "map")
    keys = [bytes([letter]) * length for letter in b"\0az\xff" for length in range(0, 1025, 64)]
    for key in keys:
        made[key] = key
    assert list(made) == sorted(set(keys))
    made.check()
    with pytest.raises(UsageError, match="at most 1024 bytes expected, found one of 1025"):
        made[bytes(KEY_BYTES_MOST + 1)] = b""
    assert made.get(bytes(KEY_BYTES_MOST + 1)) is None


def test_buffers_are_values_and_keys(memory: Heap) -> None:
    made = SortedMap(memory, "map")
    made[b"key"] = bytearray(b"abc")
    made[memoryview(b"other")] = memoryview(b"def")  # type: ignore[index]
    assert dict(made) == {b"key": b"abc", b"other": b"def"}
    made[b"copy"] = made.view(b"key")
    assert made[b"copy"] == b"abc"


@pytest.mark.parametrize("key", ["text", 5, None, ("a",)])
def test_a_key_that_is_no_bytes_is_not_there(memory: Heap, key: Any) -> None:
    made = SortedMap(memory, "map")
    assert key not in made
    assert made.get(key) is None
    assert not made.discard(key)
    for call in (
        lambda: made[key],
        lambda: made.view(key),
        lambda: made.__delitem__(key),
        lambda: made.patch(key, 0, b""),
    ):
        with pytest.raises(KeyError) as raised:
            call()
        assert raised.value.args == (key,)
    with pytest.raises(TypeError, match="key: bytes expected"):
        made[key] = b""
    with pytest.raises(TypeError, match="value: bytes expected"):
        made[b"key"] = "text"
    assert len(made) == 0


def test_a_bound_that_is_no_bytes_is_refused(memory: Heap) -> None:
    made: Any = filled(memory, 10)
    for call in (made.keys, made.values, made.items):
        for bounds in [("text",), (None, 5)]:
            with pytest.raises(TypeError, match="bytes expected"):
                list(call(*bounds))
            with pytest.raises(TypeError, match="bytes expected"):
                len(call(*bounds))


@pytest.mark.parametrize("count", [0, 1, 40, 3000])
def test_ranges_are_counted(heap: Heap, count: int) -> None:
    made = filled(heap, count)
    bounds = [None, b"", b"0", b"\xff", *(b"%06d" % key for key in (0, 17, count // 2, count))]
    for low in bounds:
        for high in bounds:
            assert len(made.keys(low, high)) == sum(1 for _ in made.keys(low, high)), (low, high)


def test_a_transaction_counts_what_it_has_changed(memory: Heap) -> None:
    made = filled(memory, 500)
    with memory.transaction():
        for key in list(made.keys(b"000100", b"000200")):
            del made[key]
        made[b"000150x"] = b""
        assert len(made.keys(b"000100", b"000201")) == 2
    assert len(made.keys(b"000100", b"000201")) == 2


@pytest.mark.parametrize("key", [bytearray(b"000005"), memoryview(b"000005")])
def test_views_know_keys_that_are_buffers(memory: Heap, key: Any) -> None:
    made = filled(memory, 10)
    assert key in made.keys()  # noqa: SIM118 -- another method
    assert key in made.keys(b"000004", b"000006")
    assert key not in made.keys(b"000006")


def test_a_view_of_a_closed_heap_says_so(heap: Heap) -> None:
    made = filled(heap, 10)
    views: list[Any] = [made.keys(), made.values(b"1"), made.items(b"1", b"2")]
    heap.close()
    for view in views:
        for call in (lambda view=view: len(view), lambda view=view: list(view)):
            with pytest.raises(UsageError, match="closed"):
                call()


def test_update_with_names_changes_nothing(memory: Heap) -> None:
    made = filled(memory, 10)
    with pytest.raises(TypeError, match="name"):
        made.update({b"a": b"1"}, name=b"2")
    assert b"a" not in made


def test_exclusive_waits_for_the_transaction_of_another_thread(heap: Heap) -> None:
    made = SortedMap(heap, "map")
    made[b"n"] = b"0"

    def count() -> None:
        for _ in range(50):
            with made.exclusive():
                made[b"n"] = b"%d" % (int(made[b"n"]) + 1)

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[b"n"] == b"150"


def test_a_map_is_made_beside_a_transaction_that_changes_another(heap: Heap) -> None:
    other = SortedMap(heap, "other")
    made: list[SortedMap] = []
    with heap.transaction():
        other[b"a"] = b"1"
        thread = threading.Thread(target=lambda: made.append(SortedMap(heap, "map")))
        thread.start()
        thread.join(0.05)
        assert not made, "it waits until it is its turn"
    thread.join()
    made[0][b"a"] = b"2"
    assert (other[b"a"], SortedMap(heap, "map")[b"a"]) == (b"1", b"2")


def test_threads_that_make_a_map_have_the_same(heap: Heap) -> None:
    other, barrier = SortedMap(heap, "other"), threading.Barrier(4, timeout=30)

    def put(number: int) -> None:
        barrier.wait()
        SortedMap(heap, "map")[b"%d" % number] = b""

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    with heap.transaction():
        other[b"a"] = b"all of them have looked for the map when this ends"
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(0.05)
    for thread in threads:
        thread.join()
    assert list(SortedMap(heap, "map")) == [b"0", b"1", b"2", b"3"]
    assert len(list(heap.blocks())) == 4, "two headers with a leaf each"


# ---------------------------------------------------------------- views


def test_a_view_keeps_its_bytes_while_the_map_changes(heap: Heap) -> None:
    made = filled(heap, 2000, 100)
    views = {key: made.view(key) for key in list(made)[::50]}
    expected = {key: bytes(view) for key, view in views.items()}
    for key in list(made)[::2]:
        made[key] = b"x" * 100
    for key in list(made)[1::3]:
        del made[key]
    made.put_many((b"%08d" % key, bytes(300)) for key in range(2000))
    made.clear()
    made.check()
    assert {key: bytes(view) for key, view in views.items()} == expected
    held = heap.stats().allocated
    del views
    heap.sync()
    assert heap.stats().allocated <= held


def test_a_view_of_a_long_value_makes_its_removal_wait(heap: Heap) -> None:
    made = SortedMap(heap, "map")
    made[b"long"] = b"1" * 100_000
    view = made.view(b"long")
    del made[b"long"]
    others = [heap.malloc(100_000) for _ in range(5)]
    for offset in others:
        heap.view(offset)[:] = b"2" * heap.usable_size(offset)
    assert bytes(view) == b"1" * 100_000
    assert b"long" not in made


def test_same_length_is_overwritten_in_place_unless_somebody_looks(memory: Heap) -> None:
    made = SortedMap(memory, "map")
    made[b"key"] = b"aaaa"
    made[b"key"] = b"bbbb"
    assert made.statistics().waste_bytes == 0
    view = made.view(b"key")
    made[b"key"] = b"cccc"
    assert bytes(view) == b"bbbb"
    assert made[b"key"] == b"cccc"
    assert made.statistics().waste_bytes > 0


@pytest.mark.parametrize("size", [100, 5000])
def test_a_view_in_a_transaction_shows_what_it_has_made(heap: Heap, size: int) -> None:
    made = SortedMap(heap, "map")
    made[b"old"] = b"o" * size
    with heap.transaction():
        made[b"new"] = b"n" * size
        made.patch(b"old", 1, b"patched")
        assert bytes(made.view(b"new")) == b"n" * size
        assert bytes(made.view(b"old")) == b"opatched".ljust(size, b"o")
    view = made.view(b"old")
    with heap.transaction():
        assert bytes(made.view(b"old")) == made[b"old"]
        made[b"old"] = b"p" * size
        assert bytes(made.view(b"old")) == b"p" * size
    assert bytes(view) == b"opatched".ljust(size, b"o")


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_patch(heap: Heap, size: int) -> None:
    made = SortedMap(heap, "map")
    made[b"key"] = bytes(size)
    made.patch(b"key", 7, b"hello")
    made.patch(b"key", size - 1, b"!")
    made.patch(b"key", size, b"")
    assert made[b"key"] == bytes(7) + b"hello" + bytes(size - 13) + b"!"
    with pytest.raises(UsageError, match=f"2 bytes from {size - 1} inside of the value of b'key'"):
        made.patch(b"key", size - 1, b"!!")
    with pytest.raises(KeyError):
        made.patch(b"none", 0, b"")
    made.check()


@pytest.mark.parametrize("size", [0, 16, 1008, 4096, 300 * 1024])
def test_nothing_is_patched_at_the_end_of_a_value_that_fills_its_block(
    heap: Heap, size: int
) -> None:
    made = SortedMap(heap, "map")
    made[b"key"] = b"v" * size
    with heap.transaction():
        made.patch(b"key", size, b"")
        made.patch(b"key", 0, b"")
    assert made[b"key"] == b"v" * size
    with pytest.raises(UsageError):
        made.patch(b"key", size + 1, b"")


@pytest.mark.parametrize("start", [-1, 1 << 63, 1 << 64, (1 << 64) + 1, -(1 << 70)])
def test_a_patch_that_begins_nowhere_is_refused(memory: Heap, start: int) -> None:
    made = SortedMap(memory, "map")
    made[b"key"] = b"value"
    with pytest.raises(UsageError, match=f"1 bytes from {start} inside of the value"):
        made.patch(b"key", start, b"!")
    assert made[b"key"] == b"value"


# ---------------------------------------------------------------- transactions


def test_a_transaction_sees_its_own_changes_and_can_be_taken_back(heap: Heap) -> None:
    made = filled(heap, 300)
    before = dict(made)

    def change() -> None:
        with heap.transaction():
            for number in range(300):
                made[b"new %d" % number] = bytes(200)
            for key in list(before)[::2]:
                del made[key]
            made[b"000001"] = b"1" * 5000
            made.patch(b"000001", 10, b"patched")
            assert made[b"000001"][8:19] == b"11patched11"
            assert len(made) == 300 + 300 - 150
            assert sum(1 for _ in made) == len(made)
            made.check()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change()
    made.check()
    assert dict(made) == before
    heap.check()


def test_savepoints(heap: Heap) -> None:
    made = filled(heap, 50)
    with heap.transaction():
        made[b"kept"] = b"1"
        for size in (10, 3000):
            inner = heap.transaction()
            made[b"kept"] = b"2" * size
            made.put_many((b"n%d" % number, bytes(90)) for number in range(200))
            inner.abort()
            assert made[b"kept"] == b"1"
            assert len(made) == 51
        with heap.transaction():
            made[b"also"] = b"3"
    made.check()
    assert len(made) == 52
    assert made[b"also"] == b"3"


def test_two_maps_in_one_transaction(heap: Heap) -> None:
    one, other = SortedMap(heap, "one"), SortedMap(heap, "other")
    with heap.transaction():
        for number in range(500):
            one[b"%d" % number] = b"1"
            other[b"%d" % -number] = b"2"
        assert len(one) == len(other) == 500
    one.check()
    other.check()
    assert sorted(one) == list(one)


def test_others_see_what_is_committed(heap: Heap) -> None:
    made = filled(heap, 100)
    found: list[object] = []
    with heap.transaction():
        made[b"new"] = b"1"
        del made[b"000000"]
        look = threading.Thread(target=lambda: found.extend((len(made), b"new" in made)))
        look.start()
        look.join()
        assert found == [100, False]
        assert len(made) == 100
    assert b"new" in made


@pytest.mark.slow
def test_threads_change_one_map(heap: Heap) -> None:
    made = SortedMap(heap, "map")
    failures: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            for number in range(150):
                made[b"%d/%d" % (rank, number)] = b"%d" % number
                assert made[b"%d/%d" % (rank, number)] == b"%d" % number
                if number % 3 == 0:
                    del made[b"%d/%d" % (rank, number)]
                sum(1 for _ in made.keys(b"1", b"2"))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    made.check()
    assert len(made) == 400


# ---------------------------------------------------------------- the heap around it


@pytest.mark.parametrize("durability", ["process", "power"])
def test_it_is_there_when_the_heap_is_opened_again(
    tmp_path: Path, durability: DurabilityName
) -> None:
    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        filled(heap, 1000)
    with Heap.open(tmp_path / "heap") as heap:
        made = SortedMap(heap, "map")
        made.check()
        assert list(made) == [b"%06d" % key for key in range(1000)]
        made[b"more"] = b"1"
    with Heap.open(tmp_path / "heap", readonly=True) as heap:
        made = SortedMap(heap, "map")
        assert made[b"more"] == b"1"
        assert made.view(b"more").readonly
        with pytest.raises(UsageError, match="read-only"):
            made[b"other"] = b"1"
        with pytest.raises(UsageError):
            SortedMap(heap, "none")


def test_a_map_without_its_heap(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "heap")
    made = filled(heap, 10)
    heap.close()
    for call in (
        lambda: made[b"000001"], lambda: len(made), lambda: list(made), made.check,
        lambda: made.view(b"000001"), lambda: made.discard(b"000001"),
        lambda: made.__setitem__(b"x", b""), made.clear,
    ):  # fmt: skip
        with pytest.raises(UsageError, match="closed"):
            call()


def test_drop(heap: Heap) -> None:
    before = heap.stats().allocated
    made = filled(heap, 500)
    made.drop()
    heap.sync()
    assert heap.stats().allocated == before
    assert "map" not in heap.roots
    with pytest.raises(UsageError, match="dropped"):
        made.get(b"x")


def test_a_full_heap_refuses_and_stays_as_it_was(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability="process", limit=3 * MiB) as heap:
        made = SortedMap(heap, "map")
        number = 0

        def fill() -> None:
            nonlocal number
            while True:
                made[b"%08d" % number] = bytes(900)
                number += 1

        with pytest.raises(OutOfSpaceError):
            fill()
        made.check()
        assert len(made) == number > 1000
        for key in list(made):
            del made[key]
        made.check()
        made[b"room"] = b"again"


@pytest.mark.slow
def test_a_change_of_many_nodes_in_a_heap_that_is_nearly_full() -> None:
    """It is done or refused, also where it needs more nodes than the heap brings at once."""
    chance = random.Random(0)
    with Heap.anonymous(limit=8 * MiB) as heap:
        made = SortedMap(heap, "map")
        pages: list[int] = []

        def put_some(count: int) -> None:
            for _ in range(count):
                made[b"%01000d" % chance.randrange(10**9)] = b""

        def fill() -> None:
            while True:
                pages.append(heap.malloc(NODE))

        put_some(300)
        for _ in range(90):
            with pytest.raises(OutOfSpaceError):
                fill()
            for _ in range(chance.randrange(8, 20)):
                heap.free(pages.pop(chance.randrange(len(pages))))
            with pytest.raises(OutOfSpaceError):
                put_some(100)
            assert len(list(heap.blocks())) == len(pages) + made.statistics().nodes + 1
        made.check()


@pytest.mark.slow
def test_a_damaged_node_is_an_exception_and_never_a_crash(tmp_path: Path) -> None:
    """Bytes of nodes are the user's own: whatever stands there, the interpreter lives."""
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        filled(heap, 400, 50)
        root = heap.roots["map"]
    chance = random.Random(11)
    for turn in range(150):
        copy_as_crashed(tmp_path / "heap", tmp_path / "copy")
        with Heap.open(tmp_path / "copy") as heap:
            blocks = [offset for offset, size in heap.blocks() if size == NODE or offset == root]
            for _ in range(chance.choice((1, 3, 200))):
                view = heap.view(chance.choice(blocks))
                if chance.random() < 0.5:
                    view[chance.randrange(min(len(view), 64))] = chance.randrange(256)
                else:
                    struct.pack_into(
                        "<Q", view, chance.randrange(len(view) // 8) * 8, chance.getrandbits(64)
                    )
                del view
            exercise(heap, turn)


def exercise(heap: Heap, seed: int) -> None:
    """Call everything; what is wrong has to be one of our exceptions."""
    chance = random.Random(seed)
    key = b"%06d" % chance.randrange(400)
    refusals = (CorruptHeapError, UsageError, KeyError, OutOfSpaceError, BufferError)
    try:
        made = SortedMap(heap, "map")
    except refusals:
        return
    for call in (
        lambda: made[key], lambda: list(made.items()), lambda: list(made.keys(reverse=True)),
        lambda: made.view(key), made.check, lambda: made.patch(key, 1, b"x"),
        lambda: made.__setitem__(key, bytes(300)), lambda: made.discard(key),
        lambda: made.__setitem__(key + b"1", bytes(3000)), made.statistics,
    ):  # fmt: skip
        try:
            call()
        except refusals:
            continue


def test_a_map_that_is_made_in_a_transaction_is_found_there(heap: Heap) -> None:
    """Roots of the heap are those that are committed: a second map under the same root was made."""
    with heap.transaction():
        SortedMap(heap, "map")[b"1"] = b"one"
        again = SortedMap(heap, "map")
        again[b"2"] = b"two"
    assert dict(SortedMap(heap, "map")) == {b"1": b"one", b"2": b"two"}
    with heap.transaction():
        again.drop()
        made = SortedMap(heap, "map")
        made[b"3"] = b"three"
    assert dict(SortedMap(heap, "map")) == {b"3": b"three"}
    assert heap.check()


def test_views_are_read_only(heap: Heap) -> None:
    made = SortedMap(heap, "map")
    made.update({b"short": b"1", b"long": bytes(5000)})
    for key in (b"short", b"long"):
        with made.view(key) as view:
            assert view.readonly
            with pytest.raises(TypeError):
                view[0] = 1


def test_an_empty_map_has_no_nodes(heap: Heap) -> None:
    made = SortedMap(heap, "map")
    for _ in range(2):
        assert made.statistics().nodes == made.statistics().height == 0
        assert not list(made.items())
        assert not list(reversed(made))
        assert not made.scan()
        assert made.get(b"key") is None
        assert not made.discard(b"key")
        made.check()
        made[b"key"] = b"1"
        assert made.statistics().nodes == made.statistics().height == 1
        del made[b"key"]


def thinned(heap: Heap) -> tuple[SortedMap, dict[bytes, bytes]]:
    """A map whose leaves are less than half full, with values of all lengths."""
    made, draw = SortedMap(heap, "map"), random.Random(5)
    entries = {b"%06d" % draw.randrange(10**6): bytes(draw.choice((0, 9, 150, 900, 4000)))
               for _ in range(4000)}  # fmt: skip
    made.update(entries)
    for key in draw.sample(sorted(entries), 2500):
        del made[key], entries[key]
    return made, entries


def test_compact_fills_the_leaves(heap: Heap) -> None:
    made, entries = thinned(heap)
    before = made.statistics()
    with made.view(min(entries)) as view:
        bytes_before = bytes(view)
        made.compact()
        assert bytes(view) == bytes_before
    made.check()
    after = made.statistics()
    assert dict(made) == entries
    assert before.fill < 0.65
    assert after.fill > 0.75
    assert after.leaves < before.leaves
    assert after.waste_bytes < before.waste_bytes / 4
    made.compact()
    assert made.statistics().leaves == after.leaves


def test_compact_can_be_taken_back(heap: Heap) -> None:
    made, entries = thinned(heap)
    before = made.statistics()
    transaction = heap.transaction()
    made[b"new"] = b"1"
    made.compact()
    made.check()
    assert dict(made) == {**entries, b"new": b"1"}
    transaction.abort()
    made.check()
    assert dict(made) == entries
    assert made.statistics() == before


@pytest.mark.parametrize("count", [0, 1, 40])
def test_compact_of_a_small_map_changes_nothing(heap: Heap, count: int) -> None:
    made = SortedMap(heap, "map")
    made.update({b"%d" % number: b"x" * 20 for number in range(count)})
    before = made.statistics()
    made.compact()
    assert made.statistics() == before


def test_pairs_that_are_kept_stay_as_they_are() -> None:
    """A pair that nobody has kept may be given again with other contents, a kept one never."""
    with Heap.anonymous() as heap:
        made = SortedMap(heap, "map")
        expected = [(b"%04d" % number, b"%d" % number) for number in range(1000)]
        with heap.transaction():
            made.update(expected)
        kept, seen = [], []
        for number, pair in enumerate(made.items()):
            if number % 3 == 0:
                kept.append(pair)
            seen.append(pair[0])
        assert kept == expected[::3]
        assert seen == [key for key, _ in expected]
        assert [(key, value) for key, value in made.items()] == expected
        assert len({*made.items()}) == len(expected)
        first, second = iter(made.items()), iter(made.items())
        assert list(zip(first, second, strict=True)) == [(pair, pair) for pair in expected]
