# SPDX-License-Identifier: Apache-2.0
"""What is kept across a reboot: how the last operation ended, what the last check found, and what was told of it.

    state/bootcd/last-result.json   {"schema": 1, "verb": …, "state": …, …}        a LastResult
    state/bootcd/update.json        {"schema": 1, "time": …, "update": {…}}        a CheckResult
    state/bootcd/told.json          {"schema": 1, "booted": …, "update": …, …}     a Told

They are for people and for `status`. Nothing else depends on them: that they cannot be written never makes an operation
fail, and that they cannot be read is a warning.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import (
    BootcdError,
    Busy,
    DeploymentNotFound,
    DownloadTooLarge,
    FormatError,
    ImageNotFound,
    Interrupted,
    NothingStaged,
    RecordError,
    Refused,
    RepositoryNotFound,
    UsageError,
)
from ..layout import Sysroot
from ..linux import files
from . import running
from .machine import Machine
from .news import Told
from .resultjson import from_json, to_json
from .results import ChangeResult, CheckResult, LastResult

log = logging.getLogger(__name__)
T = TypeVar("T")

SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"

LOST = "lost"
"""What a worker is asked, instead of a verb, to do `lost` with its argument `result`."""

_SCHEMA = 1
_MAX_SIZE = 1 << 20
_UNTOLD = (Busy, UsageError, DeploymentNotFound, RepositoryNotFound, Refused)
"""Another operation is the last one, or the request made no sense: neither says anything about the machine."""
_FOLLOWING = ("check", "upgrade")
"""Verbs that name no image: that there is none is the fault of the source."""


def now() -> str:
    """The time, in UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def recorded(machine: Machine, verb: str, by: str, work: Callable[[], T]) -> T:
    """Do `work`, and keep how it ended. Returns and raises what `work` does."""
    started = now()
    for path, left in running.cut_off(machine):
        _save_last(machine, replace(left, ended=started))
        with contextlib.suppress(OSError):
            path.unlink()
    with running.told(machine, verb, by, started):
        try:
            result = work()
        except BaseException as error:
            if _is_telling(verb, error):
                _save_last(machine, _outcome(verb, by, started, error))
            raise
        message = result.message if isinstance(result, ChangeResult) else ""
        _save_last(machine, replace(_outcome(verb, by, started, None), message=message))
    return result


def lost(machine: Machine, result: LastResult) -> None:
    """Keep how an operation ended that could not tell it itself, because its process died."""
    for path, _ in running.cut_off(machine):
        with contextlib.suppress(OSError):
            path.unlink()
    _save_last(machine, result)


def checked(machine: Machine, by: str, work: Callable[[], CheckResult]) -> CheckResult:
    """Do the check that `work` is, and keep what it found. A failure is kept until a check succeeds, unless a change
    has failed before, which is the worse news."""
    started = now()
    try:
        result = work()
    except BaseException as error:
        last = _known(machine)
        worse = last is not None and last.verb != "check" and last.state == FAILED
        if _is_telling("check", error) and not isinstance(error, (Interrupted, KeyboardInterrupt)) and not worse:
            _save_last(machine, _outcome("check", by, started, error))
        raise
    when = now()
    result = replace(result, seen=_first_seen(machine, result.manifest_digest) or when)
    _save(machine.sysroot.update, {"time": when, "update": to_json(result)})
    settle(machine, "check")
    return result


def _first_seen(machine: Machine, digest: str) -> str:
    """When a check found this image for the first time, if the last one found it as well."""
    try:
        known, when = load_update(machine)
    except BootcdError:
        return ""
    return (known.seen or when) if known is not None and known.manifest_digest == digest else ""


def failed(machine: Machine, verb: str, by: str, error: BootcdError) -> None:
    """Keep that something failed which is no operation of its own."""
    _save_last(machine, _outcome(verb, by, now(), error))


def settle(machine: Machine, verb: str) -> None:
    """What failed as `verb` is over; nothing happens when something else was the last operation."""
    last = _known(machine)
    if last is not None and last.verb == verb and last.state != SUCCEEDED:
        _save_last(machine, _outcome(verb, last.by, last.started, None))


