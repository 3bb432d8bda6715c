# SPDX-License-Identifier: Apache-2.0
"""The worker as a program: a request goes in, lines come out, and signals end it in good order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bootcd.linux.files import CRASH_STATUS
from bootcd.model import SilentProgress
from bootcd.ops import worker
from bootcd.ops.direct import DirectHost
from bootcd.ops.resultjson import from_json, to_json
from bootcd.ops.results import ChangeResult, CheckResult, Status
from kit.os_images import os_image
from kit.world import World

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
PROGRAM = [sys.executable, "-W", "error", "-m", "bootcd.ops.worker"]

AT_STEP = """
import os, signal, sys
from bootcd.linux import files
from bootcd.ops import worker
steps = 0
def observe(name):
    global steps
    steps += 1
    if sys.argv[1] == "trace":
        print(name)  # to standard error, as everything that is no line of the protocol
    elif steps == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGTERM)
files.observe = observe
sys.exit(worker.main())
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, lambda w: DirectHost(w.sysroot, w.esp, w.config, SilentProgress()), tmp_path)
    made.install(os_image("1.0"))
    return made


def request(world: World, verb: str, /, **arguments: Any) -> dict[str, Any]:
    return {"verb": verb, "arguments": arguments, "sysroot": str(world.sysroot), "esp": str(world.esp),
            "config": asdict(world.config), "by": "uid 1000 test", "background": False, "parent": os.getpid()}


class Run:
    """One run of the worker, to its end. `go`: answer when it waits."""

    def __init__(self, asked: object, program: list[str] = PROGRAM, *, go: bool = True, **environment: str) -> None:
        self.lines: list[dict[str, Any]] = []
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, env=ENVIRONMENT | environment) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stderr is not None
            said: list[str] = []
            reader = threading.Thread(target=lambda pipe: said.append(pipe.read()), args=(child.stderr,))
            reader.start()
            child.stdin.write(asked if isinstance(asked, str) else json.dumps(asked) + "\n")
            child.stdin.flush()
            for line in child.stdout:
                self.lines.append(json.loads(line))
                if go and self.lines[-1] == {"switch": True}:
                    child.stdin.write('{"go": true}\n')
                    child.stdin.flush()
            self.status = child.wait(20)
            reader.join()
        self.stderr = said[0]

    @property
    def last(self) -> dict[str, Any]:
        return self.lines[-1]

    @property
    def error(self) -> str:
        return str(self.last["error"]["name"]).removeprefix("org.bootcd1.Error.")


def test_a_change_from_request_to_result(world: World) -> None:
    world.publish(os_image("1.1"))
    run = Run(request(world, "upgrade"))
    assert (run.status, run.stderr) == (0, "")
    result = from_json(ChangeResult, run.last["result"])
    assert result.deployment is not None
    assert (result.outcome, result.deployment.version) == ("deployed", "1.1")
    stages = [line["stage"] for line in run.lines if "stage" in line]
    assert stages == ["Downloading 1 of 2 layers", "Composing the image", "Staging", "Collecting what nothing needs"]
    total = run.lines[0]["total"]
    assert [line["done"] for line in run.lines if "done" in line][-1] == total > 0
    switches = [line["switch"] for line in run.lines if "switch" in line]
    assert switches == [True, False]
    status = from_json(Status, run.last["status"]["status"])
    assert [info.version for info in status.deployments] == ["1.1", "1.0"]
    assert to_json(world.host.status()) == run.last["status"]["status"]
    assert status.last is not None
    assert (status.last.verb, status.last.by) == ("upgrade", "uid 1000 test")


def test_reading(world: World) -> None:
    run = Run(request(world, "status"))
    assert run.lines == [run.last]
    assert run.last["result"] == run.last["status"]["status"]
    assert from_json(Status, run.last["result"]) == world.host.status()
    assert isinstance(Run(request(world, "image_list")).last["result"], list)
    world.publish(os_image("1.1"))
    assert from_json(CheckResult, Run(request(world, "check")).last["result"]).available
    world.host.image_pull(world.image, name="other")
    run = Run(request(world, "image_remove", image="other"))
    assert (run.last["result"], run.status) == (None, 0)


def test_an_error_comes_with_name_and_advice(world: World) -> None:
    run = Run(request(world, "pin", deployment="zzzz"))
    assert run.last["error"] == {"name": "org.bootcd1.Error.DeploymentNotFound",
                                 "message": "no deployment is called 'zzzz'",
                                 "advice": "'bootcctl list' shows the deployments."}
    assert run.last["status"]["status"] == to_json(world.host.status())
    assert run.stderr == ""


