# SPDX-License-Identifier: Apache-2.0
"""`oci:` and `oci-archive:`: both read the same layout, so the same tests run on both."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import (
    BlobMismatch,
    BlobNotFound,
    BootcdError,
    ImageNotFound,
    NoMatchingPlatform,
    OciError,
    SourceUnreachable,
)
from bootcd.formats.oci import MAX_DOCUMENT
from bootcd.model import ImageReference, Platform
from bootcd.registry.blob import read_blob
from bootcd.registry.ociarchive import members
from bootcd.registry.ocidir import Region
from bootcd.registry.opening import open_source
from kit.images import ImageBuilder, IndexBuilder, sha256, to_json
from kit.pulling import AMD64, ARM64, FAST, IMAGE, LAYERS, fetch, pull

OTHER = ImageBuilder(LAYERS[1:], platform=AMD64)

Make = Callable[[Path, str], str]


def as_directory(layout: Path, name: str) -> str:
    return f"oci:{layout}{name}"


def as_archive(layout: Path, name: str) -> str:
    file = layout.with_suffix(".tar")
    with tarfile.open(file, "w") as archive:
        for path in sorted(layout.rglob("*")):
            archive.add(path, path.relative_to(layout), recursive=False)
    return f"oci-archive:{file}{name}"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return IMAGE.write_layout(tmp_path / "layout", "1")


def blob_path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


@pytest.mark.parametrize("make", [as_directory, as_archive])
class TestBoth:
    def test_pull(self, make: Make, layout: Path) -> None:
        assert pull(make(layout, ":1")) == [layer.tar for layer in LAYERS]
        assert pull(make(layout, "")) == [layer.tar for layer in LAYERS]

    def test_names(self, make: Make, layout: Path) -> None:
        OTHER.write_layout(layout, "2")
        assert fetch(make(layout, ":2")).digest == OTHER.manifest_digest
        assert fetch(make(layout, f"@{IMAGE.manifest_digest}")).digest == IMAGE.manifest_digest
        with pytest.raises(ImageNotFound, match=r'layout\S*: the layout holds several images: "1", "2"'):
            fetch(make(layout, ""))
        with pytest.raises(ImageNotFound, match=r'no image named \'3\', only: "1", "2"'):
            fetch(make(layout, ":3"))
        with pytest.raises(ImageNotFound, match=f"no image {sha256(b'')}"):
            fetch(make(layout, f"@{sha256(b'')}"))

    def test_index(self, make: Make, tmp_path: Path) -> None:
        images = [ImageBuilder(LAYERS[:1], platform=platform) for platform in (AMD64, ARM64)]
        index = IndexBuilder(images)
        layout = index.write_layout(tmp_path / "multi", "1")
        reference = make(layout, ":1")
        for image in images:
            fetched = fetch(reference, platform=image.platform)
            assert (fetched.digest, fetched.reference_digest) == (image.manifest_digest, index.manifest_digest)
        with pytest.raises(NoMatchingPlatform, match="multi"):
            fetch(reference, platform=Platform("linux", "riscv64"))

    def test_offset(self, make: Make, layout: Path) -> None:
        source = open_source(ImageReference.parse(make(layout, ":1")), FAST)
        plain = source.manifest(AMD64).manifest.layers[2]
        assert b"".join(source.blob(plain, 99_990)) == LAYERS[2].tar[99_990:]
        assert b"".join(source.blob(plain, plain.size)) == b""
        source.close()

    def test_a_source_can_be_closed_twice_and_unread(self, make: Make, layout: Path) -> None:
        source = open_source(ImageReference.parse(make(layout, ":1")), FAST)
        source.close()
        source.manifest(AMD64)
        source.close()
        source.close()

    def test_missing(self, make: Make, layout: Path, tmp_path: Path) -> None:
        with pytest.raises(SourceUnreachable, match="there is no"):
            fetch(make(layout, ":1").replace("layout", "missing"))
        blob_path(layout, IMAGE.manifest_digest).unlink()
        with pytest.raises(BlobNotFound, match=IMAGE.manifest_digest):
            fetch(make(layout, ":1"))
        (layout / "index.json").unlink()
        with pytest.raises(OciError, match=r"there is no index\.json"):
            fetch(make(layout, ":1"))
        (layout / "oci-layout").unlink()
        with pytest.raises(OciError, match="there is no oci-layout"):
            fetch(make(layout, ":1"))

    @pytest.mark.parametrize(("name", "content"), [
        ("oci-layout", b"{}"), ("oci-layout", b'{"imageLayoutVersion": "2.0.0"}'), ("oci-layout", b" " * 5000),
        ("index.json", b""), ("index.json", b"[]"), ("index.json", b"\xff"), ("index.json", b" " * (MAX_DOCUMENT + 1)),
        ("index.json", to_json({"schemaVersion": 2, "manifests": [
            {"mediaType": IMAGE.media_type, "digest": "sha256:../../x", "size": 1}]})),
    ])
    def test_malformed(self, make: Make, layout: Path, name: str, content: bytes) -> None:
        (layout / name).write_bytes(content)
        with pytest.raises(OciError):
            fetch(make(layout, ":1"))

    def test_wrong_sizes_and_digests(self, make: Make, layout: Path) -> None:
        path = blob_path(layout, IMAGE.manifest_digest)
        good = path.read_bytes()
        path.write_bytes(good + b" ")
        with pytest.raises(BlobMismatch, match=f"has {len(good) + 1} bytes, not {len(good)}"):
            fetch(make(layout, ":1"))
        path.write_bytes(good.replace(b"gzip", b"zstd"))
        with pytest.raises(BlobMismatch, match="has digest"):
            fetch(make(layout, ":1"))

    def test_a_huge_manifest(self, make: Make, layout: Path) -> None:
        index = json.loads((layout / "index.json").read_text())
        index["manifests"][0]["size"] = 1 << 40
        (layout / "index.json").write_text(json.dumps(index))
        with pytest.raises(OciError, match="more than 4194304"):
            fetch(make(layout, ":1"))

    def test_a_layer_that_is_damaged(self, make: Make, layout: Path) -> None:
        path = blob_path(layout, LAYERS[0].digest)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(BlobMismatch, match=LAYERS[0].digest):
            pull(make(layout, ":1"))


class TestDirectory:
    def test_links_are_followed_to_files_only(self, layout: Path, tmp_path: Path) -> None:
        shared = tmp_path / "shared"
        shutil.move(layout / "blobs", shared)
        (layout / "blobs").symlink_to(shared)
        assert fetch(f"oci:{layout}").digest == IMAGE.manifest_digest
        path = blob_path(layout, IMAGE.manifest_digest)
        path.unlink()
        path.symlink_to("/dev/zero")
        with pytest.raises(SourceUnreachable, match="not a regular file"):
            fetch(f"oci:{layout}")

    @pytest.mark.parametrize("name", ["oci-layout", "index.json"])
    def test_what_is_no_file(self, layout: Path, name: str) -> None:
        (layout / name).unlink()
        os.mkfifo(layout / name)
        with pytest.raises(SourceUnreachable, match=f"{name}: not a regular file"):
            fetch(f"oci:{layout}")
        (layout / name).unlink()
        (layout / name).mkdir()
        with pytest.raises(SourceUnreachable):
            fetch(f"oci:{layout}")
        (layout / name).rmdir()
        (layout / name).symlink_to(name)
        with pytest.raises(SourceUnreachable, match="symbolic links"):
            fetch(f"oci:{layout}")

    def test_a_path_with_nul(self) -> None:
        for transport in ("oci", "oci-archive"):
            with pytest.raises(BootcdError):
                fetch(f"{transport}:a\0b")

    def test_sha512(self, layout: Path) -> None:
        digest = "sha512:" + hashlib.sha512(IMAGE.manifest_bytes).hexdigest()
        (layout / "blobs/sha512").mkdir()
        blob_path(layout, digest).write_bytes(IMAGE.manifest_bytes)
        index = json.loads((layout / "index.json").read_text())
        index["manifests"][0]["digest"] = digest
        (layout / "index.json").write_text(json.dumps(index))
        assert fetch(f"oci:{layout}").digest == digest


def archive_of(*entries: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for info, data in entries:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def entry(name: str, data: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def read_members(path: Path, data: bytes) -> dict[str, tuple[int, int]]:
    path.write_bytes(data)
    with path.open("rb") as file:
        return members(Region(file.fileno(), 0, len(data)))


class TestArchive:
    def test_names_and_places(self, tmp_path: Path) -> None:
        long = "x" * 300
        for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            names = ["./index.json", "oci-layout"] + ([long] if format != tarfile.USTAR_FORMAT else [])
            data = archive_of(*(entry(name, name.encode()) for name in names), format=format)
            found = read_members(tmp_path / "a.tar", data)
            assert {name: data[start : start + size] for name, (start, size) in found.items()} == {
                name.removeprefix("./"): name.encode() for name in names
            }

    @pytest.mark.parametrize(("program", "tool"), [("gzip", "gunzip"), ("zstd", "unzstd"), ("xz", "unxz"),
                                                   ("bzip2", "bunzip2")])
    def test_compressed(self, layout: Path, program: str, tool: str) -> None:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
        reference = as_archive(layout, "")
        file = Path(reference.partition(":")[2])
        file.write_bytes(subprocess.run([program, "-c", file], capture_output=True, check=True).stdout)
        with pytest.raises(OciError, match=f"^oci-archive:{file}: the archive is compressed as a whole") as caught:
            fetch(reference)
        assert tool in caught.value.hint

    def test_truncated(self, layout: Path) -> None:
        reference = as_archive(layout, "")
        file = Path(reference.partition(":")[2])
        data = file.read_bytes()
        for length in (0, 1, 511, 512, 1000, 1025, len(data) // 2):
            file.write_bytes(data[:length])
            with pytest.raises((OciError, BlobNotFound)):
                pull(reference)

    def test_what_different_readers_see_differently(self, tmp_path: Path) -> None:
        with pytest.raises(OciError, match=r"two members named 'index\.json'"):
            read_members(tmp_path / "a", archive_of(entry("index.json", b"{}"), entry("./index.json", b"[]")))
        sparse = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "100"}
        with pytest.raises(OciError, match="sparse"):
            read_members(tmp_path / "a", archive_of(entry("index.json", b"{}", pax_headers=sparse)))

    def test_links_and_devices_are_not_there(self, tmp_path: Path) -> None:
        found = read_members(tmp_path / "a", archive_of(
            entry("index.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            entry("oci-layout", type=tarfile.LNKTYPE, linkname="index.json"), entry("blobs", type=tarfile.DIRTYPE),
            entry("fifo", type=tarfile.FIFOTYPE), entry("dev", type=tarfile.CHRTYPE)))
        assert found == {}

    @pytest.mark.parametrize("size", [-512, -1024, -(1 << 40), 1 << 40, (1 << 62)])
    @pytest.mark.parametrize("kind", [b"0", b"L", b"K", b"x", b"g", b"S", b"5"])
    def test_lying_sizes(self, tmp_path: Path, size: int, kind: bytes) -> None:
        """Negative sizes once sent tarfile back to where it came from, for ever (CVE-2025-8194)."""
        header = bytearray(archive_of(entry("first", b"data"), entry("second", b"data"), format=tarfile.GNU_FORMAT))
        block = header[1024:1536]
        block[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % (1 << 88)).to_bytes(11, "big")
        block[156:157] = kind
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        header[1024:1536] = block
        start = time.process_time()
        with contextlib.suppress(OciError):
            found = read_members(tmp_path / "a", bytes(header))
            assert "second" not in found
        assert time.process_time() - start < 5

    def test_large_headers(self, tmp_path: Path) -> None:
        with pytest.raises(OciError, match="larger than 8192"):
            read_members(tmp_path / "a", archive_of(entry("a", pax_headers={"comment": "x" * 100_000})))

    def test_many_headers(self, tmp_path: Path) -> None:
        """Global headers add up in memory."""
        block = tarfile.TarInfo.create_pax_global_header({"comment": "x" * 7000})
        block += entry("f", type=tarfile.DIRTYPE)[0].tobuf()
        with pytest.raises(OciError, match="bytes of headers"):
            read_members(tmp_path / "a", block * 3000)

    def test_many_members(self, tmp_path: Path) -> None:
        data = b"".join(entry(f"f{number}")[0].tobuf() for number in range(20_000))
        with pytest.raises(OciError, match="bytes of headers"):
            read_members(tmp_path / "a", data)

    def test_a_chain_of_long_names(self, tmp_path: Path) -> None:
        info, _ = entry("name", type=tarfile.GNUTYPE_LONGNAME)
        info.size = 5
        block = info.tobuf(tarfile.GNU_FORMAT) + b"names" + bytes(507)
        with pytest.raises(OciError):
            read_members(tmp_path / "a", block * 3000 + bytes(1024))

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_any_changed_byte_raises_only_our_errors(self, tmp_path_factory: pytest.TempPathFactory,
                                                     data: st.DataObject) -> None:
        file = tmp_path_factory.getbasetemp() / "changed.tar"
        content = bytearray(archive_of(entry("index.json", b"{}"), entry("y" * 200, b"{}", pax_headers={"a": "b"}),
                                       entry("oci-layout", b"{}")))
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(BootcdError):
            read_members(file, bytes(content))

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=2000))
    def test_any_bytes_raise_only_our_errors(self, tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
        with contextlib.suppress(BootcdError):
            read_members(tmp_path_factory.getbasetemp() / "any.tar", data)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_what_skopeo_writes(layout: Path, tmp_path: Path) -> None:
    for target in (f"oci:{tmp_path}/copy:v1", f"oci-archive:{tmp_path}/copy.tar:v1"):
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}:1", target], check=True)
        assert pull(target) == [layer.tar for layer in LAYERS]
        assert fetch(target).manifest.config.digest == IMAGE.config_digest


def test_a_small_blob(layout: Path) -> None:
    source = open_source(ImageReference.parse(f"oci:{layout}"), FAST)
    assert read_blob(source, source.manifest(AMD64).manifest.config, MAX_DOCUMENT) == IMAGE.config_bytes
    assert gzip.decompress(read_blob(source, source.manifest(AMD64).manifest.layers[0], 1 << 20)) == LAYERS[0].tar
