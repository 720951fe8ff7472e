"""Hypothesis profiles, `--one-of`, and the rule that a skipped test fails where `CI` is set."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from math import isqrt
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

from pmemheap import Heap

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "deep", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

pytest_plugins = ["pmemheap.testing.plugin"]

collect_ignore = [] if find_spec("pyarrow") else ["test_kvstore_arrow.py"]

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one in CI: there, what is missing is to be installed."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        fail(report, item.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for a module that skips itself as a whole."""
    report = yield
    if IN_CI and report.skipped:
        fail(report, collector.nodeid)
    return report


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "run one of about so many tests, chosen by the names of their files and their own"
    parser.addoption("--one-of", type=int, default=1, metavar="N", help=help_text)


def is_left_out(name: str, one_of: int) -> bool:
    """Tell whether a name is not the one of so many that is taken."""
    return crc32(name.encode()) % one_of != 0


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Take some of the files, and below some of their tests: to import all takes longest."""
    one_of = isqrt(config.getoption("one_of"))
    is_test = collection_path.match("test_*.py")
    return True if is_test and is_left_out(collection_path.name, one_of) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    one_of = config.getoption("one_of")
    others = {item for item in items if is_left_out(item.nodeid, one_of // isqrt(one_of))}
    config.hook.pytest_deselected(items=[*others])
    items[:] = [item for item in items if item not in others]


def pytest_collection_finish() -> None:
    """Keep the collector, which tests call often, out of all that pytest knows of its tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["anonymous", "process", "power"])
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    """A heap of each kind."""
    if request.param == "anonymous":
        made = Heap.anonymous()
    else:
        made = Heap.create(tmp_path / "heap", durability=request.param)
    with made:
        yield made


@pytest.fixture
def memory() -> Iterator[Heap]:
    """A heap in private memory."""
    with Heap.anonymous() as made:
        yield made


def fail(report: pytest.TestReport | pytest.CollectReport, what: str) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{what}: no skips in CI, {reason}"
