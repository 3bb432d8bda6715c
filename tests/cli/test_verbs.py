# SPDX-License-Identifier: Apache-2.0
"""`bootcctl` as somebody meets it who has just installed it."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from bootcd.cli.parser import build_parser
from bootcd.errors import (
    DeploymentNotFound,
    EtcConflict,
    ImageNotFound,
    NoRollback,
    NotFound,
    NothingStaged,
    Refused,
    RepositoryNotFound,
    SourceUnreachable,
    TarError,
    UsageError,
)
from cli.conftest import IMAGE, Machine
from crash.program import ENVIRONMENT, Program
from kit.images import Dir, File, Layer, Symlink
from kit.os_images import os_image

BOOTCCTL = [sys.executable, "-m", "bootcd.cli"]


def verbs(parser: argparse.ArgumentParser, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every verb with its words, groups included."""
    found = [before]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                found += verbs(inner, (*before, name))
    return found


VERBS = verbs(build_parser())


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_help(program: Program, scratch: Path, words: tuple[str, ...]) -> None:
    done = program.run(scratch, *words, "--help")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("usage: bootcctl")
    assert program.run(scratch, *words, "--no-such-option").status == UsageError.exit_status


@pytest.mark.parametrize("arguments", [
    (), ("nonsense",), ("pin",), ("switch",), ("image",), ("image", "pull"), ("install",), ("install", "to-filesystem"),
    ("composefs", "mkfs"), ("composefs", "mkfs", "--format", "v9", "x"), ("composefs", "measure"), ("upgrade", "extra"),
    ("upgrade", "--check", "--download-only"), ("stat",), ("status", "--js"), ("--sysroot",),
    ("composefs", "mkfs", "."), ("--config", "/nonexistent/bootcd.toml", "status"), ("switch", "no registry"),
    ("--sysroot", "x", "upgrade", "--allow-rejected=7"), ("switch", "docker-daemon:os:1"),
    ("upgrade", "--check", "--from", "oci:layout"),
])
def test_wrong_usage(program: Program, machine: Machine, arguments: tuple[str, ...]) -> None:
    done = program.run(machine.path, *arguments)
    assert done.status == UsageError.exit_status, done.err
    assert done.out == ""
    assert "bootcctl" in done.err


def test_version(program: Program, scratch: Path) -> None:
    assert program.run(scratch, "--version").out.startswith("bootcctl 0.")


def test_nothing_is_installed(program: Program, scratch: Path) -> None:
    empty = scratch / "void"
    empty.mkdir(exist_ok=True)
    done = program(empty, "status")
    assert done.status == 0
    assert done.out.startswith("No deployments.\n")
    for arguments in (("upgrade",), ("upgrade", "--check"), ("rollback",), ("cleanup",), ("fsck",), ("image", "list"),
                      ("pin", "default"), ("unstage",), ("image", "pull", "oci:x")):
        done = program(empty, *arguments)
        assert done.status in (RepositoryNotFound.exit_status, NotFound.exit_status), (arguments, done.err)
    assert list(empty.iterdir()) == [], "a command that failed left something behind"


def test_the_life_of_a_machine(empty: Machine) -> None:
    done = empty("install", "to-filesystem", IMAGE, "--karg", "console=ttyS0")
    assert done.status == 0
    assert "version 1.0" in done.out
    assert empty("install", "to-filesystem", IMAGE).status == Refused.exit_status
    assert empty("upgrade", "--check").status == 77
    assert empty("rollback").status == NoRollback.exit_status
    assert empty("unstage").status == NothingStaged.exit_status
    empty.publish(os_image("1.1"))
    done = empty("upgrade", "--check")
    assert done.status == 0
    assert "1.1" in done.out
    assert empty.versions() == ["1.0"]
    assert "downloaded" in empty("upgrade", "--download-only").out
    assert empty.versions() == ["1.1", "1.0"]
    assert empty("upgrade").status == 0
    assert "No newer image" in empty("upgrade").out
    assert empty("pin", "1.0", "--label", "the first").status == 0
    assert empty("rollback").status == 0
    assert empty("upgrade", "--check").status == 77
    assert "not taken again" in empty("upgrade").out
    assert empty("upgrade", "--allow-rejected").status == 0
    assert empty("unpin", "the first").status == 0
    assert empty("pin", "nobody").status == DeploymentNotFound.exit_status
    assert empty("cleanup", "--dry-run").status == 0
    assert empty("finalize").status == NothingStaged.exit_status
    text = empty("status").out
    assert "Test OS 1.1" in text
    assert "[default]" in text
    assert empty("list").out.splitlines()[0].split() == ["ID", "GENERATION", "VERSION", "ROLES", "PINS", "IMAGE"]
    empty.sound()


