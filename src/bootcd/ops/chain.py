# SPDX-License-Identifier: Apache-2.0
"""The chain of trust of the deployment that runs, or would boot: which of its links hold (docs/boot-chain.md).

Only what was looked at is told: the signature of a UKI is checked against the bytes on the boot partition, and its
signer is looked for among the keys of the firmware. What cannot be read, as by a user who may not, is told as unknown.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from ..boot import entries, kernels
from ..boot.booted import by_soft_reboot, read_cmdline
from ..boot.esp import Esp
from ..boot.kargs import ComposefsKarg, choose_karg
from ..boot.loader import key_variables, read_variables
from ..deploy.facts import Facts
from ..deploy.records import Record
from ..errors import BootcdError, NotFound, PeError
from ..formats.fsverity import Algorithm
from ..formats.pe import HEAD, Layout, as_text, signatures
from ..store.repository import Repository
from .results import ChainInfo, SignatureInfo

if TYPE_CHECKING:  # a deployment without a UKI does without cryptography
    from ..formats.authenticode import Signature

_STEP = 1 << 20
_MAX_CMDLINE = 64 * 1024
_MAX_TABLE = 1 << 20
"""Bytes of the certificates of one file; one signature has some two thousand."""


def chain(repository: Repository, facts: Facts, esp: Esp | None, listing: entries.Listing) -> ChainInfo | None:
    """None when there is no deployment."""
    current = facts.current
    if current is None:
        return None
    running = facts.booted == current.id
    signature, karg = None, None
    if current.boot_type == "uki":
        signature, karg = _uki(esp, current, running)
    else:
        karg = _of_entry(listing, current)
    named = None if karg is None else karg.digest.hex() == current.id
    required = None if karg is None else not karg.insecure
    return ChainInfo(
        secure_boot=read_variables().secure_boot if facts.booted is not None else None,
        sealed=_sealed(signature, named, required),
        repository_verity=repository.secure,
        image_verity=repository.secure and _is_measured(repository, current),
        signature=signature,
        digest=named,
        verity_required=required,
        soft_reboot=running and by_soft_reboot(current.id, read_cmdline()),
    )


def _sealed(signature: SignatureInfo | None, named: bool | None, required: bool | None) -> bool | None:
    """Whether a good signature covers a command line that names the deployment and demands fs-verity."""
    if signature is None or signature.state in ("absent", "broken") or named is False or required is False:
        return False
    return True if signature.state == "valid" and named and required else None


def _is_measured(repository: Repository, record: Record) -> bool:
    """Whether the kernel guards the image of a deployment: it tells the digest that it enforces."""
    try:
        os.close(repository.images.open(bytes.fromhex(record.id)))
    except BootcdError:
        return False
    return True


def _of_entry(listing: entries.Listing, record: Record) -> ComposefsKarg | None:
    """What the newest boot entry of a deployment names."""
    for entry in listing.ours:
        if record.id.startswith(entry.id_prefix):
            try:
                return choose_karg(entry.content.get("options") or "", _algorithm(record))
            except BootcdError:
                return None
    return None


def _algorithm(record: Record) -> Algorithm:
    return Algorithm.of_digest(bytes.fromhex(record.id))


def _uki(esp: Esp | None, record: Record, running: bool) -> tuple[SignatureInfo, ComposefsKarg | None]:
    """Who signed the UKI of a deployment, and what its command line names."""
    karg = None
    try:
        if esp is None:
            raise NotFound("the boot partition was not found")
        with esp.opened(kernels.uki_path(record.id)) as file:
            size = os.fstat(file).st_size
            layout = Layout.parse(os.pread(file, HEAD, 0), size, f"{record.short_id}.efi")
            section = layout.section(".cmdline")
            text = as_text(os.pread(file, min(section.size, _MAX_CMDLINE), section.offset), ".cmdline")
            karg = choose_karg(text, _algorithm(record))
            return signature_of(file, layout, running=running), karg
    except BootcdError as error:
        return SignatureInfo("unknown", problem=str(error)), karg


def signature_in(file: int, size: int, name: str) -> SignatureInfo:
    """The signature of an open EFI program of `size` bytes, whose `name` begins the messages. Raises PeError."""
    return signature_of(file, Layout.parse(os.pread(file, HEAD, 0), size, name))


def signature_of(file: int, layout: Layout, *, running: bool = False) -> SignatureInfo:
    """The signature of an open EFI program against its bytes; of a `running` one also what the firmware thinks of it.
    Raises PeError."""
    offset, size = layout.certificates
    if not size:
        return SignatureInfo("absent")
    from ..formats.authenticode import Signature

    problem, valid = "", []
    for pkcs7 in signatures(os.pread(file, min(size, _MAX_TABLE), offset), layout.name):
        try:
            found = Signature.parse(pkcs7)
        except PeError as error:
            problem = str(error)
            continue
        if _digest(file, layout, found.algorithm) == found.digest:
            trusted = _trusted(file, layout, found) if running else None
            valid.append(SignatureInfo("valid", found.subject, trusted))
        else:
            problem = "the file was changed after it was signed"
    if valid:
        return next((one for one in valid if one.trusted), valid[0])
    return SignatureInfo("broken", problem=problem) if problem else SignatureInfo("absent")


def _trusted(file: int, layout: Layout, found: Signature) -> bool | None:
    """Whether the keys of the firmware, or those that shim brings, let it start. None when they cannot be read."""
    from ..formats.authenticode import KeyList

    variables = key_variables()
    if variables is None:
        return None
    digest = found.digest if found.algorithm == "sha256" else _digest(file, layout, "sha256")
    try:
        trusted, revoked = (KeyList.parse(data) for data in variables)
    except PeError:
        return None
    return trusted.covers(found, digest) and not revoked.covers(found, digest)


def _digest(file: int, layout: Layout, algorithm: str) -> bytes:
    """The Authenticode digest of what is in the file now."""
    digest = hashlib.new(algorithm)
    for offset, length in layout.signed_ranges():
        for at in range(offset, offset + length, _STEP):
            digest.update(os.pread(file, min(_STEP, offset + length - at), at))
    return digest.digest()
