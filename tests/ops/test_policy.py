# SPDX-License-Identifier: Apache-2.0
"""What each gate of the update policy sees and says, in one sentence, and when it would say something else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.config import Config
from bootcd.ops.decisions import GateInfo, StepInfo
from bootcd.ops.policy import allowed, decide
from bootcd.ops.results import Status
from bootcd.ops.rules import STEPS, Facts, FleetLock, Lock, Rules, User, iso
from kit.policy import BOOTED, MACHINE, NOW, deployment, digest, facts, failed, rules, seeing, update

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
END_OF_TIME = "9999-12-31T23:59:59Z"
RUNNING = deployment(1, "booted", "default")
STAGED = deployment(2, "staged", staged=(NOW - 20 * MINUTE).isoformat())
DOWNLOADED = replace(STAGED, download_only=True)
OFFERED = facts(update=update(2))
WAITING = facts(STAGED, RUNNING)


def step(name: str, known: Facts, those: Rules | None = None, now: datetime = NOW) -> StepInfo:
    """The decision about a step. What is true of every decision is checked on the way."""
    those = those if those is not None else rules()
    found = decide(known, those, now).step(name)
    refusing = [gate for gate in found.gates if not gate.allows]
    assert found.allowed == (not refusing) == allowed(known, those, name, now)
    for gate in found.gates:
        assert gate.text[0].isupper() or gate.text[0].isdigit() or gate.text[0] == "/", gate.text
        assert gate.text.endswith("."), gate.text
        assert bool(gate.next or gate.waits) == (not gate.allows), gate
        assert not gate.next or gate.next > iso(now), gate
    assert bool(found.next or found.waits) == bool(refusing)
    return found


def refusal(name: str, known: Facts, those: Rules | None = None, now: datetime = NOW) -> GateInfo:
    """The one gate that refuses."""
    found = step(name, known, those, now)
    (gate,) = [gate for gate in found.gates if not gate.allows]
    return gate


def agreement(gate: str, name: str, known: Facts, those: Rules | None = None) -> str:
    """What a gate says that agrees."""
    (found,) = [one for one in step(name, known, those).gates if one.gate == gate]
    assert found.allows, found.text
    return found.text


# --- the steps, one after the other -----------------------------------------------------------------------------------


def test_the_defaults_check_and_stage_alone_and_never_reboot() -> None:
    default = Rules.of(Config(), UTC)
    late = NOW + timedelta(days=1)
    assert [name for name in STEPS if allowed(facts(), default, name, late)] == ["check"]
    assert [name for name in STEPS if allowed(OFFERED, default, name, NOW)] == ["download"]
    assert [name for name in STEPS if allowed(facts(DOWNLOADED, RUNNING), default, name, NOW)] == ["stage"]
    assert [name for name in STEPS if allowed(WAITING, default, name, NOW)] == []
    assert refusal("reboot", WAITING, default) == GateInfo(
        "manual", False, "This step is left to people, since 'automatic' is stage.", waits="a person does it")


@pytest.mark.parametrize(("automatic", "level"), [("none", 0), ("check", 1), ("download", 2), ("stage", 3),
                                                  ("reboot", 4)])
def test_how_far_a_machine_goes_alone(automatic: str, level: int) -> None:
    ready = {"check": (facts(update_time=""), NOW), "download": (OFFERED, NOW),
             "stage": (facts(DOWNLOADED, RUNNING), NOW), "reboot": (WAITING, NOW)}
    assert [allowed(*(known, rules(automatic), name, now)) for name, (known, now) in ready.items()] == [
        number < level for number in range(4)]


@pytest.mark.parametrize(("name", "known", "text", "waits"), [
    ("check", Facts(Status("/sysroot", "", (), None, "", ())), "No image is followed here.", "something is installed"),
    ("download", facts(), "No newer image is known.", "a check finds a newer image"),
    ("download", facts(DOWNLOADED, RUNNING, update=update(2, available=False, staged=True)),
     "Version 2 is downloaded already.", "a check finds a newer image"),
    ("download", facts(STAGED, RUNNING, update=update(3)), "Version 2 is staged, and only staging replaces it.",
     "a check finds a newer image when nothing is staged"),
    ("download", facts(update=update(2, layers_missing=0)), "All of Version 2 is here already.",
     "a check finds a newer image"),
    ("stage", facts(), "Nothing is downloaded that could be staged.", "something is downloaded"),
    ("stage", OFFERED, "The newer image is not downloaded yet.", "it is downloaded"),
    ("stage", facts(DOWNLOADED, RUNNING, update=update(3)), "The newer image is not downloaded yet.",
     "it is downloaded"),
    ("stage", WAITING, "Version 2 is staged already.", "a check finds a newer image"),
    ("reboot", facts(), "Nothing is staged that a reboot would bring.", "something is staged"),
    ("reboot", facts(DOWNLOADED, RUNNING), "Nothing is staged that a reboot would bring.", "something is staged"),
    ("reboot", facts(STAGED, deployment(1, "default")), "No deployment of this installation runs.", "one is booted"),
    ("reboot", facts(deployment(3, "default"), deployment(1, "booted")),
     "Nothing is staged that a reboot would bring.", "something is staged"),
    ("reboot", facts(STAGED, replace(RUNNING, reset="etc")),
     "The next shutdown makes /etc or /var anew, and a person decides when.", "a person reboots"),
])
def test_nothing_is_done_where_nothing_is_to_be_done(name: str, known: Facts, text: str, waits: str) -> None:
    gate = refusal(name, known)
    assert (gate.text, gate.waits) == (text, waits)


def test_what_the_source_has_taken_back_is_neither_staged_nor_booted() -> None:
    """The last check was after the download, and found nothing newer than what runs."""
    taken_back = facts(DOWNLOADED, RUNNING, update_time=(NOW - 10 * MINUTE).isoformat())
    assert refusal("stage", taken_back).text == "Version 2 is downloaded, but its source has taken it back."
    staged = replace(taken_back, status=replace(taken_back.status, deployments=(
        replace(DOWNLOADED, download_only=False), RUNNING)))
    assert refusal("reboot", staged).text == "Version 2 is staged, but its source has taken it back."
    for offered in (update(2, available=False, staged=True), None):
        when = "" if offered is None else (NOW - 10 * MINUTE).isoformat()
        assert step("stage", facts(DOWNLOADED, RUNNING, update=offered, update_time=when)).allowed


@pytest.mark.parametrize(("name", "known", "text"), [
    ("download", OFFERED, "Version 2 is available."),
    ("download", facts(update=update(2, version="")), f"Image {digest(2)[:19]} is available."),
    ("stage", facts(DOWNLOADED, RUNNING), "Version 2 is downloaded."),
    ("stage", facts(STAGED, RUNNING, update=update(3)),
     "Version 3 is available and takes the place of what is staged."),
    ("stage", facts(update=update(2, layers_missing=0)), "All of Version 2 is here."),
    ("reboot", WAITING, "Version 2 is staged."),
])
def test_what_there_is_to_do(name: str, known: Facts, text: str) -> None:
    assert agreement("update", name, known) == text


# --- when to check ----------------------------------------------------------------------------------------------------


def test_each_machine_checks_at_moments_of_its_own() -> None:
    asked = (NOW - MINUTE).isoformat()
    moments = []
    for number in range(40):
        known = seeing(facts(update_time=asked), machine_id=f"{number:032x}")
        gate = refusal("check", known)
        assert gate.gate == "interval"
        moments.append(datetime.fromisoformat(gate.next) - NOW)
        assert allowed(known, rules(), "check", datetime.fromisoformat(gate.next))
    assert 2.9 * HOUR < min(moments) < 4 * HOUR, "half an interval after the last check at the soonest"
    assert 8 * HOUR < max(moments) < 9 * HOUR


@pytest.mark.parametrize(("days", "minutes"), [(1, 60), (30, 10)])
def test_a_machine_that_missed_its_moment_checks_soon_after_it_has_started_but_not_with_all_others(
        days: int, minutes: int) -> None:
    """It hurries when it has not been on for long enough in a while."""
    known = seeing(facts(update_time=(NOW - timedelta(days=days)).isoformat()), booted=NOW)
    delays = [datetime.fromisoformat(refusal("check", seeing(known, machine_id=f"{number:032x}")).next) - NOW
              for number in range(40)]
    assert min(delays) < minutes * MINUTE / 6
    assert minutes * MINUTE * 0.8 < max(delays) <= minutes * MINUTE
    assert allowed(known, rules(), "check", NOW + minutes * MINUTE)


def test_whether_it_hurries_is_settled_when_it_starts() -> None:
    """And not by the three days that are over while it waits: the moment that was told would not be the first."""
    known = seeing(facts(update_time=(NOW - timedelta(days=3) + 20 * MINUTE).isoformat()), booted=NOW)
    chance = datetime.fromisoformat(refusal("check", known).next)
    assert chance > NOW + 30 * MINUTE
    assert not allowed(known, rules(), "check", NOW + 30 * MINUTE)


def test_a_machine_that_never_asked_does_so() -> None:
    assert agreement("interval", "check", facts(update_time="")) == (
        "The source was never asked, so it is time to ask.")


def test_a_clock_that_was_put_back_keeps_nobody_from_checking() -> None:
    known = facts(update_time=(NOW + timedelta(days=365)).isoformat())
    assert agreement("interval", "check", known).startswith("The source was asked in the future: the clock was put ba")


# --- what went wrong before -------------------------------------------------------------------------------------------


def test_never_the_same_image_again() -> None:
    why = "did not boot, 2026-11-28T00:00:00+00:00"
    for known, name in ((facts(update=update(2, rejected=why)), "download"),
                        (facts(STAGED, RUNNING, update=update(3, rejected=why)), "stage")):
        gate = refusal(name, known)
        assert (gate.gate, gate.text, gate.waits) == (
            "rejected", f"The image is not taken: {why}.", "another image is offered")


@pytest.mark.parametrize(("known", "text"), [
    (facts(update=update(2), last=failed("upgrade")), "The last upgrade failed: the network is down."),
    (facts(update=update(2), last=failed("check")), "The last check failed: the network is down."),
    (facts(update=update(2), last=failed("rollback", state="succeeded")), "Somebody has asked for 'rollback' lately."),
    (facts(update=update(2), last=failed("unstage", state="succeeded")), "Somebody has asked for 'unstage' lately."),
])
def test_some_peace_after_what_went_wrong(known: Facts, text: str) -> None:
    gate = refusal("download", known)
    assert (gate.gate, gate.text, gate.next) == ("cool-down", text, iso(NOW + 55 * MINUTE))
    assert allowed(known, rules(cool_down="5min"), "download", NOW)


def test_other_outcomes_hold_nothing_back() -> None:
    for last in (failed("upgrade", state="succeeded"), failed("pin"), failed("upgrade", state="cancelled"),
                 failed("upgrade", ago=-HOUR)):
        assert allowed(facts(update=update(2), last=last), rules(), "download", NOW), last


def test_a_source_that_is_away_keeps_nobody_from_booting_what_is_staged() -> None:
    for verb in ("check", "upgrade"):
        assert allowed(facts(STAGED, RUNNING, last=failed(verb)), rules(), "reboot", NOW)


def test_and_after_a_fallback() -> None:
    known = seeing(facts(update=update(3), fell_back_from="2"), booted=NOW - 10 * MINUTE)
    gate = refusal("download", known)
    assert gate.text == "The machine fell back from a version that does not work here."
    assert gate.next == iso(NOW + 50 * MINUTE)


def test_what_was_tried_in_vain_is_not_tried_at_once() -> None:
    known = replace(OFFERED, tried={"download": (digest(2), NOW - 10 * MINUTE)})
    gate = refusal("download", known)
    assert (gate.gate, gate.next) == ("tried", iso(NOW + 50 * MINUTE))
    assert allowed(replace(known, tried={"download": (digest(9), NOW)}), rules(), "download", NOW), "of another image"
    assert not allowed(replace(known, tried={"download": (digest(2), NOW)}), rules(cool_down="0"), "download", NOW)


def test_nor_is_a_check() -> None:
    late = NOW + timedelta(days=1)
    assert refusal("check", replace(facts(), tried={"check": ("", late - MINUTE)}), now=late).gate == "tried"
    put_back = facts(update_time=(late + timedelta(days=400)).isoformat())
    assert refusal("check", replace(put_back, tried={"check": ("", late - MINUTE)}), now=late).gate == "tried"
    done = facts(update_time=(late - MINUTE).isoformat())
    assert refusal("check", replace(done, tried={"check": ("", late - MINUTE)}), now=late).gate == "interval"


@pytest.mark.parametrize("running", [
    replace(RUNNING, health="untried", on_trial=True), replace(RUNNING, health="bad", health_reason="no network")])
def test_nothing_is_built_on_what_is_not_proven(running: Any) -> None:
    assert refusal("stage", facts(DOWNLOADED, running)).gate == "health"
    assert refusal("reboot", facts(STAGED, running)).gate == "health"
    assert allowed(facts(running, update=update(2)), rules(), "download", NOW)


def test_where_nobody_counts_boots_nobody_waits_for_one() -> None:
    assert allowed(facts(DOWNLOADED, replace(RUNNING, health="untried")), rules(), "stage", NOW)


def test_a_shutdown_that_did_not_do_its_work_is_not_repeated_for_ever() -> None:
    early = replace(STAGED, staged=(BOOTED - MINUTE).isoformat())
    gate = refusal("reboot", facts(early, RUNNING, update_time=""))
    assert gate.text == "It was staged before this boot already, and the shutdown did not make it boot."
    for state in ("failed", "cancelled"):
        known = facts(STAGED, RUNNING, last=failed("finalize", state=state, ago=timedelta(days=2)))
        gate = refusal("reboot", known)
        assert gate.text == "The last shutdown could not make it boot: the network is down."
        assert gate.waits == "something else is staged, or a person reboots"


# --- the image --------------------------------------------------------------------------------------------------------


def test_an_image_has_to_be_old_enough() -> None:
    gate = refusal("download", OFFERED, rules(min_age="3d"))
    assert (gate.gate, gate.next) == ("min-age", iso(NOW + timedelta(days=2)))
    assert gate.text == "The image was built at Sat 2026-11-28 12:00 UTC and is too new."
    assert allowed(OFFERED, rules(min_age="1d"), "download", NOW)


@pytest.mark.parametrize("created", ["", "1970-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "yesterday"])
def test_one_that_does_not_say_when_it_was_built_is_as_old_as_it_is_known_here(created: str) -> None:
    gate = refusal("download", facts(update=update(2, created=created)), rules(min_age="1d"))
    assert gate.next == iso(NOW + 23 * HOUR)
    assert gate.text.startswith("The image was first seen here at")


def phased(**annotations: str) -> Facts:
    return facts(update=update(2, rollout={f"org.bootcd.rollout.{key}": text for key, text in annotations.items()}))


def test_the_turn_of_a_machine_in_a_rollout() -> None:
    known = phased(start="2026-11-29T11:00:00Z", duration="2d")
    gate = refusal("download", known, rules(wariness=0.6))
    turn = datetime.fromisoformat(gate.next)
    assert NOW < turn < NOW + 47 * HOUR
    assert gate.text.startswith("The image is for 2 percent of the machines by now; it is this one's turn at ")
    assert not allowed(known, rules(wariness=0.6), "download", turn - 2 * timedelta(seconds=1))
    assert allowed(known, rules(wariness=0.6), "download", turn)
    assert allowed(known, rules(wariness=0.0), "download", NOW), "a canary"
    last = datetime.fromisoformat(refusal("download", known, rules(wariness=1.0)).next)
    assert last == NOW + 47 * HOUR


@pytest.mark.parametrize("annotations", [
    {"start": END_OF_TIME}, {"start": "9999-12-31T00:00:00Z", "duration": "4w"}], ids=["start", "duration"])
def test_a_rollout_may_begin_at_the_end_of_time(annotations: dict[str, str]) -> None:
    """Which is how people say never. It is the image's matter alone: all else goes on."""
    for zone in (ZoneInfo("Asia/Tokyo"), ZoneInfo("America/New_York")):
        gate = refusal("download", phased(**annotations), rules(zone=zone, wariness=0.0))
        assert "it is this one's turn at " in gate.text
        windows = rules(zone=zone, wariness=0.0, download_windows=("Mon 02:00-03:00",))
        assert datetime.fromisoformat(step("download", phased(**annotations), windows).next).year >= 8999


