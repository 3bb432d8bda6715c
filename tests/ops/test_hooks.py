# SPDX-License-Identifier: Apache-2.0
"""Hooks are told news, one after the other, and nothing that one does matters."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from pathlib import Path

import pytest

from bootcd.linux import journal
from bootcd.ops import hooks
from bootcd.ops.news import Notice

NOTICE = Notice("fell-back", "It fell back.", {"deployment": "ab", "image-version": "1.1 $(touch no) 'x'"})


class Place:
    """A root directory with hooks, and where news waits."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.waiting = directory / "notices"
        self.said: list[str] = []

    def hook(self, name: str, text: str, place: str = "etc", mode: int = 0o755) -> Path:
        path = self.root / place / "bootcd/hooks.d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(mode)
        return path

    def hand_over(self, *notices: Notice) -> list[str]:
        hooks.hand_over(notices, self.waiting, self.root)
        return sorted(path.name.partition("-")[2] for path in self.waiting.glob("*"))

    def run(self, timeout: float = 20) -> int:
        return hooks.run_waiting(self.said.append, self.waiting, self.root, timeout)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(journal, "_SOCKET", str(tmp_path / "nobody"))
    return Place(tmp_path)


def test_the_machine_has_the_last_word(place: Place) -> None:
    place.hook("20-b", "", "usr/lib")
    replaced = place.hook("10-a", "", "usr/lib")
    place.hook("30-c", "", "usr/lib")
    instead = place.hook("10-a", "")
    (instead.parent / "30-c").symlink_to("/dev/null")
    place.hook("05-read-me", "", mode=0o644)
    place.hook(".hidden", "")
    (instead.parent / "directory").mkdir()
    found = hooks.find_hooks(place.root)
    assert found == [instead, place.root / "usr/lib/bootcd/hooks.d/20-b"]
    assert replaced not in found


def test_where_there_is_no_hook_nothing_is_left(place: Place) -> None:
    assert place.hand_over(NOTICE) == []
    place.hook("10-not-executable", "", mode=0o644)
    assert place.hand_over(NOTICE) == []
    assert not place.waiting.exists()
    assert place.run() == 0


def test_a_hook_is_told_the_kind_and_the_facts(place: Place, tmp_path: Path) -> None:
    place.hook("10-first", f'echo "$1:$BOOTCD_NOTICE" >> {tmp_path}/order; echo "told: $BOOTCD_IMAGE_VERSION"')
    place.hook("20-second", f"env > {tmp_path}/environment; pwd; cat")
    assert place.hand_over(Notice("staged", "It is staged.", {}), NOTICE) == ["fell-back.json", "staged.json"]
    assert place.run() == 0
    assert (tmp_path / "order").read_text() == "staged:staged\nfell-back:fell-back\n"
    assert place.said == ["10-first: told:", "20-second: /", "10-first: told: 1.1 $(touch no) 'x'", "20-second: /"]
    lines = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines())
    assert {name: value for name, value in lines.items() if name.startswith("BOOTCD_")} == {
        "BOOTCD_NOTICE": "fell-back", "BOOTCD_MESSAGE": "It fell back.", "BOOTCD_DEPLOYMENT": "ab",
        "BOOTCD_IMAGE_VERSION": "1.1 $(touch no) 'x'"}
    assert "DBUS_SYSTEM_BUS_ADDRESS" not in lines
    assert list(place.waiting.iterdir()) == []


def test_no_hook_keeps_the_next_from_its_turn(place: Place, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    place.hook("10-fails", "echo first; exit 3")
    place.hook("20-hangs", f"sleep 600 & echo $! > {tmp_path}/sleeper; wait")
    place.hook("30-is-killed", "kill -9 $$")
    place.hook("40-is-none", "").write_text("#!/nowhere\n")
    place.hook("50-floods", "yes | head -c 1000000 | tr -d '\\n'")
    place.hook("60-works", "echo last")
    place.hand_over(NOTICE)
    begun = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert place.run(timeout=0.5) == 4
    assert time.monotonic() - begun < 20
    assert [record.getMessage().rpartition("/")[2] for record in caplog.records] == [
        "10-fails failed: exit status 3.", "20-hangs failed: it took longer than 0.5 seconds.",
        "30-is-killed failed: signal 9.",
        "40-is-none: No such file or directory."]
    assert (place.said[0], place.said[-1]) == ("10-fails: first", "60-works: last")
    sleeper = Path("/proc") / (tmp_path / "sleeper").read_text().strip() / "stat"
    assert not sleeper.exists() or sleeper.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("text", [
    "", "{", "[]", '{"kind": 1}', '{"kind": "x", "message": "a\\nb", "facts": {}}', "[" * 100_000,
    json.dumps({"kind": "x", "message": "", "facts": {"a": "\0"}}),
    json.dumps({"kind": "x", "message": "", "facts": {"a": "b" * 70_000}}),
], ids=["empty", "cut-off", "list", "number", "two-lines", "deep", "nul", "large"])
def test_news_that_makes_no_sense_is_passed_over(place: Place, text: str) -> None:
    place.hook("10-echo", 'echo "$1"')
    place.hand_over(NOTICE)
    (place.waiting / "0-nonsense.json").write_text(text)
    assert place.run() == 0
    assert place.said[0].startswith("0-nonsense.json is passed over: ")
    assert place.said[1:] == ["10-echo: fell-back"]
    assert list(place.waiting.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_news_that_may_not_be_taken_is_passed_over_once(place: Place) -> None:
    """Of a user, for example, who looks what 'bootcctl hooks run' does."""
    place.hook("10-echo", 'echo "$1"')
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are closed to others
        Path(directory).chmod(0o755)
        place.waiting = Path(directory) / "notices"
        place.hand_over(NOTICE)
        os.seteuid(65534)
        try:
            assert place.run() == 0
        finally:
            os.seteuid(0)
    assert len(place.said) == 1
    assert "is passed over: [Errno 13] Permission denied" in place.said[0]


def test_news_is_taken_before_a_hook_runs(place: Place) -> None:
    place.hook("10-looks", f"ls {place.waiting}")
    place.hand_over(NOTICE)
    assert place.run() == 0
    assert place.said == []


def test_where_nobody_takes_it_the_newest_news_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even while the clock is put back again and again."""
    backwards = iter(range(10**18, 0, -1))
    monkeypatch.setattr(time, "time_ns", lambda: next(backwards))
    place.hook("10-echo", 'echo "$BOOTCD_NUMBER"')
    for number in range(hooks.MAX_WAITING + 3):
        place.hand_over(Notice("failed", "", {"number": str(number)}))
    place.run()
    assert place.said == [f"10-echo: {number}" for number in range(3, hooks.MAX_WAITING + 3)]
