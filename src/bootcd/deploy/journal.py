# SPDX-License-Identifier: Apache-2.0
"""The journal: the plan that is being carried out and how far it is, in one small file.

It is replaced atomically before the first step and after every step, and removed at the end. Who finds it on start-up
goes on with the first step that is not done; since steps are idempotent, one that was done but not noted does no harm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..boot.bootc import is_removable
from ..errors import RecordError
from ..linux import files
from .plan import Action, Plan, Step
from .records import is_id

_SCHEMA = 1
_MAX_SIZE = 1 << 24
_SOURCE = re.compile(r"(?:inline:)?(?:[0-9a-f]{2})*")


@dataclass(frozen=True, slots=True)
class Transaction:
    """A plan under way; the first `done` steps are finished."""

    plan: Plan
    done: int


def _id(value: Any) -> bool:
    return isinstance(value, str) and is_id(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return type(value) is int and value >= 0


def _number_or_none(value: Any) -> bool:
    return value is None or _number(value)


def _id_or_none(value: Any) -> bool:
    return value is None or _id(value)


def _files(value: Any) -> bool:
    return isinstance(value, dict) and ("uki" in value or {"vmlinuz", "initrd"} <= value.keys()) and all(
        isinstance(file, list) and len(file) == 2 and _number(file[0]) and _text(file[1]) and _SOURCE.fullmatch(file[1])
        for file in value.values())


_RESET: dict[str, Callable[[Any], bool]] = {
    "id": _id, "marked": _id, "generation": _number, "etc": _number, "var": _number_or_none}
_ARGS: dict[Action, dict[str, Callable[[Any], bool]]] = {
    Action.HOLD: {"id": _id, "manifest": _text},
    Action.REJECT: {"manifest": _text, "reason": _text, "time": _text},
    Action.INSTALL_KERNEL: {"name": _text, "files": _files},
    Action.PREPARE_STATE: {"id": _id, "merge-from": _id_or_none},
    Action.MERGE_ETC: {"id": _id, "merge-from": _id},
    Action.SAVE_RECORD: {"record": _text},
    Action.WRITE_ENTRY: {"id": _id, "generation": _number, "tries": _number},
    Action.SET_GENERATION: {"id": _id, "generation": _number},
    Action.REMOVE_ENTRY: {"file": _text},
    Action.REMOVE_RECORD: {"id": _id},
    Action.REMOVE_KERNEL: {"name": _text},
    Action.REMOVE_STATE: {"id": _id},
    Action.PREPARE_RESET: _RESET,
    Action.RESET: _RESET,
    Action.REMOVE_ASIDE: {"id": _id_or_none, "generation": _number},
    Action.ADD_ENTRY: {"record": _text},
    Action.REMOVE_FOREIGN: {"path": lambda value: _text(value) and is_removable(value)},
    Action.RELEASE_FOREIGN: {"manifest": _text},
}
_RELEASE: dict[str, Callable[[Any], bool]] = {"id": _text, "manifest": _text}


def _checked(action: Action, args: Any) -> dict[str, Any]:
    """The arguments of a step, all there and of the right kind: they become paths. Raises ValueError."""
    if not isinstance(args, dict):
        raise ValueError(f"{action}: expected an object")
    kinds = _ARGS.get(action)
    if kinds is None:  # RELEASE has one of two
        kinds = {key: check for key, check in _RELEASE.items() if key in args}
    if args.keys() != kinds.keys() or not kinds:
        raise ValueError(f"{action}: wrong arguments")
    for key, fits in kinds.items():
        if not fits(args[key]):
            raise ValueError(f"{action}: {key}: malformed")
    return args


class Journal:
    """The file of the running transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Transaction | None:
        """The unfinished transaction, if there is one. Raises RecordError."""
        with files.translate(f"cannot read {self._path}"):
            try:
                data = files.read_own(self._path, _MAX_SIZE)
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            document = json.loads(data.decode("utf-8", "surrogateescape"))
            if type(document["schema"]) is int and document["schema"] > _SCHEMA:
                raise RecordError(f"{self._path}: written by a newer version")
            if document["schema"] != _SCHEMA:
                raise ValueError("'schema' is malformed")
            steps = tuple(
                Step(Action(step["action"]), _checked(Action(step["action"]), step["args"]), str(step["why"]))
                for step in document["steps"]
            )
            done = document["done"]
            if type(done) is not int or not 0 <= done <= len(steps):
                raise ValueError("'done' is out of range")
            return Transaction(Plan(str(document["verb"]), steps), done)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordError(
                f"{self._path}: not a journal: {error}",
                advice="Remove the file; 'bootcctl cleanup' then removes what was left behind.",
            ) from error

    def write(self, transaction: Transaction) -> None:
        """Note durably how far the transaction is."""
        document = {
            "schema": _SCHEMA,
            "verb": transaction.plan.verb,
            "done": transaction.done,
            "steps": [{"action": step.action, "args": dict(step.args), "why": step.why}
                      for step in transaction.plan.steps],
        }
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.atomic_write(self._path, json.dumps(document, indent=1).encode())

    def clear(self) -> None:
        """The transaction is over."""
        with files.translate(str(self._path)):
            self._path.unlink(missing_ok=True)
            files.fsync_dir(self._path.parent)
