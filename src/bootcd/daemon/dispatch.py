# SPDX-License-Identifier: Apache-2.0
"""Which object and method a call means, and whether its arguments are right; answers what D-Bus itself defines.

The interface descriptions decide: nothing reaches a handler that the XML does not allow. All refusals have the names
that the D-Bus specification and GDBus use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..formats.introspection import Interface, Method, parse
from .exports import PROPERTIES, BusError, Exported
from .signatures import is_path, plain
from .wire import Typed

ERROR = "org.freedesktop.DBus.Error."
PEER = "org.freedesktop.DBus.Peer"
OPTIONS = "a{sv}"

_HEAD = """<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
"""
_STANDARD = """  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg direction="out" type="s" name="machine_uuid"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg direction="out" type="s" name="xml_data"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg direction="in" type="s" name="interface_name"/>
      <arg direction="in" type="s" name="property_name"/>
      <arg direction="out" type="v" name="value"/>
    </method>
    <method name="GetAll">
      <arg direction="in" type="s" name="interface_name"/>
      <arg direction="out" type="a{sv}" name="properties"/>
    </method>
    <method name="Set">
      <arg direction="in" type="s" name="interface_name"/>
      <arg direction="in" type="s" name="property_name"/>
      <arg direction="in" type="v" name="value"/>
    </method>
    <signal name="PropertiesChanged">
      <arg type="s" name="interface_name"/>
      <arg type="a{sv}" name="changed_properties"/>
      <arg type="as" name="invalidated_properties"/>
    </signal>
  </interface>
"""
STANDARD: Mapping[str, Interface] = {one.name: one for one in parse(f"<node>\n{_STANDARD}</node>".encode())}


@dataclass(frozen=True, slots=True)
class Target:
    """What a call means. `exported` is None for what D-Bus itself defines."""

    path: str
    interface: Interface
    method: Method
    exported: Exported | None

    def arguments(self, body: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments as plain values, options checked. Raises BusError InvalidArgs."""
        taken = tuple(plain(value) for value in body)
        if self.method.in_signature.endswith(OPTIONS):
            _check_options(self.method, body[-1])
        return taken

    def actions(self, arguments: tuple[Any, ...]) -> tuple[str, ...]:
        """What a call with these arguments needs the right for."""
        return self.method.actions(arguments[-1] if self.method.in_signature.endswith(OPTIONS) else {})


@dataclass(frozen=True, slots=True)
class Setting:
    """A property that may be set, and to what. Who may is for others to tell."""

    name: str
    value: Any
    apply: Callable[[Any], None]


