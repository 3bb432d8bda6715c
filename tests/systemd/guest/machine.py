# SPDX-License-Identifier: Apache-2.0
"""What the tests ask of the machine that they run on: programs, units, the journal, the bus, the sources of images."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kit.images import ImageBuilder
from kit.os_images import base_layer, os_image
from kit.scripted_server import Reply, ScriptedServer, Seen

UNIT = "bootcd.service"
FINALIZE = "bootcd-finalize-staged.service"
USER = "alice"
RULES = Path("/etc/polkit-1/rules.d/50-test.rules")
LAYOUT = Path("/srv/os")
"""The OCI layout whose tag `latest` the machine follows from its installation."""
LOCAL = f"oci:{LAYOUT}:latest"
ESP = Path("/efi")

T = TypeVar("T")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Done:
    """A program that ended."""

    status: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit status {self.status}\n--- output\n{self.out}\n--- errors\n{self.err}"


def run(*command: str, user: str = "", timeout: float = 90.0) -> Done:
    """Run a program to its end, whatever its exit status."""
    if user:
        command = ("setpriv", f"--reuid={user}", "--regid=1000", "--clear-groups", *command)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
                          check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def ok(*command: str, user: str = "") -> str:
    """The output of a program that succeeds."""
    done = run(*command, user=user)
    assert done.status == 0, f"{' '.join(command)}: {done}"
    return done.out


def bootcctl(*arguments: str, user: str = "") -> Any:
    """What `bootcctl ... --json` answers."""
    return json.loads(ok("bootcctl", "--quiet", *arguments, "--json", user=user))


def wait(what: str, condition: Callable[[], T], timeout: float = 60.0) -> T:
    """Ask until the answer is true; it is returned."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}; it is {answer!r}"
        time.sleep(0.2)


# --- systemd ----------------------------------------------------------------------------------------------------------


def show(*names: str, unit: str = UNIT) -> dict[str, str]:
    """Properties of a unit."""
    lines = ok("systemctl", "show", f"--property={','.join(names)}", unit).splitlines()
    return dict(line.split("=", 1) for line in lines)


def main_pid() -> int:
    """The daemon; 0 when it does not run."""
    return int(show("MainPID")["MainPID"])


def processes() -> list[str]:
    """Command lines of all processes of the daemon's control group."""
    found = []
    group = Path("/sys/fs/cgroup" + show("ControlGroup")["ControlGroup"])
    for pid in (group / "cgroup.procs").read_text().split():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip())
        except OSError:  # it has ended since
            continue
    return found


def restarted(before: int) -> int:
    """Wait until systemd has replaced the daemon `before`; the new process."""
    def answer() -> int:
        now = show("MainPID", "ActiveState", "SubState")
        there = (now["ActiveState"], now["SubState"]) == ("active", "running")
        return int(now["MainPID"]) if there and int(now["MainPID"]) not in (0, before) else 0

    return wait("the daemon runs again", answer, timeout=90)


def journal(*arguments: str) -> list[dict[str, Any]]:
    """Journal entries of this boot, oldest first."""
    ok("journalctl", "--sync")
    lines = ok("journalctl", "--output=json", "--all", "--boot", *arguments).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def cursor() -> str:
    """Where the journal ends now: an argument of `journal`, for what comes after."""
    ok("journalctl", "--sync")
    return f"--after-cursor={ok('journalctl', '--lines=0', '--show-cursor').partition('cursor: ')[2].strip()}"


# --- the bus ----------------------------------------------------------------------------------------------------------


def call(method: str, *arguments: str, user: str = "") -> Any:
    """Call a method of the manager; its first out argument."""
    text = ok("busctl", "--json=short", "call", "org.bootcd1", "/org/bootcd1", "org.bootcd1.Manager", method,
              *arguments, user=user)
    return plain(json.loads(text)["data"])[0]


def prop(name: str, path: str = "/org/bootcd1", interface: str = "Manager") -> Any:
    """A property."""
    text = ok("busctl", "--json=short", "get-property", "org.bootcd1", path, f"org.bootcd1.{interface}", name)
    return plain(json.loads(text)["data"])


def plain(value: Any) -> Any:
    """busctl's JSON without the types of variants."""
    if isinstance(value, dict):
        if value.keys() == {"type", "data"}:
            return plain(value["data"])
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def settled() -> None:
    """Wait until no job runs."""
    wait("no job runs", lambda: prop("ActiveJob") == "/" and not [one for one in processes() if "worker" in one])


# --- images -----------------------------------------------------------------------------------------------------------


def new_version() -> str:
    """A version that no image had before."""
    return f"2.{next(_numbers)}"


def publish(version: str) -> ImageBuilder:
    """Make the layout's tag name an image of this version with a kernel of its own."""
    image = os_image(version, base=base_layer(kernel=f"kernel of {version}".encode()))
    image.write_layout(LAYOUT, "latest")
    return image


def follow_the_layout() -> None:
    """Whatever was followed before."""
    bootcctl("switch", LOCAL)


def deployments() -> dict[str, list[str]]:
    """Versions, in boot order, and their roles."""
    return {one["version"]: one["roles"] for one in bootcctl("status")["deployments"]}


def another_deployment() -> str:
    """The version of one with a boot entry, beside the running one; made if there is none."""
    for version, roles in deployments().items():
        if not {"booted", "staged"} & set(roles):
            return version
    version = new_version()
    publish(version)
    bootcctl("upgrade")
    ok("systemctl", "restart", FINALIZE)
    return version


def kernels() -> set[str]:
    return set(os.listdir(ESP / "EFI/bootcd"))


def entries() -> list[str]:
    return sorted(os.listdir(ESP / "loader/entries"))


class Registry:
    """One repository, `os`, whose tag `latest` names what was published last."""

    def __init__(self) -> None:
        self._server = ScriptedServer()
        self._open = threading.Event()
        self._open.set()
        self.asked = threading.Event()
        """Somebody waits for a layer that is withheld."""
        self.image = f"docker://{self._server.host}/os:latest"

    def publish(self, version: str) -> None:
        image = os_image(version, base=base_layer(kernel=f"kernel of {version}".encode()))
        manifest = Reply(body=image.manifest_bytes, headers={"Content-Type": image.media_type})
        self._server.serve("/v2/os/manifests/latest", manifest)
        self._server.serve(f"/v2/os/manifests/{image.manifest_digest}", manifest)
        for digest, data in image.blobs().items():
            self._server.serve(f"/v2/os/blobs/{digest}", Reply(body=data))
        for layer in image.layers:
            self._server.serve(f"/v2/os/blobs/{layer.digest}", self._slowly(Reply(body=layer.blob)))

    def fail(self) -> None:
        """From now on there is no such image."""
        self._server.serve("/v2/os/manifests/latest", Reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'))

    @contextmanager
    def withholding(self) -> Iterator[None]:
        """Layers do not come before the end."""
        self.asked.clear()
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def _slowly(self, reply: Reply) -> Callable[[Seen], Reply]:
        def answer(seen: Seen) -> Reply:
            if not self._open.is_set():
                self.asked.set()
                self._open.wait(120)
            return reply

        return answer

    def __enter__(self) -> Registry:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.set()
        self._server.__exit__(None, None, None)