@pytest.mark.parametrize("wrong", [
    {"verb": "nonesuch"}, {"verb": "install", "arguments": {"image": "oci:x"}}, {"verb": "_recorded"},
    {"arguments": {"deployment": "default", "extra": 1}}, {"config": {"nonesuch": 1}}, {"config": []}, {"sysroot": 7},
], ids=str)
def test_a_mistake_is_a_traceback_in_the_journal_and_nowhere_else(world: World, wrong: dict[str, Any]) -> None:
    run = Run({**request(world, "pin", deployment="default"), **wrong})
    assert run.error == "Failed"
    assert run.last["error"]["message"].startswith("internal error (")
    assert "Traceback" in run.stderr
    assert "Traceback" not in json.dumps(run.lines)
    assert run.status != 0


@pytest.mark.parametrize("asked", ["", "\n", "[]\n", "{\n", '{"verb": 1}\n', "[" * 50_000 + "\n"],
                         ids=lambda text: text[:10])
def test_nonsense_instead_of_a_request(asked: str) -> None:
    with subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=ENVIRONMENT) as child:
        out, _ = child.communicate(asked, timeout=20)
    last = json.loads(out)
    assert last["error"]["name"] == "org.bootcd1.Error.Failed"
    assert last["status"] is None


def test_a_parser_that_crashes_is_a_failed_job(world: World) -> None:
    program = [sys.executable, "-c", "import sys\nfrom bootcd.ops import update, worker\n"
               "def crash(*_, **__): raise IndexError('secret')\nupdate.examine = crash\nsys.exit(worker.main())"]
    world.publish(os_image("1.1"))
    run = Run(request(world, "upgrade"), program)
    assert run.error == "Failed"
    assert "secret" not in json.dumps(run.last)
    assert "IndexError: secret" in run.stderr
    assert run.last["status"]["status"]["last"]["state"] == "failed"


def test_what_prints_prints_to_standard_error(world: World) -> None:
    program = [sys.executable, "-c", "import os, sys\nfrom bootcd.ops import status, worker\nreal = status.status\n"
               "def noisy(machine):\n    print('noise', flush=True)\n    os.system('echo more noise; cat')\n"
               "    return real(machine)\nstatus.status = noisy\nsys.exit(worker.main())"]
    run = Run(request(world, "image_list"), program)
    assert isinstance(run.last["result"], list)
    assert run.stderr == "noise\nmore noise\n"


def test_without_an_answer_the_switch_waits_and_then_goes_on(world: World) -> None:
    world.upgrade(os_image("1.1"))
    program = [sys.executable, "-c", "import sys\nfrom bootcd.ops import worker\nworker.GO_WAIT = 0.2\n"
               "sys.exit(worker.main())"]
    run = Run(request(world, "rollback"), program, go=False)
    assert run.last["result"]["outcome"] == "deployed"


def test_every_step_can_be_interrupted(world: World, tmp_path: Path) -> None:
    """SIGTERM at many steps: either it is over as if nothing had been, or the new default is in place. It is never told
    as stopped when the boot entry has changed, and what was begun can be completed."""
    world.upgrade(os_image("1.1"))
    origin = tmp_path / "origin"
    world.publish(os_image("1.2"))
    subprocess.run(["cp", "-a", world.sysroot, origin], check=True)
    subprocess.run(["cp", "-a", world.esp, tmp_path / "origin-esp"], check=True)
    trace = Run(request(world, "upgrade"), [sys.executable, "-c", AT_STEP, "trace"])
    names = trace.stderr.splitlines()
    section = names.index("before-write-entry")
    wanted = {1, len(names) // 3, section - 3, section + 1, section + 2, names.index("after-write-entry") + 1,
              len(names) - 8, len(names)}
    told = set()
    for number in sorted(wanted):
        for path, source in ((world.sysroot, origin), (world.esp, tmp_path / "origin-esp")):
            subprocess.run(["rm", "-rf", path], check=True)
            subprocess.run(["cp", "-a", source, path], check=True)
        run = Run(request(world, "upgrade"), [sys.executable, "-c", AT_STEP, str(number)])
        where = f"step {number}, {names[number - 1]}: {run.last}"
        status = from_json(Status, run.last["status"]["status"])
        default = next(info.version for info in status.deployments if "default" in info.roles)
        if "error" in run.last:
            assert (run.error, default, run.status) == ("Interrupted", "1.1", 130), where
            assert status.last is not None
            assert status.last.state == "cancelled", where
            assert number <= section, where
        else:
            assert (run.last["result"]["outcome"], default) == ("deployed", "1.2"), where
            assert number > section, where
        told.add("error" in run.last)
        assert "Traceback" not in run.stderr
        world.host.upgrade()
        assert world.versions()[0] == "1.2"
        assert world.host.fsck().ok
    assert told == {True, False}


