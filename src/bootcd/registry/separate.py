# SPDX-License-Identifier: Apache-2.0
"""Sources whose network part is another process, one without rights: the side of whoever asks.

Used by processes of root. What the other one says is trusted no more than a registry is: lengths are bounded, errors
are those that a source may raise, and size and digest are checked here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sys
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from .. import errors
from ..errors import BlobMismatch, BootcdError, OciError, SourceUnreachable
from ..formats.oci import MAX_DOCUMENT, Descriptor, Manifest
from ..linux.run import Served, serve
from ..model import ImageReference, Platform
from . import frames
from .frames import Frames, FramesError
from .referrers import artifact_of, referrers_of
from .resolve import companion_of, manifest_of
from .sources import FetchedManifest, SourceOptions, TransientFailure

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-P", "-m", "bootcd.registry.fetcher")
START_SECONDS = 60.0
"""Time that it may take to start: a credential helper may ask a server."""
_MARGIN = 30.0
"""Seconds more than the other process waits for a server."""
_MAX_TEXT = 2000
_OURS = ("separate", "limit", "observer")
"""Options that are no matter of the other process: a limit slows down whoever reads from it."""
_RAISED = (SourceUnreachable, BlobMismatch, OciError, errors.AuthenticationFailed, errors.BlobNotFound,
           errors.ImageNotFound, errors.ConfigError, errors.Unsupported)
_ERRORS = {one.__name__: one for one in _RAISED}


class Fetcher:
    """The other process. Ends with `close`. Safe to use from several threads."""

    def __init__(self, request: dict[str, Any], options: Sequence[SourceOptions]) -> None:
        """`options` are those of all places. Raises what the first packet is answered with, and Unsupported."""
        self._patience = max(map(_patience, options))
        self._observer = options[0].observer
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process: Served = serve([*PROGRAM, str(theirs.fileno())], theirs.fileno())
        except BaseException:
            self._control.close()
            raise
        try:
            self._start(request)
        except BaseException:
            self.close()
            raise

    def ask(self, request: dict[str, Any]) -> Frames:
        """Where the answer to a request comes. Raises SourceUnreachable when the process has ended."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        mine.settimeout(self._patience)
        try:
            with theirs, self._lock:
                socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno()])
        except OSError:
            mine.close()
            raise SourceUnreachable(f"the process that fetches has ended ({self._process.how()})") from None
        return Frames(mine, self._told)

    def whole(self, what: str, request: dict[str, Any], limit: int) -> tuple[dict[str, Any], bytes]:
        """An answer of at most `limit` bytes, with what is said about it. Raises TransientFailure, OciError and the
        error that was sent."""
        answer = self.ask(request)
        try:
            about = begun(what, answer)
            pieces, size = [], 0
            for piece in _pieces(what, answer):
                size += len(piece)
                if size > limit:
                    raise OciError(f"{what}: has more than {limit} bytes")
                pieces.append(piece)
            return about, b"".join(pieces)
        finally:
            answer.close()

    def close(self) -> None:
        self._control.close()
        self._process.end()

    def _told(self, content: bytes) -> None:
        if self._observer is not None:
            from .told import deliver  # only for those who want an explanation

            deliver(content, self._observer)

    def _start(self, request: dict[str, Any]) -> None:
        self._control.settimeout(START_SECONDS)
        answer = b""
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(request).encode())
            answer = self._control.recv(frames.MAX_REQUEST)
        if not answer:
            raise SourceUnreachable(f"the process that fetches does not start ({self._process.how()})")
        document = _document(answer)
        if "error" in document:
            raise _error(document["error"])
        for kept in document.get("ready", ()):
            log.info("the process that fetches could not give up %.200s", kept)
        self._control.settimeout(None)


def fetcher(places: Sequence[tuple[ImageReference, SourceOptions]]) -> Fetcher:
    """One for the registries that may have an image. Raises ConfigError."""
    return Fetcher({"places": [{"reference": str(reference), "options": _options(options)}
                               for reference, options in places]}, [options for _, options in places])


