"""The sources of the C core as one number: the core has it from its build, an import compares.

`setup.py` runs this file by its path, when there is no core yet, so it imports nothing of pmemheap.
"""

from __future__ import annotations

import os
from pathlib import Path
from zlib import crc32

__all__ = ["c_sources", "checksum", "require_built_of"]

CORE: Path = Path(__file__).parent


def checksum(sources: list[Path]) -> int:
    """Return a number of 32 bits for the names and the bytes of sources."""
    found = 0
    for source in sorted(sources):
        found = crc32(f"{source.parent.name}/{source.name}\n".encode(), found)
        found = crc32(source.read_bytes(), found)
    return found


def c_sources(core: Path = CORE) -> list[Path]:
    """Return the C files in the folders of a core, in no order."""
    return [*core.glob("*/*.[ch]")]


def require_built_of(sources: list[Path], library: str | Path, known: int) -> None:
    """Refuse a core that was built of other sources than those that lie beside it.

    Only sources that are younger than the core are read. Where there are none nothing is known.

    Raises
    ------
    ImportError
        It was built of other ones.
    """
    built_at = os.stat(library).st_mtime_ns
    is_younger = any(source.stat().st_mtime_ns > built_at for source in sources)
    if is_younger and checksum(sources) != known:
        raise ImportError("_core was built before its sources were changed")
