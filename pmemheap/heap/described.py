"""Described: what a heap is, beside its blocks. Name, identity, durability, roots, budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pmemheap.errors import UsageError
from pmemheap.format.layout import Durability
from pmemheap.heap.arguments import DurabilityName
from pmemheap.heap.budgeted import set_budget
from pmemheap.heap.parts import HasArenas
from pmemheap.heap.rooted import RootGuard
from pmemheap.heap.roots import Roots
from pmemheap.space.budget import Budget

if TYPE_CHECKING:
    import uuid

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
        from uuid import UUID  # noqa: PLC0415 -- slow to import

        return UUID(bytes=self._space.shared.identity)

    @property
    def durability(self) -> DurabilityName | Literal["none"]:
        """``"power"``, ``"process"``, or ``"none"`` in anonymous memory."""
        file = self._space.shared.file
        if file is None:
            return "none"
        is_power = file.header.superblock.durability is Durability.POWER
        return "power" if is_power else "process"

    @property
    def roots(self) -> Roots:
        """Names by which the heap is entered again, a mapping of str to offset, which keeps it."""
        return Roots(self._space.shared.roots, RootGuard(self))

    @property
    def budget(self) -> Budget | None:
        """The `Budget` that it is in; set it to put the heap into one, None to take it out.

        Raises
        ------
        UsageError
            It is no budget; the heap is in another one already, or closed.
        """
        member = self._space.shared.member
        return None if member is None else member.budget

    @budget.setter
    def budget(self, budget: Budget | None) -> None:
        set_budget(self._space, budget)

    def fileno(self) -> int:
        """Return the descriptor of the file or the shared memory.

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
