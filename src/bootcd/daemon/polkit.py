# SPDX-License-Identifier: Apache-2.0
"""Who may do what: every call that needs an action is put to polkit, which knows the administrator's rules.

Root is never asked, so that a small server without polkit can be managed. Whoever started a job may stop it. For
everybody else polkit decides, and nothing but its clear yes is one: when it is absent, fails, stays silent or talks
nonsense, the caller is refused.

The subject is the unique bus name of the sender, never a process id: that one may belong to another program by the time
polkit looks (CVE-2013-4288). Answers are not cached; `auth_admin_keep` is polkit's own affair.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from . import events
from .bus import Bus, BusError, Call
from .interfaces import DEPLOYMENT, JOB
from .verbs import VERBS
from .wire import Typed

log = logging.getLogger(__name__)

CANCEL = "org.bootcd1.cancel"

DENIED = "org.freedesktop.DBus.Error.AccessDenied"
CHALLENGE = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"

_POLKIT = ("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority",
           "org.freedesktop.PolicyKit1.Authority")
_ALLOW_USER_INTERACTION = 1

PATIENCE = 20.0
"""Seconds that polkit has for an answer when nobody is asked for a password: less than the 25 that a caller waits. A
rule may run a program, which polkit lets take 10."""
_FAREWELL = 5.0


class Authority:
    """Decides about calls; one for each connection."""

    def __init__(self, bus: Bus, owner: Callable[[str], int | None], *, patience: float = PATIENCE,
                 cancel: Collection[str] = (CANCEL,)) -> None:
        """`owner` tells which user started the job at an object path, None where there is none; the actions of
        `cancel` are not asked of him."""
        self._bus = bus
        self._cancel_actions = cancel
        self._owner = owner
        self._patience = patience
        self._numbers = itertools.count(1)
        self._farewells: set[asyncio.Task[None]] = set()

    async def authorize(self, call: Call, action: str, details: Mapping[str, str] | None = None) -> None:
        """Return if the sender of `call` may do what needs `action`; nobody needs the action "". `details` are what
        rules can look at, by default what the call names.

        May take as long as somebody needs to type a password, so whatever was looked at before may have changed since.
        Bus cancels it when the sender leaves; the question to polkit is withdrawn then. Raises BusError: AccessDenied
        or InteractiveAuthorizationRequired.
        """
        if not action:
            return
        try:
            uid = await self._bus.uid_of(call.sender)
        except BusError as error:
            raise self._refusal(call, action, None, f"its user cannot be told: {error}") from error
        # Who runs as root, or as we do, gains nothing by us.
        if uid in (0, os.geteuid()) or (action in self._cancel_actions and uid == self._owner(call.path)):
            return
        authorized, challenge = await self._ask(call, action, uid, details_of(call) if details is None else details)
        if authorized:
            return
        if challenge:
            events.refused(action, sender=call.sender, uid=uid, reason="it needs authentication, which nobody could "
                           "be asked for", member=call.member)
            raise BusError(CHALLENGE, f"{action} needs authentication")
        raise self._refusal(call, action, uid, "polkit does not allow it")

    async def _ask(self, call: Call, action: str, uid: int, details: Mapping[str, str]) -> tuple[bool, bool]:
        """Polkit's answer: whether it is allowed, and whether it would be after authentication."""
        cancellation = f"bootcd-{next(self._numbers)}"
        answered = False
        try:
            answer = await self._bus.call(
                *_POLKIT, "CheckAuthorization", "(sa{sv})sa{ss}us",
                ["system-bus-name", {"name": Typed("s", call.sender)}], action,
                # Polkit refuses details from any other user than root.
                dict(details) if os.geteuid() == 0 else {},
                _ALLOW_USER_INTERACTION if call.interactive else 0, cancellation,
                timeout=None if call.interactive else self._patience)
            answered = True
            return _understood(answer)
        except BusError as error:
            raise self._refusal(call, action, uid, f"polkit cannot be asked: {error.name}: {error}") from error
        except ValueError as error:
            raise self._refusal(call, action, uid, f"polkit's answer makes no sense: {error}") from error
        finally:
            if not answered:  # the caller has left, or polkit takes too long
                self._withdraw(cancellation)

    def _withdraw(self, cancellation: str) -> None:
        """Take a question back, so that no password prompt stays on a screen. Nobody waits for that."""
        task = asyncio.ensure_future(self._cancel(cancellation))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _cancel(self, cancellation: str) -> None:
        try:
            await self._bus.call(*_POLKIT, "CancelCheckAuthorization", "s", cancellation, timeout=_FAREWELL,
                                 start=False)
        except BusError as error:
            log.debug("cannot take a question to polkit back: %s", error)

    @staticmethod
    def _refusal(call: Call, action: str, uid: int | None, reason: str) -> BusError:
        """The caller learns that it was refused; why is for the journal."""
        events.refused(action, sender=call.sender, uid=uid, reason=reason, member=call.member)
        return BusError(DENIED, f"not authorized for {action}")


def details_of(call: Call) -> dict[str, str]:
    """What a call is about, for rules: the keys image, deployment and job, and arguments, old and new of kernel
    arguments, as the caller named them. An empty deployment means the previous one."""
    if call.interface == DEPLOYMENT.name:
        return {"deployment": call.path.rpartition("/")[2]}
    if call.interface == JOB.name:
        return {"job": call.path.rpartition("/")[2]}
    verb = VERBS.get(call.member)
    named = zip(verb.positional, call.arguments, strict=False) if verb is not None else ()
    return {name: value if isinstance(value, str) else " ".join(value) for name, value in named}


def _understood(answer: Sequence[Any]) -> tuple[bool, bool]:
    """The first two members of the structure that CheckAuthorization returns. Raises ValueError."""
    match answer:
        case [[bool(authorized), bool(challenge), dict()]]:
            return authorized, challenge
    raise ValueError(f"expected a structure of two booleans and a dictionary, got {answer!r:.200}")
