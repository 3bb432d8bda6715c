# SPDX-License-Identifier: Apache-2.0
"""Install to a disk: everything that can be refused is refused first, then the disk is erased.

What is mounted, attached and opened on the way belongs to this process and goes with it, however it ends: mounts to its
own namespace, loop devices and encrypted volumes to their last user. An installation that was cut off begins anew. It
boots only once it was complete: the boot entry is the last thing that is written, but for the TPM2, which can be asked
to open the root file system only when it is known what boots; nobody was told yet what else opens it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..boot import kernels, loader
from ..boot.esp import CONFIG
from ..boot.kargs import check_machine_kargs
from ..deploy import rootkeys
from ..deploy.disk import DiskOptions, Layout, default_esp, lay_out
from ..errors import (
    BootcdError,
    DeviceInUse,
    DeviceNotEmpty,
    DeviceNotFound,
    EspFull,
    Interrupted,
    PermissionDenied,
    RootFull,
    UsageError,
)
from ..layout import Sysroot
from ..linux import block, files, format, luks, mount, process
from ..model import ImageReference
from . import last, update
from .admit import admit, name_of
from .machine import Machine
from .pull import fetch_config, source_of
from .results import ChangeResult, DiskResult, PartitionInfo

_LOADER_CONFIG = b"timeout 3\n"
_SECURE_BOOT_PCR = "7"


def install_to_disk(
    machine: Machine, path: str, image: str, options: DiskOptions, by: str, take_from: str = "",
) -> DiskResult:
    """Erase a disk, or make a file, and install there; of `machine` only the settings count. `take_from` is as for
    `update.install`.

    Raises DeviceNotFound, DeviceInUse, DeviceNotEmpty, DiskTooSmall, ReadOnly, UsageError, Unsupported and what the
    source raises before anything is written; later EspFull, RootFull and what `update.install` raises.
    """
    reference = ImageReference.parse(image)
    check_machine_kargs(options.kargs)
    keys = rootkeys.read_keys(options.root_ssh_keys) if options.root_ssh_keys else b""
    with _disk(path, options) as disk:
        _check_encryption(disk, options)
        is_there = os.path.exists(path)
        busy = block.users(disk) if is_there else ()
        if busy:
            raise DeviceInUse(f"{path} is in use: {', '.join(busy)}")
        with source_of(reference, machine.config, take_from) as source:
            admitted = admit(machine, source)
            admitted.fetched.require_whole(name_of(source))
            _, config = fetch_config(source, admitted)
            size = sum(descriptor.size for descriptor, _ in admitted.fetched.manifest.check_image(config))
        layout = lay_out(
            path, disk.size, disk.sector, platform.machine(), root_size=options.root_size, image_size=size,
            esp_size=options.esp_size or default_esp(size, machine.config.keep_previous, disk.sector))
        erased = block.contents(disk) if is_there else ()
        plan = DiskResult(path, disk.size, options.dry_run, erased, _partitions(layout, options))
        if options.dry_run:
            return plan
        if erased and not options.wipe:
            raise DeviceNotEmpty(f"{path} is not empty: {', '.join(erased)}")
        format.require(options.filesystem, encrypted=options.encrypt != "none")
        if not process.private_mounts():
            raise PermissionDenied("only root can mount file systems")
        return _install(replace(machine, esp_path=None), disk, (image, take_from), layout, options, keys, by, plan)


@contextlib.contextmanager
def _disk(path: str, options: DiskOptions) -> Iterator[block.Disk]:
    """The disk as it is, or a new file, which is removed when the installation fails."""
    if options.image_size is None:
        yield block.open_disk(path)
        return
    if os.path.lexists(path):
        raise UsageError(f"{path} exists: its size is what it is", advice="Leave --image-size out.")
    if options.dry_run:
        yield block.Disk(path, options.image_size, block.FILE_SECTOR, None)
        return
    with files.translate(f"cannot create {path}"):
        try:
            # Its contents have owners of their own, and so should the whole have.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileNotFoundError as error:
            raise DeviceNotFound(f"there is no directory {os.path.dirname(path)}", advice="") from error
    try:
        with files.translate(f"cannot create {path}"):
            try:
                os.ftruncate(descriptor, options.image_size)
            finally:
                os.close(descriptor)
        yield block.open_disk(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        if isinstance(error, (KeyboardInterrupt, Interrupted)):
            raise Interrupted(f"interrupted; {path} is removed") from error
        raise


def _check_encryption(disk: block.Disk, options: DiskOptions) -> None:
    if options.encrypt != "tpm2":
        return
    if disk.is_file:
        raise UsageError("a file is for another machine, and the TPM2 is that of this one",
                         advice="Use --encrypt recovery-key, and systemd-cryptenroll on the machine itself.")
    luks.check_tpm2()


def _partitions(layout: Layout, options: DiskOptions) -> tuple[PartitionInfo, ...]:
    root = options.filesystem if options.encrypt == "none" else f"{options.filesystem} in LUKS2"
    return tuple(PartitionInfo(one.name, one.type, one.start, one.size, content)
                 for one, content in ((layout.esp, "FAT32"), (layout.root, root)))


def _install(
    machine: Machine, disk: block.Disk, image: tuple[str, str], layout: Layout, options: DiskOptions, keys: bytes,
    by: str, plan: DiskResult,
) -> DiskResult:
    """`image` is the reference, and the place to take it from."""
    with contextlib.ExitStack() as stack:
        descriptor = stack.enter_context(block.locked(disk))
        stack.enter_context(_telling(disk, options))
        machine.progress.begin(f"Making partitions and file systems on {disk.path}")
        block.write_table(disk, layout.script())
        files.step("disk-partitioned")
        places = [(one.start, one.size) for one in (layout.esp, layout.root)]
        esp_device, root_device = stack.enter_context(block.partitions(disk, descriptor, places))
        format.make_fat(esp_device, "ESP", start=layout.esp.start // layout.sector)
        volume = _encrypted(machine, root_device) if options.encrypt != "none" else None
        root, kargs = stack.enter_context(_root(root_device, volume, options))
        esp = stack.enter_context(mount.mounted("vfat", esp_device, "esp", umask="0077"))
        there = replace(machine, sysroot=Sysroot(root), esp_path=esp,
                        config=replace(machine.config, boot_mirrors=()))
        with _plainly(disk.path, root, esp):
            change = last.recorded(there, "install", by, lambda: _deploy(there, image, options, keys, kargs, volume))
        machine.progress.begin(f"Flushing {disk.path}")
    return replace(plan, change=change, recovery_key=volume.recovery_key if volume is not None else "")


@dataclass(frozen=True, slots=True)
class _Volume:
    """An encrypted volume on `device`; `key` opens it as long as it is being installed to."""

    device: str
    uuid: str
    key: bytes
    recovery_key: str


def _encrypted(machine: Machine, device: str) -> _Volume:
    machine.progress.begin("Encrypting the root file system")
    volume_id = str(uuid.uuid4())
    key = luks.make_luks(device, "root-encrypted", volume_id)
    return _Volume(device, volume_id, key, luks.enroll_recovery_key(device, key))


@contextlib.contextmanager
def _root(device: str, volume: _Volume | None, options: DiskOptions) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The mounted root file system, made anew; the arguments by which an initrd finds it."""
    filesystem = str(uuid.uuid4())
    kargs = ["rw"] if any(karg.startswith("root=") for karg in options.kargs) else [f"root=UUID={filesystem}", "rw"]
    with contextlib.ExitStack() as mounts, contextlib.ExitStack() as opening:
        if volume is not None:
            kargs.append(f"rd.luks.name={volume.uuid}=root")
            if options.encrypt == "tpm2":
                kargs.append(f"rd.luks.options={volume.uuid}=tpm2-device=auto")
            device = opening.enter_context(luks.opened(device, volume.key, f"bootcd-{volume.uuid[:8]}"))
        format.make_root(device, options.filesystem, "root", filesystem)
        files.step("disk-formatted")
        root = mounts.enter_context(mount.mounted(options.filesystem, device, "root"))
        opening.close()  # from now on it is open as long as it is mounted
        yield root, tuple(kargs)


