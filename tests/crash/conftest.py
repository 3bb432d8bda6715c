# SPDX-License-Identifier: Apache-2.0
"""One fork server for all crash tests, and the worlds that they start from, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from crash.invariant import MIRROR
from crash.program import CONFIG, Program, copy, fast_directory, publish
from kit.bootc import image, install_as_bootc
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

    def _tried(self, path: Path) -> None:
        """The default has other kernel arguments on trial."""
        copy(self("old"), path)
        self.run(path, "kargs", "add", "quiet")

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
        downloads = path / "sysroot/state/bootcd/downloads"
        downloads.mkdir(mode=0o700)
        (downloads / f"sha256:{'1' * 64}").write_bytes(b"what has come of a layer")

    def _running(self, path: Path) -> None:
        """1.2 runs, and 1.3 is published."""
        copy(self("new"), path)
        self.boot(path, "1.2")

    def _shutting_down(self, path: Path) -> None:
        """1.2 runs, 1.3 is staged, and /etc was edited since."""
        copy(self("running"), path)
        self.run(path, "upgrade")
        (self._etc(path, "1.2") / "late").write_text("by the administrator\n")

    def _resetting(self, path: Path) -> None:
        """1.2 runs, and the shutdown resets its state."""
        copy(self("running"), path)
        self.run(path, "reset", "--state")

    def _came_up(self, path: Path) -> None:
        """1.3 is the default and runs; its boots are counted still."""
        copy(self("shutting_down"), path)
        self.run(path, "finalize")
        self.boot(path, "1.3")
        self.run(path, "boot-started")

    def _fell_back(self, path: Path) -> None:
        """1.3 did not come up in any of its tries, and 1.2 runs again."""
        copy(self("shutting_down"), path)
        self.run(path, "finalize")
        name = self._etc(path, "1.3").parent.name
        (entry,) = (path / "esp/loader/entries").glob(f"bootcd-*-{name[:12]}+3.conf")
        entry.rename(entry.with_name(entry.name.replace("+3.conf", "+0-3.conf")))

    def _given_up(self, path: Path) -> None:
        """1.2 runs, and the loader has given up the kernel arguments that it is on trial with."""
        copy(self("running"), path)
        self.run(path, "kargs", "add", "bootcd.test=1")
        name = self._etc(path, "1.2").parent.name
        entry = max((path / "esp/loader/entries").glob(f"bootcd-*-{name[:12]}+3.conf"))
        entry.rename(entry.with_name(entry.name.replace("+3.conf", "+0-3.conf")))

    def boot(self, path: Path, version: str) -> None:
        """Let a deployment run."""
        (path / "booted").write_text(self._etc(path, version).parent.name)

    def _etc(self, path: Path, version: str) -> Path:
        (found,) = (etc for etc in (path / "sysroot/state/deploy").glob("*/etc")
                    if (etc / "version.conf").read_text() == f"version = {version}\n")
        return found

    def _bootc(self, path: Path) -> None:
        """bootc has installed 1.0 and upgraded to 1.1, each with its own kernel."""
        install_as_bootc(path, image("1.0"), image("1.1", kernel=b"kernel of 1.1"))
        self._foreign(path)

    def _mirrored(self, path: Path) -> None:
        """As new, with a second boot partition that is kept equal and has files of its own."""
        copy(self("new"), path)
        (path / CONFIG).write_text(f'[boot]\nmirrors = ["/{MIRROR.name}"]\n')
        self._foreign(path, MIRROR)
        self.run(path, "pin", "default", "--label", "mirrored")
        self.run(path, "unpin", "default", "--label", "mirrored")

    def _lagging(self, path: Path) -> None:
        """The second one was away when 1.3 came and 1.1 went."""
        copy(self("mirrored"), path)
        (path / MIRROR).rename(path / "away")
        self.run(path, "upgrade")
        (path / "away").rename(path / MIRROR)

    def _foreign(self, path: Path, esp: Path = Path("esp")) -> None:
        for name, content in (("loader/entries/foreign.conf", b"title Foreign\nlinux /foreign/vmlinuz\n"),
                              ("foreign/vmlinuz", b"foreign kernel"), ("EFI/foreign/grubx64.efi", b"MZ foreign"),
                              ("loader/entries/foreign-broken.conf", b"\xff\xfe")):
            file = path / esp / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    def _edit(self, path: Path) -> None:
        for etc in (path / "sysroot/state/deploy").glob("*/etc"):
            (etc / "hostname").write_text("machine\n")


def tell_tried(request: pytest.FixtureRequest, tried: Mapping[str, int]) -> None:
    """Have the end of the test run say how much was tried; see tests/conftest.py."""
    request.node.user_properties += [("tried", item) for item in tried.items()]


@pytest.fixture(scope="session")
def worlds(scratch: Path, program: Program) -> Worlds:
    return Worlds(scratch, program)
