# SPDX-License-Identifier: Apache-2.0
"""These tests run in the virtual machine only.

They share one machine that runs a deployment of bootcd and changes under their hands: each brings about what it needs.
Files run in the order of their names, the first call of the daemon first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import RULES, Registry, ok, settled


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A registry on loopback that withholds layers on demand."""
    with Registry() as registry:
        yield registry


@pytest.fixture
def daemon() -> Iterator[None]:
    """It runs and does nothing, before and after."""
    ok("systemctl", "reset-failed")
    ok("systemctl", "start", "bootcd.service")
    settled()
    yield
    settled()


@pytest.fixture
def rule() -> Iterator[Path]:
    """A file for polkit's rules, which is taken away again."""
    yield RULES
    RULES.unlink(missing_ok=True)
