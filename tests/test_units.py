# SPDX-License-Identifier: Apache-2.0
"""systemd understands the units, they fit the programs that they start, and the sandbox stays as tight as it is."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bootcd import errors
from bootcd.cli import commands
from bootcd.cli.parser import build_parser
from bootcd.daemon.main import STOP_TIMEOUT
from kit.installed import ROOT, meson_install

UNITS = sorted(path.name.removesuffix(".in") for path in (ROOT / "systemd").iterdir() if path.name.startswith("bootcd"))
SYSTEM = Path("/usr/lib/systemd/system")

Read = Callable[[str], dict[str, list[str]]]
"""Reads a unit: each key with its values."""

EXPOSURE = {
    "bootcd.service": 3.6,
    "bootcd-boot-complete.service": 2.6,
    "bootcd-boot-failed.service": 2.6,
    "bootcd-boot-started.service": 2.6,
    "bootcd-health-check.service": 8.8,
    "bootcd-hooks.service": 8.8,
    "bootcd-finalize-staged.service": 2.6,
    "bootcd-check.service": 1.1,
    "bootcd-update.service": 1.1,
    "bootcd-reboot-required.service": 1.1,
    "bootcd-hold-esp.service": 3.2,
}
"""What 'systemd-analyze security' of systemd 252 says at most. docs/security.md has the reasons for the first."""
OPEN = {
    "User=/DynamicUser=", "RootDirectory=/RootImage=", "PrivateUsers=", "PrivateNetwork=", "IPAddressDeny=",
    "PrivateDevices=", "DeviceAllow=", "ProtectProc=", "ProcSubset=", "RestrictSUIDSGID=", "RestrictNamespaces=~mnt",
    "UMask=", "RestrictAddressFamilies=~AF_UNIX", "RestrictAddressFamilies=~AF_(INET|INET6)",
    "SystemCallFilter=~@mount", "SystemCallFilter=~@privileged", "SystemCallFilter=~@resources",
    "CapabilityBoundingSet=~CAP_SYS_ADMIN", "CapabilityBoundingSet=~CAP_MKNOD", "CapabilityBoundingSet=~CAP_MAC_*",
    "CapabilityBoundingSet=~CAP_LINUX_IMMUTABLE", "CapabilityBoundingSet=~CAP_SET(UID|GID|PCAP)",
    "CapabilityBoundingSet=~CAP_(DAC_*|FOWNER|IPC_OWNER)", "CapabilityBoundingSet=~CAP_(CHOWN|FSETID|SETFCAP)",
}
"""The points of bootcd.service that are open at all."""

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where bootcd is installed so that its units name programs that exist."""
    directory = tmp_path_factory.mktemp("units")
    meson_install(directory / "build", f"--prefix={directory / 'prefix'}")
    return directory / "prefix"


@pytest.fixture(scope="module")
def units(prefix: Path) -> Path:
    return prefix / "lib" / "systemd" / "system"


@pytest.fixture(scope="module")
def unit(units: Path) -> Read:
    def read(name: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for line in (units / name).read_text().replace("\\\n", "").splitlines():
            if re.match(r"[A-Z]\w*=", line):
                key, _, value = line.partition("=")
                found.setdefault(key, []).append(value)
        return found

    return read


def analyze(*arguments: str | Path, path: Path) -> subprocess.CompletedProcess[str]:
    """systemd-analyze, which finds units in `path` before those of the system."""
    environment = os.environ | {"SYSTEMD_UNIT_PATH": f"{path}:", "LC_ALL": "C.UTF-8"}
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, env=environment)


def enable_everything(units: Path, directory: Path) -> None:
    """A copy of the units, each pulled in where [Install] says."""
    shutil.copytree(units, directory)
    for name in UNITS:
        for key, suffix in (("WantedBy", "wants"), ("RequiredBy", "requires")):
            for target in re.findall(rf"^{key}=(.*)$", (units / name).read_text(), re.MULTILINE):
                link = directory / f"{target}.{suffix}" / name
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(directory / name)


