# SPDX-License-Identifier: Apache-2.0
"""A private message bus of type system, and bootcd on it.

    with SystemBus(tmp_path / "bus") as bus, Daemon(bus, sysroot, esp, config) as daemon:
        subprocess.run(["busctl", f"--address={bus.address}", "tree", "org.bootcd1"])

The policy is that of a system bus, with our own file as it is installed; only the names of others are free for all, so
that tests can play them. The socket is in /tmp: there other users reach it, and its path is short enough.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from kit.running import Running

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "data" / "dbus" / "org.bootcd1.conf"
SYSUPDATE_POLICY = ROOT / "data" / "dbus" / "org.freedesktop.sysupdate1.conf"
PROGRAM = "dbus-daemon"

_START_SECONDS = 15.0
_STOP_SECONDS = 30.0

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <auth>EXTERNAL</auth>
  <listen>unix:path={socket}</listen>
  {servicedir}
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <deny own_prefix="org.bootcd1"/>
    <deny own="org.freedesktop.sysupdate1"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
  {policies}
  {limits}
</busconfig>
"""
_OPEN = '<busconfig><policy context="default"><allow own="*"/></policy></busconfig>'


def available() -> bool:
    """Whether there is a dbus-daemon."""
    return shutil.which(PROGRAM) is not None


class SystemBus(Running):
    """dbus-daemon with its files in `directory`. `servicedir` has files for activation; `limits` are those of
    dbus-daemon(1) by name; with `policy` None everybody may send everything to everybody."""

    def __init__(self, directory: Path, *, servicedir: Path | None = None, limits: Mapping[str, int] | None = None,
                 policy: Path | None = POLICY) -> None:
        self.directory = directory
        self.address = ""
        self._servicedir = servicedir
        self._limits = limits or {}
        self._policy = policy
        self._place: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What leads a program to this bus."""
        return {"DBUS_SYSTEM_BUS_ADDRESS": self.address}

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it listens. Raises RuntimeError with its log when it does not."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._place = Path(tempfile.mkdtemp(prefix="bus-"))
        self._place.chmod(0o755)
        config = self.directory / "bus.conf"
        config.write_text(self._config(self._place / "socket"))
        log = self.directory / "bus.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [PROGRAM, f"--config-file={config}", "--nofork", "--nopidfile", "--nosyslog", "--print-address=1"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().decode().strip()  # comes when it listens; empty when it ends
        if not self.address:
            self.stop()
            raise RuntimeError(f"dbus-daemon did not start:\n{log.read_text(errors='replace')}")

    def kill(self) -> None:
        """Let it die, as in a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def stop(self) -> None:
        self.kill()
        place, self._place = self._place, None
        if place is not None:
            shutil.rmtree(place)

    def _config(self, place: Path) -> str:
        texts = [_OPEN] if self._policy is None else [self._policy.read_text(), SYSUPDATE_POLICY.read_text()]
        policies = [self.directory / f"policy-{number}.conf" for number in range(len(texts))]
        for path, text in zip(policies, texts, strict=True):
            path.write_text(text.replace('user="root"', f'user="{pwd.getpwuid(os.geteuid()).pw_name}"'))
        return _CONFIG.format(
            socket=place, policies="".join(f"<include>{path}</include>" for path in policies),
            servicedir="" if self._servicedir is None else f"<servicedir>{self._servicedir}</servicedir>",
            limits="".join(f'<limit name="{name}">{value}</limit>\n' for name, value in self._limits.items()))


class Daemon(Running):
    """bootcd on `bus`, for the installation at `sysroot`; with more arguments and variables if need be, and started by
    the command `wrapper` if there is one, which becomes it."""

    def __init__(self, bus: SystemBus, sysroot: Path, esp: Path | None = None, config: Path | None = None, *,
                 options: tuple[str, ...] = (), environment: Mapping[str, str] | None = None,
                 wrapper: tuple[str, ...] = ()) -> None:
        self._bus = bus
        self._arguments = ["--sysroot", os.fspath(sysroot)]
        self._arguments += ["--esp", os.fspath(esp)] if esp is not None else []
        self._arguments += ["--config", os.fspath(config)] if config is not None else []
        self._arguments += options
        self._environment = {**(environment or {})}
        self._wrapper = wrapper
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it is ready (sd_notify(3)). Raises RuntimeError with its log when it does not get
        there."""
        directory = self._directory = Path(tempfile.mkdtemp(prefix="bootcd-"))
        source = os.pathsep.join(filter(None, (os.fspath(ROOT / "src"), os.environ.get("PYTHONPATH"))))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(os.fspath(directory / "notify"))
            manager.settimeout(0.05)
            environment = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
            environment |= {"PYTHONPATH": source, "NOTIFY_SOCKET": os.fspath(directory / "notify"),
                            **self._bus.environment, **self._environment}
            with (directory / "log").open("wb") as output:
                self._process = subprocess.Popen(
                    [*self._wrapper, sys.executable, "-m", "bootcd.daemon", *self._arguments], stdin=subprocess.DEVNULL,
                    stdout=output, stderr=output, env=environment, cwd=directory)
            deadline = time.monotonic() + _START_SECONDS
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    if b"READY=1" in manager.recv(4096).split(b"\n"):
                        return
                except TimeoutError:
                    continue
        text = self.log()
        self.stop()
        raise RuntimeError(f"bootcd did not start:\n{text}")

    def log(self) -> str:
        """What it has written so far."""
        assert self._directory is not None, "it was not started"
        return (self._directory / "log").read_text(errors="replace")

    def terminate(self) -> int:
        """Ask it to end, as systemd does; the exit status."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; the exit status."""
        assert self._process is not None, "it does not run"
        return self._process.wait(_STOP_SECONDS)

    def kill(self) -> None:
        """Let it die, as in a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """End it and remove its files."""
        try:
            if self._process is not None and self._process.poll() is None:
                self.terminate()
        finally:
            self.kill()
            directory, self._directory = self._directory, None
            if directory is not None:
                shutil.rmtree(directory)
