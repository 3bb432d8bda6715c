# SPDX-License-Identifier: Apache-2.0
"""Images that no honest program builds: a clear error with the documented status, or a deployment that is in order.
Either way nothing that was there changes, and no control character reaches the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootcd.errors import (
    BlobMismatch,
    BlobNotFound,
    BootcdError,
    DiffIdMismatch,
    ImageUnusable,
    LayerConflict,
    LayerTooLarge,
    NoMatchingPlatform,
    NotBootable,
    OciError,
    PeError,
    TarError,
)
from bootcd.model import Platform
from cli.conftest import Machine
from crash.program import Done
from kit.images import (
    CharDevice,
    Dir,
    Entry,
    Fifo,
    File,
    Hardlink,
    ImageBuilder,
    IndexBuilder,
    Layer,
    Opaque,
    Raw,
    Symlink,
    Whiteout,
    pax_header,
    sha256,
    tar_header,
    to_json,
)
from kit.os_images import KERNEL_VERSION, base_layer, os_image

GOOD = None
Expected = type[BootcdError] | None


def with_layer(*entries: Entry, version: str = "6.6") -> ImageBuilder:
    return os_image(version, more=[Layer(entries)])


def raw(name: bytes, kind: bytes = b"0", **more: Any) -> Raw:
    return Raw(tar_header(name, kind, **more))


def attempt(machine: Machine, expected: Expected, *options: str) -> Done:
    """Upgrade, and see that all is as it should be whatever came of it."""
    before = machine.versions()
    done = machine.program(machine.path, *options, "upgrade")
    assert done.status == (expected.exit_status if expected else 0), done.err
    if expected is not None:
        assert machine.versions() == before
    machine.sound()
    for text in (done.out, done.err, machine("status").out, machine("list").out):
        assert all(char.isprintable() or char == "\n" for char in text), repr(text)
    cleaned = machine("cleanup")
    assert cleaned.status == 0, cleaned.err
    machine.sound()
    return done


LAYERS: dict[str, tuple[list[Entry], Expected]] = {
    "name that leads out": ([File("../../outside", b"x")], TarError),
    "name that leads out in the middle": ([File("usr/../../outside", b"x")], TarError),
    "absolute name": ([File("/usr/inside", b"x")], GOOD),
    "parent is a symlink": ([Symlink("usr/link", "/etc"), File("usr/link/x", b"x")], LayerConflict),
    "parent is a symlink of a layer below": ([File("etc/os-release/x", b"x")], LayerConflict),
    "parent is a file": ([File("usr/bin/app/x", b"x")], LayerConflict),
    "parent is missing": ([File("no/such/parent", b"x")], LayerConflict),
    "hard link to nothing": ([Hardlink("usr/bin/x", "usr/bin/nothing")], LayerConflict),
    "hard link to a directory": ([Hardlink("usr/bin/x", "usr/lib")], LayerConflict),
    "hard link that leads out": ([Hardlink("usr/bin/x", "../../../etc/shadow")], TarError),
    "hard link to itself": ([Hardlink("usr/bin/x", "usr/bin/x")], LayerConflict),
    "the same name again and again": ([File("usr/x", b"1" * 100), File("usr/x", b"2" * 100), Dir("usr/x"),
                                       File("usr/x/y", b"3")], GOOD),
    "symlink to nowhere in particular": ([Symlink("etc/x", "/" + "../" * 50 + "etc/shadow")], GOOD),
    "symlink to nothing": ([raw(b"etc/x", b"2")], TarError),
    "empty name": ([raw(b"")], TarError),
    "control characters": ([File(b"etc/\x1b]0;title\x07\n\r\x9b31m", b"x"), File("usr/bin/\n\x1b[2J", b"x")], GOOD),
    "control characters in what is wrong": ([File(b"no/\x1b]0;title\x07\n\r\x9b31m", b"x")], LayerConflict),
    "not text": ([File(b"etc/\xff\xfe", b"x"), Symlink("etc/l", b"\xff")], GOOD),
    "devices": ([CharDevice("etc/null", 1, 3), CharDevice("usr/null", 1, 3), Fifo("etc/pipe")], GOOD),
    "whiteout of everything": ([Opaque("")], NotBootable),
    "whiteout of nothing": ([Whiteout("usr/nothing")], GOOD),
    "whiteout below nothing": ([Whiteout("no/such/file")], LayerConflict),
    "whiteout without a name": ([File("usr/.wh.", b"")], None),
    "whiteout of the parent": ([File("usr/.wh...", b"")], None),
    "/etc is a symlink": ([Whiteout("etc"), Symlink("etc", "usr/etc")], NotBootable),
    "/etc is a file": ([Whiteout("etc"), File("etc", b"x")], NotBootable),
    "/etc is missing": ([Whiteout("etc")], NotBootable),
    "/usr is missing": ([Whiteout("usr")], NotBootable),
    "/var is a symlink": ([Whiteout("var"), Symlink("var", "/etc")], GOOD),
    "/boot is a file": ([Whiteout("boot"), File("boot", b"x")], NotBootable),
    "kernel is a symlink": ([Symlink(f"usr/lib/modules/{KERNEL_VERSION}/vmlinuz", "/etc/shadow")], NotBootable),
    "kernel is a directory": ([Whiteout(f"usr/lib/modules/{KERNEL_VERSION}/vmlinuz"),
                               Dir(f"usr/lib/modules/{KERNEL_VERSION}/vmlinuz")], NotBootable),
    "two kernels": ([Dir("usr/lib/modules/7"), File("usr/lib/modules/7/vmlinuz", b"k"),
                     File("usr/lib/modules/7/initramfs.img", b"i")], NotBootable),
    "UKI that is none": ([Dir("boot/EFI"), Dir("boot/EFI/Linux"), File("boot/EFI/Linux/x.efi", b"MZ nonsense")],
                         PeError),
    "os-release with control characters": ([File("usr/lib/os-release", b'PRETTY_NAME="\x1b[31m\xff"\nVERSION_ID=1\n')],
                                           GOOD),
    "os-release is a directory": ([Whiteout("usr/lib/os-release"), Dir("usr/lib/os-release")], GOOD),
    "xattrs by the pound": ([File("usr/x", b"x", xattrs={"user.big": b"v" * 70_000})], None),
    "pax header that claims too much": ([Raw(tar_header(b"x", b"x", size=1 << 30))], TarError),
    "long name that claims too much": ([Raw(tar_header(b"x", b"L", size=1 << 30))], TarError),
    "pax header that is no pax header": ([Raw(tar_header(b"x", b"x", size=512) + b"9999999999 x=" + bytes(499)),
                                          File("usr/x")], TarError),
    "pax size that is none": ([Raw(pax_header({b"size": b"-1"})), File("usr/x")], TarError),
    "pax size beyond the end": ([Raw(pax_header({b"size": b"99999999999999999999"})), File("usr/x")], TarError),
    "pax path too long": ([Raw(pax_header({b"path": b"usr/" + b"n" * 300})), File("usr/x")], None),
    "pax path of a megabyte": ([Raw(pax_header({b"path": b"d/" * 500_000})), File("usr/x")], TarError),
    "size beyond the end": ([raw(b"usr/x", size=1 << 30)], TarError),
    "sparse": ([raw(b"usr/x", b"S")], TarError),
    "unknown type": ([raw(b"usr/x", b"V")], TarError),
    "wrong checksum": ([Raw(bytes([1]) + tar_header(b"usr/x", b"0")[1:])], TarError),
    "noise": ([Raw(bytes(range(256)) * 2)], TarError),
    "times out of range": ([File("etc/x", b"x", mtime=-5), File("etc/y", b"y", mtime=1e18)], None),
    "owners out of range": ([File("etc/x", b"x", uid=1 << 33)], TarError),
}
UNDECIDED = {"whiteout without a name", "whiteout of the parent", "xattrs by the pound", "pax path too long",
             "times out of range"}
"""What may be refused or taken, as long as it is done in good order."""


@pytest.mark.parametrize("name", LAYERS)
def test_layer(machine: Machine, name: str) -> None:
    entries, expected = LAYERS[name]
    machine.publish(with_layer(*entries))
    if name in UNDECIDED:
        trial = machine("upgrade", "--download-only")
        assert trial.status in (0, TarError.exit_status, LayerConflict.exit_status, NotBootable.exit_status), trial.err
        expected = {0: None, **{cls.exit_status: cls for cls in (TarError, LayerConflict)}}[trial.status]
    attempt(machine, expected)
    assert not list(machine.path.rglob("outside"))


@pytest.mark.parametrize(("directory", "expected"), [("usr", GOOD), ("etc", ImageUnusable), ("var", GOOD)])
def test_deep_nesting(machine: Machine, directory: str, expected: Expected) -> None:
    entries, path = [], directory
    for _ in range(3000):
        path += "/d"
        entries.append(Dir(path))
    machine.publish(with_layer(*entries))
    trial = machine("upgrade", "--download-only")
    if trial.status != 0:
        assert trial.status in (TarError.exit_status, ImageUnusable.exit_status), trial.err
        expected = TarError if trial.status == TarError.exit_status else ImageUnusable
        assert "Recursion" not in trial.err
    attempt(machine, expected)


@pytest.mark.parametrize("count", [5000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_entries_in_one_directory(machine: Machine, count: int) -> None:
    machine.publish(with_layer(Dir("usr/many"), *(File(f"usr/many/{number}") for number in range(count))))
    attempt(machine, GOOD)


@pytest.mark.parametrize("end", [10, 511, 512, 700, 1100])
@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_truncated_layer(machine: Machine, end: int, compression: Any) -> None:
    """Cut off in the tar, which is then compressed properly."""
    tar = (File("usr/x", b"x" * 600).tar())[:end]
    machine.publish(os_image("6.6", more=[Layer(tar=tar, compression=compression)]))
    attempt(machine, TarError)


def blob(machine: Machine, digest: str) -> Path:
    return machine.path / "layout/blobs" / digest.replace(":", "/")


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
@pytest.mark.parametrize("damage", ["cut", "longer", "flipped", "empty", "missing", "directory"])
def test_blob_that_is_not_what_the_manifest_says(machine: Machine, compression: Any, damage: str) -> None:
    image = os_image("6.6", more=[Layer([File("usr/new", b"new" * 1000)], compression)])
    machine.publish(image)
    path = blob(machine, image.layers[-1].digest)
    data = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"cut": data[:-1], "longer": data + b"x", "empty": b"",
                          "flipped": data[:20] + bytes([data[20] ^ 255]) + data[21:]}[damage])
    before = machine.versions()
    done = machine("upgrade")
    assert done.status in (BlobMismatch.exit_status, BlobNotFound.exit_status), done.err
    assert image.layers[-1].digest[7:19] in done.err
    assert machine.versions() == before
    machine.sound()


def test_wrong_diff_id(machine: Machine) -> None:
    image = os_image("6.6")
    image.config["rootfs"]["diff_ids"][-1] = sha256(b"another")
    machine.publish(image)
    attempt(machine, DiffIdMismatch)


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], type[BootcdError]]] = {
    "layers is no list": (lambda it: it.update(layers={}), OciError),
    "layer is no object": (lambda it: it.update(layers=[7]), OciError),
    "no layers": (lambda it: it.pop("layers"), OciError),
    "fewer layers than diff IDs": (lambda it: it["layers"].pop(), OciError),
    "media type of a layer": (lambda it: it["layers"][0].update(mediaType="text/html"), OciError),
    "media type of the config": (lambda it: it["config"].update(mediaType="text/html"), OciError),
    "media type of the manifest": (lambda it: it.update(mediaType="text/html"), OciError),
    "size is text": (lambda it: it["layers"][0].update(size="12"), OciError),
    "size is negative": (lambda it: it["layers"][0].update(size=-1), OciError),
    "size is a fraction": (lambda it: it["layers"][0].update(size=1.5), OciError),
    "size is huge": (lambda it: it["layers"][-1].update(size=10**30), OciError),
    "size is wrong": (lambda it: it["layers"][-1].update(size=it["layers"][-1]["size"] + 1), BlobMismatch),
    "digest is a path": (lambda it: it["layers"][0].update(digest="sha256:../../../etc/passwd"), OciError),
    "digest is unknown": (lambda it: it["layers"][0].update(digest="md5:" + "0" * 32), OciError),
    "digest is missing": (lambda it: it["config"].pop("digest"), OciError),
    "config is missing": (lambda it: it.pop("config"), OciError),
    "schema version": (lambda it: it.update(schemaVersion=1), OciError),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest(machine: Machine, name: str) -> None:
    change, expected = MANIFESTS[name]
    image = os_image("6.6")
    change(image.manifest)
    machine.publish(image)
    attempt(machine, expected)


CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no rootfs": lambda it: it.pop("rootfs"),
    "rootfs is a number": lambda it: it.update(rootfs=7),
    "diff IDs are numbers": lambda it: it["rootfs"].update(diff_ids=[1, 2]),
    "diff ID is a path": lambda it: it["rootfs"].update(diff_ids=["sha256:../x", "sha256:../y"]),
    "labels are a list": lambda it: it["config"].update(Labels=["a"]),
    "label is a number": lambda it: it["config"].update(Labels={"org.opencontainers.image.version": 7}),
    "architecture is a number": lambda it: it.update(architecture=7),
    "created is an object": lambda it: it.update(created={}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config(machine: Machine, name: str) -> None:
    image = os_image("6.6")
    CONFIGS[name](image.config)
    machine.publish(image)
    attempt(machine, OciError)


@pytest.mark.parametrize("document", [b"", b"[]", b"null", b"7", b'"x"', b"{", b"\xff\xfe", b"{}", b"[" * 100_000,
                                      b'{"a":' * 100_000, b"1" * 10_000, b'{"schemaVersion": 2}'])
@pytest.mark.parametrize("which", ["manifest", "config", "index", "layout"])
def test_documents_that_are_none(machine: Machine, document: bytes, which: str) -> None:
    image = os_image("6.6")
    if which == "config":
        image.manifest["config"].update(digest=sha256(document), size=len(document))
    machine.publish(image)
    layout = machine.path / "layout"
    if which == "config":
        blob(machine, sha256(document)).write_bytes(document)
    elif which == "manifest":
        index = json.loads((layout / "index.json").read_bytes())
        for item in index["manifests"]:
            item.update(digest=sha256(document), size=len(document))
        (layout / "index.json").write_bytes(to_json(index))
        blob(machine, sha256(document)).write_bytes(document)
    else:
        (layout / {"index": "index.json", "layout": "oci-layout"}[which]).write_bytes(document)
    before = machine.versions()
    done = machine("upgrade")
    assert done.status in (OciError.exit_status, 3), done.err
    assert machine.versions() == before


def test_decompression_bomb(machine: Machine) -> None:
    (machine.path / "bootcd.toml").write_text("[pull]\nmax-layer-size = 1000000\n")
    for compression in ("gzip", "zstd"):
        machine.publish(os_image("6.6", more=[Layer([File("usr/x", bytes(50_000_000))], compression)]))
        done = attempt(machine, LayerTooLarge, "--config", "bootcd.toml")
        assert "1000000" in done.err
        assert "max-layer-size" in done.err


class Escaped(ImageBuilder):
    """JSON can say what UTF-8 cannot."""

    config_bytes = property(lambda self: json.dumps(self.config).encode())  # type: ignore[assignment]


def test_half_a_surrogate_pair(machine: Machine) -> None:
    machine.publish(Escaped(os_image("6.6").layers, {"org.opencontainers.image.version": "half \ud800"}))
    attempt(machine, OciError)


@pytest.mark.parametrize("version", ["\x1b[31mred", "a\nb", "🚀" * 1000, "", " ", "../../x", "+3", "%s{0}"])
def test_odd_versions(machine: Machine, version: str) -> None:
    image = os_image("6.6")
    image.config["config"]["Labels"]["org.opencontainers.image.version"] = version
    machine.publish(image)
    attempt(machine, GOOD)
    shown = "".join(filter(str.isprintable, version))[:256] or "6.6"
    assert machine("status", "--json").json["deployments"][0]["version"] == shown
    assert machine("rollback").status == 0
    machine.sound()


def test_a_version_may_be_long_but_not_endless(machine: Machine) -> None:
    machine.publish(os_image("v" * 3_000_000))
    done = machine("upgrade")
    assert done.status in (0, OciError.exit_status, 5), done.err
    assert machine("status").status == 0
    machine.sound()


def test_image_for_another_platform(machine: Machine) -> None:
    other = ImageBuilder([base_layer()], platform=Platform("linux", "s390x"))
    index = IndexBuilder([other])
    index.write_layout(machine.path / "layout", "latest")
    assert "s390x" in attempt(machine, NoMatchingPlatform).err
