"""What is recommended for loads of known kinds, and that nothing tried was better."""

from __future__ import annotations

import json
import random
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pmemheap import Heap, Record, traces
from pmemheap.cli import main
from pmemheap.cli.exits import ExitCode
from pmemheap.traces.candidates import Plan, Strategy, plans_for
from pmemheap.traces.groups import Group, groups_of
from pmemheap.traces.program import Run, program_of
from pmemheap.traces.recommending import Measured, best_of, recommend

MiB = 1 << 20

Load = Callable[[Heap, random.Random], None]


def fifo(heap: Heap, rng: random.Random) -> None:
    queue: deque[int] = deque()
    for _ in range(3000):
        queue.append(heap.malloc(rng.randrange(50, 500)))
        if len(queue) > 300:
            heap.free(queue.popleft())


def stack(heap: Heap, rng: random.Random) -> None:
    frames = [heap.malloc(rng.randrange(50, 500)) for _ in range(100)]
    for _ in range(2000):
        if rng.random() < 0.5 and len(frames) > 50:
            heap.free(frames.pop())
        else:
            frames.append(heap.malloc(rng.randrange(50, 500)))


def one_size(heap: Heap, rng: random.Random) -> None:
    rows = [heap.malloc(512) for _ in range(300)]
    for _ in range(2000):
        heap.free(rows.pop(rng.randrange(len(rows))))
        rows.append(heap.malloc(512))


def mixed(heap: Heap, rng: random.Random) -> None:
    blocks = [heap.malloc(rng.randrange(16, 2000)) for _ in range(300)]
    for _ in range(2000):
        heap.free(blocks.pop(rng.randrange(len(blocks))))
        blocks.append(heap.malloc(rng.randrange(16, 2000)))


def request(heap: Heap, rng: random.Random) -> None:
    for _ in range(10):
        parts = [heap.malloc(rng.randrange(24, 1000)) for _ in range(1900)]
        heap.free_many(parts)


def shuffled(count: int) -> list[int]:
    return random.Random(1).sample(range(count), count)


def recorded(tmp_path: Path, load: Load) -> Path:
    path = tmp_path / f"{load.__name__}.trace"
    with Heap.anonymous() as heap, heap.install(Record(path)):
        load(heap, random.Random(7))
    return path


def group_of(tmp_path: Path, load: Load) -> Group:
    """Return the group with most bytes."""
    return groups_of(traces.load(recorded(tmp_path, load)))[0]


# ------------------------------------------------------------------------------------------- groups


def test_a_queue_is_fifo(tmp_path: Path) -> None:
    group = group_of(tmp_path, fifo)
    assert (group.fifo_share, group.lifo_share, group.byte_share) == (1, 0, 1)
    assert group.size_share < 0.05
    assert Path(group.name).name.startswith("test_recommend.py:")


def test_a_stack_is_lifo(tmp_path: Path) -> None:
    groups = groups_of(traces.load(recorded(tmp_path, stack)))
    assert groups[0].lifo_share > 0.95
    assert groups[0].fifo_share < 0.05


def test_blocks_of_one_size_are_seen(tmp_path: Path) -> None:
    group = group_of(tmp_path, one_size)
    assert (group.size, group.size_share) == (512, 1)
    assert max(group.fifo_share, group.lifo_share) < 0.1


def test_requests_die_together(tmp_path: Path) -> None:
    group = group_of(tmp_path, request)
    assert (group.together_share, group.batch_blocks, len(group.batches)) == (1, 1900, 10)


def test_mixed_blocks_are_nothing_of_that(tmp_path: Path) -> None:
    group = group_of(tmp_path, mixed)
    figures = group.size_share, group.fifo_share, group.lifo_share, group.together_share
    assert max(figures) < 0.1


def test_what_is_freed_before_others_are_made_does_not_die_together() -> None:
    made = [f"a {n} 100 s=p:1" for n in range(3)]
    after = [*made, "f 0", "f 2", "f 1"]
    (group,) = groups_of(traces.parse(["# after 6 300", *after], "after"))
    assert (group.together_share, group.fifo_share, group.lifo_share) == (1, 0.5, 0.5)
    between = [*made[:2], "f 0", made[2], "f 2", "f 1"]
    (group,) = groups_of(traces.parse(["# between 6 200", *between], "between"))
    assert group.together_share == pytest.approx(2 / 3)


def test_what_goes_one_by_one_while_others_come_does_not_die_together() -> None:
    lines = [f"a {n} 8 s=p:1" for n in range(60)]
    for n in range(60):
        lines += [f"f {n}", f"a {60 + n} 8 s=q:1"]
    group, _ = groups_of(traces.parse(["# slow 180 480", *lines], "slow"))
    assert (group.name, len(group.batches), group.together_share) == ("p:1", 1, 0)


