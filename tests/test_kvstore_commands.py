"""Commands of Redis on the key-value store, without a socket: what they reply, what they change.

Replies were compared with those of Redis 7.0.15 by random requests, `kvstore_redis_load.py`.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from redis_world import Direct, direct, words_of

from pmemheap.kvstore.commands import Limits, keys, keyspace
from pmemheap.kvstore.commands.registry import table
from pmemheap.kvstore.commands.running import Commands

__all__ = ["direct"]

FAR = 4_000_000_000  # seconds since 1970: the year 2096
TOLD_BY_REDIS = (Path(__file__).parent / "redis_commands.txt").read_text().splitlines()
"""Of Redis 7.0.15: name, arity, first and last key, step, flags, groups, uses of keys."""
INTEGER = "-ERR value is not an integer or out of range"
SYNTAX = "-ERR syntax error"


def after(direct: Direct, lines: str) -> Any:
    """Run lines with semicolons between them; return the last reply."""
    return [direct(line.strip()) for line in lines.split(";")][-1]


@pytest.mark.parametrize(
    ("lines", "reply"),
    [
        # strings
        ("set a 1; get a", b"1"),
        ("get a", None),
        ("set a 1 get", None),
        ("set a 1; set a 2 get; get a", b"2"),
        ("set a 1; set a 2 xx get", b"1"),
        ("set a 1 nx get", None),
        ("set a 1; set a 2 nx get; get a", b"1"),
        ("set a 1; set a 2 nx", None),
        ("set a 1 xx", None),
        ("set a 1 ex 100; set a 2 keepttl; ttl a", 100),
        ("set a 1 ex 100; set a 2; ttl a", -1),
        (f"set a 1 exat {FAR}; expiretime a", FAR),
        (f"set a 1 pxat {FAR}123; pexpiretime a", FAR * 1000 + 123),
        ("set a 1; set a 2 exat 1; get a", None),
        ("set a 1; setnx a 2", 0),
        ("setnx a 2; get a", b"2"),
        ("setex a 100 1; ttl a", 100),
        ("psetex a 100000 1; ttl a", 100),
        ("set a 1; getset a 2", b"1"),
        ("set a 1 ex 100; getset a 2; ttl a", -1),
        ("set a 1; getdel a; get a", None),
        ("getdel a", None),
        ("mset a 1 b 2; mget a b c", [b"1", b"2", None]),
        ("msetnx a 1 b 2", 1),
        ("set b 1; msetnx a 1 b 2; get a", None),
        ("set b 1; msetnx a 1 b 2", 0),
        ("set a 12; append a 34", 4),
        ("append a 34; get a", b"34"),
        ("set a 1 ex 100; append a 2; ttl a", 100),
        ("set a 1234; strlen a", 4),
        ("strlen a", 0),
        ("set a hello; getrange a 1 3", b"ell"),
        ("set a hello; getrange a -3 -1", b"llo"),
        ("set a hello; getrange a 3 1", b""),
        ("set a hello; getrange a 0 -100", b"h"),
        ("set a hello; getrange a -1 -3", b""),
        ("set a hello; getrange a 2 100", b"llo"),
        ("set a hello; substr a 0 0", b"h"),
        ("getrange a 0 -1", b""),
        ("setrange a 3 xy; get a", b"\0\0\0xy"),
        ("set a hello; setrange a 1 EY; get a", b"hEYlo"),
        ("set a hello; setrange a 4 XYZ", 7),
        ("set a hello ex 100; setrange a 4 XYZ; ttl a", 100),
        ("set a hello ex 100; setrange a 0 j; ttl a", 100),
        # getex
        ("getex a ex x", None),
        ("set a 1; getex a ex 100; ttl a", 100),
        ("set a 1; getex a px 100000; ttl a", 100),
        (f"set a 1; getex a exat {FAR}; expiretime a", FAR),
        (f"set a 1; getex a pxat {FAR}001; pexpiretime a", FAR * 1000 + 1),
        ("set a 1 ex 100; getex a persist; ttl a", -1),
        ("set a 1 ex 100; getex a; ttl a", 100),
        ("set a 1; getex a exat 1", b"1"),
        ("set a 1; getex a exat 1; get a", None),
        # numbers
        ("incr n; incrby n 5; decr n; decrby n 7", -2),
        ("set n 10 ex 100; incr n; ttl n", 100),
        ("set n 9223372036854775807; incr n", "-ERR increment or decrement would overflow"),
        ("set n -9223372036854775808; decr n", "-ERR increment or decrement would overflow"),
        ("set n 1.5; incr n", INTEGER),
        ("set n 01; incr n", INTEGER),
        ("incrbyfloat n 1.5", b"1.5"),
        ("set n 10.50; incrbyfloat n 0.1", b"10.6"),
        ("set n 5.0e3; incrbyfloat n 2.0e2", b"5200"),
        ("set n 0.1; incrbyfloat n 0.2", b"0.3"),
        ("set n 3; incrbyfloat n -3", b"0"),
        ("set n 1; incrbyfloat n 1e-17", b"1.00000000000000001"),
        ("set n 1 ex 100; incrbyfloat n 1; ttl n", 100),
        ("set n x; incrbyfloat n 1", "-ERR value is not a valid float"),
        ("set n 1; incrbyfloat n 1_000", "-ERR value is not a valid float"),
        ("set n 1; incrbyfloat n nan", "-ERR value is not a valid float"),
        ("incrbyfloat n 1e400", "-ERR increment would produce NaN or Infinity"),
        # keys
        ("mset a 1 b 2; del a b c", 2),
        ("set a 1; unlink a", 1),
        ("set a 1; exists a a b", 2),
        ("set a 1; touch a a b", 2),
        ("set a 1; type a", "+string"),
        ("type a", "+none"),
        ("mset a 1 b 2; dbsize", 2),
        ("mset aa 1 ab 2 b 3; keys a?", [b"aa", b"ab"]),
        ("randomkey", None),
        ("set a 1; randomkey", b"a"),
        ("set a 1; rename a b; mget a b", [None, b"1"]),
        ("set a 1 ex 100; rename a b; ttl b", 100),
        ("mset a 1 b 2; rename a b; mget a b", [None, b"1"]),
        ("set a 1; rename a a; get a", b"1"),
        ("rename a b", "-ERR no such key"),
        ("rename a a", "-ERR no such key"),
        ("set a 1; renamenx a b", 1),
        ("mset a 1 b 2; renamenx a b", 0),
        ("set a 1; renamenx a a", 0),
        ("renamenx a b", "-ERR no such key"),
        ("set a 1 ex 100; copy a b; mget a b", [b"1", b"1"]),
        ("set a 1 ex 100; copy a b; ttl b", 100),
        ("mset a 1 b 2; copy a b", 0),
        ("mset a 1 b 2; copy a b replace; get b", b"1"),
        ("copy a b", 0),
        ("set a 1; copy a b db 0", 1),
        ("set a 1; copy a a", "-ERR source and destination objects are the same"),
        ("set a 1; copy a b db 1", "-ERR DB index is out of range"),
        ("set a 1; move a 0", "-ERR source and destination objects are the same"),
        ("set a 1; move a 1", "-ERR DB index is out of range"),
        ("set a 1; flushall; dbsize", 0),
        ("set a 1; flushdb async; dbsize", 0),
        # expiry
        ("expire a 10", 0),
        ("set a 1; expire a 100; ttl a", 100),
        ("set a 1; pexpire a 100000; ttl a", 100),
        (f"set a 1; expireat a {FAR}; expiretime a", FAR),
        (f"set a 1; pexpireat a {FAR}500; pexpiretime a", FAR * 1000 + 500),
        ("set a 1; expire a -1; get a", None),
        ("set a 1; expireat a 1; exists a", 0),
        ("set a 1; expire a 10 nx", 1),
        ("set a 1 ex 5; expire a 10 nx", 0),
        ("set a 1 ex 5; expire a 10 xx", 1),
        ("set a 1; expire a 10 xx", 0),
        ("set a 1; expire a 10 gt", 0),
        ("set a 1; expire a 10 lt", 1),
        ("set a 1 ex 100; expire a 10 gt; ttl a", 100),
        ("set a 1 ex 100; expire a 10 lt; ttl a", 10),
        ("set a 1 ex 100; expire a 200 gt; ttl a", 200),
        ("set a 1 ex 100; expire a 200 xx gt; ttl a", 200),
        ("set a 1 ex 100; expire a -5 gt; ttl a", 100),
        ("ttl a", -2),
        ("pttl a", -2),
        ("expiretime a", -2),
        ("set a 1; pexpiretime a", -1),
        ("set a 1 ex 100; persist a; ttl a", -1),
        ("set a 1; persist a", 0),
        # what a value is
        ("set a 12; object encoding a", b"int"),
        ("set a text; object encoding a", b"embstr"),
        (f"set a {'x' * 45}; object encoding a", b"raw"),
        ("object encoding a", None),
        ("set a 1; object refcount a", 1),
        ("set a 1; object idletime a", 0),
        ("object idletime a", None),
        ("object freq a", None),
        ("set a 12; memory usage a", 11),
        ("set a 12; memory usage a samples 5", 11),
        ("memory usage a", None),
        # lcs
        ("mset a ohmytext b mynewtext; lcs a b", b"mytext"),
        ("mset a ohmytext b mynewtext; lcs a b len", 6),
        ("mset a ohmytext b mynewtext; lcs a b idx",
         [b"matches", [[[4, 7], [5, 8]], [[2, 3], [0, 1]]], b"len", 6]),
        ("mset a ohmytext b mynewtext; lcs a b idx minmatchlen 4 withmatchlen",
         [b"matches", [[[4, 7], [5, 8], 4]], b"len", 6]),
        ("lcs a b", b""),
        # connection and server
        ("ping", "+PONG"),
        ("ping x", b"x"),
        ("echo x", b"x"),
        ("select 0", "+OK"),
        ("auth default x", "+OK"),
        ("wait 0 0", 0),
        ("role", [b"master", 0, []]),
        ("save", "+OK"),
        ("swapdb 0 0", "+OK"),
        ("client getname", None),
        ("client setname me; client getname", b"me"),
        ("client id", 1),
        ("client getredir", -1),
        ("client unblock 1", 0),
        ("client no-evict on", "+OK"),
        ("client setinfo lib-name x", "+OK"),
        ("client setname me; reset", "+RESET"),
        ("client setname me; reset; client getname", None),
        ("config get maxmemory-p*", [b"maxmemory-policy", b"noeviction"]),
        ("config get save data*", [b"databases", b"1", b"save", b""]),
        ("config get nothing", []),
        ("config resetstat", "+OK"),
        ("script exists " + "a" * 40, [0]),
        ("script flush", "+OK"),
    ],
)  # fmt: skip
def test_a_command_replies_as_redis_does(direct: Direct, lines: str, reply: Any) -> None:
    assert after(direct, lines) == reply


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("get", "-ERR wrong number of arguments for 'get' command"),
        ("GET a b", "-ERR wrong number of arguments for 'get' command"),
        ("mset a 1 b", "-ERR wrong number of arguments for 'mset' command"),
        ("msetnx a 1 b", "-ERR wrong number of arguments for 'msetnx' command"),
        ("config get", "-ERR wrong number of arguments for 'config|get' command"),
        ("client id 1", "-ERR wrong number of arguments for 'client|id' command"),
        ("client", "-ERR wrong number of arguments for 'client' command"),
        ("nope a b", "-ERR unknown command 'nope', with args beginning with: 'a' 'b' "),
        ("client nope", "-ERR unknown subcommand 'nope'. Try CLIENT HELP."),
        ("config set a b", "-ERR unknown subcommand 'set'. Try CONFIG HELP."),
        ("set a b nx xx", SYNTAX),
        ("set a b ex", SYNTAX),
        ("set a b ex 1 px 1", SYNTAX),
        ("set a b ex 1 keepttl", SYNTAX),
        ("set a b keepttl px 1", SYNTAX),
        ("set a b persist", SYNTAX),
        ("set a b ex x foo", SYNTAX),
        ("set a b ex x", INTEGER),
        ("set a b ex 0", "-ERR invalid expire time in 'set' command"),
        ("set a b px 9223372036854775807", "-ERR invalid expire time in 'set' command"),
        ("set a b exat -5", "-ERR invalid expire time in 'set' command"),
        ("setex a 0 b", "-ERR invalid expire time in 'setex' command"),
        ("psetex a -1 b", "-ERR invalid expire time in 'psetex' command"),
        ("getex a ex 1 persist", SYNTAX),
        ("getex a keepttl", SYNTAX),
        ("setrange a -1 x", "-ERR offset is out of range"),
        ("setrange a 99999999999 x",
         "-ERR string exceeds maximum allowed size (proto-max-bulk-len)"),
        ("getrange a x 1", INTEGER),
        ("expire a 9223372036854775807", "-ERR invalid expire time in 'expire' command"),
        ("expire a 1 nx gt",
         "-ERR NX and XX, GT or LT options at the same time are not compatible"),
        ("expire a 1 gt lt", "-ERR GT and LT options at the same time are not compatible"),
        ("expire a x foo", "-ERR Unsupported option foo"),
        ("decrby a -9223372036854775808", "-ERR decrement would overflow"),
        ("incrby a 01", INTEGER),
        ("lcs a b len idx",
         "-ERR If you want both the length and indexes, please just use IDX."),
        ("lcs a b foo", SYNTAX),
        ("copy a b foo", SYNTAX),
        ("select 1", "-ERR DB index is out of range"),
        ("swapdb 0 1", "-ERR DB index is out of range"),
        ("scan 99", "-ERR invalid cursor"),
        ("scan -1", "-ERR invalid cursor"),
        ("scan x", "-ERR invalid cursor"),
        ("scan 0 count 0", SYNTAX),
        ("scan 0 match", SYNTAX),
        ("flushall now", SYNTAX),
        ("hello 4", "-NOPROTO unsupported protocol version"),
        ("hello x", "-ERR Protocol version is not an integer or out of range"),
        ("hello 3 nope", "-ERR Syntax error in HELLO option 'nope'"),
        ("hello 3 auth default", "-ERR Syntax error in HELLO option 'auth'"),
        ("hello 3 auth joe x", "-WRONGPASS invalid username-password pair or user is disabled."),
        ("auth joe x", "-WRONGPASS invalid username-password pair or user is disabled."),
        ("client no-evict x", SYNTAX),
        ("client reply x", SYNTAX),
        ("client list type x", "-ERR Unknown client type 'x'"),
        ("client list id x", "-ERR Invalid client ID"),
        ("client kill 1.2.3.4:5", "-ERR No such client"),
        ("client setinfo x y", "-ERR Unrecognized option 'x'"),
        ("memory usage a samples", SYNTAX),
        ("command getkeys ping x", "-ERR The command has no key arguments"),
        ("command getkeys nope x", "-ERR Invalid command specified"),
        ("command list filterby", SYNTAX),
        ("wait 0 -1", "-ERR timeout is negative"),
        ("evalsha " + "a" * 40 + " 0", "-NOSCRIPT No matching script. Please use EVAL."),
        ("script kill", "-NOTBUSY No scripts in execution right now."),
        ("script flush now", "-ERR SCRIPT FLUSH only support SYNC|ASYNC option"),
        ("flushall sync async", SYNTAX),
        ("auth a b c", SYNTAX),
        ("swapdb x 0", "-ERR invalid first DB index"),
        ("swapdb 0 x", "-ERR invalid second DB index"),
        ("client kill id 0", "-ERR client-id should be greater than 0"),
        ("client kill type x", "-ERR Unknown client type 'x'"),
        ("client kill user joe", "-ERR No such user 'joe'"),
        ("client kill skipme maybe id 9", SYNTAX),
        ("client unblock x", INTEGER),
        ("client unblock 9 x", "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"),
        (f"expire a {-(1 << 63)}", "-ERR invalid expire time in 'expire' command"),
    ],
)  # fmt: skip
def test_errors_are_worded_as_those_of_redis(direct: Direct, line: str, reply: str) -> None:
    assert direct(line) == reply
    assert len(direct.store) == 0


def test_a_password_is_not_needed_and_not_taken(direct: Direct) -> None:
    assert direct("auth x").startswith("-ERR AUTH <password> called without any password")


def test_idle_time_counts_from_the_first_question_and_each_use(
    direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()

    def after(seconds: float) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: began + seconds)

    after(0)
    direct("mset a 1 b 2")
    assert [direct("object idletime a"), direct("object idletime b")] == [0, 0]
    after(50.5)
    direct("mget x b")
    direct("ping b")
    after(100)
    assert [direct("object idletime a"), direct("object idletime b")] == [100, 49]
    assert direct("object freq a").startswith("-ERR An LFU maxmemory policy is not selected")
    monkeypatch.setattr(keyspace, "_USES_MOST", 2)
    assert [direct("object idletime c"), direct("object idletime a")] == [None, 0]


def test_random_keys_are_keys(direct: Direct) -> None:
    random.seed(1)  # of others one run in some hundreds misses the rarest
    names = [b"a", b"a\0", b"ab", b"b" * 1024, b"zz", b"\xff\xff"]
    for name in names:
        direct("set", name, "1")
    assert {direct("randomkey") for _ in range(200)} == set(names)
    for number in range(1000):
        direct("set", f"key:{number}", "")
    assert len({direct("randomkey") for _ in range(200)}) > 20


def test_replies_have_a_bound(direct: Direct) -> None:
    direct.commands.limits = Limits(reply=1000)
    direct("set", "a", "x" * 300)
    assert direct("mget a a") == [b"x" * 300] * 2
    assert direct("mget a a a a").startswith("-ERR reply of more than 1000 bytes")
    for number in range(100):
        direct("set", f"key:{number}", "")
    assert direct("keys *").startswith("-ERR reply of more than")


def test_what_is_told_has_a_bound(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "SCANNED_MOST", 3)
    direct("mset a 1 b 2 c 3 d 4")
    assert direct("scan 0 count 9223372036854775807") == [b"1", [b"a", b"b", b"c"]]
    assert direct("scan 1 count 9223372036854775807") == [b"0", [b"d"]]
    assert len(direct("client list id" + " 1" * 1000).splitlines()) == 1
    for line in ("command info", "command docs", "config get"):
        assert direct(line + " get" * 1001).startswith("-ERR wrong number of arguments")


def test_values_have_a_bound(direct: Direct) -> None:
    direct.commands.limits = Limits(value=10)
    too_long = "-ERR string exceeds maximum allowed size (proto-max-bulk-len)"
    assert direct("append a 12345") == 5
    assert direct("append a 123456") == too_long
    assert direct("setrange a 9 12") == too_long
    assert direct("setrange a 8 12") == 10


def test_info_has_sections(direct: Direct) -> None:
    direct("set a 1 ex 100")
    everything = direct("info").decode()
    for section in ("Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "CPU",
                    "Cluster", "Keyspace"):  # fmt: skip
        assert f"# {section.capitalize()}\r\n" in everything
    assert "redis_version:7.0.0\r\n" in everything
    assert direct("info keyspace") == b"# Keyspace\r\ndb0:keys=1,expires=1,avg_ttl=0\r\n"
    assert direct("info replication keyspace").count(b"# ") == 2
    assert direct("info nothing") == b""
    assert b"entries:1\r\n" in direct("info store")
    direct("flushall")
    assert direct("info keyspace") == b"# Keyspace\r\n"


def test_time_is_now(direct: Direct) -> None:
    seconds, microseconds = direct("time")
    assert abs(int(seconds) + int(microseconds) / 1e6 - time.time()) < 5
    assert abs(direct("lastsave") - time.time()) < 60


def test_clients_are_listed_and_ended(direct: Direct) -> None:
    other = direct.client()
    ended: list[int] = []
    other.hang_up = lambda: ended.append(other.number)
    other.address = "1.2.3.4:5"
    assert direct("client", "setname", "me and you") == "+OK"
    lines = direct("client list").decode().splitlines()
    assert len(lines) == 2
    fields = dict(word.split("=") for word in lines[0].split(" "))
    assert (fields["id"], fields["name"], fields["resp"]) == ("1", "me\\x20and\\x20you", "2")
    assert direct("client info").decode() == lines[0]
    assert direct("client list id 2 7").decode().startswith("id=2 addr=1.2.3.4:5 ")
    assert direct("client list type replica") == b""
    assert direct("client kill id 7") == 0
    assert direct("client kill type pubsub") == 0
    assert direct("client kill addr 1.2.3.4:5") == 1
    assert direct("client kill 1.2.3.4:5") == "+OK"
    assert direct("client kill type normal user default") == 1
    assert ended == [2, 2, 2]
    assert direct("client kill id 1") == 0, "not itself"
    assert direct("client kill id 1 skipme no") == 1
    assert direct.session.quitting
    assert direct("client", "setname", "a\nb").startswith("-ERR Client names cannot contain")


def test_replies_can_be_left_out(direct: Direct) -> None:
    assert direct.run("client reply skip", "set a 1", "get a") == ["", "", b"1"]
    assert direct.run("client reply off", "set a 2", "get a") == ["", "", ""]
    assert direct.run("get a", "client reply on", "get a") == ["", "+OK", b"2"]
    assert direct.run("client reply skip", "client reply skip", "get a", "get a") == [
        "", "", "", b"2",
    ]  # fmt: skip


def test_hello_chooses_the_protocol(direct: Direct) -> None:
    assert direct.raw("hello").startswith(b"*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n")
    assert direct.raw("hello 3 setname me").startswith(b"%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n")
    assert direct("hello")[b"proto"] == 3
    assert direct("client getname") == b"me"
    assert direct.raw("get none") == b"_\r\n"
    assert direct("config get save") == {b"save": b""}
    assert direct.raw("info keyspace").startswith(b"=16\r\ntxt:# Keyspace\r\n")
    assert direct("hello 2 auth default x")[1] == b"redis"
    assert direct.raw("get none") == b"$-1\r\n"
    assert direct("hello 3 auth joe x").startswith("-WRONGPASS")
    assert direct.raw("get none") == b"$-1\r\n", "refused as a whole"


def test_what_is_no_request_for_us_ends_the_connection(direct: Direct) -> None:
    assert direct("post / http/1.1").startswith("-ERR Possible SECURITY ATTACK")
    assert direct.session.quitting


def test_cursors_are_bounded(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "CURSORS_MOST", 2)
    direct("mset a 1 b 2 c 3")
    for number in (b"1", b"2", b"3"):
        assert direct("scan 0 count 1") == [number, [b"a"]]
    assert direct("scan 1") == "-ERR invalid cursor"
    assert direct("scan 2") == [b"0", [b"b", b"c"]]
    assert direct("scan 0 type list") == [b"0", []]


def test_the_longest_key_can_be_the_last_of_a_page(direct: Direct) -> None:
    long = "k" * 1024
    direct(f"mset {long} 1 z 2")
    assert direct("scan 0 count 1") == [b"1", [long.encode()]]
    assert direct("scan 1 count 1")[1] == [b"z"]
    assert "1025" in direct(f"set {long}k 1")
    assert direct(f"mset a 1 {long}k 1").startswith("-ERR")
    assert direct(f"rename z {long}k").startswith("-ERR")
    assert direct("exists a z") == 1, "all of a command or nothing"


# ---------------------------------------------------------------- COMMAND


def test_command_tells_of_every_command_and_of_no_other(direct: Direct) -> None:
    told = {info[0]: info for info in direct("command")}
    assert len(told) == direct("command count") == len(table)
    assert set(told) == set(direct("command list")) == {name.lower() for name in table}
    assert told[b"get"][:6] == [b"get", 2, ["+fast", "+readonly"], 1, 1, 1]
    assert told[b"set"][:6] == [b"set", -3, ["+denyoom", "+write"], 1, 1, 1]
    assert told[b"mset"][3:6] == [1, -1, 2]
    assert told[b"ping"][1:6] == [-1, ["+fast"], 0, 0, 0]
    assert "+movablekeys" in told[b"eval"][2]
    assert told[b"eval"][3:6] == [0, 0, 0]
    subcommands = {info[0]: info for info in told[b"client"][9]}
    assert subcommands[b"client|setname"][1] == 3
    assert direct("command info get nope client|id")[1:] == [["*-1"], subcommands[b"client|id"]]


@pytest.mark.parametrize("name", sorted(table))
def test_what_is_told_of_a_command_is_so(direct: Direct, name: bytes) -> None:
    one = table[name]
    ((_, arity, *_),) = direct("command", "info", name)
    least = abs(arity) - 1
    wrong = direct(name.decode(), *["x"] * (least - 1)) if least else None
    if least:
        assert wrong == f"-ERR wrong number of arguments for '{one.shown_name}' command"
    if arity > 0:
        too_many = direct(name.decode(), *["x"] * (least + 1))
        assert too_many == f"-ERR wrong number of arguments for '{one.shown_name}' command"
    shown, facts = direct("command", "docs", name)
    described = dict(zip(facts[::2], facts[1::2], strict=True))
    assert shown == one.shown_name.encode()
    assert described[b"summary"].endswith(b".")
    assert described[b"since"][:1].isdigit()
    if one.subcommands:
        described_subs = described[b"subcommands"][::2]
        assert len(described_subs) == len(one.subcommands)
        assert len(direct(f"{one.shown_name} help")) == 2 * len(one.subcommands) + 1


def test_what_writes_says_so(direct: Direct) -> None:
    """Each command of one key is run: it has to say that it writes if the store changes."""
    for line in (
        "append a 1", "decr a", "del a", "expire a 100", "getdel a", "getex a ex 5", "getset a 2",
        "incr a", "incrbyfloat a 1", "persist b", "rename a c", "set a 2", "setrange a 0 x",
        "get a", "getrange a 0 1", "strlen a", "ttl b", "type a", "exists a", "object encoding a",
        "memory usage a", "lcs a b", "touch a", "mget a", "scan 0", "keys *", "randomkey", "dbsize",
    ):  # fmt: skip
        direct("flushall")
        direct("mset a 1 b 1")
        direct("expire b 1000")
        seen = ["mget a b", "pexpiretime a", "pexpiretime b"]
        before = [direct(look) for look in seen]
        direct(line)
        is_changed = before != [direct(look) for look in seen]
        name, *rest = line.split()
        ((_, _, flags, *_, subcommands),) = direct(f"command info {name}")
        flags += [
            flag for one in subcommands for flag in one[2] if one[0].endswith(rest[0].encode())
        ]
        assert ("+write" in flags) == is_changed, line
        assert ("+readonly" in flags) != is_changed, line


@pytest.mark.parametrize("expected", TOLD_BY_REDIS)
def test_flags_keys_and_groups_are_those_of_redis(direct: Direct, expected: str) -> None:
    ((name, arity, flags, first, last, step, groups, _, specs, _),) = direct(
        "command", "info", expected.split(maxsplit=1)[0]
    )
    uses = [flag for spec in specs for flag in spec[1]]
    words = [word.removeprefix("+") for word in flags + groups + uses]
    assert f"{name.decode()} {arity} {first} {last} {step} {' '.join(words)}" == expected


def test_no_command_is_missing_among_those_compared() -> None:
    listed = {line.split()[0].upper().encode() for line in TOLD_BY_REDIS}
    own = {one.name for one in table.values()}
    own |= {sub.name for one in table.values() for sub in one.subcommands.values()}
    assert own - listed == {b"CLIENT|SETINFO"}, "of a later version"


def test_uses_of_keys_are_told(direct: Direct) -> None:
    assert direct("command getkeysandflags rename a b") == [
        [b"a", ["+RW", "+access", "+delete"]], [b"b", ["+OW", "+update"]]
    ]  # fmt: skip
    assert direct("command getkeysandflags mset a 1 b 2") == [
        [b"a", ["+OW", "+update"]], [b"b", ["+OW", "+update"]]
    ]  # fmt: skip
    assert direct("command getkeysandflags set a get") == [[b"a", ["+OW", "+update"]]]
    assert direct("command getkeysandflags set a 1 get") == [[b"a", ["+RW", "+access", "+update"]]]
    assert direct("command getkeysandflags ping x") == "-ERR The command has no key arguments"


def test_words_of_other_protocols_are_no_commands(direct: Direct) -> None:
    assert direct("command info post host:") == [["*-1"], ["*-1"]]


def test_keys_of_a_request_are_found(direct: Direct) -> None:
    for line, expected in [
        ("get a", [b"a"]), ("mset a 1 b 2", [b"a", b"b"]), ("del a b c", [b"a", b"b", b"c"]),
        ("rename a b", [b"a", b"b"]), ("eval script 2 k1 k2 x", [b"k1", b"k2"]),
        ("object encoding a", [b"a"]), ("set a 1 ex 5", [b"a"]),
    ]:  # fmt: skip
        assert direct(f"command getkeys {line}") == expected


def test_lists_of_commands_are_filtered(direct: Direct) -> None:
    assert direct("command list filterby pattern *range") == [b"getrange", b"setrange"]
    assert b"multi" in direct("command list filterby aclcat transaction")
    assert direct("command list filterby module x") == []


REDIS_7 = {
    "string": "append decr decrby get getdel getex getrange getset incr incrby incrbyfloat lcs "
    "mget mset msetnx psetex set setex setnx setrange strlen substr",
    "generic": "copy del dump exists expire expireat expiretime keys migrate move object persist "
    "pexpire pexpireat pexpiretime pttl randomkey rename renamenx restore scan sort sort_ro touch "
    "ttl type unlink wait",
    "transactions": "discard exec multi unwatch watch",
    "connection": "auth client echo hello ping quit reset select",
}
MISSING = {"dump", "restore", "migrate", "sort", "sort_ro"}  # files of Redis, and its lists


def test_it_has_the_commands_of_the_version_that_it_names() -> None:
    for group, names in REDIS_7.items():
        for name in words_of(names):
            assert (name.upper() in table) == (name.decode() not in MISSING), (group, name)


# ---------------------------------------------------------------- scripts

RELEASE = """
    -- a lock is let go by its owner
    if redis.call("get", KEYS[1]) == ARGV[1] then
        return redis.call("del", KEYS[1])
    else
        return 0
    end