# --- systemd reads them -----------------------------------------------------------------------------------------------


def test_systemd_has_nothing_to_complain_about(units: Path) -> None:
    assert {path.name for path in units.iterdir()} == {*UNITS, "boot-complete.target.d"}
    done = analyze("verify", "--man=no", *(units / name for name in UNITS), path=units)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_would_complain(units: Path, tmp_path: Path) -> None:
    text = (units / "bootcd.service").read_text().replace("Restart=", "Restrat=")
    (tmp_path / "bootcd.service").write_text(text.replace("/bin/bootcd", "/bin/nothing"))
    done = analyze("verify", "--man=no", tmp_path / "bootcd.service", path=tmp_path)
    assert done.returncode == 1
    assert "Unknown key 'Restrat'" in done.stderr
    assert "nothing is not executable" in done.stderr


def test_pages_that_units_name_exist() -> None:
    for path in (ROOT / "systemd").iterdir():
        for name, section in re.findall(r"man:([\w.-]+)\((\d)\)", path.read_text()):
            assert (ROOT / "man" / f"{name}.{section}").exists(), f"{path.name}: {name}({section})"


def test_a_machine_with_boot_checks_starts_without_ordering_cycles(units: Path, tmp_path: Path) -> None:
    """Checks of boot-complete.target come after multi-user.target, which wants one of ours that comes after them."""
    def start(directory: Path) -> str:
        enable_everything(units, directory)
        check = directory / "boot-complete.target.requires" / "systemd-boot-check-no-failures.service"
        check.parent.mkdir(exist_ok=True)
        check.symlink_to(SYSTEM / check.name)
        staged = directory / "multi-user.target.wants" / "bootcd-staged.target"
        staged.symlink_to(directory / "bootcd-staged.target")
        if directory.name == "wrong":
            service = directory / "bootcd-boot-complete.service"
            service.write_text(service.read_text().replace("DefaultDependencies=no\n", ""))
        return analyze("verify", "--man=no", "--generators=no", "multi-user.target", path=directory).stderr

    assert "ordering cycle" not in start(tmp_path / "right")
    wrong = start(tmp_path / "wrong")
    assert "ordering cycle" in wrong
    assert "bootcd-boot-complete.service/start" in wrong


def test_finalizing_comes_between_the_services_and_the_boot_partition(unit: Read) -> None:
    """Stopping is starting backwards. Ordinary services are After=basic.target by default."""
    def words(name: str, key: str) -> set[str]:
        return {word for line in unit(name).get(key, []) for word in line.split()}

    final, hold = "bootcd-finalize-staged.service", "bootcd-hold-esp.service"
    assert {"basic.target", "bootcd.service", "shutdown.target"} <= words(final, "Before")
    assert "DefaultDependencies" not in unit("bootcd.service")
    assert final in words(hold, "Before")
    for name in (final, hold):
        assert unit(name)["DefaultDependencies"] == ["no"]
        assert words(name, "Conflicts") == {"shutdown.target"}
        assert {"local-fs.target", "efi.mount", "boot-efi.mount", "boot.mount"} <= words(name, "After")


def test_presets(prefix: Path, tmp_path: Path) -> None:
    """What is on after installation."""
    system = tmp_path / "usr" / "lib" / "systemd"
    shutil.copytree(prefix / "lib" / "systemd", system)
    subprocess.run(["systemctl", "--root", tmp_path, "preset-all"], capture_output=True, check=True)
    links = [path for path in (tmp_path / "etc/systemd/system").rglob("*") if path.is_symlink()]
    enabled = {path.name: path.parent.name for path in links}
    assert enabled == {
        "bootcd.service": "multi-user.target.wants",
        "bootcd-boot-complete.service": "multi-user.target.wants",
        "bootcd-boot-started.service": "multi-user.target.wants",
        "bootcd-finalize-staged.service": "multi-user.target.wants",
        "bootcd-health-check.service": "boot-complete.target.requires",
        "bootcd-hold-esp.service": "bootcd-staged.target.wants",
        "bootcd-hooks.path": "paths.target.wants",
        "bootcd-reboot-required.service": "bootcd-staged.target.wants",
        "bootcd-staged.path": "paths.target.wants",
        "bootcd-update.timer": "timers.target.wants",
    }
    preset = (prefix / "lib/systemd/system-preset/80-bootcd.preset").read_text()
    named = set(re.findall(r"^(?:enable|disable) (\S+)$", preset, re.MULTILINE))
    assert named == {name for name in UNITS if "[Install]" in (system / "system" / name).read_text()}