def load_last(machine: Machine) -> LastResult | None:
    """How the last operation ended, or that it was cut off; None when nothing is known. Raises RecordError, or
    BootcdError."""
    left = running.cut_off(machine)
    document = _load(machine.sysroot.last_result)
    if document is None:
        return left[-1][1] if left else None
    last = _parsed(machine.sysroot.last_result, LastResult, document)
    return left[-1][1] if left and left[-1][1].started >= last.started else last


def _known(machine: Machine) -> LastResult | None:
    try:
        return load_last(machine)
    except BootcdError:
        return None


def load_update(machine: Machine) -> tuple[CheckResult | None, str]:
    """What the last check found, and when that was. Raises RecordError, or BootcdError."""
    path = machine.sysroot.update
    document = _load(path)
    if document is None:
        return None, ""
    when = document.get("time")
    if not isinstance(when, str):
        raise RecordError(f"{path}: malformed: 'time'", advice=_ADVICE)
    return _parsed(path, CheckResult, document.get("update")), when


def load_told(sysroot: Sysroot) -> Told | None:
    """What was told; None when nothing is known. Raises RecordError, or BootcdError."""
    document = _load(sysroot.told)
    if document is None:
        return None
    told = _parsed(sysroot.told, Told, document)
    # A result of the future was told before the clock was put back, and would be the last one until then.
    present = now()
    return replace(told, results=tuple(result for result in told.results if result.time <= present))


def save_told(sysroot: Sysroot, told: Told) -> None:
    """Keep what was told."""
    _save(sysroot.told, to_json(told))


def _is_telling(verb: str, error: BaseException) -> bool:
    if verb == "finalize":  # whatever keeps a staged deployment from booting has to be known after the reboot
        return not isinstance(error, NothingStaged)
    if isinstance(error, DownloadTooLarge):  # by itself it will not come to another end
        return True
    return not isinstance(error, _UNTOLD) and not (isinstance(error, ImageNotFound) and verb not in _FOLLOWING)


_ADVICE = "Remove the file: it is not needed."


def _outcome(verb: str, by: str, started: str, error: BaseException | None) -> LastResult:
    state, name, message, advice = SUCCEEDED, "", "", ""
    if isinstance(error, (KeyboardInterrupt, Interrupted)):
        state, name, message = CANCELLED, Interrupted.bus_name(), "interrupted; what was finished is kept"
    elif isinstance(error, BootcdError):
        state, name, message, advice = FAILED, error.bus_name(), str(error), error.hint
    elif isinstance(error, OSError):
        said = files.error_of(f"cannot use {error.filename}" if error.filename else "failed", error)
        state, name, message, advice = FAILED, said.bus_name(), str(said), said.hint
    elif error is not None:
        state, name, message = FAILED, BootcdError.bus_name(), f"internal error ({type(error).__name__})"
    return LastResult(verb, state, name, message, advice, started, now(), by)


def _save_last(machine: Machine, last: LastResult) -> None:
    _save(machine.sysroot.last_result, to_json(last))


def _save(path: Path, document: dict[str, Any]) -> None:
    """Write a file into a directory that is there: one that is not is that of a mistyped --sysroot."""
    try:
        files.atomic_write(path, json.dumps({"schema": _SCHEMA, **document}, indent=1).encode() + b"\n")
    except (BootcdError, OSError) as error:
        log.info("the outcome is not kept: %s", error)
    except KeyboardInterrupt:  # the work is over: this comes too late to stop it
        log.info("the outcome is not kept: interrupted")


def _load(path: Path) -> dict[str, Any] | None:
    with files.translate(f"cannot read {path}"):
        try:
            data = files.read_own(path, _MAX_SIZE)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except RecordError as error:
            raise RecordError(str(error), advice=_ADVICE) from error
    try:
        document = json.loads(data)
        if not isinstance(document, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: malformed: {error}", advice=_ADVICE) from error
    schema = document.get("schema")
    if type(schema) is int and schema > _SCHEMA:
        raise RecordError(f"{path}: written by a newer version", advice=_ADVICE)
    if type(schema) is not int or schema != _SCHEMA:
        raise RecordError(f"{path}: malformed: 'schema'", advice=_ADVICE)
    return document


def _parsed(path: Path, kind: type[T], document: object) -> T:
    try:
        return from_json(kind, document)
    except FormatError as error:
        raise RecordError(f"{path}: malformed: {error}", advice=_ADVICE) from error
