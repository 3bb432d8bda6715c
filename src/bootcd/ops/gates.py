# SPDX-License-Identifier: Apache-2.0
"""The gates of the update policy. Each looks at one thing and says one sentence; None where it has nothing to say.

A gate that refuses names the moment from which on it would not, supposed that nothing else changes, or what has to
happen. It must hold then, and must not ask for a moment that has passed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from . import rollout, windows
from .due import due
from .rules import STEPS, Facts, Rules, Verdict
from .subject import downloads, is_remote, sentence, shown, subject, target
from .times import moment

MIN_RETRY = timedelta(minutes=10)
"""Nothing is tried again sooner, whatever the configuration says."""

Gate = Callable[[Facts, Rules, str, datetime], Verdict | None]


def manual(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict:
    """How far the machine may go alone."""
    if STEPS.index(step) < rules.level:
        return Verdict("manual", True, f"This step is done alone, since 'automatic' is {rules.automatic}.")
    return Verdict("manual", False, f"This step is left to people, since 'automatic' is {rules.automatic}.",
                   waits="a person does it")


def not_finalized(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """A shutdown that did not do its work would not do it the next time: no loop of reboots."""
    staged, last, booted = facts.status.with_role("staged"), facts.status.last, facts.around.booted
    if step != "reboot" or staged is None or staged.download_only:
        return None
    if last is not None and last.verb == "finalize" and last.state != "succeeded":
        return Verdict("finalize", False, f"The last shutdown could not make it boot: {sentence(last.message)}",
                       waits="something else is staged, or a person reboots")
    since = moment(staged.staged)
    if booted is not None and since is not None and since < booted:
        return Verdict("finalize", False, "It was staged before this boot already, and the shutdown did not make it "
                       "boot.", waits="something else is staged, or a person reboots")
    return Verdict("finalize", True, "It was staged in this boot.")


def rejected(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """Never twice the same image."""
    update = subject(facts, step)
    if update is None or not update.available:
        return None
    if update.rejected:
        return Verdict("rejected", False, f"The image is not taken: {sentence(update.rejected)}",
                       waits="another image is offered")
    return Verdict("rejected", True, "The image was not rejected here.")


def tried(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """Not the same again at once, when it has led to nothing."""
    digest, when = facts.tried.get(step, ("", None))
    if when is None or when > now or digest != target(facts, step):
        return None
    asked = moment(facts.status.update_time)
    if step == "check" and asked is not None and when - timedelta(seconds=1) <= asked <= now:
        return None
    again = when + max(rules.cool_down, MIN_RETRY)
    if again <= now:
        return None
    return Verdict("tried", False, f"It was tried at {shown(when, rules)} and has led to nothing.", again)


def cool_down(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """Some peace after what went wrong."""
    status = facts.status
    events: list[tuple[datetime | None, str]] = []
    last = status.last
    if last is not None and step != "check":
        ended = moment(last.ended)
        # A source that cannot be reached, and is asked again and again, is no reason not to boot what is staged.
        if last.state == "failed" and last.verb in ("upgrade", "check", "switch", "finalize") and step != "reboot":
            events.append((ended, f"The last {last.verb} failed: {sentence(last.message)}"))
        if last.state == "succeeded" and last.verb in ("rollback", "unstage"):
            events.append((ended, f"Somebody has asked for '{last.verb}' lately."))
    if status.fell_back_from and step != "check":
        events.append((facts.around.booted, "The machine fell back from a version that does not work here."))
    for when, text in events:
        if when is not None and when <= now < when + rules.cool_down:
            return Verdict("cool-down", False, text, when + rules.cool_down)
    return Verdict("cool-down", True, "Nothing went wrong lately.") if step != "check" else None


def health(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """What boots next does not rest on what is not proven."""
    booted = facts.status.with_role("booted")
    if step not in ("stage", "reboot") or booted is None:
        return None
    if booted.health == "bad":
        return Verdict("health", False, f"The running deployment is bad: {sentence(booted.health_reason)}",
                       waits="a person decides what takes its place")
    if booted.on_trial and not rules.upgrade_untried:
        return Verdict("health", False, "The boot of the running deployment is not complete yet.",
                       waits="its boot is complete")
    return Verdict("health", True, "The running deployment is not known to be bad.")


def min_age(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """Others find out first whether an image is any good."""
    update = subject(facts, step)
    if update is None or not rules.min_age:
        return None
    created, seen = moment(update.created), moment(update.seen)
    # A time of creation that lies behind the one at which the image was seen is made up.
    born = created if created is not None and (seen is None or created <= seen) else seen
    if born is None:
        return Verdict("min-age", True, "Nobody tells how old the image is.")
    what = "was built" if born == created else "was first seen here"
    if now >= born + rules.min_age:
        return Verdict("min-age", True, f"The image {what} at {shown(born, rules)} and is old enough.")
    return Verdict("min-age", False, f"The image {what} at {shown(born, rules)} and is too new.", born + rules.min_age)


def phased(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """A fleet takes an image bit by bit, if the image says so. What it says wrongly holds it back: whoever wrote it did
    not want everybody to take it at once."""
    update = subject(facts, step)
    if update is None:
        return None
    try:
        plan = rollout.read(update.rollout, moment(update.created))
    except rollout.RolloutError as error:
        return Verdict("rollout", False, f"It cannot be told when it is the turn of this machine: {error}.",
                       waits="the image is published with annotations that make sense")
    strange = rollout.unknown(update.rollout)
    also = f" Nobody here knows what {strange[0]} is." if strange else ""
    if plan is None:
        return Verdict("rollout", True, f"The image is for everybody at once.{also}") if also else None
    place = rollout.place(facts.around.machine_id, update.config_digest or update.manifest_digest, rules.wariness)
    share = f"The image is for {plan.share(now) * 100:.0f} percent of the machines by now"
    if plan.takes(place, now):
        return Verdict("rollout", True, f"{share}, and this is one of them.{also}")
    turn = plan.turn(place)
    if turn is None:
        return Verdict("rollout", False, f"{share}, and this is none of them.{also}",
                       waits="the image is published for more machines")
    return Verdict("rollout", False, f"{share}; it is this one's turn at {shown(turn, rules)}.{also}", turn)


def window(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """The time that people have set aside. A reboot has to begin in it, not only its warning; and staging that has to
    download has two."""
    names = ("download", "stage") if step == "stage" and downloads(facts, step) else (step,)
    found = [_window(name, rules, now) for name in names if rules.windows[name]]
    return next((verdict for verdict in found if not verdict.allows), found[0] if found else None)


def _window(step: str, rules: Rules, now: datetime) -> Verdict:
    those = rules.windows[step]
    lasting = rules.warning if step == "reboot" else timedelta()
    when = windows.next_open(those, rules.zone, now, lasting)
    if when is None:
        return Verdict("window", False, f"No {step} window is long enough for the warning before it.",
                       waits="the windows or the warning change")
    if when <= now:
        return Verdict("window", True, f"A {step} window is open.")
    why = ("closes too soon for the warning" if windows.is_open(those, rules.zone, now) else "is not open")
    return Verdict("window", False, f"The {step} window {why}; the next begins at {shown(when, rules)}.", when)


def metered(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """Nobody pays for what nobody asked for."""
    if rules.metered == "allow" or not (step == "check" or downloads(facts, step)) or not is_remote(facts):
        return None
    if facts.around.metered is None:
        return Verdict("metered", True, "Nobody tells whether the connection is metered.")
    if not facts.around.metered:
        return Verdict("metered", True, "The connection is not metered.")
    if step == "check" and rules.metered != "never":
        return Verdict("metered", True, "The connection is metered, and a check costs little.")
    return Verdict("metered", False, "The connection is metered.", waits="there is another connection")


def battery(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """Nothing runs dry in the middle."""
    around = facts.around
    if step == "check" or not rules.min_battery:
        return None
    if around.on_battery is None:
        return Verdict("battery", True, "Nobody tells where the power comes from.")
    if not around.on_battery:
        return Verdict("battery", True, "The power comes from the mains.")
    left = f"with {around.battery} percent left" if around.battery is not None else "and nobody tells how much is left"
    if rules.min_battery < 100 and around.battery is not None and around.battery >= rules.min_battery:
        return Verdict("battery", True, f"The machine runs on battery, {left}.")
    return Verdict("battery", False, f"The machine runs on battery, {left}.", waits="the battery is charged")


def power_saver(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """Whoever saves power does not want work that can wait."""
    if step not in ("download", "stage"):
        return None
    if facts.around.power_saver is None:
        return Verdict("power-saver", True, "Nobody tells of a power profile.")
    if facts.around.power_saver:
        return Verdict("power-saver", False, "The power profile is power-saver.", waits="the power profile changes")
    return Verdict("power-saver", True, "The power profile is not power-saver.")


def load(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """A machine that is at work is left alone."""
    if step == "check" or not rules.max_load or facts.around.load is None:
        return None
    text = f"The load is {facts.around.load:.2f} for each processor, and {rules.max_load:g} is the most."
    return Verdict("load", facts.around.load <= rules.max_load, text,
                   waits="" if facts.around.load <= rules.max_load else "the machine has less to do")


def users(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """Nobody loses what he is working on."""
    if step != "reboot" or rules.idle_users == timedelta():
        return None
    if facts.around.users is None:
        return Verdict("users", True, "Nobody tells who is logged in.")
    # Somebody who is idle will be long enough at some time, if nothing changes; somebody who is not, never.
    times = {user: user.idle + rules.idle_users if user.idle is not None and rules.idle_users is not None else None
             for user in facts.around.users}
    holding = {user: when for user, when in times.items() if when is None or when > now}
    if not holding:
        return Verdict("users", True, "Nobody is logged in." if not times else "Who is logged in is idle.")
    names = ", ".join(sorted({user.name for user in holding}))
    latest = None if None in holding.values() else max(when for when in holding.values() if when is not None)
    return Verdict("users", False, f"Logged in: {names}.", latest,
                   "" if latest is not None else "nobody is logged in any more" if rules.idle_users is None
                   else "nobody is at work any more")


def inhibitors(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """Who holds a shutdown back has a reason."""
    if step != "reboot":
        return None
    if facts.around.locks is None:
        return Verdict("inhibitors", True, "Nobody tells whether a shutdown is held back.")
    if not facts.around.locks:
        return Verdict("inhibitors", True, "Nobody holds a shutdown back.")
    first = facts.around.locks[0]
    return Verdict("inhibitors", False, f"{first.who} holds a shutdown back: {sentence(first.why)}",
                   waits=f"{first.who} lets go")


def running(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """No reboot cuts off what somebody waits for. The other steps wait for their turn, as everybody does."""
    if step != "reboot":
        return None
    if facts.running:
        return Verdict("running", False, f"An operation is running: {facts.running}.", waits="it ends")
    return Verdict("running", True, "No operation is running.")


def planned(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """A shutdown that a person has planned is not moved, and one that a person has cancelled does not come back."""
    if step != "reboot":
        return None
    if facts.around.shutdown is not None:
        return Verdict("planned", False, "Somebody has planned a shutdown for "
                       f"{shown(facts.around.shutdown, rules)} already.", waits="that shutdown comes, or is cancelled")
    staged = facts.status.with_role("staged")
    if facts.dismissed is not None and staged is not None and facts.dismissed[0] == staged.id:
        until = facts.dismissed[1]
        if until > now:
            return Verdict("planned", False, "Somebody has cancelled the reboot.", until)
    return Verdict("planned", True, "Nobody has planned or cancelled a shutdown.")


def fleetlock(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict | None:
    """One machine of the fleet after the other. What this boot has brought is told first."""
    if not rules.fleetlock:
        return None
    known, retry = facts.fleetlock, facts.fleetlock.retry
    if not known.steady:
        why = sentence(known.problem) if known.problem else "That comes first."
        return Verdict("fleetlock", False, f"The lock server does not know yet that this machine is up: {why}",
                       retry if retry is not None and retry > now else None, "" if retry is not None and retry > now
                       else "the lock server is told")
    if step != "reboot":
        return None
    if retry is not None and retry > now:
        return Verdict("fleetlock", False, f"The lock server does not let the machine reboot: "
                       f"{sentence(known.problem)}", retry)
    return Verdict("fleetlock", True, "The lock server is asked when it comes to it.")


GATES: tuple[Gate, ...] = (
    manual, due, not_finalized, rejected, tried, cool_down, health, min_age, phased, window, metered, battery,
    power_saver, load, users, inhibitors, running, planned, fleetlock)
"""In the order in which they are told."""
