# SPDX-License-Identifier: Apache-2.0
"""Image references as people and other tools write them."""

from __future__ import annotations

import contextlib

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
])
def test_references(text: str, expected: ImageReference) -> None:
    assert ImageReference.parse(text) == expected
    assert ImageReference.parse(str(expected)) == expected


@pytest.mark.parametrize("text", [
    "", "debian", "debian:trixie", "library/debian", "quay.io/", "quay.io/UPPER", "quay.io/os:", "quay.io/os@sha256:12",
    "quay.io//os", "quay.io/os:-x", "oci:", "oci-archive:", "docker://", "https://quay.io/os", "quay.io/os with space",
    "quay.io/os\n", "quay.io/a/../b", "-quay.io/os", "quay.io:port/os", f"quay.io/os@{DIGEST.upper()}", "oci::tag",
])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(UsageError):
        ImageReference.parse(text)


@given(st.text() | st.from_regex(r"(oci:|docker://|registry:)?[a-z.:/@\[\]0-9-]{0,30}"))
def test_any_text_is_a_reference_or_wrong_usage(text: str) -> None:
    with contextlib.suppress(UsageError):
        reference = ImageReference.parse(text)
        assert ImageReference.parse(str(reference)) == reference


def test_host_and_repository() -> None:
    reference = ImageReference.parse("localhost:5000/a/b")
    assert (reference.host, reference.repository) == ("localhost:5000", "a/b")
    assert ImageReference.parse("oci:a/b").host == ""


def test_digests_and_platforms() -> None:
    assert is_digest(DIGEST)
    assert is_digest("sha512:" + "0" * 128)
    assert not is_digest(DIGEST + "\n")
    assert str(Platform("linux", "arm64", "v8")) == "linux/arm64/v8"
    assert Platform.current().os == "linux"
