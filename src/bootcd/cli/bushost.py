# SPDX-License-Identifier: Apache-2.0
"""The `Host` that asks the daemon.

A change is a job of the daemon: subscribe, call, follow the job's properties until `JobRemoved`, then read how it
ended. The order matters, since signals that come before the subscription are lost. The job belongs to nobody: when
this process is killed, it goes on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BootcdError, DeploymentNotFound, FormatError, Interrupted, Unsupported
from ..linux.run import background
from ..model import ImageReference, Progress
from ..ops.decisions import PolicyReport
from ..ops.diagnosis import Diagnosis
from ..ops.host import Host
from ..ops.resultjson import from_json
from ..ops.results import (
    ChangeResult,
    CheckResult,
    CollectResult,
    DiskResult,
    EtcDiff,
    EtcReport,
    EtcReset,
    EtcRules,
    Explanation,
    FsckResult,
    HealthReport,
    ImageInfo,
    Kargs,
    PullResult,
    Status,
    TrustReport,
)
from .client import ASK_TIMEOUT, DBUS, JOB, MANAGER, NAME, PROPERTIES, ROOT, Connection, Reply, Signal
from .jobs import BusError, Follower, RunningJob, error_of, gone

if TYPE_CHECKING:
    from ..deploy.disk import DiskOptions

T = TypeVar("T")


class BusHost:
    """See `ops.host.Host` for what each method means. A context manager.

    `direct` makes the one that does what is never asked of the daemon. With `interactive`, polkit may ask for a
    password, on this terminal where no other agent is there. With `background`, nobody waits for the jobs. Raises
    client.Unreachable when there is no bus at `address`.
    """

    def __init__(
        self, address: str, progress: Progress, direct: Callable[[], Host], interactive: bool = False,
        background: bool = False,
    ) -> None:
        self._address = address
        self._progress = progress
        self._direct = direct
        self._interactive = interactive
        self._options: dict[str, Any] = {"background": True} if background else {}
        self._bus = Connection(address)
        self._subscribed = False

    def __enter__(self) -> BusHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bus; jobs go on."""
        self._bus.close()

    def present(self) -> bool:
        """Whether the daemon runs or would be started by a call."""
        try:
            if self._bus.owner():
                return True
            reply = self._bus.call(DBUS, "/org/freedesktop/DBus", DBUS, "ListActivatableNames")
        except BusError:
            return False
        return NAME in reply.arguments[0]

    # --- what is answered at once ---

    def status(self) -> Status:
        return _result(Status, self._ask("status", "GetStatus", {}))

    def explain(self, topic: str) -> Explanation:
        return _result(Explanation, self._ask("explain", "Explain", topic, {}))

    def policy(self) -> PolicyReport:
        return _result(PolicyReport, self._ask("policy show", "GetPolicy", {}))

    def image_list(self) -> tuple[ImageInfo, ...]:
        found = self._ask("image list", "ListImages", {})
        if not isinstance(found, list):
            raise _nonsense("a list is missing")
        return tuple(_result(ImageInfo, item) for item in found)

    def image_inspect(self, image: str) -> ImageInfo:
        return _result(ImageInfo, self._ask("image inspect", "InspectImage", image, {}))

    def kargs_show(self) -> Kargs:
        return _result(Kargs, self._ask("kargs show", "GetKernelArguments", {}))

    def running(self) -> RunningJob | None:
        """The job that changes something now."""
        return self._active()[1]

    def _active(self) -> tuple[str, RunningJob | None]:
        try:
            path = self._bus.call(NAME, ROOT, PROPERTIES, "Get", "ss", MANAGER, "ActiveJob").arguments[0]
            return path, RunningJob.read(self._bus.properties(path, JOB)) if path != "/" else None
        except BusError:  # the job, or the daemon, has ended since
            return "/", None

    # --- what only the daemon does ---

    def policy_run(self) -> tuple[PolicyReport, CheckResult | ChangeResult | None]:
        """Let the policy begin its next step, and wait for its end: what was decided, and what came of it; None when no
        job was begun."""
        doing = "policy run"
        with self._bus.interrupts_held():
            try:
                reply = self._start("RunPolicy", {})
                if [type(one) for one in reply.arguments] != [str, dict]:
                    raise _nonsense("the job or the policy is missing")
                path, report = reply.arguments
                if path == "/":
                    return _result(PolicyReport, report), None
                kind = self._bus.properties(path, JOB).get("Kind")
                outcome = self._follow(doing, reply.sender, path)
            except BusError as error:
                raise error_of(error, doing) from error
        result = _result(CheckResult, outcome) if kind == "check" else _result(ChangeResult, outcome)
        return _result(PolicyReport, report), result

    def cancel_reboot(self) -> bool:
        """Take back the reboot that the policy has planned; whether there was one."""
        try:
            with self._agent():
                reply = self._bus.call(NAME, ROOT, MANAGER, "CancelReboot", "a{sv}", {}, timeout=ASK_TIMEOUT,
                                       interactive=self._interactive)
        except BusError as error:
            raise error_of(error, "policy cancel-reboot") from error
        return bool(reply.arguments and reply.arguments[0] is True)

    def cancel(self) -> RunningJob | None:
        """Ask the job that changes something now to stop; None when there is none."""
        path, job = self._active()
        if job is not None:
            try:
                with self._agent():
                    self._bus.call(NAME, path, JOB, "Cancel", timeout=ASK_TIMEOUT, interactive=self._interactive)
            except BusError as error:
                raise error_of(error, "cancel") from error
        return job

    # --- jobs ---

    def check(self) -> CheckResult:
        return _result(CheckResult, self._job("check", "Check", self._options))

    def upgrade(self, *, download_only: bool = False, allow_rejected: bool = False, allow_untried: bool = False,
                allow_downgrade: bool = False, take_from: str = "", from_downloaded: bool = False, apply: bool = False,
                soft_reboot: str = "no", max_rate: int | None = None, max_download: int | None = None,
                only: str = "") -> ChangeResult:
        wanted = {"allow-rejected": allow_rejected, "allow-untried": allow_untried,
                  "allow-downgrade": allow_downgrade, "from-downloaded": from_downloaded}
        options = (self._options | _set(wanted) | _taking(take_from) | _applying(apply, soft_reboot)
                   | _limits(max_rate, max_download) | ({"only": only} if only else {}))
        return _result(ChangeResult, self._job("upgrade", "Download" if download_only else "Upgrade", options))

    def switch(self, image: str, *, download_only: bool = False, allow_untried: bool = False, take_from: str = "",
               apply: bool = False, soft_reboot: str = "no", max_rate: int | None = None,
               max_download: int | None = None) -> ChangeResult:
        wanted = {"download-only": download_only, "allow-untried": allow_untried}
        options = (self._options | _set(wanted) | _taking(take_from) | _applying(apply, soft_reboot)
                   | _limits(max_rate, max_download))
        return _result(ChangeResult, self._job("switch", "Switch", _absolute(image), options))

    def finalize(self) -> ChangeResult:
        return _result(ChangeResult, self._job("finalize", "Finalize", {}))

    def rollback(self, deployment: str | None = None, *, apply: bool = False, soft_reboot: str = "no") -> ChangeResult:
        if deployment == "":  # which over the bus means the previous one
            raise DeploymentNotFound("no deployment is called ''")
        return _result(ChangeResult, self._job("rollback", "Rollback", deployment or "",
                                               _applying(apply, soft_reboot)))

    def pin(self, deployment: str, label: str = "") -> ChangeResult:
        return _result(ChangeResult, self._job("pin", "Pin", deployment, {"label": label} if label else {}))

    def unpin(self, deployment: str, label: str | None = None) -> ChangeResult:
        options = {} if label is None else {"label": label}
        return _result(ChangeResult, self._job("unpin", "Unpin", deployment, options))

    def unstage(self) -> ChangeResult:
        return _result(ChangeResult, self._job("unstage", "Unstage", {}))

    def kargs_add(self, arguments: Sequence[str]) -> ChangeResult:
        return _result(ChangeResult, self._job("kargs add", "AddKernelArguments", list(arguments), {}))

    def kargs_remove(self, arguments: Sequence[str]) -> ChangeResult:
        return _result(ChangeResult, self._job("kargs remove", "RemoveKernelArguments", list(arguments), {}))

    def kargs_replace(self, old: str, new: str) -> ChangeResult:
        return _result(ChangeResult, self._job("kargs replace", "ReplaceKernelArgument", old, new, {}))

    def kargs_reload(self) -> ChangeResult:
        return _result(ChangeResult, self._job("kargs reload", "ReloadKernelArguments", {}))

    def reset(self, what: str, *, dry_run: bool = False) -> ChangeResult:
        return _result(ChangeResult, self._job("reset", "Reset", what, {"dry-run": True} if dry_run else {}))

    def cleanup(self, *, dry_run: bool = False) -> CollectResult:
        options = self._options | ({"dry-run": True} if dry_run else {})
        return _result(CollectResult, self._job("cleanup", "Cleanup", options))

    def fsck(self, *, repair: bool = False, metadata_only: bool = False) -> FsckResult:
        wanted = {"repair": repair, "metadata-only": metadata_only}
        options = self._options | {name: True for name, value in wanted.items() if value}
        return _result(FsckResult, self._job("fsck", "Fsck", options))

    def image_pull(self, image: str, *, name: str = "", bootable: bool = False, max_rate: int | None = None,
                   max_download: int | None = None) -> PullResult:
        # The name is what the reference would be called here, whatever the daemon is told.
        wanted = {"name": name or str(ImageReference.parse(image)), "bootable": bootable}
        options = self._options | {key: value for key, value in wanted.items() if value} | _limits(
            max_rate, max_download)
        return _result(PullResult, self._job("image pull", "PullImage", _absolute(image), options))

    def image_verify(self, image: str) -> TrustReport:
        return _result(TrustReport, self._job("image verify", "VerifyImage", _absolute(image), {}))

    def image_remove(self, image: str) -> None:
        self._job("image remove", "RemoveImage", image, {})

    # --- what is never asked of the daemon ---

    def doctor(self, image: str, *, offline: bool = False) -> Diagnosis:
        return self._direct().doctor(image, offline=offline)

    def boot_started(self) -> ChangeResult:
        return self._direct().boot_started()

    def boot_failed(self, reason: str) -> ChangeResult:
        return self._direct().boot_failed(reason)

    def health_check(self) -> HealthReport:
        return self._direct().health_check()

    def boot_complete(self) -> ChangeResult:
        return self._direct().boot_complete()

    def etc_diff(self, deployment: str | None = None, *, text: bool = False) -> EtcDiff:
        return self._direct().etc_diff(deployment, text=text)

    def etc_report(self, deployment: str | None = None) -> EtcReport:
        return self._direct().etc_report(deployment)

    def etc_reset(self, paths: Sequence[str], *, dry_run: bool = False) -> EtcReset:
        return self._direct().etc_reset(paths, dry_run=dry_run)

    def etc_rules(self, path: str | None = None) -> EtcRules:
        return self._direct().etc_rules(path)

    def adopt(self, *, dry_run: bool = False) -> ChangeResult:
        return self._direct().adopt(dry_run=dry_run)

    def install(self, image: str, *, kargs: Sequence[str] = (), take_from: str = "") -> ChangeResult:
        return self._direct().install(image, kargs=kargs, take_from=take_from)

    def install_to_disk(self, disk: str, image: str, options: DiskOptions, *, take_from: str = "") -> DiskResult:
        return self._direct().install_to_disk(disk, image, options, take_from=take_from)

    def image_mount(self, image: str, directory: str, *, bootable: bool = False) -> None:
        self._direct().image_mount(image, directory, bootable=bootable)

    def image_import_tar(self, tar: str, name: str) -> PullResult:
        return self._direct().image_import_tar(tar, name)

    # --- how it is asked ---

    def _ask(self, doing: str, member: str, *arguments: Any) -> Any:
        try:
            reply = self._bus.call(NAME, ROOT, MANAGER, member, _signature(arguments), *arguments)
        except BusError as error:
            raise error_of(error, doing) from error
        return reply.arguments[0] if reply.arguments else None

    def _job(self, doing: str, member: str, *arguments: Any) -> Any:
        with self._bus.interrupts_held():
            try:
                reply = self._start(member, *arguments)
                if not (reply.arguments and isinstance(reply.arguments[0], str)):
                    raise _nonsense("the path of the job is missing")
                return self._follow(doing, reply.sender, reply.arguments[0])
            except BusError as error:
                raise error_of(error, doing) from error

    def _start(self, member: str, *arguments: Any) -> Reply:
        """Call a method that begins a job."""
        if not self._subscribed:
            self._bus.subscribe()
            self._subscribed = True
        with self._agent():
            return self._bus.call(NAME, ROOT, MANAGER, member, _signature(arguments), *arguments, timeout=ASK_TIMEOUT,
                                  interactive=self._interactive)

    @contextlib.contextmanager
    def _agent(self) -> Iterator[None]:
        """Somebody who can ask for a password, where that may be needed and nobody else is there."""
        with contextlib.ExitStack() as stack:
            if self._interactive and os.geteuid() != 0:
                with contextlib.suppress(Unsupported):
                    stack.enter_context(background(
                        ["pkttyagent", "--process", str(os.getpid()), "--fallback"], ready="--notify-fd",
                        env={"DBUS_SYSTEM_BUS_ADDRESS": self._address}))
            yield

    def _follow(self, doing: str, owner: str, path: str) -> Any:
        """Wait until the job has ended, and return its result."""
        follower = Follower(self._progress)
        state = self._bus.properties(path, JOB)
        ended = [self._heard(signal, doing, owner, path, follower) for signal in self._bus.arrived()]
        follower.changed(state)  # no older than the signals that came before it
        asked = False
        while not any(ended):
            try:
                signal = self._bus.next()
                ended = [signal is not None and self._heard(signal, doing, owner, path, follower)]
            except KeyboardInterrupt:
                if asked or not self._cancel(doing, path):
                    raise Interrupted(f"'{doing}' goes on without bootcctl",
                                      advice="'bootcctl status' and 'bootcctl monitor' show it.") from None
                asked = True
        return self._outcome(doing, path)

    def _heard(self, signal: Signal, doing: str, owner: str, path: str, follower: Follower) -> bool:
        """Take a signal to heart; whether it says that the job has ended."""
        match signal.member, signal.arguments:
            case "NameOwnerChanged", [_, old, _] if signal.sender == DBUS and old == owner:
                raise gone(doing)
            case _ if signal.sender != owner:
                return False
            case "PropertiesChanged", [interface, dict() as changed, *_] if (signal.path, interface) == (path, JOB):
                follower.changed(changed)
            case "Note", [message] if signal.path == path:
                follower.note(message)
            case "JobRemoved", [_, job, *_] if job == path:
                return True
        return False

    def _cancel(self, doing: str, path: str) -> bool:
        """Ask the job to stop; False when there was another interrupt meanwhile."""
        self._progress.note(f"Stopping '{doing}'; interrupt again to leave it running.")
        try:
            self._bus.call(NAME, path, JOB, "Cancel", timeout=ASK_TIMEOUT, interactive=self._interactive)
        except BusError as error:
            self._progress.note(f"It cannot be stopped: {error_of(error, 'cancel')}")
        except KeyboardInterrupt:
            return False
        return True

    def _outcome(self, doing: str, path: str) -> Any:
        state = self._bus.properties(path, JOB)
        match state.get("State"), state.get("Error"):
            case "succeeded", _:
                return state.get("Result")
            case _, [str() as name, str() as message, str() as advice] if name:
                raise error_of(BusError(name, message, advice), doing)
            case "cancelled", _:
                raise Interrupted(f"'{doing}' was cancelled; what was finished is kept")
        raise _nonsense(f"'{doing}' ended as {state.get('State')!r}")


