# SPDX-License-Identifier: Apache-2.0
"""Deployment records: what is known about each deployment, one JSON file each.

    state/bootcd/deployments/<id>.json

The id is the hex fs-verity digest of the deployment's EROFS image, which is also the name of its state directory and
the number on its kernel command line. Boot entries are derived from records, never the other way round. A record
without a generation is *staged*: everything is in place but the boot entry. Schema 1; a newer one is refused, unknown
keys are kept.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..linux import files

SCHEMA = 1
MAX_TEXT = 256
"""Characters of what an image says about itself that a record takes."""
RESETS = ("", "etc", "state")
_ID = re.compile(r"[0-9a-f]{64}|[0-9a-f]{128}")
_MAX_SIZE = 1 << 20
_MAX_GENERATION = 10**10 - 1  # as many as the name of a boot entry holds


def is_id(text: str) -> bool:
    """Whether this can be the id of a deployment."""
    return _ID.fullmatch(text) is not None


def clipped(text: str) -> str:
    """What an image says about itself, in a form for records, entries and terminals: its printable beginning."""
    return "".join(char for char in text[: 4 * MAX_TEXT] if char.isprintable())[:MAX_TEXT]


@dataclass(frozen=True, slots=True)
class Pin:
    """Why a deployment is kept beyond the keep policy; `time` is ISO 8601 in UTC."""

    label: str
    time: str


@dataclass(frozen=True, slots=True)
class EtcDecision:
    """What the merge of /etc did with a path that was not left alone by the machine nor by the image. `here` and
    `image` are any of added, changed, deleted, retyped; `taken` is local, image or both; `rule` the rule that decided,
    empty when there was none."""

    path: str
    here: str
    image: str
    taken: str
    rule: str


@dataclass(frozen=True, slots=True)
class EtcReport:
    """What the last merge of /etc found, as paths relative to /etc. Of very many only the first are kept, and the last
    entry says how many more there were (`etc.merge`)."""

    kept_local: tuple[str, ...] = ()
    """Changed locally and kept; the image did not touch them."""
    both_changed: tuple[str, ...] = ()
    """Changed locally and in the image; the local version is in its place."""
    added: tuple[str, ...] = ()
    """Local files that the image does not have."""
    deleted: tuple[str, ...] = ()
    """Deleted locally, still in the image."""
    decisions: tuple[EtcDecision, ...] = ()
    """Every path that both sides changed, whoever won."""


@dataclass(frozen=True, slots=True)
class OwnKargs:
    """The kernel arguments of a machine, which are not the image's, by owner: `local` from /etc/bootcd/kargs.d of the
    deployment, `machine` from the installation, `command` from 'bootcctl kargs'. The kernel gets them in this order, so
    that a later owner can overrule an earlier one."""

    local: tuple[str, ...] = ()
    machine: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.local, *self.machine, *self.command)


@dataclass(frozen=True, slots=True)
class Trial:
    """Other kernel arguments that a deployment is tried with: those in its boot entry of `generation`. `made_in` is the
    boot in which they were asked for."""

    generation: int
    own: OwnKargs
    made_in: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One deployment. Times are ISO 8601 in UTC; `generation` is None while it is only staged."""

    id: str
    image: str
    manifest_digest: str
    config_digest: str
    boot_type: str
    boot_digest: str
    composefs_karg: str
    version: str = ""
    title: str = ""
    created: str = ""
    staged: str = ""
    requested_by: str = ""
    verification: str = "digest"
    """digest: no policy was asked; accepted: the policy asks for no signature; signed: by those in `signed_by`."""
    policy: str = ""
    signed_by: tuple[str, ...] = ()
    kernel_version: str = ""
    sealed_kargs: str = ""
    """The kernel command line in a UKI and its addons; it has no other."""
    image_kargs: tuple[str, ...] = ()
    own: OwnKargs = OwnKargs()
    generation: int | None = None
    pins: tuple[Pin, ...] = ()
    health: str = "untried"
    health_reason: str = ""
    attempts: tuple[str, ...] = ()
    """Boots, by their ids, in which it was started since it was promoted and that did not complete; none once it is
    good."""
    promoted_in: str = ""
    """The boot during which it got its generation: what that boot had started from was decided before."""
    etc_report: EtcReport = EtcReport()
    reset: str = ""
    """What of the state of the next to boot the next finalize makes anew: etc, or state, which is /etc and /var."""
    locked: bool = False
    """Staged by --download-only: finalize leaves it alone until an upgrade asks for it."""
    trials: tuple[Trial, ...] = ()
    """Kernel arguments on trial, the newest last. What counts is those whose entry is on the boot partition
    (`Facts.trial`): a trial is noted before its entry is written, and an earlier one goes after that."""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def short_id(self) -> str:
        return self.id[:12]

    @property
    def options(self) -> str:
        """The kernel command line: that of its entry, or the one that is sealed into its UKI. What is on trial is not
        part of it."""
        return self.options_with(self.own)

    def options_with(self, own: OwnKargs) -> str:
        """The kernel command line with other arguments of the machine; a sealed one has none."""
        if self.sealed_kargs:
            return self.sealed_kargs
        return " ".join((self.composefs_karg, *self.image_kargs, *own.all))

    def options_at(self, generation: int) -> str:
        """The kernel command line that the boot entry of a generation has."""
        own = next((trial.own for trial in self.trials if trial.generation == generation), self.own)
        return self.options_with(own)


