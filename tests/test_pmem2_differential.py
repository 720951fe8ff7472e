"""Random operations with hostile numbers, side by side on pmemheap and on the real libpmem2.

Codes, sizes, addresses (from where a reservation was born), offsets and contents of maps,
granularity and what each search finds must agree. Where the contract lists a defect of the
reference, the operation stays out of the reference under the defect's name (`Driver.defect`), and
ours must give the code that the contract sets for it, if it sets one.

    PMEMHEAP_DIFFERENTIAL_STEPS=100000 pytest tests/test_pmem2_differential.py      the long run
    PMEMHEAP_DIFFERENTIAL_SEED=7 ...                                                another one
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import reference_pmem2

from pmemheap.errors import Pmem2Error
from pmemheap.pmem2 import (
    PMEM2_E_LENGTH_OUT_OF_RANGE,
    PMEM2_E_MAPPING_EXISTS,
    Map,
    VMReservation,
)
from pmemheap.units import PAGE, GiB, MiB, TiB

STEPS = int(os.environ.get("PMEMHEAP_DIFFERENTIAL_STEPS", "4000"))
SEED = int(os.environ.get("PMEMHEAP_DIFFERENTIAL_SEED", "1"))
STEPS_IN_SEQUENCE = 400

ENOMEM = -12
ARENA = 32 * TiB  # where no kernel places anything unasked
STRIDE = 64 * GiB
LIMIT = 1 << 64
LAYOUT = "so large or far that it depends on where each process has its own code"

HOSTILE = [
    0, 1, 16, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 5 * PAGE, 16 * PAGE, 64 * PAGE, MiB, 2 * MiB -
    PAGE, 2 * MiB, 2 * MiB + PAGE, 4 * MiB, GiB - PAGE, GiB, GiB + PAGE, 2 * GiB - PAGE, 2 *
    GiB, 2 * GiB + PAGE, 1 << 31, 1 << 32, TiB, 1 << 46, (1 << 47) - PAGE, 1 << 47, 1 << 62, (1
    << 63) - PAGE, 1 << 63, (1 << 63) + PAGE, LIMIT - 2 * GiB, LIMIT - GiB - PAGE, LIMIT - GiB,
    LIMIT - 2 * MiB, LIMIT - 2 * PAGE, LIMIT - PAGE, LIMIT - 1,
]  # fmt: skip


class Ours:
    """The operations on pmemheap. Shares no code with the reference but the files it opens."""

    def __init__(self) -> None:
        self.reservations: dict[int, VMReservation] = {}
        self.born_at: dict[int, int] = {}
        self.maps: dict[int, Map] = {}
        self.files = reference_pmem2.open_files()

    def run(self, operation: list[Any]) -> list[Any]:
        name, *arguments = operation
        try:
            result = getattr(self, f"do_{name}")(*arguments)
        except Pmem2Error as error:
            result = [error.code]
        if name in {"extend", "shrink"}:
            reservation = self.reservations[arguments[0]]
            moved = reservation.address - self.born_at[arguments[0]]
            return [result[0], moved, reservation.size]
        return list(result)

    def do_new(self, slot: int, address: int, size: int) -> list[Any]:
        reservation = VMReservation(size, address)
        self.reservations[slot] = reservation
        self.born_at[slot] = reservation.address
        is_aligned = address or reservation.address % (GiB if size >= 2 * GiB else 2 * MiB) == 0
        return [0, reservation.address == address, bool(is_aligned), 0, reservation.size]

    def do_new_near(self, slot: int, other: int, offset: int, size: int) -> list[Any]:
        return self.do_new(slot, (self.reservations[other].address + offset) % LIMIT, size)

    def do_extend(self, slot: int, size: int) -> list[Any]:
        self.reservations[slot].extend(size)
        return [0]

    def do_shrink(self, slot: int, offset: int, size: int) -> list[Any]:
        self.reservations[slot].shrink(offset, size)
        return [0]

    def do_delete(self, slot: int) -> list[Any]:
        self.reservations[slot].close()
        del self.reservations[slot]
        return [0]

    def do_anonymous(self, slot: int, key: int, offset: int, length: int) -> list[Any]:
        self.maps[key] = Map.anonymous(self.reservations[slot], offset, length)
        return self.describe(key)

    def do_file(
        self, slot: int, key: int, offset: int, length: int, kind: str, begin: int, private: int
    ) -> list[Any]:
        self.maps[key] = Map.file(
            self.files[kind],
            self.reservations[slot],
            offset,
            length,
            begin,
            sharing="private" if private else "shared",
        )
        return self.describe(key)

    def describe(self, key: int) -> list[Any]:
        made = self.maps[key]
        return [0, made.offset, made.length, int(made.granularity)]

    def do_unmap(self, key: int) -> list[Any]:
        self.maps[key].close()
        del self.maps[key]
        return [0]

    def do_touch(self, key: int, value: int) -> list[Any]:
        with self.maps[key].view as view:
            before = [view[0], view[-1]]
            view[0] = view[-1] = value
        return [0, *before]

    def found(self, found: Map) -> list[Any]:
        return [0, *(key for key, made in self.maps.items() if made is found)]

    def do_find(self, slot: int, offset: int, length: int) -> list[Any]:
        return self.found(self.reservations[slot].find(offset, length))

    def do_first(self, slot: int) -> list[Any]:
        return self.found(self.reservations[slot].first())

    def do_last(self, slot: int) -> list[Any]:
        return self.found(self.reservations[slot].last())

    def do_next(self, slot: int, key: int) -> list[Any]:
        return self.found(self.reservations[slot].next(self.maps[key]))

    def do_prev(self, slot: int, key: int) -> list[Any]:
        return self.found(self.reservations[slot].prev(self.maps[key]))

    def close(self) -> None:
        for made in self.maps.values():
            made.close()
        for reservation in self.reservations.values():
            reservation.close()
        for fd in set(self.files.values()) - {-1, 999_999}:
            os.close(fd)


class Driver:
    """Draws a sequence, runs it on ours, and keeps what the reference is to be asked."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ours = Ours()
        self.asked: list[list[Any]] = []
        self.answers: list[list[Any]] = []
        self.excluded: Counter[str] = Counter()
        self.next_slot = 0
        self.next_key = 0
        self.anywhere: set[int] = set()
        self.head_was_cut: set[int] = set()
        self.home: dict[int, int] = {}  # map -> slot
        self.tainted: list[list[int]] = []  # ranges that the reference may hold without showing it
        self.taint_of: dict[int, list[int]] = {}

    # ------------------------------------------------------------ drawing

    def step(self) -> None:
        name = self.random.choices(
            ["new", "extend", "shrink", "delete", "anonymous", "file", "unmap", "touch", "find",
             "first", "last", "next", "prev"],
            [8, 10, 12, 3, 18, 14, 9, 6, 14, 2, 2, 5, 5],
        )[0]  # fmt: skip
        operation = getattr(self, f"draw_{name}")()
        if operation is not None:
            self.perform(operation)

    def number(self, *near: int) -> int:
        """A hostile number, or one beside a number that matters here."""
        if near and self.random.random() < 0.75:
            base = self.random.choice(near)
            return max(0, base + self.random.choice([0, 0, 0, 1, -1, PAGE, -PAGE, 2 * PAGE]))
        return self.random.choice(HOSTILE)

    def slot(self) -> int | None:
        slots = list(self.ours.reservations)
        return self.random.choice(slots) if slots else None

    def key(self) -> int | None:
        keys = list(self.ours.maps)
        return self.random.choice(keys) if keys else None

    def draw_new(self) -> list[Any] | None:
        if len(self.ours.reservations) >= 6:
            return None
        sizes = [PAGE, 16 * PAGE, 64 * PAGE, MiB, 2 * MiB, 6 * MiB, 2 * GiB]
        size = self.random.choice(sizes) if self.random.random() < 0.7 else self.number(*sizes)
        slot, self.next_slot = self.next_slot, self.next_slot + 1
        kind = self.random.random()
        other = self.slot()
        if kind < 0.3:
            return ["new", slot, 0, size]
        if kind < 0.45 and other is not None:
            there = self.ours.reservations[other]
            offset = self.number(0, there.size, there.size // 2)
            return ["new_near", slot, other, offset, size]
        address = (
            ARENA + slot * STRIDE + self.random.choice([0, 0, PAGE, 2 * MiB, 3 * PAGE + MiB, 1])
        )
        return ["new", slot, address, size]

    def draw_extend(self) -> list[Any] | None:
        slot = self.slot()
        if slot is None:
            return None
        size = self.ours.reservations[slot].size
        return ["extend", slot, self.number(PAGE, 2 * MiB, LIMIT - size, size)]

    def draw_shrink(self) -> list[Any] | None:
        slot = self.slot()
        if slot is None:
            return None
        size = self.ours.reservations[slot].size
        offset = self.number(0, 0, size - PAGE, size, size // 2)
        return ["shrink", slot, offset, self.number(PAGE, size - offset, size, LIMIT - offset)]

    def draw_delete(self) -> list[Any] | None:
        slot = self.slot()
        return None if slot is None else ["delete", slot]

    def draw_anonymous(self) -> list[Any] | None:
        slot = self.slot()
        if slot is None:
            return None
        size = self.ours.reservations[slot].size
        key, self.next_key = self.next_key, self.next_key + 1
        offset = self.place(size)
        length = self.number(PAGE, PAGE, 4 * PAGE, size - offset, LIMIT - offset)
        return ["anonymous", slot, key, offset, min(length, LIMIT - 1)]

    def draw_file(self) -> list[Any] | None:
        slot = self.slot()
        if slot is None:
            return None
        key, self.next_key = self.next_key, self.next_key + 1
        kinds = list(self.ours.files)
        kind = self.random.choices(kinds, [12 if k in {"whole", "ragged"} else 1 for k in kinds])[0]
        length = self.number(0, 0, PAGE, 2 * PAGE, 64 * PAGE)
        begin = self.number(0, 0, PAGE, 2 * PAGE, 3 * PAGE, 63 * PAGE, LIMIT - PAGE)
        offset = self.place(self.ours.reservations[slot].size)
        private = int(self.random.random() < 0.2)
        return ["file", slot, key, offset, length, kind, begin % LIMIT, private]

    def place(self, size: int) -> int:
        """An offset in a reservation, most often one that can be mapped."""
        if self.random.random() < 0.6:
            return self.random.randrange(min(size // PAGE, 64)) * PAGE
        return self.number(0, size, size - PAGE, size // 2)

    def draw_unmap(self) -> list[Any] | None:
        key = self.key()
        return None if key is None else ["unmap", key]

    def draw_touch(self) -> list[Any] | None:
        key = self.key()
        return None if key is None else ["touch", key, self.random.randrange(256)]

    def draw_find(self) -> list[Any] | None:
        slot = self.slot()
        if slot is None:
            return None
        size = self.ours.reservations[slot].size
        offset = self.place(size)
        return ["find", slot, offset, self.number(0, 0, 1, PAGE, 16 * PAGE, size, LIMIT - offset)]

    def draw_first(self) -> list[Any] | None:
        slot = self.slot()
        return None if slot is None else ["first", slot]

    def draw_last(self) -> list[Any] | None:
        slot = self.slot()
        return None if slot is None else ["last", slot]

    def draw_next(self) -> list[Any] | None:
        slot, key = self.slot(), self.key()
        return None if slot is None or key is None else ["next", slot, key]

    def draw_prev(self) -> list[Any] | None:
        slot, key = self.slot(), self.key()
        return None if slot is None or key is None else ["prev", slot, key]

    # ------------------------------------------------------------ running

    def perform(self, operation: list[Any]) -> None:
        operation = [min(a, LIMIT - 1) if isinstance(a, int) else a for a in operation]
        defect, expected = self.defect(operation)
        if defect is not None:
            self.excluded[defect] += 1
            if expected is not None:
                assert self.ours.run(operation)[0] == expected, (defect, operation)
            return
        result = self.ours.run(operation)
        self.asked.append(operation)
        self.answers.append(result)
        if result[0] == 0:
            self.note(operation)

    def note(self, operation: list[Any]) -> None:
        """Remember, after a success, what the exclusions ask for."""
        name, slot = operation[:2]
        if name in {"new", "new_near"}:
            if operation[2] in ({0} if name == "new" else self.anywhere):
                self.anywhere.add(slot)
            self.taint_of[slot] = [LIMIT, 0]
            self.tainted.append(self.taint_of[slot])
        if name in {"new", "new_near", "extend"}:
            here = self.ours.reservations[slot]
            taint = self.taint_of[slot]
            taint[0] = min(taint[0], here.address - 2 * GiB)
            taint[1] = max(taint[1], here.address + here.size + 3 * GiB)
        if name == "shrink" and operation[2] == 0:
            self.head_was_cut.add(slot)
        if name in {"anonymous", "file"}:
            self.home[operation[2]] = slot

    # ------------------------------------------------------------ the exclusions

    def defect(self, operation: list[Any]) -> tuple[str | None, int | None]:
        """Name the defect of the reference that an operation would meet, and our code for it.

        The code is None where ours would succeed and so leave the two in different states.
        """
        check = getattr(self, f"defect_of_{operation[0]}", None)
        result: tuple[str | None, int | None] = check(*operation[1:]) if check else (None, None)
        return result

    def defect_of_new(self, slot: int, address: int, size: int) -> tuple[str | None, int | None]:
        if address % PAGE or size % PAGE:
            return None, None
        if size == 0:
            return "D1", PMEM2_E_LENGTH_OUT_OF_RANGE
        if size > LIMIT - 2 * GiB:
            return "D2", ENOMEM
        if 16 * TiB < size < 1 << 47 or ARENA + 16 * TiB < address < 1 << 47:
            return (None, None) if self.shown(address, address + PAGE) else (LAYOUT, None)
        if address and self.hidden(address, address + size, None):
            return "D5, D6, D11: padding in the way of new", None
        return None, None

    def defect_of_new_near(
        self, slot: int, other: int, offset: int, size: int
    ) -> tuple[str | None, int | None]:
        there = self.ours.reservations[other]
        address = (there.address + offset) % LIMIT
        found = self.defect_of_new(slot, address, size)
        if found[0] is None and other in self.anywhere and offset >= there.size:
            return "D18: what is beside an address of the kernel's choice", None
        return found

    def defect_of_extend(self, slot: int, size: int) -> tuple[str | None, int | None]:
        here = self.ours.reservations[slot]
        if size % PAGE or size == 0:
            return None, None
        if here.size + size >= LIMIT:
            return "D3", PMEM2_E_LENGTH_OUT_OF_RANGE
        stop = here.address + here.size
        if stop + size >= LIMIT - 2 * GiB:
            return "D2, D3: the end, rounded up, wraps in extend", ENOMEM
        if 16 * TiB < size < 1 << 47:
            return LAYOUT, None
        if slot in self.anywhere:
            return "D18: what is behind an address of the kernel's choice", None
        if slot in self.head_was_cut:
            return "D9", None
        if self.hidden(stop, stop + size + 2 * GiB, slot):
            return "D12: padding in the way of extend", None
        return None, None

    def hidden(self, start: int, stop: int, own: int | None) -> bool:
        """Tell whether the reference may hold, unseen, part of a range that looks free."""
        if self.shown(start, stop, own):
            return False
        mine = None if own is None else self.taint_of[own]
        return any(low < stop and start < high for low, high in self.tainted if [low, high] != mine)

    def shown(self, start: int, stop: int, but: int | None = None) -> bool:
        """Tell whether a range meets a reservation, so that both must refuse."""
        return any(
            slot != but and here.address < stop and start < here.address + here.size
            for slot, here in self.ours.reservations.items()
        )

    def defect_of_shrink(self, slot: int, offset: int, size: int) -> tuple[str | None, int | None]:
        here = self.ours.reservations[slot]
        if offset % PAGE or size % PAGE or offset >= here.size or size == 0:
            return None, None
        if offset + size >= LIMIT:
            return "D8", PMEM2_E_LENGTH_OUT_OF_RANGE
        in_front = self.hidden_or_shown_in_front(slot)
        if offset == 0 and slot in self.head_was_cut and in_front:
            return "D10", None
        return None, None

    def hidden_or_shown_in_front(self, slot: int) -> bool:
        """Tell whether anything may lie in the GiB in front of a reservation's head."""
        if slot in self.anywhere:
            return True
        head = self.ours.reservations[slot].address
        others = (taint for key, taint in self.taint_of.items() if key != slot)
        return any(low < head and head - GiB < high for low, high in others)

    def defect_of_anonymous(
        self, slot: int, key: int, offset: int, length: int
    ) -> tuple[str | None, int | None]:
        if offset % PAGE or length % PAGE or length == 0:
            return None, None
        if offset + length >= LIMIT:
            return "D4", PMEM2_E_LENGTH_OUT_OF_RANGE
        if 256 * MiB < length <= self.ours.reservations[slot].size - offset:
            return "D13: more than there may be memory for", None
        return None, None

    def defect_of_file(
        self, slot: int, key: int, offset: int, length: int, kind: str, begin: int, private: int
    ) -> tuple[str | None, int | None]:
        # A file is small: its length reaches the sum only where the offset is in the last pages.
        if offset % PAGE == 0 and offset >= LIMIT - 128 * PAGE:
            return "D4", None
        return None, None

    def defect_of_find(self, slot: int, offset: int, length: int) -> tuple[str | None, int | None]:
        address = self.ours.reservations[slot].address
        if address + offset + max(length, 1) >= LIMIT:
            return "D21", None
        return None, None

    def defect_of_next(self, slot: int, key: int) -> tuple[str | None, int | None]:
        if self.home[key] != slot:
            return "a map of another reservation", None
        return None, None

    defect_of_prev = defect_of_next


class Peer:
    """The process with the real library."""

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in {"LD_PRELOAD"}}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(reference_pmem2.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.ready = self.output.readline().strip() == "ready"

    @property
    def output(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def ask(self, sequence: list[list[Any]]) -> Any:
        assert self.process.stdin is not None
        print(json.dumps(sequence), file=self.process.stdin, flush=True)
        return json.loads(self.output.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.output.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    process = Peer()
    if not process.ready:
        process.close()
        pytest.skip("libpmem2.so.1 is missing: apt-get install libpmem2-dev")
    yield process
    process.close()


def agree(operation: list[Any], ours: list[Any], theirs: list[Any]) -> bool:
    if ours == theirs:
        return True
    # Past 2^40 the kernel meets a mapping or its limit first, as the addresses happen to lie.
    numbers = {ENOMEM, PMEM2_E_MAPPING_EXISTS}
    huge = operation[0] in {"new", "new_near", "extend"} and operation[-1] >= TiB
    return huge and {ours[0], theirs[0]} == numbers and ours[1:] == theirs[1:]


def run_sequence(seed: int, peer: Peer, totals: Counter[str], excluded: Counter[str]) -> int:
    driver = Driver(seed)
    try:
        for _ in range(STEPS_IN_SEQUENCE):
            driver.step()
        theirs = peer.ask(driver.asked)
    finally:
        driver.ours.close()
    assert isinstance(theirs, list), f"seed {seed}: {theirs} after {driver.asked}"
    for number, (operation, our, their) in enumerate(
        zip(driver.asked, driver.answers, theirs, strict=True)
    ):
        before = driver.asked[max(0, number - 8) : number]
        assert agree(operation, our, their), (
            f"seed {seed}, operation {number}: {operation}: {their} expected, {our} found; "
            f"before it {before}"
        )
        totals[f"{operation[0]} {'ok' if our[0] == 0 else our[0]}"] += 1
    excluded.update(driver.excluded)
    return len(driver.asked)


@pytest.mark.slow
def test_random_operations_agree_with_libpmem2(peer: Peer) -> None:
    totals: Counter[str] = Counter()
    excluded: Counter[str] = Counter()
    done = 0
    seed = SEED * 1_000_000
    while done < STEPS:
        done += run_sequence(seed, peer, totals, excluded)
        seed += 1
    print(f"{done} operations agree, {sum(excluded.values())} left out")  # noqa: T201
    for title, counts in (("compared", totals), ("left out", excluded)):
        for name, count in sorted(counts.items()):
            print(f"  {title}: {name}: {count}")  # noqa: T201
    assert {name.split()[0] for name in totals if name.endswith(" ok")} >= {
        "new", "extend", "shrink", "delete", "anonymous", "file", "unmap", "touch", "find",
        "first", "last", "next", "prev",
    }  # fmt: skip