def test_a_rollout_that_was_stopped_is_for_nobody() -> None:
    gate = refusal("download", phased(percent="0"), rules(wariness=0.0))
    assert gate.text == "The image is for 0 percent of the machines by now, and this is none of them."
    assert gate.waits == "the image is published for more machines"


@pytest.mark.parametrize(("annotations", "complaint"), [
    ({"percent": "ten"}, "the image's org.bootcd.rollout.percent is no number from 0 to 100: 'ten'"),
    ({"percent": "101"}, "percent is no number"),
    ({"percent": "-1"}, "percent is no number"),
    ({"percent": "٣"}, "percent is no number"),
    ({"start": "tomorrow"}, "start is no time: 'tomorrow'"),
    ({"start": "2026-13-01T00:00:00Z"}, "start is no time"),
    ({"duration": "a while\x1b[31m"}, "duration is no duration: 'a while?[31m'"),
    ({"duration": "P2D"}, "duration is no duration"),
    ({"duration": "999999w"}, "duration is no duration"),
])
def test_annotations_that_make_no_sense_hold_the_image_back(annotations: dict[str, str], complaint: str) -> None:
    gate = refusal("download", phased(**annotations), rules(wariness=0.0))
    assert complaint in gate.text
    assert gate.waits == "the image is published with annotations that make sense"


