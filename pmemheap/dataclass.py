"""Dataclasses that cost little to make: a program that starts makes dozens.

The standard library compiles the methods of each class, 0.2 to 0.5 ms, and imports `inspect`, `ast`
and more to do so. `dataclass`, `field` and `replace` here do the same with closures, 0.02 ms. What
they make is a dataclass to others too: `dataclasses.fields` and `asdict` know it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from dataclasses import field as field  # noqa: PLC0414 -- passed on

_T = TypeVar("_T")
_MISSING: Final = object()


class _Field:
    """A field of a class: how its value is found, and what it counts for."""

    def __init__(
        self,
        *,
        default: Any = _MISSING,
        default_factory: Any = _MISSING,
        init: bool = True,
        repr: bool = True,  # noqa: A002 -- as in the standard library
        compare: bool = True,
    ) -> None:
        self.default = default
        self.default_factory = default_factory
        self.init = init
        self.repr = repr
        self.compare = compare
        self.annotation: Any = None

    def standard(self) -> Any:
        """Return the same field of the standard library."""
        import dataclasses  # noqa: PLC0415 -- costs what this module saves

        given = {"default": self.default, "default_factory": self.default_factory}
        given = {name: each for name, each in given.items() if each is not _MISSING}
        return dataclasses.field(init=self.init, repr=self.repr, compare=self.compare, **given)


if not TYPE_CHECKING:
    field = _Field


def replace(of: _T, /, **changes: Any) -> _T:
    """Return a copy of an object with other values in some of its fields."""
    given = changes
    for name in of.__match_args__:  # type: ignore[attr-defined]
        if name not in changes:
            given[name] = getattr(of, name)
    return type(of)(**given)


@dataclass_transform(field_specifiers=(field,))
def dataclass(*, frozen: bool = False, eq: bool = True) -> Callable[[type[_T]], type[_T]]:
    """Return a decorator that makes a dataclass of a class."""

    def decorate(cls: type[_T]) -> type[_T]:
        fields = {**getattr(cls, "__fields__", {}), **_own_fields(cls)}
        made: dict[str, Any] = {
            "__fields__": fields,
            "__init__": _initializer(cls, fields),
            "__repr__": _representation(fields),
            "__match_args__": tuple(name for name, each in fields.items() if each.init),
            "__replace__": replace,
        }
        made |= {name: _Asked(cls, name, frozen=frozen) for name in _Asked.NAMES}
        if eq:
            made |= _comparison(fields, frozen=frozen)
        if frozen:
            made |= {"__setattr__": _refuse_change, "__delattr__": _refuse_change}
        for name, value in made.items():
            if name not in vars(cls):
                setattr(cls, name, value)
        return cls

    return decorate


def _own_fields(cls: type) -> dict[str, _Field]:
    """Return the fields that a class adds; what has a default in it keeps it as its attribute."""
    found = {}
    for name, annotation in cls.__annotations__.items():
        if str(annotation).startswith("ClassVar"):
            continue
        value = vars(cls).get(name, _MISSING)
        if isinstance(value, _Field):
            delattr(cls, name)
            if value.default is not _MISSING:
                setattr(cls, name, value.default)
        found[name] = value if isinstance(value, _Field) else _Field(default=value)
        found[name].annotation = annotation
    return found


def _initializer(cls: type, fields: dict[str, _Field]) -> Callable[..., None]:
    """Return ``__init__`` of a class with these fields."""
    names = {name: each for name, each in fields.items() if each.init}
    defaults = {name: each.default for name, each in names.items() if each.default is not _MISSING}
    factories = {
        name: each.default_factory
        for name, each in names.items()
        if each.default_factory is not _MISSING
    }
    has_more = hasattr(cls, "__post_init__")
    count = len(names)

    def __init__(self: Any, *args: Any, **named: Any) -> None:  # noqa: N807
        if len(args) == count and not named:
            self.__dict__.update(zip(names, args, strict=True))
        else:
            self.__dict__.update(completed(self, args, named))
        if has_more:
            self.__post_init__()

    def completed(self: Any, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """Return the values of all fields."""
        given = dict(zip(names, args, strict=False)) | named
        is_once = len(given) == len(args) + len(named)
        if len(given) != count:
            given = defaults | given
            for name, make in factories.items():
                if name not in given:
                    given[name] = make()
        if not is_once or given.keys() != names.keys():
            raise TypeError(_fault(type(self).__name__, names, args, named))
        return given

    return __init__


def _fault(cls: str, names: Iterable[str], args: tuple[Any, ...], named: dict[str, Any]) -> str:
    """Return what is wrong with the arguments of a class."""
    found = [f"{len(args)} without a name"] * bool(args) + [*named]
    return f"{cls}: {', '.join(names)} expected, once each, {', '.join(found) or 'nothing'} found"


def _representation(fields: dict[str, _Field]) -> Callable[[Any], str]:
    shown = tuple(name for name, each in fields.items() if each.repr)

    def __repr__(self: Any) -> str:  # noqa: N807
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__qualname__}({values})"

    return __repr__


def _comparison(fields: dict[str, _Field], *, frozen: bool) -> dict[str, Any]:
    """Return ``__eq__`` of objects of one class, and ``__hash__`` where they cannot change."""
    compared = [name for name, each in fields.items() if each.compare]
    values: Callable[[Any], Any] = attrgetter(*compared) if compared else repr

    def __eq__(self: Any, other: object) -> bool:  # noqa: N807
        return values(self) == values(other) if type(other) is type(self) else NotImplemented

    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(values(self))

    return {"__eq__": __eq__, "__hash__": __hash__ if frozen else None}


def _refuse_change(self: Any, name: str, *_value: object) -> None:
    from dataclasses import FrozenInstanceError  # noqa: PLC0415 -- costs what this module saves

    raise FrozenInstanceError(f"{type(self).__name__}: {name!r} cannot be changed")


class _Asked:
    """What the standard library asks a dataclass: made of it when it asks for the first time."""

    NAMES: Final = ("__dataclass_fields__", "__dataclass_params__", "__signature__")

    def __init__(self, owner: type, name: str, *, frozen: bool) -> None:
        self._owner = owner
        self._name = name
        self._frozen = frozen

    def __get__(self, _of: object, asked: Any) -> Any:
        if self._name == "__signature__" and asked.__init__ is not vars(self._owner)["__init__"]:
            raise AttributeError(self._name)  # a class of its own way to be made
        twin = self._twin()
        if self._name == "__signature__":
            from inspect import signature  # noqa: PLC0415 -- costs what this module saves

            return signature(twin)
        found = getattr(twin, self._name)
        setattr(self._owner, self._name, found)
        return found

    def _twin(self) -> type:
        """Return a dataclass of the standard library with the same fields."""
        import dataclasses  # noqa: PLC0415 -- costs what this module saves

        fields: dict[str, _Field] = self._owner.__fields__  # type: ignore[attr-defined]
        body: dict[str, Any] = {name: each.standard() for name, each in fields.items()}
        body["__annotations__"] = {name: each.annotation for name, each in fields.items()}
        make = dataclasses.dataclass(frozen=self._frozen, eq=False)
        return make(type(self._owner.__name__, (), body))
