# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: none hangs unseen, none leaves a thread, a child process or an open file behind."""

from __future__ import annotations

import faulthandler
import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.debian import PROGRAMS

os.environ["PATH"] += os.pathsep + str(PROGRAMS)
# Hundreds of daemons and workers are started from src/: where the environment says not to keep compiled modules, as
# images of containers do, each of them would compile all of it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).resolve().parents[1] / "build" / "bytecode")

GRACE = 2.0
"""Seconds that threads and children have to go away after a test."""
SLOW = 30
"""Seconds that a test, or its set-up, may take before CI says so."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What takes minutes is no hang in a slow test, whose parts have their own timeouts."""
    if item.get_closest_marker("slow"):
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Where nobody watches (CI), tell of a failure when it happens: a run that is cut off never reaches its summary."""
    if "CI" in os.environ and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_AtOnce(config), "bootcd-at-once")


class _AtOnce:
    """Prints how a test failed, and how long a slow one took, as soon as it is known."""

    def __init__(self, config: pytest.Config) -> None:
        self._terminal = config.get_terminal_writer()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.line(f"\nFAILED at {report.when}: {report.nodeid}\n{report.longreprtext}")
        if report.duration > SLOW:
            self._terminal.line(f"\n{report.duration:.0f} s {report.when} of {report.nodeid}")


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fails a test that leaks. Fixtures of a wider scope are set up earlier and are therefore not seen."""
    threads, children, files = set(threading.enumerate()), _children(), _open_files()
    yield
    deadline = time.monotonic() + GRACE
    while True:
        leaks = [f"thread {thread.name}" for thread in threading.enumerate() if thread not in threads]
        leaks += [f"child process {pid}" for pid in _children() - children]
        if not leaks or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    left = _open_files().keys() - files.keys()
    if left:
        gc.collect()
        now = _open_files()
        leaks += [f"open file {number} ({now[number]})" for number in left & now.keys()]
    if leaks:
        pytest.fail("the test left behind: " + ", ".join(leaks), pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much the tests of crashes have tried: what they note as `tried`, added up."""
    tried: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "teardown":
                for name, value in report.user_properties:
                    if name == "tried":
                        tried[value[0]] += value[1]
    if tried:
        terminalreporter.write_line("tried: " + ", ".join(f"{count} {what}" for what, count in sorted(tried.items())))


def _children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").glob("*/children") for pid in _read(task).split()}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the thread has ended since
        return ""


def _open_files() -> dict[int, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the descriptor of listdir itself
            continue
        # Libraries keep these for good once they are used: random numbers, time zones, Hypothesis's database.
        if not target.startswith(("/dev/", "anon_inode:", "/usr/", "/proc/")):
            found[int(number)] = target
    return found
