# SPDX-License-Identifier: Apache-2.0
"""A year of a machine in a second or two: what the timer, the policy and the world make of each other."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bootcd.ops import policy, windows
from bootcd.ops.results import DeploymentInfo
from bootcd.ops.rules import STEPS, Facts, Rules, User
from bootcd.ops.subject import target
from kit.policy import MACHINE, deployment, digest, facts, rules, seeing, update

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SLOW = settings(max_examples=2, deadline=None, phases=[Phase.reuse, Phase.generate])
"""A seed does not become simpler by being smaller."""
TICK = timedelta(minutes=25)
ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca"]


@dataclass
class World:
    """A machine, its publisher and its users. `bad` images do not boot; `clock` is how wrong its clock is."""

    chance: random.Random
    rules: Rules
    bad: frozenset[int] = frozenset()
    clock: timedelta = timedelta()
    true: datetime = BEGIN
    published: list[tuple[int, datetime]] = field(default_factory=list)
    running: int = 1
    held: set[int] = field(default_factory=set)
    rejected: set[int] = field(default_factory=set)
    log: list[tuple[str, int, datetime, Facts]] = field(default_factory=list)
    known: Facts = field(default_factory=lambda: facts(update_time="", around=None))

    def __post_init__(self) -> None:
        self.known = seeing(self.known, booted=self.now, machine_id=MACHINE)

    @property
    def now(self) -> datetime:
        """By the clock of the machine."""
        return self.true + self.clock

    @property
    def newest(self) -> int:
        return max((number for number, when in self.published if when <= self.true), default=1)

    def tick(self) -> None:
        """The timer, once."""
        self.true += TICK + timedelta(seconds=self.chance.randrange(60))
        for _ in range(8):
            facts, step = self.known, self._step()
            if step is None:
                return
            self.log.append((step, _number(target(facts, step)), self.now, facts))
            self.known = replace(self.known, tried={**self.known.tried, step: (target(facts, step), self.now)})
            getattr(self, f"_{step}")()

    def _step(self) -> str | None:
        return next((step for step in STEPS if policy.allowed(self.known, self.rules, step, self.now)), None)

    def _status(self, *deployments: DeploymentInfo, number: int, **changes: object) -> None:
        found = None
        if number != self.running:
            held = number in self.held
            found = update(number, available=not held, staged=held, seen=self.now.isoformat(),
                           created=dict(self.published)[number].isoformat(), layers_missing=0 if held else 3,
                           rejected="it does not work" if number in self.rejected else "")
        running = deployment(self.running, "booted", "default")
        self.known = replace(self.known, status=replace(
            self.known.status, deployments=(*deployments, running), update=found, **changes))  # type: ignore[arg-type]

    def _staged(self) -> list[DeploymentInfo]:
        return [info for info in self.known.status.deployments if "staged" in info.roles]

    def _check(self) -> None:
        self._status(*self._staged(), number=self.newest, update_time=self.now.isoformat())

    def _download(self) -> None:
        number = _number(target(self.known, "download"))
        self.held = {number}
        self._status(deployment(number, "staged", download_only=True, staged=self.now.isoformat()), number=number)

    def _stage(self) -> None:
        number = _number(target(self.known, "stage"))
        self.held = {number}
        self._status(deployment(number, "staged", staged=self.now.isoformat()), number=number)

    def _reboot(self) -> None:
        self.true += self.rules.warning + timedelta(minutes=2)
        (staged,) = self._staged()
        number = int(staged.version)
        fell_back = ""
        if number in self.bad:
            self.rejected.add(number)
            fell_back = staged.id
        else:
            self.running = number
        self.held = set()
        self._status(number=number, fell_back_from=fell_back)
        self.known = seeing(replace(self.known, tried={}), booted=self.now)


def _number(text: str) -> int:
    return int(text.removeprefix("sha256:"), 16) if text else 0


def publish(chance: random.Random, days: range) -> list[tuple[int, datetime]]:
    """An image every few days, at some time of the day."""
    found, number, day = [], 2, 0
    while day < days.stop:
        found.append((number, BEGIN + timedelta(days=day, minutes=chance.randrange(1440))))
        number, day = number + 1, day + chance.randrange(2, 14)
    return found


@SLOW
@given(st.integers(0, 2**32), st.sampled_from(ZONES))
def test_a_year(seed: int, zone: str) -> None:
    """Users come and go, power and network too; some images do not boot."""
    chance = random.Random(seed)
    world = World(chance, rules(
        zone=ZoneInfo(zone), download_windows=("20:00-08:00",), stage_windows=("21:00-07:00",),
        reboot_windows=("Sat,Sun 01:00-05:00", "Wed 02:30-03:30"), min_age="1d", check_interval="6h"),
        bad=frozenset(chance.sample(range(2, 60), 20)), published=publish(chance, range(350)))
    while world.true < BEGIN + timedelta(days=365):
        hour = world.now.astimezone(world.rules.zone).hour
        world.known = seeing(
            world.known, users=(User("eve"),) if 8 <= hour < 20 or chance.random() < 0.1 else (),
            metered=chance.random() < 0.2, on_battery=chance.random() < 0.2, battery=chance.randrange(101))
        world.tick()
    assert_never_outside(world)
    assert_never_twice(world)
    # What works and was there for four weeks runs, and what does not was tried once.
    settled = max(number for number, when in world.published if when < BEGIN + timedelta(days=337))
    good = max(number for number, _ in world.published if number <= settled and number not in world.bad)
    assert world.running >= good
    assert world.rejected <= world.bad
    assert world.rejected
    checks = [when for step, _, when, _ in world.log if step == "check"]
    pauses = [b - a for a, b in itertools.pairwise(checks)]
    assert timedelta(hours=2) < min(pauses)
    assert max(pauses) < timedelta(hours=10)


@SLOW
@given(st.integers(0, 2**32))
def test_a_year_of_travel_with_a_clock_that_jumps(seed: int) -> None:
    """By whatever the machine takes for the time, it is never outside of the window, and it gets back on its feet."""
    chance = random.Random(seed)
    world = World(chance, rules(reboot_windows=("Sat,Sun 01:00-05:00", "Wed 02:30-03:30")),
                  published=publish(chance, range(330)))
    zones: list[tuple[datetime, tzinfo]] = []
    while world.true < BEGIN + timedelta(days=365):
        if world.true < BEGIN + timedelta(days=335) and chance.random() < 0.002:
            world.clock = chance.choice([timedelta(), timedelta(), timedelta(days=chance.randrange(-400, 400))])
            world.known = seeing(world.known, booted=world.now)
        if world.true < BEGIN + timedelta(days=335) and chance.random() < 0.01:
            world.rules = replace(world.rules, zone=ZoneInfo(chance.choice(ZONES)))
        if world.true > BEGIN + timedelta(days=335):
            world.clock = timedelta()
        zones.append((world.now, world.rules.zone))
        before = len(world.log)
        world.tick()
        for step, _, when, _ in world.log[before:]:
            assert windows.is_open(world.rules.windows[step], world.rules.zone, when)
    assert_never_twice(world)
    assert world.running == world.published[-1][0], policy.decide(world.known, world.rules, world.now)


def test_who_is_starved_knows_why() -> None:
    """Somebody is always logged in: nothing reboots, each decision names him, and when he leaves it is done."""
    world = World(random.Random(1), rules(reboot_windows=("Sun 02:00-04:00",)), published=[(2, BEGIN)])
    world.known = seeing(world.known, users=(User("eve"),))
    while world.true < BEGIN + timedelta(days=60):
        world.tick()
    assert world.running == 1
    reboot = policy.decide(world.known, world.rules, world.now).step("reboot")
    assert "Logged in: eve." in [gate.text for gate in reboot.gates if not gate.allows]
    assert reboot.waits == "nobody is logged in any more"
    world.known = seeing(world.known, users=())
    promised = policy.decide(world.known, world.rules, world.now).step("reboot").next
    while world.running == 1:
        world.tick()
    (when,) = [when for step, _, when, _ in world.log if step == "reboot"]
    assert when - datetime.fromisoformat(promised) < 2 * TICK


def assert_never_outside(world: World) -> None:
    zone = world.rules.zone
    for step, number, when, known in world.log:
        assert windows.is_open(world.rules.windows[step], zone, when), (step, when)
        if step in ("download", "stage"):
            assert when >= dict(world.published)[number] + world.rules.min_age
            assert not known.around.metered or step == "stage"
        if step == "reboot":
            assert windows.is_open(world.rules.windows[step], zone, when + world.rules.warning), when
            assert not known.around.users
        if step != "check":
            assert not known.around.on_battery or (known.around.battery or 0) >= 50


def assert_never_twice(world: World) -> None:
    for step in ("download", "stage", "reboot"):
        done = [number for one, number, _, _ in world.log if one == step]
        assert len(done) == len(set(done)), step
        assert digest(1) not in done
