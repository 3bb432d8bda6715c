# SPDX-License-Identifier: Apache-2.0
"""A worker is followed to its end, whatever it says or does, and nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bootcd.config import Config
from bootcd.daemon import worker
from bootcd.daemon.worker import Done, Event, Failure, Note, Outcome, Request, Stage, Switch, Worker
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from bootcd.ops.resultjson import from_json
from bootcd.ops.results import ChangeResult, Status
from kit.os_images import os_image
from kit.world import World

ROOT = Path(__file__).resolve().parents[2]
REQUEST = Request("status", {}, "/nonexistent", None, Config(), "uid 0 test")
INTERRUPTED = "org.bootcd1.Error.Interrupted"
T = TypeVar("T")
LAST = '{"result": 1, "status": null}'


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, lambda w: DirectHost(w.sysroot, w.esp, w.config, SilentProgress()), tmp_path)
    made.install(os_image("1.0"))
    return made


def request(world: World, verb: str, /, **arguments: Any) -> Request:
    return Request(verb, arguments, str(world.sysroot), str(world.esp), world.config, "uid 0 test")


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; no descriptor may be left while the loop is still there."""

    async def bounded() -> T:
        before = len(os.listdir("/proc/self/fd"))
        result = await asyncio.wait_for(work, 60)
        for _ in range(5):  # transports close in the next turns of the loop
            await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == before
        return result

    return asyncio.run(bounded())


def fake(script: str) -> list[str]:
    """A program in place of the worker, which has read its request."""
    return [sys.executable, "-c", f"import os, signal, sys, time\nsys.stdin.readline()\n{script}"]


def says(*lines: str) -> list[str]:
    return fake(f"sys.stdout.write({''.join(line + chr(10) for line in lines)!r})")


def run(program: list[str], **options: Any) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []
    return finish(Worker(REQUEST, events.append, program=program, **options).run()), events


# --- the real one -----------------------------------------------------------------------------------------------------


def test_a_job_from_begin_to_end(world: World) -> None:
    world.publish(os_image("1.1"))
    events: list[Event] = []
    job = Worker(request(world, "upgrade"), lambda event: (events.append(event), job.go())[0])
    outcome = finish(job.run())
    assert outcome.error is None
    assert not outcome.killed
    assert from_json(ChangeResult, outcome.result).outcome == "deployed"
    assert outcome.status is not None
    assert [info.version for info in from_json(Status, outcome.status).deployments] == ["1.1", "1.0"]
    assert isinstance(outcome.fingerprint, list)
    assert isinstance(events[0], Stage)
    assert Done(events[0].total) in events
    assert events.index(Switch(True)) < events.index(Switch(False))
    assert job.pid is None


def test_an_error_and_the_status_after_it(world: World) -> None:
    outcome = finish(Worker(request(world, "pin", deployment="zzzz"), print).run())
    assert outcome.error == Failure("org.bootcd1.Error.DeploymentNotFound", "no deployment is called 'zzzz'",
                                    "'bootcctl list' shows the deployments.")
    assert outcome.status is not None
    assert not outcome.killed


