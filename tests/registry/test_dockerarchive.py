# SPDX-License-Identifier: Apache-2.0
"""`docker-archive:`, as docker, podman and skopeo write it, and as nobody should."""

from __future__ import annotations

import contextlib
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import (
    BlobMismatch,
    BlobNotFound,
    BootcdError,
    ImageNotFound,
    OciError,
    SourceUnreachable,
)
from bootcd.formats.oci import MAX_DOCUMENT
from kit.docker_archives import Member, archive, entry, layers_of, regular, saved
from kit.images import ImageBuilder, Layer, to_json
from kit.memory import traced
from kit.pulling import AMD64, IMAGE, LAYERS, fetch, pull

OTHER = ImageBuilder(LAYERS[1:2], platform=AMD64)


def with_manifest(file: Path, document: object, *more: Member) -> str:
    data = document if isinstance(document, bytes) else to_json(document)
    config = regular(f"{IMAGE.config_digest[7:]}.json", IMAGE.config_bytes)
    return archive(file, [regular("manifest.json", data), config, *layers_of(IMAGE), *more])


def test_layers_are_read_in_place(tmp_path: Path) -> None:
    assert pull(saved(tmp_path / "a", (IMAGE, "quay.io/team/os:1"))) == [layer.tar for layer in LAYERS]
    assert pull(saved(tmp_path / "a", (IMAGE, ""))) == [layer.tar for layer in LAYERS]


def test_the_digest_is_that_of_config_and_layers(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "a", (IMAGE, "quay.io/team/os:1")), saved(tmp_path / "b", (OTHER, ""), (IMAGE, "x:2"))
    assert fetch(one).digest == fetch(f"{two}:x:2").digest
    assert fetch(one).digest != fetch(f"{two}:@0").digest
    assert fetch(f"{one}@{fetch(one).digest}").digest == fetch(one).digest
    with pytest.raises(ImageNotFound, match=fetch(one).digest):
        fetch(f"{one}@{IMAGE.manifest_digest}")


def test_names(tmp_path: Path) -> None:
    both = saved(tmp_path / "a", (IMAGE, "busybox:latest"), (OTHER, "quay.io/team/os:2"))
    first, second = fetch(f"{both}:@0").digest, fetch(f"{both}:@1").digest
    assert first != second
    for name in ("busybox", "busybox:latest", "docker.io/library/busybox", "latest"):
        assert fetch(f"{both}:{name}").digest == first
    for name in ("quay.io/team/os:2", "2"):
        assert fetch(f"{both}:{name}").digest == second
    for name in ("quay.io/team/os", "3", "@2", "@-1", "@x", "@" + "9" * 30):
        with pytest.raises(ImageNotFound, match=r"only: .busybox:latest., .quay\.io/team/os:2."):
            fetch(f"{both}:{name}")
    with pytest.raises(ImageNotFound, match="holds 2 images") as caught:
        fetch(both)
    assert "docker-archive:FILE:@0" in caught.value.hint
    with pytest.raises(ImageNotFound, match="empty"):
        fetch(with_manifest(tmp_path / "b", []))


def test_layers_may_be_links_to_other_members(tmp_path: Path) -> None:
    """Docker links a layer that another image has, too."""
    names = [f"{number}/layer.tar" for number in range(3)]
    links: list[Member] = [(name, f"../{layer.diff_id[7:]}.tar", tarfile.SYMTYPE)
                           for name, layer in zip(names, LAYERS, strict=True)]
    links[2] = (names[2], f"{LAYERS[2].diff_id[7:]}.tar", tarfile.LNKTYPE)
    assert pull(with_manifest(tmp_path / "a", [entry(IMAGE, Layers=names)], *links)) == [one.tar for one in LAYERS]


@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "../a", "loop", "nothing", "", "."])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_lead_nowhere_else(tmp_path: Path, target: str, kind: bytes) -> None:
    document = [entry(IMAGE, Layers=["loop", *entry(IMAGE)["Layers"][1:]])]
    with pytest.raises(BlobNotFound, match=r'manifest\.json names "loop", which is not in the archive'):
        fetch(with_manifest(tmp_path / "a", document, ("loop", target, kind)))


@pytest.mark.parametrize("name", ["/etc/passwd", "../../../../etc/passwd", "manifest.json/../../etc/passwd", "", "\0"])
@pytest.mark.parametrize("where", ["Config", "Layers"])
def test_names_lead_nowhere_else(tmp_path: Path, name: str, where: str) -> None:
    value = name if where == "Config" else [name, *entry(IMAGE)["Layers"][1:]]
    with pytest.raises(BlobNotFound, match="not in the archive"):
        fetch(with_manifest(tmp_path / "a", [entry(IMAGE, **{where: value})]))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_layers_may_be_compressed(tmp_path: Path, compression: Any) -> None:
    layers = [Layer(tar=layer.tar, compression=compression) for layer in LAYERS]
    members = [regular(f"{layer.diff_id[7:]}.tar", layer.blob) for layer in layers]
    reference = archive(tmp_path / "a", [regular("manifest.json", to_json([entry(IMAGE)])), *members,
                                         regular(f"{IMAGE.config_digest[7:]}.json", IMAGE.config_bytes)])
    assert pull(reference) == [layer.tar for layer in LAYERS]
    assert [one.digest for one in fetch(reference).manifest.layers] == [layer.digest for layer in layers]


