"""Readers: what a heap does so that snapshots of it can be read, here and in other processes.

    admit      from now on a commit copies what a snapshot may show, and the file says so
    begin      a pin, and the roots of the commit that is the last one now
    adopt      a pin of an older commit, which another process has pinned
    recycle    what was freed before the oldest pin is free again
    dismiss    before the heap closes: no reader comes any more, the copies of roots go

A heap that nobody may read beside its writer edits in place, and pays nothing for all this. One
that others may read does so as well while nobody reads, by a lease (log/lease.c).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

from pmemheap import native
from pmemheap.errors import HeapBusyError, SnapshotGoneError, UsageError
from pmemheap.file import locks, pins
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.following import captured, follow_layout, wait_for_commit
from pmemheap.file.headerfile import stored_word
from pmemheap.file.pins import Pin, Pins
from pmemheap.heap.gate import PATIENCE
from pmemheap.heap.holding import Ages
from pmemheap.heap.shared import Shared
from pmemheap.heap.space import Space, space_of
from pmemheap.native.constants import Format
from pmemheap.native.gate import ReaderGate
from pmemheap.native.rules import Rule, omitted
from pmemheap.refusals import end_with
from pmemheap.space.following import FollowingRegion

if TYPE_CHECKING:
    from pmemheap.heap.heap import Heap

__all__ = [
    "admit",
    "adopt",
    "begin",
    "dismiss",
    "pins_of",
    "recycle",
    "recycle_if_worth",
    "require_none",
    "with_readers",
]

H = TypeVar("H", bound="Heap")

_RECYCLED_LEAST = 1 << 20
_RECYCLED_SHARE = 8
_COPY = attrgetter("copy")
_LOOKS, _PAUSE = 20, 0.001  # how often, and when, a floor is looked at that a writer may be raising


def admit(heap: Heap) -> None:
    """Let readers in beside this process, the writer.

    Raises
    ------
    UsageError
        The heap is in no file.
    """
    space = space_of(heap)
    file = space.shared.writable
    if file is None:
        raise UsageError(f"{space.name}: a heap in a file that may be changed expected for readers")
    space.require(write=True)
    space.serve(_begin_copies, space.shared, file)
    with heap.transaction() as tx:
        tx.roots.update(heap.roots)  # each gets a copy
    file.header.settle()
    file.header.store_word("gate", ReaderGate.MAY)
    assert space.shared.pins is not None
    lease = int(locks.LEASE * 1e9)
    space.shared.log._begin_lease(file.lock_fd, space.shared.pins, lease)  # private: as above


def _begin_copies(shared: Shared, file: FileMedium) -> None:
    assert shared.redo is not None
    shared.redo.sync_log()
    if shared.is_power:  # no replay stores an older image of what was changed in place
        shared.redo.checkpoint()
    era = file.header.word("era") + 1
    shared.log._set_copies(True, era)  # private: no call of users
    file.header.store_word("era", era)
    file.header.store_word("floor", era)
    shared.ages = Ages()
    shared.ages.begin(era, file.header.word("commit_seq") // 2, era)
    shared.pins = Pins(0, file.header.address, None)


def with_readers(heap: H, wanted: bool) -> H:
    """Return a heap that was opened, with readers if they are wanted."""
    file = space_of(heap).shared.writable
    is_left = (
        file is not None
        and file.is_shown is None  # else each goes when its root gets another
        and any(map(_COPY, file.header.slots.roots.values()))
    )
    try:
        if is_left:
            tidy(heap)
        if wanted and not space_of(heap).shared.readonly:
            admit(heap)
    except BaseException as error:
        end_with(error, heap.close)
        raise
    return heap


def dismiss(heap: Heap) -> None:
    """Let no reader in any more, and free what the file has for them, unless there are some.

    They go on: the next writer changes in place what roots name, of which they need copies.
    """
    shared = space_of(heap).shared
    file = shared.writable
    if file is None or shared.pins is None:
        return
    space = space_of(heap)
    try:
        _end_edits(space, shared.log._end_lease)  # private: no call of users
    except HeapBusyError:  # of a transaction, at which the heap does not close
        return
    file.header.store_word("gate", ReaderGate.NONE)
    if shared.log._is_dead():  # private: no call of users
        return
    if locks.has_readers(file.lock_fd):
        if shared.is_power and shared.redo is not None:  # no replay stores what was edited in place
            space.serve(shared.redo.checkpoint)
        file.header.store_word("gate", ReaderGate.MAY)
        return
    space.serve(_end_copies, shared, file)
    tidy(heap)


def _end_copies(shared: Shared, file: FileMedium) -> None:
    assert shared.redo is not None
    shared.redo.sync_log()
    era = file.header.word("era") + 1  # what is freed has no tag from now on
    shared.log._set_copies(False, era)  # private: no call of users
    file.header.store_word("era", era)
    file.header.store_word("floor", era)
    file.header.reread()
    shared.pins = shared.ages = None


def tidy(heap: Heap) -> None:
    """Free the copies of roots that a writer has left, whose file has no readers."""
    file = space_of(heap).shared.writable
    if file is None:
        return
    left = [root for root in list(file.roots.values()) if root.copy]
    if left:
        with heap.transaction() as tx:
            for root in left:
                with suppress(UsageError):  # somebody has freed it already
                    if heap.usable_size(root.copy) == Format.ROOT_COPY:
                        tx.free(root.copy)
            tx.roots.update({root.name: root.off for root in left})


def recycle(shared: Shared) -> int:
    """Let what was freed before the oldest pin be free, here; return its bytes.

    What was freed since somebody has begun a snapshot that is read still stays as it is. While it
    looks, nobody adopts a snapshot, then those whose eras lie above all that was recycled [Q4].
    """
    file = shared.writable
    if file is None or shared.pins is None:
        return 0
    header = file.header
    floor, era = header.word("floor"), header.word("era") + 1
    shared.log._set_era(era)  # private: no call of users
    header.store_word("era", era)
    if not omitted(Rule.Q4):
        header.store_word("floor", era)
    found = pins.oldest(file.lock_fd, era)
    bound = min([era, *shared.pins.eras[:1], *([] if found is None else found[:1])])
    nbytes = shared.log._recycle(bound)  # private: no call of users
    if not omitted(Rule.Q4):
        # another thread may have raised it meanwhile
        edited = shared.log._edited_floor()  # private: no call of users
        header.store_word("floor", max(floor, bound, edited))
    if shared.ages is not None:
        shared.ages.begin(era, header.word("commit_seq") // 2, bound)
    for space in shared.spaces() if nbytes and shared.is_power else ():
        space.core.append_pending()
    return nbytes


def recycle_if_worth(shared: Shared, heap_bytes: int) -> int:
    """Do the same when enough was freed for it.

    Half of what a reader may hold back is enough: one that goes on as often never holds more.
    """
    if shared.pins is not None and shared.writable is not None:
        nbytes, _, _ = shared.log._tagged()  # private: no call of users
        least = max(_RECYCLED_LEAST, heap_bytes // _RECYCLED_SHARE)
        held = shared.ages and shared.ages.held
        if held and held.nbytes is not None:
            least = min(least, held.nbytes // 2)
        if nbytes >= least:
            return recycle(shared)
    return 0


def _end_edits(space: Space, end: Callable[[], int]) -> None:
    """Let the writer, which is this process, copy what a snapshot may show.

    Parameters
    ----------
    end : callable
        Does it, with 0, or says that something is being edited.

    Raises
    ------
    UsageError
        A transaction of this thread edits in place what the snapshot would show.
    HeapBusyError
        One of another thread does, for 5 seconds.
    """
    until = time.monotonic() + PATIENCE
    while end() < 0:
        if space.shared.log.is_writer():
            raise UsageError(
                f"{space.name}: no open transaction of this thread expected that has edited in "
                "place what a snapshot is to show"
            )
        if time.monotonic() > until:
            raise HeapBusyError(
                f"{space.name}: a transaction that ends expected, one of another thread has edited "
                f"in place what a snapshot is to show, and is open for {PATIENCE:g} s"
            )
        native.tape_wait()
        time.sleep(_PAUSE)


# ---------------------------------------------------------------- snapshots


def begin(heap: Heap, let_go: Callable[[], object]) -> tuple[Pin, int, bytes]:
    """Return a pin, the number of the last commit, and the slots of the roots that it left.

    Parameters
    ----------
    let_go : callable
        Called before it waits for a writer, who uses nothing that what the caller has pinned shows.

    Raises
    ------
    UsageError
        The heap is open to be changed, and not for readers.
    HeapBusyError
        The writer stays in the middle of a commit, or of a transaction that edits in place.
    """
    space = space_of(heap)
    space.require()
    begin_pin = partial(pins_of(space).pin, heap)
    file = space.shared.file
    assert file is not None
    if space.shared.writable is not None:
        pin, found = _pinned(space, begin_pin), captured(file)
        assert found is not None  # the writer is this process
        return pin, found.commit, found.slots
    if not file.follows:
        slots = b"".join(root.pack() for root in file.roots.values())
        return _pinned(space, begin_pin), 0, slots
    return _begin_beside(space, file, begin_pin, let_go)


def adopt(heap: Heap, era: int, layout: int) -> Pin:
    """Return a pin of an era that is pinned elsewhere, with all mapped that was then.

    Parameters
    ----------
    layout : int
        Number of the segments and arenas that are wanted.

    Raises
    ------
    SnapshotGoneError
        The era was let go, and what was freed since may be in use again.
    UsageError, HeapBusyError
        As `begin`.
    """
    space = space_of(heap)
    space.require()
    file = space.shared.file
    pin = _pinned(space, partial(pins_of(space).adopt, era, heap))
    if file is None or era == 0:  # sent by one who reads where nobody writes
        return pin
    _require_kept(space, file, era)
    while file.follows and file.layout < layout:
        if file.header.word("layout_seq") % 2:
            wait_for_commit(file)
        space.look(_follow, space.shared, file)
    return pin


def _require_kept(space: Space, file: FileMedium, era: int) -> None:
    """Raise SnapshotGoneError if what was freed in an era may be in use; wait for a look [Q4]."""
    for _ in range(_LOOKS):
        if _floor(file) <= era:
            return
        if not file.header.address:  # nobody changes it
            break
        native.tape_wait()
        time.sleep(_PAUSE)
    raise SnapshotGoneError(
        f"{space.name}: a snapshot expected that its process keeps until this one has it, it was "
        "let go there"
    )


def _floor(file: FileMedium) -> int:
    return file.header.word("floor") if file.header.address else stored_word(file.fd, "floor")


def pins_of(space: Space) -> Pins:
    """Return the pins of this process on a heap that shows snapshots.

    Raises
    ------
    UsageError
        The heap is open to be changed and not for readers, or its writer lets nobody in.
    """
    shared = space.shared
    file = shared.file
    if shared.pins is not None:
        return shared.pins
    if file is None or not shared.readonly:
        raise UsageError(
            f"{space.name}: a heap opened with readers=True, or readonly, expected for a snapshot"
        )
    if file.beside and not file.follows:
        raise UsageError(
            f"{space.name}: a writer with readers=True expected for a snapshot, this one edits in "
            "place"
        )
    if not file.follows:
        shared.pins = Pins(0, 0, None)
        return shared.pins
    if not file.header.address:
        space.look(file.header.map, file.maps.place, readonly=True)
    shared.pins = shared.pins or Pins(file.number, file.header.address, file.layout)
    return shared.pins


def _pinned(space: Space, pin: Callable[[], Pin]) -> Pin:
    while True:
        if space.shared.writable is not None:
            _end_edits(space, space.shared.log._stop_edits)  # private: no call of users
        try:
            return pin()
        except OSError as error:
            if error.errno != errno.EBUSY:  # else another thread of the writer edits by now
                raise HeapBusyError(
                    f"{space.name}: a lock of the kernel expected, which a snapshot needs, found "
                    f"{error}"
                ) from error


def _begin_beside(
    space: Space, file: FileMedium, begin: Callable[[], Pin], let_go: Callable[[], object]
) -> tuple[Pin, int, bytes]:
    """Do the same in a reader: what the roots lead to has to be mapped before they are believed."""
    while True:
        pin, found = _pinned(space, begin), captured(file)
        if found is None or found.layout % 2:
            del pin
            wait_for_commit(file, let_go)
        elif found.layout == file.layout:
            return pin, found.commit, found.slots
        else:
            space.look(_follow, space.shared, file)


def _follow(shared: Shared, file: FileMedium) -> None:
    """Map what the writer has added since the last look."""
    if file.header.word("layout_seq") == file.layout:
        return
    number = follow_layout(file)
    for space in shared.spaces():
        region = space.region
        assert isinstance(region, FollowingRegion)
        pieces = file.pieces(space.index)
        if pieces:
            region.follow(pieces)
            read_to = space.core.bounds[2]
            end = region.end_unit
            space.core.set_bounds(region.first_unit, end, min(read_to, end))
    file.layout = number  # now: other threads begin snapshots by it
    if shared.pins is not None:
        shared.pins.layout = number


def require_none(shared: Shared, what: str) -> None:
    """Raise BufferError if this process has snapshots, or views of one."""
    if shared.pins is not None and shared.pins.eras:
        raise BufferError(f"{what}: no snapshot that may show it expected, this process has one")
