# SPDX-License-Identifier: Apache-2.0
"""The gate before anything is pulled: what the policy does not let in is not stored, not even in part.

What gets past it is an `Admitted`, and only that can be pulled. It holds one manifest, by its digest; what becomes of
the tag, or of the signatures, afterwards changes nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..errors import PolicyRejected, SignatureMissing, SignatureRejected, Untrusted
from ..model import Platform
from ..registry.carried import Carried
from ..registry.judgement import Judgement, policy_file
from ..registry.sources import FetchedManifest, Source
from .machine import Machine

log = logging.getLogger(__name__)

_SHOWN = 3
"""Reasons that an error gives; `image verify` gives all."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What is known of an image before it is pulled. `kind` is `digest` where no policy was asked, `accepted` where the
    policy asks for no signature, `signed` where it does, and then `signed_by` says who signed. `policy` is the file
    and the scope in it that decided."""

    kind: str = "digest"
    policy: str = ""
    signed_by: tuple[str, ...] = ()

    @classmethod
    def of(cls, judgement: Judgement) -> Verification:
        """For a judgement that accepts."""
        if not judgement.file:
            return cls()
        kind = "signed" if judgement.signers else "accepted"
        return cls(kind, f"{judgement.file}: {judgement.scope}", judgement.signers)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A manifest that may be pulled."""

    fetched: FetchedManifest
    verification: Verification


def admit(machine: Machine, source: Source) -> Admitted:
    """The manifest of an image that may be taken.

    Raises PolicyRejected, SignatureMissing, SignatureRejected, and what reading the source and the policy raises.
    """
    fetched = source.manifest(Platform.current())
    judgement = judge(machine, source, fetched)
    if not judgement.accepted:
        raise refusal(f"{name_of(source)} ({fetched.digest})", judgement)
    admitted = Admitted(fetched, Verification.of(judgement))
    verified = admitted.verification
    log.debug("%s (%s) is let in as %s%s%s", source.reference, fetched.digest, verified.kind,
              f" by {verified.policy}" if verified.policy else ", without a policy",
              f"; signed by {', '.join(verified.signed_by)}" if verified.signed_by else "")
    return admitted


def judge(machine: Machine, source: Source, fetched: FetchedManifest) -> Judgement:
    """Hold an image against the policy of the configuration. Raises what reading the source and the policy raises."""
    config = machine.config
    if policy_file(config.trust_policy) is None:
        return Judgement("", "", ())
    from ..registry import trust

    loaded = trust.load(config.trust_policy, config.trust_registries_d, config.trust_bundles,
                        config.trust_timestamp_ca_file)
    return trust.judge(loaded, source, fetched)


def name_of(source: Source) -> str:
    """The image as errors name it, with the place that it was carried in."""
    return f"{source.reference} from {source.place}" if isinstance(source, Carried) else str(source.reference)


def refusal(what: str, judgement: Judgement) -> Untrusted:
    """What keeps `what` out, which a judgement does not accept."""
    where = f"{what}: refused by {judgement.file}, {judgement.scope}"
    failed = [outcome for outcome in judgement.outcomes if not outcome.holds]
    if any(outcome.requirement == "reject" for outcome in failed):
        return PolicyRejected(f"{where}: it rejects every image there")
    if not any(outcome.findings for outcome in failed):
        return SignatureMissing(f"{where}: a signature is needed ({failed[0].requirement}), and there is none")
    reasons = [f"{found.origin}: {found.reason}" for outcome in failed for found in outcome.findings]
    rest = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    return SignatureRejected(f"{where}: no signature counts: {'; '.join(reasons[:_SHOWN])}{rest}")
