# SPDX-License-Identifier: Apache-2.0
"""What desktops wait for: GNOME Software starts the daemon by its first call, and gives most of them one second."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import quantiles

from benchmarks.report import Report
from kit.bus import Daemon, SystemBus
from kit.caller import JOB, PROPERTIES, Caller
from kit.sysupdate_clients import HOST, MANAGER, NAME, ROOT, TARGET

READS: tuple[tuple[str, str, tuple[object, ...], tuple[str, str, str]], ...] = (
    ("ListTargets", "", (), (NAME, ROOT, MANAGER)), ("ListJobs", "", (), (NAME, ROOT, MANAGER)),
    ("GetVersion", "", (), (NAME, HOST, TARGET)), ("GetAppStream", "", (), (NAME, HOST, TARGET)),
    ("ListFeatures", "t", (0,), (NAME, HOST, TARGET)), ("List", "t", (0,), (NAME, HOST, TARGET)),
    ("CheckNew", "", (), (NAME, HOST, TARGET)), ("Describe", "st", ("1.0", 0), (NAME, HOST, TARGET)),
    ("GetAll", "s", (TARGET,), (NAME, HOST, PROPERTIES)),
)
"""Member, signature, arguments and place of everything that only reads."""


def start(report: Report, bus: SystemBus, make: Callable[[], Daemon], repeat: int) -> None:
    """From the fork of the program to the answer of ListTargets. A client that asks before the daemon has its name
    waits in the bus; here it asks as soon as the name is there."""
    spent = []
    with Caller(bus.address) as caller:
        for _ in range(repeat):
            begun = time.perf_counter()
            with make():
                assert caller.call("ListTargets", place=(NAME, ROOT, MANAGER))
                spent.append(time.perf_counter() - begun)
    report.line("sysupdate1: start to ListTargets", f"{min(spent):.2f} s", "<= 0.5 s", "", None)


def reads(report: Report, bus: SystemBus, image: str) -> None:
    """All reads in turns while a pull runs."""
    times: dict[str, list[float]] = {member: [] for member, *_ in READS}
    with Caller(bus.address) as caller:
        caller.call("CheckNew", place=(NAME, HOST, TARGET))
        job = caller.manager("PullImage", image)
        while not caller.get(job, JOB, "Ended"):
            for member, signature, arguments, place in READS:
                begun = time.perf_counter()
                caller.call(member, signature, *arguments, place=place)
                times[member].append((time.perf_counter() - begun) * 1000)
        assert caller.get(job, JOB, "State") == "succeeded", caller.get(job, JOB, "Error")
    slowest = max(times, key=lambda member: quantiles(times[member], n=100)[98])
    everything = [one for member in times.values() for one in member]
    median, late = quantiles(everything, n=100)[49], quantiles(times[slowest], n=100)[98]
    report.line("sysupdate1: reads during an import: p50", f"{median:.2f} ms", "", "", None)
    report.line(f"  p99 of the slowest ({slowest})", f"{late:.2f} ms", "<= 50 ms", "", None)
    report.line(f"  longest of {len(everything)}", f"{max(everything):.1f} ms", "", "", None)
