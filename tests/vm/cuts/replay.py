# SPDX-License-Identifier: Apache-2.0
"""Cuts the power at moments of the recorded story: what boots still boots, and the same command completes the work.

Runs in the virtual machine, with the log as /dev/vda; `cuts` and `seed` are on the kernel's command line. Writes a line
of JSON to /dev/ttyS1 for each cut, and one at the end.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from crash.invariant import Before, check, look
from crash.program import Program, fast_directory
from kit.write_log import Cut, Disk, WriteLog, choose, lucky
from vm.cuts.story import (
    ACTS,
    DISK_SIZE,
    ESP_SIZE,
    ESP_START,
    MARK,
    ROOT_SIZE,
    ROOT_START,
    Act,
    mounted,
    run,
    running,
    tell_images,
)

LOG = "/dev/vda"
WORKERS = 2
SETUP_ROOT = "/usr/local/lib/bootcd-setup-root"


@dataclass(frozen=True)
class End:
    """What becomes of an act that nobody disturbs, once what it left over is collected."""

    default: str
    versions: list[str]


class Stage:
    """Where one worker plays: a disk as it is certain, a copy that a cut is tried on, and the file systems of that."""

    def __init__(self, scratch: Path, log: WriteLog, program: Program) -> None:
        self.log = log
        self.program = program
        self.world = scratch / "world"
        self.world.mkdir()
        self._disk = Disk(scratch / "disk")
        self._copy = scratch / "copy"

    @contextmanager
    def after(self, cut: Cut, act: Act) -> Iterator[None]:
        """The machine is on again after a cut."""
        self._disk.advance(self.log, cut)
        self._disk.copy(self._copy, DISK_SIZE)
        with self._copy.open("r+b") as file:
            cut.apply(self.log, file)
        self._repair_esp()
        with (mounted(self.world, self._copy, self._copy, (f"loop,offset={ESP_START},sizelimit={ESP_SIZE}",
                                                           f"loop,offset={ROOT_START},sizelimit={ROOT_SIZE}")),
              running(self.world, act)):
            yield

    def _repair_esp(self) -> None:
        """What systemd-fsck does before it mounts an ESP. FAT has no order of its blocks: what is new can be there
        before the clusters that it names are; it can't even be removed then, and Linux stops all writing."""
        loop = subprocess.run(["losetup", "--find", "--show", f"--offset={ESP_START}", f"--sizelimit={ESP_SIZE}",
                               self._copy], capture_output=True, text=True, check=True).stdout.strip()
        try:
            done = subprocess.run(["fsck.vfat", "-a", loop], capture_output=True, text=True, check=False)
            assert done.returncode in (0, 1), done.stdout
        finally:
            run("losetup", "--detach", loop)

    def boot(self) -> None:
        """What the loader would start first reaches its root file system, by the program of the initrd."""
        status = self.program(self.world, "status", "--json").json
        default = next((info for info in status["deployments"] if "default" in info["roles"]), None)
        if default is None:
            return
        (self.world / "cmdline").write_text(default["options"])
        (self.world / "new").mkdir(exist_ok=True)
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f"{SETUP_ROOT} --no-kmsg --sysroot=$PWD/sysroot --target=$PWD/new "
             "--cmdline=cmdline && cat new/usr/lib/os-release new/etc/version.conf"], cwd=self.world,
            capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"VERSION_ID={default['version']}\n" in done.stdout

    def finish(self) -> End:
        """Collect; nothing is unfinished afterwards."""
        for verb in ("cleanup", "fsck"):
            done = self.program(self.world, verb)
            assert done.status == 0, done.out + done.err
        status = self.program(self.world, "status", "--json").json
        assert status["unfinished"] == ""
        infos = status["deployments"]
        return End(next(info["version"] for info in infos if "default" in info["roles"]),
                   sorted(info["version"] for info in infos))


class Trial:
    """One act, cut off at one moment after the other."""

    def __init__(self, stage: Stage, number: int, begin: int, end: int) -> None:
        self.act = ACTS[number]
        self.begin, self.end = begin, end
        self._stage = stage
        shutil.rmtree(stage.world / "layout", ignore_errors=True)
        tell_images(stage.world, ACTS[: number + 1])
        with stage.after(lucky(stage.log, begin + 1), self.act):
            self.before: Before = look(stage.program, stage.world, pinned=self.act.arguments[0] != "unpin")

    @cached_property
    def expected(self) -> End:
        """Asked for after the cuts, since the disk goes on only."""
        with self._stage.after(lucky(self._stage.log, self.end + 1), self.act):
            self._stage.boot()
            return self._stage.finish()

    def try_cut(self, cut: Cut) -> tuple[End, str]:
        """What becomes of it when the command is run again, and what that says."""
        stage, act = self._stage, self.act
        with stage.after(cut, act):
            check(stage.program, stage.world, self.before)
            stage.boot()
            done = stage.program(stage.world, *act.arguments)
            assert done.status in act.settled, done.err
            check(stage.program, stage.world, self.before)
            stage.boot()
            return stage.finish(), done.out + done.err


def moments(log: WriteLog) -> list[tuple[int, int]]:
    """First and last entry of each act."""
    found = {text: number for number, text in log.marks(MARK)}
    return [(found[f"begin {act.name}"], found[f"end {act.name}"]) for act in ACTS]


def shares(spans: list[tuple[int, int]], count: int) -> list[int]:
    """How many cuts each act gets: two, and the rest by the number of its writes."""
    lengths = [end - begin for begin, end in spans]
    rest = max(count - 2 * len(spans), 0)
    return [2 + round(rest * length / sum(lengths)) for length in lengths]


def work(own: int, cuts: int, seed: int, report: Any) -> None:
    """Every second act."""
    with fast_directory() as scratch, Program(scratch) as program, open(LOG, "rb") as file:
        log = WriteLog(file)
        stage = Stage(scratch, log, program)
        spans = moments(log)
        counts = shares(spans, cuts)
        for number in range(own, len(ACTS), WORKERS):
            trial = Trial(stage, number, *spans[number])
            ends = []
            for cut in choose(log, *spans[number], counts[number], Random(f"{seed} {number}")):
                problem = ""
                try:
                    ends.append((cut, trial.try_cut(cut)))
                except Exception:
                    problem = traceback.format_exc()
                tell(report, act=trial.act.name, moment=cut.end - trial.begin, of=trial.end - trial.begin,
                     lost=cut.end - cut.certain - len(cut.torn), problem=problem)
            for cut, (end, said) in ends:
                if end != trial.expected:
                    tell(report, act=trial.act.name, moment=cut.end - trial.begin, of=trial.end - trial.begin, lost=-1,
                         problem=f"ends as {end}, not as {trial.expected}, after: {said}")


def tell(report: Any, **what: Any) -> None:
    report.write(json.dumps(what) + "\n")
    report.flush()


def main() -> None:
    cmdline = Path("/proc/cmdline").read_text()
    cuts, seed = (int(re.findall(rf"{name}=([0-9]+)", cmdline)[0]) for name in ("cuts", "seed"))
    with open("/dev/ttyS1", "w") as report:
        children = []
        for own in range(WORKERS):
            pid = os.fork()
            if pid == 0:
                os.unshare(os.CLONE_NEWNS)
                try:
                    work(own, cuts, seed, report)
                except BaseException:
                    tell(report, act="-", moment=0, of=0, lost=0, problem=traceback.format_exc())
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)
        tell(report, end=True)


if __name__ == "__main__":
    sys.exit(main())
