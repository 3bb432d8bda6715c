# SPDX-License-Identifier: Apache-2.0
"""policy.json: which scope decides, which name in a signature fits, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import TrustPolicyError
from bootcd.formats.documents import shown
from bootcd.formats.imagename import ImageName
from bootcd.formats.trustpolicy import Accept, Identity, Reject, SignedBy, SigstoreSigned, parse
from bootcd.model import ImageReference

ACCEPT, REJECT = {"type": "insecureAcceptAnything"}, {"type": "reject"}
DIGEST = "sha256:" + "a" * 64
KEY = {"type": "sigstoreSigned", "keyPath": "/k.pub"}


def policy(**top: Any) -> bytes:
    return json.dumps({"default": [REJECT], **top}).encode()


def scopes(transport: str, *names: str) -> bytes:
    """A policy that accepts in these scopes."""
    return policy(transports={transport: {name: [ACCEPT] for name in names}})


def identity(rule: dict[str, str]) -> Identity:
    requirement = parse(policy(default=[{**KEY, "signedIdentity": rule}]), "test").default[0]
    assert isinstance(requirement, SigstoreSigned)
    return requirement.identity


@pytest.mark.parametrize(("image", "names", "decides"), [
    ("quay.io/team/os:1", ["quay.io", "quay.io/team", "quay.io/team/os", "quay.io/team/os:1"], "quay.io/team/os:1"),
    ("quay.io/team/os:1", ["quay.io", "quay.io/team", "quay.io/team/os:2"], "quay.io/team"),
    ("quay.io/team/os:1", ["quay.io/te", "quay.io/team/o", ""], ""),
    (f"quay.io/team/os@{DIGEST}", ["quay.io/team/os:latest", f"quay.io/team/os@{DIGEST}"], f"quay.io/team/os@{DIGEST}"),
    ("a.b.example.com/os:1", ["*.com", "*.example.com"], "*.example.com"),
    ("a.b.example.com/os:1", ["*.example.com", "a.b.example.com"], "a.b.example.com"),
    ("example.com:5000/os:1", ["example.com", "*.com"], "*.com"),
    ("docker.io/busybox:1", ["docker.io/library/busybox"], "docker.io/library/busybox"),
])
def test_the_most_specific_scope_decides(image: str, names: list[str], decides: str) -> None:
    decision = parse(scopes("docker", *names), "test").about(ImageReference.parse(image))
    assert decision.scope == f"transports.docker[{json.dumps(decides)}]"
    assert decision.requirements == (Accept(),)


@pytest.mark.parametrize(("image", "name"), [
    ("oci:/srv/images/os:1", "/srv/images/os:1"), ("oci:/srv/images/os:1", "/srv/images"),
    ("oci:/srv/images/os", "/srv/images/os:"), ("oci-archive:/srv/os.tar:1", "/srv/os.tar"),
    ("dir:/srv/os", "/srv/os"), ("dir:/srv/os", "/srv"), ("dir:/srv/os", ""), ("tar:/srv/os.tar", "/srv"),
    ("docker-archive:/srv/os.tar:quay.io/os:1", ""),
])
def test_scopes_of_files_are_paths(image: str, name: str) -> None:
    transport = image.partition(":")[0]
    assert parse(scopes(transport, name), "test").about(ImageReference.parse(image)).requirements == (Accept(),)


STORE = "[overlay@/var/lib/containers/storage]"


@pytest.mark.parametrize(("image", "names", "decides"), [
    ("quay.io/team/os:1", ["quay.io", "quay.io/team/os", "quay.io/team/os:1"], "quay.io/team/os:1"),
    ("quay.io/team/os:1", ["quay.io", "quay.io/team", "quay.io/team/os:2"], "quay.io/team"),
    (f"quay.io/team/os@{DIGEST}", ["quay.io", f"quay.io/team/os@{DIGEST}"], f"quay.io/team/os@{DIGEST}"),
    ("quay.io/team/os:1", ["docker.io"], ""), (f"@{'0' * 64}", [f"@{'0' * 64}"], f"@{'0' * 64}"),
])
def test_scopes_in_a_store_begin_with_the_store(image: str, names: list[str], decides: str) -> None:
    reference = ImageReference.parse(f"containers-storage:{STORE}{image}")
    decision = parse(scopes("containers-storage", *(STORE + name for name in ("", *names))), "test").about(reference)
    assert decision.scope == f"transports.containers-storage[{shown(STORE + decides)}]"
    general = parse(scopes("containers-storage", "[/var/lib/containers/storage]", ""), "test").about(reference)
    assert general.scope == 'transports.containers-storage["[/var/lib/containers/storage]"]'
    assert parse(scopes("containers-storage", "[overlay@/srv]"), "test").about(reference).scope == "default"


@pytest.mark.parametrize(("transport", "scope"), [
    ("docker-archive", "/srv/os.tar"), ("containers-storage", "quay.io/os"), ("containers-storage", "[overlay]quay.io"),
    ("dir", "srv"), ("tar", "/srv/../etc"),
])
def test_scopes_that_nothing_could_be_in_are_mistakes(transport: str, scope: str) -> None:
    with pytest.raises(TrustPolicyError, match=transport):
        parse(scopes(transport, scope), "test")


def test_where_no_scope_fits_the_default_decides() -> None:
    decision = parse(scopes("docker", "quay.io"), "test").about(ImageReference.parse("oci:/srv/os:1"))
    assert (decision.scope, decision.requirements) == ("default", (Reject(),))


@pytest.mark.parametrize(("rule", "image", "signed", "accepts"), [
    ({"type": "matchRepoDigestOrExact"}, "quay.io/os:1", "quay.io/os:1", True),
    ({"type": "matchRepoDigestOrExact"}, "quay.io/os:1", "quay.io/os:2", False),
    ({"type": "matchRepoDigestOrExact"}, "quay.io/os:1", "quay.io/os", False),
    ({"type": "matchRepoDigestOrExact"}, f"quay.io/os@{DIGEST}", "quay.io/os:2", True),
    ({"type": "matchRepoDigestOrExact"}, f"quay.io/os@{DIGEST}", "quay.io/other:2", False),
    ({"type": "matchExact"}, "quay.io/os:1", "quay.io/os:1", True),
    ({"type": "matchExact"}, f"quay.io/os@{DIGEST}", "quay.io/os:1", False),
    ({"type": "matchRepository"}, "quay.io/os:1", "quay.io/os", True),
    ({"type": "matchRepository"}, "quay.io/os:1", "quay.io/os2", False),
    ({"type": "exactReference", "dockerReference": "vendor.example/os:1"}, "quay.io/os:7", "vendor.example/os:1", True),
    ({"type": "exactReference", "dockerReference": "vendor.example/os:1"}, "quay.io/os:7", "quay.io/os:7", False),
    ({"type": "exactRepository", "dockerRepository": "vendor.example/os"}, "quay.io/os:7", "vendor.example/os:3", True),
    ({"type": "remapIdentity", "prefix": "quay.io/mirror", "signedPrefix": "vendor.example"},
     "quay.io/mirror/os:1", "vendor.example/os:1", True),
    ({"type": "remapIdentity", "prefix": "quay.io/mirror", "signedPrefix": "vendor.example"},
     "quay.io/mirror2/os:1", "vendor.example/os:1", False),
    ({"type": "remapIdentity", "prefix": "quay.io/mirror", "signedPrefix": "vendor.example"},
     "quay.io/mirror2/os:1", "quay.io/mirror2/os:1", True),
])
def test_which_name_in_a_signature_fits(rule: dict[str, str], image: str, signed: str, accepts: bool) -> None:
    name = ImageName.of(ImageReference.parse(image))
    assert identity(rule).accepts(name, ImageName.parse(signed)) is accepts


def test_an_image_without_a_name_fits_only_a_name_in_the_policy() -> None:
    signed = ImageName.parse("vendor.example/os:1")
    assert not identity({"type": "matchRepository"}).accepts(None, signed)
    assert identity({"type": "exactRepository", "dockerRepository": "vendor.example/os"}).accepts(None, signed)


def test_keys_come_from_files_or_the_policy_itself() -> None:
    data = base64.b64encode(b"key").decode()
    found = parse(policy(default=[
        {"type": "sigstoreSigned", "keyPaths": ["/a", "/b"]}, {"type": "sigstoreSigned", "keyDatas": [data]},
        {"type": "signedBy", "keyType": "GPGKeys", "keyData": data},
        {"type": "sigstoreSigned", "rekorPublicKeyPath": "/r",
         "fulcio": {"caData": data, "oidcIssuer": "https://i.example", "subjectEmail": "a@example.com"}},
    ]), "test").default
    first, second, third, fourth = found
    assert isinstance(first, SigstoreSigned)
    assert isinstance(second, SigstoreSigned)
    assert isinstance(third, SignedBy)
    assert isinstance(fourth, SigstoreSigned)
    assert [key.path for key in first.keys] == ["/a", "/b"]
    assert second.keys[0].data == third.keyrings[0].data == b"key"
    assert fourth.fulcio is not None
    assert fourth.fulcio.email == "a@example.com"


@pytest.mark.parametrize(("document", "says"), [
    (b"", "not JSON"), (b"[]", "expected an object"), (b"{}", "default"), (b'{"default": []}', "at least one"),
    (b'{"default": [{"type": "reject"}], "default": [{"type": "reject"}]}', "appears twice"),
    (policy(extra=1), "unknown key 'extra'"),
    (policy(default=[{"type": "acceptAnything"}]), "default[0].type"),
    (policy(default=[{**ACCEPT, "keyPath": "/k"}]), "unknown key 'keyPath'"),
    (policy(default=[{"type": "sigstoreSigned"}]), "missing: keyPath"),
    (policy(default=[{**KEY, "keyData": "aaaa"}]), "excludes keyPath"),
    (policy(default=[{**KEY, "pki": {}}]), "unknown key 'pki'"),
    (policy(default=[{"type": "sigstoreSigned", "keyData": "?"}]), "not base64"),
    (policy(default=[{"type": "sigstoreSigned", "keyPaths": []}]), "must not be empty"),
    (policy(default=[{"type": "sigstoreSigned", "fulcio": {"caPath": "/c", "oidcIssuer": "i", "subjectEmail": "e"}}]),
     "rekorPublicKeyPath"),
    (policy(default=[{"type": "signedBy", "keyType": "X509", "keyPath": "/k"}]), "keyType"),
    (policy(default=[{**KEY, "signedIdentity": {"type": "matchAny"}}]), "signedIdentity.type"),
    (policy(default=[{**KEY, "signedIdentity": {"type": "exactReference", "dockerReference": "quay.io/os"}}]), "tag"),
    (policy(default=[{**KEY, "signedIdentity": {"type": "remapIdentity", "prefix": "a/b:1", "signedPrefix": "c"}}]),
     "prefix"),
    (scopes("oci", "images"), "absolute path"), (scopes("oci", "/"), "absolute path"),
    (scopes("oci", "/a/../b"), "'..'"),
    (policy(transports={"docker": {"": []}}), "at least one"), (b'{"default":' * 9999, "nested"),
])
def test_what_is_not_understood_is_refused(document: bytes, says: str) -> None:
    with pytest.raises(TrustPolicyError) as caught:
        parse(document, "/etc/policy.json")
    assert says in str(caught.value)
    assert str(caught.value).startswith("/etc/policy.json")


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9),
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                         ["default", "transports", "docker", "type", "keyPath", "signedIdentity", "quay.io"]), inner))


@given(st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_policy_or_a_policy_error(data: bytes) -> None:
    try:
        parse(data, "test")
    except TrustPolicyError:
        return
