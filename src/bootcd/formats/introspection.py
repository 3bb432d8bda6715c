# SPDX-License-Identifier: Apache-2.0
"""D-Bus introspection data: XML in, descriptions of interfaces out.

Format: D-Bus specification, "Introspection Data Format". Documentation is in annotations `org.gtk.GDBus.DocString`,
which gdbus-codegen knows too. Two annotations of ours say what a dispatcher has to know about a method:
`org.bootcd1.Action` is the polkit action that it needs, and `org.bootcd1.Options` lists what its trailing `a{sv}` may
hold, one line of `name type description` for each option; `type@action` where the option needs one of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from xml.etree import ElementTree

DOC = "org.gtk.GDBus.DocString"
ACTION = "org.bootcd1.Action"
OPTIONS = "org.bootcd1.Options"
EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"

_INTERFACE = re.compile(r"^ *<interface .*?</interface>\n?", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument; `type` is a complete D-Bus type."""

    name: str
    type: str
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Option:
    """One key that a method knows in its options. `action` is what it needs besides that of the method, if anything."""

    name: str
    type: str
    doc: str
    action: str = ""


@dataclass(frozen=True, slots=True)
class Method:
    """`action` is empty where everybody may call."""

    name: str
    doc: str
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    action: str
    options: Mapping[str, Option]

    @property
    def in_signature(self) -> str:
        return "".join(argument.type for argument in self.inputs)

    @property
    def out_signature(self) -> str:
        return "".join(argument.type for argument in self.outputs)

    def actions(self, options: Mapping[str, object]) -> tuple[str, ...]:
        """The actions that a call with these options needs; one that is off needs none."""
        found = [self.action, *(self.options[name].action for name, value in options.items() if value)]
        return tuple(filter(None, found))


@dataclass(frozen=True, slots=True)
class Signal:
    name: str
    doc: str
    arguments: tuple[Argument, ...]

    @property
    def signature(self) -> str:
        return "".join(argument.type for argument in self.arguments)


@dataclass(frozen=True, slots=True)
class Property:
    """`emits` is true, invalidates, const or false; `access` read, write or readwrite."""

    name: str
    type: str
    doc: str
    emits: str
    access: str


@dataclass(frozen=True, slots=True)
class Interface:
    """`xml` is the text of the interface element as it stands in the file."""

    name: str
    doc: str
    methods: Mapping[str, Method]
    signals: Mapping[str, Signal]
    properties: Mapping[str, Property]
    xml: str = field(repr=False)


def parse(data: bytes) -> tuple[Interface, ...]:
    """The interfaces in an introspection document, which is part of this program: mistakes raise whatever they do."""
    text = data.decode()
    texts = _INTERFACE.findall(text)
    # The document is installed with the program, so a parser that expands entities cannot be abused.
    elements = ElementTree.fromstring(text).findall("interface")  # noqa: S314
    return tuple(_interface(element, xml) for element, xml in zip(elements, texts, strict=True))


def _interface(element: ElementTree.Element, xml: str) -> Interface:
    methods = [_method(child) for child in element.findall("method")]
    signals = [Signal(child.attrib["name"], _note(child, DOC), _arguments(child))
               for child in element.findall("signal")]
    properties = [
        Property(child.attrib["name"], child.attrib["type"], _note(child, DOC), _note(child, EMITS) or "true",
                 child.attrib["access"])
        for child in element.findall("property")
    ]
    return Interface(
        element.attrib["name"], _note(element, DOC), MappingProxyType({method.name: method for method in methods}),
        MappingProxyType({signal.name: signal for signal in signals}),
        MappingProxyType({one.name: one for one in properties}), xml,
    )


def _method(element: ElementTree.Element) -> Method:
    options = {}
    for line in filter(None, map(str.strip, _note(element, OPTIONS, keep_lines=True).split("\n"))):
        name, kind, doc = line.split(" ", 2)
        kind, _, action = kind.partition("@")
        options[name] = Option(name, kind, " ".join(doc.split()), action)
    return Method(
        element.attrib["name"], _note(element, DOC), _arguments(element, "in"), _arguments(element, "out"),
        _note(element, ACTION), MappingProxyType(options),
    )


def _arguments(element: ElementTree.Element, direction: str | None = None) -> tuple[Argument, ...]:
    return tuple(Argument(child.attrib["name"], child.attrib["type"], _note(child, DOC))
                 for child in element.findall("arg") if direction is None or child.get("direction", "in") == direction)


def _note(element: ElementTree.Element, name: str, *, keep_lines: bool = False) -> str:
    found = next((child.attrib["value"] for child in element.findall("annotation") if child.get("name") == name), "")
    return found if keep_lines else " ".join(found.split())
