# SPDX-License-Identifier: Apache-2.0
"""Desktops and updatectl update a machine, and do what they should not: the daemon, a registry, a machine that runs one
of its deployments, and clients that ask as the real ones do."""

from __future__ import annotations

import errno
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from bootcd.daemon.sysupdate.target import CHECK_PATIENCE
from kit import booted
from kit.booted import Booted
from kit.bus import ROOT as SOURCE
from kit.bus import Daemon, SystemBus, available
from kit.caller import DRIVER, ERROR, MANAGER, Caller, Refused
from kit.images import File, ImageBuilder, Layer
from kit.machine import install, silent_source, until
from kit.os_images import os_image
from kit.pulling import serve_image
from kit.scripted_server import Reply, ScriptedServer
from kit.sysupdate_clients import (
    HOST,
    NAME,
    NO_CANDIDATE,
    ROOT,
    App,
    Discover,
    GnomeSoftware,
    Updatectl,
    refusal,
)
from kit.world import World

pytestmark = pytest.mark.skipif(not available() or bool(booted.missing()), reason=booted.missing() or "no dbus-daemon")

CANCELLED = -errno.ECANCELED
OURS = "/org/bootcd1"


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus]:
    """With the files for activation: GNOME Software looks for them."""
    with SystemBus(tmp_path_factory.mktemp("bus"), servicedir=SOURCE / "data" / "dbus") as started:
        yield started


class Machine:
    """Runs 1.0, and follows a registry that has whatever is published."""

    def __init__(self, world: World, bus: SystemBus, server: ScriptedServer, caller: Caller) -> None:
        self.bus = bus
        self.server = server
        self.caller = caller
        self.booted = Booted(world, bus)


    def publish(self, version: str, *, slow: bool = False) -> ImageBuilder:
        """Let the tag name another image, and see it, as the timer does. The layers of a slow one never come."""
        large = Random(version).randbytes(300_000)
        image = os_image(version, more=[Layer([File("usr/lib/large", large)])] if slow else ())
        serve_image(self.server, image)
        if slow:
            for digest, data in image.blobs().items():
                if len(data) > 10_000:
                    self.server.serve(f"/v2/os/blobs/{digest}", Reply(body=data, slow=(1000, 0.5)))
        self.look()
        return image

    def look(self) -> None:
        assert self.caller.wait_over(self.caller.manager("Check")) == "succeeded"

    def asked(self) -> int:
        """How often the registry was asked for what the tag names."""
        return self.server.paths().count("/v2/os/manifests/1")


@pytest.fixture
def machine(bus: SystemBus, tmp_path: Path) -> Iterator[Machine]:
    with ExitStack() as stack:
        server = stack.enter_context(ScriptedServer())
        world = install(tmp_path)
        serve_image(server, os_image("1.0"))
        world.host.switch(f"{server.host}/os:1")
        made = Machine(world, bus, server, stack.enter_context(Caller(bus.address)))
        stack.enter_context(made.booted)
        server.seen.clear()
        yield made


# --- what they are for ------------------------------------------------------------------------------------------------


def test_gnome_software_51(machine: Machine) -> None:
    shop = GnomeSoftware(machine.caller, 51)
    assert shop.refresh() is None
    assert machine.asked() == 1, "nothing was known, so the registry was asked"
    assert shop.refresh() is None
    assert machine.asked() == 1
    machine.publish("1.1")
    assert shop.refresh() == App("1.0", "1.1", ready=False)
    assert shop.download() == 0
    assert shop.refresh() == App("1.0", "1.1", ready=True), "downloaded"
    assert shop.apply() == 0
    assert shop.refresh() == App("1.0", "1.1", ready=True), "staged: a restart is due"
    before = len(machine.server.paths())
    assert shop.update() == 0, "'Restart & Update', as often as somebody presses it"
    assert len(machine.server.paths()) - before <= 1, "it was there already"
    machine.booted.reboot()
    assert shop.refresh() is None
    assert shop.target("GetVersion") == "1.1"


def test_gnome_software_48_to_50(machine: Machine) -> None:
    shop = GnomeSoftware(machine.caller, 48)
    machine.publish("1.1")
    assert shop.refresh() == App("1.0", "1.1", ready=False)
    assert shop.download() == 0
    assert shop.apply() == 0
    assert shop.refresh() == App("1.0", "1.1", ready=True)
    # Something newer appears before the restart: the shop offers that, and gets it.
    shop = GnomeSoftware(machine.caller, 50)
    machine.publish("1.2")
    assert shop.refresh() == App("1.0", "1.2", ready=False)
    assert shop.update() == 0
    machine.booted.reboot()
    assert (shop.refresh(), shop.target("GetVersion")) == (None, "1.2")


