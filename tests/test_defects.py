# SPDX-License-Identifier: Apache-2.0
"""Faults that were found in bootc's composefs backend, and the tests that would fail if bootcd had them.

Each row: what happens there, and where it is tested here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent

DEFECTS = {
    "an image that is staged already is taken for no update":
        ("contract/test_deployments.py", "test_download_only_stages_and_upgrade_applies"),
    "a rollback asserts that there are exactly two entries":
        ("deploy/test_plan.py", "test_where_a_rollback_goes"),
    "a rollback on GRUB does nothing across versions, since the version sorts first":
        ("boot/test_entries.py", "test_the_newest_generation_boots_whatever_the_versions_are"),
    "entries of GRUB are ordered by their file names alone":
        ("boot/test_entries.py", "test_file_names_order_like_rpms"),
    "a finalize that fails leaves no mark and is not tried again":
        ("ops/test_running.py", "test_a_finalize_that_fails_is_remembered_and_the_next_one_completes"),
    "what is staged is forgotten by a reboot":
        ("ops/test_running.py", "test_what_was_staged_outlives_a_power_cut"),
    "foreign entries are deleted, or break status":
        ("contract/test_deployments.py", "test_foreign_boot_entries_and_files_are_never_touched"),
    "after a rollback the bad image comes back":
        ("ops/test_health.py", "test_a_version_whose_checks_fail_falls_back_after_its_tries"),
    "message ids of the journal are no 128-bit ids":
        ("daemon/test_events.py", "test_ids_are_random_and_differ"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_has_a_test(defect: str) -> None:
    file, name = DEFECTS[defect]
    assert f"\ndef {name}(" in (TESTS / file).read_text()
