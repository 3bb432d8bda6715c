# SPDX-License-Identifier: Apache-2.0
"""What is on the bus: objects with properties, and the order in which their signals leave.

A client that called a method learns its result before it sees what the call has set off. So the signals that a handler
causes wait in an outbox of their own until its reply is on its way; everything else goes out at the loop's next turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from ..errors import BootcdError
from ..formats.introspection import Interface
from .signatures import fit
from .wire import Typed

PROPERTIES = "org.freedesktop.DBus.Properties"
T = TypeVar("T")


class BusError(BootcdError):
    """An error with a D-Bus name of its own: what another program answered, or what D-Bus itself defines."""

    def __init__(self, name: str, message: str, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.name = name

    @property
    def silent(self) -> bool:
        """Nobody has answered, so what was asked for may have been done all the same."""
        return self.name in ("org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Disconnected")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one of our methods, checked: the arguments are of the types that the interface names. Options, the last
    argument of most methods, are plain values by name, and only known ones."""

    sender: str
    path: str
    interface: str
    member: str
    arguments: tuple[Any, ...]
    interactive: bool
    """The caller is ready to wait while somebody types a password."""


Handler = Callable[[Call], Awaitable[Sequence[Any]]]
"""Returns the out arguments."""
Setter = Callable[[Any], None]
"""Takes the new value of a property, which has the right type. Raises BusError to refuse it."""


@dataclass(frozen=True, slots=True)
class Emission:
    """A signal that is ready to be sent."""

    path: str
    interface: str
    member: str
    signature: str
    body: tuple[Any, ...]


class Place:
    """Where an object is: its path, and the way from there to the bus."""

    def __init__(self, path: str, outbox: Outbox) -> None:
        self.path = path
        self.outbox = outbox


@dataclass(eq=False, slots=True)
class _Changes:
    """Properties of one object that changed; their values are looked at when it is sent."""

    outbox: Outbox
    path: str
    exported: Exported
    names: dict[str, None] = field(default_factory=dict)


class Outbox:
    """Signals that are about to leave one connection, in order."""

    def __init__(self, send: Callable[[Emission], None], soon: Callable[[Callable[[], None]], object]) -> None:
        """`send` sends one; `soon` calls back at the loop's next turn."""
        self._send = send
        self._soon = soon
        self._waiting = Held()
        self._scheduled = False

    def current(self) -> Held:
        """Where signals have to be put now: held back while a handler runs in this context."""
        held = _HELD.get()
        if held is not None and not held.released:
            return held
        if not self._scheduled:
            self._scheduled = True
            self._soon(self.flush)
        return self._waiting

    def flush(self) -> None:
        """Send what waits."""
        self._scheduled = False
        waiting, self._waiting = self._waiting, Held()
        waiting.release()

    def deliver(self, emission: Emission) -> None:
        self._send(emission)


class Held:
    """Signals that wait, in the order in which they arose. What changes in one object until they go is one signal."""

    def __init__(self) -> None:
        self.released = False
        self._entries: list[tuple[Outbox, Emission] | _Changes] = []
        self._changes: dict[Exported, _Changes] = {}

    def add(self, place: Place, emission: Emission) -> None:
        self._entries.append((place.outbox, emission))

    def changed(self, place: Place, exported: Exported, names: Sequence[str]) -> None:
        changes = self._changes.get(exported)
        if changes is None:
            changes = self._changes[exported] = _Changes(place.outbox, place.path, exported)
            self._entries.append(changes)
        changes.names.update(dict.fromkeys(names))

    def seal(self, exported: Exported) -> None:
        """What changes from now on goes out behind what waits already."""
        self._changes.pop(exported, None)

    def release(self) -> None:
        """Send all of it; later ones do not wait here."""
        self.released = True
        entries, self._entries = self._entries, []  # tasks that the handler has started keep this object
        self._changes.clear()
        for entry in entries:
            if isinstance(entry, _Changes):
                entry.outbox.deliver(entry.exported.changes(entry.path, entry.names))
            else:
                entry[0].deliver(entry[1])


_HELD: ContextVar[Held | None] = ContextVar("held signals", default=None)