def test_an_unknown_annotation_is_named_and_ignored() -> None:
    text = agreement("rollout", "download", phased(colour="blue"))
    assert text == "The image is for everybody at once. Nobody here knows what org.bootcd.rollout.colour is."


# --- the surroundings -------------------------------------------------------------------------------------------------


def test_what_nobody_tells_refuses_nothing() -> None:
    for name, known in (("download", OFFERED), ("stage", facts(DOWNLOADED, RUNNING)), ("reboot", WAITING)):
        assert step(name, seeing(known, booted=None, machine_id=""), rules(max_load=1.0)).allowed


@pytest.mark.parametrize(("name", "known", "changes", "settings", "word", "text", "waits"), [
    ("download", OFFERED, {"metered": True}, {}, "metered", "The connection is metered.",
     "there is another connection"),
    ("stage", facts(STAGED, RUNNING, update=update(3)), {"metered": True}, {}, "metered",
     "The connection is metered.", "there is another connection"),
    ("download", OFFERED, {"on_battery": True, "battery": 49}, {}, "battery",
     "The machine runs on battery, with 49 percent left.", "the battery is charged"),
    ("reboot", WAITING, {"on_battery": True}, {}, "battery",
     "The machine runs on battery, and nobody tells how much is left.", "the battery is charged"),
    ("stage", facts(DOWNLOADED, RUNNING), {"on_battery": True, "battery": 100}, {"min_battery": 100}, "battery",
     "The machine runs on battery, with 100 percent left.", "the battery is charged"),
    ("download", OFFERED, {"power_saver": True}, {}, "power-saver", "The power profile is power-saver.",
     "the power profile changes"),
    ("download", OFFERED, {"load": 1.5}, {"max_load": 1.0}, "load",
     "The load is 1.50 for each processor, and 1 is the most.", "the machine has less to do"),
    ("reboot", WAITING, {"users": (User("eve"), User("adam"))}, {}, "users", "Logged in: adam, eve.",
     "nobody is logged in any more"),
    ("reboot", WAITING, {"users": (User("eve", NOW - HOUR),)}, {}, "users", "Logged in: eve.",
     "nobody is logged in any more"),
    ("reboot", WAITING, {"users": (User("eve"), User("adam", NOW))}, {"idle_users": "30min"}, "users",
     "Logged in: adam, eve.", "nobody is at work any more"),
    ("reboot", WAITING, {"locks": (Lock("Backup", "a backup is\nunder way."),)}, {}, "inhibitors",
     "Backup holds a shutdown back: a backup is under way.", "Backup lets go"),
    ("reboot", WAITING, {"shutdown": NOW + HOUR}, {}, "planned",
     "Somebody has planned a shutdown for Sun 2026-11-29 13:00 UTC already.",
     "that shutdown comes, or is cancelled"),
])
def test_what_holds_a_step_back(name: str, known: Facts, changes: dict[str, Any], settings: dict[str, Any], word: str,
                                text: str, waits: str) -> None:
    gate = refusal(name, seeing(known, **changes), rules(**settings))
    assert (gate.gate, gate.text, gate.waits) == (word, text, waits)


