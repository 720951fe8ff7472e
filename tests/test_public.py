"""The face of the package: its names, signatures and docstrings, and a core that is missing."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, is_typeddict

import pytest

import pmemheap
from pmemheap import DurabilityName, OpenFlag
from pmemheap._core import sources
from pmemheap.heap.strategies import Strategy
from pmemheap.layout import Durability

PACKAGE = Path(pmemheap.__file__).parent
MODULES = [
    "containers", "errors", "kvstore", "layers", "layout", "metrics", "pictures", "pmem2",
    "progress", "protocols", "repair", "salvage", "testing", "traces", "units",
]  # fmt: skip
INTERNAL = {
    "dataclass",
    "file",
    "format",
    "heap",
    "native",
    "notebook",
    "offline",
    "refusals",
    "space",
}


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


def test_every_name_has_its_module() -> None:
    assert {*vars(pmemheap)["_PLACES"], "__version__"} == {*pmemheap.__all__}
    assert all(getattr(pmemheap, name) is not None for name in pmemheap.__all__)


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


# ---------------------------------------------------------------- signatures and docstrings


def public_modules() -> Iterator[ModuleType]:
    yield pmemheap
    yield from (importlib.import_module(f"pmemheap.{name}") for name in MODULES)


def public_callables() -> Iterator[tuple[str, Any]]:
    """Yield what users call, by name: functions, classes, and their methods, those in C too."""
    seen = set[int]()
    for module in public_modules():
        for name in module.__all__:
            found = getattr(module, name)
            is_called = inspect.isclass(found) or inspect.isroutine(found)
            if id(found) in seen or not is_called or is_typeddict(found):
                continue
            seen.add(id(found))
            yield f"{module.__name__}.{name}", found
            if inspect.isclass(found):
                yield from methods_of(f"{module.__name__}.{name}", found)


def methods_of(name: str, found: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods that a class of ours has of us."""
    for each in dir(found):
        owner = next((base for base in found.__mro__ if each in vars(base)), object)
        method = getattr(found, each)
        ours = owner.__module__.split(".")[0] == "pmemheap"
        if ours and not each.startswith("_") and inspect.isroutine(method):
            yield f"{name}.{each}", method


def stub_returns() -> dict[str, bool]:
    """Tell for each method in C whether it returns anything."""
    text = (PACKAGE / "_core/_hot.pyi").read_text(encoding="utf-8")
    return {
        node.name: ast.unparse(node.returns) != "None"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.returns is not None
    }


RETURNS = stub_returns()
SAYS_RETURNS = re.compile(r"\b[Rr]eturn|\b[Yy]ield|^Tell|\btell whether")


def returns_something(found: Any, signature: inspect.Signature) -> bool:
    if inspect.isclass(found):
        return False
    if signature.return_annotation is inspect.Signature.empty:
        return RETURNS[found.__name__]
    return str(signature.return_annotation) not in {"None", "NoReturn", "Iterator[None]"}


def defects_of(name: str, found: Any) -> Iterator[str]:
    doc = inspect.getdoc(found)
    if not doc:
        yield f"{name}: a docstring expected, none found"
    if inspect.isclass(found) and issubclass(found, Exception):
        return  # one message, as those of Python
    try:
        signature = inspect.signature(found)
    except ValueError:
        yield f"{name}: a signature expected, none found"
        return
    if returns_something(found, signature) and not SAYS_RETURNS.search(doc or ""):
        yield f"{name}: a docstring that says what it returns expected, found {doc!r:.60}"


def test_every_public_callable_says_how_it_is_called_and_what_it_returns() -> None:
    found = dict(public_callables())
    assert "pmemheap.Heap.malloc" in found
    assert "pmemheap.open" in found
    assert [defect for each in found.items() for defect in defects_of(*each)] == []


def stub_parameters(kind: str) -> dict[str, tuple[list[str], list[str]]]:
    """Return what the public methods of a stub take: by position alone, and by name too."""
    text = (PACKAGE / "_core/_hot.pyi").read_text(encoding="utf-8")
    found = next(
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef) and node.name == kind
    )
    return {
        node.name: ([each.arg for each in node.args.posonlyargs], [x.arg for x in node.args.args])
        for node in found.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if not node.decorator_list
    }


def parameters(found: Any) -> tuple[list[str], list[str]]:
    """Return what a method takes: by position alone, and by name too; `self` as a stub has it."""
    alone, named = list[str](), list[str]()
    for each in inspect.signature(found).parameters.values():
        (alone if each.kind is each.POSITIONAL_ONLY else named).append(each.name)
    return (alone, named) if alone != ["self"] else ([], ["self", *named])


@pytest.mark.parametrize(
    ("found", "stub"),
    [
        (pmemheap.Heap, "_Calls"), (pmemheap.Region, "RegionCore"),
        (pmemheap.Transaction, "TxCore"), (pmemheap.containers.SortedMap, "MapCore"),
    ],
)  # fmt: skip
def test_signature_of_a_method_in_c_is_that_of_its_stub(found: type, stub: str) -> None:
    known = stub_parameters(stub)
    assert known
    for name, expected in known.items():
        assert parameters(getattr(found, name)) == expected, name


def test_signature_of_malloc_has_its_default() -> None:
    assert str(inspect.signature(pmemheap.Heap.malloc)) == "(self, /, size, align=16)"


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


# ---------------------------------------------------------------- a core that is too old


def source_tree(tmp_path: Path) -> tuple[Path, Path]:
    """Make a source and a library of it, both of this moment."""
    source, library = tmp_path / "py/one.c", tmp_path / "_hot.so"
    source.parent.mkdir()
    source.write_text("int one;", encoding="utf-8")
    library.touch()
    os.utime(source, ns=(1, 1))
    return source, library


@pytest.mark.parametrize("text", ["int two;", "int one; "])
def test_a_core_that_is_older_than_a_change_is_refused(tmp_path: Path, text: str) -> None:
    source, library = source_tree(tmp_path)
    known = sources.checksum([source])
    source.write_text(text, encoding="utf-8")
    os.utime(library, ns=(2, 2))
    with pytest.raises(ImportError, match="_core was built before its sources were changed"):
        sources.require_built_of(sources.c_sources(tmp_path), library, known)


def test_a_core_of_the_same_sources_is_taken_whatever_their_times(tmp_path: Path) -> None:
    source, library = source_tree(tmp_path)
    known = sources.checksum([source])
    sources.require_built_of([source], library, known)
    os.utime(source)
    os.utime(library, ns=(2, 2))
    sources.require_built_of([source], library, known)
    sources.require_built_of([], library, known)


def test_a_checksum_is_of_names_too(tmp_path: Path) -> None:
    source, _ = source_tree(tmp_path)
    known = sources.checksum([source])
    assert sources.checksum([source.rename(tmp_path / "py/two.c")]) != known


@pytest.mark.slow
def test_a_tree_whose_sources_changed_says_what_to_do(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(PACKAGE, tree / "pmemheap")
    changed = next(tree.glob("pmemheap/_core/*/*.c"))
    code = "import pmemheap; print(pmemheap.__file__)"
    with changed.open("a", encoding="utf-8") as file:
        file.write("\n")
    child = [sys.executable, "-c", code]
    assert subprocess.check_output(child, cwd=tree, text=True).startswith(str(tree))
    (tree / "setup.py").touch()  # now it is a source tree
    told = refusal_in(tree)
    assert "another one (_core was built before its sources were changed) found" in told
    assert told.endswith("start Python elsewhere")
