# SPDX-License-Identifier: Apache-2.0
"""What a signature signs: a small JSON document that says which manifest it is about and what the image is called.

    {"critical": {"type": TYPE, "image": {"docker-manifest-digest": DIGEST}, "identity": {"docker-reference": NAME}},
     "optional": {…}}

Nothing unknown may be in `critical`, so that older readers refuse what they do not understand. To be parsed only after
the signature over it was verified.

Source: containers-signature(5), cosign's SIGNATURE_SPEC.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SignatureError
from .documents import parse_object, shown
from .imagename import ImageName

MAX_PAYLOAD = 64 << 10
"""Bytes of a payload. Real ones have 250."""

ATOMIC = "atomic container signature"
"""What OpenPGP signs."""
COSIGN = "cosign container image signature"
"""What sigstore signs."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the signer says: this manifest is the image of this name. Without a name, that it is a good one."""

    digest: str
    name: ImageName | None


def parse_claim(data: bytes, kind: str) -> Claim:
    """Read a payload of type `kind`. Raises SignatureError."""
    top = parse_object(data, "payload", MAX_PAYLOAD, SignatureError)
    top.only("critical", "optional")
    top.optional_object("optional")
    critical = top.object("critical")
    critical.only("type", "image", "identity")
    if critical.string("type") != kind:
        raise critical.error("type", f"{shown(critical.string('type'))} is not {shown(kind)}")
    image, identity = critical.object("image"), critical.object("identity")
    image.only("docker-manifest-digest")
    identity.only("docker-reference")
    return Claim(image.digest("docker-manifest-digest"), ImageName.parse(identity.string("docker-reference")))
