# SPDX-License-Identifier: Apache-2.0
"""`make bench`: one run that prints each measure as a ratio, with the mark that it should meet.

Nothing here passes or fails: machines differ, and a shared one is slow at times. Ratios of times taken side by side are
what can be compared between two versions of the program.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import bare, bydelta, byfile, daemon, deployments, etc, fetch, image, labels
from benchmarks.report import Report
from benchmarks.runs import Run, best, fresh, run

DEPLOYMENTS = 100
BOOTCCTL = [sys.executable, "-m", "bootcd.cli"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only-daemon", action="store_true", help="nothing else")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    parser.add_argument("--directory", type=Path, default=Path("build/bench"), help="where to work (%(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each measure, the fastest counts")
    options = parser.parse_args()
    shape = image.QUICK if options.quick else image.FULL
    work: Path = options.directory.absolute()
    work.mkdir(parents=True, exist_ok=True)
    print(f"{shape.files} files, {shape.size / 1e6:.0f} MB, best of {options.repeat}")
    tars = [work / f"{shape.files}-{seed}.tar" for seed in (1, 2)]
    for seed, tar in enumerate(tars, 1):
        if not tar.exists():
            image.write_tar(tar, shape if seed == 1 else image.Shape(shape.files // 50, shape.size // 50), seed)
    layout = work / f"layout-{shape.files}"
    for compression in ("gzip", "zstd"):
        image.write_layout(layout, compression, [(tars[0], compression)])
        image.write_layout(layout, f"{compression}-next", [(tars[0], compression), (tars[1], compression)])
    report = Report()
    if not options.only_daemon:
        program(report, work, layout, tars[0], options)
    daemon.measure(report, fresh(work / "bus-and-daemon"), f"oci:{layout}:zstd", options.repeat, options.quick)


def program(report: Report, work: Path, layout: Path, tar: Path, options: argparse.Namespace) -> None:
    """What the command line does by itself."""
    places = "\n".join(f"{offset} {size}" for offset, size in bare.payloads(tar)).encode()
    for compression in ("gzip", "zstd"):
        imports(report, work, layout, tar, compression, places, options.repeat)
    fetch.measure(report, work / "fetch", options.repeat, options.quick)
    erofs(report, options.quick)
    labels.measure(report, options.quick)
    etc.measure(report, fresh(work / "etc"), options.repeat)
    living(report, work, layout, options.repeat)
    many(report, work, options.repeat)
    byfile.measure(report, fresh(work / "by-file"), options.repeat, options.quick)
    bydelta.measure(report, fresh(work / "by-delta"), options.repeat, options.quick)


def imports(report: Report, work: Path, layout: Path, tar: Path, compression: str, places: bytes, repeat: int) -> None:
    """A whole image, and the next version that shares most of it."""
    blob = tar.with_suffix(f".{compression}")
    sysroot, target = work / "sysroot", work / "bare"
    pull = [*BOOTCCTL, "--quiet", "--sysroot", str(sysroot), "--esp", str(work), "image", "pull"]
    pairs = []
    for _ in range(repeat):
        # Side by side and in turns, so that a slow minute of the machine hits both.
        fresh(target).mkdir()
        plain = run([sys.executable, "-m", "benchmarks.bare", str(blob), compression, str(target)], stdin=places)
        init(fresh(sysroot))
        pairs.append((run([*pull, f"oci:{layout}:{compression}"]), plain))
    ours = min((one for one, _ in pairs), key=lambda one: one.seconds)
    bare_run = min((other for _, other in pairs), key=lambda one: one.seconds)
    report.ratio(f"import of {compression}", ours, bare_run, "<= 1.5 x")
    second = run([*pull, f"oci:{layout}:{compression}-next"])
    report.ratio("  next version, 1/50 of it new", second, ours, "", " (import)")
    if shutil.which("cfsctl"):
        peer = fresh(work / "cfsctl")
        subprocess.run(["cfsctl", "--repo", str(peer), "init", "--insecure"], check=True, capture_output=True)
        theirs = run(["cfsctl", "--repo", str(peer), "oci", "pull", f"oci:{layout}:{compression}", "bench"])
        report.ratio("  against cfsctl oci pull", ours, theirs, "", " (cfsctl)")


def init(sysroot: Path) -> None:
    from bootcd.store.repository import Repository

    (sysroot / "state" / "bootcd").mkdir(parents=True)
    Repository.init(sysroot / "composefs").close()


def erofs(report: Report, quick: bool) -> None:
    """Writing images of many inodes, in this process."""
    from bootcd.formats.dump import format_dump
    from bootcd.formats.erofs.writer import write_image
    from bootcd.formats.tree import Directory, RegularFile

    for count in (10_000,) if quick else (100_000, 200_000):
        root = Directory(0o755)
        for number in range(count):
            if number % 100 == 0:
                directory = Directory(0o755, mtime=number)
                root.entries[b"d%06d" % number] = directory
            xattrs = {b"security.selinux": b"system_u:object_r:type%d_t:s0" % (number % 50)} if number % 2 else {}
            directory.entries[b"file-%06d" % number] = RegularFile(
                0o644, mtime=number, xattrs=xattrs, digest=number.to_bytes(64, "big"), size=number + 100)
        start = time.perf_counter()
        data = write_image(root)
        spent = time.perf_counter() - start
        mark = "<= 3 s" if count == 100_000 else ""
        report.seconds(f"EROFS image of {count} inodes ({len(data) / 1e6:.0f} MB)", spent, mark)
        if shutil.which("mkcomposefs"):
            with tempfile.NamedTemporaryFile() as dump, tempfile.NamedTemporaryFile() as target:
                for line in format_dump(root):
                    dump.write(line)
                dump.flush()
                theirs = run(["mkcomposefs", "--from-file", dump.name, target.name])
                report.ratio("  against mkcomposefs --from-file", Run(spent, 0), theirs, "", " (C)")


def living(report: Report, work: Path, layout: Path, repeat: int) -> None:
    """What a machine does every day with a large image installed."""
    sysroot, esp = fresh(work / "sysroot"), fresh(work / "esp")
    (esp / "EFI" / "BOOT").mkdir(parents=True)
    (esp / "EFI" / "BOOT" / "BOOTX64.EFI").write_bytes(b"a boot loader")
    base = [*BOOTCCTL, "--quiet", "--sysroot", str(sysroot), "--esp", str(esp)]
    run([*base, "install", "to-filesystem", f"oci:{layout}:zstd"])
    python = best(repeat, lambda: run([sys.executable, "-c", "pass"]))
    status = best(repeat, lambda: run([*base, "status"]))
    report.seconds("status", status.seconds, "<= 0.25 s", status.memory)
    report.ratio("  against an empty Python program", status, python)
    unchanged = best(repeat, lambda: run([*base, "upgrade"]))
    report.seconds("upgrade without a newer image", unchanged.seconds, "<= 0.5 s", unchanged.memory)
    walk = best(repeat, lambda: run(["find", str(sysroot / "composefs" / "objects"), "-size", "+1"]))
    collect = best(repeat, lambda: run([*base, "cleanup"]))
    report.ratio("cleanup with nothing to collect", collect, walk, "", " (find)")
    read = best(repeat, lambda: run(["find", str(sysroot / "composefs" / "objects"), "-type", "f", "-exec",
                                     "sha512sum", "{}", "+"]))
    report.ratio("fsck", best(repeat, lambda: run([*base, "fsck"])), read, "", " (sha512sum)")


def many(report: Report, work: Path, repeat: int) -> None:
    """A machine with more deployments than anybody keeps."""
    world = deployments.measure(report, fresh(work / "many"), DEPLOYMENTS)
    base = [*BOOTCCTL, "--quiet", "--sysroot", str(world.sysroot), "--esp", str(world.esp)]
    listing = best(repeat, lambda: run([*base, "list"]))
    report.seconds(f"list of {DEPLOYMENTS} deployments", listing.seconds, "<= 0.5 s", listing.memory)


if __name__ == "__main__":
    main()
