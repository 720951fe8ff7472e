"""Scans of every ordered mapping while it changes: nothing gone, nothing that was replaced."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from mapping_faces import FACES, Face

from pmemheap import UsageError
from pmemheap.kvstore.store import KVStore

ORDERED = [face for face in FACES if face.ordered]
VIEWED = [face for face in ORDERED if not face.lists]  # those of dbm are lists of one moment


class GivenUpError(Exception):
    """Raised to abort a transaction."""


@pytest.fixture(params=ORDERED, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Face:
    found: Face = request.param
    return found


@pytest.fixture
def made(face: Face, tmp_path: Path) -> Iterator[MutableMapping[Any, Any]]:
    with ExitStack() as stack:
        mapping = face.make(stack, tmp_path)
        for number in range(100):
            mapping[face.key(f"{number:03}")] = face.value("old")
        yield mapping


def test_what_was_removed_is_not_given(made: MutableMapping[Any, Any], face: Face) -> None:
    seen = []
    for key in made:
        assert key in made
        seen.append(key)
        behind = face.key(f"{len(seen) * 2 - 1:03}")
        with suppress(KeyError):
            del made[behind]
    assert seen == [face.stored(face.key(f"{number:03}")) for number in range(0, 100, 2)]


@pytest.mark.parametrize("face", VIEWED, ids=lambda face: face.name)
def test_what_was_replaced_is_given_as_it_is(made: MutableMapping[Any, Any], face: Face) -> None:
    for number, (key, value) in enumerate(made.items()):
        assert value == made[key]
        if number % 2 == 0:
            made[face.key(f"{number + 1:03}")] = face.value("new")
    for number, value in enumerate(made.values()):
        assert value == made[face.key(f"{number:03}")]
        if number % 2 == 1 and number < 99:
            made[face.key(f"{number + 1:03}")] = face.value("newer")


def test_reversed_sees_the_same(made: MutableMapping[Any, Any], face: Face) -> None:
    scan = reversed(made)
    next(scan)
    del made[face.key("098")]
    assert next(scan) == face.stored(face.key("097"))


def test_a_scan_of_what_was_closed_raises(face: Face, tmp_path: Path) -> None:
    with ExitStack() as stack:
        mapping = face.make(stack, tmp_path)
        for number in range(9):
            mapping[face.key(str(number))] = face.value("old")
        scans: list[Iterator[Any]] = [iter(mapping), reversed(mapping)]
        if not face.lists:
            scans += [iter(mapping.keys()), iter(mapping.values()), iter(mapping.items())]
        for scan in scans[:3]:
            next(scan)
    for scan in scans:
        with pytest.raises(UsageError, match="closed"):
            next(scan)


def test_a_key_that_expires_in_the_middle_is_not_given(tmp_path: Path) -> None:
    """Also in a store in which nothing expired when the scan began."""
    now = [1_000_000_000_000]
    with KVStore(tmp_path / "a.kv", "process", clock=lambda: now[0]) as store:
        store.update({b"%02d" % number: b"v" for number in range(10)})
        scans = [iter(store), iter(store.items()), iter(store.values()), reversed(store)]
        for scan in scans:
            next(scan)
        for number in range(3, 8):
            store.expire(b"%02d" % number, 5)
        now[0] += 5_000_000_000
        assert [len(list(scan)) for scan in scans] == [4, 4, 4, 4]
        assert list(store) == [b"%02d" % number for number in (0, 1, 2, 8, 9)]
        assert len(store.scan()) == 5


def test_a_transaction_of_a_store_in_the_middle_of_a_scan(tmp_path: Path) -> None:
    with KVStore(tmp_path / "a.kv", "process") as store:
        store.update({b"%02d" % number: b"v" for number in range(10)})
        scan = iter(store.items())
        next(scan)
        with suppress(GivenUpError), store.transaction():
            store.clear()
            store[b"05"] = b"new"
            assert next(scan) == (b"05", b"new")
            raise GivenUpError
        assert [key for key, _ in scan] == []
        assert len(list(store)) == 10
