"""pmem2: reservations and maps: made, grown, shrunk, searched and persisted."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import pyperf
from workloads import GiB, KiB, MiB

from pmemheap.pmem2 import Map, VMReservation

OPENED = contextlib.ExitStack()
SIZES = {"1MiB": MiB, "1GiB": GiB, "1TiB": 1024 * GiB}
MAPS = (10, 100, 1_000, 10_000)
PAGE = 4096


def reserve(loops: int, size: int) -> float:
    began = time.perf_counter()
    for _ in range(loops):
        VMReservation(size).close()
    return time.perf_counter() - began


def extend_shrink(loops: int, size: int) -> float:
    with contextlib.closing(VMReservation(MiB, headroom=2 * size)) as reservation:
        began = time.perf_counter()
        for _ in range(loops):
            reservation.extend(size)
            reservation.shrink(MiB, size)
        return time.perf_counter() - began


def map_unmap(loops: int, length: int) -> float:
    with contextlib.closing(VMReservation(length)) as reservation:
        began = time.perf_counter()
        for _ in range(loops):
            Map.anonymous(reservation, 0, length).close()
        return time.perf_counter() - began


@cache
def reservation_with(maps: int) -> Any:
    reservation = VMReservation(2 * maps * PAGE)
    OPENED.callback(reservation.close)
    for number in range(maps):  # A gap after each, lest the kernel makes one mapping of all.
        mapped = Map.anonymous(reservation, 2 * number * PAGE, PAGE)
        OPENED.callback(mapped.close)
    return reservation


def find(loops: int, maps: int) -> float:
    reservation = reservation_with(maps)
    offset = maps // 2 * 2 * PAGE
    began = time.perf_counter()
    for _ in range(loops):
        reservation.find(offset, PAGE)
    return time.perf_counter() - began


@cache
def file_map(length: int) -> Any:
    descriptor, path = tempfile.mkstemp()
    OPENED.callback(os.close, descriptor)
    Path(path).unlink()
    os.truncate(descriptor, length)
    reservation = VMReservation(length)
    OPENED.callback(reservation.close)
    mapped = Map.file(descriptor, reservation, 0, length)
    OPENED.callback(mapped.close)
    return mapped


def persist(loops: int, length: int) -> float:
    """Persist `length` bytes of a page-granular file map, of which one byte is new."""
    mapped = file_map(MiB)
    with mapped.view as view:
        began = time.perf_counter()
        for number in range(loops):
            view[0] = number & 0xFF
            mapped.persist(0, length)
        return time.perf_counter() - began


def main() -> None:
    runner = pyperf.Runner(metadata={"layer": "pmem2"})
    with OPENED:
        for label, size in SIZES.items():
            runner.bench_time_func(f"pmem2/reserve_close/{label}", reserve, size)
        for label, size in list(SIZES.items())[:2]:
            runner.bench_time_func(f"pmem2/extend_shrink/{label}", extend_shrink, size)
            runner.bench_time_func(f"pmem2/map_unmap/{label}", map_unmap, size)
        for maps in MAPS:
            runner.bench_time_func(f"pmem2/find/maps={maps}", find, maps)
        for label, length in {"64B": 64, "4KiB": 4 * KiB, "1MiB": MiB}.items():
            runner.bench_time_func(f"pmem2/persist/{label}", persist, length)


if __name__ == "__main__":
    main()
