# SPDX-License-Identifier: Apache-2.0
"""`bootcctl container`: what builders of images see."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.errors import LintFailed, SealMismatch, SignatureMissing, UsageError
from bootcd.ops.lints.table import LINTS
from crash.program import Done, Program
from kit.rootfs import KVER, clean_rootfs, write
from kit.ukify import install_ukify


class Desk:
    """A directory with a root directory in it."""

    def __init__(self, path: Path, program: Program, *, fresh: bool = True) -> None:
        self.path = path
        self.root = clean_rootfs(path / "root") if fresh else path / "root"
        self._program = program

    def __call__(self, *arguments: str) -> Done:
        return self._program.run(self.path, "container", *arguments)


@pytest.fixture
def desk(scratch: Path, program: Program) -> Iterator[Desk]:
    path = scratch / "desk"
    path.mkdir()
    yield Desk(path, program)
    shutil.rmtree(path)


def test_lint_of_a_clean_tree(desk: Desk) -> None:
    done = desk("lint", "--rootfs", "root", "--fatal-warnings", "--previous", "root", "--esp-budget", "1M")
    assert (done.status, done.out, done.err) == (
        0, f"{len(LINTS)} lints, 0 fatal findings, 0 warnings, 0 fixed.\n", "")


def test_lint_tells_what_is_where(desk: Desk) -> None:
    write(desk.root, "tmp/left")
    done = desk("lint", "--rootfs", "root")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[0] == "warning: nonempty-run-tmp: /tmp/left is hidden on every machine"
    assert desk("lint", "--rootfs", "root", "--fatal-warnings").status == LintFailed.exit_status
    (desk.root / "proc").rmdir()
    assert desk("lint", "--rootfs", "root").status == LintFailed.exit_status
    done = desk("lint", "--rootfs", "root", "--skip", "api-base-directories")
    assert done.status == 0


def test_lint_for_programs(desk: Desk) -> None:
    write(desk.root, os.fsdecode(b"usr/\xff\n"))
    done = desk("lint", "--rootfs", "root", "--json")
    assert done.status == LintFailed.exit_status
    assert done.json["findings"] == [{"lint": "utf8", "level": "fatal", "path": "/usr/\\xff\n", "fixed": False,
                                      "message": "has a name that is not UTF-8"}]
    assert done.json["checked"] == [one.name for one in LINTS]
    done = desk("lint", "--rootfs", "root", "--sarif")
    assert done.status == LintFailed.exit_status
    (run,) = json.loads(done.out)["runs"]
    assert [one["ruleId"] for one in run["results"]] == ["utf8"]
    assert len(run["tool"]["driver"]["rules"]) == len(LINTS)
    assert "\n" not in desk("lint", "--rootfs", "root").out.splitlines()[0]


def test_lint_can_mend(desk: Desk) -> None:
    write(desk.root, "tmp/left")
    done = desk("lint", "--rootfs", "root", "--fix", "--fatal-warnings")
    assert done.status == 0
    assert done.out == ("fixed: nonempty-run-tmp: /tmp/left is hidden on every machine\n"
                        f"{len(LINTS)} lints, 0 fatal findings, 0 warnings, 1 fixed.\n")


def test_the_list_of_lints(desk: Desk) -> None:
    done = desk("lint", "--list")
    assert [line.split()[0] for line in done.out.splitlines() if line[:1].strip()] == [one.name for one in LINTS]


@pytest.mark.parametrize(("arguments", "status"), [
    (("--rootfs", "missing"), 3), (("--rootfs", "/dev/null"), 1), (("--previous", "missing"), 3),
    (("--skip", "nonsense"), UsageError.exit_status), (("--esp-budget", "0"), UsageError.exit_status),
    (("--json", "--sarif"), UsageError.exit_status),
])
def test_lint_of_what_is_not_there(desk: Desk, arguments: tuple[str, ...], status: int) -> None:
    done = desk("lint", "--rootfs", "root", *arguments)
    assert (done.status, done.out) == (status, "")
    assert "bootcctl" in done.err


def test_inspect(desk: Desk) -> None:
    done = desk("inspect", "--rootfs", "root")
    assert (done.status, done.err) == (0, "")
    shown = dict(line.split(": ", 1) for line in done.out.splitlines())
    assert shown["System"].strip() == "Test OS 1, version 1"
    assert shown["Arguments"].strip() == "console=ttyS0 quiet"
    assert shown["Digest"].strip() == desk("compute-digest", "root").out.strip()
    assert desk("inspect", "--rootfs", "root", "--json").json["digest"] == shown["Digest"].strip()


@pytest.mark.parametrize("where", ["missing", "/dev/null", "root/etc"])
def test_inspect_of_what_is_no_system(desk: Desk, where: str) -> None:
    done = desk("inspect", "--rootfs", where)
    assert done.status == {"missing": 3, "/dev/null": 1, "root/etc": 9}[where]
    assert done.err.startswith("bootcctl: ")
    assert done.out == ""


def test_a_kernel_goes_out_and_comes_back_in_a_uki(desk: Desk) -> None:
    done = desk("split-kernel", "--rootfs", "root", "--output", "kernels")
    assert (done.status, done.out, done.err) == (0, f"{KVER}\n", "")
    arguments = ("ukify", "--rootfs", "root", "--kernel-dir", f"kernels/{KVER}", "--karg", "nosmt")
    if not install_ukify(desk.path / "bin"):
        pytest.skip("ukify is not at hand: 'make test-vm' gets Debian's")
    with Program(desk.path, path=desk.path / "bin") as program:
        other = Desk(desk.path, program, fresh=False)
        done = other(*arguments, "--json", "--", "--os-release=ID=other")
        assert done.status == 0, done.err
        assert "fractions of seconds" in done.err  # that of the directory that the kernel went out of
        assert done.json["signature"] == "absent"
        assert done.json["cmdline"].startswith("console=ttyS0 quiet nosmt composefs.digest=v1-sha512-12:")
        done = other(*arguments, "--output", "elsewhere.efi")
        assert done.out.startswith("elsewhere.efi is written, not signed.\n")
        assert other(*arguments, "--", "--linux=x").status == UsageError.exit_status
        assert other("ukify", "--rootfs", "root", "--addon", "x", "--kernel-dir", "y").status == UsageError.exit_status
        done = other("ukify", "--rootfs", "root", "--addon", "debug", "--karg", "debug")
        assert done.out.splitlines()[1] == "  Its command line is: debug"
    assert desk("attach-uki", "--rootfs", "root", "elsewhere.efi").status == SignatureMissing.exit_status
    assert desk("attach-uki", "--rootfs", "root", "--allow-unsigned", "elsewhere.efi").status == 0
    write(desk.root, "etc/late")
    done = desk("attach-uki", "--rootfs", "root", "--allow-unsigned", "elsewhere.efi")
    assert done.status == SealMismatch.exit_status
    assert "elsewhere.efi names " in done.err


def test_why_two_digests_differ(desk: Desk) -> None:
    shutil.copytree(desk.root, desk.path / "other", symlinks=True)
    done = desk("compute-digest", "--explain", "root", "other")
    assert (done.status, done.out) == (0, "root and other are the same tree.\n")
    done = desk("compute-digest", "--write-dumpfile", "dump", "root")
    assert (done.status, done.out) == (0, desk("compute-digest", "root").out)
    (desk.path / "other/etc/group").chmod(0o600)
    write(desk.path / "other", "boot/nothing", "is not a part of it")
    os.utime(desk.path / "other/boot", ns=((desk.root / "boot").stat().st_mtime_ns,) * 2)
    for first in ("root", "dump"):
        done = desk("compute-digest", "--explain", first, "other")
        assert done.status == SealMismatch.exit_status
        assert done.out == f"other, compared with {first}:\n  /etc/group: mode 600 instead of 644\n"
    for number in range(30):
        write(desk.path / "other", f"etc/{number}")
    done = desk("compute-digest", "--explain", "root", "other")
    assert len(done.out.splitlines()) == 22
    assert done.out.endswith("  and more\n")


@pytest.mark.parametrize(("arguments", "status"), [
    ((), UsageError.exit_status), (("--explain", "root", "root", "root"), UsageError.exit_status),
    (("--explain", "root", "root", "--write-dumpfile", "x"), UsageError.exit_status),
    (("--explain", "root", "missing"), 3), (("docker://quay.io/x/y",), UsageError.exit_status),
    (("oci:missing",), 7), (("--write-dumpfile", "no/such/place", "root"), 1),
])
def test_digests_of_what_has_none(desk: Desk, arguments: tuple[str, ...], status: int) -> None:
    done = desk("compute-digest", *arguments)
    assert (done.status, done.out) == (status, ""), done.err
    assert not (desk.path / "x").exists()


def test_a_machine_computes_the_digest_that_was_told(desk: Desk, program: Program) -> None:
    write(desk.root, "usr/lib/systemd/boot/efi/systemd-bootx64.efi", b"MZ" + bytes(100))
    write(desk.root, "usr/lib/systemd/boot/efi/systemd-bootaa64.efi", b"MZ" + bytes(100))
    made = desk("from-rootfs", "--json", "--label", "a=b", "root", "oci:layout:v1")
    assert (made.status, made.err) == (0, "")
    image = "oci:layout:v1"
    digest = desk("compute-digest", image).out.strip()
    assert digest == desk("compute-digest", "root").out.strip() == made.json["digest"]
    for name in ("sysroot", "esp"):
        (desk.path / name).mkdir()
    assert program(desk.path, "install", "to-filesystem", image).status == 0
    (deployment,) = program(desk.path, "status", "--json").json["deployments"]
    assert deployment["id"] == digest
    assert deployment["version"] == "1"


def test_an_image_of_nothing(desk: Desk) -> None:
    done = desk("from-rootfs", "root", "oci:layout")
    assert done.out.startswith("oci:layout is made, manifest sha256:")
    for arguments, status in ((("missing", "oci:new"), 3), (("root", "new"), UsageError.exit_status),
                              (("root", "oci:root"), 5), (("--label", "x", "root", "oci:new"), UsageError.exit_status)):
        done = desk("from-rootfs", *arguments)
        assert (done.status, done.out) == (status, ""), done.err
    assert not (desk.path / "new").exists()
