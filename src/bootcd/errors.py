# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong, one class each.

An error knows three things besides its message: the exit status of ``bootcctl``, the name under which it crosses
D-Bus (``org.bootcd1.Error.<class name>``), and the advice that the command line prints below it. Families share an
exit status, so that a script can test for "no space" without knowing which file system was full. The table in
``bootcctl(8)`` is checked against this module.

    BootcdError                1   something failed that has no class of its own
    ├── UsageError             2   the command line or configuration is wrong
    │   └── ConfigError
    ├── NotFound               3   DeploymentNotFound, DeviceNotFound, ImageNotFound, RepositoryNotFound
    ├── Busy                   4   another operation holds the lock
    ├── FormatError            5   bytes break their format: TarError, SplitstreamError, ErofsError, DumpError,
    │                              OciError, BootEntryError, PeError, InitrdError, RecordError, MetadataError,
    │                              PolicyError, TrustPolicyError, SignatureError
    ├── IntegrityError         6   BlobMismatch, DiffIdMismatch, ObjectMismatch, SealMismatch,
    │                              StatedDigestMismatch
    ├── SourceError            7   SourceUnreachable, AuthenticationFailed, BlobNotFound
    ├── NoSpace                8   RootFull, EspFull, DiskTooSmall
    ├── ImageUnusable          9   NotBootable, NoMatchingPlatform, LayerConflict, LayerTooLarge, DeltaUnusable,
    │                              LintFailed
    ├── RepositoryError       10   RepositoryTooNew, RepositoryConflict, RepositoryDamaged
    ├── Refused               11   NothingStaged, NotProven, NoRollback, TargetInUse, DeviceInUse, DeviceNotEmpty,
    │                              NotAdoptable, RegistryBlocked, DownloadTooLarge, ConnectionMetered,
    │                              SoftRebootImpossible, RebootRefused
    ├── AccessError           12   ReadOnly, PermissionDenied
    ├── Unsupported           13   the kernel or file system lacks what is needed
    ├── EtcConflict           14   /etc cannot be merged without a decision
    ├── Unhealthy             15   a boot, or a required health check, failed
    ├── Untrusted             16   PolicyRejected, SignatureMissing, SignatureRejected
    └── Interrupted          130   Ctrl-C or SIGTERM
