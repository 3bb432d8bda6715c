# SPDX-License-Identifier: Apache-2.0
"""Install, upgrade, roll back, pin, collect: the life of a machine."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable

import pytest

from bootcd.errors import (
    DeploymentNotFound,
    EtcConflict,
    NoMatchingPlatform,
    NoRollback,
    NotBootable,
    NothingStaged,
    Refused,
    RepositoryNotFound,
    SealMismatch,
    TargetInUse,
    UsageError,
)
from bootcd.model import Platform
from bootcd.ops.results import SignatureInfo
from kit.images import Dir, Entry, File, ImageBuilder, Layer, Whiteout
from kit.os_images import base_layer, os_image
from kit.pefiles import make_pe
from kit.world import World


def test_installation_makes_the_first_generation(world: World) -> None:
    deployment = world.install(os_image("1.0"))

    assert deployment.roles == ("default",)
    assert deployment.version == "1.0"
    assert deployment.title == "Test OS 1.0"
    assert world.entries() == [f"bootcd-0000000001-{deployment.id[:12]}.conf"]
    entry = (world.esp / "loader/entries" / world.entries()[0]).read_text()
    assert f"linux /EFI/bootcd/{deployment.boot_digest}/vmlinuz" in entry
    assert deployment.id in entry
    assert (world.esp / f"EFI/bootcd/{deployment.boot_digest}/vmlinuz").read_bytes() == b"kernel one"
    assert (world.esp / "EFI/BOOT").is_dir()


def test_state_has_etc_of_the_image_and_the_shared_var(world: World) -> None:
    deployment = world.install(os_image("1.0"))

    state = world.sysroot / "state/deploy" / deployment.id
    assert (state / "etc/version.conf").read_text() == "version = 1.0\n"
    assert (state / "etc/os-release").is_symlink()
    assert os.readlink(state / "var") == "../../os/default/var"
    assert (state / "var/lib/seed").read_text() == "from the image\n"
    assert "container-image-reference=" in (state / f"{deployment.id}.origin").read_text()


def test_installing_twice_is_refused(world: World) -> None:
    world.install(os_image("1.0"))
    with pytest.raises(TargetInUse):
        world.host.install(world.image)


def test_upgrade_without_a_newer_image_changes_nothing(world: World) -> None:
    world.install(os_image("1.0"))
    before = world.entries()

    assert world.host.check().available is False
    assert world.host.upgrade().outcome == "unchanged"
    assert world.entries() == before


def test_check_tells_what_an_upgrade_would_bring(world: World) -> None:
    world.install(os_image("1.0"))
    newer = os_image("1.1")
    world.publish(newer)

    found = world.host.check()

    assert (found.available, found.version, found.current_version) == (True, "1.1", "1.0")
    assert (found.layers, found.layers_missing) == (2, 1)
    assert found.download_size == len(newer.layers[1].blob)
    assert found.reused_size == len(newer.layers[0].blob)


def test_check_changes_nothing_but_what_is_known(world: World) -> None:
    world.install(os_image("1.0"))
    world.publish(os_image("1.1"))
    before = world.files()
    world.host.check()
    assert world.files() == before | {world.sysroot / "state/bootcd/update.json"}


def test_upgrade_adds_an_entry_that_counts_its_boots(world: World) -> None:
    first = world.install(os_image("1.0"))
    second = world.upgrade(os_image("1.1"))

    assert world.versions() == ["1.1", "1.0"]
    assert second.roles == ("default",)
    assert world.entries() == [f"bootcd-0000000001-{first.id[:12]}.conf", f"bootcd-0000000002-{second.id[:12]}+3.conf"]
    assert second.boot_digest == first.boot_digest
    assert world.kernels() == [first.boot_digest]


@pytest.mark.parametrize("soft", ["no", "auto", "required"])
def test_nothing_is_applied_where_nothing_runs(world: World, soft: str) -> None:
    world.install(os_image("1.0"))
    world.publish(os_image("1.1"))
    for request in (lambda: world.host.upgrade(apply=True, soft_reboot=soft),
                    lambda: world.host.switch(world.image, apply=True, soft_reboot=soft),
                    lambda: world.host.rollback(apply=True, soft_reboot=soft)):
        with pytest.raises(Refused, match="nothing to reboot"):
            request()
    assert world.versions() == ["1.0"]


def test_a_soft_reboot_is_a_way_to_apply(world: World) -> None:
    world.install(os_image("1.0"))
    with pytest.raises(UsageError, match="way to apply"):
        world.host.upgrade(soft_reboot="auto")
    with pytest.raises(UsageError, match="not 'perhaps'"):
        world.host.upgrade(apply=True, soft_reboot="perhaps")


def test_upgrade_fetches_only_what_is_new(world: World) -> None:
    world.install(os_image("1.0"))
    world.publish(os_image("1.1"))
    stats = world.host.upgrade().pull

    assert stats is not None
    assert (stats.layers, stats.layers_fetched) == (2, 1)
    assert stats.reused > stats.downloaded


def test_only_the_previous_deployment_is_kept(world: World) -> None:
    for number, version in enumerate(("1.0", "1.1", "1.2", "1.3")):
        world.install(os_image(version)) if number == 0 else world.upgrade(os_image(version))

    assert world.versions() == ["1.3", "1.2"]
    assert len(world.entries()) == 2
    assert len(os.listdir(world.sysroot / "state/deploy")) == 2


def test_rollback_promotes_the_previous_deployment(world: World) -> None:
    first = world.install(os_image("1.0"))
    second = world.upgrade(os_image("1.1"))

    result = world.host.rollback()

    assert result.deployment is not None
    assert result.deployment.id == first.id
    assert world.versions() == ["1.0", "1.1"]
    assert world.entries() == [f"bootcd-0000000002-{second.id[:12]}+3.conf", f"bootcd-0000000003-{first.id[:12]}.conf"]


def test_rollback_twice_returns_to_where_it_was(world: World) -> None:
    world.install(os_image("1.0"))
    world.upgrade(os_image("1.1"))
    world.host.rollback()
    world.host.rollback()
    assert world.versions() == ["1.1", "1.0"]


def test_an_image_that_was_left_is_not_taken_again_until_it_changes(world: World) -> None:
    world.install(os_image("1.0"))
    world.upgrade(os_image("1.1"))
    world.host.rollback()

    assert "rolled back from version 1.1" in world.host.check().rejected
    assert world.host.upgrade().outcome == "rejected"
    assert world.versions()[0] == "1.0"
    assert world.upgrade(os_image("1.2")).version == "1.2"


def test_a_rejected_image_can_be_asked_for(world: World) -> None:
    world.install(os_image("1.0"))
    world.upgrade(os_image("1.1"))
    world.host.rollback()

    world.host.upgrade(allow_rejected=True)
    assert world.versions() == ["1.1", "1.0"]
    assert world.host.check().rejected == ""


def test_rollback_needs_somewhere_to_go(world: World) -> None:
    world.install(os_image("1.0"))
    with pytest.raises(NoRollback):
        world.host.rollback()


def test_a_pinned_deployment_survives_every_upgrade(world: World) -> None:
    first = world.install(os_image("1.0"))
    world.host.pin("default", "known good")
    for version in ("1.1", "1.2", "1.3"):
        world.upgrade(os_image(version, base=base_layer(kernel=b"kernel of " + version.encode())))

    assert world.versions() == ["1.3", "1.2", "1.0"]
    assert first.boot_digest in world.kernels()
    assert world.etc(first).is_dir()
    assert world.host.rollback("known good").deployment.id == first.id  # type: ignore[union-attr]


def test_unpinned_deployments_go_with_the_next_cleanup(world: World) -> None:
    first = world.install(os_image("1.0"))
    world.host.pin(first.id[:8], "known good")
    world.upgrade(os_image("1.1"))
    world.upgrade(os_image("1.2"))
    world.host.unpin("known good")

    planned = world.host.cleanup(dry_run=True)
    assert [item.kind for item in planned.items][:1] == ["deployment"]
    assert world.versions() == ["1.2", "1.1", "1.0"]

    done = world.host.cleanup()
    assert [item.name for item in done.items] == [item.name for item in planned.items]
    assert (done.objects, done.object_bytes) == (planned.objects, planned.object_bytes)
    assert done.objects > 0
    assert world.versions() == ["1.2", "1.1"]
    assert not world.etc(first).exists()
    assert world.host.fsck().ok


def test_a_label_names_one_deployment(world: World) -> None:
    world.install(os_image("1.0"))
    world.upgrade(os_image("1.1"))
    world.host.pin("rollback", "mine")
    with pytest.raises(Refused, match="mine"):
        world.host.pin("default", "mine")
    with pytest.raises(Refused, match="not pinned"):
        world.host.unpin("default")


@pytest.mark.parametrize("label", ["x" * 101, "two\nlines", "\x1b[31m"])
def test_a_label_can_be_read_by_people(world: World, label: str) -> None:
    world.install(os_image("1.0"))
    with pytest.raises(UsageError, match="label"):
        world.host.pin("default", label)


@pytest.mark.parametrize("name", ["booted", "staged", "no such label", "ffff", ""])
def test_a_deployment_that_does_not_exist(world: World, name: str) -> None:
    world.install(os_image("1.0"))
    with pytest.raises(DeploymentNotFound):
        world.host.pin(name)


def test_download_only_stages_and_upgrade_applies(world: World) -> None:
    world.install(os_image("1.0"))
    world.publish(os_image("1.1"))

    staged = world.host.upgrade(download_only=True).deployment
    assert staged is not None
    assert staged.roles == ("staged",)
    assert len(world.entries()) == 1
    assert world.host.upgrade(download_only=True).outcome == "unchanged"
    found = world.host.check()
    assert (found.available, found.staged) == (False, True)

    assert world.host.upgrade().outcome == "deployed"
    assert world.versions() == ["1.1", "1.0"]


def test_what_was_downloaded_is_taken_without_its_source(world: World) -> None:
    world.install(os_image("1.0"))
    with pytest.raises(NothingStaged):
        world.host.upgrade(from_downloaded=True)
    world.publish(os_image("1.1"))
    world.host.upgrade(download_only=True)
    world.publish(os_image("1.2"))  # nobody has asked for that one
    shutil.rmtree(world.directory / "layout")
    for wrong in ({"download_only": True}, {"take_from": world.image}):
        with pytest.raises(UsageError):
            world.host.upgrade(from_downloaded=True, **wrong)

    assert world.host.upgrade(from_downloaded=True).outcome == "deployed"
    assert world.versions() == ["1.1", "1.0"]


def test_what_was_downloaded_and_is_not_whole_is_not_taken(world: World) -> None:
    world.install(os_image("1.0"))
    world.publish(os_image("1.1"))
    staged = world.host.upgrade(download_only=True).deployment
    assert staged is not None
    shutil.rmtree(world.esp / "EFI" / "bootcd" / staged.boot_digest)
    with pytest.raises(Refused, match="not complete any more"):
        world.host.upgrade(from_downloaded=True)
    assert world.host.upgrade().outcome == "deployed"


def test_finalize_leaves_a_mere_download_alone(world: World) -> None:
    world.install(os_image("1.0"))
    world.publish(os_image("1.1"))
    world.host.upgrade(download_only=True)
    assert world.host.finalize().outcome == "unchanged"
    assert len(world.entries()) == 1


def test_unstage_forgets_what_was_staged(world: World) -> None:
    world.install(os_image("1.0"))
    with pytest.raises(NothingStaged):
        world.host.unstage()
    world.publish(os_image("1.1"))
    world.host.upgrade(download_only=True)

    world.host.unstage()
    assert world.versions() == ["1.0"]
    assert world.host.cleanup().objects > 0
    assert len(os.listdir(world.sysroot / "state/deploy")) == 1


@pytest.mark.parametrize("what", ["etc", "state"])
def test_a_reset_where_nothing_runs_is_done_at_once(world: World, what: str) -> None:
    first = world.install(os_image("1.0"))
    (world.etc(first) / "local").write_text("local\n")
    data = world.sysroot / "state/os/default/var/lib/data"
    data.write_text("local\n")
    assert world.host.reset(what, dry_run=True).outcome == "planned"
    assert (world.etc(first) / "local").exists()

    done = world.host.reset(what)
    assert done.outcome == "deployed"
    assert done.deployment is not None
    assert (done.deployment.generation, done.deployment.reset) == (2, "")
    assert not (world.etc(first) / "local").exists()
    assert data.exists() is (what == "etc")
    assert world.entries() == [f"bootcd-0000000002-{first.id[:12]}+3.conf"]
    assert world.host.reset(what).outcome == "unchanged"
    with pytest.raises(UsageError):
        world.host.reset("var")


def test_a_newer_image_takes_the_place_of_a_staged_one(world: World) -> None:
    world.install(os_image("1.0"))
    world.publish(os_image("1.1"))
    world.host.upgrade(download_only=True)
    world.upgrade(os_image("1.2"))
    assert world.versions() == ["1.2", "1.0"]


def test_an_image_that_was_taken_back_is_not_booted(world: World) -> None:
    world.install(os_image("1.0"))
    world.publish(os_image("1.1"))
    world.host.upgrade(download_only=True)
    world.publish(os_image("1.0"))

    assert world.host.upgrade().outcome == "unstaged"
    assert world.versions() == ["1.0"]


def test_switch_follows_another_reference(world: World) -> None:
    world.install(os_image("1.0"))
    world.publish(os_image("2.0"), "beta")
    other = world.image.replace(":latest", ":beta")

    assert world.host.switch(other).outcome == "deployed"
    assert world.host.check().image == other
    world.publish(os_image("2.1"), "beta")
    assert world.host.upgrade().deployment.version == "2.1"  # type: ignore[union-attr]


def test_switch_to_the_image_that_runs_only_changes_the_reference(world: World) -> None:
    world.install(os_image("1.0"))
    world.publish(os_image("1.0"), "stable")
    result = world.host.switch(world.image.replace(":latest", ":stable"))
    assert result.outcome == "unchanged"
    assert world.host.status().deployments[0].image.endswith(":stable")


def test_going_back_to_an_image_that_is_kept_takes_its_deployment(world: World) -> None:
    first = world.install(os_image("1.0"))
    world.upgrade(os_image("1.1"))
    again = world.upgrade(os_image("1.0"), allow_downgrade=True)
    assert again.id == first.id
    assert world.versions() == ["1.0", "1.1"]


def test_kernel_arguments_of_image_and_machine(world: World) -> None:
    kargs = (Dir("usr/lib/bootc"), Dir("usr/lib/bootc/kargs.d"),
             File("usr/lib/bootc/kargs.d/10-console.toml", b'kargs = ["console=ttyS0"]\n'))
    world.publish(os_image("1.0", kargs))
    world.host.install(world.image, kargs=["root=LABEL=disk"])
    second = world.upgrade(os_image("1.1"))

    first = world.host.status().deployments[1]
    assert first.options.split()[1:] == ["console=ttyS0", "root=LABEL=disk"]
    assert second.options.split()[1:] == ["root=LABEL=disk"]


def test_local_changes_to_etc_are_taken_along(world: World) -> None:
    first = world.install(os_image("1.0", [File("etc/plain", b"image\n"), File("etc/doomed", b"image\n")]))
    etc = world.etc(first)
    (etc / "hostname").write_text("machine\n")
    (etc / "version.conf").write_text("local\n")
    (etc / "doomed").unlink()
    second = world.upgrade(os_image("1.1", [File("etc/plain", b"newer\n"), File("etc/doomed", b"image\n")]))

    etc = world.etc(second)
    assert (etc / "hostname").read_text() == "machine\n"
    assert (etc / "version.conf").read_text() == "local\n"
    assert (etc / "plain").read_text() == "newer\n"
    assert not (etc / "doomed").exists()
    assert second.etc.both_changed == ("version.conf",)
    assert second.etc.added == ("hostname",)
    assert second.etc.deleted == ("doomed",)


def test_local_files_get_their_labels_by_the_new_policy(world: World) -> None:
    """But for those whose label somebody chose."""
    def version(name: str, label: str) -> ImageBuilder:
        files = "etc/selinux/targeted/contexts/files"
        parts = files.split("/")
        directories = (Dir("/".join(parts[:depth])) for depth in range(2, len(parts) + 1))
        return os_image(name, [*directories, File("etc/selinux/config", b"SELINUXTYPE=targeted\n"),
                               File(f"{files}/file_contexts", f"/etc/mine.* -- {label}\n".encode())])

    etc = world.etc(world.install(version("1.0", "old_t")))
    for name, label in (("mine", "old_t"), ("mine-too", "chosen_t")):
        (etc / name).write_text("local\n")
        os.setxattr(etc / name, "security.selinux", label.encode())

    etc = world.etc(world.upgrade(version("2.0", "new_t")))

    assert os.getxattr(etc / "mine", "security.selinux") == b"new_t"
    assert os.getxattr(etc / "mine-too", "security.selinux") == b"chosen_t"


def test_etc_of_the_old_deployment_stays_as_it_was(world: World) -> None:
    first = world.install(os_image("1.0"))
    (world.etc(first) / "hostname").write_text("old\n")
    second = world.upgrade(os_image("1.1"))
    (world.etc(second) / "hostname").write_text("new\n")
    assert (world.etc(first) / "hostname").read_text() == "old\n"


def test_a_conflict_in_etc_stops_before_anything_is_staged(world: World) -> None:
    first = world.install(os_image("1.0", [File("etc/thing", b"file\n")]))
    (world.etc(first) / "thing").write_text("mine\n")
    world.publish(os_image("1.1", [Dir("etc/thing"), File("etc/thing/part", b"x")]))

    with pytest.raises(EtcConflict, match="'thing'"):
        world.host.upgrade()
    assert world.versions() == ["1.0"]
    assert len(world.entries()) == 1


def test_var_is_shared_and_never_overwritten(world: World) -> None:
    first = world.install(os_image("1.0"))
    seed = world.sysroot / "state/deploy" / first.id / "var/lib/seed"
    seed.write_text("mine\n")
    second = world.upgrade(os_image("1.1"))
    assert (world.sysroot / "state/deploy" / second.id / "var/lib/seed").read_text() == "mine\n"


def test_etc_is_explained(world: World) -> None:
    first = world.install(os_image("1.0"))
    (world.etc(first) / "version.conf").write_text("mine\n")
    (difference,) = world.host.etc_diff(text=True).differences
    assert (difference.path, difference.kind, difference.what) == ("version.conf", "changed", ("content",))
    assert "-version = 1.0\n+mine\n" in difference.text
    assert world.host.etc_rules("version.conf").rules == ()
    second = world.upgrade(os_image("1.1"))
    (decision,) = world.host.etc_report().etc.decisions
    assert (decision.path, decision.here, decision.image, decision.taken) == (
        "version.conf", "changed", "changed", "local")
    assert world.host.status().deployments[0].etc.decisions == second.etc.decisions == (decision,)
    (item,) = world.host.etc_reset(["/etc/version.conf"]).items
    assert (world.etc(second) / "version.conf").read_text() == "version = 1.1\n"
    assert (world.etc(second) / item.aside).read_text() == "mine\n"


def test_modes_of_etc_are_those_of_the_image(world: World) -> None:
    deployment = world.install(os_image("1.0", [File("etc/shadow", b"secret", mode=0o600)]))
    assert stat.S_IMODE((world.etc(deployment) / "shadow").stat().st_mode) == 0o600


def test_foreign_boot_entries_and_files_are_never_touched(world: World) -> None:
    world.install(os_image("1.0"))
    foreign = world.esp / "loader/entries/fedora.conf"
    foreign.write_text("title Fedora\nlinux /vmlinuz\n")
    broken = world.esp / "loader/entries/broken.conf"
    broken.write_bytes(b"\xff\xfe nonsense")
    other = world.esp / "EFI/bootcd/README"
    other.write_text("not ours\n")
    for version in ("1.1", "1.2", "1.3"):
        world.upgrade(os_image(version))
    world.host.rollback()
    world.host.cleanup()

    assert foreign.read_text() == "title Fedora\nlinux /vmlinuz\n"
    assert broken.exists()
    assert other.exists()


def test_bootc_at_work_is_noticed_before_it_takes_entries_away(world: World) -> None:
    world.install(os_image("1.0"))
    world.upgrade(os_image("1.1"))
    before = world.entries()
    staged = world.esp / "loader/entries.staged"
    staged.mkdir()
    (staged / "bootc_os-1-1.conf").write_text("title bootc\n")
    world.publish(os_image("1.2"))

    for change in (world.host.upgrade, world.host.rollback):
        with pytest.raises(Refused, match="bootc has a deployment staged"):
            change()
    assert world.entries() == before
    assert any("bootc has a deployment staged" in warning for warning in world.host.status().warnings)
    shutil.rmtree(staged)
    world.host.upgrade()
    assert world.versions()[0] == "1.2"


def test_an_image_without_a_kernel_is_refused_before_anything_changes(world: World) -> None:
    world.install(os_image("1.0"))
    bare = os_image("1.1", base=Layer([Dir(name) for name in ("boot", "etc", "sysroot", "usr", "usr/lib", "usr/bin",
                                                              "var")]))
    world.publish(bare)
    with pytest.raises(NotBootable, match="kernel"):
        world.host.upgrade()
    assert world.versions() == ["1.0"]
    assert len(world.entries()) == 1


def test_without_an_installation(world: World) -> None:
    assert world.host.status().deployments == ()
    with pytest.raises(RepositoryNotFound):
        world.host.check()
    world.esp.mkdir()
    with pytest.raises(RepositoryNotFound):
        world.host.upgrade()


def test_bad_entries_are_passed_over(world: World) -> None:
    first = world.install(os_image("1.0"))
    second = world.upgrade(os_image("1.1"))
    counted = world.esp / "loader/entries" / f"bootcd-0000000002-{second.id[:12]}+3.conf"
    counted.rename(counted.with_name(f"bootcd-0000000002-{second.id[:12]}+0-3.conf"))

    deployments = world.host.status().deployments
    assert [info.id for info in deployments] == [first.id, second.id]
    assert deployments[0].roles == ("default",)
    assert deployments[1].health == "bad"
    with pytest.raises(NoRollback):
        world.host.rollback()


def sealed(version: str, digest: str, extra: Iterable[Entry] = ()) -> ImageBuilder:
    """An image whose UKI carries a digest on its command line."""
    uki = make_pe({".linux": b"kernel", ".initrd": b"initrd",
                   ".cmdline": f"composefs.digest=?v1-sha512-12:{digest} quiet".encode()})
    return os_image(version, [Dir("boot/EFI"), Dir("boot/EFI/Linux"), File("boot/EFI/Linux/os.efi", uki),
                              Dir("boot/EFI/Linux/os.efi.extra.d"), File(
                                  "boot/EFI/Linux/os.efi.extra.d/debug.addon.efi", make_pe({".cmdline": b"debug"})),
                              *extra])


def test_a_uki_is_taken_if_it_carries_the_digest_of_its_image(world: World) -> None:
    world.install(os_image("0.9"))
    world.publish(sealed("1.0", "0" * 128))
    with pytest.raises(SealMismatch, match=r"os\.efi names 000000000000"):
        world.host.upgrade()

    # The digest does not depend on the UKI, since /boot is empty in the image that is booted.
    digest = world.host.image_pull(world.image, name="probe", bootable=True).image.boot_id
    deployment = world.upgrade(sealed("1.0", digest))

    assert (deployment.id, deployment.boot_type) == (digest, "uki")
    assert (world.esp / f"EFI/bootcd/{digest}.efi").read_bytes().startswith(b"MZ")
    assert (world.esp / f"EFI/bootcd/{digest}.efi.extra.d/debug.addon.efi").exists()
    entry = (world.esp / "loader/entries" / world.entries()[-1]).read_text()
    assert f"/EFI/bootcd/{digest}.efi" in entry
    assert "options" not in entry
    assert deployment.options == f"composefs.digest=?v1-sha512-12:{digest} quiet debug", "of the UKI and its addon"
    chain = world.host.status().chain
    assert chain is not None
    assert chain.signature == SignatureInfo("absent")
    assert (chain.digest, chain.verity_required, chain.sealed) == (True, False, False)


def test_an_upgrade_brings_a_lost_kernel_back(world: World) -> None:
    world.install(os_image("1.0"))
    second = world.upgrade(os_image("1.1", base=base_layer(kernel=b"another kernel")))
    shutil.rmtree(world.esp / f"EFI/bootcd/{second.boot_digest}")
    assert world.versions() == ["1.0", "1.1"]
    assert world.host.upgrade().outcome == "deployed"
    assert world.versions() == ["1.1", "1.0"]
    assert world.host.fsck().ok


def test_a_damaged_kernel_is_found_and_copied_again(world: World) -> None:
    deployment = world.install(os_image("1.0"))
    kernel = world.esp / f"EFI/bootcd/{deployment.boot_digest}/vmlinuz"
    kernel.write_bytes(b"kernel two")

    found = world.host.fsck()
    assert not found.ok
    assert [(item.kind, item.what) for item in found.findings] == [("kernel-damaged", deployment.boot_digest)]

    assert world.host.fsck(repair=True).ok
    assert kernel.read_bytes() == b"kernel one"
    assert world.host.fsck().ok


def test_an_esp_that_was_replaced_is_filled_again(world: World) -> None:
    world.install(os_image("1.0"))
    world.upgrade(os_image("1.1", base=base_layer(kernel=b"another kernel")))
    before = world.entries()
    shutil.rmtree(world.esp)
    world.esp.mkdir()

    assert "no boot entry leads to any deployment" in world.host.status().warnings
    with pytest.raises(Refused, match="nothing is collected"):
        world.host.cleanup()
    assert {item.kind for item in world.host.fsck().findings} == {"entry-missing", "kernel-damaged"}

    assert world.host.fsck(repair=True).ok
    assert [name.replace("+3", "") for name in before] == world.entries()
    assert world.versions() == ["1.1", "1.0"]
    assert world.host.fsck().ok


def test_a_generation_is_never_used_again(world: World) -> None:
    world.install(os_image("1.0"))
    second = world.upgrade(os_image("1.1"))
    counted = world.esp / "loader/entries" / f"bootcd-0000000002-{second.id[:12]}+3.conf"
    counted.rename(counted.with_name(f"bootcd-0000000002-{second.id[:12]}+0-3.conf"))
    for path in (world.sysroot / "state/bootcd/deployments").glob(f"{second.id}*"):
        path.unlink()
    world.host.cleanup()
    assert world.upgrade(os_image("1.2")).generation == 3


def test_state_of_others_is_left_alone(world: World) -> None:
    world.install(os_image("1.0"))
    foreign = world.sysroot / "state/deploy" / ("ab" * 64) / "etc"
    foreign.mkdir(parents=True)
    world.upgrade(os_image("1.1"))
    world.host.cleanup()
    assert foreign.exists()


def test_an_image_for_another_machine_is_refused(world: World) -> None:
    world.install(os_image("1.0"))
    other = ImageBuilder(os_image("1.1").layers, platform=Platform("linux", "s390x"))
    world.publish(other)
    with pytest.raises(NoMatchingPlatform, match="s390x"):
        world.host.upgrade()


def test_a_download_of_what_is_kept_changes_nothing(world: World) -> None:
    world.install(os_image("1.1"))
    world.upgrade(os_image("1.0"), allow_downgrade=True)
    before = world.entries()
    world.publish(os_image("1.1"))
    assert world.host.upgrade(download_only=True).outcome == "unchanged"
    assert world.entries() == before


def test_two_installations_may_share_an_esp(world: World) -> None:
    first = world.install(os_image("1.0"))
    other = World(world.directory / "second", world.connect, world.boot)
    other.install(os_image("2.0", base=base_layer(kernel=b"another kernel")))
    other.upgrade(os_image("2.1", base=base_layer(kernel=b"a third kernel")))
    other.host.cleanup()

    assert any(first.id[:12] in name for name in world.entries())
    assert first.boot_digest in world.kernels()
    assert world.host.fsck().ok


def test_one_record_that_cannot_be_read_blocks_no_way_back(world: World) -> None:
    world.install(os_image("1.0"))
    world.host.pin("1.0", "first")
    world.upgrade(os_image("1.1"))
    world.upgrade(os_image("1.2"))
    damaged = next(info for info in world.host.status().deployments if info.version == "1.0")
    (world.sysroot / f"state/bootcd/deployments/{damaged.id}.json").write_text("{")

    assert world.host.rollback().deployment.version == "1.1"  # type: ignore[union-attr]
    with pytest.raises(Refused, match="cannot be read"):
        world.host.cleanup()
    assert world.etc(damaged).is_dir()
    assert any(damaged.id[:12] in name for name in world.entries())


def test_records_keep_their_objects_whatever_happens_to_names(world: World) -> None:
    deployment = world.install(os_image("1.0"))
    (world.sysroot / "composefs/images/refs/bootcd" / deployment.id).unlink()
    for tag in (world.sysroot / "composefs/streams/refs/oci").iterdir():
        tag.unlink()
    assert world.host.cleanup().objects == 0
    assert world.host.fsck().ok


def test_a_uki_that_was_signed_anew_is_installed(world: World) -> None:
    world.install(os_image("0.9"))
    world.publish(sealed("1.0", "0" * 128))
    digest = world.host.image_pull(world.image, name="probe", bootable=True).image.boot_id
    world.upgrade(sealed("1.0", digest))
    addons = "boot/EFI/Linux/os.efi.extra.d"
    again = sealed("1.0", digest, [Whiteout(f"{addons}/debug.addon.efi"),
                                   File(f"{addons}/quiet.addon.efi", make_pe({".cmdline": b"other"}))])
    assert world.upgrade(again).id == digest
    assert (world.esp / f"EFI/bootcd/{digest}.efi.extra.d/quiet.addon.efi").exists()


def test_a_sealed_image_takes_the_place_of_a_plain_one_with_the_same_tree(world: World) -> None:
    # /boot is empty in the image that is booted, so both have the same id.
    def plain(version: str) -> ImageBuilder:
        return os_image(version, [Dir("boot/EFI"), Dir("boot/EFI/Linux")])

    first = world.install(plain("1.0"))
    second = world.upgrade(sealed("1.0", first.id))
    assert (second.id, second.boot_type, second.generation) == (first.id, "uki", 2)
    assert world.host.status().chain.digest is True  # type: ignore[union-attr]
