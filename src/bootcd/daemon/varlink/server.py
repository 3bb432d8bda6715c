# SPDX-License-Identifier: Apache-2.0
"""A server for Varlink: JSON objects on a stream socket, each ended by a NUL byte (https://varlink.org/Wire-Format).

    call    {"method": "io.systemd.SysUpdate.CheckNew", "parameters": {…}, "oneway": bool, "more": bool}
    reply   {"parameters": {…}}, or {"error": "org.varlink.service.InvalidParameter", "parameters": {…}}

Calls of one connection are answered in order. No method of ours has several replies, so "more" gets one, the last, and
none goes on in another protocol, so "upgrade" gets an error. What a stranger can do is bounded: `MAX_CLIENTS`
connections, `MAX_CALL` bytes in a call, `IDLE` seconds without one. Who sends what is no call is disconnected.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ... import __version__
from ...errors import BootcdError

log = logging.getLogger(__name__)

MAX_CLIENTS = 32
MAX_CALL = 1 << 16
IDLE = 60.0
_SERVICE = "org.varlink.service"
_UCRED = struct.Struct("3i")

_DESCRIPTION = """interface org.varlink.service

method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)

error MethodNotFound (method: string)

error MethodNotImplemented (method: string)

error InvalidParameter (parameter: string)

error PermissionDenied ()
"""


class VarlinkError(Exception):
    """An error that the caller gets: its full name, and what belongs to it."""

    def __init__(self, name: str, **parameters: object) -> None:
        super().__init__(name)
        self.name = name
        self.parameters = parameters


def invalid(parameter: str) -> VarlinkError:
    """The parameter is missing, of a wrong type, or unknown."""
    return VarlinkError(f"{_SERVICE}.InvalidParameter", parameter=parameter)


def denied() -> VarlinkError:
    return VarlinkError(f"{_SERVICE}.PermissionDenied")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as the kernel knows it: that which has made the connection."""

    pid: int
    uid: int


Method = Callable[[Peer, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Takes parameters and returns those of the reply. Raises VarlinkError."""


@dataclass(frozen=True, slots=True)
class Interface:
    """`description` is in Varlink's interface definition language."""

    name: str
    description: str
    methods: Mapping[str, Method]


class Server:
    """Answers on one listening socket, from `start` to `close`."""

    def __init__(self, interfaces: Sequence[Interface]) -> None:
        own = Interface(_SERVICE, _DESCRIPTION, {"GetInfo": self._get_info,
                                                 "GetInterfaceDescription": self._get_description})
        self._interfaces = {one.name: one for one in (own, *interfaces)}
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self, listening: socket.socket) -> None:
        """Answer on that socket, which is ours from now on."""
        # From Python 3.13 on, closing a server removes the name of its socket; that one belongs to systemd.
        options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._server = await asyncio.start_unix_server(self._accepted, sock=listening, limit=MAX_CALL, **options)

    def close(self) -> None:
        """Disconnect everybody."""
        if self._server is not None:
            self._server.close()
        for client in self._clients:
            client.cancel()

    # --- connections ----------------------------------------------------------------------------------------------

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= MAX_CLIENTS:
            writer.transport.abort()
            return
        client = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = _peer(writer)
            while True:
                async with asyncio.timeout(IDLE):
                    message = await reader.readuntil(b"\0")
                call = _parse(message[:-1])
                reply = await self._answer(peer, call)
                if not call.get("oneway"):
                    writer.write(json.dumps(reply).encode() + b"\0")
                    async with asyncio.timeout(IDLE):
                        await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError, ValueError) as error:
            log.debug("a client of Varlink is disconnected: %s", error)
        except Exception:
            log.exception("a client of Varlink is disconnected")
        finally:
            writer.transport.abort()

    async def _answer(self, peer: Peer, call: Mapping[str, Any]) -> dict[str, Any]:
        try:
            method = self._method(call["method"])
            if call.get("upgrade"):
                raise VarlinkError(f"{_SERVICE}.MethodNotImplemented", method=call["method"])
            return {"parameters": dict(await method(peer, call.get("parameters") or {}))}
        except VarlinkError as error:
            return {"error": error.name, "parameters": error.parameters}
        except BootcdError as error:
            log.info("a call of Varlink has failed: %s", error)
            return {"error": "io.systemd.System", "parameters": {"errno": 5, "description": str(error)}}

    def _method(self, name: str) -> Method:
        interface, _, member = name.rpartition(".")
        if interface not in self._interfaces:
            raise VarlinkError(f"{_SERVICE}.InterfaceNotFound", interface=interface)
        if member not in self._interfaces[interface].methods:
            raise VarlinkError(f"{_SERVICE}.MethodNotFound", method=name)
        return self._interfaces[interface].methods[member]

    # --- org.varlink.service --------------------------------------------------------------------------------------

    async def _get_info(self, peer: Peer, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        only(parameters)
        return {"vendor": "bootcd", "product": "bootcd", "version": __version__, "url": "",
                "interfaces": list(self._interfaces)}

    async def _get_description(self, peer: Peer, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        only(parameters, "interface")
        name = parameters.get("interface")
        if not isinstance(name, str):
            raise invalid("interface")
        if name not in self._interfaces:
            raise VarlinkError(f"{_SERVICE}.InterfaceNotFound", interface=name)
        return {"description": self._interfaces[name].description}


def only(parameters: Mapping[str, Any], *known: str) -> None:
    """Raises VarlinkError for a parameter of another name."""
    for name in parameters:
        if name not in known:
            raise invalid(name)


def _parse(message: bytes) -> Mapping[str, Any]:
    """A call. Raises ValueError."""
    try:
        call = json.loads(message)
    except RecursionError:
        raise ValueError("JSON that is too deep") from None
    match call:
        case {"method": str()} if isinstance(call.get("parameters"), dict | None) and all(
                isinstance(call.get(flag), bool | None) for flag in ("oneway", "more", "upgrade")):
            assert isinstance(call, dict)
            return call
    raise ValueError("no call")


def _peer(writer: asyncio.StreamWriter) -> Peer:
    connection = writer.get_extra_info("socket")
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid)
