"""The face of the package: its names, signatures and docstrings, and a core that is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import get_args

import pytest

import pmemheap
from pmemheap import DurabilityName, OpenFlag
from pmemheap.heap.strategies import Strategy
from pmemheap.layout import Durability

PACKAGE = Path(pmemheap.__file__).parent
MODULES = [
    "containers", "errors", "layers", "layout", "pmem2", "protocols", "repair", "salvage",
    "testing", "traces", "units",
]  # fmt: skip
INTERNAL = {"file", "format", "heap", "native", "offline", "refusals", "space"}


# ---------------------------------------------------------------- names


def test_dir_shows_what_is_meant() -> None:
    shown = set(dir(pmemheap))
    assert shown == {*pmemheap.__all__, *MODULES}
    assert not shown & {*INTERNAL, "_core", "importlib", "platform", "sys"}


def test_public_modules_are_there_without_an_import_of_their_own() -> None:
    for name in MODULES:
        assert vars(pmemheap)["__getattr__"](name) is getattr(pmemheap, name)
    assert all(hasattr(pmemheap, name) for name in dir(pmemheap))


def test_every_folder_is_public_or_not() -> None:
    found = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
        if not path.name.startswith("_")
    }
    assert found - INTERNAL - {"cli"} == set(MODULES)


def test_what_is_public_elsewhere_is_here_too() -> None:
    names = {
        *pmemheap.errors.__all__, *pmemheap.layers.__all__,
        Strategy.__name__, *(each.__name__ for each in Strategy.__subclasses__()),
    }  # fmt: skip
    assert names <= set(pmemheap.__all__)


def test_an_unknown_name_is_no_module() -> None:
    with pytest.raises(AttributeError, match="'pmemheap' has no attribute 'nothing'"):
        pmemheap.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_choices_are_those_that_are_known(tmp_path: Path) -> None:
    assert {name.upper() for name in get_args(DurabilityName)} == set(Durability.__members__)
    for name in get_args(DurabilityName):
        with pmemheap.Heap.create(tmp_path / name, durability=name) as heap:
            assert heap.durability == name
    for flag in get_args(OpenFlag):
        pmemheap.open(tmp_path / "power", flag).close()


def test_types_are_installed() -> None:
    files = resources.files("pmemheap")
    for name in ("py.typed", "_core/_hot.pyi", "_core/_sys.pyi"):
        assert files.joinpath(name).is_file(), name


# ---------------------------------------------------------------- a core that is missing


def copied_package(tmp_path: Path) -> Path:
    """Make a source tree of the modules in Python alone."""
    tree = tmp_path / "tree"
    shutil.copytree(PACKAGE, tree / "pmemheap", ignore=shutil.ignore_patterns("*.so", "*.c", "*.h"))
    (tree / "setup.py").touch()
    return tree


def refusal_in(tree: Path) -> str:
    code = "import pmemheap"
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False
    )
    assert child.returncode == 1
    return child.stderr.splitlines()[-1]


def test_a_tree_without_a_core_says_what_to_do(tmp_path: Path) -> None:
    tree = copied_package(tmp_path)
    assert refusal_in(tree) == (
        f"ImportError: pmemheap: a C core of these sources expected in {tree}/pmemheap/_core, "
        f"none found; run: pip install {tree}, or, where pmemheap is installed, start Python "
        "elsewhere"
    )


def test_a_core_of_other_sources_says_what_to_do(tmp_path: Path) -> None:
    tree = copied_package(tmp_path)
    for door in ("_hot", "_sys"):
        (tree / f"pmemheap/_core/{door}.py").touch()
    told = refusal_in(tree)
    assert told.startswith("ImportError: pmemheap: a C core of these sources expected in ")
    assert "another one (cannot import name 'AddressRange'" in told
    assert told.endswith("start Python elsewhere")