def shape(value: Any) -> Any:
    """The keys of JSON, without the values."""
    if isinstance(value, dict):
        return sorted(value)
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


def test_json(machine: Machine) -> None:
    deployment = ["boot-digest", "boot-type", "created", "download-only", "etc", "generation", "health",
                  "health-reason", "id", "image", "kargs", "kargs-on-trial", "kernel-version", "manifest-digest",
                  "on-trial", "options", "pins", "policy", "reset", "roles", "signed-by", "staged", "title",
                  "verification", "version"]
    status = machine("status", "--json").json
    assert sorted(status) == ["chain", "deployments", "esp", "fell-back-from", "last", "sysroot", "unfinished",
                              "update", "update-time", "warnings"]
    assert shape(status["deployments"]) == [deployment, deployment]
    assert shape(machine("list", "--json").json) == [deployment, deployment]
    change = ["collected", "deployment", "message", "outcome", "pull", "reboot"]
    assert sorted(machine("pin", "default", "--label", "x", "--json").json) == change
    assert machine("unpin", "x", "--json").json["outcome"] == "unpinned"
    assert machine("upgrade", "--json").json["outcome"] == "unchanged"
    assert machine("rollback", "--json").json["outcome"] == "deployed"
    assert machine("upgrade", "--check", "--json").json["available"] is True
    assert machine("cleanup", "--dry-run", "--json").json["dry-run"] is True
    assert machine("fsck", "--json").json["ok"] is True
    pulled = machine("image", "pull", IMAGE, "--name", "mine", "--json").json
    assert sorted(pulled) == ["image", "stats"]
    assert "mine" in [image["name"] for image in machine("image", "list", "--json").json]
    assert machine("image", "inspect", "mine", "--json").json == pulled["image"]


def test_results_and_progress_are_kept_apart(machine: Machine) -> None:
    machine.publish(os_image("1.2"))
    done = machine("upgrade", "--json")
    assert done.json["deployment"]["version"] == "1.2"
    assert "Downloading" in done.err
    machine.publish(os_image("1.3"))
    assert machine("--quiet", "upgrade").err == ""


def test_a_conflict_in_etc_is_explained(machine: Machine) -> None:
    machine.publish(os_image("1.2", [File("etc/thing", b"file\n")]))
    assert machine("upgrade").status == 0
    home = max((machine.path / "sysroot/state/deploy").iterdir(), key=lambda path: (path / "etc/thing").exists())
    (home / "etc/thing").write_text("mine\n")
    machine.publish(os_image("1.3", [Dir("etc/thing")]))
    done = machine("upgrade")
    assert done.status == EtcConflict.exit_status
    assert "'thing'" in done.err
    (home / "etc/thing").unlink()
    assert machine("upgrade").status == 0


def test_names_in_etc_are_shown_without_control_characters(machine: Machine) -> None:
    home = next(path for path in (machine.path / "sysroot/state/deploy").iterdir())
    (home / "etc/version.conf").write_text("mine")
    for etc in (machine.path / "sysroot/state/deploy").glob("*/etc"):
        (etc / "\x1b[31m\n").write_text("mine")
    machine.publish(os_image("1.2", [File("etc/\x1b[31m\n", b"theirs")]))
    assert machine("upgrade").status == 0
    assert "\x1b" not in machine("status").out
    assert machine("status", "--json").json["deployments"][0]["etc"]["both-changed"] == ["\x1b[31m\n"]
    assert machine("pin", "default", "--label", "\x1b[2J").status == UsageError.exit_status
    for verb in ("status", "list"):
        assert "\x1b" not in machine(verb).out
    assert "\x1b" not in machine("rollback", "\x1b[3J").err


