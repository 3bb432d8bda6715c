# SPDX-License-Identifier: Apache-2.0
"""What is attached to an image: at registries that list it and at those that do not, here and in the process that
fetches; in layouts; and what is not to be believed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from bootcd.errors import AuthenticationFailed, OciError, SourceUnreachable
from bootcd.formats.oci import MAX_DOCUMENT
from bootcd.model import ImageReference
from bootcd.registry.blob import read_blob
from bootcd.registry.opening import open_source
from bootcd.registry.referrers import MAX_PAGES, MAX_REFERRERS, artifacts, next_page, tag_of
from bootcd.registry.registries import Registries, parse
from bootcd.registry.sources import SourceOptions
from kit.artifacts import ArtifactBuilder, index, serve, serve_list
from kit.images import OCI_INDEX, ImageBuilder, to_json
from kit.pulling import FAST, IMAGE, LAYERS, serve_image
from kit.push import push
from kit.registry_server import RegistryServer, available
from kit.scripted_server import Reply, ScriptedServer, Seen

KIND = "application/vnd.example.note.v1"
NOTE = ArtifactBuilder(IMAGE, KIND, [("text/plain", b"well done", {"by": "a"})])
SECOND = ArtifactBuilder(IMAGE, KIND, [("text/plain", b"really", {})])
OTHER = ArtifactBuilder(IMAGE, "application/vnd.example.other.v1")
LIST = f"/v2/os/referrers/{IMAGE.manifest_digest}"
TAG = "/v2/os/manifests/" + IMAGE.manifest_digest.replace(":", "-")


@pytest.fixture(params=["here", "separate"])
def options(request: pytest.FixtureRequest) -> SourceOptions:
    if request.param == "separate" and os.geteuid() != 0:
        pytest.skip("only root has rights to give up")
    return replace(FAST, separate=request.param == "separate")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        serve_image(running)
        yield running


def found(reference: str, options: SourceOptions = FAST, registries: Registries | None = None) -> list[str]:
    """The digests of the notes about the image, read to the last byte."""
    source = open_source(ImageReference.parse(reference), options, registries)
    try:
        for one in (notes := list(artifacts(source, IMAGE.manifest_digest, KIND))):
            assert one.manifest.subject is not None
            for layer in one.manifest.layers:
                assert read_blob(source, layer, 100) in (b"well done", b"really", b"{}")
        return [one.descriptor.digest for one in notes]
    finally:
        source.close()


def test_a_registry_lists_them(server: ScriptedServer, options: SourceOptions) -> None:
    serve_list(server, IMAGE, NOTE, OTHER, SECOND, NOTE)
    assert found(f"{server.host}/os:1", options) == [NOTE.manifest_digest, SECOND.manifest_digest]
    (asked,) = (seen for seen in server.seen if seen.path == LIST)
    assert asked.query == {"artifactType": [KIND]}
    assert asked.headers["accept"] == OCI_INDEX
    assert TAG not in server.paths()


def test_a_registry_has_none(server: ScriptedServer, options: SourceOptions) -> None:
    serve_list(server, IMAGE)
    assert found(f"{server.host}/os:1", options) == []
    assert TAG not in server.paths()


@pytest.mark.parametrize("reply", [Reply(404), Reply(400), Reply(405), Reply(200, b"<html>Welcome!</html>")],
                         ids=["404", "400", "405", "something-else"])
def test_a_registry_that_does_not_know_how_has_a_tag(server: ScriptedServer, options: SourceOptions, reply: Reply
                                                     ) -> None:
    server.serve(LIST, reply)
    assert found(f"{server.host}/os:1", options) == []
    serve(server, NOTE)
    server.serve(TAG, Reply(body=index(NOTE, OTHER), headers={"Content-Type": OCI_INDEX}))
    assert found(f"{server.host}/os:1", options) == [NOTE.manifest_digest]


def test_a_list_of_several_pages(server: ScriptedServer, options: SourceOptions) -> None:
    serve(server, NOTE, SECOND)

    def page(seen: Seen) -> Reply:
        if "last" in seen.query:
            return Reply(body=index(SECOND), headers={"Content-Type": OCI_INDEX})
        link = f'<{LIST}?artifactType=x&last=1>; rel="next"'
        return Reply(body=index(NOTE), headers={"Content-Type": OCI_INDEX, "Link": link})

    server.serve(LIST, page)
    assert found(f"{server.host}/os:1", options) == [NOTE.manifest_digest, SECOND.manifest_digest]


@pytest.mark.parametrize(("link", "expected"), [
    (None, ""), ("", ""), ("<x>", ""), ('<a>; rel="prev"', ""),
    ('</v2/os/referrers/sha256:1?n=2>; rel="next"', "referrers/sha256:1?n=2"),
    ("<https://host:1/v2/os/referrers/x>; rel=next", "referrers/x"),
    ('<?page=2>; rel="next"', "referrers/d?page=2"),
    ('<a>; rel="prev", </v2/os/referrers/b>; rel="next"', "referrers/b"),
    ('<http://host:1/v2/os/referrers/x>; rel="next"', ""), ('<//elsewhere/v2/os/referrers/x>; rel="next"', ""),
    ('</v2/other/referrers/x>; rel="next"', ""), ('</v2/os/blobs/x>; rel="next"', ""), ('<//[>; rel="next"', ""),
], ids=["none", "empty", "no-rel", "prev", "absolute-path", "whole", "query", "several", "plain", "elsewhere",
        "other-repository", "blobs", "nonsense"])
def test_where_a_list_goes_on(link: str | None, expected: str) -> None:
    assert next_page("https://host:1/v2/os/referrers/d?artifactType=x", "os", link) == expected


@pytest.mark.parametrize(("reply", "error", "said"), [
    (Reply(200, b"{", {"Content-Type": OCI_INDEX}), OciError, "what is attached to sha256:.*not JSON"),
    (Reply(200, b" " * (MAX_DOCUMENT + 1), {"Content-Type": OCI_INDEX}), OciError, "more than"),
    (Reply(200, index(), {"Content-Type": OCI_INDEX, "Link": f'<{LIST}?again>; rel="next"'}), OciError,
     f"more than {MAX_PAGES} pages"),
    (Reply(403), AuthenticationFailed, "what is attached to"), (Reply(500), SourceUnreachable, "HTTP 500"),
    (Reply(418), SourceUnreachable, "HTTP 418"),
], ids=["malformed", "too-large", "endless", "forbidden", "broken", "teapot"])
def test_a_list_that_cannot_be_used(server: ScriptedServer, options: SourceOptions, reply: Reply,
                                    error: type[Exception], said: str) -> None:
    server.serve(LIST, reply)
    with pytest.raises(error, match=said):
        found(f"{server.host}/os:1", options)


def test_a_list_that_never_comes_is_not_waited_for_as_long_as_an_image(server: ScriptedServer) -> None:
    server.serve(LIST, Reply(503))
    with pytest.raises(SourceUnreachable, match="gave up after 3 attempts"):
        found(f"{server.host}/os:1", replace(FAST, attempts=50))


def test_too_many(server: ScriptedServer) -> None:
    many = [ArtifactBuilder(IMAGE, KIND, annotations={"number": str(number)}) for number in range(MAX_REFERRERS + 1)]
    serve_list(server, IMAGE, *many)
    with pytest.raises(OciError, match=f"{MAX_REFERRERS + 1} artifacts of type {KIND} .* more than {MAX_REFERRERS}"):
        found(f"{server.host}/os:1")


def test_what_a_list_says_is_nobodys_word(server: ScriptedServer, options: SourceOptions) -> None:
    """One that is about another image, is of another type, is gone, is not what its digest says, or cannot be read
    hides no other."""
    elsewhere = ArtifactBuilder(ImageBuilder(LAYERS[1:]), KIND)
    without = ArtifactBuilder(IMAGE, KIND, subject=None)
    another = ArtifactBuilder(IMAGE, KIND, artifactType="application/vnd.example.other.v1")
    gone, damaged, broken = (ArtifactBuilder(IMAGE, KIND, annotations={"number": number}) for number in "123")
    serve_list(server, IMAGE, elsewhere, without, another, gone, damaged, broken, NOTE)
    server.serve(f"/v2/os/manifests/{gone.manifest_digest}", Reply(404))
    server.serve(f"/v2/os/manifests/{damaged.manifest_digest}", Reply(body=broken.manifest_bytes))
    server.serve(f"/v2/os/manifests/{broken.manifest_digest}", Reply(body=b"{" * len(broken.manifest_bytes)))
    manifests = [artifact.descriptor() | {"artifactType": KIND}
                 for artifact in (elsewhere, without, another, gone, damaged, broken, NOTE)]
    nothing = IMAGE.descriptor() | {"size": MAX_DOCUMENT + 1}
    server.serve(LIST, Reply(body=to_json({"schemaVersion": 2, "mediaType": OCI_INDEX,
                                           "manifests": [nothing, *manifests]}), headers={"Content-Type": OCI_INDEX}))
    assert found(f"{server.host}/os:1", options) == [NOTE.manifest_digest]


def test_a_type_that_only_the_config_tells(server: ScriptedServer) -> None:
    """As older tools make them, and registries that do not fill the list in."""
    old = ArtifactBuilder(IMAGE, KIND, artifactType=None)
    old.manifest["config"]["mediaType"] = KIND
    serve_list(server, IMAGE, old)
    assert found(f"{server.host}/os:1") == [old.manifest_digest]


def test_a_mirror_without_what_was_attached_later(server: ScriptedServer) -> None:
    serve_list(server, IMAGE, NOTE)
    with ScriptedServer() as mirror:
        serve_image(mirror)
        serve_list(mirror, IMAGE)
        lines = f'[[registry]]\nprefix = "images.example/os"\nlocation = "{server.host}/os"\n' \
                f'[[registry.mirror]]\nlocation = "{mirror.host}/os"\n'
        table = Registries(parse(lines.encode(), "test"))
        assert found("images.example/os:1", FAST, table) == [NOTE.manifest_digest]
        assert LIST in mirror.paths()
        serve_list(server, IMAGE)
        assert found("images.example/os:1", FAST, table) == []


def test_a_layout(tmp_path: Path) -> None:
    IMAGE.write_layout(tmp_path, "1")
    NOTE.write_layout(tmp_path)
    OTHER.write_layout(tmp_path)
    assert found(f"oci:{tmp_path}:1") == [NOTE.manifest_digest]
    source = open_source(ImageReference.parse(f"oci:{tmp_path}"))
    assert source.manifest(IMAGE.platform).digest == IMAGE.manifest_digest, "there is one image, and what is about it"
    source.close()


def test_a_place_that_has_no_artifacts(tmp_path: Path) -> None:
    assert found(f"tar:{tmp_path}/any.tar") == []


def test_the_tag_of_a_long_digest() -> None:
    assert tag_of("sha256:" + "ab" * 32) == "sha256-" + "ab" * 32
    assert tag_of("sha512:" + "ab" * 64) == "sha512-" + "ab" * 32


@pytest.mark.skipif(not available(), reason="docker-registry is not installed")
def test_a_real_registry_of_before(tmp_path: Path, options: SourceOptions) -> None:
    """Debian's does not list referrers; whoever attached this has kept the tag."""
    with RegistryServer(tmp_path) as registry:
        push(IMAGE, f"{registry.address}/os:1")
        assert found(f"{registry.address}/os:1", options) == []
        push(NOTE, f"{registry.address}/os")
        requests.put(f"http://{registry.address}{TAG}", data=index(NOTE), headers={"Content-Type": OCI_INDEX},
                     timeout=10).raise_for_status()
        assert found(f"{registry.address}/os:1", options) == [NOTE.manifest_digest]
