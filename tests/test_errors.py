# SPDX-License-Identifier: Apache-2.0
"""The table of errors is what its documentation says."""

from __future__ import annotations

import re

import pytest

from bootcd import errors
from bootcd.errors import BootcdError, all_errors


def documented() -> dict[str, int]:
    """Name → exit status from the tree in the module's docstring; members of a family have that of the family."""
    found: dict[str, int] = {}
    status = 0
    for line in (errors.__doc__ or "").splitlines():
        if not re.match(r" {4}(BootcdError|[├└│])", line):
            continue
        if family := re.match(r"[ ├└─│]*(\w+) +(\d+) ", line):
            status = int(family[2])
            found[family[1]] = status
            line = line[family.end():]
        found.update(dict.fromkeys(re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b", line), status))
    return found


def test_every_error_is_documented_with_its_status() -> None:
    actual = {cls.__name__: cls.exit_status for cls in all_errors() if cls.__module__ == errors.__name__}
    said = documented()
    assert {name: said.get(name) for name in actual} == actual


@pytest.mark.parametrize("cls", all_errors(), ids=lambda cls: cls.__name__)
def test_every_error_can_be_told(cls: type[BootcdError]) -> None:
    error = cls("what and where")
    assert str(error) == "what and where"
    assert error.hint == cls.advice
    assert cls("x", advice="do this").hint == "do this"
    assert re.fullmatch(r"org\.bootcd1\.Error\.[A-Z]\w+", cls.bus_name())
    assert cls.__doc__
