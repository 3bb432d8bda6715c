# SPDX-License-Identifier: Apache-2.0
"""Clients of org.freedesktop.sysupdate1, each call by call as the real ones ask, with their timeouts, and as touchy.

    with Caller(bus.address) as caller:
        shop = GnomeSoftware(caller, 51)
        app = shop.refresh()

Sources: gnome-software 48.0 to 51.rc, plugins/systemd-sysupdate; systemd 257.13 and 262, src/sysupdate/updatectl.c;
plasma-discover, SystemdSysupdateBackend.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from kit.caller import DRIVER, ERROR, PROPERTIES, Caller, Refused

NAME = "org.freedesktop.sysupdate1"
ROOT = "/org/freedesktop/sysupdate1"
HOST = f"{ROOT}/target/host"
MANAGER, TARGET, JOB = f"{NAME}.Manager", f"{NAME}.Target", f"{NAME}.Job"
NO_CANDIDATE = f"{NAME}.NoCandidate"

PLAUSIBLE_TYPES = ("list", "describe", "check-new", "acquire", "install", "vacuum", "describe-feature", "update")
"""At any other GNOME Software 51 ends itself."""

FLAGS = ("newest", "available", "installed", "obsolete", "protected", "incomplete", "partial", "pending")
_WORDS = (
    ("current", {"newest", "installed"}), ("current+pending", {"newest", "installed", "pending"}),
    ("current+partial", {"newest", "installed", "partial"}), ("candidate", {"newest", "available"}),
    ("installed", {"installed"}), ("available", {"available"}),
    ("current+incomplete", {"newest", "installed", "incomplete"}),
    ("installed+incomplete", {"installed", "incomplete"}),
    ("current+obsolete", {"newest", "installed", "obsolete"}), ("installed+obsolete", {"installed", "obsolete"}),
    ("available+obsolete", {"available", "obsolete"}), ("available+obsolete", {"newest", "available", "obsolete"}),
    ("current+obsolete+incomplete", {"newest", "installed", "obsolete", "incomplete"}),
    ("installed+obsolete+incomplete", {"installed", "obsolete", "incomplete"}),
)


def _table() -> Iterator[tuple[frozenset[str], str]]:
    for words, base in _WORDS:
        for available, protected in product((set(), {"available"}), (set(), {"protected"})):
            if protected and words.startswith("installed"):
                yield frozenset(base | available | protected), words.replace("installed", "protected")
            else:
                yield frozenset(base | available | protected), words


WORDS = dict(_table())
"""What updatectl 257 to 262 calls each combination of flags. Where it has no words it ends itself."""


@dataclass(frozen=True)
class App:
    """The operating system in the list of updates. `ready` puts it into the section "Requires Restart", where the
    button says "Restart & Update"."""

    installed: str
    latest: str
    ready: bool


class CrashError(AssertionError):
    """What the real client would end itself at, or complain of in its log."""


class _Client:
    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        caller.listen(f"type='signal',sender='{NAME}'")

    def manager(self, member: str, timeout: float = 25.0) -> Any:
        return self.caller.call(member, place=(NAME, ROOT, MANAGER), timeout=timeout)[0]

    def target(self, member: str, signature: str = "", *arguments: Any, timeout: float = 25.0, path: str = HOST) -> Any:
        """All out arguments of a method, or the only one."""
        answer = self.caller.call(member, signature, *arguments, place=(NAME, path, TARGET), timeout=timeout)
        return answer[0] if len(answer) == 1 else answer

    def start(self, member: str, version: str = "", timeout: float = 25.0) -> tuple[str, int, str]:
        """Start a job: version, number and path of it."""
        name, number, path = self.target(member, "st", version, 0, timeout=timeout)
        return name, number, path

    def properties(self, path: str) -> dict[str, Any]:
        """GetAll of a job, which clients cannot do without."""
        try:
            (found,) = self.caller.call("GetAll", "s", JOB, place=(NAME, path, PROPERTIES))
        except Refused as error:
            raise CrashError(f"no properties of {path}") from error
        if found["Type"] not in PLAUSIBLE_TYPES:
            raise CrashError(f"a job of type {found['Type']}")
        assert found.keys() == {"Id", "Type", "Offline", "Progress"}
        return dict(found)

    def cancel(self, path: str) -> None:
        """Which has one second."""
        self.caller.call("Cancel", place=(NAME, path, JOB), timeout=1.0)

    def removed(self, path: str, timeout: float = 30.0) -> int:
        """The status of a job, when it is over."""
        signal = self.caller.signal(lambda one: one.member == "JobRemoved" and one.body[1] == path, timeout)
        assert (signal.path, signal.interface, signal.signature) == (ROOT, MANAGER, "toi")
        return int(signal.body[2])


class GnomeSoftware(_Client):
    """The plugin of GNOME Software 48 to 51; from 51 on it acquires and installs."""

    def __init__(self, caller: Caller, version: int) -> None:
        super().__init__(caller)
        self._version = version
        if NAME not in caller.call("ListActivatableNames", place=DRIVER)[0]:
            raise CrashError("the plugin disables itself for the session")

    def refresh(self) -> App | None:
        """Look for updates; None when the operating system is not listed."""
        found = None
        for kind, name, path in self.manager("ListTargets", timeout=1.0):
            assert (kind, name) == ("host", "host")
            try:
                assert self.target("GetAppStream", timeout=1.0, path=path) == []
                installed = self.target("GetVersion", timeout=1.0, path=path)
                latest = self.target("CheckNew", timeout=10.0, path=path)
                found = self._listed(installed, latest) if latest else None
            except TimeoutError:
                return None  # "0 updates", without a word
        return found

    def _listed(self, installed: str, latest: str) -> App | None:
        patience = 1.0 if self._version == 48 else 10.0
        for _ in range(2):  # when it lists, and when it refines
            told = json.loads(self.target("Describe", "st", latest, 0, timeout=patience))
        assert told["version"] == latest
        ready = any(told[flag] for flag in ("pending", "partial", "incomplete"))
        return App(installed, latest, ready) if ready or (installed and not told["installed"]) else None

    def download(self) -> int:
        """The button "Download"; also what the update monitor does by itself. Before 51 that is all of it."""
        return self._run("Acquire" if self._version >= 51 else "Update")

    def apply(self) -> int:
        """What is downloaded already."""
        return self._run("Install") if self._version >= 51 else 0

    def update(self) -> int:
        """The button "Update", and "Restart & Update" before the session manager is asked to reboot."""
        if self._version < 51:
            return self._run("Update")
        return self._run("Acquire") or self._run("Install")

    def _run(self, member: str) -> int:
        try:
            _, _, path = self.start(member)
        except Refused as error:
            if member == "Acquire" and error.name == NO_CANDIDATE:
                raise CrashError("GLib-GIO-CRITICAL: task->ever_returned") from error
            raise
        self.properties(path)
        return self.removed(path)


class Updatectl(_Client):
    """updatectl of systemd 257 to 262; from 260 on it acquires and installs. Returns what it prints."""

    def __init__(self, caller: Caller, version: int) -> None:
        super().__init__(caller)
        self._version = version

    def targets(self) -> dict[str, tuple[str, str]]:
        """`updatectl list`: version and path by target."""
        found = {}
        for kind, name, path in self.manager("ListTargets"):
            where = self.caller.get_of(NAME, path, TARGET, "Path")
            found[name if kind == "host" else f"{kind}:{name}"] = self.target("GetVersion", path=path), where
        return found

    def versions(self, *, offline: bool = False) -> dict[str, str]:
        """`updatectl list host`: what it calls each version."""
        flags = int(offline)
        found = self.target("List", "t", flags)
        # All of them are asked for at once.
        asked = [self.caller.send("Describe", "st", one, flags, place=(NAME, HOST, TARGET)) for one in found]
        told = [self._words(self.caller.reply(serial)[0]) for serial in asked]
        return dict(zip(found, told, strict=True))

    def _words(self, text: str) -> str:
        told = json.loads(text)
        if not told.get("contents") or any(isinstance(value, list | dict) for one in told["contents"]
                                           for value in one.values()):
            raise CrashError("Failed to format JSON")
        words = WORDS.get(frozenset(name for name in FLAGS if told[name]))
        if words is None:
            raise CrashError(f"assertion: {text}")
        return words

    def check(self) -> str:
        """`updatectl check`."""
        newest = self.target("CheckNew")
        if not newest:
            return ""
        self._words(self.target("Describe", "st", newest, 0))
        return f"{self.target('GetVersion')} -> {newest}"

    def update(self, version: str = "") -> str:
        """`updatectl update [host@VERSION]`."""
        try:
            if self._version < 260:
                self._follow("Update", version)
                return "Done"
            try:
                name = self._follow("Acquire", version)
            except _FailedError as failed:
                print(f"acquire failed with {failed}")  # and goes on all the same
                name = failed.version
            self._follow("Install", name)
        except Refused as error:
            return "Already up-to-date" if error.name == NO_CANDIDATE else error.message
        except _FailedError as failed:
            return f"Failed with {failed}"
        return "Done"

    def _follow(self, member: str, version: str) -> str:
        name, _, path = self.start(member, version)
        assert name, "no version"
        status = self.removed(path)
        if status:
            raise _FailedError(status, name)
        return name

    def vacuum(self) -> list[int]:
        """`updatectl vacuum`."""
        found: list[int] = self.target("Vacuum", timeout=60.0)
        return found

    def features(self) -> list[str]:
        """`updatectl features`."""
        found: list[str] = self.target("ListFeatures", "t", 0)
        return found


class _FailedError(Exception):
    def __init__(self, status: int, version: str) -> None:
        super().__init__(str(status))
        self.version = version


class Discover(_Client):
    """KDE Discover: updates to the version that CheckNew told."""

    def update(self) -> int:
        self.caller.call("Ping", place=(NAME, ROOT, "org.freedesktop.DBus.Peer"))
        newest = self.target("CheckNew")
        _, number, path = self.start("Update", newest)
        assert self.properties(path)["Id"] == number
        return self.removed(path)


def refusal(client: _Client, member: str, signature: str = "", *arguments: Any, path: str = HOST) -> str:
    """The name of the error that a method of the target answers, without its beginning."""
    try:
        client.target(member, signature, *arguments, path=path)
    except Refused as error:
        return error.name.removeprefix(ERROR)
    return ""
