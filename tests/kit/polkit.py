# SPDX-License-Identifier: Apache-2.0
"""A real polkitd on a private bus, with our actions and rules of a test's own.

    with SystemBus(tmp_path / "bus") as bus, Polkit(bus, 'polkit.addRule(...)'):
        ...

polkitd 122 takes no directories and drops to its own user, so it gets a mount namespace of its own, in which its
directories are ours; nothing is installed, and the namespace ends with it. That needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Protocol

from kit.running import Running

PROGRAMS = ("/usr/lib/polkit-1/polkitd", "/usr/libexec/polkitd")
"""Debian's place, Fedora's place."""
POLICY = Path(__file__).resolve().parents[2] / "data" / "polkit" / "org.bootcd1.policy"
SYSUPDATE_POLICY = POLICY.with_name("org.freedesktop.sysupdate1.policy")
NAME = "org.freedesktop.PolicyKit1"

_ADMINISTRATOR = 'polkit.addAdminRule(function(action, subject) { return ["unix-user:0"]; });\n'
_START_SECONDS = 10.0

_SETUP = """
set -e
dir=$1
shift
mount --bind "$dir/actions" /usr/share/polkit-1/actions
mount --bind "$dir/rules" /etc/polkit-1/rules.d
mount --bind "$dir/none" /usr/share/polkit-1/rules.d
exec "$@"
"""


class Address(Protocol):
    """A private bus, such as `kit.bus.SystemBus`."""

    @property
    def address(self) -> str: ...


def program() -> str | None:
    """Where polkitd is, if it is installed."""
    return next((path for path in PROGRAMS if os.access(path, os.X_OK)), None)


def missing() -> str:
    """Why it cannot run here; empty when it can."""
    if os.geteuid() != 0:
        return "polkitd needs root to change its user"
    if program() is None or shutil.which("gdbus") is None:
        return "polkitd or gdbus is not installed"
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "no mount namespaces here"


class Polkit(Running):
    """polkitd on `bus`. `rules` is JavaScript as in /etc/polkit-1/rules.d; administrators are root alone."""

    def __init__(self, bus: Address, rules: str = "", *, policy: Path = POLICY) -> None:
        self._bus = bus
        self._rules = rules
        self._policy = policy
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it owns its name. Raises RuntimeError with its log when it does not."""
        directory = self._directory = Path(tempfile.mkdtemp(prefix="polkit-"))
        for name in ("actions", "rules", "none"):
            (directory / name).mkdir()
        # Its own user reads these, through the mounts.
        for path in (directory / "actions" / self._policy.name, directory / "rules" / "10-test.rules"):
            path.write_text(self._policy.read_text() if path.suffix == ".policy" else self._rules + _ADMINISTRATOR)
            path.chmod(0o644)
        for name in ("actions", "rules", "none"):
            (directory / name).chmod(0o755)
        log = directory / "log"
        command = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", _SETUP, "polkit", str(directory)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, program() or "polkitd"], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DBUS_SYSTEM_BUS_ADDRESS": self._bus.address})
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._is_there():
                return
            time.sleep(0.02)
        text = log.read_text(errors="replace")
        self.stop()
        raise RuntimeError(f"polkitd did not start:\n{text}")

    def log(self) -> str:
        """What it has said: rules that are wrong, for example."""
        assert self._directory is not None, "it was not started"
        return (self._directory / "log").read_text(errors="replace")

    def freeze(self) -> None:
        """Let it hang, until the end."""
        os.kill(self.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """Let it die."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        self.kill()
        directory, self._directory = self._directory, None
        if directory is not None:
            shutil.rmtree(directory)

    def _is_there(self) -> bool:
        asked = subprocess.run(
            ["gdbus", "call", "--address", self._bus.address, "--dest", "org.freedesktop.DBus", "--object-path",
             "/org/freedesktop/DBus", "--method", "org.freedesktop.DBus.NameHasOwner", NAME],
            capture_output=True, check=False)
        return b"true" in asked.stdout
