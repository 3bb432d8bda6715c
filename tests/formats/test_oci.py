# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import BootcdError, ImageNotFound, NoMatchingPlatform, OciError
from bootcd.formats import oci
from bootcd.model import Platform

A = "sha256:" + "a" * 64
B = "sha256:" + "b" * 64
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def descriptor(**changes: Any) -> dict[str, Any]:
    return {"mediaType": GZIP, "digest": A, "size": 100} | changes


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": descriptor(mediaType=oci.CONFIG),
        "layers": [descriptor(), descriptor(digest=B, mediaType="application/vnd.oci.image.layer.v1.tar")],
    } | changes


def config(**changes: Any) -> dict[str, Any]:
    return {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [A, B]}} | changes


def index(*platforms: str | None) -> oci.Index:
    items = []
    for number, text in enumerate(platforms):
        item = descriptor(mediaType=oci.MANIFEST, digest=f"sha256:{number:064x}")
        if text is not None:
            os, architecture, variant = [*text.split("/"), ""][:3]
            item["platform"] = {"os": os, "architecture": architecture} | ({"variant": variant} if variant else {})
        items.append(item)
    return oci.Index.parse(dump({"schemaVersion": 2, "manifests": items}))


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_a_manifest_gives_config_and_layers() -> None:
    got = oci.Manifest.parse(dump(manifest(annotations={"k": "v"}, unknown=[1.5e300])))
    assert got.media_type == oci.MANIFEST
    assert got.config.digest == A
    assert [(layer.digest, layer.compression) for layer in got.layers] == [(A, "gzip"), (B, "none")]
    assert got.layers[0].size == 100
    assert got.annotations == {"k": "v"}
    assert got.is_image
    assert hash(got.layers[0]) == hash(got.layers[0])


def test_docker_schema_2_is_accepted() -> None:
    got = oci.Manifest.parse(dump(manifest(
        mediaType=oci.DOCKER_MANIFEST,
        config=descriptor(mediaType=oci.DOCKER_CONFIG),
        layers=[descriptor(mediaType="application/vnd.docker.image.rootfs.diff.tar.gzip")],
    )))
    assert got.is_image
    assert got.layers[0].compression == "gzip"


def test_a_manifest_without_media_type_is_an_oci_manifest() -> None:
    text = manifest()
    del text["mediaType"]
    assert oci.Manifest.parse(dump(text)).media_type == oci.MANIFEST


def test_null_is_absent_as_go_writes_it() -> None:
    assert oci.Manifest.parse(dump(manifest(layers=None, annotations=None))).layers == ()
    assert oci.Config.parse(dump(config(config={"Labels": None}, created=None))).labels == {}