def test_a_layer_that_is_damaged(tmp_path: Path) -> None:
    layers = layers_of(IMAGE)
    config = regular(f"{IMAGE.config_digest[7:]}.json", IMAGE.config_bytes)
    manifest = regular("manifest.json", to_json([entry(IMAGE)]))
    changed = regular(layers[1][0], LAYERS[1].tar[:-1] + b"x")
    with pytest.raises(BlobMismatch, match=LAYERS[1].diff_id):
        pull(archive(tmp_path / "a", [manifest, config, layers[0], changed, layers[2]]))
    with pytest.raises(BlobMismatch, match=LAYERS[1].diff_id):
        pull(archive(tmp_path / "a", [manifest, config, layers[0], regular(layers[1][0], b""), layers[2]]))
    with pytest.raises(BlobNotFound, match=layers[1][0]):
        pull(archive(tmp_path / "a", [manifest, config, layers[0], layers[2]]))


@pytest.mark.parametrize(("document", "says"), [
    (b"", "not JSON"), (b"{}", "images: expected an array"), (b"[1]", r"images\[0\]: expected an object"),
    (b"\xff", "not UTF-8"), (b'[]}, {"x": [', "not JSON"), (b'[], "images": []', "appears twice"),
    (b"[{}]", r"images\[0\]\.Config: expected a string"), ([{"Config": "x", "Layers": None}], "not in the archive"),
    ([{"Config": "x", "Layers": 1}], "expected an array"),
    ([{"Config": "x", "Layers": [], "RepoTags": "x"}], "expected an array"),
    (b"[" * 100_000, "nested too deeply|not JSON"), ([entry(IMAGE, Layers=[])], "0 layers, but the config has 3"),
    ([entry(IMAGE, Config=f"{LAYERS[0].diff_id[7:]}.tar")], "config: not"),
    (b" " * (MAX_DOCUMENT + 1), "more than 4194304"),
    (b'[{"Config": "x", "Layers": ["\\ud800"]}]', "lone surrogate"),
])
def test_malformed(tmp_path: Path, document: object, says: str) -> None:
    with pytest.raises((OciError, BlobNotFound), match=f"^docker-archive:{tmp_path}/a: .*(?:{says})"):
        fetch(with_manifest(tmp_path / "a", document))


def test_what_is_no_archive_of_docker(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="there is no file"):
        fetch(f"docker-archive:{tmp_path}/missing")
    with pytest.raises(SourceUnreachable, match="not a regular file"):
        fetch(f"docker-archive:{tmp_path}")
    with pytest.raises(OciError, match=r"no manifest\.json") as caught:
        fetch(archive(tmp_path / "a", [regular("etc/passwd", b"")]))
    assert "oci-archive:FILE" in caught.value.hint
    (tmp_path / "b").write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(OciError, match="compressed as a whole"):
        fetch(f"docker-archive:{tmp_path}/b")


def test_names_that_are_there_twice(tmp_path: Path) -> None:
    first, second = regular("manifest.json", b"[]"), regular("manifest.json", to_json([entry(IMAGE)]))
    for members in ([first, second], [("manifest.json", "x", tarfile.SYMTYPE), second],
                    [first, ("manifest.json", "x", tarfile.SYMTYPE)]):
        with pytest.raises(OciError, match=r"two members named 'manifest\.json'"):
            fetch(archive(tmp_path / "a", members))
    strange = regular("\udcff\udcfe", b"")
    with pytest.raises(OciError, match="two members") as caught:
        fetch(archive(tmp_path / "a", [strange, strange]))
    str(caught.value).encode()


def test_one_layer_ten_thousand_times(tmp_path: Path) -> None:
    """It is looked at once, however often it is named."""
    large = Layer(tar=b"\0" * (1 << 20), compression="gzip")
    config = json.loads(IMAGE.config_bytes)
    config["rootfs"]["diff_ids"] = [large.diff_id] * 10_000
    document = [entry(IMAGE, Layers=["large"] * 10_000, Config="config")]
    reference = archive(tmp_path / "a", [regular("manifest.json", to_json(document)), regular("large", large.blob),
                                         regular("config", to_json(config))])
    start = time.process_time()
    with traced() as memory:
        assert len(fetch(reference).manifest.layers) == 10_000
    assert time.process_time() - start < 10
    assert memory.peak < 64 << 20


def test_truncated(tmp_path: Path) -> None:
    reference = saved(tmp_path / "a", (IMAGE, ""))
    data = (tmp_path / "a").read_bytes()
    for length in (0, 1, 511, 512, 1000, 1025, len(data) // 2, len(data) - 20_000):
        (tmp_path / "a").write_bytes(data[:length])
        with pytest.raises((OciError, BlobNotFound)):
            pull(reference)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_changed_byte_raises_only_our_errors(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    file = tmp_path_factory.getbasetemp() / "changed.tar"
    small = ImageBuilder([Layer(tar=bytes(1024))], platform=AMD64)
    reference = saved(file, (small, "x:1"))
    content = bytearray(file.read_bytes())
    used = content.rstrip(b"\0")
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(used) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    with contextlib.suppress(BootcdError):
        pull(reference)
