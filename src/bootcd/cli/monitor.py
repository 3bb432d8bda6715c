# SPDX-License-Identifier: Apache-2.0
"""`bootcctl monitor`: what the daemon does, event by event, as lines of text or of JSON.

An event is a dictionary whose key `event` says what happened; `Watcher` makes events of signals, `text` makes a line of
an event. Nothing here starts the daemon.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from ..errors import Unsupported
from ..model import size_text
from .client import DBUS, DEPLOYMENT, JOB, MANAGER, ROOT, Connection, Signal
from .hosts import connection
from .jobs import BusError, error_of, started_by
from .text import printable

Event = dict[str, Any]

SELDOM = 5.0
"""Seconds between two lines about the progress of a job on a terminal."""
_SHOWN = {"Version": "version", "Roles": "roles", "Health": "health", "Pins": "pins", "Image": "image"}
"""What events tell about a deployment."""


def monitor(options: Namespace) -> int:
    """The verb. Ctrl-C and SIGTERM are its normal end."""
    terminal = sys.stdout.isatty()
    with connection(options) as bus, bus.interrupts_held():
        try:
            for event in Watcher(bus).events():
                line = _json_line(event) if options.json else text(event, terminal)
                if line:
                    print(line, flush=True)
        except KeyboardInterrupt:
            pass
        except BusError as error:
            raise error_of(error, "monitor") from error
    return 0


class Watcher:
    """Follows the daemon on a connection; `clock` counts seconds."""

    def __init__(self, bus: Connection, clock: Callable[[], float] = time.monotonic) -> None:
        self._bus = bus
        self._clock = clock
        self._owner = ""
        self._jobs: dict[str, dict[str, Any]] = {}
        self._shown: dict[str, float] = {}
        self._deployments: dict[str, dict[str, Any]] = {}

    def events(self) -> Iterator[Event]:
        """What happens, until the connection is lost (BusError) or somebody interrupts (KeyboardInterrupt)."""
        self._bus.subscribe()
        self._owner = self._bus.owner()
        if not self._owner:
            reply = self._bus.call(DBUS, "/org/freedesktop/DBus", DBUS, "ListActivatableNames")
            if "org.bootcd1" not in reply.arguments[0]:
                raise Unsupported("there is no daemon to follow", advice="'systemctl start bootcd' starts it.")
            yield _event("daemon-gone")
        else:
            yield from self._look(first=True)
        while True:
            signal = self._bus.next()
            if signal is not None:
                with contextlib.suppress(AttributeError, TypeError, ValueError):  # nonsense is passed over
                    yield from list(self._hear(signal))

    def _look(self, *, first: bool = False) -> Iterator[Event]:
        """What there is now: jobs that run, and deployments that are not as they were."""
        manager = self._read(ROOT, MANAGER)
        if manager is None:
            return
        for path in _paths(manager, "Jobs"):
            job = self._read(path, JOB)
            if job is not None and not job.get("Ended"):
                self._jobs[path] = job
                yield _event("job-running", **_about(job), stage=job.get("Stage", ""))
        yield from self._list(_paths(manager, "Deployments"), silent=first)

    def _list(self, paths: list[str], *, silent: bool = False) -> Iterator[Event]:
        for path in [path for path in self._deployments if path not in paths]:
            yield _event("deployment-removed", **self._deployments.pop(path))
        for path in paths:
            found = self._read(path, DEPLOYMENT)
            if found is None:
                continue
            shown = _deployment(found)
            before = self._deployments.get(path)
            self._deployments[path] = shown
            if shown != before and not silent:
                yield _event("deployment-changed" if before else "deployment-added", **shown)

    def _hear(self, signal: Signal) -> Iterator[Event]:
        match signal.interface, signal.member, signal.arguments:
            case "org.freedesktop.DBus", "NameOwnerChanged", [_, _, str() as new] if signal.sender == DBUS:
                if self._owner:
                    yield _event("daemon-gone")
                self._owner = new
                self._jobs.clear()
                if new:
                    yield _event("daemon-running")
                    yield from self._look()
            case _ if signal.sender != self._owner:
                return
            case "org.bootcd1.Manager", "JobNew", [_, str() as path, str()]:
                job = self._read(path, JOB)
                if job is not None and path not in self._jobs:
                    self._jobs[path] = job
                    yield _event("job-started", **_about(job))
            case "org.bootcd1.Manager", "JobRemoved", [number, str() as path, state, name, message]:
                yield self._ended(path, number, state, name, message)
            case "org.bootcd1.Manager", "Notice", [str() as kind, str() as message, dict() as facts]:
                yield _event("notice", notice=kind, message=message, facts=facts)
            case "org.bootcd1.Job", "Note", [str() as message]:
                yield _event("job-note", **self._which(signal.path), message=message)
            case "org.freedesktop.DBus.Properties", "PropertiesChanged", [str() as interface, dict() as changed, *_]:
                yield from self._changed(signal.path, interface, changed)

    def _ended(self, path: str, number: object, state: object, name: object, message: object) -> Event:
        known = self._jobs.pop(path, {})
        self._shown.pop(path, None)
        job = self._read(path, JOB) or known  # it lingers, and knows the advice
        advice = (job.get("Error") or ["", "", ""])[-1]
        return _event("job-ended", job=number, kind=job.get("Kind", ""), state=state, error=name, message=message,
                      advice=advice)

    def _changed(self, path: str, interface: str, changed: dict[str, Any]) -> Iterator[Event]:
        if interface == JOB and path in self._jobs:
            job = self._jobs[path]
            before = job.get("Stage", ""), job.get("BytesTotal", 0)
            job.update({name: value for name, value in changed.items() if type(value) is type(job.get(name))})
            stage, total = job.get("Stage", ""), job.get("BytesTotal", 0)
            if (stage, total) != before and stage:
                yield _event("job-stage", **self._which(path), stage=stage, total=total)
            elif "BytesDone" in changed and total and not job.get("Ended"):
                seldom = self._clock() - self._shown.get(path, float("-inf")) >= SELDOM
                if seldom:
                    self._shown[path] = self._clock()
                yield _event("job-progress", **self._which(path), stage=stage, done=job["BytesDone"], total=total,
                             rate=job.get("Rate", 0), seldom=seldom)
        elif interface == MANAGER and "Deployments" in changed:
            yield from self._list(_paths(changed, "Deployments"))
        elif interface == DEPLOYMENT and path in self._deployments:
            shown = self._deployments[path]
            new = shown | _deployment(changed, known=True)
            if new != shown:
                self._deployments[path] = new
                yield _event("deployment-changed", **new)

    def _which(self, path: str) -> dict[str, Any]:
        job = self._jobs.get(path, {})
        return {"job": job.get("Id", 0), "kind": job.get("Kind", "")}

    def _read(self, path: str, interface: str) -> dict[str, Any] | None:
        """The properties of an object, None when it is gone already. What is said meanwhile stays to be heard."""
        try:
            return self._bus.properties(path, interface, destination=self._owner, start=False)
        except BusError:
            return None


def _paths(properties: dict[str, Any], name: str) -> list[str]:
    found = properties.get(name)
    return found if isinstance(found, list) else []


def _event(name: str, **more: Any) -> Event:
    return {"event": name, "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), **more}


def _about(job: dict[str, Any]) -> dict[str, Any]:
    _, uid, program = job.get("StartedBy") or ["", 0, ""]
    return {"job": job.get("Id", 0), "kind": job.get("Kind", ""), "uid": uid, "program": program,
            "background": job.get("Background", False), "by": started_by(job)}


def _deployment(properties: dict[str, Any], *, known: bool = False) -> Event:
    found = {key: properties[name] for name, key in _SHOWN.items() if name in properties}
    if "pins" in found:
        found["pins"] = [label for label, _ in found["pins"]]
    return found if known else {"id": properties.get("Id", "")} | found


def _json_line(event: Event) -> str:
    return json.dumps({key: value for key, value in event.items() if key not in ("seldom", "by")}, ensure_ascii=True)


def text(event: Event, terminal: bool) -> str:
    """An event for people; empty for what they do not want to see that often."""
    line = _text(event, terminal)
    clock = datetime.fromisoformat(event["time"].replace("Z", "+00:00")).astimezone().strftime("%H:%M:%S")
    return f"{clock}  {printable(line)}" if line else ""


def _text(event: Event, terminal: bool) -> str:
    job = f"job {event['job']}, {event['kind']}: " if "job" in event else ""
    match event["event"]:
        case "job-started":
            return f"{job}started by {event['by']}" + (", in the background" if event["background"] else "")
        case "job-running":
            return f"{job}runs, started by {event['by']}" + (f": {event['stage']}" if event["stage"] else "")
        case "job-stage":
            return f"{job}{event['stage']}" + (f" ({size_text(event['total'])})" if event["total"] else "")
        case "job-progress":
            if not (terminal and event["seldom"]):
                return ""
            return f"{job}{size_text(event['done'])} of {size_text(event['total'])}, {size_text(event['rate'])}/s"
        case "job-note":
            return f"{job}{event['message']}"
        case "job-ended":
            return f"{job}{event['state']}" + (f": {event['message']}" if event["message"] else "")
        case "notice":
            return f"{event['notice']}: {event['message']}"
        case "daemon-gone":
            return "bootcd does not run"
        case "daemon-running":
            return "bootcd runs"
        case name:
            what = {"deployment-added": "is new", "deployment-removed": "is gone"}.get(name, "changed")
            roles = ", ".join(event.get("roles", [])) or "kept"
            return f"deployment {event['id'][:12]} (version {event.get('version') or 'unknown'}) {what}: {roles}"
