"""Readers in other processes, for tests: each is told what to look at, and answers.

Started as a program it is the reader: a line of standard input is an expression over `heap`, `snap`
and what was kept by ``name := ...``; the answer is its repr, or that of the exception.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

import pmemheap
from pmemheap.containers import Arrays, SortedMap, Vector
from pmemheap.kvstore import KVStore

DURABILITIES = ("process", "power")


class Reader:
    """A process that has a heap file open to read, and one snapshot of it; or a store.

    Parameters
    ----------
    follows : bool
        Also where there is no writer yet.
    """

    def __init__(self, path: Path, *, store: bool = False, follows: bool = False) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(path), *["store"][:store], *["follows"][:follows]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, expression: str) -> None:
        """Have it evaluate an expression, without waiting for the answer."""
        assert self._process.stdin is not None
        print(expression, file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"reader: an answer expected, it ended with {self._process.wait()}"
        return eval(line)

    def __call__(self, expression: str) -> Any:
        self.tell(expression)
        return self.answer()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        assert self("1") == 1  # its snapshot has begun
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for stream in self._process.stdin, self._process.stdout:
            assert stream is not None
            stream.close()
        self._process.kill()
        self._process.wait()


def news(source: Any) -> bool:
    """Refresh until there is a newer commit; False: there was none for 20 seconds."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if source.refresh():
            return True
        time.sleep(0.001)
    return False


def main() -> None:
    """Answer until there is nothing to answer."""
    names: dict[str, Any] = {
        "Arrays": Arrays,
        "SortedMap": SortedMap,
        "Vector": Vector,
        "np": np,
        "pmemheap": pmemheap,
        "news": news,
    }
    try:
        if "store" in sys.argv:
            names["store"] = KVStore(sys.argv[1], flag="r", readers="follows" in sys.argv)
        else:
            names["heap"] = pmemheap.open(sys.argv[1], "r", readers="follows" in sys.argv)
            names["snap"] = names["heap"].read()
    except pmemheap.PmemHeapError as error:
        names["refused"] = str(error)
    for line in sys.stdin:
        try:
            found = repr(eval(line, names))
        except Exception as error:
            found = repr(f"{type(error).__name__}: {error}")
        sys.stdout.write(f"{found}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
