# SPDX-License-Identifier: Apache-2.0
"""Writes archives as `docker save` does, and as it never would."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit.images import ImageBuilder, to_json

Member = tuple[str, bytes | str, bytes]
"""Name, content or where a link leads to, type."""


def archive(file: Path, members: Sequence[Member]) -> str:
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as made:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(content, str):
                info.linkname = content
                made.addfile(info)
            else:
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
    return f"docker-archive:{file}"


def regular(name: str, content: bytes) -> Member:
    return name, content, tarfile.REGTYPE


def layers_of(image: ImageBuilder) -> list[Member]:
    return [regular(f"{layer.diff_id[7:]}.tar", layer.tar) for layer in image.layers]


def entry(image: ImageBuilder, *names: str, **other: Any) -> dict[str, Any]:
    return {"Config": f"{image.config_digest[7:]}.json", "RepoTags": list(names),
            "Layers": [f"{layer.diff_id[7:]}.tar" for layer in image.layers], **other}


def saved(file: Path, *images: tuple[ImageBuilder, str]) -> str:
    """As docker save has it."""
    members: dict[str, Member] = {}
    for image, _ in images:
        for member in (regular(f"{image.config_digest[7:]}.json", image.config_bytes), *layers_of(image)):
            members[member[0]] = member
    document = to_json([entry(image, name) if name else entry(image, RepoTags=None) for image, name in images])
    return archive(file, [*members.values(), regular("manifest.json", document)])
