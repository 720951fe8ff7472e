"""Turns: two processes at one heap file that run when they are told to, and for so many steps.

    Party                                  its process
    go(17)     ──── word: 17 ────►         runs; stands before step 17
               ◄─── word: 17 << 1 ────
    go(END)    ──── word: END ────►        runs to the end of its part
               ◄─── word: DONE ────

A step is a store to the file, a look at what the other one stores, or a system call of the core.
"""

from __future__ import annotations

import os
import signal
import struct
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

from pmemheap import native

__all__ = ["END", "Part", "Party", "Turns"]

END = 2**64 - 1
"""More steps than there are."""
_DONE, _FAILED = 2**64 - 1, 2**64 - 2
_ASK, _QUIT = 2**64 - 2, 2**64 - 3
_WORD = struct.Struct("<Q")
_WAITS = 1


class Turns:
    """What one of the processes has of the other end: it makes its part when it is told to."""

    def __init__(self, path: Path, told: int, granted: int, link: Connection) -> None:
        self._told, self._granted, self._link = told, granted, link
        with open(path, "rb") as file:
            native.tape_turns(file.fileno(), told, granted)  # before the file is mapped

    def serve(self, turn: Callable[[], object], ask: Callable[[], object] = bool) -> None:
        """Make `turn` each time that steps are granted, and say what came of it, until the end."""
        self.say(None)
        while (word := _read(self._granted)) != _QUIT:
            if word == _ASK:
                self._link.send(ask())
                continue
            native.tape_hand_at(word)
            found = turn()
            native.tape_hand_at(0)
            self.say(found)

    def say(self, found: object) -> None:
        """Say that something is done, and what came of it."""
        _write(self._told, _DONE)
        self._link.send(found)

    def fail(self) -> None:
        """Say why the process ends."""
        native.tape_hand_at(0)
        with suppress(OSError):
            _write(self._told, _FAILED)
            self._link.send(traceback.format_exc())


Part = Callable[[Turns], None]


def _read(fd: int) -> int:
    word: int = _WORD.unpack(os.read(fd, _WORD.size))[0]
    return word


def _write(fd: int, word: int) -> None:
    os.write(fd, _WORD.pack(word))


class Party:
    """A process that makes its part when it is told to; it has not begun, stands, or is done.

    Attributes
    ----------
    steps : int
        That it has made of its part.
    has_begun, is_done, waits : bool
        Of its part; `waits`: it cannot go on before the other one has.
    found : object
        What came of the part that is done.
    """

    _open: ClassVar[set[int]] = set()
    """Descriptors of all parties: a process with those of another one would outlive this one."""

    def __init__(self, path: Path, part: Part) -> None:
        self._is_gone = False
        told, granted = os.pipe(), os.pipe()
        self._told, self._granted = told[0], granted[1]
        self._link, link = Pipe()
        self._open.update((self._told, self._granted, self._link.fileno()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads
            self.pid: int = os.fork()
        if self.pid == 0:
            for fd in self._open:
                os.close(fd)
            _be(path, part, told[1], granted[0], link)
        link.close()
        os.close(told[1])
        os.close(granted[0])
        self._listen()
        self.renew()

    def renew(self) -> None:
        """Be about to begin."""
        self.steps: int = 0
        self.has_begun: bool = False
        self.is_done: bool = False
        self.waits: bool = False
        self.found: Any = None

    def go(self, steps: int) -> None:
        """Make so many steps more, or what there is of them.

        Raises
        ------
        AssertionError
            The process failed, with its traceback.
        """
        self.has_begun, self.waits = True, False
        _write(self._granted, min(self.steps + steps, END))
        self._listen()

    def go_alone(self) -> None:
        """Go on to the end; nobody is there to wait for."""
        _write(self._granted, 0)
        self._listen()

    def _listen(self) -> None:
        try:
            word = _read(self._told)
        except struct.error:
            raise AssertionError(f"process {self.pid}: it lives expected, it ended") from None
        if word == _FAILED:
            raise AssertionError(self._link.recv())
        self.is_done = word == _DONE
        if self.is_done:
            self.found = self._link.recv()
        else:
            self.steps, self.waits = word >> 1, bool(word & _WAITS)

    def ask(self) -> Any:
        """Return what the process says of itself."""
        _write(self._granted, _ASK)
        return self._link.recv()

    def kill(self) -> None:
        """End the process by SIGKILL, where it stands."""
        if self._is_gone:  # and what came of that is wrong
            return
        with suppress(ProcessLookupError):  # it has failed
            os.kill(self.pid, signal.SIGKILL)
        self._bury()

    def quit(self) -> None:
        """Let the process close what it has open, and end.

        Raises
        ------
        AssertionError
            It failed, with its traceback.
        """
        _write(self._granted, _QUIT)
        self._listen()
        self._bury()

    def _bury(self) -> None:
        self._is_gone = True
        os.waitpid(self.pid, 0)
        self._open.difference_update((self._told, self._granted, self._link.fileno()))
        os.close(self._told)
        os.close(self._granted)
        self._link.close()


def _be(path: Path, part: Part, told: int, granted: int, link: Connection) -> None:
    """Be the process, and end."""
    turns = None
    try:
        turns = Turns(path, told, granted, link)
        part(turns)
        turns.say(None)
    except BaseException:
        if turns is None:
            traceback.print_exc()
        else:
            turns.fail()
    finally:
        os._exit(0)
