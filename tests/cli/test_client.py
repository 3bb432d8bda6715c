# SPDX-License-Identifier: Apache-2.0
"""`BusHost` against a daemon that vanishes, dawdles and talks nonsense; the contract suite runs it on the real one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_next.signature import Variant

from bootcd import errors
from bootcd.cli.bushost import BusHost
from bootcd.cli.client import NAME, ROOT, Connection, Unreachable
from bootcd.cli.jobs import BusError
from bootcd.config import Config
from bootcd.errors import (
    BootcdError,
    DeploymentNotFound,
    EspFull,
    FormatError,
    Interrupted,
    PermissionDenied,
    Unsupported,
    UsageError,
)
from bootcd.ops.direct import DirectHost
from kit.bus import SystemBus
from kit.fake_daemon import JOB, JOB_PATH, MANAGER, Answer, Called, FakeDaemon, Play, job

CHANGE = Variant("a{sv}", {"outcome": Variant("s", "deployed"), "message": Variant("s", "done")})
DBUS_ERROR = "org.freedesktop.DBus.Error."


class Recorder:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []

    def begin(self, stage: str, total: int = 0) -> None:
        self.said.append((stage, total))

    def advance(self, count: int) -> None:
        self.said.append(("+", count))

    def note(self, message: str) -> None:
        self.said.append(("note", message))


@pytest.fixture
def progress() -> Recorder:
    return Recorder()


@pytest.fixture
def connect(bus: SystemBus, progress: Recorder, tmp_path: Path) -> Iterator[Callable[..., BusHost]]:
    """Makes hosts on the bus, and closes them."""
    made: list[BusHost] = []

    def connect(**options: Any) -> BusHost:
        made.append(BusHost(bus.address, progress, lambda: DirectHost(tmp_path, None, Config(), progress), **options))
        return made[-1]

    yield connect
    for host in made:
        host.close()


def plays(*acts: Callable[[FakeDaemon], None], **ending: Variant) -> Play:
    """A daemon that starts a job, does `acts` one after the other, and whose job has then ended."""
    end = {"State": Variant("s", "succeeded"), "Result": CHANGE} | ending

    def play(fake: FakeDaemon, called: Called) -> Answer:
        if called.member == "GetAll":
            return Answer("a{sv}", [fake.job])
        fake.job = job()
        return Answer("o", [JOB_PATH], then=[*(lambda act=act: act(fake) for act in acts),  # type: ignore[misc]
                                             lambda: fake.job.update(end), lambda: fake.end(end["State"].value)])

    return play


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_a_job_is_followed_to_its_end(bus: SystemBus, connect: Callable[..., BusHost], progress: Recorder) -> None:
    def change(**changed: Variant) -> Callable[[FakeDaemon], None]:
        return lambda fake: fake.change(JOB_PATH, JOB, **changed)

    acts = [
        change(Stage=Variant("s", "Downloading"), BytesTotal=Variant("t", 100)),
        change(BytesDone=Variant("t", 40)),
        change(BytesDone=Variant("t", 100), Rate=Variant("t", 7)),
        lambda fake: fake.emit(JOB_PATH, JOB, "Note", "s", "a word"),
        change(Stage=Variant("s", "Staging"), BytesTotal=Variant("t", 0), BytesDone=Variant("t", 0)),
        lambda fake: fake.emit("/org/bootcd1/job/8", JOB, "Note", "s", "of another job"),
    ]
    with FakeDaemon(bus.address, plays(*acts)) as fake:
        result = connect().upgrade()

    assert (result.outcome, result.message, result.deployment) == ("deployed", "done", None)
    assert progress.said == [("Downloading", 100), ("+", 40), ("+", 60), ("note", "a word"), ("Staging", 0)]
    assert fake.members()[0] == "Upgrade"


def test_a_job_that_ends_at_once(bus: SystemBus, connect: Callable[..., BusHost]) -> None:
    with FakeDaemon(bus.address, plays()):
        host = connect()
        assert host.upgrade().outcome == "deployed"
        assert host.pin("default").outcome == "deployed"


def test_a_job_that_runs_already_is_joined(bus: SystemBus, connect: Callable[..., BusHost],
                                           progress: Recorder) -> None:
    found = Variant("a{sv}", {"image": Variant("s", "x"), "available": Variant("b", True),
                              "manifest-digest": Variant("s", "y")})
    running = job(Stage=Variant("s", "Asking"), BytesTotal=Variant("t", 10), BytesDone=Variant("t", 4))
    asked = 0

    def play(fake: FakeDaemon, called: Called) -> Answer:
        nonlocal asked
        if called.member == "Check":
            return Answer("o", [JOB_PATH])
        asked += 1
        if asked == 1:
            return Answer("a{sv}", [running], then=[fake.end])
        return Answer("a{sv}", [job(State=Variant("s", "succeeded"), Result=found)])

    with FakeDaemon(bus.address, play):
        assert connect().check().available
    assert progress.said == [("Asking", 10), ("+", 4)]


def test_what_is_sent(bus: SystemBus, connect: Callable[..., BusHost], tmp_path: Path,
                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with FakeDaemon(bus.address, plays()) as fake:
        host, eager = connect(background=True), connect(interactive=os.geteuid() == 0)
        host.upgrade(allow_rejected=True)
        host.upgrade(download_only=True)
        host.switch("oci:layout:latest")
        host.switch("quay.io/a/b")
        host.pin("x", "label")
        eager.unpin("x", "")
        eager.unpin("x")
        eager.rollback()
    calls = [(called.member, *called.arguments) for called in fake.calls if called.member != "GetAll"]
    assert calls == [
        ("Upgrade", {"background": True, "allow-rejected": True}),
        ("Download", {"background": True}),
        ("Switch", f"oci:{tmp_path}/layout:latest", {"background": True}),
        ("Switch", "quay.io/a/b", {"background": True}),
        ("Pin", "x", {"label": "label"}),
        ("Unpin", "x", {"label": ""}),
        ("Unpin", "x", {}),
        ("Rollback", "", {}),
    ]
    if os.geteuid() == 0:
        assert {called.interactive for called in fake.calls if called.member == "Unpin"} == {True}
    assert not any(called.interactive for called in fake.calls if called.member == "Pin")


def test_an_empty_name_is_not_the_previous_deployment(bus: SystemBus, connect: Callable[..., BusHost]) -> None:
    with FakeDaemon(bus.address, plays()) as fake, pytest.raises(DeploymentNotFound):
        connect().rollback("")
    assert fake.calls == []


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", errors.all_errors())
def test_an_error_is_the_same_as_without_the_daemon(bus: SystemBus, connect: Callable[..., BusHost],
                                                    cls: type[BootcdError]) -> None:
    def refuse(fake: FakeDaemon, called: Called) -> Answer:
        return Answer("ss", ["what went wrong", "what would help"], cls.bus_name())

    with FakeDaemon(bus.address, refuse), pytest.raises(cls) as caught:
        connect().upgrade()
    assert type(caught.value) is cls
    assert (str(caught.value), caught.value.hint) == ("what went wrong", "what would help")


def test_an_error_of_a_job(bus: SystemBus, connect: Callable[..., BusHost]) -> None:
    error = Variant("(sss)", [EspFull.bus_name(), "2 MB are missing", ""])
    with FakeDaemon(bus.address, plays(State=Variant("s", "failed"), Error=error)), \
            pytest.raises(EspFull, match="2 MB are missing") as caught:
        connect().upgrade()
    assert caught.value.hint == ""  # the advice is the daemon's, also when it has none


@pytest.mark.parametrize(("name", "cls"), [
    ("AccessDenied", PermissionDenied), ("InteractiveAuthorizationRequired", PermissionDenied),
    ("InvalidArgs", UsageError), ("UnknownMethod", Unsupported), ("NoReply", BootcdError), ("Whatever", BootcdError),
])
def test_errors_of_the_bus(bus: SystemBus, connect: Callable[..., BusHost], name: str, cls: type[BootcdError]) -> None:
    with FakeDaemon(bus.address, lambda fake, called: Answer("s", ["hm"], DBUS_ERROR + name)), \
            pytest.raises(cls, match="hm") as caught:
        connect().upgrade()
    assert type(caught.value) is cls
    assert caught.value.hint or cls is UsageError


def test_a_job_that_was_cancelled_by_somebody(bus: SystemBus, connect: Callable[..., BusHost]) -> None:
    with FakeDaemon(bus.address, plays(State=Variant("s", "cancelled"))), pytest.raises(Interrupted) as caught:
        connect().upgrade()
    assert caught.value.exit_status == 130


@pytest.mark.parametrize("result", [
    Variant("a{sv}", {}), Variant("s", "no"), Variant("a{sv}", {"outcome": Variant("t", 1), "message": CHANGE}),
])
def test_nonsense_as_a_result(bus: SystemBus, connect: Callable[..., BusHost], result: Variant) -> None:
    def play(fake: FakeDaemon, called: Called) -> Answer:
        if called.member == "GetAll":
            return Answer("a{sv}", [job(State=Variant("s", "succeeded"), Result=result)], then=[fake.end])
        return Answer("o", [JOB_PATH])

    with FakeDaemon(bus.address, play), pytest.raises(FormatError, match="does not understand") as caught:
        connect().upgrade()
    assert "different versions" in caught.value.hint


@pytest.mark.parametrize("answer", [
    Answer(), Answer("s", ["no path"]), Answer("t", [7]), Answer("a{sv}", [{"State": Variant("s", "?")}]),
])
def test_nonsense_as_an_answer(bus: SystemBus, connect: Callable[..., BusHost], answer: Answer) -> None:
    def play(fake: FakeDaemon, called: Called) -> Answer:
        return Answer("o", [JOB_PATH], then=[fake.end]) if called.member == "Upgrade" else answer

    with FakeDaemon(bus.address, play), pytest.raises(BootcdError):
        connect().upgrade()
    with FakeDaemon(bus.address, lambda fake, called: answer):
        for ask in (connect().status, connect().image_list, connect().unstage, lambda: connect().image_inspect("x")):
            with pytest.raises(BootcdError):
                ask()


def test_nonsense_as_progress(bus: SystemBus, connect: Callable[..., BusHost], progress: Recorder) -> None:
    with FakeDaemon(bus.address, plays(
        lambda fake: fake.change(JOB_PATH, JOB, Stage=Variant("t", 3), BytesDone=Variant("s", "much")),
        lambda fake: fake.emit(JOB_PATH, JOB, "Note", "t", 1),
        lambda fake: fake.emit(JOB_PATH, JOB, "Note"),
        lambda fake: fake.emit(ROOT, MANAGER, "JobRemoved"),
        lambda fake: fake.emit(JOB_PATH, "org.freedesktop.DBus.Properties", "PropertiesChanged", "s", JOB),
    )):
        assert connect().upgrade().outcome == "deployed"
    assert progress.said == []


def test_what_the_bus_cannot_carry(bus: SystemBus, connect: Callable[..., BusHost]) -> None:
    with FakeDaemon(bus.address, plays()) as fake:
        for word in ("\udcff", "nul\0"):
            with pytest.raises(UsageError):
                connect().pin(word)
    assert fake.calls == []


def test_others_are_not_believed(bus: SystemBus, connect: Callable[..., BusHost], progress: Recorder) -> None:
    with FakeDaemon(bus.address, lambda fake, called: None, name="") as liar:
        def lie(fake: FakeDaemon) -> None:
            liar.soon(lambda: liar.emit(JOB_PATH, JOB, "Note", "s", "a lie"))
            liar.soon(lambda: liar.end("failed"))
            threading.Event().wait(0.1)

        with FakeDaemon(bus.address, plays(lie)):
            assert connect().upgrade().outcome == "deployed"
    assert progress.said == []


# --- vanishing --------------------------------------------------------------------------------------------------------


def test_the_daemon_goes_in_the_middle_of_a_job(bus: SystemBus, connect: Callable[..., BusHost]) -> None:
    with FakeDaemon(bus.address, plays(lambda fake: fake.leave())), \
            pytest.raises(BootcdError, match="went away during 'upgrade'") as caught:
        connect().upgrade()
    assert caught.value.exit_status == BootcdError.exit_status
    assert "Nothing is lost" in caught.value.hint


@pytest.mark.parametrize("member", ["Upgrade", "GetAll", "GetStatus"])
def test_the_daemon_goes_instead_of_answering(bus: SystemBus, connect: Callable[..., BusHost], member: str) -> None:
    def play(fake: FakeDaemon, called: Called) -> Answer | None:
        if called.member == member:
            fake.leave()
            return None
        return Answer("o", [JOB_PATH])

    host = connect()
    with FakeDaemon(bus.address, play), pytest.raises(BootcdError, match="went away"):
        host.status() if member == "GetStatus" else host.upgrade()


def test_there_is_no_daemon(bus: SystemBus, connect: Callable[..., BusHost]) -> None:
    host = connect()
    assert not host.present()
    assert host.running() is None
    with pytest.raises(BootcdError, match="went away"):
        host.status()
    with FakeDaemon(bus.address, plays()):
        assert host.present()


def test_a_daemon_that_dawdles(bus: SystemBus) -> None:
    with FakeDaemon(bus.address, lambda fake, called: None), Connection(bus.address) as connection:
        with pytest.raises(BusError, match="no answer") as caught:
            connection.call(NAME, ROOT, MANAGER, "GetStatus", "a{sv}", {}, timeout=0.05)
        assert caught.value.name == DBUS_ERROR + "NoReply"
        assert connection.owner().startswith(":")
        assert connection.next(0.01) is None


def test_the_bus_goes(tmp_path: Path, progress: Recorder) -> None:
    with contextlib.ExitStack() as stack:
        bus = stack.enter_context(SystemBus(tmp_path / "bus"))
        direct = DirectHost(tmp_path, None, Config(), progress)
        host = BusHost(bus.address, progress, lambda: direct)
        with FakeDaemon(bus.address, plays(lambda fake: stack.close())), host:
            with pytest.raises(BootcdError, match="went away"):
                host.upgrade()
            with pytest.raises(BootcdError, match="the connection to the bus is lost"):
                host.status()


def test_there_is_no_bus(tmp_path: Path, progress: Recorder) -> None:
    for address in (f"unix:path={tmp_path}/none", "unix:nonsense=1", "rubbish", "tcp:host=127.0.0.1,port=1"):
        with pytest.raises(Unreachable):
            Connection(address)


@pytest.mark.parametrize("greeting", [b"", b"REJECTED\r\n", b"OK "])
def test_a_bus_that_hangs_up(tmp_path: Path, greeting: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()

        def hang_up() -> None:
            connection = server.accept()[0]
            with connection:
                connection.recv(1)
                connection.sendall(greeting)

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(Unreachable):
            Connection(f"unix:path={tmp_path}/socket")
        thread.join()


def test_close_is_harmless_at_any_time(connect: Callable[..., BusHost]) -> None:
    host = connect()
    host.close()
    host.close()


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def interrupting(number: int) -> Callable[[FakeDaemon], None]:
    return lambda fake: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_cancels_the_job(bus: SystemBus, connect: Callable[..., BusHost], progress: Recorder,
                                      number: int) -> None:
    cancelled = False

    def play(fake: FakeDaemon, called: Called) -> Answer:
        nonlocal cancelled
        if called.member == "GetAll":
            return Answer("a{sv}", [job(State=Variant("s", "cancelled" if cancelled else "running"))])
        if called.member == "Cancel":
            cancelled = True
            return Answer(then=[lambda: fake.end("cancelled")])
        return Answer("o", [JOB_PATH], then=[lambda: interrupting(number)(fake)])

    before = signal.getsignal(number)
    with FakeDaemon(bus.address, play) as fake, pytest.raises(Interrupted, match="cancelled"):
        connect().upgrade()
    assert "Cancel" in fake.members()
    assert "interrupt again" in str(progress.said)
    assert signal.getsignal(number) == before


def test_a_second_interrupt_leaves_the_job_running(bus: SystemBus, connect: Callable[..., BusHost]) -> None:
    def play(fake: FakeDaemon, called: Called) -> Answer:
        if called.member == "GetAll":
            return Answer("a{sv}", [job()])
        again = [lambda: interrupting(signal.SIGINT)(fake)]
        return Answer(then=again) if called.member == "Cancel" else Answer("o", [JOB_PATH], then=again)

    with FakeDaemon(bus.address, play) as fake, pytest.raises(Interrupted, match="goes on") as caught:
        connect().upgrade()
    assert fake.members().count("Cancel") == 1
    assert caught.value.exit_status == 130


def test_a_job_that_may_not_be_cancelled_goes_on(bus: SystemBus, connect: Callable[..., BusHost],
                                                 progress: Recorder) -> None:
    over = False

    def end(fake: FakeDaemon) -> None:
        nonlocal over
        over = True
        fake.end()

    def play(fake: FakeDaemon, called: Called) -> Answer:
        if called.member == "GetAll":
            return Answer("a{sv}", [job(**({"State": Variant("s", "succeeded"), "Result": CHANGE} if over else {}))])
        if called.member == "Cancel":
            return Answer("s", ["no"], DBUS_ERROR + "AccessDenied", then=[lambda: end(fake)])
        return Answer("o", [JOB_PATH], then=[lambda: interrupting(signal.SIGINT)(fake)])

    with FakeDaemon(bus.address, play):
        assert connect().upgrade().outcome == "deployed"
    assert "cannot be stopped" in str(progress.said)


def test_an_interrupt_while_polkit_asks(bus: SystemBus, connect: Callable[..., BusHost],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bootcd.cli.client.GRACE", 0.05)

    def play(fake: FakeDaemon, called: Called) -> None:
        interrupting(signal.SIGINT)(fake)

    with FakeDaemon(bus.address, play) as fake, pytest.raises(KeyboardInterrupt):
        connect().upgrade()
    assert fake.members() == ["Upgrade"]


def test_hosts_can_be_used_in_other_threads(bus: SystemBus, connect: Callable[..., BusHost]) -> None:
    outcomes: list[str] = []
    with FakeDaemon(bus.address, plays()):
        thread = threading.Thread(target=lambda: outcomes.append(connect().upgrade().outcome))
        thread.start()
        thread.join()
    assert outcomes == ["deployed"]


def test_ctrl_c_at_the_question_of_polkit(bus: SystemBus, connect: Callable[..., BusHost]) -> None:
    def play(fake: FakeDaemon, called: Called) -> Answer:
        interrupting(signal.SIGINT)(fake)
        time.sleep(0.05)  # the signal is on its way to another thread
        return Answer("s", ["the question was taken back"], DBUS_ERROR + "AccessDenied")

    with FakeDaemon(bus.address, play), pytest.raises(KeyboardInterrupt):
        connect().upgrade()
