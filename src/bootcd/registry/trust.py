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
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TrustPolicyError
from ..formats.imagename import ImageName
from ..formats.trustpolicy import MAX_POLICY, Accept, Decision, Reject, SignedBy, SigstoreSigned, TrustPolicy, parse
from ..model import ImageReference
from .demands import Demand, demand
from .judgement import Judgement, Outcome, policy_file
from .registries_d import Section, SignatureStores, load_stores
from .sources import FetchedManifest, Source

if TYPE_CHECKING:
    from .evidence import Evidence

STORES = Path("/etc/containers/registries.d")


@dataclass(frozen=True, slots=True)
class Trust:
    """The policy in a file, and where signatures may be. Without a policy, `policy` is None and `file` empty. `bundles`
    are the scopes in which a signature counts that does not say what the image is called; `times` is the file with
    those whose time stamps count, empty for nobody's."""

    file: str = ""
    policy: TrustPolicy | None = None
    stores: SignatureStores = field(default_factory=SignatureStores)
    bundles: tuple[str, ...] = ()
    times: str = ""


def load(policy: str = "", stores: str = "", bundles: tuple[str, ...] = (), times: str = "") -> Trust:
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
    return Trust(str(found), parse(data, str(found)), load_stores(directory), bundles, times)


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is known of an image's case before anything is asked: what decides, and where signatures are looked for.
    `reference` is as policies have it. Images of this machine have no `section`: their signatures are beside them.
    `bundles` says whether bundles of sigstore count, `times` whose time stamps do."""

    reference: ImageReference
    decision: Decision
    section: Section | None
    bundles: bool
    times: str = ""

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
        if self.times and any(isinstance(one, SigstoreSigned) and one.fulcio for one in self.decision.requirements):
            yield f"time stamps count whose authority is in {self.times}"
        if SignedBy in kinds and section is None:
            yield "OpenPGP signatures are looked for nowhere but in the image's own place"
        elif SignedBy in kinds and section is not None:
            yield f"OpenPGP signatures are looked for in {section.store} ({section.origin or 'the usual store'})"

    def demands(self) -> Iterator[Demand]:
        """The requirements in words. Raises TrustPolicyError at one that names a key that cannot be used."""
        for requirement in self.decision.requirements:
            if isinstance(requirement, SigstoreSigned | SignedBy):
                from . import evidence

                evidence.check(requirement, self.times)
            yield demand(requirement)


def about(trust: Trust, policy: TrustPolicy, reference: ImageReference) -> Prospect:
    """What decides about an image."""
    reference = _resolved(reference)
    name = ImageName.of(reference) if reference.transport == "docker" else None
    bundles = name is not None and any(scope in trust.bundles for scope in name.scopes())
    return Prospect(reference, policy.about(reference), trust.stores.about(name) if name is not None else None, bundles,
                    trust.times)


def judge(trust: Trust, source: Source, fetched: FetchedManifest) -> Judgement:
    """Hold an image against the policy. Nothing is read but what is asked for: manifest, signatures, keys.

    Raises TrustPolicyError when the policy names what cannot be used, OciError and SignatureError when there are too
    many signatures to look at, and what reading a source raises.
    """
    if trust.policy is None:
        return Judgement("", "", ())
    prospect = about(trust, trust.policy, source.reference)
    return Judgement(trust.file, prospect.scope, tuple(_outcomes(prospect, source, fetched)))


def _resolved(reference: ImageReference) -> ImageReference:
    """Policies name files by paths without links, and images in containers-storage with their store."""
    if reference.transport == "containers-storage":
        from . import storage

        return storage.resolved(reference)
    return replace(reference, name=os.path.realpath(reference.name)) if reference.path else reference


def _outcomes(prospect: Prospect, source: Source, fetched: FetchedManifest) -> Iterator[Outcome]:
    evidence: Evidence | None = None
    for requirement in prospect.decision.requirements:
        if isinstance(requirement, Accept):
            yield Outcome("insecureAcceptAnything", True)
        elif isinstance(requirement, Reject):
            yield Outcome("reject", False)
        else:
            if evidence is None:
                from .evidence import Evidence

                evidence = Evidence(source, fetched, prospect.reference, prospect.section, prospect.bundles,
                                    prospect.times)
            yield evidence.outcome(requirement)
