# SPDX-License-Identifier: Apache-2.0
"""What brings the program into an initrd, and its manual page: right as far as that shows without booting."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kit import setup_root
from kit.installed import meson_install

LIB = Path("usr/lib")
SCRIPTS = {
    "dracut": LIB / "dracut/modules.d/37bootcd/module-setup.sh",
    "hook": Path("usr/share/initramfs-tools/hooks/bootcd"),
    "script": Path("usr/share/initramfs-tools/scripts/local-bottom/bootcd"),
    "mkinitcpio": LIB / "initcpio/install/bootcd",
    "latehook": LIB / "initcpio/hooks/bootcd",
    "next-root": LIB / "bootcd/bootcd-next-root",
}
DROP_IN = LIB / "systemd/system/bootcd-finalize-staged.service.d/10-soft-reboot.conf"
UNIT = LIB / "systemd/system/bootcd-setup-root.service"
PROGRAM = LIB / "bootcd/bootcd-setup-root"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system on which the parts are installed. Warnings of the compiler are errors."""
    if setup_root.compiler() is None:
        pytest.skip("there is no C compiler")
    directory = tmp_path_factory.mktemp("parts")
    meson_install(directory / "build", "-Dsetup_root=enabled", "-Dwerror=true", destination=directory / "root")
    return directory / "root"


def test_all_parts_name_the_installed_program(tree: Path) -> None:
    assert os.access(tree / PROGRAM, os.X_OK)
    for path in (*SCRIPTS.values(), UNIT):
        text = (tree / path).read_text()
        assert f"/{PROGRAM}" in text, path
        assert not re.search(r"@\w+@", text), path
    assert f"/{SCRIPTS['next-root']}\n" in (tree / DROP_IN).read_text()
    for name in ("dracut", "hook", "script", "next-root"):
        assert os.access(tree / SCRIPTS[name], os.X_OK)


