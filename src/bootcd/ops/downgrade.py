# SPDX-License-Identifier: Apache-2.0
"""Whether an image is older than what runs: a signature stays valid when the image it is about has known holes, and who
can move a tag can bring such an image back.

The date of creation decides where both have one and they differ, since it comes with every build. Many builds have
none or always the same, so that equal sources give equal images; then the versions decide, where both begin with a
number as versions do.
"""

from __future__ import annotations

import re

from ..deploy.records import Record
from ..formats.version import compare
from .times import moment

_VERSION = re.compile(r"[vV]?[0-9]+(?![0-9A-Za-z])")
"""How versions begin; a hash does not, or hardly ever."""


def downgrade(current: Record | None, version: str, created: str) -> str:
    """Why taking an image of that version and date would be a step back, in words; empty when it would not, or nobody
    can tell."""
    if current is None:
        return ""
    ours, theirs = moment(current.created), moment(created)
    if ours is not None and theirs is not None and ours != theirs:
        older = theirs < ours
    else:
        versions = current.version, version
        older = all(_VERSION.match(one) for one in versions) and compare(version, current.version) < 0
    if not older:
        return ""
    return f"{_shown(version, created)}, while {_shown(current.version, current.created)} runs"


def _shown(version: str, created: str) -> str:
    built = f"built {created}" if created else ""
    return f"version {version} ({built})" if version and built else f"version {version}" if version else built
