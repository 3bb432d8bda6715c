# SPDX-License-Identifier: Apache-2.0
"""Which links of the chain of trust are told to hold, for a UKI as sbsign signs it and for what is not one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.boot import loader
from bootcd.cli import chain_output
from bootcd.ops import chain, images, update
from bootcd.ops.results import ChainInfo, SignatureInfo
from formats.test_authenticode import X509, Desk, key_list
from kit.images import Dir, File, ImageBuilder
from kit.os_images import os_image
from kit.pefiles import make_pe
from ops.test_running import World

pytestmark = pytest.mark.skipif(shutil.which("sbsign") is None, reason="sbsigntool is not installed")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = Desk(tmp_path_factory.mktemp("desk"))
    made.key("ours")
    made.key("other")
    return made


def image(uki: bytes) -> ImageBuilder:
    return os_image("2.0", [Dir("boot/EFI"), Dir("boot/EFI/Linux"), File("boot/EFI/Linux/os.efi", uki)])


def uki(cmdline: str) -> bytes:
    return make_pe({".linux": b"kernel", ".initrd": b"initrd", ".cmdline": cmdline.encode()})


class Sealed(World):
    """A machine that runs a UKI, and firmware that trusts the key `ours`."""

    def __init__(self, path: Path, desk: Desk) -> None:
        super().__init__(path)
        self.variables = path / "efivars"
        self.variables.mkdir()
        self.trust(desk.der("ours"))
        layout = f"oci:{path}/layout:latest"
        image(b"MZ").write_layout(path / "layout", "latest")  # the digest does not depend on the UKI
        self.id = images.image_pull(self.machine, layout, name="probe", bootable=True).image.boot_id
        self.cmdline = f"quiet composefs.digest=v1-sha512-12:{self.id}"
        image(desk.sign("ours", uki(self.cmdline))).write_layout(path / "layout", "latest")
        assert self.upgrade_again() == "staged"
        update.finalize(self.machine)
        self.reboot()
        self.uki = Path(self.machine.esp().join(f"EFI/bootcd/{self.id}.efi"))

    def upgrade_again(self) -> str:
        return update.upgrade(self.machine, download_only=False, allow_rejected=False).outcome

    def trust(self, *certificates: bytes, variable: str = f"db-{loader.SECURITY_GUID}") -> None:
        lists = b"".join(key_list(X509, one) for one in certificates)
        (self.variables / variable).write_bytes(bytes(4) + lists)

    def chain(self) -> ChainInfo:
        found = self.status().chain
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Sealed:
    monkeypatch.setattr(chain, "key_variables", lambda: loader.key_variables(str(tmp_path / "efivars")))
    made = Sealed(tmp_path, desk)
    monkeypatch.setattr(chain, "read_cmdline", lambda: made.cmdline)
    return made


def test_who_signed_and_whether_the_firmware_trusts_him(world: Sealed) -> None:
    found = world.chain()
    assert found.signature == SignatureInfo("valid", "CN=ours,O=Test", True)
    assert (found.digest, found.verity_required, found.soft_reboot, found.sealed) == (True, True, False, True)
    assert world.info("booted").options == world.cmdline


@pytest.mark.parametrize("how", ["other-key", "revoked", "by-shim", "unreadable", "malformed"])
def test_what_the_keys_of_the_firmware_say(world: Sealed, desk: Desk, how: str) -> None:
    wanted: bool | None = False
    if how in ("other-key", "by-shim"):
        world.trust(desk.der("other"))
    if how == "revoked":
        world.trust(desk.der("ours"), variable=f"dbx-{loader.SECURITY_GUID}")
    if how == "by-shim":
        world.trust(desk.der("ours"), variable=f"MokListRT-{loader.SHIM_GUID}")
        wanted = True
    if how in ("unreadable", "malformed"):
        (world.variables / f"db-{loader.SECURITY_GUID}").write_bytes(b"" if how == "unreadable" else bytes(10))
        wanted = None
    assert world.chain().signature == SignatureInfo("valid", "CN=ours,O=Test", wanted)


@pytest.mark.parametrize(("spoil", "state", "problem"), [
    (lambda data: data.replace(b"quiet", b"QUIET"), "broken", "the file was changed after it was signed"),
    (lambda data: data[:-100] + bytes(100), "broken", "the signature"),
    (lambda data: data[:-8], "unknown", "are not the end of the file"),
    (lambda data: data[:100], "unknown", "the PE header"),
    (lambda data: b"", "unknown", "this is no PE file"),
], ids=["content", "signature", "cut-off", "headers-only", "empty"])
def test_a_uki_that_was_changed(world: Sealed, spoil: Callable[[bytes], bytes], state: str, problem: str) -> None:
    world.uki.write_bytes(spoil(world.uki.read_bytes()))
    found = world.chain()
    assert found.signature is not None
    assert (found.signature.state, found.signature.signer) == (state, "")
    assert problem in found.signature.problem
    assert found.sealed is (False if state == "broken" else None)


def test_a_uki_that_nobody_signed(world: Sealed) -> None:
    world.uki.write_bytes(uki(world.cmdline))
    found = world.chain()
    assert found.signature == SignatureInfo("absent")
    assert (found.digest, found.sealed) == (True, False)


@pytest.mark.parametrize(("old", "new", "expected"), [
    ("=v1", "=?v1", (True, False)), ("{id}", "0" * 128, (False, True)), ("composefs", "other", (None, None)),
    ("sha512-12:", "sha512-12:0", (None, None)),
], ids=["question-mark", "another-image", "no-image", "malformed"])
def test_what_the_command_line_of_a_signed_uki_names(
    world: Sealed, desk: Desk, old: str, new: str, expected: tuple[bool | None, bool | None],
) -> None:
    changed = world.cmdline.replace(old.format(id=world.id), new)
    world.uki.write_bytes(desk.sign("ours", uki(changed)))
    found = world.chain()
    assert (found.digest, found.verity_required) == expected
    assert found.sealed is (False if False in expected else None)


def test_a_uki_that_is_not_there(world: Sealed) -> None:
    world.uki.unlink()
    found = world.chain()
    assert found.signature is not None
    assert found.signature.state == "unknown"
    assert "No such file" in found.signature.problem
    assert (found.digest, found.sealed) == (None, None)


def test_a_boot_entry_is_signed_by_nobody(tmp_path: Path) -> None:
    found = World(tmp_path).status().chain
    assert found is not None
    assert found.signature is None
    assert (found.digest, found.sealed) == (True, False)
    assert found.verity_required is found.repository_verity


def test_a_soft_reboot_is_told(world: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "read_cmdline", lambda: f"composefs={'1' * 128}")
    assert world.chain().soft_reboot


GOOD = ChainInfo(True, True, True, True, SignatureInfo("valid", "CN=ours", True), True, True)


@pytest.mark.parametrize(("info", "row"), [
    (GOOD, ("  Secure Boot", "on")),
    (replace(GOOD, secure_boot=False), ("  Secure Boot", "off: the firmware starts whatever it finds")),
    (GOOD, ("  UKI", "signed by CN=ours, whom the firmware trusts")),
    (replace(GOOD, signature=SignatureInfo("valid", "CN=x", False)),
     ("  UKI", "signed by CN=x, whom the firmware does not trust")),
    (replace(GOOD, signature=SignatureInfo("valid", "CN=x")), ("  UKI", "signed by CN=x")),
    (replace(GOOD, signature=SignatureInfo("absent")), ("  UKI", "not signed")),
    (replace(GOOD, signature=SignatureInfo("broken", problem="why")), ("  UKI", "signature broken: why")),
    (replace(GOOD, signature=SignatureInfo("unknown", problem="why")), ("  UKI", "unknown: why")),
    (replace(GOOD, signature=None), ("  boot entry", "signed by nobody, and neither are kernel and initrd")),
    (GOOD, ("  digest", "the UKI names this deployment and demands fs-verity")),
    (replace(GOOD, verity_required=False),
     ("  digest", "the UKI names this deployment, but does not demand fs-verity")),
    (replace(GOOD, digest=False, signature=None), ("  digest", "wrong: the boot entry names another image")),
    (replace(GOOD, digest=None), ("  digest", "unknown: the UKI cannot be read, or names no image")),
    (GOOD, ("  image", "measured by fs-verity")),
    (replace(GOOD, image_verity=False), ("  image", "damaged, or without fs-verity")),
    (replace(GOOD, image_verity=False, repository_verity=False),
     ("  image", "measured when it is mounted, and not guarded later")),
    (replace(GOOD, repository_verity=False), ("  files", "not guarded: this file system has no fs-verity")),
    (replace(GOOD, sealed=None), ("  sealed", "unknown")),
    (replace(GOOD, soft_reboot=True), ("  kernel", "started with another deployment; this one was entered by a soft "
                                       "reboot")),
])
def test_the_words(info: ChainInfo, row: tuple[str, str]) -> None:
    assert row in chain_output.rows(info)
