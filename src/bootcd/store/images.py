# SPDX-License-Identifier: Apache-2.0
"""The EROFS images of a repository: stored, named, read, mounted.

An image is an object with a link in `images/`. Only what is linked there is ever mounted, and only after its digest was
measured, by the kernel where there is fs-verity and here where there is none. Spec 1.9, 1.10.
"""

from __future__ import annotations

import os

from ..errors import ErofsError, ImageNotFound, ObjectMismatch, RepositoryDamaged
from ..formats.erofs.reader import Image
from ..formats.fsverity import Hasher
from ..linux import files
from ..linux.mount import composefs_mount
from .links import Links
from .objects import CHUNK, ObjectStore
from .root import Root

MAX_IMAGE = 1 << 30
"""Largest image, in bytes; what composefs-rs reads."""


class Images:
    """The directory `images` of a repository."""

    def __init__(self, root: Root, objects: ObjectStore) -> None:
        self._root = root
        self._objects = objects
        self.links = Links(root, objects, "images")

    def commit(self, data: bytes | bytearray) -> bytes:
        """Store an image that `write_image` made and return its digest, by which it can be mounted from now on.

        Everything written to the repository before, the image included, is durable when its name appears.
        """
        digest = self._objects.put(data)
        if not self.has(digest):
            files.step("images.before_sync")
            self._root.sync()
            self.links.link(digest.hex(), digest)
        return digest

    def has(self, digest: bytes) -> bool:
        """Whether there is an image with that digest, with its object."""
        return self.links.target(digest.hex()) == digest and self._objects.has(digest)

    def open(self, digest: bytes) -> int:
        """A descriptor of the image file, its content verified.

        Raises ImageNotFound when it is not linked, RepositoryDamaged when its object is missing, ObjectMismatch.
        """
        self._require(digest)
        fd = self._objects.open(digest)
        if not self._root.secure:
            hasher = Hasher(self._root.algorithm)
            try:
                with files.translate(f"cannot read image {digest.hex()}"):
                    while data := os.pread(fd, CHUNK, hasher.size):
                        hasher.update(data)
                if hasher.digest() != digest:
                    raise ObjectMismatch(f"image {digest.hex()} has other content than its name says")
            except BaseException:
                os.close(fd)
                raise
        return fd

    def read(self, digest: bytes) -> Image:
        """The image, validated. Raises as `open`, and ErofsError."""
        self._require(digest)
        data = self._objects.read(digest, MAX_IMAGE)
        try:
            return Image(data)
        except ErofsError as error:
            raise ErofsError(f"image {digest.hex()}: {error}") from error

    def digests(self) -> list[bytes]:
        """All images, sorted. Raises RepositoryDamaged when a link is none of ours."""
        found = []
        for name in self.links.names():
            digest = self.links.target(name)
            if digest is not None:
                if digest.hex() != name:
                    raise RepositoryDamaged(f"images/{name} leads to object {digest.hex()}")
                found.append(digest)
        return found

    def name(self, ref: str, digest: bytes) -> bool:
        """Make `images/refs/<ref>` lead to an image, which keeps it and its objects from being collected."""
        self._require(digest)
        return self.links.ref(ref, digest.hex())

    def unname(self, ref: str) -> bool:
        """Take a ref away; False when there is none."""
        return self.links.unref(ref)

    def refs(self) -> dict[str, bytes]:
        """Every ref with the digest of its image; refs that lead to no digest are left out."""
        size = 2 * self._root.algorithm.digest_size
        found = {}
        for ref, name in self.links.refs().items():
            if len(name) == size and all(char in "0123456789abcdef" for char in name):
                found[ref] = bytes.fromhex(name)
        return found

    def mount(
        self, digest: bytes, *, require_verity: bool | None = None, upper_fd: int | None = None,
        work_fd: int | None = None,
    ) -> int:
        """Mount an image and return the descriptor of the detached mount, for `linux.mount.attach`.

        `require_verity` None demands fs-verity of every file exactly in secure repositories. Raises Unsupported when
        the kernel cannot.
        """
        fd = self.open(digest)
        try:
            required = self._root.secure if require_verity is None else require_verity
            return composefs_mount(fd, self._objects.directory_fd(), digest.hex(), require_verity=required,
                                   upper_fd=upper_fd, work_fd=work_fd)
        finally:
            os.close(fd)

    def _require(self, digest: bytes) -> None:
        if self.links.target(digest.hex()) != digest:
            raise ImageNotFound(f"the repository has no image {digest.hex()}")
