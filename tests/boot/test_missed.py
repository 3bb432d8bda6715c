# SPDX-License-Identifier: Apache-2.0
"""The list of entries that a boot partition which is away still has to lose."""

from __future__ import annotations

from pathlib import Path

from bootcd.boot.missed import Missed


def test_names_are_remembered_until_they_are_cleared(tmp_path: Path) -> None:
    missed = Missed(tmp_path / "missed-entries")
    assert missed.load() == frozenset()
    missed.clear()
    for stem in ("bootcd-0000000001-aaaaaaaaaaaa", "bootcd-0000000002-bbbbbbbbbbbb", "bootcd-0000000001-aaaaaaaaaaaa"):
        missed.add(stem)
    assert (tmp_path / "missed-entries").read_text().splitlines() == [
        "bootcd-0000000001-aaaaaaaaaaaa", "bootcd-0000000002-bbbbbbbbbbbb"]
    assert missed.load() == {"bootcd-0000000001-aaaaaaaaaaaa", "bootcd-0000000002-bbbbbbbbbbbb"}
    missed.clear()
    assert missed.load() == frozenset()


def test_it_does_not_grow_for_ever_and_nonsense_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "missed-entries"
    path.write_bytes(b"\xff\xfe\n\n" + b"".join(b"bootcd-%010d-aaaaaaaaaaaa\n" % number for number in range(2000)))
    missed = Missed(path)
    assert "bootcd-0000001999-aaaaaaaaaaaa" in missed.load()
    missed.add("bootcd-0000002000-aaaaaaaaaaaa")
    assert len(missed.load()) == 1000
    assert "bootcd-0000002000-aaaaaaaaaaaa" in missed.load()
