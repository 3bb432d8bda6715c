# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import TarError
from bootcd.formats.splitstream import External, Splitstream
from bootcd.formats.tar import Entry, EntryType, Payload, entries, split
from formats.rawtar import (
    ALGORITHM,
    END,
    GNU,
    V7,
    cfsctl,
    digest,
    directory,
    hardlink,
    header,
    long_name,
    member,
    pax,
    reader,
    record,
    symlink,
    to_splitstream,
)

BIG = bytes(range(256)) * 3
Found = tuple[Entry, bytes | External | None]


def listed(archive: bytes, step: int = 1 << 30) -> list[Found]:
    """What `entries` says of an archive that went through `split` and a splitstream file."""
    return list(entries(Splitstream.parse(to_splitstream(archive, step), ALGORITHM).chunks()))


def one(archive: bytes) -> Entry:
    ((entry, _),) = listed(archive)
    return entry


def rebuilt(archive: bytes, step: int) -> tuple[bytes, list[bytes]]:
    whole, payloads = [], []
    for item in split(reader(archive, step)):
        if isinstance(item, Payload):
            payloads.append(b"".join(iter(lambda: item.read(100), b"")))  # noqa: B023 - called at once
            whole.append(payloads[-1])
        else:
            whole.append(item)
    return b"".join(whole), payloads


def test_split_keeps_all_but_large_contents() -> None:
    archive = member(b"small", b"s" * 64) + member(b"large", b"l" * 65) + END + b"whatever follows"
    items = [item if isinstance(item, bytes) else item.read(1000) for item in split(reader(archive))]
    assert items == [archive[:1536], b"l" * 65, archive[1601:-16], b"whatever follows"]


@pytest.mark.parametrize("step", [1, 7, 512, 1 << 30])
def test_split_gives_every_byte_however_it_is_read(step: int) -> None:
    archive = (directory(b"./") + member(b"a", BIG) + long_name(b"n" * 200) + member(b"x", BIG * 2)
               + pax((b"uid", b"7")) + member(b"b", b"small") + END + bytes(9000))
    assert rebuilt(archive, step) == (archive, [BIG, BIG * 2])


def test_a_payload_must_be_read() -> None:
    items = split(reader(member(b"a", BIG) + END))
    next(items)
    next(items)
    with pytest.raises(RuntimeError, match="768 bytes of a payload were not read"):
        next(items)


def test_entries_of_every_type() -> None:
    archive = (directory(b"./") + directory(b"./usr/", mode=b"0001777") + member(b"usr/f", b"hi", uid=b"0000012")
               + member(b"/usr//./big", BIG) + symlink(b"usr/s", b"../x/") + hardlink(b"usr/h", b"./usr/f")
               + member(b"c", type=b"3", major=b"0000001", minor=b"0000405") + member(b"b", type=b"4", major=b"10")
               + member(b"p", type=b"6", gid=b"17") + member(b"old", b"x", b"\0", magic=V7)
               + member(b"cont", b"", b"7"))
    got = listed(archive + END)
    assert [(entry.path, entry.type) for entry, _ in got] == [
        (b"", EntryType.DIRECTORY), (b"usr", EntryType.DIRECTORY), (b"usr/f", EntryType.FILE),
        (b"usr/big", EntryType.FILE), (b"usr/s", EntryType.SYMLINK), (b"usr/h", EntryType.HARDLINK),
        (b"c", EntryType.CHAR), (b"b", EntryType.BLOCK), (b"p", EntryType.FIFO), (b"old", EntryType.FILE),
        (b"cont", EntryType.FILE),
    ]
    assert [content for _, content in got[:3]] == [None, None, b"hi"]
    assert isinstance(got[3][1], External)
    assert got[3][0].size == len(BIG)
    assert (got[1][0].permissions, got[2][0].uid, got[8][0].gid) == (0o1777, 0o12, 0o17)
    assert (got[4][0].target, got[5][0].target) == (b"../x/", b"usr/f")
    assert (got[6][0].rdev, got[7][0].rdev) == (0x100105, 0x800)