@pytest.mark.parametrize(("name", "known", "changes", "settings"), [
    ("stage", facts(DOWNLOADED, RUNNING), {"metered": True}, {}),
    ("reboot", WAITING, {"power_saver": True, "metered": True}, {}),
    ("download", OFFERED, {"on_battery": True, "battery": 50}, {}),
    ("download", OFFERED, {"on_battery": True, "battery": 1}, {"min_battery": 0}),
    ("download", OFFERED, {"on_battery": False, "battery": 1}, {"min_battery": 100}),
    ("download", OFFERED, {"load": 9.0}, {}),
    ("download", OFFERED, {"users": (User("eve"),), "locks": (Lock("a", "b"),)}, {}),
    ("reboot", WAITING, {"users": (User("eve"),)}, {"idle_users": "0"}),
    ("reboot", WAITING, {"users": (User("eve", NOW - HOUR),)}, {"idle_users": "30min"}),
])
def test_what_does_not(name: str, known: Facts, changes: dict[str, Any], settings: dict[str, Any]) -> None:
    assert step(name, seeing(known, **changes), rules(**settings)).allowed


def test_a_check_is_only_for_free_where_nothing_may_cost() -> None:
    known, late = seeing(facts(), metered=True), NOW + timedelta(days=1)
    assert allowed(known, rules(), "check", late)
    assert refusal("check", known, replace(rules(), metered="never"), late).gate == "metered"
    local = seeing(facts(replace(RUNNING, image="oci:/media/usb:os")), metered=True)
    assert allowed(local, replace(rules(), metered="never"), "check", late), "no network is asked"