def test_urls_and_platform_of_a_descriptor() -> None:
    got = oci.Manifest.parse(dump(manifest(layers=[descriptor(urls=["https://e.example/x"], artifactType="a/b")])))
    assert got.layers[0].urls == ("https://e.example/x",)
    assert got.layers[0].artifact_type == "a/b"
    assert index("linux/arm/v7").manifests[0].platform == Platform("linux", "arm", "v7")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [descriptor(), descriptor(size="1")]}, "manifest.layers[1].size: expected an integer"),
        ({"layers": [descriptor(size=True)]}, "manifest.layers[0].size: expected an integer"),
        ({"layers": [descriptor(size=1.0)]}, "manifest.layers[0].size: expected an integer"),
        ({"layers": [descriptor(size=-1)]}, "manifest.layers[0].size: -1 is out of range"),
        ({"layers": [descriptor(size=2**63)]}, "manifest.layers[0].size: 9223372036854775808 is out of range"),
        ({"layers": [descriptor(digest="sha256:AB")]}, 'manifest.layers[0].digest: "sha256:AB" is no sha256'),
        ({"layers": [descriptor(digest="md5:" + "a" * 32)]}, "manifest.layers[0].digest"),
        ({"layers": [descriptor(urls="x")]}, "manifest.layers[0].urls: expected an array"),
        ({"layers": [descriptor(urls=[1])]}, "manifest.layers[0].urls[0]: expected a string"),
        ({"layers": [descriptor(platform={"os": "linux"})]}, "platform.architecture: expected a string"),
        ({"layers": [7]}, "manifest.layers[0]: expected an object"),
        ({"layers": {}}, "manifest.layers: expected an array"),
        ({"config": None}, "manifest.config: expected an object"),
        ({"config": {"digest": A, "size": 1}}, "manifest.config.mediaType: expected a string"),
        ({"annotations": {"a": 1}}, "manifest.annotations.a: expected a string"),
        ({"annotations": {"a": "\ud800"}}, "manifest.annotations.a: has a lone surrogate"),
        ({"annotations": {"\ud800": "a"}}, "has a lone surrogate"),
        ({"annotations": {"a\n\x1b[31m": 1}}, r'manifest.annotations."a\n\u001b[31m": expected a string'),
        ({"schemaVersion": 1}, "manifest.schemaVersion: expected 2"),
        ({"schemaVersion": True}, "manifest.schemaVersion: expected an integer"),
        ({"mediaType": oci.INDEX}, "manifest.mediaType: "),
        ({"manifests": []}, "manifest.manifests: does not belong into a manifest"),
    ],
)
def test_errors_name_the_json_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OciError) as caught:
        oci.Manifest.parse(dump(manifest(**change)))
    assert message in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "manifest: expected an object"),
        (b'{"a":1,"a":2}', 'key "a" appears twice'),
        (b'{"a":{"b":1,"b":1}}', 'key "b" appears twice'),
        (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
        (b"[" * 1_000_000, "nested too deeply"),
        (b'{"a":' * 500_000, "nested too deeply"),
        (b'{"size":' + b"9" * 100_000 + b"}", "a number of 100000 digits"),
        (b'{"size":NaN}', "NaN is no JSON number"),
        (b'{"size":-Infinity}', "-Infinity is no JSON number"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b" " * (oci.MAX_DOCUMENT + 1), "larger than 4194304 bytes"),
    ],
    ids=range(13),
)
def test_what_is_no_plain_json_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(OciError, match=message.replace("(", r"\(")):
        oci.Manifest.parse(data)


def test_a_config_gives_diff_ids_and_labels() -> None:
    got = oci.Config.parse(dump(config(created="2026-01-01T00:00:00Z", variant="v2", config={"Labels": {"a": "ü"}})))
    assert got == oci.Config((A, B), "amd64", "linux", "2026-01-01T00:00:00Z", {"a": "ü"}, "v2")
    assert got.platform == Platform("linux", "amd64", "v2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rootfs": {"type": "layers"}}, "config.rootfs.diff_ids: expected an array"),
        ({"rootfs": {"type": "layers", "diff_ids": [A, "x"]}}, "config.rootfs.diff_ids[1]: "),
        ({"rootfs": {"type": "other", "diff_ids": []}}, "config.rootfs.type: expected"),
        ({"os": None}, "config.os: expected a string"),
        ({"config": {"Labels": []}}, "config.config.Labels: expected an object"),
    ],
)
def test_errors_in_a_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OciError) as caught:
        oci.Config.parse(dump(config(**change)))
    assert message in str(caught.value)


def test_layers_and_diff_ids_go_together() -> None:
    good, parsed = oci.Manifest.parse(dump(manifest())), oci.Config.parse(dump(config()))
    assert [(layer.digest, diff) for layer, diff in good.check_image(parsed)] == [(A, A), (B, B)]
    with pytest.raises(OciError, match=r"1 layers, but config.rootfs.diff_ids has 2"):
        oci.Manifest.parse(dump(manifest(layers=[descriptor()]))).check_image(parsed)
    with pytest.raises(OciError, match=r"manifest.layers\[0\].mediaType: .* is no file system layer"):
        oci.Manifest.parse(dump(manifest(layers=[descriptor(mediaType="text/plain")]))).check_image(parsed)
    with pytest.raises(OciError, match=r"manifest.config.mediaType: .* is no image configuration"):
        oci.Manifest.parse(dump(manifest(config=descriptor(mediaType="text/plain")))).check_image(parsed)