def test_stopped_while_it_waits_nothing_has_changed(world: World) -> None:
    world.upgrade(os_image("1.1"))
    before = world.entries()
    with subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(request(world, "rollback")) + "\n")
        child.stdin.flush()
        assert json.loads(child.stdout.readline()) == {"switch": True}
        child.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in child.stdout]
        assert child.wait(20) == 130
    assert lines[0] == {"switch": False}
    assert lines[1]["error"]["name"] == "org.bootcd1.Error.Interrupted"
    assert world.entries() == before


@pytest.mark.parametrize("point", ["objects.before_link", "before-write-entry", "after-write-entry"])
def test_what_dies_in_between_is_completed(world: World, point: str) -> None:
    world.publish(os_image("1.1"))
    died = Run(request(world, "upgrade"), BOOTCD_CRASH_AT=point)
    assert died.status == CRASH_STATUS
    assert not any("result" in line or "error" in line for line in died.lines)
    assert Run(request(world, "upgrade")).status == 0
    assert world.versions() == ["1.1", "1.0"]


def test_a_parent_that_is_no_parent_gets_nothing(world: World) -> None:
    run = Run({**request(world, "pin", deployment="default"), "parent": 1 << 22})
    assert run.lines == []
    assert "pinned" not in world.host.status().deployments[0].roles


def test_a_parent_that_reads_no_more_is_no_reason_to_give_up(world: World) -> None:
    world.publish(os_image("1.1"))
    with subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(request(world, "upgrade")) + "\n")
        child.stdin.close()
        child.stdout.close()
        assert child.wait(20) == 0
    assert world.versions() == ["1.1", "1.0"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")
def test_a_sysroot_that_is_mounted_read_only_is_writable_for_the_worker(world: World) -> None:
    program = [sys.executable, "-c", """
import os, subprocess, sys
from bootcd.linux import process
assert process.private_mounts()
path = sys.argv[1]
subprocess.run(["mount", "--bind", path, path], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
os.execv(sys.executable, [sys.executable, "-m", "bootcd.ops.worker"])
""", str(world.sysroot)]
    run = Run(request(world, "pin", deployment="default", label="ro"), program)
    assert run.last.get("result"), run.last
    assert "pinned" in world.host.status().deployments[0].roles


def test_in_the_background_it_is_nobodys_first_concern(world: World) -> None:
    program = [sys.executable, "-c", "import os, sys\nfrom bootcd.ops import status, worker\nreal = status.status\n"
               "def told(machine):\n    print(os.getpriority(os.PRIO_PROCESS, 0))\n    return real(machine)\n"
               "status.status = told\nsys.exit(worker.main())"]
    assert Run({**request(world, "image_list"), "background": True}, program).stderr == "19\n"


def test_verbs_are_methods_of_the_host() -> None:
    assert all(callable(getattr(DirectHost, verb)) for verb in worker.VERBS)


def test_signals_that_had_to_wait_are_delivered_later() -> None:
    interruption = worker.Interruption()
    with interruption.held(), interruption.held():
        interruption._handle(signal.SIGTERM, None)
        interruption.deliver()
    with pytest.raises(KeyboardInterrupt):
        interruption.deliver()
    interruption.deliver()
    with pytest.raises(KeyboardInterrupt):
        interruption._handle(signal.SIGTERM, None)


def test_a_signal_is_not_lost_where_python_ignores_what_is_raised() -> None:
    """In a callback of a weak reference."""
    program = """if True:
        import os, signal, weakref
        from bootcd.ops.worker import Interruption
        interruption = Interruption()
        interruption.install()
        class Thing: pass
        thing = Thing()
        def gone(reference):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000): pass
        reference = weakref.ref(thing, gone)
        del thing
        print("still here", flush=True)
        interruption.deliver()
        """
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("still here\n", -signal.SIGINT)
    assert "Exception ignored" not in done.stderr


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_bytes_are_told_ten_times_a_second_and_at_the_end(pipe: tuple[int, int]) -> None:
    lines = worker.Lines(pipe[1], worker.Interruption())
    lines.begin("One", 100_000)
    threads = [threading.Thread(target=lambda: [lines.advance(1) for _ in range(10_000)]) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines.begin("Two")
    told = [json.loads(line) for line in os.read(pipe[0], 65536).splitlines()]
    assert (told[0], told[-1]) == ({"stage": "One", "total": 100_000}, {"stage": "Two", "total": 0})
    counts = [line["done"] for line in told[1:-1]]
    assert counts == sorted(counts)
    assert counts[-1] == 100_000
    assert len(counts) < 100


def test_an_orphan_that_hangs_is_ended_by_its_own_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    alarms: list[int] = []
    monkeypatch.setattr(signal, "alarm", alarms.append)
    interruption = worker.Interruption()
    for parent in (0, os.getppid(), os.getpid()):
        interruption.parent = parent
        with interruption.held():
            interruption._handle(signal.SIGTERM, None)
    assert alarms == [worker.ORPHAN_PATIENCE]