def test_settings_arrive(world: World) -> None:
    config = Config(keep_previous=7, registry_insecure=("a", "b"))
    script = "import json, sys; asked = json.loads(sys.stdin.readline())\n" \
             "print(json.dumps({'result': asked, 'status': None}))"
    asked = Request("pin", {"deployment": "x"}, "/sysroot", "/efi", config, "uid 5 me", background=True,
                    metered=True)
    outcome = finish(Worker(asked, print, program=[sys.executable, "-c", script]).run())
    assert outcome.result == {
        "verb": "pin", "arguments": {"deployment": "x"}, "sysroot": "/sysroot", "esp": "/efi", "by": "uid 5 me",
        "background": True, "metered": True, "parent": os.getpid(), "config": outcome.result["config"]}
    assert outcome.result["config"]["keep_previous"] == 7
    assert outcome.result["config"]["registry_insecure"] == ["a", "b"]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_any_event_the_next_one_completes_it(world: World, stop: int, number: int) -> None:
    """The signal may come a little later than the event: what holds then is that the outcome fits the machine, and that
    the next job succeeds."""
    world.publish(os_image("1.1"))
    events: list[Event] = []

    def event(said: Event) -> None:
        events.append(said)
        if len(events) == number + 1:
            assert job.pid is not None
            job.cancel() if stop == signal.SIGTERM else os.kill(job.pid, stop)

    job = Worker(request(world, "upgrade"), event)
    outcome = finish(job.run())
    assert len(events) > number
    default = next(info.version for info in world.host.status().deployments if "default" in info.roles)
    if outcome.error is None:
        assert default == "1.1"
    elif stop == signal.SIGTERM:
        assert (outcome.error.name, default, outcome.killed) == (INTERRUPTED, "1.0", False)
    else:
        assert (outcome.error.message, outcome.killed) == ("the worker died (signal 9)", True)
    assert number < 4 or Switch(True) in events[: number + 1]
    assert outcome.error is not None or number > 0
    again = Worker(request(world, "upgrade"), lambda said: again.go())
    assert finish(again.run()).error is None
    assert world.versions() == ["1.1", "1.0"]
    assert world.host.fsck().ok


def test_dying_at_a_step(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish(os_image("1.1"))
    monkeypatch.setenv("BOOTCD_CRASH_AT", "after-write-entry")
    outcome = finish(Worker(request(world, "upgrade"), lambda event: None).run())
    assert outcome.error == Failure("org.bootcd1.Error.Failed", "the worker died (exit status 137)")
    monkeypatch.delenv("BOOTCD_CRASH_AT")
    assert world.host.status().unfinished == "finalize"
    assert finish(Worker(request(world, "upgrade"), lambda event: None).run()).error is None
    assert world.host.status().unfinished == ""
    assert world.versions() == ["1.1", "1.0"]


# --- one that says nonsense -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [
    "", "nonsense", "[]", "null", "7", '"text"', "{}", '{"stage": "a"}', '{"stage": 1, "total": 0}',
    '{"stage": "a", "total": -1}', '{"stage": "a", "total": 1.5}', '{"done": -1}', '{"done": true}',
    '{"done": 9223372036854775808}',
    '{"done": "1"}', '{"note": null}',
    '{"switch": 1}', '{"note": "a", "switch": true}', '{"result": 1}', '{"result": 1, "status": 1}',
    '{"result": 1, "status": {}}', '{"result": 1, "status": {"status": [], "fingerprint": []}}',
    '{"result": 1, "status": {"status": {}, "fingerprint": {}}}', '{"error": "no", "status": null}',
    '{"error": {"name": "a", "message": "b"}, "status": null}', "[" * 100_000, "\\x00", "\\xff",
])
def test_a_worker_that_talks_nonsense_is_ended(line: str) -> None:
    started = time.monotonic()
    outcome, events = run([*fake(f"sys.stdout.buffer.write(b'{line}\\n'); sys.stdout.flush(); time.sleep(60)")])
    assert outcome.error is not None
    assert outcome.error.name == "org.bootcd1.Error.Failed"
    assert outcome.error.message.startswith("the worker said what makes no sense: ")
    assert len(outcome.error.message) < 600
    assert outcome.killed
    assert events == []
    assert time.monotonic() - started < 20


def test_a_line_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MAX_LINE", 1 << 20)
    outcome, _ = run(fake("while True: sys.stdout.write('x' * 65536)"))
    assert outcome.error is not None
    assert "a line of more than 1048576 bytes" in outcome.error.message


def test_a_long_line_and_lines_in_pieces_are_whole() -> None:
    script = (f"out = sys.stdout.buffer\nline = b'{{\"note\": \"' + b'x' * 3_000_000 + b'\"}}\\n'\n"
              f"out.write(line + b'{{\"do'); out.flush(); time.sleep(0.2); out.write(b'ne\": 5}}\\n{LAST}\\n')")
    outcome, events = run(fake(script))
    assert outcome.result == 1
    assert events == [Note("x" * 3_000_000), Done(5)]


