# SPDX-License-Identifier: Apache-2.0
"""The merge of a large /etc, and plans for many deployments: what stands between staging and the next boot."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import Report
from bootcd.deploy import plan
from bootcd.deploy.etc import merge
from bootcd.deploy.etccompare import Comparison
from bootcd.deploy.etcrules import Policy, Rule, Rules
from bootcd.deploy.facts import Entry, Facts
from bootcd.deploy.records import Record
from bootcd.formats.fsverity import Algorithm
from bootcd.formats.tree import Directory, RegularFile
from bootcd.store.scan import scan_directory

ENTRIES = 10_000
DEPLOYMENTS = 100
POLICIES = 200


def measure(report: Report, work: Path, repeat: int) -> None:
    """Everything in this process; the best of several runs counts."""
    sides = tree(0), tree(7), tree(11)
    report.seconds(f"merge of {ENTRIES} entries", fastest(repeat, lambda: merge(*sides)), "<= 1 s")
    patterns = [f"/etc/d{number:03}/**/file-*{number % 10}" for number in range(POLICIES)]
    rules = Rules(Rule(pattern, Policy.TAKE_IMAGE, "", "bench", machine=True) for pattern in patterns)
    report.seconds(f"  with {POLICIES} rules", fastest(repeat, lambda: merge(*sides, rules=rules)), "<= 1 s")
    report.seconds("  all differences", fastest(repeat, lambda: list(Comparison().differences(*sides[:2]))))
    write(sides[0], work)
    report.seconds(f"reading /etc of {ENTRIES} entries from disk",
                   fastest(repeat, lambda: scan_directory(work, None, Algorithm.SHA512)))
    facts = machine()
    new = record(DEPLOYMENTS + 1, None)
    kernel = plan.Kernel(new.boot_digest, 2_000, {"vmlinuz": (1, "00"), "initrd": (1, "00")})
    report.seconds(f"plan to stage beside {DEPLOYMENTS} deployments",
                   fastest(repeat, lambda: plan.plan_stage(facts, new, kernel, merge_from=facts.booted)), "<= 1 s")
    report.seconds("plan to collect them", fastest(repeat, lambda: plan.plan_collect(facts, keep_previous=1)), "<= 1 s")


def fastest(repeat: int, work: Callable[[], object]) -> float:
    def once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(once() for _ in range(repeat))


def tree(step: int) -> Directory:
    """Directories of a hundred files; every `step`-th of them has another content."""
    root = Directory(0o755)
    for number in range(ENTRIES):
        if number % 100 == 0:
            directory = Directory(0o755, mtime=number)
            root.entries[b"d%03d" % (number // 100)] = directory
        text = b"%d in %d\n" % (number, step if step and number % step == 0 else 0)
        directory.entries[b"file-%06d" % number] = RegularFile(
            0o644, mtime=number, inline=text, xattrs={b"security.selinux": b"system_u:object_r:etc_t:s0"})
    return root


def write(root: Directory, path: Path) -> None:
    """Two kB in each file, so that they are not empty."""
    for name, directory in root.entries.items():
        assert isinstance(directory, Directory)
        (path / name.decode()).mkdir(parents=True)
        for inner, file in directory.entries.items():
            assert isinstance(file, RegularFile)
            (path / name.decode() / inner.decode()).write_bytes((file.inline or b"") * 150)


def record(number: int, generation: int | None) -> Record:
    return Record(id=hashlib.sha512(b"%d" % number).hexdigest(), image="oci:x", manifest_digest=f"sha256:{number}",
                  config_digest="", boot_type="bls", boot_digest=f"kernel-{number}", composefs_karg="",
                  generation=generation)


def machine() -> Facts:
    records = [record(number, number) for number in range(DEPLOYMENTS, 0, -1)]
    ids = frozenset(one.id for one in records)
    return Facts(
        records={one.id: one for one in records}, booted=records[0].id, last_generation=DEPLOYMENTS,
        entries=tuple(Entry(f"bootcd-{one.generation:010}-{one.short_id}.conf", one.generation or 0, one.short_id)
                      for one in records),
        kernels={one.boot_digest: 40 for one in records}, esp_free=10, images=ids, state=ids, names=ids)
