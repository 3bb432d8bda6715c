# SPDX-License-Identifier: Apache-2.0
"""The main job, shown: an image from a real registry is installed, upgraded, pinned, rolled back and collected.

Run by `make demo`, which puts the test kit on the path. Needs no root: the "machine" is a directory with a physical
root (`sysroot`) and an EFI system partition (`esp`). Everything stays in demo-output/ to look at. The first argument,
if any, is another directory.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from kit import small_debian
from kit.bus import Daemon, SystemBus
from kit.bus import available as bus_available
from kit.debian import PROGRAMS, DebianError
from kit.images import ImageBuilder
from kit.push import push
from kit.registry_server import RegistryServer

ROOT = Path(__file__).resolve().parents[1]
BOOTCCTL = Path(sys.executable).with_name("bootcctl")


class Demo:
    """Prints what happens and does it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sysroot = directory / "sysroot"
        self.esp = directory / "esp"
        self.steps = 0

    def step(self, title: str) -> None:
        self.steps += 1
        print(f"\n{'─' * 100}\n{self.steps}. {title}\n", flush=True)

    def notice(self, text: str) -> None:
        """What a reader should see in the output above."""
        print(textwrap.fill(text, 100, initial_indent="  ☞ ", subsequent_indent="    "), flush=True)

    def bootcctl(self, *arguments: str, status: int = 0, bus: SystemBus | None = None) -> str:
        """Run the real program as a reader would, show and return its output. Ends the demo if it fails."""
        where = ["--sysroot", "sysroot", "--esp", "esp"] if bus is None else []
        command = ["bootcctl", *where, *arguments]
        print(f"$ {shlex.join(command)}", flush=True)
        start = time.monotonic()
        done = subprocess.run([BOOTCCTL, *command[1:]], cwd=self.directory, stdin=subprocess.DEVNULL,
                              env=os.environ | (bus.environment if bus is not None else {}),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        print(textwrap.indent(done.stdout, "  "), end="")
        print(f"  ({time.monotonic() - start:.1f} s)", flush=True)
        if done.returncode != status:
            sys.exit(f"The demo failed: exit status {done.returncode} instead of {status}.")
        return done.stdout

    def deployments(self) -> list[dict[str, object]]:
        """What `status --json` says, without showing it."""
        done = subprocess.run([BOOTCCTL, "--sysroot", self.sysroot, "--esp", self.esp, "status", "--json"],
                              stdin=subprocess.DEVNULL, capture_output=True, check=True)
        found: list[dict[str, object]] = json.loads(done.stdout)["deployments"]
        return found

    def default(self) -> dict[str, object]:
        return next(found for found in self.deployments() if "default" in found["roles"])  # type: ignore[operator]

    def show_esp(self) -> None:
        """The boot entries, first to boot first, and the kernels that they share."""
        print("$ ls -r esp/loader/entries esp/EFI/bootcd")
        for directory in ("loader/entries", "EFI/bootcd"):
            print(f"  {directory}:")
            for path in sorted((self.esp / directory).iterdir(), reverse=True):
                print(f"    {path.name}")

    def expect(self, condition: bool, what: str) -> None:
        if not condition:
            sys.exit(f"The demo failed: {what} does not hold.")


def main() -> None:
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr] # for terminals that know no arrows
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "demo-output").resolve()
    shutil.rmtree(directory, ignore_errors=True)
    demo = Demo(directory)
    demo.sysroot.mkdir(parents=True)
    demo.esp.mkdir()

    demo.step("Three versions of a small bootable image, from Debian's own packages")
    images = small_debian.build()
    for version, image in images.items():
        size = sum(len(layer.blob) for layer in image.layers)
        print(f"  {version}: {len(image.layers)} layers, {size / 1e6:.1f} MB, {image.manifest_digest}")
    demo.notice("A kernel with its modules, systemd-boot and busybox; with hard links, setuid programs, file "
                "capabilities, names that are long, not ASCII or not even text; gzip, zstd and plain layers.")

    os.environ["PATH"] += os.pathsep + str(PROGRAMS)
    with RegistryServer(directory / "registry") as registry:
        story(demo, images, f"{registry.address}/demo/debian:stable")
        if bus_available():
            over_the_bus(demo)
        else:
            print("\nThe part with the daemon is left out: dbus-daemon is not installed.")
    farewell(demo)