def test_somebody_who_is_idle_is_so_for_long_enough_at_a_time_that_is_known() -> None:
    gate = refusal("reboot", seeing(WAITING, users=(User("eve", NOW - 10 * MINUTE),)), rules(idle_users="30min"))
    assert gate.next == iso(NOW + 20 * MINUTE)


def test_a_reboot_waits_for_the_operation_that_runs() -> None:
    gate = refusal("reboot", replace(WAITING, running="switch"))
    assert (gate.gate, gate.text, gate.waits) == ("running", "An operation is running: switch.", "it ends")
    assert allowed(replace(OFFERED, running="switch"), rules(), "download", NOW), "it has to wait for its turn anyway"


def test_a_reboot_that_somebody_has_cancelled_does_not_come_back_at_once() -> None:
    known = replace(WAITING, dismissed=(STAGED.id, NOW + 5 * HOUR))
    gate = refusal("reboot", known)
    assert (gate.gate, gate.text, gate.next) == ("planned", "Somebody has cancelled the reboot.", iso(NOW + 5 * HOUR))
    assert allowed(replace(known, dismissed=("0", NOW + 5 * HOUR)), rules(), "reboot", NOW), "that of another one"


# --- windows and the lock server --------------------------------------------------------------------------------------


def test_a_step_waits_for_its_window() -> None:
    those = rules(download_windows=("Mon 02:00-04:00",), reboot_windows=("Sun 12:00-12:15", "Wed 03:00-04:00"))
    gate = refusal("download", OFFERED, those)
    assert gate.text == "The download window is not open; the next begins at Mon 2026-11-30 02:00 UTC."
    assert step("reboot", WAITING, those).allowed
    gate = refusal("reboot", WAITING, those, NOW + 6 * MINUTE)
    assert gate.text == ("The reboot window closes too soon for the warning; the next begins at "
                         "Wed 2026-12-02 03:00 UTC.")
    assert refusal("reboot", WAITING, replace(those, warning=2 * HOUR)).waits == "the windows or the warning change"


