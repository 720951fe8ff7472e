"""Offline: look at a heap file without opening it as a heap, and without changing a byte.

    image     the bytes of the file in pieces, and layers of changes that exist only in memory
    findings  what is wrong, where, what it means for the data, and how it can be mended
    places    where the units of an arena lie in the file
    replaying the redo log, applied in memory
    tables    superblocks, slots, segments, tables: the header against itself
    units     extents, units: entries and bits, read as a stream
    examine   all of it

Works on truncated files, garbage, and files of other versions: there are findings, no exceptions.
"""

from pmemheap.offline.examination import Examination, examine, open_image
from pmemheap.offline.extents import Block, Extent
from pmemheap.offline.findings import Edit, Finding, FindingKind, Severity
from pmemheap.offline.image import Disk, Image, Overlay
from pmemheap.offline.places import Places
from pmemheap.offline.units import UnitWalk

__all__ = [
    "Block",
    "Disk",
    "Edit",
    "Examination",
    "Extent",
    "Finding",
    "FindingKind",
    "Image",
    "Overlay",
    "Places",
    "Severity",
    "UnitWalk",
    "examine",
    "open_image",
]
