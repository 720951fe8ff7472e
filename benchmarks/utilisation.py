"""How well a peer uses memory on a trace: peak live payload / peak touched memory.

    parent                                   child, a fresh interpreter
    -------                                  --------------------------------------------
                                             loads the trace, opens and closes the peer once
                                  <- "r"     (imports are done), gives free memory back
    MemoryMeter(child): the zero
                                     "g" ->  opens the peer, replays with every byte written
    adds up the child's Pss       <- "s"     at even steps and at the peaks of live bytes
    8 bytes: growth since the zero      ->   keeps the greatest
                                  <- "d"     and sends it when done

Measured from outside, the child is not charged for the measuring. Handles live in an array made
before the zero, so that what grows is the allocator: data, metadata and tables, whether they are
mappings of its own, the C heap or Python objects.

A peer that lives in the C heap shares it with the interpreter, and some of its blocks fall into
pages that the interpreter had touched: on traces of a few KiB its share comes out above 1.
"""

from __future__ import annotations

import ctypes
import gc
import struct
import subprocess
import sys
from array import array
from collections.abc import MutableSequence
from typing import IO, Any

from peers import open_peer

from pmemheap.traces import MemoryMeter, Touched, TouchReplay, load

READY, GO, SAMPLE, DONE = b"r", b"g", b"s", b"d"
NUMBER = struct.Struct("<q")
SUMMARY = struct.Struct("<qq")


def measure_utilisation(peer: str, trace_path: str) -> Touched:
    """Replay a trace in a child process and return the memory it touched.

    Raises
    ------
    RuntimeError
        The child ended early; its own message is on standard error.
    """
    command = [sys.executable, __file__, peer, trace_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        _expect(child.stdout, READY, peer)
        meter = MemoryMeter(child.pid)
        _send(child.stdin, GO)
        while (said := child.stdout.read(1)) == SAMPLE:
            _send(child.stdin, NUMBER.pack(meter.growth_bytes()))
        summary = child.stdout.read(SUMMARY.size)
        if said != DONE:
            raise RuntimeError(f"{peer}: the measured process ended early")
    return Touched(*SUMMARY.unpack(summary))


def _expect(stream: IO[bytes], message: bytes, peer: str) -> None:
    if stream.read(len(message)) != message:
        raise RuntimeError(f"{peer}: the measured process did not start")


def _send(stream: IO[bytes], message: bytes) -> None:
    stream.write(message)
    stream.flush()


def _child(peer_name: str, trace_path: str) -> None:
    trace = load(trace_path)
    _warm_up(peer_name)
    requests, answers = sys.stdout.buffer, sys.stdin.buffer

    def sample() -> int:
        _send(requests, SAMPLE)
        return int(NUMBER.unpack(answers.read(NUMBER.size))[0])

    replay = TouchReplay(trace, _room(peer_name, trace.blocks))
    _append_pending()
    _send(requests, READY)
    answers.read(len(GO))
    with open_peer(peer_name) as peer:
        touched = replay.run(peer, peer.touch, sample)
    _send(requests, DONE + SUMMARY.pack(touched.peak_bytes, touched.sample_count))


def _warm_up(peer_name: str) -> None:
    with open_peer(peer_name) as peer:
        handle = peer.malloc(64)
        peer.touch(handle, 64)
        peer.free(handle)


def _room(peer_name: str, blocks: int) -> MutableSequence[Any]:
    with open_peer(peer_name) as peer:
        integers = peer.integer_handles
    return array("Q", bytes(8 * blocks)) if integers else [None] * blocks


def _append_pending() -> None:
    """Return the C heap's free pages, which the interpreter touched: a peer is to touch its own."""
    gc.collect()
    gc.disable()
    ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    _child(*sys.argv[1:])
