# SPDX-License-Identifier: Apache-2.0
"""Services of a desktop on a private bus, played by python-dbusmock: logind, UPower, power profiles.

    with Mock(bus, "logind") as logind:
        logind.tell("AddSession", "ssusb", "c1", "seat0", "1000", "eve", "true")

dbusmock comes from the distribution, with its interpreter. `Logind` has what its template lacks: a shutdown that can be
planned and cancelled, which changes what it shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from types import TracebackType
from typing import Any

import pytest

from .bus import SystemBus

PYTHON = "/usr/bin/python3"
_MOCK = "org.freedesktop.DBus.Mock"
_SECONDS = 20


class Mock:
    """One service: a template of dbusmock, or its bus name, object path and interface."""

    def __init__(self, bus: SystemBus, *what: str, **parameters: Any) -> None:
        if subprocess.run([PYTHON, "-c", "import dbusmock"], capture_output=True, check=False).returncode:
            pytest.skip("python3-dbusmock is not installed")
        self._bus = bus
        known = {"logind": ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"),
                 "upower": ("org.freedesktop.UPower",) * 3,
                 "power_profiles_daemon": ("net.hadess.PowerProfiles",) * 3}
        self.name, self.path, self.interface = known[what[0]] if len(what) == 1 else what
        if not self.path.startswith("/"):
            self.path = "/" + self.path.replace(".", "/")
        self._arguments = (["--template", *what, "--parameters", json.dumps(parameters)] if len(what) == 1
                           else list(what))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Any:
        self._process = subprocess.Popen(
            [PYTHON, "-m", "dbusmock", "--system", *self._arguments], env={**os.environ, **self._bus.environment},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _SECONDS
        while not self._is_there():
            assert time.monotonic() < deadline, "the mock does not start"
            assert self._process.poll() is None, "the mock has died"
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def tell(self, member: str, signature: str = "", *arguments: str, path: str = "") -> Any:
        """Call a method of the mock itself, in the words of busctl."""
        return self._busctl("call", self.name, path or self.path, _MOCK, member, *([signature] if signature else []),
                            *arguments)

    def set(self, name: str, kind: str, value: str, path: str = "", interface: str = "") -> None:
        """Give a property another value."""
        self.tell("UpdateProperties", "sa{sv}", interface or self.interface, "1", name, kind, value, path=path)

    def calls(self, member: str) -> list[list[Any]]:
        """The arguments of all calls of a method so far."""
        found = self.tell("GetMethodCalls", "s", member)
        return [[one["data"] for one in arguments] for _, arguments in found]

    def _is_there(self) -> bool:
        done = subprocess.run(["busctl", f"--address={self._bus.address}", "status", self.name],
                              capture_output=True, check=False)
        return done.returncode == 0

    def _busctl(self, *words: str) -> Any:
        done = subprocess.run(["busctl", f"--address={self._bus.address}", "--json=short", *words],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if not done.stdout.strip():
            return None
        data = json.loads(done.stdout)["data"]
        return data[0] if words[0] == "call" and data else data


class Logind(Mock):
    """logind that plans shutdowns. `planned` says which."""

    def __init__(self, bus: SystemBus) -> None:
        super().__init__(bus, "logind")

    def __enter__(self) -> Logind:
        super().__enter__()
        self.tell("AddProperty", "ssv", self.interface, "ScheduledShutdown", "(st)", "", str(2**64 - 1))
        self.repair()
        return self

    def repair(self) -> None:
        """Let it do what it is asked for, whatever a test has made of its methods."""
        change = 'self.props[%r]["ScheduledShutdown"] = dbus.Struct((%s, dbus.UInt64(%s)), signature="st")'
        none = change % (self.interface, '""', 2**64 - 1)
        for member, signature, out, code in (
            ("ScheduleShutdown", "st", "", change % (self.interface, "args[0]", "args[1]")),
            ("CancelScheduledShutdown", "", "b", f"ret = True; {none}"), ("SetWallMessage", "sb", "", "")):
            self.tell("AddMethod", "sssss", self.interface, member, signature, out, code)

    @property
    def planned(self) -> tuple[str, float] | None:
        """Kind and time of the shutdown that is planned."""
        kind, when = self._busctl("get-property", self.name, self.path, self.interface, "ScheduledShutdown")
        return (kind, when / 1_000_000) if kind else None

    def plan(self, kind: str, when: float) -> None:
        """As shutdown(8) does, for a time in seconds since 1970."""
        self._busctl("call", self.name, self.path, self.interface, "ScheduleShutdown", "st", kind,
                     str(int(when * 1_000_000)))

    def cancel(self) -> None:
        """As shutdown -c does."""
        self._busctl("call", self.name, self.path, self.interface, "CancelScheduledShutdown")

    def log_in(self, session: str, name: str, uid: int = 1000) -> str:
        """Somebody sits down at seat0; the object of his session."""
        path = self.tell("AddSession", "ssusb", session, "seat0", str(uid), name, "true")
        return str(path)
