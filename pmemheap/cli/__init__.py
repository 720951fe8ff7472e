"""Command line: prints what the heap's calls return, and turns errors into exit codes.

    demo      load the standard library into a growing heap file, and watch it
    create    make a heap file
    info      what a heap file is and what is in it
    check     verify it, without opening it and without changing a byte
    dump      print its tables as they stand in the file
    leaks     name the lines that made what is left in it
    repair    show what would mend it, and do that
    salvage   copy what can be read of a wreck into a new heap
    map       draw its units
    stats     how large and how full it is, arena by arena; for Prometheus too
    top       the same, again and again
    snapshot  copy it into a new file
    trim      give free space back
    replay    run allocation traces, and what they cost
    recommend which strategies a trace asks for, tried and measured

Every command that prints facts prints them as JSON with ``--json``. Facts go to standard output;
progress and errors to standard error, an error as one line. A reader of the output that goes away
does not keep a command from its work. How a command ends:

    0      done
    1      done, and damage was found: `check`; `repair`, if some of it is left
    2      the call was wrong: options, paths, a heap that another process has open
    3      the file is not a heap, or not a sound one
    4      no space: disk, quota, address space or a chosen limit
    5      the system could not write to the medium
    70     a mistake in pmemheap itself, with a traceback
    130    interrupted
    141    done, but the reader of the output left before its end

Needs the extra ``cli``; without it, `main` says how to get it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from pmemheap import __version__

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
        The exit code, see this module's opening. It does not raise.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if [*given] == ["--version"]:  # at once: all commands take long to import
        sys.stdout.write(f"pmemheap {__version__}\n")
        return 0
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"pmemheap: the command line needs {' and '.join(missing)}: "
            "pip install 'pmemheap[cli]'\n"
        )
        return 2
    from pmemheap.cli.app import run  # noqa: PLC0415 -- an extra: the message above comes first

    return run(arguments)
