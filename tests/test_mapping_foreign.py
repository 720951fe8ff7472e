"""Checks of others that our mappings pass: of CPython for mappings, dbm and shelve, of zict.

CPython's are in its package `test`, which some distributions leave out. Then they are not run;
`test_mapping_contract.py` has the same checks in our words, and always runs. A check that does not
apply is set to None, with the reason beside it.
"""

from __future__ import annotations

import dbm
import importlib
import os
import pickle
import shelve
import tempfile
import unittest
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zict
from mapping_faces import FACES, Face
from zict.tests import utils_test

from pmemheap import kvstore
from pmemheap.kvstore.spill import AnyKeySpillStore, SpillStore
from pmemheap.kvstore.store import KVStore

HAS_CPYTHONS = find_spec("test") is not None and find_spec("test.mapping_tests") is not None
RANGES: dict[str, None] = {
    "test_values": None,  # wants `values(None)` refused: here it is a range without a beginning
    "test_items": None,  # the same
}
BUFFERS: dict[str, None] = {
    "test_read": None,  # puts items into a set: these values are bytearrays, as those of zict.File
    "test_update": None,  # wants an error of the source before the TypeError of a value
}


class InDirectory:
    """Gives each test a directory, and closes what it has opened."""

    def setUp(self: Any) -> None:
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.made = 0

    def directory(self) -> Path:
        self.made += 1
        return Path(self.stack.enter_context(tempfile.TemporaryDirectory()))


def cpythons_mapping_tests(face: Face) -> type:
    """Return CPython's basic checks of a mapping, for a face."""
    mapping_tests = importlib.import_module("test.mapping_tests")

    def reference(self: Any) -> dict[Any, Any]:
        return {face.stored(face.key(text)): face.value(text) for text in ("1", "key1", "key2")}

    def empty(self: Any) -> Any:
        return face.make(self.stack, self.directory())

    left_out = RANGES if face.ordered else BUFFERS
    body = {"_reference": reference, "_empty_mapping": empty, **left_out}
    name = "TestCPythons_" + face.name.replace(" ", "_")
    return type(name, (InDirectory, mapping_tests.BasicTestMappingProtocol), body)


