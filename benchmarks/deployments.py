# SPDX-License-Identifier: Apache-2.0
"""A machine that keeps many deployments, and the switch to a new one with a large /etc."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.report import Report
from bootcd.config import Config
from bootcd.deploy import plan
from bootcd.layout import Sysroot
from bootcd.model import SilentProgress
from bootcd.ops import collect
from bootcd.ops.direct import DirectHost
from bootcd.ops.machine import Machine
from bootcd.ops.session import change
from kit.images import File
from kit.os_images import os_image
from kit.world import World

ETC_FILES, ETC_FILE_SIZE = 2_000, 10_000
"""An /etc of 20 MB."""


def measure(report: Report, work: Path, count: int) -> World:
    """Make a machine with `count` deployments, all of them pinned, and switch to one more. Returns it."""
    world = World(work, lambda it: DirectHost(it.sysroot, it.esp, it.config, SilentProgress()), work, Config())
    work.mkdir(parents=True)
    for number in range(count):
        image = os_image(f"1.{number}")
        found = world.upgrade(image) if number else world.install(image)
        world.host.pin(found.id, f"bench-{number}")
    etc = world.etc(found)
    for number in range(ETC_FILES):
        (etc / f"file-{number}").write_bytes(b"%d" % number * (ETC_FILE_SIZE // len(str(number))))
    world.publish(os_image("2.0", [File("etc/new", b"new")]))
    world.host.upgrade(download_only=True)
    machine = Machine(Sysroot(world.sysroot), world.esp, world.config, SilentProgress())
    start = time.perf_counter()
    with change(machine) as session:  # as at shutdown, where what runs gives its /etc
        session.run(plan.plan_finalize(session.facts(), tries=3, merge=True))
        collect.collect_if_free(session)
    report.seconds(f"finalize with {ETC_FILES * ETC_FILE_SIZE / 1e6:.0f} MB in /etc", time.perf_counter() - start,
                   "<= 2 s")
    return world
