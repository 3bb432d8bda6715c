# SPDX-License-Identifier: Apache-2.0
"""`containers-storage:`, as it should be and as it should not; stores of real tools are in test_local_peers.py."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from bootcd.errors import (
    BlobMismatch,
    BlobNotFound,
    BootcdError,
    ConfigError,
    ImageNotFound,
    OciError,
    SourceUnreachable,
    UsageError,
)
from bootcd.model import ImageReference
from bootcd.registry import storage
from bootcd.registry.opening import open_source
from kit.images import Dir, File, ImageBuilder, IndexBuilder, Layer, Symlink, sha256
from kit.memory import traced
from kit.pulling import AMD64, ARM64, FAST, fetch, pull
from kit.stores import StoreBuilder

LAYERS = [Layer([Dir("usr"), File("usr/a", b"a" * 1000), File("usr/b", b"b" * 300_000), File("usr/empty")]),
          Layer([Symlink("lib", "usr"), File("usr/c", b"c" * 70)], compression="zstd"),
          Layer([File("usr/a", b"other" * 100)], compression=None)]
IMAGE = ImageBuilder(LAYERS, platform=AMD64)
TARS = [layer.tar for layer in LAYERS]
NAME = "quay.io/team/os:1"


@pytest.fixture
def store(tmp_path: Path) -> StoreBuilder:
    return StoreBuilder(tmp_path / "store", IMAGE, NAME)


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_layers_are_packed_again(tmp_path: Path, driver: str) -> None:
    store = StoreBuilder(tmp_path / "store", IMAGE, NAME, driver=driver)
    assert pull(store.reference(NAME)) == TARS
    fetched = fetch(store.reference(NAME))
    assert (fetched.data, fetched.digest) == (IMAGE.manifest_bytes, IMAGE.manifest_digest)
    assert [layer.digest for layer in fetched.manifest.layers] == [layer.diff_id for layer in LAYERS]
    assert pull(f"containers-storage:[{store.root}]{NAME}") == TARS
    assert pull(f"containers-storage:[{driver}@{store.root}+/run/x:a=b]{NAME}") == TARS


def test_names(store: StoreBuilder) -> None:
    store.image["names"] = ["docker.io/library/os:latest", "localhost:5000/team/os:2", "not a name"]
    store.write()
    for name in ("os", "os:latest", "docker.io/os", "localhost:5000/team/os:2", f"@{store.id}",
                 f"os@{IMAGE.manifest_digest}"):
        assert fetch(store.reference(name)).digest == IMAGE.manifest_digest
    for name in ("os:2", "quay.io/os", "localhost:5000/team/os", "@" + "0" * 64, f"os@{sha256(b'')}",
                 f"quay.io/os@{IMAGE.manifest_digest}"):
        with pytest.raises(ImageNotFound, match=r'only: "docker\.io/library/os:latest", "localhost:5000/team/os:2"'):
            fetch(store.reference(name))


def test_an_image_that_was_chosen_from_an_index(store: StoreBuilder) -> None:
    index = IndexBuilder([ImageBuilder([], platform=ARM64), IMAGE])
    store.put(f"manifest-{index.manifest_digest}", index.manifest_bytes)
    store.write()
    fetched = fetch(store.reference(f"quay.io/team/os@{index.manifest_digest}"))
    assert (fetched.digest, fetched.reference_digest) == (IMAGE.manifest_digest, index.manifest_digest)


def test_where_the_store_is(store: StoreBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "storage.conf"
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(file))
    empty = StoreBuilder(tmp_path / "empty", ImageBuilder([], platform=AMD64))
    for text in (f'[storage]\ngraphroot = "{store.root}"\n',
                 f'[storage]\ndriver = "overlay"\ngraphroot = "{empty.root}"\n'
                 f'[storage.options]\nadditionalimagestores = ["/nowhere", "{store.root}"]\n'):
        file.write_text(text)
        assert pull(f"containers-storage:{NAME}") == TARS
    reference = storage.resolved(ImageReference.parse("containers-storage:os"))
    assert str(reference) == f"containers-storage:[overlay@{empty.root}]docker.io/library/os:latest"
    for text, kind in ((f'[storage]\ngraphroot = "{tmp_path}"\n', SourceUnreachable), ("[storage", ConfigError),
                       ('[storage]\ngraphroot = 1\n', OciError), ('storage = 1\n', OciError)):
        file.write_text(text)
        with pytest.raises(kind):
            fetch(f"containers-storage:{NAME}")
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError):
        fetch(f"containers-storage:{NAME}")
    for spec in ("zfs@/var/lib/containers/storage", "overlay@relative"):
        with pytest.raises(UsageError):
            fetch(f"containers-storage:[{spec}]{NAME}")


def test_signatures_that_were_stored_with_it(store: StoreBuilder) -> None:
    digest = IMAGE.manifest_digest
    store.put(f"signature-{digest[7:]}", b"onetwothree")
    store.image["metadata"] = f'{{"signatures-sizes": {{"{digest}": [3, 3, 5]}}}}'
    store.write()
    source = storage.StorageImage(ImageReference.parse(store.reference(NAME)), FAST)
    assert list(source.signatures(digest)) == []
    source.manifest(AMD64)
    assert [data for _, data in source.signatures(digest)] == [b"one", b"two", b"three"]
    assert list(source.signatures(sha256(b""))) == []
    store.image["metadata"] = store.image["metadata"].replace("[3", "[-3")
    store.write()
    source.manifest(AMD64)
    with pytest.raises(OciError, match="sizes"):
        list(source.signatures(digest))


@pytest.mark.parametrize("what", ["images", "layers"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b"[{}]", b'[{"id": "../../etc"}]', b"[" * 100_000,
                                     b'[{"id": 1}]', b" " * (33 << 20)])
def test_lists_that_make_no_sense(store: StoreBuilder, what: str, content: bytes) -> None:
    store.write_list(what, content)
    with pytest.raises(OciError, match=r"^containers-storage:"):
        fetch(store.reference(NAME))


def test_layers_that_lead_in_a_circle_or_nowhere(store: StoreBuilder) -> None:
    first, *_, last = store.layers
    for parent, kind in ((last, OciError), ("0" * 64, BlobNotFound), ("../..", BlobNotFound)):
        store.parents[first] = parent
        store.write()
        with pytest.raises(kind):
            fetch(store.reference(NAME))
    store.parents[first] = ""
    store.image["layer"] = ""
    store.write()
    with pytest.raises(OciError, match="the 3 layers"):
        fetch(store.reference(NAME))


def test_documents_that_were_changed(store: StoreBuilder) -> None:
    manifest = IMAGE.manifest_bytes
    store.put(IMAGE.config_digest, IMAGE.config_bytes + b" ")
    with pytest.raises(BlobMismatch, match="its config"):
        fetch(store.reference(NAME))
    store.put(IMAGE.config_digest, IMAGE.config_bytes)
    store.put(f"manifest-{IMAGE.manifest_digest}", manifest + b" ")
    with pytest.raises(BlobMismatch, match="its manifest"):
        fetch(store.reference(f"quay.io/team/os@{IMAGE.manifest_digest}"))
    store.put("manifest", b"")
    with pytest.raises(OciError):
        fetch(store.reference(NAME))
    path = store.put("manifest", manifest)
    path.unlink()
    with pytest.raises(BlobNotFound, match="manifest"):
        fetch(store.reference(NAME))
    path.symlink_to("/dev/zero")
    with pytest.raises(SourceUnreachable, match="not a regular file"):
        fetch(store.reference(NAME))


@pytest.mark.parametrize("name", ["../../../../../../../../etc/passwd", "/etc/passwd", "link", "directory/passwd",
                                  "fifo", "usr", "no\0thing", ""])
def test_contents_come_from_the_layer_alone(store: StoreBuilder, name: str) -> None:
    layer = store.files(store.layers[0])
    (layer / "link").symlink_to("/etc/passwd")
    (layer / "directory").symlink_to("/etc")
    os.mkfifo(layer / "fifo")
    store.pack(store.layers[0], {"type": 1, "name": name, "size": 10})
    with pytest.raises(BlobNotFound, match=r"layer |blob "):
        pull(store.reference(NAME))


def test_contents_behind_a_link_inside_are_found(store: StoreBuilder) -> None:
    """A tar may write through a link that it has made."""
    layer = store.files(store.layers[0])
    (layer / "lib").symlink_to("/usr")
    tar = b"a" * 1000
    store.pack(store.layers[0], {"type": 1, "name": "lib/a", "size": 1000})
    source = open_source(ImageReference.parse(store.reference(NAME)), FAST)
    first = source.manifest(AMD64).manifest.layers[0]
    assert first.size == 1000
    assert b"".join(source.blob(first)) == tar
    assert b"".join(source.blob(first, 990)) == tar[990:]
    assert b"".join(source.blob(first, 1000)) == b""


@pytest.mark.parametrize("lines", [
    [{"type": 1, "name": "usr/a", "size": 10**12}], [{"type": 3}], [{"type": 1, "size": 5}], [{}],
    [{"type": 1, "name": 5, "size": 5}], [{"type": 2, "payload": "!"}], [{"type": 1, "name": "x", "size": -5}],
    [{"type": 1, "name_raw": "!", "size": 5}],
])
def test_tar_split_that_makes_no_sense(store: StoreBuilder, lines: list[dict[str, object]]) -> None:
    store.pack(store.layers[1], *lines)
    with pytest.raises((OciError, BlobNotFound, BlobMismatch), match=r"^containers-storage:"):
        pull(store.reference(NAME))


def test_a_tar_split_without_end_takes_no_memory(store: StoreBuilder) -> None:
    line = {"type": 2, "payload": base64.b64encode(bytes(1 << 20)).decode()}
    store.pack(store.layers[0], *[line] * 200)
    with traced() as memory:
        assert fetch(store.reference(NAME)).manifest.layers[0].size == 200 << 20
    assert memory.peak < 32 << 20
    path = store.pack(store.layers[0])
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BootcdError):
        fetch(store.reference(NAME))
    path.unlink()
    with pytest.raises(BlobNotFound, match=r"how layer \w+ was packed"):
        fetch(store.reference(NAME))
