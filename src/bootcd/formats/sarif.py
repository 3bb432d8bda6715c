# SPDX-License-Identifier: Apache-2.0
"""Results of a check in the form that CI systems read (OASIS SARIF 2.1.0 with errata 01)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that is checked; `level` is error, warning or note."""

    name: str
    level: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Result:
    """What was found against the rule `name`, at `path` relative to the root of what was checked."""

    name: str
    path: bytes
    message: str


def document(tool: str, version: str, rules: Iterable[Rule], results: Iterable[Result]) -> dict[str, Any]:
    """One run of `tool`. Raises KeyError for a result without its rule."""
    known = {rule.name: (number, rule) for number, rule in enumerate(rules)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": tool, "version": version, "rules": [
                {"id": rule.name, "shortDescription": {"text": rule.what}, "fullDescription": {"text": rule.why},
                 "defaultConfiguration": {"level": rule.level}} for _, rule in known.values()]}},
            "originalUriBaseIds": {"ROOTFS": {"description": {"text": "The root directory of the image."}}},
            "results": [_result(one, *known[one.name]) for one in results],
        }],
    }


def _result(one: Result, number: int, rule: Rule) -> dict[str, Any]:
    location = {"uri": quote(one.path.lstrip(b"/")), "uriBaseId": "ROOTFS"}
    return {"ruleId": one.name, "ruleIndex": number, "level": rule.level,
            "message": {"text": f"/{one.path.lstrip(b'/').decode(errors='backslashreplace')} {one.message}"},
            "locations": [{"physicalLocation": {"artifactLocation": location}}]}
