# SPDX-License-Identifier: Apache-2.0
"""Images, byte for byte against the tools that define them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootcd.errors import ErofsError
from bootcd.formats.dump import format_dump, parse_dump
from bootcd.formats.erofs import layout
from bootcd.formats.erofs.layout import Version
from bootcd.formats.erofs.writer import write_image
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.formats.tree import (
    BlockDevice,
    CharDevice,
    Directory,
    Fifo,
    Inode,
    Leaf,
    RegularFile,
    Socket,
    Symlink,
)
from formats.trees import describe, leaves, trees

EPOCH_1 = (Version.V0, Version.V1)


EXTERNAL = b"external\n" * 1000


def sample(algorithm: Algorithm = Algorithm.SHA512) -> Directory:
    """One of everything: all types, hard links up and down, shared xattrs, whiteouts, names around "." and "..",
    directories of several blocks, a symlink that fills one."""
    label = {b"security.selinux": b"system_u:object_r:usr_t:s0"}
    root = Directory(0o755, 0, 0, 1700000000, 5, dict(label))
    root.entries[b"usr"] = usr = Directory(0o755, 0, 0, 1700000000, 5, label | {b"user.only": b"here"})
    root.entries[b"ab"] = Directory(0o1777, 1000, 70000, 1700000001, 0, dict(label))
    usr.entries[b"z"] = shared = RegularFile(0o4755, mtime=1700000000, mtime_nsec=5, inline=b"shared\n" * 9)
    root.entries[b"a"] = shared
    usr.entries[b"empty"] = RegularFile(0o600, mtime=1700000000, mtime_nsec=5)
    for i, name in enumerate([b"!", b"-x", b".a", b"..", b"..a", b"...", b"n" * 255]):
        if name != b"..":
            usr.entries[name] = Symlink(0o777, mtime=1700000000 + i, target=b"t" * (10**i % 4001 + 1))
    usr.entries[b"many"] = many = Directory(0o755, mtime=1700000000, mtime_nsec=5)
    for i in range(300):
        many.entries[b"%d" % i + b"m" * (i % 90)] = Fifo(0o644, mtime=1700000000, mtime_nsec=5) if i % 7 else shared
    usr.entries[b"long"] = Symlink(0o777, mtime=1700000000, mtime_nsec=5, target=b"l" * 4095)
    digest = measure(EXTERNAL, algorithm)
    usr.entries[b"twin1"] = RegularFile(0o644, mtime=1700000000, mtime_nsec=5, digest=digest, size=len(EXTERNAL))
    usr.entries[b"twin2"] = RegularFile(0o755, mtime=1700000002, digest=digest, size=len(EXTERNAL))
    usr.entries[b"block"] = BlockDevice(0o660, 0, 6, 1700000000, 5, rdev=0x800)
    usr.entries[b"char"] = CharDevice(0o666, 0, 0, 1700000000, 5, rdev=0x103)
    usr.entries[b"socket"] = Socket(0o755, 0, 0, 1700000000, 5, {b"trusted.overlay.opaque": b"y"})
    usr.entries[b"gone"] = CharDevice(0o644, 0, 0, 1700000000, 5)
    root.entries[b"ff"] = CharDevice(0o600, 0, 0, 1700000000, 5, {b"trusted.x": b"1"})
    return root


# What cfsctl 0.9.0 prints for `sample` as a directory: compute-id --no-propagate-usr-to-root,
# and of SHA-512 its first half.
SAMPLE_IDS = {
    (Algorithm.SHA256, Version.V0): "f9a139e9c8c2126a226a0d265dffde8fcb654f65a64efd0317bf5dea3d2e3070",
    (Algorithm.SHA256, Version.V1): "c93c8bbf65517e49c1ee7beb64602606d8953dd22734a4f1d2fefd980326875f",
    (Algorithm.SHA256, Version.V2): "074fc47660de7ad43070df8e651056414f6cf09a5b6e6a90e294479ef27c0b0e",
    (Algorithm.SHA512, Version.V0): "baa430b67bce07a8987beaef142a0ba2ce86bd8d142fad24cdb85057350df483",
    (Algorithm.SHA512, Version.V1): "8dbd3a9bb7dadfb8466609d9d23506d5be2582fad9f1f99407f2087e7b9ec540",
    (Algorithm.SHA512, Version.V2): "ad6d3bdfe6ad74dab67de52c5ee27a454a27c190b9932a0059f412d6e2adfc1f",
}


def superblock(image: bytearray) -> tuple[int, ...]:
    fields: tuple[int, ...] = layout.SUPERBLOCK.unpack_from(image, layout.SUPERBLOCK_OFFSET)
    assert fields[0] == layout.SUPERBLOCK_MAGIC
    return fields


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_sample_has_the_id_that_cfsctl_gives_it(version: Version, algorithm: Algorithm) -> None:
    image = write_image(sample(algorithm), version, algorithm)
    assert measure(image, algorithm).hex()[:64] == SAMPLE_IDS[algorithm, version]


@pytest.mark.parametrize("version", Version)
def test_an_empty_tree(version: Version) -> None:
    image = write_image(Directory(0o755, mtime=7, mtime_nsec=9), version)
    assert layout.HEADER.unpack_from(image) == (layout.HEADER_MAGIC, 1, 0, version)
    fields = superblock(image)
    assert fields[4:9] == ((0, 36, 1, 0, 0) if version is Version.V2 else (0, fields[5], 257, 7, 9))
    assert len(image) == fields[9] * layout.BLOCK_SIZE
    if version is not Version.V2:
        assert all(name in image for name in (b"000102", b"fdfeff"))  # names of stubs, packed


def test_the_order_of_insertion_does_not_matter() -> None:
    tree = sample()
    turned = Directory()
    turned.copy_metadata(tree)
    turned.entries = dict(reversed(tree.entries.items()))
    for version in Version:
        assert write_image(tree, version) == write_image(turned, version)


@settings(deadline=None, max_examples=50)
@given(trees(), st.sampled_from(Version))
def test_the_tree_is_not_changed(tree: Directory, version: Version) -> None:
    before = describe(tree)
    image = write_image(tree, version)
    assert describe(tree) == before
    assert len(image) % layout.BLOCK_SIZE == 0
    assert write_image(tree, version) == image


def test_acls_are_announced() -> None:
    tree = Directory(0o755, xattrs={b"system.posix_acl_access": b"\2\0\0\0"})
    assert [layout.HEADER.unpack_from(write_image(tree, version))[2] for version in Version] == [1, 1, 0]


def test_unequal_times_make_inodes_long() -> None:
    def tree(nsec: int) -> Directory:
        root = Directory(0o755, mtime=5, mtime_nsec=1)
        root.entries[b"a"] = Fifo(mtime=5, mtime_nsec=nsec)
        return root

    assert superblock(write_image(tree(1)))[7:9] == (5, 1)
    early, late = write_image(tree(0)), write_image(tree(2))
    assert superblock(early)[7:9] == (5, 0)
    assert superblock(late)[7:9] == (5, 1)
    assert len(early) > len(late)


@pytest.mark.parametrize("version", Version)
def test_depth_is_no_limit(version: Version) -> None:
    root = directory = Directory()
    chain = [root]
    for _ in range(10_000):
        directory.entries[b"d"] = directory = Directory()
        chain.append(directory)
    image = write_image(root, version)
    assert superblock(image)[6] == (10_001 if version is Version.V2 else 10_257)
    for directory in chain:  # or else freeing the tree would recurse
        directory.entries.clear()


@pytest.mark.slow
@pytest.mark.parametrize("version", Version)
def test_a_hundred_thousand_files_take_seconds(version: Version) -> None:
    label = {b"security.selinux": b"system_u:object_r:usr_t:s0"}
    root = Directory(0o755)
    for i in range(1000):
        root.entries[b"dir%d" % i] = directory = Directory(0o755, xattrs=dict(label))
        for j in range(100):
            digest = (i * 100 + j).to_bytes(64, "big")
            directory.entries[b"file%d" % j] = RegularFile(0o644, xattrs=dict(label), digest=digest, size=70 + j)
    start = time.process_time()
    write_image(root, version)
    assert time.process_time() - start < 10


# --- what an image cannot hold


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize(
    ("inode", "reason"),
    [
        (Directory(uid=1 << 32), "does not fit"),
        (Fifo(gid=-1), "does not fit"),
        (Fifo(mtime=1 << 64), "does not fit"),
        (BlockDevice(rdev=1 << 32), "does not fit"),
        (RegularFile(size=1 << 64, digest=bytes(64)), "(does not fit|more than an image can express)"),
        (RegularFile(size=100, digest=bytes(32)), "sha512 needs 64"),
        (Fifo(xattrs={b"": b""}), "no xattr can have this name"),
        (Fifo(xattrs={b"user." + b"x" * 251: b""}), "no xattr can have this name"),
        (Fifo(xattrs={b"user.\0": b""}), "no xattr can have this name"),
        (Fifo(xattrs={b"user.x": bytes(65536)}), "65536 bytes"),
        (Fifo(xattrs={b"user.%d" % i: bytes(65535) for i in range(4)}), "xattrs take"),
    ],
)
def test_what_does_not_fit_is_named(version: Version, inode: Inode, reason: str) -> None:
    root = Directory(0o755)
    root.entries[b"usr"] = usr = Directory(0o755)
    usr.entries[b"b\xe4d\n"] = inode
    with pytest.raises(ErofsError, match=rf"^/usr/b\\xe4d\n: .*{reason}"):
        write_image(root, version)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0", b"x" * 256])
@pytest.mark.parametrize("version", Version)
def test_names_must_be_names(name: bytes, version: Version) -> None:
    root = Directory()
    root.entries[b"d"] = Directory()
    root.directory(b"d").entries[name] = Fifo()  # type: ignore[union-attr]
    with pytest.raises(ErofsError, match=r"^/d: .* cannot be the name of a file"):
        write_image(root, version)


@pytest.mark.parametrize("version", Version)
def test_a_whiteout_has_one_name(version: Version) -> None:
    root = Directory()
    root.entries[b"a"] = root.entries[b"b"] = CharDevice(0o600)
    with pytest.raises(ErofsError, match=r"^/a: a whiteout must not have hard links"):
        write_image(root, version)


def test_too_many_shared_xattrs() -> None:
    root = Directory()
    for name in (b"a", b"b"):
        root.entries[name] = Fifo(xattrs={b"user.%d" % i: b"" for i in range(256)})
    with pytest.raises(ErofsError, match=r"^/a: 256 of its xattrs"):
        write_image(root)
    del root.entries[b"b"].xattrs[b"user.7"]
    write_image(root)


def test_too_many_chunks() -> None:
    root = Directory()
    root.entries[b"a"] = RegularFile(digest=bytes(64), size=1 << 53)
    write_image(root)
    root.entries[b"a"] = RegularFile(digest=bytes(64), size=(1 << 53) + 1)
    with pytest.raises(ErofsError, match=r"^/a: a size of"):
        write_image(root)


# --- the tools


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def made_by(argv: list[str], tree: Directory, version: Version) -> bytes:
    options = ["--from-file", f"--min-version={version}", f"--max-version={version}", "-", "-"]
    dump = b"".join(format_dump(tree))
    return subprocess.run([*argv, *options], input=dump, capture_output=True, check=True).stdout


def crowd(seed: int) -> Directory:
    """A tree whose parts meet the boundaries of blocks: tails, chunk lists and symlinks of every length."""
    root = Directory(0o755, mtime=3)
    for i in range(40):
        n = seed * 40 + i
        root.entries[b"d%d" % n] = directory = Directory(0o755, mtime=n % 3)
        for j in range(n * 7 % 150):
            directory.entries[b"f%d" % j + b"x" * (n % 37)] = Fifo(mtime=3)
        root.entries[b"l%d" % n] = Symlink(mtime=n % 2, target=b"t" * (n * 97 % 1024 + 1))
        size = ((n * 131 % 1024) << 43) + n + 65
        xattrs = {b"user.x": b"v" * (n * 53 % 3000), b"user.y": b"%d" % (n % 5)}
        root.entries[b"c%d" % n] = RegularFile(xattrs=xattrs, digest=n.to_bytes(32, "big"), size=size)
        root.entries[b"i%d" % n] = RegularFile(inline=b"c" * (n * 29 % 513), xattrs=dict(xattrs))
    return root


@pytest.mark.interop
@pytest.mark.parametrize("version", EPOCH_1)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees(digest_size=32, size=40))
def test_random_trees_equal_cfsctl(version: Version, tree: Directory) -> None:
    expected = made_by([tool("cfsctl"), "mkcomposefs"], tree, version)
    assert write_image(tree, version, Algorithm.SHA256) == expected


@pytest.mark.interop
@pytest.mark.parametrize("version", EPOCH_1)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees(digest_size=32, size=40, whiteouts=False))
def test_random_trees_without_whiteouts_equal_mkcomposefs(version: Version, tree: Directory) -> None:
    expected = made_by([tool("mkcomposefs")], tree, version)
    assert write_image(tree, version, Algorithm.SHA256) == expected


@pytest.mark.interop
@pytest.mark.parametrize("version", EPOCH_1)
@pytest.mark.parametrize("argv", [["cfsctl", "mkcomposefs"], ["mkcomposefs"]], ids=lambda argv: argv[0])
@pytest.mark.parametrize("seed", range(3))
def test_block_boundaries_equal_the_tools(argv: list[str], version: Version, seed: int) -> None:
    tool(argv[0])
    assert write_image(crowd(seed), version, Algorithm.SHA256) == made_by(argv, crowd(seed), version)


def write_out(tree: Directory, base: bytes) -> None:
    """Make `tree` real. Needs root."""
    done: dict[int, bytes] = {}
    placed = [(base + path.rstrip(b"/"), inode) for path, inode in tree.walk()]
    for path, inode in placed:
        if id(inode) in done:
            os.link(done[id(inode)], path, follow_symlinks=False)
            continue
        done[id(inode)] = path
        if isinstance(inode, Directory):
            os.makedirs(path, exist_ok=True)
        elif isinstance(inode, Symlink):
            os.symlink(inode.target, path)
        else:
            os.mknod(path, inode.mode, getattr(inode, "rdev", 0))
            if isinstance(inode, RegularFile):
                content = EXTERNAL if inode.digest is not None else inode.inline or b""
                Path(os.fsdecode(path)).write_bytes(content)
    for path, inode in reversed(placed):
        os.chown(path, inode.uid, inode.gid, follow_symlinks=False)
        for name, value in inode.xattrs.items():
            os.setxattr(path, name, value, follow_symlinks=False)
        if not isinstance(inode, Symlink):
            os.chmod(path, inode.permissions)
        when = inode.mtime * 10**9 + inode.mtime_nsec
        os.utime(path, ns=(when, when), follow_symlinks=False)


@pytest.fixture
def directory_id(tmp_path: Path) -> Callable[[Directory, Algorithm, Version], str]:
    """The id that cfsctl gives a tree when it finds it as a directory: the only way to make it write V2 or SHA-512."""
    cfsctl = tool("cfsctl")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made: list[Directory] = []

    def ask(tree: Directory, algorithm: Algorithm, version: Version) -> str:
        if tree not in made:
            try:
                write_out(tree, os.fsencode(tmp_path / str(len(made))))
            except OSError as error:
                pytest.skip(f"cannot make the tree here: {error}")
            made.append(tree)
        options = ["--no-repo", f"--hash={algorithm.label}", f"--erofs-version={version}"]
        argv = [cfsctl, *options, "compute-id", "--no-propagate-usr-to-root", str(tmp_path / str(made.index(tree)))]
        return subprocess.run(argv, capture_output=True, check=True, text=True).stdout.strip().rpartition(":")[2]

    return ask


@pytest.mark.interop
def test_the_sample_as_a_directory(directory_id: Callable[[Directory, Algorithm, Version], str]) -> None:
    tree = sample()
    for algorithm in Algorithm:
        for version in Version:
            expected = directory_id(tree, algorithm, version)
            assert expected[:64] == SAMPLE_IDS[algorithm, version]


@pytest.mark.interop
def test_block_boundaries_as_directories(directory_id: Callable[[Directory, Algorithm, Version], str]) -> None:
    for seed in range(2):
        tree = crowd(seed)
        for name, inode in list(tree.entries.items()):
            inode.xattrs.pop(b"user.x", None)  # too large for some file systems
            if name.startswith(b"c"):
                del tree.entries[name]
            elif isinstance(inode, RegularFile):
                inode.inline = (inode.inline or b"")[:64]
                inode.size = len(inode.inline)
        for version in Version:
            expected = directory_id(tree, Algorithm.SHA512, version)
            assert measure(write_image(tree, version), Algorithm.SHA512).hex() == expected


@pytest.mark.interop
@settings(deadline=None, max_examples=20)
@given(leaves(digest_size=32), st.binary(max_size=3))
def test_whatever_cfsctl_accepts_is_accepted(leaf: Leaf, name: bytes) -> None:
    """One leaf in the root, perhaps in the place of a stub."""
    root = Directory()
    root.entries[name.hex().encode() or b"x"] = leaf
    text = b"".join(format_dump(root))
    assert write_image(parse_dump(text.splitlines()), Version.V1, Algorithm.SHA256) == made_by(
        [tool("cfsctl"), "mkcomposefs"], root, Version.V1
    )
