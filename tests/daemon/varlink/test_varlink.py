# SPDX-License-Identifier: Apache-2.0
"""io.systemd.SysUpdate on a socket that was handed over as systemd does it."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from bootcd.daemon.varlink.server import MAX_CALL, MAX_CLIENTS
from kit.bus import Daemon, SystemBus, available
from kit.caller import Caller
from kit.machine import install
from kit.os_images import os_image
from kit.world import World

pytestmark = pytest.mark.skipif(not available(), reason="dbus-daemon is not installed")

INTERFACE = "io.systemd.SysUpdate"
HOST = {"target": {"class": "host"}}
NOBODY = 65534

HAND_OVER = """
import os, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
listening.listen(64)
if listening.fileno() != 3:
    os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "varlink"}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What systemd does for bootcd-varlink.socket."""


class Client:
    """One connection. A context manager."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(str(path))
        self._buffer = b""

    def send(self, method: str, parameters: Any = None, **flags: Any) -> None:
        call = {"method": method, **({} if parameters is None else {"parameters": parameters}), **flags}
        self.write(json.dumps(call).encode() + b"\0")

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def reply(self) -> dict[str, Any]:
        """The next reply. Raises EOFError when there is none."""
        while b"\0" not in self._buffer:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found = json.loads(message)
        assert isinstance(found, dict)
        return found

    def call(self, method: str, parameters: Any = None) -> Any:
        """The parameters of the reply, or what error it is."""
        self.send(method, parameters)
        reply = self.reply()
        return reply["error"].rpartition(".")[2] if "error" in reply else reply["parameters"]

    def is_disconnected(self) -> bool:
        try:
            self.reply()
        except (EOFError, ConnectionResetError):
            return True
        return False

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


class Machine:
    """A daemon with a socket."""

    def __init__(self, world: World, bus: SystemBus, path: Path, daemon: Daemon) -> None:
        self.world = world
        self.bus = bus
        self.path = path
        self.daemon = daemon


def serve(stack: ExitStack, directory: Path, settings: str = "") -> Machine:
    world = install(directory)
    (directory / "bootcd.toml").write_text(settings)
    bus = stack.enter_context(SystemBus(directory / "bus"))
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="varlink-"))) / "io.systemd.SysUpdate"
    path.parent.chmod(0o755)
    daemon = stack.enter_context(Daemon(bus, world.sysroot, world.esp, directory / "bootcd.toml",
                                        wrapper=(sys.executable, "-c", HAND_OVER, str(path))))
    return Machine(world, bus, path, daemon)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with ExitStack() as stack:
        yield serve(stack, tmp_path_factory.mktemp("varlink"))


def test_what_there_is_and_whether_something_is_newer(machine: Machine) -> None:
    with Client(machine.path) as client, Caller(machine.bus.address) as caller:
        assert client.call(f"{INTERFACE}.ListTargets") == {"targets": [{"id": {"class": "host"}}]}
        assert client.call(f"{INTERFACE}.ListFeatures", HOST) == {"features": []}
        assert client.call(f"{INTERFACE}.CheckNew", HOST) == "NoUpdateNeeded"
        machine.world.publish(os_image("1.1"))
        assert caller.wait_over(caller.manager("Check")) == "succeeded"
        named = {"target": {"class": "host", "name": "host"}, "allowInteractiveAuthentication": True}
        for target in (HOST, {"target": {"class": "host", "name": None}}, named):
            assert client.call(f"{INTERFACE}.CheckNew", target) == {"available": "1.1"}


def test_the_service_describes_itself(machine: Machine) -> None:
    with Client(machine.path) as client:
        info = client.call("org.varlink.service.GetInfo")
        assert info["interfaces"] == ["org.varlink.service", INTERFACE]
        for name in info["interfaces"]:
            text = client.call("org.varlink.service.GetInterfaceDescription", {"interface": name})["description"]
            lines = text.splitlines()
            assert f"interface {name}" in lines
            members = [line.split()[1].partition("(")[0] for line in lines if line.startswith("method ")]
            # Each is there: that parameters are wrong is for it alone to say.
            assert all(client.call(f"{name}.{member}", {"nonsense": 1}) == "InvalidParameter" for member in members)


