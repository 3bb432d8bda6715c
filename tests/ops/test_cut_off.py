# SPDX-License-Identifier: Apache-2.0
"""Work that was cut off is told from work that goes on, and is the last result until something else is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.errors import Refused
from bootcd.layout import Sysroot
from bootcd.model import SilentProgress
from bootcd.ops import last, running
from bootcd.ops.machine import Machine
from bootcd.ops.results import LastResult

DIES = """
import os, sys
from pathlib import Path
from bootcd.config import Config
from bootcd.layout import Sysroot
from bootcd.model import SilentProgress
from bootcd.ops import last
from bootcd.ops.machine import Machine
machine = Machine(Sysroot(Path(sys.argv[1])), None, Config(), SilentProgress())
last.recorded(machine, "upgrade", "uid 0 test", lambda: os.kill(os.getpid(), 9))
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(Sysroot(tmp_path), None, Config(), SilentProgress())
    machine.sysroot.own_state.mkdir(parents=True)
    return machine


def die(machine: Machine) -> None:
    died = subprocess.run([sys.executable, "-c", DIES, machine.sysroot.path], check=False,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert died.returncode == -signal.SIGKILL


def known(machine: Machine) -> LastResult:
    found = last.load_last(machine)
    assert found is not None
    return found


def test_a_process_that_is_killed_leaves_a_failure(machine: Machine) -> None:
    last.recorded(machine, "pin", "uid 0 test", lambda: None)
    die(machine)
    found = known(machine)
    assert (found.verb, found.state, found.by) == ("upgrade", "failed", "uid 0 test")
    assert found.message == "'upgrade' was cut off: its process died, or the machine lost power"


def test_what_comes_later_is_the_last_result_again(machine: Machine) -> None:
    die(machine)
    last.recorded(machine, "pin", "uid 0 test", lambda: None)
    assert known(machine).verb == "pin"
    assert list(machine.sysroot.running.iterdir()) == []


def test_a_refused_request_does_not_hide_what_was_cut_off(machine: Machine) -> None:
    die(machine)

    def refuse() -> None:
        raise Refused("no")

    with pytest.raises(Refused):
        last.recorded(machine, "rollback", "uid 0 test", refuse)
    assert (known(machine).verb, known(machine).state) == ("upgrade", "failed")
    assert list(machine.sysroot.running.iterdir()) == []


def test_what_runs_is_not_cut_off(machine: Machine) -> None:
    def look() -> None:
        assert len(list(machine.sysroot.running.iterdir())) == 1
        assert running.cut_off(machine) == []
        assert last.load_last(machine) is None

    last.recorded(machine, "upgrade", "uid 0 test", look)
    assert list(machine.sysroot.running.iterdir()) == []


def test_a_process_of_an_earlier_boot_with_the_same_id_is_another_one(machine: Machine) -> None:
    def look() -> None:
        (file,) = machine.sysroot.running.iterdir()
        document = json.loads(file.read_text())
        for key in ("boot", "start"):
            file.write_text(json.dumps({**document, key: "other"}))
            assert [result.verb for _, result in running.cut_off(machine)] == ["upgrade"]

    last.recorded(machine, "upgrade", "uid 0 test", look)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"verb": "x"}', "{}" * 50_000])
def test_damaged_files_are_passed_over(machine: Machine, text: str) -> None:
    machine.sysroot.running.mkdir()
    (machine.sysroot.running / "7.json").write_text(text)
    (machine.sysroot.running / "x.json").write_text('{"verb": "x", "by": "x", "started": "x"}')
    assert running.cut_off(machine) == []


def test_a_mistyped_sysroot_is_not_filled(tmp_path: Path) -> None:
    machine = Machine(Sysroot(tmp_path / "nothing"), None, Config(), SilentProgress())
    last.recorded(machine, "upgrade", "uid 0 test", lambda: None)
    assert not (tmp_path / "nothing").exists()
