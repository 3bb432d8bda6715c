# SPDX-License-Identifier: Apache-2.0
"""The note of the generation that was used last."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootcd.deploy.generation import last_generation, note_generation


def test_the_number_only_grows(tmp_path: Path) -> None:
    path = tmp_path / "generation"
    assert last_generation(path) == 0
    note_generation(path, 7)
    note_generation(path, 3)
    assert (last_generation(path), path.read_bytes()) == (7, b"7\n")


@pytest.mark.parametrize("text", [b"", b"seven\n", b"-1\n", b"9" * 50, b"\xff\n"])
def test_what_makes_no_sense_counts_as_nothing(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "generation"
    path.write_bytes(text)
    assert last_generation(path) == 0
