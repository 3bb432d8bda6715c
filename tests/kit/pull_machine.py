# SPDX-License-Identifier: Apache-2.0
"""A machine that pulls images through all of bootcd, and what a pull has made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bootcd.config import Config
from bootcd.ops.direct import DirectHost
from bootcd.ops.results import PullStats
from bootcd.store import fsck
from bootcd.store.layers import layer_name
from bootcd.store.ociimages import OciImages
from bootcd.store.repository import Repository
from kit.images import ImageBuilder

State = tuple[dict[str, str], str]
"""Streams of the layers, and the EROFS image."""


@dataclass
class Notes:
    """Progress: what was noted, and the bytes of the stage that counted them."""

    notes: list[str] = field(default_factory=list)
    done: int = 0
    total: int = 0

    def begin(self, stage: str, total: int = 0) -> None:
        if total:
            self.done, self.total = 0, total

    def advance(self, count: int) -> None:
        self.done += count

    def note(self, message: str) -> None:
        self.notes.append(message)

    def __str__(self) -> str:
        return "\n".join(self.notes)


@dataclass
class Machine:
    """A repository to pull into."""

    path: Path
    config: Config = field(default_factory=Config)
    progress: Notes = field(default_factory=Notes)

    def pull(self, name: str, tag: str = "it") -> PullStats:
        self.progress = Notes()
        return DirectHost(self.path, None, self.config, self.progress).image_pull(name, name=tag).stats

    def state(self, image: ImageBuilder) -> State:
        """What there is of the image that was pulled as "it", once fsck has nothing to say."""
        with Repository.open(self.path / "composefs") as repository:
            assert fsck.check(repository).findings == []
            images = OciImages(repository)
            assert images.resolve("it") == image.manifest_digest
            streams = {diff_id: repository.streams.id(layer_name(diff_id)).hex()
                       for diff_id in images.config(image.config_digest).diff_ids}
            return streams, str(images.images(image.config_digest))