# --- images in the repository -----------------------------------------------------------------------------------------


def tar_of(content: bytes) -> bytes:
    return Layer([Dir("usr"), File("usr/file", content), Symlink("link", "usr/file")]).tar


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress],
                         ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize("stdin", [False, True], ids=["file", "stdin"])
def test_import_tar(machine: Machine, pack: Any, stdin: bool) -> None:
    (machine.path / "layer").write_bytes(pack(tar_of(b"content" * 100)))
    done = machine.program.run(machine.path, "--sysroot", "sysroot", "--esp", "esp", "image", "import-tar",
                               "-" if stdin else "layer", "local/thing:1", stdin=machine.path / "layer")
    assert done.status == 0, done.err
    assert machine("image", "inspect", "local/thing:1", "--json").json["layers"] == 1
    assert machine("image", "remove", "local/thing:1").status == 0
    assert machine("image", "remove", "local/thing:1").status == ImageNotFound.exit_status
    assert machine("cleanup").status == 0
    machine.sound()


@pytest.mark.parametrize("data", [b"", b"noise" * 1000, tar_of(b"x" * 1000)[:1600],
                                  gzip.compress(tar_of(b"x"), mtime=0)[:60], b"\x28\xb5\x2f\xfd\xff\xff", b"\x1f\x8b"])
def test_import_tar_that_is_none(machine: Machine, data: bytes) -> None:
    (machine.path / "layer").write_bytes(data)
    done = machine("image", "import-tar", "layer", "thing")
    assert done.status in (TarError.exit_status, 6) or (data == b"" and done.status == 9), done.err
    assert "thing" not in machine("image", "list").out
    machine.sound()


@pytest.mark.parametrize(("arguments", "status"), [
    (("import-tar", "missing", "x"), 3), (("import-tar", ".", "x"), 1), (("import-tar", "oci", ""), 2),
    (("import-tar", "oci", "localhost/bootcd-x"), 2), (("inspect", "nothing"), 3), (("inspect", ""), 3),
    (("remove", "nothing"), 3), (("mount", "nothing", "."), 3), (("pull", "oci:missing"), 7),
    (("pull", "oci:layout:missing"), 3), (("pull", IMAGE, "--name", "../../x"), 0),
    (("pull", IMAGE, "--name", "a" * 300), 2), (("pull", IMAGE, "--name", "\x1b"), 2),
    (("pull", "oci-archive:layout"), 7), (("pull", "localhost:1/x"), 7), (("pull", "docker-archive:layout"), 7),
    (("pull", "docker-archive:esp/../bootcd.toml"), 7), (("pull", "dir:layout"), 5), (("pull", "tar:layout"), 7),
    (("pull", "tar:layout/index.json"), 5), (("pull", "docker-archive:layout/index.json"), 5),
    (("pull", "containers-storage:[/nowhere]x"), 7), (("pull", "docker-daemon:os:1"), 2),
])
def test_images_that_cannot_be_used(machine: Machine, arguments: tuple[str, ...], status: int) -> None:
    done = machine("image", *arguments)
    assert done.status == status, done.err
    assert "\x1b" not in done.err
    machine.sound()


def test_an_upgrade_takes_what_is_carried(machine: Machine) -> None:
    os_image("1.2").write_layout(machine.path / "stick")
    (before,) = {info["image"] for info in machine("status", "--json").json["deployments"]}
    done = machine("upgrade", "--from", "oci:stick")
    assert done.status == 0, done.err
    assert machine.versions()[0] == "1.2"
    assert {info["image"] for info in machine("status", "--json").json["deployments"]} == {before}
    done = machine("upgrade", "--from", "quay.io/os:1")
    assert done.status == UsageError.exit_status
    assert "bootcd-registries(5)" in done.err
    machine.sound()


