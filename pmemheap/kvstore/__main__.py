"""The program `kvstore`, also by `python -m pmemheap.kvstore`; it needs the extra ``kvstore``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

__all__ = ["main"]

_NEEDED = ("typer", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        What stands behind the name of the program; those of the process if left out.

    Returns
    -------
    int
        The exit code, see `pmemheap.kvstore.cli`.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"kvstore: the command line needs {' and '.join(missing)}: "
            "pip install 'pmemheap[kvstore]'\n"
        )
        return 2
    from pmemheap.kvstore.cli import run  # noqa: PLC0415 -- an extra: the message comes first

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
