# SPDX-License-Identifier: Apache-2.0
"""The units as systemd reads them."""

from __future__ import annotations

import os

from machine import ok, run, show

UNITS = sorted(name for name in os.listdir("/usr/lib/systemd/system")
               if name.startswith("bootcd") and not name.endswith(".d"))  # drop-ins are read with their unit


def test_there_are_units() -> None:
    assert {"bootcd.service", "bootcd-update.service", "bootcd-update.timer"} <= set(UNITS)


def test_systemd_finds_nothing_wrong_with_any_unit() -> None:
    done = run("systemd-analyze", "verify", "--man=no", "--generators=yes", *UNITS)  # sysroot.mount is generated
    assert (done.status, done.err) == (0, ""), done


def test_every_unit_is_loaded_without_complaint() -> None:
    for unit in UNITS:
        shown = show("LoadState", "LoadError", unit=unit)
        assert shown["LoadState"] == "loaded", (unit, shown)


def test_the_exposure_is_bounded() -> None:
    text = ok("systemd-analyze", "security", "--no-pager", "bootcd.service")
    exposure = float(text.rpartition("service:")[2].split()[0])
    assert exposure < 6.0, text