_STRINGS = tuple(f.name for f in fields(Record) if f.type == "str")
_STRING_LISTS = ("image_kargs", "attempts", "signed_by")
_REPORT_LISTS = ("kept_local", "both_changed", "added", "deleted")


def encode(record: Record) -> bytes:
    """The record as JSON text."""
    document: dict[str, Any] = {"schema": SCHEMA, **record.extra}
    for name in (*_STRINGS, "generation", "locked"):
        document[name.replace("_", "-")] = getattr(record, name)
    for name in _STRING_LISTS:
        document[name.replace("_", "-")] = list(getattr(record, name))
    document |= _own_document(record.own)
    document["pins"] = [{"label": pin.label, "time": pin.time} for pin in record.pins]
    report = record.etc_report
    document["etc-report"] = {name.replace("_", "-"): list(getattr(report, name)) for name in _REPORT_LISTS}
    document["etc-report"]["decisions"] = [asdict(decision) for decision in report.decisions]
    document["trials"] = [{"generation": trial.generation, **_own_document(trial.own), "made-in": trial.made_in}
                          for trial in record.trials]
    # All ASCII: a label of an image may hold what UTF-8 cannot say, such as half of a surrogate pair.
    return json.dumps(document, indent=2).encode() + b"\n"


def decode(data: bytes, where: str) -> Record:
    """Read a record; `where` names the file in errors. Raises RecordError."""
    try:
        document = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise RecordError(f"{where}: expected an object")
    schema = document.pop("schema", None)
    if type(schema) is not int or schema < 1:
        raise RecordError(f"{where}: no schema version")
    if schema > SCHEMA:
        raise RecordError(f"{where}: schema {schema} is newer than this program knows ({SCHEMA})")
    values: dict[str, Any] = {}
    for name in _STRINGS:
        values[name] = _typed(document.pop(name.replace("_", "-"), ""), str, f"{where}: {name}")
    for name in _STRING_LISTS:
        values[name] = _strings(document.pop(name.replace("_", "-"), []), f"{where}: {name}")
    values["own"] = _take_own(document, where)
    generation = document.pop("generation", None)
    if generation is not None:
        _check_generation(generation, where)
    pins = []
    for pin in _typed(document.pop("pins", []), list, f"{where}: pins"):
        pin = _typed(pin, dict, f"{where}: pins")
        pins.append(Pin(_typed(pin.get("label", ""), str, f"{where}: pins: label"),
                        _typed(pin.get("time", ""), str, f"{where}: pins: time")))
    report = _typed(document.pop("etc-report", {}), dict, f"{where}: etc-report")
    decisions = []
    for decision in _typed(report.get("decisions", []), list, f"{where}: etc-report"):
        decision = _typed(decision, dict, f"{where}: etc-report: decisions")
        decisions.append(EtcDecision(**{f.name: _typed(decision.get(f.name, ""), str, f"{where}: etc-report: decisions")
                                        for f in fields(EtcDecision)}))
    values["etc_report"] = EtcReport(**{
        name: _strings(report.get(name.replace("_", "-"), []), f"{where}: etc-report") for name in _REPORT_LISTS
    }, decisions=tuple(decisions))
    trials = []
    for trial in _typed(document.pop("trials", []), list, f"{where}: trials"):
        trial = _typed(trial, dict, f"{where}: trials")
        _check_generation(trial.get("generation"), f"{where}: trials")
        trials.append(Trial(trial["generation"], _take_own(trial, f"{where}: trials"),
                            _typed(trial.get("made-in", ""), str, f"{where}: trials: made-in")))
    values["trials"] = tuple(trials)
    values["locked"] = _typed(document.pop("locked", False), bool, f"{where}: locked")
    if not is_id(values["id"]):
        raise RecordError(f"{where}: id: expected 64 or 128 hex digits")
    if values["reset"] not in RESETS:
        raise RecordError(f"{where}: reset: expected one of {', '.join(RESETS[1:])}")
    return Record(**values, generation=generation, pins=tuple(pins), extra=document)


