# SPDX-License-Identifier: Apache-2.0
"""Repositories, layers and images to try things on."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bootcd.formats.fsverity import Algorithm
from bootcd.store.layers import import_layer
from bootcd.store.ociimages import OciImages
from bootcd.store.repository import Repository

MTIME = 1_700_000_000


@pytest.fixture
def repo(tmp_path):
    with Repository.init(tmp_path / "repo") as repository:
        yield repository


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def member(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, MTIME
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def directory(name: str, mode: int = 0o755, **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.DIRTYPE, mode, **fields), b""


def file(name: str, content: bytes = b"", mode: int = 0o644, **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.REGTYPE, mode, size=len(content), **fields), content


def make_tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return output.getvalue()


def base_members() -> list[tuple[tarfile.TarInfo, bytes]]:
    """What composefs wants of a root file system, with some of everything in /usr."""
    xattr = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00" + "\0" * 12}
    return [
        directory("usr", 0o755, mtime=MTIME + 1), directory("boot", 0o700), directory("sysroot"), directory("run"),
        directory("etc"), directory("var"), directory("usr/bin"), directory("usr/share"),
        directory("usr/share/sticky", 0o1777, uid=5, gid=6),
        file("usr/bin/tool", b"\x7fELF" + b"tool" * 500, 0o755),
        file("usr/bin/setuid", b"s" * 100, 0o4755), file("usr/bin/capable", b"c" * 70, 0o755, pax_headers=xattr),
        (member("usr/bin/hard", tarfile.LNKTYPE, linkname="usr/bin/tool"), b""),
        (member("usr/bin/soft", tarfile.SYMTYPE, 0o777, linkname="../bin/tool"), b""),
        file("usr/share/empty"), file("usr/share/small", b"x" * 64),
        file("usr/share/large", b"y" * 65, uid=1000, gid=70000),
        file("usr/share/big", os.urandom(64) * (40 << 10)), file("usr/share/" + "lang" * 40 + "ä", b"long name" * 10),
        file("usr/share/time", b"t", pax_headers={"mtime": "1234567890.123456789"}),
        (member("usr/share/null", tarfile.CHRTYPE, 0o666, devmajor=1, devminor=3), b""),
        (member("usr/share/pipe", tarfile.FIFOTYPE, 0o600), b""),
    ]


def reader(data: bytes) -> Callable[[int], bytes]:
    return io.BytesIO(data).read


def make_config(diff_ids: list[str]) -> bytes:
    return json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Labels": {"a": "b"}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }).encode()


def make_manifest(config: bytes, layers: list[bytes]) -> bytes:
    """`layers` are blobs, gzipped."""


    def descriptor(kind: str, blob: bytes) -> dict[str, object]:
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": sha256(blob), "size": len(blob)}

    return json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config),
        "layers": [descriptor("layer.v1.tar+gzip", blob) for blob in layers],
    }).encode()


class Image:
    """An OCI image made of tars."""

    def __init__(self, *tars: bytes) -> None:
        self.tars = list(tars)
        self.blobs = [gzip.compress(tar, 1, mtime=0) for tar in tars]
        self.diff_ids = [sha256(tar) for tar in tars]
        self.config = make_config(self.diff_ids)
        self.manifest = make_manifest(self.config, self.blobs)
        self.config_digest, self.digest = sha256(self.config), sha256(self.manifest)

    def layout(self, path: Path, name: str = "latest") -> Path:
        """Write an OCI image layout."""
        (path / "blobs/sha256").mkdir(parents=True)
        for blob in (*self.blobs, self.config, self.manifest):
            (path / "blobs/sha256" / sha256(blob)[7:]).write_bytes(blob)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": self.digest,
            "size": len(self.manifest), "annotations": {"org.opencontainers.image.ref.name": name}}]}))
        return path

    def store(self, repo: Repository, tag: str | None = "test") -> OciImages:
        """Import everything."""
        for diff_id, tar in zip(self.diff_ids, self.tars, strict=True):
            import_layer(repo, diff_id, reader(tar))
        images = OciImages(repo)
        images.put_config(self.config)
        images.put_manifest(self.manifest, tag)
        return images


@pytest.fixture
def two_layers() -> Image:
    upper = make_tar(directory("usr", 0o755, mtime=MTIME + 5), file("usr/share/.wh.empty"),
                     file("usr/share/new", b"new" * 100), file("usr/share/large", b"replaced" * 100))
    return Image(make_tar(*base_members()), upper)


ALGORITHMS = list(Algorithm)


@pytest.fixture
def cfsctl():
    """Runs cfsctl and returns its output."""
    if shutil.which("cfsctl") is None:
        pytest.skip("needs cfsctl")

    def call(*words: object, input: bytes | None = None) -> str:
        done = subprocess.run(["cfsctl", *map(str, words)], input=input, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    return call