@pytest.mark.parametrize(
    ("offered", "wanted", "chosen"),
    [
        (["linux/amd64", "linux/arm64/v8"], "linux/arm64/v8", 1),
        (["linux/amd64", "linux/arm64"], "linux/arm64/v8", 1),
        (["linux/arm64/v8"], "linux/arm64", 0),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7", 1),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v6", 2),
        (["linux/amd64", "linux/amd64/v3", "linux/amd64/v2"], "linux/amd64/v3", 1),
        (["linux/amd64/v2", "linux/amd64"], "linux/amd64", 1),
        (["linux/ppc64le/power9", "linux/ppc64le"], "linux/ppc64le", 1),
        (["unknown/unknown", "linux/amd64", "linux/amd64"], "linux/amd64", 1),
        ([None], "linux/amd64", 0),
    ],
)
def test_an_index_chooses_by_platform(offered: list[str | None], wanted: str, chosen: int) -> None:
    subject = index(*offered)
    assert subject.choose(Platform(*wanted.split("/"))) is subject.manifests[chosen]


@pytest.mark.parametrize("offered", [["windows/amd64", "linux/arm64"], ["linux/amd64/v2"], [None, None], []])
def test_no_platform_fits(offered: list[str | None]) -> None:
    with pytest.raises(NoMatchingPlatform, match="no manifest for linux/amd64, only for: ") as caught:
        index(*offered).choose(Platform("linux", "amd64"))
    assert all((item or "no platform named") in str(caught.value) for item in offered)


def test_images_of_a_layout_have_names() -> None:
    def item(digest: str, name: str | None) -> dict[str, Any]:
        return descriptor(mediaType=oci.MANIFEST, digest=digest, annotations={oci.REF_NAME: name} if name else None)

    def layout(*items: dict[str, Any]) -> oci.Index:
        return oci.Index.parse(dump({"schemaVersion": 2, "manifests": list(items)}))

    assert layout(item(A, "v1"), item(B, "v2")).named("v2").digest == B
    assert layout(item(A, None)).named(None).digest == A
    assert layout(item(A, "x"), item(A, "y")).named(None).digest == A
    with pytest.raises(ImageNotFound, match='no image named \'v3\', only: "v1", "v2"'):
        layout(item(A, "v1"), item(B, "v2")).named("v3")
    with pytest.raises(ImageNotFound, match='holds several images: "v1", "v2"'):
        layout(item(A, "v1"), item(B, "v2")).named(None)
    with pytest.raises(ImageNotFound, match="empty"):
        layout().named(None)


def test_the_layout_file() -> None:
    oci.parse_layout(b'{"imageLayoutVersion":"1.0.0"}')
    for data in (b'{"imageLayoutVersion":"2.0.0"}', b"{}", b"x"):
        with pytest.raises(OciError, match="oci-layout"):
            oci.parse_layout(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from([A, GZIP]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["schemaVersion", "manifests", "layers", "config", "rootfs", "diff_ids", "size", "digest",
                         "type", "mediaType", "platform", "os", "annotations", "urls", "Labels"])
        | st.text(max_size=3),
        inner,
    ),
    max_leaves=20,
)
PARSERS = [oci.Manifest.parse, oci.Config.parse, oci.Index.parse, oci.parse_layout]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | json_values.map(dump))
def test_any_bytes_raise_only_our_errors(data: bytes) -> None:
    for parse in PARSERS:
        with contextlib.suppress(BootcdError):
            parse(data)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_changed_value_raises_only_our_errors(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([manifest(), config(), {"schemaVersion": 2, "manifests": [
        descriptor(mediaType=oci.MANIFEST, platform={"os": "linux", "architecture": "arm", "variant": "v7"})]}]))
    where: Any = text
    while True:
        key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
        if not where[key] or not isinstance(where[key], dict | list) or data.draw(st.booleans()):
            break
        where = where[key]
    where[key] = data.draw(json_values)
    for parse in PARSERS:
        with contextlib.suppress(BootcdError):
            got = parse(dump(text))
            if isinstance(got, oci.Index):
                got.choose(Platform("linux", "arm", "v7"))
