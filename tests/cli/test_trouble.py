# SPDX-License-Identifier: Apache-2.0
"""A full disk, a read-only disk, two commands at once, Ctrl-C, damaged files: a clear error, and the next run works."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootcd.errors import (
    AccessError,
    Busy,
    EspFull,
    Interrupted,
    NotFound,
    RecordError,
    Refused,
    RepositoryNotFound,
    RepositoryTooNew,
    RootFull,
)
from cli.conftest import Machine
from crash.program import ENVIRONMENT, snapshot
from kit.images import File, Layer
from kit.os_images import base_layer, os_image
from kit.scripted_server import Reply, ScriptedServer

BOOTCCTL = [sys.executable, "-m", "bootcd.cli", "--sysroot", "sysroot", "--esp", "esp"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")


@contextmanager
def mounted(path: Path, *options: str, source: str = "tmpfs") -> Iterator[None]:
    path.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, source, str(path)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


# --- file systems -----------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("which", ["esp", "sysroot"])
def test_read_only(machine: Machine, which: str) -> None:
    machine.publish(os_image("1.2"))
    path = machine.path / which
    before = snapshot(path)
    with mounted(path, "--bind", source=str(path)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        for verb in (("upgrade",), ("rollback",), ("pin", "default"), ("cleanup",), ("switch", "oci:layout:latest"),
                     ("upgrade", "--download-only"), ("unstage",)):
            done = machine(*verb)
            assert done.status == AccessError.exit_status, (verb, done.err)
            assert which in done.err
        for verb in (("status",), ("list",), ("fsck",), ("cleanup", "--dry-run"), ("image", "list")):
            done = machine(*verb)
            assert done.status == 0, (verb, done.err)
        assert machine("upgrade", "--check").status == 0
    assert snapshot(path) == before
    assert machine("upgrade").status == 0


@needs_root
def test_a_full_esp(empty: Machine) -> None:
    def image(version: str) -> object:
        return os_image(version, base=base_layer(kernel=version.encode() * 100_000))

    with mounted(empty.path / "esp", "-t", "tmpfs", "-o", "size=1M"):
        empty.publish(image("1.0"))  # type: ignore[arg-type]
        assert empty("install", "to-filesystem", "oci:layout:latest").status == 0
        assert empty("pin", "default").status == 0
        empty.publish(image("1.1"))  # type: ignore[arg-type]
        assert empty("upgrade").status == 0
        empty.publish(image("1.2"))  # type: ignore[arg-type]
        before = snapshot(empty.path / "esp")
        filler = empty.path / "esp/filler"
        filler.write_bytes(bytes(os.statvfs(empty.path / "esp").f_bavail * 4096 - 8192))
        done = empty("upgrade")
        assert done.status == EspFull.exit_status, done.err
        assert "bytes" in done.err
        filler.unlink()
        assert snapshot(empty.path / "esp") == before
        assert empty.versions() == ["1.1", "1.0"]
        empty.sound()
        done = empty("upgrade")
        assert done.status == 0, done.err
        assert empty.versions()[0] == "1.2"
        # No room for a fourth kernel, but unpinning the first one makes some.
        empty.publish(image("1.3"))  # type: ignore[arg-type]
        assert empty("unpin", "1.0").status == 0
        assert empty("upgrade").status == 0


@needs_root
@pytest.mark.parametrize("left", [0, 300, 520, 800, 1015, 1030])
def test_a_full_sysroot(machine: Machine, scratch: Path, left: int) -> None:
    """`left` blocks of 4 KiB are free when the upgrade starts, of which 512 are kept back: from far too few to nearly
    enough."""
    with mounted(scratch / "full", "-t", "tmpfs", "-o", "size=16M"):
        for name in ("sysroot", "esp", "layout"):
            subprocess.run(["cp", "-a", machine.path / name, scratch / "full"], check=True)
        full = Machine(scratch / "full", machine.program)
        big = [File(f"usr/share{number}", os.urandom(50_000)) for number in range(40)]
        full.publish(os_image("1.2", base=base_layer(), more=[Layer(big)]))
        free = os.statvfs(full.path).f_bavail - left
        (full.path / "filler").write_bytes(bytes(free * 4096))
        done = full("upgrade")
        assert done.status == RootFull.exit_status or (left > 1000 and done.status == 0), done.err
        (full.path / "filler").unlink()
        assert full.versions() == (["1.1", "1.0"] if done.status else ["1.2", "1.1"])
        full.sound()
        assert full("cleanup").status == 0
        done = full("upgrade")
        assert done.status == 0, done.err
        assert full.versions() == ["1.2", "1.1"]
        full.sound()


# --- two at once ------------------------------------------------------------------------------------------------------


def test_two_commands_at_once(machine: Machine) -> None:
    with (machine.path / "sysroot/state/bootcd/lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for verb in (("upgrade",), ("rollback",), ("pin", "default"), ("cleanup",), ("unstage",), ("fsck", "--repair"),
                     ("image", "pull", "oci:layout:latest")):
            done = machine(*verb)
            assert done.status == Busy.exit_status, (verb, done.err)
            assert "in use" in done.err
        for verb in (("status",), ("list",), ("fsck",), ("cleanup", "--dry-run"), ("upgrade", "--check")):
            assert machine(*verb).status in (0, 77)


def test_somebody_else_has_the_repository_open(machine: Machine) -> None:
    machine.publish(os_image("1.2"))
    directory = os.open(machine.path / "sysroot/composefs", os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_SH)
        done = machine("upgrade")
        assert done.status == 0
        assert "repository open" in done.err
        assert machine("cleanup").status == Busy.exit_status
    finally:
        os.close(directory)
    assert machine("cleanup").status == 0
    machine.sound()


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("sent", [0, 200, 40_000], ids=lambda sent: f"after {sent} bytes")
def test_ctrl_c_while_a_layer_comes_in(machine: Machine, number: signal.Signals, sent: int) -> None:
    image = os_image("1.2", more=[Layer([File("usr/noise", os.urandom(300_000))])])
    with ScriptedServer() as server:
        server.serve("/v2/os/manifests/latest", Reply(body=image.manifest_bytes, headers={
            "Content-Type": image.media_type, "Docker-Content-Digest": image.manifest_digest}))
        for digest, data in image.blobs().items():
            slow = digest == image.layers[-1].digest
            server.serve(f"/v2/os/blobs/{digest}", Reply(body=data, cut_after=sent, stall=30) if slow else
                         Reply(body=data))
        (machine.path / "bootcd.toml").write_text(f'[registry]\ninsecure = ["{server.host}"]\n')
        running = subprocess.Popen([*BOOTCCTL, "--config", "bootcd.toml", "switch", f"docker://{server.host}/os:latest"],
                                   cwd=machine.path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 20
        while not any(path.endswith(image.layers[-1].digest) for path in server.paths()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.1)
        began = time.monotonic()
        running.send_signal(number)
        _, err = running.communicate(timeout=20)
        assert time.monotonic() - began < 15, "it went on for long"
    assert running.returncode == Interrupted.exit_status, err
    assert "Traceback" not in err
    assert "interrupted" in err
    assert machine.versions() == ["1.1", "1.0"]
    machine.sound()
    machine.publish(image)
    assert machine("upgrade").status == 0
    assert machine.versions() == ["1.2", "1.1"]
    machine.sound()


def _wait_for_lock(machine: Machine) -> None:
    """Until somebody holds the lock of the installation."""
    with (machine.path / "sysroot/state/bootcd/lock").open("r+b") as lock:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            fcntl.flock(lock, fcntl.LOCK_UN)
            time.sleep(0.02)
    raise AssertionError("the command does not begin")


@pytest.mark.parametrize("wait", [0.1, 0.5])
def test_ctrl_c_while_a_pipe_says_nothing(machine: Machine, wait: float) -> None:
    running = subprocess.Popen([*BOOTCCTL, "image", "import-tar", "-", "thing"], cwd=machine.path, env=ENVIRONMENT,
                               stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdin is not None
    running.stdin.write("x" * 10)
    running.stdin.flush()
    _wait_for_lock(machine)
    time.sleep(wait)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=10)
    assert running.returncode == Interrupted.exit_status, err
    assert "Traceback" not in err
    assert "thing" not in machine("image", "list").out
    machine.sound()


# --- damaged files ----------------------------------------------------------------------------------------------------

NONSENSE = [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"schema": 99}', b'{"schema": 1}', b"[" * 50_000]


@pytest.mark.parametrize("data", NONSENSE)
def test_a_damaged_record(machine: Machine, data: bytes) -> None:
    record = sorted((machine.path / "sysroot/state/bootcd/deployments").iterdir())[0]
    whole = record.read_bytes()
    record.write_bytes(data)
    assert "Warning:" in machine("status").out
    assert record.name in machine("status").out
    before = snapshot(machine.path)
    for verb in (("cleanup",), ("cleanup", "--dry-run")):
        done = machine(*verb)
        assert done.status == Refused.exit_status, (verb, done.err)
        assert record.name in done.err
    assert snapshot(machine.path) == before
    # Nothing is lost, and what has to do with other deployments goes on.
    assert machine("pin", "default", "--label", "good").status == 0
    assert machine("unpin", "good").status == 0
    record.write_bytes(whole)
    assert machine("cleanup").status == 0
    assert len(machine.versions()) == 2


@pytest.mark.parametrize("data", [*NONSENSE, b'{"schema": 1, "verb": "x", "done": 9, "steps": []}',
                                  b'{"schema": 1, "verb": "x", "done": 0, "steps": [{"action": "remove-state", "why": '
                                  b'"", "args": {"id": "../../../esp"}}]}'])
def test_a_damaged_journal(machine: Machine, data: bytes) -> None:
    journal = machine.path / "sysroot/state/bootcd/journal/transaction.json"
    journal.write_bytes(data)
    done = machine("status")
    assert done.status == 0
    assert "Warning:" in done.out
    done = machine("upgrade")
    assert done.status == RecordError.exit_status, done.err
    assert "Remove the file" in done.err or "newer" in done.err
    journal.unlink()
    assert machine("upgrade").status == 0
    assert machine.versions() == ["1.1", "1.0"]


@pytest.mark.parametrize("data", NONSENSE)
def test_damaged_rejections(machine: Machine, data: bytes) -> None:
    machine.publish(os_image("1.2"))
    rejected = machine.path / "sysroot/state/bootcd/rejected.json"
    rejected.write_bytes(data)
    assert machine("status").status == 0
    before = machine.versions()
    for verb in (("upgrade",), ("upgrade", "--check"), ("rollback",)):
        done = machine(*verb)
        assert done.status == RecordError.exit_status, (verb, done.err)
        assert "rejected.json" in done.err
    assert machine.versions() == before
    rejected.unlink()
    assert machine("upgrade").status == 0


def test_a_repository_of_a_newer_version(machine: Machine) -> None:
    meta = machine.path / "sysroot/composefs/meta.json"
    document = json.loads(meta.read_bytes())
    changes: list[Callable[[], object]] = [
        lambda: document.update(version=99),
        lambda: document.update(version=1, features={"incompatible": ["tomorrow"]}),
    ]
    for change in changes:
        change()
        meta.unlink()
        meta.write_text(json.dumps(document))
        for verb in (("upgrade",), ("cleanup",), ("fsck",), ("image", "list")):
            done = machine(*verb)
            assert done.status == RepositoryTooNew.exit_status, (verb, done.err)
        assert machine("status").status == 0


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"7", b'{"version": "x"}', b"[" * 50_000])
def test_damaged_metadata_of_the_repository(machine: Machine, data: bytes) -> None:
    meta = machine.path / "sysroot/composefs/meta.json"
    meta.unlink()
    meta.write_bytes(data)
    assert machine("status").status == 0
    for verb in (("upgrade",), ("fsck",), ("cleanup",)):
        done = machine(*verb)
        assert done.status == 5, (verb, done.err)
        assert "meta.json" in done.err


def test_the_repository_is_gone(machine: Machine) -> None:
    (machine.path / "sysroot/composefs").rename(machine.path / "sysroot/elsewhere")
    assert "no repository" in machine("status").out
    for verb in (("upgrade",), ("fsck",), ("rollback",)):
        assert machine(*verb).status == RepositoryNotFound.exit_status


def test_the_esp_is_gone(machine: Machine) -> None:
    (machine.path / "esp").rename(machine.path / "elsewhere")
    assert "no boot partition" in machine("status").out
    for verb in (("upgrade",), ("rollback",), ("cleanup",)):
        done = machine(*verb)
        assert done.status == NotFound.exit_status, done.err
    (machine.path / "esp").write_text("a file")
    assert machine("upgrade").status == NotFound.exit_status
    (machine.path / "esp").unlink()
    (machine.path / "elsewhere").rename(machine.path / "esp")
    assert machine("upgrade").status == 0


def test_an_empty_esp(machine: Machine) -> None:
    """Somebody has put a new, empty partition in its place."""
    (machine.path / "esp").rename(machine.path / "elsewhere")
    (machine.path / "esp").mkdir()
    assert "no boot entry leads to any deployment" in machine("status").out
    machine.publish(os_image("1.2"))
    for verb in (("upgrade",), ("rollback",), ("cleanup",), ("switch", "oci:layout:latest"), ("rollback", "1.0")):
        assert machine(*verb).status in (3, 11)
    assert machine("fsck", "--repair").status == 0
    machine.sound()
    assert machine("upgrade").status == 0


def test_a_missing_kernel_is_told(machine: Machine) -> None:
    for kernel in (machine.path / "esp/EFI/bootcd").glob("*/initrd"):
        kernel.unlink()
    assert "cannot boot: its kernel" in machine("status").out
    machine.publish(os_image("1.2"))
    assert machine("upgrade").status == 0
    assert "cannot boot" not in machine("status").out


def test_objects_that_are_damaged_or_gone(machine: Machine) -> None:
    objects = sorted(path for path in (machine.path / "sysroot/composefs/objects").rglob("*") if path.is_file())
    for number, path in enumerate(objects):
        data = path.read_bytes()
        path.unlink()
        if number % 2:
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert machine("status").status == 0
        done = machine("fsck")
        assert done.status == 10, (path, done.out, done.err)
        for verb in (("image", "list"), ("cleanup", "--dry-run")):
            assert machine(*verb).status in (0, 5, 6, 10), verb
        path.unlink(missing_ok=True)
        path.write_bytes(data)
    machine.sound()


def test_repair_and_pull_again(machine: Machine) -> None:
    image = machine("status", "--json").json["deployments"][0]["id"]
    path = machine.path / "sysroot/composefs/objects" / image[:2] / image[2:]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert machine("fsck").status == 10
    done = machine("fsck", "--repair")
    assert done.status in (0, 10), done.err
    assert "pull again" in done.out
    assert "cannot boot" in machine("status").out


@needs_root
def test_half_a_kernel_does_not_keep_the_whole_one_out(empty: Machine) -> None:
    """The machine died after vmlinuz was copied, and the ESP has no room for it twice."""
    with mounted(empty.path / "esp", "-t", "tmpfs", "-o", "size=1M"):
        empty.publish(os_image("1.0", base=base_layer(kernel=os.urandom(500_000), initrd=os.urandom(300_000))))
        while not list((empty.path / "esp").rglob("vmlinuz")):  # every run comes one file further
            died = subprocess.run([*BOOTCCTL, "install", "to-filesystem", "oci:layout:latest"], cwd=empty.path,
                                  env={**ENVIRONMENT, "BOOTCD_CRASH_AT": "esp-after-sync"}, capture_output=True,
                                  check=False)
            assert died.returncode == 137
        assert [path.stat().st_size for path in (empty.path / "esp/EFI/bootcd").rglob("vmlinuz")] == [500_000]
        done = empty("install", "to-filesystem", "oci:layout:latest")
        assert done.status == 0, done.err
        assert empty.versions() == ["1.0"]
