# SPDX-License-Identifier: Apache-2.0
"""The splitstreams of a repository and their names.

A stream is an object whose digest is its id, and a symlink in `streams/` gives it the name by which it is looked up,
such as `oci-layer-sha256:…`. The link is made only after everything that the stream refers to is on disk: a name that
exists is a promise that the stream is complete. Spec 1.4, 3.1.
"""

from __future__ import annotations

from ..errors import ImageNotFound, SplitstreamError
from ..formats.splitstream import Splitstream
from ..linux import files
from .links import Links
from .objects import ObjectStore
from .root import Root

MAX_STREAM = 4 << 30
"""Largest splitstream file that is read, in bytes."""


class Streams:
    """The directory `streams` of a repository."""

    def __init__(self, root: Root, objects: ObjectStore) -> None:
        self._root = root
        self._objects = objects
        self.links = Links(root, objects, "streams")

    def has(self, name: str) -> bool:
        """Whether there is a stream of that name and its object."""
        digest = self.links.target(name)
        return digest is not None and self._objects.has(digest)

    def put(self, name: str, data: bytes) -> bytes:
        """Store a splitstream and give it its name, replacing what had it. Returns its id.

        Everything written to the repository before is durable when the name appears. Raises RootFull.
        """
        digest = self._objects.put(data)
        if self.links.target(name) != digest:
            files.step("streams.before_sync")
            self._root.sync()
            self.links.link(name, digest)
        return digest

    def id(self, name: str) -> bytes:
        """The digest of the stream. Raises ImageNotFound."""
        digest = self.links.target(name)
        if digest is None:
            raise ImageNotFound(f"the repository has no stream '{name}'")
        return digest

    def open(self, name: str, content_type: int | None = None) -> Splitstream:
        """Read a stream by name. Raises ImageNotFound, RepositoryDamaged, ObjectMismatch, SplitstreamError."""
        return self.open_id(self.id(name), content_type, what=name)

    def open_id(self, digest: bytes, content_type: int | None = None, *, what: str | None = None) -> Splitstream:
        """Read a stream by its id."""
        data = self._objects.read(digest, MAX_STREAM)
        try:
            return Splitstream.parse(data, self._root.algorithm, content_type)
        except SplitstreamError as error:
            raise SplitstreamError(f"stream {what or digest.hex()}: {error}") from error

    def names(self) -> list[str]:
        return self.links.names()

    def remove(self, name: str) -> bool:
        """Take the name away; the object stays until it is collected."""
        return self.links.unlink(name)

    def tag(self, ref: str, name: str) -> bool:
        """Make `refs/<ref>` lead to a stream, which keeps it from being collected. Raises ImageNotFound."""
        self.id(name)
        return self.links.ref(ref, name)

    def untag(self, ref: str) -> bool:
        """Take a ref away; False when there is none."""
        return self.links.unref(ref)

    def refs(self) -> dict[str, str]:
        """Every ref with the name of its stream."""
        return self.links.refs()
