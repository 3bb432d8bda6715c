# SPDX-License-Identifier: Apache-2.0
"""What the manifest of a delta says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bootcd.errors import OciError
from bootcd.formats.oci import Manifest
from bootcd.formats.ocidelta import Delta
from kit.deltas import PREFIX, TAR_DIFF, DeltaBuilder
from kit.images import File, ImageBuilder, Layer, sha256, to_json

SAME = Layer([File("a", b"a" * 100)])
OLD = ImageBuilder([SAME, Layer([File("b", b"b" * 100)])])
NEW = ImageBuilder([SAME, Layer([File("b", b"c" * 100)]), Layer([File("d", b"d")])])


def parsed(builder: DeltaBuilder) -> Delta:
    return Delta.of(Manifest.parse(builder.manifest_bytes))


def test_what_it_leads_to_and_what_from() -> None:
    delta = parsed(DeltaBuilder(OLD, NEW, whole=[2], signatures=[(b"{}", [b"content"])]))
    assert (delta.target, delta.manifest.size) == (NEW.manifest_digest, len(NEW.manifest_bytes))
    assert (delta.source, delta.source_config) == (OLD.manifest_digest, OLD.config_digest)
    assert {digest: part.media_type for digest, part in delta.layers.items()} == {
        NEW.layers[1].digest: TAR_DIFF, NEW.layers[2].digest: "application/vnd.oci.image.layer.v1.tar+gzip"}
    assert [one.digest for one in delta.signatures] == [sha256(b"{}")]


def test_what_is_not_said_is_empty() -> None:
    builder = DeltaBuilder(OLD, NEW)
    del builder.manifest["annotations"], builder.manifest["subject"]
    delta = parsed(builder)
    assert (delta.target, delta.source, delta.source_config) == (NEW.manifest_digest, "", "")


def test_other_content_is_ignored() -> None:
    builder = DeltaBuilder(OLD, NEW)
    before = parsed(builder)
    builder.manifest["layers"].append({"mediaType": "x/y", "digest": sha256(b""), "size": 0,
                                       "annotations": {PREFIX + "content": "of-tomorrow", PREFIX + "to": "?"}})
    builder.manifest["layers"].append({"mediaType": "x/y", "digest": sha256(b""), "size": 0})
    assert parsed(builder) == before


def _layers(manifest: dict[str, Any]) -> Any:
    return manifest["layers"]


@pytest.mark.parametrize(("change", "why"), [
    (lambda m: m.update(artifactType="x/y"), "is no delta"),
    (lambda m: m.pop("artifactType"), "is no delta"),
    (lambda m: _layers(m).pop(0), "the manifest of one image"),
    (lambda m: _layers(m).append(_layers(m)[0]), "the manifest of one image"),
    (lambda m: _layers(m)[0].update(mediaType="application/vnd.oci.image.index.v1+json"), "the manifest of one image"),
    (lambda m: _layers(m)[2]["annotations"].pop(PREFIX + "to"), r"layers\[2\].* is no sha256"),
    (lambda m: _layers(m)[2]["annotations"].update({PREFIX + "to": "sha256:.."}), r"layers\[2\].* is no sha256"),
    (lambda m: _layers(m).append(_layers(m)[2]), "named twice"),
    (lambda m: _layers(m)[2].update(urls=["http://example"]), "in another place"),
    (lambda m: m["annotations"].update({PREFIX + "target": sha256(b"")}), "differ on where"),
    (lambda m: m["subject"].update(digest=sha256(b"")), "differ on where"),
    (lambda m: m["annotations"].update({PREFIX + "source": "old"}), "delta.source: .* is no sha256"),
    (lambda m: m["annotations"].update({PREFIX + "source-config": "old"}), "source-config: .* is no sha256"),
    (lambda m: _layers(m).extend([{"mediaType": "x/y", "digest": sha256(b""), "size": 0,
                                   "annotations": {PREFIX + "content": "cosign-signature"}}] * 101), "101 signatures"),
], ids=range(14))
def test_what_makes_no_sense_is_refused(change: Callable[[dict[str, Any]], object], why: str) -> None:
    builder = DeltaBuilder(OLD, NEW)
    change(builder.manifest)
    with pytest.raises(OciError, match=why):
        Delta.of(Manifest.parse(to_json(builder.manifest)))
