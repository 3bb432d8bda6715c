# SPDX-License-Identifier: Apache-2.0
"""Plans by example: facts and a request in, steps out. No machine is needed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from bootcd.deploy import plan
from bootcd.deploy.facts import Aside, Entry, Facts, kept, kernel_names, outlived, spare, with_generations, without
from bootcd.deploy.plan import Action, Kernel
from bootcd.deploy.records import Pin, Record, decode
from bootcd.errors import EspFull, NoRollback, NothingStaged, Refused


def record(name: str, generation: int | None = None, **changes: Any) -> Record:
    """A deployment called `name`, which boots from a kernel of its own unless told otherwise."""
    values: dict[str, Any] = {
        "id": hashlib.sha512(name.encode()).hexdigest(), "image": "oci:x", "manifest_digest": f"sha256:{name}",
        "config_digest": "", "boot_type": "bls", "boot_digest": f"kernel of {name}", "composefs_karg": "",
        "version": name, "generation": generation,
    }
    return Record(**{**values, **changes})


def entry(of: Record, *, bad: bool = False, counted: bool = False) -> Entry:
    assert of.generation is not None
    return Entry(f"bootcd-{of.generation:010}-{of.short_id}.conf", of.generation, of.short_id, bad, counted or bad)


def facts(*records: Record, **changes: Any) -> Facts:
    """All `records` with their entries, newest first, and their kernels of 10 bytes each."""
    deployed = sorted((one for one in records if one.generation is not None), key=lambda one: -(one.generation or 0))
    values: dict[str, Any] = {
        "records": {one.id: one for one in records}, "entries": tuple(map(entry, deployed)),
        "last_generation": max([0, *(one.generation or 0 for one in records)]),
        "kernels": {name: 10 for one in records for name in kernel_names(one)}, "esp_free": 1000,
        "images": frozenset(one.id for one in records), "state": frozenset(one.id for one in records),
    }
    return Facts(**{**values, **changes})


def kernel(of: Record, size: int = 10) -> Kernel:
    return Kernel(kernel_names(of)[0], size, {"vmlinuz": (1, "00"), "initrd": (1, "00")})


def back(state: Facts, target: Record) -> plan.Plan:
    return plan.plan_rollback(state, target, tries=3, time="then")


def actions(made: plan.Plan) -> list[str]:
    return [str(step.action) for step in made.steps]


def what(made: plan.Plan) -> list[str]:
    """Action and first argument of each step."""
    return [f"{step.action} {next(iter(step.args.values()))}" for step in made.steps]


OLD, NOW, NEW = record("old", 1), record("now", 2), record("new")

# --- staging ----------------------------------------------------------------------------------------------------------


def test_staging_keeps_the_order_that_makes_it_safe() -> None:
    made = plan.plan_stage(facts(NOW), NEW, kernel(NEW), merge_from=NOW.id)
    assert actions(made) == ["hold", "install-kernel", "prepare-state", "save-record"]
    assert made.steps[2].args == {"id": NEW.id, "merge-from": NOW.id}


def test_another_staged_deployment_goes() -> None:
    other = record("other")
    made = plan.plan_stage(facts(NOW, other), NEW, kernel(NEW), merge_from=NOW.id)
    assert what(made)[-1] == f"remove-record {other.id}", "not before the new one is saved"
    assert actions(plan.plan_stage(facts(NOW, NEW), NEW, kernel(NEW), merge_from=NOW.id))[-1] == "save-record"


def test_the_state_of_the_booted_deployment_is_never_made_anew() -> None:
    made = plan.plan_stage(facts(NOW, booted=NEW.id), NEW, kernel(NEW), merge_from=NOW.id)
    assert "prepare-state" not in actions(made)


def test_a_kernel_that_is_there_needs_no_room() -> None:
    same = record("new", boot_digest=NOW.boot_digest)
    made = plan.plan_stage(facts(NOW, esp_free=0), same, kernel(same, 500), merge_from=None)
    assert actions(made)[0] == "hold"


def test_a_kernel_of_which_only_a_part_is_there_needs_room() -> None:
    same = record("new", boot_digest=NOW.boot_digest)
    half = facts(NOW, esp_free=489, partial=frozenset({NOW.boot_digest}))
    with pytest.raises(EspFull):
        plan.plan_stage(half, same, kernel(same, 500), merge_from=None)
    enough = facts(NOW, esp_free=490, partial=frozenset({NOW.boot_digest}))
    assert actions(plan.plan_stage(enough, same, kernel(same, 500), merge_from=None))[0] == "hold"


def test_room_is_made_of_what_nothing_needs_first() -> None:
    kernels = {NOW.boot_digest: 10, OLD.boot_digest: 10, "nobody's": 30}
    made = plan.plan_stage(facts(NOW, OLD, kernels=kernels, esp_free=0), NEW, kernel(NEW, 25), merge_from=None)
    assert what(made)[0] == "remove-kernel nobody's"
    assert f"remove-record {OLD.id}" not in what(made)


def test_room_is_then_made_of_old_deployments_the_oldest_first() -> None:
    older, oldest = record("older", 2), record("oldest", 1)
    now = record("now", 3)
    made = plan.plan_stage(facts(now, older, oldest, esp_free=0), NEW, kernel(NEW, 10), merge_from=None)
    assert what(made)[:3] == [f"remove-entry {entry(oldest).file_name}", f"remove-record {oldest.id}",
                              f"remove-kernel {oldest.boot_digest}"]
    assert f"remove-record {older.id}" not in what(made)
    made = plan.plan_stage(facts(now, older, oldest, esp_free=0), NEW, kernel(NEW, 20), merge_from=None)
    assert f"remove-record {older.id}" in what(made)


def test_the_kernel_of_a_replaced_staged_deployment_makes_room() -> None:
    staged = record("staged")
    made = plan.plan_stage(facts(NOW, staged, esp_free=0), NEW, kernel(NEW, 10), merge_from=None)
    assert what(made)[0] == f"remove-kernel {staged.boot_digest}"


def test_a_shared_kernel_goes_only_with_the_last_that_needs_it() -> None:
    first, second = record("first", 1, boot_digest="shared"), record("second", 2, boot_digest="shared")
    made = plan.plan_stage(facts(first, second, record("now", 3), esp_free=0), NEW, kernel(NEW, 10), merge_from=None)
    assert what(made)[:5] == [f"remove-entry {entry(first).file_name}", f"remove-record {first.id}",
                              f"remove-entry {entry(second).file_name}", f"remove-record {second.id}",
                              "remove-kernel shared"]


def test_room_is_made_before_the_kernel_is_known() -> None:
    state = facts(NOW, OLD, esp_free=5)
    assert plan.plan_room(state, 5).steps == ()
    assert what(plan.plan_room(state, 15)) == [f"remove-entry {entry(OLD).file_name}", f"remove-record {OLD.id}",
                                               f"remove-kernel {OLD.boot_digest}"]
    with pytest.raises(EspFull, match="needs 16 bytes, 5 are free, 10 could be made free"):
        plan.plan_room(state, 16)


def test_what_may_go_goes_in_order() -> None:
    """The staged deployment last, and never the last good one, however old it is."""
    now, bad, good = record("now", 4), record("bad", 3), record("good", 2, health="good")
    oldest, staged = record("oldest", 1), record("staged")
    pinned = record("pinned", 5, pins=(Pin("", ""),))
    state = facts(now, bad, good, oldest, staged, pinned, booted=now.id)
    assert state.default == pinned
    assert spare(state) == [oldest, bad, staged]
    assert spare(state, staged.id) == [oldest, bad]
    assert kept(state, 0)[good.id] == "last good"
    failed = replace(good, health="bad")
    assert failed in spare(facts(now, failed)), "not any more"


def test_the_machine_without_some() -> None:
    left = without(facts(NOW, OLD, NEW), [OLD, NEW])
    assert list(left.records) == [NOW.id]
    assert left.deployed() == [NOW]


def test_an_entry_makes_room_for_itself_of_what_nothing_needs() -> None:
    kernels = {NOW.boot_digest: 10, OLD.boot_digest: 10, "nobody's": 30, "others'": 5}
    state = facts(NOW, OLD, kernels=kernels, foreign=frozenset({"others'"}), esp_free=0)
    assert what(back(state, OLD))[:3] == ["reject sha256:now", "remove-kernel nobody's", f"write-entry {OLD.id}"]
    assert "remove-kernel nobody's" not in what(back(replace(state, esp_free=1), OLD))


@pytest.mark.parametrize("state", [
    facts(NOW, esp_free=5),
    facts(NOW, record("old", 1, pins=(Pin("", ""),)), esp_free=5),
    facts(NOW, OLD, booted=OLD.id, esp_free=5),
    facts(NOW, OLD, foreign=frozenset({OLD.boot_digest}), esp_free=5),
])
def test_never_at_the_cost_of_the_booted_the_default_a_pinned_one_or_strangers(state: Facts) -> None:
    with pytest.raises(EspFull, match=r"lacks 10 bytes.*needs 15 bytes, 5 are free"):
        plan.plan_stage(state, NEW, kernel(NEW, 15), merge_from=None)


# --- finalizing -------------------------------------------------------------------------------------------------------


def test_finalizing_writes_the_entry_before_the_record() -> None:
    made = plan.plan_finalize(facts(NOW, NEW), tries=3, merge=False)
    assert actions(made) == ["write-entry", "set-generation"]
    assert made.steps[0].args == {"id": NEW.id, "generation": 3, "tries": 3}


def test_the_first_entry_has_nothing_to_fall_back_to_and_counts_nothing() -> None:
    assert plan.plan_finalize(facts(NEW), tries=3, merge=False).steps[0].args["tries"] == 0


def test_late_edits_are_merged_on_a_running_system() -> None:
    made = plan.plan_finalize(facts(NOW, OLD, NEW, booted=OLD.id), tries=3, merge=True)
    assert actions(made)[0] == "merge-etc"
    assert made.steps[0].args == {"id": NEW.id, "merge-from": OLD.id}


def test_the_booted_deployment_is_not_merged_into_itself() -> None:
    made = plan.plan_finalize(facts(NOW, NEW, booted=NEW.id), tries=3, merge=True)
    assert "merge-etc" not in actions(made)


def test_finalizing_again_after_it_broke_off_takes_a_new_generation() -> None:
    half = facts(NOW, NEW, entries=(Entry("bootcd-0000000003-x.conf", 3, NEW.short_id), entry(NOW)))
    made = plan.plan_finalize(half, tries=3, merge=False)
    assert what(made) == [f"write-entry {NEW.id}", f"set-generation {NEW.id}", "remove-entry bootcd-0000000003-x.conf"]
    assert made.steps[0].args["generation"] == 4


def test_nothing_staged() -> None:
    with pytest.raises(NothingStaged):
        plan.plan_finalize(facts(NOW), tries=3, merge=False)
    with pytest.raises(NothingStaged):
        plan.plan_unstage(facts(NOW))


def test_unstaging_leaves_no_entry_behind() -> None:
    assert what(plan.plan_unstage(facts(NOW, NEW))) == [f"remove-record {NEW.id}"]
    half = facts(NOW, NEW, entries=(Entry("half.conf", 3, NEW.short_id), entry(NOW)))
    assert what(plan.plan_unstage(half)) == ["remove-entry half.conf", f"remove-record {NEW.id}"]


# --- resetting --------------------------------------------------------------------------------------------------------


def test_a_reset_prepares_all_before_the_entry_and_exchanges_after_it() -> None:
    made = plan.plan_reset(facts(NOW), NOW, "state", etc=5, var=6, tries=3)
    assert actions(made) == ["prepare-reset", "write-entry", "reset", "set-generation", "remove-entry"]
    args = {"id": NOW.id, "marked": NOW.id, "generation": 3, "etc": 5, "var": 6}
    assert made.steps[0].args == made.steps[2].args == args
    assert made.steps[1].args["tries"] == 3
    assert plan.plan_reset(facts(NOW), NOW, "etc", etc=5, var=6, tries=3).steps[0].args["var"] is None


def test_a_reset_is_about_what_boots_next() -> None:
    made = plan.plan_reset(facts(NOW, NEW), NOW, "etc", etc=5, var=6, tries=3)
    assert made.steps[0].args["id"] == NEW.id
    made = plan.plan_reset(facts(NOW, record("new", locked=True)), NOW, "etc", etc=5, var=6, tries=3)
    assert made.steps[0].args["id"] == NOW.id
    with pytest.raises(Refused, match="whole"):
        plan.plan_reset(facts(NOW, kernels={}), NOW, "etc", etc=5, var=6, tries=3)


def test_a_reset_is_forgotten_by_name_only() -> None:
    marked = record("now", 2, reset="etc")
    assert actions(plan.plan_unstage(facts(marked), reset=True)) == ["save-record"]
    with pytest.raises(NothingStaged):
        plan.plan_unstage(facts(marked))
    assert decode(back(facts(marked, OLD), OLD).steps[1].args["record"].encode(), "").reset == ""


def test_what_a_reset_left_goes_when_something_newer_is_good() -> None:
    left = frozenset({Aside(2), Aside(3, NOW.id), Aside(4)})
    for health, expected in (("untried", []), ("bad", []), ("good", [Aside(2), Aside(3, NOW.id)])):
        state = facts(record("now", 3, health=health), record("old", 1, health="good"), aside=left)
        assert outlived(state) == expected
        made, removals = plan.plan_collect(state, keep_previous=1)
        assert actions(made).count("remove-aside") == len(expected)
        assert [removal.kind for removal in removals].count("aside") == len(expected)


# --- rolling back -----------------------------------------------------------------------------------------------------


def test_rolling_back_promotes_before_it_removes() -> None:
    made = back(facts(NOW, OLD), OLD)
    assert actions(made) == ["reject", "write-entry", "set-generation", "remove-entry"]
    assert made.steps[1].args == {"id": OLD.id, "generation": 3, "tries": 0}
    assert made.steps[3].args == {"file": entry(OLD).file_name}


def test_what_never_proved_itself_counts_its_boots_again() -> None:
    for counted in (entry(OLD, counted=True), entry(OLD, bad=True)):
        made = back(facts(NOW, OLD, entries=(entry(NOW), counted)), OLD)
        assert made.steps[1].args["tries"] == 3


def test_a_rollback_keeps_the_next_shutdown_from_undoing_it() -> None:
    made = back(facts(NOW, OLD, NEW), OLD)
    assert decode(made.steps[0].args["record"].encode(), "").locked is True
    assert "save-record" not in actions(back(facts(NOW, OLD, record("new", locked=True)), OLD))


def test_a_retreat_rejects_the_newer_image_as_part_of_the_transaction() -> None:
    made = back(facts(NOW, OLD), OLD)
    assert made.steps[0].args == {"manifest": "sha256:now", "reason": "rolled back from version now", "time": "then"}
    forward = back(facts(record("old", 3), NOW), NOW)
    assert Action.REJECT in [step.action for step in forward.steps]
    same = record("old", 1, manifest_digest=NOW.manifest_digest)
    assert "reject" not in actions(back(facts(NOW, same), same))


def test_what_cannot_be_rolled_back_to() -> None:
    with pytest.raises(Refused, match="only staged"):
        back(facts(NOW, NEW), NEW)
    with pytest.raises(Refused, match="default already"):
        back(facts(NOW, OLD), NOW)
    with pytest.raises(Refused, match="kernel"):
        back(facts(NOW, OLD, kernels={NOW.boot_digest: 10}), OLD)
    with pytest.raises(Refused, match="kernel"):
        back(facts(NOW, OLD, partial=frozenset({OLD.boot_digest})), OLD)
    with pytest.raises(Refused, match="image"):
        back(facts(NOW, OLD, images=frozenset({NOW.id})), OLD)
    with pytest.raises(Refused, match="state"):
        back(facts(NOW, OLD, state=frozenset({NOW.id})), OLD)


def test_where_a_rollback_goes() -> None:
    older = record("older", 1)
    state = facts(record("now", 3), record("old", 2), older)
    assert plan.rollback_target(state).version == "old"
    with pytest.raises(NoRollback):
        plan.rollback_target(facts(NOW))


def test_a_rollback_passes_over_what_is_bad() -> None:
    now, old, older = record("now", 3), record("old", 2), record("older", 1)
    state = facts(now, old, older, entries=(entry(now), entry(old, bad=True), entry(older)))
    assert plan.rollback_target(state) is older
    state = facts(now, record("old", 2, health="bad"), older)
    assert plan.rollback_target(state) is older


def test_a_rollback_before_the_reboot_stays_with_what_runs() -> None:
    assert plan.rollback_target(facts(NOW, OLD, booted=OLD.id)) is OLD
    assert plan.rollback_target(facts(record("now", 3), record("middle", 2), OLD, booted=OLD.id)) is OLD


# --- keeping and collecting -------------------------------------------------------------------------------------------


def test_who_stays_and_why() -> None:
    pinned = record("pinned", 1, pins=(Pin("mine", ""),))
    previous, gone, booted = record("previous", 4), record("gone", 2), record("booted", 3)
    state = facts(record("default", 5), previous, booted, gone, pinned, NEW, booted=booted.id)
    reasons = {state.records[id].version: why for id, why in kept(state, 1).items()}
    assert reasons == {"booted": "booted", "default": "default", "new": "staged", "pinned": "pinned",
                       "previous": "previous"}
    assert "gone" in {state.records[id].version for id in kept(state, 2)}
    assert "previous" not in {state.records[id].version for id in kept(state, 0)}


def test_a_bad_deployment_does_not_take_the_place_of_a_good_one() -> None:
    now, bad, good = record("now", 3), record("bad", 2), record("good", 1)
    state = facts(now, bad, good, entries=(entry(now), entry(good), entry(bad, bad=True)))
    assert set(kept(state, 1)) == {now.id, good.id}


def test_collection_drops_deployments_then_what_only_they_needed() -> None:
    gone = record("gone", 1)
    state = facts(record("now", 3), record("old", 2), gone, state=frozenset({gone.id}), names=frozenset({gone.id}),
                  tags=frozenset({gone.manifest_digest}))
    made, removals = plan.plan_collect(state, keep_previous=1)
    assert what(made) == [f"remove-entry {entry(gone).file_name}", f"remove-record {gone.id}",
                          f"remove-kernel {gone.boot_digest}", f"remove-state {gone.id}", f"release {gone.id}",
                          f"release {gone.manifest_digest}"]
    assert [item.kind for item in removals] == ["deployment", "kernel", "state", "image name", "tag"]
    assert all(item.why for item in removals)


def test_collection_of_a_tidy_machine_does_nothing() -> None:
    state = facts(NOW, OLD, state=frozenset({NOW.id, OLD.id}), names=frozenset({NOW.id}),
                  tags=frozenset({NOW.manifest_digest}))
    assert plan.plan_collect(state, keep_previous=1) == (plan.Plan("collect", ()), [])


def test_what_entries_without_a_record_need_stays() -> None:
    """They are those of another installation, or of a deployment whose record was lost."""
    lost = "0" * 128
    stray = Entry("stray.conf", 9, lost[:12], kernel="its kernel")
    there = {NOW.boot_digest: 1, "theirs": 2, "its kernel": 3, "old": 4}
    state = facts(NOW, entries=(entry(NOW), stray), kernels=there,
                  foreign=frozenset({"theirs"}), names=frozenset({NOW.id, lost}), state=frozenset({NOW.id, lost}))
    made, _ = plan.plan_collect(state, keep_previous=1)
    assert what(made) == ["remove-kernel old"]
    with pytest.raises(EspFull):
        plan.plan_stage(replace(state, esp_free=0), NEW, kernel(NEW, 500), merge_from=None)


def test_nothing_is_collected_while_a_record_is_missing() -> None:
    with pytest.raises(Refused, match="cannot be read"):
        plan.plan_collect(facts(NOW, damaged=frozenset({"f" * 128})), keep_previous=1)
    with pytest.raises(Refused, match="running deployment"):
        plan.plan_collect(facts(NOW, booted="f" * 128), keep_previous=1)
    with pytest.raises(Refused, match="no boot entry"):
        plan.plan_collect(facts(NOW, entries=()), keep_previous=1)


def test_an_entry_decides_whether_a_deployment_is_staged() -> None:
    """Finalizing may have failed between the entry and the record."""
    found = with_generations({NEW.id: NEW, NOW.id: NOW}, [entry(record("new", 7)), entry(NOW)])
    assert (found[NEW.id].generation, found[NOW.id].generation) == (7, 2)


# --- the same tree again ----------------------------------------------------------------------------------------------


def test_an_image_with_the_tree_of_a_kept_deployment_promotes_it() -> None:
    made = plan.plan_renew(facts(NOW, OLD, NEW), OLD, kernel(OLD), tries=3)
    assert actions(made) == ["hold", "install-kernel", "save-record", "remove-record", "write-entry", "set-generation",
                             "remove-entry"]
    assert made.steps[4].args["tries"] == 0


def test_an_image_with_the_tree_of_the_default_only_renews_it() -> None:
    assert actions(plan.plan_renew(facts(NOW, OLD), NOW, kernel(NOW), tries=3)) == ["hold", "install-kernel",
                                                                                    "save-record"]


def test_another_way_to_boot_is_a_new_generation_that_has_to_prove_itself() -> None:
    sealed = replace(NOW, boot_type="uki")
    made = plan.plan_renew(facts(NOW, OLD), sealed, kernel(sealed), tries=3)
    assert made.steps[3].args == {"id": NOW.id, "generation": 3, "tries": 3}


def test_two_deployments_of_one_image_share_its_tag() -> None:
    twin = record("twin", 1, manifest_digest=NOW.manifest_digest)
    state = facts(NOW, twin, tags=frozenset({NOW.manifest_digest}))
    assert "release" not in actions(plan.plan_collect(state, keep_previous=0)[0])


def test_the_kernel_of_a_uki_is_its_own() -> None:
    assert kernel_names(record("sealed", boot_type="uki")) == (record("sealed").id + ".efi",)