def test_pax_goes_before_gnu_before_the_header() -> None:
    assert one(member(b"f", prefix=b"usr/lib")).path == b"usr/lib/f"
    assert one(member(b"f", prefix=b"usr/lib", magic=GNU)).path == b"f"
    assert one(long_name(b"long") + member()).path == b"long"
    assert one(pax((b"path", b"pax")) + long_name(b"long") + member()).path == b"pax"
    assert one(long_name(b"target", b"K") + symlink(b"s", b"short")).target == b"target"
    assert one(long_name(b"target", b"K") + pax((b"linkpath", b"pax")) + symlink(b"s", b"short")).target == b"pax"
    assert one(long_name(b"target", b"K") + member()).target == b""


def test_pax_numbers_and_times() -> None:
    got = one(pax((b"uid", b"4294967295"), (b"gid", b"8"), (b"mtime", b"5.25")) + member())
    assert (got.uid, got.gid, got.mtime, got.mtime_nsec) == (2**32 - 1, 8, 5, 250_000_000)
    assert one(pax((b"mtime", b"5.1234567899")) + member()).mtime_nsec == 123_456_789
    assert one(pax((b"mtime", b"5.")) + member()).mtime_nsec == 0
    assert one(pax((b"uid", b"1"), (b"uid", b"2")) + member()).uid == 2
    archive = pax((b"size", b"%d" % len(BIG))) + header(size=0) + BIG + bytes(-len(BIG) % 512)
    assert rebuilt(archive, 4096) == (archive, [BIG])


def test_pax_xattrs() -> None:
    got = one(pax((b"SCHILY.xattr.security.capability", b"a\0\n=b"), (b"SCHILY.xattr.user.empty", b""),
                  (b"LIBARCHIVE.xattr.user.other", b"eA==")) + member())
    assert got.xattrs == {b"security.capability": b"a\0\n=b", b"user.empty": b""}


def test_extensions_belong_to_one_member_and_global_ones_to_none() -> None:
    archive = pax((b"uid", b"9"), type=b"g") + pax((b"uid", b"7")) + member(b"a") + member(b"b")
    assert [entry.uid for entry, _ in listed(archive)] == [7, 0]


def test_numbers_in_base_256() -> None:
    assert one(member(uid=b"\x80\0\0\0\xff\xff\xff\xff")).uid == 2**32 - 1
    assert one(member(mtime=b"\xff" * 12)).mtime == -1
    assert one(header(size=b"\x80" + bytes(10) + b"\x03") + b"abc" + bytes(509)).size == 3


def test_numbers_in_octal_may_be_padded() -> None:
    for text in (b"      7\0", b"0000007 ", b"7\0junk", b"7"):
        assert one(member(uid=text)).uid == 7
    assert one(header(size=b"")).size == 0


def test_a_sum_of_signed_bytes_is_a_checksum_too() -> None:
    block = header(b"\xff\xfe")
    total = sum(block) - sum(block[148:156]) + 256 - 512
    assert one(block[:148] + b"%06o\0 " % total + block[156:]).path == b"\xff\xfe"


