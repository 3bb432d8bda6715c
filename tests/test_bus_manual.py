# SPDX-License-Identifier: Apache-2.0
"""org.bootcd1(5) says what the daemon serves."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from bootcd import errors
from bootcd.daemon.interfaces import DEPLOYMENT, JOB, MANAGER
from bootcd.formats.introspection import Interface, parse

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "man" / "org.bootcd1.5"

XML = """<node>
  <interface name="org.example.Manager">
    <annotation name="org.gtk.GDBus.DocString" value="Does things. 'Quoted' and -dashed."/>
    <method name="Do">
      <annotation name="org.gtk.GDBus.DocString" value="Does \\ one thing."/>
      <annotation name="org.bootcd1.Action" value="org.bootcd1.do"/>
      <annotation name="org.bootcd1.Options" value="dry-run b only tell&#10;  name s which"/>
      <arg direction="in" type="a{sv}" name="Options"/>
    </method>
    <property name="Id" type="t" access="read">
      <annotation name="org.gtk.GDBus.DocString" value=".dotted"/>
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="const"/>
    </property>
  </interface>
</node>
"""


@pytest.fixture(scope="module")
def tool() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "bus_manual.py")))


def test_the_page_is_current(tool: SimpleNamespace) -> None:
    text = PAGE.read_text()
    assert tool.generate(text) == text, "out of date: make manual"


def test_what_was_changed_by_hand_is_written_anew(tool: SimpleNamespace) -> None:
    text = PAGE.read_text()
    assert tool.generate(text.replace("Ask the source of the tracked image", "Ask somebody")) == text
    with pytest.raises(ValueError, match="lacks the comments"):
        tool.generate(text.replace(tool.END, ""))


@pytest.mark.parametrize("interface", [MANAGER, DEPLOYMENT, JOB], ids=lambda interface: interface.name)
def test_every_member_is_there(interface: Interface) -> None:
    _, _, section = PAGE.read_text().partition(f"\n.SH INTERFACE {interface.name}\n")
    section = section.partition("\n.SH ")[0]
    members = [*interface.methods, *interface.signals, *interface.properties]
    assert re.findall(r"^\.TP\n\\fB(\w+)\\fP", section, re.MULTILINE) == members
    for method in interface.methods.values():
        assert method.action.replace("-", "\\-") in section
        assert all(f"option \\fB{name}\\fP".replace("-", "\\-") in section for name in method.options)


def test_markup(tool: SimpleNamespace) -> None:
    (interface,) = parse(XML.encode())
    assert list(tool.reference(interface)) == [
        ".SH INTERFACE org.example.Manager", "Object:", r"\fI/org/bootcd1\fP", ".PP",
        "Does things.", r"\&'Quoted' and \-dashed.",
        ".SS Methods of Manager", ".TP", r"\fBDo\fP (a{sv} \fIOptions\fP)", r"Does \e one thing.",
        "Action: org.bootcd1.do.", ".RS", ".TP", r"option \fBdry\-run\fP (b)", "Only tell.",
        ".TP", r"option \fBname\fP (s)", "Which.", ".RE",
        ".SS Properties of Manager", ".TP", r"\fBId\fP t", r"\&.dotted It never changes.",
    ]


def test_errors_are_those_of_the_source() -> None:
    section = PAGE.read_text().partition("\n.SH ERRORS\n")[2].partition("\n.SH ")[0]
    said = [name for tag in re.findall(r"^\.TP\n\.B (.*)$", section, re.MULTILINE) for name in tag.split(", ")]
    assert len(said) == len(set(said))
    assert {f"org.bootcd1.Error.{name}" for name in said} == {error.bus_name() for error in errors.all_errors()}
    for tag in re.findall(r"^\.TP\n\.B (.*)$", section, re.MULTILINE):
        named = {error.exit_status for error in errors.all_errors()
                 if error.bus_name().removeprefix("org.bootcd1.Error.") in tag.split(", ")}
        assert len(named) == 1, f"not one family: {tag}"
