# SPDX-License-Identifier: Apache-2.0
"""A machine that bootc has installed becomes one of bootcd, or is left as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from bootcd.boot.esp import Esp
from bootcd.config import Config
from bootcd.deploy.records import Record, Records
from bootcd.errors import EspFull, NotAdoptable, Refused
from bootcd.layout import BOOTC_TAG_PREFIX, Sysroot
from bootcd.model import SilentProgress
from bootcd.ops import adopt, collect, update, verify
from bootcd.ops.status import status
from bootcd.store.ociimages import OciImages
from bootcd.store.repository import Repository
from crash.program import snapshot
from kit.bootc import image, install_as_bootc
from kit.images import Dir, File
from kit.pefiles import make_pe
from ops.test_running import Running


class World:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.machine = Running(Sysroot(path / "sysroot"), path / "esp", Config(), SilentProgress())
        self.newest, self.oldest = install_as_bootc(path, image("41.1"), image("41.2", kernel=b"kernel two"))
        etc = path / "sysroot/state/deploy" / self.newest.id / "etc"
        (etc / "hostname").write_text("machine\n")
        self.entries = path / "esp/loader/entries"

    def adopt(self, *, dry_run: bool = False) -> str:
        return adopt.adopt(self.machine, dry_run=dry_run).outcome

    def records(self) -> dict[str, Record]:
        return Records(self.machine.sysroot.records).load()[0]

    def origin(self) -> Path:
        return self.path / "sysroot/state/deploy" / self.newest.id / f"{self.newest.id}.origin"

    def entry(self) -> Path:
        """The default's."""
        return self.entries / "bootc_test-41.2-1.conf"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_deployments_of_bootc_become_ours(world: World) -> None:
    (world.path / "esp/EFI/foreign").mkdir()
    (world.path / "esp/EFI/foreign/loader.efi").write_bytes(b"MZ")
    (world.entries / "foreign.conf").write_text("title Foreign\nefi /EFI/foreign/loader.efi\n")
    before = snapshot(world.path / "sysroot/state/os")
    world.machine.runs.append(world.newest.id)
    assert world.adopt() == "adopted"

    found = status(world.machine)
    assert [(info.version, info.generation, info.roles) for info in found.deployments] == [
        ("41.2", 2, ("booted", "default")), ("41.1", 1, ("rollback",))]
    assert [warning for warning in found.warnings if "fs-verity" not in warning] == []
    assert [(info.health, info.health_reason) for info in found.deployments] == [
        ("good", "it ran when it was adopted"), ("untried", "")]
    for one in (world.newest, world.oldest):
        adopted = world.records()[one.id]
        for name in ("image", "manifest_digest", "config_digest", "boot_type", "boot_digest", "composefs_karg",
                     "version", "title", "created", "kernel_version", "image_kargs", "own"):
            assert getattr(adopted, name) == getattr(one, name), name
        assert sorted(adopted.options.split()) == sorted(one.options.split())
        assert adopted.composefs_karg.startswith("composefs=?")
    assert sorted(path.name for path in world.entries.iterdir()) == [
        f"bootcd-0000000001-{world.oldest.id[:12]}.conf", f"bootcd-0000000002-{world.newest.id[:12]}.conf",
        "foreign.conf"]
    assert not list((world.path / "esp/EFI/Linux").iterdir())
    for one in (world.newest, world.oldest):
        kernel = world.path / "esp/EFI/bootcd" / one.boot_digest
        assert hashlib.sha256((kernel / "vmlinuz").read_bytes() + (kernel / "initrd").read_bytes()
                              ).hexdigest() == one.boot_digest
    assert snapshot(world.path / "sysroot/state/os") == before
    assert verify.verify(world.machine, repair=False, metadata_only=False).ok
    assert world.adopt() == "unchanged"


