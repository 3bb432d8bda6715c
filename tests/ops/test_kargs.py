# SPDX-License-Identifier: Apache-2.0
"""Kernel arguments of a machine that runs: changed ones are on trial until they have booted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.boot.loader import LoaderVariables
from bootcd.config import Config
from bootcd.errors import ConfigError, NoSpace, NotBootable, Refused, UsageError
from bootcd.linux import files
from bootcd.model import SilentProgress
from bootcd.ops import health, kargs, keep, status, update
from bootcd.ops.direct import DirectHost
from bootcd.ops.results import ChangeResult, DeploymentInfo, Kargs
from bootcd.ops.session import look
from kit.images import Dir, File
from kit.os_images import os_image
from ops.test_running import World

COUNTING = LoaderVariables(info="systemd-boot 257")


class Scene:
    """A running machine whose loader, kernel and boots are this test."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.boots = 1
        self.loader = COUNTING
        self.cmdline = ""
        for module in ("bootcd.ops.health", "bootcd.ops.kargs", "bootcd.deploy.execute"):
            monkeypatch.setattr(f"{module}.boot_id", lambda: f"boot {self.boots}")
        for module in ("bootcd.ops.health", "bootcd.ops.kargs"):
            monkeypatch.setattr(f"{module}.read_cmdline", lambda: self.cmdline)
        monkeypatch.setattr(health, "read_variables", lambda: self.loader)
        self.world = World(path)
        self.machine = self.world.machine
        self.cmdline = self.info().options
        health.boot_complete(self.machine)

    def configure(self, **settings: object) -> None:
        self.machine = replace(self.machine, config=Config(**settings))  # type: ignore[arg-type]

    def info(self, role: str = "booted") -> DeploymentInfo:
        return self.world.info(role)

    def show(self) -> Kargs:
        return kargs.show(self.machine)

    def own(self) -> list[str]:
        """Those of the machine in what boots next, with their owners."""
        return [f"{one.argument} ({one.owner})" for one in self.show().kargs if one.owner not in ("bootcd", "image")]

    def entries(self) -> dict[str, str]:
        """Name and arguments of each boot entry, but for the one that names the image."""
        return {path.name: path.read_text().partition("options ")[2].strip().partition(" ")[2]
                for path in sorted((self.world.path / "esp/loader/entries").iterdir())}

    def boot(self, generation: int) -> None:
        """A boot with this entry: the loader counts it."""
        self.boots += 1
        (path,) = (self.world.path / "esp/loader/entries").glob(f"bootcd-{generation:010}-*")
        self.cmdline = "initrd=\\x " + path.read_text().partition("options ")[2].strip()
        stem, plus, counter = path.name.removesuffix(".conf").partition("+")
        if plus and self.loader is COUNTING:
            left, _, done = counter.partition("-")
            path.rename(path.with_name(f"{stem}+{max(int(left) - 1, 0)}-{int(done or 0) + 1}.conf"))

    def start(self, generation: int) -> None:
        """The same, and the first unit of ours."""
        self.boot(generation)
        health.boot_started(self.machine)

    def fail(self) -> ChangeResult:
        return health.boot_failed(self.machine, "web: no answer", "test")

    def give_up(self, generation: int) -> None:
        """The loader tries an entry in vain, and takes another one."""
        for _ in range(3):
            self.boot(generation)
        self.boot(1)

    def drop_in(self, text: str, name: str = "50-here.toml") -> Path:
        path = self.world.path / "sysroot/state/deploy" / self.info().id / "etc/bootcd/kargs.d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


# --- the trial --------------------------------------------------------------------------------------------------------


def test_arguments_that_boot_stay_and_the_old_entry_goes(scene: Scene) -> None:
    assert kargs.add(scene.machine, ["quiet", "console=ttyS0"]).outcome == "changed"
    old, new = scene.entries().items()
    assert (old[1], new[1]) == ("", "quiet console=ttyS0")
    assert new[0].endswith("+3.conf")
    shown = scene.show()
    assert shown.kargs_on_trial
    assert "quiet" not in shown.running
    assert scene.info().kargs_on_trial
    assert scene.info().options.endswith(" quiet console=ttyS0")
    assert scene.info().generation == 1
    scene.start(2)
    assert health.boot_complete(scene.machine).message.endswith(" is good, and so are its new kernel arguments.")
    assert scene.entries() == {new[0].replace("+3", ""): new[1]}
    assert not scene.show().kargs_on_trial
    assert "quiet" in scene.show().running
    assert scene.own() == ["quiet (command)", "console=ttyS0 (command)"]
    assert scene.info().generation == 2


