"""The real libpmem2, driven by lists of operations: run as a program, beside the tests.

Each line of standard input is one JSON list of operations; the answer is one line with the list of
their results. Every sequence runs in a forked child, so that what the library leaks or overwrites
ends with it.

Results are ``[code, ...]``, the code 0 or negative; test_pmem2_differential.py describes the
operations.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import cffi

DECLARATIONS = """
    struct pmem2_config; struct pmem2_source; struct pmem2_map; struct pmem2_vm_reservation;
    int pmem2_config_new(struct pmem2_config **cfg);
    int pmem2_config_delete(struct pmem2_config **cfg);
    int pmem2_config_set_required_store_granularity(struct pmem2_config *cfg, int g);
    int pmem2_config_set_length(struct pmem2_config *cfg, size_t length);
    int pmem2_config_set_offset(struct pmem2_config *cfg, size_t offset);
    int pmem2_config_set_sharing(struct pmem2_config *cfg, int type);
    int pmem2_config_set_vm_reservation(struct pmem2_config *cfg,
        struct pmem2_vm_reservation *rsv, size_t offset);
    int pmem2_source_from_fd(struct pmem2_source **src, int fd);
    int pmem2_source_from_anon(struct pmem2_source **src, size_t size);
    int pmem2_source_delete(struct pmem2_source **src);
    int pmem2_map_new(struct pmem2_map **map, const struct pmem2_config *cfg,
        const struct pmem2_source *src);
    int pmem2_map_delete(struct pmem2_map **map);
    void *pmem2_map_get_address(struct pmem2_map *map);
    size_t pmem2_map_get_size(struct pmem2_map *map);
    int pmem2_map_get_store_granularity(struct pmem2_map *map);
    int pmem2_vm_reservation_new(struct pmem2_vm_reservation **rsv, void *addr, size_t size);
    int pmem2_vm_reservation_delete(struct pmem2_vm_reservation **rsv);
    void *pmem2_vm_reservation_get_address(struct pmem2_vm_reservation *rsv);
    size_t pmem2_vm_reservation_get_size(struct pmem2_vm_reservation *rsv);
    int pmem2_vm_reservation_extend(struct pmem2_vm_reservation *rsv, size_t size);
    int pmem2_vm_reservation_shrink(struct pmem2_vm_reservation *rsv, size_t offset, size_t size);
    int pmem2_vm_reservation_map_find(struct pmem2_vm_reservation *rsv, size_t offset, size_t len,
        struct pmem2_map **map);
    int pmem2_vm_reservation_map_find_first(struct pmem2_vm_reservation *rsv,
        struct pmem2_map **map);
    int pmem2_vm_reservation_map_find_last(struct pmem2_vm_reservation *rsv,
        struct pmem2_map **map);
    int pmem2_vm_reservation_map_find_next(struct pmem2_vm_reservation *rsv,
        struct pmem2_map *map, struct pmem2_map **next);
    int pmem2_vm_reservation_map_find_prev(struct pmem2_vm_reservation *rsv,
        struct pmem2_map *map, struct pmem2_map **prev);
