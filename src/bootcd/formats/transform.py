# SPDX-License-Identifier: Apache-2.0
"""What happens to an image's tree before its EROFS image is computed, so that the digest depends on the image alone.

Tools that build and unpack images disagree about the metadata of the root, about `/run` and about xattrs. The OCI
transform removes these differences; the boot transform removes what is not part of a booted root and labels the rest by
the image's own SELinux policy. The OCI transform always comes first: the root is labelled by policy, not as `/usr` is.

Source: composefs-rs 0.9.4 (`transform_for_oci`, `transform_for_boot`), whose digests these must give. Before 0.9.3 it
left the nanoseconds of /boot and /sysroot as they were, so older digests of images with such times are others.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from ..errors import NotBootable
from .selabel import relabel
from .tree import Directory, RegularFile

_CAPABILITY = b"security.capability"
_USER = b"user."


class XattrMode(Enum):
    """Which xattrs survive; the values are composefs-rs' names."""

    ALLOWLIST_ONLY = "allowlist-only"
    """Only file capabilities. Everything else depends on the machine that built or unpacked the image."""

    KEEP_USER = "keep-user-xattrs"
    """File capabilities and `user.*`."""


def transform_for_oci(root: Directory, xattrs: XattrMode = XattrMode.ALLOWLIST_ONLY) -> None:
    """Give the root the metadata of /usr, empty /run and drop xattrs. Raises NotBootable without /usr."""
    usr = _require(root, b"usr")
    root.copy_metadata(usr)
    if b"run" in root.entries:
        run = _require(root, b"run")
        run.entries.clear()
        run.mtime, run.mtime_nsec = usr.mtime, usr.mtime_nsec
    keep_user = xattrs is XattrMode.KEEP_USER
    stack = [root]
    while stack:
        directory = stack.pop()
        _filter(directory.xattrs, keep_user)
        for child in directory.entries.values():
            if isinstance(child, Directory):
                stack.append(child)
            else:
                _filter(child.xattrs, keep_user)


def transform_for_boot(root: Directory, read_file: Callable[[RegularFile], bytes]) -> None:
    """Empty /boot and /sysroot, then label the tree by the policy in its own /etc/selinux.

    `root` has gone through `transform_for_oci`; boot entries must have been collected before. `read_file` gives the
    content of a file of the tree. Raises NotBootable without one of the directories, and what `relabel` raises.
    """
    usr = _require(root, b"usr")
    emptied = [_require(root, b"boot"), _require(root, b"sysroot")]
    for directory in emptied:
        directory.entries.clear()
        directory.mtime, directory.mtime_nsec = usr.mtime, usr.mtime_nsec
    relabel(root, read_file)


def _require(root: Directory, name: bytes) -> Directory:
    found = root.entries.get(name)
    if not isinstance(found, Directory):
        problem = "does not exist" if found is None else "is not a directory"
        raise NotBootable(f"/{name.decode()} of the image {problem}", advice=f"Create /{name.decode()} in the image.")
    return found


def _filter(xattrs: dict[bytes, bytes], keep_user: bool) -> None:
    if xattrs:
        for name in [name for name in xattrs if name != _CAPABILITY and not (keep_user and name.startswith(_USER))]:
            del xattrs[name]
