# SPDX-License-Identifier: Apache-2.0
"""A machine that runs one of its deployments, without a virtual machine: a mount namespace in which the installation of
a test is /sysroot, and the kernel command line names a deployment.

    with Booted(install(tmp_path), bus) as machine:
        ...
        machine.reboot()

Everything that the daemon and its workers look at says that the deployment runs, so images are staged and wait for the
shutdown, as on a real machine. That needs root.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kit.bus import ROOT, Daemon, SystemBus
from kit.running import Running
from kit.world import World

_SETUP = """
set -e
root=$1 sysroot=$2 cmdline=$3
shift 3
mount -t tmpfs none "$root"
for path in /*; do
  if [ -L "$path" ]; then cp -a "$path" "$root$path"
  elif [ -d "$path" ] && [ "$path" != /sysroot ]; then mkdir "$root$path"; mount --rbind "$path" "$root$path"
  fi
done
mkdir "$root/sysroot"
mount --bind "$sysroot" "$root/sysroot"
mount --bind "$cmdline" "$root/proc/cmdline"
exec chroot "$root" "$@"
"""


def missing() -> str:
    """Why that cannot be had here; empty when it can."""
    if os.geteuid() != 0:
        return "mount namespaces need root"
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "no mount namespaces here"


class Booted(Running):
    """The daemon on such a machine, running what boots first in `world`. A context manager."""

    def __init__(self, world: World, bus: SystemBus, config: Path | None = None) -> None:
        self.world = world
        self._bus = bus
        self._config = config
        self._daemon: Daemon | None = None
        self._root = world.directory / "root"
        self._cmdline = world.directory / "cmdline"

    @property
    def daemon(self) -> Daemon:
        assert self._daemon is not None, "it does not run"
        return self._daemon

    def start(self) -> None:
        """Boot what boots next."""
        self._root.mkdir(exist_ok=True)
        default = self.world.host.status().with_role("default")
        assert default is not None
        self._cmdline.write_text(f"quiet {default.options}\n")
        daemon = Daemon(self._bus, Path("/sysroot"), self.world.esp, self._config, wrapper=self._wrapper())
        daemon.start()
        self._daemon = daemon

    def stop(self) -> None:
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            daemon.stop()

    def reboot(self) -> None:
        """Shut down, with all that belongs to it, and come up again."""
        self.stop()
        self.run("finalize")
        self.start()

    def run(self, *words: str) -> None:
        """A bootcctl of that machine that does not ask the daemon. Raises CalledProcessError."""
        command = [sys.executable, "-m", "bootcd.cli", "--quiet", "--sysroot", "/sysroot", "--esp",
                   str(self.world.esp), *words]
        subprocess.run([*self._wrapper(), *command], check=True, capture_output=True, stdin=subprocess.DEVNULL,
                       env=os.environ | {"PYTHONPATH": str(ROOT / "src")})

    def _wrapper(self) -> tuple[str, ...]:
        return ("unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", _SETUP, "booted",
                *map(str, (self._root, self.world.sysroot, self._cmdline)))
