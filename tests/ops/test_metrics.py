# SPDX-License-Identifier: Apache-2.0
"""The text for Prometheus: what it says, and that it is valid whatever an image is called."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd import __version__
from bootcd.ops.metrics import Metric, Room, collect, metrics, render
from bootcd.ops.news import Told, VerbResult
from bootcd.ops.results import ChainInfo, CheckResult, PinInfo, Status
from ops.test_news import FELL_BACK, IMAGE, OFFERED, OLD, SETTLED, STAGED, failed

Sample = tuple[str, tuple[tuple[str, str], ...]]

NAME = r"[a-zA-Z_][a-zA-Z0-9_]*"
SAMPLE = re.compile(rf'({NAME})(?:\{{((?:{NAME}="(?:[^"\\\n]|\\[\\n"])*",?)+)\}})? (-?[0-9]+(?:\.[0-9]+)?)')
"""Without a timestamp: node_exporter refuses a file that has one."""


def parse(text: str) -> dict[Sample, float]:
    """Samples by name and labels. Strict: what one of the two formats forbids is an error."""
    assert text.endswith("# EOF\n")
    found: dict[Sample, float] = {}
    families: list[str] = []
    helped = ""
    for line in text.split("\n")[:-2]:
        if match := re.fullmatch(rf"# HELP ({NAME}) ([^\\\n]+)", line):
            helped = match[1]
        elif match := re.fullmatch(rf"# TYPE ({NAME}) (\w+)", line):
            assert match[1] == helped, "HELP comes right before TYPE"
            assert match[2] == "gauge", "the only type that both formats read alike"
            assert match[1] not in families, "a family is in one place"
            assert not match[1].endswith(("_total", "_created", "_count", "_sum", "_bucket")), "has a meaning"
            families.append(match[1])
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] == families[-1], "a sample is below its family"
            labels = tuple((name, re.sub(r"\\(.)", lambda one: {"n": "\n"}.get(one[1], one[1]), value))
                           for name, value in re.findall(rf'({NAME})="((?:[^"\\]|\\.)*)"', match[2] or ""))
            names = [name for name, _ in labels]
            assert len(set(names)) == len(names)
            assert not any(name.startswith("__") for name in names)
            key = (match[1], tuple(sorted(labels)))
            assert key not in found, "a sample that is there twice"
            found[key] = float(match[3])
    assert len(set(families)) == len({name for name, _ in found}), "a family without a sample"
    return found


def values(status: Status, told: Told | None = None, rooms: dict[str, Room] | None = None) -> dict[str, float]:
    """By name, with labels in the form of PromQL."""
    found = parse(render(metrics(status, told or Told(), rooms or {})))
    return {name + ("{" + ",".join(f"{key}={value}" for key, value in labels) + "}" if labels else ""): number
            for (name, labels), number in found.items()}


def test_a_machine_that_is_up_to_date() -> None:
    found = values(replace(SETTLED, update_time="2026-01-01T00:00:00+00:00", chain=ChainInfo(True, True, True, True)),
                   Told(fallbacks=3), {"sysroot": Room(1000, 400), "esp": Room(10, 4)})
    assert found == {
        f"bootcd_info{{version={__version__}}}": 1,
        f"bootcd_deployment_info{{digest=sha256:1.0,id={OLD.id},image={IMAGE},role=booted,version=1.0}}": 1,
        f"bootcd_deployment_info{{digest=sha256:1.0,id={OLD.id},image={IMAGE},role=default,version=1.0}}": 1,
        "bootcd_deployments": 1,
        "bootcd_deployments_with_role{role=booted}": 1, "bootcd_deployments_with_role{role=staged}": 0,
        "bootcd_deployments_with_role{role=default}": 1, "bootcd_deployments_with_role{role=rollback}": 0,
        "bootcd_deployments_with_role{role=pinned}": 0,
        "bootcd_booted_health{health=untried}": 1, "bootcd_booted_health{health=good}": 0,
        "bootcd_booted_health{health=bad}": 0,
        "bootcd_fell_back": 0, "bootcd_fallbacks": 3, "bootcd_reboot_required": 0, "bootcd_update_available": 0,
        "bootcd_last_check_timestamp_seconds": 1767225600, "bootcd_unfinished": 0, "bootcd_warnings": 0,
        "bootcd_sealed": 1,
        "bootcd_filesystem_size_bytes{filesystem=sysroot}": 1000,
        "bootcd_filesystem_avail_bytes{filesystem=sysroot}": 400,
        "bootcd_filesystem_size_bytes{filesystem=esp}": 10, "bootcd_filesystem_avail_bytes{filesystem=esp}": 4,
    }


def test_what_calls_for_somebody() -> None:
    found = values(STAGED)
    assert (found["bootcd_reboot_required"], found["bootcd_deployments"]) == (1, 2)
    assert found["bootcd_deployments_with_role{role=staged}"] == 1
    assert values(FELL_BACK)["bootcd_fell_back"] == 1
    found = values(OFFERED)
    assert found["bootcd_update_available"] == 1
    assert found[f"bootcd_update_info{{digest=sha256:1.1,image={IMAGE},version=1.1}}"] == 1
    assert OFFERED.update is not None
    rejected = replace(OFFERED, update=replace(OFFERED.update, rejected="it did not boot"), unfinished="upgrade",
                       warnings=("a", "b"))
    found = values(rejected)
    assert (found["bootcd_update_available"], found["bootcd_unfinished"], found["bootcd_warnings"]) == (0, 1, 2)
    pinned = replace(SETTLED, deployments=(replace(OLD, roles=("booted", "pinned"), pins=(PinInfo("x", ""),)),))
    assert values(pinned)["bootcd_deployments_with_role{role=pinned}"] == 1


def test_results_of_verbs() -> None:
    told = Told(results=(VerbResult("check", True, "2026-01-01T00:00:00+00:00"), VerbResult("upgrade", False, "never")))
    found = values(SETTLED, told)
    assert found["bootcd_last_result_success{verb=check}"] == 1
    assert found["bootcd_last_result_success{verb=upgrade}"] == 0
    assert found["bootcd_last_result_timestamp_seconds{verb=check}"] == 1767225600
    assert "bootcd_last_result_timestamp_seconds{verb=upgrade}" not in found, "a time that is none"


def test_what_the_daemon_has_not_seen_is_counted_in(tmp_path: Path) -> None:
    status = replace(failed("upgrade", "no"), sysroot=str(tmp_path), esp=str(tmp_path / "gone"))
    found = parse(collect(status, None))
    assert found["bootcd_last_result_success", (("verb", "upgrade"),)] == 0
    assert ("bootcd_filesystem_size_bytes", (("filesystem", "esp"),)) not in found
    (tmp_path / "composefs").mkdir()
    assert parse(collect(status, None))["bootcd_filesystem_size_bytes", (("filesystem", "sysroot"),)] > 0


def test_nothing_is_installed() -> None:
    found = values(Status("/sysroot", "", (), None, "", ()))
    assert found["bootcd_deployments"] == 0
    assert not any(name.startswith(("bootcd_deployment_info", "bootcd_booted_health")) for name in found)


HOSTILE = st.text(st.characters(), max_size=40) | st.sampled_from([
    '"} 1\n# TYPE x', "\\", '\\"', "a\nb", "\udc80", "{}"])


@given(image=HOSTILE, version=HOSTILE)
def test_whatever_an_image_is_called_the_text_is_valid(image: str, version: str) -> None:
    status = replace(SETTLED, deployments=(replace(OLD, image=image, version=version),),
                     update=CheckResult(image, True, "", version=version))
    text = render(metrics(status, Told(), {}))
    text.encode()
    assert all(char == "\n" or char.isprintable() for char in text)
    told = {labels for name, labels in parse(text) if name == "bootcd_update_info"}
    ((_, (_, shown), (_, of_version)),) = told
    for given_text, seen in ((image, shown), (version, of_version)):
        assert len(given_text) == len(seen)
        assert all(a == b or not a.isprintable() for a, b in zip(given_text, seen, strict=True))


@pytest.mark.parametrize("wrong", [
    "x 1\n# EOF\n", "# HELP x y\n# TYPE x counter\nx 1\n# EOF\n", "# HELP x y\n# TYPE x gauge\nx 1 1700000000\n# EOF\n",
    '# HELP x y\n# TYPE x gauge\nx{a="\\x"} 1\n# EOF\n', "# HELP x y\n# TYPE x gauge\nx 1\nx 1\n# EOF\n",
    "# HELP x y\n# TYPE x gauge\n# EOF\n", "# HELP x_total y\n# TYPE x_total gauge\nx_total 1\n# EOF\n",
    "# HELP x y\n# TYPE x gauge\nx 1\n",
], ids=["no-type", "counter", "timestamp", "escape", "twice", "no-sample", "total", "no-end"])
def test_the_checker_is_strict(wrong: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        parse(wrong)


def test_promtool_agrees(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    text = render([*metrics(OFFERED, Told(), {}), Metric("bootcd_test", "Test.", [({"a": '"\\{'}, 1.5)])])
    subprocess.run(["promtool", "check", "metrics"], input=text.encode(), check=True)
