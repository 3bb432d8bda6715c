# SPDX-License-Identifier: Apache-2.0
"""Programs are run in a clean environment and fail clearly."""

from __future__ import annotations

import pytest

from bootcd.errors import BootcdError, Unsupported
from bootcd.linux import files
from bootcd.linux.run import background, run


def test_output_and_input():
    assert run(["cat"], input=b"hello").stdout == b"hello"
    assert run(["cat"]).stdout == b""  # standard input is closed, nothing waits


def test_environment_is_clean(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD_NOT", "x")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    lines = run(["env"], env={"MINE": "1"}).stdout.splitlines()
    assert b"MINE=1" in lines
    assert b"LC_ALL=C.UTF-8" in lines
    assert not any(line.startswith((b"LD_PRELOAD_NOT", b"LANG=")) for line in lines)


def test_a_program_has_a_point_before_and_one_after_it(monkeypatch, tmp_path):
    made = tmp_path / "made"
    seen = []
    monkeypatch.setattr(files, "observe", lambda name: seen.append((name, made.exists())))
    run(["touch", made])
    assert seen == [("run.before", False), ("run.after", True)]


def test_failure_carries_the_last_words():
    with pytest.raises(BootcdError, match=r"sh -c .* failed \(exit status 3\): no such luck"):
        run(["sh", "-c", "echo no such luck >&2; exit 3"])
    with pytest.raises(BootcdError, match="signal 9"):
        run(["sh", "-c", "kill -9 $$"])
    assert run(["false"], check=False).returncode == 1


def test_missing_program_and_directory(tmp_path):
    with pytest.raises(Unsupported, match="no-such-program") as caught:
        run(["no-such-program"])
    assert caught.value.hint == "Install no-such-program."
    with pytest.raises(BootcdError, match="no directory"):
        run(["true"], cwd=tmp_path / "gone")


def test_a_program_runs_beside_the_block(tmp_path):
    trace = tmp_path / "trace"
    script = """trap 'echo ended >> "$1"; exit' TERM
        echo ready > "$1"
        eval "exec $3>&-"
        while :; do sleep 0.01; done"""
    with background(["bash", "-c", script, "bash", str(trace)], ready="--notify-fd", patience=30):
        assert trace.read_text() == "ready\n"
    assert trace.read_text() == "ready\nended\n"


def test_a_program_beside_the_block_may_end_first_or_never_be_ready():
    with background(["true"], ready="--notify-fd"):
        pass
    with background(["sleep", "60"]):
        pass
    with background(["sh", "-c", "trap '' TERM; while :; do sleep 0.01; done"], ready="-x", patience=0.1):
        pass
    with pytest.raises(Unsupported, match="no-such-program"), background(["no-such-program"]):
        pass
