"""One direction of imports: a module imports only modules of the folders below its own.

`LAYERS` has the folders, and the modules that stand in none, lowest first; names in one row may
import each other. Within a folder no two modules need each other. Tests, examples and benchmarks
are users and not listed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from knots import require_no_knot

import pmemheap

PACKAGE = Path(pmemheap.__file__).parent

LAYERS = [
    ["dataclass", "errors", "notebook", "progress", "protocols", "units"],
    ["_core"],
    ["native"],
    ["refusals", "layers"],
    ["pmem2"],
    ["format"],
    ["layout"],
    ["space"],
    ["file"],
    ["heap"],
    ["offline"],
    ["metrics", "repair", "salvage"],
    ["containers", "testing"],
    ["kvstore"],
    ["traces"],
    ["pictures"],
    ["cli", "__main__"],
]
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
FACE = "heap"  # the package itself re-exports up to this layer


def modules() -> list[Path]:
    found = [path for path in PACKAGE.rglob("*.py") if "_core" not in path.parts]
    return sorted(path for path in found if path != PACKAGE / "__init__.py")


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer_of_name(name: str) -> str:
    """Return the layer of a dotted name; what the package re-exports is its face."""
    part = name.split(".")[1:2]
    return part[0] if part and (part[0] in LEVEL or (PACKAGE / f"{part[0]}.py").exists()) else FACE


def name_of(path: Path) -> str:
    return ".".join(("pmemheap", *path.relative_to(PACKAGE).with_suffix("").parts))


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk a module without what stands under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from runtime_nodes(node)


def names_of(nodes: Iterable[ast.AST], file: str) -> Iterator[str]:
    """Yield the dotted names that nodes of a module import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: absolute imports expected, a relative one found"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted names of ours that a module imports when it runs."""
    nodes = runtime_nodes(ast.parse(path.read_text(encoding="utf-8")))
    return (name for name in names_of(nodes, path.name) if name.split(".")[0] == "pmemheap")


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down(path: Path) -> None:
    layer = layer_of(path)
    assert layer in LEVEL, f"{layer}: give the module its place in LAYERS"
    for name in imports_of(path):
        imported = layer_of_name(name)
        if imported != layer:
            assert LEVEL[imported] <= LEVEL[layer], (
                f"{name_of(path)} imports {name}, which is above"
            )


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_native_sees_the_c_core(path: Path) -> None:
    if layer_of(path) != "native":
        assert not [name for name in imports_of(path) if name.startswith("pmemheap._core")]


FACES = {
    "pmemheap",
    "pmemheap.containers",
    "pmemheap.containers.ordered",  # for classes that are mappings themselves
    "pmemheap.refusals",
    "pmemheap.units",
}


def test_the_store_uses_the_public_face_alone() -> None:
    """So a program outside of the package could be written as `pmemheap.kvstore` is."""
    found = {
        name
        for path in modules()
        if layer_of(path) == "kvstore"
        for name in imports_of(path)
        if layer_of_name(name) != "kvstore"
    }
    assert "pmemheap.containers.SortedMap" in found
    assert {name for name in found if name != "pmemheap"} == {
        name for name in found if name.rpartition(".")[0] in FACES
    }


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_public_names_are_imported(path: Path) -> None:
    for name in imports_of(path):
        private = [part for part in name.split(".")[1:] if part.startswith("_")]
        allowed = layer_of(path) == "native" and private[:1] == ["_core"]
        assert allowed or not [part for part in private if part != "__version__"], name


OF_PYTHON = {"_current_frames", "_exit", "_replace"}