def hold() -> Held:
    """Hold back the signals that arise in this context (and in tasks that it starts) until they are released."""
    held = Held()
    _HELD.set(held)
    return held


def apart(work: Callable[[], T]) -> T:
    """Do something whose signals, and those of the tasks that it starts, do not wait for the reply of a call in
    progress: what that call has set off on another connection, where nobody waits for it."""
    return Context().run(work)


class Exported:
    """One interface of one object: its description, its handlers, and the values of its properties.

    Values are kept here and never computed when somebody asks. Each is checked when it is set, so that no question
    fails because of one.
    """

    def __init__(self, interface: Interface, handlers: Mapping[str, Handler], properties: Mapping[str, Any],
                 setters: Mapping[str, Setter] = MappingProxyType({})) -> None:
        """There must be a handler for each method, a value for each property, and a setter for each that can be
        written. Raises ValueError when one is missing or too many, TypeError or ValueError for values of wrong type."""
        writable = {one.name for one in interface.properties.values() if one.access != "read"}
        for what, given, described in (("handlers", handlers, interface.methods), ("setters", setters, writable),
                                       ("properties", properties, interface.properties)):
            if set(given) != set(described):
                raise ValueError(f"{interface.name}: {what} do not match: {sorted(set(given) ^ set(described))}")
        self.interface = interface
        self.handlers = handlers
        self.setters = setters
        self._values = {name: self._fit(name, properties[name]) for name in interface.properties}
        self.place: Place | None = None

    @property
    def properties(self) -> Mapping[str, Any]:
        """Current values, as plain Python."""
        return MappingProxyType(self._values)

    def update(self, changes: Mapping[str, Any]) -> None:
        """Set properties, and tell those that are now different, all in one signal. Raises KeyError for one that does
        not exist, TypeError or ValueError for a value of the wrong type or a constant that would change; then nothing
        is set."""
        fitted = {name: self._fit(name, value) for name, value in changes.items()}
        fitted = {name: value for name, value in fitted.items() if value != self._values[name]}
        for name in fitted:
            if self.interface.properties[name].emits == "const":
                raise ValueError(f"{self.interface.name}.{name} is a constant")
        self._values.update(fitted)
        told = [name for name in fitted if self.interface.properties[name].emits != "false"]
        if told and self.place is not None:
            self.place.outbox.current().changed(self.place, self, told)

    def emit(self, signal: str, *arguments: Any) -> None:
        """Send a signal, after all that was emitted before. Raises KeyError, TypeError or ValueError when the interface
        has none like this. Nothing is sent while the object is not exported."""
        described = self.interface.signals[signal].arguments
        if len(arguments) != len(described):
            raise TypeError(f"{self.interface.name}.{signal} has {len(described)} arguments")
        body = tuple(fit(one.type, value) for one, value in zip(described, arguments, strict=True))
        if self.place is not None:
            emission = Emission(self.place.path, self.interface.name, signal, "".join(one.type for one in described),
                                body)
            self.place.outbox.current().add(self.place, emission)

    def flush(self) -> None:
        """What has changed goes out before anything that changes from now on."""
        if self.place is not None:
            self.place.outbox.current().seal(self)

    def get(self, name: str) -> Typed:
        """The value of a property with its type. Raises KeyError."""
        return Typed(self.interface.properties[name].type, self._values[name])

    def get_all(self) -> Iterator[tuple[str, Typed]]:
        return ((name, self.get(name)) for name in self._values)

    def changes(self, path: str, names: Mapping[str, None]) -> Emission:
        """The signal that tells of changed properties."""
        properties = self.interface.properties
        values = {name: self.get(name) for name in names if properties[name].emits == "true"}
        invalidated = [name for name in names if properties[name].emits == "invalidates"]
        return Emission(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", (self.interface.name, values, invalidated))

    def _fit(self, name: str, value: Any) -> Any:
        if name not in self.interface.properties:
            raise KeyError(f"{self.interface.name} has no property {name}")
        try:
            return fit(self.interface.properties[name].type, value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self.interface.name}.{name}: {error}") from error