def test_what_comes_after_the_last_line_counts_for_nothing() -> None:
    outcome, events = run(says('{"note": "a"}', LAST, '{"note": "b"}', "nonsense"))
    assert (outcome, events) == (Outcome(1), [Note("a")])


# --- one that dies, or does not ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "how"), [
    ("os.kill(os.getpid(), 9)", "signal 9"), ("sys.exit(3)", "exit status 3"), ("", "exit status 0"),
    ("print('{\"note\": \"a\"}', flush=True); os._exit(137)", "exit status 137"),
    ("sys.stdout.write('{\"result\": 1'); sys.stdout.flush(); os.abort()", "signal 6"),
])
def test_a_worker_that_dies(script: str, how: str) -> None:
    outcome, _ = run(fake(script))
    assert outcome.error == Failure("org.bootcd1.Error.Failed", f"the worker died ({how})")
    assert outcome.killed


def test_a_program_that_is_not_there() -> None:
    outcome, _ = run(["/nonexistent/program"])
    assert outcome.error is not None
    assert "cannot be started" in outcome.error.message


def test_a_worker_that_ends_before_it_read_its_request() -> None:
    outcome, _ = run(["/bin/true"])
    assert outcome.error == Failure("org.bootcd1.Error.Failed", "the worker died (exit status 0)")


def test_a_worker_that_does_not_end_after_its_last_line_is_killed() -> None:
    outcome, _ = run(fake(f"print('{LAST}', flush=True); signal.signal(15, signal.SIG_IGN); time.sleep(60)"),
                     kill_after=0.2)
    assert outcome == Outcome(1)


def test_cancelled_before_it_starts() -> None:
    async def job() -> Outcome:
        cancelled = Worker(REQUEST, print, program=["/nonexistent"])
        cancelled.cancel()
        return await cancelled.run()

    assert finish(job()).error == worker._INTERRUPTED


@pytest.mark.parametrize("script", ["time.sleep(60)", "signal.signal(15, signal.SIG_IGN)\nprint('{\"note\": \"on\"}', "
                                    "flush=True)\ntime.sleep(60)"], ids=["obeys", "ignores"])
def test_cancelled_while_it_runs(script: str) -> None:
    async def job() -> Outcome:
        child = Worker(REQUEST, lambda event: child.cancel(), program=fake(script), kill_after=0.3)
        running = asyncio.ensure_future(child.run())
        if "note" not in script:
            while child.pid is None:
                await asyncio.sleep(0.01)
            child.cancel()
            child.cancel()
        return await running

    started = time.monotonic()
    outcome = finish(job())
    assert outcome.error is not None
    assert (outcome.error.name, outcome.killed) == (INTERRUPTED, True)
    assert time.monotonic() - started < 20


def test_it_is_not_killed_while_the_boot_entry_changes() -> None:
    script = ("signal.signal(15, signal.SIG_IGN)\nprint('{\"switch\": true}', flush=True)\ntime.sleep(1)\n"
              f"print('{{\"switch\": false}}', flush=True)\nprint('{LAST}', flush=True)")

    async def job() -> Outcome:
        child = Worker(REQUEST, lambda event: child.cancel(), program=fake(script), kill_after=0.1)
        return await child.run()

    assert finish(job()) == Outcome(1)


def test_go_reaches_the_worker() -> None:
    script = f"print('{{\"switch\": true}}', flush=True)\nassert sys.stdin.readline() == '{{\"go\": true}}\\n'\n" \
             f"print('{LAST}', flush=True)"

    async def job() -> Outcome:
        child = Worker(REQUEST, lambda event: child.go(), program=fake(script))
        outcome = await child.run()
        child.go()
        child.cancel()
        child.lower_priority()  # it is over: nothing happens
        return outcome

    assert finish(job()) == Outcome(1)


