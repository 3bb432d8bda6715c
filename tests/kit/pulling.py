# SPDX-License-Identifier: Apache-2.0
"""A small image, and short ways to fetch it through `bootcd.registry` and to serve it from a scripted server."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from bootcd.formats.oci import MAX_DOCUMENT, Config, Descriptor
from bootcd.model import ImageReference, Platform
from bootcd.registry.blob import LayerReader, read_blob
from bootcd.registry.opening import open_source
from bootcd.registry.registries import Registries
from bootcd.registry.sources import FetchedManifest, SourceOptions
from kit.images import ImageBuilder, IndexBuilder, Layer, to_json
from kit.scripted_server import Reply, ScriptedServer

FAST = SourceOptions(backoff=0.01, max_backoff=0.2, attempts=3, read_timeout=5.0)
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64", "v8")
_TARS = [bytes([number]) * 100_000 + bytes(1024) for number in range(3)]
LAYERS = [Layer(tar=_TARS[0], compression="gzip"), Layer(tar=_TARS[1], compression="zstd"),
          Layer(tar=_TARS[2], compression=None)]
IMAGE = ImageBuilder(LAYERS, platform=AMD64, labels={"org.opencontainers.image.version": "1"})
SECRET = "hunter2-very-secret"


def described(layer: Layer) -> Descriptor:
    """As a manifest describes it."""
    found = layer.descriptor()
    return Descriptor(found["mediaType"], found["digest"], found["size"])


def fetch(reference: str, options: SourceOptions = FAST, platform: Platform = AMD64) -> FetchedManifest:
    source = open_source(ImageReference.parse(reference), options)
    try:
        return source.manifest(platform)
    finally:
        source.close()


def pull(reference: str, options: SourceOptions = FAST, registries: Registries | None = None) -> list[bytes]:
    """Everything: manifest, config and layers, all verified."""
    source = open_source(ImageReference.parse(reference), options, registries)
    try:
        fetched = source.manifest(AMD64)
        config = Config.parse(read_blob(source, fetched.manifest.config, MAX_DOCUMENT))
        tars = []
        for descriptor, diff_id in fetched.manifest.check_image(config):
            with LayerReader(source, descriptor, diff_id, max_size=1 << 20) as reader:
                tars.append(b"".join(iter(lambda: reader.read(1 << 20), b"")))
        return tars
    finally:
        source.close()


def auth_file(path: Path, entries: dict[str, str]) -> Path:
    """An auth.json with KEY: "user:password" entries."""
    auths = {key: {"auth": base64.b64encode(value.encode()).decode()} for key, value in entries.items()}
    path.write_text(json.dumps({"auths": auths}))
    return path


def serve_image(server: ScriptedServer, image: ImageBuilder | IndexBuilder = IMAGE) -> None:
    for digest, (media_type, data) in image.manifests().items():
        server.serve(f"/v2/os/manifests/{digest}", Reply(body=data, headers={"Content-Type": media_type}))
    server.serve("/v2/os/manifests/1", Reply(body=image.manifest_bytes, headers={"Content-Type": image.media_type}))
    for digest, data in image.blobs().items():
        server.serve(f"/v2/os/blobs/{digest}", Reply(body=data))


def serve_document(server: ScriptedServer, document: Any, media_type: str | None = None) -> None:
    data = document if isinstance(document, bytes) else to_json(document)
    server.serve("/v2/os/manifests/1", Reply(body=data, headers={"Content-Type": media_type} if media_type else {}))
