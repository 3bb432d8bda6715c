# SPDX-License-Identifier: Apache-2.0
"""A Debian with systemd boots from a composefs image, through initrds of dracut, initramfs-tools and mkinitcpio; or it
does not, and says why. The kernel is Debian's, in a virtual machine."""

from __future__ import annotations

import pytest

from bootcd.boot.booted import booted_id
from kit import guest, initrd_guest, setup_root

TIMEOUT = 600.0
"""Seconds for one boot; without KVM it takes one to two minutes."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> initrd_guest.Machine:
    reason = guest.why_not()
    if reason is not None:
        pytest.skip(reason)
    if setup_root.compiler() is None:
        pytest.skip("there is no C compiler")
    return initrd_guest.prepare(tmp_path_factory.mktemp("machine"))


@pytest.mark.parametrize("initrd", initrd_guest.INITRDS)
def test_it_boots(machine: initrd_guest.Machine, initrd: str) -> None:
    if initrd not in machine.initrds:
        pytest.skip("mkinitcpio is not installed")
    report, console = machine.boot(initrd, f"composefs.digest=?v1-sha512-12:{machine.id}", TIMEOUT)
    assert booted_id(report, "") == machine.id, console[-3000:]
    mounts = {line.split()[4]: line.split()[5] for line in report.splitlines() if " - " in line}
    assert mounts["/"].startswith("ro")
    assert mounts["/sysroot"].startswith("ro")
    assert mounts["/etc"].startswith("rw")
    assert mounts["/var"].startswith("rw")
    assert "state is writable" in report
    assert "image is not" in report
    assert f"is image {machine.id}, fs-verity absent, /etc bind, /var bind" in report


@pytest.mark.parametrize(("initrd", "kargs"), [
    ("dracut", "rd.shell=0 rd.emergency=poweroff"), ("initramfs-tools", "panic=-1"),
])
def test_it_does_not_boot_what_is_not_verified(machine: initrd_guest.Machine, initrd: str, kargs: str) -> None:
    """fs-verity is demanded and lacks. Nothing but the message, and the end of the machine."""
    report, console = machine.boot(initrd, f"composefs.digest=v1-sha512-12:{machine.id} {kargs}", TIMEOUT)
    assert report == ""
    assert f"bootcd-setup-root: the image {machine.id} has no fs-verity" in console.replace("\r\n", "\n")
