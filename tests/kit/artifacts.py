# SPDX-License-Identifier: Apache-2.0
"""Artifacts about an image, as ORAS and others make them, and the places that list them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit.images import OCI_INDEX, OCI_MANIFEST, Image, sha256, to_json
from kit.scripted_server import Reply, ScriptedServer

EMPTY = "application/vnd.oci.empty.v1+json"


class ArtifactBuilder:
    """An artifact of a type about `subject`. Its layers have a media type, content and annotations each."""

    def __init__(self, subject: Image, artifact_type: str,
                 layers: Sequence[tuple[str, bytes, Mapping[str, str]]] = ((EMPTY, b"{}", {}),), /,
                 **more: Any) -> None:
        """`more` are keys of the manifest."""
        self._blobs = {sha256(content): content for _, content, _ in layers} | {sha256(b"{}"): b"{}"}
        self.manifest: dict[str, Any] = {
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type,
            "config": {"mediaType": EMPTY, "digest": sha256(b"{}"), "size": 2},
            "layers": [{"mediaType": kind, "digest": sha256(content), "size": len(content),
                        **({"annotations": dict(annotations)} if annotations else {})}
                       for kind, content, annotations in layers],
            "subject": {"mediaType": subject.media_type, "digest": subject.manifest_digest,
                        "size": len(subject.manifest_bytes)},
            **more,
        }
        self.media_type = OCI_MANIFEST

    @property
    def manifest_bytes(self) -> bytes:
        return to_json(self.manifest)

    @property
    def manifest_digest(self) -> str:
        return sha256(self.manifest_bytes)

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": OCI_MANIFEST, "digest": self.manifest_digest, "size": len(self.manifest_bytes),
                "artifactType": self.manifest["artifactType"]}

    def blobs(self) -> dict[str, bytes]:
        return self._blobs

    def manifests(self) -> dict[str, tuple[str, bytes]]:
        return {self.manifest_digest: (OCI_MANIFEST, self.manifest_bytes)}

    def write_layout(self, directory: Path) -> None:
        """Add it to an OCI image layout, which is there already."""
        for content in (*self._blobs.values(), self.manifest_bytes):
            (directory / "blobs/sha256" / sha256(content).partition(":")[2]).write_bytes(content)
        index = json.loads((directory / "index.json").read_text())
        index["manifests"].append(self.descriptor())
        (directory / "index.json").write_text(json.dumps(index))


def index(*artifacts: ArtifactBuilder) -> bytes:
    """What lists them."""
    return to_json({"schemaVersion": 2, "mediaType": OCI_INDEX,
                    "manifests": [artifact.descriptor() for artifact in artifacts]})


def serve(server: ScriptedServer, *artifacts: ArtifactBuilder) -> None:
    """Let a server have them, without listing them."""
    for artifact in artifacts:
        for digest, (media_type, data) in artifact.manifests().items():
            server.serve(f"/v2/os/manifests/{digest}", Reply(body=data, headers={"Content-Type": media_type}))
        for digest, data in artifact.blobs().items():
            server.serve(f"/v2/os/blobs/{digest}", Reply(body=data))


def serve_list(server: ScriptedServer, subject: Image, *artifacts: ArtifactBuilder) -> None:
    """Let a server have them and list them."""
    serve(server, *artifacts)
    server.serve(f"/v2/os/referrers/{subject.manifest_digest}",
                 Reply(body=index(*artifacts), headers={"Content-Type": OCI_INDEX}))
