# SPDX-License-Identifier: Apache-2.0
"""Images in a repository, and that the kernel shows what the layers describe."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile

import pytest

from bootcd.errors import ErofsError, ImageNotFound, ObjectMismatch, Unsupported
from bootcd.formats.erofs.layout import Version
from bootcd.formats.erofs.writer import write_image
from bootcd.formats.fsverity import Algorithm
from bootcd.formats.tree import Directory, RegularFile
from bootcd.linux import mount
from bootcd.store.repository import Repository

from .conftest import Image, base_members, make_tar

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")


def small_tree() -> Directory:
    root = Directory(0o755)
    root.entries[b"f"] = RegularFile(0o644, inline=b"content")
    return root


def test_commit_name_and_read(repo):
    data = write_image(small_tree(), repo.version, repo.algorithm)
    digest = repo.images.commit(data)
    assert repo.images.commit(data) == digest
    assert repo.images.has(digest)
    assert repo.images.digests() == [digest]
    assert os.readlink(f"{repo.path}/images/{digest.hex()}") == f"../objects/{digest.hex()[:2]}/{digest.hex()[2:]}"
    assert repo.images.name("bootcd/one", digest)
    assert os.readlink(f"{repo.path}/images/refs/bootcd/one") == f"../../{digest.hex()}"
    assert repo.images.refs() == {"bootcd/one": digest}
    assert repo.images.unname("bootcd/one")
    assert repo.images.refs() == {}
    read = repo.images.read(digest)
    assert read.version == repo.version
    assert read.root().lookup(b"/f").inline == b"content"


def test_only_what_is_in_images_is_opened(repo):
    digest = repo.objects.put(bytes(write_image(small_tree(), repo.version, repo.algorithm)))
    for ask in (repo.images.open, repo.images.read, repo.images.mount, lambda one: repo.images.name("x", one)):
        with pytest.raises(ImageNotFound, match="no image"):
            ask(digest)


def test_a_changed_image_is_not_opened(repo):
    digest = repo.images.commit(write_image(small_tree(), repo.version, repo.algorithm))
    with open(repo.objects.path(digest), "r+b") as image:
        image.seek(100)
        image.write(b"x")
    for ask in (repo.images.open, repo.images.read, repo.images.mount):
        with pytest.raises(ObjectMismatch):
            ask(digest)


def test_junk_is_no_image(repo):
    digest = repo.images.commit(bytes(8192))
    with pytest.raises(ErofsError, match=f"image {digest.hex()}"):
        repo.images.read(digest)


def described_by(tar: bytes) -> dict[str, tuple]:
    """What a tar says of each path, as `seen` reports it of a mounted tree."""
    found: dict[str, tuple] = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        members = {one.name: one for one in archive}
        links = [one.linkname for one in members.values() if one.islnk()]
        for name, member in members.items():
            one = members[member.linkname] if member.islnk() else member
            capability = one.pax_headers.get("SCHILY.xattr.security.capability")
            kind = {tarfile.REGTYPE: stat.S_IFREG, tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK,
                    tarfile.CHRTYPE: stat.S_IFCHR, tarfile.FIFOTYPE: stat.S_IFIFO}[one.type]
            content = archive.extractfile(one).read() if one.isreg() else one.linkname.encode()
            below = sum(1 for path in members if members[path].isdir() and os.path.dirname(path) == name)
            nlink = 2 + below if one.isdir() else 1 + links.count(one.name)
            microseconds = round(float(one.pax_headers.get("mtime", one.mtime)) * 1e6)
            xattrs = {"security.capability": capability.encode("utf-8", "surrogateescape")} if capability else {}
            device = os.makedev(one.devmajor, one.devminor) if kind == stat.S_IFCHR else 0
            found[name] = (kind | one.mode, one.uid, one.gid, microseconds, device, nlink, xattrs, content)
    return found


def seen(top) -> dict[str, tuple]:
    found: dict[str, tuple] = {}
    for where, directories, names in os.walk(top):
        for name in directories + names:
            path = os.path.join(where, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            content = b""
            if kind == stat.S_IFREG:
                with open(path, "rb") as opened:
                    content = opened.read()
            elif kind == stat.S_IFLNK:
                content = os.readlink(path).encode()
            xattrs = {one: os.getxattr(path, one, follow_symlinks=False)
                      for one in os.listxattr(path, follow_symlinks=False)}
            device = status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
            microseconds = round(status.st_mtime_ns / 1000)
            found[os.path.relpath(path, top)] = (status.st_mode, status.st_uid, status.st_gid, microseconds, device,
                                                 status.st_nlink, xattrs, content)
    return found


@contextlib.contextmanager
def mounted(repo, digest, path):
    path.mkdir()
    fd = repo.images.mount(digest)
    try:
        mount.attach(fd, path)
    finally:
        os.close(fd)
    try:
        yield path
    finally:
        mount.umount(path)


@root_only
@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("version", Version)
def test_the_kernel_shows_what_the_layer_describes(tmp_path, algorithm, version):
    tar = make_tar(*base_members())
    image = Image(tar)
    with Repository.init(tmp_path / "r", algorithm, version) as repo:
        digest = image.store(repo).commit_images(image.digest, boot=False).image
        with mounted(repo, digest, tmp_path / "m") as top:
            shown, expected = seen(top), described_by(tar)
            run = list(expected["run"])
            run[3] = expected["usr"][3]  # spec 3.4: /run takes the times of /usr
            expected["run"] = tuple(run)
            if version == Version.V2:  # keeps no microseconds
                shown, expected = ({name: (*one[:3], one[3] // 10**6, *one[4:]) for name, one in tree.items()}
                                   for tree in (shown, expected))
            assert shown == expected
            status, usr = os.stat(top), os.stat(top / "usr")
            assert (status.st_mode, status.st_mtime_ns) == (usr.st_mode, usr.st_mtime_ns)
            assert os.stat(top / "usr/bin/hard").st_ino == os.stat(top / "usr/bin/tool").st_ino


@root_only
def test_the_kernel_refuses_files_without_verity_when_asked(tmp_path, repo):
    if repo.secure:
        pytest.skip("objects have fs-verity here")
    image = Image(make_tar(*base_members()))
    digest = image.store(repo).commit_images(image.digest, boot=False).image
    try:
        fd = repo.images.mount(digest, require_verity=True)
    except Unsupported:
        return
    (tmp_path / "m").mkdir()
    mount.attach(fd, tmp_path / "m")
    os.close(fd)
    try:
        with pytest.raises(OSError, match="Input/output error"):
            (tmp_path / "m/usr/share/large").read_bytes()
    finally:
        mount.umount(tmp_path / "m")
