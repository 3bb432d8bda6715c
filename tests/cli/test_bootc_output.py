# SPDX-License-Identifier: Apache-2.0
"""The document of bootc: its schema holds, and its slots are filled as its readers expect."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bootcd.cli.bootc_output import Machine, document
from bootcd.ops.results import CheckResult, DeploymentInfo, EtcChanges, PinInfo, Status
from cli.conftest import Machine as World

HERE = Machine("amd64", "systemd", selinux=False)


Shape = Callable[[Any], bool]
"""Whether a value is as the schema of bootc says."""


def _or_null(shape: Shape) -> Shape:
    return lambda value: value is None or shape(value)


def _one_of(*values: Any) -> Shape:
    return lambda value: value in values


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _time(value: Any) -> bool:
    return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", value) is not None


def _object(optional: dict[str, Shape] | None = None, /, **required: Shape) -> Shape:
    """One without any other keys."""
    def fits(value: Any) -> bool:
        shapes = required | (optional or {})
        assert isinstance(value, dict)
        assert required.keys() <= value.keys() <= shapes.keys(), f"{set(value) ^ set(shapes)}"
        for key, inner in value.items():
            assert shapes[key](inner), f"{key}: {inner!r}"
        return True
    return fits


REFERENCE = _object({"signature": _one_of("containerPolicy", "insecure")}, image=_text,
                    transport=_one_of("registry", "oci", "oci-archive", "containers-storage"))
IMAGE = _object(image=REFERENCE, version=_or_null(_text), timestamp=_or_null(_time), imageDigest=_text,
                architecture=_text)
COMPOSEFS = _object(verity=_text, bootType=_one_of("Bls", "Uki"),
                    bootloader=_one_of("grub", "grub-cc", "systemd", "none"), bootDigest=_or_null(_text),
                    missingVerityAllowed=_or_null(_flag))
ENTRY = _object(image=_or_null(IMAGE), cachedUpdate=_or_null(IMAGE), incompatible=_flag, pinned=_flag,
                softRebootCapable=_flag, downloadOnly=_flag, store=_one_of(None), ostree=_one_of(None),
                composefs=COMPOSEFS)
STATUS = _object({"otherDeployments": lambda value: bool(value) and all(map(ENTRY, value))},
                 staged=_or_null(ENTRY), booted=_or_null(ENTRY), rollback=_or_null(ENTRY), rollbackQueued=_flag,
                 type=_one_of("bootcHost", None))
HOST = _object(apiVersion=_one_of("org.containers.bootc/v1"), kind=_one_of("BootcHost"),
               metadata=_object(name=_one_of("host")),
               spec=_object(image=_or_null(REFERENCE), bootOrder=_one_of("default", "rollback")), status=STATUS)
"""What bootc's schema allows, without what only its ostree backend has."""


def info(name: str, *roles: str, **changes: Any) -> DeploymentInfo:
    """A deployment that was staged at the second which the last character of its name says."""
    values: dict[str, Any] = {
        "id": name * 64, "roles": roles, "image": "quay.io/os/image:stable", "version": name, "title": "",
        "manifest_digest": f"sha256:{name * 32}", "created": "2026-11-01T10:00:00+01:00",
        "staged": f"2026-11-02T00:00:0{name[-1]}+00:00", "generation": int(name[-1]), "pins": (), "health": "good",
        "health_reason": "", "boot_type": "bls", "boot_digest": "d1", "kernel_version": "",
        "options": f"composefs={name * 64} quiet", "verification": "digest", "etc": EtcChanges(),
    }
    return DeploymentInfo(**{**values, **changes})


def host(*infos: DeploymentInfo, machine: Machine = HERE, **changes: Any) -> Any:
    status = Status(**{"sysroot": "/sysroot", "esp": "/efi", "deployments": infos, "chain": None, "unfinished": "",
                       "warnings": (), **changes})
    made = json.loads(json.dumps(document(status, machine)))
    assert HOST(made)
    return made


def slots(made: Any) -> dict[str, str]:
    return {slot: entry["image"]["version"] for slot, entry in made["status"].items()
            if slot in ("staged", "booted", "rollback") and entry is not None}


def test_a_machine_that_runs() -> None:
    made = host(info("a2", "booted", "default", pins=(PinInfo("", ""),)), info("a1", "rollback"), info("a0"))
    assert slots(made) == {"booted": "a2", "rollback": "a1"}
    assert [entry["image"]["version"] for entry in made["status"]["otherDeployments"]] == ["a0"]
    assert made["spec"] == {"image": {"image": "quay.io/os/image:stable", "transport": "registry"},
                            "bootOrder": "default"}
    assert (made["status"]["rollbackQueued"], made["status"]["type"]) == (False, "bootcHost")
    booted = made["status"]["booted"]
    assert booted["image"] == {
        "image": {"image": "quay.io/os/image:stable", "transport": "registry"}, "version": "a2",
        "timestamp": "2026-11-01T09:00:00Z", "imageDigest": f"sha256:{'a2' * 32}", "architecture": "amd64"}
    assert booted["composefs"] == {"verity": "a2" * 64, "bootType": "Bls", "bootloader": "systemd", "bootDigest": "d1",
                                   "missingVerityAllowed": False}
    assert (booted["pinned"], made["status"]["rollback"]["pinned"]) == (True, False)


