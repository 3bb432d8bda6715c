# SPDX-License-Identifier: Apache-2.0
"""The pull side of a registry (OCI distribution specification 1.1): manifests by tag or digest, blobs with Range.

Nothing that a registry says about itself is trusted: `Docker-Content-Digest` is not looked at, sizes and digests come
from the reference and from documents that were verified. What it answers is bounded before it is read.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

from ..errors import BlobMismatch, BlobNotFound, BootcdError, ImageNotFound, OciError, SourceUnreachable
from ..formats.oci import INDEX, MAX_DOCUMENT, Descriptor, Manifest
from ..model import ImageReference, Platform
from .auth import Authenticator
from .http import Answer, Http
from .referrers import MAX_PAGES, NO_LIST, artifact_of, first_page, next_page, referrers_of
from .resolve import DOCUMENT_TYPES, companion_of, manifest_of
from .sources import FetchedManifest, SourceOptions, TransientFailure

_PIECE = 64 << 10  # what a broken connection may take with it
_ACCEPT = ", ".join(DOCUMENT_TYPES)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


def served_by(reference: ImageReference) -> tuple[str, str]:
    """The host that serves an image, and the name of the repository there."""
    host, repository = reference.host, reference.repository
    if host in ("docker.io", "index.docker.io"):
        # The name that people write is not the host that serves; its own images have one more component.
        return "registry-1.docker.io", repository if "/" in repository else f"library/{repository}"
    return host, repository


class RegistrySource:
    """One image at a registry."""

    def __init__(self, reference: ImageReference, options: SourceOptions) -> None:
        """Connects to nothing yet. Raises ConfigError when `options` name a file that cannot be used."""
        self.reference = reference
        self.options = options
        self._host, self._repository = served_by(reference)
        self._http = Http(self._host, options)
        self._auth = Authenticator(self._http, reference.host, self._repository, options.auth_file)
        self._lock = threading.Lock()
        self._base: str | None = None

    def manifest(self, platform: Platform) -> FetchedManifest:
        return manifest_of(self.reference, self.options, self.document, platform)

    def companion(self, tag: str) -> Manifest:
        return companion_of(self.reference, self.options, self.document, tag)

    def referrers(self, digest: str, artifact_type: str) -> tuple[Descriptor, ...]:
        return referrers_of(self.reference, self.options, self.listing, self.document, digest, artifact_type)

    def artifact(self, descriptor: Descriptor) -> Manifest:
        return artifact_of(self.reference, self.options, self.document, descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Download:
        what = f"{self.reference}: blob {descriptor.digest}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        answer = self._get(what, f"blobs/{descriptor.digest}", headers)
        try:
            skip = self._check_blob(what, answer, descriptor.size, offset)
        except BaseException:
            answer.close()
            raise
        return Download(what, answer, descriptor.size, offset, skip)

    def part(self, descriptor: Descriptor, start: int, size: int) -> Download:
        what = f"{self.reference}: blob {descriptor.digest}"
        end = start + size
        answer = self._get(what, f"blobs/{descriptor.digest}", {"Range": f"bytes={start}-{end - 1}"})
        try:
            self._check_part(what, answer, descriptor.size, start, end)
        except BaseException:
            answer.close()
            raise
        return Download(what, answer, end, start, 0)

    def prepare(self) -> None:
        """Read, while that is permitted, whatever will be needed of this machine's files. Raises nothing: what is
        missing counts when it is needed."""
        self._auth.prepare()

    def close(self) -> None:
        self._http.close()

    def document(self, name: str, size: int | None) -> tuple[bytes, str | None]:
        """A manifest or index by tag or digest, unverified, and the media type that came with it; `size` is what an
        index says of it. Raises TransientFailure, and what `manifest` raises."""
        what = str(self.reference) if size is None else f"{self.reference}: manifest {name}"
        answer = self._get(what, f"manifests/{name}", {"Accept": _ACCEPT})
        try:
            if answer.status == 404:
                raise ImageNotFound(f"{what}: the registry has no such image", advice="Check the name and the tag.")
            self._expect(what, answer, 200)
            if (answer.header("Content-Encoding") or "identity").lower() != "identity":
                raise SourceUnreachable(f"{what}: the registry encodes what it was asked to send as it is")
            data = answer.read_all(MAX_DOCUMENT if size is None else size)
        finally:
            answer.close()
        if data is None and size is not None:
            raise BlobMismatch(f"{what}: has more than the {size} bytes that its index names")
        if data is None:
            raise OciError(f"{what}: the manifest is larger than {MAX_DOCUMENT} bytes")
        return data, answer.header("Content-Type")

    def listing(self, digest: str, artifact_type: str) -> list[bytes]:
        """As `referrers.Pages`."""
        what = f"{self.reference}: what is attached to {digest}"
        pages: list[bytes] = []
        path = first_page(digest, artifact_type)
        while path:
            if len(pages) == MAX_PAGES:
                raise OciError(f"{what}: more than {MAX_PAGES} pages")
            answer = self._get(what, path, {"Accept": INDEX})
            try:
                kind = (answer.header("Content-Type") or "").partition(";")[0].strip().lower()
                if not pages and (answer.status in NO_LIST or (answer.status == 200 and kind != INDEX)):
                    return []
                self._expect(what, answer, 200)
                data = answer.read_all(MAX_DOCUMENT - sum(map(len, pages)))
                if data is None:
                    raise OciError(f"{what}: more than {MAX_DOCUMENT} bytes")
                pages.append(data)
                here = f"{self._address(what)}/v2/{self._repository}/{path}"
                path = next_page(here, self._repository, answer.header("Link"))
            finally:
                answer.close()
        return pages

    def _get(self, what: str, path: str, headers: dict[str, str]) -> Answer:
        """The answer to a request with the right credentials: neither 401 nor 403."""
        url = f"{self._address(what)}/v2/{self._repository}/{path}"
        for _ in range(3):
            sent = self._auth.header()
            answer = self._http.get(what, url, headers, sent)
            if answer.status not in (401, 403):
                return answer
            challenge = answer.header("WWW-Authenticate") or ""
            answer.close()
            if answer.redirected:
                # A signed address that has expired; asking the registry again gives a fresh one.
                raise TransientFailure(SourceUnreachable(f"{what}: HTTP {answer.status} after a redirect"))
            if answer.status == 403 or not self._auth.challenged(challenge, sent):
                break
        raise self._auth.failure(what, answer.status)

    def _address(self, what: str) -> str:
        """Scheme and host. Where plain HTTP is permitted, TLS is still tried first."""
        with self._lock:
            if self._base is None:
                base = f"https://{self._host}"
                if self._http.permits_plain(base) and not self._http.speaks_tls(what, base + "/v2/"):
                    base = f"http://{self._host}"
                self._base = base
            return self._base

    def _expect(self, what: str, answer: Answer, *statuses: int) -> None:
        if answer.status not in statuses:
            raise SourceUnreachable(f"{what}: the registry answers HTTP {answer.status}")

    def _check_blob(self, what: str, answer: Answer, size: int, offset: int) -> int:
        """How many bytes of the answer we have already."""
        if answer.status == 404:
            raise BlobNotFound(f"{what}: the registry does not have it")
        if answer.status == 416:
            raise BlobMismatch(f"{what}: the registry has less than {offset} of its {size} bytes")
        self._expect(what, answer, *((200, 206) if offset else (200,)))
        begin, total = 0, answer.length
        if answer.status == 206:
            match = _CONTENT_RANGE.fullmatch(answer.header("Content-Range") or "")
            if match is None:
                raise SourceUnreachable(f"{what}: the registry does not say which range it sends")
            begin, total = int(match[1]), None if match[3] == "*" else int(match[3])
            if begin > offset:
                raise SourceUnreachable(f"{what}: the registry sends bytes from {begin} when asked from {offset}")
        if total is not None and total != size:
            raise BlobMismatch(f"{what}: has {total} bytes, not {size}")
        return offset - begin

    def _check_part(self, what: str, answer: Answer, size: int, start: int, end: int) -> None:
        if answer.status == 404:
            raise BlobNotFound(f"{what}: the registry does not have it")
        if answer.status == 416:
            raise BlobMismatch(f"{what}: the registry has less than {end} of its {size} bytes")
        if answer.status == 200:
            raise SourceUnreachable(f"{what}: the registry sends all of it when asked for a part")
        self._expect(what, answer, 206)
        match = _CONTENT_RANGE.fullmatch(answer.header("Content-Range") or "")
        if match is None or (int(match[1]), int(match[2])) != (start, end - 1):
            raise SourceUnreachable(f"{what}: the registry sends another part than bytes {start} to {end - 1}")
        if match[3] not in ("*", str(size)):
            raise BlobMismatch(f"{what}: has {match[3]} bytes, not {size}")


class Download:
    """A blob that is being downloaded."""

    def __init__(self, what: str, answer: Answer, size: int, offset: int, skip: int) -> None:
        self._what = what
        self._answer = answer
        self._size = size
        self._position = offset
        self._skip = skip
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._closed:
            raise StopIteration
        try:
            return self._next()
        except (TransientFailure, BootcdError):
            self.close()
            raise

    def interrupt(self) -> None:
        self._answer.interrupt()

    def close(self) -> None:
        self._closed = True
        self._answer.close()

    def _next(self) -> bytes:
        while self._skip:
            self._skip -= len(self._read(min(_PIECE, self._skip)))
        left = self._size - self._position
        # One byte more than expected shows a body that is too long, and the end of one that is not.
        data = self._read(min(_PIECE, left + 1), may_end=not left)
        if len(data) > left:
            raise BlobMismatch(f"{self._what}: has more than {self._size} bytes")
        self._position += len(data)
        if not data:
            self.close()
            raise StopIteration
        return data

    def _read(self, size: int, *, may_end: bool = False) -> bytes:
        data = self._answer.read(size)
        if not data and not may_end:
            where = f"{self._position} of {self._size} bytes"
            raise TransientFailure(SourceUnreachable(f"{self._what}: the connection broke off after {where}"))
        return data
