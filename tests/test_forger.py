"""Forged files: each field of each structure changed and sealed again, and all done with them."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import forger
import pytest
from forged_fields import Sample, forged_value, samples

from pmemheap import CorruptHeapError, layout
from pmemheap.format.superblock import Superblock
from pmemheap.layout import ArenaSlot, RootSlot, SegmentSlot, Table

FORGER = Path(__file__).parent / "forger.py"
COUNT = 106
"""One of each kind of field; `make forge` takes 20000, with all commands on each."""
STRUCTURES = {
    "superblock", "shared", "segment", "arena", "root", "entry", "bits", "record", "operation",
    "map", "node", "leaf", "inner", "apart", "counts", "vector",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return samples(tmp_path_factory.mktemp("samples"))


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
def test_forged_files_have_clean_outcomes(half: int, tmp_path: Path) -> None:
    """A documented refusal or a right answer; no signal, no hang, no file touched beside."""
    command = [sys.executable, str(FORGER), "--count", str(COUNT), "--home", str(tmp_path)]
    command += ["--share", f"{half}/2", "--thin", "31"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(rf"^{COUNT // 2} forged, 0 unclean", done.stdout, re.M)


@pytest.mark.parametrize("end", ["raises", "dies"])
def test_an_unclean_one_is_named_alone(
    made: list[Sample], end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(forgery: forger.Forgery, home: Path, thin: int) -> None:
        assert forgery.number != 1 or end == "dies"
        if forgery.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(forger, "use", use)
    batch = [forger.Forgery.make(made, 0, number) for number in range(3)]
    (fault,) = forger.unclean_of(batch, tmp_path, 1)
    assert fault.startswith("unclean: 1 (" if end == "raises" else "signal 9: 1 (")


def test_samples_have_every_structure(made: list[Sample]) -> None:
    kinds = {kind.split(".")[0] for sample in made for kind in sample.fields}
    assert kinds == STRUCTURES
    assert {sample.name for sample in made} == {
        "process, closed", "process, killed", "power, closed", "power, killed",
    }  # fmt: skip
    assert all(sample.fields["inner.child"] and sample.fields["apart.length"] for sample in made)


def test_what_is_forged_is_sealed_again(made: list[Sample]) -> None:
    """Each reader takes the checksums of a forged structure for right."""
    chance = random.Random(7)
    for sample in made:
        for fields in sample.fields.values():
            forged = chance.choice(fields)
            image = bytearray(sample.image)
            forged.write(image, forged_value(chance, sample, forged))
            require_seals(bytes(image))


def refusal(unpack: Callable[[], object]) -> str:
    try:
        unpack()
    except CorruptHeapError as error:
        return str(error)
    return ""


def require_seals(image: bytes) -> None:
    for at in layout.SUPERBLOCKS:
        assert "crc32c" not in refusal(partial(Superblock.unpack, image[at : at + 512], at))
    kinds: dict[Table, Any] = {
        Table.SEGMENTS: SegmentSlot, Table.ARENAS: ArenaSlot, Table.ROOTS: RootSlot,
    }  # fmt: skip
    for table, kind in kinds.items():
        for at in (layout.slot_offset(table, index) for index in range(30)):
            assert "crc32c" not in refusal(partial(kind.unpack, image[at : at + 64], at))
