# SPDX-License-Identifier: Apache-2.0
"""Bringing a boot partition up to date: what it lacks, in which order, and what is none of our business."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bootcd.boot import entries, kernels
from bootcd.boot.equal import Expected, catch_up, compare, drop_gone, worth
from bootcd.boot.esp import Esp
from bootcd.boot.kernels import Content
from bootcd.boot.loader import copy_loader, lacking
from bootcd.errors import EspFull, ObjectMismatch
from bootcd.formats.bls import EntryName
from bootcd.linux import files


def id_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest() * 2


@dataclass
class Side:
    """A boot partition, and ways to put something there."""

    esp: Esp

    @classmethod
    def at(cls, path: Path) -> Side:
        path.mkdir()
        esp = Esp(path)
        esp.prepare()
        return cls(esp)

    def kernel(self, name: str) -> str:
        vmlinuz, initrd = f"kernel {name}".encode() * 99, b"initrd"
        digest = kernels.boot_digest([vmlinuz], [initrd])
        kernels.install_kernel(self.esp, digest, Content.of(vmlinuz), Content.of(initrd))
        return digest

    def uki(self, name: str) -> str:
        kernels.install_uki(self.esp, id_of(name), Content.of(b"UKI " + name.encode() * 99),
                            {"a.addon.efi": Content.of(b"addon")})
        return f"{id_of(name)}.efi"

    def entry(self, generation: int, name: str, kernel: str, tries: int | None = None) -> EntryName:
        wanted = entries.entry_name(generation, id_of(name), tries)
        content = (entries.compose_uki("OS", generation, None, id_of(name)) if kernel.endswith(".efi") else
                   entries.compose_kernel("OS", generation, None, kernel, "quiet"))
        entries.write_entry(self.esp, wanted, content)
        return wanted

    def files(self) -> dict[str, bytes]:
        root = Path(self.esp.path)
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def boots(self) -> str | None:
        """The id prefix of what the boot loader starts."""
        found = entries.menu(entries.list_entries(self.esp).ours)
        assert not found or found[0].problem is None
        return found[0].id_prefix if found else None


@dataclass
class Pair:
    """The first boot partition has two deployments, `new` (a UKI) and `old`, and the kernel of a staged one."""

    first: Side
    other: Side
    deployments: dict[str, tuple[int | None, tuple[str, ...]]] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()

    @property
    def expected(self) -> Expected:
        return Expected(self.deployments, self.gone)

    def deploy(self, generation: int, name: str, kernel: str, *sides: Side) -> None:
        for side in sides:
            side.entry(generation, name, kernel)
        self.deployments[id_of(name)[:12]] = (generation, (kernel,))


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(Side.at(tmp_path / "first"), Side.at(tmp_path / "other"))
    made.deploy(3, "old", made.first.kernel("old"), made.first)
    made.deploy(4, "new", made.first.uki("new"), made.first)
    made.deployments[id_of("staged")[:12]] = (None, (made.first.kernel("staged"),))
    return made


def test_an_empty_one_gets_everything(pair: Pair) -> None:
    assert str(compare(pair.first.esp, pair.other.esp, pair.expected)) == "lacks 3 kernels and 2 boot entries"
    assert worth(pair.first.esp, pair.expected) == (2, 4)
    assert worth(pair.other.esp, pair.expected) == (0, 0)
    lag = catch_up(pair.first.esp, pair.other.esp, pair.expected)
    assert lag.past == "lacked 3 kernels and 2 boot entries"
    assert pair.first.files() == pair.other.files()
    assert not compare(pair.first.esp, pair.other.esp, pair.expected)
    assert worth(pair.other.esp, pair.expected) == (2, 4)


def test_what_has_been_replaced_goes(pair: Pair) -> None:
    """The other one has older generations of a deployment, and a kernel that nobody needs any more."""
    pair.other.kernel("unneeded")
    pair.other.entry(1, "old", pair.other.kernel("old"))
    pair.other.entry(2, "new", pair.other.uki("new"))
    lag = compare(pair.first.esp, pair.other.esp, pair.expected)
    assert str(lag) == "lacks 1 kernel and 2 boot entries; has old 1 kernel and 2 boot entries"
    catch_up(pair.first.esp, pair.other.esp, pair.expected)
    assert pair.first.files() == pair.other.files()


def test_others_are_left_alone(pair: Pair) -> None:
    """Entries of other systems, of another installation of bootcd, and what makes no sense; with what they need."""
    there = pair.other.esp
    theirs = f"title Foreign\nlinux /EFI/bootcd/{'f' * 64}/vmlinuz\n".encode()
    for name, content in (("loader/entries/foreign.conf", theirs), ("loader/entries/broken.conf", b"\xff\xfe"),
                          (f"EFI/bootcd/{'f' * 64}/vmlinuz", b"foreign"),
                          ("EFI/bootcd/README", b"?"), ("EFI/Linux/other.efi", b"MZ")):
        there.make_directory(name.rpartition("/")[0])
        there.write(name, [content])
    pair.other.entry(9, "somebody else's", pair.other.kernel("somebody else's"))
    before = pair.other.files()
    pair.gone = frozenset({"bootcd-0000000009-000000000000"})
    drop_gone(there, pair.expected)
    catch_up(pair.first.esp, there, pair.expected)
    after = pair.other.files()
    assert after == {**pair.first.files(), **before}


def test_what_was_removed_meanwhile_goes_with_its_kernel(pair: Pair) -> None:
    name = pair.other.entry(1, "collected", pair.other.kernel("collected"))
    assert not compare(pair.first.esp, pair.other.esp, pair.expected).unneeded, "it could be another installation's"
    pair.gone = frozenset({name.stem})
    assert str(compare(pair.first.esp, pair.other.esp, pair.expected)).endswith("has old 1 kernel and 1 boot entry")
    catch_up(pair.first.esp, pair.other.esp, pair.expected)
    assert pair.first.files() == pair.other.files()


def test_a_newer_entry_that_was_taken_back_goes(pair: Pair) -> None:
    """As after a trial of other kernel arguments: the deployment is there, with the generation from before."""
    name = pair.other.entry(9, "new", pair.other.uki("new"))
    assert not compare(pair.first.esp, pair.other.esp, pair.expected).replaced
    pair.gone = frozenset({name.stem})
    assert compare(pair.first.esp, pair.other.esp, pair.expected).replaced
    catch_up(pair.first.esp, pair.other.esp, pair.expected)
    assert pair.first.files() == pair.other.files()


def test_an_entry_that_is_in_force_is_not_gone(pair: Pair) -> None:
    """One that fsck wrote again, for example."""
    pair.gone = frozenset({entries.entry_name(4, id_of("new"), None).stem})
    drop_gone(pair.first.esp, pair.expected)
    assert len(entries.list_entries(pair.first.esp).ours) == 2


@pytest.mark.parametrize(("first", "other", "left"), [
    ("+3", "+2-1", "+2-1"), ("+2-1", "+3", "+2-1"), ("", "+1-2", ""), ("+0-3", "", ""), ("+1-2", "+1", "+1-2"),
    ("+0-3", "+3", "+0-3"), ("+3", "+3", "+3"),
])
def test_of_two_counters_the_later_one_counts(pair: Pair, first: str, other: str, left: str) -> None:
    catch_up(pair.first.esp, pair.other.esp, pair.expected)
    stem = entries.entry_name(4, id_of("new"), None).stem
    for side, counter in ((pair.first, first), (pair.other, other)):
        side.esp.rename(f"loader/entries/{stem}.conf", f"{stem}{counter}.conf") if counter else None
    assert bool(compare(pair.first.esp, pair.other.esp, pair.expected)) == (first != other)
    catch_up(pair.first.esp, pair.other.esp, pair.expected)
    assert pair.first.files() == pair.other.files()
    assert f"loader/entries/{stem}{left}.conf" in pair.first.files()


def test_a_kernel_of_another_size_is_replaced(pair: Pair) -> None:
    catch_up(pair.first.esp, pair.other.esp, pair.expected)
    for name in pair.first.files():
        if name.startswith("EFI/bootcd/"):
            pair.other.esp.write(name, [b"?"])
    assert len(compare(pair.first.esp, pair.other.esp, pair.expected).kernels) == 3
    catch_up(pair.first.esp, pair.other.esp, pair.expected)
    assert pair.first.files() == pair.other.files()


def test_a_damaged_kernel_is_not_passed_on(pair: Pair) -> None:
    catch_up(pair.first.esp, pair.other.esp, pair.expected)
    digest = pair.deployments[id_of("old")[:12]][1][0]
    kernels.remove_kernel(pair.other.esp, digest)
    pair.first.esp.write(f"EFI/bootcd/{digest}/initrd", [b"INITRD"])
    with pytest.raises(ObjectMismatch):
        catch_up(pair.first.esp, pair.other.esp, pair.expected)
    assert digest not in {kernel.name for kernel in kernels.list_kernels(pair.other.esp).kernels}


class _Cut(Exception):
    """Stands for the end of the process."""


def test_whenever_it_is_cut_off_it_boots(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step: what the other one boots is known and whole, and it is not older than before."""
    pair.other.kernel("unneeded")
    pair.other.entry(1, "old", pair.other.kernel("old"))
    before = pair.other.files()

    def run(at: int) -> int:
        seen = 0

        def observe(name: str) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                raise _Cut

        monkeypatch.setattr(files, "observe", observe)
        try:
            catch_up(pair.first.esp, pair.other.esp, pair.expected)
        finally:
            monkeypatch.setattr(files, "observe", None)
        return seen

    total = run(0)
    assert total > 20
    for at in range(1, total + 1):
        pair.other = Side.at(tmp_path / f"other-{at}")
        for name, content in before.items():
            pair.other.esp.make_directory(name.rpartition("/")[0])
            pair.other.esp.write(name, [content])
        with pytest.raises(_Cut):
            run(at)
        assert pair.other.boots() in (id_of("old")[:12], id_of("new")[:12]), at
        pair.other.esp.clean()
        catch_up(pair.first.esp, pair.other.esp, pair.expected)
        assert pair.first.files() == pair.other.files(), at


