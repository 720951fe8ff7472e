"""Completing: what the shell offers behind `pmemheap` when its user presses the Tab key.

Commands and options come from typer. In the place of a heap file, heaps and folders are offered; if
no heap is there the shell does what it does with any file.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import Any

from typer.completion import shell_complete

from pmemheap.cli.exits import ExitCode
from pmemheap.format.layout import MAGIC, SUPERBLOCKS

__all__ = ["heap_files", "show_completion"]


def show_completion(command: Any, shell: str) -> int:
    """Print the script that completes a command in a shell, and return the exit code."""
    refused = shell_complete(command, {}, "pmemheap", "_PMEMHEAP_COMPLETE", f"source_{shell}")
    return int(ExitCode.USAGE if refused else ExitCode.DONE)


def heap_files(incomplete: str) -> list[str]:
    """Return the heaps, and the folders, whose names begin with what was typed.

    Nothing if there is no heap among them, or if a name needs quotes, which the shell knows to set.
    """
    folder, name = os.path.split(incomplete)
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as listed:
            found = [each for each in listed if each.name.startswith(name)]
    except OSError:
        return []
    heaps = [each.name for each in found if _is_heap(each)]
    folders = [each.name + os.sep for each in found if each.is_dir()]
    offered = sorted(os.path.join(folder, each) for each in heaps + folders)
    is_plain = all(shlex.quote(each.lstrip("~")) == each.lstrip("~") for each in offered)
    return offered if heaps and is_plain else []


def _is_heap(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file() and any(_magics(entry.path))
    except OSError:
        return False


def _magics(path: str) -> Iterator[bool]:
    """Tell of each copy of the superblock whether a file has it."""
    with open(path, "rb") as file:
        for place in SUPERBLOCKS:
            file.seek(place)
            yield file.read(len(MAGIC)) == MAGIC
