"""Compiles the peers that are written in C, on first use, into `build/` beside this file.

    native/peer.h        the functions of an allocator; read by the compiler and by cffi alike
    native/store.h       those of a store of values
    native/*.c       ->  build/<digest of all that goes in>/<module>.so

A changed source is another digest and so another directory: nothing here is ever stale, and two
processes that build at once each build in a directory of their own and rename it into place.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cffi
from cffi import recompiler

HERE = Path(__file__).resolve().parent
NATIVE = HERE / "native"
BUILD = HERE / "build"
FLAGS = ["-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-unused-parameter"]
MISSING = {
    r"fatal error: (\S+): No such file": "header",
    r"cannot find -l:?(\S+?):?(?:\s|$)": "library",
}


class BuildError(Exception):
    """The compiler said no, most often because a library's header is missing."""


def cffi_peer(
    name: str, preamble: str, source: str, libraries: tuple[str, ...] = (), header: str = "peer.h"
) -> Any:
    """Return the `(ffi, lib)` pair of ``native/<source>`` behind the functions of a header.

    Parameters
    ----------
    name : str
        Of the module.
    preamble : str
        C text that goes in front of the source.
    source : str
        File in ``native/``.
    libraries : tuple of str
        To link with.
    header : str
        File in ``native/``.

    Raises
    ------
    BuildError
        With what is missing, or the compiler's own words.
    """
    declared = (NATIVE / header).read_text(encoding="utf-8")
    body = (NATIVE / source).read_text(encoding="utf-8")
    text = f"#include <stdint.h>\n{declared}\n{preamble}\n{body}"

    def bindings(target: Path) -> None:
        ffi = cffi.FFI()
        ffi.cdef(declared)
        recompiler.make_c_source(ffi, name, text, str(target))

    module = _compiled(name, text, libraries, bindings)
    return module.ffi, module.lib


def extension(name: str, preamble: str, libraries: tuple[str, ...] = ()) -> ModuleType:
    """Return the extension module ``native/<name>.c`` behind a preamble.

    Raises
    ------
    BuildError
        As `cffi_peer`.
    ImportError
        A library cannot be loaded.
    """
    text = f"{preamble}\n{(NATIVE / f'{name}.c').read_text(encoding='utf-8')}"
    return _compiled(name, text, libraries, lambda target: _write(target, text))


def _write(target: Path, text: str) -> None:
    target.write_text(text, encoding="utf-8")


def _compiled(
    name: str, text: str, libraries: tuple[str, ...], write_source: Callable[[Path], None]
) -> ModuleType:
    key = "\0".join([sys.version, text, *FLAGS, *libraries])
    home = BUILD / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not home.exists():
        _compile(name, libraries, home, write_source)
    return _imported(name, home / f"{name}.so")


def _compile(
    name: str, libraries: tuple[str, ...], home: Path, write_source: Callable[[Path], None]
) -> None:
    BUILD.mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=BUILD))
    source = scratch / f"{name}.c"
    write_source(source)
    include = sysconfig.get_path("include")
    command = ["cc", *FLAGS, f"-I{include}", str(source), "-o", str(scratch / f"{name}.so")]
    command += [f"-l{library}" for library in libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(scratch)
        raise BuildError(f"{name}: {_complaint(done.stderr)}")
    try:
        scratch.rename(home)
    except OSError:  # Another process was quicker, with the same text.
        shutil.rmtree(scratch)


def _complaint(said: str) -> str:
    """Return what the compiler or the linker misses, without the names of this machine's files."""
    for pattern, missing in MISSING.items():
        if found := re.search(pattern, said):
            return f"{missing} {found[1]} not found"
    found = re.search(r"\berror: (.*)", said)
    return found[1] if found else "the compiler failed"


def _imported(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
