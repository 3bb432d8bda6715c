# SPDX-License-Identifier: Apache-2.0
"""Writes the reference part of man/org.bootcd1.5 from dbus-interfaces/, so that it says what the daemon serves.

`make manual` runs it. The part stands between two comments; what is before and after it is written by hand and stays.
A test fails when the page is not what this would write.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from bootcd.formats.introspection import Argument, Interface, Method, Property, Signal, parse

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "man" / "org.bootcd1.5"
INTERFACES = ("Manager", "Deployment", "Job")
"""In the order of the page."""
OBJECTS = {
    "Manager": r"\fI/org/bootcd1\fP",
    "Deployment": r"\fI/org/bootcd1/deployment/ID\fP",
    "Job": r"\fI/org/bootcd1/job/NUMBER\fP",
}
BEGIN = '.\\" --- From here on written by tools/bus_manual.py from dbus-interfaces/; do not edit.'
END = '.\\" --- To here.'
WIDTH = 115
EMITS = {
    "const": "It never changes.",
    "false": "Changes are not announced.",
    "invalidates": "Changes are announced without the value.",
    "true": "",
}


def escape(text: str) -> str:
    """Text for a page: nothing in it is markup."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def paragraph(text: str) -> Iterator[str]:
    """Text in lines; each sentence begins one, so that a change shows as what it is."""
    for sentence in escape(text).replace(". ", ".\n").split("\n"):
        line = ""
        for word in sentence.split():
            if line and len(line) + 1 + len(word) > WIDTH:
                yield line
                line = ""
            # A line must not begin with what a macro begins with.
            line = f"{line} {word}" if line else ("\\&" + word if word.startswith((".", "'")) else word)
        yield line


def arguments(given: Iterable[Argument]) -> str:
    return ", ".join(f"{argument.type} \\fI{escape(argument.name)}\\fP" for argument in given)


def _entry(synopsis: str, doc: str, items: Iterable[tuple[str, str]] = ()) -> Iterator[str]:
    yield ".TP"
    yield synopsis
    yield from paragraph(doc)
    inner = list(items)
    if inner:
        yield ".RS"
        for tag, text in inner:
            yield ".TP"
            yield tag
            yield from paragraph(text)
        yield ".RE"


def method(one: Method) -> Iterator[str]:
    """Synopsis, meaning, arguments, options, action."""
    outputs = f" \\(-> {arguments(one.outputs)}" if one.outputs else ""
    allowed = f"Action: {one.action}." if one.action else "Everybody may call it."
    items = [(f"\\fI{escape(argument.name)}\\fP", argument.doc) for argument in (*one.inputs, *one.outputs)
             if argument.type != "a{sv}" or argument in one.outputs]
    items += [(f"option \\fB{escape(option.name)}\\fP ({option.type})",
               _sentence(option.doc) + (f" Action: {option.action}." if option.action else ""))
              for option in one.options.values()]
    yield from _entry(f"\\fB{one.name}\\fP ({arguments(one.inputs)}){outputs}", f"{one.doc} {allowed}", items)


def signal(one: Signal) -> Iterator[str]:
    """Synopsis, meaning, arguments."""
    yield from _entry(f"\\fB{one.name}\\fP ({arguments(one.arguments)})", one.doc,
                      [(f"\\fI{escape(argument.name)}\\fP", argument.doc) for argument in one.arguments])


def prop(one: Property) -> Iterator[str]:
    """Name, type, meaning."""
    yield from _entry(f"\\fB{one.name}\\fP {one.type}", f"{one.doc} {EMITS[one.emits]}".strip())


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def reference(interface: Interface) -> Iterator[str]:
    """The section about one interface."""
    name = interface.name.rpartition(".")[2]
    yield f".SH INTERFACE {interface.name}"
    yield "Object:"
    yield f"{OBJECTS[name]}"
    yield ".PP"
    yield from paragraph(interface.doc)
    for title, entries in (
        ("Methods", [method(one) for one in interface.methods.values()]),
        ("Signals", [signal(one) for one in interface.signals.values()]),
        ("Properties", [prop(one) for one in interface.properties.values()]),
    ):
        if entries:
            yield f".SS {title} of {name}"
            for entry in entries:
                yield from entry


def generate(page: str) -> str:
    """The page with its reference written anew. Raises ValueError when it lacks the two comments."""
    before, begin, rest = page.partition(BEGIN + "\n")
    _, end, after = rest.partition(END + "\n")
    if not begin or not end:
        raise ValueError("the page lacks the comments between which the reference stands")
    lines = [line for name in INTERFACES
             for interface in parse((ROOT / "dbus-interfaces" / f"org.bootcd1.{name}.xml").read_bytes())
             for line in reference(interface)]
    return before + begin + "".join(f"{line}\n" for line in lines) + end + after


def main() -> None:
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    page.write_text(generate(page.read_text()))


if __name__ == "__main__":
    main()
