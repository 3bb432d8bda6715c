# SPDX-License-Identifier: Apache-2.0
"""What the tests of bootcd-setup-root run: the program and its parsers, compiled once, the parsers with sanitizers."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit import setup_root


@pytest.fixture(scope="session")
def parsers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that shows what the parsers understand."""
    if setup_root.compiler() is None:
        pytest.skip("there is no C compiler")
    names = ("cmdline.c", "config.c", "fsverity.c", "say.c", "sha2.c")
    sources = [Path(__file__).with_name("parsers.c"), *(setup_root.SOURCE / name for name in names)]
    return setup_root.build(tmp_path_factory.mktemp("parsers") / "parsers", *setup_root.SANITIZED, sources=sources)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bootcd-setup-root."""
    if setup_root.PROGRAM is not None:
        return Path(setup_root.PROGRAM)
    if setup_root.compiler() is None:
        pytest.skip("there is no C compiler")
    return setup_root.build(tmp_path_factory.mktemp("program") / "bootcd-setup-root", *setup_root.HARDENED)
