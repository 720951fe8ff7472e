"""Every system call refused in turn: an exception of ours, nothing changed, nothing leaked."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from heap_world import added, contents, descriptors, fill, mapped_files, named, reserved

from pmemheap import Heap, native
from pmemheap.errors import DurabilityError, OutOfSpaceError, Pmem2Error, PmemHeapError, UsageError
from pmemheap.file.filemedium import FileMedium
from pmemheap.layout import HeapState
from pmemheap.native import Call, FaultKind
from pmemheap.units import UNIT, KiB, MiB

NUMBERS = [errno.ENOMEM, errno.EAGAIN, errno.ENOSPC, errno.EIO]
FAMILY = (OutOfSpaceError, UsageError, DurabilityError)
MEDIA = ["anonymous", "shared", "process", "power"]
CALLS_MOST = 400
METADATA_BLOCKS = 16 * KiB  # what a file system may take for its own bookkeeping

pytestmark = pytest.mark.slow


def make(medium: str, path: Path) -> Heap:
    if medium == "anonymous":
        return Heap.anonymous(decay=None)
    if medium == "shared":
        return Heap.shared(decay=None)
    return Heap.create(path, durability=named(medium), decay=None)


@dataclass
class World:
    """A heap with a past: blocks of all kinds, holes between them, two segments and more."""

    heap: Heap
    blocks: list[int] = field(default_factory=list)

    @classmethod
    def made(cls, medium: str, path: Path) -> World:
        world = cls(make(medium, path))
        heap = world.heap
        sizes = [24, 200, 3000, UNIT, 40 * KiB, 300 * KiB] * 2
        world.blocks = [heap.malloc(size) for size in sizes]
        for seed, offset in enumerate(world.blocks):
            fill(heap, offset, seed)
        for offset in world.blocks[1::3]:
            heap.free(offset)
        world.blocks = [offset for i, offset in enumerate(world.blocks) if i % 3 != 1]
        return world

    def state(self) -> dict[int, bytes]:
        return contents(self.heap)

    def disk(self) -> tuple[int, int]:
        medium = self.heap._space.shared.medium
        return medium.allocated() if hasattr(medium, "allocated") else (0, 0)


def grow_by_malloc(world: World) -> None:
    world.heap.malloc(3 * MiB)


def grow_by_small_mallocs(world: World) -> None:
    world.heap.malloc_many(2000, 1000)


def grow_by_realloc(world: World) -> None:
    world.heap.realloc(world.blocks[-1], 2 * MiB)


def grow_by_expand(world: World) -> None:
    world.heap.expand(world.blocks[-1], 2 * MiB)


def free_both_ends(world: World) -> None:
    """Leave one block between free segments at both ends, and holes around it."""
    heap = world.heap
    kept = heap.malloc(300 * KiB)
    fill(heap, kept, 99)
    behind = heap.malloc(2 * MiB)
    for offset in [*world.blocks, behind]:
        heap.free(offset)


def trim(world: World) -> None:
    world.heap.trim()


def decay(world: World) -> None:
    for _ in range(2):
        world.heap._space.serve(world.heap._space.giveback.decay, 0.0)


def sync(world: World) -> None:
    world.heap.sync()


@dataclass(frozen=True)
class Operation:
    act: Callable[[World], None]
    prepare: Callable[[World], None] = lambda world: None
    keeps_blocks: bool = False
    grows_once: bool = False

    def __str__(self) -> str:
        return self.act.__name__


OPERATIONS = [
    Operation(grow_by_malloc, grows_once=True),
    Operation(grow_by_small_mallocs),
    Operation(grow_by_realloc, grows_once=True),
    Operation(grow_by_expand, grows_once=True),
    Operation(trim, free_both_ends, keeps_blocks=True),
    Operation(decay, free_both_ends, keeps_blocks=True),
    Operation(sync, keeps_blocks=True),
]


@dataclass
class Surroundings:
    """What a heap must leave as it found it."""

    directory: Path
    fds: dict[int, str]
    ranges: set[tuple[int, int]]
    files: list[str]

    @classmethod
    def now(cls, directory: Path) -> Surroundings:
        ranges = reserved()  # first: what others have dropped is collected
        return cls(directory, descriptors(), ranges, mapped_files(*cls.words(directory)))

    @staticmethod
    def words(directory: Path) -> tuple[str, str]:
        return "memfd:pmemheap", str(directory)

    def assert_closed(self, *files: str) -> None:
        """Check descriptors and temporary files: nobody has to collect garbage for those."""
        assert descriptors() == self.fds
        assert sorted(each.name for each in self.directory.iterdir()) == sorted(files)

    def assert_as_before(self, *files: str) -> None:
        self.assert_closed(*files)
        assert not added(reserved(), self.ranges)
        assert mapped_files(*self.words(self.directory)) == self.files


ALL = bool(os.environ.get("PMEMHEAP_FAULTS_ALL"))
_FIRST = 30


@dataclass
class Shot:
    """A system call to refuse: the `nth`, with errno `number`; `hit` says which one it was."""

    nth: int
    number: int
    kind: FaultKind
    hit: Call = Call.NONE


def every_call(number: int, kind: FaultKind = FaultKind.ERROR) -> Iterator[Shot]:
    """Yield a shot for the first call, the second, ..., until a run passes without hitting.

    Of those after the first 30 every fifth, unless all are wanted: `make faults`.
    """
    for nth in range(1, CALLS_MOST):
        if nth > _FIRST and nth % 5 and not ALL:
            continue
        shot = Shot(nth, number, kind)
        yield shot
        if shot.hit == Call.NONE:
            return
    pytest.fail(f"errno {number}, {kind.name}: an end expected after {CALLS_MOST} system calls")


def attempt(shot: Shot, action: Callable[..., object], *arguments: object) -> PmemHeapError | None:
    """Do something with a fault armed; return the exception, which is one of the family."""
    refused: PmemHeapError | None = None
    with native.faults(shot.nth, shot.number, shot.kind) as armed:
        try:
            action(*arguments)
        except FAMILY as error:
            refused = error
    shot.hit = armed.hit
    assert not isinstance(refused, Pmem2Error)
    return refused


def use(heap: Heap) -> None:
    """Do a bit of everything with a heap after a refusal."""
    offsets = [heap.malloc(size) for size in (16, 5000, 400 * KiB, 1 * MiB)]
    for seed, offset in enumerate(offsets):
        fill(heap, offset, seed + 1000)
    for offset in offsets:
        heap.free(offset)
    heap.trim()
    assert heap.check(), str(heap.check())


def numbers_for(medium: str, kind: FaultKind) -> list[int]:
    """Return all that matter: what differs by number shows in the first medium with files."""
    if medium == "shared" and kind == FaultKind.ERROR:
        return NUMBERS
    return [errno.EIO] if medium == "power" else [errno.ENOMEM]


@pytest.mark.parametrize("kind", [FaultKind.ERROR, FaultKind.FROM], ids=lambda kind: kind.name)
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
@pytest.mark.parametrize("medium", MEDIA)
def test_refused_call_changes_nothing(
    medium: str, operation: Operation, kind: FaultKind, tmp_path: Path
) -> None:
    before = Surroundings.now(tmp_path)
    path = tmp_path / "heap"
    hits = 0
    for number in numbers_for(medium, kind):
        for shot in every_call(number, kind):
            world = World.made(medium, path)
            operation.prepare(world)
            state, disk = world.state(), world.disk()
            refused = attempt(shot, operation.act, world)
            hits += shot.hit != Call.NONE
            assert_sound_after(world, refused, state, disk, operation, kind)
            end(world, path)
            before.assert_closed()
    before.assert_as_before()
    assert hits or medium == "anonymous" or operation.act is not sync


def assert_sound_after(
    world: World,
    refused: PmemHeapError | None,
    state: dict[int, bytes],
    disk: tuple[int, int],
    operation: Operation,
    kind: FaultKind,
) -> None:
    heap = world.heap
    assert heap.check(), str(heap.check())
    if refused or operation.keeps_blocks:
        assert world.state() == state
    is_dead = getattr(
        heap._space.shared.medium, "sync_failed", False
    )  # then nothing is written any more
    if refused and kind == FaultKind.ERROR and operation.grows_once and not is_dead:
        assert world.disk()[0] == disk[0]
        assert world.disk()[1] <= disk[1] + METADATA_BLOCKS
    if is_dead:
        assert isinstance(refused, DurabilityError)
        with pytest.raises(DurabilityError, match="one failed; reopen it"):
            heap.malloc(16)
    else:
        use(heap)
        if operation.keeps_blocks:
            assert world.state() == state


def end(world: World, path: Path) -> None:
    """Close the heap; reopen the file, which holds just what the heap held.

    After a failed sync nothing more can be recorded: blocks are left that a refused call had
    recorded, and could not take back.
    """
    state = world.state()
    is_dead = getattr(world.heap._space.shared.medium, "sync_failed", False)
    world.heap.close()
    world.heap = None  # type: ignore[assignment]  # the address ranges are to go
    if path.exists():
        with Heap.open(path) as reopened:
            found = contents(reopened)
            assert found == state or (is_dead and state.items() <= found.items())
            assert reopened.check()
        path.unlink()


@pytest.mark.unsanitized
@pytest.mark.parametrize("kind", [FaultKind.ERROR, FaultKind.FROM], ids=lambda kind: kind.name)
@pytest.mark.parametrize("medium", MEDIA)
def test_refused_creation_leaves_nothing(medium: str, kind: FaultKind, tmp_path: Path) -> None:
    before = Surroundings.now(tmp_path)
    path = tmp_path / "heap"
    for number in numbers_for(medium, kind):
        for shot in every_call(number, kind):
            made: list[Heap] = []
            refused = attempt(shot, lambda into: into.append(make(medium, path)), made)
            assert bool(made) != bool(refused)
            if refused:
                before.assert_closed()
            else:
                use(made[0])
                made.pop().close()
            path.unlink(missing_ok=True)
    if kind == FaultKind.ERROR:  # else nothing could be unmapped
        before.assert_as_before()


@pytest.mark.parametrize("kind", [FaultKind.ERROR, FaultKind.FROM], ids=lambda kind: kind.name)
@pytest.mark.parametrize("readonly", [False, True])
def test_refused_open_leaves_the_file_as_it_was(
    readonly: bool, kind: FaultKind, tmp_path: Path
) -> None:
    path = tmp_path / "heap"
    world = World.made("process", path)
    state = world.state()
    world.heap.close()
    before = Surroundings.now(tmp_path)
    for number in [errno.ENOMEM, errno.EIO]:
        for shot in every_call(number, kind):
            opened: list[Heap] = []
            refused = attempt(shot, open_into, opened, path, readonly)
            if refused:
                before.assert_closed("heap")
            else:
                opened.pop().close()
            path = fresh_copy(path)  # where every call was refused, so was the end of the lock
            with Heap.open(path) as heap:
                assert contents(heap) == state
                assert heap.check()
    if kind == FaultKind.ERROR:  # else nothing could be unmapped
        before.assert_as_before("heap")


def open_into(opened: list[Heap], path: Path, readonly: bool = False) -> None:
    opened.append(Heap.open(path, readonly=readonly))


def fresh_copy(path: Path) -> Path:
    """Put a copy of a file, which nobody can have a lock on, in its place."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    return copy.rename(path)