def test_when_nobody_waits_any_more_nothing_is_left() -> None:
    """The caller of `run` is cancelled: the worker and what it started are killed."""

    async def job() -> list[int]:
        started: list[int] = []
        script = ("import subprocess\nchild = subprocess.Popen(['sleep', '60'])\n"
                  "print('{\"done\": %d}' % child.pid, flush=True)\ntime.sleep(60)")
        ready = asyncio.Event()

        def event(said: Event) -> None:
            assert isinstance(said, Done)
            started.append(said.bytes)
            ready.set()

        child = Worker(REQUEST, event, program=fake(script))
        running = asyncio.ensure_future(child.run())
        await ready.wait()
        started.append(child.pid or 0)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        assert running.cancelled()
        return started

    for pid in finish(job()):
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and "Z" not in _state(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def test_somebody_who_holds_the_pipe_open_holds_nothing_up() -> None:
    script = "import subprocess\nsubprocess.Popen(['sleep', '60'], stderr=subprocess.DEVNULL)\nsys.exit(4)"
    started = time.monotonic()
    outcome, _ = run(fake(script))
    assert outcome.error == Failure("org.bootcd1.Error.Failed", "the worker died (exit status 4)")
    assert time.monotonic() - started < 30


def test_no_sign_of_life_is_the_end() -> None:
    outcome, _ = run(fake("signal.signal(15, signal.SIG_IGN)\ntime.sleep(60)"), stall=1.0)
    assert outcome.error is not None
    assert "showed no sign of life" in outcome.error.message


@pytest.mark.parametrize("work", ["print('{\"done\": 1}', flush=True); time.sleep(0.3)",
                                  "sum(range(3_000_000)); time.sleep(0.1)",
                                  "open('/dev/zero', 'rb').read(100_000); time.sleep(0.2)"],
                         ids=["lines", "cpu", "io"])
def test_a_worker_that_works_lives(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_LOOK", 0.1)
    outcome, _ = run(fake(f"end = time.monotonic() + 2.5\nwhile time.monotonic() < end:\n    {work}\nprint('{LAST}')"),
                     stall=1.5)
    assert outcome == Outcome(1)


# --- what it is like --------------------------------------------------------------------------------------------------


def test_it_has_a_session_of_its_own_and_no_thread_waits_for_it() -> None:
    threads: list[int] = []
    script = f"print('{{\"done\": %d}}' % (os.getsid(0) == os.getpid()), flush=True)\nprint('{LAST}')"
    events: list[Event] = []

    def event(said: Event) -> None:
        events.append(said)
        threads.append(threading.active_count())

    finish(Worker(REQUEST, event, program=fake(script)).run())
    assert events == [Done(1)]
    assert threads == [threading.active_count()]


def test_priority_can_be_lowered_while_it_runs() -> None:
    script = """
import threading
lock = threading.Lock()
lock.acquire()
threading.Thread(target=lock.acquire).start()
print('{"note": "on"}', flush=True)
sys.stdin.readline()
nice = [os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir("/proc/self/task")]
lock.release()
print('{"result": %r, "status": null}' % nice)
"""

    async def job() -> Outcome:
        child = Worker(REQUEST, lambda event: (child.lower_priority(), child.go())[0], program=fake(script))
        return await child.run()

    assert finish(job()).result == [19, 19]


def test_many_at_once(world: World) -> None:
    async def jobs() -> list[Outcome]:
        return await asyncio.gather(*(Worker(request(world, "image_list"), print).run() for _ in range(4)))

    for outcome in finish(jobs()):
        assert outcome.error is None
        assert len(outcome.result) == 1


def test_one_job_at_a_time_changes_something(world: World) -> None:
    async def jobs() -> tuple[Outcome, Outcome]:
        begun = asyncio.Event()
        world.host.upgrade()
        world.upgrade(os_image("1.1"))
        one = Worker(request(world, "rollback"), lambda event: begun.set())
        running = asyncio.ensure_future(one.run())
        await begun.wait()  # it waits for the go, with the lock in its hands
        other = await Worker(request(world, "pin", deployment="1.0"), print).run()
        one.go()
        return await running, other

    one, other = finish(jobs())
    assert one.error is None
    assert other.error is not None
    assert other.error.name == "org.bootcd1.Error.Busy"
    assert json.dumps(other.status)
