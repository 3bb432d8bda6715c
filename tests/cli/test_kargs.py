# SPDX-License-Identifier: Apache-2.0
"""`bootcctl kargs`: what it prints, and what it makes of bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootcd.errors import ConfigError, NotBootable, Refused, UsageError
from cli.conftest import IMAGE, Machine
from contract.test_seals import sealed


@pytest.fixture
def drop_in(machine: Machine) -> Path:
    """A file of the deployment that boots next, which is not there yet."""
    (found,) = [info["id"] for info in machine("list", "--json").json if info["version"] == "1.1"]
    path = machine.path / "sysroot/state/deploy" / found / "etc/bootcd/kargs.d/50-here.toml"
    path.parent.mkdir(parents=True)
    return path


def shown(machine: Machine) -> list[str]:
    """What `show` prints below the line with the argument that names the image."""
    done = machine("kargs", "show")
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].endswith(" (version 1.1) boots next.")
    assert lines[1].split() == ["OWNER", "ARGUMENT"]
    assert lines[2].startswith("bootcd   composefs.digest=")
    return lines[3:]


def test_show(machine: Machine, drop_in: Path) -> None:
    done = machine("kargs", "add", "quiet", 'dyndbg="file x +p"')
    assert (done.status, done.out.partition(" tries ")[2]) == (0, "these kernel arguments in its next boot.\n")
    drop_in.write_text('kargs = ["nosmt", "mitigations=auto"]\n')
    trial = "They have not booted well yet. If they do not, those from before are taken again."
    own = ["command  quiet", 'command  dyndbg="file x +p"']
    assert shown(machine) == [
        *own, trial, "The files in /etc/bootcd/kargs.d ask for nosmt mitigations=auto by now; 'bootcctl kargs reload' "
        "takes that, and so does the next upgrade."]
    assert machine("kargs", "reload").status == 0
    assert shown(machine) == ["drop-in  nosmt", "drop-in  mitigations=auto", *own, trial]
    drop_in.unlink()
    assert "ask for nothing by now" in shown(machine)[-1]
    drop_in.write_text("kargs = 1")
    assert shown(machine)[-1] == ("The files in /etc/bootcd/kargs.d cannot be used: /etc/bootcd/kargs.d/50-here.toml: "
                                  "kargs is no list")


def test_status_tells_of_them(machine: Machine, drop_in: Path) -> None:
    assert "arguments" not in machine("status").out
    machine("kargs", "add", "quiet")
    drop_in.write_text('kargs = ["nosmt"]\n')
    out = machine("status").out
    assert "\n  arguments   quiet (command)\n  on trial    these kernel arguments: until " in out
    assert "\nWarning: the files in /etc/bootcd/kargs.d ask for other kernel arguments than boot next: " in out
    machine("kargs", "reload")
    out = machine("status").out
    assert "\n  arguments   nosmt (drop-in), quiet (command)\n" in out
    assert "Warning: the files" not in out
    assert "which tries other kernel arguments" in machine("explain", "default").out


def test_json(machine: Machine) -> None:
    machine("kargs", "add", "quiet")
    document = machine("kargs", "show", "--json").json
    assert document["kargs"][1:] == [{"argument": "quiet", "owner": "command"}]
    assert document["kargs"] == machine("status", "--json").json["deployments"][0]["kargs"]
    assert {key: document[key] for key in ("kargs-on-trial", "sealed", "running", "pending", "problem")} == {
        "kargs-on-trial": True, "sealed": False, "running": [], "pending": None, "problem": ""}
    assert machine("kargs", "add", "--json", "quiet").json["outcome"] == "unchanged"


def test_the_seal_of_a_uki(machine: Machine) -> None:
    machine("kargs", "add", "quiet")
    machine.publish(sealed("1.2", ""), "probe")
    pulled = machine("image", "pull", "oci:layout:probe", "--bootable", "--json").json
    machine.publish(sealed("1.2", f"composefs.digest=?v1-sha512-12:{pulled['image']['boot-id']}"))
    done = machine("upgrade")
    assert done.status == 0, done.err
    assert "sealed: quiet has no effect" in done.err
    assert machine("kargs", "show").out.splitlines()[-2:] == [
        "They are sealed into a UKI: only the image can change them.",
        "The seal forbids what this machine would add: quiet (command)"]
    done = machine("kargs", "add", "more")
    assert done.status == Refused.exit_status
    assert "whose seal forbids other kernel arguments" in done.err
    assert "an addon beside its UKI" in done.err


@pytest.mark.parametrize(("words", "error", "said"), [
    (("add",), UsageError, "required: ARG"), (("add", "quiet", "quiet"), UsageError, "given twice"),
    (("add", 'a="b'), UsageError, "a quote has no end"), (("add", "a\x1b[31m"), UsageError, "control character"),
    (("add", "composefs=?1"), UsageError, "bootcd itself says which image to boot"),
    (("add", "root=/dev/sda"), UsageError, "names the root file system"), (("add", ""), UsageError, "it is empty"),
    (("remove", "nothing"), Refused, "this machine has no kernel argument 'nothing'"),
    (("replace", "nothing", "more"), Refused, "'bootcctl kargs show' lists them."),
    (("replace", "alone"), UsageError, "required: NEW"), (("add", "x" * 2000), NotBootable, "a kernel takes 2048"),
])
def test_bad_input(machine: Machine, words: tuple[str, ...], error: type[Exception], said: str) -> None:
    before = machine("kargs", "show", "--json").out
    done = machine("kargs", *words)
    assert (done.status, done.out) == (getattr(error, "exit_status", None), "")
    assert said in done.err
    assert "\x1b" not in done.err
    assert machine("kargs", "show", "--json").out == before


def test_a_broken_file_stops_an_upgrade_before_the_download(machine: Machine, drop_in: Path) -> None:
    drop_in.write_text("kargs = [")
    machine.publish(sealed("1.2", ""))
    before = sorted((machine.path / "sysroot/composefs/objects").rglob("*"))
    done = machine("upgrade")
    assert done.status == ConfigError.exit_status
    assert done.err.startswith("bootcctl: /etc/bootcd/kargs.d/50-here.toml: ")
    assert "bootcctl(8)" in done.err
    assert sorted((machine.path / "sysroot/composefs/objects").rglob("*")) == before
    assert IMAGE in machine("status").out
