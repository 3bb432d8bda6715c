# SPDX-License-Identifier: Apache-2.0
"""What an administrator looks for later: journal entries with a MESSAGE_ID and fields of their own.

    journalctl -x MESSAGE_ID=86c9d3cf85814ff098605349ab5a8f6d       every job that failed, explained
    journalctl BOOTCD_JOB=1763841600001                             all there is about one job

The ids never change; data/catalog/bootcd.catalog explains each. Everything else that the daemon says goes through
`logging`. Where no journal listens, these entries go there too.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..linux.journal import ERROR, INFO, WARNING, send
from ..ops.results import CheckResult, DeploymentInfo

DAEMON_STARTED = "58444082bb0049e08842c04b14cd9376"
JOB_STARTED = "e6e2eceec9214d3eadb6fa8cdf187151"
JOB_SUCCEEDED = "07994eadf7904542ae5ae2597c1bfebb"
JOB_FAILED = "86c9d3cf85814ff098605349ab5a8f6d"
JOB_CANCELLED = "3f50eb4b62f3444496303728175b8722"
UPDATE_AVAILABLE = "be2ab0b495a3493ca51eb71a77fb8ab9"
STAGED = "97cd99c3f85f4875babc7997eebad395"
APPLIED = "c990764a2ab849be903796b7b6cbd8d1"
REFUSED = "9c9030b98ebe4440be7f669812c3984d"


@dataclass(frozen=True, slots=True)
class JobEntry:
    """What every entry about a job holds: its number, its verb, who started it, and what it is about, if anything."""

    job: int
    kind: str
    uid: int
    program: str
    image: str = ""
    deployment: str = ""

    def __str__(self) -> str:
        return f"Job {self.job} ({self.kind})"

    def fields(self) -> dict[str, str]:
        return {"job": str(self.job), "kind": self.kind, "uid": str(self.uid), "program": self.program,
                "image": self.image, "deployment": self.deployment}


def daemon_started(version: str, sysroot: str) -> None:
    """The daemon has its bus name."""
    send(DAEMON_STARTED, INFO, f"bootcd {version} has started.", version=version, sysroot=sysroot)


def job_started(entry: JobEntry) -> None:
    """A worker is about to run."""
    send(JOB_STARTED, INFO, f"{entry} has started for uid {entry.uid} ({entry.program}).", **entry.fields())


def job_succeeded(entry: JobEntry) -> None:
    """A job did what it was asked for."""
    send(JOB_SUCCEEDED, INFO, f"{entry} has succeeded.", **entry.fields())


def job_failed(entry: JobEntry, error: str, message: str, advice: str = "") -> None:
    """A job ended with an error; `error` is its D-Bus name."""
    send(JOB_FAILED, ERROR, f"{entry} has failed: {message}", error=error, advice=advice, **entry.fields())


def job_cancelled(entry: JobEntry) -> None:
    """Somebody stopped a job."""
    send(JOB_CANCELLED, INFO, f"{entry} was cancelled.", **entry.fields())


def update_available(update: CheckResult) -> None:
    """A check found something new."""
    version = update.version or update.manifest_digest
    send(UPDATE_AVAILABLE, INFO, f"An update is available: {version} of {update.image}.", image=update.image,
          image_version=update.version, image_digest=update.manifest_digest)


def staged(deployment: DeploymentInfo) -> None:
    """There is another staged deployment than before."""
    version = deployment.version or deployment.manifest_digest
    signed = f", signed by {', '.join(deployment.signed_by)}" if deployment.signed_by else ""
    send(STAGED, INFO, f"Deployment {deployment.id[:12]} was staged: {version} of {deployment.image}{signed}.",
          deployment=deployment.id, image=deployment.image, image_version=deployment.version,
          image_digest=deployment.manifest_digest, verification=deployment.verification, policy=deployment.policy,
          signed_by=", ".join(deployment.signed_by))


def applied(deployment: DeploymentInfo, previous: str) -> None:
    """Another deployment runs than `previous`, whose id that is."""
    version = deployment.version or deployment.manifest_digest
    send(APPLIED, INFO, f"Deployment {deployment.id[:12]} runs now: {version} of {deployment.image}.",
         deployment=deployment.id, image=deployment.image, image_version=deployment.version,
         image_digest=deployment.manifest_digest, previous=previous)


def refused(action: str, *, sender: str, uid: int | None, reason: str, member: str = "") -> None:
    """A caller may not do what it asked for; `uid` is None where it could not be told any more."""
    who = "a caller that has left" if uid is None else f"uid {uid}"
    send(REFUSED, WARNING, f"Refused {action} to {who} ({sender}): {reason}.", action=action, sender=sender,
          uid="" if uid is None else str(uid), reason=reason, member=member)
