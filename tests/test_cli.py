"""The command line: what it prints, how it ends, and that every fact can be had as JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pmemheap
from pmemheap import cli, layout
from pmemheap.cli import main
from pmemheap.cli.exits import ExitCode
from pmemheap.cli.library import Library
from pmemheap.cli.unitmap import draw, legend, units_per_mark
from pmemheap.containers import SortedMap, Vector
from pmemheap.layout import RootSlot
from pmemheap.pictures.model import ArenaMap
from pmemheap.pictures.pieces import Kind, Piece

TRACE = """\
# tiny 7 5000
a 0 4000
a 1 500
r 1 1000
f 0
a 2 64
f 1
a 3 200
"""


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed heap with 300 live blocks of 5000 bytes, as many freed ones, and a root."""
    made = tmp_path / "a.heap"
    with pmemheap.Heap.create(made, durability="process", decay=None) as heap:
        offsets = [heap.malloc(5000) for _ in range(600)]
        for offset in offsets[:300]:
            heap.free(offset)
        heap.roots["first"] = offsets[300]
    return made


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Files enough for the demo to grow: 300 of up to 60 KiB, one of them empty."""
    directory = tmp_path / "sources"
    directory.mkdir()
    for number in range(300):
        text = f"line = {number}\n" * (number * 20)
        (directory / f"m{number}.py").write_text(text, encoding="utf-8")
    (directory / "site-packages").mkdir()
    (directory / "site-packages" / "foreign.py").write_text("x = 1\n", encoding="utf-8")
    return directory


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def damage_entry(path: Path) -> None:
    """Make the entry of a large block or run say what it cannot mean."""
    with path.open("r+b") as file:
        entries = layout.HEADER_BYTES + layout.LOG_BYTES
        file.seek(entries)
        table = file.read(layout.ENTRY_WIDTH * layout.SEGMENT_UNITS)
        at = next(i for i in range(0, len(table), layout.ENTRY_WIDTH) if table[i])
        file.seek(entries + at)
        file.write(b"\x09")


# ------------------------------------------------------------------------------------------- ends


def test_the_module_says_what_every_exit_code_means() -> None:
    assert cli.__doc__ is not None
    said = {int(number) for number in re.findall(r"^    (\d+) ", cli.__doc__, re.M)}
    assert said == {*map(int, ExitCode), 130}


@pytest.mark.slow
def test_python_m_runs_the_command_line() -> None:
    command = [sys.executable, "-m", "pmemheap", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"pmemheap {pmemheap.__version__}\n"


def test_an_error_is_one_line_and_a_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path / "absent")]) == ExitCode.USAGE
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pmemheap: ")
    assert captured.err.count("\n") == 1
    assert "absent" in captured.err


def test_a_mistake_of_ours_does_not_say_that_damage_was_found(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("pmemheap.cli.checking.examine", stumble)
    assert main(["check", str(path)]) == ExitCode.MISTAKE
    assert capsys.readouterr().err.endswith("ZeroDivisionError\n")


COMMAND = f"{sys.executable} -m pmemheap"
SOUND = ("check {}", "check {} --json", "info {}", "info {} --json", "map {}", "dump {} --units")


def ends(script: str) -> tuple[list[int], str]:
    """Run a pipe in bash; return the codes of its parts, and what was said to standard error."""
    done = subprocess.run(
        ["bash", "-c", f"{script}; echo ${{PIPESTATUS[@]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [int(code) for code in done.stdout.split()], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [*(each.format("'a heap'") for each in SOUND), "--help"])
def test_a_reader_of_the_output_that_leaves_is_no_finding(
    command: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command ends quietly, and as tools end that SIGPIPE ends."""
    path.rename(path.parent / "a heap")
    monkeypatch.chdir(path.parent)
    assert ends(f"{COMMAND} {command} | true") == ([ExitCode.CUT_OFF, 0], "")
    if command.startswith("check"):
        assert ends(f"{COMMAND} {command} 2>&1 | true") == ([ExitCode.CUT_OFF, 0], "")
    assert ends("yes | true")[0] == [ExitCode.CUT_OFF, 0]


@pytest.mark.slow
def test_findings_are_told_by_the_code_also_to_a_reader_that_left(tmp_path: Path) -> None:
    path = tmp_path / "damaged.heap"
    with pmemheap.Heap.create(path, durability="process") as heap:
        heap.malloc(100_000)
    damage_entry(path)
    assert ends(f"{COMMAND} check {path} | true") == ([ExitCode.FINDINGS, 0], "")
    assert ends(f"{COMMAND} check {path}x 2>&1 | true")[0] == [ExitCode.USAGE, 0]


