"""SortedMap under the crash simulator: after any crash it is as after one of its commits."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmemheap import DurabilityName, Heap
from pmemheap.containers import SortedMap
from pmemheap.testing import Crash, Image, Kind, Recorder, check_states

Change = list[tuple[bytes, bytes | None]]

ENTERED: list[Change] = [[(b"%02d" % number, bytes([number]) * 700)] for number in range(12)]
CHANGES: list[Change] = [
    *ENTERED,  # two splits
    [(b"05", b"!" * 700), (b"07", None), (b"long", b"l" * 3000)],  # in place, gone, apart
    [(b"long", b"m" * 3000), (b"05", b"short")],
    [(b"%02d" % number, None) for number in range(0, 12, 2)],  # merged
    [(b"compact", None)],  # which is no key
    [(b"%02d" % number, None) for number in (1, 3, 5, 9, 11)],
    [(b"long", None)],
]
"""From one empty leaf to a tree and back; each is a commit."""


def play(made: SortedMap, change: Change) -> None:
    with made.heap.transaction():
        for key, value in change:
            if key == b"compact":
                made.compact()
            elif value is None:
                made.discard(key)
            else:
                made[key] = value


def states() -> list[dict[bytes, bytes]]:
    """Return what is in the map after each number of commits."""
    state: dict[bytes, bytes] = {}
    found: list[dict[bytes, bytes]] = [{}]
    for change in CHANGES:
        for key, value in change:
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        found.append(dict(state))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_crash_leaves_the_map_after_one_of_its_commits(
    tmp_path: Path, durability: DurabilityName
) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability=durability) as heap:
        SortedMap(heap, "map")
    with Recorder(path) as recorder, Heap.open(path) as heap:
        made = SortedMap(heap, "map")
        heights = set()
        for number, change in enumerate(CHANGES, 1):
            recorder.begin(number)
            play(made, change)
            (recorder.durable if durability == "power" else recorder.returned)(number)
            heights.add(made.statistics().height)
        assert heights == {0, 1, 2}
    expected = states()

    def look(image: Image, crash: Crash) -> None:
        with Heap.open(image.path) as heap:
            found = SortedMap(heap, "map")
            found.check()
            assert dict(found) in expected[crash.least : crash.most + 1], (crash.least, crash.most)
            heap.check()
            found[b"usable"] = b"yes"
            assert found[b"usable"] == b"yes"

    kinds = (Kind.KILL, Kind.POWER) if durability == "power" else (Kind.KILL,)
    report = check_states(recorder.recording, look, kinds=kinds, budget=6)
    report.require(distinct=300 if durability == "power" else 50)


@pytest.mark.slow
def test_a_commit_of_several_keys_is_all_there_or_not_at_all(tmp_path: Path) -> None:
    """Also where it is more than a record holds, and the new nodes go ahead of it."""
    path = tmp_path / "heap"
    with Heap.create(path, durability="power") as heap:
        SortedMap(heap, "map").put_many((b"%03d" % number, bytes(90)) for number in range(150))
    with Recorder(path) as recorder, Heap.open(path) as heap:
        made = SortedMap(heap, "map")
        recorder.begin(1)
        with heap.transaction():
            for number in range(150):
                made[b"%03d" % number] = b"x" * 600
        recorder.durable(1)

    def look(image: Image, crash: Crash) -> None:
        with Heap.open(image.path) as heap:
            found = SortedMap(heap, "map")
            found.check()
            values = set(found.values())
            old, new = {bytes(90)}, {b"x" * 600}
            assert values in ([new], [old], [old, new])[0 if crash.least else 1 + crash.most], (
                values
            )

    check_states(recorder.recording, look, budget=2).require(distinct=50)
