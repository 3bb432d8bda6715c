# SPDX-License-Identifier: Apache-2.0
"""Who may do what, decided by a real polkitd on a private bus, for callers that are other programs of another user."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from dbus_next import BusType, Message, MessageType, Variant
from dbus_next.aio import MessageBus

from bootcd.daemon.bus import Bus, Call, Exported
from bootcd.daemon.interfaces import DEPLOYMENT, JOB, MANAGER
from bootcd.daemon.polkit import Authority, details_of
from kit import polkit
from kit.bus import SystemBus
from kit.polkit import POLICY, Polkit

NOBODY = 65534
OTHER = 1
"""daemon: the bus refuses users that it cannot find."""
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
CHALLENGE = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
AUTHORITY = "/org/freedesktop/PolicyKit1/Authority"

YES = "polkit.addRule(function(action, subject) { return polkit.Result.YES; });\n"
NO = "polkit.addRule(function(action, subject) { return polkit.Result.NO; });\n"

INTERFACES = (MANAGER, DEPLOYMENT, JOB)

needs_users = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("gdbus"),
    reason="needs root, setpriv and gdbus, to call as another user")
needs_polkit = pytest.mark.skipif(bool(polkit.missing()), reason=polkit.missing() or "-")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus]:
    directory = tmp_path_factory.mktemp("bus")
    with SystemBus(directory) as started:
        yield started


class Service:
    """The objects, with handlers that only note who was let through."""

    def __init__(self, system: SystemBus, bus: Bus) -> None:
        self.address = system.address
        self.bus = bus
        self.allowed: list[str] = []

    def handler(self, member: str, answer: list[Any]) -> Callable[[Call], Awaitable[list[Any]]]:
        async def handle(call: Call) -> list[Any]:
            self.allowed.append(member)
            return answer
        return handle

    async def ask(self, member: str, *arguments: str, uid: int = NOBODY, interactive: bool = False,
                  path: str = "/org/bootcd1", interface: str = MANAGER.name) -> str:
        """Call a method in a process of that user. Returns the name of the error, empty for success."""
        process = await self.process(
            "gdbus", "call", f"--address={self.address}", "--dest=org.bootcd1", f"--object-path={path}",
            f"--method={interface}.{member}", *(["--interactive"] if interactive else []), "--timeout=20", *arguments,
            uid=uid)
        output, errors = await process.communicate()
        if process.returncode == 0:
            return ""
        found = re.search(r"GDBus\.Error:([A-Za-z0-9_.]+):", errors.decode())
        assert found, (output, errors)
        return found[1]

    async def process(self, *command: str, uid: int = NOBODY) -> asyncio.subprocess.Process:
        user = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec("setpriv", *user, *command, stdin=pipe, stdout=pipe, stderr=pipe,
                                                    cwd="/")


@contextlib.asynccontextmanager
async def serving(system: SystemBus, *, patience: float = 5.0, owner: int | None = None) -> AsyncIterator[Service]:
    """Job 1 was started by `owner`."""
    authority: Authority

    async def authorize(call: Call, action: str) -> None:
        await authority.authorize(call, action)

    bus = await Bus.connect(system.address, authorize)
    authority = Authority(bus, lambda path: owner if path == "/org/bootcd1/job/1" else None, patience=patience)
    service = Service(system, bus)
    answers = {"o": "/org/bootcd1/job/1", "a{sv}": {}, "aa{sv}": [], "b": False}
    places = (("/org/bootcd1", MANAGER), ("/org/bootcd1/deployment/abcd", DEPLOYMENT), ("/org/bootcd1/job/1", JOB))
    for path, interface in places:
        handlers = {name: service.handler(name, [answers[argument.type] for argument in method.outputs])
                    for name, method in interface.methods.items()}
        values = {"s": "", "b": False, "t": 0, "u": 0, "o": "/", "as": [], "ao": [], "a{sv}": {}, "a(ss)": [],
                  "(sss)": ["", "", ""], "(sus)": ["", 0, ""]}
        properties = {name: values.get(found.type, []) for name, found in interface.properties.items()}
        bus.export(path, Exported(interface, handlers, properties))
    try:
        await bus.own("org.bootcd1")
        yield service
    finally:
        bus.close()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(bus.lost(), 5)


def noticed(service: Service) -> asyncio.Event:
    """Set when the daemon is about to ask polkit."""
    event, call = asyncio.Event(), service.bus.call

    async def watched(*arguments: Any, **options: Any) -> list[Any]:
        if "CheckAuthorization" in arguments:
            asyncio.get_running_loop().call_soon(event.set)
        return await call(*arguments, **options)

    service.bus.call = watched  # type: ignore[method-assign]
    return event


# --- what the rules say -----------------------------------------------------------------------------------------------


@needs_users
@needs_polkit
def test_an_option_may_need_a_right_of_its_own(bus: SystemBus) -> None:
    rules = """polkit.addRule(function(action, subject) {
        return action.id == "org.bootcd1.reboot" ? polkit.Result.NO : polkit.Result.YES;
    });\n"""

    async def main() -> None:
        async with serving(bus) as service:
            assert await service.ask("Upgrade", "{'apply': <true>}") == DENIED
            assert await service.ask("Rollback", "", "{'apply': <true>, 'soft-reboot': <'auto'>}") == DENIED
            assert await service.ask("Rollback", "{'apply': <true>}", path="/org/bootcd1/deployment/abcd",
                                     interface=DEPLOYMENT.name) == DENIED
            assert service.allowed == []
            assert await service.ask("Upgrade", "{'apply': <false>, 'allow-rejected': <true>}") == ""

    with Polkit(bus, rules):
        asyncio.run(main())


@needs_users
@needs_polkit
def test_who_may_upgrade_may_not_say_from_where(bus: SystemBus) -> None:
    """Without a policy for signatures, that says what will run."""
    rules = """polkit.addRule(function(action, subject) {
        return action.id == "org.bootcd1.switch" ? polkit.Result.NO : polkit.Result.YES;
    });\n"""

    async def main() -> None:
        async with serving(bus) as service:
            for member in ("Upgrade", "Download"):
                assert await service.ask(member, "{'take-from': <'oci:/media/usb'>}") == DENIED
            assert await service.ask("Switch", "quay.io/os:1", "{'take-from': <'oci:/media/usb'>}") == DENIED
            assert service.allowed == []
            assert await service.ask("Upgrade", "{'take-from': <''>}") == ""

    with Polkit(bus, rules):
        asyncio.run(main())


@needs_users
@needs_polkit
def test_polkit_decides(bus: SystemBus, caplog: pytest.LogCaptureFixture) -> None:
    rules = """polkit.addRule(function(action, subject) {
        if (subject.user != "nobody") return polkit.Result.NO;
        if (action.id == "org.bootcd1.check") return polkit.Result.YES;
        if (action.id == "org.bootcd1.fsck") return polkit.Result.NO;
    });\n"""

    async def main() -> None:
        async with serving(bus) as service:
            assert await service.ask("Check", "{}") == ""
            assert await service.ask("Check", "{}", uid=OTHER) == DENIED
            assert await service.ask("Fsck", "{}") == DENIED
            # Nobody is there who could type a password, asked for or not.
            assert await service.ask("Upgrade", "{}") == CHALLENGE
            assert await service.ask("Upgrade", "{}", interactive=True) == CHALLENGE
            assert await service.ask("GetStatus", "{}") == ""
            assert service.allowed == ["Check", "GetStatus"]

    with Polkit(bus, rules), caplog.at_level(logging.WARNING):
        asyncio.run(main())
    refused = [record.getMessage() for record in caplog.records if "Refused" in record.getMessage()]
    assert [re.sub(r":1\.\d+", ":1.x", text) for text in refused] == [
        f"Refused org.bootcd1.check to uid {OTHER} (:1.x): polkit does not allow it.",
        f"Refused org.bootcd1.fsck to uid {NOBODY} (:1.x): polkit does not allow it.",
        *[f"Refused org.bootcd1.stage to uid {NOBODY} (:1.x): it needs authentication, which nobody could be asked "
          "for."] * 2]


@needs_users
@needs_polkit
def test_rules_see_what_is_named(bus: SystemBus) -> None:
    rules = """polkit.addRule(function(action, subject) {
        if (action.lookup("image") == "example.org/good") return polkit.Result.YES;
        if (action.lookup("deployment") == "abcd") return polkit.Result.YES;
        if (action.lookup("job") == "1") return polkit.Result.YES;
        if (action.lookup("arguments") == "quiet splash") return polkit.Result.YES;
        return polkit.Result.NO;
    });\n"""
    deployment = {"path": "/org/bootcd1/deployment/abcd", "interface": DEPLOYMENT.name}
    job = {"path": "/org/bootcd1/job/1", "interface": JOB.name}

    async def main() -> None:
        async with serving(bus) as service:
            assert await service.ask("Switch", "example.org/good", "{}") == ""
            assert await service.ask("Switch", "example.org/bad", "{}") == DENIED
            assert await service.ask("PullImage", "example.org/good", "{}") == ""
            assert await service.ask("Rollback", "abcd", "{}") == ""
            assert await service.ask("Rollback", "", "{}") == DENIED
            assert await service.ask("Rollback", "{}", **deployment) == ""
            assert await service.ask("Cancel", **job) == ""
            assert await service.ask("AddKernelArguments", "['quiet', 'splash']", "{}") == ""
            assert await service.ask("AddKernelArguments", "['init=/bin/sh']", "{}") == DENIED
            assert service.allowed == ["Switch", "PullImage", "Rollback", "Rollback", "Cancel", "AddKernelArguments"]

    with Polkit(bus, rules):
        asyncio.run(main())


def test_details() -> None:
    def call(interface: str, member: str, *arguments: Any, path: str = "/org/bootcd1") -> Call:
        return Call(sender=":1.1", path=path, interface=interface, member=member, arguments=arguments,
                    interactive=False)

    assert details_of(call(MANAGER.name, "Upgrade", {})) == {}
    assert details_of(call(MANAGER.name, "Reload", {})) == {}
    assert details_of(call(MANAGER.name, "Pin", "abcd", {"label": "x"})) == {"deployment": "abcd"}
    assert details_of(call(MANAGER.name, "RemoveImage", "name", {})) == {"image": "name"}
    assert details_of(call(MANAGER.name, "AddKernelArguments", ["a", "b"], {})) == {"arguments": "a b"}
    assert details_of(call(MANAGER.name, "ReplaceKernelArgument", "a", "b", {})) == {"old": "a", "new": "b"}
    path = "/org/bootcd1/deployment/abcd"
    assert details_of(call(DEPLOYMENT.name, "Pin", {}, path=path)) == {"deployment": "abcd"}


@needs_users
@needs_polkit
def test_only_root_sends_details(bus: SystemBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polkit refuses them from anybody else, and then nobody could do anything."""
    rules = """polkit.addRule(function(action, subject) {
        return action.lookup("image") ? polkit.Result.NO : polkit.Result.YES;
    });\n"""

    async def main() -> None:
        async with serving(bus) as service:
            assert await service.ask("Switch", "example.org/os", "{}") == DENIED
            monkeypatch.setattr("os.geteuid", lambda: OTHER)
            assert await service.ask("Switch", "example.org/os", "{}") == ""

    with Polkit(bus, rules):
        asyncio.run(main())


