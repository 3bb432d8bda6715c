# SPDX-License-Identifier: Apache-2.0
"""bootcd as other programs see it: the whole daemon on a real bus, asked by busctl."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bootcd.config import Config
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from kit import bus as bus_kit
from kit.os_images import os_image
from kit.world import World

pytestmark = pytest.mark.skipif(not bus_kit.available() or shutil.which("busctl") is None,
                                reason="dbus-daemon or busctl is not installed")

PATIENCE = 20.0
"""Seconds that anything may take on a loaded machine."""


class Client:
    """busctl on one bus."""

    def __init__(self, address: str) -> None:
        self._address = address

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["busctl", f"--address={self._address}", "--json=short", *words], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PATIENCE)

    def call(self, member: str, *arguments: str, path: str = "/org/bootcd1", interface: str = "Manager") -> Any:
        """The first out argument of a method."""
        done = self.run("call", "org.bootcd1", path, f"org.bootcd1.{interface}", member, *arguments)
        assert done.returncode == 0, done.stderr
        return plain(json.loads(done.stdout)["data"])[0] if done.stdout.strip() else None

    def error(self, member: str, *arguments: str) -> str:
        done = self.run("call", "org.bootcd1", "/org/bootcd1", "org.bootcd1.Manager", member, *arguments)
        assert done.returncode != 0
        return done.stderr

    def get(self, name: str, path: str = "/org/bootcd1", interface: str = "Manager") -> Any:
        done = self.run("get-property", "org.bootcd1", path, f"org.bootcd1.{interface}", name)
        assert done.returncode == 0, done.stderr
        return plain(json.loads(done.stdout)["data"])

    def job(self, member: str, *arguments: str) -> dict[str, Any]:
        """Start a job, wait for its end, and return what its object tells."""
        path = self.call(member, *arguments)
        until(lambda: self.get("Ended", path, "Job"))
        return {name: self.get(name, path, "Job") for name in
                ("Kind", "State", "Error", "Result", "StartedBy", "Progress", "BytesDone", "BytesTotal", "Cancellable")}


def plain(value: Any) -> Any:
    """Variants of busctl's JSON as what they hold."""
    if isinstance(value, dict):
        if value.keys() == {"type", "data"}:
            return plain(value["data"])
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, lambda world: DirectHost(world.sysroot, world.esp, Config(), SilentProgress()), tmp_path)
    world.install(os_image("1.0"))
    return world


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[bus_kit.SystemBus]:
    with bus_kit.SystemBus(tmp_path / "bus") as running:
        yield running


@pytest.fixture
def daemon(bus: bus_kit.SystemBus, world: World, tmp_path: Path) -> Iterator[bus_kit.Daemon]:
    (tmp_path / "bootcd.toml").write_text("")
    with bus_kit.Daemon(bus, world.sysroot, world.esp, tmp_path / "bootcd.toml") as running:
        yield running


@pytest.fixture
def client(bus: bus_kit.SystemBus, daemon: bus_kit.Daemon) -> Client:
    return Client(bus.address)


def test_an_upgrade_is_a_job_that_tells_how_it_went(world: World, client: Client) -> None:
    world.publish(os_image("1.1"))
    job = client.job("Upgrade", "a{sv}", "0")
    assert (job["Kind"], job["State"], job["Error"]) == ("upgrade", "succeeded", ["", "", ""])
    assert (job["Progress"], job["Cancellable"]) == (100, False)
    assert job["BytesDone"] == job["BytesTotal"]
    assert job["StartedBy"][2] == "busctl"
    assert job["Result"]["outcome"] == "deployed"
    assert job["Result"]["deployment"]["version"] == "1.1"
    assert job["Result"]["pull"]["layers-fetched"] == 1
    until(lambda: client.get("ActiveJob") == "/")
    assert client.get("LastResult")["message"] == job["Result"]["message"]
    default = client.get("Default")
    assert client.get("Version", default, "Deployment") == "1.1"
    assert client.get("Deployments") == [default, client.get("Rollback")]


def test_a_job_that_fails_tells_why_with_advice(world: World, client: Client) -> None:
    shutil.rmtree(world.directory / "layout")
    job = client.job("Upgrade", "a{sv}", "0")
    name, message, advice = job["Error"]
    assert (job["State"], name) == ("failed", "org.bootcd1.Error.SourceUnreachable")
    assert str(world.directory / "layout") in message
    assert advice
    assert job["Result"] == {}
    until(lambda: client.get("LastResult").get("error") == name)
    assert client.get("LastResult")["verb"] == "upgrade"


