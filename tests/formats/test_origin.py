# SPDX-License-Identifier: Apache-2.0
"""Origin files: what bootc writes is read, what we write is read back, and nonsense is an error that says where."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import FormatError
from bootcd.formats.origin import Origin

_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), max_size=40)


@given(st.builds(Origin, image=_TEXT.map(lambda text: f"registry:{text}"), boot_type=st.sampled_from(["bls", "uki"]),
                 boot_digest=_TEXT, manifest_digest=_TEXT))
def test_round_trip(origin: Origin) -> None:
    assert Origin.parse(origin.format(), "x") == origin


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for text in (data, b"[origin]\ncontainer-image-reference=ostree-unverified-image:registry:a\n[boot]\n" + data):
        with contextlib.suppress(FormatError):
            Origin.parse(text, "x")


def test_as_bootc_writes_it() -> None:
    text = (b"[origin]\ncontainer-image-reference=ostree-unverified-image:docker://quay.io/os/image:stable\n"
            b"[boot]\nboot_type=uki\n; a comment\n[image]\nmanifest_digest = sha256:abc\n[else]\nboot_type=x\n")
    assert Origin.parse(text, "x") == Origin("docker://quay.io/os/image:stable", "uki", "", "sha256:abc")
    short = b"[origin]\ncontainer-image-reference=ostree-unverified-registry:quay.io/os/image\n[boot]\nboot_type=bls\n"
    assert Origin.parse(short, "x").image == "registry:quay.io/os/image"


@pytest.mark.parametrize(("text", "said"), [
    (b"", "image reference"),
    (b"[origin]\ncontainer-image-reference=ostree-remote-image:fedora:registry:quay.io/x\n", "ostree-remote-image"),
    (b"[origin]\ncontainer-image-reference=ostree-unverified-image:registry:a\n", "boot_type"),
    (b"[origin]\nnothing\n", "line 2"),
    (b"[a]\nb=1\nb=2\n", "line 3 says 'b' once more"),
    (b"#" * 70000, "larger"),
])
def test_nonsense(text: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        Origin.parse(text, "x.origin")