"""

LIBRARY = "libpmem2.so.1"
GRANULARITY_PAGE = 2
PRIVATE = 1

ffi = cffi.FFI()
ffi.cdef(DECLARATIONS)


class Reference:
    """The operations of the differential test, on the real library."""

    def __init__(self, lib: Any) -> None:
        self.lib = lib
        self.reservations: dict[int, Any] = {}
        self.born_at: dict[int, int] = {}
        self.maps: dict[int, Any] = {}
        self.files = open_files()

    def run(self, operation: list[Any]) -> list[Any]:
        name, *arguments = operation
        method: Callable[..., list[Any]] = getattr(self, f"do_{name}")
        return method(*arguments)

    def state(self, slot: int) -> list[Any]:
        if slot not in self.reservations:
            return []
        rsv = self.reservations[slot][0]
        address = int(ffi.cast("uintptr_t", self.lib.pmem2_vm_reservation_get_address(rsv)))
        return [address - self.born_at[slot], self.lib.pmem2_vm_reservation_get_size(rsv)]

    def do_new(self, slot: int, address: int, size: int) -> list[Any]:
        rsv = ffi.new("struct pmem2_vm_reservation **")
        code = self.lib.pmem2_vm_reservation_new(rsv, ffi.cast("void *", address), size)
        if code:
            return [code]
        self.reservations[slot] = rsv
        got = self.lib.pmem2_vm_reservation_get_address(rsv[0])
        self.born_at[slot] = int(ffi.cast("uintptr_t", got))
        alignment = 1 << 30 if size >= 1 << 31 else 2 << 20
        is_aligned = address or self.born_at[slot] % alignment == 0
        return [code, self.born_at[slot] == address, bool(is_aligned), *self.state(slot)]

    def do_new_near(self, slot: int, other: int, offset: int, size: int) -> list[Any]:
        there = self.lib.pmem2_vm_reservation_get_address(self.reservations[other][0])
        address = (int(ffi.cast("uintptr_t", there)) + offset) % (1 << 64)
        return self.do_new(slot, address, size)

    def do_extend(self, slot: int, size: int) -> list[Any]:
        code = self.lib.pmem2_vm_reservation_extend(self.reservations[slot][0], size)
        return [code, *self.state(slot)]

    def do_shrink(self, slot: int, offset: int, size: int) -> list[Any]:
        code = self.lib.pmem2_vm_reservation_shrink(self.reservations[slot][0], offset, size)
        return [code, *self.state(slot)]

    def do_delete(self, slot: int) -> list[Any]:
        code = self.lib.pmem2_vm_reservation_delete(self.reservations[slot])
        if code == 0:
            del self.reservations[slot]
        return [code]

    def do_anonymous(self, slot: int, key: int, offset: int, length: int) -> list[Any]:
        source = ffi.new("struct pmem2_source **")
        code = self.lib.pmem2_source_from_anon(source, length)
        return self.place(slot, key, offset, length, source, 0, 0) if code == 0 else [code]

    def do_file(
        self, slot: int, key: int, offset: int, length: int, kind: str, begin: int, private: int
    ) -> list[Any]:
        source = ffi.new("struct pmem2_source **")
        code = self.lib.pmem2_source_from_fd(source, self.files[kind])
        if code:
            return [code]
        return self.place(slot, key, offset, length, source, begin, private)

    def place(
        self, slot: int, key: int, offset: int, length: int, source: Any, begin: int, private: int
    ) -> list[Any]:
        config = ffi.new("struct pmem2_config **")
        assert self.lib.pmem2_config_new(config) == 0
        try:
            code = self.lib.pmem2_config_set_offset(config[0], begin)
            if code:
                return [code]
            granularity = GRANULARITY_PAGE
            self.lib.pmem2_config_set_required_store_granularity(config[0], granularity)
            self.lib.pmem2_config_set_length(config[0], length)
            if private:
                self.lib.pmem2_config_set_sharing(config[0], PRIVATE)
            rsv = self.reservations[slot][0]
            self.lib.pmem2_config_set_vm_reservation(config[0], rsv, offset)
            made = ffi.new("struct pmem2_map **")
            code = self.lib.pmem2_map_new(made, config[0], source[0])
            if code:
                return [code]
            self.maps[key] = made
            return [code, *self.describe(slot, made[0])]
        finally:
            self.lib.pmem2_config_delete(config)
            self.lib.pmem2_source_delete(source)

    def describe(self, slot: int, found: Any) -> list[Any]:
        base = self.lib.pmem2_vm_reservation_get_address(self.reservations[slot][0])
        address = self.lib.pmem2_map_get_address(found)
        return [
            int(ffi.cast("uintptr_t", address)) - int(ffi.cast("uintptr_t", base)),
            self.lib.pmem2_map_get_size(found),
            self.lib.pmem2_map_get_store_granularity(found),
        ]

    def do_unmap(self, key: int) -> list[Any]:
        code = self.lib.pmem2_map_delete(self.maps[key])
        if code == 0:
            del self.maps[key]
        return [code]

    def do_touch(self, key: int, value: int) -> list[Any]:
        made = self.maps[key][0]
        size = self.lib.pmem2_map_get_size(made)
        memory = ffi.cast("unsigned char *", self.lib.pmem2_map_get_address(made))
        before = [memory[0], memory[size - 1]]
        memory[0] = memory[size - 1] = value
        return [0, *before]

    def found(self, code: int, out: Any) -> list[Any]:
        if code:
            return [code]
        return [code, *(key for key, made in self.maps.items() if made[0] == out[0])]

    def do_find(self, slot: int, offset: int, length: int) -> list[Any]:
        out = ffi.new("struct pmem2_map **")
        rsv = self.reservations[slot][0]
        return self.found(self.lib.pmem2_vm_reservation_map_find(rsv, offset, length, out), out)

    def do_first(self, slot: int) -> list[Any]:
        out = ffi.new("struct pmem2_map **")
        rsv = self.reservations[slot][0]
        return self.found(self.lib.pmem2_vm_reservation_map_find_first(rsv, out), out)

    def do_last(self, slot: int) -> list[Any]:
        out = ffi.new("struct pmem2_map **")
        rsv = self.reservations[slot][0]
        return self.found(self.lib.pmem2_vm_reservation_map_find_last(rsv, out), out)

    def do_next(self, slot: int, key: int) -> list[Any]:
        out = ffi.new("struct pmem2_map **")
        rsv, of = self.reservations[slot][0], self.maps[key][0]
        return self.found(self.lib.pmem2_vm_reservation_map_find_next(rsv, of, out), out)

    def do_prev(self, slot: int, key: int) -> list[Any]:
        out = ffi.new("struct pmem2_map **")
        rsv, of = self.reservations[slot][0], self.maps[key][0]
        return self.found(self.lib.pmem2_vm_reservation_map_find_prev(rsv, of, out), out)


def open_files() -> dict[str, int]:
    """Open one descriptor of each kind that a map may be asked for."""

    def memory_file(size: int, flags: int = os.O_RDWR) -> int:
        fd = os.memfd_create("differential")
        os.ftruncate(fd, size)
        return fd if flags == os.O_RDWR else os.open(f"/proc/self/fd/{fd}", flags)

    return {
        "whole": memory_file(64 * 4096),
        "ragged": memory_file(10_000),
        "empty": memory_file(0),
        "readonly": memory_file(16 * 4096, os.O_RDONLY),
        "writeonly": memory_file(16 * 4096, os.O_WRONLY),
        "pathonly": memory_file(16 * 4096, os.O_PATH),
        "directory": os.open("/", os.O_RDONLY),
        "pipe": os.pipe()[0],
        "device": os.open("/dev/null", os.O_RDWR),
        "closed": 999_999,
        "negative": -1,
    }


def answer(lib: Any, sequence: list[list[Any]]) -> None:
    """Run one sequence in a child and print its results, or how the child ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        reference = Reference(lib)
        results = [reference.run(operation) for operation in sequence]
        with open(writer, "w", encoding="ascii") as pipe:
            json.dump(results, pipe)
            pipe.flush()
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="ascii") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    print(text or json.dumps(f"reference died: status {status}"), flush=True)  # noqa: T201


def main() -> None:
    """Answer sequences until standard input ends; exit code 3 if the library is missing."""
    try:
        lib = ffi.dlopen(LIBRARY)
    except OSError:
        sys.exit(3)
    print("ready", flush=True)  # noqa: T201 -- standard output is the channel
    for line in sys.stdin:
        answer(lib, json.loads(line))


if __name__ == "__main__":
    main()
