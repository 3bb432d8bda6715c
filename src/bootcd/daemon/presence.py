# SPDX-License-Identifier: Apache-2.0
"""Who is on the bus: callers that leave, and signals of programs that we listen to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

log = logging.getLogger(__name__)

DRIVER = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
"""Name, path and interface of the bus itself."""


class Request(Protocol):
    """Sends a call; the future gets its out arguments."""

    def __call__(self, destination: str, path: str, interface: str, member: str, signature: str = "", *body: Any,
                 ) -> asyncio.Future[list[Any]]: ...


@dataclass(eq=False, slots=True)
class _Watch:
    gone: asyncio.Future[None]
    users: int = 0


@dataclass(frozen=True, slots=True)
class _Subscription:
    sender: str
    path: str
    interface: str
    member: str
    callback: Callable[..., None]


class Presence:
    """Match rules are asked for as long as somebody needs them."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._watches: dict[str, _Watch] = {}
        self._subscriptions: list[_Subscription] = []
        self._owners: dict[str, str] = {}
        """The unique names of those whose signals we listen to; "" for who is not there."""
        self._over = False

    @contextmanager
    def watch(self, sender: str, leave: Callable[[], object] | None = None) -> Iterator[asyncio.Future[None]]:
        """A future that is done when the connection with that unique name has left. `leave` is called then, but only
        while the context lasts."""
        watch = self._watches.get(sender)
        if watch is None:
            watch = self._watches[sender] = _Watch(asyncio.get_running_loop().create_future())
            if self._over:
                watch.gone.set_result(None)
            else:
                self._ask("AddMatch", _name_rule(sender))
                # It may have left before the rule was there.
                self._ask("NameHasOwner", sender, lambda there: None if there else self._left(sender))
        watch.users += 1
        inside = True

        def left(_: asyncio.Future[None]) -> None:
            if inside and leave is not None:
                leave()

        watch.gone.add_done_callback(left)
        try:
            yield watch.gone
        finally:
            inside = False
            watch.gone.remove_done_callback(left)
            watch.users -= 1
            if not watch.users:
                del self._watches[sender]
                if not self._over:
                    self._ask("RemoveMatch", _name_rule(sender))

    def subscribe(self, sender: str, path: str, interface: str, member: str, callback: Callable[..., None]) -> None:
        """Call back for each such signal of the owner of the name `sender`."""
        self._subscriptions.append(_Subscription(sender, path, interface, member, callback))
        self._ask("AddMatch", f"type='signal',sender='{sender}',path='{path}',interface='{interface}',"
                              f"member='{member}'")
        if sender == DRIVER[0] or sender.startswith(":"):
            self._owners[sender] = sender
        elif sender not in self._owners:
            # A signal that is sent to us alone needs no match rule, so anybody could pretend.
            self._owners[sender] = ""
            self._ask("AddMatch", _name_rule(sender))
            self._ask("GetNameOwner", sender, lambda owner: self._owners.update({sender: owner}))

    def wants(self, sender: str, path: str, interface: str, member: str) -> bool:
        """Whether anybody here looks at such a signal."""
        return sender == DRIVER[0] or next(self._matching(sender, path, interface, member), None) is not None

    def signal(self, sender: str, path: str, interface: str, member: str, values: Sequence[Any]) -> None:
        """Tell those who want to know."""
        if sender == DRIVER[0] and member == "NameOwnerChanged":
            name, _, owner = values
            if name in self._owners:
                self._owners[name] = owner
            if not owner:
                self._left(name)
        for subscription in list(self._matching(sender, path, interface, member)):
            try:
                subscription.callback(*values)
            except Exception:
                log.exception("%s.%s was not handled", interface, member)

    def end(self) -> None:
        """The connection is over: everybody has left."""
        self._over = True
        for name in list(self._watches):
            self._left(name)

    def _left(self, name: str) -> None:
        watch = self._watches.get(name)
        if watch is not None and not watch.gone.done():
            watch.gone.set_result(None)

    def _matching(self, sender: str, path: str, interface: str, member: str) -> Iterator[_Subscription]:
        return (one for one in self._subscriptions if self._owners[one.sender] == sender
                and (one.path, one.interface, one.member) == (path, interface, member))

    def _ask(self, member: str, argument: str, answered: Callable[[Any], object] | None = None) -> None:
        def done(reply: asyncio.Future[list[Any]]) -> None:
            if reply.cancelled():
                return
            error = reply.exception()
            if error is not None:
                level = logging.WARNING if member == "AddMatch" else logging.DEBUG
                log.log(level, "%s(%s): %s", member, argument, error)
            elif answered is not None:
                answered(*reply.result())

        self._request(*DRIVER, member, "s", argument).add_done_callback(done)


def _name_rule(name: str) -> str:
    return (f"type='signal',sender='{DRIVER[0]}',path='{DRIVER[1]}',interface='{DRIVER[2]}',"
            f"member='NameOwnerChanged',arg0='{name}'")
