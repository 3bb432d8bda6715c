# SPDX-License-Identifier: Apache-2.0
"""Whether an image may be taken: the requirements of the policy, held against the signatures that there are.

What a signature signs is the digest of a document: that of the manifest of the image, or that of the index which was
resolved to it. Either will do, since the index names its manifests by their digests. The digest is fixed before
anything is looked for, so whatever happens to a tag or a signature meanwhile, what is pulled is what was judged.

Every requirement must hold; a requirement for a signature holds when one counts. Those that do not are kept with the
reason, for people who wonder why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

from ..errors import SignatureError, TrustPolicyError
from ..formats.documents import shown
from ..formats.imagename import ImageName
from ..formats.simplesigning import Claim
from ..formats.trustpolicy import (
    MAX_POLICY,
    Accept,
    Decision,
    Identity,
    Reject,
    SignedBy,
    SigstoreSigned,
    TrustPolicy,
    parse,
)
from ..model import ImageReference
from . import lookaside, sigstore, storage
from .carried import is_remote
from .demands import Demand, demand
from .gpg import GpgVerifier, SignedMessage
from .judgement import Finding, Judgement, Outcome, policy_file
from .sources import CarriesSignatures, FetchedManifest, Source

S = TypeVar("S", sigstore.Attachment, SignedMessage)

STORES = Path("/etc/containers/registries.d")


@dataclass(frozen=True, slots=True)
class Trust:
    """The policy in a file, and where signatures may be. Without a policy, `policy` is None and `file` empty."""

    file: str = ""
    policy: TrustPolicy | None = None
    stores: lookaside.SignatureStores = field(default_factory=lookaside.SignatureStores)


def load(policy: str = "", stores: str = "") -> Trust:
    """Read the policy: the file that is named, which must exist, or the first of `POLICIES` that does. Raises
    TrustPolicyError."""
    found = policy_file(policy)
    directory = Path(stores) if stores else STORES
    if found is None:
        return Trust()
    try:
        with found.open("rb") as file:
            data = file.read(MAX_POLICY + 1)
    except OSError as error:
        raise TrustPolicyError(f"{found}: cannot be read: {error.strerror}") from None
    return Trust(str(found), parse(data, str(found)), lookaside.load_stores(directory))


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is known of an image's case before anything is asked: what decides, and where signatures are looked for.
    `reference` is as policies have it. Images of this machine have no `section`: their signatures are beside them."""

    reference: ImageReference
    decision: Decision
    section: lookaside.Section | None

    @property
    def scope(self) -> str:
        return self.decision.scope

    @property
    def rejects(self) -> bool:
        """Whether no image is taken, whatever is found."""
        return any(isinstance(requirement, Reject) for requirement in self.decision.requirements)

    def places(self) -> Iterator[str]:
        """Where signatures are looked for, as far as any are asked for."""
        kinds = {type(requirement) for requirement in self.decision.requirements}
        section = self.section
        if SigstoreSigned in kinds and section is not None and not section.attachments:
            yield f"no sigstore signatures are looked for: use-sigstore-attachments is false in {section.origin}"
        elif SigstoreSigned in kinds:
            yield "sigstore signatures are looked for beside the image, under the tag sha256-DIGEST.sig"
        if SignedBy in kinds and section is None:
            yield "OpenPGP signatures are looked for nowhere but in the image's own place"
        elif SignedBy in kinds and section is not None:
            yield f"OpenPGP signatures are looked for in {section.store} ({section.origin or 'the usual store'})"

    def demands(self) -> Iterator[Demand]:
        """The requirements in words. Raises TrustPolicyError at one that names a key that cannot be used."""
        for requirement in self.decision.requirements:
            if isinstance(requirement, SigstoreSigned | SignedBy):
                _verifier(requirement)
            yield demand(requirement)


def about(policy: TrustPolicy, stores: lookaside.SignatureStores, reference: ImageReference) -> Prospect:
    """What decides about an image."""
    reference = _resolved(reference)
    section = stores.about(ImageName.of(reference)) if reference.transport == "docker" else None
    return Prospect(reference, policy.about(reference), section)


