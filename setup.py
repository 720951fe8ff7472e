"""Build the two doors to the C core; everything else stands in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = Path("pmemheap/_core")
LIMITED_API = "0x030B0000"  # CPython 3.11, the first whose limited API has the buffer protocol


class BuildInTreeToo(build_ext):
    """Leave the core in the source tree too, whatever is built.

    Python that is started in the tree finds the package's folder there before the installed one;
    without the core in it, ``import pmemheap`` would fail after ``pip install .``.
    """

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if not self.inplace:
            self.copy_extensions_to_source()


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
    cmdclass={"build_ext": BuildInTreeToo},
)