# --- they fit the programs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in UNITS if (ROOT / "systemd" / f"{name}.in").exists()])
def test_bootcctl_understands_how_it_is_called(name: str, prefix: Path, unit: Read) -> None:
    lines = [line for key in ("ExecStart", "ExecStop") for line in unit(name).get(key, [])]
    assert len(lines) == 1
    program, *arguments = shlex.split(lines[0])
    assert Path(program).parent == prefix / "bin"
    if Path(program).name == "bootcctl":
        build_parser().parse_args(arguments)
    else:
        assert (Path(program).name, arguments) == ("bootcd", [])


def test_what_is_no_failure(unit: Read) -> None:
    assert unit("bootcd-check.service")["SuccessExitStatus"] == [str(commands.NO_UPDATE)]
    assert unit("bootcd-update.service")["SuccessExitStatus"] == [str(errors.Busy.exit_status)]
    assert unit("bootcd-finalize-staged.service")["SuccessExitStatus"] == [str(errors.NothingStaged.exit_status)]
    assert "SuccessExitStatus" not in unit("bootcd-boot-complete.service")


def test_a_boot_that_fails_is_judged_whoever_found_it(unit: Read, units: Path) -> None:
    """By the drop-in, OnFailure= is looked at when a unit that the target requires has failed."""
    assert unit("boot-complete.target.d/10-bootcd.conf")["OnFailure"] == ["bootcd-boot-failed.service"]
    assert "boot-complete.target" in unit("bootcd-health-check.service")["RequiredBy"]
    reports = {line.partition("--report=")[2] for name in ("bootcd-health-check.service", "bootcd-boot-failed.service")
               for line in unit(name)["ExecStart"]}
    assert reports == {"/run/bootcd/health-check.json"}


def test_the_daemon_has_the_time_that_it_takes_to_stop(unit: Read) -> None:
    assert int(unit("bootcd.service")["TimeoutStopSec"][0]) > STOP_TIMEOUT


def test_every_failure_can_be_hooked(unit: Read) -> None:
    for name in ("bootcd.service", "bootcd-check.service", "bootcd-update.service", "bootcd-finalize-staged.service",
                 "bootcd-boot-complete.service", "bootcd-boot-failed.service", "bootcd-boot-started.service"):
        assert unit(name)["OnFailure"] == ["bootcd-failed.target"]


def test_background_work_waits_for_the_network(unit: Read) -> None:
    for name in ("bootcd-check.service", "bootcd-update.service"):
        assert "network-online.target" in unit(name)["After"][0].split()
    assert "--background" in unit("bootcd-check.service")["ExecStart"][0]
    assert unit("bootcd-check.service")["ConditionACPower"] == ["true"]
    # Whether there is power enough is what the policy finds out; a condition would keep a reboot from being planned.
    assert "ConditionACPower" not in unit("bootcd-update.service")


def test_the_policy_is_woken_often_and_each_machine_at_a_moment_of_its_own(unit: Read) -> None:
    timer = unit("bootcd-update.timer")
    assert timer["OnCalendar"] == ["*:00/15"]
    assert timer["RandomizedDelaySec"] == ["15min"]
    assert timer["FixedRandomDelay"] == ["yes"]
    service = unit("bootcd-update.service")
    assert service["ExecStart"][0].endswith("/bootcctl policy run")
    # The journal has no lines about nothing, and all about errors.
    assert (service["StandardOutput"], service["SyslogLevel"], service["LogLevelMax"]) == (
        ["null"], ["warning"], ["notice"])


