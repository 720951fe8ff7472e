"""What every mapping of ours promises, as `dict` has it: each check runs on each face."""

from __future__ import annotations

import threading
from collections.abc import (
    Callable,
    ItemsView,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mapping_faces import FACES, Face

from pmemheap import UsageError

TEXTS = ["apple", "fig", "pear", "plum"]


class Filled:
    """A mapping of one face, and the dict that says what it has."""

    def __init__(self, face: Face, of: Any) -> None:
        self.face = face
        self.of = of
        self.model: dict[Any, Any] = {}
        for text in TEXTS:
            self.of[face.key(text)] = self.model[face.key(text)] = face.value(text.upper())

    @property
    def stored(self) -> dict[Any, Any]:
        """The model, with the keys as they come out."""
        return {self.face.stored(key): value for key, value in self.model.items()}

    def agree(self) -> None:
        assert dict(self.of) == self.stored
        assert len(self.of) == len(self.model)
        assert all(key in self.of and self.of[key] == self.model[key] for key in self.model)


def idfn(face: Face) -> str:
    return face.name


@pytest.fixture(params=FACES, ids=idfn)
def face(request: pytest.FixtureRequest) -> Face:
    found: Face = request.param
    return found


@pytest.fixture
def empty(face: Face, tmp_path: Path) -> Iterator[MutableMapping[Any, Any]]:
    with ExitStack() as stack:
        yield face.make(stack, tmp_path)


@pytest.fixture
def filled(face: Face, empty: MutableMapping[Any, Any]) -> Filled:
    return Filled(face, empty)


ordered = pytest.mark.parametrize(
    "face", [face for face in FACES if face.ordered], ids=idfn, indirect=True
)
with_views = pytest.mark.parametrize(
    "face", [face for face in FACES if not face.lists], ids=idfn, indirect=True
)
ranged = pytest.mark.parametrize(
    "face", [face for face in FACES if face.ordered and not face.lists], ids=idfn, indirect=True
)
choosy = pytest.mark.parametrize(
    "face", [face for face in FACES if not face.takes_any_key], ids=idfn, indirect=True
)


# ---------------------------------------------------------------- reading


def test_an_empty_one_is_empty(empty: MutableMapping[Any, Any], face: Face) -> None:
    assert isinstance(empty, MutableMapping)
    assert not empty
    assert len(empty) == 0
    assert list(empty) == list(empty.keys()) == list(empty.values()) == list(empty.items()) == []
    assert empty == {}
    assert {} == empty  # noqa: SIM300 -- from the other side
    assert face.key("fig") not in empty
    with pytest.raises(KeyError):
        empty.popitem()


def test_what_is_there_is_found_and_what_is_not_is_not(filled: Filled) -> None:
    filled.agree()
    of, missing = filled.of, filled.face.key("kiwi")
    assert of.get(missing) is None
    assert of.get(missing, 3) == 3
    assert missing not in of
    for call in (of.__getitem__, of.__delitem__, of.pop):
        with pytest.raises(KeyError) as raised:
            call(missing)
        assert raised.value.args in {(missing,), (filled.face.stored(missing),)}
    filled.agree()


def test_it_equals_a_mapping_with_the_same_items(filled: Filled) -> None:
    assert filled.of == filled.stored
    assert filled.stored == filled.of
    filled.of[filled.face.key("fig")] = filled.face.value("other")
    assert filled.of != filled.stored
    assert filled.of != list(filled.stored)


@ordered
def test_it_can_be_walked_from_both_ends(filled: Filled) -> None:
    stored = list(filled.stored)
    assert list(filled.of) == stored
    assert list(reversed(filled.of)) == stored[::-1]


# ---------------------------------------------------------------- views


@with_views
def test_keys_values_and_items_are_views(filled: Filled) -> None:
    of, key, value = filled.of, filled.face.key("fig"), filled.face.value("FIG")
    views: list[Any] = [of.keys(), of.values(), of.items()]
    keys, values, items = views
    assert (type(keys), type(values), type(items)) != (list, list, list)
    assert isinstance(keys, KeysView)
    assert isinstance(values, ValuesView)
    assert isinstance(items, ItemsView)
    assert (len(keys), len(values), len(items)) == (4, 4, 4)
    assert key in keys
    assert filled.face.key("kiwi") not in keys
    assert value in values
    assert filled.face.value("KIWI") not in values
    assert (key, value) in items
    assert (key, filled.face.value("KIWI")) not in items
    if filled.face.ordered:  # else it is a view of collections.abc, which asks for a pair
        others: list[Any] = [5, (), (key,), (key, value, value), [key, value]]
        assert not any(other in items for other in others)
    del of[key]
    of[filled.face.key("kiwi")] = value
    assert key not in keys
    assert filled.face.key("kiwi") in keys, "a view follows the mapping"
    assert sorted(keys) == sorted(of)
    assert type(keys).__name__ in repr(keys)


@with_views
def test_views_of_keys_and_items_are_sets(filled: Filled) -> None:
    of, stored = filled.of, filled.stored
    some = {filled.face.key("fig"), filled.face.key("kiwi")}
    assert of.keys() == set(stored)
    assert of.keys() & some == stored.keys() & some
    assert some & of.keys() == stored.keys() & some
    assert of.keys() | some == stored.keys() | some
    assert of.keys() - some == stored.keys() - some
    assert some - of.keys() == some - stored.keys()
    assert of.keys() ^ some == stored.keys() ^ some
    assert of.keys() <= stored.keys() | some
    assert not of.keys() <= some
    assert of.keys() >= {filled.face.key("fig")}
    assert of.keys().isdisjoint([filled.face.key("kiwi")])
    if not filled.face.ordered:
        return  # its values are bytearrays, which no set has
    one = {item for item in stored.items() if item[0] in some}
    assert of.items() >= one
    assert of.items() & one == one
    assert of.items() - one == stored.items() - one
    assert of.items() != one


@ranged
def test_a_view_can_be_a_range(filled: Filled) -> None:
    of: Any = filled.of
    key = filled.face.key
    for low, high in [("b", "pears"), ("fig", None), (None, "fig"), ("x", None), ("pear", "fig")]:
        start, stop = (None if text is None else key(text) for text in (low, high))
        inside = [text for text in TEXTS if (low or "") <= text < (high or "~")]
        expected = [key(text) for text in inside]
        assert list(of.keys(start, stop)) == expected
        assert len(of.keys(start, stop)) == len(of.values(start, stop)) == len(expected)
        assert list(of.keys(start, stop, reverse=True)) == expected[::-1]
        assert list(reversed(of.keys(start, stop))) == expected[::-1]
        assert list(reversed(of.keys(start, stop, reverse=True))) == expected
        assert list(of.items(start, stop)) == [(one, of[one]) for one in expected]
        assert list(reversed(of.values(start, stop))) == [of[one] for one in expected[::-1]]
        assert of.keys(start, stop) == set(expected)
        for text in TEXTS:
            assert (key(text) in of.keys(start, stop)) == (text in inside)
            assert ((key(text), of[key(text)]) in of.items(start, stop)) == (text in inside)
    assert "fig" in repr(of.keys(key("fig")))


@ranged
def test_a_view_can_be_asked_for_its_next_element(filled: Filled) -> None:
    of: Any = filled.of
    stored = list(filled.stored.items())
    items, others = of.items(), of.items()
    assert [next(items), next(others), next(items)] == [stored[0], stored[0], stored[1]]
    assert list(items) == stored[2:], "it goes on"
    assert next(items, None) is None
    assert list(of.items()) == stored, "another one is fresh"
    assert next(of.keys(reverse=True)) == stored[-1][0]


@pytest.mark.parametrize("face", [face for face in FACES if face.lists], ids=idfn, indirect=True)
def test_keys_values_and_items_are_lists_as_those_of_dbm(filled: Filled) -> None:
    assert filled.of.keys() == list(filled.stored)
    assert filled.of.values() == list(filled.stored.values())
    assert filled.of.items() == list(filled.stored.items())


# ---------------------------------------------------------------- update


class HasKeys:
    """What `dict.update` takes as a mapping: it has `keys`, and is nothing else."""

    def __init__(self, of: dict[Any, Any]) -> None:
        self._of = of

    def keys(self) -> Iterator[Any]:
        return iter(self._of)

    def __getitem__(self, key: Any) -> Any:
        return self._of[key]


class IterableHasKeys(HasKeys):
    """The same; its keys, taken for pairs, would be keys of one character."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self._of)


@pytest.mark.parametrize(
    "source",
    [dict, HasKeys, IterableHasKeys, lambda of: list(of.items()), lambda of: iter(of.items()),
     lambda of: of.items()],
    ids=["mapping", "keys alone", "keys and iter", "list of pairs", "iterator of pairs", "items"],
)  # fmt: skip
def test_update_takes_what_that_of_dict_takes(
    filled: Filled, source: Callable[[dict[Any, Any]], Any]
) -> None:
    face = filled.face
    more = {face.key("ab"): face.value("1"), face.key("fig"): face.value("2")}
    filled.of.update(source(more))
    filled.model.update(source(more))
    filled.agree()


def test_update_takes_nothing_and_itself(filled: Filled) -> None:
    filled.of.update()
    filled.of.update({})
    filled.of.update(filled.of)
    filled.agree()


def test_update_takes_names_where_they_are_keys(filled: Filled) -> None:
    if filled.face.named:
        filled.of.update({filled.face.key("a"): filled.face.value("1")}, b=filled.face.value("2"))
        filled.model.update({"a": filled.face.value("1"), "b": filled.face.value("2")})
    elif not filled.face.takes_any_key:
        with pytest.raises(TypeError, match="b"):
            filled.of.update({filled.face.key("a"): filled.face.value("1")}, b=b"2")
    filled.agree()


class FailingKeys:
    def keys(self) -> Any:
        raise LookupError


class FailingItems:
    def __init__(self, face: Face) -> None:
        self._first = face.key("a")
        self._value = face.value("1")

    def keys(self) -> Iterator[Any]:
        yield self._first
        raise LookupError

    def __getitem__(self, key: Any) -> Any:
        return self._value


@pytest.mark.parametrize(
    ("source", "error"),
    [(lambda _: 42, TypeError), (lambda face: [(face.key("a"),)], ValueError),
     (lambda face: [(face.key("a"), face.value("1"), 3)], ValueError),
     (lambda _: FailingKeys(), LookupError), (FailingItems, LookupError)],
    ids=["number", "singles", "triples", "keys fail", "items fail"],
)  # fmt: skip
def test_an_update_that_raises_has_changed_nothing(
    filled: Filled, source: Callable[[Face], Any], error: type[Exception]
) -> None:
    if filled.face.takes_any_key and source is FailingItems:
        return  # each pair is stored by itself there, as in a dict
    with pytest.raises(error):
        filled.of.update(source(filled.face))
    filled.agree()


# ---------------------------------------------------------------- taking out, putting in


def test_pop_takes_out(filled: Filled) -> None:
    key, missing = filled.face.key("fig"), filled.face.key("kiwi")
    assert filled.of.pop(key) == filled.model.pop(key)
    assert filled.of.pop(key, 7) == 7
    assert filled.of.pop(missing, None) is None
    filled.agree()


def test_popitem_takes_all_out_one_by_one(filled: Filled) -> None:
    seen = {}
    for _ in TEXTS:
        key, value = filled.of.popitem()
        assert key not in filled.of
        seen[key] = value
    assert seen == filled.stored
    with pytest.raises(KeyError):
        filled.of.popitem()


def test_setdefault_is_alike_everywhere(filled: Filled) -> None:
    face, of = filled.face, filled.of
    assert of.setdefault(face.key("fig"), face.value("other")) == face.value("FIG")
    assert of.setdefault(face.key("fig")) == face.value("FIG")
    assert of.setdefault(face.key("kiwi"), face.value("9")) == face.value("9")
    filled.model[face.key("kiwi")] = face.value("9")
    if face.default is TypeError:
        with pytest.raises(TypeError):
            of.setdefault(face.key("last"))
    else:
        assert of.setdefault(face.key("last")) == face.default
        filled.model[face.key("last")] = face.default
    filled.agree()


def test_clear_removes_everything(filled: Filled) -> None:
    filled.of.clear()
    filled.model.clear()
    filled.agree()
    with pytest.raises(TypeError):
        filled.of.clear(None)


# ---------------------------------------------------------------- keys and values of other kinds


@choosy
@pytest.mark.parametrize(
    "bad", [object(), 5, None, 1.5, ("a",)], ids=lambda bad: type(bad).__name__
)
def test_a_key_that_cannot_be_is_not_there(filled: Filled, bad: Any) -> None:
    of, value = filled.of, filled.face.value("1")
    assert bad not in of
    assert bad not in of.keys()  # noqa: SIM118 -- another method
    assert (bad, value) not in of.items()
    assert of.get(bad) is None
    assert of.get(bad, 3) == 3
    assert of.pop(bad, 3) == 3
    for call in (of.__getitem__, of.__delitem__, of.pop):
        with pytest.raises(KeyError) as raised:
            call(bad)
        assert raised.value.args == (bad,)
    stores: list[Callable[[], object]] = [
        lambda: of.__setitem__(bad, value),
        lambda: of.setdefault(bad, value),
        lambda: of.update({bad: value}),
        lambda: of.update([(filled.face.key("a"), value), (bad, value)]),
    ]
    for store in stores:
        with pytest.raises(TypeError, match=r"key: (bytes|str) expected") as refused:
            store()
        assert repr(bad) in str(refused.value), "it is named"
    filled.agree()


@choosy
def test_a_text_of_no_utf8_is_not_there(filled: Filled) -> None:
    if isinstance(filled.face.key("a"), str):
        assert "\ud800" not in filled.of
        assert filled.of.get("\ud800") is None
        with pytest.raises(KeyError):
            del filled.of["\ud800"]
        with pytest.raises((UnicodeEncodeError, UsageError)):
            filled.of["\ud800"] = filled.face.value("1")
    filled.agree()


def test_a_value_that_cannot_be_is_refused(filled: Filled) -> None:
    if not filled.face.takes_any_value:
        bad = object()
        assert bad not in filled.of.values()
        assert (filled.face.key("fig"), bad) not in filled.of.items()
        stores: list[Callable[[], object]] = [
            lambda: filled.of.__setitem__(filled.face.key("fig"), bad),
            lambda: filled.of.setdefault(filled.face.key("kiwi"), bad),
            lambda: filled.of.update({filled.face.key("a"): bad}),
        ]
        for store in stores:
            with pytest.raises(TypeError, match="expected"):
                store()
    filled.agree()


# ---------------------------------------------------------------- threads


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls at the same time; return their results."""
    barrier = threading.Barrier(len(calls))

    def begun(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(begun, call) for call in calls]]