def test_a_trace_without_sites_is_grouped_by_size_or_not_at_all() -> None:
    lines = [*(f"a {n} 64" for n in range(10)), "a 10 8", "r 0 128"]
    by_size = groups_of(traces.parse(["# sizes 12 712", *lines], "sizes"))
    assert [(each.name, len(each.blocks)) for each in by_size] == [
        ("blocks of 64 bytes", 10), ("rest", 1),
    ]  # fmt: skip
    assert (by_size[0].size_share, by_size[0].resizes) == (0.9, 1)
    many = [f"a {n} {100 + n}" for n in range(100)]
    (one,) = groups_of(traces.parse([f"# many 100 {sum(range(100, 200))}", *many], "many"))
    assert (one.name, len(one.blocks)) == ("all blocks", 100)


# ----------------------------------------------------------------------------------------- programs


class Numbers:
    """A region of consecutive numbers; its calls are written down by whom it was made for."""

    def __init__(self, calls: list[object]) -> None:
        self.calls = calls
        calls.append("open")

    def malloc(self, size: int) -> int:
        self.calls.append(size)
        return len(self.calls)

    def free(self, offset: int) -> None:
        self.calls.append("free")

    def realloc(self, offset: int, size: int) -> int:
        self.calls.append(("resize", size))
        return offset

    def drop(self) -> None:
        self.calls.append("drop")


BATCHES = """\
# batches 10 22
a 0 1 s=p:1
a 1 2 s=p:1
r 1 3
a 2 10 s=q:1
f 1
f 0
a 3 4 s=p:1
a 4 8 s=p:1
f 3
f 2
"""


@pytest.mark.parametrize("timed", [False, True])
def test_a_plan_by_batch_opens_and_drops_and_frees_nothing(timed: bool) -> None:
    trace = traces.parse(BATCHES.splitlines(), "batches")
    groups = groups_of(trace)
    calls: list[object] = []
    region = Strategy("r", lambda _: True, lambda *_: Numbers(calls), lambda _: "", by_batch=True)
    plan = Plan({"p:1": region})
    with Heap.anonymous() as heap:
        run = Run(program_of(trace, plan, groups), heap)
        run.timed() if timed else run.sampled(lambda: 0)
        assert heap.stats().blocks == 0
    opened = ["open", 1, 2, ("resize", 3), "drop", "open", 4, 8, "drop"]
    assert calls == opened


