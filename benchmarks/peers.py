"""Peers: allocators of others, and pmemheap, behind one face that benchmarks and traces drive.

A peer has `malloc`, `realloc` and `free` as attributes that are as close to the thing itself as
Python can hold them: a builtin function or a bound method, no wrapper in between. Handles are
integers except where `integer_handles` says otherwise. What a peer cannot do, it lacks:
`malloc_many` and `free_many` are there only where the allocator has such a call.

`open_peer` raises `PeerUnavailableError`, with what to install, where a library is missing.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from multiprocessing import heap as mp_heap
from pathlib import Path
from typing import Any

from native_build import BuildError, cffi_peer, extension

GiB = 1 << 30
POOL_BYTES = GiB // 2  # A libpmemobj pool has a fixed size and is allocated whole.
SHM = Path("/dev/shm")
ROOM_FOR_TLS = "GLIBC_TUNABLES=glibc.rtld.optional_static_tls=16384"  # Read when Python starts.
PATTERN = memoryview(bytes(range(1, 256)) * 4096)  # A view: a slice of it takes no memory.


class PeerUnavailableError(Exception):
    """This peer is not to be had here; the message says what is missing."""


class Peer:
    """What all peers share; a peer is also a context manager that closes it.

    Attributes
    ----------
    malloc, realloc, free : callable
        As `pmemheap.traces.Allocator` wants them.
    integer_handles : bool
        Whether handles fit an ``array("Q")``.
    """

    name = ""
    integer_handles = True
    malloc: Callable[[int], Any]
    realloc: Callable[[Any, int], Any]
    free: Callable[[Any], Any]

    def touch(self, handle: Any, size: int) -> None:
        """Write every byte of a block."""
        raise NotImplementedError

    def close(self) -> None:
        """Give everything back."""

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BatchPeer(Peer):
    """A peer that also allocates and frees many blocks in one call."""

    def malloc_many(self, size: int, count: int) -> Any:
        """Return `count` new blocks of `size` bytes, in whatever `free_many` takes."""
        raise NotImplementedError

    def free_many(self, blocks: Any) -> None:
        """Free all of them."""
        raise NotImplementedError


# ------------------------------------------------------------------------------ libraries, by cffi


class _CffiPeer(BatchPeer):
    def __init__(self, ffi: Any, lib: Any) -> None:
        self._new = ffi.new
        self._lib = lib
        self.malloc = lib.peer_malloc
        self.realloc = lib.peer_realloc
        self.free = lib.peer_free

    def touch(self, handle: Any, size: int) -> None:
        self._lib.peer_fill(handle, size)

    def malloc_many(self, size: int, count: int) -> Any:
        blocks = self._new("uint64_t[]", count)
        if self._lib.peer_malloc_many(size, count, blocks) != 0:
            raise MemoryError
        return blocks

    def free_many(self, blocks: Any) -> None:
        self._lib.peer_free_many(blocks, len(blocks))


@cache
def _heap_library(name: str, prefix: str, header: str, library: str) -> tuple[Any, Any]:
    names = "".join(
        f"#define HEAP_{verb.upper()} {prefix}{verb}\n" for verb in ("malloc", "realloc", "free")
    )
    libraries = (library,) if library else ()
    return _built(name, f"#include <{header}>\n{names}", "heap_peer.c", libraries)


def _built(name: str, preamble: str, source: str, libraries: tuple[str, ...]) -> tuple[Any, Any]:
    try:
        pair: tuple[Any, Any] = cffi_peer(name, preamble, source, libraries)
    except BuildError as error:
        package = f"lib{libraries[0]}-dev" if libraries else "gcc"
        raise PeerUnavailableError(f"{error} (apt-get install {package})") from error
    return pair


class GlibcCffi(_CffiPeer):
    """The C library's malloc, through cffi: what Python code would use without pmemheap."""

    name = "glibc (cffi)"

    def __init__(self) -> None:
        super().__init__(*_heap_library("glibc_peer", "", "stdlib.h", ""))


