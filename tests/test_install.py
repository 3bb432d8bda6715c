# SPDX-License-Identifier: Apache-2.0
"""Everything is installed, and where distributions look for it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import pytest

from bootcd import __version__, config
from kit.installed import ROOT, meson_install

UNITS = ROOT / "systemd"
PACKAGE = ROOT / "src" / "bootcd"

SYSUPDATE = {
    "usr/share/dbus-1/interfaces/org.freedesktop.sysupdate1.Job.xml",
    "usr/share/dbus-1/interfaces/org.freedesktop.sysupdate1.Manager.xml",
    "usr/share/dbus-1/interfaces/org.freedesktop.sysupdate1.Target.xml",
    "usr/share/dbus-1/system-services/org.freedesktop.sysupdate1.service",
    "usr/share/dbus-1/system.d/org.freedesktop.sysupdate1.conf",
    "usr/share/polkit-1/actions/org.freedesktop.sysupdate1.policy",
}
"""What systemd-sysupdated brings as well, and can therefore be left out."""
EXPECTED = {
    *SYSUPDATE,
    "usr/bin/bootcctl",
    "usr/bin/bootcd",
    "usr/lib/bootcd/bootcd.toml",
    "usr/lib/systemd/catalog/bootcd.catalog",
    "usr/lib/systemd/system/boot-complete.target.d/10-bootcd.conf",
    "usr/lib/systemd/system-preset/80-bootcd.preset",
    "usr/lib/sysusers.d/bootcd.conf", "usr/lib/tmpfiles.d/bootcd.conf",
    "usr/share/bash-completion/completions/bootcctl",
    "usr/share/dbus-1/interfaces/org.bootcd1.Deployment.xml",
    "usr/share/dbus-1/interfaces/org.bootcd1.Job.xml",
    "usr/share/dbus-1/interfaces/org.bootcd1.Manager.xml",
    "usr/share/dbus-1/system-services/org.bootcd1.service",
    "usr/share/dbus-1/system.d/org.bootcd1.conf",
    "usr/share/fish/vendor_completions.d/bootcctl.fish",
    "usr/share/polkit-1/actions/org.bootcd1.policy",
    "usr/share/zsh/site-functions/_bootcctl",
}
"""Beside units, manual pages and modules, which are found in the source."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a system on which bootcd is installed."""
    directory = tmp_path_factory.mktemp("installed")
    meson_install(directory / "build", "-Dupdate_motd=true", destination=directory / "root")
    return directory / "root"


def modules(tree: Path) -> Path:
    """Where Python's modules are."""
    (found,) = tree.rglob("bootcd/__init__.py")
    return found.parents[1]


def files(tree: Path) -> set[str]:
    return {path.relative_to(tree).as_posix() for path in tree.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}


def test_everything_is_there_and_nothing_else(tree: Path) -> None:
    units = {f"usr/lib/systemd/system/{path.name.removesuffix('.in')}" for path in UNITS.iterdir()
             if path.name.startswith("bootcd")}
    pages = {f"usr/share/man/man{path.suffix[1:]}/{path.name}" for path in (ROOT / "man").glob("*.[1-8]")}
    interfaces = (PACKAGE / "daemon" / "dbus-interfaces").glob("*.xml")
    python = {f"{modules(tree).relative_to(tree)}/bootcd/{path.relative_to(PACKAGE).as_posix()}"
              for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("py.typed"), *interfaces]}
    assert units
    assert pages
    assert python
    assert files(tree) == EXPECTED | units | pages | python | {"etc/update-motd.d/92-bootcd"}


def test_what_others_bring_as_well_can_be_left_out(tree: Path, tmp_path: Path) -> None:
    meson_install(tmp_path / "build", "-Dupdate_motd=true", "-Dsysupdate1=false", destination=tmp_path / "root")
    assert files(tmp_path / "root") == files(tree) - SYSUPDATE


def test_the_daemon_serves_what_the_world_is_told(tree: Path) -> None:
    for path in (ROOT / "dbus-interfaces").glob("*.xml"):
        text = path.read_bytes()
        assert (tree / "usr/share/dbus-1/interfaces" / path.name).read_bytes() == text
        assert (modules(tree) / "bootcd/daemon/dbus-interfaces" / path.name).read_bytes() == text


def test_programs_are_those_of_the_wheel(tree: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {path.name for path in (tree / "usr/bin").iterdir()} == set(project["scripts"])
    for name in project["scripts"]:
        done = subprocess.run([tree / "usr/bin" / name, "--version"], capture_output=True, text=True, check=False,
                              env=os.environ | {"PYTHONPATH": str(modules(tree))})
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{name} {__version__}\n", "")
    assert metadata.version("bootcd") == __version__


def test_nothing_stays_unconfigured(tree: Path) -> None:
    units = (path for path in (tree / "usr/lib/systemd/system").rglob("*") if path.is_file())
    for path in [*units, *(tree / "usr/bin").iterdir()]:
        assert "@" not in path.read_text().replace("@system-service", "").replace("@mount", "") \
            .replace("@setuid @keyring @memlock", "").replace("@privileged @resources", ""), path


def test_the_installed_settings_are_the_defaults(tree: Path, tmp_path: Path) -> None:
    installed = tree / "usr/lib/bootcd/bootcd.toml"
    assert config.load([installed]) == config.Config()
    active = tmp_path / "bootcd.toml"
    active.write_text("".join(line.removeprefix("#") if " = " in line else line
                              for line in installed.read_text().splitlines(keepends=True) if not line.startswith("# ")))
    tables = tomllib.loads(active.read_text())
    said = {f"{table}_{key}".replace("-", "_") for table, keys in tables.items() for key in keys}
    assert said == {field.name for field in fields(config.Config)}
    assert config.load([active]) == config.Config()


def test_motd_is_shown_where_there_is_one(tree: Path) -> None:
    script = (tree / "etc/update-motd.d/92-bootcd").read_text()
    assert os.access(tree / "etc/update-motd.d/92-bootcd", os.X_OK)
    motd = tree / "motd"
    for text in ("", "Version 1.1 is ready.\n"):
        if text:
            motd.write_text(text)
        here = script.replace("/run/bootcd/motd", str(motd))
        done = subprocess.run(["sh", "-c", here], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, text, "")


def test_packages_are_listed_with_reasons() -> None:
    lines = [line for line in (ROOT / "packages.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        name, _, reason = line.partition("#")
        assert name.strip(), line
        assert reason.strip(), line


def test_requirements_name_what_the_daemon_imports() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/requirements.py"], capture_output=True, text=True, check=True)
    assert {"dbus-next", "systemd-python"} <= {line.split(">")[0] for line in done.stdout.splitlines()}