def _deploy(
    machine: Machine, image: tuple[str, str], options: DiskOptions, keys: bytes, disk_kargs: tuple[str, ...],
    volume: _Volume | None,
) -> ChangeResult:
    """`image` is the reference, and the place to take it from."""
    change = update.install(machine, image[0], options.kargs, disk_kargs, image[1])
    assert change.deployment is not None
    if keys:
        rootkeys.write_keys(machine.sysroot.deployment(change.deployment.id) / "etc", keys)
    esp = machine.esp()
    if esp.size(CONFIG) is None:
        esp.write(CONFIG, [_LOADER_CONFIG], len(_LOADER_CONFIG))
    if volume is not None:
        if options.encrypt == "tpm2":
            _bind(machine, volume, kernels.pcr_key(esp, change.deployment.id))
        files.step("disk-bound")
        luks.forget_key(volume.device, volume.key)
    kernel = sum(one.size for one in kernels.list_kernels(esp).kernels)
    wanted = machine.config.keep_previous + 2
    fitting = 1 + esp.free() // max(kernel, 1)
    if fitting < wanted:
        machine.progress.note(f"The boot partition has room for {fitting} kernels of this size; upgrades by the keep "
                              f"policy want {wanted}. A larger --esp-size would help.")
    return change


def _bind(machine: Machine, volume: _Volume, pcr_key: bytes) -> None:
    """Let the TPM2 open the volume for what boots."""
    machine.progress.begin("Binding the root file system to the TPM2")
    pcrs = _SECURE_BOOT_PCR if loader.read_variables().secure_boot else ""
    if not pcrs:
        machine.progress.note("Secure Boot is off, so the TPM2 opens the disk for whatever boots here.")
    luks.enroll_tpm2(volume.device, volume.key, pcrs, pcr_key)


@contextlib.contextmanager
def _telling(disk: block.Disk, options: DiskOptions) -> Iterator[None]:
    """Errors tell what became of the disk; a file that was made goes away."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted; {disk.path} holds no whole installation",
                          advice="Install again with --wipe.") from error
    except BootcdError as error:
        if options.image_size is not None:
            raise
        raise type(error)(f"{error}; {disk.path} is erased and holds no whole installation",
                          advice=error.hint) from error


@contextlib.contextmanager
def _plainly(disk: str, root: Path, esp: Path) -> Iterator[None]:
    """Errors name the disk instead of our mounts, and advise what helps on a new one."""
    try:
        yield
    except BootcdError as error:
        text = str(error).replace(os.fspath(root), f"root file system of {disk}")
        text = text.replace(os.fspath(esp), f"boot partition of {disk}")
        advice = error.hint
        if isinstance(error, EspFull):
            advice = "Install again with a larger --esp-size and --wipe."
        elif isinstance(error, RootFull):
            advice = "Install again with a larger --root-size, or to a larger disk, and --wipe."
        raise type(error)(text, advice=advice) from error
