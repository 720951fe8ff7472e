"""admin: commands on the server and the store as a whole, for monitors and people.

What INFO, CONFIG and MEMORY say is measured; what is not measured here they do not have.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pmemheap.kvstore.commands.connection import VERSION
from pmemheap.kvstore.commands.keyspace import SECOND
from pmemheap.kvstore.commands.registry import FIRST, Group, in_group
from pmemheap.kvstore.commands.words import SYNTAX, number
from pmemheap.kvstore.patterns import glob_pattern
from pmemheap.kvstore.resp import Reply, ReplyError, Verbatim, parse_integer

if TYPE_CHECKING:
    from pmemheap.kvstore.commands.running import Commands
    from pmemheap.kvstore.commands.session import Session

__all__ = ["Section"]

command: Group = in_group("server")

Section = dict[str, object]

_OK = "OK"
_PATTERNS_MOST = 100
_ENTRY_BYTES = 8  # of a leaf, besides key and value
_APART_BYTES, _UNIT = 16, 16
_LEAF_MOST = 1024


@command("DBSIZE", "1.0.0", 0, 0, flags="readonly fast", categories="keyspace")
def dbsize(on: Commands, _: Session, __: list[bytes]) -> Reply:
    """Return the number of keys."""
    return len(on.store)


@command("FLUSHDB FLUSHALL", "1.0.0", 0, flags="write", categories="keyspace dangerous")
def flush(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Remove all keys."""
    if len(arguments) > 1 or not {b"SYNC", b"ASYNC"}.issuperset(map(bytes.upper, arguments)):
        raise ReplyError(SYNTAX)
    on.keys.clear()
    return _OK


@command("SWAPDB", "4.0.0", 2, 2, flags="write fast", categories="keyspace dangerous")
def swapdb(_: Commands, __: Session, arguments: list[bytes]) -> Reply:
    """Let two databases change places: there is one."""
    for text, which in zip(arguments, ("first", "second"), strict=True):
        index = parse_integer(text)
        if index is None:
            raise ReplyError(f"ERR invalid {which} DB index")
        if index:
            raise ReplyError("ERR DB index is out of range")
    return _OK


@command("SAVE", "1.0.0", 0, 0, flags="admin noscript no_async_loading no_multi")
def save(on: Commands, _: Session, __: list[bytes]) -> Reply:
    """Wait until everything is on the disk."""
    on.store.sync()
    on.saved_at = time.time()
    return _OK


@command("LASTSAVE", "1.0.0", 0, 0, flags="fast loading stale", categories="admin dangerous")
def lastsave(on: Commands, _: Session, __: list[bytes]) -> Reply:
    """Return the second since 1970 of the latest SAVE, or of the start."""
    return int(on.saved_at)