def _own_names(tree: ast.Module) -> Iterator[str]:
    """Yield the private names that belong to a module: of its functions, classes and `self`."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=value):
                yield from (
                    str(each.value) for each in ast.walk(value) if type(each) is ast.Constant
                )


def foreign_names(source: str) -> list[str]:
    """Return the private names of objects of other modules, where the line gives no reason."""
    tree, lines = ast.parse(source), source.splitlines()
    own = {*_own_names(tree), *OF_PYTHON}
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr)
        if node.attr not in own and ast.unparse(node.value) not in {"self", "cls"}
        if "# private: " not in lines[node.lineno - 1]
    ]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_private_names_stay_in_their_module(path: Path) -> None:
    assert foreign_names(path.read_text(encoding="utf-8")) == []


def test_private_names_of_others_are_found() -> None:
    assert foreign_names("other._name") == ["1: other._name"]
    assert foreign_names("other._name  # private: why") == []
    assert foreign_names("def f(self): self._name = self._other; other._name") == []


LINES_MOST = 500


def test_files_are_short() -> None:
    sources = [path for pattern in ("*.py", "*.[ch]") for path in PACKAGE.rglob(pattern)]
    lines = {
        path.relative_to(PACKAGE.parent).as_posix(): path.read_text(encoding="utf-8").count("\n")
        for path in sources
        if path.name not in {"_sys.c"}  # cffi makes it
    }
    found = {name: count for name, count in lines.items() if count > LINES_MOST}
    assert found == {}


NUMBERED = {
    "errors.py": {"_UNKNOWN"},  # below the core; libpmem2 has the number
    "kvstore/commands/words.py": {"_EXACT"},  # a limit of `decimal`
    "kvstore/commands/registry.py": {"FIRST", "FIRST_TWO", "ALL", "PAIRS"},  # as Redis numbers keys
    "testing/cells.py": {"_SIZE"},  # of its own: a cell that is none of the file
}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_code_of_the_core_is_typed_in_python(path: Path) -> None:
    """`base/codes.h` has them, and `native/constants.py` their names; all codes are less than 0."""
    typed = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and any(map(_is_negative, ast.walk(node.value))):
            names = {
                each.id
                for to in node.targets
                for each in ast.walk(to)
                if isinstance(each, ast.Name)
            }
            typed |= {name for name in names if name.isupper()}
    assert typed == NUMBERED.get(path.relative_to(PACKAGE).as_posix(), set())


def _is_negative(node: ast.AST) -> bool:
    """Tell whether it is a number below 0, in so many words."""
    return (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and isinstance(node.operand, ast.Constant)
        and isinstance(node.operand.value, int)
    )


def modules_needed(path: Path, known: set[str]) -> set[str]:
    """Return which of the known modules a module imports when it runs."""
    found = set()
    for name in imports_of(path):
        parts = name.split(".")
        longest = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
        found |= {each for each in longest if each in known or f"{each}.__init__" in known}
    return found - {name_of(path)}


def test_no_two_modules_need_each_other() -> None:
    paths = modules()
    known = {name_of(path) for path in paths}
    require_no_knot({name_of(path): modules_needed(path, known) for path in paths})


def test_no_two_benchmarks_need_each_other() -> None:
    paths = list((Path(__file__).parent.parent / "benchmarks").glob("*.py"))
    needs = {
        path.stem: {
            name.split(".")[0]
            for name in names_of(ast.walk(ast.parse(path.read_text(encoding="utf-8"))), path.name)
        }
        & {each.stem for each in paths}
        for path in paths
    }
    assert needs["compare"], "imports expected, none seen"
    require_no_knot(needs)


def test_readme_shows_the_layers() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    picture = text.split("## Layers")[1].split("\n\n")[1]
    heads = [line[5:].split("   ")[0].strip() for line in reversed(picture.splitlines())]
    shown = [
        {name for name in re.split(r"[ ,/]+", f"{head} {other}") if name in LEVEL}
        for head, other in zip(heads, _second_column(picture), strict=True)
    ]
    order = [LEVEL[name] for row in shown for name in sorted(row, key=LEVEL.__getitem__)]
    assert set().union(*shown) == LEVEL.keys() - {"__main__"}
    assert order == sorted(order)


def _second_column(picture: str) -> list[str]:
    """Return what stands first in the second column of each row, lowest row first."""
    found = (re.search(r" {3,}(\w+)/? {2,}", line[20:]) for line in reversed(picture.splitlines()))
    return [match[1] if match else "" for match in found]


def test_the_walk_sees_imports(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "from typing import TYPE_CHECKING\n"
        "from pmemheap import units\n"
        "import pmemheap.native\n"
        "if TYPE_CHECKING:\n    from pmemheap.heap.heap import Heap\n"
        "def later():\n    from pmemheap.cli import main\n"
    )
    found = ["pmemheap.units", "pmemheap.native", "pmemheap.cli.main"]
    assert list(imports_of(source)) == found
