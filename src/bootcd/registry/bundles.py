# SPDX-License-Identifier: Apache-2.0
"""Signatures as cosign 3 attaches them: bundles of sigstore, in artifacts that refer to the image.

They say which manifest is signed, and not what the image is called. So whoever has a key signs for every name for which
that key counts, and somebody in between may serve one image of theirs in the place of another. That is for the machine
to allow, and only for names that its configuration lists (`[trust] bundles`).

Source: cosign's BUNDLE_SPEC.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..errors import BlobMismatch, BlobNotFound, OciError, SignatureError
from ..formats.rekor import LogEntry
from ..formats.sigstorebundle import BUNDLE, MAX_BUNDLE, SigstoreBundle, parse_bundle, parse_statement
from ..formats.simplesigning import Claim
from .blob import read_blob
from .fulcio import Leaf
from .referrers import artifacts
from .sources import Source


@dataclass(frozen=True)
class Bundle:
    """A SigstoreSignature (`sigstore`)."""

    origin: str
    data: bytes

    def signature(self) -> bytes:
        return self._read.signature

    def message(self) -> bytes:
        return self._read.message

    def payload(self) -> bytes:
        return self._read.payload

    def leaf(self) -> Leaf:
        if not self._read.certificate:
            raise SignatureError("it has no certificate")
        return Leaf.of_der(self._read.certificate)

    def logged(self) -> tuple[LogEntry, ...]:
        entries = self._read.logged()
        if not entries:
            raise SignatureError("no log says anything of it")
        return entries

    def stamps(self) -> tuple[bytes, ...]:
        return self._read.stamps

    def claim(self) -> Claim:
        return parse_statement(self._read.payload)

    @cached_property
    def _read(self) -> SigstoreBundle:
        if not self.data:
            raise SignatureError(f"it is missing, damaged or larger than {MAX_BUNDLE} bytes")
        return parse_bundle(self.data)


def bundles(source: Source, digest: str) -> Iterator[Bundle]:
    """The bundles of a manifest, as they are read. Raises OciError when there are too many, and what a source
    raises."""
    for artifact in artifacts(source, digest, BUNDLE):
        for layer in artifact.manifest.layers[:1]:
            if layer.media_type == BUNDLE:
                try:
                    data = read_blob(source, layer, MAX_BUNDLE)
                except (OciError, BlobMismatch, BlobNotFound):
                    data = b""  # one that is broken shall not hide the others
                yield Bundle(f"bundle {artifact.descriptor.digest}", data)
