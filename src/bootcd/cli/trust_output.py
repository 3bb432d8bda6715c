# SPDX-License-Identifier: Apache-2.0
"""Signatures and the policy about them, as text for people."""

from __future__ import annotations

from ..ops.results import DeploymentInfo, TrustReport
from .table import table
from .text import printable


def verification(info: DeploymentInfo) -> list[tuple[str, str]]:
    """The lines of a deployment about what was verified of its image."""
    if info.verification == "signed":
        return [("  signed by", signer) for signer in info.signed_by]
    if info.verification == "accepted":
        return [("  signature", f"not asked for: {info.policy}")]
    return [("  signature", "not asked for: there was no policy")]


def report(value: TrustReport) -> None:
    """What the policy says of an image, and what each signature is worth."""
    rows = [("image", value.image), ("digest", value.manifest_digest)]
    if value.reference_digest != value.manifest_digest:
        rows.append(("index", value.reference_digest))
    rows += [("policy", value.policy or "none"), ("scope", value.scope or "-")]
    table(rows)
    for requirement in value.requirements:
        print(printable(f"{'holds' if requirement.holds else 'fails'}: {requirement.requirement}"))
        if requirement.requirement in ("signedBy", "sigstoreSigned") and not requirement.signatures:
            print("  no signature found")
        for found in requirement.signatures:
            print(printable(f"  {found.origin}: " + (f"does not count: {found.reason}" if found.reason
                                                     else f"by {found.signer}")))
    if not value.accepted:
        print("The image is refused.")
    elif value.policy:
        print("The image may be taken.")
    else:
        print("The image may be taken: without a policy, no signature is asked for.")
