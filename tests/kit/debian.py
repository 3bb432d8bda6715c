# SPDX-License-Identifier: Apache-2.0
"""Debian packages without installing them: downloaded by `apt-get download`, read by `dpkg-deb`, no root needed.

Packages come from the sources that this machine is configured with, through its package lists or, where those are
missing or outdated, through private lists in the cache directory. A package in the cache is not asked for again;
deleting the directory fetches the newest ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("BOOTCD_DEB_CACHE", ROOT / "build" / "debian"))
"""Where packages are kept."""

PROGRAMS = CACHE / "bin"
"""Where unpacked programs are; tests/conftest.py puts it at the end of PATH."""


class DebianError(Exception):
    """A package cannot be had; the message says why, in apt's words."""


@cache
def architecture() -> str:
    """Debian's name of this machine's architecture."""
    return _run(["dpkg", "--print-architecture"]).strip()


def kernel_package(flavour: str = "cloud") -> str:
    """The versioned package behind Debian's kernel metapackage, for example linux-image-6.1.0-56-cloud-amd64."""
    meta = f"linux-image-{flavour}-{architecture()}" if flavour else f"linux-image-{architecture()}"
    known = sorted(CACHE.glob("linux-image-[0-9]*.deb"))
    if known:
        return known[-1].name.removesuffix(".deb")
    for private in (False, True):
        try:
            answer = _run(["apt-cache", *(_private_lists() if private else ()), "depends", meta])
        except DebianError:
            continue
        for line in answer.splitlines():
            kind, _, name = line.strip().partition(": ")
            if kind == "Depends" and name.startswith("linux-image-"):
                return name
    raise DebianError(f"apt knows no package {meta}")


def mirror() -> str:
    """The address of the Debian mirror that this machine's apt uses. Raises DebianError."""
    targets = _run(["apt-get", "indextargets", "--format", "$(SITE) $(ORIGIN)", "Created-By: Packages"])
    sites = [line.split()[0] for line in targets.splitlines() if line.endswith(" Debian") and "security" not in line]
    if not sites:
        raise DebianError("apt knows no Debian mirror: run 'apt-get update'")
    return sites[0]


def fetch(names: Sequence[str]) -> dict[str, Path]:
    """The .deb files of these packages by name, downloaded if they are not in the cache. Raises DebianError."""
    found = {name: CACHE / f"{name}.deb" for name in names}
    missing = [name for name, path in found.items() if not path.exists()]
    if missing:
        incoming = CACHE / "incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(parents=True)
        try:
            _run(["apt-get", "download", *missing], cwd=incoming)
        except DebianError:
            _run(["apt-get", *_private_lists(), "download", *missing], cwd=incoming)
        for path in incoming.glob("*.deb"):
            path.rename(CACHE / (path.name.partition("_")[0] + ".deb"))
        incoming.rmdir()
    return found


def members(deb: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """What the package installs: entries with a path relative to the root ("" is the root) and, for files, content."""
    process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    with process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for info in archive:
                content = b""
                if info.isreg():
                    stream = archive.extractfile(info)
                    assert stream is not None
                    content = stream.read()
                info.name = info.name.removeprefix(".").strip("/")
                yield info, content
        # Padding after the end of the archive, so that dpkg-deb is not killed by SIGPIPE.
        assert process.stdout is not None
        while process.stdout.read(1 << 16):
            pass
    if process.returncode:
        raise DebianError(f"dpkg-deb cannot read {deb}")


def program(name: str, package: str | None = None) -> Path:
    """A program on PATH or else, unpacked but not installed, that of Debian's package (default: of the same name).

    For single programs that need nothing beyond libc. Unpacking has an advantage over installing: docker-registry
    would start a service that listens on all addresses. Raises DebianError.
    """
    installed = shutil.which(name)
    if installed:
        return Path(installed)
    target = PROGRAMS / name
    if not target.exists():
        package = package or name
        found = [content for info, content in members(fetch([package])[package])
                 if info.isreg() and info.name.endswith(f"bin/{name}")]
        if not found:
            raise DebianError(f"Debian's package {package} has no program {name}")
        PROGRAMS.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f"{name}.{os.getpid()}")
        fresh.write_bytes(found[0])
        fresh.chmod(0o755)
        fresh.rename(target)
    return target


@cache
def _private_lists() -> tuple[str, ...]:
    """apt options that keep lists and caches in CACHE, with the lists brought up to date."""
    state = CACHE / "apt"
    for directory in ("lists/partial", "cache/archives/partial"):
        (state / directory).mkdir(parents=True, exist_ok=True)
    options = (f"--option=Dir::State={state}", f"--option=Dir::Cache={state}/cache",
               "--option=Dir::State::status=/var/lib/dpkg/status", "--option=Debug::NoLocking=true",
               "--option=Acquire::Languages=none")
    _run(["apt-get", *options, "update"])
    return options


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              env=os.environ | {"LC_ALL": "C"})
    except FileNotFoundError as error:
        raise DebianError(f"'{command[0]}' is missing: this is no Debian system") from error
    if done.returncode:
        raise DebianError(f"'{' '.join(command)}' failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    try:
        for wanted in sys.argv[1:]:
            program(wanted)
    except DebianError as problem:
        sys.exit(f"{problem}")