def test_updatectl_262(machine: Machine) -> None:
    control = Updatectl(machine.caller, 262)
    assert control.check() == ""
    assert control.targets() == {"host": ("1.0", f"{machine.server.host}/os:1")}
    assert control.update() == "Already up-to-date"
    assert control.update("1.0") == "Already up-to-date"
    with pytest.raises(Refused) as error:
        control.start("Acquire")
    assert error.value.args == (NO_CANDIDATE, "there is nothing newer"), "GDBus reads no error of two words"
    machine.publish("1.1")
    assert control.check() == "1.0 -> 1.1"
    assert control.versions() == {"1.1": "candidate", "1.0": "protected"}
    assert control.versions(offline=True) == {"1.0": "current"}
    assert control.update("1.1") == "Done"
    assert control.versions() == {"1.1": "current+pending", "1.0": "protected"}
    machine.booted.reboot()
    assert control.targets()["host"][0] == "1.1"
    assert control.versions() == {"1.1": "current", "1.0": "installed"}
    assert control.features() == []
    # Back to where it came from, and not after all.
    assert control.update("1.0") == "Done"
    assert control.versions() == {"1.0": "current+pending", "1.1": "protected"}
    assert control.update("1.1") == "Done"
    assert control.versions()["1.1"] == "current"
    assert control.vacuum() == [0, 0], "what [keep] keeps"


def test_updatectl_257_and_discover(machine: Machine) -> None:
    assert Updatectl(machine.caller, 257).update() == "Already up-to-date"
    machine.publish("1.1")
    assert Discover(machine.caller).update() == 0
    assert Updatectl(machine.caller, 257).update() == "Done"
    assert Updatectl(machine.caller, 257).update("1.0") == "Done", "stay with what runs"
    assert Updatectl(machine.caller, 257).versions() == {"1.1": "candidate", "1.0": "protected"}


def test_busctl(machine: Machine) -> None:
    def busctl(*words: str) -> str:
        return subprocess.run(["busctl", f"--address={machine.bus.address}", *words], text=True, check=True,
                              capture_output=True, stdin=subprocess.DEVNULL).stdout

    assert busctl("call", NAME, ROOT, f"{NAME}.Manager", "ListTargets") == f'a(sso) 1 "host" "host" "{HOST}"\n'
    assert busctl("get-property", NAME, HOST, f"{NAME}.Target", "Class", "Name", "Path").splitlines() == [
        's "host"', 's "host"', f's "{machine.server.host}/os:1"']
    assert HOST in busctl("tree", "--list", NAME)
    shown = busctl("introspect", NAME, HOST, f"{NAME}.Target")
    assert [line.split()[:4] for line in shown.splitlines() if line.split()[0] in (".Acquire", ".Update", ".List")] == [
        [".Acquire", "method", "st", "sto"], [".List", "method", "t", "as"], [".Update", "method", "st", "sto"]]


# --- what they do wrong -----------------------------------------------------------------------------------------------


def test_cancelling_at_any_moment(machine: Machine) -> None:
    shop = GnomeSoftware(machine.caller, 51)
    machine.publish("1.1", slow=True)
    _, _, download = shop.start("Acquire")
    assert shop.properties(download)["Type"] == "acquire"
    assert [one[1:2] + one[3:] for one in shop.manager("ListJobs")] == [["acquire", download]]
    assert refusal(shop, "Acquire", "st", "", 0) == "ObjectPathInUse"
    assert shop.refresh() == App("1.0", "1.1", ready=False), "reads do not wait"
    for _ in range(3):
        shop.cancel(download)
    assert shop.removed(download) == CANCELLED
    assert shop.manager("ListJobs") == []
    shop.cancel(download)  # 51.rc cancels the job before last
    assert shop.properties(download)["Progress"] == 100, "the object stays for those who come late"
    machine.publish("1.2")
    assert shop.download() == 0
    _, _, installation = shop.start("Install")
    shop.cancel(installation)
    assert shop.removed(installation) in (0, CANCELLED)
    shop.cancel(installation)
    assert shop.update() == 0
    machine.booted.reboot()
    assert shop.target("GetVersion") == "1.2"


def test_install_after_an_acquire_that_failed(machine: Machine) -> None:
    control = Updatectl(machine.caller, 262)
    image = machine.publish("1.1")
    layer = image.layers[-1].descriptor()
    machine.server.serve(f"/v2/os/blobs/{layer['digest']}", Reply(body=bytes(layer["size"])))
    version, _, path = control.start("Acquire")
    assert (version, control.removed(path)) == ("1.1", -errno.EBADMSG)
    for name in (version, ""):
        assert refusal(control, "Install", "st", name, 0) == "Failed", "not NoCandidate, and nothing is downloaded"
    assert control.update() == "Version 1.1 is not downloaded yet."
    serve_image(machine.server, image)
    assert control.update() == "Done"