def test_plans_are_the_default_each_for_itself_and_all_together() -> None:
    lines = [f"a {n} {8 + n % 5} s=p:{1 + n % 2}" for n in range(200)]
    lines += [f"f {n}" for n in shuffled(200)]
    groups = groups_of(traces.parse(["# pairs 400 2000", *lines], "pairs"))
    names = [plan.name for plan in plans_for(groups)]
    assert names == [
        "default", "scratch for p:1", "scratch for p:2", "scratch for p:1, scratch for p:2",
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------- score


def one(name: str, peak: float, ns: float) -> Measured:
    parts: dict[str, Any] = {} if name == "default" else {name: None}
    return Measured(Plan(parts), int(peak * MiB), ns)


@pytest.mark.parametrize(
    ("best", "others"),
    [
        ("default", []),
        ("default", [one("a", 96, 100), one("b", 100, 96)]),
        ("a", [one("a", 100, 94)]),
        ("a", [one("a", 90, 200)]),
        ("default", [one("a", 110, 20)]),
        ("b", [one("a", 90, 90), one("b", 92, 80), one("c", 99, 10)]),
    ],
)
def test_memory_comes_first_then_time(best: str, others: list[Measured]) -> None:
    found = best_of([one("default", 100, 100), *others])
    assert next(iter(found.plan.parts), "default") == best


# -------------------------------------------------------------------------------- recommendations


@pytest.mark.slow
def test_requests_get_a_scratch_region(tmp_path: Path) -> None:
    trace = traces.load(recorded(tmp_path, request))
    found = recommend(trace, passes=5)
    ((_, strategy),) = found.best.plan.parts.items()
    assert strategy.name == "scratch"
    assert found.best.ns < 0.95 * found.default.ns
    assert (
        found.best.peak_bytes <= 1.05 * min(each.peak_bytes for each in found.measured) + MiB / 16
    )


@pytest.mark.parametrize("load", [stack, mixed])
def test_no_other_strategy_is_tried_for_blocks_of_no_kind(tmp_path: Path, load: Load) -> None:
    groups = groups_of(traces.load(recorded(tmp_path, load)))
    assert plans_for(groups) == [Plan()]


@pytest.mark.parametrize(("load", "strategy"), [(fifo, "ring"), (one_size, "rows")])
def test_what_has_order_or_one_size_is_tried(tmp_path: Path, load: Load, strategy: str) -> None:
    groups = groups_of(traces.load(recorded(tmp_path, load)))
    assert plans_for(groups)[1].name.startswith(f"{strategy} for ")


def queue(heap: Heap, rng: random.Random) -> None:
    sizes = [min(60_000, int(rng.lognormvariate(6, 1)) + 1) for _ in range(40_000)]
    waiting: deque[int] = deque()
    for size in sizes:
        waiting.append(heap.malloc(size))
        if len(waiting) > 15_000:
            heap.free(waiting.popleft())


def odd_rows(heap: Heap, rng: random.Random) -> None:
    rows = [heap.malloc(1040) for _ in range(5000)]
    for _ in range(5000):
        heap.free(rows.pop(rng.randrange(len(rows))))
        rows.append(heap.malloc(1040))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("load", "code"),
    [
        (queue, 'heap.arena("test_recommend", strategy=Ring())'),
        (odd_rows, 'heap.arena("test_recommend", strategy=Rows(1040))'),
    ],
)
def test_a_queue_gets_the_ring_and_odd_sizes_get_rows(
    tmp_path: Path, load: Load, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", str(recorded(tmp_path, load)), "--passes", "3"]) == 0
    printed = capsys.readouterr().out
    assert code in printed
    assert "keep the default" not in printed


@pytest.mark.slow
def test_what_is_recommended_is_near_the_best_of_another_measurement(tmp_path: Path) -> None:
    trace = traces.load(recorded(tmp_path, request))
    best, near = (recommend(trace, passes=5).best for _ in range(2))
    assert best.plan.name == near.plan.name
    assert best.peak_bytes <= 1.05 * near.peak_bytes + MiB / 16


@pytest.mark.slow
def test_the_three_that_hold_least_are_measured(tmp_path: Path) -> None:
    lines = [f"a {n} {800 + n // 4 % 2} s=p:{1 + n % 4}" for n in range(400)]
    lines += [f"f {n}" for n in shuffled(400)]
    found = recommend(traces.parse(["# four 800 320200", *lines], "four"), passes=1)
    assert len(found.shadowed) == 6
    held = sorted(each.peak_bytes for each in found.shadowed[1:])[:3]
    shadowed = {each.plan.name: each.peak_bytes for each in found.shadowed}
    assert [shadowed[each.plan.name] for each in found.measured[1:]] == held
    assert found.measured[0].plan.name == "default"


# ------------------------------------------------------------------------------------------ command


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main(["recommend", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_the_command_prints_figures_and_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded(tmp_path, request)
    plot = tmp_path / "held.svg"
    assert main(["recommend", str(path), "--passes", "3", "--plot", str(plot)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "100% of bytes" in printed
    assert "dies in groups of 1,900 with heap.scratch() as s:" in printed
    assert " ns a call (measured)" in printed
    assert "<svg" in plot.read_text(encoding="utf-8")


@pytest.mark.slow
def test_mixed_blocks_keep_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded(tmp_path, mixed)
    assert main(["recommend", str(path), "--passes", "1"]) == 0
    assert "keep the default: no other strategy suits" in capsys.readouterr().out
    told = run_json(capsys, path, "--passes", 1)
    assert told["keep_default"] is True
    assert {each["code"] for each in told["groups"]} == {None}


@pytest.mark.parametrize(
    ("text", "said"),
    [("# nothing 0 0\n", "the trace has no call"), ("# kept 1 8\na 0 8\n", "no other strategy")],
)
def test_traces_with_nothing_to_win_keep_the_default(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.trace"
    path.write_text(text, encoding="utf-8")
    assert main(["recommend", str(path), "--passes", "1"]) == 0
    assert f"keep the default: {said}" in capsys.readouterr().out


def test_bad_traces_end_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded(tmp_path, fifo)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert main(["recommend", str(path)]) == ExitCode.USAGE
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "frame 1 at byte" in line
    assert main(["recommend", sys.executable]) == ExitCode.USAGE
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["recommend", str(tmp_path / "none")]) == ExitCode.USAGE


@pytest.mark.slow
def test_a_plot_of_an_unknown_kind_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.trace"
    path.write_text("# kept 1 8\na 0 8\n", encoding="utf-8")
    options = ["--passes", "1", "--plot", str(tmp_path / "held.wrong")]
    assert main(["recommend", str(path), *options]) == ExitCode.USAGE
    assert "a name in .svg, .png or .pdf expected" in capsys.readouterr().err