"""


def test_known_scripts_are_run(direct: Direct) -> None:
    direct("set lock token")
    assert direct("eval", RELEASE, "1", "lock", "another") == 0
    assert direct("eval", RELEASE.replace('"', "'"), "1", "lock", "token") == 1
    assert direct("exists lock") == 0
    name = direct("script", "load", RELEASE)
    assert direct("script", "exists", name, "a" * 40) == [1, 0]
    direct("set lock token")
    assert direct("evalsha", name.upper(), "1", "lock", "token") == 1
    assert direct("script flush") == "+OK"
    assert direct("evalsha", name, "1", "lock", "token").startswith("-NOSCRIPT")


def test_other_scripts_are_refused_and_change_nothing(direct: Direct) -> None:
    for script in ("return 1", "redis.call('set', KEYS[1], 'x')", RELEASE + "return 2", ""):
        assert direct("eval", script, "1", "a", "x").startswith("-ERR no such script")
        assert direct("script", "load", script).startswith("-ERR no such script")
    assert direct("eval", RELEASE, "0", "a", "x") == "-ERR script: 1 key and 1 arguments expected"
    assert direct("eval", RELEASE, "2", "a").startswith("-ERR Number of keys can't be greater")
    assert direct("eval", RELEASE, "-1", "a").startswith("-ERR Number of keys can't be negative")
    assert direct("eval", RELEASE, "x", "a") == INTEGER
    assert len(direct.store) == 0


def test_sessions_are_not_mixed_up(direct: Direct) -> None:
    other = direct.client()
    direct("hello 3")
    direct("multi")
    assert direct("get none", by=other) is None
    assert direct("get none") == "+QUEUED"
    assert isinstance(direct.commands, Commands)