def test_staging_that_has_to_download_waits_for_both_windows() -> None:
    known = facts(STAGED, RUNNING, update=update(3))
    those = rules(download_windows=("Mon 02:00-04:00",), stage_windows=("Mon 03:00-05:00",))
    assert refusal("stage", known, those).text == (
        "The download window is not open; the next begins at Mon 2026-11-30 02:00 UTC.")
    assert step("stage", known, those).next == "2026-11-30T03:00:00+00:00"
    assert "The stage window" in refusal("stage", facts(DOWNLOADED, RUNNING), those).text


def test_the_lock_server_comes_first_and_last() -> None:
    with_server = rules(fleetlock="https://lock.example")
    for name, known in (("download", OFFERED), ("reboot", WAITING)):
        assert refusal(name, known, with_server).text == (
            "The lock server does not know yet that this machine is up: That comes first.")
    up = replace(WAITING, fleetlock=FleetLock(steady=True))
    assert agreement("fleetlock", "reboot", up, with_server) == "The lock server is asked when it comes to it."
    refused = replace(up, fleetlock=FleetLock(True, "HTTP 409, busy", NOW + 10 * MINUTE))
    gate = refusal("reboot", refused, with_server)
    assert (gate.text, gate.next) == ("The lock server does not let the machine reboot: HTTP 409, busy.",
                                      iso(NOW + 10 * MINUTE))
    assert step("reboot", WAITING).allowed, "without a server nobody is asked"