"""

from __future__ import annotations

from typing import ClassVar


class BootcdError(Exception):
    """Base of all errors of this project; `str()` is one line that names what and where."""

    exit_status: ClassVar[int] = 1
    advice: ClassVar[str] = ""

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message)
        self.hint = self.advice if advice is None else advice

    def __init_subclass__(cls, *, status: int | None = None, advice: str | None = None) -> None:
        super().__init_subclass__()
        if status is not None:
            cls.exit_status = status
        if advice is not None:
            cls.advice = advice

    @classmethod
    def bus_name(cls) -> str:
        """The D-Bus error name."""
        return "org.bootcd1.Error." + ("Failed" if cls is BootcdError else cls.__name__)


class UsageError(BootcdError, status=2):
    """Arguments that do not fit together or name nothing."""


class ConfigError(UsageError, advice="Correct the configuration file; bootcd.toml(5) lists the keys."):
    """A configuration file cannot be used."""


class NotFound(BootcdError, status=3):
    """What was named does not exist."""


class DeploymentNotFound(NotFound, advice="'bootcctl list' shows the deployments."):
    """No deployment has that id, index or label, or more than one has."""


class DeviceNotFound(NotFound, advice="'lsblk' lists the disks; --image-size makes a new file."):
    """The disk to install to does not exist."""


class ImageNotFound(NotFound, advice="'bootcctl image list' shows the images in the repository."):
    """No image with that name or digest is in the repository or at the source."""


class RepositoryNotFound(NotFound, advice="'bootcctl install to-filesystem' creates one; --sysroot chooses another."):
    """There is no composefs repository where one was expected."""


class Busy(BootcdError, status=4, advice="Wait until the other operation ends, or stop it."):
    """Another process holds the lock."""


class FormatError(BootcdError, status=5):
    """Bytes from outside break the rules of their format."""


class TarError(FormatError):
    """A tar stream is truncated or malformed, or uses what cannot be represented."""


class SplitstreamError(FormatError):
    """A splitstream file is malformed."""


class ErofsError(FormatError):
    """An EROFS image is malformed or is none of composefs."""


class DumpError(FormatError):
    """A composefs dump is malformed; the message names the line."""


class OciError(FormatError):
    """An OCI index, manifest, config or layout is malformed."""


class BootEntryError(FormatError):
    """A Boot Loader Specification entry is malformed."""


class PeError(FormatError):
    """A PE file is malformed or lacks a section."""


class InitrdError(FormatError):
    """An initrd is malformed, or compressed in a way that is not read here."""


class RecordError(FormatError):
    """A file under state/bootcd is malformed or of a newer schema."""


class MetadataError(FormatError):
    """meta.json of a repository is malformed."""


class PolicyError(FormatError):
    """SELinux file contexts of an image are malformed."""


class TrustPolicyError(
    FormatError, advice="Correct the file; bootcd-policy(7) and containers-policy.json(5) describe it.",
):
    """The policy that says whom to trust cannot be used, so nothing is trusted."""


class SignatureError(FormatError):
    """A signature, what it signs or what it is made with is malformed."""


class IntegrityError(BootcdError, status=6):
    """Data is not what its digest promises."""


class BlobMismatch(
    IntegrityError,
    advice="The source served other bytes than its manifest names; try again or another mirror.",
):
    """A blob has the wrong size or digest."""


class DiffIdMismatch(IntegrityError, advice="The image is inconsistent; it must be built again."):
    """An uncompressed layer does not have the digest that the config names."""


class ObjectMismatch(
    IntegrityError,
    advice="'bootcctl fsck --repair' removes damaged objects and names what to pull again.",
):
    """An object of the repository does not have the digest that its name promises."""


class SealMismatch(IntegrityError, advice="The UKI was made for another tree; build the image again."):
    """The digest in a UKI's command line is not that of the image's tree."""


class StatedDigestMismatch(
    IntegrityError, advice="The image is not what was stated of it: state its digests again, after the last change; "
    "'bootcctl container compute-digest' tells what a machine computes.",
):
    """An annotation, or an artifact about the image, names a digest that the image does not have."""


class SourceError(BootcdError, status=7):
    """The source of an image did not deliver."""


class SourceUnreachable(
    SourceError,
    advice="Check the network and the reference; the download goes on where it stopped.",
):
    """No answer, a broken connection or an answer that makes no sense."""


class AuthenticationFailed(SourceError, advice="Check the credentials, for example with 'podman login'."):
    """The registry refuses who we are."""


class BlobNotFound(SourceError):
    """The source does not have a blob that its manifest names."""


class NoSpace(BootcdError, status=8):
    """A file system is full."""


class RootFull(NoSpace, advice="'bootcctl cleanup' frees what no deployment needs; unpinning deployments frees more."):
    """The file system of the repository or of the state is full."""


class EspFull(NoSpace, advice="'bootcctl cleanup' or unpinning a deployment frees kernels on the ESP."):
    """The EFI system partition is full."""


class DiskTooSmall(NoSpace, advice="Take a larger disk, or a smaller boot partition by --esp-size."):
    """The partitions of an installation do not fit on the disk."""


class ImageUnusable(BootcdError, status=9):
    """The image is well-formed but cannot be used for what was asked."""


class NotBootable(
    ImageUnusable,
    advice="The image needs /usr/lib/modules/<version>/{vmlinuz,initramfs.img} or a UKI in /boot/EFI/Linux.",
):
    """The image has no kernel, more than one, or lacks a directory that a root file system needs."""


class NoMatchingPlatform(ImageUnusable):
    """The index has no manifest for this machine."""


class LayerConflict(ImageUnusable):
    """A layer entry cannot be applied: its parent is missing or is no directory, or its hard link has no target."""


class LayerTooLarge(ImageUnusable, advice="Raise max-layer-size in bootcd.toml if the image is trusted."):
    """A layer grows beyond the configured bound when decompressed."""


class DeltaUnusable(
    ImageUnusable,
    advice="Take the whole image, or a delta from one of the images that 'bootcctl image list' shows.",
):
    """A delta is made from an image that is not here, or lacks a layer."""


class LintFailed(ImageUnusable, advice="'bootcctl container lint --list' tells why each of them matters; --skip leaves "
                 "one out."):
    """The root directory of an image has what keeps it from working, or what it should not have."""


class RepositoryError(BootcdError, status=10):
    """The repository cannot be used as it is."""


class RepositoryTooNew(RepositoryError, advice="A newer version of bootcd or cfsctl wrote it; update bootcd."):
    """The repository uses a version or feature that this program does not know."""


class RepositoryConflict(RepositoryError):
    """The repository exists already with other settings."""


class RepositoryDamaged(
    RepositoryError,
    advice="'bootcctl fsck --repair' removes what is damaged and names what to pull again.",
):
    """fsck found errors, or an object that is referred to is missing."""


class Refused(BootcdError, status=11):
    """The request is understood but would do harm or nothing."""


class NothingStaged(Refused):
    """There is no staged deployment."""


class NotProven(Refused, advice="Wait until the boot is complete, or insist with --allow-untried; "
                "'bootcctl health show' tells more."):
    """The running deployment is not known to be good yet."""


class NoRollback(Refused, advice="'bootcctl list' shows the deployments."):
    """There is no deployment to go back to."""


class TargetInUse(Refused):
    """The target of an installation is not empty or already installed."""


class DeviceInUse(Refused, advice="Unmount, detach or stop what uses it, or choose another disk."):
    """Something uses the disk that an installation would erase."""


class DeviceNotEmpty(Refused, advice="--wipe erases all of it; --dry-run shows what that is."):
    """The disk holds something, and nobody said that it may go."""


class NotAdoptable(Refused, advice="Nothing was changed: the machine boots as before, and bootc can go on."):
    """What bootc has left cannot be adopted."""


class RegistryBlocked(Refused, advice="Whoever runs this machine blocked it; bootcd-registries(5) explains the file."):
    """registries.conf forbids to pull an image from there."""


class DownloadTooLarge(Refused, advice="'bootcctl upgrade' by hand is not bound by max-download in bootcd.toml."):
    """More would have to be downloaded than one run may."""


class ConnectionMetered(Refused, advice="[pull] metered in bootcd.toml says what is done then."):
    """The connection costs money, and nobody waits for what would be asked over it."""


class SoftRebootImpossible(
    Refused,
    advice="It boots with the next reboot; --soft-reboot=auto reboots where a soft reboot is not possible.",
):
    """What boots next needs another kernel, or systemd cannot do it."""


class RebootRefused(
    Refused,
    advice="What was done stays, and boots with the next reboot; 'systemd-inhibit --list' shows who holds it back.",
):
    """systemd or logind does not reboot the machine."""


class AccessError(BootcdError, status=12):
    """The file system or the kernel denies access."""


class ReadOnly(AccessError):
    """The file system is mounted read-only."""


class PermissionDenied(AccessError, advice="Run it as root."):
    """The caller lacks a right."""


class Unsupported(BootcdError, status=13):
    """The kernel or the file system lacks a feature that is needed."""


class EtcConflict(BootcdError, status=14):
    """Local and new /etc disagree, and nothing says who is right."""

    conflicts: tuple[str, ...] = ()
    """Every disagreement; the message names only the first ones."""


class Unhealthy(BootcdError, status=15, advice="'bootcctl health show' has the verdicts; bootcd-health(7) tells what "
                "follows."):
    """A required health check failed, or the boot did."""


class Untrusted(BootcdError, status=16):
    """The policy does not let the image in; nothing of it was stored."""


class PolicyRejected(Untrusted, advice="bootcd-policy(7) tells how to allow an image."):
    """The policy rejects the image whoever signed it."""


class SignatureMissing(
    Untrusted, advice="'bootcctl image verify' tells where signatures were looked for; have the image signed.",
):
    """The policy demands a signature, and there is none."""


class SignatureRejected(
    Untrusted, advice="'bootcctl image verify' tells of each signature why it does not count. Do not take the image "
    "otherwise before you know why.",
):
    """There are signatures, but none that the policy accepts."""


class Interrupted(BootcdError, status=130):
    """The operation was interrupted; what it had finished is kept."""


def all_errors() -> list[type[BootcdError]]:
    """Every error class of this module, base first, in the order of definition."""
    found: list[type[BootcdError]] = [BootcdError]
    for cls in found:
        found.extend(sub for sub in cls.__subclasses__() if sub.__module__ == __name__)
    return found