def test_an_adopted_machine_goes_on(world: World) -> None:
    world.machine.runs.append(world.newest.id)
    world.adopt()
    image("41.3").write_layout(world.path / "layout", "latest")
    assert update.upgrade(world.machine, download_only=False, allow_rejected=False).outcome == "staged"
    update.finalize(world.machine)
    found = status(world.machine).deployments
    assert [(info.version, info.generation) for info in found] == [("41.3", 3), ("41.2", 2), ("41.1", 1)]
    assert "root=UUID=1-2 rw" in found[0].options
    assert (world.path / "sysroot/state/deploy" / found[0].id / "etc/hostname").read_text() == "machine\n"
    world.machine.runs.append(found[0].id)
    collect.cleanup(world.machine, dry_run=False)
    with Repository.open(world.path / "sysroot/composefs") as repository:
        tags = OciImages(repository).tags()
    assert [tag for tag in tags if tag.startswith(BOOTC_TAG_PREFIX)] == []
    assert not (world.path / "sysroot/state/deploy" / world.oldest.id).exists(), "its state is ours to collect now"


def test_a_dry_run_changes_nothing(world: World) -> None:
    before = snapshot(world.path)
    assert world.adopt(dry_run=True) == "planned"
    assert snapshot(world.path) == before


def test_a_uki_with_its_addons_is_adopted(tmp_path: Path) -> None:
    (kernel_only,) = install_as_bootc(tmp_path / "probe", image("1.0"), machine_kargs=())
    cmdline = f"quiet composefs=?{kernel_only.id}".encode()
    uki = make_pe({".linux": b"kernel", ".initrd": b"initrd", ".cmdline": cmdline})
    extra = "boot/EFI/Linux/os.efi.extra.d"
    sealed = image("1.0", extra=[Dir("boot/EFI"), Dir("boot/EFI/Linux"), File("boot/EFI/Linux/os.efi", uki), Dir(extra),
                                 File(f"{extra}/debug.addon.efi", make_pe({".cmdline": b"debug"}))])
    (one,) = install_as_bootc(tmp_path / "world", sealed, machine_kargs=())
    assert (one.boot_type, one.id) == ("uki", kernel_only.id)
    machine = Running(Sysroot(tmp_path / "world/sysroot"), tmp_path / "world/esp", Config(), SilentProgress())
    addon = tmp_path / f"world/esp/EFI/Linux/bootc/bootc_composefs-{one.id}.efi.extra.d/debug.addon.efi"
    away = addon.rename(tmp_path / "away")
    with pytest.raises(NotAdoptable, match="addons"):
        adopt.adopt(machine, dry_run=False)
    away.rename(addon)
    assert adopt.adopt(machine, dry_run=False).outcome == "adopted"
    adopted = Records(machine.sysroot.records).load()[0][one.id]
    assert (adopted.sealed_kargs, adopted.composefs_karg) == (one.sealed_kargs, one.composefs_karg)
    assert sorted(path.name for path in (tmp_path / "world/esp/EFI/bootcd").iterdir()) == [
        f"{one.id}.efi", f"{one.id}.efi.extra.d"]
    assert not list((tmp_path / "world/esp/EFI/Linux/bootc").iterdir())


def _edit(path: Callable[[World], Path], old: str, new: str) -> Callable[[World], None]:
    def edit(world: World) -> None:
        text = path(world).read_text()
        assert old in text
        path(world).write_text(text.replace(old, new))
    return edit


def _remove_image(world: World) -> None:
    with Repository.open(world.path / "sysroot/composefs") as repository:
        (Path(world.path) / "sysroot/composefs/images" / world.newest.id).unlink()
        assert not repository.images.has(bytes.fromhex(world.newest.id))


def _remove_layer(world: World) -> None:
    for layer in (world.path / "sysroot/composefs/streams").glob("oci-layer-*"):
        layer.unlink()


def _staged(world: World) -> None:
    (world.path / "esp/loader/entries.staged").mkdir()
    (world.path / "esp/loader/entries.staged/bootc_test-3-1.conf").write_text("title x\n")


def _two_entries(world: World) -> None:
    (world.entries / "bootc_test-41.2-0.conf").write_text(world.entry().read_text())


def _runs_another(world: World) -> None:
    world.machine.runs.append("f" * 128)


def _other_kernel(world: World) -> None:
    _edit(World.origin, f"digest={world.newest.boot_digest}", "digest=" + "0" * 64)(world)


