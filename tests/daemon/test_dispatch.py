# SPDX-License-Identifier: Apache-2.0
"""Which method a call means, without a bus. Names of errors and everything else a client sees: test_bus."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.daemon.dispatch import PEER, STANDARD, Objects
from bootcd.daemon.exports import PROPERTIES, BusError
from bootcd.daemon.wire import Typed
from bootcd.formats.introspection import parse
from daemon.demo import DEMO, PATH
from daemon.test_exports import Wire, demo


def objects(*paths: str) -> Objects:
    found = Objects()
    for path in paths:
        found.add(path, demo())
    return found


@pytest.mark.parametrize("path", ["", "demo", "/demo/", "//", "/d-o"])
def test_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="no object path"):
        objects(path)


def test_one_object_has_one_place() -> None:
    some = objects(PATH)
    with pytest.raises(ValueError, match=r"exported already: org\.example\.Demo"):
        some.add(PATH, demo())
    with pytest.raises(ValueError, match="exported already"):
        some.add("/other", demo(), demo())
    with pytest.raises(ValueError, match="exported already"):
        some.add("/other", Wire().place(demo()))
    with pytest.raises(KeyError):
        some.remove("/other")
    assert [one.interface for one in some.remove(PATH)] == [DEMO]
    some.add(PATH, demo())


def test_without_an_interface_the_first_that_has_the_method_is_meant() -> None:
    some = objects(PATH)
    assert some.find(PATH, None, "Hang", "").interface is DEMO
    assert some.find(PATH, None, "Ping", "").interface is STANDARD[PEER]
    assert some.find(PATH, None, "GetAll", "s").interface is STANDARD[PROPERTIES]


def test_options_are_checked_and_made_plain() -> None:
    target = objects(PATH).find(PATH, DEMO.name, "Echo", "sa{sv}")
    assert target.arguments(["x", {"times": Typed("u", 3)}]) == ("x", {"times": 3})
    with pytest.raises(BusError, match=r"Echo has no option 'y+' \(known: times, list\)"):
        target.arguments(["x", {"y" * 10_000: Typed("u", 3)}])
    with pytest.raises(BusError, match="option 'times' of Echo is of type u, not s"):
        target.arguments(["x", {"times": Typed("s", "3")}])


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3).map(lambda parts: "/" + "/".join(parts)),
       st.sets(st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3).map(lambda parts: "/" + "/".join(parts))))
def test_introspection_leads_to_every_object(path: str, paths: set[str]) -> None:
    some = objects(*paths)
    exists = path == "/" or any(other == path or other.startswith(path + "/") for other in paths)
    question = (path, "org.freedesktop.DBus.Introspectable", "Introspect", "")
    if not exists:
        with pytest.raises(BusError, match="no object at"):
            some.find(*question)
        return
    target = some.find(*question)
    (text,) = some.answer(target, ())
    root = ElementTree.fromstring(text)
    below = path.rstrip("/") + "/"
    assert {node.attrib["name"] for node in root.findall("node")} == {
        other[len(below):].split("/")[0] for other in paths if other.startswith(below) and other != path}
    served = {one.name: one for one in parse(text.encode())}
    assert (DEMO.name in served) == (PROPERTIES in served) == (path in paths)
    if path in paths:
        assert served[DEMO.name].methods == DEMO.methods
        assert served[DEMO.name].properties == DEMO.properties