def test_refusals_come_with_words(machine: Machine) -> None:
    control = Updatectl(machine.caller, 262)
    machine.publish("1.1")
    for path in [one for one in machine.server.paths() if "/manifests/" in one]:
        machine.server.serve(path, Reply(403))
    assert control.check() == "1.0 -> 1.1", "from memory"
    assert "Check the credentials" in control.update()


def test_what_does_not_exist(machine: Machine) -> None:
    control = Updatectl(machine.caller, 262)
    machine.publish("1.1")
    for member in ("Acquire", "Install", "Update"):
        assert refusal(control, member, "st", "", 1) == "InvalidArgs"
        assert refusal(control, member, "st", "1/1", 0) == "InvalidArgs"
        assert refusal(control, member, "st", "7", 0) == "InvalidArgs", "a version that is gone"
    assert refusal(control, "List", "t", 2) == "InvalidArgs"
    assert refusal(control, "List", "b", True) == "InvalidArgs"
    for version, flags in (("1.1", 4), ("", 0), ("7", 0), ("1.1", 1)):
        assert refusal(control, "Describe", "st", version, flags) == "InvalidArgs"
    assert refusal(control, "ListFeatures", "t", 1) == "InvalidArgs"
    assert refusal(control, "DescribeFeature", "st", "devel", 0) == "NotSupported"
    assert refusal(control, "SetFeatureEnabled", "sit", "devel", 1, 0) == "NotSupported"
    assert refusal(control, "GetVersion", path=f"{ROOT}/target/component_3afoo") == "UnknownObject"
    with pytest.raises(Refused) as error:
        control.cancel(f"{ROOT}/job/_1")
    assert error.value.name == ERROR + "UnknownObject"
    assert control.manager("ListJobs") == []


def test_a_client_that_vanishes(machine: Machine) -> None:
    """Its download goes on, with less weight."""
    machine.publish("1.1", slow=True)
    with Caller(machine.bus.address) as caller:
        Updatectl(caller, 262).start("Acquire")
        job = machine.caller.get(OURS, MANAGER, "ActiveJob")
    until(lambda: machine.caller.get(job, "org.bootcd1.Job", "Background"))
    assert not machine.caller.get(job, "org.bootcd1.Job", "Ended")
    machine.caller.cancel(job)
    assert machine.caller.wait_over(job) == "cancelled"


# --- what is not there ------------------------------------------------------------------------------------------------


def test_a_registry_that_says_nothing(bus: SystemBus, tmp_path: Path) -> None:
    """CheckNew answers before GNOME Software gives up, and the next one does not wait at all."""
    world = install(tmp_path)
    record = next((world.sysroot / "state/bootcd/deployments").iterdir())
    with silent_source() as image:
        record.write_text(json.dumps(json.loads(record.read_text()) | {"image": image}))
        with Booted(world, bus) as machine, Caller(bus.address) as caller:
            shop = GnomeSoftware(caller, 51)
            began = time.monotonic()
            assert shop.refresh() is None
            assert CHECK_PATIENCE <= time.monotonic() - began < 20
            began = time.monotonic()
            assert shop.refresh() is None
            assert time.monotonic() - began < CHECK_PATIENCE
            assert "the source has not answered yet" in machine.daemon.log()


def test_it_can_be_switched_off_and_somebody_else_may_have_the_name(bus: SystemBus, tmp_path: Path) -> None:
    world = install(tmp_path)
    config = tmp_path / "bootcd.toml"
    config.write_text("[sysupdate]\nenabled = false\n")
    with Caller(bus.address) as caller:
        def owned() -> bool:
            (found,) = caller.call("NameHasOwner", "s", NAME, place=DRIVER)
            return bool(found)

        with Daemon(bus, world.sysroot, world.esp, config):
            assert not owned()
        assert caller.call("RequestName", "su", NAME, 4, place=DRIVER) == [1]
        with Daemon(bus, world.sysroot, world.esp) as daemon:
            assert "cannot be served: the bus name org.freedesktop.sysupdate1 is taken" in daemon.log()
            assert caller.get(OURS, MANAGER, "Version")
        caller.call("ReleaseName", "s", NAME, place=DRIVER)
        config.write_text('[sysupdate]\nappstream-urls = ["https://example.com/os.xml"]\n')
        with Daemon(bus, world.sysroot, world.esp, config):
            assert owned()
            client = Updatectl(caller, 262)
            assert client.target("GetAppStream") == client.manager("ListAppStream") == ["https://example.com/os.xml"]
