# SPDX-License-Identifier: Apache-2.0
"""Tests on file systems that this machine's kernel may lack, in a virtual machine: real fs-verity, real FAT.

tests/vm/guest/plan says which tests, and where. Takes minutes, needs root and, the first time, the network of packages.
The file `console` in pytest's directory vm0 shows how it goes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import guest, setup_root

TIMEOUT = 2400.0
"""Seconds, for a machine that does other work as well; alone it takes about six minutes."""

GUEST = Path(__file__).parent / "guest"
SUITES = re.findall(r"^tests (\w+)", (GUEST / "plan").read_text(), re.MULTILINE)

pytestmark = pytest.mark.slow


def files(program: Path) -> Iterator[tuple[str, int, bytes]]:
    """The source tree, the script that is started, the initrd's program, and cfsctl where there is one."""
    yield "init", 0o100755, (GUEST / "init").read_bytes()
    yield "bootcd", 0o040755, b""
    for name in ("src", "tests", "pyproject.toml"):
        yield from guest.tree(guest.ROOT / name, f"bootcd/{name}")
    yield "usr/local/lib/bootcd-setup-root", 0o100755, program.read_bytes()
    cfsctl = shutil.which("cfsctl")
    if cfsctl:
        yield from guest.tree(Path(cfsctl), "usr/local/bin/cfsctl")


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[guest.Case]]:
    """What ran in the virtual machine, which is started once."""
    reason = guest.why_not()
    if reason is not None:
        pytest.skip(reason)
    if setup_root.compiler() is None:
        pytest.skip("there is no C compiler")
    program = setup_root.build(tmp_path_factory.mktemp("program") / "bootcd-setup-root", *setup_root.HARDENED)
    return guest.read_report(guest.run(guest.prepare(), files(program), tmp_path_factory.mktemp("vm"), TIMEOUT))


@pytest.mark.parametrize("suite", SUITES)
def test_tests_pass_in_the_virtual_machine(suites: dict[str, list[guest.Case]], suite: str) -> None:
    assert suite in suites, f"no report; there are {list(suites)}"
    cases = suites[suite]
    failed = [f"{case.name}\n{case.text}" for case in cases if case.outcome in ("failure", "error")]
    assert not failed, "\n\n".join(failed)
    assert any(case.outcome == "passed" for case in cases)


@pytest.mark.parametrize("suite", SUITES)
def test_nothing_is_skipped_there(suites: dict[str, list[guest.Case]], suite: str) -> None:
    skipped = [f"{case.name}: {case.text}" for case in suites[suite] if case.outcome == "skipped"]
    assert not [one for one in skipped if "needs cfsctl" not in one or shutil.which("cfsctl")], "\n".join(skipped)
