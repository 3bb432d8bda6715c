# SPDX-License-Identifier: Apache-2.0
"""Secure Boot keys of an image on the boot partition."""

from __future__ import annotations

import pytest

from bootcd.boot.enrol import copy_keys
from bootcd.boot.esp import Esp
from bootcd.errors import NotBootable
from bootcd.formats.tree import Directory, RegularFile


def read(node: RegularFile) -> bytes:
    assert node.inline is not None
    return node.inline


def tree(files: dict[str, bytes]) -> Directory:
    root = Directory()
    for path, content in files.items():
        *parents, name = path.split("/")
        directory = root
        for part in parents:
            child = directory.entries.setdefault(part.encode(), Directory())
            assert isinstance(child, Directory)
            directory = child
        directory.entries[name.encode()] = RegularFile(size=len(content), inline=content)
    return root


def test_sets_of_keys_are_copied(esp: Esp) -> None:
    root = tree({
        "usr/lib/bootcd/keys/auto/PK.auth": b"platform", "usr/lib/bootcd/keys/auto/db.auth": b"ours",
        "usr/lib/bootcd/keys/auto/private.key": b"SECRET", "usr/lib/bootcd/keys/README": b"text",
        "usr/lib/bootcd/keys/not plain/PK.auth": b"x",
        "usr/lib/bootc/install/secureboot-keys/auto/db.auth": b"theirs",
        "usr/lib/bootc/install/secureboot-keys/vendor/KEK.auth": b"exchange",
    })
    assert sorted(copy_keys(esp, root, read)) == [
        "loader/keys/auto/PK.auth", "loader/keys/auto/db.auth", "loader/keys/vendor/KEK.auth"]
    assert esp.read("loader/keys/auto/db.auth", 100) == b"ours"
    assert esp.names("loader/keys/auto") == ["PK.auth", "db.auth"]
    assert copy_keys(esp, root, read) == [], "nothing is written twice"


def test_keys_that_are_there_stay(esp: Esp) -> None:
    esp.make_directory("loader/keys/auto")
    esp.write("loader/keys/auto/PK.auth", [b"the owner's"])
    assert copy_keys(esp, tree({"usr/lib/bootcd/keys/auto/PK.auth": b"the image's"}), read) == []
    assert esp.read("loader/keys/auto/PK.auth", 100) == b"the owner's"


def test_an_image_without_keys(esp: Esp) -> None:
    assert copy_keys(esp, Directory(), read) == []
    assert esp.names("loader/keys") == []


@pytest.mark.parametrize("content", [b"", b"x" * ((1 << 20) + 1)])
def test_what_can_be_no_key(content: bytes, esp: Esp) -> None:
    with pytest.raises(NotBootable, match=r"keys/auto/PK\.auth in the image is no Secure Boot key"):
        copy_keys(esp, tree({"usr/lib/bootcd/keys/auto/PK.auth": content}), read)
    assert esp.names("loader/keys") == []
