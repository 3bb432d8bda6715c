# SPDX-License-Identifier: Apache-2.0
"""Values that more than one layer speaks about: image references, platforms, progress."""

from __future__ import annotations

import os
import platform as _platform
import re
from dataclasses import dataclass, replace
from typing import Protocol

from .errors import UsageError

TRANSPORTS = ("docker", "oci", "oci-archive", "docker-archive", "dir", "containers-storage", "tar")
"""Transports in the spelling of containers-transports(5); `docker` is a registry, and `tar`, which is our own, a root
file system."""

_ELSEWHERE = {
    "docker-daemon": "Save the image, 'docker save -o FILE NAME', and take docker-archive:FILE.",
    "tarball": "Take tar:FILE.",
    "ostree": "ostree is not used here; take the container image that the commit is in.",
    "ostree-image-signed": "Leave it out: policy.json says what has to be signed, see bootcd-policy(7).",
    "ostree-unverified-registry": "Take docker://HOST/PATH; policy.json says what has to be signed, see "
                                  "bootcd-policy(7).",
    "ostree-unverified-image": "Leave it out: policy.json says what has to be signed, see bootcd-policy(7).",
    "ostree-remote-image": "Leave it out: policy.json says what has to be signed, see bootcd-policy(7).",
    "ostree-remote-registry": "Take docker://HOST/PATH; policy.json says what has to be signed, see bootcd-policy(7).",
    "atomic": "Take docker://HOST/PATH, where that registry is.",
    "sif": "Copy the image, 'skopeo copy sif:FILE oci:DIR', and take oci:DIR.",
    "docker-tar": "Take docker-archive:FILE.",
    "file": "Say what it is: oci:DIR, oci-archive:FILE, docker-archive:FILE, dir:DIR or tar:FILE.",
}
"""What else people know, and what to do instead."""