def story(demo: Demo, images: dict[str, ImageBuilder], reference: str) -> None:
    def publish(version: str) -> None:
        pushed = push(images[version], reference)
        print(f"  {version} is pushed to {reference}: {pushed.bytes_sent / 1e6:.1f} MB sent, "
              f"{pushed.blobs_present} blobs were there already", flush=True)

    demo.step("Version 1.0 goes to a registry (Debian's docker-registry on loopback) and from there to a machine")
    publish("1.0")
    demo.bootcctl("install", "to-filesystem", "--karg", "root=LABEL=demo", reference)
    demo.bootcctl("status")
    demo.show_esp()
    first = demo.default()
    demo.notice("The id of a deployment is the fs-verity digest of its root file system: it fixes every name, mode, "
                "owner, xattr and byte. The boot entry hands it to the kernel:")
    entry = next((demo.esp / "loader/entries").iterdir())
    print("$ cat " + str(entry.relative_to(demo.directory)))
    print(textwrap.indent(entry.read_text(), "  "), end="")

    demo.step("An administrator changes /etc, and version 1.1 comes out")
    hostname = demo.sysroot / "state/deploy" / str(first["id"]) / "etc/hostname"
    print(f"$ echo my-machine > {str(hostname.relative_to(demo.directory)).replace(str(first['id'])[12:], '…')}")
    hostname.write_text("my-machine\n")
    publish("1.1")
    demo.bootcctl("upgrade", "--check")
    demo.bootcctl("upgrade")
    demo.notice("Layers that the machine has are not fetched, files that it has are not written: only what changed "
                "costs anything.")
    second = demo.default()
    demo.expect(second["version"] == "1.1", "1.1 boots next")
    demo.expect(second["boot-digest"] == first["boot-digest"], "kernel and initramfs are those of 1.0")
    kept = (demo.sysroot / "state/deploy" / str(second["id"]) / "etc/hostname").read_text()
    demo.expect(kept == "my-machine\n", "the local change of /etc is kept")
    demo.show_esp()
    demo.notice("The new entry boots first, three times at most (+3): if all three fail, the loader sorts it last "
                "and the machine is back on the old one. Both entries share one kernel.")
    demo.notice(f"The hostname in the new deployment's /etc: {kept.strip()}.")

    demo.step("Version 1.0 is pinned, then 2.0 comes with another initramfs")
    demo.bootcctl("pin", "1.0", "--label", "factory")
    publish("2.0")
    demo.bootcctl("upgrade")
    demo.bootcctl("list")
    demo.expect(demo.default()["version"] == "2.0", "2.0 boots next")
    demo.notice("Without the pin the upgrade would have collected 1.0: besides what boots, one previous deployment is "
                "kept.")

    demo.step("2.0 is not liked: back to 1.1")
    demo.bootcctl("rollback")
    demo.bootcctl("list")
    demo.show_esp()
    demo.expect(demo.default()["version"] == "1.1", "1.1 boots next")
    demo.notice("A rollback is one new file: 1.1 gets a boot entry of a new generation. No entry is ever rewritten.")
    demo.bootcctl("upgrade", "--check", status=77)
    demo.notice("2.0 was rolled back from, so it is not taken again until the registry offers something else.")

    demo.step("Collecting what nobody needs any more")
    demo.bootcctl("cleanup", "--dry-run")
    demo.bootcctl("unpin", "1.0")
    demo.bootcctl("cleanup")
    demo.bootcctl("list")
    demo.notice("A pinned deployment keeps its boot entry, kernel and files; once unpinned, 1.0 goes with whatever "
                "only it needed.")

    demo.step("Is everything as it should be?")
    demo.bootcctl("fsck")


def over_the_bus(demo: Demo) -> None:
    demo.step("A daemon does the same for everybody on the bus")
    print("$ bootcd --sysroot sysroot --esp esp &        (on a private bus, with the policy of the system bus)")
    with (SystemBus(demo.directory / "bus") as bus, Daemon(bus, demo.sysroot, demo.esp),
          subprocess.Popen([BOOTCCTL, "monitor"], env=os.environ | bus.environment, stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, text=True) as monitor):
        try:
            demo.bootcctl("list", bus=bus)
            demo.notice("Without --sysroot, bootcctl asks the daemon. Reading needs no privilege; what changes "
                        "something is a job, and polkit is asked first.")
            demo.bootcctl("upgrade", "--allow-rejected", bus=bus)
            demo.expect(demo.default()["version"] == "2.0", "2.0 boots next")
            demo.bootcctl("rollback", bus=bus)
            demo.bootcctl("fsck", bus=bus)
        finally:
            monitor.terminate()
        print("$ bootcctl monitor        (ran beside it)")
        print(textwrap.indent(monitor.stdout.read() if monitor.stdout is not None else "", "  "), end="")
        if shutil.which("busctl"):
            words = ["get-property", "org.bootcd1", "/org/bootcd1", "org.bootcd1.Manager", "LastResult"]
            print(f"$ busctl {shlex.join(words)}")
            shown = subprocess.run(["busctl", f"--address={bus.address}", *words], capture_output=True, text=True,
                                   check=True, stdin=subprocess.DEVNULL)
            print(textwrap.fill(shown.stdout, 100, initial_indent="  ", subsequent_indent="  "))
    demo.notice("Any program can drive it: org.bootcd1(5) describes the interfaces.")


def farewell(demo: Demo) -> None:
    used = subprocess.run(["du", "-sh", "sysroot", "esp"], cwd=demo.directory, capture_output=True, text=True,
                          check=True)
    print("$ du -sh sysroot esp\n" + textwrap.indent(used.stdout, "  "), end="")
    where = os.path.relpath(demo.directory)
    print(f"\nLook around in {where}/: sysroot/composefs (objects, streams, images), sysroot/state (records, /etc, "
          f"/var),\nesp (loader/entries, EFI/bootcd). `cfsctl` of composefs-rs reads the same repository.")


if __name__ == "__main__":
    try:
        main()
    except DebianError as error:
        sys.exit(f"The demo cannot start: {error}")
