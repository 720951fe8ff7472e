"""Plugin for pytest: the fixture `crash_simulator`, its options, and a report at the end.

Switch it on with ``pytest -p pmemheap.testing.plugin``, or in the conftest.py at the root of the
tests with ``pytest_plugins = ["pmemheap.testing.plugin"]``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Unpack

import pytest

from pmemheap.testing.driver import CheckOptions, check_states
from pmemheap.testing.image import Image
from pmemheap.testing.recorder import Crash, Recorder, Recording
from pmemheap.testing.report import Report

__all__ = ["CrashSimulator", "crash_simulator", "pytest_addoption", "pytest_terminal_summary"]

_REPORTS = pytest.StashKey[list[tuple[str, Report]]]()


class CrashSimulator:
    """What the fixture gives to a test: `record` a program, then `check` what its crashes leave.

    Parameters
    ----------
    name : str
        Of the test, for the report at the end of the session.
    reports : list
        Where reports are collected.
    **options
        Defaults for `check_states`.
    """

    def __init__(
        self, name: str, reports: list[tuple[str, Report]], **options: Unpack[CheckOptions]
    ) -> None:
        self._name = name
        self._reports = reports
        self._options = options

    @staticmethod
    def record(file: str | os.PathLike[str] | int) -> Recorder:
        """Return a recorder for a file: ``with crash_simulator.record(path) as recorder: ...``."""
        return Recorder(file)

    def check(
        self,
        recording: Recording,
        open_and_check: Callable[[Image, Crash], object],
        **options: Unpack[CheckOptions],
    ) -> Report:
        """Do `check_states`, and let the test fail with the first state that was refused."""
        chosen: CheckOptions = {**self._options, **options}
        report = check_states(recording, open_and_check, **chosen)
        self._reports.append((self._name, report))
        report.require()
        return report


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("pmemheap", "crash simulation")
    group.addoption("--crash-budget", type=int, default=1024, help="power failures per event")
    group.addoption("--crash-seed", type=int, default=0, help="seed of the samples")
    group.addoption("--crash-workers", type=int, default=1, help="processes that check")


@pytest.fixture
def crash_simulator(request: pytest.FixtureRequest) -> CrashSimulator:
    """Record a program at work on a file, and check what crashes of it leave."""
    option = request.config.getoption
    reports = request.config.stash.setdefault(_REPORTS, [])
    return CrashSimulator(
        request.node.nodeid,
        reports,
        budget=option("--crash-budget"),
        seed=option("--crash-seed"),
        workers=option("--crash-workers"),
    )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what the simulations of this session exercised."""
    reports = config.stash.get(_REPORTS, [])
    if not reports:
        return
    terminalreporter.section("crash simulation")
    whole = Report()
    for name, report in reports:
        whole.add(report)
        if config.get_verbosity() > 0:
            terminalreporter.write_line(f"{name}\n{report}\n")
    terminalreporter.write_line(f"{len(reports)} simulations: {whole}")
