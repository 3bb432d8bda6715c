# SPDX-License-Identifier: Apache-2.0
"""How the last operation ended is kept, whatever happens to the files."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from bootcd.cli import output
from bootcd.errors import (
    Busy,
    DeploymentNotFound,
    EspFull,
    ImageNotFound,
    Interrupted,
    LayerConflict,
    NothingStaged,
    RepositoryNotFound,
    SourceUnreachable,
    UsageError,
)
from bootcd.layout import Sysroot
from bootcd.model import SilentProgress
from bootcd.ops import last, status, update
from bootcd.ops.direct import DirectHost
from bootcd.ops.machine import Machine
from bootcd.ops.resultjson import to_json
from bootcd.ops.results import LastResult
from kit.images import ImageBuilder
from kit.os_images import os_image, version_layer
from kit.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    def connect(w: World) -> DirectHost:
        return DirectHost(w.sysroot, w.esp, w.config, SilentProgress(), by="uid 7 test")

    made = World(tmp_path, connect, tmp_path)
    made.install(os_image("1.0"))
    return made


def kept(world: World) -> LastResult:
    found = world.host.status().last
    assert found is not None
    return found


def machine(world: World) -> Machine:
    return Machine(Sysroot(world.sysroot), world.esp, world.config, SilentProgress())


def test_a_change_is_kept_with_who_asked_for_it(world: World) -> None:
    assert (kept(world).verb, kept(world).state, kept(world).by) == ("install", "succeeded", "uid 7 test")
    world.upgrade(os_image("1.1"))
    assert (kept(world).verb, kept(world).error) == ("upgrade", "")
    assert kept(world).message.endswith("boots next.")
    assert kept(world).started <= kept(world).ended
    world.host.pin("default", "x")
    assert kept(world).verb == "pin"
    DirectHost(world.sysroot, world.esp, world.config, SilentProgress()).unpin("default")
    assert kept(world).by == f"uid {os.getuid()} bootcctl"
    for verb, change in (("rollback", lambda: world.host.rollback()), ("cleanup", lambda: world.host.cleanup()),
                         ("fsck", lambda: world.host.fsck(repair=True)),
                         ("image pull", lambda: world.host.image_pull(world.image, name="other")),
                         ("image remove", lambda: world.host.image_remove("other"))):
        change()
        assert (kept(world).verb, kept(world).state) == (verb, "succeeded")


def test_a_failure_is_kept_until_something_succeeds(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.publish(ImageBuilder([version_layer("2.0")], labels={}))
    with pytest.raises(LayerConflict):
        world.host.upgrade()
    assert (kept(world).verb, kept(world).state) == ("upgrade", "failed")
    assert kept(world).error == "org.bootcd1.Error.LayerConflict"
    output.status(world.host.status())
    shown = capsys.readouterr().out
    assert f"Last operation: 'upgrade' failed {kept(world).ended}: {kept(world).message}\n" in shown
    world.upgrade(os_image("1.1"))
    output.status(world.host.status())
    assert "Last operation" not in capsys.readouterr().out


def test_requests_that_made_no_sense_are_passed_over(world: World) -> None:
    before = kept(world)
    for error, request in ((UsageError, lambda: world.host.pin("default", "x" * 200)),
                           (DeploymentNotFound, lambda: world.host.unpin("zzzz")),
                           (NothingStaged, lambda: world.host.finalize()),
                           (ImageNotFound, lambda: world.host.image_remove("other"))):
        with pytest.raises(error):
            request()
        assert kept(world) == before
    world.host.fsck()
    world.host.cleanup(dry_run=True)
    world.host.image_list()
    assert kept(world) == before


def test_somebody_elses_operation_is_the_last_one(world: World) -> None:
    before = kept(world)
    with machine(world).lock(), pytest.raises(Busy):
        world.host.pin("default")
    assert kept(world) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("interrupted")], ids=repr)
def test_what_was_interrupted_counts_as_cancelled(world: World, error: BaseException) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)):
        last.recorded(machine(world), "upgrade", "", work)
    assert (kept(world).state, kept(world).error) == ("cancelled", "org.bootcd1.Error.Interrupted")


def test_a_mistake_of_the_program_is_kept_without_its_text(world: World) -> None:
    def work() -> None:
        raise IndexError("secret detail")

    with pytest.raises(IndexError):
        last.recorded(machine(world), "upgrade", "", work)
    assert (kept(world).error, kept(world).message) == ("org.bootcd1.Error.Failed", "internal error (IndexError)")


def test_that_it_cannot_be_written_is_no_failure(world: World) -> None:
    path = world.sysroot / "state/bootcd/last-result.json"
    path.unlink()
    path.mkdir()
    (path / "in-the-way").touch()
    assert world.host.pin("default").outcome == "pinned"
    status = world.host.status()
    assert status.last is None
    assert [warning for warning in status.warnings if "last-result.json" in warning]
    assert "pinned" in status.deployments[0].roles
    assert not list(path.parent.glob(".last-result*"))


def test_a_mistyped_sysroot_stays_empty(world: World, tmp_path: Path) -> None:
    wrong = DirectHost(tmp_path / "wrong", world.esp, world.config, SilentProgress())
    with pytest.raises(RepositoryNotFound):
        wrong.upgrade()
    with pytest.raises(RepositoryNotFound):
        wrong.check()
    with pytest.raises(EspFull):
        last.recorded(Machine(Sysroot(tmp_path / "wrong"), None, world.config, SilentProgress()), "upgrade", "", _full)
    assert not (tmp_path / "wrong").exists()


def _full() -> None:
    raise EspFull("full")


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"null", b'{"schema": 1}', b'{"schema": 2}', b'{"schema": true}', b'{"schema": "1"}', b"\xff\xfe",
    b'{"schema": 1, "verb": 1, "state": []}', b"[" * 100_000, b" " * (2 << 20),
    b'{"schema": 1, "time": 5, "update": 3}',
    b'{"schema": 1, "time": "now", "update": {"image": 4}}',
])
@pytest.mark.parametrize("name", ["last-result.json", "update.json"])
def test_a_damaged_file_is_a_warning(world: World, name: str, content: bytes) -> None:
    path = world.sysroot / "state/bootcd" / name
    path.write_bytes(content)
    found = world.host.status()
    assert [warning for warning in found.warnings if name in warning]
    assert len(found.deployments) == 1
    assert (found.last is None) == (name == "last-result.json")
    assert found.update is None
    world.host.pin("default")
    world.host.check()
    assert not [warning for warning in world.host.status().warnings if name in warning]


def test_a_pipe_in_its_place_does_not_block(world: World) -> None:
    path = world.sysroot / "state/bootcd/last-result.json"
    path.unlink()
    os.mkfifo(path)
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(world.host.status()), daemon=True)
    reader.start()
    reader.join(10)
    assert found


def test_keys_of_a_newer_version_are_ignored(world: World) -> None:
    path = world.sysroot / "state/bootcd/last-result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "news": 1}))
    assert kept(world).verb == "install"


def test_what_a_check_found_is_known_until_it_is_installed(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.host.status().update is None
    digest = world.publish(os_image("1.1"))
    checked = world.host.check()
    found = world.host.status()
    assert found.update == checked
    assert found.update is not None
    assert (found.update.manifest_digest, found.update.available) == (digest, True)
    assert found.update_time
    output.status(found)
    assert "Update: version 1.1 is available, " in capsys.readouterr().out
    world.host.upgrade()
    found = world.host.status()
    assert found.update is None
    assert found.update_time
    output.status(found)
    assert "Update:" not in capsys.readouterr().out


def test_an_update_that_was_rolled_back_from_says_so(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.publish(os_image("1.1"))
    world.host.check()
    world.host.upgrade()
    world.host.rollback()
    found = world.host.status().update
    assert found is not None
    assert found.rejected == world.host.check().rejected != ""
    output.status(world.host.status())
    assert "Update: version 1.1 is not taken: " in capsys.readouterr().out


def test_an_update_that_was_staged_is_told_as_staged(world: World) -> None:
    world.publish(os_image("1.1"))
    world.host.check()
    world.host.upgrade(download_only=True)
    found = world.host.status().update
    assert found is not None
    assert (found.available, found.staged) == (False, True)
    world.host.check()
    again = world.host.status().update
    assert again is not None
    assert (again.available, again.staged, again.current_version) == (False, True, "1.1")
    assert (again.created, again.config_digest, again.seen) == (found.created, found.config_digest, found.seen)
    assert found.seen
    world.host.unstage()
    again = world.host.status().update
    assert again is not None
    assert (again.available, again.staged) == (True, False)


def test_an_update_of_an_image_that_is_not_followed_any_more_is_forgotten(world: World) -> None:
    world.publish(os_image("1.1"))
    world.host.check()
    world.publish(os_image("3.0"), "other")
    world.host.switch(f"oci:{world.directory}/layout:other")
    assert world.host.status().update is None


def test_a_check_that_failed_is_kept_until_one_succeeds(world: World) -> None:
    layout = world.directory / "layout"
    layout.rename(world.directory / "away")
    with pytest.raises(SourceUnreachable) as caught:
        world.host.check()
    assert (kept(world).verb, kept(world).state) == ("check", "failed")
    assert (kept(world).message, kept(world).advice) == (str(caught.value), caught.value.hint)
    (world.directory / "away").rename(layout)
    world.host.check()
    assert (kept(world).verb, kept(world).state) == ("check", "succeeded")
    with pytest.raises(ImageNotFound):  # the tag that is followed has gone
        last.checked(machine(world), "", _gone)
    assert (kept(world).verb, kept(world).state) == ("check", "failed")
    world.host.check()
    assert (kept(world).verb, kept(world).state) == ("check", "succeeded")
    world.host.pin("default")
    world.host.check()
    assert kept(world).verb == "pin"


def _gone() -> update.CheckResult:
    raise ImageNotFound("no such tag")


def test_who_may_not_write_may_check(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        monkeypatch.setattr(last.files, "atomic_write", _denied)  # root may write everywhere
    else:
        (world.sysroot / "state/bootcd").chmod(0o500)
    world.publish(os_image("1.1"))
    assert world.host.check().available
    assert not (world.sysroot / "state/bootcd/update.json").exists()


def _denied(*_: object, **__: object) -> None:
    raise PermissionError("not you")


def test_a_status_with_all_of_it_is_json(world: World) -> None:
    world.publish(os_image("1.1"))
    world.host.check()
    document = json.loads(json.dumps(to_json(status.status(machine(world)))))
    assert document["last"]["verb"] == "install"
    assert document["update"]["version"] == "1.1"
