# SPDX-License-Identifier: Apache-2.0
"""Faults that were found in bootc's composefs backend, and the tests that would fail if bootcd had them.

Each row: what happens there, and where it is tested here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent

DEFECTS = {
    "asking whether there is an update stages it, or drops what is staged":
        ("contract/test_deployments.py", "test_check_changes_nothing_but_what_is_known"),
    "an image that is staged already is taken for no update":
        ("contract/test_deployments.py", "test_download_only_stages_and_upgrade_applies"),
    "status tells the opposite of what boots next":
        ("contract/test_deployments.py", "test_rollback_promotes_the_previous_deployment"),
    "a rollback asserts that there are exactly two entries":
        ("deploy/test_plan.py", "test_where_a_rollback_goes"),
    "every system has the same name in its entries":
        ("contract/test_deployments.py", "test_two_installations_may_share_an_esp"),
    "a rollback on GRUB does nothing across versions, since the version sorts first":
        ("boot/test_entries.py", "test_the_newest_generation_boots_whatever_the_versions_are"),
    "entries of GRUB are ordered by their file names alone":
        ("boot/test_entries.py", "test_file_names_order_like_rpms"),
    "an upgrade leaves the addons of a UKI behind":
        ("contract/test_deployments.py", "test_a_uki_is_taken_if_it_carries_the_digest_of_its_image"),
    "a policy that demands signatures is not asked":
        ("contract/test_trust.py", "test_whoever_asks_an_unsigned_image_is_refused_and_leaves_nothing"),
    "the timer waits for what another system makes":
        ("systemd/guest/test_updates.py", "test_an_update_comes_unattended"),
    "the check for room counts layers that are here":
        ("cli/test_room.py", "test_what_is_shared_is_no_reason_to_refuse"),
    "a kernel that was half copied makes every upgrade fail":
        ("boot/test_kernels.py", "test_a_half_copied_pair_is_completed"),
    "a finalize that fails leaves no mark and is not tried again":
        ("ops/test_running.py", "test_a_finalize_that_fails_is_remembered_and_the_next_one_completes"),
    "what is staged is forgotten by a reboot":
        ("ops/test_running.py", "test_what_was_staged_outlives_a_power_cut"),
    "foreign entries are deleted, or break status":
        ("contract/test_deployments.py", "test_foreign_boot_entries_and_files_are_never_touched"),
    "a deletion in /etc takes new files of the image along":
        ("deploy/test_etc.py", "test_table"),
    "a soft reboot does not ask how the root is set up":
        ("initramfs/test_setup_root.py", "test_an_etc_that_is_lost"),
    "a rollback does not know soft reboots":
        ("ops/test_reboot.py", "test_a_soft_reboot_where_the_kernel_stays"),
    "after a rollback the bad image comes back":
        ("ops/test_health.py", "test_a_version_whose_checks_fail_falls_back_after_its_tries"),
    "message ids of the journal are no 128-bit ids":
        ("daemon/test_events.py", "test_ids_are_random_and_differ"),
    "the manual has settings that nothing reads":
        ("test_documentation.py", "test_settings_are_documented_with_their_defaults"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_has_a_test(defect: str) -> None:
    file, name = DEFECTS[defect]
    assert f"\ndef {name}(" in (TESTS / file).read_text()
