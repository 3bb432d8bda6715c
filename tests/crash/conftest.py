# SPDX-License-Identifier: Apache-2.0
"""One fork server for all crash tests, and the worlds that they start from, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crash.program import Program, copy, fast_directory, publish
from kit.images import File
from kit.os_images import base_layer, os_image

IMAGE = "oci:layout:latest"


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    with fast_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def program(scratch: Path) -> Iterator[Program]:
    with Program(scratch) as started:
        yield started


class Worlds:
    """Worlds by name, each made when it is first asked for. They are only copied, never changed."""

    def __init__(self, scratch: Path, program: Program) -> None:
        self._scratch = scratch
        self._program = program
        self._made: dict[str, Path] = {}

    def __call__(self, name: str) -> Path:
        if name not in self._made:
            path = self._scratch / "worlds" / name
            path.mkdir(parents=True)
            maker: Callable[[Path], None] = getattr(self, f"_{name}")
            maker(path)
            self._made[name] = path
        return self._made[name]

    def run(self, path: Path, *arguments: str) -> None:
        done = self._program(path, *arguments)
        assert done.status == 0, done.err

    def _empty(self, path: Path) -> None:
        publish(path, os_image("1.0"))

    def _foreign_only(self, path: Path) -> None:
        self._empty(path)
        self._foreign(path)

    def _old(self, path: Path) -> None:
        """1.0 pinned, 1.1 previous, 1.2 default, each with its own kernel; local changes; somebody else's files."""
        self._foreign_only(path)
        self.run(path, "install", "to-filesystem", IMAGE)
        self._edit(path)
        self.run(path, "pin", "default", "--label", "good")
        for version in ("1.1", "1.2"):
            publish(path, os_image(version, base=base_layer(kernel=b"kernel of " + version.encode())))
            self.run(path, "upgrade")

    def _new(self, path: Path) -> None:
        """As before, and 1.3 is published, with a new kernel and changes in /etc."""
        copy(self("old"), path)
        publish(path, os_image("1.3", [File("etc/added", b"by the image\n")], base=base_layer(kernel=b"kernel of 1.3")))
        publish(path, os_image("9.0"), "beta")

    def _staged(self, path: Path) -> None:
        """1.3 is staged."""
        copy(self("new"), path)
        self.run(path, "upgrade", "--download-only")

    def _restaged(self, path: Path) -> None:
        """1.3 is staged, and 1.4 published."""
        copy(self("staged"), path)
        publish(path, os_image("1.4", base=base_layer(kernel=b"kernel of 1.4")))

    def _kept(self, path: Path) -> None:
        """The source names the pinned 1.0 again, while 1.3 is staged."""
        copy(self("staged"), path)
        publish(path, os_image("1.0"))

    def _cluttered(self, path: Path) -> None:
        """There is something to collect of every kind."""
        copy(self("staged"), path)
        self.run(path, "image", "pull", "oci:layout:beta", "--name", "beta")
        self.run(path, "unstage")
        self.run(path, "unpin", "good")
        self.run(path, "image", "remove", "beta")

    def _foreign(self, path: Path) -> None:
        for name, content in (("loader/entries/foreign.conf", b"title Foreign\nlinux /foreign/vmlinuz\n"),
                              ("foreign/vmlinuz", b"foreign kernel"), ("EFI/foreign/grubx64.efi", b"MZ foreign"),
                              ("loader/entries/foreign-broken.conf", b"\xff\xfe")):
            file = path / "esp" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    def _edit(self, path: Path) -> None:
        for etc in (path / "sysroot/state/deploy").glob("*/etc"):
            (etc / "hostname").write_text("machine\n")


@pytest.fixture(scope="session")
def worlds(scratch: Path, program: Program) -> Worlds:
    return Worlds(scratch, program)