def test_refused_open_takes_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    make("process", path).close()
    for shot in every_call(errno.ENOMEM):
        opened: list[Heap] = []
        attempt(shot, open_into, opened, path)
        for heap in opened:
            heap.close()
        Heap.open(path).close()


@pytest.mark.parametrize("medium", MEDIA)
def test_refused_close_lets_everything_go(medium: str, tmp_path: Path) -> None:
    before = Surroundings.now(tmp_path)
    path = tmp_path / "heap"
    for number in numbers_for(medium, FaultKind.ERROR):
        for shot in every_call(number):
            world = World.made(medium, path)
            state = world.state()
            attempt(shot, world.heap.close)
            assert world.heap.closed
            world.heap.close()
            del world
            if path.exists():
                before.assert_closed("heap")
                with Heap.open(path) as heap:
                    assert contents(heap) == state
                    assert heap.check()
                path.unlink()
            else:
                before.assert_closed()
    before.assert_as_before()


def test_failed_sync_closes_the_heap_for_writing(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "heap")
    offset = heap.malloc(100)
    fill(heap, offset, 7)
    with (
        native.faults(1, errno.EIO, FaultKind.FROM),
        pytest.raises(DurabilityError, match="sync"),
    ):
        heap.sync()
    for change in (heap.sync, heap.trim, lambda: heap.malloc(1), lambda: heap.free(offset)):
        with pytest.raises(DurabilityError, match="one failed; reopen it"):
            change()
    assert bytes(heap.view(offset)) == bytes(heap.view(offset))
    calls = native.system_calls()
    heap.close()
    assert (tmp_path / "heap").exists()
    with Heap.open(tmp_path / "heap", readonly=True) as reopened:
        assert isinstance(reopened._space.shared.medium, FileMedium)
        assert reopened._space.shared.medium.header.superblock.state == HeapState.IN_USE, (
            "a file that was not synced is not CLEAN"
        )
    assert native.system_calls() > calls


