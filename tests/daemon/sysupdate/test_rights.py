# SPDX-License-Identifier: Apache-2.0
"""Who may do what by org.freedesktop.sysupdate1: rules that were written for systemd-sysupdated hold."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from bootcd.daemon.exports import Call
from bootcd.daemon.interfaces import SYSUPDATE_JOB, SYSUPDATE_MANAGER, SYSUPDATE_TARGET
from bootcd.daemon.sysupdate import service
from bootcd.daemon.sysupdate.versions import versions
from daemon.sysupdate.machines import BOOTED, ROLLBACK, machine, offer
from kit import polkit
from kit.bus import Daemon, SystemBus
from kit.caller import Caller
from kit.machine import install, until
from kit.os_images import os_image
from kit.polkit import SYSUPDATE_POLICY, Polkit
from kit.sysupdate_clients import HOST, JOB, NAME, TARGET, Updatectl

NOBODY = 65534
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
CHALLENGE = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
OPEN = {"ListTargets", "ListJobs", "ListAppStream", "GetAppStream", "GetVersion", "ListFeatures", "DescribeFeature",
        "SetFeatureEnabled"}
"""What needs no right: to look at what anybody may know, and what is refused to everybody."""

RULES = """polkit.addRule(function(action, subject) {
    polkit.log(["asked", action.id, action.lookup("class"), action.lookup("name"), action.lookup("version"),
                action.lookup("offline")].join(" "));
    return action.id == "org.freedesktop.sysupdate1.update-to-version" ? polkit.Result.NO : polkit.Result.YES;
});
"""

needs_polkit = pytest.mark.skipif(bool(polkit.missing()) or os.geteuid() != 0 or not shutil.which("setpriv"),
                                  reason=polkit.missing() or "needs root and setpriv")


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[SystemBus]:
    with SystemBus(tmp_path / "bus") as started:
        yield started


def ask(bus: SystemBus, member: str, *arguments: str, path: str = HOST, interface: str = TARGET) -> str:
    """Call a method as nobody; the name of the error, empty for success."""
    done = subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "gdbus", "call",
         f"--address={bus.address}", f"--dest={NAME}", f"--object-path={path}", f"--method={interface}.{member}",
         "--timeout=20", *arguments], text=True, capture_output=True, check=False, stdin=subprocess.DEVNULL, cwd="/")
    found = re.search(r"GDBus\.Error:([A-Za-z0-9_.]+):", done.stderr)
    assert found or done.returncode == 0, done.stderr
    return found[1] if found else ""


@needs_polkit
def test_polkit_decides_by_what_is_asked_for(bus: SystemBus, tmp_path: Path) -> None:
    world = install(tmp_path)
    with Polkit(bus, RULES, policy=SYSUPDATE_POLICY) as running, Daemon(bus, world.sysroot, world.esp), \
            Caller(bus.address) as root:
        world.publish(os_image("1.1"))
        assert Updatectl(root, 262).check() == "1.0 -> 1.1"
        assert ask(bus, "Describe", "1.1", "1") == "org.freedesktop.DBus.Error.InvalidArgs"
        assert ask(bus, "Acquire", "1.0", "0") == DENIED, "another version than the newest"
        assert ask(bus, "Acquire", "1.1", "0") == "", "the newest by its name"
        until(lambda: not Updatectl(root, 262).manager("ListJobs"))
        assert ask(bus, "Install", "", "0") == ""
        assert ask(bus, "Install", "1.0", "0") == DENIED
        for member in OPEN - {"ListTargets", "ListJobs", "ListAppStream", "GetVersion", "GetAppStream"}:
            assert ask(bus, member, *{"ListFeatures": ["0"], "DescribeFeature": ["x", "0"],
                                      "SetFeatureEnabled": ["x", "1", "0"]}[member]) != DENIED
        asked = [line.partition("asked ")[2] for line in running.log().splitlines() if "asked " in line]
    prefix = "org.freedesktop.sysupdate1"
    assert asked == [
        f"{prefix}.check host host 1.1 1", f"{prefix}.update-to-version host host 1.0 0",
        f"{prefix}.update host host 1.1 0", f"{prefix}.update host host  0",
        f"{prefix}.update-to-version host host 1.0 0"]


@needs_polkit
def test_without_its_actions_only_root_may(bus: SystemBus, tmp_path: Path) -> None:
    """The policy file was left out."""
    world = install(tmp_path)
    with Polkit(bus, RULES), Daemon(bus, world.sysroot, world.esp), Caller(bus.address) as root:
        assert ask(bus, "CheckNew") == DENIED
        assert ask(bus, "GetVersion") == ""
        assert Updatectl(root, 262).check() == ""


@needs_polkit
def test_who_has_started_a_job_may_cancel_it(bus: SystemBus, tmp_path: Path) -> None:
    world = install(tmp_path)
    no = RULES.replace("polkit.Result.YES", "(action.id.indexOf('cancel') < 0 ? polkit.Result.YES : polkit.Result.NO)")
    with Polkit(bus, no, policy=SYSUPDATE_POLICY), Daemon(bus, world.sysroot, world.esp), Caller(bus.address) as root:
        world.publish(os_image("1.1"))
        _, _, job = Updatectl(root, 262).start("Acquire")
        assert ask(bus, "Cancel", path=job, interface=JOB) == DENIED
        assert Updatectl(root, 262).removed(job) == 0
        root.listen(f"type='signal',sender='{NAME}',member='JobRemoved'")
        assert ask(bus, "Install", "", "0") == ""
        path = root.signal(lambda one: one.member == "JobRemoved" and one.body[1] != job).body[1]
        assert ask(bus, "Cancel", path=path, interface=JOB) == ""


def test_the_policy_has_the_actions_that_are_asked_for() -> None:
    actions = {one.attrib["id"] for one in ElementTree.parse(SYSUPDATE_POLICY).getroot().findall("action")}
    named = {method.action for interface in (SYSUPDATE_MANAGER, SYSUPDATE_TARGET, SYSUPDATE_JOB)
             for method in interface.methods.values() if method.action}
    assert actions == named | {service.UPDATE_TO_VERSION, service.CANCEL_UPDATE_TO_VERSION}
    assert {service.UPDATE, service.CANCEL_UPDATE} <= named
    without = {method.name for interface in (SYSUPDATE_MANAGER, SYSUPDATE_TARGET, SYSUPDATE_JOB)
               for method in interface.methods.values() if not method.action}
    assert without == OPEN


def test_what_is_allowed_without_a_password() -> None:
    defaults = {one.attrib["id"].rpartition(".")[2]: one.findtext("defaults/allow_active")
                for one in ElementTree.parse(SYSUPDATE_POLICY).getroot().findall("action")}
    assert {name for name, active in defaults.items() if active == "yes"} == {"check", "update", "cancel-update"}


def test_what_a_version_is_by_the_time_the_password_is_typed_counts() -> None:
    """The newest version was asked for, and something newer appears while somebody looks for the password."""
    asked: list[str] = []

    class Slow:
        async def authorize(self, call: Call, action: str, details: dict[str, str]) -> None:
            asked.append(action)
            face.status = machine(BOOTED, ROLLBACK)

    async def ask_for(version: str) -> None:
        await serving._authorize(Call(":1.1", HOST, TARGET, "Install", (version, 0), True), service.UPDATE)

    face = SimpleNamespace(status=machine(BOOTED, ROLLBACK, update=offer("0.9")))
    face.known = lambda: versions(face.status)
    serving = service.Service(None, None, None, None)  # type: ignore[arg-type]
    serving._face, serving._authority = face, Slow()  # type: ignore[assignment]
    asyncio.run(ask_for("0.9"))
    assert asked == [service.UPDATE, service.UPDATE_TO_VERSION], "that is a rollback by now"
    asked.clear()
    asyncio.run(ask_for(""))
    assert asked == [service.UPDATE]