@needs_users
@needs_polkit
def test_an_action_that_polkit_does_not_know_is_refused(bus: SystemBus, tmp_path: Path) -> None:
    policy = tmp_path / "other.policy"
    policy.write_text(POLICY.read_text().replace("org.bootcd1.", "org.example."))

    async def main() -> None:
        async with serving(bus) as service:
            assert await service.ask("Check", "{}") == DENIED
            assert await service.ask("GetStatus", "{}") == ""

    with Polkit(bus, YES, policy=policy):
        asyncio.run(main())


@needs_users
@needs_polkit
def test_root_and_the_starter_of_a_job_are_not_asked(bus: SystemBus) -> None:
    job = {"path": "/org/bootcd1/job/1", "interface": JOB.name}

    async def main() -> None:
        async with serving(bus, owner=NOBODY) as service:
            assert await service.ask("Switch", "example.org/os", "{}", uid=0) == ""
            assert await service.ask("Cancel", **job) == ""
            assert await service.ask("Cancel", uid=OTHER, **job) == DENIED
            # Being the starter helps for nothing else.
            assert await service.ask("Check", "{}") == DENIED
        async with serving(bus, owner=None) as service:
            assert await service.ask("Cancel", **job) == DENIED

    with Polkit(bus, NO):
        asyncio.run(main())