def _own_document(own: OwnKargs) -> dict[str, list[str]]:
    return {f"{f.name}-kargs": list(getattr(own, f.name)) for f in fields(OwnKargs)}


def _take_own(document: dict[str, Any], where: str) -> OwnKargs:
    """Take the kernel arguments of the machine out of a document."""
    return OwnKargs(**{f.name: _strings(document.pop(f"{f.name}-kargs", []), f"{where}: {f.name}-kargs")
                       for f in fields(OwnKargs)})


def _check_generation(value: Any, where: str) -> None:
    if type(value) is not int or not 1 <= value <= _MAX_GENERATION:
        raise RecordError(f"{where}: generation: expected a positive integer of ten digits at most")


def _typed(value: Any, kind: type, where: str) -> Any:
    if type(value) is not kind:
        raise RecordError(f"{where}: expected {kind.__name__}")
    return value


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RecordError(f"{where}: expected a list of strings")
    return tuple(value)


class Records:
    """The directory of records. Reading never needs the lock, since every file is replaced whole."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> tuple[dict[str, Record], list[RecordError]]:
        """All readable records by id, and what was wrong with the others: one bad file must not hide the rest."""
        found: dict[str, Record] = {}
        problems: list[RecordError] = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                try:
                    data = files.read_own(path, _MAX_SIZE)
                except FileNotFoundError:
                    continue  # removed meanwhile
                except OSError as error:
                    raise RecordError(f"{path}: {error.strerror}") from error
                record = decode(data, str(path))
                if record.id != path.stem:
                    raise RecordError(f"{path}: is about deployment {record.short_id}")
                found[record.id] = record
            except RecordError as error:
                problems.append(error)
        return found, problems

    def save(self, record: Record) -> None:
        """Write durably and atomically. Raises RecordError for a record that `load` would refuse: written, it would
        stop every command after this one."""
        data = encode(record)
        path = self._directory / f"{record.id}.json"
        if len(data) > _MAX_SIZE:  # it could not be read again
            raise RecordError(f"{path}: larger than {_MAX_SIZE} bytes")
        decode(data, str(path))
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        files.atomic_write(path, data)

    def remove(self, deployment_id: str) -> None:
        """Forget a deployment; it is no error when it is not there."""
        path = self._directory / f"{deployment_id}.json"
        with files.translate(str(path)):
            path.unlink(missing_ok=True)
            if self._directory.exists():
                files.fsync_dir(self._directory)


def pinned(record: Record, label: str, time: str) -> Record:
    """The record with one more pin; the same label again changes nothing."""
    if any(pin.label == label for pin in record.pins):
        return record
    return replace(record, pins=(*record.pins, Pin(label, time)))


def unpinned(record: Record, label: str | None) -> Record:
    """The record without the pin `label`, or without any when None."""
    return replace(record, pins=tuple(pin for pin in record.pins if label is not None and pin.label != label))
