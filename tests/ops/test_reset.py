# SPDX-License-Identifier: Apache-2.0
"""Reset on a machine that runs: it waits for the shutdown, and loses nothing before the machine is known to come up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootcd.errors import DeploymentNotFound, NothingStaged, Refused, UsageError
from bootcd.ops import collect, explain, health, kargs, keep, reset, update
from ops.test_running import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    (made.etc("1.0") / "machine-id").write_text("local\n")
    (var(made) / "lib/data").write_text("local\n")
    return made


def var(world: World) -> Path:
    return world.path / "sysroot/state/os/default/var"


def aside(world: World) -> list[str]:
    state = world.path / "sysroot/state"
    return sorted(str(path.relative_to(state)).replace(world.machine.runs[0], "ID")
                  for pattern in ("deploy/*/etc?*", "os/default/var?*") for path in state.glob(pattern))


def test_a_reset_of_etc_waits_for_the_shutdown(world: World) -> None:
    done = reset.reset(world.machine, "etc", dry_run=False)
    assert done.outcome == "staged"
    assert (world.etc("1.0") / "machine-id").exists()
    assert world.info("default").reset == "etc"
    awaited = world.status().awaited()
    assert awaited is not None
    assert awaited.version == "1.0"
    assert any(reason.verdict == "reset" for reason in explain.explain(world.machine, "default").reasons)

    done = update.finalize(world.machine)
    assert done.outcome == "deployed"
    assert not (world.etc("1.0") / "machine-id").exists()
    assert (world.etc("1.0") / "version.conf").read_text() == "version = 1.0\n"
    assert (var(world) / "lib/data").exists()
    assert aside(world) == ["deploy/ID/etc.before-0000000002"]
    info = world.info("default")
    assert (info.reset, info.generation, info.health) == ("", 2, "untried")
    assert world.status().awaited() is None
    with pytest.raises(NothingStaged):
        update.finalize(world.machine)


def test_a_reset_of_the_state_empties_var_as_well(world: World) -> None:
    reset.reset(world.machine, "state", dry_run=False)
    update.finalize(world.machine)
    assert sorted(path.name for path in var(world).rglob("*")) == ["lib", "seed"]
    assert (var(world).stat().st_mode & 0o777, (var(world) / "lib/seed").read_text()) == (0o755, "from the image\n")
    assert aside(world) == ["deploy/ID/etc.before-0000000002", "os/default/var.before-0000000002"]
    assert (var(world).with_name("var.before-0000000002") / "lib/data").read_text() == "local\n"


def test_what_is_aside_is_collected_when_the_deployment_is_known_to_be_good(
    world: World, monkeypatch: pytest.MonkeyPatch,
) -> None:
    reset.reset(world.machine, "state", dry_run=False)
    update.finalize(world.machine)
    assert collect.cleanup(world.machine, dry_run=False).items == ()
    assert len(aside(world)) == 2
    world.reboot()
    monkeypatch.setattr(health, "read_cmdline", lambda: f"composefs={world.machine.runs[-1]}")
    health.boot_complete(world.machine)
    would = collect.cleanup(world.machine, dry_run=True).items
    assert [(item.kind, item.name) for item in would] == [
        ("aside", "/var before generation 2"), ("aside", f"/etc of {world.machine.runs[-1][:12]} before generation 2")]
    assert len(aside(world)) == 2
    assert collect.cleanup(world.machine, dry_run=False).items == would
    assert aside(world) == []
    assert (var(world) / "lib/seed").exists()


def test_a_reset_can_be_taken_back_until_the_shutdown(world: World) -> None:
    reset.reset(world.machine, "state", dry_run=False)
    assert keep.unstage(world.machine).outcome == "unstaged"
    with pytest.raises(NothingStaged):
        update.finalize(world.machine)
    with pytest.raises(NothingStaged):
        keep.unstage(world.machine)
    assert (world.etc("1.0") / "machine-id").exists()


def test_a_rollback_forgets_the_reset(world: World) -> None:
    world.upgrade("1.1")
    update.finalize(world.machine)
    world.reboot()
    reset.reset(world.machine, "etc", dry_run=False)
    assert "forgotten" in keep.rollback(world.machine, None).message
    assert [info.reset for info in world.status().deployments] == ["", ""]


@pytest.mark.parametrize("first", ["reset", "upgrade"])
def test_a_staged_upgrade_starts_anew_and_the_old_deployment_keeps_its_etc(world: World, first: str) -> None:
    if first == "reset":
        reset.reset(world.machine, "etc", dry_run=False)
    assert world.upgrade("1.1") == "staged"
    if first == "upgrade":
        reset.reset(world.machine, "etc", dry_run=False)
    update.finalize(world.machine)
    assert not (world.etc("1.1") / "machine-id").exists()
    assert (world.etc("1.1") / "version.conf").read_text() == "version = 1.1\n"
    assert (world.etc("1.0") / "machine-id").exists()
    assert [info.reset for info in world.status().deployments] == ["", ""]
    assert world.roles()["1.1"] == ("default",)


def test_what_is_only_downloaded_stays_so(world: World) -> None:
    world.publish("1.1")
    update.upgrade(world.machine, download_only=True, allow_rejected=False)
    reset.reset(world.machine, "etc", dry_run=False)
    update.finalize(world.machine)
    assert not (world.etc("1.0") / "machine-id").exists()
    assert world.roles() == {"1.1": ("staged",), "1.0": ("booted", "default")}


def test_an_upgrade_to_the_same_image_does_not_forget_the_reset(world: World) -> None:
    reset.reset(world.machine, "etc", dry_run=False)
    world.upgrade("1.1")
    assert world.upgrade("1.0") == "unstaged"
    assert world.info("default").reset == "etc"


def test_kernel_arguments_of_files_in_etc_go_with_them(world: World) -> None:
    (world.etc("1.0") / "bootcd/kargs.d").mkdir(parents=True)
    (world.etc("1.0") / "bootcd/kargs.d/10.toml").write_text('kargs = ["from-a-file"]\n')
    world.upgrade("1.1")
    update.finalize(world.machine)
    world.reboot()
    assert "from-a-file" in world.info("default").options
    reset.reset(world.machine, "etc", dry_run=False)
    update.finalize(world.machine)
    info = world.info("default")
    assert "from-a-file" not in info.options
    (entry,) = (world.path / "esp/loader/entries").glob(f"bootcd-*-{info.id[:12]}*")
    assert "from-a-file" not in entry.read_text()
    assert "composefs" in entry.read_text()


def test_arguments_on_trial_and_a_reset_are_not_tried_together(world: World) -> None:
    kargs.add(world.machine, ["quiet-please"])
    for dry_run in (True, False):
        with pytest.raises(Refused, match="are on trial"):
            reset.reset(world.machine, "etc", dry_run=dry_run)
    kargs.remove(world.machine, ["quiet-please"])
    reset.reset(world.machine, "etc", dry_run=False)
    with pytest.raises(Refused, match="waits for the shutdown"):
        kargs.add(world.machine, ["quiet-please"])
    keep.unstage(world.machine)
    assert kargs.add(world.machine, ["quiet-please"]).outcome == "changed"


def test_twice(world: World) -> None:
    for _ in range(2):
        assert reset.reset(world.machine, "etc", dry_run=False).outcome == "staged"
        update.finalize(world.machine)
        assert reset.reset(world.machine, "etc", dry_run=False).outcome == "unchanged"
        (world.etc("1.0") / "new").write_text("local again\n")
    assert aside(world) == ["deploy/ID/etc.before-0000000002", "deploy/ID/etc.before-0000000003"]
    assert (world.etc("1.0").with_name("etc.before-0000000002") / "machine-id").exists()


def test_a_dry_run_tells_how_much_is_lost(world: World) -> None:
    done = reset.reset(world.machine, "state", dry_run=True)
    assert done.outcome == "planned"
    assert "/etc (1 path) and all of /var" in done.message
    assert world.info("default").reset == ""
    with pytest.raises(NothingStaged):
        update.finalize(world.machine)


def test_what_cannot_be_reset(world: World) -> None:
    with pytest.raises(UsageError, match="one of etc, state"):
        reset.reset(world.machine, "var", dry_run=False)
    with pytest.raises(UsageError):
        reset.reset(world.machine, "", dry_run=False)
    kernel = world.path / "esp/EFI/bootcd" / world.info("default").boot_digest / "vmlinuz"
    kernel.unlink()
    with pytest.raises(Refused, match="kernel"):
        reset.reset(world.machine, "etc", dry_run=False)


def test_where_nothing_is_installed(tmp_path: Path) -> None:
    world = World(tmp_path)
    for entry in (tmp_path / "esp/loader/entries").iterdir():
        entry.unlink()
    with pytest.raises(DeploymentNotFound):
        reset.reset(world.machine, "etc", dry_run=False)
