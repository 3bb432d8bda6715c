# SPDX-License-Identifier: Apache-2.0
"""The signatures of an image, wherever they are, and which of them meets a requirement.

Loaded only where a policy asks for signatures: what verifies them takes longer to load than everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import TypeVar

from ..errors import BootcdError, SignatureError
from ..formats.documents import shown
from ..formats.imagename import ImageName
from ..formats.simplesigning import Claim
from ..formats.trustpolicy import Identity, SignedBy, SigstoreSigned
from ..model import ImageReference
from . import lookaside, sigstore
from .bundles import Bundle, bundles
from .carried import is_remote
from .gpg import GpgVerifier, SignedMessage
from .judgement import Finding, Outcome
from .registries_d import Section
from .sources import CarriesSignatures, FetchedManifest, Source
from .timestamps import TimeAuthorities

S = TypeVar("S", sigstore.SigstoreSignature, SignedMessage)


class Evidence:
    """The signatures of one image, each kind read once. `reference` is as policies have it, `section` says where they
    are looked for, `accepts_bundles` whether a bundle counts that does not say what the image is called, and `times` is
    the file with those whose time stamps count, empty for nobody's."""

    def __init__(self, source: Source, fetched: FetchedManifest, reference: ImageReference, section: Section | None,
                 accepts_bundles: bool, times: str = "") -> None:
        self._source = source
        self._times = times
        self.accepts_bundles = accepts_bundles
        self.name = _name(reference)
        self.digests = tuple(dict.fromkeys((fetched.reference_digest, fetched.digest)))
        # Signatures of what is at a registry may be elsewhere, those of everything else lie beside it.
        self._elsewhere = ImageName.of(reference) if reference.transport == "docker" else None
        self._section = section or Section()
        self._attachments: list[sigstore.SigstoreSignature] | None = None
        self._messages: list[SignedMessage] | None = None

    def outcome(self, requirement: SigstoreSigned | SignedBy) -> Outcome:
        """Whether one of them meets a requirement. Raises TrustPolicyError when the requirement names what cannot be
        used, OciError and SignatureError when there are too many, and what reading a source raises."""
        if isinstance(requirement, SigstoreSigned):
            kind, sigstore_verifier = "sigstoreSigned", _sigstore(requirement, self._times)
            found = tuple(_findings(self.attachments(), sigstore_verifier.verify, requirement.identity, self))
        else:
            kind, gpg_verifier = "signedBy", GpgVerifier(requirement)
            found = tuple(_findings(self.messages(), gpg_verifier.verify, requirement.identity, self))
        return Outcome(kind, any(not one.reason for one in found), found)

    def attachments(self) -> list[sigstore.SigstoreSignature]:
        if self._attachments is None:
            self._attachments = [found for origin, data in self._carried
                                 if (found := sigstore.parse_attachment(origin, data)) is not None]
            if self._section.attachments:
                self._attachments += [one for digest in self.digests
                                      for one in sigstore.attachments(self._source, digest)]
                self._attachments += self._bundles(others=bool(self._attachments))
        return self._attachments

    def _bundles(self, others: bool) -> list[Bundle]:
        """Where they do not count, they are only looked for when there is nothing else, so that people learn why the
        signature that they made is none here."""
        if others and not self.accepts_bundles:
            return []
        try:
            return [one for digest in self.digests for one in bundles(self._source, digest)]
        except BootcdError:
            if self.accepts_bundles:
                raise
            return []

    def messages(self) -> list[SignedMessage]:
        if self._messages is None:
            self._messages = [SignedMessage(origin, data) for origin, data in self._carried if data[:1] >= b"\x80"]
            # Whoever takes an image from a medium may have no network, and says that the medium is what counts.
            if self._elsewhere is not None and (is_remote(self._source) or self._section.store.startswith("file:")):
                self._messages += [one for digest in self.digests for one in lookaside.lookaside(
                    self._section, self._elsewhere, digest, self._source.options)]
        return self._messages

    @cached_property
    def _carried(self) -> list[tuple[str, bytes]]:
        """The signatures that lie beside the image."""
        if not isinstance(self._source, CarriesSignatures):
            return []
        found: list[tuple[str, bytes]] = []
        for digest in self.digests:
            of_one = list(islice(self._source.signatures(digest), sigstore.MAX_SIGNATURES + 1))
            if len(of_one) > sigstore.MAX_SIGNATURES:
                raise SignatureError(f"{self._source.reference}: more than {sigstore.MAX_SIGNATURES} signatures")
            found += of_one
        return found


def _findings(
    signatures: Iterable[S], verify: Callable[[S], tuple[Claim, str]], identity: Identity, evidence: Evidence,
) -> Iterator[Finding]:
    for signature in signatures:
        try:
            claim, signer = verify(signature)
            if claim.digest not in evidence.digests:
                raise SignatureError(f"it is for another image, {claim.digest}")
            if claim.name is None:
                if not evidence.accepts_bundles:
                    raise SignatureError("it is a bundle, which does not say what the image is called; [trust] bundles "
                                         "in bootcd.toml does not list this one")
            elif not identity.accepts(evidence.name, claim.name):
                raise SignatureError(f"it calls the image {shown(str(claim.name))}, which the policy does not accept "
                                     f"here ({identity.match.value})")
        except SignatureError as error:
            yield Finding(signature.origin, reason=str(error))
        else:
            yield Finding(signature.origin, signer=signer)
def check(requirement: SigstoreSigned | SignedBy, times: str) -> None:
    """Raises TrustPolicyError where a requirement names a key that cannot be used, or needs the file `times`, of those
    whose time stamps count, and that cannot be."""
    if isinstance(requirement, SigstoreSigned):
        _sigstore(requirement, times)
    else:
        GpgVerifier(requirement)


def _sigstore(requirement: SigstoreSigned, times: str) -> sigstore.SigstoreVerifier:
    """Only certificates need a time."""
    needed = times and requirement.fulcio is not None
    return sigstore.SigstoreVerifier(requirement, TimeAuthorities(times) if needed else None)


def _name(reference: ImageReference) -> ImageName | None:
    """What signatures call an image, where it has such a name."""
    if reference.transport == "docker":
        return ImageName.of(reference)
    name = reference.name.rpartition("]")[2]
    if reference.transport != "containers-storage" or name.startswith("@"):
        return None
    return ImageName(name, reference.tag or "", reference.digest or "")
