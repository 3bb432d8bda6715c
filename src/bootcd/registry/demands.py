# SPDX-License-Identifier: Apache-2.0
"""What the requirements of a trust policy ask for, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..formats.trustpolicy import Accept, Identity, KeyFile, Match, Reject, Requirement, SignedBy


@dataclass(frozen=True, slots=True)
class Demand:
    """One requirement: `kind` as the policy calls it, and what it asks for."""

    kind: str
    text: str


def demand(requirement: Requirement) -> Demand:
    if isinstance(requirement, Accept):
        return Demand("insecureAcceptAnything", "any image is taken, and no signature is asked for")
    if isinstance(requirement, Reject):
        return Demand("reject", "no image is taken, whoever signed it")
    name = _name(requirement.identity)
    if isinstance(requirement, SignedBy):
        return Demand("signedBy", f"an OpenPGP signature by a key of {_files(requirement.keyrings)}, {name}")
    if requirement.fulcio is None:
        by = f"by {'the key' if len(requirement.keys) == 1 else 'one of the keys'} of {_files(requirement.keys)}"
    else:
        fulcio = requirement.fulcio
        by = (f"by {fulcio.email}, who logged in at {fulcio.issuer}, with a certificate by the authority of "
              f"{fulcio.authority}")
    log = f", in a log with the key of {_files(requirement.rekor_keys)}" if requirement.rekor_keys else ""
    return Demand("sigstoreSigned", f"a sigstore signature {by}{log}, {name}")


def _files(files: Sequence[KeyFile]) -> str:
    return " or ".join(dict.fromkeys(map(str, files)))


def _name(identity: Identity) -> str:
    match identity.match:
        case Match.EXACT_REFERENCE | Match.EXACT_REPOSITORY:
            return f"for {identity.name}"
        case Match.REPOSITORY:
            return "for any image of the same repository"
        case Match.EXACT:
            return "for this very name"
        case Match.REMAP:
            return f"for the name with {identity.signed_prefix} in place of {identity.prefix}"
        case Match.REPO_DIGEST_OR_EXACT:
            return "for this name, or for its repository when a digest is asked for"