def judge(trust: Trust, source: Source, fetched: FetchedManifest) -> Judgement:
    """Hold an image against the policy. Nothing is read but what is asked for: manifest, signatures, keys.

    Raises TrustPolicyError when the policy names what cannot be used, OciError and SignatureError when there are too
    many signatures to look at, and what reading a source raises.
    """
    if trust.policy is None:
        return Judgement("", "", ())
    prospect = about(trust.policy, trust.stores, source.reference)
    evidence = _Evidence(prospect.section, source, prospect.reference, fetched)
    return Judgement(trust.file, prospect.scope, tuple(_outcomes(prospect.decision, evidence)))


def _resolved(reference: ImageReference) -> ImageReference:
    """Policies name files by paths without links, and images in containers-storage with their store."""
    if reference.transport == "containers-storage":
        return storage.resolved(reference)
    return replace(reference, name=os.path.realpath(reference.name)) if reference.path else reference


def _name(reference: ImageReference) -> ImageName | None:
    """What signatures call an image, where it has such a name."""
    if reference.transport == "docker":
        return ImageName.of(reference)
    name = reference.name.rpartition("]")[2]
    if reference.transport != "containers-storage" or name.startswith("@"):
        return None
    return ImageName(name, reference.tag or "", reference.digest or "")


def _outcomes(decision: Decision, evidence: _Evidence) -> Iterator[Outcome]:
    for requirement in decision.requirements:
        if isinstance(requirement, Accept):
            yield Outcome("insecureAcceptAnything", True)
        elif isinstance(requirement, Reject):
            yield Outcome("reject", False)
        else:
            verifier = _verifier(requirement)
            if isinstance(verifier, sigstore.SigstoreVerifier):
                kind = "sigstoreSigned"
                found = tuple(_findings(evidence.attachments(), verifier.verify, requirement.identity, evidence))
            else:
                kind = "signedBy"
                found = tuple(_findings(evidence.messages(), verifier.verify, requirement.identity, evidence))
            yield Outcome(kind, any(not one.reason for one in found), found)


def _verifier(requirement: SigstoreSigned | SignedBy) -> sigstore.SigstoreVerifier | GpgVerifier:
    if isinstance(requirement, SigstoreSigned):
        return sigstore.SigstoreVerifier(requirement)
    return GpgVerifier(requirement)


class _Evidence:
    """The signatures of one image, each kind read once."""

    def __init__(
        self, section: lookaside.Section | None, source: Source, reference: ImageReference, fetched: FetchedManifest,
    ) -> None:
        self._source = source
        self.name = _name(reference)
        self.digests = tuple(dict.fromkeys((fetched.reference_digest, fetched.digest)))
        # Signatures of what is at a registry may be elsewhere, those of everything else lie beside it.
        self._elsewhere = ImageName.of(reference) if reference.transport == "docker" else None
        self._section = section or lookaside.Section()
        self._attachments: list[sigstore.Attachment] | None = None
        self._messages: list[SignedMessage] | None = None

    def attachments(self) -> list[sigstore.Attachment]:
        if self._attachments is None:
            self._attachments = [found for origin, data in self._carried
                                 if (found := sigstore.parse_attachment(origin, data)) is not None]
            if self._section.attachments:
                self._attachments += [one for digest in self.digests
                                      for one in sigstore.attachments(self._source, digest)]
        return self._attachments

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
    signatures: Iterable[S], verify: Callable[[S], tuple[Claim, str]], identity: Identity, evidence: _Evidence,
) -> Iterator[Finding]:
    for signature in signatures:
        try:
            claim, signer = verify(signature)
            if claim.digest not in evidence.digests:
                raise SignatureError(f"it is for another image, {claim.digest}")
            if not identity.accepts(evidence.name, claim.name):
                raise SignatureError(f"it calls the image {shown(str(claim.name))}, which the policy does not accept "
                                     f"here ({identity.match.value})")
        except SignatureError as error:
            yield Finding(signature.origin, reason=str(error))
        else:
            yield Finding(signature.origin, signer=signer)
