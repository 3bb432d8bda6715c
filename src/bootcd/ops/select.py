# SPDX-License-Identifier: Apache-2.0
"""Which deployment somebody means."""

from __future__ import annotations

import re

from ..deploy.facts import Facts
from ..deploy.records import Record
from ..errors import DeploymentNotFound

_HEX = re.compile(r"[0-9a-f]{4,128}")


def select(facts: Facts, name: str) -> Record:
    """The deployment called `name`: a role, the beginning of its id (four digits or more), a pin label or a version.

    Raises DeploymentNotFound when there is none, or more than one.
    """
    if name in ("booted", "default", "staged", "rollback"):
        record = facts.records.get(facts.booted or "") if name == "booted" else getattr(facts, name)
        if record is None:
            raise DeploymentNotFound(f"no deployment is {name}")
        assert isinstance(record, Record)
        return record
    records = list(facts.records.values())
    found = [record for record in records if any(pin.label == name for pin in record.pins)] if name else []
    if not found and _HEX.fullmatch(name):
        found = [record for record in records if record.id.startswith(name)]
    if not found and name:
        found = [record for record in records if record.version == name]
    if not found:
        raise DeploymentNotFound(f"no deployment is called '{name}'")
    if len(found) > 1:
        raise DeploymentNotFound(f"'{name}' could be any of {', '.join(record.short_id for record in found)}")
    return found[0]
