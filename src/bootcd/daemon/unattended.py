# SPDX-License-Identifier: Apache-2.0
"""What the daemon does without being asked: each call of `run` begins the next step that the update policy allows.

Checks, downloads and staging are ordinary jobs. A reboot is planned with logind, `[update] reboot-warning` ahead, so
that users are warned; until it comes, the policy is asked again and again, and a no takes it back. A timer calls
(bootcd-update.timer), so that nothing here has to be awake.

    <runtime directory>/reboot.json     the planned reboot, and one that somebody has cancelled; gone with the boot

A plan is written down before logind hears of it: whenever this process ends, the next one knows whose reboot it is that
logind has, and goes on looking after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..errors import BootcdError, FormatError, RebootRefused
from ..linux import files
from ..ops import policy, surroundings
from ..ops.decisions import PolicyReport
from ..ops.resultjson import from_json
from ..ops.rules import FLEETLOCK, STEPS, Facts, FleetLock, FleetLockAnswer, Rules, Surroundings, iso
from ..ops.subject import is_downloaded, target
from . import wire
from .bus import Bus
from .exports import BusError, Call
from .facts import LOGIND, PATIENCE, gather, planned_shutdown
from .inthread import in_thread
from .jobs import Jobs, Settings
from .latest import Latest
from .state import State
from .verbs import VERBS, Verb
from .worker import Request, Worker

log = logging.getLogger(__name__)

LOOK = 20.0
"""Seconds between two looks at the policy while a reboot is planned."""
LATE = timedelta(minutes=5)
"""After so long, a reboot that did not come is given up."""
LONGEST_WARNING = timedelta(days=1)
"""By bootcd.toml(5). What is planned for later was planned before the clock was put back."""
FLEETLOCK_RETRY = timedelta(minutes=10)
FLEETLOCK_PATIENCE = 60.0
"""Seconds that a lock server has for an answer."""
DISMISSED = timedelta(days=1)
"""For so long a reboot that somebody has cancelled does not come back."""
NOTHING = "/"

_JOBS = {"check": "Check", "download": "Download", "stage": "Upgrade"}
_SLACK = timedelta(seconds=2)
_MAX_SIZE = 1 << 16


@dataclass(frozen=True, slots=True)
class Plan:
    """A reboot that logind will do, for the sake of a deployment."""

    deployment: str
    time: datetime
    sure: bool = True
    """False until logind has said that it has it."""


class Unattended:
    """Decides and acts. `directory` is where the plan is kept; the unit's runtime directory by default."""

    def __init__(self, bus: Bus, state: State, jobs: Jobs, settings: Callable[[], Settings],
                 directory: str | None = None) -> None:
        name = os.environ.get("RUNTIME_DIRECTORY") if directory is None else directory
        self._file = Path(name) / "reboot.json" if name else None
        self._bus = bus
        self._state = state
        self._jobs = jobs
        self._settings = settings
        # Everybody may ask, and each answer takes questions to others: one after the other, for all who wait.
        self._surroundings = Latest(self._look_around)
        self._turn = asyncio.Lock()
        self._tried: dict[str, tuple[str, datetime]] = {}
        self._fleetlock = FleetLock()
        self._plan: Plan | None = None
        self._dismissed: tuple[str, datetime] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._load()

    def close(self) -> None:
        """Stop looking; a reboot that is planned stays so."""
        self._surroundings.close()
        if self._watch is not None:
            self._watch.cancel()

    # --- what callers ask -----------------------------------------------------------------------------------------

    async def get(self, call: Call) -> Sequence[Any]:
        """GetPolicy."""
        return [wire.encode(await self.report())]

    async def run(self, call: Call) -> Sequence[Any]:
        """RunPolicy: begin the next step that is allowed. Raises Busy, RebootRefused."""
        async with self._turn:
            if self._plan is not None:
                return [NOTHING, wire.encode(await self.report("A reboot is planned already."))]
            if self._rules().fleetlock and not self._fleetlock.steady:
                await self._tell_steady()
            facts, rules, now = await self._facts()
            for step in STEPS:
                if not policy.allowed(facts, rules, step, now):
                    continue
                if step == "reboot":
                    return [NOTHING, wire.encode(await self.report(await self._reboot()))]
                digest = target(facts, step)
                verb: Verb = VERBS[_JOBS[step]]
                options: dict[str, Any] = {"only": digest} if digest else {}
                if step == "stage" and is_downloaded(facts):
                    options["from-downloaded"] = True  # the source need not be there
                path = await self._jobs.start(call, verb, verb.arguments((), options), background=True)
                self._tried[step] = digest, now
                return [path, wire.encode(await self.report())]
            return [NOTHING, wire.encode(await self.report("Nothing is to be done now."))]

    async def cancel(self, call: Call) -> Sequence[Any]:
        """CancelReboot: whether there was one to cancel. Raises RebootRefused."""
        plan = self._plan
        if plan is None:
            return [False]
        self._dismiss(plan)
        await self._take_back(plan, "somebody has cancelled it")
        if self._plan is not None:
            raise RebootRefused("logind does not take the planned reboot back", advice=(
                f"It is asked again every {LOOK:.0f} seconds; 'shutdown -c' asks it as well."))
        return [True]

    async def report(self, done: str = "") -> PolicyReport:
        """What holds now."""
        facts, rules, now = await self._facts()
        return replace(policy.decide(facts, rules, now), done=done,
                       reboot_time=iso(self._plan.time) if self._plan is not None else "")

    # --- what is known --------------------------------------------------------------------------------------------

    def _rules(self) -> Rules:
        return Rules.of(self._settings().config, surroundings.time_zone())

    async def _facts(self) -> tuple[Facts, Rules, datetime]:
        around, status = await asyncio.gather(self._surroundings.ask(), self._state.fresh())
        plan = self._plan
        if plan is not None and around.shutdown is not None and _is_ours(plan, around.shutdown):
            around = replace(around, shutdown=None)
        now = surroundings.now()
        self._put_right(now)
        active = self._jobs.active
        return (Facts(status, around, self._fleetlock, dict(self._tried), self._dismissed,
                      active.verb.kind if active is not None else ""), self._rules(), now)

    def _put_right(self, now: datetime) -> None:
        """Nothing waits for a time that is farther away than it can be: the clock was put back."""
        retry, dismissed = self._fleetlock.retry, self._dismissed
        if retry is not None and retry > now + FLEETLOCK_RETRY:
            self._fleetlock = replace(self._fleetlock, retry=None)
        if dismissed is not None and dismissed[1] > now + DISMISSED:
            self._dismissed = dismissed[0], now + DISMISSED

    async def _look_around(self) -> Surroundings:
        known = Surroundings()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                known = await in_thread(surroundings.surroundings)  # a battery may take its time
        return await gather(self._bus, known)

    # --- the lock server ------------------------------------------------------------------------------------------

    async def _tell_steady(self) -> None:
        """Give the lock back that the reboot needed which has led here, once this boot is known to be a good one."""
        facts, rules, now = await self._facts()
        booted = facts.status.with_role("booted")
        if not facts.status.deployments:
            self._fleetlock = FleetLock(problem="what runs is not known yet")
        elif booted is not None and booted.on_trial and not rules.upgrade_untried:
            self._fleetlock = FleetLock(problem="its boot is not complete yet")
        elif self._fleetlock.retry is None or self._fleetlock.retry <= now:
            answer = await self._ask("steady-state")
            self._fleetlock = FleetLock(answer.granted, answer.why, None if answer.granted else now + FLEETLOCK_RETRY)

    async def _ask(self, step: str) -> FleetLockAnswer:
        settings = self._settings()
        worker = Worker(Request(FLEETLOCK, {"step": step}, settings.sysroot, settings.esp, settings.config),
                        lambda event: None)
        try:
            async with asyncio.timeout(FLEETLOCK_PATIENCE):
                outcome = await worker.run()
        except TimeoutError:
            return FleetLockAnswer(False, f"it did not answer in {FLEETLOCK_PATIENCE:.0f} seconds")
        if outcome.error is not None:
            return FleetLockAnswer(False, outcome.error.message)
        try:
            return from_json(FleetLockAnswer, outcome.result)
        except FormatError as error:
            return FleetLockAnswer(False, f"the worker told what makes no sense: {error}")

    # --- the reboot -----------------------------------------------------------------------------------------------

    async def _reboot(self) -> str:
        """Plan it; what came of that, in a sentence. Raises RebootRefused."""
        if self._rules().fleetlock:
            answer = await self._ask("pre-reboot")
            if not answer.granted:
                self._fleetlock = FleetLock(True, answer.why, surroundings.now() + FLEETLOCK_RETRY)
                return f"The lock server does not let the machine reboot: {answer.why}"
            self._fleetlock = FleetLock(True)
        facts, rules, now = await self._facts()  # it may have taken its time
        staged = facts.status.with_role("staged")
        if staged is None or not policy.allowed(facts, rules, "reboot", now):
            await self._give_lock_back(rules)
            return "Meanwhile something stands against the reboot."
        plan = self._plan = Plan(staged.id, (now + rules.warning).replace(microsecond=0), sure=False)
        self._save()
        wall = plan.time.astimezone(rules.zone)
        version = wire.line(staged.version or staged.id[:12])
        try:
            await self._logind("SetWallMessage", "sb", f"The operating system reboots at {wall:%H:%M} into version "
                               f"{version}. 'bootcctl policy cancel-reboot' puts it off.", True)
            await self._logind("ScheduleShutdown", "st", "reboot", int(plan.time.timestamp()) * 1_000_000)
            if self._plan is not plan:
                await self._take_back(plan, "somebody has cancelled it meanwhile")
                return "Somebody has cancelled the reboot."
            self._plan = replace(plan, sure=True)
            self._save()
        except BusError as error:
            await self._take_back(plan, f"logind does not plan it: {error}")
            raise RebootRefused(f"logind does not plan a reboot: {error}") from error
        finally:  # logind may not even answer, and have planned it all the same
            if self._plan is not None:
                self._begin_watch()
        log.info("The machine reboots at %s into version %s.", iso(plan.time), version)
        return f"The machine reboots at {wall:%H:%M} into version {version}."

    def _begin_watch(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._look_after())
        self._watch.add_done_callback(_complain)

    async def _look_after(self) -> None:
        """Until the reboot comes, or is taken back."""
        while (plan := self._plan) is not None:
            now = surroundings.now()
            if now > plan.time + LATE:
                log.warning("The reboot that was planned for %s did not come.", iso(plan.time))
                await self._forget_plan()
                return
            if now < plan.time:
                try:
                    await self._look(plan)
                except Exception:  # a reboot that nobody looks after is worse
                    log.exception("the planned reboot cannot be looked after")
            left = (plan.time - surroundings.now()).total_seconds()
            await asyncio.sleep(min(LOOK, left) if left > 0 else LOOK)

    async def _look(self, plan: Plan) -> None:
        if plan.time > surroundings.now() + LONGEST_WARNING:
            await self._take_back(plan, "the clock was put back")
            return
        try:
            there = await planned_shutdown(self._bus)
        except (BusError, ValueError) as error:
            log.info("whether the reboot is still planned cannot be told: %s", error)
        else:
            if there is None or not _is_ours(plan, there):
                if plan.sure:
                    self._dismiss(plan)
                await self._take_back(plan, "somebody has cancelled it, or planned another one" if plan.sure else
                                      "logind has not heard of it")
                return
        facts, rules, now = await self._facts()
        facts = replace(facts, fleetlock=FleetLock(True))  # whose consent this machine has
        # The window has to be open when it reboots; nothing is asked of the time behind that.
        rules = replace(rules, warning=max(plan.time - now, timedelta()))
        step = policy.decide(facts, rules, now).step("reboot")
        if not step.allowed and self._plan is plan:
            await self._take_back(plan, " ".join(gate.text for gate in step.gates if not gate.allows))

    async def _take_back(self, plan: Plan, why: str) -> None:
        """A plan that logind may still have, since it does not answer, stays: the next look takes it back."""
        log.info("The planned reboot is taken back: %s", why)
        try:
            there = await planned_shutdown(self._bus)
            ours = there is not None and _is_ours(plan, there)
            if ours:
                await self._logind("CancelScheduledShutdown", "")
            if ours or there is None:
                await self._logind("SetWallMessage", "sb", "", False)
        except (BusError, ValueError) as error:
            if plan.sure or (isinstance(error, BusError) and error.silent):
                log.warning("logind does not take the reboot back: %s", error)
                return
        if self._plan is not plan:
            return
        if self._watch is not None and self._watch is not asyncio.current_task():
            self._watch.cancel()
        await self._forget_plan()

    async def _forget_plan(self) -> None:
        self._plan = None
        staged = self._state.status.with_role("staged")
        self._tried["reboot"] = staged.manifest_digest if staged is not None else "", surroundings.now()
        self._save()
        await self._give_lock_back(self._rules())

    async def _give_lock_back(self, rules: Rules) -> None:
        """Others may have it; if that cannot be told now, it is told before anything else is done."""
        if rules.fleetlock:
            self._fleetlock = FleetLock(False)
            await self._tell_steady()

    async def _logind(self, member: str, signature: str, *arguments: Any) -> None:
        await self._bus.call(*LOGIND, member, signature, *arguments, timeout=10.0, start=False)

    # --- what outlives this process -------------------------------------------------------------------------------

    def _dismiss(self, plan: Plan) -> None:
        self._dismissed = plan.deployment, surroundings.now() + DISMISSED
        self._save()

    def _save(self) -> None:
        if self._file is None:
            return
        plan = self._plan
        document = {
            "plan": {**_document(plan.deployment, plan.time), "sure": plan.sure} if plan is not None else None,
            "dismissed": _document(*self._dismissed) if self._dismissed is not None else None}
        try:
            files.atomic_write(self._file, json.dumps(document).encode(), durable=False)
        except BootcdError as error:
            log.warning("%s", error)

    def _load(self) -> None:
        """Go on with what an earlier process of this boot has begun."""
        if self._file is None:
            return
        try:
            document = json.loads(files.read_own(self._file, _MAX_SIZE))
            plan, dismissed = (_read(document.get(key)) for key in ("plan", "dismissed"))
            sure = plan is not None and document["plan"].get("sure") is True
        except (BootcdError, OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return
        self._dismissed = dismissed
        if plan is not None and plan[1] <= surroundings.now() + LONGEST_WARNING:
            self._plan = Plan(*plan, sure=sure)
            self._begin_watch()


def _is_ours(plan: Plan, there: datetime) -> bool:
    return abs(there - plan.time) <= _SLACK


def _document(deployment: str, when: datetime) -> dict[str, Any]:
    return {"deployment": deployment, "time": when.timestamp()}


def _read(document: Any) -> tuple[str, datetime] | None:
    return None if document is None else (str(document["deployment"]),
                                          datetime.fromtimestamp(float(document["time"]), UTC))


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the planned reboot is not looked after any more", exc_info=error)
