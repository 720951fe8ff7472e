"""Described: what a heap is, beside its blocks. Name, identity, durability, descriptor, roots."""

from __future__ import annotations

import uuid

from pmemheap.errors import UsageError
from pmemheap.heap.parts import HasArenas
from pmemheap.heap.rooted import RootGuard
from pmemheap.heap.roots import Roots

__all__ = ["Described"]


class Described(HasArenas):
    """The base of `Heap` that says what it is."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Path of the file, or what kind of memory it is."""
        shared = self._space.shared
        return shared.name if shared.file is None else shared.file.name

    @property
    def uuid(self) -> uuid.UUID:
        """Identity of the heap, kept in its file."""
        return uuid.UUID(bytes=self._space.shared.identity)

    @property
    def durability(self) -> str:
        """``"power"``, ``"process"``, or ``"none"`` in anonymous memory."""
        file = self._space.shared.file
        return "none" if file is None else file.header.superblock.durability.name.lower()

    @property
    def roots(self) -> Roots:
        """Names by which the heap is entered again: a mapping of str to offset, which keeps it."""
        return Roots(self._space.shared.roots, RootGuard(self))

    def fileno(self) -> int:
        """Descriptor of the file or the shared memory.

        Raises
        ------
        UsageError
            The heap has none, or is closed.
        """
        space = self._space
        space.require()
        if space.shared.file is None:
            raise UsageError(f"{space.name}: a heap in a file or shared memory expected for fileno")
        return space.shared.file.fd
