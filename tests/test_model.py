# SPDX-License-Identifier: Apache-2.0
"""Image references as people and other tools write them."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import UsageError
from bootcd.model import ImageReference, Platform, is_digest

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(("text", "expected"), [
    ("quay.io/os/image:1.0", ImageReference("docker", "quay.io/os/image", "1.0")),
    ("quay.io/os/image", ImageReference("docker", "quay.io/os/image", "latest")),
    ("docker://localhost/os", ImageReference("docker", "localhost/os", "latest")),
    ("registry:localhost:5000/os:x", ImageReference("docker", "localhost:5000/os", "x")),
    ("localhost:5000/a/b-c__d.e:T_1", ImageReference("docker", "localhost:5000/a/b-c__d.e", "T_1")),
    ("[::1]:5000/os", ImageReference("docker", "[::1]:5000/os", "latest")),
    (f"quay.io/os@{DIGEST}", ImageReference("docker", "quay.io/os", None, DIGEST)),
    (f"quay.io/os:1@{DIGEST}", ImageReference("docker", "quay.io/os", "1", DIGEST)),
    ("oci:/srv/layout", ImageReference("oci", "/srv/layout")),
    ("oci:layout:tag", ImageReference("oci", "layout", "tag")),
    ("oci:with:colon/in/path", ImageReference("oci", "with:colon/in/path")),
    (f"oci:layout@{DIGEST}", ImageReference("oci", "layout", None, DIGEST)),
    ("oci-archive:/srv/a.tar:v1", ImageReference("oci-archive", "/srv/a.tar", "v1")),
    ("docker-archive:/srv/a.tar", ImageReference("docker-archive", "/srv/a.tar")),
    ("docker-archive:a.tar:quay.io/team/os:1", ImageReference("docker-archive", "a.tar", "quay.io/team/os:1")),
    ("docker-archive:a.tar:@1", ImageReference("docker-archive", "a.tar", "@1")),
    (f"docker-archive:a.tar:os:1@{DIGEST}", ImageReference("docker-archive", "a.tar", "os:1", DIGEST)),
    ("dir:/srv/a:b", ImageReference("dir", "/srv/a:b")), (f"dir:a@{DIGEST}", ImageReference("dir", "a", None, DIGEST)),
    ("tar:/srv/root.tar.gz", ImageReference("tar", "/srv/root.tar.gz")),
    ("containers-storage:os", ImageReference("containers-storage", "os", "latest")),
    ("containers-storage:localhost:5000/os:2", ImageReference("containers-storage", "localhost:5000/os", "2")),
    ("containers-storage:[overlay@/srv/s+/run/s:a=b]localhost/os:1",
     ImageReference("containers-storage", "[overlay@/srv/s+/run/s:a=b]localhost/os", "1")),
    (f"containers-storage:@{'0' * 64}", ImageReference("containers-storage", f"@{'0' * 64}")),
    (f"containers-storage:os@{DIGEST}", ImageReference("containers-storage", "os", None, DIGEST)),
])
def test_references(text: str, expected: ImageReference) -> None:
    assert ImageReference.parse(text) == expected
    assert ImageReference.parse(str(expected)) == expected


@pytest.mark.parametrize("text", [
    "", "debian", "debian:trixie", "library/debian", "quay.io/", "quay.io/UPPER", "quay.io/os:", "quay.io/os@sha256:12",
    "quay.io//os", "quay.io/os:-x", "oci:", "oci-archive:", "docker://", "https://quay.io/os", "quay.io/os with space",
    "quay.io/os\n", "quay.io/a/../b", "-quay.io/os", "quay.io:port/os", f"quay.io/os@{DIGEST.upper()}", "oci::tag",
    "dir:", "tar:", "docker-archive:", "docker-archive::os:1", "containers-storage:", "containers-storage:[]os",
    "containers-storage:[/srv]", "containers-storage:Os", "containers-storage:@12", f"dir:@{DIGEST}",
])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(UsageError):
        ImageReference.parse(text)


@pytest.mark.parametrize(("text", "instead"), [
    ("docker-daemon:os:1", "docker save -o FILE NAME"), ("tarball:/srv/a.tar", "tar:FILE"),
    ("ostree-unverified-registry:quay.io/os", "docker://HOST/PATH"), ("file:///srv/a.tar", "docker-archive:FILE"),
    ("ostree-image-signed:docker://quay.io/os", "policy.json"), ("sif:/srv/a.sif", "skopeo copy"),
])
def test_transports_that_others_have_are_told_what_to_do_instead(text: str, instead: str) -> None:
    with pytest.raises(UsageError, match=f"images are not taken from {text.partition(':')[0]}:") as caught:
        ImageReference.parse(text)
    assert instead in caught.value.hint


LOCAL = r"(docker-archive:|dir:|tar:|containers-storage:)[a-z.:/@\[\]0-9+-]{0,30}"


@given(st.text() | st.from_regex(r"(oci:|docker://|registry:)?[a-z.:/@\[\]0-9-]{0,30}") | st.from_regex(LOCAL))
def test_any_text_is_a_reference_or_wrong_usage(text: str) -> None:
    with contextlib.suppress(UsageError):
        reference = ImageReference.parse(text)
        assert ImageReference.parse(str(reference)) == reference


def test_host_and_repository() -> None:
    reference = ImageReference.parse("localhost:5000/a/b")
    assert (reference.host, reference.repository) == ("localhost:5000", "a/b")
    assert ImageReference.parse("oci:a/b").host == ""
    assert ImageReference.parse("dir:a").absolute().name == os.path.abspath("a")
    for text in ("quay.io/os", "containers-storage:os"):
        reference = ImageReference.parse(text)
        assert (reference.absolute(), reference.path) == (reference, "")


def test_digests_and_platforms() -> None:
    assert is_digest(DIGEST)
    assert is_digest("sha512:" + "0" * 128)
    assert not is_digest(DIGEST + "\n")
    assert str(Platform("linux", "arm64", "v8")) == "linux/arm64/v8"
    assert Platform.current().os == "linux"