@command("TIME", "2.6.0", 0, 0, flags="fast loading stale")
def time_(on: Commands, _: Session, __: list[bytes]) -> Reply:
    """Return seconds since 1970 and microseconds."""
    seconds, rest = divmod(on.keys.now(), SECOND)
    return [b"%d" % seconds, b"%d" % (rest // 1000)]


@command("ROLE", "2.8.12", 0, 0, flags="fast noscript loading stale", categories="admin dangerous")
def role(_: Commands, __: Session, ___: list[bytes]) -> Reply:
    """Return what this server is to others: a master without replicas."""
    return [b"master", 0, []]


@command("ACL|WHOAMI", "6.0.0", 0, 0, flags="noscript loading stale")
def acl_whoami(_: Commands, __: Session, ___: list[bytes]) -> Reply:
    """Return the name of the user: there is one."""
    return b"default"


@command("MODULE|LIST", "4.0.0", 0, 0, flags="admin noscript")
def module_list(_: Commands, __: Session, ___: list[bytes]) -> Reply:
    """Return the modules that are loaded: there are none."""
    return []


# ---------------------------------------------------------------- MEMORY


@command("MEMORY|USAGE", "4.0.0", 1, 3, flags="readonly", keys=FIRST, uses="RO")
def memory_usage(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return the bytes that a key takes in the file."""
    key, *words = arguments
    if words and (words[0].upper() != b"SAMPLES" or len(words) != 2 or number(words[1]) < 0):
        raise ReplyError(SYNTAX)
    if key not in on.store:
        return None
    length = on.keys.length(key)
    if len(key) + length <= _LEAF_MOST:
        return _ENTRY_BYTES + len(key) + length
    return _ENTRY_BYTES + len(key) + _APART_BYTES + -(-length // _UNIT) * _UNIT


# ---------------------------------------------------------------- CONFIG


def _settings(on: Commands) -> dict[bytes, bytes]:
    durable = on.store.durability == "power"
    found: dict[str, object] = {
        "appendfsync": "always" if durable else "no", "appendonly": "yes",
        "bind": on.facts.host, "databases": 1, "dbfilename": Path(on.store.path).name,
        "dir": Path(on.store.path).absolute().parent, "maxclients": on.limits.clients,
        "maxmemory": 0, "maxmemory-policy": "noeviction", "port": on.facts.port,
        "proto-max-bulk-len": on.limits.request, "requirepass": "", "save": "", "timeout": 0,
    }  # fmt: skip
    return {name.encode(): os.fsencode(str(value)) for name, value in found.items()}


@command("CONFIG|GET", "2.0.0", 1, _PATTERNS_MOST, flags="admin noscript loading stale")
def config_get(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return the settings whose names match patterns."""
    patterns = [glob_pattern(name.lower()) for name in arguments]
    return {
        name: value
        for name, value in _settings(on).items()
        if any(pattern.fullmatch(name) for pattern in patterns)
    }


@command("CONFIG|RESETSTAT", "2.0.0", 0, 0, flags="admin noscript loading stale")
def config_resetstat(on: Commands, _: Session, __: list[bytes]) -> Reply:
    """Count commands and connections from 0 on again."""
    on.commands_run = on.facts.connections_accepted = on.facts.connections_refused = 0
    return _OK


# ---------------------------------------------------------------- INFO


@command("INFO", "1.0.0", 0, flags="loading stale", categories="dangerous")
def info(on: Commands, _: Session, arguments: list[bytes]) -> Reply:
    """Return what is known of the server, all of it or some sections."""
    wanted = {name.decode(errors="replace").lower() for name in arguments}
    wanted = {name for name in wanted if name not in {"all", "default", "everything"}}
    sections = _sections(on)
    if "store" in wanted:  # O(keys)
        sections["store"] = asdict(on.store.stats())
    return Verbatim(
        "\r\n".join(
            f"# {section.capitalize()}\r\n{_lines(facts)}"
            for section, facts in sections.items()
            if not wanted or section in wanted
        )
    )


def _lines(facts: Section) -> str:
    return "".join(f"{name}:{value}\r\n" for name, value in facts.items())


def _sections(on: Commands) -> dict[str, Section]:
    return {
        "server": _of_server(on),
        "clients": {
            "connected_clients": len(on.sessions), "maxclients": on.limits.clients,
            "blocked_clients": 0,
        },
        "memory": _of_memory(),
        "persistence": {
            "loading": 0, "aof_enabled": 1,
            "rdb_bgsave_in_progress": 0, "rdb_last_save_time": int(on.saved_at),
        },
        "stats": {
            "total_connections_received": on.facts.connections_accepted,
            "rejected_connections": on.facts.connections_refused,
            "total_commands_processed": on.commands_run, "evicted_keys": 0,
            "expired_keys": on.facts.keys_purged,
        },
        "replication": {"role": "master", "connected_slaves": 0, "master_repl_offset": 0},
        "cpu": _of_processor(),
        "cluster": {"cluster_enabled": 0},
        "keyspace": _of_keys(on),
    }  # fmt: skip


def _of_server(on: Commands) -> Section:
    uptime = int(time.monotonic() - on.facts.started)
    return {
        "redis_version": VERSION, "server_name": "pmemheap-kvstore", "redis_mode": "standalone",
        "os": f"{platform.system()} {platform.release()} {platform.machine()}", "arch_bits": 64,
        "process_id": os.getpid(), "run_id": on.facts.run_id, "tcp_port": on.facts.port,
        "server_time_usec": on.keys.now() // 1000, "uptime_in_seconds": uptime,
        "uptime_in_days": uptime // 86400, "executable": sys.executable, "config_file": "",
    }  # fmt: skip


def _of_memory() -> Section:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    sizes = {
        "used_memory": pages * resource.getpagesize(),
        "used_memory_rss": pages * resource.getpagesize(),
        "used_memory_peak": usage.ru_maxrss * 1024,
        "total_system_memory": os.sysconf("SC_PHYS_PAGES") * resource.getpagesize(),
        "maxmemory": 0,
    }
    texts = {f"{name}_human": f"{size / (1 << 20):.2f}M" for name, size in sizes.items()}
    return {**sizes, **texts, "maxmemory_policy": "noeviction"}


def _of_processor() -> Section:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "used_cpu_sys": f"{usage.ru_stime:.6f}", "used_cpu_user": f"{usage.ru_utime:.6f}",
    }  # fmt: skip


def _of_keys(on: Commands) -> Section:
    count = len(on.store)
    return {"db0": f"keys={count},expires={on.store.expiring},avg_ttl=0"} if count else {}
