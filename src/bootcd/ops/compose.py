# SPDX-License-Identifier: Apache-2.0
"""From a pulled image to a deployment that could be staged: its EROFS images, kernel and record."""

from __future__ import annotations

import getpass
import mmap
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from ..boot import kargs, kernels
from ..boot.discover import BootResources, Uki, find_boot_resources, initrd_of_bootc, os_release
from ..boot.enrol import copy_keys
from ..boot.loader import install_systemd_boot
from ..deploy.plan import INLINE, Kernel
from ..deploy.records import OwnKargs, Record, clipped
from ..errors import DumpError, SealMismatch, UsageError
from ..formats.dump import parse_dump
from ..formats.erofs.layout import Version
from ..formats.pe import Pe
from ..formats.transform import transform_for_boot
from ..formats.tree import RegularFile
from ..formats.treediff import differences
from ..model import ImageReference
from .admit import Admitted
from .last import now
from .pull import Offer
from .session import Session
from .stated import check_images

FORMATS = {1: (Version.V1, Version.V0), 2: (Version.V2, Version.V1, Version.V0)}
"""What an argument of a version may stand for. `composefs=` is for V2, but cfsctl has written it for others, too."""
_MAX_DUMP = 256 << 20
"""Bytes of a dump that is looked at; one of a complete system has about 30 MB."""
_MAX_SHOWN = 5
"""Differences that a message names."""


@dataclass(frozen=True, slots=True)
class Composed:
    """A deployment to be: the record (without a generation) and what it boots from."""

    record: Record
    kernel: Kernel


@dataclass(frozen=True, slots=True)
class Boot:
    """What to copy to the ESP, its boot digest; of a UKI the arguments in it, and the one that names the image."""

    kernel: Kernel
    digest: str
    sealed_kargs: str = ""
    karg: str = ""


def compose(
    session: Session, reference: ImageReference, offer: Offer, *, own: OwnKargs, disk_kargs: tuple[str, ...] = (),
    first: bool = False,
) -> Composed:
    """Make the images of a pulled manifest, and find out all that its record says.

    With the `first` one come the boot loader, where the ESP has none, and keys for Secure Boot. `own` are the kernel
    arguments of the machine, `disk_kargs` those that nobody asked for: an image whose arguments are sealed does
    without. Raises NotBootable, SealMismatch, StatedDigestMismatch, LayerConflict, and UsageError for kernel arguments
    that the first image cannot take.
    """
    session.progress.begin("Composing the image")
    images = session.images
    manifest = offer.fetched.manifest
    tree = images.tree(manifest.config.digest)
    resources = find_boot_resources(tree)
    release = os_release(tree, images.read_file)
    image_kargs = kargs.image_kargs(tree, images.read_file, platform.machine())
    if first:
        session.boot.each_loader(lambda esp: install_systemd_boot(esp, tree, images.read_file))
        session.boot.each_loader(lambda esp: copy_keys(esp, tree, images.read_file))
    sealed = _sealed_digest(session, resources.uki) if resources.uki is not None else None
    ids = images.commit_images(offer.fetched.digest, boot=True, tree=tree)
    assert ids.boot_image is not None
    repository = session.repository
    check_images(str(reference), offer.stated, images, repository, offer.fetched.digest, ids)
    image, karg = ids.boot_image, kargs.karg_for(ids.boot_image, repository.version, repository.algorithm,
                                                 repository.secure)
    if resources.uki is not None and sealed is not None:
        image, karg = sealed.digest, str(sealed)
        if image != ids.boot_image and not images.commit_boot_image(
                offer.fetched.digest, FORMATS[sealed.version], expected=image):
            raise _mismatch(session, resources.uki, sealed, ids.boot_image, manifest.config.digest)
    elif initrd_of_bootc(tree):
        # Its program knows digests of either format by the older argument, which stands for the older format.
        made = images.commit_boot_image(offer.fetched.digest, [Version.V2])
        assert made is not None
        image, karg = made, kargs.karg_for(made, Version.V2, repository.algorithm, repository.secure)
    deployment_id = image.hex()
    boot = boot_of_tree(session, resources, deployment_id)
    if resources.uki is not None and own.all:
        _sealed_arguments(session, own, first)
    record = Record(
        id=deployment_id,
        image=str(reference),
        manifest_digest=offer.fetched.digest,
        config_digest=manifest.config.digest,
        boot_type="uki" if resources.uki is not None else "bls",
        boot_digest=boot.digest,
        composefs_karg=karg,
        version=clipped(offer.version or release.version or ""),
        title=clipped(release.title),
        created=clipped(offer.created),
        staged=now(),
        requested_by=user(),
        kernel_version=clipped(resources.kver or ""),
        sealed_kargs=boot.sealed_kargs,
        image_kargs=tuple(image_kargs),
        own=replace(own, machine=(*disk_kargs, *own.machine)),
    )
    if not record.sealed_kargs:
        kargs.check_length(record.options)
    return Composed(verified(record, offer.admitted), boot.kernel)


def verified(record: Record, admitted: Admitted) -> Record:
    """The record with what was verified about its image."""
    found = admitted.verification
    return replace(record, verification=found.kind, policy=clipped(found.policy),
                   signed_by=tuple(clipped(signer) for signer in found.signed_by))