def test_a_file_that_cannot_be_looked_at_is_no_lack_of_space(tmp_path: Path) -> None:
    """What the system says of a file before its tables are mapped is told as it is."""
    Heap.create(tmp_path / "heap").close()
    with Heap.open(tmp_path / "heap", decay=None) as heap:
        with (
            native.faults(1, errno.EIO, FaultKind.FROM) as fault,
            pytest.raises(DurabilityError, match="a file to be looked at"),
        ):
            heap.malloc(100)
        assert fault.hit == Call.FSTAT
        heap.free(heap.malloc(100))
        assert heap.check()


def test_file_that_cannot_be_punched_still_serves(tmp_path: Path) -> None:
    """SPARE segments that kept their bytes are reused, merged with others, and read zero there."""
    world = World.made("process", tmp_path / "heap")
    heap = world.heap
    for _ in range(12):
        blocks = [heap.malloc(1 * MiB) for _ in range(8)]
        for seed, offset in enumerate(blocks):
            fill(heap, offset, seed + 0xFFFF_FFFF)
        for offset in blocks[:-1]:
            heap.free(offset)
        calls = native.system_calls()
        with native.faults(1, errno.EOPNOTSUPP, FaultKind.FROM), pytest.raises(PmemHeapError):
            heap.trim()
        assert native.system_calls() > calls
        heap.free(blocks[-1])
        assert heap.check(), str(heap.check())
    heap.trim()
    assert contents(heap).keys() == set(world.blocks)
    heap.close()
