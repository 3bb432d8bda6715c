# SPDX-License-Identifier: Apache-2.0
"""SELinux labels of a whole tree, by a policy as large as those of distributions."""

from __future__ import annotations

import time

from benchmarks.report import Report
from bootcd.formats.selabel import relabel
from bootcd.formats.tree import Directory, RegularFile
from kit import debian, selinux


def measure(report: Report, quick: bool) -> None:
    """Debian's policy has 5,900 rules, as many as Fedora's."""
    try:
        files = selinux.contexts()
    except debian.DebianError as error:
        print(f"no labels without a policy: {error}")
        return
    count = 10_000 if quick else 100_000
    root = _tree(count)
    for file in files.iterdir():
        selinux.put(root, f"/etc/selinux/default/contexts/files/{file.name}",
                    RegularFile(0o644, inline=file.read_bytes()))
    selinux.put(root, "/etc/selinux/config", RegularFile(0o644, inline=b"SELINUXTYPE=default\n"))
    start = time.perf_counter()
    relabel(root, lambda file: file.inline or b"")
    report.seconds(f"SELinux labels of {count} files", time.perf_counter() - start, "" if quick else "<= 5 s")


def _tree(count: int) -> Directory:
    root = Directory(0o755)
    places = ("/usr/bin", "/usr/lib/x86_64-linux-gnu/package-%d", "/usr/share/doc/package-%d", "/etc/package-%d",
              "/usr/lib/python3/dist-packages/package_%d/sub", "/usr/lib/modules/6.12.0/kernel/drivers/net/kind-%d")
    for number in range(count):
        place = places[number % len(places)]
        selinux.put(root, f"{place % (number // 100) if '%' in place else place}/file-{number}.so.1",
                    RegularFile(0o644, inline=b""))
    return root