def _no_kernel(world: World) -> None:
    (world.path / f"esp/EFI/Linux/bootc_composefs-{world.newest.id}/vmlinuz").unlink()


def _own_var(world: World) -> None:
    link = world.origin().parent / "var"
    link.unlink()
    link.symlink_to("../../os/other/var")


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda world: world.origin().unlink(), "origin is missing"),
    (_edit(World.origin, "boot_type=bls", "boot_type=kexec"), "boot_type"),
    (_edit(World.origin, "boot_type=bls", "boot_type=uki"), "its origin says uki"),
    (_edit(World.origin, "[image]", "[images]"), "names no manifest"),
    (_edit(World.origin, "manifest_digest=sha256:", "manifest_digest=sha256:0000"), "names no manifest"),
    (_edit(World.origin, "unverified-image:oci:", "unverified-image:containers-storage:"), "cannot follow"),
    (_edit(World.entry, "linux /EFI/Linux/bootc_composefs-", "linux /EFI/other/"), "which is not where bootc"),
    (_edit(World.entry, "composefs=?", "other=?"), "names 0 images"),
    (_edit(World.entry, "composefs=?", "composefs=?zz"), "malformed"),
    (lambda world: world.entry().write_bytes(b"\xff\xfe"), "no UTF-8"),
    (lambda world: (world.origin().parent / "etc").rename(world.path / "away"), "etc is missing"),
    (_remove_image, "image is not in the repository"), (_remove_layer, "is not in the repository"),
    (_staged, "has something staged"), (_two_entries, "more than one boot entry"),
    (_runs_another, "running deployment ffffffffffff"), (_other_kernel, "another kernel"), (_no_kernel, "is missing"),
    (_own_var, "does not lead to"),
])
def test_what_is_not_understood_changes_nothing(world: World, spoil: Callable[[World], None], said: str) -> None:
    spoil(world)
    before = snapshot(world.path)
    with pytest.raises(NotAdoptable, match=said):
        world.adopt()
    now = {path: what for path, what in snapshot(world.path).items() if "/bootcd" not in path}
    assert now == {path: what for path, what in before.items() if "/bootcd" not in path}
    assert not world.records()


def test_where_nothing_is_of_bootc(world: World) -> None:
    for path in world.entries.glob("bootc_*"):
        path.unlink()
    with pytest.raises(NotAdoptable, match="no boot entry in") as error:
        world.adopt()
    assert "GRUB" in error.value.hint
    assert isinstance(error.value, Refused)


def test_kernels_that_do_not_fit_beside_those_of_bootc(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Esp, "free_for_kernels", lambda esp: 5)
    before = snapshot(world.path / "esp")
    with pytest.raises(EspFull, match="5 are free"):
        world.adopt()
    assert snapshot(world.path / "esp") == before


def test_a_kernel_that_somebody_else_starts_stays(world: World) -> None:
    place = f"EFI/Linux/bootc_composefs-{world.newest.id}"
    (world.entries / "mine.conf").write_text(f"title Mine\nlinux /EFI/mine/vmlinuz\ninitrd /{place}/initrd\n")
    world.adopt()
    assert (world.path / "esp" / place / "initrd").exists()
    assert [path.name for path in (world.path / "esp/EFI/Linux").iterdir()] == [Path(place).name]


def test_bootc_at_work_again_is_adopted_again(world: World) -> None:
    old = world.entry().read_text()
    kernel = {path.name: path.read_bytes()
              for path in (world.path / f"esp/EFI/Linux/bootc_composefs-{world.newest.id}").iterdir()}
    world.adopt()
    world.entry().write_text(old)
    place = world.path / f"esp/EFI/Linux/bootc_composefs-{world.newest.id}"
    place.mkdir()
    for name, content in kernel.items():
        (place / name).write_bytes(content)
    assert world.adopt() == "adopted"
    assert sorted(path.name for path in world.entries.iterdir()) == [
        f"bootcd-0000000001-{world.oldest.id[:12]}.conf", f"bootcd-0000000003-{world.newest.id[:12]}.conf"]