def test_the_end_may_be_missing() -> None:
    assert [entry.path for entry, _ in listed(member())] == [b"f"]
    assert listed(b"") == []


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (member()[:100], "tar, byte 0, '': the archive ends within a header"),
        (member() + member(b"usr/big", BIG)[:600], "byte 512, 'usr/big': the archive ends 680 bytes before"),
        (header(size=700) + bytes(700), "ends within the content or its padding"),
        (header(size=9) + b"x", "ends within the content or its padding"),
        (member() + bytes(512), "byte 1024, '': the archive ends after one zero block"),
        (member() + bytes(512) + member(), "a lone zero block"),
        (member(checksum=b"0000000\0"), "'f': the checksum of the header is 3139, not 0"),
        (member(checksum=b"zzzzzzzz"), "malformed checksum"),
        (header(size=b"-1"), "malformed size '-1"),
        (header(size=b"8"), "malformed size '8"),
        (header(size=b"0o7"), "malformed size"),
        (header(size=b"1_1"), "malformed size"),
        (header(size=b"\xff" * 12), "size -1 or mtime 0 is out of range"),
        (header(size=b"\x80" + b"\xff" * 11), "is out of range"),
        (header(size=b"\x81" + bytes(11)), "malformed size"),
        (member(uid=b"\x80\0\0\1\0\0\0\0"), "owner 4294967296:0 is out of range"),
        (member(type=b"3", major=b"0010000"), "device 4096:0 is out of range"),
        (member(b""), "a member without a name"),
        (pax((b"path", b"")) + member(), "a member without a name"),
        (member(b"usr/../etc/x"), "'..' in 'usr/../etc/x'"),
        (member(b"../x"), "'..' in '../x'"),
        (hardlink(b"h", b"/../../etc/shadow"), "'..' in"),
        (member(b"d/"), "a file whose name ends in '/'"),
        (pax((b"path", b"a\0b")) + member(), "a NUL in 'a\\x00b'"),
        (long_name(b"a\0b") + member(), "a NUL in"),
        (pax((b"path", b"n" * 256)) + member(), "a name longer than 255"),
        (pax((b"path", b"n/" * 3000)) + directory(b"d"), "a path longer than 4095"),
        (symlink(b"s", b""), "a symbolic link with a target of 0 bytes"),
        (pax((b"linkpath", b"t" * 4096)) + symlink(b"s", b""), "a symbolic link with a target of 4096 bytes"),
        (member(b"s", b"x", b"2", link=b"t"), "a symbolic link with a content of 1 bytes"),
        (header(b"s", b"2", 1 << 32, link=b"t"), "a symbolic link with a content of 4294967296 bytes"),
        (header(b"d", b"5", 1 << 32), "a directory with a content of"),
        (member(type=b"V"), "members of type 'V' are not supported"),
        (member(type=b"S", magic=GNU), "members of type 'S' are not supported"),
        (member(type=b"x", magic=V7), "members of type 'x' are not supported"),
        (pax((b"GNU.sparse.major", b"1")) + member(), "sparse files are not supported"),
        (pax() + pax() + member(), "two extended headers for one member"),
        (long_name(b"a") + long_name(b"b") + member(), "two long names for one member"),
        (long_name(b"a", b"K") + long_name(b"b", b"K") + member(), "two long link targets for one member"),
        (pax() + pax(type=b"g") + member(), "a global header between an extension and its member"),
        (pax() + END, "an extension without a member"),
        (pax(), "an extension without a member"),
        (header(type=b"x", size=100) + b"30 a=b", "the archive ends within an extension"),
        (pax((b"uid", b"x")) + member(), "malformed uid 'x' in a pax record"),
        (pax((b"uid", b"-1")) + member(), "malformed uid '-1' in a pax record"),
        (pax((b"uid", b"9" * 21)) + member(), "malformed uid"),
        (pax((b"size", b"99999999999999999999")) + member(), "is out of range"),
        (pax((b"mtime", b"-1.5")) + member(), "malformed mtime '-1'"),
        (pax((b"mtime", b"1.x")) + member(), "malformed mtime"),
        (pax((b"mtime", b"1"), (b"mtime", b"2.5")) + member(), "two mtime records for one member"),
        (pax((b"SCHILY.xattr.", b"x")) + member(), "extended attribute ''"),
        (pax((b"SCHILY.xattr.user.a", b"x" * 65536)) + member(), "extended attribute 'user.a' with 65536 bytes"),
        (member(b"pax", b"junk", b"x") + member(), "malformed pax record at byte 0"),
        (member(b"pax", record(b"a", b"b") + b"9 uid=7\n", b"x") + member(), "malformed pax record at byte 6"),
        (member(b"pax", b"8 uid=7x", b"x") + member(), "malformed pax record"),
        (member(b"pax", b"6 uid\n", b"x") + member(), "malformed pax record"),
    ],
)
def test_bad_archives(archive: bytes, message: str) -> None:
    with pytest.raises(TarError) as caught:
        to_splitstream(archive)
    assert message in str(caught.value)
    assert str(caught.value).startswith("tar, byte ")


@pytest.mark.parametrize("bomb", [
    header(type=b"g", size=1 << 30),
    header(type=b"x", size=1 << 32),
    header(type=b"L", size=(1 << 20) + 1),
    pax((b"a", b"x" * 700_000)) + header(type=b"K", size=700_000, magic=GNU),
])
def test_extensions_are_bounded_before_they_are_read(bomb: bytes) -> None:
    source, asked = reader(bomb + bytes(1 << 20)), 0

    def read(n: int) -> bytes:
        nonlocal asked
        data = source(n)
        asked += len(data)
        return data

    with pytest.raises(TarError, match=r"extensions of \d+ bytes, more than 1048576"):
        for _ in split(read):
            pass
    assert asked < len(bomb) + (600 << 10)