def test_setdefault_and_pop_are_one_step_beside_other_threads(
    face: Face, empty: MutableMapping[Any, Any]
) -> None:
    key = face.key("fig")
    values = [face.value(str(number)) for number in range(4)]
    for _ in range(20):
        found = together(*(lambda one=one: empty.setdefault(key, one) for one in values))
        assert found == [empty[key]] * 4
        taken = together(*[lambda: empty.pop(key, None)] * 4)
        assert sorted(one is not None for one in taken) == [False, False, False, True]


def test_threads_do_not_disturb_each_other(face: Face, empty: MutableMapping[Any, Any]) -> None:
    def work(text: str) -> None:
        key, value = face.key(text), face.value(text)
        for _ in range(20):
            empty[key] = value
            assert empty[key] == value
            assert face.stored(key) in empty.keys()  # noqa: SIM118 -- another method
            del empty[key]
            assert key not in empty
            assert 0 <= len(empty) <= 3

    together(*(lambda text=text: work(text) for text in "abc"))
    assert not empty


def test_a_mapping_of_another_kind_is_equal_too(filled: Filled) -> None:
    class Other(Mapping[Any, Any]):
        def __getitem__(self, key: Any) -> Any:
            return filled.stored[key]

        def __iter__(self) -> Iterator[Any]:
            return iter(filled.stored)

        def __len__(self) -> int:
            return len(filled.stored)

    assert filled.of == Other()
    assert Other() == filled.of
