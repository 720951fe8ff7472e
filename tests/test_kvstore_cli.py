"""The command line of the key-value store, and what it loads and dumps."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pmemheap
from pmemheap import UsageError, containers
from pmemheap.kvstore import cli, loading
from pmemheap.kvstore.__main__ import main
from pmemheap.kvstore.store import KVStore

NS = 1_000_000_000


def clock() -> int:
    return 1_700_000_000 * NS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.kv"


@pytest.fixture
def store(path: Path) -> Iterator[KVStore]:
    with KVStore(path, "process", clock=clock) as opened:
        yield opened
        opened.check()


# ---------------------------------------------------------------- loading


def test_csv_becomes_keys_and_json(store: KVStore) -> None:
    lines = ["name,id,age\n", '"Ada, L.",7,36\n', "\n", "Böb,8,\n"]
    assert loading.load(store, loading.csv_entries(lines, "id"), batch=1) == 2
    assert json.loads(store[b"7"]) == {"name": "Ada, L.", "age": "36"}
    assert store[b"8"] == '{"name": "Böb", "age": ""}'.encode()
    assert [entry.key for entry in loading.csv_entries(lines)] == [b"Ada, L.", "Böb".encode()]
    with pytest.raises(UsageError, match="line 1: one column 'x' expected"):
        list(loading.csv_entries(lines, "x"))
    with pytest.raises(UsageError, match="line 2: 3 fields expected, 2 found"):
        list(loading.csv_entries(["a,b,c\n", "1,2\n"]))
    with pytest.raises(UsageError, match="line 1"):
        list(loading.csv_entries([]))


def test_json_lines_become_keys_and_json(store: KVStore) -> None:
    loading.load(store, loading.json_entries(['{"id": 7, "n": [1]}\n', "  \n"], "id"))
    assert dict(store) == {b"7": b'{"n": [1]}'}


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ("{", "id", "line 1: "),
        ("[1]", "id", "an object expected, list found"),
        ('{"id": true}', "id", "a text or a number as 'id' expected, True found"),
        ('{"key": "a"}', None, "a text as 'value' or 'value64' expected"),
        ('{"key": "a", "value64": "?"}', None, "base64 as 'value64'"),
        ('{"key": "a", "value": "b", "ttl": "c"}', None, "seconds as 'ttl'"),
    ],
)
def test_other_lines_are_refused(line: str, key: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(loading.json_entries([line], key))


def test_a_dump_is_loaded_as_it_was(store: KVStore, tmp_path: Path) -> None:
    store.update({b"": b"", "ä".encode(): b"\x00", b"\xff": b"\xfe\n", b"big": b"x" * (2 << 20)})
    store.set(b"soon", b"", ttl=2.5)
    lines = list(loading.dump_lines(store))
    assert json.loads(lines[-1]) == {"key64": "/w==", "value64": "/go="}
    with KVStore(tmp_path / "b.kv", "process", clock=clock) as other:
        assert loading.load(other, loading.json_entries(lines)) == 5
        assert dict(other) == dict(store)
        assert other.ttl(b"soon") == 2.5
    assert len(list(loading.dump_lines(store, b"b", b"c"))) == 1


# ---------------------------------------------------------------- the command line


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def test_commands(path: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("put", path, "a", "1", "--durability", "process") == 0
    assert run("put", path, os.fsdecode(b"\xff"), "2", "--ttl", "1000") == 0
    assert run("get", path, "a") == 0
    assert capfdbinary.readouterr().out == b"1\n"
    assert run("scan", path) == 0
    assert capfdbinary.readouterr().out == b"a\t1\n\xff\t2\n"
    assert run("scan", path, "--reverse", "--keys", "--count", 1, "--start", "a") == 0
    assert capfdbinary.readouterr().out == b"\xff\n"
    assert run("delete", path, "a", "b") == 1
    assert capfdbinary.readouterr().err == b"kvstore: key b'b': no such key\n"
    assert run("get", path, "a") == 0, "all of them, or none"
    assert run("dump", path, tmp_path / "dump.jsonl") == 0
    assert run("delete", path, "a") == 0
    assert run("load", path, tmp_path / "dump.jsonl") == 0
    assert run("dump", path, "--stop", "b") == 0
    assert b'{"key": "a", "value": "1"}\n' in capfdbinary.readouterr().out
    assert run("stats", path, "--json") == 0
    assert json.loads(capfdbinary.readouterr().out)["entries"] == 2
    assert run("stats", path) == 0
    assert b"entries" in capfdbinary.readouterr().out


def test_load_takes_csv(
    path: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    source = tmp_path / "people.csv"
    source.write_text("id,name\n" + "".join(f"{i},n{i}\n" for i in range(2500)))
    assert run("load", path, source, "--key", "id", "--durability", "process") == 0
    assert b"2500 entries" in capfdbinary.readouterr().out
    with KVStore(path) as store:
        assert store[b"1234"] == b'{"name": "n1234"}'


def test_load_takes_a_mark_of_utf8(path: Path, tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_text("id,name\n1,Ada\n", encoding="utf-8-sig")
    assert run("load", path, source, "--key", "id", "--durability", "process") == 0
    with KVStore(path) as store:
        assert dict(store) == {b"1": b'{"name": "Ada"}'}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", b"id,name\n1,a\n2,b,c\n", "a.csv, line 3: 2 fields expected, 3 found"),
        ("a.csv", b'id,name\n1,"a\nb"\n2\n', "a.csv, line 4: 2 fields expected, 1 found"),
        ("a.csv", b"id,name\r\n1,\xff\r\n", "a.csv, line 2: a row of CSV in UTF-8 expected"),
        ("a.csv", b'id,name\n1,a\n2,"' + b"x" * 200_000 + b'"\n', "a.csv, line 3: a row of CSV"),
        ("a.csv", b"id,name,name\n1,a,b\n", "a.csv, line 1: columns of different names expected"),
        ("a.csv", b"id,name\n1,a\n" + b"k" * 1025 + b",b\n", "(a.csv, line 3: key b'kkk"),
        ("a.csv", b"", "a.csv, line 1: one column"),
        ("a.csv", b'id,name\n1,a\n2,"b\n3,c\n', "a.csv, line 3: a row of CSV"),
        ("a.csv", b'id,name\n1,"a"b\n', "a.csv, line 2: a row of CSV"),
        ("a.jsonl", b'{"key": "a", "value": "1"}\n\n{"key": "b"}\n', "a.jsonl, line 3: a text as"),
        ("a.jsonl", b'{"key": "a", "value": "1"}\n\xff\n', "a.jsonl, line 2: UTF-8 expected"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: "),
        ("a.jsonl", b'{"key": "a", "value": "1", "ttl": -1}\n', "(a.jsonl, line 1: key b'a'"),
        ("a.jsonl", b'{"key": "a", "value": "1", "ttl": NaN}\n', "(a.jsonl, line 1: key b'a'"),
        ("a.jsonl", b'{"key": "\\ud800", "value": "1"}\n', "a.jsonl, line 1: "),
    ],
    ids=range(15),
)  # fmt: skip
def test_load_names_the_row_that_it_refuses(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, text: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(text)
    assert run("load", path, tmp_path / name, "--durability", "process") == 2
    error = capfd.readouterr().err
    place = says.replace("a.", f"{tmp_path}/a.", 1)
    assert place in error
    assert says.startswith("(") or error.startswith(f"kvstore: {place}")
    assert error.endswith("entries stored before: 0)\n")
    assert error.count("\n") == 1
    with KVStore(path) as store:
        assert not store, "the batch that has it is taken back"


def test_load_says_what_was_stored_before(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.csv"
    source.write_text("id,name\n" + "".join(f"{i},x\n" for i in range(10)) + "k" * 1025 + ",x\n")
    assert run("load", path, source, "--batch", 4, "--durability", "process") == 2
    assert "entries stored before: 8)" in capfd.readouterr().err
    with KVStore(path) as store:
        assert len(store) == 8
    source.write_text(
        "id,name\n1,"
        + "x" * 100_000
        + "\n"
        + "".join(f"{i},{'y' * 100_000}\n" for i in range(2, 99))
    )
    with (
        KVStore(path, "process", flag="n", limit=4 << 20) as limited,
        source.open(encoding="utf-8") as lines,
        pytest.raises(pmemheap.OutOfSpaceError) as raised,
    ):
        loading.load(limited, loading.csv_entries(lines, source="a.csv"), batch=1)
    place, left = raised.value.__notes__
    assert place.startswith("a.csv, line ")
    with KVStore(path) as store:
        assert left == f"entries stored before: {len(store)}"


@pytest.mark.slow
def test_load_that_is_interrupted_says_what_was_stored(path: Path) -> None:
    module = [sys.executable, "-m", "pmemheap.kvstore"]
    command = [*module, "load", str(path), "/dev/stdin", "--batch", "10"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(  # else it ignores SIGINT wherever the tests do, in background jobs
        [*command, "--format", "csv"], stdin=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    assert process.stdin is not None
    process.stdin.write(b"id,n\n" + b"".join(b"%d,x\n" % number for number in range(20_000)))
    process.stdin.flush()
    while not path.exists():
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    with KVStore(path) as store:
        expected = f"kvstore: {path}: interrupted (entries stored before: {len(store)})\n"
    assert error.decode() == expected


def test_commands_of_space_and_safety(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with KVStore(path, "process") as store:
        store.update({b"%06d" % i: b"x" * 200 for i in range(20_000)})
        store.put_many(((b"t%d" % i, b"") for i in range(50)), ttl=1e-6)
        for i in range(0, 20_000, 2):
            store.delete(b"%06d" % i)
    assert run("check", path) == 0
    assert capfd.readouterr().out == f"{path}: sound, 10000 keys\n"
    assert run("purge", path) == 0
    assert capfd.readouterr().out == f"{path}: 50 expired keys removed\n"
    assert run("compact", path) == 0
    before, after = (int(word) for word in re.findall(r" (\d+) ", capfd.readouterr().out))
    assert after < 0.7 * before
    assert run("snapshot", path, tmp_path / "copy.kv") == 0
    assert run("snapshot", path, tmp_path / "copy.kv") == 2
    assert "copy.kv" in capfd.readouterr().err
    assert run("snapshot", path, tmp_path / "copy.kv", "--replace") == 0
    with KVStore(path, flag="r") as store, KVStore(tmp_path / "copy.kv", flag="r") as copy:
        assert dict(copy) == dict(store)
    for command in ("check", "purge", "compact"):
        assert run(command, tmp_path / "none.kv") == 2
        assert "none.kv" in capfd.readouterr().err


def test_a_damaged_store_is_found(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pmemheap.open(path, "c", durability="process") as heap:
        containers.SortedMap(heap, "kvstore")
        containers.SortedMap(heap, "kvstore.deadlines")[b"a"] = b"soon"
        for kind in ("tags", "tagged"):
            containers.SortedMap(heap, f"kvstore.{kind}")
    assert run("check", path) == 3
    assert "8 bytes expected, 4 found" in capfd.readouterr().err


def test_scans_by_prefix(path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with KVStore(path, "process") as store:
        store.update(
            dict.fromkeys([b"a", b"ab", b"ab\xff", b"ac", b"b", b"\xff", b"\xff\xff"], b"1")
        )
    for options, expected in [
        (("--prefix", "ab"), b"ab\nab\xff\n"),
        (("--prefix", "a", "--start", "ab", "--stop", "ac"), b"ab\nab\xff\n"),
        (("--prefix", "a", "--reverse", "--count", 1), b"ac\n"),
        (("--prefix", os.fsdecode(b"\xff")), b"\xff\n\xff\xff\n"),
        (("--prefix", "x"), b""),
        (("--prefix", "b", "--stop", "b"), b""),
        (("--prefix", ""), b"a\nab\nab\xff\nac\nb\n\xff\n\xff\xff\n"),
    ]:  # fmt: skip
        assert run("scan", path, "--keys", *options) == 0
        assert capfdbinary.readouterr().out == expected
    assert run("dump", path, "--prefix", "ac") == 0
    assert capfdbinary.readouterr().out == b'{"key": "ac", "value": "1"}\n'


def test_what_expires_while_it_is_dumped_can_be_loaded(tmp_path: Path) -> None:
    times = iter([1_000_000_000] * 3 + [5_999_999_999, 6_000_000_000, 6_000_000_000])
    with KVStore(tmp_path / "a.kv", "process", clock=lambda: next(times, 1 << 62)) as store:
        store.set(b"a", b"1", ttl=5)
        lines = list(loading.dump_lines(store))
    assert all(json.loads(line)["ttl"] > 0 for line in lines)


def test_serve_hands_an_open_store_to_the_server(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    served: list[Any] = []

    def serve(store: KVStore, host: str, port: int, **options: Any) -> None:
        options.pop("ready")(1234)
        served.append((store.durability, store.closed, host, port, options))

    monkeypatch.setitem(sys.modules, "pmemheap.kvstore.server", SimpleNamespace(serve=serve))
    limits = ("--max-request", 1000, "--max-clients", 7)
    assert run("serve", path, "--port", 0, "--durability", "process", *limits) == 0
    assert run("serve", path) == 0
    assert run("serve", path, "--limit", 5000, "--evict", "lru") == 0
    with KVStore(path, flag="r") as store:
        assert (store.stats().evict, store.stats().limit) == ("lru", 5000)
    given = {"max_request": 1000, "max_clients": 7}
    assert served == [
        ("process", False, "127.0.0.1", 0, given), *[("process", False, "127.0.0.1", 6379, {})] * 2,
    ]  # fmt: skip
    assert capfd.readouterr().out == f"{path}: listening at 127.0.0.1:1234\n" * 3


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_serve_says_which_port_it_took(path: Path, host: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "pmemheap.kvstore", "serve", path, "--port", "0", "--host", host],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        found = re.fullmatch(rf"{path}: listening at {host}:(\d+)\n", process.stdout.readline())
        assert found is not None
        for _, _, _, _, address in socket.getaddrinfo(host, found[1], type=socket.SOCK_STREAM):
            with (
                suppress(OSError),
                socket.create_connection((str(address[0]), int(found[1])), timeout=20) as client,
            ):
                client.sendall(b"PING\r\n")
                assert client.recv(100) == b"+PONG\r\n"
        process.terminate()
        assert process.wait(20) == 0


def test_failed_commands_say_why(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("get", path, "a") == 2
    assert str(path) in capfd.readouterr().err
    path.write_bytes(b"x" * 10_000)
    assert run("get", path, "a") == 3
    assert run("load", tmp_path / "b.kv", tmp_path / "missing.csv") == 2
    assert "missing.csv: No such file" in capfd.readouterr().err
    assert run("load", tmp_path / "b.kv", tmp_path / "x.txt") == 2
    assert "--format" in capfd.readouterr().err
    assert not (tmp_path / "b.kv").exists()
    assert run("frobnicate") == 2


def test_the_program_says_which_extra_it_needs(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "typer" else find(name)
    )
    assert main([]) == 2
    assert capfd.readouterr().err == (
        "kvstore: the command line needs typer: pip install 'pmemheap[kvstore]'\n"
    )
