# SPDX-License-Identifier: Apache-2.0
"""What must hold at every moment: some good deployment boots, its objects are all there, and nothing is lost."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootcd.boot.kargs import find_kargs
from bootcd.formats.bls import BootEntry, EntryName, sort_entries
from bootcd.store.repository import Repository
from crash.program import Program, snapshot

MIRROR = Path("sysroot/efi2")
"""A second boot partition, in worlds that have one."""


@dataclass(frozen=True)
class Before:
    """What was there before the run and must stay: pinned deployments, what boots, foreign files, the shared /var. And
    what status warned of already."""

    pinned: frozenset[str]
    default: str | None
    etc: dict[str, dict[str, str]]
    foreign: dict[str, str]
    var: dict[str, str]
    warnings: list[str]
    reset: bool = False
    bootc: str | None = None
    """What boots next by an entry of bootc."""


def look(program: Program, world: Path, *, pinned: bool = True, reset: bool = False) -> Before:
    """What is there. With `pinned` False, pins may go; with `reset`, /etc of the default and /var may be made anew."""
    status = program(world, "status", "--json").json
    deployments = status["deployments"]
    return Before(
        frozenset(info["id"] for info in deployments if info["pins"] and pinned),
        next((info["id"] for info in deployments if "default" in info["roles"]), None),
        {info["id"]: snapshot(world / "sysroot/state/deploy" / info["id"] / "etc") for info in deployments
         if "staged" not in info["roles"]},
        foreign_files(world), snapshot(world / "sysroot/state/os"), status["warnings"], reset,
        None if deployments else boots(world),
    )


def foreign_files(world: Path) -> dict[str, str]:
    """What is on the boot partitions and none of ours."""
    ours = ("EFI/bootcd/", "loader/entries/bootcd-")
    return {f"{esp}/{path}": what for esp in (Path("esp"), MIRROR) for path, what in snapshot(world / esp).items()
            if not path.startswith(ours) and "/.bootcd-" not in path and "foreign" in path}


def check(program: Program, world: Path, before: Before) -> None:
    """The invariant, after whatever happened."""
    done = program(world, "status", "--json")
    assert done.status == 0, done.err
    infos: dict[str, Any] = {info["id"]: info for info in done.json["deployments"]}
    if before.default is not None:
        default = next(info for info in infos.values() if "default" in info["roles"])
        check_bootable(world, default, before)
    if before.bootc is not None:
        assert boots(world) == before.bootc
    for pinned in before.pinned:
        assert infos[pinned]["pins"], "a pin is lost"
        check_bootable(world, infos[pinned], before)
    newest = max((world / MIRROR / "loader/entries").glob("bootcd-*"), default=None, key=lambda path: path.name)
    if newest is not None:
        default = next(info for info in infos.values() if f"-{info['id'][:12]}" in newest.name)
        check_bootable(world, default, before, MIRROR)
    now = foreign_files(world)
    assert {path: now.get(path) for path in before.foreign} == before.foreign
    var = world / "sysroot/state/os/default"
    if not before.reset or _is_old(var / "var", before.var, "default/var/"):
        now = snapshot(world / "sysroot/state/os")
        assert {path: now.get(path) for path in before.var} == before.var
    else:
        assert any(_is_old(path, before.var, "default/var/") for path in var.glob("var?*")), "the old /var is lost"
    if (world / "sysroot/composefs/meta.json").exists():
        done = program(world, "fsck", "--json")
        wrong = [item for item in done.json["findings"] if not item["detail"].endswith(f" on {MIRROR}")]
        assert not wrong, f"{wrong}\n{done.err}"  # what a mirror lacks the next change brings


def boots(world: Path) -> str | None:
    """The id that the first entry in the loader's order names, whoever wrote it; its kernel has to be there."""
    found = []
    for path in (world / "esp/loader/entries").glob("*.conf"):
        if not path.name.startswith("foreign"):
            found.append((EntryName.parse(path.name), BootEntry.parse(path.read_bytes())))
    if not found:
        return None
    entry = sort_entries(found, lambda item: item)[0][1]
    assert all((world / "esp" / file).stat().st_size for file in entry.files)
    (karg,) = find_kargs(entry.options)
    assert (world / "sysroot/state/deploy" / karg.digest.hex() / "etc/version.conf").is_file()
    return karg.digest.hex()


def _is_old(directory: Path, before: dict[str, str], prefix: str) -> bool:
    return snapshot(directory) == {path.removeprefix(prefix): what for path, what in before.items()
                                   if path.startswith(prefix)}


def check_bootable(world: Path, info: dict[str, Any], before: Before, esp: Path = Path("esp")) -> None:
    """Entry, kernel, state, image and objects of one deployment are there in full."""
    entries = [path for path in (world / esp / "loader/entries").iterdir() if info["id"][:12] in path.name]
    assert entries, f"{info['version']} has no entry"
    assert any(f"/EFI/bootcd/{info['boot-digest']}/vmlinuz" in path.read_text() and info["id"] in path.read_text()
               for path in entries)
    kernel = world / esp / "EFI/bootcd" / info["boot-digest"]
    content = (kernel / "vmlinuz").read_bytes() + (kernel / "initrd").read_bytes()
    assert hashlib.sha256(content).hexdigest() == info["boot-digest"]
    home = world / "sysroot/state/deploy" / info["id"]
    assert (home / "etc/version.conf").is_file()
    assert (home / "etc/os-release").is_symlink()
    assert (home / "var/lib/seed").is_file()
    if before.reset and "default" in info["roles"]:
        old = before.etc[info["id"]]
        if snapshot(home / "etc") != old:
            assert not (home / "etc/hostname").exists()
            assert any(snapshot(path) == old for path in home.glob("etc?*")), "the old /etc is lost"
    elif info["id"] in before.etc:
        assert snapshot(home / "etc") == before.etc[info["id"]], "/etc of a deployment that was there has changed"
    elif before.default is not None:
        assert (home / "etc/hostname").read_text() == "machine\n", "a local change is lost"
    with Repository.open(world / "sysroot/composefs") as repository:
        for digest in repository.images.read(bytes.fromhex(info["id"])).objects():
            repository.objects.read(digest)
