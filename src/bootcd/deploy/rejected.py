# SPDX-License-Identifier: Apache-2.0
"""Images that the machine was taken back from, by manifest digest, each with the reason.

`upgrade` does not offer them again until the tag moves on; naming one explicitly takes it off the list.

    state/bootcd/rejected.json   {"schema": 1, "images": {"sha256:…": {"reason": "…", "time": "…"}}}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import RecordError
from ..linux import files

_SCHEMA = 1
_MAX_ENTRIES = 100
_MAX_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an image is not offered again; `time` is ISO 8601 in UTC."""

    reason: str
    time: str


class Rejected:
    """The file of rejected images."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Rejection]:
        """All rejections by manifest digest. Raises RecordError."""
        with files.translate(f"cannot read {self._path}"):
            try:
                text = files.read_own(self._path, _MAX_SIZE).decode("utf-8", "replace")
            except FileNotFoundError:
                return {}
        try:
            document = json.loads(text)
            if type(document["schema"]) is int and document["schema"] > _SCHEMA:
                raise RecordError(f"{self._path}: written by a newer version")
            if document["schema"] != _SCHEMA:
                raise ValueError("'schema' is malformed")
            return {str(digest): Rejection(str(value["reason"]), str(value["time"]))
                    for digest, value in document["images"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RecordError(f"{self._path}: malformed: {error}",
                              advice="Remove the file to forget which images were rejected.") from error

    def add(self, manifest_digest: str, rejection: Rejection) -> None:
        """Remember one more; the oldest is forgotten beyond a hundred."""
        images = self.load()
        images.pop(manifest_digest, None)
        images[manifest_digest] = rejection
        self._save(dict(list(images.items())[-_MAX_ENTRIES:]))

    def discard(self, manifest_digest: str) -> None:
        """Forget one, if it is there."""
        images = self.load()
        if images.pop(manifest_digest, None) is not None:
            self._save(images)

    def _save(self, images: dict[str, Rejection]) -> None:
        document = {"schema": _SCHEMA,
                    "images": {digest: {"reason": r.reason, "time": r.time} for digest, r in images.items()}}
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        files.atomic_write(self._path, json.dumps(document, indent=2).encode() + b"\n")
