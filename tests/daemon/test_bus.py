# SPDX-License-Identifier: Apache-2.0
"""Our objects on a real bus, asked by real clients."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from dbus_next.constants import MessageFlag
from dbus_next.signature import Variant

from bootcd.daemon.bus import Exported
from bootcd.daemon.wire import Typed
from daemon.demo import (
    DEMO,
    ERROR,
    INTROSPECTABLE,
    NAME,
    PATH,
    PEER,
    PROPERTIES,
    PROPS,
    Demo,
    both,
    demo_call,
    error,
    listen,
    ping,
    program,
    run,
    serving,
)

needs_clients = pytest.mark.skipif(not shutil.which("busctl") or not shutil.which("gdbus"),
                                   reason="needs busctl and gdbus")


# --- real clients -----------------------------------------------------------------------------------------------------


@needs_clients
def test_busctl(address: str) -> None:
    async def main() -> None:
        async with serving(address) as demo:
            busctl = ("busctl", f"--address={address}")
            tree = await program(*busctl, "--list", "tree", NAME)
            assert tree.split() == ["/", "/org", "/org/example", PATH]
            listed = await program(*busctl, "introspect", NAME, PATH, DEMO.name)
            lines = {line.split()[0]: line.split()[1:] for line in listed.splitlines()[1:]}
            assert lines[".Echo"] == ["method", "sa{sv}", "sas", "-"]
            assert lines[".Count"] == ["property", "u", "0", "emits-change"]
            assert lines[".Name"] == ["property", "s", '"demo"', "const"]
            assert lines[".Bulky"] == ["property", "as", "0", "emits-invalidation"]
            assert lines[".Quiet"] == ["property", "t", "7", "-"]
            assert lines[".Level"] == ["property", "s", '"low"', "emits-change", "writable"]
            assert lines[".Note"] == ["signal", "s(ub)", "-", "-"]
            answer = await program(*busctl, "call", NAME, PATH, DEMO.name, "Echo", "sa{sv}", "ho", "2", "times", "u",
                                   "3", "list", "as", "1", "x")
            assert answer == 'sas "hohoho" 1 "x"\n'
            assert await program(*busctl, "get-property", NAME, PATH, DEMO.name, "Count", "Name") == 'u 0\ns "demo"\n'
            refused = await program(*busctl, "call", NAME, PATH, DEMO.name, "Echo", "sa{sv}", "ho", "1", "tines", "u",
                                    "3")
            assert "Echo has no option 'tines' (known: times, list)" in refused
            assert await program(*busctl, "set-property", NAME, PATH, DEMO.name, "Level", "s", "high") == ""
            assert demo.exported.properties["Level"] == "high"

    run(main)


@needs_clients
def test_gdbus(address: str) -> None:
    async def main() -> None:
        async with serving(address) as demo:
            gdbus = ("--address", address, "--dest", NAME, "--object-path", PATH)
            shown = await program("gdbus", "introspect", *gdbus)
            assert "interface org.example.Demo {" in shown
            assert "Numbers(in  au Numbers" in shown
            called = await program("gdbus", "call", *gdbus, "--method", f"{DEMO.name}.Echo", "ho",
                                   "{'times': <uint32 2>}")
            assert called == "('hoho', @as [])\n"
            monitor = await asyncio.create_subprocess_exec(
                "stdbuf", "--output=L", "gdbus", "monitor", *gdbus[:4], stdout=asyncio.subprocess.PIPE)
            try:
                assert monitor.stdout is not None
                probe = asyncio.create_task(knock(demo))
                async with asyncio.timeout(20):
                    while b"knock" not in await monitor.stdout.readline():
                        pass
                    probe.cancel()
                    demo.exported.update({"Count": 5, "Bulky": ["x"], "Quiet": 8})
                    demo.exported.emit("Note", "said", (1, True))
                    while b"knock" in (changed := await monitor.stdout.readline()):
                        pass
                    note = await monitor.stdout.readline()
            finally:
                monitor.kill()
                await monitor.communicate()
            assert changed.decode() == (f"{PATH}: {PROPS}.PropertiesChanged ('{DEMO.name}', {{'Count': <uint32 5>}}, "
                                        "['Bulky'])\n")
            assert note.decode() == f"{PATH}: {DEMO.name}.Note ('said', (uint32 1, true))\n"

    run(main)


async def knock(demo: Demo) -> None:
    """Nobody tells when the monitor listens."""
    while True:
        demo.exported.emit("Note", "knock", (0, False))
        await asyncio.sleep(0.02)


# --- what means something and what does not ---------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "interface", "member", "signature", "body", "name"), [
    ("/nowhere", DEMO.name, "Hang", "", [], "UnknownObject"),
    ("/nowhere", INTROSPECTABLE, "Introspect", "", [], "UnknownObject"),
    ("/nowhere", PROPS, "GetAll", "s", [DEMO.name], "UnknownObject"),
    (PATH + "/below", DEMO.name, "Hang", "", [], "UnknownObject"),
    (PATH, "org.example.Other", "Hang", "", [], "UnknownInterface"),
    ("/org", DEMO.name, "Hang", "", [], "UnknownInterface"),
    (PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", "", [], "UnknownInterface"),
    (PATH, DEMO.name, "Hung", "", [], "UnknownMethod"),
    (PATH, PEER, "Pong", "", [], "UnknownMethod"),
    (PATH, None, "Pong", "", [], "UnknownMethod"),
    (PATH, DEMO.name, "Hang", "s", ["x"], "InvalidArgs"),
    (PATH, DEMO.name, "Numbers", "ai", [[1]], "InvalidArgs"),
    (PATH, DEMO.name, "Echo", "s", ["x"], "InvalidArgs"),
    (PATH, PEER, "Ping", "s", ["x"], "InvalidArgs"),
    (PATH, PROPS, "Get", "s", [DEMO.name], "InvalidArgs"),
    (PATH, PROPS, "Get", "ss", [DEMO.name, "Colour"], "UnknownProperty"),
    (PATH, PROPS, "Get", "ss", ["", "Colour"], "UnknownProperty"),
    (PATH, PROPS, "Get", "ss", [PROPS, "Count"], "UnknownProperty"),
    (PATH, PROPS, "Get", "ss", ["org.example.Other", "Count"], "UnknownInterface"),
    (PATH, PROPS, "GetAll", "s", ["org.example.Other"], "UnknownInterface"),
    (PATH, PROPS, "Set", "ssv", [DEMO.name, "Count", Variant("u", 1)], "PropertyReadOnly"),
    (PATH, PROPS, "Set", "ssv", [DEMO.name, "Colour", Variant("u", 1)], "UnknownProperty"),
    (PATH, PROPS, "Set", "ssv", [DEMO.name, "Level", Variant("u", 1)], "InvalidArgs"),
    (PATH, PROPS, "Set", "ssv", [DEMO.name, "Level", Variant("s", "middle")], "InvalidArgs"),
    (PATH, DEMO.name, "Echo", "sa{sv}", ["x", {"tines": Variant("u", 1)}], "InvalidArgs"),
    (PATH, DEMO.name, "Echo", "sa{sv}", ["x", {"times": Variant("i", 1)}], "InvalidArgs"),
    (PATH, DEMO.name, "Echo", "sa{sv}", ["x", {"times": Variant("v", Variant("u", 1))}], "InvalidArgs"),
    (PATH, DEMO.name, "Echo", "sa{sv}", ["x", {"list": Variant("au", [])}], "InvalidArgs"),
])
def test_what_is_refused(address: str, path: str, interface: str | None, member: str, signature: str, body: list[Any],
                         name: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            reply = await client.call(NAME, path, interface, member, signature, body)
            assert error(reply) == ERROR + name
            assert reply.signature == "s"
            assert demo.calls == []

    run(main)


def test_a_refusal_names_what_is_wrong(address: str) -> None:
    async def main() -> None:
        async with both(address) as (_, client):
            reply = await demo_call(client, "Echo", "sa{sv}", "x", {"times": Variant("i", 1)})
            assert reply.body == ["option 'times' of Echo is of type u, not i"]
            reply = await demo_call(client, "Echo", "u", 1)
            assert reply.body == ["Echo takes arguments of the types 'sa{sv}', not 'u'"]

    run(main)


def test_arguments_arrive_as_plain_values(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            reply = await demo_call(client, "Echo", "sa{sv}", "ä", {"times": Variant("u", 2),
                                                                    "list": Variant("as", ["x"])},
                                    flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
            assert (reply.signature, reply.body) == ("sas", ["ää", ["x"]])
            (call,) = demo.calls
            assert call.arguments == ("ä", {"times": 2, "list": ["x"]})
            assert (call.sender, call.path, call.interface, call.member) == (client.name, PATH, DEMO.name, "Echo")
            assert call.interactive
            reply = await client.call(NAME, PATH, None, "Echo", "sa{sv}", ["no interface", {}])
            assert reply.body == ["no interface", []]
            assert demo.calls[1].interface == DEMO.name
            assert not demo.calls[1].interactive

    run(main)


def test_what_dbus_itself_defines(address: str) -> None:
    async def main() -> None:
        async with both(address) as (_, client):
            assert (await client.call(NAME, "/nowhere/at/all", PEER, "Ping")).body == []
            machine = Path("/etc/machine-id")
            if machine.exists() and machine.read_text().strip():
                assert (await client.call(NAME, PATH, PEER, "GetMachineId")).body == [machine.read_text().strip()]
            reply = await client.call(NAME, PATH, PROPS, "Get", "ss", [DEMO.name, "Count"])
            assert (reply.signature, reply.body) == ("v", [Variant("u", 0)])
            reply = await client.call(NAME, PATH, PROPS, "GetAll", "s", [DEMO.name])
            (values,) = reply.body
            assert {name: value.value for name, value in values.items()} == PROPERTIES
            assert {name: value.signature for name, value in values.items()} == {
                name: one.type for name, one in DEMO.properties.items()}
            assert (await client.call(NAME, PATH, PROPS, "GetAll", "s", [""])).body == reply.body
            assert (await client.call(NAME, PATH, PROPS, "GetAll", "s", [PEER])).body == [{}]

    run(main)


def test_introspection_shows_children_and_our_own_text(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            other = Exported(DEMO, demo.exported.handlers, PROPERTIES, demo.exported.setters)
            demo.bus.export(PATH + "/child/deep", other)

            async def document(path: str) -> str:
                return str((await client.call(NAME, path, INTROSPECTABLE, "Introspect")).body[0])

            assert DEMO.xml in await document(PATH)
            for path, children in {"/": ["org"], "/org": ["example"], PATH: ["child"], PATH + "/child": ["deep"],
                                   PATH + "/child/deep": []}.items():
                root = ElementTree.fromstring(await document(path))
                assert [node.attrib["name"] for node in root.findall("node")] == children
            demo.bus.remove(PATH + "/child/deep")
            reply = await client.call(NAME, PATH + "/child", INTROSPECTABLE, "Introspect")
            assert error(reply) == ERROR + "UnknownObject"

    run(main)


# --- errors of handlers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "name", "words"), [
    ("ours", "org.bootcd1.Error.NothingStaged", ["nothing\ufffdis staged\ufffd", "Stage something."]),
    ("space", "org.bootcd1.Error.EspFull", ["full", "'bootcctl cleanup' or unpinning a deployment frees kernels on the "
                                                    "ESP."]),
    ("bus", ERROR + "NotSupported", ["not here"]),
    ("foreign", "org.example.Error.Foreign", ["other words", "and advice"]),
    ("cancelled", "org.bootcd1.Error.Interrupted", ["the call was interrupted", ""]),
    ("bug", "org.bootcd1.Error.Failed", ["internal error; see the journal", ""]),
    ("wrong type", "org.bootcd1.Error.Failed", ["internal error; see the journal", ""]),
    ("wrong number", "org.bootcd1.Error.Failed", ["internal error; see the journal", ""]),
    ("negative", "org.bootcd1.Error.Failed", ["internal error; see the journal", ""]),
])
def test_errors_of_handlers(address: str, caplog: pytest.LogCaptureFixture, how: str, name: str,
                            words: list[str]) -> None:
    async def main() -> None:
        async with both(address) as (_, client):
            reply = await demo_call(client, "Fail", "s", how)
            assert error(reply) == name
            assert reply.signature == "s" * len(words)
            assert reply.body == words

    with caplog.at_level(logging.ERROR):
        run(main)
    # Only what is a mistake of ours is in the journal, and that with its traceback.
    if words[0].startswith("internal"):
        assert "org.example.Demo.Fail failed" in caplog.text
        assert "Traceback" in caplog.text
    else:
        assert caplog.text == ""


# --- signals and their order ------------------------------------------------------------------------------------------


def test_the_reply_comes_before_what_the_call_causes(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            await listen(client)
            serial = client.start(NAME, PATH, DEMO.name, "Start")
            await client.signal("Note", 4)
            await demo.background
            order = [message.body[0] if message.member == "Note" else message.member or "reply"
                     for message in client.received if message.reply_serial == serial or message.path == PATH]
            assert order == ["reply", "PropertiesChanged", "first", "second", "third", "fourth"]
            changed = client.signals("PropertiesChanged")[0].body
            assert changed == [DEMO.name, {"Count": Variant("u", 2)}, []]

    run(main)


def test_changes_of_one_turn_are_one_signal(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            await listen(client)
            demo.exported.update({"Count": 1})
            demo.exported.update({"Count": 2, "Bulky": ["a"], "Quiet": 8})
            demo.exported.update({"Count": 3, "Tree": {"x": Typed("u", 1)}})
            demo.exported.emit("Note", "end", (1, True))
            await client.signal("Note")
            (changed,) = client.signals("PropertiesChanged")
            assert changed.path == PATH
            assert changed.body == [DEMO.name, {"Count": Variant("u", 3), "Tree": Variant("a{sv}", {
                "x": Variant("u", 1)})}, ["Bulky"]]

    run(main)


def test_what_has_not_changed_is_not_told(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            await listen(client)
            demo.exported.update({"Count": 0, "Name": "demo", "Bulky": (), "Tree": {}, "Quiet": 9})
            await ping(client)
            await asyncio.sleep(0)
            demo.exported.emit("Note", "end", (1, True))
            await client.signal("Note")
            assert client.signals("PropertiesChanged") == []
            reply = await client.call(NAME, PATH, PROPS, "Get", "ss", [DEMO.name, "Quiet"])
            assert reply.body == [Variant("t", 9)]

    run(main)


def test_flush_separates_changes(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            await listen(client)
            demo.exported.update({"Count": 1})
            demo.exported.flush()
            demo.exported.emit("Note", "between", (1, True))
            demo.exported.update({"Quiet": 1, "Tree": {"x": Typed("b", True)}})
            await client.signal("PropertiesChanged", 2)
            assert [message.member for message in client.received if message.path == PATH] == [
                "PropertiesChanged", "Note", "PropertiesChanged"]
            assert [list(message.body[1]) for message in client.signals("PropertiesChanged")] == [["Count"], ["Tree"]]

    run(main)


def test_signals_of_an_object_that_is_removed_still_leave(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            await listen(client)
            demo.exported.update({"Count": 9})
            demo.exported.emit("Note", "last words", (1, True))
            demo.bus.remove(PATH)
            demo.exported.emit("Note", "nobody hears this", (1, True))
            demo.exported.update({"Count": 10})
            await client.signal("Note")
            await ping(client)
            assert len(client.signals("PropertiesChanged")) == len(client.signals("Note")) == 1
            assert error(await demo_call(client, "Hang")) == ERROR + "UnknownObject"
            demo.bus.export(PATH, demo.exported)
            assert (await client.call(NAME, PATH, PROPS, "Get", "ss", [DEMO.name, "Count"])).body == [
                Variant("u", 10)]

    run(main)


def test_five_thousand_signals_at_once(address: str) -> None:
    """More than the socket takes, while nobody reads: dbus-next 0.2.3 takes that for the end of the connection."""
    async def main() -> None:
        async with both(address) as (demo, client):
            await listen(client)
            for number in range(5_000):
                demo.exported.emit("Note", "x" * (number % 700), (number, True))
            last = await client.signal("Note", 5_000)
            assert last.body[1][0] == 4_999

    run(main)
