# SPDX-License-Identifier: Apache-2.0
"""Which partitions an installation makes on a disk. Nothing is read or written here; sizes are in bytes.

    1 MiB    the partition table (GPT)
    ESP      FAT32: boot loader, entries, kernels
    root     ext4 or btrfs, perhaps encrypted: repository, state, /var
    1 MiB    the copy of the table

The types of partitions are those of the Discoverable Partitions Specification, so that systemd finds both by itself
(https://uapi-group.org/specifications/specs/discoverable_partitions_specification/).

An ESP cannot grow later, and the sizes of kernels are not known before the image is pulled. A kernel and its initrd are
compressed, so all layers of the image together are an upper bound, and so is what the largest of today's UKIs take.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import DiskTooSmall, Unsupported, UsageError

MIB = 1 << 20
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
ROOT_TYPES = {
    "x86_64": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "aarch64": "b921b045-1df0-41c3-af44-4c6f280d3fae",
    "riscv64": "72ec70a6-cf74-40e6-bd49-4bda08e8f224",
    "armv7l": "69dad710-2ce4-4e3c-b16c-21a1d49abed3",
    "i686": "44479540-f297-41b2-9af7-d131d5f0458a",
    "loongarch64": "77055800-792c-4f94-b39a-98c91b762bb6",
}
"""The type of the root partition by what uname calls the machine. Others have no EFI firmware."""

LARGEST_KERNEL = 250 * MIB
"""A UKI with all drivers and firmware."""
SPARE_PINS = 2
"""For how many pinned deployments with kernels of their own the ESP has room."""
ESP_OVERHEAD = 32 * MIB
"""Boot loader, entries, addons, and the file system itself."""
MIN_ROOT = 160 * MIB
"""What btrfs, its copies of metadata and a header of LUKS2 need before anything is stored."""

_ALIGNMENT = MIB


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """How to install to a disk. Sizes are in bytes, None where bootcd decides; `image_size` makes a new file."""

    wipe: bool = False
    dry_run: bool = False
    filesystem: str = "ext4"
    encrypt: str = "none"
    esp_size: int | None = None
    root_size: int | None = None
    image_size: int | None = None
    kargs: tuple[str, ...] = ()
    root_ssh_keys: str = ""
    """A file in the form of authorized_keys, for root; empty for none."""


@dataclass(frozen=True, slots=True)
class Partition:
    name: str
    type: str
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class Layout:
    """The partitions of one disk with sectors of `sector` bytes."""

    sector: int
    esp: Partition
    root: Partition

    def script(self) -> str:
        """The same in the language of sfdisk(8)."""
        lines = ["label: gpt", "unit: sectors"]
        for one in (self.esp, self.root):
            start, size = one.start // self.sector, one.size // self.sector
            lines.append(f'start={start}, size={size}, type={one.type}, name="{one.name}"')
        return "\n".join(lines) + "\n"


def smallest_esp(sector: int) -> int:
    """FAT32 has at least 65525 clusters, which are no smaller than sectors."""
    return _up(66_000 * sector + MIB)


def default_esp(image_size: int, keep_previous: int, sector: int) -> int:
    """The size of an ESP on which an upgrade fits beside all that the keep policy keeps, and some pins.

    `image_size` is that of all layers together, compressed.
    """
    kernels = 1 + keep_previous + 1 + SPARE_PINS  # the booted one, those for rollback, and the one that is to come
    wanted = kernels * min(image_size, LARGEST_KERNEL) + ESP_OVERHEAD
    return max(-(-wanted // (64 * MIB)) * 64 * MIB, smallest_esp(sector))


def lay_out(
    what: str, size: int, sector: int, machine: str, *, esp_size: int, root_size: int | None, image_size: int
) -> Layout:
    """The partitions of a disk of that size, called `what` in messages.

    Raises DiskTooSmall with the sums, UsageError for sizes that make no sense, Unsupported for a machine that does not
    boot by EFI.
    """
    if machine not in ROOT_TYPES:
        raise Unsupported(f"machines of type {machine} do not boot by EFI: bootcd cannot install to their disks",
                          advice="Make the partitions yourself and use 'bootcctl install to-filesystem'.")
    esp = _up(esp_size)
    if esp < smallest_esp(sector):
        raise UsageError(f"a boot partition of {_mib(esp)} is too small for FAT32, which needs "
                         f"{_mib(smallest_esp(sector))} on this disk")
    least = least_root(image_size)
    if root_size is not None and _up(root_size) < least:
        raise DiskTooSmall(f"a root partition of {_mib(_up(root_size))} is too small: this image needs at least "
                           f"{_mib(least)}", advice="Choose a larger --root-size, or leave it out.")
    root = least if root_size is None else _up(root_size)
    needed = _ALIGNMENT + esp + root + _ALIGNMENT
    if size < needed:
        raise DiskTooSmall(f"{what} has {_mib(size)}, and {_mib(needed)} are needed: {_mib(esp)} for the boot "
                           f"partition, {'at least ' if root_size is None else ''}{_mib(root)} for the root file "
                           f"system, {_mib(2 * _ALIGNMENT)} for the partition table")
    end = (size - _ALIGNMENT) // _ALIGNMENT * _ALIGNMENT
    start = _ALIGNMENT + esp
    return Layout(sector, Partition("esp", ESP_TYPE, _ALIGNMENT, esp),
                  Partition("root", ROOT_TYPES[machine], start, end - start if root_size is None else root))


def least_root(image_size: int) -> int:
    """Files hardly get smaller when they are unpacked."""
    return _up(MIN_ROOT + image_size + image_size // 20)


def _up(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
