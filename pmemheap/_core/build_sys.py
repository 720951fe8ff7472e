"""Describe `_sys` to cffi: the prototypes are the headers themselves, nothing is kept in step."""

from pathlib import Path

from cffi import FFI

HEADERS = ("base/codes.h", "base/format.h", "base/crc32c.h", "os/os.h")
INCLUDED = ("os/seam.h", "os/tape.h", "os/tape_record.h", "os/file_table.h", "os/signals.h")
SOURCES = (
    "base/crc32c.c", "os/calls.c", "os/faults.c", "os/file_table.c", "os/flush.c",
    "os/pagemap.c", "os/ranges.c", "os/taking_over.c", "os/tape.c", "os/tape_record.c",
)  # fmt: skip

CORE = Path(__file__).parent  # relative: setuptools wants it so


def declarations(header: Path) -> str:
    """Return what `header` declares, without the preprocessor's lines and what it asserts."""
    lines = header.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith(("#", "PH_STORED")))


builder = FFI()
for name in HEADERS:
    builder.cdef(declarations(CORE / name))
builder.set_source(
    "pmemheap._core._sys",
    "\n".join(f'#include "{name}"' for name in HEADERS),
    sources=[str(CORE / name) for name in SOURCES],
    depends=[str(CORE / name) for name in (*HEADERS, *INCLUDED)],
    include_dirs=[str(CORE)],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
)