@pytest.mark.parametrize(("method", "parameters", "error"), [
    (f"{INTERFACE}.CheckNew", {"target": {"class": "component", "name": "a"}}, "NoSuchTarget"),
    (f"{INTERFACE}.CheckNew", {"target": {"class": "host", "name": "b"}}, "NoSuchTarget"),
    (f"{INTERFACE}.ListFeatures", {"target": {"class": "toaster"}}, "InvalidParameter"),
    (f"{INTERFACE}.ListFeatures", {"target": {"class": "host", "name": 1}}, "InvalidParameter"),
    (f"{INTERFACE}.ListFeatures", {"target": {"class": "host", "more": 1}}, "InvalidParameter"),
    (f"{INTERFACE}.ListFeatures", {}, "InvalidParameter"),
    (f"{INTERFACE}.CheckNew", {**HOST, "allowInteractiveAuthentication": "yes"}, "InvalidParameter"),
    (f"{INTERFACE}.Update", HOST, "MethodNotFound"),
    ("io.systemd.Nothing.Do", {}, "InterfaceNotFound"),
    ("Do", {}, "InterfaceNotFound"),
    ("org.varlink.service.GetInterfaceDescription", {"interface": "io.systemd.Nothing"}, "InterfaceNotFound"),
    ("org.varlink.service.GetInterfaceDescription", {"interface": 7}, "InvalidParameter"),
])
def test_what_is_refused(machine: Machine, method: str, parameters: dict[str, Any], error: str) -> None:
    with Client(machine.path) as client:
        assert client.call(method, parameters) == error
        assert client.call(f"{INTERFACE}.ListTargets"), "the connection is still good"


def test_calls_are_answered_in_order(machine: Machine) -> None:
    with Client(machine.path) as client:
        client.send(f"{INTERFACE}.ListFeatures", HOST, oneway=True)
        client.send(f"{INTERFACE}.ListTargets", None, more=True)
        client.send("Do")
        client.send(f"{INTERFACE}.ListTargets", upgrade=True)
        client._socket.shutdown(socket.SHUT_WR)
        assert "targets" in client.reply()["parameters"], "and nothing to the first"
        assert client.reply()["error"].endswith("InterfaceNotFound")
        assert client.reply()["error"].endswith("MethodNotImplemented"), "no other protocol begins"
        assert client.is_disconnected()


def test_a_call_may_come_in_pieces(machine: Machine) -> None:
    with Client(machine.path) as client:
        for byte in json.dumps({"method": f"{INTERFACE}.ListTargets"}).encode() + b"\0":
            client.write(bytes((byte,)))
        assert "targets" in client.reply()["parameters"]


@pytest.mark.parametrize("data", [
    b"no JSON\0", b"[]\0", b"{}\0", b'{"method": 1}\0', b'{"method": "a", "parameters": []}\0', b"\xff\0", b"\0",
    b'{"method": "a", "oneway": 1}\0', b"[" * 50_000 + b"\0", b"x" * (MAX_CALL + 1),
], ids=["words", "list", "empty-object", "number", "parameters", "bytes", "empty", "flag", "deep", "long"])
def test_what_is_no_call_ends_the_connection(machine: Machine, data: bytes) -> None:
    with Client(machine.path) as client:
        client.write(data)
        assert client.is_disconnected()
    with Client(machine.path) as client:
        assert client.call(f"{INTERFACE}.ListTargets")
    assert "Traceback" not in machine.daemon.log()


def test_too_many_clients_get_no_answer(machine: Machine) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(machine.path)) for _ in range(MAX_CLIENTS)]
        assert all(client.call(f"{INTERFACE}.ListTargets") for client in clients)
        assert stack.enter_context(Client(machine.path)).is_disconnected()
        assert clients[0].call(f"{INTERFACE}.ListTargets")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_only_root_makes_us_ask_the_source(machine: Machine) -> None:
    os.seteuid(NOBODY)
    try:
        client = Client(machine.path)
    finally:
        os.seteuid(0)
    with client:
        assert client.call(f"{INTERFACE}.CheckNew", HOST) == "PermissionDenied"
        assert client.call(f"{INTERFACE}.ListTargets")


def test_switched_off_there_is_nothing_behind_the_socket(tmp_path: Path) -> None:
    with ExitStack() as stack:
        machine = serve(stack, tmp_path, "[sysupdate]\nenabled = false\n")
        with Client(machine.path) as client:
            assert client.call(f"{INTERFACE}.ListTargets") == "InterfaceNotFound"
            assert client.call("org.varlink.service.GetInfo")["interfaces"] == ["org.varlink.service"]
        machine.daemon.terminate()
        assert machine.path.is_socket(), "it is systemd's, which goes on listening"
