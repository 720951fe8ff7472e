"""Dataclasses of ours beside those of the standard library: one class body, made by both."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from typing import Any, ClassVar

import pytest

from pmemheap.dataclass import dataclass, field, replace
from pmemheap.heap.insight import ClassStats


def _point(decorator: Any, field: Any) -> Any:
    """Return a class with all that the two of a kind can do."""

    @decorator(frozen=True)
    class Point:
        unit: ClassVar[str] = "m"
        x: int
        y: int = 2
        seen: list[int] = field(default_factory=list, compare=False)
        name: str = field(default="", repr=False)
        total: int = field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "total", self.x + self.y)

    return Point


OURS = _point(dataclass, field)
THEIRS = _point(dataclasses.dataclass, dataclasses.field)
GIVEN: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}), ((1, 3), {}), ((), {"x": 1}), ((1,), {"name": "a"}), ((1, 2, [3], "b"), {}),
]  # fmt: skip
WRONG: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}), ((1, 2, [], "", 5), {}), ((1,), {"x": 2}), ((1,), {"total": 2}), ((), {"y": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("args", "named"), GIVEN)
def test_they_are_alike(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    ours, theirs = OURS(*args, **named), THEIRS(*args, **named)
    assert vars(ours) == vars(theirs)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert repr(ours) == repr(theirs)
    assert ours == OURS(*args, **named)
    assert hash(ours) == hash(theirs)
    assert ours != theirs
    for other in GIVEN:
        assert (ours == OURS(*other[0], **other[1])) == (theirs == THEIRS(*other[0], **other[1]))


@pytest.mark.parametrize(("args", "named"), WRONG)
def test_they_refuse_the_same_arguments(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    for each in (OURS, THEIRS):
        with pytest.raises(TypeError):
            each(*args, **named)


def test_each_object_has_its_own_default() -> None:
    OURS(1).seen.append(1)
    assert OURS(1).seen == []


def test_the_standard_library_knows_them() -> None:
    for ours, theirs in zip(dataclasses.fields(OURS), dataclasses.fields(THEIRS), strict=True):
        assert (ours.name, ours.init, ours.repr, ours.compare) == (
            theirs.name, theirs.init, theirs.repr, theirs.compare,
        )  # fmt: skip
    assert inspect.signature(OURS) == inspect.signature(THEIRS)
    assert OURS.__match_args__ == THEIRS.__match_args__
    assert dataclasses.replace(OURS(1), y=5) == replace(OURS(1), y=5) == OURS(1, 5)
    assert OURS.__dataclass_params__.frozen
    assert dataclasses.is_dataclass(OURS)


def test_what_is_frozen_cannot_be_changed() -> None:
    point = OURS(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="Point: 'x' cannot be changed"):
        point.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="Point: 'x' cannot be changed"):
        del point.x
    assert point.x == 1


def test_what_is_not_frozen_can_be_changed_and_has_no_hash() -> None:
    @dataclass()
    class Count:
        number: int = 0

    count = Count()
    count.number += 1
    assert count == Count(1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(count)


def test_without_eq_objects_are_themselves_alone() -> None:
    @dataclass(eq=False)
    class Thing:
        number: int = 0

    thing = Thing()
    assert thing != Thing()
    assert thing in {thing}


def test_a_class_may_add_fields_to_those_of_another() -> None:
    @dataclass(frozen=True)
    class Base:
        a: int

    @dataclass(frozen=True)
    class Derived(Base):
        b: int = 2

    class Own(Derived):
        def __init__(self, both: int) -> None:
            super().__init__(both, both)

    assert repr(Derived(1)).endswith("Derived(a=1, b=2)")
    assert Derived(1) != Base(1)
    assert (Own(3).a, Own(3).b) == (3, 3)
    assert list(inspect.signature(Own).parameters) == ["both"]
    assert [each.name for each in dataclasses.fields(Derived)] == ["a", "b"]


def test_methods_of_the_class_itself_stay() -> None:
    @dataclass(frozen=True)
    class Named:
        name: str

        def __repr__(self) -> str:
            return f"<{self.name}>"

    assert repr(Named("a")) == "<a>"


def test_objects_travel() -> None:
    stats = ClassStats(16, 1, 1, 0.5, 1, 10.0)
    assert pickle.loads(pickle.dumps(stats)) == copy.deepcopy(stats) == stats


def test_a_heap_needs_nothing_of_what_they_do_without() -> None:
    """An import of pmemheap brings few modules, a first heap none that are slow."""
    script = """
import sys
before = {*sys.modules}
import pmemheap
imported = {*sys.modules} - before
with pmemheap.Heap.anonymous() as heap:
    heap.free(heap.malloc(100))
print(len(imported))
print(*({*sys.modules} - before))
"""
    command = [sys.executable, "-I", "-c", script]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    count, names = told.splitlines()
    slow = {"dataclasses", "inspect", "platform", "secrets", "hashlib", "uuid", "html", "pickle"}
    assert not slow & {*names.split()}
    assert int(count) <= 50


def test_what_the_standard_library_asks_is_made_once() -> None:
    made = _point(dataclass, field)
    assert made.__dataclass_fields__ is made.__dataclass_fields__
    assert made.__dataclass_params__ is made.__dataclass_params__