class SeparateSource:
    """One of the places that a fetcher was started for, which is closed with the last of them."""

    def __init__(self, reference: ImageReference, options: SourceOptions, fetcher: Fetcher, place: int) -> None:
        self.reference = reference
        self.options = options
        self._fetcher = fetcher
        self._place = place

    def manifest(self, platform: Platform) -> FetchedManifest:
        return manifest_of(self.reference, self.options, self.document, platform)

    def companion(self, tag: str) -> Manifest:
        return companion_of(self.reference, self.options, self.document, tag)

    def referrers(self, digest: str, artifact_type: str) -> tuple[Descriptor, ...]:
        return referrers_of(self.reference, self.options, self.listing, self.document, digest, artifact_type)

    def artifact(self, descriptor: Descriptor) -> Manifest:
        return artifact_of(self.reference, self.options, self.document, descriptor)

    def listing(self, digest: str, artifact_type: str) -> list[bytes]:
        """As `client.RegistrySource.listing`."""
        what = f"{self.reference}: what is attached to {digest}"
        about, data = self._fetcher.whole(
            what, {"referrers": digest, "type": artifact_type, "place": self._place}, MAX_DOCUMENT)
        pages, sizes = [], about.get("sizes")
        for size in sizes if isinstance(sizes, list) else [-1]:
            if type(size) is not int or not 0 <= size <= len(data):
                raise SourceUnreachable(f"{what}: the process that fetches does not keep to the rules")
            pages.append(data[:size])
            data = data[size:]
        return pages

    def document(self, name: str, size: int | None) -> tuple[bytes, str | None]:
        """As `client.RegistrySource.document`."""
        about, data = self._fetcher.whole(str(self.reference), {"document": name, "size": size, "place": self._place},
                                          MAX_DOCUMENT)
        declared = about.get("type")
        return data, declared if isinstance(declared, str) else None

    def blob(self, descriptor: Descriptor, offset: int = 0) -> _Stream:
        return self._stream(descriptor, offset, None)

    def part(self, descriptor: Descriptor, start: int, size: int) -> _Stream:
        return self._stream(descriptor, start, size)

    def close(self) -> None:
        self._fetcher.close()

    def _stream(self, descriptor: Descriptor, offset: int, length: int | None) -> _Stream:
        what = f"{self.reference}: blob {descriptor.digest}"
        answer = self._fetcher.ask({"blob": descriptor.digest, "size": descriptor.size, "offset": offset,
                                    "length": length, "place": self._place})
        try:
            begun(what, answer)
        except BaseException:
            answer.close()
            raise
        return _Stream(what, answer)


class SeparateHost:
    """A server that is no registry, by host or host:port. Raises ConfigError."""

    def __init__(self, host: str, options: SourceOptions) -> None:
        self._fetcher = Fetcher({"store": host, "options": _options(options)}, [options])

    def file(self, url: str, limit: int) -> tuple[int, bytes]:
        """As `http.Http.file`."""
        return self._ask(url, {"file": url, "limit": limit}, limit)

    def post(self, what: str, url: str, headers: Mapping[str, str], body: bytes, limit: int) -> tuple[int, bytes]:
        """As `http.Http.post`."""
        return self._ask(what, {"post": url, "headers": dict(headers), "body": body.decode(), "limit": limit}, limit)

    def _ask(self, url: str, request: dict[str, Any], limit: int) -> tuple[int, bytes]:
        about, data = self._fetcher.whole(url, request, limit)
        status = about.get("status")
        if not isinstance(status, int):
            raise SourceUnreachable(f"{url}: the process that fetches does not say what came of it")
        return status, data

    def close(self) -> None:
        self._fetcher.close()


class _Stream:
    """A blob that is being fetched."""

    def __init__(self, what: str, answer: Frames) -> None:
        self._answer = answer
        self._pieces = _pieces(what, answer)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except BaseException:  # the end is one
            self.close()
            raise

    def interrupt(self) -> None:
        self._answer.interrupt()

    def close(self) -> None:
        self._pieces.close()
        self._answer.close()


def begun(what: str, answer: Frames) -> dict[str, Any]:
    """What is said about the data that follows. Raises TransientFailure, and the error that was sent."""
    kind, content = _next(what, answer)
    if kind != frames.BEGIN:
        raise SourceUnreachable(f"{what}: the process that fetches does not keep to the rules")
    return _document(content)


def _pieces(what: str, answer: Frames) -> Generator[bytes]:
    while True:
        kind, content = _next(what, answer)
        if kind == frames.END:
            return
        if kind != frames.DATA:
            raise SourceUnreachable(f"{what}: the process that fetches does not keep to the rules")
        if content:
            yield content


def _next(what: str, answer: Frames) -> tuple[bytes, bytes]:
    try:
        kind, content = answer.next()
    except TimeoutError:
        raise TransientFailure(SourceUnreachable(f"{what}: no data for too long")) from None
    except FramesError as error:
        raise TransientFailure(SourceUnreachable(f"{what}: the process that fetches: {error}")) from None
    if kind != frames.ERROR:
        return kind, content
    document = _document(content)
    sent = _error(document)
    if document.get("transient") is True:
        after = document.get("after")
        raise TransientFailure(sent, float(after) if isinstance(after, int | float) else None,
                               stalled=document.get("stalled") is True)
    raise sent


def _document(content: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(content)
        if isinstance(document, dict):
            return document
    raise SourceUnreachable("the process that fetches does not keep to the rules")


def _error(document: Any) -> BootcdError:
    """The error that was sent, if it is one that fetching can end with."""
    if not isinstance(document, dict):
        document = {}
    kind = _ERRORS.get(str(document.get("class")), SourceUnreachable)
    return kind(_shown(document.get("message")), advice=_shown(document.get("advice")))


def _shown(text: object) -> str:
    return "".join(one if one.isprintable() else "?" for one in str(text)[:_MAX_TEXT])


def _options(options: SourceOptions) -> dict[str, Any]:
    values = {field.name: getattr(options, field.name) for field in fields(options) if field.name not in _OURS}
    values["observed"] = options.observer is not None
    return {key: str(value) if isinstance(value, Path) else
            [str(one) for one in value] if isinstance(value, tuple) else value for key, value in values.items()}


def _patience(options: SourceOptions) -> float:
    return options.connect_timeout + options.read_timeout + _MARGIN