def kernel_of_image(session: Session, record: Record) -> Kernel:
    """What an existing deployment boots from, found in its image again. Raises what reading a damaged image raises."""
    resources = find_boot_resources(session.images.tree(record.config_digest))
    return boot_of_tree(session, resources, record.id).kernel


def _sealed_digest(session: Session, uki: Uki) -> kargs.ComposefsKarg | None:
    """What the initrd of a UKI goes by; of several digests that is one."""
    return kernels.uki_digest(Pe.parse(_mapped(session, uki.file), uki.name), session.repository.algorithm)


def _mismatch(session: Session, uki: Uki, sealed: kargs.ComposefsKarg, own: bytes, config: str) -> SealMismatch:
    """Why a UKI is not taken: its digest is none that the image has in any format. Where the image has the dump of the
    tree that the UKI was made for, with the first paths at which the two differ."""
    message = f"UKI {uki.name} names {sealed.digest.hex()[:12]}, but the image has the digest {own.hex()[:12]}"
    if uki.dump is None or uki.dump.size > _MAX_DUMP:
        return SealMismatch(message)
    where = f"/boot/{uki.name.removesuffix('.efi')}.dump"
    try:
        expected = parse_dump(session.images.read_file(uki.dump).splitlines(keepends=True))
    except DumpError as error:
        return SealMismatch(f"{message} ({where} cannot be read: {error})")
    tree = session.images.tree(config)
    transform_for_boot(tree, session.images.read_file)
    found = list(islice(differences(expected, tree), _MAX_SHOWN + 1))
    if not found:
        return SealMismatch(f"{message} (the tree is that of {where})")
    more = "; and more" if len(found) > _MAX_SHOWN else ""
    return SealMismatch(f"{message}; compared with {where}: {'; '.join(map(str, found[:_MAX_SHOWN]))}{more}")


def boot_of_tree(session: Session, resources: BootResources, deployment_id: str) -> Boot:
    """What a deployment boots from, of what was found in the tree of its image. Raises SealMismatch, and what reading a
    damaged image raises."""
    if resources.uki is not None:
        return _uki(session, resources.uki, deployment_id)
    return _pair(session, resources)


def _pair(session: Session, resources: BootResources) -> Boot:
    vmlinuz, initrd = resources.vmlinuz, resources.initrd
    assert vmlinuz is not None
    assert initrd is not None
    digest = kernels.boot_digest(_chunks(session, vmlinuz), _chunks(session, initrd))
    size = session.boot.needed([vmlinuz.size, initrd.size])
    return Boot(Kernel(digest, size, {"vmlinuz": _source(vmlinuz), "initrd": _source(initrd)}), digest)


def _uki(session: Session, uki: Uki, deployment_id: str) -> Boot:
    pe = Pe.parse(_mapped(session, uki.file), uki.name)
    # Of several digests the initrd goes by one, and that must be ours.
    named = kernels.uki_digest(pe, session.repository.algorithm)
    if named is None or named.digest.hex() != deployment_id:
        said = named.digest.hex()[:12] if named is not None else "no digest at all"
        raise SealMismatch(f"UKI {uki.name} names {said}, but the image has the digest {deployment_id[:12]}")
    if named.insecure and session.repository.secure:
        session.progress.note(f"UKI {uki.name} does not demand fs-verity ('?'), though this repository has it.")
    contents = {"uki": _source(uki.file), **{name: _source(addon) for name, addon in uki.addons.items()}}
    size = session.boot.needed([length for length, _ in contents.values()])
    addons = [Pe.parse(_mapped(session, addon), name) for name, addon in uki.addons.items()]
    sealed = [kargs.join_cmdline(one.text(".cmdline")) for one in (pe, *addons) if ".cmdline" in one.sections]
    return Boot(Kernel(f"{deployment_id}.efi", size, contents), kernels.uki_boot_digest(pe), " ".join(sealed),
                str(named))


def _mapped(session: Session, file: RegularFile) -> memoryview:
    """The content of a file, which may be hundreds of megabytes, without reading all of it. It is unmapped when nobody
    holds the view any more."""
    if file.digest is None:
        return memoryview(file.inline or b"")
    for _ in session.repository.objects.chunks(file.digest):
        pass  # damage is an error here; in the mapping below it would be a signal that ends the process
    descriptor = session.repository.objects.open(file.digest)
    try:
        return memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
    finally:
        os.close(descriptor)


def _chunks(session: Session, file: RegularFile) -> Iterator[bytes]:
    """The content of a file without holding all of it."""
    if file.digest is None:
        yield file.inline or b""
        return
    yield from session.repository.objects.chunks(file.digest)


def _source(file: RegularFile) -> tuple[int, str]:
    if file.digest is not None:
        return file.size, file.digest.hex()
    return file.size, INLINE + (file.inline or b"").hex()


def _sealed_arguments(session: Session, own: OwnKargs, first: bool) -> None:
    what = "the image boots from a UKI, whose kernel arguments are sealed"
    if first:
        raise UsageError(what, advice="Leave --karg out, or put the arguments into the image as an addon.")
    # They stay in the record, for an image with a kernel of its own may follow.
    session.progress.note(f"{what[0].upper()}{what[1:]}: {' '.join(own.all)} has no effect.")


def user() -> str:
    """Who asks."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
