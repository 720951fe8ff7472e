"""Constant space under a FIFO load. 2 GB here; `make fifo` passes more through and draws it."""

from __future__ import annotations

import pytest
from fifo_load import Load, run, steady

from pmemheap.units import GiB, MiB

LOADS = {
    "anonymous, trimmed": Load("anonymous", 2 * GiB),
    "anonymous, never trimmed": Load("anonymous", 2 * GiB, trim_every=0),
    "file, trimmed": Load("file", 2 * GiB),
    "file, never trimmed": Load("file", 1 * GiB, trim_every=0),
}


@pytest.mark.slow
@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS.keys())
def test_fifo_takes_constant_space(load: Load) -> None:
    samples = steady(run(load), load)
    assert len(samples) >= 16
    half = len(samples) // 2
    for what in ("reserved", "resident", "file_blocks"):
        early = max(getattr(each, what) for each in samples[:half])
        late = max(getattr(each, what) for each in samples[half:])
        assert late <= early * 1.05 + 1 * MiB, f"{what} grows: {early} bytes, then {late}"
    worst = max(max(each.reserved, each.resident, each.file_blocks) for each in samples)
    assert worst <= 2.5 * load.window
    slid = samples[-1].first_offset
    assert slid > load.total // 64 if load.trim_every else slid == 0