def test_arguments_that_do_not_boot_are_forgotten(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    (before,) = scene.entries()
    kargs.add(scene.machine, ["init=/nowhere"])
    scene.give_up(2)
    assert scene.own() == [], "the loader has given them up"
    assert (scene.info().health, scene.info().roles) == ("good", ("booted", "default"))
    assert health.boot_complete(scene.machine).outcome == "unchanged"
    assert scene.own() == []
    assert list(scene.entries()) == [before]
    assert (scene.info().generation, scene.info().health) == (1, "good")
    last = status.status(scene.machine).last
    assert last is not None
    assert (last.verb, last.state, last.advice) == ("kargs", "failed", "")
    assert last.message == ("Other kernel arguments of version 1.0 did not boot, so those from before are in force "
                            "again")
    assert last.message in caplog.text
    assert scene.world.upgrade("1.1") == "staged"
    assert "init=" not in scene.info("staged").options


def test_arguments_whose_removal_does_not_boot_come_back(scene: Scene) -> None:
    kargs.add(scene.machine, ["rootflags=subvol=here", "quiet"])
    scene.boot(2)
    health.boot_complete(scene.machine)
    kargs.remove(scene.machine, ["rootflags=subvol=here"])
    assert scene.own() == ["quiet (command)"]
    for _ in range(3):
        scene.boot(3)
    scene.boot(2)
    health.boot_complete(scene.machine)
    assert scene.own() == ["rootflags=subvol=here (command)", "quiet (command)"]
    assert scene.info().generation == 2


def test_systemd_has_taken_the_counter_off_before(scene: Scene) -> None:
    kargs.add(scene.machine, ["quiet"])
    scene.boot(2)
    (path,) = (scene.world.path / "esp/loader/entries").glob("*+*")
    path.rename(path.with_name(path.name.partition("+")[0] + ".conf"))
    assert health.boot_complete(scene.machine).outcome == "good"
    assert list(scene.entries().values()) == ["quiet"]


def test_a_trial_goes_on_until_the_loader_has_decided(scene: Scene) -> None:
    kargs.add(scene.machine, ["quiet"])
    health.boot_complete(scene.machine)  # once more in the same boot
    scene.boot(1)  # somebody chooses the older entry
    health.boot_complete(scene.machine)
    assert [name.endswith("+3.conf") for name in scene.entries()] == [False, True]
    assert scene.show().kargs_on_trial


@pytest.mark.parametrize("loader", [LoaderVariables(), LoaderVariables(info="GRUB 2.12")], ids=["none", "grub"])
def test_a_fallback_where_nobody_counts(scene: Scene, loader: LoaderVariables) -> None:
    scene.loader = loader
    kargs.add(scene.machine, ["init=/nowhere"])
    health.boot_complete(scene.machine)
    assert scene.own() == ["init=/nowhere (command)"], "they had no chance yet"
    scene.boot(1)
    health.boot_complete(scene.machine)
    assert (scene.own(), len(scene.entries())) == ([], 1)


def test_a_second_change_falls_back_as_far_as_the_first(scene: Scene) -> None:
    kargs.add(scene.machine, ["bad"])
    kargs.swap(scene.machine, "bad", "worse")
    assert list(scene.entries().values()) == ["", "worse"]
    scene.give_up(3)
    health.boot_complete(scene.machine)
    assert scene.own() == []


def test_taking_a_change_back_by_hand(scene: Scene) -> None:
    (before,) = scene.entries()
    kargs.add(scene.machine, ["quiet"])
    told = kargs.remove(scene.machine, ["quiet"])
    assert "not tried any more" in told.message
    assert list(scene.entries()) == [before]
    assert not scene.show().kargs_on_trial


def test_after_a_soft_reboot_nothing_is_known_of_the_loader(scene: Scene) -> None:
    kargs.add(scene.machine, ["quiet"])
    scene.boots += 1
    scene.cmdline = f"composefs=?{'f' * 128} quiet"
    health.boot_complete(scene.machine)
    assert len(scene.entries()) == 2


class Cut(BaseException):
    """The power fails."""


class Steps:
    """In place of `files.step`: the power fails at the step of that number."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, name: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise Cut


@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
def test_a_power_cut_at_any_step_of_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: bool) -> None:
    """The next boot-complete brings the verdict to its end."""
    ends = set()
    cut_at, cut = 0, True
    while cut:
        cut_at += 1
        with monkeypatch.context() as patch:
            scene = Scene(tmp_path / str(cut_at), patch)
            kargs.add(scene.machine, ["quiet"])
            scene.boot(2) if good else scene.give_up(2)
            cut = False
            try:
                with patch.context() as inner:
                    inner.setattr(files, "step", Steps(cut_at))
                    health.boot_complete(scene.machine)
            except Cut:
                cut = True
            assert scene.entries(), "nothing boots"
            assert scene.own() == (["quiet (command)"] if good else [])
            health.boot_complete(scene.machine)
            ends.add((tuple(name[:17] + name[30:] for name in scene.entries()), *scene.own(), scene.info().generation,
                      scene.show().kargs_on_trial, scene.info().health))
    assert cut_at > 10
    assert ends == {(("bootcd-0000000002.conf",), "quiet (command)", 2, False, "good") if good else
                    (("bootcd-0000000001.conf",), 1, False, "good")}


# --- boots that fail their checks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", [COUNTING, LoaderVariables()], ids=["the loader counts", "nobody else counts"])
def test_arguments_that_fail_the_checks(scene: Scene, loader: LoaderVariables) -> None:
    scene.loader = loader
    kargs.add(scene.machine, ["net.ifnames=0"])
    for number in (1, 2):
        scene.start(2)
        assert scene.fail().outcome == "reboot"
        assert f"try {number} of 3" in str(status.status(scene.machine).last)
    scene.start(2)
    told = scene.fail()
    assert told.outcome == "rollback"
    assert told.message == ("The boot of version 1.0 with other kernel arguments failed: web: no answer. It reboots "
                            "with those from before (the machine was started with them 3 times).")
    assert (scene.own(), len(scene.entries())) == ([], 1)
    scene.start(1)
    health.boot_complete(scene.machine)
    assert scene.info().health == "good"
    last = status.status(scene.machine).last
    assert last is not None
    assert (last.verb, last.state, last.message) == ("kargs", "failed", told.message)


def test_the_owner_decides_what_follows(scene: Scene) -> None:
    kargs.add(scene.machine, ["bad"])
    scene.start(2)
    scene.configure(health_on_failure="stay")
    assert scene.fail().outcome == "stay"
    assert scene.show().kargs_on_trial
    scene.configure(health_on_failure="rollback")
    assert scene.fail().outcome == "rollback"
    assert scene.own() == []


def test_a_failure_without_them_is_none_of_theirs(scene: Scene) -> None:
    kargs.add(scene.machine, ["quiet"])
    scene.start(1)
    assert scene.fail().outcome == "stay"  # this deployment has been good
    assert scene.show().kargs_on_trial


def test_what_cannot_be_noted_reboots_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    kargs.add(scene.machine, ["quiet"])
    scene.start(2)

    def full(name: str) -> None:
        if name.startswith("atomic_write"):
            raise NoSpace("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(files, "step", full)
        told = scene.fail()
    assert told.outcome == "stay"
    assert "cannot be noted" in told.message


# --- upgrades ---------------------------------------------------------------------------------------------------------


def test_an_upgrade_during_a_trial(scene: Scene) -> None:
    kargs.add(scene.machine, ["quiet"])
    scene.world.upgrade("1.1")
    assert scene.info("staged").options.endswith(" quiet")
    update.finalize(scene.machine)
    assert len(scene.entries()) == 3
    keep.rollback(scene.machine, "1.0")
    assert list(scene.entries().values()) == ["quiet", ""], "back to what has booted"


def test_what_is_staged_takes_the_change(scene: Scene) -> None:
    scene.world.upgrade("1.1")
    assert "when it is finalized" in kargs.add(scene.machine, ["quiet"]).message
    assert len(scene.entries()) == 1
    update.finalize(scene.machine)
    assert list(scene.entries().values()) == ["", "quiet"]
    scene.world.upgrade("1.2")
    assert scene.info("staged").options.endswith(" quiet"), "as the next boot has it"


def test_a_change_goes_with_what_was_staged(scene: Scene) -> None:
    scene.world.upgrade("1.1")
    kargs.add(scene.machine, ["quiet"])
    assert "goes with it" in keep.unstage(scene.machine).message
    assert scene.own() == []
    scene.world.upgrade("1.2")
    assert "goes with it" not in keep.unstage(scene.machine).message


def test_what_is_only_downloaded_gets_the_arguments_when_it_is_taken(scene: Scene) -> None:
    scene.world.publish("1.1")
    update.upgrade(scene.machine, download_only=True, allow_rejected=False)
    kargs.add(scene.machine, ["quiet"])
    assert len(scene.entries()) == 2
    assert not scene.info("staged").options.endswith(" quiet")
    update.upgrade(scene.machine, download_only=False, allow_rejected=False)
    assert scene.info("staged").options.endswith(" quiet")
    update.finalize(scene.machine)
    assert sorted(scene.entries().values()) == ["", "quiet", "quiet"]


def test_what_was_staged_with_bad_arguments_gets_those_from_before(scene: Scene) -> None:
    kargs.add(scene.machine, ["bad"])
    scene.world.upgrade("1.1")
    scene.give_up(2)
    health.boot_complete(scene.machine)
    assert "bad" not in scene.info("staged").options


def test_an_image_with_the_same_tree_keeps_the_entry_to_fall_back_to(scene: Scene) -> None:
    kargs.add(scene.machine, ["bad"])
    image = os_image("1.0")
    image.annotations["anything"] = "else"
    image.write_layout(scene.world.path / "layout", "latest")
    update.upgrade(scene.machine, download_only=False, allow_rejected=False)
    assert list(scene.entries().values()) == ["", "bad"]
    scene.give_up(2)
    health.boot_complete(scene.machine)
    assert list(scene.entries().values()) == [""]


def test_going_back_to_a_kept_deployment_by_an_upgrade(scene: Scene) -> None:
    """It comes with its own /etc, and with what the machine has by now."""
    scene.drop_in('kargs = ["of-1.0"]\n')
    kargs.reload(scene.machine)
    scene.boot(2)
    health.boot_complete(scene.machine)
    scene.world.upgrade("1.1")
    update.finalize(scene.machine)
    scene.world.reboot()
    (scene.world.etc("1.1") / "bootcd/kargs.d/50-here.toml").unlink()
    kargs.add(scene.machine, ["quiet"])
    scene.world.publish("1.0")
    update.upgrade(scene.machine, download_only=False, allow_rejected=True, allow_downgrade=True)
    assert scene.own() == ["of-1.0 (drop-in)", "quiet (command)"]
    assert scene.info("default").version == "1.0"


# --- drop-ins ---------------------------------------------------------------------------------------------------------


def test_drop_ins_are_taken_when_somebody_asks(scene: Scene) -> None:
    kargs.add(scene.machine, ["last"])
    assert scene.show().pending is None
    scene.drop_in('kargs = ["nosmt", "quiet"]\n')
    assert scene.show().pending == ("nosmt", "quiet")
    assert any("kargs reload" in warning for warning in status.status(scene.machine).warnings)
    assert kargs.reload(scene.machine).outcome == "changed"
    assert scene.show().pending is None
    assert scene.own() == ["nosmt (drop-in)", "quiet (drop-in)", "last (command)"]
    assert list(scene.entries().values()) == ["", "nosmt quiet last"]
    assert kargs.reload(scene.machine).outcome == "unchanged"


def test_any_other_change_takes_them_along(scene: Scene) -> None:
    scene.drop_in('kargs = ["nosmt"]\n')
    kargs.add(scene.machine, ["quiet"])
    assert scene.own() == ["nosmt (drop-in)", "quiet (command)"]


def test_an_upgrade_takes_drop_ins_as_they_are_at_shutdown(scene: Scene) -> None:
    path = scene.drop_in('kargs = ["early"]\n')
    scene.world.upgrade("1.1")
    assert scene.own() == ["early (drop-in)"]
    path.write_text('kargs = ["late"]\n')
    assert scene.show().pending == ("late",)
    update.finalize(scene.machine)
    assert list(scene.entries().values()) == ["", "late"]


def test_those_that_an_image_brings_count_as_well(scene: Scene) -> None:
    brought = [Dir("etc/bootcd"), Dir("etc/bootcd/kargs.d"), File("etc/bootcd/kargs.d/10-of-image.toml",
                                                                 b'kargs = ["brought"]\n')]
    scene.drop_in('kargs = ["here"]\n')
    os_image("1.1", brought).write_layout(scene.world.path / "layout", "latest")
    update.upgrade(scene.machine, download_only=False, allow_rejected=False)
    assert scene.own() == ["brought (drop-in)", "here (drop-in)"]


def test_drop_ins_that_do_not_boot(scene: Scene) -> None:
    path = scene.drop_in('kargs = ["bad"]\n')
    kargs.reload(scene.machine)
    scene.give_up(2)
    health.boot_complete(scene.machine)
    assert scene.own() == []
    assert path.read_text() == 'kargs = ["bad"]\n'
    assert scene.show().pending == ("bad",)
    last = status.status(scene.machine).last
    assert last is not None
    assert "correct them" in last.advice


@pytest.mark.parametrize("change", [
    lambda scene: kargs.reload(scene.machine), lambda scene: kargs.add(scene.machine, ["quiet"]),
    lambda scene: scene.world.upgrade("1.1"),
], ids=["reload", "add", "upgrade"])
@pytest.mark.parametrize("text", ["kargs = [", 'kargs = ["composefs=x"]', 'kargs = ["root=x"]'])
def test_drop_ins_that_make_no_sense_stop_changes(scene: Scene, change: Callable[[Scene], object], text: str) -> None:
    before = scene.entries()
    scene.drop_in(text)
    with pytest.raises(ConfigError, match=r"/etc/bootcd/kargs\.d/50-here\.toml"):
        change(scene)
    assert scene.entries() == before
    assert "50-here.toml" in scene.show().problem
    assert any("50-here.toml" in warning for warning in status.status(scene.machine).warnings)


def test_drop_ins_broken_after_staging_leave_the_old_deployment_in_charge(scene: Scene) -> None:
    scene.world.upgrade("1.1")
    path = scene.drop_in("kargs = [")
    host = DirectHost(scene.machine.sysroot.path, scene.machine.esp_path, Config(), SilentProgress())
    host._machine = scene.machine
    with pytest.raises(ConfigError):
        host.finalize()
    last = host.status().last
    assert last is not None
    assert (last.verb, last.state) == ("finalize", "failed")
    assert scene.world.roles() == {"1.1": ("staged",), "1.0": ("booted", "default")}
    path.unlink()
    assert host.finalize().outcome == "deployed"


def test_more_than_a_kernel_takes(scene: Scene) -> None:
    scene.drop_in(f'kargs = ["{"x" * 1000}"]\n')
    with pytest.raises(NotBootable, match="a kernel takes 2048"):
        kargs.add(scene.machine, ["y" * 1000])
    scene.drop_in(f'kargs = ["{"x" * 1000}", "{"y" * 1000}"]\n')
    with pytest.raises(NotBootable, match="a kernel takes 2048"):
        scene.world.upgrade("1.1")
    assert len(scene.entries()) == 1


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_change_that_could_not_be_written_is_none(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str) -> None:
        if name == "before-write-entry":
            raise NoSpace("the disk is full")

    before = scene.entries()
    with monkeypatch.context() as patch:
        patch.setattr(files, "step", full)
        with pytest.raises(NoSpace):
            kargs.add(scene.machine, ["quiet"])
    assert (scene.own(), scene.entries()) == ([], before)
    with look(scene.machine) as session:
        assert session.facts().last_generation == 2, "the number of an entry that was to have other arguments"
    assert not scene.show().kargs_on_trial
    health.boot_complete(scene.machine)
    assert kargs.add(scene.machine, ["quiet"]).outcome == "changed"
    with monkeypatch.context() as patch:
        patch.setattr(files, "step", full)
        with pytest.raises(NoSpace):
            kargs.add(scene.machine, ["more"])
    assert scene.own() == ["quiet (command)"]
    assert len(scene.entries()) == 2


@pytest.mark.parametrize("argument", ["", "composefs=?00", "composefs.digest=x", 'a="b', "a\nb", "root=LABEL=x", "a a"])
def test_what_cannot_be_changed(scene: Scene, argument: str) -> None:
    for request in (kargs.add, kargs.remove):
        with pytest.raises(UsageError):
            request(scene.machine, [argument])
    for old, new in ((argument, "quiet"), ("quiet", argument)):
        with pytest.raises(UsageError):
            kargs.swap(scene.machine, old, new)
    assert len(scene.entries()) == 1


def test_only_the_machines_own_are_removed(scene: Scene) -> None:
    with pytest.raises(UsageError, match="which image to boot"):
        kargs.remove(scene.machine, [scene.show().kargs[0].argument])
    with pytest.raises(Refused, match="has no kernel argument 'quiet'"):
        kargs.remove(scene.machine, ["quiet"])
    with pytest.raises(Refused, match="has no kernel argument 'quiet'"):
        kargs.swap(scene.machine, "quiet", "loud")
    scene.drop_in('kargs = ["nosmt"]\n')
    with pytest.raises(Refused, match=r"from a file in /etc/bootcd/kargs\.d"):
        kargs.remove(scene.machine, ["nosmt"])
    kargs.add(scene.machine, ["quiet", "nosmt"])
    assert kargs.add(scene.machine, ["quiet"]).outcome == "unchanged"
    told = kargs.remove(scene.machine, ["nosmt"])
    assert told.message.endswith("'nosmt' stays, as that of a file in /etc/bootcd/kargs.d.")
    assert scene.own() == ["nosmt (drop-in)", "quiet (command)"]


def test_in_the_place_of_another(scene: Scene) -> None:
    kargs.add(scene.machine, ["a", "b", "c"])
    kargs.swap(scene.machine, "b", "x y")
    assert list(scene.entries().values())[-1] == "a x y c"
