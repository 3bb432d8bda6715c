# SPDX-License-Identifier: Apache-2.0
"""What is written is what is read: by our own reader, by Python's tarfile, and byte for byte where both agree."""

from __future__ import annotations

import io
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import TarError
from bootcd.formats import tarwriter
from bootcd.formats.layers import apply_layer, new_root
from bootcd.formats.splitstream import External
from bootcd.formats.tar import Payload, members
from bootcd.formats.tree import BlockDevice, CharDevice, Directory, Fifo, Inode, RegularFile, Socket, Symlink
from bootcd.formats.treediff import differences

NAMES = st.binary(min_size=1, max_size=200).filter(
    lambda name: not {0, 47} & set(name) and name not in (b".", b"..") and not name.startswith(b".wh."))
METADATA = st.fixed_dictionaries({
    "permissions": st.integers(0, 0o7777), "uid": st.integers(0, 2**32 - 2), "gid": st.integers(0, 2**32 - 2),
    "mtime": st.integers(0, 2**35), "mtime_nsec": st.integers(0, 10**9 - 1),
    "xattrs": st.dictionaries(NAMES.filter(lambda name: not {10, 61} & set(name) and len(name) < 100).map(
        lambda name: b"user." + name), st.binary(max_size=100), max_size=3),
})
DEVICES = st.builds(os.makedev, st.integers(0, 4095), st.integers(0, 1048575))
LEAVES = METADATA.flatmap(lambda data: st.one_of(
    st.binary(max_size=64).map(lambda content: RegularFile(**data, inline=content)),
    st.binary(min_size=1, max_size=300).filter(lambda target: 0 not in target).map(
        lambda target: Symlink(**data, target=target)),
    st.just(Fifo(**data)), DEVICES.map(lambda rdev: CharDevice(**data, rdev=rdev)),
    DEVICES.map(lambda rdev: BlockDevice(**data, rdev=rdev))))
INODES = st.one_of(LEAVES, METADATA.map(lambda data: Directory(**data)))


def archive(root: Directory) -> bytes:
    """A tar of a tree with small files."""
    parts, known = [], {}
    for path, inode in root.walk():
        name = path[1:] or b"."
        link = known.setdefault(id(inode), name)
        parts.append(tarwriter.header(name, inode, link if link != name else None))
        if isinstance(inode, RegularFile) and link == name:
            parts.append(tarwriter.padded(inode.inline or b""))
    return b"".join(parts) + tarwriter.END


def read(data: bytes) -> Directory:
    root = new_root()

    def plain() -> object:
        for entry, content in members(io.BytesIO(data).read):
            if isinstance(content, Payload):
                while content.read(1000):
                    pass
                content = External(b"\1" * 64)
            yield entry, content

    apply_layer(root, plain())  # type: ignore[arg-type]
    return root


@settings(deadline=None)
@given(st.dictionaries(NAMES, INODES, max_size=5), METADATA)
def test_a_tree_comes_back(entries: dict[bytes, Inode], metadata: dict[str, object]) -> None:
    root = Directory(**metadata)  # type: ignore[arg-type]
    root.entries = entries
    assert list(differences(root, read(archive(root)))) == []


def test_hard_links_and_large_files() -> None:
    root = Directory(0o755)
    root.entries[b"a" * 150] = root.entries[b"b"] = RegularFile(0o644, inline=b"content")
    found = read(archive(root))
    assert found.entries[b"b"] is found.entries[b"a" * 150]
    large = RegularFile(0o644, size=1000, digest=b"\1" * 64)
    data = tarwriter.header(b"large", large) + tarwriter.padded(b"x" * 1000) + tarwriter.END
    node = read(data).entries[b"large"]
    assert isinstance(node, RegularFile)
    assert (node.size, node.digest) == (1000, b"\1" * 64)


def test_python_reads_it_too() -> None:
    root = Directory(0o755)
    root.entries[b"file"] = RegularFile(0o4755, 5_000_000, 7, 1_700_000_000, 500_000_000, {b"user.x": b"1"},
                                        inline=b"content")
    root.entries["näme".encode() * 30] = Symlink(target=b"../file")
    root.entries[b"null"] = CharDevice(0o666, rdev=os.makedev(1, 3))
    with tarfile.open(fileobj=io.BytesIO(archive(root))) as tar:
        found = {one.name: one for one in tar}
        assert sorted(found) == [".", "file", "null", "näme" * 30]
        assert (found["file"].mode, found["file"].uid, found["file"].mtime) == (0o4755, 5_000_000, 1_700_000_000.5)
        assert found["file"].pax_headers["SCHILY.xattr.user.x"] == "1"
        assert (found["null"].devmajor, found["null"].devminor) == (1, 3)
        stream = tar.extractfile("file")
        assert stream is not None
        assert stream.read() == b"content"


def test_only_xattrs_that_belong_to_the_file() -> None:
    xattrs = {b"security.selinux": b"label", b"trusted.x": b"1", b"security.capability": b"2", b"user.y": b"3"}
    root = Directory(0o755)
    root.entries[b"file"] = RegularFile(0o644, xattrs=xattrs, inline=b"")
    assert read(archive(root)).entries[b"file"].xattrs == {b"security.capability": b"2", b"user.y": b"3"}


@pytest.mark.parametrize(("name", "inode", "message"), [
    (b"run/s", Socket(), "/run/s is a socket, which no layer can hold"),
    (b"etc/.wh.x", RegularFile(inline=b""), "/etc/.wh.x has a name that means something else in a layer"),
    (b"f", RegularFile(mtime=-1, inline=b""), "/f has a time before 1970, which no layer can hold"),
    (b"f", RegularFile(xattrs={b"user.a=b": b""}, inline=b""),
     "/f has the xattr user.a=b, whose name no layer can hold"),
])
def test_what_no_layer_can_hold(name: bytes, inode: Inode, message: str) -> None:
    with pytest.raises(TarError) as caught:
        tarwriter.header(name, inode)
    assert str(caught.value) == message
