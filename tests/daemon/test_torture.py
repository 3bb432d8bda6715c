# SPDX-License-Identifier: Apache-2.0
"""Callers that do everything wrong, vanish, or come all at once: the daemon goes on and answers the others."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dbus_next.constants import MessageFlag
from dbus_next.signature import Variant

from bootcd.errors import Busy
from kit import bus as bus_kit
from kit.bus import Daemon, SystemBus
from kit.caller import DRIVER, ERROR, JOB, MANAGER, NAME, PROPERTIES, ROOT, Caller, Refused
from kit.machine import alive, children, descriptors, install, memory, silent_source, threads, until

pytestmark = pytest.mark.skipif(not bus_kit.available(), reason="dbus-daemon is not installed")

BOUND = 1.0
"""Seconds that nobody has to wait for a property, whatever others do. GNOME Software gives up after as long."""
BODY = 32 * 2**20 - 4096
"""About what the system bus lets through at most."""


@dataclass(frozen=True)
class Machine:
    """A daemon with an installation, shared by the tests of this module."""

    address: str
    pid: int


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("machine")
    world = install(directory)
    with SystemBus(directory / "bus") as bus, Daemon(bus, world.sysroot, world.esp) as daemon:
        yield Machine(bus.address, daemon.pid)


@pytest.fixture
def caller(machine: Machine) -> Iterator[Caller]:
    with Caller(machine.address) as caller:
        yield caller


@pytest.fixture
def held(machine: Machine, caller: Caller) -> Iterator[str]:
    """A job that waits for as long as nobody cancels it."""
    with silent_source() as image:
        job = caller.manager("PullImage", image)
        yield job
        if not caller.get(job, JOB, "Ended"):
            caller.cancel(job)
            assert caller.wait_over(job) == "cancelled"


@pytest.fixture(autouse=True)
def lives_on(machine: Machine) -> Iterator[None]:
    """After each test the same process answers, and keeps nothing of it."""
    before = descriptors(machine.pid)
    yield
    with Caller(machine.address) as caller:
        assert caller.get(ROOT, MANAGER, "ActiveJob") == "/"
    until(lambda: descriptors(machine.pid) <= before, "the end of all descriptors")
    until(lambda: not children(machine.pid), "the end of all workers")
    until(lambda: threads(machine.pid) == 1, "the end of the thread that looks at disks")


# --- wrong calls ------------------------------------------------------------------------------------------------------

_NONE: dict[str, Variant] = {}
WRONG: dict[str, tuple[str, str, tuple[str, str | None, str, str, tuple[Any, ...]]]] = {
    "no such object": ("UnknownObject", "", ("/org/bootcd1/job/7", JOB, "Cancel", "", ())),
    "parent of all objects": ("UnknownInterface", "", ("/", MANAGER, "Check", "a{sv}", (_NONE,))),
    "no such interface": ("UnknownInterface", "", (ROOT, "org.bootcd2.Manager", "Check", "a{sv}", (_NONE,))),
    "interface of others": ("UnknownInterface", "", (ROOT, JOB, "Cancel", "", ())),
    "no such method": ("UnknownMethod", "", (ROOT, MANAGER, "Chekc", "a{sv}", (_NONE,))),
    "no such method anywhere": ("UnknownMethod", "", (ROOT, None, "Chekc", "a{sv}", (_NONE,))),
    "property as method": ("UnknownMethod", "", (ROOT, MANAGER, "Version", "", ())),
    "no arguments": ("InvalidArgs", "a{sv}", (ROOT, MANAGER, "Upgrade", "", ())),
    "too many arguments": ("InvalidArgs", "a{sv}", (ROOT, MANAGER, "Upgrade", "a{sv}s", (_NONE, "x"))),
    "path for string": ("InvalidArgs", "", (ROOT, MANAGER, "Switch", "oa{sv}", ("/x", _NONE))),
    "strings for variants": ("InvalidArgs", "", (ROOT, MANAGER, "Upgrade", "a{ss}", ({"background": "yes"},))),
    "unknown option": ("InvalidArgs", "colour", (ROOT, MANAGER, "Upgrade", "a{sv}", ({"colour": Variant("b", True)},))),
    "option of another": ("InvalidArgs", "dry-run", (ROOT, MANAGER, "Upgrade", "a{sv}",
                                                     ({"dry-run": Variant("b", True)},))),
    "option with underscore": ("InvalidArgs", "allow_rejected", (ROOT, MANAGER, "Upgrade", "a{sv}", (
        {"allow_rejected": Variant("b", True)},))),
    "option of a wrong type": ("InvalidArgs", "background", (ROOT, MANAGER, "Upgrade", "a{sv}",
                                                             ({"background": Variant("s", "true")},))),
    "variant in a variant": ("InvalidArgs", "background", (ROOT, MANAGER, "Upgrade", "a{sv}", (
        {"background": Variant("v", Variant("b", True))},))),
    "no such property": ("UnknownProperty", "Colour", (ROOT, PROPERTIES, "Get", "ss", (MANAGER, "Colour"))),
    "property of nothing": ("UnknownInterface", "", (ROOT, PROPERTIES, "Get", "ss", ("x.y", "Version"))),
    "all of nothing": ("UnknownInterface", "", (ROOT, PROPERTIES, "GetAll", "s", ("x.y",))),
    "set read-only": ("PropertyReadOnly", "Version", (ROOT, PROPERTIES, "Set", "ssv",
                                                      (MANAGER, "Version", Variant("s", "2")))),
    "half of a Get": ("InvalidArgs", "ss", (ROOT, PROPERTIES, "Get", "s", (MANAGER,))),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_call(caller: Caller, case: str) -> None:
    name, word, (path, interface, member, signature, body) = WRONG[case]
    with pytest.raises(Refused) as refused:
        caller.call(member, signature, *body, place=(NAME, path, interface))
    assert refused.value.name == ERROR + name
    assert word in refused.value.message
    assert caller.get(ROOT, MANAGER, "Jobs") is not None


STRANGE = ("", "-", "--help", "\n", "x" * 60_000, "../../etc", "%s%n", "\N{SNOWMAN}\u202e", "oci:/proc/self/mem",
           "oci-archive:/dev/zero", "docker-archive:/dev/zero", "dir:/proc/self", "tar:/dev/zero", "tar:/proc/kcore",
           "containers-storage:[overlay@/proc/self]x", "docker-daemon:x:1")


@pytest.mark.parametrize(("member", "text"), [*(("Switch", text) for text in STRANGE), ("PullImage", "docker://"),
                                              ("Rollback", "../.."), ("Rollback", "0" * 60_000), ("RemoveImage", "")])
def test_strange_words(caller: Caller, member: str, text: str) -> None:
    """They are refused, or come to the worker, which says what is wrong with them; nothing internal shows."""
    try:
        job = caller.manager(member, text)
    except Refused as refused:
        name, message = refused.name, refused.message
    else:
        assert caller.wait_over(job) == "failed"
        name, message, _ = caller.get(job, JOB, "Error")
    assert name.startswith("org.bootcd1.Error.")
    assert message
    assert "internal error" not in message
    assert "Traceback" not in message


def test_signals_to_the_daemon_are_ignored(machine: Machine, caller: Caller) -> None:
    """What the bus hands on without being asked: replies to nothing, and calls that want no answer."""
    for _ in range(50):
        caller.send("Chekc", place=(NAME, ROOT, MANAGER), flags=MessageFlag.NO_REPLY_EXPECTED)
    assert caller.get(ROOT, MANAGER, "Version")


# --- too much ---------------------------------------------------------------------------------------------------------


def small_strings(count: int) -> bytes:
    """The body of an array of so many strings of one letter."""
    one = b"\1\0\0\0x\0\0\0"
    return (8 * count - 2).to_bytes(4, "little") + (one * count)[:-2]  # nothing follows the last that needs alignment


def one_string(size: int) -> bytes:
    return size.to_bytes(4, "little") + b"x" * size + b"\0"


class Reader:
    """Another client, which reads a property all the time and notes how long it had to wait."""

    def __init__(self, address: str) -> None:
        self._caller = Caller(address)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.waits: list[float] = []

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._caller.close()

    def _read(self) -> None:
        while not self._over.is_set():
            start = time.monotonic()
            self._caller.get(ROOT, MANAGER, "Deployments")
            self.waits.append(time.monotonic() - start)


FLOODS: dict[str, tuple[str, str, tuple[Any, ...], bytes]] = {
    "many strings": ("Upgrade", "as", ([],), small_strings(BODY // 8)),
    "many strings of a known method": ("PropertiesChanged", "as", ([],), small_strings(BODY // 8)),
    "one string": ("RemoveImage", "s", ("",), one_string(BODY)),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_huge_message_does_not_keep_others_waiting(machine: Machine, caller: Caller, flood: str) -> None:
    member, signature, body, raw = FLOODS[flood]
    before = memory(machine.pid)
    with Reader(machine.address) as reader:
        for _ in range(3):
            with pytest.raises(Refused):
                caller.call(member, signature, *body, place=(NAME, ROOT, MANAGER), raw=raw)
    assert len(reader.waits) > 3
    assert max(reader.waits) < BOUND
    assert memory(machine.pid) < before + 8192, "it was kept, or read whole"


def test_a_large_call_that_is_taken(machine: Machine, caller: Caller) -> None:
    """Just below the limit of one call: thousands of options, none of which is known."""
    options = {f"{number:04}": Variant("b", True) for number in range(4000)}
    with Reader(machine.address) as reader:
        for _ in range(5):
            with pytest.raises(Refused, match="has no option"):
                caller.call("Upgrade", "a{sv}", options, place=(NAME, ROOT, MANAGER))
    assert max(reader.waits) < BOUND


def test_a_client_that_does_not_read(machine: Machine, caller: Caller) -> None:
    """Answers to it pile up in the bus, not here."""
    with Caller(machine.address) as deaf:
        for _ in range(2000):
            deaf.send("Introspect", place=(NAME, ROOT, "org.freedesktop.DBus.Introspectable"))
        with Reader(machine.address) as reader:
            for _ in range(20):
                caller.get(ROOT, MANAGER, "Deployments", timeout=10)
    assert max(reader.waits) < 5 * BOUND  # 2,000 answers of some kilobytes each stand before it
    until(lambda: len(caller.call("ListNames", place=DRIVER)[0]) <= 6, "the deaf client's end")


def test_descriptors_that_nobody_asked_for(machine: Machine) -> None:
    """The bus takes them from us and does not hand them on."""
    before = descriptors(machine.pid)
    with Caller(machine.address, descriptors=True) as caller, open(os.devnull, "rb") as file:
        for _ in range(20):
            with pytest.raises(Refused):
                caller.call("Upgrade", "h", 0, place=(NAME, ROOT, MANAGER), descriptors=[file.fileno()])
            with pytest.raises(Refused):
                caller.call("Upgrade", "a{sv}", {"file": Variant("h", 0)}, place=(NAME, ROOT, MANAGER),
                            descriptors=[file.fileno()] * 4)
        assert descriptors(machine.pid) == before


def test_fifty_clients_at_once(machine: Machine) -> None:
    """All ask before anybody reads an answer; each gets its own."""
    names = ("Version", "Sysroot", "Deployments", "Jobs")
    with ExitStack() as stack:
        callers = [stack.enter_context(Caller(machine.address)) for _ in range(50)]
        asked = [[one.send("Get", "ss", MANAGER, name, place=(NAME, ROOT, PROPERTIES)) for name in names]
                 for one in callers]
        status = [one.send("GetStatus", "a{sv}", {}, place=(NAME, ROOT, MANAGER)) for one in callers]
        answers = {tuple(map(repr, (one.reply(serial) for serial in serials)))
                   for one, serials in zip(callers, asked, strict=True)}
        told = {repr(one.reply(serial)) for one, serial in zip(callers, status, strict=True)}
    assert len(answers) == 1
    assert len(told) == 1


def test_one_client_has_a_limit_of_its_own(machine: Machine, caller: Caller) -> None:
    """Calls in progress are counted for each caller: the greedy one is refused, others are not."""
    with Caller(machine.address) as greedy:
        asked = [greedy.send("ListImages", "a{sv}", {}, place=(NAME, ROOT, MANAGER)) for _ in range(200)]
        assert caller.manager("ListImages") == caller.manager("ListImages")
        refusals = []
        for serial in asked:
            try:
                greedy.reply(serial)
            except Refused as refused:
                refusals.append(refused.name)
    assert set(refusals) == {ERROR + "LimitsExceeded"}
    assert 100 <= len(refusals) < 200


def test_questions_of_callers_that_come_and_go_do_not_pile_up(machine: Machine, caller: Caller) -> None:
    for _ in range(30):
        with Caller(machine.address) as leaver:
            for _ in range(30):
                leaver.send("ListImages", "a{sv}", {}, place=(NAME, ROOT, MANAGER))
            leaver.get(ROOT, MANAGER, "Version")
    start = time.monotonic()
    caller.manager("ListImages")
    assert time.monotonic() - start < 20, "900 questions came before"


# --- who is here, and who is not --------------------------------------------------------------------------------------


def test_a_second_owner_gets_nothing(machine: Machine, caller: Caller) -> None:
    for flags in (1, 2, 3, 4, 7):  # allow replacement, replace, do not queue
        assert caller.call("RequestName", "su", NAME, flags, place=DRIVER)[0] in (2, 3)
        caller.call("ReleaseName", "s", NAME, place=DRIVER)
    assert alive(machine.pid)


def test_a_second_daemon_ends_and_leaves_the_first_alone(machine: Machine, tmp_path: Path) -> None:
    world = install(tmp_path)
    bus = SystemBus(tmp_path / "unused")
    bus.address = machine.address
    with pytest.raises(RuntimeError, match="taken"):
        Daemon(bus, world.sysroot, world.esp).start()


@pytest.mark.parametrize("wait", [0.0, 0.01, 0.05])
def test_a_caller_that_vanishes_in_mid_call(machine: Machine, wait: float) -> None:
    """Nobody is there to be answered. A job that has started goes on: it belongs to nobody."""
    with Caller(machine.address) as leaver:
        leaver.manager("GetStatus")
        for member in ("GetStatus", "ListImages", "Cleanup"):
            leaver.send(member, "a{sv}", {}, place=(NAME, ROOT, MANAGER))
        time.sleep(wait)
    with Caller(machine.address) as caller:
        until(lambda: caller.get(ROOT, MANAGER, "ActiveJob") == "/")


def test_a_caller_that_vanishes_in_mid_job(machine: Machine, caller: Caller) -> None:
    with silent_source() as image:
        with Caller(machine.address) as leaver:
            job = leaver.manager("PullImage", image)
            assert caller.get(job, JOB, "Background") is False
            assert caller.get(job, JOB, "StartedBy")[0] == leaver.unique_name
        until(lambda: caller.get(job, JOB, "Background"), "the move to the background")
        assert caller.get(job, JOB, "State") == "running"
        (worker,) = children(machine.pid)
        until(lambda: os.getpriority(os.PRIO_PROCESS, worker) == 19, "the lower priority")
        caller.cancel(job)
        assert caller.wait_over(job) == "cancelled"


# --- jobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", ["Upgrade", "Cleanup", "Unstage"])
def test_a_second_job_is_told_which_one_runs(caller: Caller, held: str, member: str) -> None:
    with pytest.raises(Refused) as refused:
        caller.manager(member)
    assert refused.value.name == Busy.bus_name()
    assert held in refused.value.message
    assert caller.get(held, JOB, "State") == "running"
    assert caller.get(ROOT, MANAGER, "ActiveJob") == held


def test_of_fifty_that_want_to_change_something_one_may(machine: Machine, held: str, caller: Caller) -> None:
    caller.cancel(held)
    caller.wait_over(held)
    with silent_source() as image, ExitStack() as stack:
        callers = [stack.enter_context(Caller(machine.address)) for _ in range(50)]
        asked = [one.send("PullImage", "sa{sv}", image, {}, place=(NAME, ROOT, MANAGER)) for one in callers]
        won, lost = [], []
        for one, serial in zip(callers, asked, strict=True):
            try:
                won += one.reply(serial)
            except Refused as refused:
                lost.append(refused)
        assert len(won) == 1
        assert {refused.name for refused in lost} == {Busy.bus_name()}
        assert all(won[0] in refused.message for refused in lost)
        caller.cancel(won[0])
        assert caller.wait_over(won[0]) == "cancelled"


def test_a_job_is_cancelled_by_many_at_once(machine: Machine, held: str, caller: Caller) -> None:
    with ExitStack() as stack:
        callers = [stack.enter_context(Caller(machine.address)) for _ in range(20)]
        asked = [one.send("Cancel", place=(NAME, held, JOB)) for one in callers]
        assert [one.reply(serial) for one, serial in zip(callers, asked, strict=True)] == [[]] * 20
    assert caller.wait_over(held) == "cancelled"
    caller.cancel(held)  # is over: nothing to do, and no error
    assert caller.get(held, JOB, "State") == "cancelled"


def test_readers_run_beside_a_job(caller: Caller, held: str) -> None:
    checked = caller.manager("Fsck", **{"metadata-only": True})
    assert caller.wait_over(checked) == "succeeded"
    assert caller.get(checked, JOB, "Result")["ok"] is True
    assert caller.get(held, JOB, "State") == "running"


def test_a_job_and_its_end_are_told_once_and_in_order(machine: Machine, caller: Caller) -> None:
    with Caller(machine.address) as watcher:
        watcher.listen()
        job = caller.manager("Cleanup")
        assert watcher.signal(lambda signal: signal.member == "JobNew").body[1] == job
        states = []
        while True:
            signal = watcher.signal(lambda signal: signal.path == job or signal.member in ("JobNew", "JobRemoved"))
            assert signal.member != "JobNew"
            if signal.member == "JobRemoved":
                assert signal.body[1:3] == [job, "succeeded"]
                break
            if signal.member == "PropertiesChanged" and "State" in signal.body[1]:
                states.append(signal.body[1]["State"].value)
        assert states == ["succeeded"]
