"""Planted bugs: each rule of crash consistency is left out once, and the search must notice.

A rule that nothing would miss is either not needed or not tested. Each search runs in a process of
its own, since a heap without a rule may end in any way; the same search finds nothing wrong when
all rules are kept.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from crash_oracle import Search, WrongHeapError, check_image
from crash_world import (
    LOG_BYTES,
    SHAPES,
    Program,
    World,
    attach,
    base,
    record,
    reproducible,
    run,
)
from map_reach import search_changes
from planted_readers import adopted_late, by_turns, dropped, outlived, taken_over, unmapped

from pmemheap import layout, native
from pmemheap.errors import CorruptHeapError, DurabilityError, PmemHeapError
from pmemheap.native import Allocate, Call
from pmemheap.native.rules import Rule, omitted, omitting
from pmemheap.testing import LINE, CrashStates, Image, Kind, restamp
from pmemheap.units import UNIT

pytestmark = [pytest.mark.slow, pytest.mark.checked]
MOST_STATES = 4000
KEPT_STATES = 1200
"""Where all rules are kept: what is planted shows within them, but for that of SPARE_TABLES."""
RECORDINGS = 12
LOG = range(layout.HEADER_BYTES, layout.HEADER_BYTES + LOG_BYTES)
FIRST_UNIT = LOG.stop + layout.SEGMENT_UNITS * (layout.ENTRY_WIDTH + layout.BITS_WIDTH)


def search(
    text: str, *, kept_states: int = KEPT_STATES, **options: Any
) -> Callable[[Path], str | None]:
    """Return a search through the crashes of a program, "durability: operation, operation"."""
    durability, _, operations = text.partition(": ")
    program = Program(durability, tuple(operations.split(", ")))

    def found(directory: Path) -> str | None:
        most_states = MOST_STATES if any(map(omitted, Rule)) else kept_states
        each = Search(**{"budget": 64, "share": 0.2, "most_states": most_states, **options})
        each.run(program)
        return next(iter(each.findings.failures), None)

    return found


# ---------------------------------------------------------------- searches of their own


def sync_shared(directory: Path) -> str | None:
    """A record that is appended during a sync is not made durable by it.

    On a busy machine the other thread may come too late for the syncs of one recording. Where the
    rule is kept three recordings are searched, so that one does.
    """
    sys.setswitchinterval(5)
    program = Program("power", ("group", "group", "group"))
    for number in range(RECORDINGS if omitted(Rule.R4) else RECORDINGS // 4):
        recording, world = record(program, directory / f"group{number}")
        each = Search(budget=64, share=0, most_states=1500 if omitted(Rule.R4) else 750)
        each.crash(recording, world, str(program))
        if each.findings.failures:
            return each.findings.failures[0]
    return None


def use_after_failed_sync(directory: Path) -> str | None:
    """After a sync that failed nothing is called durable any more."""
    start = base("power", "small")
    fd = native.memfd_create("failing")
    os.write(fd, start.image)
    world = World(attach(fd), start.known, start.names)
    run(world, "alloc")  # after which a commit asks for nothing but what it is made of
    for number in range(1, 20):
        try:
            with native.faults(number, errno.EIO) as fault:
                run(world, "alloc")
        except DurabilityError:
            break
        if fault.hit == Call.NONE:
            raise AssertionError("a commit with a sync expected")
    try:
        run(world, "alloc")
    except Exception:
        return None
    return "a commit was called durable after a sync had failed"


def repeated(directory: Path) -> str | None:
    """A record that was torn off does not continue the one that is written again in its place."""
    with reproducible():
        recording, world = record(Program("power", ("alloc lazy", "alloc lazy")))
    states = CrashStates(recording, kinds=(Kind.POWER,), cell=LINE, budget=64)
    with Image(states.replay) as image:
        for state in states:
            if state.crash.most < 2 or len(state.changes) > 1:
                continue
            image.load(state)
            if check_image(image.fd, world.states, 0, 2) == 0:
                image.load(state)
                try:
                    check_written_again(image.fd)
                except WrongHeapError as error:
                    return str(error)
    return None


def check_written_again(fd: int) -> None:
    """Do the first of two commits again, and be killed."""
    start = base("power", "small")
    again = World(attach(fd), start.known, start.names)
    run(again, "alloc lazy")
    left = native.memfd_create("left")
    os.write(left, native.pread(fd, native.fstat(fd).size, 0))
    restamp(left)
    again.close()
    try:
        check_image(left, again.states, 1, 1)
    finally:
        os.close(left)


def holes(directory: Path) -> str | None:
    """Recovery asks for blocks before it stores to a hole of the file: there may be no room."""
    recording, _ = record(Program("power", ("write lazy",)))
    states = CrashStates(recording, kinds=(Kind.KILL,))
    with Image(states.replay) as image:
        for state in states:
            image.load(state)
        for number in range(1, 100):
            image.load(state)  # a call refused in vain may let the recovery end well
            native.fallocate(image.fd, FIRST_UNIT, UNIT, Allocate.PUNCH_HOLE)
            with native.faults(number, errno.ENOSPC) as fault, suppress(PmemHeapError):
                attach(image.fd).close()
            if fault.hit == Call.FALLOCATE:
                return None
            if fault.hit == Call.NONE:
                break
    return "recovery stored to a hole"


def damage(directory: Path) -> str | None:
    """Acknowledged work that is damaged is told of, where it is not home yet."""
    recording, world = record(Program("power", ("swap", "alloc")))
    place = next(each.offset for each in recording.events if each.data and each.offset in LOG)
    states = CrashStates(recording, kinds=(Kind.POWER,), budget=64)
    with Image(states.replay) as image:
        for state in states:
            if state.crash.least < 2:
                continue
            image.load(state)
            checksum = native.pread(image.fd, 1, place + 5)
            native.pwrite(image.fd, bytes([checksum[0] ^ 1]), place + 5)
            try:
                check_image(image.fd, world.states, 2, 2)
            except CorruptHeapError:
                continue
            except WrongHeapError as error:
                return f"lost without a word: {error}"
    return None


def given_again(directory: Path) -> str | None:
    """What a commit frees while there may be readers is given to nobody."""
    for durability in ("process", "power"):
        start = base(durability, "small")
        fd = native.memfd_create("read")
        os.write(fd, start.image)
        heap = attach(fd)
        with heap.transaction() as tx:
            offset = tx.malloc(700)
        log = heap._space.shared.log
        log._set_copies(1, 1)
        with heap.transaction() as tx:
            tx.free(offset)
        if log._tagged()[0] == 0 or offset in {heap.malloc(700) for _ in range(10)}:
            return f"{durability}: a block that readers may have was given to somebody else"
        heap.close()
    return None


PLANTED: dict[Rule, Callable[[Path], str | None]] = {
    Rule.R1: search("power: two-open lazy, two-open"),
    Rule.R2: search("power: snapshot-crowd", budget=4, share=0.0),
    Rule.R3: search("process: swap"),
    Rule.R4: sync_shared,
    Rule.R5: search("power: swap lazy"),
    Rule.R6: search("power: free lazy, alloc"),
    Rule.R7: use_after_failed_sync,
    Rule.R8: search("power: write, checkpoint"),
    Rule.R9: search("power: write, checkpoint, write, checkpoint", cell=LINE),
    Rule.R10: search("power: swap lazy, alloc lazy", share=1.0, nested_budget=64),
    Rule.R11: search("power: even lazy", share=0.0),
    Rule.R12: search("power: swap, swap"),
    Rule.R13: search("power: regenerate lazy", share=0.0),
    Rule.R14: search("power: write", share=1.0, nested_budget=64),
    Rule.R15: repeated,
    Rule.R16: search("power: grow"),
    Rule.R17: search("power: trim-tail"),
    Rule.R18: search("power: snapshot"),
    Rule.R19: search("power: snapshot"),
    Rule.R20: search("power: snapshot-checkpoint"),
    Rule.R21: search("process: abort-write"),
    Rule.R22: search("process: swap lazy, bare-free"),
    Rule.R23: search("process: abort-write"),
    Rule.R24: search("power: arena-drop, arena", budget=8, share=0.0),
    Rule.R25: search("power: grow-odd"),
    Rule.R26: search("power: free-written"),
    Rule.R27: search("process: alloc, malloc"),
    Rule.R28: search("power: move-log, swap"),
    Rule.R29: holes,
    Rule.R30: search("power: grow"),
    Rule.R31: search("process: queue, queue"),
    Rule.R32: search("process: queue"),
    Rule.R33: search("process: region, region-drop"),
    Rule.R34: search("process: region, region-drop"),
    Rule.R35: search("process: rows, trim"),
    Rule.DAMAGE: damage,
    Rule.DATA_FIRST: search("power: alloc-first"),
    Rule.SPARE_TABLES: search("power: trim-head", kept_states=1800, budget=8, share=1.0),
    Rule.REWOUND: search("power: region-rewind", budget=16, share=0.0),
    Rule.Q1: outlived,
    Rule.Q2: by_turns("block"),
    Rule.Q3: given_again,
    Rule.Q4: adopted_late,
    Rule.Q6: taken_over,
    Rule.Q7: by_turns("put", "open"),
    Rule.Q8: by_turns("put", "open"),
    Rule.Q9: by_turns("put", "open"),
    Rule.Q10: by_turns("both"),
    Rule.Q11: by_turns("both"),
    Rule.Q13: unmapped,
    Rule.Q14: unmapped,
    Rule.Q15: dropped,
    Rule.Q19: by_turns("last", "last"),
    Rule.Q5: lambda directory: search_changes(directory / "heap", steps=60),
    Rule.SPARE_SYNC: search("power: refill-head", share=0.0),
}


@pytest.mark.parametrize("rule", list(Rule), ids=lambda rule: rule.name)
def test_a_rule_that_is_left_out_is_missed(rule: Rule, tmp_path: Path) -> None:
    assert in_a_child(rule, tmp_path, kept=False) is not None


@pytest.mark.parametrize("rule", list(Rule), ids=lambda rule: rule.name)
def test_nothing_is_wrong_when_all_rules_are_kept(rule: Rule, tmp_path: Path) -> None:
    assert in_a_child(rule, tmp_path, kept=True) is None


def in_a_child(rule: Rule, directory: Path, *, kept: bool) -> str | None:
    """Return what a search for a rule finds; a child that dies has found something as well."""
    for durability, shape in product(("power", "process"), SHAPES):
        base(durability, shape)  # made here, with all rules
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=search_in_child, args=(rule, kept, directory, sender))
    child.start()
    sender.close()
    try:
        found: str | None = receiver.recv()
    except EOFError:
        found = "died"
    child.join()
    return found if child.exitcode == 0 else f"died: {child.exitcode}"


def search_in_child(rule: Rule, kept: bool, directory: Path, sender: Connection) -> None:
    try:
        if kept:
            sender.send(PLANTED[rule](directory))
        else:
            with omitting(rule):
                sender.send(PLANTED[rule](directory))
    except Exception:
        sender.send(traceback.format_exc())