def test_one_that_is_too_small_gets_the_newest(pair: Pair, small_esp: Esp) -> None:
    small_esp.prepare()
    pair.other = Side(small_esp)
    big = pair.first.esp
    vmlinuz = bytes(3 << 20)
    for generation, name in ((5, "five"), (6, "six")):
        digest = kernels.boot_digest([vmlinuz], [name.encode()])
        kernels.install_kernel(big, digest, Content.of(vmlinuz), Content.of(name.encode()))
        pair.deploy(generation, name, digest, pair.first)
    with pytest.raises(EspFull):
        catch_up(big, small_esp, pair.expected)
    assert pair.other.boots() == id_of("six")[:12]


# --- the boot loader --------------------------------------------------------------------------------------------------


def test_systemd_boot_goes_along(pair: Pair) -> None:
    first, other = pair.first.esp, pair.other.esp
    for name, content in (("EFI/systemd/systemd-bootx64.efi", b"MZ loader"), ("EFI/BOOT/BOOTX64.EFI", b"MZ loader"),
                          ("EFI/systemd/other.efi", b"?"), ("loader/loader.conf", b"timeout 3\n"),
                          ("loader/keys/auto/PK.auth", b"key"), ("loader/random-seed", b"secret")):
        first.make_directory(name.rpartition("/")[0])
        first.write(name, [content])
    other.write("loader/loader.conf", [b"timeout 9\n"])
    wanted = ["EFI/systemd/systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI", "loader/keys/auto/PK.auth"]
    assert lacking(first, other) == wanted
    assert copy_loader(first, other) == wanted
    assert other.read("EFI/BOOT/BOOTX64.EFI", 99) == b"MZ loader"
    assert other.read("loader/loader.conf", 99) == b"timeout 9\n", "what is there is somebody's"
    assert lacking(first, other) == []


def test_another_boot_loader_stays_where_it_is(pair: Pair) -> None:
    """Half of shim and GRUB would not boot."""
    first, other = pair.first.esp, pair.other.esp
    for name, content in (("EFI/BOOT/BOOTX64.EFI", b"shim"), ("EFI/systemd/systemd-bootx64.efi", b"MZ loader")):
        first.make_directory(name.rpartition("/")[0])
        first.write(name, [content])
    assert copy_loader(first, other) == ["EFI/systemd/systemd-bootx64.efi"]
