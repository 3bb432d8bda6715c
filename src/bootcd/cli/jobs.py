# SPDX-License-Identifier: Apache-2.0
"""What a job of the daemon tells, in the words of this program: progress, errors, who runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BootcdError, PermissionDenied, Unsupported, UsageError, all_errors
from ..model import Progress

_CLASSES = {cls.bus_name(): cls for cls in all_errors()}
_DBUS = "org.freedesktop.DBus.Error."
_GONE = {_DBUS + name for name in ("NoReply", "Disconnected", "ServiceUnknown", "NameHasNoOwner", "NoServer")}
_REFUSED = {_DBUS + name for name in ("AccessDenied", "InteractiveAuthorizationRequired", "AuthFailed")}
_INVALID = {_DBUS + name for name in ("InvalidArgs", "InvalidSignature")}
_UNKNOWN = {_DBUS + name for name in ("UnknownMethod", "UnknownInterface", "UnknownProperty")}

_BYPASS = "'systemctl status bootcd' says why; with '--sysroot /sysroot' bootcctl works without it."


class BusError(Exception):
    """An answer that is an error, or no answer: a D-Bus name, the message and what would help."""

    def __init__(self, name: str, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.advice = advice


def error_of(error: BusError, doing: str) -> BootcdError:
    """The error of this program that `error` stands for; `doing` is the verb that failed."""
    cls = _CLASSES.get(error.name)
    if cls is not None:
        return cls(error.message, advice=error.advice)
    if error.name in _GONE:
        return gone(doing, error.message)
    if error.name in _REFUSED:
        advice = None if error.name.endswith("Denied") else "Run it as root, or on a terminal where polkit can ask."
        return PermissionDenied(f"'{doing}' is not allowed: {error.message}", advice=advice)
    if error.name in _INVALID:
        return UsageError(f"bootcd refuses the arguments of '{doing}': {error.message}")
    if error.name in _UNKNOWN:
        return Unsupported(f"the bootcd that runs cannot do '{doing}': {error.message}",
                           advice="It is of another version than bootcctl; 'systemctl restart bootcd' brings them "
                                  "together.")
    return BootcdError(f"bootcd does not answer '{doing}': {error.message or error.name}", advice=_BYPASS)


def gone(doing: str, why: str = "") -> BootcdError:
    """The daemon is not there any more."""
    return BootcdError(
        f"bootcd went away during '{doing}'{f': {why}' if why else ''}",
        advice="Nothing is lost: what was finished is kept, and the next command that changes anything completes what "
               "was cut off. 'journalctl -u bootcd' says why it went.")


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job as somebody else sees it. `percent` is that of the stage, None where nothing is counted."""

    kind: str
    stage: str
    percent: int | None
    by: str

    @classmethod
    def read(cls, properties: Mapping[str, Any]) -> RunningJob:
        total = properties.get("BytesTotal")
        percent = properties.get("Progress")
        return cls(str(properties.get("Kind", "")), str(properties.get("Stage", "")),
                   percent if total and isinstance(percent, int) else None, started_by(properties))

    def text(self) -> str:
        """All of it in one line."""
        parts = [self.kind, self.stage, "" if self.percent is None else f"{self.percent} %", f"started by {self.by}"]
        return ", ".join(part for part in parts if part)


def started_by(properties: Mapping[str, Any]) -> str:
    """The program and the user that asked for a job."""
    match properties.get("StartedBy"):
        case [str(), int() as uid, str() as program]:
            return f"{program} (uid {uid})" if program else f"uid {uid}"
        case _:
            return "somebody"


class Follower:
    """Turns the properties of a job, as they change, into calls of a `Progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ""
        self._total = self._done = 0

    def changed(self, properties: Mapping[str, Any]) -> None:
        """`properties` are new values; the others are as before."""
        stage = _take(properties, "Stage", self._stage)
        total = _take(properties, "BytesTotal", self._total)
        done = _take(properties, "BytesDone", self._done)
        if not stage:
            return
        if (stage, total) != (self._stage, self._total) or done < self._done:
            self._progress.begin(stage, total)
            self._stage, self._total, self._done = stage, total, 0
        if done > self._done:
            self._progress.advance(done - self._done)
            self._done = done

    def note(self, message: object) -> None:
        if isinstance(message, str):
            self._progress.note(message)


def _take(properties: Mapping[str, Any], name: str, old: Any) -> Any:
    value = properties.get(name, old)
    return value if type(value) is type(old) else old
