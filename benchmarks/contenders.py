"""Contenders: stores that are measured, each in a process of its own, which is asked for turns."""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from peers import PeerUnavailableError

__all__ = ["Contender", "Served"]


class Served(Protocol):
    """A store in its process, and what is asked of it."""

    def answer(self, asked: Any) -> Any:
        """Do it; PeerUnavailableError: the store cannot."""

    def close(self) -> None:
        """Close the store."""


class Contender:
    """A store in a process of its own.

    Parameters
    ----------
    opened : callable
        Takes `words` and a directory; returns a `Served`. A PeerUnavailableError or ValueError
        says why the store cannot be had.

    Raises
    ------
    PeerUnavailableError
        It cannot be had here; with what to install.
    """

    def __init__(self, opened: Callable[..., Served], *words: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(opened, words, theirs), daemon=True)
        self._process.start()
        theirs.close()
        refused = self._pipe.recv()
        if refused is not None:
            self._process.join()
            raise PeerUnavailableError(refused)

    def turn(self, asked: Any) -> Any:
        """Let it do what is asked, and return the answer.

        Raises
        ------
        PeerUnavailableError
            It cannot.
        """
        self._pipe.send(asked)
        answer = self._pipe.recv()
        if isinstance(answer, PeerUnavailableError):
            raise answer
        return answer

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(None)
        self._process.join()


def _serve(opened: Callable[..., Served], words: tuple[Any, ...], pipe: Connection) -> None:
    """Tell why a store cannot be had, or None; then answer until nothing more is asked."""
    with tempfile.TemporaryDirectory() as home:
        try:
            served = opened(*words, Path(home))
        except (PeerUnavailableError, ValueError) as refused:
            pipe.send(str(refused))
            return
        pipe.send(None)
        while (asked := pipe.recv()) is not None:
            try:
                pipe.send(served.answer(asked))
            except PeerUnavailableError as refused:
                pipe.send(refused)
        served.close()
