# SPDX-License-Identifier: Apache-2.0
"""Random commands, each of which may be cut off or find the disk full, under a clock that jumps, against a model.

The model knows what boots in which order, what is staged and what is pinned. A command that was broken off has done its
work or not, and the next one may complete it; so the model holds every state that is possible, and what `status` shows
has to be one of them. `BOOTCD_STATES` is how many histories the slow test tries.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from crash.conftest import Worlds, tell_tried
from crash.invariant import check, look
from crash.program import Program, copy, publish
from kit.images import File
from kit.os_images import base_layer, os_image

HISTORIES = int(os.environ.get("BOOTCD_STATES", "8"))
YEAR = 365 * 24 * 3600
_ENDS = {"crash": "cut off", "interrupt": "interrupted", "stays-full": "without room"}
LABELS = ("red", "green")


def faults(steps: int) -> st.SearchStrategy[tuple[str, int]]:
    """What goes wrong, and at which step, for a command that has about so many; it may be over before."""
    something = st.tuples(st.sampled_from(("crash", "interrupt", "stays-full")), st.integers(1, steps))
    return st.one_of(something, something, st.just(("", 0)))


@dataclass(frozen=True)
class State:
    """Versions in the order in which the loader tries them, the one that is staged, and pins as version and label."""

    order: tuple[str, ...]
    staged: str | None = None
    pins: frozenset[tuple[str, str]] = frozenset()
    booted: str | None = None

    def promote(self, version: str) -> State:
        staged = None if self.staged == version else self.staged
        return replace(self, order=(version, *(one for one in self.order if one != version)), staged=staged)

    def collect(self, fault: tuple[str, int] = ("", 0)) -> set[State]:
        """What a collection may leave: what it has to keep, and perhaps the last one that is known to be good. One that
        was disturbed may leave any of the others as well."""
        own = {self.order[0], self.booted}
        must = own | {version for version, _ in self.pins} | set([one for one in self.order if one not in own][:1])
        rest = [one for one in self.order if one not in must]
        sizes = range(len(rest) + 1) if fault[0] else range(min(len(rest), 1) + 1)
        left = [must.union(some) for size in sizes for some in combinations(rest, size)]
        return {replace(self, order=tuple(one for one in self.order if one in some)) for some in left}


def observe(program: Program, world: Path) -> tuple[State, bool]:
    """What `status` shows, and whether something is unfinished."""
    done = program(world, "status", "--json")
    assert done.status == 0, done.err
    infos: list[dict[str, Any]] = done.json["deployments"]
    entries = " ".join(os.listdir(world / "esp/loader/entries"))
    deployed = [info for info in infos if info["id"][:12] in entries]  # a record alone is left to the next collection
    return State(
        tuple(info["version"] for info in deployed),
        next((info["version"] for info in infos if info["generation"] is None), None),
        frozenset((info["version"], pin["label"]) for info in infos for pin in info["pins"]),
        next((info["version"] for info in infos if "booted" in info["roles"]), None),
    ), done.json["unfinished"] != ""


class Histories(RuleBasedStateMachine):
    """What happens to one machine. Class attributes are set by the test."""

    worlds: Worlds
    program: Program
    scratch: Path
    ended: Counter[str]
    """How commands ended: as they should, refused, or by what went wrong."""

    @initialize(runs=st.booleans())
    def begin(self, runs: bool) -> None:
        self.world = self.scratch / "history"
        copy(self.worlds("running" if runs else "old"), self.world)
        self.program.clock = 0
        self.published = 3
        state, _ = observe(self.program, self.world)
        self.possible = {state}

    def teardown(self) -> None:
        """Nothing stays unfinished."""
        self.command(("", 0), lambda state: state.collect(), "cleanup")
        assert not observe(self.program, self.world)[1]
        self.program.clock = 0

    @property
    def version(self) -> str:
        """What the source has."""
        return f"1.{self.published}"

    @property
    def booted(self) -> str | None:
        return next(iter(self.possible)).booted

    def command(self, fault: tuple[str, int], effect: Callable[[State], Iterable[State]], *arguments: str,
                may_refuse: bool = False, pinned: bool = True) -> bool:
        """Run a command that has one of these effects on each possible state, and see whether all is well. Returns
        whether it succeeded."""
        before = look(self.program, self.world, pinned=pinned)
        action, at = fault
        done = self.program(self.world, *arguments, action=action, at=at)
        ended = {after for state in self.possible for after in effect(state)}
        how = _ENDS.get(action, "refused") if done.status else "done"
        self.ended[how] += 1
        if done.status != 0:
            assert action or may_refuse or len(self.possible) > 1, done.err
            ended |= self.possible
        state, unfinished = observe(self.program, self.world)
        assert state in ended, f"{' '.join(arguments)}: {state}, not one of {ended}"
        self.possible = ended if unfinished else {state}
        check(self.program, self.world, before)
        return done.status == 0

    @rule(seconds=st.sampled_from((-30 * YEAR, -3600, 0, 3600, 10 * YEAR)))
    def clock_jumps(self, seconds: int) -> None:
        self.program.clock = seconds

    @rule(fault=faults(120), new=st.booleans())
    def upgrade(self, fault: tuple[str, int], new: bool) -> None:
        if new:
            self.published += 1
        version = self.version
        publish(self.world, os_image(version, [File("etc/added", version.encode())],
                                     base=base_layer(kernel=version.encode())))

        def effect(state: State) -> set[State]:
            if version not in state.order:
                staged = replace(state, staged=version)
                switched = staged.promote(version).collect(fault)
                if state.booted is not None:
                    return {staged}
                return {staged, *switched} if fault[0] else switched
            # It is there: taken again, rejected after a rollback, or the default already.
            return {state, replace(state, staged=None), *state.promote(version).collect(fault)}

        self.command(fault, effect, "upgrade", may_refuse=not new or self.booted is not None)

    @rule(fault=faults(90))
    def download(self, fault: tuple[str, int]) -> None:
        version = self.version

        def effect(state: State) -> set[State]:
            return {state} if version in state.order else {state, replace(state, staged=version)}

        self.command(fault, effect, "upgrade", "--download-only")

    @rule(fault=faults(10))
    def unstage(self, fault: tuple[str, int]) -> None:
        self.command(fault, lambda state: {replace(state, staged=None)}, "unstage", may_refuse=True)

    @rule(fault=faults(30), number=st.integers(0, 5))
    def rollback(self, fault: tuple[str, int], number: int) -> None:
        order = next(iter(self.possible)).order
        target = order[number % len(order)]
        self.command(fault, lambda state: {state.promote(target)} if target in state.order else {state}, "rollback",
                     target, may_refuse=target == order[0])

    @rule(fault=faults(6), number=st.integers(0, 5), label=st.sampled_from(LABELS))
    def pin(self, fault: tuple[str, int], number: int, label: str) -> None:
        order = next(iter(self.possible)).order
        target = order[number % len(order)]
        self.command(fault, lambda state: {replace(state, pins=state.pins | {(target, label)})}, "pin", target,
                     "--label", label, may_refuse=True)

    @rule(fault=faults(6), number=st.integers(0, 5))
    def unpin(self, fault: tuple[str, int], number: int) -> None:
        pins = sorted(next(iter(self.possible)).pins)
        if pins:
            target = pins[number % len(pins)][0]
            self.command(fault, lambda state: {replace(state, pins=frozenset(
                pin for pin in state.pins if pin[0] != target))}, "unpin", target, pinned=False)

    @rule(fault=faults(60))
    def cleanup(self, fault: tuple[str, int]) -> None:
        self.command(fault, lambda state: state.collect(fault), "cleanup")

    @precondition(lambda self: self.booted is not None)
    @rule(fault=faults(90))
    def shut_down(self, fault: tuple[str, int]) -> None:
        """Finalize, and boot what is the default then."""

        def effect(state: State) -> set[State]:
            return {state} if state.staged is None else {state, *state.promote(state.staged).collect(fault)}

        self.command(fault, effect, "finalize", may_refuse=True)
        self.worlds.boot(self.world, observe(self.program, self.world)[0].order[0])
        state, _ = observe(self.program, self.world)
        self.possible = {replace(one, booted=state.booted) for one in self.possible}

    @precondition(lambda self: self.booted is not None)
    @rule(fault=faults(10), verb=st.sampled_from(("boot-started", "boot-complete")))
    def come_up(self, fault: tuple[str, int], verb: str) -> None:
        self.command(fault, lambda state: {state}, verb)


@pytest.fixture
def histories(
    request: pytest.FixtureRequest, worlds: Worlds, program: Program, scratch: Path
) -> Iterator[type[Histories]]:
    Histories.worlds, Histories.program, Histories.scratch, Histories.ended = worlds, program, scratch, Counter()
    yield Histories
    tell_tried(request, {f"random commands {how}": count for how, count in Histories.ended.items()})


def run(histories: type[Histories], number: int, commands: int) -> None:
    run_state_machine_as_test(histories, settings=settings(
        max_examples=number, stateful_step_count=commands, deadline=None, suppress_health_check=list(HealthCheck),
        print_blob=True))


def test_some_histories(histories: type[Histories]) -> None:
    run(histories, 4, 8)


@pytest.mark.slow
def test_many_histories(histories: type[Histories]) -> None:
    run(histories, HISTORIES, 25)
