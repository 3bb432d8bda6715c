# SPDX-License-Identifier: Apache-2.0
"""Where messages begin and end, fed by a server of the test's own that sends what a bus never would."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from bootcd.daemon import stream as module
from bootcd.daemon.stream import LIMIT, Stream, paths
from bootcd.errors import BootcdError

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Frames = list[tuple[bytes, bytes | None]]


def frame(body: bytes, order: str = "<", fields: bytes = b"") -> bytes:
    return struct.pack(order + "BBBBIII", ord("l" if order == "<" else "B"), 1, 0, 1, len(body), 1, len(fields)) + (
        fields + bytes(-len(fields) % 8) + body)


async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert await reader.readline() == b"\0AUTH EXTERNAL\r\n"
    writer.write(b"DATA\r\nOK 0123456789abcdef\r\n")
    while await reader.readline() != b"BEGIN\r\n":
        pass


def talk(tmp_path: Path, server: Talk, *, wait: float = 5.0) -> tuple[Frames, list[str]]:
    """Connect to a server that talks so, and wait for its end."""
    frames: Frames = []
    ended: list[str] = []
    address = f"unix:path={tmp_path}/bus"

    async def main() -> None:
        over = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await server(reader, writer)
                await writer.drain()
            except OSError:
                pass
            finally:
                writer.close()
                over.set()

        listening = await asyncio.start_unix_server(serve, tmp_path / "bus")
        try:
            done = asyncio.Event()

            def end(reason: str) -> None:
                ended.append(reason)
                done.set()

            await Stream.connect(address, lambda head, body: frames.append((head, body)), end, wait)
            async with asyncio.timeout(20):
                await done.wait()
        finally:
            listening.close()
            async with asyncio.timeout(20):
                await over.wait()
            await asyncio.sleep(0)

    asyncio.run(main())
    return frames, ended


@pytest.mark.parametrize("step", [1, 7, 16, 17, 1000])
def test_messages_in_pieces(tmp_path: Path, step: int) -> None:
    sent = [b"", b"x", b"y" * 100, b"", b"z" * 9]
    data = b"".join(frame(body, order, b"f" * number) for order in "<>" for number, body in enumerate(sent))

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        for start in range(0, len(data), step):
            writer.write(data[start:start + step])
            await asyncio.sleep(0)

    frames, ended = talk(tmp_path, server)
    assert [body for _, body in frames] == sent * 2
    assert all(len(head) % 8 == 0 for head, _ in frames)
    assert ended == ["disconnected from the bus"]


def test_long_bodies_are_skipped(tmp_path: Path) -> None:
    sizes = [LIMIT, LIMIT + 1, 5, 10 * LIMIT, 0]

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        for size in sizes:
            writer.write(frame(b"x" * size))

    frames, _ = talk(tmp_path, server)
    assert [len(body) if body is not None else None for _, body in frames] == [LIMIT, None, 5, None, 0]


def test_others_get_their_turn_in_a_flood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    frames: list[bytes] = []

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await welcome(reader, writer)
            writer.write(frame(b"") * 500)
            await writer.drain()
            writer.close()

        def slow(head: bytes, body: bytes | None) -> None:
            frames.append(head)
            time.sleep(0.001)

        ended = asyncio.Event()
        async with await asyncio.start_unix_server(serve, tmp_path / "bus") as listening:
            await Stream.connect(f"unix:path={tmp_path}/bus", slow, lambda reason: ended.set(), 5)
            while not ended.is_set():
                turns.append(len(frames))
                await asyncio.sleep(0)
            listening.close()

    monkeypatch.setattr(module, "TURN", 0.005)
    asyncio.run(main())
    assert len(frames) == 500
    assert max(after - before for before, after in pairwise(turns)) < 100


@pytest.mark.parametrize(("said", "complaint"), [
    (b"REJECTED EXTERNAL\r\n", "the bus refuses us: REJECTED EXTERNAL"),
    (b"DATA\r\nERROR \xff\r\n", "the bus refuses us: ERROR"),
    (b"x" * 5000, "this is no bus"),
    (b"DATA\r\nO", "disconnected"),
    (b"", "disconnected"),
])
def test_no_bus(tmp_path: Path, said: bytes, complaint: str) -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    with pytest.raises(BootcdError, match=f"cannot connect to the bus: .*/bus: {complaint}"):
        talk(tmp_path, server)


def test_a_bus_that_says_nothing(tmp_path: Path) -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with pytest.raises(BootcdError, match="no answer in time"):
        talk(tmp_path, server, wait=0.1)


@pytest.mark.parametrize("data", [
    b"x" * 16, b"l" + b"\xff" * 15, struct.pack("<BBBBIII", ord("l"), 1, 0, 1, 0, 1, 2**17),
    struct.pack("<BBBBIII", ord("l"), 1, 0, 1, 2**27 + 1, 1, 0),
])
def test_no_message(tmp_path: Path, data: bytes) -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        writer.write(frame(b"x") + data)
        await reader.read()

    frames, ended = talk(tmp_path, server)
    assert [body for _, body in frames] == [b"x"]
    assert len(ended) == 1


def test_addresses() -> None:
    assert paths("unix:path=/run/a%20b,guid=12;tcp:host=x;unix:abstract=/c;unix:tmpdir=/tmp") == ["/run/a b", "\0/c"]
    assert paths("") == paths("nonsense") == []
