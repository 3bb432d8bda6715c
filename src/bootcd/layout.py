# SPDX-License-Identifier: Apache-2.0
"""Where everything lies below a physical root. The only place that knows these names.

    <sysroot>/composefs/                      the repository (composefs-rs 0.9)
    <sysroot>/state/deploy/<id>/etc           /etc of one deployment
    <sysroot>/state/deploy/<id>/var           link to the shared /var
    <sysroot>/state/deploy/<id>/<id>.origin   what bootc reads
    <sysroot>/state/os/default/var            /var of all deployments
    <sysroot>/state/bootcd/deployments/<id>.json, journal/, generation, rejected.json, lock
    <sysroot>/state/bootcd/last-result.json, update.json, told.json, running/, ballast/, downloads/
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sysroot:
    """The paths of one installation; `path` is `/sysroot` on a running system."""

    path: Path

    @property
    def repository(self) -> Path:
        return self.path / "composefs"

    @property
    def deployments(self) -> Path:
        """Parent of the state directories, one for each deployment, named by its id."""
        return self.path / "state" / "deploy"

    def deployment(self, deployment_id: str) -> Path:
        return self.deployments / deployment_id

    @property
    def var(self) -> Path:
        return self.path / "state" / "os" / "default" / "var"

    @property
    def own_state(self) -> Path:
        """What only bootcd reads and writes."""
        return self.path / "state" / "bootcd"

    @property
    def records(self) -> Path:
        return self.own_state / "deployments"

    @property
    def journal(self) -> Path:
        return self.own_state / "journal" / "transaction.json"

    @property
    def generation(self) -> Path:
        """The last generation that was used, so that no number comes back."""
        return self.own_state / "generation"

    @property
    def missed(self) -> Path:
        """Boot entries that a boot partition which is away still has to lose."""
        return self.own_state / "missed-entries"

    @property
    def rejected(self) -> Path:
        return self.own_state / "rejected.json"

    @property
    def last_result(self) -> Path:
        """How the last operation ended."""
        return self.own_state / "last-result.json"

    @property
    def update(self) -> Path:
        """What the last check found at the source."""
        return self.own_state / "update.json"

    @property
    def told(self) -> Path:
        """What the machine's owner was told."""
        return self.own_state / "told.json"

    @property
    def running(self) -> Path:
        """One file for each operation that is under way."""
        return self.own_state / "running"

    @property
    def downloads(self) -> Path:
        """What has come of large blobs, one file for each."""
        return self.own_state / "downloads"

    @property
    def ballast(self) -> Path:
        """Room for the moment when there is none."""
        return self.own_state / "ballast"

    @property
    def lock(self) -> Path:
        return self.own_state / "lock"


SOFT_REBOOT = Path("/run/bootcd/soft-reboot")
"""The kernel command line of the deployment that a soft reboot enters, from the order until it is obeyed."""

IMAGE_REF_PREFIX = "bootcd/"
"""`images/refs/bootcd/<id>` keeps a deployment's image and objects from any collector."""

TAG_PREFIX = "localhost/bootcd-"
"""`streams/refs/oci/localhost%2Fbootcd-<manifest digest>` keeps its manifest, config and layers."""

BOOTC_TAG_PREFIX = "localhost/bootc-"
"""The same of bootc, before the manifest digest; gone when its deployments are adopted."""
