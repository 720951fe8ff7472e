"""Kills: a program that really dies, by SIGKILL, at an event of its own."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable

from pmemheap import native

__all__ = ["kill_at"]


def kill_at(step: int, file: str | os.PathLike[str], program: Callable[[], object]) -> bool:
    """Run a program in a child that is killed just before its `step`-th change of a file.

    Parameters
    ----------
    step : int
        From 1 up; stores, writes, syncs, and changes of the size are counted.
    file : path
        Exists, and is opened by `program`.
    program : callable
        What the child does.

    Returns
    -------
    bool
        False when the program ended before: there are fewer steps.

    Raises
    ------
    AssertionError
        The program failed, with its traceback.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reader)
        _run(step, file, program, writer)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8", errors="replace") as stream:
        words = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in {0, -signal.SIGKILL}:
        raise AssertionError(f"child: exit code 0 or SIGKILL expected, found {status}\n{words}")
    return status != 0


def _run(
    step: int, file: str | os.PathLike[str], program: Callable[[], object], writer: int
) -> None:
    """Be the child: run the program and end, whatever happens."""
    code = 1
    try:
        fd = os.open(file, os.O_RDONLY)
        native.tape_kill(fd, step)
        os.close(fd)
        program()
        code = 0
    except BaseException:
        os.write(writer, traceback.format_exc().encode())
    finally:
        os._exit(code)
