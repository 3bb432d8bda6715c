# SPDX-License-Identifier: Apache-2.0
"""News reaches the bus, hooks and the file with metrics; once, also over daemons."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootcd.config import Config
from bootcd.daemon.news import METRICS, News
from bootcd.layout import Sysroot
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from bootcd.ops.last import load_told, save_told
from bootcd.ops.news import Told, VerbResult
from bootcd.ops.results import LastResult, Status
from cli.test_monitor import listens
from kit import bus as bus_kit
from kit.machine import until
from kit.os_images import os_image
from kit.world import World
from ops.test_metrics import parse
from ops.test_news import BOOTED, FELL_BACK, OFFERED, SETTLED, STAGED


class Place:
    """Directories for news of a machine that is at rest, and what the bus would have heard."""

    def __init__(self, directory: Path) -> None:
        self.run = directory / "run"
        self.root = directory / "root"
        self.sysroot = Sysroot(directory / "sysroot")
        self.heard: list[str] = []
        self.run.mkdir()
        self.sysroot.own_state.mkdir(parents=True)
        hook = self.root / "etc/bootcd/hooks.d/hook"
        hook.parent.mkdir(parents=True)
        hook.write_text("#!/bin/sh\n")
        hook.chmod(0o755)

    def show(self, *statuses: Status, directory: str | None = None) -> None:
        """One life of a daemon that comes to know these statuses."""
        async def live() -> None:
            told = News(str(self.sysroot.path), lambda notice, status: self.heard.append(notice.kind),
                        str(self.run) if directory is None else directory, self.root)
            for status in statuses:
                told.show(status)
            await told.settled()
            told.close()

        asyncio.run(live())

    def waiting(self) -> list[str]:
        return [json.loads(path.read_text())["kind"] for path in sorted((self.run / "notices").iterdir())]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_news_goes_everywhere_and_is_told_once(place: Place) -> None:
    place.show(SETTLED, OFFERED, OFFERED)
    place.show(OFFERED, STAGED)
    place.show(STAGED)
    assert place.heard == place.waiting() == ["update-available", "staged"]
    assert parse((place.run / METRICS).read_text())["bootcd_reboot_required", ()] == 1
    shutil.rmtree(place.run)  # the reboot
    place.run.mkdir()
    place.show(BOOTED)
    place.show(BOOTED, FELL_BACK)
    assert place.waiting() == place.heard[2:] == ["applied", "fell-back"]
    metrics = parse((place.run / METRICS).read_text())
    assert (metrics["bootcd_fallbacks", ()], metrics["bootcd_fell_back", ()]) == (1, 1)


def test_a_hook_finds_words_on_one_line(place: Place) -> None:
    save_told(place.sysroot, Told(booted="before"))
    odd = replace(BOOTED.deployments[0], version="1\n2\x1b[31m\udc80")
    place.show(replace(BOOTED, deployments=(odd,)))
    (file,) = (place.run / "notices").iterdir()
    assert json.loads(file.read_text())["facts"]["image-version"] == "1 2 [31m"


def test_a_result_from_a_clock_that_was_years_ahead_does_not_stay_the_last(place: Place) -> None:
    save_told(place.sysroot, Told(booted=BOOTED.deployments[0].id, results=(
        VerbResult("pin", True, "2026-01-01T00:00:00+00:00"),
        VerbResult("upgrade", True, "2100-01-01T00:00:00+00:00"))))
    failed = LastResult("upgrade", "failed", "org.bootcd1.Error.RootFull", "no room", "", "",
                        "2026-01-02T00:00:00+00:00", "timer")
    place.show(replace(BOOTED, last=failed))
    told = load_told(place.sysroot)
    assert told is not None
    assert [(one.verb, one.success) for one in told.results] == [("pin", True), ("upgrade", False)]


def test_what_cannot_be_written_is_told_all_the_same(place: Place) -> None:
    (place.run / "notices").write_text("a file\n")
    (place.run / METRICS).mkdir()
    place.sysroot.told.write_text("nonsense")
    place.show(SETTLED, OFFERED)
    assert place.heard == ["update-available"]
    told = load_told(place.sysroot)
    assert told is not None
    assert told.update == "sha256:1.1"


def test_without_a_runtime_directory_the_bus_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    place.show(SETTLED, OFFERED, directory="")
    assert place.heard == ["update-available"]
    assert list(place.run.iterdir()) == []


# --- the whole daemon -------------------------------------------------------------------------------------------------


@contextmanager
def monitor(bus: bus_kit.SystemBus) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-m", "bootcd.cli", "monitor", "--json"], text=True, stdout=subprocess.PIPE,
                          env=os.environ | bus.environment) as process:
        try:
            yield process
        finally:
            process.kill()


def next_notice(process: subprocess.Popen[str], seen: list[dict[str, Any]]) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(json.loads(line))
        if seen[-1]["event"] == "notice":
            return seen[-1]
    raise AssertionError(f"it ended after {seen}")


@pytest.mark.skipif(not bus_kit.available(), reason="dbus-daemon is not installed")
def test_the_daemon_tells(tmp_path: Path) -> None:
    world = World(tmp_path, lambda it: DirectHost(it.sysroot, it.esp, Config(), SilentProgress()), tmp_path)
    world.install(os_image("1.0"))
    world.publish(os_image("1.1"))
    run, config = tmp_path / "run", tmp_path / "bootcd.toml"
    run.mkdir()
    config.write_text("")

    def bootcctl(bus: bus_kit.SystemBus, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "bootcd.cli", "--quiet", *words], text=True, capture_output=True,
                              env=os.environ | bus.environment, check=False)

    def metrics(bus: bus_kit.SystemBus) -> list[dict[Any, float]]:
        done = bootcctl(bus, "metrics")
        assert done.returncode == 0, done.stderr
        return [{key: value for key, value in parse(text).items() if "_avail_" not in key[0]}
                for text in (done.stdout, (run / METRICS).read_text())]

    def daemon(bus: bus_kit.SystemBus) -> bus_kit.Daemon:
        return bus_kit.Daemon(bus, world.sysroot, world.esp, config, environment={"RUNTIME_DIRECTORY": str(run)})

    seen: list[dict[str, Any]] = []
    with bus_kit.SystemBus(tmp_path / "bus") as bus:
        with daemon(bus), monitor(bus) as process:
            until((run / METRICS).exists)
            until(Sysroot(world.sysroot).told.exists)
            # Until the monitor listens, a job may pass unnoticed.
            until(lambda: listens(bus, process.pid))
            assert bootcctl(bus, "upgrade", "--check").returncode == 0
            notice = next_notice(process, seen)
            assert (notice["notice"], notice["facts"]["image-version"]) == ("update-available", "1.1")
            assert notice["message"] == f"An update is available: 1.1 of {world.image}."
            (tmp_path / "layout").rename(tmp_path / "gone")
            assert bootcctl(bus, "upgrade").returncode != 0
            notice = next_notice(process, seen)
            assert (notice["notice"], notice["facts"]["verb"]) == ("failed", "upgrade")
            assert bootcctl(bus, "upgrade").returncode != 0, "the same again"
            until(lambda: parse((run / METRICS).read_text()).get(
                ("bootcd_last_result_success", (("verb", "upgrade"),))) == 0)
            asked, written = metrics(bus)
            assert asked == written
            assert asked["bootcd_update_available", ()] == 1
            (tmp_path / "gone").rename(tmp_path / "layout")
        with daemon(bus), monitor(bus) as process:
            until(lambda: listens(bus, process.pid))
            assert bootcctl(bus, "upgrade", "--check").returncode == 0
            assert bootcctl(bus, "upgrade", "--from", "oci:/nowhere").returncode != 0
            notice = next_notice(process, seen)
            assert (notice["notice"], notice["facts"]["verb"]) == ("failed", "upgrade")
            assert "/nowhere" in notice["message"], "not what the first daemon told"
            names = [event["event"] for event in seen]
            assert names.count("notice") == 3

