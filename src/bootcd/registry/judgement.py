# SPDX-License-Identifier: Apache-2.0
"""What a trust policy says of one image, and where the policy is. What verifies (`trust`) takes longer to load than all
else that an operation needs, so without a policy only this is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

POLICIES = (Path("/etc/bootcd/policy.json"), Path("/etc/containers/policy.json"))
"""The first that exists is the policy."""


def policy_file(named: str) -> Path | None:
    """The policy that is named, or the first of `POLICIES` that exists; None without any."""
    return Path(named) if named else next((path for path in POLICIES if path.exists()), None)


@dataclass(frozen=True, slots=True)
class Finding:
    """One signature, and why it does not count; `reason` is empty when it does, and `signer` says whose it is."""

    origin: str
    signer: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One requirement, in the words of the policy, whether it holds, and what it was held against."""

    requirement: str
    holds: bool
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came out. `scope` says which part of the policy `file` decided; both are empty without a policy."""

    file: str
    scope: str
    outcomes: tuple[Outcome, ...]

    @property
    def accepted(self) -> bool:
        return all(outcome.holds for outcome in self.outcomes)

    @property
    def signers(self) -> tuple[str, ...]:
        """Who signed, as far as the policy asked for it."""
        found = [finding.signer for outcome in self.outcomes for finding in outcome.findings if not finding.reason]
        return tuple(dict.fromkeys(found))
