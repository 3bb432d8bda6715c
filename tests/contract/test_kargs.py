# SPDX-License-Identifier: Apache-2.0
"""Kernel arguments: whose they are, what changes them and what does not, whoever answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bootcd.errors import BootcdError, ConfigError, DeploymentNotFound, NotBootable, Refused, UsageError
from bootcd.ops.host import Host
from bootcd.ops.results import Kargs
from kit.images import Dir, File
from kit.os_images import os_image
from kit.pefiles import make_pe
from kit.world import World

OF_IMAGE = (Dir("usr/lib/bootc"), Dir("usr/lib/bootc/kargs.d"),
            File("usr/lib/bootc/kargs.d/10-console.toml", b'kargs = ["console=ttyS0"]\n'))


def owners(shown: Kargs) -> list[tuple[str, str]]:
    """All but the one that names the image."""
    assert (shown.kargs[0].argument[:10], shown.kargs[0].owner) == ("composefs.", "bootcd")
    return [(one.argument, one.owner) for one in shown.kargs[1:]]


def drop_in(world: World, text: str) -> None:
    home = world.etc(world.host.status().deployments[0]) / "bootcd/kargs.d"
    home.mkdir(parents=True, exist_ok=True)
    (home / "50-here.toml").write_text(text)


@pytest.fixture
def installed(world: World) -> World:
    """1.0 has an argument of its image and two of its installation."""
    world.publish(os_image("1.0", OF_IMAGE))
    world.host.install(world.image, kargs=["root=LABEL=disk", "rw"])
    return world


def test_every_argument_has_an_owner_and_follows_upgrades(installed: World) -> None:
    host = installed.host
    drop_in(installed, 'kargs = ["nosmt"]\n')
    assert host.kargs_add(["quiet splash", "panic=1"]).outcome == "changed"
    host.kargs_replace("panic=1", "panic=2")
    host.kargs_replace("rw", "ro")
    host.kargs_remove(["splash"])

    expected = [("console=ttyS0", "image"), ("nosmt", "drop-in"), ("root=LABEL=disk", "machine"), ("ro", "command"),
                ("quiet", "command"), ("panic=2", "command")]
    shown = host.kargs_show()
    assert owners(shown) == expected
    assert (shown.kargs_on_trial, shown.sealed, shown.running, shown.without_effect) == (True, False, (), ())
    (deployment,) = host.status().deployments
    assert (deployment.kargs, deployment.kargs_on_trial) == (shown.kargs, True)
    assert deployment.options == " ".join(one.argument for one in shown.kargs)
    assert installed.entries() == [f"bootcd-0000000001-{deployment.id[:12]}.conf",
                                   f"bootcd-0000000005-{deployment.id[:12]}+3.conf"]

    upgraded = installed.upgrade(os_image("1.1", OF_IMAGE))
    assert owners(host.kargs_show()) == expected
    assert not upgraded.kargs_on_trial
    assert upgraded.options.split()[1:] == [argument for argument, _ in expected]
    upgraded = installed.upgrade(os_image("1.2"))
    assert owners(host.kargs_show()) == expected[1:], "what only the older image has asked for"


def test_drop_ins_are_read_again_on_request(installed: World) -> None:
    host = installed.host
    assert host.kargs_reload().outcome == "unchanged"
    drop_in(installed, 'kargs = ["nosmt"]\n')
    assert host.kargs_show().pending == ("nosmt",)
    assert any("bootcctl kargs reload" in warning for warning in host.status().warnings)
    assert host.kargs_reload().outcome == "changed"
    assert ("nosmt", "drop-in") in owners(host.kargs_show())
    assert host.kargs_show().pending is None
    drop_in(installed, "")
    assert host.kargs_show().pending == ()
    assert host.kargs_reload().message.endswith("the others are not tried any more.")
    assert len(installed.entries()) == 1


def test_drop_ins_that_make_no_sense(installed: World) -> None:
    host = installed.host
    drop_in(installed, "kargs = [oops")
    for request in (host.kargs_reload, lambda: host.kargs_add(["quiet"]), lambda: installed.upgrade(os_image("1.1"))):
        with pytest.raises(ConfigError, match=r"/etc/bootcd/kargs\.d/50-here\.toml: "):
            request()
    assert "/etc/bootcd/kargs.d/50-here.toml: " in host.kargs_show().problem
    assert installed.versions() == ["1.0"]
    assert len(installed.entries()) == 1


@pytest.mark.parametrize(("request_", "error", "words"), [
    (lambda host: host.kargs_add([]), UsageError, "no kernel argument is given"),
    (lambda host: host.kargs_add([""]), UsageError, "it is empty"),
    (lambda host: host.kargs_add(["a\tb"]), UsageError, "control character"),
    (lambda host: host.kargs_add(['a="b']), UsageError, "a quote has no end"),
    (lambda host: host.kargs_add(["quiet", "quiet"]), UsageError, "given twice"),
    (lambda host: host.kargs_add(["composefs=?00"]), UsageError, "which image to boot"),
    (lambda host: host.kargs_add(["root=/dev/sdb1"]), UsageError, "names the root file system"),
    (lambda host: host.kargs_remove(["root=LABEL=disk"]), UsageError, "names the root file system"),
    (lambda host: host.kargs_replace("root=LABEL=disk", "root=LABEL=x"), UsageError, "names the root file system"),
    (lambda host: host.kargs_remove(["quiet"]), Refused, "has no kernel argument 'quiet'"),
    (lambda host: host.kargs_remove(["rw", "quiet"]), Refused, "has no kernel argument 'quiet'"),
    (lambda host: host.kargs_remove(["console=ttyS0"]), Refused, "is the image's"),
    (lambda host: host.kargs_replace("quiet", "loud"), Refused, "has no kernel argument 'quiet'"),
    (lambda host: host.kargs_add(["x" * 1950]), NotBootable, "a kernel takes 2048"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_refused(installed: World, request_: Callable[[Host], object], error: type[BootcdError],
                         words: str) -> None:
    before = owners(installed.host.kargs_show())
    with pytest.raises(error, match=words):
        request_(installed.host)
    assert owners(installed.host.kargs_show()) == before
    assert len(installed.entries()) == 1


def test_what_the_image_has_can_be_overruled_and_stays(installed: World) -> None:
    host = installed.host
    host.kargs_add(["console=tty0", "console=ttyS0"])
    assert [argument for argument, _ in owners(host.kargs_show())][-2:] == ["console=tty0", "console=ttyS0"]
    assert host.kargs_add(["console=ttyS0"]).outcome == "unchanged"
    assert "'console=ttyS0' stays, as the image's." in host.kargs_remove(["console=ttyS0"]).message


def test_the_seal_of_a_uki_forbids_changes(installed: World) -> None:
    host = installed.host
    host.kargs_add(["quiet"])
    drop_in(installed, 'kargs = ["nosmt"]\n')
    installed.publish(os_image("1.1"), "probe")
    digest = host.image_pull(f"oci:{installed.directory}/layout:probe", name="probe", bootable=True).image.boot_id
    uki = make_pe({".linux": b"kernel", ".initrd": b"initrd", ".cmdline":
                   f"mine composefs.digest=?v1-sha512-12:{digest}".encode()})
    addon = make_pe({".cmdline": b"added"})
    sealed = [Dir("boot/EFI"), Dir("boot/EFI/Linux"), File("boot/EFI/Linux/os.efi", uki),
              Dir("boot/EFI/Linux/os.efi.extra.d"), File("boot/EFI/Linux/os.efi.extra.d/more.addon.efi", addon)]
    assert installed.upgrade(os_image("1.1", sealed)).boot_type == "uki"

    shown = host.kargs_show()
    assert shown.sealed
    assert [(one.argument.partition("=")[0], one.owner) for one in shown.kargs] == [
        ("mine", "image"), ("composefs.digest", "bootcd"), ("added", "image")]
    assert [(one.argument, one.owner) for one in shown.without_effect] == [
        ("nosmt", "drop-in"), ("root=LABEL=disk", "machine"), ("rw", "machine"), ("quiet", "command")]
    for request in (lambda: host.kargs_add(["more"]), lambda: host.kargs_remove(["quiet"]), host.kargs_reload,
                    lambda: host.kargs_replace("quiet", "loud")):
        with pytest.raises(Refused, match="boots from a UKI, whose seal forbids other kernel arguments"):
            request()

    installed.upgrade(os_image("1.2"))
    assert ("quiet", "command") in owners(host.kargs_show()), "the next image has a kernel of its own again"


def test_without_a_deployment_there_is_nothing_to_change(world: World) -> None:
    with pytest.raises(BootcdError):
        world.host.kargs_show()
    world.install(os_image("1.0"))
    for entry in (world.esp / "loader/entries").iterdir():
        entry.unlink()
    with pytest.raises(DeploymentNotFound):
        world.host.kargs_add(["quiet"])