def test_something_staged() -> None:
    made = host(info("a3", "staged", generation=None), info("a2", "booted", "default"), info("a1", "rollback"))
    assert slots(made) == {"staged": "a3", "booted": "a2", "rollback": "a1"}
    assert "otherDeployments" not in made["status"]
    waiting = info("a3", "staged", generation=None, download_only=True)
    made = host(waiting, info("a2", "booted", "default"))
    assert slots(made) == {"staged": "a3", "booted": "a2"}
    assert made["status"]["staged"]["downloadOnly"] is True


def test_what_is_finalized_already_is_staged_until_it_runs() -> None:
    made = host(info("a3", "default"), info("a2", "booted", "rollback"), info("a1"))
    assert slots(made) == {"staged": "a3", "booted": "a2", "rollback": "a1"}
    assert made["status"]["rollbackQueued"] is False


def test_a_rollback_that_is_queued() -> None:
    made = host(info("a1", "default", generation=4), info("a3", "booted", "rollback"), info("a2"))
    assert slots(made) == {"booted": "a3", "rollback": "a1"}
    assert (made["status"]["rollbackQueued"], made["spec"]["bootOrder"]) == (True, "rollback")
    assert len(made["status"]["otherDeployments"]) == 1


def test_a_reset_that_waits_fills_no_slot_twice() -> None:
    assert slots(host(info("a2", "booted", "default", reset="etc"), info("a1", "rollback"))) == {
        "booted": "a2", "rollback": "a1"}


def test_where_nothing_runs() -> None:
    made = host(info("a2", "default"), info("a1", "rollback"))
    assert slots(made) == {}
    assert made["status"]["type"] is None
    assert len(made["status"]["otherDeployments"]) == 2
    assert made["spec"]["image"]["image"] == "quay.io/os/image:stable"
    assert host()["spec"] == {"image": None, "bootOrder": "default"}


def test_an_update_that_is_known() -> None:
    update = CheckResult("quay.io/os/image:stable", True, "sha256:new", version="9", created="2026-11-05T00:00:00Z")
    made = host(info("a2", "booted", "default"), info("a1", "rollback"), update=update)
    assert made["status"]["booted"]["cachedUpdate"]["imageDigest"] == "sha256:new"
    assert made["status"]["rollback"]["cachedUpdate"] is None
    made = host(info("a2", "booted", "default"), update=replace(update, available=False))
    assert made["status"]["booted"]["cachedUpdate"] is None


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, True), ({"boot_digest": "d2"}, False), ({"options": "composefs=x loud"}, False)])
def test_soft_reboots(changes: dict[str, Any], expected: bool) -> None:
    made = host(info("a2", "booted", "default"), info("a1", "rollback", **changes))
    assert made["status"]["rollback"]["softRebootCapable"] is expected
    assert made["status"]["booted"]["softRebootCapable"] is False
    made = host(info("a2", "booted", "default"), info("a1", "rollback"), machine=replace(HERE, selinux=True))
    assert made["status"]["rollback"]["softRebootCapable"] is False


@pytest.mark.parametrize(("image", "expected"), [
    ("quay.io/os/image@sha256:" + "0" * 64, ("quay.io/os/image@sha256:" + "0" * 64, "registry")),
    ("oci:/srv/layout:latest", ("/srv/layout:latest", "oci")),
    ("oci-archive:/srv/file.tar", ("/srv/file.tar", "oci-archive")),
    ("of no kind", ("of no kind", "registry"))])
def test_references(image: str, expected: tuple[str, str]) -> None:
    found = host(info("a2", "booted", "default", image=image))["spec"]["image"]
    assert (found["image"], found["transport"]) == expected


def test_what_is_unknown_or_nonsense() -> None:
    made = host(info("a2", "booted", "default", created="yesterday", version="", boot_digest="", options="quiet",
                     verification="signed", boot_type="uki"))
    booted = made["status"]["booted"]
    assert (booted["image"]["timestamp"], booted["image"]["version"]) == (None, None)
    assert booted["image"]["image"]["signature"] == "containerPolicy"
    composefs = booted["composefs"]
    assert (composefs["bootDigest"], composefs["missingVerityAllowed"], composefs["bootType"]) == (None, None, "Uki")
    made = host(info("a2", "booted", "default", created="2026-11-01T10:00:00", options="composefs=?" + "00" * 64))
    assert made["status"]["booted"]["image"]["timestamp"] is None
    assert made["status"]["booted"]["composefs"]["missingVerityAllowed"] is True


def test_bootcctl_prints_it(machine: World) -> None:
    done = machine("status", "--format=bootc-v1")
    assert done.status == 0, done.err
    assert HOST(done.json)
    assert [entry["image"]["version"] for entry in done.json["status"]["otherDeployments"]] == ["1.1", "1.0"]
    assert machine("status", "--format=json").json == machine("status", "--json").json
    assert machine("status", "--format", "text").out == machine("status").out
    assert machine("status", "--json", "--format=json").status == 2