class AnyObjects(AnyKeySpillStore):
    """Any keys and values, as a dict has them, in a store."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        super().__init__(SpillStore(stack.enter_context(KVStore(directory / "a.kv", "process"))))

    def __getitem__(self, key: Any) -> Any:
        return pickle.loads(super().__getitem__(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, pickle.dumps(value))

    def setdefault(self, key: Any, default: Any = None) -> Any:
        return super().setdefault(key, default)


def cpythons_full_tests() -> type:
    mapping_tests = importlib.import_module("test.mapping_tests")

    class TestCPythonsOfDicts(InDirectory, mapping_tests.TestMappingProtocol):  # type: ignore[misc,name-defined]
        """The checks of a dict, with keys and values of all kinds."""

        def _empty_mapping(self) -> Any:
            return AnyObjects(self.stack, self.directory())

        test_constructor = None  # makes one of items: ours is made of a file
        test_fromkeys = None  # the same
        test_copy = None  # a file is copied by `snapshot`
        test_popitem = None  # copies; takes the last key, where ours takes the first
        test_setdefault = None  # wants the very object back, where ours is a copy from a file

    return TestCPythonsOfDicts


def cpythons_dbm_tests() -> type:
    test_dbm = importlib.import_module("test.test_dbm")

    class TestCPythonsOfDbm(test_dbm.AnyDBMTestCase, unittest.TestCase):  # type: ignore[misc,name-defined]
        """The checks of every module of dbm; `dbm.open` opens with ours."""

        module = SimpleNamespace(error=kvstore.error, open=opened)

        def setUp(self: Any) -> None:
            open_with_ours(self)
            self._dict = dict(self._dict)  # one of the checks changes it for all that follow
            super().setUp()

    return TestCPythonsOfDbm


def opened(file: Any, flag: Any = "r", mode: int = 0o666) -> Any:
    """Open a store as `dbm.open` does."""
    return kvstore.open(file, flag, mode, durability="process")


def open_with_ours(test: Any) -> None:
    """Let `dbm.open` open with ours, in a directory of its own, while a test runs."""
    patch = pytest.MonkeyPatch()
    test.addCleanup(patch.undo)
    patch.chdir(test.enterContext(tempfile.TemporaryDirectory()))
    patch.setattr(dbm, "open", opened)


def cpythons_shelve_tests() -> list[type]:
    test_shelve = importlib.import_module("test.test_shelve")
    mapping_tests = importlib.import_module("test.mapping_tests")

    class OfFiles:
        def setUp(self: Any) -> None:
            open_with_ours(self)
            super().setUp()  # type: ignore[misc]

    class TestCPythonsOfShelve(OfFiles, test_shelve.TestCase):  # type: ignore[misc,name-defined]
        """The checks of `shelve`, whose files are ours."""

    made: list[type] = [TestCPythonsOfShelve]
    for protocol in (0, pickle.HIGHEST_PROTOCOL):
        bases = (OfFiles, test_shelve.TestShelveFileBase, mapping_tests.BasicTestMappingProtocol)
        body = {"_args": {"protocol": protocol}, "dbm_mod": SimpleNamespace()}
        made.append(type(f"TestCPythonsOfShelves_{protocol}", bases, body))
    return made


def cpythons() -> list[type]:
    kinds = [cpythons_mapping_tests(face) for face in FACES]
    return [*kinds, cpythons_full_tests(), cpythons_dbm_tests(), *cpythons_shelve_tests()]


globals().update({kind.__name__: kind for kind in (cpythons() if HAS_CPYTHONS else [])})


# ---------------------------------------------------------------- dbm and shelve, in our words


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.kv"


def test_names_of_files_may_be_of_any_kind(path: Path) -> None:
    for name in (path, str(path), os.fsencode(path), NamedPath(os.fsencode(path))):
        with opened(name, "c") as db:
            db["a"] = "1"
        with kvstore.KVStore(name, flag="r") as store:
            assert dict(store) == {b"a": b"1"}
        kvstore.KVStore.text(name).close()


class NamedPath(os.PathLike[bytes]):
    def __init__(self, name: bytes) -> None:
        self._name = name

    def __fspath__(self) -> bytes:
        return self._name


def test_a_shelf_of_the_standard_library_keeps_its_things_in_one(path: Path) -> None:
    shelf: Any
    with shelve.Shelf(opened(path, "n"), writeback=True) as shelf:
        shelf["key"] = [1]
        shelf["key"].append(2)
        shelf["ä"] = {"x": None}
        assert len(shelf) == 2
    with shelve.Shelf(opened(path)) as shelf:
        assert dict(shelf) == {"key": [1, 2], "ä": {"x": None}}


def refused_calls(db: Any) -> list[Callable[[], Any]]:
    return [
        lambda: db["a"], lambda: db.get("a"), lambda: "a" in db, lambda: len(db), db.keys, db.items,
        lambda: list(db), lambda: db.__setitem__("a", "1"), lambda: db.__delitem__("a"), db.sync,
        lambda: db.setdefault("b", "1"), lambda: db.pop("a"), db.popitem, db.clear, db.check,
        lambda: db.update(a="1"), lambda: db.set("a", "1", 5), lambda: db.view("a"), db.stats,
        db.scan, db.transaction, db.purge, db.compact,
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(23))
def test_whatever_is_done_to_a_closed_one_is_an_error_of_dbm(path: Path, number: int) -> None:
    db = opened(path, "n")
    db["a"] = "1"
    db.close()
    calls = refused_calls(db)
    assert len(calls) == 23
    with pytest.raises(dbm.error) as raised:
        calls[number]()
    assert isinstance(raised.value, kvstore.error)
    assert isinstance(raised.value, OSError)
    assert "closed" in str(raised.value)


def test_what_is_refused_is_an_error_of_dbm_and_of_pmemheap(path: Path) -> None:
    from pmemheap import CorruptHeapError, OutOfSpaceError, UsageError  # noqa: PLC0415

    with pytest.raises(dbm.error):
        opened(path)
    with pytest.raises(kvstore.error):
        opened(path, "x")
    with opened(path, "n") as db:
        db["a"] = "1"
        with pytest.raises(dbm.error):
            opened(path, "w")
    with opened(path) as db:
        for call in (lambda: db.__setitem__("a", "2"), db.clear, lambda: db.__delitem__("a")):
            with pytest.raises(kvstore.error, match="read-only") as raised:
                call()
            assert isinstance(raised.value, UsageError)
        assert db.setdefault("a", "2") == b"1", "nothing is to be written"
        assert db.pop("none", None) is None
        with pytest.raises(KeyError):
            db.pop("none")
    with kvstore.open(path, "c", limit=4 << 20) as db:
        with pytest.raises(kvstore.error) as raised:
            db["large"] = bytes(8 << 20)
        assert isinstance(raised.value, OutOfSpaceError)
        with pytest.raises(ValueError, match="1024"):
            db["k" * 1025] = "1"
    path.write_bytes(b"x" * 10_000)
    with pytest.raises(dbm.error) as damaged:
        opened(path)
    assert isinstance(damaged.value, CorruptHeapError)


# ---------------------------------------------------------------- zict


def spills() -> list[Face]:
    return [face for face in FACES if face.name.startswith("spill")]


@pytest.fixture(params=spills(), ids=lambda face: face.name)
def spill(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as stack:
        yield request.param.make(stack, tmp_path)


@pytest.mark.slow
def test_zicts_checks_of_a_mapping(spill: Any) -> None:
    utils_test.check_mapping(spill)
    utils_test.check_bad_value_types(spill)
    if isinstance(spill, SpillStore):
        utils_test.check_bad_key_types(spill)
    utils_test.check_closing(spill)


@pytest.mark.slow
def test_zicts_checks_of_threads(spill: Any) -> None:
    utils_test.check_different_keys_threadsafe(spill)
    utils_test.check_same_key_threadsafe(spill)
    utils_test.check_mapping(spill)


@pytest.mark.slow
def test_zicts_checks_of_what_is_built_on_it(spill: Any) -> None:
    built: list[Callable[[Any], Any]] = [
        lambda below: zict.Buffer({}, below, n=2),
        lambda below: zict.Cache(below, {}),
        lambda below: zict.Func(bytes.swapcase, lambda data: bytes(data).swapcase(), below),
    ]
    kept = []  # one that is dropped closes what is below it
    for build in built:
        spill.clear()
        kept.append(build(spill))
        utils_test.check_mapping(kept[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dbm", "store", "map in memory", "texts"])
def test_zicts_checks_of_keys_and_values_that_cannot_be(name: str, tmp_path: Path) -> None:
    (face,) = (face for face in FACES if face.name == name)
    with ExitStack() as stack:
        of = face.make(stack, tmp_path)
        utils_test.check_bad_key_types(of)
        if face.key("x") == "x":
            utils_test.check_bad_value_types(of)


@pytest.mark.slow
def test_zicts_checks_of_threads_on_the_dbm_face(path: Path) -> None:
    with opened(path, "n") as db:
        utils_test.check_different_keys_threadsafe(db)
        utils_test.check_same_key_threadsafe(db)