class Objects:
    """All objects of one connection, by path."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Exported]] = {}

    def add(self, path: str, *exported: Exported) -> None:
        """Raises ValueError for what is no path, for an interface that is there already, and for an object that has
        another place."""
        if not is_path(path):
            raise ValueError(f"no object path: {path!r}")
        here = self._objects.get(path, {})
        names = [one.interface.name for one in exported]
        if len({*here, *names}) != len(here) + len(names) or any(one.place is not None for one in exported):
            raise ValueError(f"exported already: {', '.join(names)}")
        if exported:
            self._objects[path] = {**here, **{one.interface.name: one for one in exported}}

    def remove(self, path: str) -> list[Exported]:
        """Take away all that is at that path. Raises KeyError when nothing is."""
        return list(self._objects.pop(path).values())

    def find(self, path: str, interface: str | None, member: str, signature: str) -> Target:
        """What a call means. Raises BusError with the reason why it means nothing."""
        if interface == PEER and member in STANDARD[PEER].methods:  # of the connection, so every path will do
            return _checked(Target(path, STANDARD[PEER], STANDARD[PEER].methods[member], None), signature)
        if not self._exists(path):
            raise BusError(ERROR + "UnknownObject", f"no object at {path}")
        here = self._objects.get(path, {})
        candidates: list[tuple[Interface, Exported | None]] = [(one.interface, one) for one in here.values()]
        candidates += [(one, None) for one in STANDARD.values() if here or one.name != PROPERTIES]
        named = [one for one in candidates if interface in (None, one[0].name)]
        if not named:
            raise BusError(ERROR + "UnknownInterface", f"no interface {interface} at {path}")
        for described, exported in named:
            if member in described.methods:
                return _checked(Target(path, described, described.methods[member], exported), signature)
        raise BusError(ERROR + "UnknownMethod", f"no method {member} in {interface or path}")

    def answer(self, target: Target, arguments: tuple[Any, ...]) -> list[Any]:
        """What a method of D-Bus itself answers (all but Set). Raises BusError."""
        match target.method.name:
            case "Ping":
                return []
            case "GetMachineId":
                return [_machine_id()]
            case "Introspect":
                return [self.introspect(target.path)]
            case "GetAll":
                return [dict(value for one in self._having(target.path, arguments[0]) for value in one.get_all())]
            case "Get":
                return [self._owner(target.path, *arguments).get(arguments[1])]
        raise NotImplementedError(target.method.name)

    def setting(self, target: Target, body: Sequence[Any]) -> Setting:
        """What a call of Properties.Set wants. Raises BusError."""
        interface, name, value = body
        owner = self._owner(target.path, interface, name)
        if name not in owner.setters:
            raise BusError(ERROR + "PropertyReadOnly", f"property {name} cannot be set")
        wanted = owner.interface.properties[name].type
        if value.signature != wanted:
            raise BusError(ERROR + "InvalidArgs", f"property {name} is of type {wanted}, not {value.signature}")
        return Setting(name, plain(value), owner.setters[name])

    def introspect(self, path: str) -> str:
        """The introspection document of an object; its interfaces as their files have them."""
        here = self._objects.get(path, {})
        standard = _STANDARD if here else _STANDARD[:_STANDARD.index(f'  <interface name="{PROPERTIES}"')]
        # Nothing in a path needs quoting (and xml.sax would bring an HTTP client along).
        children = "".join(f'  <node name="{name}"/>\n' for name in sorted(set(self._children(path))))
        texts = (one.interface.xml for one in here.values())
        return _HEAD + standard + "".join(text if text.endswith("\n") else text + "\n" for text in texts) + (
            children + "</node>\n")

    def _children(self, path: str) -> Iterator[str]:
        prefix = path if path == "/" else path + "/"
        return (other[len(prefix):].partition("/")[0] for other in self._objects
                if other.startswith(prefix) and other != path)

    def _exists(self, path: str) -> bool:
        """Whether there is an object, or one further down."""
        return path == "/" or path in self._objects or next(self._children(path), None) is not None

    def _having(self, path: str, interface: str) -> list[Exported]:
        """The interfaces with properties that are meant; "" means all."""
        here = self._objects[path]
        if not interface:
            return list(here.values())
        if interface in STANDARD:
            return []
        if interface not in here:
            raise BusError(ERROR + "UnknownInterface", f"no interface {interface} at {path}")
        return [here[interface]]

    def _owner(self, path: str, interface: str, name: str) -> Exported:
        found = next((one for one in self._having(path, interface) if name in one.properties), None)
        if found is None:
            raise BusError(ERROR + "UnknownProperty", f"no property {name} in {interface or path}")
        return found


def _checked(target: Target, signature: str) -> Target:
    wanted = target.method.in_signature
    if signature != wanted:
        raise BusError(ERROR + "InvalidArgs", f"{target.method.name} takes arguments of the types '{wanted}', "
                                              f"not '{signature}'")
    return target


def _check_options(method: Method, options: Mapping[str, Typed]) -> None:
    for name, value in options.items():
        if name not in method.options:
            known = ", ".join(method.options) or "none"
            raise BusError(ERROR + "InvalidArgs", f"{method.name} has no option '{name:.100}' (known: {known})")
        wanted = method.options[name].type
        if value.signature != wanted:
            raise BusError(ERROR + "InvalidArgs", f"option '{name}' of {method.name} is of type {wanted}, "
                                                  f"not {value.signature}")


def _machine_id() -> str:
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            found = Path(place).read_text().strip()
        except (OSError, ValueError):
            continue
        if found:
            return found
    raise BusError(ERROR + "FileNotFound", "this machine has no id")
