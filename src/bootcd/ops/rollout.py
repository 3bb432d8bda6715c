# SPDX-License-Identifier: Apache-2.0
"""Phased rollout: how much of a fleet may take an image by now, and where this machine stands in the row. Pure.

The image says it, by annotations of its manifest (or labels):

    org.bootcd.rollout.start      when it begins, RFC 3339; without it, when the image was created
    org.bootcd.rollout.duration   how long it takes until the whole share is reached, such as 2d; without it, no time
    org.bootcd.rollout.percent    the share of the fleet that takes it at all, 0 to 100; without it, 100

A machine's place in the row, from 0 to 1, comes from its machine id and the digest of the image, so that another image
has another order, and the machine tells nobody. `wariness` moves it: with 0.5 it stays, with 0 the machine is among the
first, with 1 among the last.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..errors import UsageError
from ..schedule import parse_duration
from .times import moment

PREFIX = "org.bootcd.rollout."
START, DURATION, PERCENT = (PREFIX + name for name in ("start", "duration", "percent"))
KEYS = (START, DURATION, PERCENT)


class RolloutError(ValueError):
    """An annotation makes no sense."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The share of a fleet that may take an image: nothing before `start`, then more and more over `duration`, up to
    `limit`, from 0 to 1."""

    start: datetime | None
    duration: timedelta
    limit: float

    def share(self, now: datetime) -> float:
        """The share at a moment."""
        if self.start is None:
            return self.limit
        if now < self.start:
            return 0.0
        return self.limit * min((now - self.start) / self.duration, 1.0) if self.duration else self.limit

    def takes(self, place: float, now: datetime) -> bool:
        """Whether it is the turn of the machine at a place."""
        share = self.share(now)
        # The end of the row is a place as well, and a limit of 0 is nobody, not the first.
        return place < share or share >= 1.0

    def turn(self, place: float) -> datetime | None:
        """When it is that turn; None when it never is. Only where `takes` does not hold yet."""
        if self.start is None or (place >= self.limit and self.limit < 1.0):
            return None
        # One second more, since the turn comes after, not with, the moment in which the share is reached.
        ahead = self.duration * (place / self.limit) + timedelta(seconds=1) if place < 1.0 else self.duration
        return self.start + min(ahead, self.duration)


def read(annotations: Mapping[str, str], created: datetime | None) -> Rollout | None:
    """The rollout that an image asks for; None when it asks for none. Raises RolloutError, with a sentence."""
    if not any(annotations.get(key) for key in KEYS):
        return None
    start = moment(annotations[START]) if annotations.get(START) else created
    if annotations.get(START) and start is None:
        raise RolloutError(f"the image's {START} is no time: {_shown(annotations[START])}")
    duration = timedelta()
    if text := annotations.get(DURATION):
        try:
            duration = parse_duration(text)
        except UsageError:
            raise RolloutError(f"the image's {DURATION} is no duration: {_shown(text)}") from None
        if start is None:
            raise RolloutError(f"the image has {DURATION}, but neither {START} nor a time of creation to count from")
    text = annotations.get(PERCENT) or "100"
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and int(text) <= 100):
        raise RolloutError(f"the image's {PERCENT} is no number from 0 to 100: {_shown(text)}")
    return Rollout(start, duration, int(text) / 100)


def sayings(said: Mapping[str, str]) -> dict[str, str]:
    """What an image says about this, cut to what a sane image would say."""
    keys = sorted(key for key in said if key.startswith(PREFIX))
    return {key[:100]: said[key][:100] for key in keys[:8]}


def unknown(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """The annotations of this kind that say nothing to this version."""
    return tuple(sorted(key for key in annotations if key.startswith(PREFIX) and key not in KEYS))


def place(machine_id: str, image: str, wariness: float = 0.5) -> float:
    """Where a machine stands, from 0 to 1; at the end if it does not know who it is."""
    if not machine_id:
        return 1.0
    return min(max(fraction(machine_id, f"rollout {image}") + 2 * wariness - 1, 0.0), 1.0)


def fraction(machine_id: str, purpose: str) -> float:
    """A number from 0 up to 1 that a machine always has for a purpose, and that tells nobody which machine it is."""
    digest = hmac.digest(machine_id.encode(), f"org.bootcd {purpose}".encode(), hashlib.sha256)
    return int.from_bytes(digest[:6]) / (1 << 48)


def _shown(text: str) -> str:
    return "'" + "".join(char if char.isprintable() else "?" for char in text[:60]) + "'"
