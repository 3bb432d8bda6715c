# SPDX-License-Identifier: Apache-2.0
"""/etc on a disk: what a merge takes along, what stops it early, what differs, and the way back."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.deploy.etcreset import relative
from bootcd.errors import BootcdError, ConfigError, DeploymentNotFound, EtcConflict, NotFound, Refused, UsageError
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from bootcd.ops.host import Host
from bootcd.ops.results import DeploymentInfo, EtcDecision, EtcResetItem
from kit.images import Dir, File
from kit.os_images import base_layer, os_image
from kit.world import World

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
LONG = b"a line of the image\n" * 20
"""Too long to stand in the image itself."""


class Notes(SilentProgress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def world(tmp_path: Path, notes: Notes) -> World:
    def connect(world: World) -> Host:
        return DirectHost(world.sysroot, world.esp, world.config, notes)

    return World(tmp_path, connect, tmp_path)


def rule(path: str, merge: str, **more: str) -> str:
    rest = "".join(f'{key} = "{value}"\n' for key, value in more.items())
    return f'[[rule]]\npaths = ["{path}"]\nmerge = "{merge}"\n{rest}'


def write_rules(etc: Path, text: str) -> None:
    (etc / "bootcd/etc-rules.d").mkdir(parents=True, exist_ok=True)
    (etc / "bootcd/etc-rules.d/50-test.toml").write_text(text)


# --- what a merge takes along -----------------------------------------------------------------------------------------


def upgraded(world: World, first: DeploymentInfo) -> Path:
    """/etc of the next version."""
    assert world.etc(first).is_dir()
    return world.etc(world.upgrade(os_image("1.1", [Dir("etc/new.d"), File("etc/new.d/one", b"1")])))


def test_times_hard_links_and_modes(world: World) -> None:
    first = world.install(os_image("1.0"))
    etc = world.etc(first)
    (etc / "one").write_bytes(LONG)
    os.link(etc / "one", etc / "two")
    (etc / "dir").mkdir()
    os.link(etc / "one", etc / "dir/three")
    os.chmod(etc / "one", 0o4750)
    os.utime(etc / "one", ns=(5, 1_234_567_890_123_456_789))
    os.symlink("nowhere", etc / "link")
    os.utime(etc / "link", ns=(5, 987_654_321), follow_symlinks=False)
    os.utime(etc / "dir", ns=(5, 42_000_000_001))
    after = upgraded(world, first)
    status = (after / "one").stat()
    assert status.st_nlink == 3
    assert {(after / name).stat().st_ino for name in ("one", "two", "dir/three")} == {status.st_ino}
    assert status.st_ino != (etc / "one").stat().st_ino
    assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (1_234_567_890_123_456_789, 0o4750)
    assert (after / "link").lstat().st_mtime_ns == 987_654_321
    assert (after / "dir").stat().st_mtime_ns == 42_000_000_001
    assert (after / "one").read_bytes() == LONG


@needs_root
def test_owners_and_xattrs(world: World) -> None:
    first = world.install(os_image("1.0"))
    etc = world.etc(first)
    (etc / "file").write_text("mine")
    os.chown(etc / "file", 1234, 4321)
    os.chmod(etc / "file", 0o6755)
    os.setxattr(etc / "file", "user.note", b"by hand")
    os.setxattr(etc / "file", "trusted.note", b"by root")
    os.setxattr(etc / "version.conf", "user.note", b"a change, too")
    after = upgraded(world, first)
    status = (after / "file").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 4321, 0o6755)
    assert os.getxattr(after / "file", "user.note") == b"by hand"
    assert os.getxattr(after / "file", "trusted.note") == b"by root"
    assert (after / "version.conf").read_text() == "version = 1.0\n"


def test_special_files_and_loops_of_links(world: World) -> None:
    first = world.install(os_image("1.0"))
    etc = world.etc(first)
    os.mkfifo(etc / "pipe", 0o640)
    os.symlink("loop-b", etc / "loop-a")
    os.symlink("loop-a", etc / "loop-b")
    os.symlink(".", etc / "self")
    os.symlink("/", etc / "top")
    here = os.getcwd()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        os.chdir(etc)  # the path of a socket is short
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
    if os.geteuid() == 0:
        os.mknod(etc / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(etc / "whiteout", stat.S_IFCHR, 0)
    after = upgraded(world, first)
    assert stat.S_ISFIFO((after / "pipe").lstat().st_mode)
    assert stat.S_ISSOCK((after / "socket").lstat().st_mode)
    assert [os.readlink(after / name) for name in ("loop-a", "loop-b", "self", "top")] == ["loop-b", "loop-a", ".", "/"]
    if os.geteuid() == 0:
        assert (after / "null").lstat().st_rdev == os.makedev(1, 3)
        assert stat.S_ISCHR((after / "whiteout").lstat().st_mode)
    found = {one.path: one.kind for one in world.host.etc_diff(text=True).differences}
    assert {"pipe", "socket", "loop-a", "self", "top"} <= found.keys()


@contextlib.contextmanager
def immutable(path: Path) -> Iterator[None]:
    try:
        done = subprocess.run(["chattr", "+i", path], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("chattr is not installed")
    if done.returncode != 0:
        pytest.skip("no attributes on this file system")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], capture_output=True, check=False)


@needs_root
def test_immutable_files(world: World) -> None:
    """They are taken along, mutable; what is old can be removed all the same."""
    first = world.install(os_image("1.0", [Dir("etc/d"), File("etc/d/f", b"1")]))
    etc = world.etc(first)
    (etc / "d/f").write_text("mine")
    with immutable(etc / "d/f"), immutable(etc / "d"):
        with pytest.raises(Refused, match="/etc/d/f cannot be replaced") as caught:
            world.host.etc_reset(["d/f"])
        assert "chattr" in caught.value.hint
        assert (etc / "d/f").read_text() == "mine"
        assert os.listdir(etc / "d") == ["f"]
        for version in ("1.1", "1.2"):
            after = world.etc(world.upgrade(os_image(version, [Dir("etc/d"), File("etc/d/f", b"1")])))
            assert (after / "d/f").read_text() == "mine"
            (after / "d/f").write_text("mine")
        world.host.cleanup()
        assert not etc.exists()


def test_kinds_that_change_on_either_side(world: World) -> None:
    first = world.install(os_image("1.0", [
        File("etc/a", b"1"), Dir("etc/b"), File("etc/b/c", b"1"), Dir("etc/e"), File("etc/e/f", b"1"),
        File("etc/g", b"1"), File("etc/h", b"1"), Dir("etc/i"), File("etc/i/j", b"1")]))
    etc = world.etc(first)
    (etc / "a").unlink()  # a file here became a directory, the image left it
    (etc / "a").mkdir()
    (etc / "a/mine").write_text("mine")
    (etc / "b/c").unlink()  # a directory here became a link, the image left it
    (etc / "b").rmdir()
    os.symlink("/srv/b", etc / "b")
    (etc / "g").unlink()  # deleted here, a directory in the image
    (etc / "i/j").unlink()  # deleted here, a file in the image
    (etc / "i").rmdir()
    after = world.etc(world.upgrade(os_image("1.1", [
        File("etc/a", b"1"), Dir("etc/b"), File("etc/b/c", b"1"), File("etc/e", b"2"), Dir("etc/g"),
        File("etc/g/new", b"2"), Dir("etc/h"), File("etc/h/new", b"2"), File("etc/i", b"2")])))
    assert (after / "a/mine").read_text() == "mine"
    assert os.readlink(after / "b") == "/srv/b"
    assert (after / "e").read_text() == "2"
    assert (after / "g/new").read_text() == "2"
    assert (after / "h/new").read_text() == "2"
    assert (after / "i").read_text() == "2"


# --- rules and conflicts ----------------------------------------------------------------------------------------------


def test_rules_of_the_image_that_comes_and_of_the_machine(world: World) -> None:
    names = ("a", "b", "c", "d")
    first = world.install(os_image("1.0", [File(f"etc/{name}", LONG) for name in names]))
    etc = world.etc(first)
    for name in names:
        (etc / name).write_text("mine")
    write_rules(etc, rule("/etc/b", "keep-local"))
    shipped = rule("/etc/?", "take-image") + rule("/etc/c", "both") + "# long\n" * 20
    base = base_layer(extra=[Dir("usr/lib/bootcd"), Dir("usr/lib/bootcd/etc-rules.d"),
                             File("usr/lib/bootcd/etc-rules.d/10-image.toml", shipped.encode())])
    second = world.upgrade(os_image("1.1", [File(f"etc/{name}", LONG + b"2") for name in names], base=base))
    after = world.etc(second)
    assert [(after / name).read_bytes() for name in names] == [LONG + b"2", b"mine", b"mine", LONG + b"2"]
    assert (after / "c.bootcd.rpmnew").read_bytes() == LONG + b"2"
    image = "/usr/lib/bootcd/etc-rules.d/10-image.toml of the image"
    assert second.etc.decisions == (
        EtcDecision("a", "changed", "changed", "image", f"{image}: /etc/?"),
        EtcDecision("b", "changed", "changed", "local", "/etc/bootcd/etc-rules.d/50-test.toml: /etc/b"),
        EtcDecision("c", "changed", "changed", "both", f"{image}: /etc/c"),
        EtcDecision("d", "changed", "changed", "image", f"{image}: /etc/?"),
    )
    assert second.etc.both_changed == ("b", "c")
    assert world.host.status().deployments[0].etc == second.etc
    assert world.host.etc_report().etc == second.etc
    assert world.host.etc_report("1.0").etc.decisions == ()

    found = world.host.etc_rules("/etc/b")
    assert [(one.pattern, one.merge, one.origin) for one in found.rules] == [
        ("/etc/b", "keep-local", "machine"), ("/etc/?", "take-image", "image")]
    assert [one.pattern for one in world.host.etc_rules().rules] == ["/etc/b", "/etc/c", "/etc/?"]
    assert world.host.etc_rules("nothing/about/it").rules == ()


def test_a_conflict_stops_before_anything_is_done(world: World, notes: Notes) -> None:
    world.install(os_image("1.0"))
    first = world.upgrade(os_image("1.1", [File(f"etc/f{number}", b"1") for number in range(12)]))
    for number in range(12):
        (world.etc(first) / f"f{number}").write_text("mine")
    entries, kernels, states = world.entries(), world.kernels(), sorted(os.listdir(world.sysroot / "state/deploy"))
    clash = os_image("1.2", [Dir(f"etc/f{number}") for number in range(12)], base=base_layer(b"kernel two"))
    world.publish(clash)
    with pytest.raises(EtcConflict, match="and 2 more") as caught:
        world.host.upgrade()
    assert len(caught.value.conflicts) == 12
    assert sum("Conflict in /etc: 'f" in note for note in notes.said) == 12
    assert world.versions() == ["1.1", "1.0"]
    assert (world.entries(), world.kernels()) == (entries, kernels)
    assert sorted(os.listdir(world.sysroot / "state/deploy")) == states
    last = world.host.status().last
    assert last is not None
    assert (last.verb, last.state, last.error) == ("upgrade", "failed", "org.bootcd1.Error.EtcConflict")

    # The three ways out: a rule, a reset, the own hand.
    write_rules(world.etc(first), rule("/etc/f1*", "take-image"))
    world.host.etc_reset([f"/etc/f{number}" for number in range(2, 9)])
    for name in ("f0", "f9"):
        (world.etc(first) / name).unlink()
    second = world.upgrade(clash)
    assert second.version == "1.2"
    assert all((world.etc(second) / f"f{number}").is_dir() for number in range(12))


def test_a_rule_may_say_fail(world: World) -> None:
    first = world.install(os_image("1.0"))
    (world.etc(first) / "version.conf").write_text("mine")
    write_rules(world.etc(first), rule("/etc/version.conf", "fail", why="a version is nobody's business"))
    world.publish(os_image("1.1"))
    with pytest.raises(EtcConflict, match="says 'fail'"):
        world.host.upgrade()
    assert world.versions() == ["1.0"]


def test_bad_rules_stop_an_upgrade_and_name_the_file(world: World, notes: Notes) -> None:
    first = world.install(os_image("1.0"))
    write_rules(world.etc(first), "[[rule]]\npaths = 3\n")
    world.publish(os_image("1.1"))
    with pytest.raises(ConfigError, match=r"/etc/bootcd/etc-rules.d/50-test.toml: rule 1: paths"):
        world.host.upgrade()
    assert world.versions() == ["1.0"]
    write_rules(world.etc(first), rule("/etc/version.conf", "fail", later="version"))
    assert world.upgrade(os_image("1.1")).version == "1.1"
    assert any("unknown key 'later'" in note for note in notes.said)


# --- diff -------------------------------------------------------------------------------------------------------------


def test_what_differs_from_the_image(world: World) -> None:
    first = world.install(os_image("1.0", [
        File("etc/long", LONG), File("etc/gone", b"1\n"), File("etc/mode", b"1\n"), File("etc/binary", b"1\n")]))
    etc = world.etc(first)
    assert world.host.etc_diff().differences == ()
    (etc / "long").write_bytes(LONG.replace(b"image", b"machine", 1))
    (etc / "gone").unlink()
    (etc / "mode").chmod(0o600)
    (etc / "binary").write_bytes(b"\0\n")
    (etc / "new").write_text("no newline")
    os.utime(etc / "version.conf", ns=(1, 1))
    (etc / "os-release").unlink()
    (etc / "os-release").write_text("ID=mine\n")
    found = {one.path: one for one in world.host.etc_diff(text=True).differences}
    assert {path: (one.kind, one.what) for path, one in found.items()} == {
        "binary": ("changed", ("content",)), "gone": ("deleted", ()), "long": ("changed", ("content",)),
        "mode": ("changed", ("mode",)), "new": ("added", ()), "os-release": ("retyped", ())}
    assert found["long"].text.startswith("--- image/etc/long\n+++ /etc/long\n@@ -1,")
    assert "+a line of the machine\n" in found["long"].text
    assert (found["binary"].text, found["mode"].text) == ("", "")
    assert found["gone"].text.endswith("@@ -1 +0,0 @@\n-1\n")
    assert found["new"].text.endswith("+no newline\n\\ No newline at end of file\n")
    assert "--> ../usr/lib/os-release\n+ID=mine\n" in found["os-release"].text
    assert all(not one.text for one in world.host.etc_diff().differences)


def test_other_deployments_can_be_asked_about(world: World) -> None:
    first = world.install(os_image("1.0"))
    (world.etc(first) / "mine").write_text("x")
    world.upgrade(os_image("1.1"))
    (world.etc(first) / "later").write_text("x")
    assert [one.path for one in world.host.etc_diff("1.0").differences] == ["later", "mine"]
    assert [one.path for one in world.host.etc_diff().differences] == ["mine"]
    for ask in (world.host.etc_diff, world.host.etc_report):
        with pytest.raises(DeploymentNotFound):
            ask("nobody")


# --- reset ------------------------------------------------------------------------------------------------------------


def test_reset(world: World) -> None:
    first = world.install(os_image("1.0", [
        File("etc/long", LONG, mode=0o640), Dir("etc/d"), File("etc/d/f", b"1"), File("etc/d/g", b"1"),
        File("etc/gone", b"1")]))
    etc = world.etc(first)
    (etc / "long").write_text("mine")
    (etc / "d/f").write_text("mine")
    (etc / "d/added").write_text("mine")
    (etc / "gone").unlink()
    (etc / "own").write_text("mine")
    expected = (
        EtcResetItem("d", "replaced", "d.bootcd.rpmsave"), EtcResetItem("gone", "restored", ""),
        EtcResetItem("long", "replaced", "long.bootcd.rpmsave"), EtcResetItem("own", "removed", "own.bootcd.rpmsave"),
        EtcResetItem("version.conf", "unchanged", ""))
    paths = ["/etc/long", "d/", "gone", "own", "version.conf", "d/f"]
    before = sorted(os.listdir(etc))
    assert world.host.etc_reset(paths, dry_run=True).items == expected
    assert sorted(os.listdir(etc)) == before
    result = world.host.etc_reset(paths)
    assert (result.id, result.items) == (first.id, expected)
    assert (etc / "long").read_bytes() == LONG
    assert stat.S_IMODE((etc / "long").stat().st_mode) == 0o640
    assert sorted(os.listdir(etc / "d")) == ["f", "g"]
    assert sorted(os.listdir(etc / "d.bootcd.rpmsave")) == ["added", "f", "g"]
    assert (etc / "long.bootcd.rpmsave").read_text() == "mine"
    assert (etc / "own.bootcd.rpmsave").read_text() == "mine"
    assert {one.kind for one in world.host.etc_diff().differences} == {"added"}
    assert sorted(os.listdir(etc.parent)) == sorted(["etc", f"{first.id}.origin", "var"])

    (etc / "long").write_text("mine again")
    assert world.host.etc_reset(["long"]).items[0].aside == "long.bootcd.2.rpmsave"
    assert (etc / "long.bootcd.rpmsave").read_text() == "mine"


def test_reset_below_a_directory_that_is_gone_brings_only_what_was_asked_for(world: World) -> None:
    first = world.install(os_image("1.0", [
        Dir("etc/d", mode=0o750), Dir("etc/d/e"), File("etc/d/e/f", b"1"), File("etc/d/g", b"1")]))
    etc = world.etc(first)
    for path in ("d/e/f", "d/g"):
        (etc / path).unlink()
    (etc / "d/e").rmdir()
    (etc / "d").rmdir()
    assert world.host.etc_reset(["d/e/f"]).items[0].outcome == "restored"
    assert (etc / "d/e/f").read_text() == "1"
    assert os.listdir(etc / "d") == ["e"]
    assert stat.S_IMODE((etc / "d").stat().st_mode) == 0o750
    os.symlink("/nowhere", etc / "link")
    (etc / "d/e/f").unlink()
    (etc / "d/e").rmdir()
    os.symlink("/tmp", etc / "d/e")
    with pytest.raises(Refused, match="/etc/d/e is no directory here"):
        world.host.etc_reset(["d/e/f", "link"])
    assert os.readlink(etc / "link") == "/nowhere", "nothing is done before all can be"
    assert world.host.etc_reset(["d/e"]).items[0].outcome == "replaced"
    assert (etc / "d/e/f").read_text() == "1"
    assert os.readlink(etc / "d/e.bootcd.rpmsave") == "/tmp"


@pytest.mark.parametrize(("path", "error"), [
    ("/etc/nothing", NotFound), ("/etc", UsageError), ("/etc/", UsageError), ("", UsageError), (".", UsageError),
    ("/usr/lib", UsageError), ("../usr", UsageError), ("/etc/../usr", UsageError), ("version.conf/x", NotFound),
])
def test_paths_that_cannot_be_reset(world: World, path: str, error: type[BootcdError]) -> None:
    world.install(os_image("1.0"))
    with pytest.raises(error):
        world.host.etc_reset([path])


def test_paths_are_absolute_or_relative_to_etc() -> None:
    assert [relative(path) for path in ("/etc/a/b", "a/b", "a//b/", "/etc", "./a", "\udcff")] == [
        b"a/b", b"a/b", b"a/b", b"", b"a", b"\xff"]


def test_a_name_with_no_room_for_another_one(world: World) -> None:
    name = "n" * 255
    first = world.install(os_image("1.0", [File(f"etc/{name}", b"1")]))
    (world.etc(first) / name).write_text("mine")
    aside = world.host.etc_reset([name]).items[0].aside
    assert len(aside) == 255
    assert (world.etc(first) / aside).read_text() == "mine"


def test_without_an_installation(world: World) -> None:
    for ask in (world.host.etc_diff, world.host.etc_report, world.host.etc_rules, lambda: world.host.etc_reset(["a"])):
        with pytest.raises(BootcdError):
            ask()
    assert not world.sysroot.exists()