def test_what_follows_the_end_is_streamed() -> None:
    left = 100 << 20

    def read(n: int) -> bytes:
        nonlocal left
        n = min(n, left)
        left -= n
        return bytes(n)

    total = 0
    for item in split(read):
        assert isinstance(item, bytes)
        assert len(item) <= 1 << 20
        total += len(item)
    assert total == 100 << 20


@pytest.mark.parametrize("chunks", [
    [External(bytes(32))],
    [member(), External(bytes(32)), END],
    [member(b"big", BIG), END],
    [header(b"big", size=65), END],
    [header(b"big", size=64), External(bytes(32)), bytes(448), END],
    [END, External(bytes(32))],
    [bytes(512), External(bytes(32)), bytes(512)],
])
def test_what_is_external_must_be_a_large_content(chunks: list[bytes | External]) -> None:
    with pytest.raises(TarError):
        list(entries(chunks))


def test_entries_reads_chunks_cut_anywhere() -> None:
    archive = directory(b"d") + long_name(b"d/long") + member(b"x", b"small") + END
    cut = [archive[i : i + 100] for i in range(0, len(archive), 100)]
    assert list(entries(cut)) == list(entries([archive]))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_agrees_with_tarfile(format: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for i, name in enumerate(("a", "d/" + "n" * 90, "d/" * 60 + "x", "ünï")):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.mode = 40 * i, 1_700_000_000 + i, 1000 + i, 0o4755
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as archive:
        expected = [(m.name.encode(), m.size, m.mtime, m.uid, m.mode) for m in archive]
    found = [(e.path, e.size, e.mtime, e.uid, e.permissions) for e, _ in listed(file.getvalue())]
    assert found == expected


names = st.binary(min_size=1, max_size=40).map(lambda raw: raw.replace(b"\0", b"n").replace(b".", b"n"))
members = st.one_of(
    st.builds(lambda name, data: member(b"n" + name[:90], data), names.map(lambda n: n.rstrip(b"/")),
              st.binary(max_size=300)),
    st.builds(directory, names.filter(lambda name: bool(name.strip(b"/")))),
    st.builds(lambda name, data: long_name(b"n" * 120 + name.rstrip(b"/")) + member(b"short", data), names,
              st.binary(max_size=100)),
    st.builds(lambda mtime: pax((b"mtime", b"%d.5" % mtime)) + member(), st.integers(0, 2**40)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(members, max_size=6).map(b"".join), st.integers(1, 700), st.sampled_from([b"", END, END + bytes(5000)]))
def test_split_and_entries_round_trip(archive: bytes, step: int, end: bytes) -> None:
    whole, _ = rebuilt(archive + end, step)
    assert whole == archive + end
    assert listed(archive + end, step) == listed(archive + end)


@settings(max_examples=100, deadline=None)
@given(st.lists(members, min_size=1, max_size=4).map(b"".join), st.data())
def test_any_bytes_raise_only_tar_errors(archive: bytes, data: st.DataObject) -> None:
    broken = bytearray(archive)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(broken) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=12))
        broken[start : start + len(piece)] = piece
    with contextlib.suppress(TarError):
        to_splitstream(bytes(broken))
    with contextlib.suppress(TarError):
        list(entries([bytes(broken)]))
    # The same with checksums that are right, so that the fields behind them are read.
    for at in range(0, len(broken) - 511, 512):
        broken[at + 148 : at + 156] = b" " * 8
        broken[at + 148 : at + 156] = b"%06o\0 " % sum(broken[at : at + 512])
    with contextlib.suppress(TarError):
        to_splitstream(bytes(broken))


@pytest.mark.interop
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, None])
def test_cfsctl_splits_the_same(tmp_path: Path, format: int | None) -> None:
    if not shutil.which("cfsctl"):
        pytest.skip("cfsctl is not installed")
    if format is None:
        archive = b""
    else:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=format) as tar:
            tar.add(Path(__file__).parents[2] / "src", "src")
        archive = file.getvalue()
    repository = tmp_path / "repository"
    cfsctl(repository, "init", "--algorithm", ALGORITHM.identifier, "--insecure")
    cfsctl(repository, "oci", "import-layer", digest(archive), input=archive)
    stored = (repository / "streams" / f"oci-layer-{digest(archive)}").read_bytes()
    assert to_splitstream(archive) == stored