def test_a_deployment_keeps_its_image(machine: Machine) -> None:
    held = [image["name"] for image in machine("image", "list", "--json").json
            if image["name"].startswith("localhost/bootcd-")]
    assert len(held) == 2
    assert machine("image", "remove", held[0]).status == Refused.exit_status


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_mount(machine: Machine) -> None:
    assert machine("image", "pull", IMAGE, "--name", "mine", "--bootable").status == 0
    for options in ((), ("--bootable",)):
        target = machine.path / "mnt"
        target.mkdir(exist_ok=True)
        done = machine("image", "mount", "mine", "mnt", *options)
        if done.status == 13:
            pytest.skip(done.err)
        assert done.status == 0, done.err
        try:
            assert (target / "etc/version.conf").read_text() == "version = 1.1\n"
            assert len((target / "usr/bin/app").read_bytes()) > 200
            with pytest.raises(OSError, match="Read-only"):
                (target / "etc/new").touch()
        finally:
            subprocess.run(["umount", target], check=True)
    assert machine("image", "mount", "mine", "nowhere").status not in (0, 99)


# --- plain composefs tools --------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("boot", "etc", "sysroot", "usr/bin", "var"):
        (root / name).mkdir(parents=True)
    (root / "usr/bin/tool").write_bytes(b"tool" * 100)
    (root / "usr/bin/alias").hardlink_to(root / "usr/bin/tool")
    (root / "etc/tiny").write_bytes(b"tiny")
    (root / "etc/odd\n\x1b").symlink_to("tiny")
    return root


