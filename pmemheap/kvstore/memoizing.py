"""Memoizing: results of functions in a store, found again by their arguments.

key    name of the function, b":", BLAKE2 of its pickled arguments
value  the pickled result
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import update_wrapper
from hashlib import blake2b
from typing import Any, Generic, ParamSpec, TypeVar

from pmemheap import OutOfSpaceError
from pmemheap.kvstore.substore import SubStore

__all__ = ["Memoized", "memoize"]

P = ParamSpec("P")
R = TypeVar("R")


class Memoized(Generic[P, R]):
    """A function whose results are kept; made by `memoize`.

    Attributes
    ----------
    __wrapped__ : callable
        The function itself.
    """

    __wrapped__: Callable[P, R]

    def __init__(  # noqa: PLR0913 -- options, by name
        self,
        function: Callable[P, R],
        store: SubStore,
        *,
        expire: float | None,
        tag: str | bytes | None,
        name: str | None,
        typed: bool,
    ) -> None:
        update_wrapper(self, function)
        self._store, self._expire, self._tag, self._typed = store, expire, tag, typed
        whole = name or f"{function.__module__}.{getattr(function, '__qualname__', function)}"
        self._begin = whole.encode() + b":"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result that is kept, or call the function and keep its result."""
        key = self.key(*args, **kwargs)
        found = self._store.get(key)
        if found is not None:
            kept: R = pickle.loads(found)
            return kept
        result = self.__wrapped__(*args, **kwargs)
        with suppress(OutOfSpaceError):  # the caller wants the result, kept or not
            self._store.set(key, pickle.dumps(result, 5), self._expire, self._tag)
        return result

    def key(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        """Return the key of a call."""
        given: tuple[Any, ...] = (args, sorted(kwargs.items()))
        if self._typed:
            given += ([type(each) for each in (*args, *dict(given[1]).values())],)
        return self._begin + blake2b(_pickled(given), digest_size=16).hexdigest().encode()

    def forget(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the result of a call; tell whether it was kept."""
        return self._store.delete(self.key(*args, **kwargs))


def _pickled(value: Any) -> bytes:
    """Pickle without references, so that equal arguments are equal bytes."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out, 5)
    pickler.fast = True
    pickler.dump(value)
    return out.getvalue()


def memoize(
    store: SubStore,
    *,
    expire: float | None = None,
    tag: str | bytes | None = None,
    name: str | None = None,
    typed: bool = False,
) -> Callable[[Callable[P, R]], Memoized[P, R]]:
    """Decorate a function: its results are kept in a store, and taken from there.

    Parameters
    ----------
    store : SubStore
        A store, or one that `KVStore.sub` makes. To unpickle is to run what the file says: only one
        that you trust.
    expire : float, optional
        Seconds for which a result is kept.
    tag : str or bytes, optional
        Of all results: `SubStore.evict_tag` forgets them together.
    name : str, optional
        What the keys begin with; module and name of the function if left out.
    typed : bool
        Whether ``f(1)`` and ``f(1.0)`` are two calls even where they are pickled alike.

    Returns
    -------
    callable
        The decorator. What it returns has `key` and `forget`.

    Notes
    -----
    Arguments and results can be pickled. Arguments that contain themselves are refused, and those
    with sets or dictionaries in another order are others. Two threads that miss at the same time
    both call the function. A result that the store has no room for is returned, and not kept.

    Examples
    --------
    >>> import tempfile
    >>> from pmemheap.kvstore import KVStore, memoize
    >>> home = tempfile.TemporaryDirectory()
    >>> store = KVStore(home.name + "/a.kv", "process")
    >>> @memoize(store, expire=3600, tag="squares")
    ... def square(number):
    ...     print("computed")
    ...     return number * number
    >>> square(4), square(4)
    computed
    (16, 16)
    >>> store.evict_tag("squares")
    1
    >>> store.close(); home.cleanup()
    """

    def decorate(function: Callable[P, R]) -> Memoized[P, R]:
        return Memoized(function, store, expire=expire, tag=tag, name=name, typed=typed)

    return decorate
