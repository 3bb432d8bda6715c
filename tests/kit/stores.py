# SPDX-License-Identifier: Apache-2.0
"""Writes a store of containers/storage with one image, as podman and skopeo leave it; its parts can be damaged then.

Source: observed stores of skopeo 1.9 and buildah 1.28.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from kit.images import ImageBuilder, Layer


class StoreBuilder:
    """`[DRIVER@root]NAME` is the image."""

    def __init__(self, root: Path, image: ImageBuilder, *names: str, driver: str = "overlay") -> None:
        self.root = root
        self.driver = driver
        self.id = image.config_digest[7:]
        self.layers = [f"{number:02x}{layer.diff_id[9:]}" for number, layer in enumerate(image.layers)]
        self.image: dict[str, Any] = {"id": self.id, "digest": image.manifest_digest, "names": list(names),
                                      "layer": self.layers[-1] if self.layers else "", "big-data-names": []}
        self.parents = dict(zip(self.layers, ["", *self.layers], strict=False))
        for key in ("manifest", f"manifest-{image.manifest_digest}"):
            self.put(key, image.manifest_bytes)
        self.put(image.config_digest, image.config_bytes)
        for identity, layer in zip(self.layers, image.layers, strict=True):
            self.pack(identity, *split(layer, self.files(identity)))
        self.write()

    def reference(self, name: str) -> str:
        return f"containers-storage:[{self.driver}@{self.root}]{name}"

    def files(self, identity: str) -> Path:
        return self.root / ("overlay" if self.driver == "overlay" else "vfs/dir") / identity / (
            "diff" if self.driver == "overlay" else "")

    def put(self, key: str, data: bytes) -> Path:
        """Big data of the image."""
        name = key if key.isalpha() else "=" + base64.b64encode(key.encode()).decode()
        path = self.root / f"{self.driver}-images" / self.id / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.image["big-data-names"].append(key)
        return path

    def pack(self, identity: str, *lines: dict[str, Any]) -> Path:
        """The tar-split of a layer."""
        path = self.root / f"{self.driver}-layers" / f"{identity}.tar-split.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))
        return path

    def write(self) -> None:
        """The lists."""
        self.write_list("images", [self.image])
        self.write_list("layers", [{"id": identity, **({"parent": parent} if parent else {})}
                                   for identity, parent in self.parents.items()])

    def write_list(self, what: str, content: object) -> Path:
        path = self.root / f"{self.driver}-{what}" / f"{what}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path


def split(layer: Layer, files: Path) -> list[dict[str, Any]]:
    """Unpack the regular files of a layer, and return what is needed to pack them again."""
    files.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    position = 0

    def segment(end: int) -> None:
        lines.append({"type": 2, "payload": base64.b64encode(layer.tar[position:end]).decode(),
                      "position": len(lines)})

    with tarfile.open(fileobj=io.BytesIO(layer.tar)) as archive:
        for member in archive:
            if not member.isreg() or not member.size:
                continue
            segment(member.offset_data)
            position = member.offset_data + member.size
            content = layer.tar[member.offset_data : position]
            path = files / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            lines.append({"type": 1, "name": member.name, "size": member.size, "position": len(lines),
                          "payload": base64.b64encode(hashlib.sha256(content).digest()[:8]).decode()})
    segment(len(layer.tar))
    return lines