def test_the_program_is_hardened(tree: Path) -> None:
    """A position-independent executable with everything read-only that can be, and guarded functions."""
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    shown = subprocess.run(["readelf", "--wide", "--file-header", "--segments", "--dynamic", "--dyn-syms",
                            tree / PROGRAM], capture_output=True, text=True, check=True).stdout
    assert re.search(r"Type: +DYN", shown)
    assert "GNU_RELRO" in shown
    assert re.search(r"FLAGS.*NOW", shown)
    assert re.search(r"GNU_STACK .* RW +0x", shown)
    assert "__stack_chk_fail" in shown
    assert "_chk" in shown.replace("__stack_chk_fail", "")
    assert set(re.findall(r"NEEDED.*\[(.*)\]", shown)) <= {"libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
    assert not re.search(r"\b(malloc|calloc|realloc)\b", shown)


def test_the_program_is_small() -> None:
    lines = [line.strip() for path in setup_root.SOURCE.glob("*.[ch]") for line in path.read_text().splitlines()]
    assert 500 < len([line for line in lines if line and not line.startswith("//")]) < 1200


@pytest.mark.parametrize(("name", "shell"), [
    ("dracut", "bash"), ("hook", "sh"), ("script", "sh"), ("mkinitcpio", "bash"), ("latehook", "sh"),
    ("next-root", "sh")])
def test_scripts_can_be_parsed(tree: Path, name: str, shell: str) -> None:
    done = subprocess.run([shell, "-n", tree / SCRIPTS[name]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if shutil.which("shellcheck"):
        dialect = "bash" if shell == "bash" else "dash"
        done = subprocess.run(["shellcheck", f"--shell={dialect}", tree / SCRIPTS[name]], capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["hook", "script"])
def test_initramfs_tools_may_ask_what_comes_before(tree: Path, name: str) -> None:
    done = subprocess.run(["sh", tree / SCRIPTS[name], "prereqs"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["script", "latehook"])
@pytest.mark.parametrize(("cmdline", "started"), [
    ("quiet rw", False), ("xcomposefs=1 composefs.other=2", False), ("composefs=1", True),
    ("a composefs.digest=?v1 b", True), ("a\tcomposefs=1", True),
])
def test_scripts_start_it_when_it_is_asked_for_until_it_succeeds(
    tree: Path, tmp_path: Path, name: str, cmdline: str, started: bool,
) -> None:
    """Between two failures somebody gets a shell, and never the boot."""
    (tmp_path / "cmdline").write_text(cmdline + "\n")
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "program $*"\n'
                       f"[ -e {tmp_path}/second ] || {{ touch {tmp_path}/second; exit 1; }}\n")
    program.chmod(0o755)
    functions = tmp_path / "functions"
    functions.write_text("panic() { echo panic; }\nerr() { :; }\nlaunch_interactive_shell() { echo panic; }\n")
    script = (tree / SCRIPTS[name]).read_text()
    for old, new in (("/proc/cmdline", tmp_path / "cmdline"), (f"/{PROGRAM}", program),
                     ("/scripts/functions", functions)):
        script = script.replace(old, str(new))
    if name == "latehook":
        script = f". {functions}\n{script}\nrun_latehook\n"
    done = subprocess.run(["sh", "-eu", "-c", script, "sh", ""], capture_output=True, text=True, check=False,
                          env=os.environ | {"rootmnt": "/new_root"})
    wanted = "program --sysroot=/new_root\n"
    assert (done.returncode, done.stdout) == (0, f"{wanted}panic\n{wanted}" if started else ""), done.stderr


@pytest.fixture
def next_root(tree: Path, tmp_path: Path) -> Callable[[], int]:
    """Runs what the drop-in runs, with a directory for /run and a program that says how it was called."""
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$*" >{tmp_path}/called\nexec test ! -e {tmp_path}/fail\n')
    program.chmod(0o755)
    script = (tree / SCRIPTS["next-root"]).read_text().replace(f"/{PROGRAM}", str(program))
    (tmp_path / "run/bootcd").mkdir(parents=True)
    for name in ("bootcd/motd", "bootcd/staged", "reboot-required"):
        (tmp_path / "run" / name).touch()
    command = ["sh", "-u", "-c", script.replace("/run/", f"{tmp_path}/run/")]
    return lambda: subprocess.run(command, check=False).returncode


def test_no_soft_reboot_that_nobody_ordered(next_root: Callable[[], int], tmp_path: Path) -> None:
    assert next_root() == 0
    assert not (tmp_path / "called").exists()
    assert (tmp_path / "run/bootcd/staged").exists()


@pytest.mark.parametrize("others", ["", "linux-image\n"])
def test_the_next_root_is_mounted_and_nothing_waits_for_a_reboot_any_more(
    next_root: Callable[[], int], tmp_path: Path, others: str,
) -> None:
    run = tmp_path / "run"
    (run / "bootcd/soft-reboot").touch()
    (run / "reboot-required.pkgs").write_text(f"bootcd\n{others}")
    assert next_root() == 0
    assert (tmp_path / "called").read_text() == f"--target={run}/nextroot --cmdline={run}/bootcd/soft-reboot\n"
    assert list((run / "bootcd").iterdir()) == []
    assert sorted(path.name for path in run.glob("reboot-required*")) == (
        ["reboot-required", "reboot-required.pkgs"] if others else [])


def test_a_next_root_that_cannot_be_mounted_is_not_tried_again(next_root: Callable[[], int], tmp_path: Path) -> None:
    (tmp_path / "run/bootcd/soft-reboot").touch()
    (tmp_path / "fail").touch()
    assert next_root() == 1
    assert sorted(path.name for path in (tmp_path / "run/bootcd").iterdir()) == ["motd", "staged"]


def test_systemd_understands_the_unit(tree: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    text = (tree / UNIT).read_text()
    unit.write_text(text.replace(f"/{PROGRAM}", "/bin/true").replace("Requires=sysroot.mount\n", ""))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit], capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_fails_into_the_emergency_shell(tree: Path) -> None:
    lines = (tree / UNIT).read_text().splitlines()
    for line in ("ConditionPathExists=/etc/initrd-release", "After=sysroot.mount", "Requires=sysroot.mount",
                 "Before=initrd-root-fs.target initrd-switch-root.target", "Before=systemd-volatile-root.service",
                 "OnFailure=emergency.target", "OnFailureJobMode=isolate", "DefaultDependencies=no", "Type=oneshot"):
        assert line in lines


def test_the_manual_has_every_option_and_no_other() -> None:
    page = (setup_root.ROOT / "man/bootcd-setup-root.8").read_text().replace("\\-", "-")
    source = (setup_root.SOURCE / "setup-root.c").read_text()
    options = set(re.findall(r'\{"([a-z-]+)", (?:required|no)_argument', source))
    assert len(options) > 4
    assert set(re.findall(r"--([a-z][a-z-]+)", page)) == options
    for key in re.findall(r'"((?:root|etc|var)\.\w+)"', (setup_root.SOURCE / "config.c").read_text()):
        assert key in page
    for mode in re.findall(r'\{"(\w+)", MODE_', (setup_root.SOURCE / "config.c").read_text()):
        assert f"\\(dq{mode}\\(dq" in page
