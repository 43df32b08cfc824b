"""A pytest plugin: what a run costs in CPU time, its child processes included."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from typing import Any

import psutil
import pytest

SHOWN = 20


def cpu_seconds() -> float:
    """CPU seconds of this process and of all that it has started, whether they still run or not."""
    seconds = sum(os.times()[:4])
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            spent = process.cpu_times()
            seconds += spent.user + spent.system + spent.children_user + spent.children_system
    return seconds


class CpuTime:
    """Measures each test where it runs; adds up and prints where the run is led."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.last = cpu_seconds()
        self.tests: dict[str, float] = defaultdict(float)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo) -> Any:
        """Give a test's last report the time since the last test's."""
        report = yield
        if call.when == "teardown":
            now = cpu_seconds()
            # pytest-xdist sends a report's attributes from its workers to the leading process.
            report.cpu_seconds, self.last = max(now - self.last, 0.0), now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a test's time."""
        self.tests[report.nodeid] += getattr(report, "cpu_seconds", 0.0)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the sum and the slowest tests."""
        cpu, wall = cpu_seconds(), time.monotonic() - self.started
        terminalreporter.section("CPU time")
        slowest = sorted(self.tests.items(), key=lambda item: -item[1])[:SHOWN]
        for name, seconds in slowest:
            terminalreporter.line(f"{seconds:7.1f} CPU-s {name}")
        terminalreporter.line(f"{cpu / 60:.1f} CPU-minutes, {wall / 60:.1f} minutes")


def pytest_configure(config: pytest.Config) -> None:
    """Register the measurement."""
    config.pluginmanager.register(CpuTime(), "cpu-time-of-tests")