def script(line: str) -> list[str]:
    """The command that systemd makes of a line of a unit."""
    return [word.replace("$$", "$") for word in shlex.split(line)]


def test_reboot_required_is_said_once(tmp_path: Path, unit: Read) -> None:
    (tmp_path / "reboot-required.pkgs").write_text("linux-image\n")
    for _ in range(2):
        for line in unit("bootcd-reboot-required.service")["ExecStart"]:
            subprocess.run(script(line.replace("/run/", f"{tmp_path}/")), check=True)
    assert (tmp_path / "reboot-required").read_text() == "*** System restart required ***\n"
    assert (tmp_path / "reboot-required.pkgs").read_text() == "linux-image\nbootcd\n"


def test_the_boot_partitions_are_held(tmp_path: Path, unit: Read) -> None:
    """An ESP and XBOOTLDR beside it, wherever there is something for a boot loader; without any it ends well."""
    (line,) = unit("bootcd-hold-esp.service")["ExecStart"]
    for name in ("efi", "boot/efi", "boot"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    assert "/efi /boot/efi /boot;" in line
    places = " ".join(str(tmp_path / name) for name in ("efi", "boot/efi", "boot"))
    command = script(line.replace("/efi /boot/efi /boot;", f"{places};"))
    subprocess.run(command, check=True, timeout=10)
    held = {tmp_path / "boot/efi", tmp_path / "boot"}
    for place in held:
        (place / "loader").mkdir()
    holding = subprocess.Popen(command, start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while _sleepers(holding.pid) != held and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _sleepers(holding.pid) == held
    finally:
        os.killpg(holding.pid, signal.SIGTERM)  # as systemd does to the whole of a unit
        assert holding.wait(10) == -signal.SIGTERM


def _sleepers(shell: int) -> set[Path]:
    """Where the children of a shell sleep."""
    children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    return {Path(f"/proc/{child}/cwd").readlink() for child in children
            if Path(f"/proc/{child}/comm").read_text() == "sleep\n"}


def test_motd_is_linked_once(tmp_path: Path) -> None:
    if shutil.which("systemd-tmpfiles") is None or os.geteuid() != 0:
        pytest.skip("needs systemd-tmpfiles and root")
    file = ROOT / "data" / "tmpfiles" / "bootcd.conf"
    for _ in range(2):
        subprocess.run(["systemd-tmpfiles", "--root", tmp_path, "--create", file], check=True)
    assert (tmp_path / "run/motd.d/50-bootcd").readlink() == Path("/run/bootcd/motd")


# --- the sandbox ------------------------------------------------------------------------------------------------------


def security(units: Path, name: str) -> tuple[float, set[str]]:
    """How exposed a service is, from 0 to 10, and which points are open."""
    done = analyze("security", "--offline=true", "--no-pager", units / name, path=units)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stderr
    table = analyze("security", "--offline=true", "--json=short", units / name, path=units)
    rows = json.loads(table.stdout)
    return float(found[1]), {row["name"] for row in rows if row["set"] is False and row["exposure"] is not None}


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_exposure_does_not_grow(name: str, units: Path) -> None:
    exposure, _ = security(units, name)
    assert exposure <= EXPOSURE[name]


def test_open_points_are_the_known_ones(units: Path) -> None:
    exposure, points = security(units, "bootcd.service")
    assert points <= OPEN, f"new: {points - OPEN}"
    said = re.search(r"exposure of `bootcd.service` is ([\d.]+)", (ROOT / "docs" / "security.md").read_text())
    assert said, "docs/security.md does not tell the number"
    assert float(said[1]) == EXPOSURE["bootcd.service"] >= exposure