@pytest.mark.parametrize("version", ["v0", "v1", "v2"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_mkfs_dump_and_measure_agree(program: Program, tree: Path, version: str, algorithm: str) -> None:
    options = ("--format", version, "--algorithm", algorithm)

    def composefs(*arguments: str, stdin: Path | None = None) -> str:
        done = program.run(tree.parent, "composefs", *arguments, stdin=stdin)
        assert done.status == 0, done.err
        return done.out

    composefs("mkfs", *options, "root", "image")
    digest = composefs("mkfs", *options, "--digest-only", "root")
    assert composefs("measure", "--algorithm", algorithm, "image") == f"{digest.strip()}  image\n"
    (tree.parent / "dump").write_text(composefs("dump", "image"))
    assert composefs("dump", "-", stdin=tree.parent / "image") == (tree.parent / "dump").read_text()
    assert composefs("mkfs", *options, "--from-dump", "--digest-only", "-", stdin=tree.parent / "dump") == digest
    composefs("mkfs", *options, "--from-dump", "dump", "again")
    assert (tree.parent / "again").read_bytes() == (tree.parent / "image").read_bytes()
    piped = composefs("mkfs", *options, "root", "-").encode("utf-8", "surrogateescape")
    assert piped == (tree.parent / "image").read_bytes()


def test_an_image_is_written_to_a_device_and_not_in_its_place(program: Program, tree: Path) -> None:
    pipe = tree.parent / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    assert program.run(tree.parent, "composefs", "mkfs", "root", "pipe").status == 0
    image, _ = reader.communicate(timeout=10)
    program.run(tree.parent, "composefs", "mkfs", "root", "image")
    assert image == (tree.parent / "image").read_bytes()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_compute_digest(program: Program, tree: Path) -> None:
    os.utime(tree / "boot", (1, 1))
    done = program.run(tree.parent, "container", "compute-digest", "root")
    assert (done.status, len(done.out.strip())) == (0, 128)
    (tree / "boot/vmlinuz").write_text("not part of it")
    os.utime(tree / "boot", (1, 1))
    assert program.run(tree.parent, "container", "compute-digest", "root").out == done.out
    (tree / "etc/more").write_text("part of it")
    assert program.run(tree.parent, "container", "compute-digest", "root").out != done.out
    for algorithm, length in (("sha256", 64), ("sha512", 128)):
        for version in ("v0", "v1", "v2"):
            done = program.run(tree.parent, "container", "compute-digest", "--no-boot", "--format", version,
                               "--algorithm", algorithm, "--xattrs", "keep-user-xattrs", "root")
            assert len(done.out.strip()) == length


@pytest.mark.parametrize(("arguments", "status"), [
    (("composefs", "measure", "missing"), 3), (("composefs", "measure", "."), 1),
    (("composefs", "dump", "missing"), 3), (("composefs", "dump", "."), 1), (("composefs", "dump", "/dev/null"), 5),
    (("composefs", "dump", "noise"), 5), (("composefs", "mkfs", "missing", "x"), 3),
    (("composefs", "mkfs", "noise", "x"), 1), (("composefs", "mkfs", "--from-dump", "noise", "x"), 5),
    (("composefs", "mkfs", "--from-dump", "missing", "x"), 3), (("composefs", "mkfs", "root", "no/such/place"), 1),
    (("composefs", "mkfs", "root", "root"), 1),
    (("container", "compute-digest", "missing"), 3), (("container", "compute-digest", "noise"), 5),
])
def test_tools_with_nothing_to_work_on(program: Program, tree: Path, arguments: tuple[str, ...], status: int) -> None:
    (tree.parent / "noise").write_bytes(bytes(range(256)) * 20)
    done = program.run(tree.parent, *arguments)
    assert done.status == status, done.err
    assert len(done.err.splitlines()) <= 2
    assert not (tree.parent / "x").exists()


# --- pipes and locales ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("list",), ("status",), ("status", "--json"), ("--help",), ("cleanup",)],
                         ids=" ".join)
def test_a_reader_that_goes_away(machine: Machine, arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as out:
        done = subprocess.run([*BOOTCCTL, "--sysroot", "sysroot", "--esp", "esp", *arguments], stdout=out,
                              stderr=subprocess.PIPE, cwd=machine.path, env=ENVIRONMENT, check=False)
    assert done.returncode in ((0, 141) if "--help" in arguments else (141,))
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_progress_that_nobody_reads_does_not_stop_the_work(machine: Machine) -> None:
    machine.publish(os_image("1.2"))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as out:
        done = subprocess.run([*BOOTCCTL, "--sysroot", "sysroot", "--esp", "esp", "upgrade"], stdout=subprocess.PIPE,
                              stderr=out, cwd=machine.path, env=ENVIRONMENT, check=False)
    assert done.returncode == 0
    assert machine.versions()[0] == "1.2"


def test_a_terminal_that_knows_only_ascii(machine: Machine) -> None:
    machine("pin", "default", "--label", "Größe 🚀")
    for verb in ("status", "list"):
        done = subprocess.run([*BOOTCCTL, "--sysroot", "sysroot", "--esp", "esp", verb], cwd=machine.path,
                              capture_output=True, check=False,
                              env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"})
        assert done.returncode == 0, done.stderr
        assert b"Gr\\xf6" in done.stdout


def test_json_is_ascii(machine: Machine) -> None:
    machine("pin", "default", "--label", "Größe 🚀")
    out = machine("list", "--json").out
    assert out.isascii()
    assert json.loads(out)[0]["pins"][0]["label"] == "Größe 🚀"


def test_a_short_name_is_what_its_alias_says(machine: Machine, tmp_path: Path) -> None:
    """An alias may stand for a registry only; nobody has this one."""
    file = tmp_path / "registries.conf"
    file.write_text('[aliases]\nos = "127.0.0.1:1/team/os"\n')
    config = tmp_path / "bootcd.toml"
    config.write_text(f'[registry]\nregistries-file = "{file}"\n')
    done = machine("--config", str(config), "switch", "os:1")
    assert done.status == SourceUnreachable.exit_status
    assert "bootcctl: os:1 stands for 127.0.0.1:1/team/os:1, an alias of registries.conf\n" in done.err
    assert "127.0.0.1:1/team/os:1: " in done.err
    assert "names no registry" in machine("--config", str(config), "switch", "other:1").err
