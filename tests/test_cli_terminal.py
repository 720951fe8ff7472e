"""The command line and what stands around it: pipes, plain terminals, progress bars, shells."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cli import damage_entry

import pmemheap
from pmemheap.cli import main
from pmemheap.cli.completing import heap_files
from pmemheap.cli.exits import ExitCode

COMMANDS = (
    "info",
    "check",
    "dump --units",
    "stats",
    "top",
    "trim",
    "repair",
    "leaks --sites sites",
)


@pytest.fixture(autouse=True)
def plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "40", "LC_ALL": "C.UTF-8", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A closed heap with blocks of two kinds, and a root of a long name."""
    made = tmp_path / "a.heap"
    with pmemheap.Heap.create(made, durability="process") as heap:
        heap.malloc(100_000)
        offsets = heap.malloc_many(5000, 600)
        heap.free_many(offsets[:300])
        heap.roots["a root of a name that is rather long"] = offsets[300]
    (tmp_path / "sites").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return made


# ---------------------------------------------------------------------------------------- in pipes


@pytest.mark.slow
def test_nothing_is_wrapped_in_a_pipe(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "The bytes inside the blocks are yours: pmemheap keeps no checksum of them."
    assert main(["check", "a.heap"]) == 0
    assert sentence in capsys.readouterr().out.splitlines()
    assert main(["info", "a.heap"]) == 0
    assert re.search(r"roots +a root of a name that is rather long -> 0x", capsys.readouterr().out)
    damage_entry(path)
    assert main(["check", "a.heap"]) == ExitCode.FINDINGS
    printed = capsys.readouterr().out.splitlines()
    assert "`pmemheap repair` shows how it can be mended, and what is lost by that." in printed


def leaves(value: Any) -> Iterator[object]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    else:
        yield value


@pytest.mark.parametrize("command", [*COMMANDS[:4], *COMMANDS[5:], "map"])
def test_numbers_of_json_are_numbers(
    command: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command.split()
    assert main([name, str(path), *options, "--json"]) == 0
    found = list(leaves(json.loads(capsys.readouterr().out)))
    assert any(type(each) is int for each in found)
    numbers = re.compile(r"-?(0x)?[\d.,]+ *([KMGT]?i?B|%)?")
    assert not [each for each in found if isinstance(each, str) and numbers.fullmatch(each)]


def test_rows_of_a_dump_are_data(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", str(path), "--segments", "--json"]) == 0
    wanted = json.loads(capsys.readouterr().out)["segments"]
    assert main(["dump", str(path), "--segments"]) == 0
    _, head, _, *lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    rows = [dict(zip(head.split(), line.split(), strict=True)) for line in lines]
    for row, segment in zip(rows, wanted, strict=True):
        assert list(row) == list(segment)
        assert (int(row["at"], 16), int(row["bytes"])) == (segment["at"], segment["bytes"])
        assert row["first_unit"] == str("-" if segment["units"] is None else segment["first_unit"])


# --------------------------------------------------------------------------------- plain terminals


@pytest.mark.parametrize("command", [*COMMANDS, "--help"])
@pytest.mark.parametrize("plain", [{"TERM": "dumb"}, {"LC_ALL": "C"}, {"LC_ALL": "", "LANG": "C"}])
def test_a_plain_terminal_gets_ascii(
    command: str,
    plain: dict[str, str],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"COLUMNS": "80", **plain}.items():
        monkeypatch.setenv(name, value)
    name, *options = command.split()
    words = [name] if name == "--help" else [name, path.name, *options]
    assert main(words) == 0
    assert capsys.readouterr().out.isascii()


def test_where_boxes_can_be_shown_they_are(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", path.name]) == 0
    assert "───" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stream_of_ascii_takes_every_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pmemheap.Heap.open(path) as heap:
        heap.roots["größe"] = heap.malloc(8)
    for command in COMMANDS:
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
        name, *options = command.split()
        assert main([name, path.name, *options]) == 0
        printed = raw.getvalue().decode("ascii")
        assert command.startswith(("check", "trim", "repair")) or "---" in printed
        assert name not in {"info", "dump"} or r"gr\xf6\xdfe" in printed or "--units" in command


# ------------------------------------------------------------------------------------------- bars


class Terminal(io.StringIO):
    """A stream that says it is one."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("check a.heap", "checking"),
        ("repair a.heap", "examining"),
        ("repair a.heap --apply", "examining"),
        ("salvage a.heap new", "salvaging"),
        ("snapshot a.heap new", "copying"),
        ("trim a.heap", "giving back"),
    ],
)
@pytest.mark.usefixtures("path")
def test_long_commands_have_a_bar(
    command: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is on standard error, and there alone, if that is a terminal that can move a line."""
    for stream, term in ((Terminal(), "xterm"), (Terminal(), "dumb"), (io.StringIO(), "xterm")):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", term)
        Path("new").unlink(missing_ok=True)
        assert main(command.split()) == 0
        is_shown = stream.isatty() and term != "dumb"
        assert (words in stream.getvalue()) == is_shown
        assert ("100%" in stream.getvalue()) == is_shown
        assert words not in capsys.readouterr().out


# ------------------------------------------------------------------------------------- completion


def test_the_script_of_a_shell_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    for shell, sign in {"bash": "complete -o", "zsh": "compdef", "fish": "--no-files"}.items():
        assert main(["--show-completion", shell]) == 0
        assert sign in capsys.readouterr().out
    assert main(["--show-completion", "cobol"]) == ExitCode.USAGE
    assert "cobol" in capsys.readouterr().err


@pytest.mark.slow
def test_bash_completes_heap_files(path: Path) -> None:
    """The script of the command runs in bash, and asks the command."""
    program = Path(sys.executable).with_name("pmemheap")
    script = f"""
        eval "$({program} --show-completion bash)"
        COMP_WORDS=(pmemheap info a) COMP_CWORD=2
        _pmemheap_completion {program}
        echo "${{COMPREPLY[@]}}"
    """
    command = ["bash", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=path.parent)
    assert done.stdout == "a.heap\n"


def test_heaps_and_folders_are_offered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = path.parent
    (folder / "able").mkdir()
    (folder / "able" / "b.heap").write_bytes(path.read_bytes())
    (folder / "also").write_text("no heap", encoding="utf-8")
    os.mkfifo(folder / "a.pipe")
    assert heap_files("a") == ["a.heap", "able/"]
    assert heap_files("a.h") == ["a.heap"]
    assert heap_files("able/") == ["able/b.heap"]
    assert heap_files(f"{folder}/able/b") == [f"{folder}/able/b.heap"]
    monkeypatch.setenv("HOME", str(folder))
    assert heap_files("~/a.h") == ["~/a.heap"]


def test_what_is_no_heap_is_left_to_the_shell(path: Path) -> None:
    (path.parent / "folder").mkdir()
    assert heap_files("fo") == heap_files("absent/") == heap_files("sites") == []
    path.rename(path.with_name("a heap"))
    assert heap_files("a") == []
