# SPDX-License-Identifier: Apache-2.0
"""Deltas between images: as oci-delta makes them, or by a small writer of our own, wrong where a test wants it.

    delta = DeltaBuilder(old, new)
    delta.write_archive(directory / "update.oci-delta")

Formats: containers/oci-delta, README.md (Delta file format); containers/tar-diff, file-format.md.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import zstandard

from kit.images import OCI_INDEX, ImageBuilder, sha256, to_json
from kit.push import push
from kit.scripted_server import Reply, ScriptedServer

DELTA = "application/vnd.io.github.containers.oci-delta.v1"
TAR_DIFF = "application/vnd.tar-diff"
PREFIX = "io.github.containers.delta."
MAGIC = b"tardf1\n\0"
MAGIC_2 = b"tardf2\n\0"
EMPTY = "application/vnd.oci.empty.v1+json"


# --- tar-diff ---------------------------------------------------------------------------------------------------------


def number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def data(content: bytes) -> bytes:
    return b"\0" + number(len(content)) + content


def opened(path: str | bytes) -> bytes:
    name = path.encode() if isinstance(path, str) else path
    return b"\1" + number(len(name)) + name


def copied(size: int) -> bytes:
    return b"\2" + number(size)


def added(content: bytes) -> bytes:
    return b"\3" + number(len(content)) + content


def sought(position: int) -> bytes:
    return b"\4" + number(position)


def patched(old: bytes, new: bytes, **parameters: Any) -> bytes:
    """Version 2: `new` as a frame whose dictionary is `old`."""
    dictionary = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    frame = zstandard.ZstdCompressor(dict_data=dictionary, **parameters).compress(new)
    return b"\5" + number(len(frame)) + frame


def tar_diff(instructions: Iterable[bytes], magic: bytes = MAGIC) -> bytes:
    return magic + zstandard.ZstdCompressor().compress(b"".join(instructions))


def files_of(image: ImageBuilder) -> dict[str, bytes]:
    """Regular files of all layers, the uppermost of each name."""
    found = {}
    for layer in image.layers:
        with tarfile.open(fileobj=io.BytesIO(layer.tar)) as archive:
            for member in archive:
                if member.isreg():
                    found[member.name] = layer.tar[member.offset_data : member.offset_data + member.size]
    return found


def difference(old: Mapping[str, bytes], tar: bytes) -> bytes:
    """A tar-diff with every kind of instruction of version 1: files that are the same are copied, those of the same
    size are added to, and of others the end is taken."""
    parts = []
    done = 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            before = old.get(member.name, b"")
            if not member.isreg() or not before:
                continue
            start, end = member.offset_data, member.offset_data + member.size
            now = tar[start:end]
            if now == before:
                parts += [data(tar[done:start]), opened(member.name), copied(len(now))]
            elif len(now) == len(before):
                changes = bytes((a - b) % 256 for a, b in zip(now, before, strict=True))
                parts += [data(tar[done:start]), opened(member.name), added(changes)]
            else:
                same = 0
                while same < min(len(now), len(before)) and now[-1 - same] == before[-1 - same]:
                    same += 1
                if not same:
                    continue
                parts += [data(tar[done : end - same]), opened(member.name), sought(len(before) - same), copied(same)]
            done = end
    return tar_diff([*parts, data(tar[done:])])


# --- oci-delta --------------------------------------------------------------------------------------------------------


class DeltaBuilder:
    """Leads from `old` to `new`. What makes a layer that is new is, by its number in `new`, one of `tar_diffs`, or the
    layer as it is, if it is among `whole`, or else a difference. Change `manifest` before anything is written."""

    def __init__(self, old: ImageBuilder, new: ImageBuilder, *, tar_diffs: Mapping[int, bytes] | None = None,
                 whole: Sequence[int] = (), signatures: Sequence[tuple[bytes, Sequence[bytes]]] = ()) -> None:
        """`signatures` are manifests, each with the blobs that it refers to."""
        self.old = old
        self.new = new
        self._tar_diffs = dict(tar_diffs or {})
        self._whole = whole
        self._signatures = signatures
        self._blobs: dict[str, bytes] = {}

    @cached_property
    def manifest(self) -> dict[str, Any]:
        here = {layer.diff_id for layer in self.old.layers}
        files = files_of(self.old)
        layers = [self._part(self.new.manifest_bytes, self.new.media_type, "image-manifest"),
                  self._part(self.new.config_bytes, "application/vnd.oci.image.config.v1+json", "image-config")]
        for place, layer in enumerate(self.new.layers):
            if layer.diff_id in here:
                continue
            if place in self._whole:
                part = self._part(layer.blob, layer.descriptor()["mediaType"], "image-layer")
            else:
                made = self._tar_diffs.get(place)
                part = self._part(difference(files, layer.tar) if made is None else made, TAR_DIFF, "image-layer")
            part["annotations"][PREFIX + "to"] = layer.digest
            layers.append(part)
        for signature, contents in self._signatures:
            layers.append(self._part(signature, "application/vnd.oci.image.manifest.v1+json", "cosign-signature"))
            layers += [self._part(one, "application/octet-stream", "cosign-signature-content") for one in contents]
        reused = [layer for layer in self.new.layers if layer.diff_id in here]
        return {
            "schemaVersion": 2, "artifactType": DELTA,
            "config": {"mediaType": EMPTY, "digest": self._blob(b"{}"), "size": 2},
            "layers": layers,
            "subject": {"mediaType": self.new.media_type, "digest": self.new.manifest_digest,
                        "size": len(self.new.manifest_bytes)},
            "annotations": {
                PREFIX + "target": self.new.manifest_digest, PREFIX + "source": self.old.manifest_digest,
                PREFIX + "source-config": sha256(self.old.config_bytes),
                PREFIX + "reused": json.dumps([layer.digest for layer in reused]),
                PREFIX + "reused-diff-id": json.dumps([layer.diff_id for layer in reused]),
            },
        }

    @property
    def manifest_bytes(self) -> bytes:
        return to_json(self.manifest)

    @property
    def manifest_digest(self) -> str:
        return sha256(self.manifest_bytes)

    @property
    def size(self) -> int:
        """Bytes of what makes layers."""
        return sum(layer["size"] for layer in self.manifest["layers"]
                   if layer["annotations"][PREFIX + "content"] == "image-layer")

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": self.manifest_digest,
                "size": len(self.manifest_bytes), "artifactType": DELTA}

    def blobs(self) -> dict[str, bytes]:
        """All but its own manifest."""
        assert self.manifest
        return self._blobs

    def manifests(self) -> dict[str, tuple[str, bytes]]:
        return {self.manifest_digest: ("application/vnd.oci.image.manifest.v1+json", self.manifest_bytes)}

    def files(self, **descriptor: Any) -> dict[str, bytes]:
        """The files of an image layout; `descriptor` are keys of its only entry."""
        entry = {key: value for key, value in self.descriptor().items() if key != "artifactType"} | descriptor
        blobs = self.blobs() | {self.manifest_digest: self.manifest_bytes}
        return {"oci-layout": to_json({"imageLayoutVersion": "1.0.0"}),
                "index.json": to_json({"schemaVersion": 2, "manifests": [entry]}),
                **{"blobs/" + digest.replace(":", "/"): content for digest, content in blobs.items()}}

    def write_layout(self, directory: Path, **descriptor: Any) -> None:
        for name, content in self.files(**descriptor).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)

    def write_archive(self, path: Path, **descriptor: Any) -> None:
        with tarfile.open(path, "w") as archive:
            for name, content in self.files(**descriptor).items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    def _part(self, content: bytes, media_type: str, what: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self._blob(content), "size": len(content),
                "annotations": {PREFIX + "content": what}}

    def _blob(self, content: bytes) -> str:
        digest = sha256(content)
        self._blobs[digest] = content
        return digest


def serve(server: ScriptedServer, *builders: DeltaBuilder) -> None:
    """Attach deltas to the image that all of them lead to."""
    for builder in builders:
        for digest, (media_type, content) in builder.manifests().items():
            server.serve(f"/v2/os/manifests/{digest}", Reply(body=content, headers={"Content-Type": media_type}))
        for digest, content in builder.blobs().items():
            server.serve(f"/v2/os/blobs/{digest}", Reply(body=content))
    listed = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [builder.descriptor() for builder in builders]}
    server.serve(f"/v2/os/referrers/{builders[0].new.manifest_digest}",
                 Reply(body=to_json(listed), headers={"Content-Type": OCI_INDEX}))


@dataclass(frozen=True)
class Listing:
    """The index that whoever attaches something keeps under a tag, where a registry has no list of its own."""

    builder: DeltaBuilder
    media_type = OCI_INDEX

    @property
    def manifest_bytes(self) -> bytes:
        return to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [self.builder.descriptor()]})

    @property
    def manifest_digest(self) -> str:
        return sha256(self.manifest_bytes)

    def manifests(self) -> dict[str, tuple[str, bytes]]:
        return {self.manifest_digest: (OCI_INDEX, self.manifest_bytes)}

    def blobs(self) -> dict[str, bytes]:
        return {}


def attach(builder: DeltaBuilder, repository: str) -> None:
    """Push a delta to `HOST/REPOSITORY`, where the image is that it leads to."""
    push(builder, f"{repository}:delta")
    push(Listing(builder), f"{repository}:{builder.new.manifest_digest.replace(':', '-')}")


def blobs(archive: Path, media_type: str) -> list[bytes]:
    """What a delta in an archive has of this type, in the order of its manifest."""
    with tarfile.open(archive) as found:
        def content(digest: str) -> bytes:
            member = found.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert member is not None
            return member.read()

        index = found.extractfile("index.json")
        assert index is not None
        manifest = json.loads(content(json.loads(index.read())["manifests"][0]["digest"]))
        return [content(layer["digest"]) for layer in manifest["layers"] if layer["mediaType"] == media_type]


def available() -> bool:
    return shutil.which("oci-delta") is not None


def oci_delta(directory: Path, old: ImageBuilder, new: ImageBuilder, *signatures: str) -> Path:
    """What oci-delta makes of two images; `signatures` are places with one each, as it names them."""
    archives = []
    for name, image in (("old", old), ("new", new)):
        image.write_layout(directory / name, "1")
        archives.append(directory / f"{name}.oci-archive")
        with tarfile.open(archives[-1], "w") as archive:
            for path in sorted((directory / name).rglob("*")):
                archive.add(path, str(path.relative_to(directory / name)), recursive=False)
    result = directory / "update.oci-delta"
    embedded = [f"--signature={place}" for place in signatures]
    done = subprocess.run(["oci-delta", "create", *embedded, *map(str, archives), str(result)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return result


