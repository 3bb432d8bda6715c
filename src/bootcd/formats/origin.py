# SPDX-License-Identifier: Apache-2.0
"""The `.origin` file of a deployment, which bootc's composefs backend writes and reads.

    [origin]
    container-image-reference=ostree-unverified-image:registry:quay.io/os/image:stable
    [boot]
    boot_type=bls                   or uki
    digest=<hex SHA-256>            of kernel and initrd; older files lack it for UKIs
    [image]
    manifest_digest=sha256:…        older files lack it

INI without quoting. Before the reference stands how ostree would verify it, which says nothing here: bootc never keeps
that. Sections and keys of other names are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import FormatError

_IMAGE_PREFIXES = ("ostree-unverified-image:", "ostree-image-signed:")
_REGISTRY_PREFIXES = {"ostree-unverified-registry:": "registry:"}
_MAX_SIZE = 64 << 10


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a deployment is from. `image` is `TRANSPORT:NAME` in the words of containers-transports(5), or
    `registry:NAME`; what the file does not say is empty."""

    image: str
    boot_type: str
    boot_digest: str = ""
    manifest_digest: str = ""

    @classmethod
    def parse(cls, data: bytes, where: str) -> Origin:
        """Read a file, whose name for errors is `where`. Raises FormatError."""
        if len(data) > _MAX_SIZE:
            raise FormatError(f"{where}: larger than {_MAX_SIZE} bytes")
        values = _values(data.decode("utf-8", "surrogateescape"), where)
        reference = values.get(("origin", "container-image-reference"), "")
        image = next((reference.removeprefix(prefix) for prefix in _IMAGE_PREFIXES if reference.startswith(prefix)), "")
        for prefix, transport in _REGISTRY_PREFIXES.items():
            if reference.startswith(prefix):
                image = transport + reference.removeprefix(prefix)
        if not image:
            raise FormatError(f"{where}: no image reference that is known: {reference!r}")
        boot_type = values.get(("boot", "boot_type"), "")
        if boot_type not in ("bls", "uki"):
            raise FormatError(f"{where}: boot_type: expected bls or uki, found {boot_type!r}")
        return cls(image, boot_type, values.get(("boot", "digest"), ""), values.get(("image", "manifest_digest"), ""))

    def format(self) -> bytes:
        """The bytes of the file."""
        text = (
            f"[origin]\ncontainer-image-reference={_IMAGE_PREFIXES[0]}{self.image}\n\n"
            f"[boot]\nboot_type={self.boot_type}\ndigest={self.boot_digest}\n\n"
            f"[image]\nmanifest_digest={self.manifest_digest}\n"
        )
        return text.encode("utf-8", "surrogateescape")


def _values(text: str, where: str) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    section = ""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise FormatError(f"{where}: line {number} is neither a section nor a key")
        place = (section, key.strip())
        if place in found:
            raise FormatError(f"{where}: line {number} says '{key.strip()}' once more")
        found[place] = value.strip()
    return found