def test_what_was_checked_is_remembered_without_network(
        world: World, client: Client, daemon: bus_kit.Daemon, bus: bus_kit.SystemBus) -> None:
    assert client.get("CachedUpdate") == {}
    digest = world.publish(os_image("1.1"))
    assert client.job("Check", "a{sv}", "0")["Result"]["available"] is True
    until(lambda: client.get("CachedUpdate"))
    known = client.get("CachedUpdate")
    assert (known["version"], known["manifest-digest"]) == ("1.1", digest)
    assert known["download-size"] > 0
    assert known["time"].startswith("20")
    assert daemon.terminate() == 0
    shutil.rmtree(world.directory / "layout")
    with bus_kit.Daemon(bus, world.sysroot, world.esp):
        assert client.get("CachedUpdate") == known


def test_pins_and_rollback_by_the_object_of_a_deployment(world: World, client: Client) -> None:
    world.upgrade(os_image("1.1"))
    until(lambda: client.get("Rollback") != "/")
    first = client.get("Rollback")
    path = client.call("Pin", "a{sv}", "1", "label", "s", "factory", path=first, interface="Deployment")
    until(lambda: client.get("State", path, "Job") == "succeeded" and client.get("Pinned") == [first])
    assert client.get("Pins", first, "Deployment")[0][0] == "factory"
    assert "pinned" in client.get("Roles", first, "Deployment")
    path = client.call("Rollback", "a{sv}", "0", path=first, interface="Deployment")
    until(lambda: client.get("Ended", path, "Job"))
    until(lambda: client.get("Default") == first)


def test_what_others_change_shows(world: World, client: Client) -> None:
    """A rescue shell or the finalize unit works directly; the daemon sees it."""
    (only,) = client.get("Deployments")
    world.upgrade(os_image("1.1"))
    assert len(client.call("GetStatus", "a{sv}", "0")["deployments"]) == 2  # at once: it looks before it answers
    until(lambda: len(client.get("Deployments")) == 2)
    world.host.rollback()
    until(lambda: client.get("Default") == only)


def test_a_deployment_that_is_gone_has_no_object(world: World, client: Client) -> None:
    (oldest,) = client.get("Deployments")
    for version in ("1.1", "2.0"):
        world.publish(os_image(version))
        client.job("Upgrade", "a{sv}", "0")
    until(lambda: oldest not in client.get("Deployments"))
    until(lambda: "no object at" in client.run(
        "get-property", "org.bootcd1", oldest, "org.bootcd1.Deployment", "Id").stderr)


def test_images(world: World, client: Client) -> None:
    pulled = client.job("PullImage", "sa{sv}", world.image, "1", "name", "s", "os")
    assert pulled["Result"]["image"]["name"] == "os"
    assert "os" in [image["name"] for image in client.call("ListImages", "a{sv}", "0")]
    assert client.call("InspectImage", "sa{sv}", "os", "0")["version"] == "1.0"
    assert "no image" in client.error("InspectImage", "sa{sv}", "none", "0")
    assert client.job("RemoveImage", "sa{sv}", "os", "0")["State"] == "succeeded"
    assert "os" not in [image["name"] for image in client.call("ListImages", "a{sv}", "0")]


def test_a_dry_run_says_what_would_go_and_why(world: World, client: Client) -> None:
    client.job("PullImage", "sa{sv}", world.image, "1", "name", "s", "os")
    job = client.job("Cleanup", "a{sv}", "1", "dry-run", "b", "true")
    assert job["Result"]["dry-run"] is True
    assert [item["why"] for item in job["Result"]["kept"]] == ["default"]
    assert client.job("Fsck", "a{sv}", "0")["Result"]["ok"] is True


def test_unknown_options_and_wrong_types_are_refused(client: Client) -> None:
    assert "no option 'force'" in client.error("Upgrade", "a{sv}", "1", "force", "b", "true")
    assert "background" in client.error("Upgrade", "a{sv}", "1", "background", "s", "yes")
    assert client.get("Jobs") == []


