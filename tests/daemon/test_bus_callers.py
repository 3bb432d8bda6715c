# SPDX-License-Identifier: Apache-2.0
"""Callers that are rude, leave, or may not do what they ask for."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import time
from typing import Any

import pytest
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootcd.daemon import bus as module
from bootcd.daemon.stream import LIMIT
from daemon.demo import (
    BUS,
    DEMO,
    ERROR,
    INTROSPECTABLE,
    NAME,
    PATH,
    PEER,
    PROPS,
    both,
    demo_call,
    error,
    ping,
    program,
    run,
    serving,
)
from kit.bus import SystemBus
from kit.bus_client import Client, socket_of
from kit.memory import traced

# --- rude callers -----------------------------------------------------------------------------------------------------


def test_no_reply_is_sent_where_none_is_expected(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            quiet = MessageFlag.NO_REPLY_EXPECTED
            client.start(NAME, PATH, DEMO.name, "Echo", "sa{sv}", ["x", {}], quiet)
            client.start(NAME, PATH, DEMO.name, "Fail", "s", ["ours"], quiet)
            client.start(NAME, "/nowhere", DEMO.name, "Fail", "s", ["ours"], quiet)
            client.start(NAME, PATH, PROPS, "GetAll", "s", [DEMO.name], quiet)
            before = len(client.received)
            await ping(client)
            await ping(client)
            assert len(demo.calls) == 1
            assert [message for message in client.received[before:] if message.reply_serial] == (
                client.received[-2:])

    run(main)


def test_a_call_that_hangs_blocks_nobody(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            serial = client.start(NAME, PATH, DEMO.name, "Hang")
            await demo.entered.wait()
            assert (await demo_call(client, "Echo", "sa{sv}", "x", {})).body[0] == "x"
            demo.release.set()
            assert (await client.reply(serial)).message_type is MessageType.METHOD_RETURN

    run(main)


def test_two_hundred_calls_at_once(address: str) -> None:
    async def main() -> None:
        async with serving(address) as demo:
            async def one(number: int) -> None:
                async with Client(address) as client:
                    assert (await demo_call(client, "Echo", "sa{sv}", str(number), {})).body[0] == str(number)
                    guarded = await asyncio.gather(*(demo_call(client, "Guarded") for _ in range(4)))
                    assert all(reply.body == [False] for reply in guarded)

            await asyncio.gather(*map(one, range(50)))
            assert len(demo.calls) == 250
            assert not demo.bus._tasks
            assert not demo.bus._unfinished
            assert not demo.bus._presence._watches

    run(main)


def test_too_many_unfinished_calls_of_one_caller(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client), Client(address) as other:
            serials = [client.start(NAME, PATH, DEMO.name, "Hang") for _ in range(40)]
            await ping(client)
            refused = [serial for serial in serials if any(one.reply_serial == serial for one in client.received)]
            assert refused == serials[module.MAX_CALLS:]
            assert error(await client.reply(refused[0])) == ERROR + "LimitsExceeded"
            # Others are not affected, and reading never is.
            assert (await demo_call(other, "Echo", "sa{sv}", "x", {})).body[0] == "x"
            assert (await client.call(NAME, PATH, PROPS, "GetAll", "s", [DEMO.name])).body
            demo.release.set()
            for serial in serials[:module.MAX_CALLS]:
                assert (await client.reply(serial)).message_type is MessageType.METHOD_RETURN
            assert (await demo_call(client, "Hang")).message_type is MessageType.METHOD_RETURN

    run(main)


def array(signature: str, items: bytes, serial: int, member: str = "Numbers", interface: str = DEMO.name) -> bytes:
    """A call with one array, which the library would take minutes to marshal."""
    message = Message(destination=NAME, path=PATH, interface=interface, member=member, serial=serial)
    message.signature = signature
    empty = Message(destination=NAME, path=PATH, interface=interface, member=member, serial=serial,
                    signature=signature, body=[[]])
    head = bytes(empty._marshall())[:-4]
    body = struct.pack("<I", len(items)) + items
    return head[:4] + struct.pack("<I", len(body)) + head[8:] + body


@pytest.mark.parametrize("size", [10 * 2**20, 30 * 2**20])
@pytest.mark.parametrize(("signature", "item"), [("as", bytes(8)), ("au", bytes(4))], ids=["as", "au"])
def test_an_array_of_millions(address: str, size: int, signature: str, item: bytes) -> None:
    async def main() -> None:
        async with both(address) as (demo, client), Client(address) as other:
            items = item * (size // len(item))
            data = array(signature, items[:-3] if signature == "as" else items, 5000)  # no padding after the last
            longest = 0.0

            async def watch_the_loop() -> None:
                nonlocal longest
                while True:
                    start = time.thread_time()
                    await asyncio.sleep(0.001)
                    longest = max(longest, time.thread_time() - start)

            with traced() as memory:
                watching = asyncio.create_task(watch_the_loop())
                await asyncio.sleep(0)
                client.write(data)
                del data
                await client.drain()
                reply = await client.reply(5000)
                watching.cancel()
            assert error(reply) == ERROR + "LimitsExceeded"
            assert memory.peak < size * 2.5  # what the client itself has; nothing is collected on our side
            assert longest < 1.0
            assert demo.calls == []
            await ping(client)
            await ping(other)

    run(main)


def test_arguments_are_bounded_below_what_is_read_whole(address: str) -> None:
    async def main() -> None:
        async with both(address) as (_, client):
            for count, refused in ((1000, False), (module.CALL_LIMIT // 4 - 1, False), (module.CALL_LIMIT // 4, True),
                                   (LIMIT // 4 - 1, True), (LIMIT // 4, True), (LIMIT // 4 + 1000, True)):
                client.write(array("au", bytes(4 * count), 6000 + count))
                reply = await client.reply(6000 + count)
                assert refused == (reply.message_type is MessageType.ERROR), (count, reply.body)
            long = "x" * 60_000
            assert (await demo_call(client, "Echo", "sa{sv}", long, {})).body[0] == long
            assert error(await demo_call(client, "Echo", "sa{sv}", long * 2, {})) == ERROR + "LimitsExceeded"

    run(main)


def test_arrays_are_not_even_read_when_their_type_is_wrong(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    reader = module._read_body

    def watched(message: Message, header: bytes, body: bytes) -> list[Any]:
        read.append(message.signature)
        return reader(message, header, body)

    async def main() -> None:
        async with both(address) as (_, client):
            monkeypatch.setattr(module, "_read_body", watched)
            read.clear()
            assert error(await demo_call(client, "Numbers", "as", ["x"] * 100)) == ERROR + "InvalidArgs"
            client.send(Message(message_type=MessageType.SIGNAL, destination=NAME, path=PATH, interface=DEMO.name,
                                member="Note", signature="as", body=[["x"] * 100]))
            await ping(client)
            assert read == [""]

    run(main)


def test_signatures_do_not_pile_up(address: str) -> None:
    async def main() -> None:
        async with both(address) as (_, client):
            for number in range(3000):
                signature = "".join("yu"[(number >> bit) & 1] for bit in range(12))
                client.start(NAME, PATH, DEMO.name, "Numbers", signature, [0] * 12, MessageFlag.NO_REPLY_EXPECTED)
            await ping(client)
            assert len(SignatureTree._cache) <= 1024

    run(main)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_sent_is_answered(address: str, data: st.DataObject) -> None:
    """Any member with any arguments gets one answer, never an internal error."""
    member = data.draw(st.sampled_from([*DEMO.methods, "Get", "GetAll", "Set", "Introspect", "Ping"]).filter(
        lambda name: name not in ("Hang", "Start")))
    homes = {"Get": PROPS, "GetAll": PROPS, "Set": PROPS, "Introspect": INTROSPECTABLE, "Ping": PEER}
    home = homes.get(member, DEMO.name)
    interface = data.draw(st.sampled_from([home, home, home, None, PROPS]))
    kinds = data.draw(st.sampled_from(["s", "ss", "ssv", "sa{sv}", "au", "", "v", "a{sv}"])
                      | st.text("subtv", max_size=5))
    body = [data.draw(values(kind)) for kind in _types(kinds)]

    async def main() -> None:
        async with both(address) as (_, client):
            reply = await client.call(NAME, PATH, interface, member, kinds, body)
            if reply.message_type is MessageType.ERROR:
                assert reply.error_name.startswith((ERROR, "org.bootcd1.Error.")), reply.error_name
                assert "internal" not in str(reply.body) or member == "Fail"

    run(main)


def _types(signature: str) -> list[str]:
    return [kind.signature for kind in SignatureTree(signature).types]


def values(kind: str) -> st.SearchStrategy[Any]:
    words = st.sampled_from(["", DEMO.name, "Count", "Level", "times", "list", "low", PROPS]) | st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
    if kind == "v":
        return st.sampled_from(["s", "u", "as", "a{sv}", "t"]).flatmap(
            lambda inner: values(inner).map(lambda value: Variant(inner, value)))
    if kind == "a{sv}":
        return st.dictionaries(words, st.deferred(lambda: values("v")), max_size=3)
    if kind[0] == "a":
        return st.lists(values(kind[1:]), max_size=3)
    return {"s": words, "b": st.booleans()}.get(kind, st.integers(0, 2**32 - 1))


def test_deep_variants(address: str) -> None:
    async def main() -> None:
        async with both(address) as (_, client):
            value = Variant("u", 1)
            for _ in range(55):
                value = Variant("v", value)
            assert error(await demo_call(client, "Echo", "sa{sv}", "x", {"times": value})) == ERROR + "InvalidArgs"

    run(main)


def test_messages_that_answer_nothing_are_ignored(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            for kind in (MessageType.METHOD_RETURN, MessageType.ERROR):
                client.send(Message(message_type=kind, destination=NAME, reply_serial=1,
                                    error_name="org.example.No" if kind is MessageType.ERROR else None))
            client.send(Message(message_type=MessageType.SIGNAL, destination=NAME, path=PATH, interface=DEMO.name,
                                member="Hang"))
            for member in ("NameLost", "NameOwnerChanged"):
                client.send(Message(message_type=MessageType.SIGNAL, destination=NAME, path="/org/freedesktop/DBus",
                                    interface=BUS, member=member, signature="sss" if "Owner" in member else "s",
                                    body=[NAME, "", ""] if "Owner" in member else [NAME]))
            await ping(client)
            assert not demo.entered.is_set()
            assert not demo.bus._lost.done()

    run(main)


def test_a_header_field_that_nobody_knows(address: str) -> None:
    """The bus may hand it on or close the connection of its sender; ours stays."""
    async def main() -> None:
        async with both(address) as (demo, other), Client(address) as client:
            message = Message(destination=NAME, path=PATH, interface=PEER, member="Ping", serial=77)
            data = bytearray(message._marshall())
            field = bytes([200, 1, ord("s"), 0]) + struct.pack("<I", 1) + b"x\0"
            (length,) = struct.unpack_from("<I", data, 12)
            padded = data[:16 + length] + bytes(-length % 8) + field
            struct.pack_into("<I", padded, 12, len(padded) - 16)
            client.write(bytes(padded + bytes(-len(padded) % 8)))
            await ping(other)
            assert not demo.bus._lost.done()

    run(main)


def test_bytes_that_are_no_message(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client), Client(address) as rude:
            rude.write(b"l" + bytes(64))
            await rude.ended()
            await ping(client)
            assert not demo.bus._lost.done()

    run(main)


def test_files_are_not_taken(open_bus: SystemBus) -> None:
    """A bus sends files only to those who have said that they want some."""
    async def main() -> None:
        async with both(open_bus.address) as (_, client):
            before = set(os.listdir("/proc/self/fd"))
            await asyncio.to_thread(send_files, open_bus.address, 20)
            await ping(client)
            assert set(os.listdir("/proc/self/fd")) <= before

    run(main)


def send_files(address: str, count: int) -> None:
    with socket.socket(socket.AF_UNIX) as rude, open("/dev/null") as file:
        rude.settimeout(10)
        rude.connect(socket_of(address))
        rude.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n")
        hello = Message(destination=BUS, path="/org/freedesktop/DBus", interface=BUS, member="Hello", serial=1)
        rude.sendall(bytes(hello._marshall()))
        while b"NameAcquired" not in rude.recv(65536):  # files must not come before the bus is ready for them
            pass
        for serial in range(2, 2 + count):
            call = Message(destination=NAME, path=PATH, interface=DEMO.name, member="Echo", signature="h", body=[0],
                           unix_fds=[file.fileno()], serial=serial)
            socket.send_fds(rude, [bytes(call._marshall(negotiate_unix_fd=True))], [file.fileno()])
        answer = b""
        while answer.count(b"org.freedesktop.DBus.Error.") < count:
            got = rude.recv(65536)
            assert got, answer
            answer += got


# --- authorisation ----------------------------------------------------------------------------------------------------


def test_the_action_is_asked_first(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            demo.allowed.clear()
            serial = client.start(NAME, PATH, DEMO.name, "Guarded",
                                  flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
            await demo.entered.wait()
            await ping(client)
            assert [call.sender for call in demo.asked] == [client.name]
            assert demo.calls == []
            demo.allowed.set()
            assert (await client.reply(serial)).body == [True]
            await demo_call(client, "Echo", "sa{sv}", "x", {})
            assert len(demo.asked) == 1

    run(main)


def test_a_caller_that_leaves_takes_its_question_back(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            demo.allowed.clear()
            async with Client(address) as leaver:
                for _ in range(5):
                    leaver.start(NAME, PATH, DEMO.name, "Guarded")
                await leaver.wait(lambda message: True)
                while len(demo.asked) < 5:
                    await asyncio.sleep(0.001)
            while demo.withdrawn < 5:
                await asyncio.sleep(0.001)
            await ping(client)
            demo.allowed.set()
            assert demo.calls == []
            assert not demo.bus._tasks
            assert not demo.bus._unfinished
            assert not demo.bus._asking
            assert not demo.bus._presence._watches

    run(main)


def test_a_handler_that_has_begun_outlives_its_caller(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            async with Client(address) as leaver:
                leaver.start(NAME, PATH, DEMO.name, "Hang")
                await demo.entered.wait()
                name = leaver.name
            await demo.bus.vanished(name)
            await ping(client)
            demo.release.set()
            while demo.bus._tasks:
                await asyncio.sleep(0.001)
            assert demo.finished == 1

    run(main)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv, for other users")
def test_only_root_may_set(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
            said = await program(*nobody, "gdbus", "call", "--address", address, "--dest", NAME, "--object-path", PATH,
                                 "--method", PROPS + ".Set", DEMO.name, "Level", "<'high'>")
            assert "AccessDenied: only root may set Level" in said
            assert demo.exported.properties["Level"] == "low"
            reply = await client.call(NAME, PATH, PROPS, "Set", "ssv", [DEMO.name, "Level", Variant("s", "high")])
            assert reply.body == []
            assert demo.exported.properties["Level"] == "high"

    run(main)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv, for other users")
def test_one_user_cannot_take_all_questions(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CALLS", 2)

    async def main() -> None:
        async with both(address) as (demo, client):
            demo.allowed.clear()
            call = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "busctl", f"--address={address}",
                    "call", NAME, PATH, DEMO.name, "Guarded")
            waiting = []
            for number in range(1, 3):
                waiting.append(asyncio.create_task(program(*call)))
                while len(demo.asked) < number:
                    await asyncio.sleep(0.01)
            assert "more than 2 calls of one user wait for polkit" in await program(*call)
            serial = client.start(NAME, PATH, DEMO.name, "Guarded")
            while len(demo.asked) < 3:
                await asyncio.sleep(0.001)
            demo.allowed.set()
            assert (await client.reply(serial)).body == [False]
            assert await asyncio.gather(*waiting) == ["b true\n", "b true\n"]  # busctl would let a user answer

    run(main)
