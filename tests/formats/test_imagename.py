# SPDX-License-Identifier: Apache-2.0
"""Names of images as signatures and policies write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import SignatureError
from bootcd.formats.imagename import ImageName, path_scopes
from bootcd.model import ImageReference


@pytest.mark.parametrize(("text", "whole"), [
    ("busybox", "docker.io/library/busybox"),
    ("busybox:1", "docker.io/library/busybox:1"),
    ("team/os", "docker.io/team/os"),
    ("index.docker.io/busybox:1", "docker.io/library/busybox:1"),
    ("localhost:5000/os", "localhost:5000/os"),
    (f"quay.io/team/os:1@sha256:{'a' * 64}", f"quay.io/team/os:1@sha256:{'a' * 64}"),
])
def test_what_is_left_out_is_filled_in_but_no_tag(text: str, whole: str) -> None:
    assert str(ImageName.parse(text)) == whole


@pytest.mark.parametrize("text", ["", ":", "Busybox", "quay.io/", "quay.io/os@sha256:12", "a b", "q.io/../os", "/os"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(SignatureError):
        ImageName.parse(text)


def test_scopes_go_from_the_image_to_the_host() -> None:
    name = ImageName.of(ImageReference.parse("a.b.example.com:5000/team/os:1"))
    assert name.scopes() == ["a.b.example.com:5000/team/os:1", "a.b.example.com:5000/team/os",
                             "a.b.example.com:5000/team", "a.b.example.com:5000"]
    assert name.wildcards() == ["*.b.example.com", "*.example.com", "*.com"]
    assert path_scopes("/srv/images/os") == ["/srv/images/os", "/srv/images", "/srv"]


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_a_signature_error(text: str) -> None:
    try:
        name = ImageName.parse(text)
    except SignatureError:
        return
    assert ImageName.parse(str(name)) == name