# --- polkit in trouble ------------------------------------------------------------------------------------------------


@needs_users
def test_without_polkit_only_root_may(bus: SystemBus) -> None:
    async def main() -> None:
        async with serving(bus, patience=60) as service:
            assert await service.ask("Check", "{}", uid=0) == ""
            begin = time.monotonic()
            assert await service.ask("Check", "{}") == DENIED
            assert await service.ask("Check", "{}", interactive=True) == DENIED
            assert time.monotonic() - begin < 30, "nothing to wait for"
            assert await service.ask("GetStatus", "{}") == ""
            assert service.allowed == ["Check", "GetStatus"]

    asyncio.run(main())


@needs_users
@needs_polkit
def test_polkit_that_hangs_holds_nobody_else_up(bus: SystemBus, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(bus, patience=3) as service:
            running.freeze()
            begin = time.monotonic()
            refused = asyncio.create_task(service.ask("Check", "{}"))
            assert await service.ask("GetStatus", "{}") == ""
            assert await service.ask("Check", "{}", uid=0) == ""
            assert not refused.done(), "the others had to be quicker than the patience"
            assert await refused == DENIED
            assert time.monotonic() - begin >= 3
            assert service.allowed == ["GetStatus", "Check"]

    with Polkit(bus, YES) as running:
        asyncio.run(main())
    assert "did not answer CheckAuthorization in 3 seconds" in caplog.text


@needs_users
@needs_polkit
def test_polkit_that_dies_over_a_question(bus: SystemBus) -> None:
    async def main() -> None:
        async with serving(bus, patience=60) as service:
            asked_polkit = noticed(service)
            running.freeze()
            asked = asyncio.create_task(service.ask("Check", "{}"))
            await asked_polkit.wait()
            # What the daemon sends keeps its order, so after this answer the question is with polkit.
            assert await service.ask("GetStatus", "{}") == ""
            assert not asked.done()
            running.kill()
            assert await asyncio.wait_for(asked, 10) == DENIED
            assert service.allowed == ["GetStatus"]

    with Polkit(bus, YES) as running:
        asyncio.run(main())


@needs_users
@pytest.mark.parametrize(("signature", "body"), [
    ("", []),
    ("s", ["yes"]),
    ("b", [True]),
    ("bba{ss}", [True, False, {}]),
    ("(bb)", [[True, False]]),
    ("(bbas)", [[True, False, []]]),
    ("(uua{ss})", [[1, 0, {}]]),
    ("(bba{ss})s", [[True, False, {}], "more"]),
], ids=lambda value: value if isinstance(value, str) else "")
def test_an_answer_that_is_none(bus: SystemBus, signature: str, body: list[Any]) -> None:
    async def main() -> None:
        async with serving(bus) as service, impostor(bus.address, signature, body):
            assert await service.ask("Check", "{}") == DENIED
            assert service.allowed == []

    asyncio.run(main())


@needs_users
def test_the_right_answer_of_the_same_impostor(bus: SystemBus) -> None:
    """Proves that the test above refuses for the answer's sake."""
    async def main() -> None:
        async with serving(bus) as service, impostor(bus.address, "(bba{ss})", [[True, False, {}]]):
            assert await service.ask("Check", "{}") == ""

    asyncio.run(main())


@contextlib.asynccontextmanager
async def connection(address: str) -> AsyncIterator[MessageBus]:
    client = await MessageBus(bus_address=address, bus_type=BusType.SYSTEM).connect()
    try:
        yield client
    finally:
        client.disconnect()
        await asyncio.wait_for(client.wait_for_disconnect(), 5)
        client._stream.close()
        client._sock.close()


@contextlib.asynccontextmanager
async def impostor(address: str, signature: str, body: list[Any]) -> AsyncIterator[None]:
    """Something that calls itself polkit and answers that."""
    async with connection(address) as client:
        def answer(message: Message) -> Message | None:
            if message.message_type is MessageType.METHOD_CALL and message.member == "CheckAuthorization":
                return Message.new_method_return(message, signature, body)
            return None

        client.add_message_handler(answer)
        await client.request_name(polkit.NAME)
        yield


@needs_users
@pytest.mark.parametrize("leaves", [True, False], ids=["the caller leaves", "polkit takes too long"])
def test_a_question_that_nobody_needs_answered_is_withdrawn(bus: SystemBus, leaves: bool) -> None:
    async def main() -> None:
        async with serving(bus, patience=60 if leaves else 0.3) as service, silent(bus.address) as (asked, withdrawn):
            caller = await service.process(
                "gdbus", "call", f"--address={bus.address}", "--dest=org.bootcd1", "--object-path=/org/bootcd1",
                "--method=org.bootcd1.Manager.Check", *(["--interactive"] if leaves else []), "{}")
            question = await asyncio.wait_for(asked.get(), 10)
            assert question[3:4] == [1 if leaves else 0], "flags"
            if leaves:
                caller.kill()
            assert await asyncio.wait_for(withdrawn.get(), 10) == [question[4]], "the id of that question"
            await caller.communicate()
            assert (service.allowed, asked.qsize()) == ([], 0)

    asyncio.run(main())


@contextlib.asynccontextmanager
async def silent(address: str) -> AsyncIterator[tuple[asyncio.Queue[list[Any]], asyncio.Queue[list[Any]]]]:
    """Something that calls itself polkit and never answers: what it was asked, and what was withdrawn."""
    asked: asyncio.Queue[list[Any]] = asyncio.Queue()
    withdrawn: asyncio.Queue[list[Any]] = asyncio.Queue()
    queues = {"CheckAuthorization": asked, "CancelCheckAuthorization": withdrawn}
    async with connection(address) as client:
        def note(message: Message) -> bool | None:
            if message.message_type is not MessageType.METHOD_CALL or message.member not in queues:
                return None
            queues[message.member].put_nowait(message.body)
            return True

        client.add_message_handler(note)
        await client.request_name(polkit.NAME)
        yield asked, withdrawn


# --- passwords --------------------------------------------------------------------------------------------------------


class Agent:
    """What a desktop shows a password prompt with. It must be root's, for root alone may tell polkit that a password
    was right; on a real desktop a setuid helper does that."""

    def __init__(self, client: MessageBus) -> None:
        self._client = client
        self._prompt: asyncio.Queue[Message] = asyncio.Queue()
        self.cancelled = asyncio.Event()
        client.add_message_handler(self._handle)

    async def register(self, pid: int) -> None:
        """Prompt for whatever that process asks for."""
        start = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        subject = ["unix-process", {"pid": Variant("u", pid), "start-time": Variant("t", start)}]
        await self._call("RegisterAuthenticationAgent", "(sa{sv})ss", [subject, "C", "/agent"])

    async def prompted(self) -> Message:
        """The next prompt: its body is action, message, icon, details, cookie, identities."""
        return await asyncio.wait_for(self._prompt.get(), 10)

    async def right_password(self, prompt: Message) -> None:
        await self._call("AuthenticationAgentResponse2", "us(sa{sv})", [0, prompt.body[4], prompt.body[5][0]])
        self.done(prompt)

    def done(self, prompt: Message) -> None:
        """Close the prompt, whatever was typed."""
        self._client.send(Message.new_method_return(prompt))

    def _handle(self, message: Message) -> bool | Message | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        if message.member == "BeginAuthentication":
            self._prompt.put_nowait(message)
            return True  # answered when somebody has typed something
        if message.member == "CancelAuthentication":
            self.cancelled.set()
            return Message.new_method_return(message)
        return None

    async def _call(self, member: str, signature: str, body: list[Any]) -> None:
        reply = await self._client.call(Message(
            destination=polkit.NAME, path=AUTHORITY, interface="org.freedesktop.PolicyKit1.Authority", member=member,
            signature=signature, body=body))
        assert reply is not None
        assert reply.message_type is MessageType.METHOD_RETURN, reply.body


@contextlib.asynccontextmanager
async def prompting(service: Service, *, interactive: bool = True) -> AsyncIterator[tuple[Agent, Any]]:
    """A program of a user that asks for an upgrade, and the agent of its desktop."""
    command = ["gdbus", "call", f"--address={service.address}", "--dest=org.bootcd1", "--object-path=/org/bootcd1",
               "--method=org.bootcd1.Manager.Upgrade", *(["--interactive"] if interactive else []), "--timeout=60",
               "{}"]
    async with connection(service.address) as client:
        # It waits for the agent to be there; a process keeps its id and its start time over exec.
        program = await service.process("sh", "-c", 'echo; head -c 1 "$0" > /dev/null; exec "$@"', "/dev/stdin",
                                        *command)
        try:
            assert program.stdout is not None
            await program.stdout.readline()  # no longer root by now
            agent = Agent(client)
            await agent.register(program.pid)
            assert program.stdin is not None
            program.stdin.write(b"\n")
            yield agent, program
        finally:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
            await program.communicate()


@needs_users
@needs_polkit
def test_the_right_password(bus: SystemBus) -> None:
    async def main() -> None:
        # Typing takes longer than polkit has when nobody is asked.
        async with serving(bus, patience=0.2) as service, prompting(service) as (agent, program):
            prompt = await agent.prompted()
            assert prompt.body[:2] == ["org.bootcd1.stage",
                                       "Authentication is required to install an operating system update."]
            assert await service.ask("GetStatus", "{}") == ""
            await asyncio.sleep(0.5)
            assert service.allowed == ["GetStatus"]
            await agent.right_password(prompt)
            output, errors = await asyncio.wait_for(program.communicate(), 10)
            assert output == b"(objectpath '/org/bootcd1/job/1',)\n", errors
            assert service.allowed == ["GetStatus", "Upgrade"]

    with Polkit(bus):
        asyncio.run(main())


@needs_users
@needs_polkit
def test_a_dismissed_prompt(bus: SystemBus) -> None:
    async def main() -> None:
        async with serving(bus) as service, prompting(service) as (agent, program):
            agent.done(await agent.prompted())
            _, errors = await asyncio.wait_for(program.communicate(), 10)
            assert DENIED.encode() in errors
            assert service.allowed == []

    with Polkit(bus):
        asyncio.run(main())


@needs_users
@needs_polkit
def test_nobody_is_prompted_unasked(bus: SystemBus) -> None:
    async def main() -> None:
        async with serving(bus) as service, prompting(service, interactive=False) as (agent, program):
            _, errors = await asyncio.wait_for(program.communicate(), 10)
            assert CHALLENGE.encode() in errors
            assert agent._prompt.empty()

    with Polkit(bus):
        asyncio.run(main())


@needs_users
@needs_polkit
def test_the_prompt_goes_when_its_caller_goes(bus: SystemBus) -> None:
    async def main() -> None:
        async with serving(bus) as service, prompting(service) as (agent, program):
            await agent.prompted()
            program.kill()
            await asyncio.wait_for(agent.cancelled.wait(), 10)
            assert service.allowed == []

    with Polkit(bus):
        asyncio.run(main())


# --- the policy file --------------------------------------------------------------------------------------------------


def actions() -> dict[str, ElementTree.Element]:
    return {action.attrib["id"]: action for action in ElementTree.parse(POLICY).getroot().iter("action")}


def test_the_policy_has_the_actions_of_the_interfaces() -> None:
    methods = [method for interface in INTERFACES for method in interface.methods.values()]
    used = {one.action for method in methods for one in (method, *method.options.values())} - {""}
    assert used
    assert actions().keys() == used


def test_the_policy_is_what_its_dtd_says() -> None:
    root = ElementTree.parse(POLICY).getroot()
    assert root.tag == "policyconfig"
    assert [child.tag for child in root if child.tag != "action"] == ["vendor", "icon_name"]
    for action in actions().values():
        assert [child.tag for child in action] == ["description", "message", "defaults"]
        assert all(child.text for child in action)
        defaults = action.find("defaults")
        assert defaults is not None
        assert [child.tag for child in defaults] == ["allow_any", "allow_inactive", "allow_active"]
        assert {child.text for child in defaults} <= {"no", "yes", "auth_self", "auth_self_keep", "auth_admin",
                                                      "auth_admin_keep"}


def test_what_is_allowed_without_a_password() -> None:
    free = {name for name, action in actions().items() for found in action.iter() if found.text == "yes"}
    assert free == {"org.bootcd1.check", "org.bootcd1.download", "org.bootcd1.cancel-reboot"}
    anywhere = {name for name, action in actions().items() if action.findtext("defaults/allow_any") != "auth_admin"
                or action.findtext("defaults/allow_inactive") != "auth_admin"}
    assert not anywhere, f"no session, or one in the background, needs a password: {anywhere}"


@needs_polkit
def test_polkit_knows_each_action(bus: SystemBus) -> None:
    with Polkit(bus):
        listed = subprocess.run(
            ["gdbus", "call", f"--address={bus.address}", f"--dest={polkit.NAME}", f"--object-path={AUTHORITY}",
             "--method=org.freedesktop.PolicyKit1.Authority.EnumerateActions", "C"],
            capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"'(org\.[a-z0-9.-]+)', '", listed)) == set(actions())
