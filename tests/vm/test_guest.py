# SPDX-License-Identifier: Apache-2.0
"""Tests on file systems that this machine's kernel may lack, in a virtual machine: real fs-verity, real FAT.

tests/vm/guest/plan says which tests, and where. Takes minutes, needs root and, the first time, the network of packages.
The file `console` in pytest's directory vm0 shows how it goes.
"""

from __future__ import annotations

import faulthandler
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kit import guest

TIMEOUT = 1200.0
"""Seconds; without KVM it takes three to five minutes."""

GUEST = Path(__file__).parent / "guest"
SUITES = re.findall(r"^tests (\w+)", (GUEST / "plan").read_text(), re.MULTILINE)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """One test that ran in the virtual machine."""

    name: str
    outcome: str
    text: str


def files() -> Iterator[tuple[str, int, bytes]]:
    """The source tree, the script that is started, and cfsctl where there is one."""
    yield "init", 0o100755, (GUEST / "init").read_bytes()
    yield "bootcd", 0o040755, b""
    for name in ("src", "tests", "pyproject.toml"):
        yield from guest.tree(guest.ROOT / name, f"bootcd/{name}")
    cfsctl = shutil.which("cfsctl")
    if cfsctl:
        yield from guest.tree(Path(cfsctl), "usr/local/bin/cfsctl")


def parse(report: str) -> dict[str, list[Case]]:
    """The suites by name."""
    suites = {}
    for part in re.split(r"^== ", report, flags=re.MULTILINE)[1:]:
        head, _, document = part.partition("\n")
        cases = []
        for case in ElementTree.fromstring(document.strip()).iter("testcase"):
            bad = next((one for one in case if one.tag in ("failure", "error", "skipped")), None)
            cases.append(Case(f"{case.get('classname')}::{case.get('name')}", "passed" if bad is None else bad.tag,
                              "" if bad is None else f"{bad.get('message')}\n{bad.text}"))
        suites[head.split()[0]] = cases
    return suites


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Case]]:
    """What ran in the virtual machine, which is started once."""
    reason = guest.why_not()
    if reason is not None:
        pytest.skip(reason)
    faulthandler.cancel_dump_traceback_later()  # what is no hang for minutes; `run` has its own timeout
    return parse(guest.run(guest.prepare(), files(), tmp_path_factory.mktemp("vm"), TIMEOUT))


@pytest.mark.parametrize("suite", SUITES)
def test_tests_pass_in_the_virtual_machine(suites: dict[str, list[Case]], suite: str) -> None:
    assert suite in suites, f"no report; there are {list(suites)}"
    cases = suites[suite]
    failed = [f"{case.name}\n{case.text}" for case in cases if case.outcome in ("failure", "error")]
    assert not failed, "\n\n".join(failed)
    assert any(case.outcome == "passed" for case in cases)


@pytest.mark.parametrize("suite", SUITES)
def test_nothing_is_skipped_there(suites: dict[str, list[Case]], suite: str) -> None:
    skipped = [f"{case.name}: {case.text}" for case in suites[suite] if case.outcome == "skipped"]
    assert not [one for one in skipped if "needs cfsctl" not in one or shutil.which("cfsctl")], "\n".join(skipped)