def test_the_configuration_is_read_again_when_asked(
        world: World, client: Client, daemon: bus_kit.Daemon, tmp_path: Path) -> None:
    for version in ("1.1", "2.0"):
        world.upgrade(os_image(version))
    (tmp_path / "bootcd.toml").write_text("[keep]\nprevious = 0\n")
    client.call("Reload", "a{sv}", "0")
    assert client.job("Cleanup", "a{sv}", "0")["State"] == "succeeded"
    until(lambda: len(client.get("Deployments")) == 1)
    (tmp_path / "bootcd.toml").write_text("[keep]\nprevious = many\n")
    assert "bootcd.toml" in client.error("Reload", "a{sv}", "0")
    (tmp_path / "bootcd.toml").write_text("[keep]\nprevius = 1\n")
    daemon_pid = daemon.pid
    subprocess.run(["kill", "-HUP", str(daemon_pid)], check=True)
    until(lambda: "unknown key 'previus'" in daemon.log())


def test_a_path_that_depends_on_where_one_stands_is_refused(client: Client) -> None:
    for member in ("Switch", "PullImage"):
        assert "is not absolute" in client.error(member, "sa{sv}", "oci:layout:latest", "0")
    for member in ("Upgrade", "Download"):
        assert "is not absolute" in client.error(member, "a{sv}", "1", "take-from", "s", "dir:stick")
    assert "names no registry" in client.error("Switch", "sa{sv}", "debian", "0")
    assert client.get("Jobs") == []


def test_questions_without_end_do_not_keep_the_answer_old(world: World, client: Client, bus: bus_kit.SystemBus) -> None:
    asking = subprocess.Popen(
        ["sh", "-c", f"while :; do busctl --address='{bus.address}' call org.bootcd1 /org/bootcd1 org.bootcd1.Manager "
         "GetStatus 'a{sv}' 0 >/dev/null & sleep 0.02; done"], start_new_session=True)
    try:
        world.upgrade(os_image("1.1"))
        until(lambda: len(client.get("Deployments")) == 2)
    finally:
        os.killpg(asking.pid, signal.SIGKILL)
        asking.wait()


def test_a_status_that_cannot_be_read_is_no_empty_machine(
        bus: bus_kit.SystemBus, world: World, tmp_path: Path) -> None:
    """Every worker dies at once, as if there were no memory for it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(
        "import os, sys\nif 'bootcd.ops.worker' in sys.orig_argv:\n    os._exit(9)\n")
    with bus_kit.Daemon(bus, world.sysroot, world.esp, environment={"PYTHONPATH": str(tmp_path / "site")}):
        (warning,) = Client(bus.address).get("Warnings")
        assert warning == "the status cannot be read: the worker died (exit status 9)"


def test_an_empty_machine_is_no_error(bus: bus_kit.SystemBus, tmp_path: Path) -> None:
    with bus_kit.Daemon(bus, tmp_path / "nothing"):
        client = Client(bus.address)
        assert client.get("Deployments") == []
        assert client.get("TrackedImage") == ""
        assert client.job("Upgrade", "a{sv}", "0")["Error"][0] == "org.bootcd1.Error.RepositoryNotFound"
        assert not (tmp_path / "nothing").exists()


def test_it_ends_in_good_order_when_told_to(daemon: bus_kit.Daemon, client: Client) -> None:
    assert client.get("Version")
    assert daemon.terminate() == 0


def test_it_ends_with_the_bus(bus: bus_kit.SystemBus, daemon: bus_kit.Daemon) -> None:
    bus.kill()
    assert daemon.wait() == 1
    assert "Traceback" not in daemon.log()


def test_a_worker_that_dies_is_a_failed_job(world: World, client: Client, daemon: bus_kit.Daemon) -> None:
    world.publish(os_image("1.1"))
    path = client.call("Upgrade", "a{sv}", "0")
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children")
    until(lambda: children.read_text().split())
    for worker in children.read_text().split():
        subprocess.run(["kill", f"-{signal.SIGKILL.value}", worker], check=False)
    until(lambda: client.get("Ended", path, "Job"))
    assert client.get("Error", path, "Job")[1] == "the worker died (signal 9)"
    until(lambda: client.get("ActiveJob") == "/")
    time.sleep(0.5)  # whatever else is read after that does not know better
    assert client.get("LastResult")["message"] == "the worker died (signal 9)"
    kept = json.loads((world.sysroot / "state/bootcd/last-result.json").read_text())
    assert (kept["verb"], kept["state"]) == ("upgrade", "failed")
    assert client.job("Upgrade", "a{sv}", "0")["State"] == "succeeded"
