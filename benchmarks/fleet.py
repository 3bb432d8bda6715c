# SPDX-License-Identifier: Apache-2.0
"""A simulated fleet under the update policy, in a few minutes: `PYTHONPATH=tests .venv/bin/python -m benchmarks.fleet`.

100,000 machines start at the same moment, after a night without power, and check by the real gates whenever their
timers wake them. An image is published with a rollout of two days. Printed is how evenly the source is asked, and how
close the share of machines that have begun to download is to what the image asks for; docs/fleet.svg shows it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bootcd.config import Config
from bootcd.ops import policy, rollout
from bootcd.ops.rules import Rules, Surroundings
from kit.policy import NOW, facts, update

MACHINES = 100_000
HOURS = 60
ROLLOUT = timedelta(days=2)
PUBLISHED = NOW + timedelta(hours=6)
WAKE = timedelta(minutes=15)
BIN = 5
"""Minutes that are counted together."""
PLOT = Path(__file__).parents[1] / "docs" / "fleet.svg"


@dataclass
class Outcome:
    """When the source was asked and when the image was taken, in minutes since the power came back."""

    checks: Counter[int]
    taken: list[float]
    canaries: list[float]
    cautious: list[float]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Simulate a fleet under the update policy.")
    parser.add_argument("--machines", type=int, default=MACHINES)
    parser.add_argument("--plot", type=Path, help="write the plot there, such as docs/fleet.svg")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    found = simulate(options.machines)
    show(found, options.machines, time.perf_counter() - began)
    if options.plot is not None:
        options.plot.write_text(draw(found, options.machines))


def simulate(machines: int) -> Outcome:
    """One percent of the machines are canaries, one percent are cautious."""
    chance = random.Random(2026)
    found = Outcome(Counter(), [], [], [])
    for number in range(machines):
        wariness = {0: 0.0, 1: 1.0}.get(number % 100, 0.5)
        taken = _machine(chance, f"{chance.getrandbits(128):032x}", wariness, found.checks)
        {0: found.canaries, 1: found.cautious}.get(number % 100, found.taken).append(taken)
    return found


def _machine(chance: random.Random, machine_id: str, wariness: float, checks: Counter[int]) -> float:
    """The life of one machine; when it took the image."""
    rules = Rules.of(Config(update_wariness=wariness), UTC)
    plan = {rollout.START: PUBLISHED.isoformat(), rollout.DURATION: f"{ROLLOUT.days}d"}
    # The last check was some time before the power went.
    status = facts(around=Surroundings(booted=NOW, machine_id=machine_id),
                   update_time=(NOW - timedelta(hours=chance.uniform(9, 15))).isoformat())
    wake = timedelta(minutes=chance.uniform(0, 15))
    now = NOW + timedelta(minutes=5) + wake
    end = NOW + timedelta(hours=HOURS)
    while now < end:
        step = next((one for one in ("check", "download") if policy.allowed(status, rules, one, now)), None)
        if step == "download":
            return _minutes(now)
        if step == "check":
            checks[int(_minutes(now)) // BIN] += 1
            offered = update(2, created=PUBLISHED.isoformat(), rollout=plan, seen="") if now >= PUBLISHED else None
            status = replace(status, status=replace(status.status, update_time=now.isoformat(), update=offered))
            if policy.allowed(status, rules, "download", now):
                return _minutes(now)
        chances = [when for one in ("check", "download")
                   if (when := policy.next_chance(status, rules, one, now)[0]) is not None]
        # The timer comes every quarter of an hour, at a moment of the machine's own.
        now += max(-(-(min(chances) - now) // WAKE), 1) * WAKE
    return float("inf")


def _minutes(when: datetime) -> float:
    return (when - NOW).total_seconds() / 60


def share(taken: Sequence[float], minute: float) -> float:
    """How many have it by then, from 0 to 1."""
    return sum(one <= minute for one in taken) / len(taken)


def wanted(minute: float) -> float:
    """What the image asks for."""
    return min(max((minute - _minutes(PUBLISHED)) / (ROLLOUT.total_seconds() / 60), 0), 1)


def show(found: Outcome, machines: int, seconds: float) -> None:
    """Print the numbers."""
    first = [found.checks[number] for number in range(90 // BIN)]
    even = machines / (6 * 60 / BIN)
    # Nobody asks again within half an interval; and while the rollout runs, those who have the image are gone.
    later = [found.checks[number] for number in range(5 * 60 // BIN, 8 * 60 // BIN)]
    print(f"{machines} machines, {HOURS} hours, {seconds:.0f} s", file=sys.stdout)
    print(f"checks in {BIN} minutes, were they even: {even:.0f}")
    print(f"  after the power came back, at most: {max(first)} ({max(first) / machines:.1%} of the fleet)")
    print(f"  five to eight hours later: {min(later)} to {max(later)}")
    print("share that has begun to download, and what the image asks for:")
    begin = _minutes(PUBLISHED)
    for hours in (0, 1, 6, 12, 24, 36, 48, 54):
        minute = begin + hours * 60
        print(f"  {hours:3} h  {share(found.taken, minute):6.1%}  {wanted(minute):6.1%}   "
              f"canaries {share(found.canaries, minute):6.1%}   cautious {share(found.cautious, minute):6.1%}")
    gaps = [wanted(begin + minute) - share(found.taken, begin + minute) for minute in range(0, 48 * 60, 30)]
    print(f"  ahead of it: {max(0.0, -min(gaps)):.1%} at most; behind it: {max(gaps):.1%} at most")


# --- the plot ---------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _GAP = 640, 150, 56, 60


def draw(found: Outcome, machines: int) -> str:
    """Two panels, as SVG."""
    bins = int(HOURS * 60 / BIN)
    top = 1.1 * max(found.checks.values()) / machines * 100
    checks = [(number * BIN / 60, found.checks[number] / machines * 100) for number in range(bins)]
    hours = [hour / 4 for hour in range(HOURS * 4 + 1)]
    lines = "\n".join((
        _panel(20, f"checks in {BIN} minutes, percent of the fleet", top, [(checks, "#1f6feb", "")]),
        _panel(20 + _HEIGHT + _GAP, "machines that have begun to download, percent", 100, [
            ([(hour, 100 * wanted(hour * 60)) for hour in hours], "#888", "4 3"),
            ([(hour, 100 * share(found.taken, hour * 60)) for hour in hours], "#1f6feb", ""),
            ([(hour, 100 * share(found.canaries, hour * 60)) for hour in hours], "#1a7f37", ""),
            ([(hour, 100 * share(found.cautious, hour * 60)) for hour in hours], "#cf222e", "")]),
        _text(_LEFT + 8, 20 + _HEIGHT + _GAP + 16, "dashed: as asked for", "#888"),
        _text(_LEFT + 8, 20 + _HEIGHT + _GAP + 30, "wariness 0.0", "#1a7f37"),
        _text(_LEFT + 8, 20 + _HEIGHT + _GAP + 44, "wariness 0.5", "#1f6feb"),
        _text(_LEFT + 8, 20 + _HEIGHT + _GAP + 58, "wariness 1.0", "#cf222e"),
    ))
    height = 2 * _HEIGHT + _GAP + 60
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH + _LEFT + 20} {height}" '
            f'font-family="sans-serif" font-size="11">\n<!-- SPDX-License-Identifier: Apache-2.0 -->\n'
            f'<!-- Made by benchmarks/fleet.py: {machines} machines that start together; an image comes after six '
            f'hours, with a rollout of two days. -->\n<rect width="100%" height="100%" fill="#fff"/>\n{lines}\n'
            '</svg>\n')


def _panel(y: int, title: str, top: float, curves: list[tuple[list[tuple[float, float]], str, str]]) -> str:
    parts = [f'<rect x="{_LEFT}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#ccc"/>',
             _text(_LEFT, y - 6, title)]
    for value in (0.0, top / 2, top):
        level = y + _HEIGHT * (1 - value / top)
        parts.append(_text(4, level + 4, f"{value:.3g}"))
    for hour in range(0, HOURS + 1, 6):
        at = _LEFT + _WIDTH * hour / HOURS
        parts.append(f'<line x1="{at:.0f}" y1="{y + _HEIGHT}" x2="{at:.0f}" y2="{y + _HEIGHT + 4}" stroke="#888"/>')
        parts.append(_text(at - 6, y + _HEIGHT + 16, f"{hour} h"))
    for points, colour, dashes in curves:
        path = " ".join(f"{_LEFT + _WIDTH * x / HOURS:.1f},{y + _HEIGHT * (1 - value / top):.1f}"
                        for x, value in _thin(points))
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.2"{dash}/>')
    return "\n".join(parts)


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without those that lie between equal neighbours."""
    inner = [points[number] for number in range(1, len(points) - 1)
             if not points[number - 1][1] == points[number][1] == points[number + 1][1]]
    return [points[0], *inner, points[-1]]


def _text(x: float, y: float, text: str, colour: str = "#333") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}">{text}</text>'


if __name__ == "__main__":
    main()
