"""Build the two doors to the C core; everything else stands in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

CORE = Path("pmemheap/_core")
LIMITED_API = "0x030B0000"  # CPython 3.11, the first whose limited API has the buffer protocol

hot = Extension(
    "pmemheap._core._hot",
    sources=sorted(str(source) for source in CORE.glob("*.c")),
    depends=sorted(str(header) for header in CORE.glob("*.h")),
    define_macros=[("Py_LIMITED_API", LIMITED_API)],
    py_limited_api=True,
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
)

setup(
    ext_modules=[hot],
    cffi_modules=[f"{CORE}/build_sys.py:builder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
