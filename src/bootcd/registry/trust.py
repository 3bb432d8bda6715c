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

from ..errors import BootcdError, SignatureError, TrustPolicyError
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
from . import bundles, lookaside, sigstore, storage
from .carried import is_remote
from .demands import Demand, demand
from .gpg import GpgVerifier, SignedMessage
from .judgement import Finding, Judgement, Outcome, policy_file
from .sources import CarriesSignatures, FetchedManifest, Source

S = TypeVar("S", sigstore.SigstoreSignature, SignedMessage)

STORES = Path("/etc/containers/registries.d")


@dataclass(frozen=True, slots=True)
class Trust:
    """The policy in a file, and where signatures may be. Without a policy, `policy` is None and `file` empty. `bundles`
    are the scopes in which a signature counts that does not say what the image is called."""

    file: str = ""
    policy: TrustPolicy | None = None
    stores: lookaside.SignatureStores = field(default_factory=lookaside.SignatureStores)
    bundles: tuple[str, ...] = ()


def load(policy: str = "", stores: str = "", bundles: tuple[str, ...] = ()) -> Trust:
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
    return Trust(str(found), parse(data, str(found)), lookaside.load_stores(directory), bundles)


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is known of an image's case before anything is asked: what decides, and where signatures are looked for.
    `reference` is as policies have it. Images of this machine have no `section`: their signatures are beside them.
    `bundles` says whether bundles of sigstore count."""

    reference: ImageReference
    decision: Decision
    section: lookaside.Section | None
    bundles: bool

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
            yield "sigstore signatures are looked for beside the image, under the tag sha256-DIGEST.sig" + (
                ", and in bundles that refer to it" if self.bundles else "")
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


def about(trust: Trust, policy: TrustPolicy, reference: ImageReference) -> Prospect:
    """What decides about an image."""
    reference = _resolved(reference)
    name = ImageName.of(reference) if reference.transport == "docker" else None
    bundles = name is not None and any(scope in trust.bundles for scope in name.scopes())
    return Prospect(reference, policy.about(reference), trust.stores.about(name) if name is not None else None, bundles)


def judge(trust: Trust, source: Source, fetched: FetchedManifest) -> Judgement:
    """Hold an image against the policy. Nothing is read but what is asked for: manifest, signatures, keys.

    Raises TrustPolicyError when the policy names what cannot be used, OciError and SignatureError when there are too
    many signatures to look at, and what reading a source raises.
    """
    if trust.policy is None:
        return Judgement("", "", ())
    prospect = about(trust, trust.policy, source.reference)
    evidence = _Evidence(prospect, source, fetched)
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

    def __init__(self, prospect: Prospect, source: Source, fetched: FetchedManifest) -> None:
        reference = prospect.reference
        self._source = source
        self.bundles = prospect.bundles
        self.name = _name(reference)
        self.digests = tuple(dict.fromkeys((fetched.reference_digest, fetched.digest)))
        # Signatures of what is at a registry may be elsewhere, those of everything else lie beside it.
        self._elsewhere = ImageName.of(reference) if reference.transport == "docker" else None
        self._section = prospect.section or lookaside.Section()
        self._attachments: list[sigstore.SigstoreSignature] | None = None
        self._messages: list[SignedMessage] | None = None

    def attachments(self) -> list[sigstore.SigstoreSignature]:
        if self._attachments is None:
            self._attachments = [found for origin, data in self._carried
                                 if (found := sigstore.parse_attachment(origin, data)) is not None]
            if self._section.attachments:
                self._attachments += [one for digest in self.digests
                                      for one in sigstore.attachments(self._source, digest)]
                self._attachments += self._bundles(others=bool(self._attachments))
        return self._attachments

    def _bundles(self, others: bool) -> list[bundles.Bundle]:
        """Where they do not count, they are only looked for when there is nothing else, so that people learn why the
        signature that they made is none here."""
        if others and not self.bundles:
            return []
        try:
            return [one for digest in self.digests for one in bundles.bundles(self._source, digest)]
        except BootcdError:
            if self.bundles:
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
    signatures: Iterable[S], verify: Callable[[S], tuple[Claim, str]], identity: Identity, evidence: _Evidence,
) -> Iterator[Finding]:
    for signature in signatures:
        try:
            claim, signer = verify(signature)
            if claim.digest not in evidence.digests:
                raise SignatureError(f"it is for another image, {claim.digest}")
            if claim.name is None:
                if not evidence.bundles:
                    raise SignatureError("it is a bundle, which does not say what the image is called; [trust] bundles "
                                         "in bootcd.toml does not list this one")
            elif not identity.accepts(evidence.name, claim.name):
                raise SignatureError(f"it calls the image {shown(str(claim.name))}, which the policy does not accept "
                                     f"here ({identity.match.value})")
        except SignatureError as error:
            yield Finding(signature.origin, reason=str(error))
        else:
            yield Finding(signature.origin, signer=signer)
