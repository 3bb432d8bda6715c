# SPDX-License-Identifier: Apache-2.0
"""Why something is as it is: what is told agrees with what is done, whoever answers."""

from __future__ import annotations

import dataclasses

import pytest

from bootcd.errors import UsageError
from bootcd.ops.host import Host
from bootcd.ops.results import Explanation
from kit.images import File, Layer
from kit.os_images import base_layer, os_image
from kit.world import World


def told(explanation: Explanation, kind: str) -> dict[str, str]:
    return {one.name: one.verdict for one in explanation.reasons if one.kind == kind}


@pytest.fixture
def host(world: World) -> Host:
    """1.0 is pinned, 1.1 the previous one, 1.2 the default; each has a kernel of its own."""
    for number in range(3):
        image = os_image(f"1.{number}", base=base_layer(kernel=b"kernel %d" % number))
        world.upgrade(image) if number else world.install(image)
        if number == 0:
            world.host.pin("1.0", "factory")
    return world.host


def test_default(world: World, host: Host) -> None:
    before = host.explain("default")
    names = [one.name for one in before.reasons]
    assert names == sorted(world.entries(), reverse=True)
    assert [one.verdict for one in before.reasons] == ["boots next", "waits", "waits"]
    assert "1.2" in before.summary
    assert "3 boot attempts left" in before.reasons[0].why
    entries = world.esp / "loader" / "entries"
    (entries / names[0]).rename(entries / names[0].replace("+3", "+0-3"))
    after = host.explain("default")
    assert "1.1" in after.summary
    assert "used up (3 failed)" in after.reasons[-1].why


def test_entries_of_others_and_what_overrides_the_order(world: World, host: Host) -> None:
    (world.esp / "memtest").write_bytes(b"MZ")
    others = {"a": "title A\nlinux /memtest\nsort-key aaa\n", "broken": "\xff", "gone": "linux /absent\n"}
    for name, content in others.items():
        (world.esp / "loader" / "entries" / f"{name}.conf").write_text(content)
    (world.esp / "loader" / "loader.conf").write_text("default a.conf\n")
    found = host.explain("default")
    assert found.reasons[0].name == "a.conf"
    assert "another system" in found.summary
    assert "overrides" in found.summary
    assert set(told(found, "entry")) == {"a.conf", *(name for name in world.entries() if name.startswith("bootcd-"))}
    assert any("default a.conf" in one.why for one in found.reasons if one.kind == "setting")


def test_what_is_kept_is_what_stays(world: World, host: Host) -> None:
    host.unpin("1.0")
    verdicts = told(host.explain("kept"), "deployment")
    infos = {info.version: info.id for info in host.status().deployments}
    assert verdicts == {infos["1.2"]: "stays", infos["1.1"]: "stays", infos["1.0"]: "may go"}
    going = host.explain("collect")
    assert [(one.kind, one.verdict) for one in going.reasons if one.name == infos["1.0"]] == [
        ("deployment", "goes"), ("state", "goes"), ("image name", "goes")]
    done = host.cleanup()
    objects = next(one for one in going.reasons if one.kind == "objects")
    assert (str(done.objects), done.object_bytes) == (objects.name, objects.size)
    assert {info.id for info in host.status().deployments} == {
        name for name, verdict in verdicts.items() if verdict == "stays"}
    assert "nothing to collect" in host.explain("collect").summary


def test_nothing_is_collected_while_a_record_cannot_be_read(world: World, host: Host) -> None:
    next((world.sysroot / "state" / "bootcd" / "deployments").glob("*.json")).write_text("{")
    found = host.explain("collect")
    assert "Nothing is collected" in found.summary
    assert found.reasons == ()


def test_space(world: World, host: Host) -> None:
    """What only one deployment has is what its removal frees."""
    big = world.upgrade(os_image("1.3", base=base_layer(kernel=b"kernel 2"), more=[
        Layer([File("usr/lib/big", bytes(range(256)) * 1000)])]))
    found = host.explain("space")
    sizes = {one.name: one.size for one in found.reasons if one.kind == "deployment"}
    assert max(sizes, key=lambda name: sizes[name]) == big.id
    assert sizes[big.id] > 256_000
    shared = next(one for one in found.reasons if one.kind == "kernel" and "1.2" in one.why)
    assert "1.3" in shared.why
    assert told(found, "file system") == {str(world.sysroot / "composefs"): "free", str(world.esp): "free"}
    verdicts = told(found, "deployment")
    assert verdicts[big.id] == "stays"
    assert "may go" in verdicts.values()


def test_verity_and_that_nothing_changes(world: World, host: Host) -> None:
    chain = host.status().chain
    assert chain is not None
    links = told(host.explain("verity"), "link")
    assert list(links) == ["Secure Boot", "seal", "repository", "image", "demand"]
    assert links["seal"] == "is off"
    assert links["repository"] == ("holds" if chain.repository_verity else "is off")
    assert links["demand"] == links["repository"]
    before = dataclasses.replace(host.status(), update_time="")
    for topic in ("default", "kept", "collect", "space", "verity"):
        assert host.explain(topic).topic == topic
    assert dataclasses.replace(host.status(), update_time="") == before
    with pytest.raises(UsageError, match="'weather' cannot be explained"):
        host.explain("weather")
