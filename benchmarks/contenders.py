"""Contenders: stores that are measured, each in a process of its own, which is asked for turns."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from typing import Any

from peers import PeerUnavailableError

__all__ = ["Contender"]


class Contender:
    """A store in a process of its own.

    Parameters
    ----------
    serve : callable
        Takes `words` and a pipe: tells why the store cannot be had, or None, then answers what it
        is asked until that is None.

    Raises
    ------
    PeerUnavailableError
        It cannot be had here; with what to install.
    """

    def __init__(self, serve: Callable[..., None], *words: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(*words, theirs), daemon=True)
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