def test_gates_combine_and_the_next_chance_is_when_all_agree() -> None:
    those = rules(download_windows=("Sat 02:00-04:00",), min_age="10d")
    found = step("download", OFFERED, those)
    assert found.next == "2026-12-12T02:00:00+00:00", "the first Saturday after ten days"
    assert [gate.gate for gate in found.gates if not gate.allows] == ["min-age", "window"]
    found = step("download", seeing(OFFERED, metered=True, power_saver=True), those)
    assert (found.next, found.waits) == ("", "there is another connection; the power profile changes")


# --- whatever the facts are -------------------------------------------------------------------------------------------

times = st.integers(-100 * 3600, 100 * 3600).map(lambda seconds: NOW + timedelta(seconds=seconds))
isos = times.map(lambda when: when.isoformat()) | st.sampled_from(
    ["", "nonsense", "1970-01-01T00:00:00Z", END_OF_TIME])
users = st.tuples() | st.tuples(st.builds(User, st.just("eve"), st.none() | times))
windows = st.sampled_from([(), ("Sat 02:00-04:00",), ("Mon..Fri 22:00-04:00", "Sun 12:00-12:30")])


@st.composite
def machines(draw: st.DrawFn) -> Facts:
    staged = draw(st.sampled_from([(), (STAGED,), (DOWNLOADED,)]))
    annotations = draw(st.dictionaries(
        st.sampled_from(["start", "duration", "percent", "colour"]),
        st.sampled_from(["2026-11-29T00:00:00Z", "2d", "50", "0", "100", "nonsense", "2026-12-05T00:00:00+05:45",
                         "5000w", "999999w", END_OF_TIME])))
    offered = draw(st.none() | st.builds(
        update, st.integers(2, 3), created=isos, seen=isos, layers_missing=st.integers(0, 2),
        rollout=st.just({f"org.bootcd.rollout.{key}": text for key, text in annotations.items()})))
    running = replace(RUNNING, health=draw(st.sampled_from(["good", "bad", "untried"])), on_trial=draw(st.booleans()))
    last = draw(st.none() | st.builds(failed, st.sampled_from(["upgrade", "check", "rollback", "finalize"]),
                                      state=st.sampled_from(["failed", "succeeded"])))
    known = facts(*staged, running, update=offered, update_time=draw(isos), last=last)
    known = seeing(known, metered=draw(st.none() | st.booleans()), on_battery=draw(st.none() | st.booleans()),
                   battery=draw(st.none() | st.integers(0, 100)), users=draw(st.none() | users),
                   booted=draw(st.none() | times), machine_id=draw(st.sampled_from(["", MACHINE])),
                   shutdown=draw(st.none() | times))
    tried = draw(st.dictionaries(st.sampled_from(STEPS), st.tuples(st.sampled_from(["", digest(2)]), times)))
    lock = FleetLock(draw(st.booleans()), "busy", draw(st.none() | times))
    return replace(known, tried=tried, fleetlock=lock,
                   dismissed=draw(st.none() | st.tuples(st.just(STAGED.id), times)))


those_rules = st.builds(
    rules, st.sampled_from(["none", "stage", "reboot"]),
    st.sampled_from([timezone(timedelta(hours=-3, minutes=-30)), timezone(timedelta(hours=14))]),
    reboot_windows=windows, download_windows=windows, check_windows=windows,
    min_age=st.sampled_from(["0", "3d", "5000w"]),
    wariness=st.floats(0, 1), idle_users=st.sampled_from(["", "0", "20min"]),
    fleetlock=st.sampled_from(["", "https://lock.example"]), min_battery=st.sampled_from([0, 50, 100]))


@given(machines(), those_rules)
def test_the_next_chance_is_one_and_the_first(known: Facts, those: Rules) -> None:
    for name in STEPS:
        found = step(name, known, those)
        if found.next:
            chance = datetime.fromisoformat(found.next)
            assert allowed(known, those, name, chance)
            gaps = [NOW + (chance - NOW - timedelta(seconds=1)) * number / 20 for number in range(21)]
            assert not any(allowed(known, those, name, when) for when in gaps)
