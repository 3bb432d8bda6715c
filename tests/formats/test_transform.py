# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from bootcd.errors import NotBootable
from bootcd.formats.transform import XattrMode, transform_for_boot, transform_for_oci
from bootcd.formats.tree import Directory, Leaf, RegularFile, Symlink

CAPABILITY = b"security.capability"
LABEL = b"security.selinux"
ACL = b"system.posix_acl_access"


def tree() -> Directory:
    root = Directory(0o700, 5, 6, 1, 2, {b"user.root": b"r"})
    usr = Directory(0o755, 1, 2, 1000, 999, {CAPABILITY: b"c", LABEL: b"l", b"user.u": b"u"})
    root.entries = {b"usr": usr, b"run": Directory(0o711, 7, 8, 3, 4), b"boot": Directory(0o700, mtime=5, mtime_nsec=6),
                    b"sysroot": Directory(mtime=7, mtime_nsec=8), b"etc": Directory()}
    for name in (b"run", b"boot", b"sysroot", b"usr"):
        child = root.entries[name]
        assert isinstance(child, Directory)
        child.entries[b"file"] = RegularFile(inline=b"x", xattrs={ACL: b"a", b"user.f": b"f", LABEL: b"l"})
    return root


def no_file(_: RegularFile) -> bytes:
    raise AssertionError("nothing to read")


def metadata(node: Directory | Leaf) -> tuple[int, int, int, int, int]:
    return node.permissions, node.uid, node.gid, node.mtime, node.mtime_nsec


def test_the_root_takes_everything_from_usr() -> None:
    root = tree()
    transform_for_oci(root)
    assert metadata(root) == (0o755, 1, 2, 1000, 999)
    assert root.xattrs == {CAPABILITY: b"c"}
    usr = root.directory(b"usr")
    assert usr is not None
    assert root.xattrs is not usr.xattrs


def test_run_is_emptied_and_as_old_as_usr() -> None:
    root = tree()
    transform_for_oci(root)
    run = root.directory(b"run")
    assert run is not None
    assert run.entries == {}
    assert metadata(run) == (0o711, 7, 8, 1000, 999)


def test_run_may_be_missing() -> None:
    root = tree()
    del root.entries[b"run"]
    transform_for_oci(root)
    assert b"run" not in root.entries


@pytest.mark.parametrize(
    ("mode", "on_root", "on_file"),
    [(XattrMode.ALLOWLIST_ONLY, {CAPABILITY}, set()), (XattrMode.KEEP_USER, {CAPABILITY, b"user.u"}, {b"user.f"})],
)
def test_only_listed_xattrs_survive(mode: XattrMode, on_root: set[bytes], on_file: set[bytes]) -> None:
    root = tree()
    transform_for_oci(root, mode)
    assert set(root.xattrs) == on_root
    for path, node in root.walk():
        if path.endswith(b"/file"):
            assert set(node.xattrs) == on_file


def test_names_of_the_modes() -> None:
    assert [mode.value for mode in XattrMode] == ["allowlist-only", "keep-user-xattrs"]


def test_directories_must_be_directories() -> None:
    root = tree()
    root.entries[b"run"] = Symlink(target=b"var/run")
    with pytest.raises(NotBootable, match="/run of the image is not a directory"):
        transform_for_oci(root)
    del root.entries[b"usr"]
    with pytest.raises(NotBootable, match="/usr of the image does not exist"):
        transform_for_oci(root)


def test_boot_and_sysroot_are_emptied_and_have_the_time_of_usr() -> None:
    root = tree()
    transform_for_oci(root)
    transform_for_boot(root, no_file)
    boot, sysroot, usr = (root.directory(name) for name in (b"boot", b"sysroot", b"usr"))
    assert boot is not None
    assert sysroot is not None
    assert usr is not None
    assert (boot.entries, sysroot.entries) == ({}, {})
    assert (boot.mtime, boot.mtime_nsec, sysroot.mtime, sysroot.mtime_nsec) == (1000, 999, 1000, 999)
    assert boot.permissions == 0o700
    assert list(usr.entries) == [b"file"]


@pytest.mark.parametrize("name", [b"boot", b"sysroot"])
def test_boot_needs_its_directories_and_changes_nothing_without(name: bytes) -> None:
    root = tree()
    root.entries[name] = RegularFile(inline=b"")
    with pytest.raises(NotBootable, match=f"/{name.decode()} of the image is not a directory"):
        transform_for_boot(root, no_file)
    other = root.directory({b"boot": b"sysroot", b"sysroot": b"boot"}[name])
    assert other is not None
    assert list(other.entries) == [b"file"]


def test_labels_come_from_the_policy_of_the_image() -> None:
    root = tree()
    transform_for_oci(root)
    files = Directory()
    files.entries[b"file_contexts"] = RegularFile(inline=b"/.* -- all\n/usr(/.*)? usr_t\n")
    contexts, targeted, selinux = Directory(), Directory(), Directory()
    contexts.entries[b"files"] = files
    targeted.entries[b"contexts"] = contexts
    selinux.entries = {b"targeted": targeted, b"config": RegularFile(inline=b"SELINUXTYPE=targeted\n")}
    etc = root.directory(b"etc")
    assert etc is not None
    etc.entries[b"selinux"] = selinux
    transform_for_boot(root, lambda file: file.inline or b"")
    usr = root.directory(b"usr")
    assert usr is not None
    assert usr.xattrs == {CAPABILITY: b"c", LABEL: b"usr_t"}
    assert root.xattrs == {CAPABILITY: b"c"}