@pytest.mark.slow
def test_output_that_cannot_be_written_is_one_line_and_a_code(path: Path) -> None:
    codes, told = ends(f"{COMMAND} check {path} >/dev/full")
    assert codes == [ExitCode.NO_SPACE]
    assert re.fullmatch(r"pmemheap: .*No space left on device\n", told)
    assert ends(f"{COMMAND} check {path} >&-") == ([0], "")


@pytest.mark.slow
def test_completion_for_the_shell_can_be_had() -> None:
    command = ["bash", "-c", f"{COMMAND} --show-completion; exit $?"]
    script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "_PMEMHEAP_COMPLETE=complete_bash" in script
    subprocess.run(["bash", "-c", script], check=True)


@pytest.mark.slow
def test_completion_knows_commands_and_options() -> None:
    def completed(words: str) -> set[str]:
        asked = {"_PMEMHEAP_COMPLETE": "complete_bash", "COMP_WORDS": words}
        count = {"COMP_CWORD": str(len(words.split(" ")) - 1)}
        command = [sys.executable, "-m", "pmemheap"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | asked | count
        )
        return set(done.stdout.split())

    assert completed("pmemheap sa") == {"salvage"}
    assert {"--superblocks", "--json"} <= completed("pmemheap dump --")


@pytest.mark.parametrize("name", ["[/x]", ":smile:", "bell\x1b[31m", "\udcff"])
def test_names_are_data(
    name: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing in a path or a name is read as markup or acts on the terminal."""
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    path.rename(place)
    with pmemheap.Heap.open(place) as heap:
        heap.roots[f"root {name}".replace("\udcff", "\n")] = heap.roots["first"]
    for command in ("info", "check", "dump", "map", "repair", "trim"):
        assert main([command, str(place)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    shown = name if name.isprintable() else name.encode("unicode_escape").decode()
    assert printed.count(shown) >= 4
    assert name in run_json(capsys, "info", place)["path"]


def test_wrong_options_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == ExitCode.USAGE
    assert main(["no-such-command"]) == ExitCode.USAGE
    assert main(["create", "x", "--limit", "much"]) == ExitCode.USAGE
    assert main(["replay", "/nonexistent/trace"]) == ExitCode.USAGE
    assert "Traceback" not in capsys.readouterr().err


def test_garbage_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(bytes(2 << 20))
    for command in ("info", "check", "map", "trim"):
        assert main([command, str(garbage)]) == ExitCode.CORRUPT
    assert capsys.readouterr().err.count("magic") == 4


@pytest.mark.parametrize("content", [b"", b"text", bytes(2 << 20), b"PMEMHEAP" + bytes(4096)])
@pytest.mark.parametrize("command", ["check", "repair", "dump"])
def test_json_is_written_of_what_is_no_heap_too(
    command: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(content)
    code = main([command, str(garbage), "--json"])
    assert code in ({0} if command == "dump" else {ExitCode.CORRUPT, ExitCode.FINDINGS})
    found = json.loads(capsys.readouterr().out)
    assert found.get("sound", found.get("sound_before", not found.get("damage"))) is False


def test_no_space_ends_with_4(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise pmemheap.OutOfSpaceError("heap file: no space left on device")

    monkeypatch.setattr("pmemheap.heap.heap.Heap.malloc", refuse)
    path = tmp_path / "full.heap"
    assert main(["demo", "--source", str(sources), "--path", str(path)]) == ExitCode.NO_SPACE


@pytest.mark.slow
def test_a_heap_that_is_being_written_is_refused(path: Path) -> None:
    with pmemheap.Heap.open(path):
        done = subprocess.run(
            [sys.executable, "-m", "pmemheap", "trim", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == ExitCode.USAGE
    assert re.fullmatch(r"pmemheap: .*process \d+ has it open\n", done.stderr)


def test_a_missing_extra_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_NEEDED", ("typer", "no_such_module"))
    assert main(["info", "heap"]) == ExitCode.USAGE
    message = "needs no_such_module: pip install 'pmemheap[cli]'\n"
    assert capsys.readouterr().err.endswith(message)


# ------------------------------------------------------------------------------------------ files


def test_create_makes_a_small_heap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new.heap"
    made = run_json(capsys, "create", path, "--durability", "process", "--limit", "64M")
    assert made["file_bytes"] == path.stat().st_size < 1.5 * (1 << 20)
    with pmemheap.Heap.open(path) as heap:
        assert (str(heap.uuid), heap.durability) == (made["uuid"], made["durability"])
    assert main(["create", str(path)]) == ExitCode.USAGE
    assert main(["create", str(tmp_path / "b"), "--limit", "4K"]) == ExitCode.USAGE
    assert not (tmp_path / "b").exists()


def test_the_limit_of_create_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "limited.heap"
    made = run_json(capsys, "create", path, "--durability", "process", "--limit", "4M")
    assert made["limit"] == 4 << 20
    for _ in range(2):
        with (
            pmemheap.Heap.open(path) as heap,
            pytest.raises(pmemheap.OutOfSpaceError, match="limit 4194304 bytes expected"),
        ):
            heap.malloc(5 << 20)
        assert run_json(capsys, "info", path)["header"]["limit"] == 4 << 20
    assert main(["info", str(path)]) == 0
    assert "limit 4 MiB" in capsys.readouterr().out


def test_info_and_map_show_every_arena(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vector.heap"
    with pmemheap.Heap.create(path, durability="process") as heap:
        Vector(heap, "samples", "f8").extend(range(1 << 20))
        SortedMap(heap, "names")[b"key"] = b"value"
    told = run_json(capsys, "info", path)
    arenas = {each["name"]: each for each in told["arenas"]}
    assert list(arenas) == ["", "samples"]
    assert 8 << 20 <= arenas["samples"]["allocated"] < 9 << 20
    assert sum(each["blocks"] for each in told["arenas"]) == told["stats"]["blocks"]
    assert {each["arena"] for each in told["header"]["segments"]} == {0, 1}
    drawn = run_json(capsys, "map", path)
    assert [each["name"] for each in drawn["arenas"]] == ["", "samples"]
    assert drawn["units"]["large blocks"] >= 8 << 8
    assert main(["info", str(path)]) == main(["map", str(path)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"samples +0 +[\d,]+ +1 +8\.\d+ MiB", printed)
    assert re.search(r"arena 'samples', General\(\), from 0x80000000000000\n0x\w+ █{40}", printed)


def test_an_arena_of_a_name_that_none_can_have_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.heap"
    with pmemheap.Heap.create(path, durability="process") as heap:
        heap.arena("kept").malloc(100)
    place = layout.slot_offset(layout.Table.ARENAS, 1)
    image = path.read_bytes()
    slot = layout.ArenaSlot.unpack(image[place : place + layout.SLOT_BYTES], place)
    assert slot is not None
    odd = replace(slot, name="\0\x1b").pack()
    path.write_bytes(image[:place] + odd + image[place + layout.SLOT_BYTES :])
    for command in ("info", "map", "dump"):
        assert main([command, str(path)]) == 0
    assert capsys.readouterr().out.count("\\x00\\x1b") >= 3


def test_info_tells_header_blocks_and_segments(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_json(capsys, "info", path)
    assert found["stats"]["blocks"] == 300
    assert found["header"]["closed"] is True
    assert found["header"]["opened"] == 1
    assert list(found["roots"]) == ["first"]
    segments = found["header"]["segments"]
    assert [each["kind"] for each in segments[:2]] == ["log", "data"]
    assert segments[-1]["file_offset"] + segments[-1]["file_bytes"] == path.stat().st_size
    assert main(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    assert found["header"]["uuid"] in printed
    assert re.search(r"5,120 +300 ", printed)


@pytest.mark.slow
def test_info_sees_that_a_writer_was_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "killed.heap"
    code = (
        "import os, pmemheap\n"
        f"heap = pmemheap.Heap.create({str(path)!r}, durability='process')\n"
        "heap.malloc(100)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    found = run_json(capsys, "info", path)
    assert found["header"]["closed"] is False
    assert found["stats"]["blocks"] == 1
    assert main(["check", str(path)]) == 0
    assert "did not close it" in capsys.readouterr().out


def test_check_says_that_a_heap_is_sound(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, "check", path)["sound"] is True
    assert main(["check", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("sound")
    assert "300 blocks" in printed


def test_check_finds_a_root_that_leads_nowhere(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pmemheap.Heap.open(path) as heap:
        root = RootSlot("first", heap.roots.pop("first"))
        heap.free(root.off)
        heap._space.serve(heap.roots.store.change_roots, {root.name: root}, set())
    assert main(["check", str(path)]) == ExitCode.FINDINGS
    printed = capsys.readouterr().out
    assert "root 'first'" in printed
    assert "leads to no live block" in printed
    assert "mistake in pmemheap" not in printed


def test_check_tells_what_damaged_entries_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "damaged.heap"
    with pmemheap.Heap.create(path, durability="process") as heap:
        heap.malloc(100_000)
    damage_entry(path)
    assert main(["check", str(path), "--json"]) == ExitCode.FINDINGS
    found = json.loads(capsys.readouterr().out)
    assert (found["sound"], found["total"]) == (False, 1)
    assert any("records of blocks are damaged" in sentence for sentence in found["meaning"])


def test_map_accounts_for_every_unit(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "map", path)
    [arena] = found["arenas"]
    reached = arena["first_unit"]
    for start, nunits, _ in arena["pieces"]:
        assert start == reached
        reached += nunits
    assert reached == arena["end_unit"]
    assert sum(found["units"].values()) == reached - arena["first_unit"]
    assert main(["map", str(path), "--rows", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0][:2] for line in lines[:3]] == ["0x"] * 3
    assert all(len(line) <= 80 for line in lines)
    assert "one mark" in lines[-1]


def test_a_watched_map_is_drawn_again_beside_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "busy.heap"
    pauses = iter([None, KeyboardInterrupt()])

    def pause(seconds: float) -> None:
        heap.malloc(1 << 20)
        if stop := next(pauses):
            raise stop

    clock = SimpleNamespace(sleep=pause, strftime=time.strftime)
    monkeypatch.setattr("pmemheap.cli.mapping.time", clock)
    monkeypatch.setattr("pmemheap.cli.mapping.in_a_pipe", lambda: False)
    with pmemheap.Heap.create(path, durability="process") as heap:
        assert main(["map", str(path)]) == ExitCode.USAGE
        assert "no writer expected" in capsys.readouterr().err
        heap.malloc(1)
        assert main(["map", str(path), "--watch"]) == 130
    printed = capsys.readouterr().out
    assert re.search(r"in 2 blocks, .* free; \d\d:\d\d:\d\d, Ctrl-C ends it", printed)


def test_a_pipe_is_not_watched(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", str(path), "--watch"]) == ExitCode.USAGE
    assert "a terminal expected" in capsys.readouterr().err


def test_trim_gives_back_and_keeps_the_blocks(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pmemheap.Heap.open(path) as heap:
        before = list(heap.blocks())
    found = run_json(capsys, "trim", path)
    assert found["returned_bytes"] == found["disk_bytes"][0] - found["disk_bytes"][1] > 1 << 20
    with pmemheap.Heap.open(path) as heap:
        assert list(heap.blocks()) == before


# ------------------------------------------------------------------------------------------- dump


def test_a_dump_is_whole_in_a_pipe(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", str(path), "--superblocks", "--units"]) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert len(re.findall(r"^0 +\d+ +0x\w+ +\d+ +run +5120 +3 *$", printed, re.M)) == 100
    with pmemheap.Heap.open(path, readonly=True) as heap:
        assert printed.count(heap.uuid.hex) == 2
    assert main(["dump", str(path), "--units", "--rows", "7"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^0 +\d+", printed, re.M)) == 7
    assert "there are more" in printed


def test_a_dump_as_json_is_data(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run_json(capsys, "dump", path)
    assert {name: len(told[name]) for name in ("superblocks", "log", "arenas", "roots")} == {
        "superblocks": 2, "log": 0, "arenas": 1, "roots": 1,
    }  # fmt: skip
    segments = told["segments"]
    assert segments[-1]["at"] + segments[-1]["bytes"] == path.stat().st_size
    [newest] = [each for each in told["superblocks"] if each["counts"]]
    assert newest["file_end"] == path.stat().st_size
    words = {"copy", "durability", "state", "uuid", "sound", "counts", "limit"}
    assert all(type(newest[name]) is int for name in newest.keys() - words)
    assert all(" " not in name for table in told.values() if isinstance(table, list)
               for row in table for name in row)  # fmt: skip
    units = run_json(capsys, "dump", path, "--units")
    assert units["whole"] is True
    assert sum(each["blocks"] for each in units["units"]) == 300
    few = run_json(capsys, "dump", path, "--units", "--rows", 10)
    assert (few["whole"], few["units"]) == (False, units["units"][:10])


def test_a_dump_shows_the_operations_of_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "killed.heap"
    code = (
        "import os, pmemheap\n"
        f"heap = pmemheap.Heap.create({str(path)!r}, durability='process')\n"
        "with heap.transaction() as tx: tx.roots['r'] = tx.malloc(100)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    *_, record = run_json(capsys, "dump", path, "--log")["log"]
    tables = {(each["type"], each["table"]) for each in record["operations"]}
    assert {("META", "bits"), ("META", "roots")} <= tables
    assert all(
        type(each[key]) is int for each in record["operations"] for key in ("offset", "bytes")
    )
    assert main(["dump", str(path), "--log"]) == 0
    assert re.search(r"META bits 0x\w+\+8", capsys.readouterr().out)


# -------------------------------------------------------------------------------------------- map


def test_a_drawing_fits_its_width_and_shows_what_most_units_are() -> None:
    pieces = (
        Piece.whole(0, 600, Kind.LARGE),
        Piece.whole(600, 300, Kind.FREE),
        Piece.whole(900, 124, Kind.UNUSED),
    )
    found = ArenaMap(0, 1024, pieces)
    lines = draw([found], 40, 2).plain.splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 40 for line in lines)
    marks = "".join(line.split()[1] for line in lines)
    assert re.fullmatch("█+░+·+", marks)
    assert marks.count("█") / len(marks) == pytest.approx(600 / 1024, abs=0.05)
    assert all(len(line) <= 40 for line in legend([found], 40, 16).plain.splitlines())


def test_a_mixed_piece_is_drawn_as_what_most_of_it_is() -> None:
    mixed = Piece.whole(0, 64, Kind.RUN)._replace(run=20, free=44)
    found = ArenaMap(0, 128, (mixed, Piece.whole(64, 64, Kind.WITHHELD)))
    assert draw([found], 40, 1).plain.split()[1] == "░" * 16 + "▚" * 16


def test_kept_regions_are_named_beside_their_arena() -> None:
    packed = Piece.whole(0, 8, Kind.PACKED)._replace(regions=2)
    lines = draw([ArenaMap(0, 8, (packed,))], 40, 1).plain.splitlines()
    assert lines[0] == "default arena, General(), 2 kept regions"


def test_arenas_are_drawn_on_one_scale_with_a_row_each() -> None:
    maps = [
        ArenaMap(0, 1024, (Piece.whole(0, 1024, Kind.LARGE),)),
        ArenaMap(256, 512, (Piece.whole(256, 256, Kind.FREE),), 1, "small\x1b"),
        ArenaMap(0, 4096, (Piece.whole(0, 4096, Kind.RUN),), 2, "large"),
    ]
    lines = draw(maps, 40, 8).plain.splitlines()
    rows = [line for line in lines if line.startswith("0x")]
    assert len(rows) <= 8
    assert all(len(line) <= 40 for line in rows)
    assert [line for line in lines if "arena" in line] == [
        "arena 'small\\\\x1b', General(), from 0x80000000000000",
        "arena 'large', General(), from 0x100000000000000",
    ]
    marks = "".join(line.split()[1] for line in rows)
    per_mark = units_per_mark(maps, 40, 8)
    assert [marks.count(mark) for mark in "█░▓"] == [
        -(-units // per_mark) for units in (1024, 256, 4096)
    ]
    assert units_per_mark(maps, 40, 1) >= units_per_mark(maps, 40, 3) > per_mark


# ------------------------------------------------------------------------------------------- demo


def test_a_library_finds_its_records_again(tmp_path: Path) -> None:
    path = tmp_path / "library.heap"
    with pmemheap.Heap.create(path, durability="process") as heap:
        library = Library(heap)
        for number in range(200):
            library.add(f"n{number}", b"x" * number)
        library.remove(7)
        library.replace(8, b"other")
    with pmemheap.Heap.open(path) as heap:
        library = Library(heap)
        assert library.slots() == [slot for slot in range(200) if slot != 7]
        assert library.name(150) == "n150"
        with library.text_view(8) as text:
            assert bytes(text) == b"other"
        with library.text_view(9) as text:
            text[0] = 0
        with pytest.raises(pmemheap.CorruptHeapError, match="record 'n9'"):
            library.verify(9)


@pytest.mark.slow
def test_demo_grows_trims_and_verifies(
    tmp_path: Path, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "demo.heap"
    told = run_json(capsys, "demo", "--source", sources, "--path", path)
    phases = {phase["name"]: phase for phase in told["phases"]}
    assert told["files"] == 300
    assert phases["create, load"]["growths"] >= 5
    assert told["checks_of_views"] > 3 * told["open_views"] / 2 > 0
    assert (
        phases["trim"]["returned_bytes"]
        == phases["delete"]["disk_bytes"] - phases["trim"]["disk_bytes"]
    )
    assert min(told["returned"].values()) > 0
    assert 0 < told["verified_files"] < 300
    with pmemheap.Heap.open(path) as heap:
        assert len(Library(heap).slots()) == told["verified_files"]
        assert heap.check()


@pytest.mark.slow
def test_demo_prints_a_table_and_two_maps(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--source", str(sources)]) == 0
    printed = capsys.readouterr().out
    for words in ("create, load", "given back", "after deleting", "after trimming", "0x0"):
        assert words in printed
    drawn = [line for line in printed.splitlines()[1:] if not line.endswith(".")]
    assert all(len(line) <= 80 for line in drawn)


@pytest.mark.slow
def test_demo_does_without_numpy(
    sources: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmemheap.cli.demo._NUMPY", "no_such_module")
    assert main(["demo", "--source", str(sources)]) == 0
    assert "pip install 'pmemheap[numpy]'" in capsys.readouterr().out


@pytest.mark.slow
def test_demo_notices_a_changed_byte(
    sources: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(library: Library, slot: int, _: bytes) -> None:
        with library.text_view(slot) as text:
            text[0] ^= 1

    monkeypatch.setattr(Library, "replace", spoil)
    assert main(["demo", "--source", str(sources)]) == ExitCode.CORRUPT
    assert "SHA-256" in capsys.readouterr().err


def test_demo_refuses_a_directory_without_python_files(tmp_path: Path) -> None:
    assert main(["demo", "--source", str(tmp_path)]) == ExitCode.USAGE


# ----------------------------------------------------------------------------------------- replay


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    made = tmp_path / "tiny.trace"
    made.write_text(TRACE, encoding="utf-8")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("in_file", [False, True])
def test_replay_measures_time_and_memory(
    tmp_path: Path, trace: Path, in_file: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "replay.heap"
    options = ["--file", file] if in_file else []
    told = run_json(capsys, "replay", trace, trace, "--passes", 2, *options)
    assert [each["name"] for each in told["traces"]] == ["tiny", "tiny"]
    assert told["traces"][0]["operations"] == 7
    memory = told["traces"][0]["memory"]
    assert memory["peak_bytes"] >= 5000
    assert memory["utilisation"] == pytest.approx(5000 / memory["peak_bytes"])
    assert not file.exists()


def test_replay_takes_what_a_record_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.trace"
    with pmemheap.Heap.anonymous() as heap, heap.install(pmemheap.Record(path)):
        heap.free(heap.realloc(heap.malloc(100), 5000))
    (told,) = run_json(capsys, "replay", path, "--passes", 1)["traces"]
    assert (told["name"], told["operations"], told["peak_live_bytes"]) == ("run", 3, 5000)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert main(["replay", str(path)]) == ExitCode.USAGE
    assert "frame 1 at byte" in " ".join(capsys.readouterr().err.split())


def test_replay_prints_a_table_with_means(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(trace), str(trace), "--passes", "1"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^tiny +\S+ +- ", printed, re.M)
    assert "geometric mean" in printed


def test_replay_does_not_touch_a_file_that_is_there(tmp_path: Path, trace: Path) -> None:
    there = tmp_path / "precious"
    there.write_text("mine", encoding="utf-8")
    assert main(["replay", str(trace), "--file", str(there)]) == ExitCode.USAGE
    assert there.read_text(encoding="utf-8") == "mine"


@pytest.mark.slow
def test_replay_counts_growth_and_give_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = 40
    lines = [f"# big {blocks} {blocks * 100_000}", *(f"a {i} 100000" for i in range(blocks))]
    trace = tmp_path / "big.trace"
    trace.write_text("\n".join(lines) + "\n", encoding="utf-8")
    memory = run_json(capsys, "replay", trace, "--passes", 1)["traces"][0]["memory"]
    assert memory["growths"] >= 2
    assert memory["shrinks"] >= 2
    assert memory["returned_bytes"] > 3_000_000
