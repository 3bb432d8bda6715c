# SPDX-License-Identifier: Apache-2.0
"""Reboot into what was deployed: when, and by which kind. systemd and logind are programs that note what is asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bootcd.errors import BootcdError, RebootRefused, Refused, SoftRebootImpossible, UsageError
from bootcd.linux import systemd
from bootcd.model import SOFT_REBOOTS, SilentProgress
from bootcd.ops import health, keep, reboot, update
from bootcd.ops.direct import DirectHost
from bootcd.ops.results import ChangeResult
from kit.images import Dir, File
from kit.os_images import KERNEL_VERSION, base_layer, os_image
from ops.test_running import World

SYSTEMCTL = """#!/bin/sh
case $1 in
    --version) echo "systemd ${SYSTEMD:-257} (257.7-1)" ;;
    show) echo "ActiveState=${FINALIZE:-active}"; echo "ExecStop={ path=/usr/lib/${NEXT_ROOT:-bootcd-next-root} }" ;;
esac
"""


@dataclass
class Scene:
    """A machine that runs 1.0."""

    world: World
    bin: Path
    order: Path
    notes: list[str]

    def stage(self, version: str, **options: Any) -> None:
        os_image(version, **options).write_layout(self.world.path / "layout", "latest")
        assert update.upgrade(self.world.machine, download_only=False, allow_rejected=False).outcome == "staged"

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    @property
    def asked(self) -> list[str]:
        """The arguments of each call of logind."""
        path = self.bin / "asked"
        return path.read_text().splitlines() if path.exists() else []


class Notes(SilentProgress):
    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def note(self, message: str) -> None:
        self._notes.append(message)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    notes: list[str] = []
    world = World(tmp_path)
    object.__setattr__(world.machine, "progress", Notes(notes))
    made = Scene(world, tmp_path / "bin", tmp_path / "run/soft-reboot", notes)
    made.bin.mkdir()
    made.program("systemctl", SYSTEMCTL)
    made.program("busctl", f'#!/bin/sh\necho "$*" >>{made.bin}/asked\n')
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/bin:/bin")
    monkeypatch.setattr(reboot, "SOFT_REBOOT", made.order)
    monkeypatch.setattr(systemd, "_RUNS", str(tmp_path))
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=KERNEL_VERSION))
    booted = world.info("booted")
    for module in (reboot, health):
        monkeypatch.setattr(module, "read_cmdline", lambda: f"initrd=\\x {booted.options}\n")
    return made


CALL = "--system call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager RebootWithFlags t"


def test_a_reboot_is_asked_of_logind_which_heeds_inhibitors(scene: Scene) -> None:
    scene.stage("1.1")
    assert reboot.reboot(scene.world.machine, "no") == "reboot"
    assert scene.asked == [f"{CALL} 1"]
    assert not scene.order.exists()


@pytest.mark.parametrize("mode", SOFT_REBOOTS[1:])
def test_a_soft_reboot_where_the_kernel_stays(scene: Scene, mode: str) -> None:
    """The order has the command line that the boot entry has."""
    scene.stage("1.1")
    assert reboot.reboot(scene.world.machine, mode) == "soft-reboot"
    assert scene.asked == [f"{CALL} 5"]
    assert scene.order.read_text() == f"{scene.world.info('staged').options}\n"
    assert scene.notes == []


def test_nothing_waits_for_a_reboot(scene: Scene) -> None:
    assert reboot.reboot(scene.world.machine, "required") == ""
    scene.stage("1.1")
    keep.unstage(scene.world.machine)
    assert reboot.reboot(scene.world.machine, "no") == ""
    assert scene.asked == []


def test_what_is_only_downloaded_waits_on(scene: Scene) -> None:
    os_image("1.1").write_layout(scene.world.path / "layout", "latest")
    update.upgrade(scene.world.machine, download_only=True, allow_rejected=False)
    assert reboot.reboot(scene.world.machine, "auto") == ""
    assert update.upgrade(scene.world.machine, download_only=False, allow_rejected=False).outcome == "staged"
    assert reboot.reboot(scene.world.machine, "auto") == "soft-reboot"


def other_kernel(scene: Scene) -> None:
    scene.stage("1.1", base=base_layer(kernel=b"kernel two"))


def other_arguments(scene: Scene) -> None:
    kargs = File("usr/lib/bootc/kargs.d/10.toml", b'kargs = ["quiet", "a=\\"b c\\""]\n')
    scene.stage("1.1", extra=[Dir("usr/lib/bootc"), Dir("usr/lib/bootc/kargs.d"), kargs])


def damaged_image(scene: Scene) -> None:
    scene.stage("1.1")
    (scene.world.machine.sysroot.repository / "images" / scene.world.info("staged").id).unlink()


def setting(name: str, value: str) -> Callable[[Scene], None]:
    def spoil(scene: Scene) -> None:
        scene.stage("1.1")
        scene.program("systemctl", f"#!/bin/sh\n{name}={value}\n" + SYSTEMCTL)

    return spoil


@pytest.mark.parametrize(("spoil", "words"), [
    (other_kernel, "it has another kernel or initrd"),
    (other_arguments, 'it has other kernel arguments (quiet a="b c")'),
    (damaged_image, "the repository has no image"),
    (setting("SYSTEMD", "253"), "systemd 253 cannot do that, but 254 and later can"),
    (setting("FINALIZE", "inactive"), "bootcd-finalize-staged.service does not run"),
    (setting("NEXT_ROOT", "nothing"), "bootcd-next-root is not installed"),
], ids=lambda value: getattr(value, "__name__", None))
def test_where_only_a_reboot_will_do(scene: Scene, spoil: Callable[[Scene], None], words: str) -> None:
    spoil(scene)
    with pytest.raises(SoftRebootImpossible) as caught:
        reboot.reboot(scene.world.machine, "required")
    assert words in str(caught.value)
    assert scene.asked == []
    assert reboot.reboot(scene.world.machine, "auto") == "reboot"
    assert scene.asked == [f"{CALL} 1"]
    assert words in scene.notes[-1]
    assert not scene.order.exists()


def test_another_kernel_runs_than_the_record_says(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.stage("1.1")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="6.1.0-other"))
    with pytest.raises(SoftRebootImpossible, match=f"its kernel is {KERNEL_VERSION}, and 6.1.0-other runs"):
        reboot.reboot(scene.world.machine, "required")


@pytest.mark.parametrize("same", [True, False])
def test_a_policy_of_selinux_is_loaded_only_by_a_reboot(
        scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, same: bool) -> None:
    scene.stage("1.1")
    staged = scene.world.machine.sysroot.deployment(scene.world.info("staged").id) / "etc"
    for etc, text in ((tmp_path / "etc", "one"), (staged, "one" if same else "two")):
        policy = etc / "selinux/targeted/policy/policy.33"
        policy.parent.mkdir(parents=True)
        policy.write_text(text)
    monkeypatch.setattr(reboot, "_SELINUX", tmp_path)
    monkeypatch.setattr(reboot, "_ETC", tmp_path / "etc")
    assert reboot.reboot(scene.world.machine, "auto") == ("soft-reboot" if same else "reboot")


def test_somebody_holds_the_reboot_back(scene: Scene) -> None:
    """The deployment stays staged, and no order is left that a later reboot would obey."""
    scene.stage("1.1")
    scene.program("busctl", "#!/bin/sh\necho 'Call failed: Access denied due to active block inhibitor' >&2; exit 1\n")
    with pytest.raises(RebootRefused, match="active block inhibitor"):
        reboot.reboot(scene.world.machine, "required")
    assert not scene.order.exists()
    assert scene.world.info("staged").version == "1.1"


def test_without_logind_systemd_is_asked(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.stage("1.1")
    monkeypatch.setattr(systemd, "_RUNS", "/nonexistent")
    scene.program("systemctl", f'#!/bin/sh\n[ "$1" != --no-block ] || echo "$*" >>{scene.bin}/asked\n' + SYSTEMCTL)
    assert reboot.reboot(scene.world.machine, "required") == "soft-reboot"
    assert scene.asked == ["--no-block soft-reboot"]


def test_a_boot_entry_that_was_not_tried_is_still_counted(scene: Scene) -> None:
    """After a soft reboot the deployment has proven itself, but what the boot loader would start has not."""
    scene.stage("1.1")
    update.finalize(scene.world.machine)
    scene.world.machine.runs.append(scene.world.info("default").id)
    health.boot_complete(scene.world.machine)
    assert scene.world.info("booted").health == "good"
    assert [name for name in os.listdir(scene.world.machine.esp().join("loader/entries")) if "+3" in name]


# --- the request ------------------------------------------------------------------------------------------------------


def host(scene: Scene) -> DirectHost:
    made = DirectHost(scene.world.machine.sysroot.path, scene.world.path / "esp", scene.world.machine.config,
                      SilentProgress())
    made._machine = scene.world.machine
    return made


def test_each_verb_applies_what_it_did(scene: Scene) -> None:
    os_image("1.1").write_layout(scene.world.path / "layout", "latest")
    done = host(scene).upgrade(apply=True, soft_reboot="auto")
    assert (done.outcome, done.reboot) == ("staged", "soft-reboot")
    assert done.message.endswith(" The machine enters it now, by a soft reboot.")
    update.finalize(scene.world.machine)
    scene.world.reboot()
    done = host(scene).rollback(apply=True)
    assert (done.outcome, done.reboot) == ("deployed", "reboot")
    assert done.message.endswith(" The machine reboots now.")
    os_image("1.2").write_layout(scene.world.path / "layout", "other")
    assert host(scene).switch(f"oci:{scene.world.path}/layout:other", apply=True).reboot == "reboot"


def test_nothing_new_is_no_reason_to_reboot(scene: Scene) -> None:
    done = host(scene).upgrade(apply=True)
    assert (done.outcome, done.reboot) == ("unchanged", "")
    assert "reboot" not in done.message
    assert scene.asked == []


def test_an_image_that_is_not_taken_is_no_reason_to_reboot(scene: Scene) -> None:
    scene.stage("1.1")
    update.finalize(scene.world.machine)
    scene.world.reboot()
    keep.rollback(scene.world.machine, None)  # 1.0 waits for a reboot now, but nobody has asked for one
    done = host(scene).upgrade(apply=True)
    assert (done.outcome, done.reboot) == ("unchanged", "reboot")
    scene.world.reboot()
    done = host(scene).upgrade(apply=True)
    assert (done.outcome, done.reboot) == ("rejected", "")


@pytest.mark.parametrize(("ask", "error", "words"), [
    (lambda host: host.upgrade(apply=True, soft_reboot="perhaps"), UsageError, "no, auto, required, not 'perhaps'"),
    (lambda host: host.upgrade(soft_reboot="auto"), UsageError, "a way to apply"),
    (lambda host: host.rollback(soft_reboot="required"), UsageError, "a way to apply"),
])
def test_requests_that_make_no_sense(scene: Scene, ask: Callable[[DirectHost], ChangeResult],
                                     error: type[BootcdError], words: str) -> None:
    os_image("1.1").write_layout(scene.world.path / "layout", "latest")
    with pytest.raises(error, match=words):
        ask(host(scene))
    assert scene.world.status().deployments[0].version == "1.0"


def test_where_nothing_runs_nothing_is_done(scene: Scene) -> None:
    scene.world.machine.runs.clear()
    os_image("1.1").write_layout(scene.world.path / "layout", "latest")
    with pytest.raises(Refused, match="nothing to reboot"):
        host(scene).upgrade(apply=True)
    assert [one.version for one in scene.world.status().deployments] == ["1.0"]
