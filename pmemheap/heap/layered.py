"""Layered: the layers of a heap or arena, put on and taken off while it is in use.

    heap.malloc ──► top layer ──► its upstream ──► ... ──► the heap
    a block is made, freed, moved (by whomever) ──► counts, tracks, records

Python decides which layers there are; C goes through them. A layer owns no block, so it may come
and go at any time; a call that is in the middle of one that goes comes to its end as it began.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Generic, TypeVar

from pmemheap import native
from pmemheap.errors import UsageError
from pmemheap.layers.guard import Guard
from pmemheap.native.constants import State, StrategyCode

if TYPE_CHECKING:
    from pmemheap.heap.space import Space
    from pmemheap.protocols import Layer

__all__ = ["Installation", "Layers"]

L = TypeVar("L", bound="Layer")

Told = native.CountCore | native.TrackCore | native.RecordCore

_CALLS = ("malloc", "free", "usable_size")
_TOLD = (native.CountCore, native.TrackCore, native.RecordCore)
_BELOW = (*_TOLD, Guard)
"""Those to whom no call goes: the core does what they are there for."""


class Installation(Generic[L]):
    """A layer on a heap; a context manager that takes it off. It keeps the heap.

    Attributes
    ----------
    layer : Layer
        The layer.
    """

    __slots__ = ("_heap", "_layers", "layer")

    layer: L

    def __init__(self, heap: object, layers: Layers, layer: L) -> None:
        self._heap, self._layers, self.layer = heap, layers, layer

    def __enter__(self) -> L:
        """Return the layer."""
        return self.layer

    def __exit__(self, *_: object) -> None:
        """Take the layer off, if nobody else has."""
        self._layers.take_off(self.layer)

    def __repr__(self) -> str:
        """Show the layer."""
        return f"<Installation of {self.layer!r}>"


class Layers:
    """The layers of one arena, top first."""

    __slots__ = ("_guard", "_space", "_upstreams")

    def __init__(self, space: Space) -> None:
        self._space = space
        self._upstreams: tuple[native.Upstream, ...] = ()
        self._guard: Guard | None = None

    def all(self) -> tuple[Layer, ...]:
        """Return them."""
        return tuple(upstream.layer for upstream in self._upstreams)

    @property
    def told(self) -> tuple[Told, ...]:
        """Those whom C tells of its blocks: its own, and of a named arena those of the heap."""
        own = tuple(layer for layer in self.all() if isinstance(layer, _TOLD))
        default = self._space.shared.default
        return own if self._space is default else own + default.layers.told

    def put_on(self, layer: Layer) -> None:
        """Put a layer on top; under the lock of the heap."""
        _require_layer(layer)
        if isinstance(layer, Guard):
            _require_guardable(self._space)
        is_called = not isinstance(layer, _BELOW)
        upstream = native.Upstream(self._space.core, layer, is_called)
        layer.upstream = upstream
        self._set((upstream, *self._upstreams))

    def take_off(self, layer: Layer) -> bool:
        """Take a layer off; tell whether it was there."""
        if self._space.core.state == State.FORKED:  # where a lock may be held by nobody
            return self._taken_off(layer)
        found: list[bool] = []
        self._space.as_owner(lambda: found.append(self._taken_off(layer)))
        if isinstance(layer, native.RecordCore):
            layer._flush()  # private: of the record, whose file is whole then
        return found[0]

    def _taken_off(self, layer: Layer) -> bool:
        rest = tuple(upstream for upstream in self._upstreams if upstream.layer is not layer)
        was_there = len(rest) < len(self._upstreams)
        if was_there:
            self._set(rest)
        return was_there

    def _set(self, upstreams: tuple[native.Upstream, ...]) -> None:
        self._upstreams = upstreams
        self._set_guard(next((one for one in self.all() if isinstance(one, Guard)), None))
        shared = self._space.shared
        others = shared.arenas.spaces() if self._space is shared.default else ()
        for space in (self._space, *others):
            space.layers.apply()
        if self._space is shared.default:
            self.tell_of_scratch(shared.arenas.scratch)

    def _set_guard(self, guard: Guard | None) -> None:
        """Let another one guard blocks: the top one."""
        before, self._guard = self._guard, guard
        if guard is before:
            return
        if guard is not None:
            guard._begin(self._space.core)  # private: of the guard, whose heap it is
        elif before is not None:
            before._end()  # private: as above

    def tell_of_scratch(self, scratch: Space | None) -> None:
        """Have those whom C tells of the heap told of its scratch regions too.

        No file of sites names their blocks: another run has others at the same offsets.
        """
        told = self.told
        for layer in told:
            if isinstance(layer, native.TrackCore):
                layer._leave_out(0 if scratch is None else scratch.index)  # private: of the track
        if scratch is not None:
            scratch.core.set_layers((), told)

    def apply(self) -> None:
        """Tell C."""
        told = self.told
        for layer in told:
            if not isinstance(layer, native.CountCore):
                for code in _codes(self.all()):
                    layer._pass_over(code)  # private: a layer is no caller
        self._space.core.set_layers(self._upstreams, told)


def _codes(layers: Iterable[Layer]) -> Iterator[CodeType]:
    """Yield the code of the methods of layers that are written in Python."""
    for layer in layers:
        for kind in type(layer).__mro__:
            for method in vars(kind).values():
                if isinstance(method, FunctionType):
                    yield method.__code__


def _require_guardable(space: Space) -> None:
    if space.shared.file is not None:
        raise UsageError(
            f"install: Guard: a heap in private memory expected, {space.name} lies in a file"
        )
    if space.strategy.code != StrategyCode.GENERAL:
        raise UsageError(
            f"install: Guard: an arena of General expected, {space.name} has {space.strategy!r}"
        )


def _require_layer(layer: object) -> None:
    for name in _CALLS:
        if not callable(getattr(type(layer), name, None)):
            raise UsageError(
                f"install: a layer with malloc, free and usable_size expected, {layer!r} has no "
                f"{name!r}"
            )
    upstream = getattr(layer, "upstream", None)
    if upstream is None:
        return
    if not isinstance(upstream, native.Upstream):
        raise UsageError(
            f"install: a layer over nothing expected, {layer!r} stands over {upstream!r}"
        )
    if upstream.is_installed:
        raise UsageError(f"install: a layer that is on no heap expected, {layer!r} is on one")