class MimallocCffi(_CffiPeer):
    """mimalloc, through cffi."""

    name = "mimalloc (cffi)"

    def __init__(self) -> None:
        super().__init__(*_heap_library("mimalloc_peer", "mi_", "mimalloc.h", "mimalloc"))


class Pmemobj(_CffiPeer):
    """libpmemobj: a pool file in memory, taken for persistent memory, so that nothing is synced."""

    name = "libpmemobj (cffi)"

    def __init__(self) -> None:
        os.environ["PMEM_IS_PMEM_FORCE"] = "1"  # Read when the library is loaded.
        super().__init__(*_pmemobj())
        self._directory = tempfile.TemporaryDirectory(dir=SHM)
        path = Path(self._directory.name) / "pool"
        if self._lib.peer_open(os.fsencode(path), POOL_BYTES) != 0:
            self._directory.cleanup()
            raise PeerUnavailableError(f"libpmemobj: no pool of {POOL_BYTES} bytes in {SHM}")

    def close(self) -> None:
        self._lib.peer_close()
        self._directory.cleanup()


@cache
def _pmemobj() -> tuple[Any, Any]:
    return _built("pmemobj_peer", "", "pmemobj_peer.c", ("pmemobj",))


class _MethodPeer(Peer):
    """A malloc as methods of an extension type that keep the GIL, as those of a heap do."""

    preamble = ""
    libraries: tuple[str, ...] = ()
    packages = "gcc python3-dev"

    def __init__(self) -> None:
        peer = _method_peer(self.preamble, self.libraries, self.packages)()
        self.malloc, self.realloc, self.free = peer.malloc, peer.realloc, peer.free
        self.touch = peer.touch  # type: ignore[method-assign]


@cache
def _method_peer(preamble: str, libraries: tuple[str, ...], packages: str) -> Any:
    try:
        return extension("method_peer", preamble, libraries).MethodPeer
    except BuildError as error:
        raise PeerUnavailableError(f"{error} (apt-get install {packages})") from error
    except ImportError as error:
        if "static TLS" not in str(error):
            raise
        name = libraries[0].lstrip(":")
        message = f"{name}: no room for its thread-local data (export {ROOM_FOR_TLS})"
        raise PeerUnavailableError(message) from error


class GlibcMethods(_MethodPeer):
    """The C library's malloc: the floor."""

    name = "glibc (methods)"
    preamble = """
        #include <stdlib.h>
        #define HEAP_MALLOC malloc
        #define HEAP_REALLOC realloc
        #define HEAP_FREE free
    """


class JemallocMethods(_MethodPeer):
    """jemalloc, by the names that only it has: `malloc` is the C library's in this process."""

    name = "jemalloc (methods)"
    preamble = """
        #include <stddef.h>
        void *mallocx(size_t size, int flags);
        void *rallocx(void *block, size_t size, int flags);
        void dallocx(void *block, int flags);
        #define HEAP_MALLOC(size) mallocx((size) + !(size), 0)
        #define HEAP_REALLOC(block, size) rallocx((block), (size) + !(size), 0)
        #define HEAP_FREE(block) dallocx((block), 0)
    """
    libraries = (":libjemalloc.so.2",)
    packages = "libjemalloc2"


class Obstack(_MethodPeer):
    """The C library's obstack: a pointer that is bumped. Not one of `PEERS`.

    `free` takes back a block and all that came after it, so that it cannot play traces.
    """

    name = "obstack (methods)"
    preamble = """
        #include <obstack.h>
        #include <stdlib.h>
        #define obstack_chunk_alloc malloc
        #define obstack_chunk_free free
        static struct obstack peer_stack;
        static void *bumped(size_t size)
        {
            if (peer_stack.chunk == NULL)
                obstack_begin(&peer_stack, 64 << 10);
            return obstack_alloc(&peer_stack, size);
        }
        #define HEAP_MALLOC bumped
        #define HEAP_REALLOC(block, size) NULL
        #define HEAP_FREE(block) obstack_free(&peer_stack, (block))
    """


# ------------------------------------------------------------------------ what Python comes with


