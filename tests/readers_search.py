"""Explicit-state search: every interleaving of a small world, or random walks through a larger one.

A world has states that can be hashed. A step is one store, load or lock call of one process; the
search is breadth first, so a counterexample is as short as any. Of a state that was seen it keeps
a hash of 64 bits and the one of its parent: a trace is found again by walking from the start.
"""

from __future__ import annotations

import random
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

LONGEST_WALK = 300
KILLS_SHARE = 0.05

S = TypeVar("S", bound=Hashable)


class World(Protocol[S]):
    """What the search asks of a model."""

    def start(self) -> S: ...

    def steps(self, state: S) -> Iterable[tuple[str, S]]:
        """Return what each process could do next: who does what, and the state after."""

    def same(self, state: S) -> S:
        """Return the one state that stands for all that differ in the names of readers only."""

    def wrong(self, state: S) -> str:
        """Return the invariant that this state breaks; empty: none."""


@dataclass(frozen=True)
class Found(Generic[S]):
    """What a search saw: `wrong` is empty if all states are right, else `trace` leads there."""

    states: int
    steps: int
    depth: int
    seconds: float
    whole: bool
    wrong: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        extent = "all" if self.whole else "the first"
        said = f"{extent} {self.states} states, {self.steps} steps, {self.seconds:.1f} s"
        if not self.wrong:
            return f"{said}: none wrong"
        lines = [f"  {number:2} {step}" for number, step in enumerate(self.trace, 1)]
        return "\n".join([f"{said}: {self.wrong}", *lines])


def search(world: World[S], most_states: int) -> Found[S]:
    """Visit the states that can be reached, nearest first, until one is wrong."""
    began = time.process_time()
    start = world.start()
    parents = {hash(world.same(start)): 0}
    level, depth, steps = [start], 0, 0
    while level and len(parents) < most_states:
        after = []
        for state in level:
            parent = hash(world.same(state))
            for _, next_state in world.steps(state):
                steps += 1
                one = world.same(next_state)
                name = hash(one)
                if name in parents:
                    continue
                parents[name] = parent
                if wrong := world.wrong(one):
                    trace = _trace(world, parents, name)
                    seconds = time.process_time() - began
                    return Found(len(parents), steps, depth + 1, seconds, False, wrong, trace)
                after.append(one)
        level, depth = after, depth + 1
    return Found(len(parents), steps, depth, time.process_time() - began, not level)


def _trace(world: World[S], parents: dict[int, int], last: int) -> tuple[str, ...]:
    names = [last]
    while parents[names[-1]]:
        names.append(parents[names[-1]])
    state = world.start()
    trace: list[str] = []
    for name in names[-2::-1]:
        label, state = next(
            step for step in world.steps(state) if hash(world.same(step[1])) == name
        )
        trace.append(label)
    return tuple(trace)


def walk(world: World[S], seed: int, most_steps: int) -> Found[S]:
    """Take random steps, few of them kills; start again now and then, and where there is none."""
    began, chance = time.process_time(), random.Random(seed)
    state = world.start()
    trace: list[str] = []
    for count in range(1, most_steps + 1):
        choices = list(world.steps(state))
        if not choices or len(trace) == LONGEST_WALK:
            state, trace = world.start(), []
            continue
        weights = [KILLS_SHARE if "is killed" in label else 1.0 for label, _ in choices]
        [(label, state)] = chance.choices(choices, weights)
        trace.append(label)
        if wrong := world.wrong(state):
            seconds = time.process_time() - began
            return Found(count, count, len(trace), seconds, False, wrong, tuple(trace))
    return Found(most_steps, most_steps, len(trace), time.process_time() - began, False)
