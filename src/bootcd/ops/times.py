# SPDX-License-Identifier: Apache-2.0
"""Times as images, results and files of ours have them: RFC 3339. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

LATEST = datetime(9000, 1, 1, tzinfo=UTC)
"""Anything later is as good as never. It leaves room to count on from there, and to look at it in any time zone."""
_FIRST_DAY = 86400
"""Seconds. Reproducible builds give 1970-01-01 in some time zone to what has no time."""


def moment(text: str) -> datetime | None:
    """A time in UTC, which is also meant where it names no zone, and at most LATEST. None for what is none, and for the
    first day of 1970, which stands for none."""
    try:
        found = datetime.fromisoformat(text)
        found = (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return min(found, LATEST) if found.timestamp() >= _FIRST_DAY else None
