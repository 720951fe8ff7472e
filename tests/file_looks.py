"""Looking at a heap in a file: its medium, and what an examination finds."""

from __future__ import annotations

from pathlib import Path

from pmemheap import Heap
from pmemheap.file.filemedium import FileMedium
from pmemheap.offline.examination import examine, open_image


def medium_of(heap: Heap) -> FileMedium:
    assert isinstance(heap._space.shared.medium, FileMedium)
    return heap._space.shared.medium


def findings_of(path: Path) -> list[str]:
    """Return what is damaged: what was expected, and what was found."""
    with open_image(path) as image:
        found = examine(image)
        return [f"{each.expected}, {each.found}" for each in found.findings if each.is_damage]