def _result(kind: type[T], document: object) -> T:
    try:
        return from_json(kind, document)
    except FormatError as error:
        raise _nonsense(str(error)) from error


def _nonsense(what: str) -> BootcdError:
    return FormatError(f"bootcd answered what bootcctl does not understand: {what}",
                       advice="They are of different versions; 'systemctl restart bootcd' brings them together.")


def _signature(arguments: Sequence[Any]) -> str:
    """That of the arguments of a method: strings, lists of strings, and options."""
    return "".join("s" if isinstance(one, str) else "as" if isinstance(one, list) else "a{sv}" for one in arguments)


def _set(wanted: dict[str, bool]) -> dict[str, Any]:
    """The options that are wanted."""
    return {name: True for name, value in wanted.items() if value}


def _applying(apply: bool, soft_reboot: str) -> dict[str, Any]:
    return ({"apply": True} if apply else {}) | ({"soft-reboot": soft_reboot} if soft_reboot != "no" else {})


def _taking(place: str) -> dict[str, Any]:
    return {"take-from": _absolute(place)} if place else {}


def _limits(max_rate: int | None, max_download: int | None) -> dict[str, Any]:
    wanted = {"max-rate": max_rate, "max-download": max_download}
    return {name: value for name, value in wanted.items() if value is not None}


def _absolute(image: str) -> str:
    reference = ImageReference.parse(image)
    return str(reference.absolute()) if reference.path else image
