# SPDX-License-Identifier: Apache-2.0
"""The daemon: how soon it answers, what it weighs, how long others wait while it works, and what is left after many
jobs. The peer is `benchmarks.service`, the least that a service in Python can be.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks import service, sysupdate
from benchmarks.report import Report
from kit.bus import Daemon, SystemBus
from kit.caller import DRIVER, JOB, MANAGER, NAME, PROPERTIES, ROOT, Caller
from kit.churn import Churn
from kit.machine import descriptors, install, memory, threads

READS = 2000
CLIENTS = 50


def measure(report: Report, work: Path, image: str, repeat: int, quick: bool) -> None:
    """All of it. `image` is a reference whose import takes some seconds."""
    # As it is installed: with the modules compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(work / "pycache")
    work.mkdir()
    world = install(work)
    with SystemBus(work / "bus") as bus:
        def make() -> Daemon:
            return Daemon(bus, world.sysroot, world.esp)

        with make():
            pass  # compiles
        _start(report, bus, make, repeat)
        sysupdate.start(report, bus, make, 2 * repeat)
        with make() as daemon, _bare(bus) as peer:
            _weight(report, daemon.pid, peer.pid)
            _latency(report, bus, daemon.pid, image)
            _crowd(report, bus, 1000)
            _churn(report, bus, daemon.pid, 100 if quick else 10_000)
        (work / "other").mkdir()
        other = install(work / "other")  # to which the image is new
        with Daemon(bus, other.sysroot, other.esp):
            sysupdate.reads(report, bus, image)


@contextmanager
def _bare(bus: SystemBus) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.service"], stdout=subprocess.PIPE,
                               env=os.environ | bus.environment)
    assert process.stdout is not None
    with process.stdout:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()
            process.wait()


def _start(report: Report, bus: SystemBus, make: Callable[[], Daemon], repeat: int) -> None:
    """From the fork of the program to READY=1, and to the answer that a first client gets."""
    ours, first, theirs, empty = [], [], [], []
    with Caller(bus.address) as caller:
        for _ in range(2 * repeat):
            start = time.perf_counter()
            with make():
                ours.append(time.perf_counter() - start)
                caller.manager("GetStatus")
                first.append(time.perf_counter() - start)
            start = time.perf_counter()
            with _bare(bus):
                theirs.append(time.perf_counter() - start)
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            empty.append(time.perf_counter() - start)
    report.line("daemon: start to READY", f"{min(ours):.2f} s", "<= 1 s", "", None)
    report.line("  to the first answer", f"{min(first):.2f} s", "<= 1 s", "", None)
    report.line("  against a bare service", f"{min(ours) / min(theirs):.2f} x", "", f"{min(theirs):.2f} s", None)
    report.line("  against an empty Python program", f"{min(ours) / min(empty):.2f} x", "", f"{min(empty):.2f} s", None)


def _weight(report: Report, ours: int, theirs: int) -> None:
    time.sleep(1)
    for name, field in (("resident", "Rss"), ("proportional", "Pss")):
        mark = "<= 40 MB" if field == "Rss" else ""
        report.line(f"daemon: memory at rest, {name}", f"{memory(ours, field) / 1024:.0f} MB", mark,
                    f"{memory(theirs, field) / 1024:.0f} MB", None)


def _read(caller: Caller, place: tuple[str, str, str], interface: str, name: str) -> float:
    """Milliseconds that reading a property takes."""
    start = time.perf_counter()
    caller.call("Get", "ss", interface, name, place=place)
    return (time.perf_counter() - start) * 1000


def _latency(report: Report, bus: SystemBus, pid: int, image: str) -> None:
    """Ours and the peer's in turns, so that a slow moment hits both."""
    ours = (NAME, ROOT, PROPERTIES)
    theirs = (service.NAME, service.PATH, PROPERTIES)
    with Caller(bus.address) as caller:
        def reads(count: int) -> list[tuple[float, float]]:
            return [(_read(caller, ours, MANAGER, "Version"), _read(caller, theirs, service.NAME, "Version"))
                    for _ in range(count)]

        _percentiles(report, "property read, idle", reads(READS))
        job = caller.manager("PullImage", image)
        during = []
        while not caller.get(job, JOB, "Ended"):
            during += reads(20)
        assert caller.get(job, JOB, "State") == "succeeded", caller.get(job, JOB, "Error")
        _percentiles(report, "property read, during an import", during, "<= 50 ms")
    report.line("  peak of the daemon's memory", f"{_high_water(pid) / 1024:.0f} MB", "", "", None)


def _high_water(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _percentiles(report: Report, name: str, pairs: list[tuple[float, float]], mark: str = "") -> None:
    ours, theirs = ([pair[number] for pair in pairs] for number in (0, 1))
    for words, number in (("p50", 49), ("p99", 98)):
        one, other = (quantiles(times, n=100)[number] for times in (ours, theirs))
        report.line(f"{name}: {words}", f"{one:.2f} ms", mark if number == 98 else "", f"{other:.2f} ms", None)
    report.line(f"  longest of {len(pairs)}", f"{max(ours):.1f} ms", "", f"{max(theirs):.1f} ms", None)


def _crowd(report: Report, bus: SystemBus, calls: int) -> None:
    """All clients ask before any reads an answer. The peer is the bus itself: the bare service does not survive this
    (dbus-next takes a full socket for the end of the connection)."""
    def run(member: str, signature: str, *body: Any, place: tuple[str, str, str]) -> float:
        with ExitStack() as stack:
            callers = [stack.enter_context(Caller(bus.address)) for _ in range(CLIENTS)]
            start = time.perf_counter()
            asked = [[one.send(member, signature, *body, place=place) for _ in range(calls // CLIENTS)]
                     for one in callers]
            for one, serials in zip(callers, asked, strict=True):
                for serial in serials:
                    one.reply(serial)
            return time.perf_counter() - start

    ours = run("Get", "ss", MANAGER, "Version", place=(NAME, ROOT, PROPERTIES))
    theirs = run("GetId", "", place=DRIVER)
    report.line(f"{calls} calls of {CLIENTS} clients at once", f"{ours / theirs:.2f} x", "", f"{theirs:.2f} s (bus)",
                None)


def _churn(report: Report, bus: SystemBus, pid: int, jobs: int) -> None:
    with Caller(bus.address) as caller:
        churn = Churn(caller)
        churn.run(80)
        before = memory(pid, "Private_Dirty"), descriptors(pid), threads(pid)
        start = time.perf_counter()
        churn.run(jobs)
        spent = time.perf_counter() - start
        grown = memory(pid, "Private_Dirty") - before[0]
        more = descriptors(pid) - before[1], threads(pid) - before[2]
    report.line(f"{jobs} jobs that come to nothing", f"{spent / jobs * 1000:.0f} ms each", "", "", None)
    report.line("  memory, descriptors, tasks grown by", f"{grown} kB {more[0]} {more[1]}", "0 0 0", "", None)
