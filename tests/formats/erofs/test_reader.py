# SPDX-License-Identifier: Apache-2.0
"""Images read back, and images that nobody should trust."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import ErofsError
from bootcd.formats.dump import format_dump
from bootcd.formats.erofs import layout
from bootcd.formats.erofs.layout import Version
from bootcd.formats.erofs.reader import Image
from bootcd.formats.erofs.writer import write_image
from bootcd.formats.fsverity import Algorithm
from bootcd.formats.tree import CharDevice, Directory, RegularFile, Symlink
from formats.trees import describe, trees

versions = st.sampled_from(list(Version))


def small_tree() -> Directory:
    """A bit of everything."""
    root = Directory(0o755, xattrs={b"security.selinux": b"label"})
    root.entries[b"ext"] = external = RegularFile(0o644, digest=bytes(range(64)), size=1000)
    root.entries[b"usr"] = usr = Directory(0o755, 1, 2, 3, 4, {b"user.x": b"y", b"trusted.overlay.opaque": b"y"})
    usr.entries[b"again"] = external
    usr.entries[b"file"] = RegularFile(0o644, inline=b"content", xattrs={b"security.selinux": b"label"})
    usr.entries[b"gone"] = CharDevice(0o600)
    usr.entries[b"hole"] = RegularFile(0o644, size=5000)
    usr.entries[b"lib"] = Directory(0o755)
    usr.entries[b"link"] = Symlink(target=b"target")
    usr.entries[b"null"] = CharDevice(0o666, rdev=259)
    return root


@cache
def small_image(version: Version) -> bytes:
    return bytes(write_image(small_tree(), version))


def without_nanoseconds(root: Directory) -> Directory:
    for _, inode in root.walk():
        inode.mtime_nsec = 0
    return root


@settings(max_examples=100, deadline=None)
@given(trees(), versions)
def test_reading_undoes_writing(root: Directory, version: Version) -> None:
    data = write_image(root, version)
    image = Image(data)
    assert image.version is version
    image.check()
    again = image.root()
    assert write_image(again, version) == data
    assert describe(again) == describe(without_nanoseconds(root) if version is Version.V2 else root)
    assert image.objects() == {
        inode.digest for _, inode in root.walk() if isinstance(inode, RegularFile) and inode.digest is not None
    }


@pytest.mark.parametrize("version", Version)
def test_long_content_and_targets(version: Version) -> None:
    root = Directory(0o755)
    for size in (1, 64, 2048, 2049, 4095, 4096, 4097, 5000, 9000):
        root.entries[b"f%d" % size] = RegularFile(0o644, inline=bytes(i % 251 for i in range(size)))
    for size in (1, 3000, 4000, 4032, 4095):
        root.entries[b"l%d" % size] = Symlink(target=b"t" * size)
    for size in (1, 1 << 43, (1 << 43) + 1, 1 << 52, 1 << 53):
        root.entries[b"s%d" % size] = RegularFile(0o644, size=size, xattrs={b"user.a": b"v" * (size % 97)})
    data = write_image(root, version)
    assert describe(Image(data).root()) == describe(root)
    assert write_image(Image(data).root(), version) == data


def test_wide_and_deep_directories() -> None:
    root = here = Directory(0o755)
    for i in range(3000):
        root.entries[b"file%d" % i] = RegularFile(0o644, inline=b"")
    for _ in range(3000):
        here.entries[b"d"] = here = Directory(0o755)
    data = write_image(root)
    image = Image(data)
    image.check()
    assert write_image(image.root()) == data


def test_unverified_files_keep_their_path() -> None:
    root = Directory(0o755)
    root.entries[b"a"] = RegularFile(0o644, payload=b"xx/yy", size=10)
    assert describe(Image(write_image(root)).root()) == describe(root)
    assert Image(write_image(root)).objects() == set()


def test_xattrs_that_look_like_marks_survive() -> None:
    marks = dict(layout.WHITEOUT_XATTRS) | {b"trusted.overlay.whiteout": b""}
    root = Directory(0o755, xattrs={b"user.overlay.whiteouts": b"", b"trusted.overlay.opaque": b"y"})
    root.entries[b"00"] = CharDevice(0o644)
    root.entries[b"d"] = directory = Directory(0o755, xattrs={b"user.overlay.opaque": b"mine"})
    directory.entries[b"gone"] = CharDevice(0o644, xattrs={b"user.overlay.whiteout": b""})
    root.entries[b"kept"] = RegularFile(0o644, inline=b"", xattrs=marks)
    for version in Version:
        data = write_image(root, version)
        assert write_image(Image(data).root(), version) == data
        del root.entries[b"00"]
        assert describe(Image(write_image(root, version)).root()) == describe(root)
        root.entries[b"00"] = CharDevice(0o644)


def test_a_mapping_can_be_closed_after_the_image(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(small_image(Version.V1))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        image = Image(mapping)
        assert describe(image.root()) == describe(small_tree())
        image.close()


@pytest.mark.parametrize("data", [b"", b"x" * 4096, bytes(4096), bytes(1 << 16)])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ErofsError):
        Image(data)


def read_all(data: bytes | bytearray) -> None:
    """Read in all ways; what is returned must be a tree that can be written as an image or as a dump."""
    objects: set[bytes] | None
    try:
        image = Image(data)
        objects = image.objects()
    except ErofsError:
        objects = None
    try:
        image = Image(data)
        root = image.root()
    except ErofsError:
        return
    assert objects is not None
    for _ in format_dump(root):
        pass
    for algorithm in Algorithm:
        try:
            write_image(root, image.version, algorithm)
        except ErofsError:
            continue
        break
    else:
        raise AssertionError("the tree cannot be written")
    try:
        image.check()
    except ErofsError:
        return


@pytest.mark.parametrize(("version", "step"), [(Version.V0, 61), (Version.V1, 29), (Version.V2, 1)])
def test_any_byte_may_be_wrong(version: Version, step: int) -> None:
    """V0 and V1 mostly consist of stubs, which are all alike."""
    data = bytearray(small_image(version))
    used = [i for i, byte in enumerate(data) if byte]
    near = {at for i in used for at in (i - 1, i, i + 1) if 0 <= at < len(data)}
    for at in sorted(near)[::step]:
        original = data[at]
        for value in {0, 0xFF, original ^ 1} - {original}:
            data[at] = value
            read_all(data)
        data[at] = original


@pytest.mark.slow
@pytest.mark.parametrize(("version", "step"), [(Version.V0, 11), (Version.V1, 7), (Version.V2, 1)])
def test_any_byte_may_have_many_values(version: Version, step: int) -> None:
    data = bytearray(small_image(version))
    for at in range(0, len(data), step):
        original = data[at]
        for value in {0, 1, 0x2E, 0x2F, 0x80, 0xFF, original ^ 1, original ^ 0x80} - {original}:
            data[at] = value
            read_all(data)
        data[at] = original


@settings(max_examples=100, deadline=None)
@given(versions, st.data())
def test_any_bytes_may_be_wrong(version: Version, data: st.DataObject) -> None:
    image = bytearray(small_image(version))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(1024, 1024 + 1500) | st.integers(0, len(image) - 5))
        word = data.draw(st.sampled_from([0, 1, 12, 24, 36, 37, 40, 4096, 65535, (1 << 31) - 1, (1 << 32) - 1]))
        size = data.draw(st.sampled_from([1, 2, 4]))
        image[at:at + size] = (word & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    read_all(image)


@pytest.mark.parametrize("version", Version)
def test_every_truncation_is_refused(version: Version) -> None:
    data = small_image(version)
    for size in range(len(data)):
        with pytest.raises(ErofsError):
            Image(data[:size])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"againfile", b"again/ile", "NUL byte or '/'"),
        (b"againfile", b"again\0ile", "NUL byte or '/'"),
        (b"againfile", b"gagaifile", "out of order"),
        (b"againfile", b"filegfile", "out of order"),
        (b"...again", b"..-again", "out of order|lacks"),
        (b"/00/01", b"/00/02", "another backing path"),
        (b"/00/01", b"000/01", "no backing path"),
        (b"\0D\0\2\0\1\2", b"\0D\0\1\0\1\2", "no digest"),
        (b"target", b"targ\0t", "NUL byte"),
        (b"overlay.opaquey", b"overlay.opaquez", "root lacks"),
        (b"\xff\xff\xff\xff" * 1, b"\0\0\0\0", "no hole"),
    ],
)
def test_what_is_wrong_is_named(old: bytes, new: bytes, message: str) -> None:
    data = small_image(Version.V1)
    assert old in data
    with pytest.raises(ErofsError, match=message):
        Image(data.replace(old, new, 1)).root()


def test_a_directory_that_contains_itself_is_refused() -> None:
    root = Directory(0o755)
    root.entries[b"aaa"] = outer = Directory(0o755)
    outer.entries[b"bbb"] = Directory(0o755)
    data = bytearray(write_image(root, Version.V2))
    inner = data.rindex(b"\2\0...bbb") - 3 * layout.DIRENT.size + 2
    assert layout.DIRENT.unpack_from(data, inner + 2 * layout.DIRENT.size)[1] == 39
    own = layout.DIRENT.unpack_from(data, inner)[0]
    data[inner + 2 * layout.DIRENT.size:inner + 2 * layout.DIRENT.size + 8] = own.to_bytes(8, "little")
    with pytest.raises(ErofsError, match="reached twice"):
        Image(data).root()
    with pytest.raises(ErofsError, match="reached twice"):
        Image(data).objects()


def test_overlapping_structures_do_not_multiply() -> None:
    """2000 files that all have the same half of the image as their content would take 1 GB."""
    root = Directory(0o755)
    for i in range(2000):
        root.entries[b"%04d" % i] = RegularFile(0o644, inline=b"")
    data = write_image(root, Version.V2)
    data += bytes((1 << 20) - len(data))
    struct.pack_into("<I", data, layout.SUPERBLOCK_OFFSET + 36, len(data) // layout.BLOCK_SIZE)
    assert len(Image(data).root().entries) == 2000
    empty = layout.EXTENDED.pack(1, 0, 0o100644, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    large = layout.EXTENDED.pack(5, 0, 0o100644, 0, 500_000, 0, 0, 0, 0, 0, 0, 1)
    for at in range(layout.INODES_OFFSET, len(data) - 64, 32):
        if data[at:at + 16] == empty[:16] and data[at + 24:at + 64] == empty[24:]:
            data[at:at + 64] = large
    assert data.count(large[:20]) == 2000
    with pytest.raises(ErofsError, match="overlap"):
        Image(data).root()


@pytest.mark.interop
@pytest.mark.parametrize("command", ["mkcomposefs", "cfsctl mkcomposefs"])
@settings(max_examples=15, deadline=None)
@given(root=trees(digest_size=32), version=st.sampled_from([Version.V0, Version.V1]))
def test_foreign_images_are_read(command: str, root: Directory, version: Version) -> None:
    argv = command.split()
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    dump = b"".join(format_dump(root))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "image"
        limits = [f"--min-version={version}", f"--max-version={version}"]
        subprocess.run([*argv, "--from-file", *limits, "-", path], input=dump, capture_output=True, check=True)
        image = Image(path.read_bytes())
    image.check()
    assert b"".join(format_dump(image.root())) == dump


@pytest.mark.interop
@pytest.mark.parametrize("version", Version)
def test_images_in_a_foreign_repository_are_read(tmp_path: Path, version: Version) -> None:
    if shutil.which("cfsctl") is None:
        pytest.skip("cfsctl is not installed")
    top = tmp_path / "top"
    (top / "usr" / "lib").mkdir(parents=True)
    (top / "usr" / "big").write_bytes(b"x" * 65)
    (top / "usr" / "small").write_bytes(b"x" * 64)
    os.link(top / "usr" / "big", top / "again")
    (top / "l").symlink_to("t" * 300)
    for i in range(400):
        (top / "usr" / "lib" / f"file{i}").touch()
    # Not Path.rglob: in Python 3.11.2 it stumbles over a link target that is longer than a name may be.
    for path in [Path(here, name) for here, directories, names in os.walk(top) for name in (*directories, *names, "")]:
        os.utime(path, ns=(0, 1_700_000_000_000_000_000), follow_symlinks=False)
    repo = tmp_path / "repo"

    def cfsctl(*arguments: str | Path) -> bytes:
        return subprocess.run(["cfsctl", *arguments], capture_output=True, check=True).stdout

    cfsctl("--repo", repo, "init", "--insecure")
    create = ("--erofs-version", str(version), "create-image", "--no-propagate-usr-to-root", top, "name")
    cfsctl("--repo", repo, *create)
    image = Image((repo / "images" / "refs" / "name").read_bytes())
    assert image.version is version
    image.check()
    assert b"".join(format_dump(image.root())) == cfsctl(
        "--no-repo", "create-dumpfile", "--no-propagate-usr-to-root", top
    )
    objects = cfsctl("--repo", repo, "image-objects", "refs/name").decode().split()
    assert {digest.hex() for digest in image.objects()} == {name.rpartition(":")[2] for name in objects}
