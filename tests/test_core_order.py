"""The order of the folders of the C core: by includes, and by the symbols that objects need.

`pmemheap/_core/README.md` says what each folder is for.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from knots import require_no_knot

import pmemheap

CORE = Path(pmemheap.__file__).parent / "_core"

FOLDERS = ["base", "os", "journal", "space", "block", "arena", "log", "tx", "map", "py"]
DOORS = {
    "arena": {"arena.h", "region.h"},
    "os": {"os.h", "tape.h", "address_space.h", "file_table.h", "fences.h"},
    "block": {"block.h", "guard.h"},
}  # else FOLDER.h; all of base
INCLUDE = re.compile(r'^#include "(.*)"$', re.MULTILINE)
DEFINED = set("TDBRC")
ALLOCATOR = ("space", "block", "arena")


def files(pattern: str) -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (CORE / folder).glob(pattern))


def folder_of(name: str) -> str:
    return name.split("/", maxsplit=1)[0]


def is_door(header: str) -> bool:
    folder, name = header.split("/")
    return folder == "base" or name in DOORS.get(folder, {f"{folder}.h"})


def name_of(path: Path) -> str:
    return path.relative_to(CORE).as_posix()


def test_every_source_has_a_folder_of_the_list() -> None:
    found = {name_of(path) for path in CORE.rglob("*.[ch]")}
    assert found == {name_of(path) for path in files("*.[ch]")}
    table = (CORE / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)/` \|", table, re.MULTILINE) == FOLDERS


def test_the_allocator_asks_its_journal() -> None:
    """What a change outlives is the journal's business: no branch on it above."""
    sources = [path for path in files("*.[ch]") if folder_of(name_of(path)) in ALLOCATOR]
    found = {
        name_of(path) for path in sources if re.search(r"durab|PH_POWER", path.read_text("utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize("path", files("*.[ch]"), ids=name_of)
def test_includes_go_down_and_through_doors(path: Path) -> None:
    own = folder_of(name_of(path))
    for header in INCLUDE.findall(path.read_text(encoding="utf-8")):
        assert (CORE / header).exists(), header
        folder = folder_of(header)
        if folder != own:
            assert FOLDERS.index(folder) < FOLDERS.index(own), f"{header} is of a folder above"
            assert is_door(header), f"{header} is a header of {folder}/ alone"


# ---------------------------------------------------------------- symbols


def compiled(source: Path, target: Path) -> Path:
    """Compile one file, with nothing inlined or left out."""
    made = target / (name_of(source).replace("/", ".") + ".o")
    python = sysconfig.get_path("include")
    words = ["gcc", "-std=gnu11", "-O0", "-DPy_LIMITED_API=0x030B0000", f"-I{CORE}", f"-I{python}"]
    subprocess.run([*words, "-c", source, "-o", made], check=True, capture_output=True)
    return made


def symbols(made: Path) -> tuple[set[str], set[str]]:
    """Return what an object defines for others, and what it needs of them."""
    told = subprocess.run(["nm", made], check=True, capture_output=True, text=True).stdout
    rows = [line.split()[-2:] for line in told.splitlines()]
    return {name for kind, name in rows if kind in DEFINED}, {
        name for kind, name in rows if kind == "U"
    }


def uses_of(sources: list[Path], target: Path) -> dict[str, dict[str, set[str]]]:
    """Return of each source whose symbols it needs, and which."""
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda source: compiled(source, target), sources))
    found = {name_of(source): symbols(made) for source, made in zip(sources, objects, strict=True)}
    owners = {symbol: name for name, (defined, _) in found.items() for symbol in defined}
    uses: dict[str, dict[str, set[str]]] = {name: {} for name in found}
    for name, (_, needed) in found.items():
        for symbol in needed & owners.keys():
            if owners[symbol] != name:
                uses[name].setdefault(owners[symbol], set()).add(symbol)
    return uses


@pytest.fixture(scope="module")
def uses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    return uses_of(files("*.c"), tmp_path_factory.mktemp("objects"))


def upward(uses: dict[str, dict[str, set[str]]]) -> Iterator[tuple[str, str, set[str]]]:
    for name, others in uses.items():
        for other, needed in others.items():
            if FOLDERS.index(folder_of(other)) > FOLDERS.index(folder_of(name)):
                yield name, other, needed


@pytest.mark.slow
def test_no_symbol_goes_up(uses: dict[str, dict[str, set[str]]]) -> None:
    assert list(upward(uses)) == []
    assert sum(map(len, uses.values())) > len(FOLDERS), "symbols of others expected, none seen"


@pytest.mark.slow
def test_no_two_files_need_each_other(uses: dict[str, dict[str, set[str]]]) -> None:
    require_no_knot(uses)


@pytest.mark.slow
def test_the_walk_sees_what_goes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_core_order.CORE", tmp_path)
    for name, text in {
        "base/low.c": "int high(void); int low(void) { return high(); }",
        "os/high.c": "int low(void); int high(void) { return low(); }",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    found = uses_of([tmp_path / "base/low.c", tmp_path / "os/high.c"], tmp_path)
    assert list(upward(found)) == [("base/low.c", "os/high.c", {"high"})]
    with pytest.raises(pytest.fail.Exception, match=r"low\.c -> .*high\.c -> "):
        require_no_knot(found)