FILESYSTEMS = ("ext4", "btrfs")
"""What the root partition of a new disk can have."""
ENCRYPTIONS = ("none", "recovery-key", "tpm2")
"""How a new disk can be encrypted."""
SOFT_REBOOTS = ("no", "auto", "required")
"""Whether a reboot may keep the kernel: never, where that comes to the same, or in any case or not at all."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)(?:iB)?", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_STORED = re.compile(rf"(?P<spec>\[[^\]]+\])?(?P<name>@[0-9a-f]{{64}}|(?:{_HOST.pattern}/)?{_PATH.pattern})"
                     rf"(?::(?P<tag>{_TAG.pattern}))?")


def parse_size(text: str) -> int:
    """Bytes; K, M, G and T stand for powers of 1024, as sfdisk and systemd have it. Raises UsageError."""
    found = _SIZE.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise UsageError(f"'{text}' is no size; write for example 512M or 20G")
    return int(found[1]) << 10 * " KMGT".index(found[2] or " ")


def size_text(count: float) -> str:
    """Bytes as people read them, in powers of 1000 as disks and networks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def is_digest(text: str) -> bool:
    """Whether `text` is an OCI digest of an algorithm that we check."""
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ImageReference:
    """Where an image comes from.

    `transport` is one of `TRANSPORTS`. For `docker`, `name` is host and repository path; for `containers-storage` it is
    the name there, behind `[DRIVER@ROOT+RUN]` if that was given; for all others it is a file system path. `tag` and
    `digest` select the image; both may be absent for the file transports, which then must hold exactly one image. The
    tag of a `docker-archive` is a whole name, or `@N` for the image at place N.
    """

    transport: str
    name: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Read `[docker://]HOST/PATH[:TAG][@DIGEST]`, or `TRANSPORT:PLACE` with one of the others; bootcctl(8) has all
        forms.

        `registry:` is accepted as another name of `docker://`, as bootc writes it. Raises UsageError.
        """
        transport, colon, rest = text.partition(":")
        if colon and transport in TRANSPORTS[1:]:
            return cls._parse_local(transport, rest, text)
        if colon and transport in _ELSEWHERE and not rest.split("/")[0].isdigit():
            raise UsageError(f"image reference '{text}': images are not taken from {transport}:",
                             advice=_ELSEWHERE[transport])
        for prefix in ("docker://", "registry:"):
            if text.startswith(prefix):
                return cls._parse_registry(text[len(prefix) :], text)
        if ":" in text.split("/")[0] and "/" not in text and not text.split(":")[1].isdigit():
            raise UsageError(f"image reference '{text}' names no registry",
                             advice="Write the registry out, for example quay.io/NAME/IMAGE:TAG.")
        return cls._parse_registry(text, text)

    @classmethod
    def _parse_local(cls, transport: str, rest: str, whole: str) -> ImageReference:
        digest = None
        if "@" in rest and is_digest(rest.rpartition("@")[2]):
            rest, _, digest = rest.rpartition("@")
        if transport == "containers-storage":
            return cls._parse_storage(rest, digest, whole)
        name, tag = rest, ""
        if transport == "docker-archive":
            name, _, tag = rest.partition(":")
        elif transport in ("oci", "oci-archive") and "/" not in rest.rpartition(":")[2] and ":" in rest:
            name, _, tag = rest.rpartition(":")
        if not name:
            raise UsageError(f"image reference '{whole}' names no path")
        return cls(transport, name, tag or None, digest)

    @classmethod
    def _parse_storage(cls, rest: str, digest: str | None, whole: str) -> ImageReference:
        found = _STORED.fullmatch(rest)
        if found is None:
            raise UsageError(f"image reference '{whole}' is malformed",
                             advice="Write containers-storage:[[DRIVER@ROOT]]NAME[:TAG], as 'podman images' shows it.")
        by_id = "@" in found["name"]
        return cls("containers-storage", (found["spec"] or "") + found["name"],
                   found["tag"] or (None if digest or by_id else "latest"), digest)

    @classmethod
    def _parse_registry(cls, rest: str, whole: str) -> ImageReference:
        name, at, digest = rest.partition("@")
        if at and not is_digest(digest):
            raise UsageError(f"image reference '{whole}' has a malformed digest")
        tag = ""
        if ":" in name.rpartition("/")[2]:
            name, _, tag = name.rpartition(":")
            if not _TAG.fullmatch(tag):
                raise UsageError(f"image reference '{whole}' has a malformed tag")
        host, slash, path = name.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            raise UsageError(f"image reference '{whole}' names no registry",
                             advice="Write the registry out, for example quay.io/NAME/IMAGE:TAG.")
        if not _HOST.fullmatch(host) or not _PATH.fullmatch(path):
            raise UsageError(f"image reference '{whole}' is malformed")
        return cls("docker", name, tag or (None if at else "latest"), digest or None)

    def absolute(self) -> ImageReference:
        """The same image, named so that it means the same in another directory."""
        return replace(self, name=os.path.abspath(self.name)) if self.path else self

    @property
    def path(self) -> str:
        """The file or directory that holds the image; empty for registries and containers-storage."""
        return "" if self.transport in ("docker", "containers-storage") else self.name

    @property
    def host(self) -> str:
        """The registry's host[:port]; empty for other transports."""
        return self.name.partition("/")[0] if self.transport == "docker" else ""

    @property
    def repository(self) -> str:
        """The repository path at the registry; empty for other transports."""
        return self.name.partition("/")[2] if self.transport == "docker" else ""

    def __str__(self) -> str:
        text = self.name if self.transport == "docker" else f"{self.transport}:{self.name}"
        if self.tag:
            text += f":{self.tag}"
        return f"{text}@{self.digest}" if self.digest else text


_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm", "riscv64": "riscv64",
                  "ppc64le": "ppc64le", "s390x": "s390x", "loongarch64": "loong64"}


@dataclass(frozen=True, slots=True)
class Platform:
    """Which of an index's manifests fits, in Go's words (OCI image index, `platform`)."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def current(cls) -> Platform:
        """This machine's platform."""
        machine = _platform.machine()
        variant = {"aarch64": "v8", "armv7l": "v7"}.get(machine, "")
        return cls("linux", _ARCHITECTURES.get(machine, machine), variant)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Progress(Protocol):
    """Who wants to know how far an operation is. Calls may come from any thread and must be cheap."""

    def begin(self, stage: str, total: int = 0) -> None:
        """A stage starts; `total` is in bytes, 0 when nothing is counted."""

    def advance(self, count: int) -> None:
        """`count` more bytes of the current stage are done; fewer than none when some have to come again."""

    def note(self, message: str) -> None:
        """Something that a reader of a log would like to know."""


class SilentProgress:
    """A `Progress` that nobody reads."""

    def begin(self, stage: str, total: int = 0) -> None:
        pass

    def advance(self, count: int) -> None:
        pass

    def note(self, message: str) -> None:
        pass
