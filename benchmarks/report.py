# SPDX-License-Identifier: Apache-2.0
"""The table that `make bench` prints."""

from __future__ import annotations

from benchmarks.runs import Run


class Report:
    """Ratios are of times taken side by side; `mark` is what they should meet, `memory` is in MB."""

    def __init__(self) -> None:
        print(f"{'measure':44}  {'result':>12}  {'mark':>10}  {'against':>10}  memory")

    def ratio(self, name: str, ours: Run, other: Run, mark: str = "", what: str = "") -> None:
        self.line(name, f"{ours.seconds / other.seconds:.2f} x", mark, f"{other.seconds:.2f} s{what}", ours.memory)

    def seconds(self, name: str, seconds: float, mark: str = "", memory: float | None = None) -> None:
        self.line(name, f"{seconds:.2f} s", mark, "", memory)

    def line(self, name: str, result: str, mark: str, against: str, memory: float | None) -> None:
        print(f"{name:44}  {result:>12}  {mark:>10}  {against:>10}  {f'{memory:.0f} MB' if memory else ''}", flush=True)
