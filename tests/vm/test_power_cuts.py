# SPDX-License-Identifier: Apache-2.0
"""The power goes while bootcd works, on ext4 with fs-verity and on FAT, and what no flush had covered is lost.

One virtual machine plays a story (vm/cuts/story.py) on a disk whose writes QEMU logs. Another one tries cuts: it makes
from the log what a disk would hold (kit/write_log.py), mounts it, sees whether something good boots, and runs the
command again. `BOOTCD_CUTS` is how many, `BOOTCD_CUTS_SEED` chooses them; the same seed finds the same ones in the
same log only, which `BOOTCD_CUTS_LOG` keeps in a file: is it there, it is not recorded anew.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.boot.kargs import ComposefsKarg
from bootcd.config import Config
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from kit import guest, setup_root
from kit.world import World
from vm.cuts.story import ACTS, DISK_SIZE, RUNNING, version

pytestmark = pytest.mark.slow

CUTS = int(os.environ.get("BOOTCD_CUTS", "50"))
SEED = int(os.environ.get("BOOTCD_CUTS_SEED", random.randrange(1 << 31)))
LOG = os.environ.get("BOOTCD_CUTS_LOG")
LOG_SIZE = 4 << 30
"""Room for the log; the file is sparse."""
RECORD_SECONDS = 300.0
CUT_SECONDS = 60.0


def files(program: Path) -> Iterator[tuple[str, int, bytes]]:
    yield "init", 0o100755, (Path(__file__).parent / "cuts/init").read_bytes()
    yield "bootcd", 0o040755, b""
    for name in ("src", "tests"):
        yield from guest.tree(guest.ROOT / name, f"bootcd/{name}")
    yield "usr/local/lib/bootcd-setup-root", 0o100755, program.read_bytes()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = guest.why_not()
    if reason is not None:
        pytest.skip(reason)
    if setup_root.compiler() is None:
        pytest.skip("there is no C compiler")
    return setup_root.build(tmp_path_factory.mktemp("program") / "bootcd-setup-root", *setup_root.HARDENED)


@pytest.fixture(scope="module")
def log(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that was written while the story was played."""
    directory = tmp_path_factory.mktemp("record")
    if LOG and Path(LOG).exists():
        return Path(LOG)
    log = directory / "log"
    for path, size in ((directory / "disk", DISK_SIZE), (log, LOG_SIZE)):
        with path.open("wb") as file:
            file.truncate(size)
    report = guest.run(guest.prepare(), files(program), directory, RECORD_SECONDS,
                       f"module=vm.cuts.record {_running(directory)}",
                       ["-blockdev", f"driver=file,node-name=file,filename={directory}/disk",
                        "-blockdev", f"driver=file,node-name=log,filename={log}",
                        "-blockdev", "driver=blklogwrites,node-name=disk,file=file,log=log",
                        "-device", "virtio-blk-pci,drive=disk"])
    assert report == "recorded\n", guest.tail(directory / "console")
    return Path(shutil.move(log, LOG)) if LOG else log


def _running(directory: Path) -> str:
    """The kernel argument of the version that runs from the middle of the story on."""
    world = World(directory / "id", lambda it: DirectHost(it.sysroot, it.esp, it.config, SilentProgress()),
                  directory / "id", Config())
    found = world.install(version(RUNNING))
    return str(ComposefsKarg(bytes.fromhex(found.id), 1))


@pytest.fixture(scope="module")
def tried(program: Path, log: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What came of each cut."""
    directory = tmp_path_factory.mktemp("replay")
    report = guest.run(guest.prepare(), files(program), directory, RECORD_SECONDS + CUTS * CUT_SECONDS,
                       f"module=vm.cuts.replay cuts={CUTS} seed={SEED} {_running(directory)}",
                       ["-drive", f"if=virtio,format=raw,readonly=on,file={log}"])
    lines = [json.loads(line) for line in report.splitlines()]
    assert lines, guest.tail(directory / "console")
    assert lines[-1] == {"end": True}, guest.tail(directory / "console")
    return lines[:-1]


def test_something_good_boots_after_every_cut(tried: list[dict[str, object]]) -> None:
    where = Counter(one["act"] for one in tried)
    print(f"{len(tried)} cuts with seed {SEED}: " + ", ".join(f"{name} {count}" for name, count in where.items()))
    bad = [f"{one['act']}, entry {one['moment']} of {one['of']}, {one['lost']} writes lost:\n{one['problem']}"
           for one in tried if one["problem"]]
    assert not bad, f"seed {SEED}\n" + "\n\n".join(bad)


def test_every_act_was_cut(tried: list[dict[str, object]]) -> None:
    assert {one["act"] for one in tried} == {act.name for act in ACTS}
    assert any(one["lost"] for one in tried), "every disk kept all that was written to it"