class MultiprocessingHeap(Peer):
    """The allocator behind multiprocessing's shared values: pure Python over files in memory."""

    name = "multiprocessing.heap"
    integer_handles = False

    def __init__(self) -> None:
        self._heap = mp_heap.Heap()
        self.malloc = self._heap.malloc
        self.free = self._heap.free
        self.realloc = self._realloc

    def _realloc(self, block: Any, size: int) -> Any:
        arena, start, stop = block
        moved = self.malloc(size)
        kept = min(stop - start, size)
        to, at, _ = moved
        to.buffer[at : at + kept] = arena.buffer[start : start + kept]
        self.free(block)
        return moved

    def touch(self, handle: Any, size: int) -> None:
        arena, start, _ = handle
        with memoryview(arena.buffer) as buffer:
            _fill(buffer[start : start + size])


class Bytearrays(Peer):
    """One bytearray a block. Freed by emptying it: the replayer still holds the empty object."""

    name = "bytearray"
    integer_handles = False

    def __init__(self) -> None:
        self.malloc = bytearray
        self.free = bytearray.clear
        self.realloc = self._realloc

    @staticmethod
    def _realloc(block: bytearray, size: int) -> bytearray:
        missing = size - len(block)
        if missing > 0:
            block += bytes(missing)
        else:
            del block[size:]
        return block

    def touch(self, handle: Any, size: int) -> None:
        with memoryview(handle) as view:
            _fill(view[:size])


def _fill(view: memoryview) -> None:
    for start in range(0, len(view), len(PATTERN)):
        piece = view[start : start + len(PATTERN)]
        piece[:] = PATTERN[: len(piece)]


# ---------------------------------------------------------------------------------------- pmemheap


def heap_class() -> Any:
    """Return `pmemheap.Heap`; raises `PeerUnavailableError` where it is not built."""
    try:
        return importlib.import_module("pmemheap").Heap
    except (ImportError, AttributeError) as error:
        raise PeerUnavailableError(f"pmemheap: {error} (pip install -e .)") from error


class _PmemheapPeer(BatchPeer):
    def __init__(self, heap: Any) -> None:
        self.heap = heap
        self.malloc = heap.malloc
        self.realloc = heap.realloc
        self.free = heap.free
        self.malloc_many = heap.malloc_many  # type: ignore[method-assign]
        self.free_many = heap.free_many  # type: ignore[method-assign]

    def touch(self, handle: Any, size: int) -> None:
        with self.heap.view(handle, size) as view:
            _fill(view)

    def close(self) -> None:
        self.heap.close()


class PmemheapAnonymous(_PmemheapPeer):
    """pmemheap in private memory."""

    name = "pmemheap"

    def __init__(self) -> None:
        super().__init__(heap_class().anonymous())


class PmemheapFile(_PmemheapPeer):
    """pmemheap in a file that survives the process, in the directory for temporary files."""

    name = "pmemheap (process file)"

    def __init__(self) -> None:
        kind = heap_class()
        self._directory = tempfile.TemporaryDirectory()
        super().__init__(kind.create(Path(self._directory.name) / "heap", durability="process"))

    def close(self) -> None:
        super().close()
        self._directory.cleanup()


PEERS: dict[str, type[Peer]] = {
    kind.name: kind
    for kind in (
        PmemheapAnonymous,
        PmemheapFile,
        GlibcMethods,
        JemallocMethods,
        GlibcCffi,
        MimallocCffi,
        Pmemobj,
        MultiprocessingHeap,
        Bytearrays,
    )
}


def open_peer(name: str) -> Peer:
    """Make a fresh peer by its name in `PEERS`."""
    return PEERS[name]()


def unavailable() -> dict[str, str]:
    """Return the peers that cannot be opened here, each with the reason."""
    return dict(_refusals())


def _refusals() -> Iterator[tuple[str, str]]:
    for name in PEERS:
        try:
            with contextlib.closing(open_peer(name)):
                pass
        except PeerUnavailableError as refusal:
            yield name, str(refusal)
