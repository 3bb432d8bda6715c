# SPDX-License-Identifier: Apache-2.0
"""SARIF: what its specification demands of a log with one run (sections 3.13, 3.14, 3.19, 3.27, 3.49)."""

from __future__ import annotations

import json
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.formats.sarif import Result, Rule, document

RULES = [Rule("one", "error", "it is there", "It must not be."), Rule("two", "warning", "so is that", "Well.")]


def test_a_log() -> None:
    log = json.loads(json.dumps(document("tool", "1.0", RULES, [Result("two", b"/etc/a b", "is there")])))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert (driver["name"], driver["version"]) == ("tool", "1.0")
    assert [rule["id"] for rule in driver["rules"]] == ["one", "two"]
    assert driver["rules"][0]["defaultConfiguration"]["level"] == "error"
    (result,) = run["results"]
    assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "two"
    assert result["level"] == "warning"
    assert result["message"]["text"] == "/etc/a b is there"
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place["uri"] == "etc/a%20b"
    assert place["uriBaseId"] in run["originalUriBaseIds"]


def test_no_results() -> None:
    assert document("tool", "1.0", RULES, [])["runs"][0]["results"] == []  # which tells "nothing found" from "not run"


def test_a_result_needs_its_rule() -> None:
    with pytest.raises(KeyError):
        document("tool", "1.0", RULES, [Result("three", b"/", "is there")])


@given(st.lists(st.binary(min_size=1).filter(lambda name: b"/" not in name and b"\0" not in name), min_size=1))
def test_any_path_is_a_uri(names: list[bytes]) -> None:
    path = b"/" + b"/".join(names)
    log = json.loads(json.dumps(document("tool", "1.0", RULES, [Result("one", path, "x")])))
    uri = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri.isascii()
    assert unquote_to_bytes(uri) == path[1:]
